"""Pictures into files: under the folder's lock, and only those that would change.

Every PNG carries a digest of what it was drawn from: the files of the run and the code that draws.
"""

import hashlib
import importlib
import os
import pkgutil
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import matplotlib.style
from matplotlib.figure import Figure
from PIL import Image

from experiments import folder_lock, run_folder
from experiments.figures.run_comparison import comparison
from experiments.figures.style import FIGURES, STYLE, MissingData
from experiments.run_folder import figures_folder, read_run

# Each file of this folder adds its figures to FIGURES.
for _module in pkgutil.iter_modules([str(Path(__file__).parent)]):
    if _module.name != "__main__":
        importlib.import_module(f"{__package__}.{_module.name}")

DIGEST = "Drawn from"
"""The key of the digest among a PNG's texts."""


def draw_figures(run_dir: Path, *, force: bool = False) -> list[Path]:
    """Makes figures/NAME.png and .svg for every figure that the folder has data for.

    Args:
        run_dir: the folder of a run.
        force: draw those too that would not change.

    Returns:
        the files, drawn now or before.

    Raises:
        ValueError: the folder is no run folder, or a file in it is damaged.
        RunError: another process holds the folder.
    """
    run_dir = Path(run_dir)
    paths = []
    with folder_lock.locked(run_dir):
        run, digest = read_run(run_dir), _digest([run_dir], run_folder.DATA_FILES)
        for name, draw in FIGURES.items():
            path = figures_folder(run_dir) / f"{name}.png"
            if force or not _is_drawn(path, digest):
                try:
                    figure = draw(run)
                except MissingData:
                    continue
                _write(figure, path, digest)
            paths += _files(path)
    return paths


def draw_comparison(run_dirs: Sequence[Path], path: Path, *, force: bool = False) -> list[Path]:
    """Makes the figure `comparison` of finished runs, PNG and SVG; returns the two files."""
    path = Path(path)
    folders = list(map(Path, run_dirs))
    digest = _digest(folders, run_folder.RESULT_FILES)
    if force or not _is_drawn(path, digest):
        _write(comparison(folders), path, digest)
    return _files(path)


def _files(path: Path) -> list[Path]:
    return [path.with_suffix(".png"), path.with_suffix(".svg")]


def _digest(folders: Sequence[Path], names: Sequence[str]) -> str:
    """Of files in some folders and of the code that draws them."""
    digest = hashlib.sha256(_version().encode())
    for file in (folder / name for folder in folders for name in names):
        content = file.read_bytes() if file.exists() else b""
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()


def _version() -> str:
    """A digest of matplotlib's version and the source of this package and what it builds on."""
    place = Path(__file__).parent
    sources = sorted(place.glob("*.py"))
    sources += [place.parent / f"{name}.py" for name in ("comparison", "names", "objective")]
    text = matplotlib.__version__.encode() + b"".join(file.read_bytes() for file in sources)
    return hashlib.sha256(text).hexdigest()


def _is_drawn(path: Path, digest: str) -> bool:
    """Whether both files are there and were drawn from just that."""
    png, svg = _files(path)
    try:
        with Image.open(png) as picture:
            return picture.info.get(DIGEST) == digest and svg.exists()
    except OSError:  # no file, or not a whole one
        return False


def _write(figure: Figure, path: Path, digest: str) -> None:
    """SVG and PNG, each whole or not at all; equal data give equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {".svg": {"Date": None}, ".png": {"Software": None, DIGEST: digest}}
    for target in reversed(_files(path)):
        temporary = target.with_name(target.name + ".partial")
        suffix = target.suffix
        with matplotlib.style.context(["default", STYLE]):
            figure.savefig(temporary, dpi=200, format=suffix[1:], metadata=metadata[suffix])
        os.replace(temporary, target)
