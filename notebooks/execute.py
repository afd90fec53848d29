"""Runs the notebooks and keeps their outputs: `python -m notebooks.execute [NOTEBOOK ...]`.

Every cell of every notebook runs in a fresh kernel, on the CPU and in an empty folder. A notebook
is written only if all its cells ran, without anything that differs from machine to machine.

The first code cell, the same in all of them, installs the package on Colab, from the address that
pyproject.toml has. After a change there: `python -m notebooks.execute --address` runs nothing.
"""

import os
import re
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).parents[1]
SECONDS = 300
"""A cell that takes longer has failed."""
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


SET_UP = """\
# On Colab this installs the package; elsewhere it only makes the repository importable.
import sys

REPOSITORY = "{repository}"  # of pyproject.toml
if "google.colab" in sys.modules:
    if "/OWNER/" in REPOSITORY:
        raise ValueError("REPOSITORY has no owner yet: put the address there that can be cloned")
    %pip install --quiet "smartmixed-jax[experiments] @ git+{{REPOSITORY}}"
else:
    sys.path.insert(0, "..")
%matplotlib inline"""
"""The first code cell. Once the package is on an index, its name alone will do."""


class CellFailed(RuntimeError):
    """Which cell raised, and what."""


def execute(path: Path, folder: Path, *, before: str = "") -> nbformat.NotebookNode:
    """The notebook as a fresh kernel leaves it; the file stays as it is.

    Args:
        path: of the notebook.
        folder: the working directory of the kernel.
        before: code that the kernel runs as cell 0.

    Raises:
        CellFailed: a cell raised.
    """
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata = nbformat.from_dict(METADATA)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(before))
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
    }
    client = NotebookClient(
        notebook,
        timeout=SECONDS,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        extra_arguments=["--log-level=ERROR"],
        resources={"metadata": {"path": str(folder)}},
    )
    with client.setup_kernel(env=environment, cwd=str(folder)):
        for number, cell in enumerate(notebook.cells):
            try:
                client.execute_cell(cell, number)
            except CellExecutionError as error:
                told = re.sub(r"\x1b\[[0-9;]*m", "", str(error))  # the colours of the traceback
                first = cell.source.splitlines()[0]
                raise CellFailed(f"{path.name}, cell {number} ({first}): {told}") from None
    del notebook.cells[0]
    return notebook


def set_up() -> str:
    """The first code cell, with the address of the repository."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return SET_UP.format(
        repository=project["tool"]["hatch"]["metadata"]["hooks"]["custom"]["repository"]
    )


def write_address(path: Path) -> None:
    """Writes the first code cell, and nothing else, of a notebook."""
    notebook = nbformat.read(path, as_version=4)
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    first.source = set_up()
    nbformat.write(notebook, path)


def main(arguments: Sequence[str]) -> int:
    """Runs the notebooks named, or all; returns the exit status."""
    all_of_them = sorted(Path(__file__).parent.glob("*.ipynb"))
    if list(arguments) == ["--address"]:
        for path in all_of_them:
            write_address(path)
        return 0
    named = [Path(argument) for argument in arguments]
    for path in named or all_of_them:
        begun = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            try:
                nbformat.write(execute(path, Path(folder)), path)
            except CellFailed as error:
                print(f"error: {error}", file=sys.stderr)
                return 1
        size = path.stat().st_size / 1000
        print(f"{path.name}: {time.monotonic() - begun:.0f} s, {size:.0f} kB", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
