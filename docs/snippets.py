"""The Python that the README and the pages show, read by type checkers.

    python docs/snippets.py            mypy --strict, and basedpyright where it is installed

A module is made of each page, in a temporary folder; a line of it is the same line of the page, so
that an error names where to look.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

README_NAMES = """\
import jax; from flax import nnx, linen as nn; from collections.abc import Mapping; \
from typing import Any; from smartmixed_jax import fix_choices
"""
"""What the README's blocks, parts of a user's program, find there."""
README_ARGUMENTS = (
    "self: Any, x: jax.Array, rngs: nnx.Rngs, net: nn.Module, variables: Mapping[str, Any], "
    "logits: jax.Array, key: jax.Array, temperature: float, choices: jax.Array, "
    "model: nnx.Sequential, images: jax.Array"
)


def blocks(text: str) -> Iterator[tuple[int, str]]:
    """The number of the first line of each Python block, from 0, and the block.

    Of a diff what it keeps and adds; what it removes are empty lines.
    """
    for match in re.finditer(r"^```(python|diff)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        block = match[2]
        if match[1] == "diff":
            block = "\n".join("" if line[:1] == "-" else line[1:] for line in block.splitlines())
        yield text.count("\n", 0, match.start(2)), block


def module(page: Path) -> str:
    """The blocks of a page, each at its lines; the README's as bodies of functions."""
    text = page.read_text()
    lines = [""] * (text.count("\n") + 1)
    is_readme = page.name == "README.md"
    if is_readme:
        lines[0] = README_NAMES.strip()
    for first, block in blocks(text):
        body = block.splitlines()
        if is_readme:
            lines[first - 1] = f"def block_{first}({README_ARGUMENTS}) -> None:"
            body = [f"    {line}".rstrip() for line in body]
        lines[first : first + len(body)] = body
    return "\n".join(lines) + "\n"


def pages() -> list[Path]:
    """Those that show Python."""
    found = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    return [page for page in found if any(blocks(page.read_text()))]


def write(folder: Path) -> list[Path]:
    """Writes a module per page; returns their paths."""
    written = []
    for page in pages():
        path = folder / f"{page.stem.lower()}.py"
        path.write_text(module(page))
        written.append(path)
    return written


def commands(files: list[Path]) -> list[list[str]]:
    """What checks them: of the checkers those that are installed."""
    # optax and orbax declare no types to mypy; Flax and JAX have functions without annotations.
    mypy = ["-m", "mypy", "--strict", "--config-file=", "--python-version=3.11"]
    mypy += ["--untyped-calls-exclude=flax", "--untyped-calls-exclude=jax"]
    mypy += ["--ignore-missing-imports", "--follow-imports=silent"]
    mypy += [f"--cache-dir={ROOT / '.mypy_cache'}"]
    found = [[sys.executable, *mypy, *map(str, files)]]
    pyright = Path(sys.executable).parent / "basedpyright"
    if pyright.exists():
        found.append(
            [str(pyright), "--pythonpath", sys.executable, "--project", str(files[0].parent)]
        )
    return found


def check() -> int:
    """Runs the checkers; returns the exit status."""
    with tempfile.TemporaryDirectory() as folder:
        files = write(Path(folder))
        (Path(folder) / "pyrightconfig.json").write_text(
            json.dumps({"typeCheckingMode": "standard", "extraPaths": [str(ROOT)]})
        )
        environment = os.environ | {"MYPYPATH": str(ROOT)}
        # Not in ROOT: the checkers would read the project's settings.
        runs = [subprocess.run(command, cwd=folder, env=environment) for command in commands(files)]
    return max(run.returncode for run in runs)


if __name__ == "__main__":
    sys.exit(check())
