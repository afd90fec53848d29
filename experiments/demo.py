"""`make demo`: both phases on real digits and on one function, beside every uniform network.

Two seeds each, all on this machine, nothing to download. Running it again draws everything from
the finished run folders.
"""

import dataclasses
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from experiments import figures, report
from experiments.command_line import Parser, exit_status
from experiments.config import Config
from experiments.grid import crossed
from experiments.pools import POOLS
from experiments.presets import default_config
from experiments.run_folder import folder_of, read_finished
from experiments.training.compilation import keep_compilations
from experiments.training.train import train_and_evaluate

TASKS = ("digits", "function:product_sine")
SEEDS = (0, 1)


def configs(task: str, root: Path) -> list[Config]:
    """The two-phase runs of a task, then its uniform baselines, seed by seed."""
    base = default_config("recommended", task)
    methods = ("two_phase", *(f"uniform:{name}" for name in POOLS[base.pool].names))
    return [
        dataclasses.replace(config, run_dir=str(root / folder_of(config).relative_to("runs")))
        for config in crossed(base, [{"method": method} for method in methods], SEEDS)
    ]


def train_two_at_a_time(runs: Sequence[Config]) -> list[Path]:
    """Two runs at a time: most of a short run is compilation, which uses one core."""
    begun = time.monotonic()

    def train(config: Config) -> Path:
        folder = train_and_evaluate(config, show_progress=False)
        _, task, summary = read_finished(folder)
        score = task.objective.format(task.objective.compared(summary["phases"][-1]))
        elapsed = f"{time.monotonic() - begun:5.1f} s"
        run_name = f"{config.task} {config.variant} seed {config.seed}"
        print(f"{elapsed}  {run_name}: {task.objective.label} {score}", flush=True)
        return folder

    # Seed by seed, so that the second seed of a method finds its program compiled.
    order = sorted(range(len(runs)), key=lambda index: runs[index].seed)
    pool = ThreadPoolExecutor(max_workers=2)
    try:
        futures = {index: pool.submit(train, runs[index]) for index in order}
        return [futures[index].result() for index in range(len(runs))]
    finally:
        pool.shutdown(cancel_futures=True)


def main(arguments: Sequence[str]) -> int:
    """Trains, prints the tables, draws the figures; returns the exit status."""
    parser = Parser(prog="python -m experiments.demo", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("runs/demo"), metavar="FOLDER")
    root = parser.parse_args(arguments).folder
    return exit_status(lambda: _run_demo(root))


def _run_demo(root: Path) -> int:
    keep_compilations()
    planned = {task: configs(task, root) for task in TASKS}
    count, seconds = sum(map(len, planned.values())), 0.0
    print(f"{count} training runs: {', '.join(TASKS)}; seeds {', '.join(map(str, SEEDS))}\n")
    pictures: list[Path] = []
    for task, runs in planned.items():
        begun = time.monotonic()
        folders = train_two_at_a_time(runs)
        seconds += time.monotonic() - begun
        two_phase = folders[: len(SEEDS)]
        print("\n" + report.describe(two_phase[0]))
        print("\n" + report.compare(folders) + "\n")
        for folder in two_phase:
            pictures += figures.draw_figures(folder)
        name = f"comparison_{task.removeprefix('function:')}"
        pictures += figures.draw_comparison(folders, root / "figures" / f"{name}.png")
    print(f"Training {count} networks took {seconds:.0f} s. Figures (PNG and SVG):")
    for place in dict.fromkeys(path.parent for path in pictures):
        names = sorted(path.stem for path in pictures if path.parent == place)
        print(f"  {place}/: {', '.join(dict.fromkeys(names))}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
