"""Seeds of the paper's MNIST protocol, one at a time and at once: seconds per seed.

    python -m experiments.benchmarks.grid [--smoke] [--out FILE.json] [--seeds N] [--epochs N]

Preset `published`, architecture 3: 50 epochs of phase 1 and 350 of phase 2. The real training
loop trains some epochs of each phase, for 1, 2, 8 and 32 seeds at once up to N, each time twice;
the second time nothing compiles. The rate of a phase is that of its epochs after the first, with
everything between them. `ends` is the rest of the run per seed: start, switch, test, checkpoints.
Bar: 2 s per seed on an H100.
"""

import argparse
import dataclasses
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from experiments.benchmarks.training import Span, find_data, publish, watched
from experiments.config import Config
from experiments.grid import crossed
from experiments.presets import default_config
from experiments.training.compilation import keep_compilations
from experiments.training.parallel import train_all

BAR = 2.0
"""Seconds per seed for the whole protocol on an H100."""


def measure(config: Config, at_once: int, folder: Path) -> dict[str, Any]:
    """Trains `at_once` seeds together, twice, and times the second time."""
    for repetition in (0, 1):
        seeds = range(repetition * at_once, (repetition + 1) * at_once)
        variant = {"run_dir": str(folder / f"{at_once}")}
        configs = [
            dataclasses.replace(one, run_dir=f"{one.run_dir}-{one.seed}")
            for one in crossed(config, [variant], seeds)
        ]
        begun = time.perf_counter()
        with watched() as spans:
            train_all(configs, at_once=at_once, show_progress=False)
        seconds = time.perf_counter() - begun
    ends = (seconds - sum(span.ended - span.begun for span in spans)) / at_once
    rates = {phase: at_once * rate(spans, phase) for phase in ("selective", "mixed")}
    protocol = default_config("published", config.task)
    extrapolated = (
        protocol.selective_epochs / rates["selective"]
        + protocol.mixed_epochs / rates["mixed"]
        + ends
    )
    return {
        "seeds at once": at_once,
        "phase 1, seed-epochs/s": rates["selective"],
        "phase 2, seed-epochs/s": rates["mixed"],
        "ends, s per seed": ends,
        "400 epochs, s per seed": extrapolated,
        "bar, s": BAR,
    }


def rate(spans: Sequence[Span], phase: str) -> float:
    """Epochs per second of a phase, from the end of its first to the end of its last."""
    ends = [span.ended for span in spans if span.phase == phase]
    return (len(ends) - 1) / (ends[-1] - ends[0])


def main(arguments: Sequence[str]) -> int:
    """Measures, prints, writes; returns the exit status."""
    on_cpu = jax.default_backend() == "cpu"
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--smoke", action="store_true", help="few random images, 2 seeds")
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    parser.add_argument("--seeds", type=int, metavar="N", help="at most; 2 on a CPU, else 32")
    parser.add_argument("--epochs", type=int, metavar="N", help="per phase; 3 on a CPU, else 10")
    options = parser.parse_args(arguments)
    most = options.seeds or (2 if on_cpu or options.smoke else 32)
    epochs = options.epochs or (2 if options.smoke else 3 if on_cpu else 10)
    if most < 1 or epochs < 2:
        parser.error("expected --seeds of at least 1 and --epochs of at least 2")
    keep_compilations()
    config = dataclasses.replace(
        default_config("published", "mnist"),
        architecture=3,
        hidden=(32, 16) if options.smoke else (),
        selective_epochs=epochs,
        mixed_epochs=epochs,
    )
    with tempfile.TemporaryDirectory() as place:
        directory = find_data("mnist", Path(place), small=options.smoke)
        config = dataclasses.replace(config, data_dir=directory)
        sizes = [size for size in (1, 2, 8, 32) if size <= most]
        results = [measure(config, size, Path(place)) for size in sizes]
    notes = ["random images of MNIST's shape"] if directory else []
    notes += ["few images, a tiny network: the figures mean nothing"] if options.smoke else []
    command = " ".join(["python -m experiments.benchmarks.grid", *arguments])
    publish(command, results, notes, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
