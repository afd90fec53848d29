"""The paper's grid: do learned choices beat the best uniform network, over its architectures?

    python -m experiments.recipes.paper [--architectures 1 3 9] [--presets published described]
        [--full | --short] [--data-dir FOLDER]

MNIST. Per architecture and seed 20 cells: two-phase training of the presets published, described
and recommended, the controls of the last, and with the settings of published and of recommended six
uniform networks and PReLU (published and described differ in phase 1 only). Architectures 1, 3 and
9 with seeds 0-4 first, then all others with seeds 0-2. The epochs are a tenth of the paper's, 5 and
35, and of recommended its own 30; --full has the paper's 50 and 350, and seeds 0-9 of all. --short
has seeds 0-2 of all, 150 and 300 steps of recommended, and 150 and 1,050 of the others, whose rate
is lower. All 18 architectures: `--short --presets recommended`, 594 cells, one and a half hours on
one CPU core; `--short --presets published described`, 486 cells, 2.7 hours.

First it says what is left and how long that will take; the same command again goes on. The report
is written after every architecture. Architecture 3 takes 67 minutes of one CPU core with published
and described, and 44 to 54 s for each of its 55 cells of recommended; by these and the number of
weights for the others: 7 hours for 1, 3 and 9 and 36 hours for all; --full, for a GPU, would take
four weeks. Expected: experiments/LOG.md.
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from experiments import grid, page, recipes
from experiments.command_line import exit_status
from experiments.config import ARCHITECTURES, PRESET_NAMES, Config
from experiments.presets import default_config
from experiments.remaining import Remaining
from experiments.run_folder import folder_of, is_intact
from experiments.training.compilation import keep_compilations
from smartmixed_jax import PAPER_POOL

FIRST = (1, 3, 9)
"""The architectures with more seeds."""
SEEDS = {"first": range(5), "others": range(3), "full": range(10)}
Budget = Literal["short", "tenth", "full"]
EPOCHS: dict[Budget, dict[str, Any]] = {
    "short": {"selective_epochs": 1, "mixed_epochs": 7, "steps_per_epoch": 150},
    "tenth": {"selective_epochs": 5, "mixed_epochs": 35},
    "full": {},
}
"""Of published and described."""
RECOMMENDED_EPOCHS: dict[Budget, dict[str, Any]] = {
    "short": {"selective_epochs": 1, "mixed_epochs": 2, "steps_per_epoch": 150},
    "tenth": {},
    "full": {},
}
METHODS = ("two_phase", *(f"uniform:{name}" for name in PAPER_POOL.names), "prelu")
CONTROLS = ("learned", "shuffled", "random", "majority")
FOLDERS = {
    "short": Path("runs/paper-short"),
    "tenth": Path("runs/paper"),
    "full": Path("runs/paper-full"),
}


def bases(
    task: str,
    presets: Sequence[str] = PRESET_NAMES,
    *,
    budget: Budget,
    data_dir: str | None,
    run_dir: Path,
) -> list[Config]:
    """The settings of the presets."""
    places: dict[str, Any] = {"data_dir": data_dir, "run_dir": str(run_dir)}
    found = []
    for preset in presets:
        epochs = (RECOMMENDED_EPOCHS if preset == "recommended" else EPOCHS)[budget]
        found.append(dataclasses.replace(default_config(preset, task), **epochs, **places))
    return found


def cells(presets: Sequence[Config], architecture: int, seeds: Sequence[int]) -> list[Config]:
    """All cells of an architecture; controls are those of recommended.

    Args:
        presets: the settings of each.
        architecture: by its number.
        seeds: of every cell.
    """
    sized = [dataclasses.replace(base, architecture=architecture, hidden=()) for base in presets]
    ours = [base for base in sized if base.preset == "recommended"]
    paper = [base for base in sized if base.preset != "recommended"]
    return [
        *grid.plan_grid(paper, seeds, METHODS, ["learned"]),
        *grid.plan_grid(ours, seeds, METHODS, CONTROLS),
    ]


def plan(
    architectures: Sequence[int], presets: Sequence[Config], *, budget: Budget
) -> list[list[Config]]:
    """The cells of each architecture, those with more seeds first."""
    ordered = sorted(set(architectures), key=lambda number: (number not in FIRST, number))
    return [cells(presets, number, SEEDS[_group(number, budget)]) for number in ordered]


def _group(architecture: int, budget: Budget) -> str:
    """The key of SEEDS."""
    if budget == "full":
        return "full"
    return "first" if budget == "tenth" and architecture in FIRST else "others"


def main(arguments: Sequence[str]) -> int:
    parser = recipes.Parser(prog="python -m experiments.recipes.paper", description=__doc__)
    parser.add_argument(
        "--architectures", nargs="+", type=int, choices=ARCHITECTURES, default=list(ARCHITECTURES)
    )
    parser.add_argument("--presets", nargs="+", choices=PRESET_NAMES, default=list(PRESET_NAMES))
    budget = parser.add_mutually_exclusive_group()
    for name, what in (("full", "the paper's epochs, ten seeds"), ("short", "1,200 steps or 450")):
        budget.add_argument(
            f"--{name}", dest="budget", action="store_const", const=name, default="tenth", help=what
        )
    parser.add_argument("--task", default="mnist", help="another task, to try it out: digits")
    parser.add_argument("--list", action="store_true", help="train nothing: say what is left")
    parser.add_argument("--data-dir")
    parser.add_argument("--run-dir", type=Path, help="[runs/paper, paper-full, paper-short]")
    options = parser.parse_args(arguments)
    folder = options.run_dir or FOLDERS[options.budget]

    def work() -> int:
        keep_compilations()
        presets = bases(
            options.task,
            options.presets,
            budget=options.budget,
            data_dir=options.data_dir,
            run_dir=folder,
        )
        planned = plan(options.architectures, presets, budget=options.budget)
        everything = [config for of_architecture in planned for config in of_architecture]
        if options.list:
            return grid.list_cells(everything)
        return train(planned, Remaining(everything), folder.with_suffix(".html"))

    return exit_status(work)


def train(planned: Sequence[Sequence[Config]], remaining: Remaining, file: Path) -> int:
    """Trains one architecture after another, and writes the report of all that is complete."""
    stopped = 0
    for configs in planned:
        stopped += grid.train_cells(configs, remaining)
        complete = [folder_of(c) for c in remaining.configs if is_intact(folder_of(c))]
        if complete:
            page.write(complete, file)
    return min(stopped, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
