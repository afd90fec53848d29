"""What a package page shows and what `pip install smartmixed-jax[EXTRA]` brings.

Hatchling calls `get_metadata_hook` while it builds: the page is README.md with absolute links, an
extra is a file of requirements, and the address of the repository is in pyproject.toml alone.
"""

import re
from pathlib import Path
from typing import Any

EXTRAS = {
    "experiments": "requirements.txt",
    "stream": "requirements-stream.txt",
    "slurm": "requirements-slurm.txt",
    "live": "requirements-live.txt",
    "dev": "requirements-dev.txt",
}
"""The name of an extra → the file that lists it."""

_CODE = re.compile(r"(```.*?```|`[^`\n]+`)", re.DOTALL)
_LINK = re.compile(r"(!?)\[([^\]]*)\]\((?![a-z]+:|#)([^)\s]+)\)")


def absolute(text: str, repository: str) -> str:
    """Markdown with links into the repository → with links to its address, pictures as files.

    HEAD is the default branch, whatever its name.
    """

    def rewrite(link: re.Match[str]) -> str:
        kind = "raw" if link[1] else "blob"
        return f"{link[1]}[{link[2]}]({repository}/{kind}/HEAD/{link[3]})"

    parts = _CODE.split(text)
    # A link's text may hold code: it is put together again before the links are looked for.
    kept = [part if number % 2 == 0 else f"\0{number}\0" for number, part in enumerate(parts)]
    linked = _LINK.sub(rewrite, "".join(kept))
    return re.sub(r"\0(\d+)\0", lambda code: parts[int(code[1])], linked)


def requirements(path: Path) -> list[str]:
    """The lines of a file of requirements, and of those that it names by -r."""
    found: list[str] = []
    for line in path.read_text().splitlines():
        entry = line.partition("#")[0].strip()
        if entry.startswith("-r "):
            found += requirements(path.parent / entry.removeprefix("-r ").strip())
        elif entry:
            found.append(entry)
    return list(dict.fromkeys(found))


def metadata(root: Path, repository: str) -> dict[str, Any]:
    """The fields of [project] that pyproject.toml leaves to this file."""
    page = absolute((root / "README.md").read_text(), repository)
    return {
        "readme": {"content-type": "text/markdown", "text": page},
        "urls": {
            "Repository": repository,
            "Changelog": f"{repository}/blob/HEAD/CHANGELOG.md",
            "Paper": "https://arxiv.org/abs/2510.22450",
        },
        "optional-dependencies": {
            extra: requirements(root / file) for extra, file in EXTRAS.items()
        },
    }


def get_metadata_hook() -> type:
    """The hook; hatchling is there only where a package is built."""
    from hatchling.metadata.plugin.interface import MetadataHookInterface

    class Hook(MetadataHookInterface):
        def update(self, fields: dict[str, Any]) -> None:
            fields |= metadata(Path(self.root), self.config["repository"])

    return Hook
