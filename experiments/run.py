"""Runs one config: `python -m experiments.run --help`.

A run is a list of phases over one training loop. It leaves a folder with config.json,
metrics.jsonl, checkpoints/, choices.json, selection.npz, summary.json and figures/; the same
command again resumes it, or prints its results when it is complete.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from experiments.compilation import keep_compilations
from experiments.config import PRESET_NAMES, Config, default_config
from experiments.data import DataError
from experiments.group import train_all
from experiments.run_folder import RunError


def run(config: Config, *, show_progress: bool = True) -> Path:
    """Trains, or resumes, or finds the run complete; returns its folder.

    Raises:
        DataError: the data cannot be had; nothing is written.
        RunError: the folder is in use or belongs to another config, or the loss is not finite.
    """
    (ended,) = train_all([config], show_progress=show_progress)
    if isinstance(ended, RunError):
        raise ended
    return ended


def parse(arguments: Sequence[str]) -> Config:
    """Command-line arguments → Config; --preset and --task decide the defaults of the rest."""
    try:
        import tyro
    except ImportError:
        raise RunError("the command line needs tyro: pip install tyro") from None

    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset", default="recommended", choices=PRESET_NAMES)
    first.add_argument("--task", default="digits")
    chosen, _ = first.parse_known_args(arguments)
    return tyro.cli(
        Config,
        prog="python -m experiments.run",
        description=__doc__,
        default=default_config(chosen.preset, chosen.task),
        args=list(arguments),
    )


def exit_status(work: Callable[[], int]) -> int:
    """Does the work of a command; what ends it early becomes one line and an exit status."""
    keep_compilations()
    try:
        return work()
    except (DataError, RunError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command again resumes", file=sys.stderr)
        return 130


def main(arguments: Sequence[str]) -> int:
    """Runs, prints the results and draws the figures; returns the exit status."""
    from experiments import plots, report

    def work() -> int:
        folder = run(parse(arguments))
        print(report.describe(folder))
        figures = plots.draw_figures(folder)
        print(f"{len(figures)} figures in {folder / 'figures'}")
        return 0

    return exit_status(work)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
