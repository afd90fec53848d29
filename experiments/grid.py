"""Seeds × methods × controls of one task: `python -m experiments.grid --help`.

    python -m experiments.grid --task mnist --seeds 0 1 2 \\
        --methods two_phase uniform:relu --control learned shuffled random

Runs of a seed are paired: the same split, initial weights and batches. On an accelerator the runs
of one program train at once. Every run leaves its own folder; the same command again resumes the
grid, or prints its comparison. With --shard i/n several processes share a grid, each with its part
of the runs: slurm/grid.sbatch and submit.py start them.
"""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments import processes, report
from experiments.command_line import Parser, exit_status
from experiments.config import Config
from experiments.config_options import describe_choices, parse_config
from experiments.names import refuse_without_effect, reset_without_effect, run_name
from experiments.run_folder import RunError, folder_of, is_intact
from experiments.shards import WHOLE, Shard, parse_shard
from experiments.training.compilation import keep_compilations
from experiments.training.parallel import AT_ONCE, train_all


class Grid(NamedTuple):
    """What a command asks for.

    Attributes:
        configs: every run, in the order that decides which shard has it.
        at_once: how many train at once; None: as the device suggests.
        shard: the runs that this process trains.
    """

    configs: list[Config]
    at_once: int | None
    shard: Shard


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
    """The config of every run, each once.

    A uniform network has no choices to control, and fields that have no effect on a run take their
    preset's value there: --temperature changes the two-phase runs of a grid, and its uniform runs
    are those of any other grid.

    Raises:
        ValueError: a field was changed that has no effect on any of the runs.
    """
    variants = [
        {"method": method, "control": control}
        for method in methods
        for control in (controls if method == "two_phase" else ["learned"])
    ]
    if "two_phase" not in methods and set(controls) != {"learned"}:
        raise ValueError(f"control = {' '.join(controls)} has no effect: no method is two_phase")
    configs = crossed(base, variants, seeds)
    refuse_without_effect(configs)
    configs = [reset_without_effect(config) for config in configs]
    if base.run_dir is not None:
        configs = [
            dataclasses.replace(config, run_dir=str(Path(base.run_dir) / run_name(config)))
            for config in configs
        ]
    return list(dict.fromkeys(configs))


def train_and_compare(
    configs: Sequence[Config], *, at_once: int | None = None, shard: Shard = WHOLE
) -> tuple[list[Path], int]:
    """Trains the runs of one task that are the shard's, and compares all that are complete.

    Returns:
        The folders of the complete runs, and how many of the shard's stopped.
    """
    mine, stopped = shard.cells(configs), 0
    for config, ended in zip(mine, train_all(mine, at_once=at_once), strict=True):
        if isinstance(ended, RunError):
            stopped += 1
            print(f"error: {folder_of(config)}: {ended}", file=sys.stderr)
    return compare_complete(configs), stopped


def compare_complete(configs: Sequence[Config]) -> list[Path]:
    """Prints the comparison of the runs that are complete, whoever trained them.

    Returns:
        Their folders.
    """
    folders = [folder for folder in map(folder_of, configs) if is_intact(folder)]
    if len(folders) < len(configs) and processes.is_first():
        print(f"\n{len(folders)} of {len(configs)} runs are complete")
    if folders and processes.is_first():
        print(f"\n{report.compare(folders)}\n")
    return folders


def parse_arguments(arguments: Sequence[str]) -> Grid:
    """Command-line arguments → the runs, how many of them train at once, and the shard.

    Raises:
        ValueError: a value is out of its range, or an option has no effect on any run.
        SystemExit: an option is unknown or has a value of another type; or --help.
    """
    parser = Parser(
        prog="python -m experiments.grid",
        usage="%(prog)s [OPTION ...]",
        description="Trains every method and control with every seed, and compares them. Takes the "
        "options of\nexperiments.run too; in brackets: the values of the preset for the task.",
        epilog=describe_choices(),
    )
    runs = parser.add_argument_group("grid")
    runs.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N", help="[0 1 2]"
    )
    runs.add_argument(
        "--methods",
        nargs="+",
        default=["two_phase"],
        metavar="METHOD",
        help="two_phase, uniform:NAME [two_phase]",
    )
    runs.add_argument(
        "--control",
        dest="controls",
        nargs="+",
        default=["learned"],
        metavar="CONTROL",
        help="of the two-phase runs: learned, shuffled, random, majority [learned]",
    )
    runs.add_argument(
        "--at-once",
        type=int,
        metavar="N",
        help=f"train up to N runs at once [{AT_ONCE} on an accelerator, 1 on a CPU]",
    )
    runs.add_argument(
        "--shard",
        type=parse_shard,
        default=WHOLE,
        metavar="i/n",
        help="train every n-th run from the i-th on, i = 0 to n - 1, and leave the others to other "
        "processes with the same options [0/1]",
    )
    for option in ("seed", "method"):
        if any(argument.split("=")[0] == f"--{option}" for argument in arguments):
            parser.error(f"--{option}: a grid takes --{option}s")
    processes.add_options(parser)
    base, grid = parse_config(arguments, parser, without=("seed", "method", "control"))
    if grid.at_once is not None and grid.at_once < 1:
        parser.error(f"--at-once {grid.at_once}: expected at least 1")
    configs = plan_grid(base, grid.seeds, grid.methods, grid.controls)
    return Grid(configs, grid.at_once, grid.shard)


def main(arguments: Sequence[str]) -> int:
    """Trains the grid and prints its comparison; returns the exit status."""

    def work() -> int:
        with processes.joined(arguments):
            keep_compilations()
            configs, at_once, shard = parse_arguments(arguments)
            _, stopped = train_and_compare(configs, at_once=at_once, shard=shard)
        return 1 if stopped else 0

    return exit_status(work)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
