"""Runs one config: `python -m experiments.run --help`.

A run leaves a folder, run_folder.py says with which files; the same command again resumes it, or
prints its results when it is complete.
"""

import argparse
import sys
from collections.abc import Callable, Sequence

from experiments.config import PRESET_NAMES, Config
from experiments.data import DataError
from experiments.data.tasks import find_kind
from experiments.presets import default_config
from experiments.run_folder import RunError, figures_folder
from experiments.training.compilation import keep_compilations
from experiments.training.train import train_and_evaluate


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
    find_kind(chosen.task)
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
    from experiments import figures, report

    def work() -> int:
        folder = train_and_evaluate(parse(arguments))
        print(report.describe(folder))
        pictures = figures.draw_figures(folder)
        print(f"{len(pictures)} figures in {figures_folder(folder)}")
        return 0

    return exit_status(work)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
