"""Architectures × presets × methods × controls × seeds: `python -m experiments.grid --help`.

    python -m experiments.grid --task mnist --seeds 0 1 2 \\
        --methods two_phase uniform:relu --control learned shuffled random
    python -m experiments.grid --task mnist --architectures 1 3 9 \\
        --presets published described recommended --methods two_phase uniform:relu prelu

Runs of a seed are paired: the same split, initial weights and batches. On an accelerator the runs
of one program train at once. Every run leaves its own folder, and a line says how many are left and
how long they will take; the same command again resumes the grid, or prints its comparison; --list
says what is done. With --shard i/n several processes share a grid, each with its part of the runs:
slurm/grid.sbatch and submit.py start them.
"""

import argparse
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments import live, processes, report
from experiments.command_line import Parser, exit_status
from experiments.config import PRESET_NAMES, Config
from experiments.config_options import describe_choices, parse_config
from experiments.names import (
    computation,
    refuse_without_effect,
    reset_without_effect,
    run_name,
)
from experiments.remaining import Remaining
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
        only_list: nothing is to be trained.
        tensorboard, wandb: where a live view goes, if anywhere.
    """

    configs: list[Config]
    at_once: int | None
    shard: Shard
    only_list: bool
    tensorboard: Path | None
    wandb: str | None


def crossed(
    base: Config, variants: Sequence[Mapping[str, Any]], seeds: Sequence[int]
) -> list[Config]:
    """Every variant (fields that it changes) with every seed."""
    return [
        dataclasses.replace(base, seed=seed, **variant) for variant in variants for seed in seeds
    ]


START_PROBABILITY = 0.5
"""Of the function of a start; the others share the rest alike."""


def start_from(name: str) -> dict[str, Any]:
    """What a learned run changes whose neurons begin with the function."""
    return {"start": name, "start_probability": START_PROBABILITY}


def plan_grid(
    bases: Sequence[Config],
    seeds: Sequence[int],
    methods: Sequence[str],
    controls: Sequence[str],
    starts: Sequence[str] = (),
) -> list[Config]:
    """The config of every run; of those that compute the same the first.

    Args:
        bases: of every architecture and preset.
        seeds, methods, controls: crossed with each of them.
        starts: of the learned runs, beside the start of the base.

    A uniform network has no choices to control, and fields that have no effect on a run take their
    preset's value there: --temperature changes the two-phase runs of a grid, and its uniform runs
    are those of any other grid.

    Raises:
        ValueError: a field was changed that has no effect on any of the runs.
    """
    variants: list[dict[str, Any]] = [
        {"method": method, "control": control}
        for method in methods
        for control in (controls if method == "two_phase" else ["learned"])
    ]
    if starts and "two_phase" not in methods:
        raise ValueError(f"starts = {' '.join(starts)} has no effect: no method is two_phase")
    variants += [{"method": "two_phase", **start_from(name)} for name in starts]
    if "two_phase" not in methods and set(controls) != {"learned"}:
        raise ValueError(f"control = {' '.join(controls)} has no effect: no method is two_phase")
    configs = [config for base in bases for config in crossed(base, variants, seeds)]
    refuse_without_effect(configs)
    configs = [reset_without_effect(config) for config in configs]
    unique: dict[Config, Config] = {}
    for config in configs:
        unique.setdefault(computation(config), _placed(config))
    return list(unique.values())


def _placed(config: Config) -> Config:
    """With a folder of its own in the grid's."""
    if config.run_dir is None:
        return config
    return dataclasses.replace(config, run_dir=str(Path(config.run_dir) / run_name(config)))


def train_and_compare(
    configs: Sequence[Config], *, at_once: int | None = None, shard: Shard = WHOLE
) -> tuple[list[Path], int]:
    """Trains the runs of one task that are the shard's, and compares all that are complete.

    Returns:
        The folders of the complete runs, and how many of the shard's stopped.
    """
    mine = shard.cells(configs)
    stopped = train_cells(mine, Remaining(mine), at_once=at_once)
    return compare_complete(configs), stopped


def train_cells(
    configs: Sequence[Config], remaining: Remaining, *, at_once: int | None = None
) -> int:
    """Trains what is left, and says after each cell how much that is; returns how many stopped."""

    def tell(ended: Sequence[Config]) -> None:
        if remaining.ended(ended):
            _print(remaining.line())

    stopped = 0
    if len(configs) > 1:
        _print(remaining.line())
    for config, ended in zip(
        configs, train_all(configs, at_once=at_once, on_end=tell), strict=True
    ):
        if isinstance(ended, RunError):
            stopped += 1
            print(f"error: {folder_of(config)}: {ended}", file=sys.stderr)
    return stopped


def _print(text: str) -> None:
    if processes.is_first():
        print(text, flush=True)


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
        SystemExit: an option is unknown or has a value of another type, or two options say the
            same; or --help.
    """
    parser = _parser()
    given = {argument.split("=")[0] for argument in arguments}
    for option, lists in INSTEAD.items():
        if option in given and (lists in given or option in ("--seed", "--method")):
            parser.error(f"{option}: a grid takes {lists}")
    base, grid = _parse(arguments, parser)
    if grid.at_once is not None and grid.at_once < 1:
        parser.error(f"--at-once {grid.at_once}: expected at least 1")
    by_preset = [base]
    if grid.presets:  # each has its own defaults of the other options
        by_preset = [_parse([*arguments, "--preset", p], _parser())[0] for p in grid.presets]
    bases = [
        dataclasses.replace(each, **changes)
        for changes in _architectures(grid.architectures)
        for each in by_preset
    ]
    configs = plan_grid(bases, grid.seeds, grid.methods, grid.controls, grid.starts)
    return Grid(configs, grid.at_once, grid.shard, grid.only_list, grid.tensorboard, grid.wandb)


INSTEAD = {
    "--seed": "--seeds",
    "--method": "--methods",
    "--preset": "--presets",
    "--architecture": "--architectures",
    "--hidden": "--architectures",
}
"""Options of a run, and the lists that a grid takes; without the list, the last three stay."""


def _parse(arguments: Sequence[str], parser: Parser) -> tuple[Config, argparse.Namespace]:
    return parse_config(arguments, parser, without=("seed", "method", "control"))


def _architectures(numbers: Sequence[int] | None) -> list[dict[str, Any]]:
    """What each changes; `hidden` would replace it."""
    if numbers is None:
        return [{}]
    return [{"architecture": number, "hidden": ()} for number in numbers]


def _parser() -> Parser:
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
        help="two_phase, uniform:NAME, layers:NAME,NAME,..., prelu [two_phase]",
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
        "--starts",
        nargs="+",
        default=[],
        metavar="FUNCTION",
        help="two-phase runs beside these, whose neurons begin with the function with probability "
        "1/2; the best is picked by validation",
    )
    runs.add_argument(
        "--architectures",
        type=int,
        nargs="+",
        metavar="N",
        help="several architectures of an mlp, 1 to 18 [the one of --architecture or --hidden]",
    )
    runs.add_argument(
        "--presets",
        nargs="+",
        choices=PRESET_NAMES,
        metavar="PRESET",
        help="several presets; runs that compute the same under two of them are trained once "
        "[the one of --preset]",
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
    runs.add_argument(
        "--list",
        dest="only_list",
        action="store_true",
        help="train nothing: say what is done, what is left and how long it will take",
    )
    processes.add_options(parser)
    live.add_options(parser)
    return parser


def list_cells(configs: Sequence[Config]) -> int:
    """Prints how far every run is, and what is left; returns the exit status."""
    remaining = Remaining(configs)
    if configs:
        print(f"{report.format_table(remaining.rows())}\n")
    print(remaining.line())
    return 0


def main(arguments: Sequence[str]) -> int:
    """Trains the grid and prints its comparison; returns the exit status."""

    def work() -> int:
        with processes.joined(arguments):
            grid = parse_arguments(arguments)
            if grid.only_list:
                return list_cells(grid.shard.cells(grid.configs))
            keep_compilations()
            folders = [folder_of(config) for config in grid.shard.cells(grid.configs)]
            with live.following(folders, grid.tensorboard, grid.wandb):
                _, stopped = train_and_compare(grid.configs, at_once=grid.at_once, shard=grid.shard)
        return 1 if stopped else 0

    return exit_status(work)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
