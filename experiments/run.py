"""Runs one config: `python -m experiments.run --help`.

A run leaves a folder, run_folder.py says with which files; the same command again resumes it, or
prints its results when it is complete.
"""

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from experiments.config import PRESET_NAMES, Config
from experiments.data import DataError
from experiments.data.tasks import find_kind
from experiments.presets import default_config
from experiments.run_folder import RunError, figures_folder
from experiments.training.compilation import keep_compilations
from experiments.training.train import train_and_evaluate
from experiments.typed_json import read_fields

CONFIG_HELP = """--config FILE: a config.json, of a run or by hand, also with a part of the options:
it gives the defaults of the others."""


def parse(arguments: Sequence[str]) -> Config:
    """Command-line arguments → Config; --preset and --task decide the defaults of the rest."""
    try:
        import tyro
    except ImportError:
        raise RunError("the command line needs tyro: pip install tyro") from None

    files = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    files.add_argument("--config")
    file, others = files.parse_known_args(arguments)
    given = {} if file.config is None else read_config(Path(file.config))
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset", default=given.get("preset", "recommended"), choices=PRESET_NAMES)
    first.add_argument("--task", default=given.get("task", "digits"))
    chosen, _ = first.parse_known_args(others)
    find_kind(chosen.task)
    default = default_config(chosen.preset, chosen.task)
    try:
        default = dataclasses.replace(default, **(given | vars(chosen)))
    except ValueError as error:
        raise ValueError(f"{file.config}: {error}") from None
    options = tyro.cli(
        _Unchecked,
        prog="python -m experiments.run",
        description=f"{__doc__}\n{CONFIG_HELP}",
        default=_Unchecked(**vars(default)),
        args=others,
    )
    return Config(**vars(options))


class _Unchecked(Config):
    """Options as they are typed: tyro would draw a box around what is wrong with their values."""

    def __post_init__(self) -> None:
        pass


def read_config(path: Path) -> dict[str, Any]:
    """Some fields of a config from a JSON file; ValueError names the file and what is wrong."""
    try:
        return read_fields(path.read_text(), Config)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None


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
