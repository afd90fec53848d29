"""One program per published result; its docstring says what it reproduces and how long it takes."""

from collections.abc import Sequence

from experiments import figures
from experiments.command_line import Parser, exit_status
from experiments.config import Config
from experiments.grid import crossed, train_and_compare
from experiments.run_folder import folder_of
from experiments.training.compilation import keep_compilations

__all__ = ["Parser", "crossed", "run_all"]


def run_all(*groups: Sequence[Config]) -> int:
    """Runs groups of configs, each of one task; prints and draws a comparison for each.

    Returns:
        The exit status: 1 if a run stopped before its end, or one line said why nothing goes on.
    """

    def work() -> int:
        keep_compilations()
        return min(1, sum([_run_group(configs) for configs in groups]))

    return exit_status(work)


def _run_group(configs: Sequence[Config]) -> int:
    """Returns how many runs stopped before their end."""
    folders, stopped = train_and_compare(configs)
    comparison = folder_of(configs[0]).parent / "comparison.png"
    for path in figures.draw_comparison(folders, comparison):
        print(path)
    return stopped
