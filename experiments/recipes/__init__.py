"""One program per published result; its docstring says what it reproduces and how long it takes."""

from collections.abc import Sequence

from experiments import figures
from experiments.config import Config
from experiments.grid import crossed, train_and_compare
from experiments.run_folder import folder_of
from experiments.training.compilation import keep_compilations

__all__ = ["crossed", "run_all"]


def run_all(configs: Sequence[Config]) -> int:
    """Runs the configs of one task, prints their comparison and draws it beside the runs.

    Returns:
        How many runs stopped before their end.
    """
    keep_compilations()
    folders, stopped = train_and_compare(configs)
    comparison = folder_of(configs[0]).parent / "comparison.png"
    for path in figures.draw_comparison(folders, comparison):
        print(path)
    return stopped
