"""Every notebook runs from its first cell to its last, and is kept as it was run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

NEEDED = "needs nbclient, nbformat and ipykernel (requirements-dev.txt)"
nbformat = pytest.importorskip("nbformat", reason=NEEDED)
pytest.importorskip("nbclient", reason=NEEDED)
pytest.importorskip("ipykernel", reason=NEEDED)

from notebooks.execute import (  # noqa: E402
    METADATA,
    SET_UP,
    CellFailed,
    execute,
    set_up,
    write_address,
)

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LARGEST = 600_000
"""Bytes: a page that opens at once."""
STRICT = """
import warnings
events = get_ipython().events
events.register("pre_run_cell", lambda cell: warnings.simplefilter("error"))
events.register("post_run_cell", lambda result: warnings.resetwarnings())
"""
"""Cell by cell: what the kernel does between them warns too."""


def cells(path, kind):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


@pytest.mark.optimized
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_and_no_cell_warns(path, tmp_path):
    execute(path, tmp_path, before=STRICT)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_kept_whole_and_the_same_for_every_machine(path):
    text = path.read_text()
    assert len(text) <= LARGEST
    assert nbformat.read(path, as_version=4).metadata == METADATA
    counts = [cell.execution_count for cell in cells(path, "code")]
    assert counts == list(range(1, len(counts) + 1)), f"run it again: make notebooks ({counts})"
    outputs = [output for cell in cells(path, "code") for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not [output for output in outputs if output.get("name") == "stderr"]
    assert not [cell for cell in cells(path, "code") if "execution" in cell.metadata]
    for place in (str(ROOT), str(Path.home()), "/tmp/", "site-packages"):
        assert place not in text


def write(path, *sources):
    code = [nbformat.v4.new_code_cell(source) for source in sources]
    nbformat.write(nbformat.v4.new_notebook(cells=code), path)
    return path


def test_the_cell_that_failed_is_named(tmp_path):
    path = write(tmp_path / "book.ipynb", "1 + 1", "x = 3\n1 / 0")
    with pytest.raises(CellFailed, match=r"(?s)book\.ipynb, cell 2 \(x = 3\).*ZeroDivisionError"):
        execute(path, tmp_path)


def test_a_warning_fails_the_cell(tmp_path):
    path = write(tmp_path / "book.ipynb", "import warnings\nwarnings.warn('old', UserWarning)")
    execute(path, tmp_path)
    with pytest.raises(CellFailed, match=r"(?s)book\.ipynb, cell 1.*UserWarning: old"):
        execute(path, tmp_path, before=STRICT)


def test_a_failed_notebook_stays_as_it_was(tmp_path):
    path = write(tmp_path / "book.ipynb", "print('once')", "1 / 0")
    before = path.read_bytes()
    command = [sys.executable, "-m", "notebooks.execute", str(path)]
    ended = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True)
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: book.ipynb, cell 2")
    assert path.read_bytes() == before


def test_the_first_cell_is_the_same_everywhere_and_has_the_address_of_the_project():
    assert {cells(path, "code")[0].source for path in NOTEBOOKS} == {set_up()}, (
        "python -m notebooks.execute --address"
    )


def test_a_new_address_changes_the_first_cell_alone(tmp_path, monkeypatch):
    path = tmp_path / "book.ipynb"
    path.write_bytes(NOTEBOOKS[0].read_bytes())
    write_address(path)
    assert path.read_bytes() == NOTEBOOKS[0].read_bytes()
    monkeypatch.setattr("notebooks.execute.SET_UP", "REPOSITORY = '{repository}/moved'")
    write_address(path)
    first, *others = cells(path, "code")
    assert first.source.endswith("/moved'")
    assert others == cells(NOTEBOOKS[0], "code")[1:]


def run_set_up(monkeypatch, repository, modules):
    """The shell commands and magics of the first cell, as a notebook runs them."""
    from IPython.core.inputtransformer2 import TransformerManager

    commands = []

    class Shell:
        def run_line_magic(self, name, line):
            commands.append(f"%{name} {line}".format(REPOSITORY=repository))

    for module in modules:
        monkeypatch.setitem(sys.modules, module, sys)
    monkeypatch.setattr(sys, "path", list(sys.path))
    source = SET_UP.format(repository=repository)
    exec(TransformerManager().transform_cell(source), {"get_ipython": Shell})
    return commands, sys.path[0]


INSTALL = '%pip install --quiet "smartmixed-jax[experiments] @ git+https://example.org/a/b"'


@pytest.mark.parametrize(
    ("modules", "expected", "elsewhere"),
    [
        ([], ["%matplotlib inline"], True),
        (["google.colab"], [INSTALL, "%matplotlib inline"], False),
    ],
)
def test_the_first_cell_installs_the_package_on_colab_alone(
    monkeypatch, modules, expected, elsewhere
):
    commands, found = run_set_up(monkeypatch, "https://example.org/a/b", modules)
    assert commands == expected
    assert (found == "..") == elsewhere


def test_colab_without_an_address_is_told_so(monkeypatch):
    with pytest.raises(ValueError, match="REPOSITORY has no owner yet"):
        run_set_up(monkeypatch, "https://example.org/OWNER/repository", ["google.colab"])
