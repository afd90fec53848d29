"""Pictures into files."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib.style
from matplotlib.figure import Figure

from experiments.figures.confusion_matrix import confusion
from experiments.figures.fitted_function import fit
from experiments.figures.function_shares import shares, shares_over_epochs
from experiments.figures.neuron_map import choice_map
from experiments.figures.run_comparison import comparison
from experiments.figures.style import STYLE, MissingData
from experiments.figures.training_curves import curves
from experiments.run_folder import RunData, figures_folder, read_run

FIGURES: dict[str, Callable[[RunData], Figure]] = {
    "shares": shares,
    "shares_over_epochs": shares_over_epochs,
    "choice_map": choice_map,
    "curves": curves,
    "confusion": confusion,
    "fit": fit,
}


def draw_figures(run_dir: Path) -> list[Path]:
    """Writes figures/NAME.png and .svg for every figure that the folder has data for.

    Returns:
        the files written.

    Raises:
        ValueError: the folder is no run folder, or a file in it is damaged.
    """
    run = read_run(run_dir)
    paths = []
    for name, draw in FIGURES.items():
        try:
            figure = draw(run)
        except MissingData:
            continue
        paths += _write(figure, figures_folder(Path(run_dir)) / f"{name}.png")
    return paths


def draw_comparison(run_dirs: Sequence[Path], path: Path) -> list[Path]:
    """Writes `comparison` of finished runs to path as PNG and SVG; returns the two files."""
    return _write(comparison(run_dirs), Path(path))


def _write(figure: Figure, path: Path) -> list[Path]:
    """PNG and SVG, each whole or not at all; equal data give equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written = []
    for suffix, metadata in ((".png", {"Software": None}), (".svg", {"Date": None})):
        target = path.with_suffix(suffix)
        temporary = target.with_name(target.name + ".partial")
        with matplotlib.style.context(["default", STYLE]):
            figure.savefig(temporary, dpi=200, format=suffix[1:], metadata=metadata)
        os.replace(temporary, target)
        written.append(target)
    return written
