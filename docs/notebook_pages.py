"""The notebooks as pages: what they say, their code, and the outputs that are kept in them."""

import base64
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

COLAB = "https://colab.research.google.com/github"
GITHUB = "https://github.com/"


def colab(repository: str, path: str) -> str:
    """Where Colab opens a notebook of the repository, of its default branch."""
    if not repository.startswith(GITHUB):
        raise ValueError(f"Colab opens what is on GitHub, got {repository}")
    return f"{COLAB}/{repository.removeprefix(GITHUB)}/blob/HEAD/{path}"


def page(
    path: Path, folder: Path, repository: str, root: Path, rewrite: Callable[[str], str]
) -> str:
    """The Markdown of a notebook; writes its pictures below `folder`, where the page will be.

    The cell that installs the package on Colab is left out. What the notebook says goes through
    `rewrite`.

    Raises:
        ValueError: an output is of a kind that no page shows.
    """
    notebook = json.loads(path.read_text())
    title, *cells = notebook["cells"]
    source = path.relative_to(root).as_posix()
    links = f"[Open in Colab]({colab(repository, source)}) · [Download]({path.name})"
    parts = [rewrite(_text(title["source"])), links]
    heading = path.stem
    for number, cell in enumerate(cells):
        text = _text(cell["source"])
        if cell["cell_type"] == "markdown":
            heading = (re.findall(r"^#+ (.+)$", text, re.MULTILINE) or [heading])[-1]
            parts.append(rewrite(text))
        elif "google.colab" not in text:
            parts.append(_fenced(text, "python"))
            for place, output in enumerate(cell["outputs"]):
                target = folder / path.stem / f"{number}-{place}.png"
                parts.append(_output(output, target, heading, path))
    return "\n\n".join(parts) + "\n"


def _text(source: str | list[str]) -> str:
    return source if isinstance(source, str) else "".join(source)


def _fenced(text: str, language: str) -> str:
    return f"```{language}\n{text.rstrip()}\n```"


def _output(output: Mapping[str, Any], target: Path, heading: str, path: Path) -> str:
    """An output in Markdown; a picture goes into the file `target`."""
    if output["output_type"] == "stream":
        return _fenced(_text(output["text"]), "text")
    data = output.get("data", {})
    if "image/png" in data:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(base64.b64decode(_text(data["image/png"])))
        return f"![{heading}]({os.path.relpath(target, target.parents[1])})"
    if "text/plain" in data:
        return _fenced(_text(data["text/plain"]), "text")
    raise ValueError(f"{path.name}: no page shows an output of {sorted(data) or output}")
