"""The documentation: every public name has a docstring, every shown block runs, links lead on."""

import ast
import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest

import smartmixed_jax

ROOT = Path(__file__).parents[1]
LIBRARY = ROOT / "smartmixed_jax"
FILES = sorted(path.name for path in LIBRARY.glob("*.py"))
Definition = ast.FunctionDef | ast.ClassDef


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


sys.path.append(str(ROOT / "docs"))  # build.py and its neighbours
site = load(ROOT / "docs" / "build.py")
equations = site.equations
notebook_pages = site.notebook_pages
results = load(ROOT / "docs" / "results.py")


# --- docstrings ---------------------------------------------------------------------------


def without_docstring(body, prefix=""):
    """Public functions, classes, methods, properties, type aliases and exported constants."""
    missing = []
    for statement, following in zip(body, [*body[1:], ast.Pass()], strict=True):
        if isinstance(statement, Definition) and not statement.name.startswith("_"):
            if not ast.get_docstring(statement):
                missing.append(prefix + statement.name)
            if isinstance(statement, ast.ClassDef):
                missing += without_docstring(statement.body, f"{statement.name}.")
        elif isinstance(statement, ast.Assign) and "TypeVar" not in ast.dump(statement.value):
            name = ast.unparse(statement.targets[0])
            is_alias = name[0].isupper() and not name.isupper()
            documented = isinstance(getattr(following, "value", None), ast.Constant)
            if (is_alias or name in smartmixed_jax.__all__) and not documented:
                missing.append(name)
    return missing


@pytest.mark.parametrize("file", FILES)
def test_every_public_name_has_a_docstring(file):
    tree = ast.parse((LIBRARY / file).read_text())
    assert ast.get_docstring(tree)
    assert without_docstring(tree.body) == []


# --- pages --------------------------------------------------------------------------------


def blocks(page, language):
    """(line, language, text) of each fenced block."""
    text = page.read_text()
    fenced = rf"^```({language})\n(.*?)^```$"
    for match in re.finditer(fenced, text, re.DOTALL | re.MULTILINE):
        yield text.count("\n", 0, match.start()) + 1, match[1], match[2]


def side(diff, sign):
    """What a diff removes and keeps (-), or adds and keeps (+)."""
    lines = diff.splitlines(keepends=True)
    return "".join(line[1:] or "\n" for line in lines if line[0] in f" \n{sign}")


PAGES = sorted(set((ROOT / "docs").glob("*.md")) - {ROOT / "docs" / "your_data.md"})
"""your_data.md has files and commands too: tests/test_your_data.py."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_of_a_page_runs_in_order(page):
    """Of a diff, both sides."""
    names = {"__name__": page.stem}
    for line, language, text in blocks(page, "python|diff"):
        for program in [text] if language == "python" else [side(text, "-"), side(text, "+")]:
            exec(compile("\n" * line + program, str(page), "exec"), names)


def test_what_the_method_costs_is_what_the_files_of_benchmarks_say():
    text = (ROOT / "docs" / "method.md").read_text()
    variants = {
        "gumbel_straight_through": "phase 1",
        "sampled_straight_through": "phase 1, sampled, draws 1",
        "… 16 draws": "phase 1, sampled, draws 16",
        "… a draw for each example": "phase 1, sampled, draws example",
        "phase 2": "phase 2",
        "uniform SELU, for comparison": "selu",
    }
    folder = results.FILES / "benchmarks"
    files = [json.loads((folder / name).read_text()) for name in ("step.json", "h100/step.json")]
    for label, variant in variants.items():
        cells = []
        for file in files:
            [row] = [row for row in file["results"] if row["variant"] == variant]
            ratio = row["ratios"]["to relu"]
            cells.append(f"{ratio['median']:.2f} [{ratio['lower']:.2f}, {ratio['upper']:.2f}]")
        assert f"| {label} | {' | '.join(cells)} |" in text


def test_the_diff_on_the_page_is_that_of_the_models_which_the_tests_train():
    [(_, _, diff)] = blocks(ROOT / "docs" / "your_model.md", "diff")
    for sign, name in (("-", "inline"), ("+", "attributes")):
        file = (ROOT / "tests" / "users_models" / f"{name}.py").read_text()
        docstring, _, code = file.partition("\n\n")
        assert docstring.startswith('"""')
        assert side(diff, sign) == code


# --- the site -----------------------------------------------------------------------------


def test_a_new_module_gets_a_page_by_itself_and_a_missing_one_is_no_error(tmp_path, monkeypatch):
    for name in ("__init__", "table", "pools", "new", "_private"):
        (tmp_path / f"{name}.py").write_text(f'"""The {name} module."""\n')
    monkeypatch.setattr(site, "LIBRARY", tmp_path)
    assert site.modules() == ["pools", "table", "new"]
    site.reference(tmp_path)
    pages = {path.name for path in (tmp_path / "api").iterdir()}
    assert pages == {"index.md", "pools.md", "table.md", "new.md"}
    assert "[new](new.md) — The new module." in (tmp_path / "api" / "index.md").read_text()


@pytest.fixture
def repository(tmp_path):
    """A README that links to one file of each kind; → the files, path to text."""
    files = {
        "docs/page.md": "[home](../README.md)",
        "smartmixed_jax/table.py": "",
        "results/LOG.md": "[again](LOG.md) [up](../README.md#start) ![figure](figures/a.png)",
        "results/figures/a.png": "",
        "numbers/step.json": "{}",
    }
    readme = "[p](docs/page.md) [t](smartmixed_jax/table.py) [`l`](results/LOG.md) [n](numbers)"
    for path, text in {"README.md": readme, **files}.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    return tmp_path


def test_what_a_page_links_to_comes_along_and_the_links_are_rewritten(repository):
    pages = repository / "pages"
    assert site.gather(pages, repository) == ["index.md", "page.md", "results/LOG.md"]
    found = {str(p.relative_to(pages)): p.read_text() for p in pages.rglob("*") if p.is_file()}
    assert found == {
        "index.md": "[p](page.md) [t](api/table.md) [`l`](results/LOG.md) [n](numbers/index.md)",
        "page.md": "[home](index.md)",
        "results/LOG.md": "[again](LOG.md) [up](../index.md#start) ![figure](figures/a.png)",
        "results/figures/a.png": "",
        "numbers/index.md": "# numbers\n\n* [step.json](step.json)",
        "numbers/step.json": "{}",
    }


@pytest.mark.parametrize("text", ["`f[0](x)`", "```\nf[0](x)\n```", "[a](https://b.c)", "[a](#b)"])
def test_code_and_links_to_elsewhere_stay_as_they_are(repository, text):
    (repository / "README.md").write_text(text)
    site.gather(repository / "pages", repository)
    assert (repository / "pages" / "index.md").read_text() == text


@pytest.mark.parametrize("target", ["nothing.md", "../outside.md"])
def test_a_link_to_no_file_of_the_repository_raises_naming_it(repository, target):
    (repository.parent / "outside.md").write_text("")
    (repository / "README.md").write_text(f"![figure]({target})")
    with pytest.raises(FileNotFoundError, match=f"README.md: no file for the link {target}"):
        site.gather(repository / "pages", repository)


def test_the_links_of_the_real_pages_lead_to_files(tmp_path):
    written = site.gather(tmp_path)
    assert {"index.md", "your_model.md", "CHANGELOG.md"} <= set(written)
    navigation = "\n".join(site.navigation(written))
    for page in written:
        assert navigation.count(f"- {page}\n") + navigation.endswith(f"- {page}") == 1, page


def test_a_page_of_docs_that_is_in_no_section_is_named(monkeypatch):
    monkeypatch.setitem(site.NAVIGATION, "How to", ("how_to.md",))
    with pytest.raises(ValueError, match=r"no section for scale\.md"):
        site.navigation(["index.md", "scale.md"])


def test_links_of_the_built_site_that_lead_nowhere_are_found(tmp_path):
    (tmp_path / "api").mkdir()
    (tmp_path / "there.png").write_text("")
    (tmp_path / "index.html").write_text(
        '<a href="api">no page there</a><img src="there.png"><b id="here"></b><a href="#here">'
        '<a href="#gone"><a href=""><script src="https://a.b/c.js"></script>'
        '<link rel="stylesheet" href="//a.b/c.css"><link rel="canonical" href="https://a.b/">'
    )
    (tmp_path / "api" / "page.html").write_text(
        '<img src="../there.png?v=1"><img src="gone.png"><a href="https://a.b/c"></a>'
        '<a href="..#here"><a href="../index.html#gone">'
    )
    assert site.broken_links(tmp_path) == [
        "api/page.html: no file for the link gone.png",
        "api/page.html: no place for the link ../index.html#gone",
        "index.html: loads https://a.b/c.js",
        "index.html: loads //a.b/c.css",
        "index.html: no file for the link api",
        "index.html: no place for the link #gone",
    ]


def test_every_module_links_to_its_source_at_the_address_of_the_project(tmp_path):
    site.reference(tmp_path)
    text = (tmp_path / "api" / "pools.md").read_text()
    assert (
        f"[smartmixed_jax/pools.py]({site.repository()}/blob/HEAD/smartmixed_jax/pools.py)" in text
    )
    assert site.repository().startswith("https://")


def test_every_committed_figure_is_in_the_gallery_with_a_command_after_or_before_it():
    text = (ROOT / "docs" / "gallery.md").read_text()
    figures = [p for kind in ("png", "html") for p in results.FILES.glob(f"*/*.{kind}")]
    assert len(figures) > 8
    for path in figures:
        assert f"](../{path.relative_to(ROOT).as_posix()})" in text, path
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        assert "```bash\npython -m experiments." in section


# --- equations ----------------------------------------------------------------------------


@pytest.mark.parametrize("tex", [r"\foo x", "{x", r"\frac", r"\frac{a"])
def test_tex_that_is_not_known_or_not_whole_is_named(tex):
    with pytest.raises(ValueError, match=re.escape(tex)):
        equations.mathml(tex)


def test_an_equation_is_one_element():
    written = equations.mathml(r"\frac{1}{\tau} p_k")
    assert written.startswith("<math")
    assert "<mfrac>" in written
    assert "\n" not in written


def test_dollars_that_are_no_equation_stay():
    for text in ("5 $ and 6 $", "US$5 or $6", r"\$x$", "$HOME/bin and $PATH/x", "a $x$b"):
        assert equations.render(text) == text
    assert equations.render("with $x$, $y$-wise").count("<math") == 2
    assert 'display="block"' in equations.render("so\n\n$$\ny = 1\n$$\n")


# --- notebooks ----------------------------------------------------------------------------


def cell(kind, source, *outputs):
    return {"cell_type": kind, "source": source, "outputs": list(outputs)}


@pytest.fixture
def notebook(tmp_path):
    """Makes the page of a notebook of the cells given; → its text."""

    def make(*cells):
        path = tmp_path / "notebooks" / "book.ipynb"
        path.parent.mkdir()
        path.write_text(json.dumps({"cells": [cell("markdown", "# Book"), *cells]}))
        folder = tmp_path / "pages"
        return notebook_pages.page(path, folder, "https://github.com/a/b", tmp_path, str.upper)

    return make


def test_a_notebook_is_a_page_with_its_code_outputs_and_pictures(notebook, tmp_path):
    picture = {"output_type": "execute_result", "data": {"image/png": "aGk=", "text/plain": "F"}}
    text = notebook(
        cell("code", "import google.colab"),
        cell("markdown", ["## Part\n", "said"]),
        cell(
            "code",
            ["x = 1\n", "x"],
            {"output_type": "stream", "text": ["out\n"]},
            picture,
            {"output_type": "execute_result", "data": {"text/plain": "3"}},
        ),
    )
    colab = "https://colab.research.google.com/github/a/b/blob/HEAD/notebooks/book.ipynb"
    assert text.split("\n\n") == [
        "# BOOK",
        f"[Open in Colab]({colab}) · [Download](book.ipynb)",
        "## PART\nSAID",
        "```python\nx = 1\nx\n```",
        "```text\nout\n```",
        "![Part](book/2-1.png)",
        "```text\n3\n```\n",
    ]
    assert (tmp_path / "pages" / "book" / "2-1.png").read_bytes() == b"hi"


def test_an_output_that_no_page_shows_is_named(notebook):
    html = {"output_type": "display_data", "data": {"text/html": "<b>"}}
    with pytest.raises(ValueError, match=r"book\.ipynb: no page shows .*text/html"):
        notebook(cell("code", "x", html))


def test_every_picture_of_the_notebooks_is_on_their_pages(tmp_path):
    site.gather(tmp_path)
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        text = (tmp_path / "notebooks" / f"{path.stem}.md").read_text()
        kept = path.read_text().count('"image/png"')
        pictures = re.findall(r"^!\[.+\]\((.+)\)$", text, re.MULTILINE)
        assert len(pictures) == kept > 0
        for picture in pictures:
            assert (tmp_path / "notebooks" / picture).read_bytes().startswith(b"\x89PNG")
        assert f"({site.notebook_pages.colab(site.repository(), f'notebooks/{path.name}')})" in text
        assert "$" not in re.sub(r"```.*?```", "", text, flags=re.DOTALL)


# --- pages of results ---------------------------------------------------------------------


def record(**content):
    environment = {"device": "cpu", "python": "3", "jax": "1", "flax": "2", "date": "2026-01-01"}
    return {"command": "python -m this", "environment": environment, **content}


def test_every_file_of_results_of_a_recipe_has_a_section():
    written = {"regret", "suite", "equations", "tables", "images"}
    files = {path for path in results.FILES.glob("*/*.json") if path.parent.name in written}
    assert {results.FILES / section.file for section in results.RESULTS} == files
    pages = results.pages()
    for path in files | set(results.FILES.glob("benchmarks/**/*.json")):
        page = pages["benchmarks.md" if "benchmarks" in path.parts else "results.md"]
        assert json.loads(path.read_text())["command"] in page, path


@pytest.mark.parametrize(
    ("ratio", "word"),
    [
        ([2, 1.1, 3], "ours is better"),
        ([0.5, 0.2, 1.1], "level"),
        ([0.5, 0.2, 0.9], "ours is worse"),
    ],
)
def test_a_verdict_is_what_its_interval_says(ratio, word):
    beside = {
        "learned": {"score": 1e-6, "difference": [1, 1, 1]},
        "best uniform": {"score": 1e-6, "difference": ratio},
    }
    part = {"score": "error", "ratio": True, "lower_is_better": True, "beside": beside}
    verdict, _ = results.regret(record(tasks={"f": part}))
    assert verdict.endswith(word)
    low = {
        "learned": {"score": 9, "difference": [0, 0, 0]},
        "best uniform": {"score": 9, "difference": [r - 1 for r in ratio]},
    }
    for lower_is_better in (True, False):
        part = {"score": "s", "ratio": False, "lower_is_better": lower_is_better, "beside": low}
        verdict, _ = results.regret(record(tasks={"f": part}))
        swapped = {"ours is better": "ours is worse", "ours is worse": "ours is better"}
        assert verdict.endswith(word if lower_is_better else swapped.get(word, word))


def test_tables_count_where_ours_is_better_and_worse():
    errors = {"learned": [1.0, 1.1, 1.2, 1.0], "best uniform": [2.0, 2.3, 2.4, 2.1]}
    worse = {"learned": errors["best uniform"], "best uniform": errors["learned"]}
    parts = [
        {"table": name, "test_rmse": of}
        for name, of in (("a", errors), ("b", worse), ("c", errors))
    ]
    verdict, (table, ranked) = results.tables(record(results=parts))
    assert ranked == ""
    assert "better on 2 of 3, worse on 1" in verdict
    assert "| a, 4 splits | 1.07 ± 0.048 | 2.2 ± 0.091 |" in table
