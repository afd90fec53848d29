"""Runs the notebooks and keeps their outputs: `python -m notebooks.execute [NOTEBOOK ...]`.

Every cell of every notebook runs in a fresh kernel, on the CPU and in an empty folder. A notebook
is written only if all its cells ran, without anything that differs from machine to machine.
"""

import os
import re
import sys
import tempfile
import time
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


def main(arguments: Sequence[str]) -> int:
    """Runs the notebooks named, or all; returns the exit status."""
    named = [Path(argument) for argument in arguments]
    for path in named or sorted(Path(__file__).parent.glob("*.ipynb")):
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
