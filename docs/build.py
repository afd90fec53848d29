"""The documentation site: README, `docs/*.md`, notebooks, results, a page per module, changelog.

    python docs/build.py            the site, in site/

The pages are gathered in `.docs/pages`: what a page links to comes along, with the links rewritten
and the equations as MathML. A link to nothing is an error, as is every warning.
"""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from functools import cache, partial
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import equations
import notebook_pages

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = ROOT / "smartmixed_jax"
READING_ORDER = (
    *("types", "pools", "estimators", "mixture", "table", "layer", "nnx", "summary", "readout"),
    *("linen", "conversion", "models", "export"),
)
"""The modules as a reader meets them; one that is missing here comes last."""
NAVIGATION = {
    "": ("index.md", "tutorial.md"),
    "How to": (
        *("your_model.md", "how_to.md", "serving.md", "serving_linen.md", "your_data.md"),
        *("many_devices.md", "scale.md"),
    ),
    "The method": ("method.md",),
    "Results": ("findings.md", "results.md", "benchmarks.md", "gallery.md"),
    "Notebooks": (),
    "API reference": (),
    "Project": ("CHANGELOG.md",),
}
"""Sections of the site and the pages that they begin with; other pages come last."""

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
        The Markdown pages, by their path in the site, in the order in which they were found.

    Raises:
        FileNotFoundError: a page links to a file that is not in the repository.
    """
    waiting = [root / "README.md", *sorted((root / "docs").glob("*.md"))]
    waiting += sorted((root / "notebooks").glob("*.ipynb"))
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
        elif source.suffix == ".ipynb":
            rewrite = partial(relink, source=source, root=root, linked=waiting)
            text = notebook_pages.page(source, target.parent, repository(), root, rewrite)
            target.write_text(text)
            shutil.copyfile(source, target.with_suffix(".ipynb"))
        elif source.suffix == ".md":
            target.write_text(relink(source.read_text(), source, root, waiting))
        elif not _has_page(source.relative_to(root)):
            shutil.copyfile(source, target)
    return [place(path.relative_to(root)) for path in done if path.suffix in (".md", ".ipynb")]


def place(path: Path) -> str:
    """Where a file of the repository stands in the site."""
    if path == Path("README.md"):
        return "index.md"
    if path.parent == Path("docs"):
        return path.name
    if _has_page(path):
        return f"api/{path.stem}.md"
    if path.suffix == ".ipynb":
        return str(path.with_suffix(".md"))
    return str(path) if path.suffix else f"{path}/index.md"


def _has_page(path: Path) -> bool:
    """Whether the file is a public module of the library."""
    public = path.suffix == ".py" and not path.name.startswith("_")
    return public and path.parent == Path(LIBRARY.name)


def relink(text: str, source: Path, root: Path, linked: list[Path]) -> str:
    """Markdown of `source` as the site needs it; the files that its links lead to join `linked`."""
    here = os.path.dirname(place(source.relative_to(root)))

    def rewrite(match: re.Match[str]) -> str:
        path = (source.parent / match[1]).resolve()
        if not path.exists() or not path.is_relative_to(root):
            raise FileNotFoundError(f"{source.relative_to(root)}: no file for the link {match[1]}")
        linked.append(path)
        return os.path.relpath(place(path.relative_to(root)), here or ".")

    parts = _CODE.split(text)  # code at the odd places
    parts[::2] = [equations.render(_LINK.sub(rewrite, part)) for part in parts[::2]]
    return "".join(parts)


@cache
def repository() -> str:
    """The address of the repository, from the one place that has it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    address: str = project["tool"]["hatch"]["metadata"]["hooks"]["custom"]["repository"]
    return address


def reference(pages: Path) -> None:
    """A page per module, which mkdocstrings fills, and one that lists them."""
    folder = pages / "api"
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"# API reference\n\n::: {LIBRARY.name}\n    options: {{members: false}}\n"]
    for name in modules():
        file = f"{LIBRARY.name}/{name}.py"
        source = f"[{file}]({repository()}/blob/HEAD/{file})"
        (folder / f"{name}.md").write_text(f"# {name}\n\n{source}\n\n::: {LIBRARY.name}.{name}\n")
        docstring = ast.get_docstring(ast.parse((LIBRARY / f"{name}.py").read_text())) or ""
        lines.append(f"* [{name}]({name}.md) — {docstring.splitlines()[0]}")
    (folder / "index.md").write_text("\n".join(lines))


def build(folder: Path = ROOT / ".docs", site: Path = ROOT / "site") -> None:
    """Gathers the pages in `folder`, builds the site there and moves it to its place."""
    shutil.rmtree(folder, ignore_errors=True)
    written = gather(folder / "pages")
    reference(folder / "pages")
    shutil.copyfile(ROOT / "docs/site.css", folder / "pages/site.css")
    measured = [sys.executable, str(ROOT / "docs/results.py"), str(folder / "pages")]
    subprocess.run(measured, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    nav = navigation(written)
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
    if missing := broken_links((folder / "site").resolve()):
        raise SystemExit("\n".join(missing))
    shutil.rmtree(site, ignore_errors=True)
    shutil.move(folder / "site", site)


def navigation(written: list[str]) -> list[str]:
    """The lines of `nav`; `written` are the gathered pages.

    Raises:
        ValueError: a page of docs/ is in no section.
    """
    sections = {name: list(pages) for name, pages in NAVIGATION.items()}
    sections["Notebooks"] += [page for page in written if page.startswith("notebooks/")]
    sections["API reference"] += [f"api/{name}.md" for name in ("index", *modules())]
    named = {page for pages in sections.values() for page in pages}
    others = [page for page in written if page not in named]
    if homeless := [page for page in others if (ROOT / "docs" / page).exists()]:
        raise ValueError(f"docs/build.py: no section for {', '.join(homeless)}")
    sections["Project"] += others
    lines = []
    for name, pages in sections.items():
        if len(pages) == 1:  # a section of one page is the page
            lines.append(f"  - {pages[0]}")
            continue
        lines += [f"  - {name}:"] if name else []
        lines += [f"{'    ' if name else '  '}- {page}" for page in pages]
    return lines


class _Targets(HTMLParser):
    """Links and images of a page, what may be linked to in it, what a browser loads for it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.loaded: list[str] = []
        self.names: set[str] = {"", "__skip", "top"}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attrs if name in ("href", "src") and value]
        self.names |= {value for name, value in attrs if name in ("id", "name") and value}
        loads = ("src", "href") if tag == "link" and ("rel", "canonical") not in attrs else ("src",)
        self.loaded += [value for name, value in attrs if name in loads and value]


def broken_links(site: Path) -> list[str]:
    """Images and links of the built pages that lead to no file, or to no place of a page.

    What a page loads from elsewhere is among them: the site is read without a network too.
    """
    pages = {path: _Targets(path.read_text()) for path in sorted(site.rglob("*.html"))}
    missing = []
    for page, targets in pages.items():
        elsewhere = [target for target in targets.loaded if urlsplit(target).netloc]
        missing += [f"{page.relative_to(site)}: loads {target}" for target in elsewhere]
        for target in targets.found:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc or page.name == "404.html":
                continue
            path = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            path = path / "index.html" if path.is_dir() else path
            if not path.exists():
                missing.append(f"{page.relative_to(site)}: no file for the link {target}")
            elif path in pages and unquote(parts.fragment) not in pages[path].names:
                missing.append(f"{page.relative_to(site)}: no place for the link {target}")
    return missing


if __name__ == "__main__":
    build()
