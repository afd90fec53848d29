"""How much of a run is spent in compiled epochs, from its first to its last, compilation aside.

    python -m experiments.benchmarks.profile [--task mnist] [--smoke] [--out FILE.json]

Trains preset `recommended`, architecture 3, twice in one process; the second run, of another
seed, compiles nothing and is the one that counts. Bar: 95 %. The rest is what the host does while
no epoch is under way: rows and checkpoints at the end of a phase, and the switch.
"""

import argparse
import dataclasses
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.benchmarks.training import Span, find_data, publish, watched
from experiments.config import Config
from experiments.data.datasets import DATASETS
from experiments.presets import default_config
from experiments.training.compilation import keep_compilations
from experiments.training.parallel import train_all


def shares(spans: Sequence[Span]) -> list[dict[str, Any]]:
    """Per phase and over all: epochs, wall seconds, those in epochs, and their share in %."""
    rows = []
    phases = list(dict.fromkeys(span.phase for span in spans))
    for name in (*phases, "both, with the switch"):
        own = [span for span in spans if span.phase == name or name not in phases]
        wall = own[-1].ended - own[0].begun
        inside = sum(span.ended - span.begun for span in own)
        rows.append(
            {
                "phase": name,
                "epochs": len(own),
                "wall seconds": wall,
                "in epochs": inside,
                "share %": 100 * inside / wall,
            }
        )
    return rows


def measure(config: Config, folder: Path) -> list[dict[str, Any]]:
    """Trains seed 0 to compile, then seed 1 watched."""
    for seed in (0, 1):
        run_dir = str(folder / str(seed))
        with watched() as spans:
            train_all([dataclasses.replace(config, seed=seed, run_dir=run_dir)])
    return shares(spans)


def main(arguments: Sequence[str]) -> int:
    """Measures, prints, writes; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", default="mnist", choices=tuple(DATASETS))
    parser.add_argument("--smoke", action="store_true", help="few random images, 2 epochs a phase")
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    options = parser.parse_args(arguments)
    keep_compilations()
    config = dataclasses.replace(default_config("recommended", options.task), architecture=3)
    if options.smoke:
        config = dataclasses.replace(config, hidden=(32, 16), selective_epochs=2, mixed_epochs=2)
    with tempfile.TemporaryDirectory() as place:
        directory = find_data(options.task, Path(place), small=options.smoke)
        results = measure(dataclasses.replace(config, data_dir=directory), Path(place))
    notes = ["random images of the task's shape"] if directory else []
    command = " ".join(["python -m experiments.benchmarks.profile", *arguments])
    publish(command, results, notes, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
