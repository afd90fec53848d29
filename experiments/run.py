"""Runs one config: `python -m experiments.run --help`.

A run leaves a folder, run_folder.py says with which files; the same command again resumes it, or
prints its results when it is complete.
"""

import argparse
import sys
from collections.abc import Sequence

from experiments import live, processes
from experiments.command_line import Parser, exit_status
from experiments.config import Config
from experiments.config_options import describe_choices, parse_config
from experiments.names import refuse_without_effect
from experiments.run_folder import figures_folder, folder_of
from experiments.training.compilation import keep_compilations
from experiments.training.train import train_and_evaluate


def parse(arguments: Sequence[str]) -> Config:
    """Command-line arguments → Config.

    Raises:
        ValueError: a value is out of its range, or an option has no effect with the others.
        SystemExit: an option is unknown or has a value of another type; or --help.
    """
    return _parse(arguments)[0]


def _parse(arguments: Sequence[str]) -> tuple[Config, argparse.Namespace]:
    parser = Parser(
        prog="python -m experiments.run",
        usage="%(prog)s [OPTION ...]",
        description="Trains one network, or resumes it, and prints its results.\n"
        "In brackets: the values of the preset for the task (--task mnist --help shows those of "
        "mnist).",
        epilog=describe_choices(),
    )
    processes.add_options(parser)
    live.add_options(parser)
    config, options = parse_config(arguments, parser)
    refuse_without_effect([config])
    return config, options


def main(arguments: Sequence[str]) -> int:
    """Runs, prints the results and draws the figures; returns the exit status."""
    from experiments import figures, report

    def work() -> int:
        with processes.joined(arguments):
            keep_compilations()
            config, options = _parse(arguments)
            with live.following([folder_of(config)], options.tensorboard, options.wandb):
                folder = train_and_evaluate(config)
            if processes.is_first():
                print(report.describe(folder))
                pictures = figures.draw_figures(folder)
                print(f"{len(pictures)} figures in {figures_folder(folder)}")
        return 0

    return exit_status(work)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
