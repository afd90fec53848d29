"""Seeds × methods × controls of one task: `python -m experiments.grid --help`.

    python -m experiments.grid --task mnist --seeds 0 1 2 \\
        --methods two_phase uniform:relu --controls learned shuffled random

Runs of a seed are paired: the same split, initial weights and batches. On an accelerator the runs
of one program train at once. Every run leaves its own folder; the same command again resumes the
grid, or prints its comparison.
"""

import argparse
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments import report
from experiments.config import Config
from experiments.run import exit_status, parse
from experiments.run_folder import RunError, folder_of
from experiments.training.parallel import AT_ONCE, train_all


def crossed(
    base: Config, variants: Sequence[Mapping[str, Any]], seeds: Sequence[int]
) -> list[Config]:
    """Every variant (fields that it changes) with every seed."""
    return [
        dataclasses.replace(base, seed=seed, **variant) for variant in variants for seed in seeds
    ]


def plan_grid(
    base: Config, seeds: Sequence[int], methods: Sequence[str], controls: Sequence[str]
) -> list[Config]:
    """The config of every run, each once; a uniform network has no choices to control."""
    variants = [
        {"method": method, "control": control}
        for method in methods
        for control in (controls if method == "two_phase" else ["learned"])
    ]
    configs = crossed(base, variants, seeds)
    if base.run_dir is not None:
        configs = [
            dataclasses.replace(config, run_dir=str(Path(base.run_dir) / config.name))
            for config in configs
        ]
    return list(dict.fromkeys(configs))


def train_and_compare(
    configs: Sequence[Config], *, at_once: int | None = None
) -> tuple[list[Path], int]:
    """Trains the runs of one task and prints their comparison.

    Returns:
        The folders of the complete runs, and how many runs stopped.
    """
    folders, stopped = [], 0
    for config, ended in zip(configs, train_all(configs, at_once=at_once), strict=True):
        if isinstance(ended, RunError):
            stopped += 1
            print(f"error: {folder_of(config)}: {ended}", file=sys.stderr)
        else:
            folders.append(ended)
    if folders:
        print(f"\n{report.compare(folders)}\n")
    return folders, stopped


def parse_arguments(arguments: Sequence[str]) -> tuple[list[Config], int | None]:
    """Command-line arguments → the runs, and how many of them train at once."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.grid",
        description=__doc__,
        epilog="Every option of experiments.run is taken too, but --seed, --method and --control; "
        "--run-dir is then the folder that holds the runs' folders.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--methods", nargs="+", default=["two_phase"], help="two_phase, uniform:NAME"
    )
    parser.add_argument(
        "--controls", nargs="+", default=["learned"], help="learned, shuffled, random, majority"
    )
    parser.add_argument(
        "--at-once",
        type=int,
        metavar="N",
        help=f"train up to N runs at once; default {AT_ONCE} on an accelerator and 1 on a CPU",
    )
    grid, others = parser.parse_known_args(arguments)
    for option in ("seed", "method", "control"):
        if any(argument.split("=")[0] == f"--{option}" for argument in others):
            parser.error(f"--{option}: a grid takes --{option}s")
    if grid.at_once is not None and grid.at_once < 1:
        parser.error(f"--at-once {grid.at_once}: expected at least 1")
    return plan_grid(parse(others), grid.seeds, grid.methods, grid.controls), grid.at_once


def main(arguments: Sequence[str]) -> int:
    """Trains the grid and prints its comparison; returns the exit status."""

    def work() -> int:
        configs, at_once = parse_arguments(arguments)
        _, stopped = train_and_compare(configs, at_once=at_once)
        return 1 if stopped else 0

    return exit_status(work)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
