"""The documentation site: the README, `docs/*.md`, results, and a page per module of the library.

    python docs/build.py            the site, in site/

The pages are gathered in `.docs/pages`: what the README links to comes along, with the links
rewritten. A link to nothing is an error, as is every warning.
"""

import ast
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = ROOT / "smartmixed_jax"
READING_ORDER = (
    *("types", "pools", "estimators", "mixture", "table", "layer", "nnx", "summary", "readout"),
    *("linen", "conversion", "models", "export"),
)
"""The modules as a reader meets them; one that is missing here comes last."""

_CODE = re.compile(r"(```.*?```|`[^`\n]+`)", re.DOTALL)
_LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)")


def modules() -> list[str]:
    """The public modules of the library, in reading order."""
    names = sorted(path.stem for path in LIBRARY.glob("[!_]*.py"))
    rank = {name: place for place, name in enumerate(READING_ORDER)}
    return sorted(names, key=lambda name: rank.get(name, len(rank)))


def gather(pages: Path, root: Path = ROOT) -> list[str]:
    """Writes every page, and the files they link to, below `pages`.

    Returns:
        The Markdown pages that were linked to, by their path in the site.

    Raises:
        FileNotFoundError: a page links to a file that is not in the repository.
    """
    waiting = [root / "README.md", *sorted((root / "docs").glob("*.md"))]
    done: list[Path] = []
    while waiting:
        source = waiting.pop(0)
        if source in done:
            continue
        done.append(source)
        target = pages / place(source.relative_to(root))
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            files = sorted(path for path in source.iterdir() if path.is_file())
            entries = [f"* [{path.name}]({path.name})" for path in files]
            target.write_text("\n".join([f"# {source.relative_to(root)}\n", *entries]))
            waiting += files
        elif source.suffix == ".md":
            text, linked = relink(source, root)
            target.write_text(text)
            waiting += linked
        elif not _has_page(source.relative_to(root)):
            shutil.copyfile(source, target)
    return [place(path.relative_to(root)) for path in done if path.suffix == ".md"]


def place(path: Path) -> str:
    """Where a file of the repository stands in the site."""
    if path == Path("README.md"):
        return "index.md"
    if path.parent == Path("docs"):
        return path.name
    if _has_page(path):
        return f"api/{path.stem}.md"
    return str(path) if path.suffix else f"{path}/index.md"


def _has_page(path: Path) -> bool:
    """Whether the file is a public module of the library."""
    public = path.suffix == ".py" and not path.name.startswith("_")
    return public and path.parent == Path(LIBRARY.name)


def relink(source: Path, root: Path) -> tuple[str, list[Path]]:
    """A page with its links as the site needs them, and the files they lead to."""
    here = os.path.dirname(place(source.relative_to(root)))
    linked: list[Path] = []

    def rewrite(match: re.Match[str]) -> str:
        path = (source.parent / match[1]).resolve()
        if not path.exists() or not path.is_relative_to(root):
            raise FileNotFoundError(f"{source.relative_to(root)}: no file for the link {match[1]}")
        linked.append(path)
        return os.path.relpath(place(path.relative_to(root)), here or ".")

    parts = _CODE.split(source.read_text())  # code at the odd places
    parts[::2] = [_LINK.sub(rewrite, part) for part in parts[::2]]
    return "".join(parts), linked


def reference(pages: Path) -> None:
    """A page per module, which mkdocstrings fills, and one that lists them."""
    folder = pages / "api"
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"# API reference\n\n::: {LIBRARY.name}\n    options: {{members: false}}\n"]
    for name in modules():
        (folder / f"{name}.md").write_text(f"# {name}\n\n::: {LIBRARY.name}.{name}\n")
        docstring = ast.get_docstring(ast.parse((LIBRARY / f"{name}.py").read_text())) or ""
        lines.append(f"* [{name}]({name}.md) — {docstring.splitlines()[0]}")
    (folder / "index.md").write_text("\n".join(lines))


def build(folder: Path = ROOT / ".docs", site: Path = ROOT / "site") -> None:
    """Gathers the pages in `folder`, builds the site there and moves it to its place."""
    shutil.rmtree(folder, ignore_errors=True)
    written = gather(folder / "pages")
    reference(folder / "pages")
    measured = [sys.executable, str(ROOT / "docs/results.py"), str(folder / "pages")]
    subprocess.run(measured, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    first, *others = written
    nav = [f"  - {page}" for page in (first, *(page for page in others if "/" not in page))]
    nav += ["  - results.md", "  - benchmarks.md"]
    nav += ["  - API reference:", *(f"    - api/{name}.md" for name in ("index", *modules()))]
    nav += [f"  - {page}" for page in others if "/" in page]
    config = folder / "mkdocs.yml"
    config.write_text("\n".join([(ROOT / "docs/mkdocs.yml").read_text() + "nav:", *nav, ""]))
    command = [str(Path(sys.executable).parent / "zensical"), "build", "--strict", "--clean"]
    built = subprocess.run(
        [*command, "--config-file", str(config)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    print(built.stdout, end="")
    # Strict mode does not look at what Griffe, which reads the docstrings, complains of.
    if built.returncode or "griffe:" in built.stdout:
        raise SystemExit("the documentation does not build without warnings")
    if missing := broken_links(folder / "site"):
        raise SystemExit("\n".join(missing))
    shutil.rmtree(site, ignore_errors=True)
    shutil.move(folder / "site", site)


class _Targets(HTMLParser):
    """The relative links and images of one page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attrs if name in ("href", "src") and value]


def broken_links(site: Path) -> list[str]:
    """Images and links of the built pages that lead to no file; strict mode sees pages only."""
    missing = []
    for page in sorted(site.rglob("*.html")):
        for target in _Targets(page.read_text()).found:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc or not parts.path or page.name == "404.html":
                continue
            path = page.parent / unquote(parts.path)
            if not (path / "index.html" if path.is_dir() else path).exists():
                missing.append(f"{page.relative_to(site)}: no file for the link {target}")
    return missing


if __name__ == "__main__":
    build()
