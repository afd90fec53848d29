"""Training with examples streamed from a file, beside the same training with all on the device.

CIFAR-10 (random images of its size where it is not found), batch 128: a small MLP, whose steps are
short beside the reading of their examples, and ResNet-20. Both variants must have the same losses
to the bit, or nothing is timed. Each sample is a phase from its beginning, a file opened and the
first block waited for included; "streamed" has read all examples before, as in every epoch but the
first of data that have room in memory. On a CPU that others use, the processor time says more than
the clock: what reads the examples and what trains share the cores.
"""

import argparse
import dataclasses
import functools
import math
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import harness
from experiments.benchmarks.harness import BenchmarkError, Row
from experiments.benchmarks.training import find_data
from experiments.config import Config
from experiments.data import records
from experiments.data.task import Split, Task
from experiments.data.tasks import load_task
from experiments.presets import default_config
from experiments.training import networks, stream
from experiments.training.draws import Draws, draw
from experiments.training.state import PhaseState, start_phase
from experiments.training.train import run_epochs

NETWORKS = ("mlp", "resnet20")


def measure(options: argparse.Namespace) -> list[Row]:
    """Rows of the seconds per step of each network; ratios of speeds."""
    with tempfile.TemporaryDirectory() as folder:
        place = find_data("cifar10", Path(folder), small=options.smoke)
        base = dataclasses.replace(
            default_config(task="cifar10"), method="uniform:relu", data_dir=place, mixed_epochs=1
        )
        mlp: dict[str, Any] = {"network": "mlp", "hidden": (64,), "augment": False}
        cases = {
            "mlp": dataclasses.replace(base, **mlp, selective_epochs=1),
            "resnet20": dataclasses.replace(
                base, selective_epochs=1, steps_per_epoch=1 if options.smoke else 5
            ),
        }
        if options.smoke:  # a ResNet-20 takes longer to compile than a test may
            cases["resnet20"] = dataclasses.replace(cases["resnet20"], network="conv")
        kept = records.keep(_on_host(load_task(base)), Path(folder))
        return [
            row
            for name, config in cases.items()
            if name in options.networks
            for row in _compare(name, config, kept, options.rounds)
        ]


def _on_host(task: Task) -> Split:
    return jax.tree.map(np.asarray, task.splits["train"])  # type: ignore[no-any-return]


def _compare(name: str, config: Config, kept: records.Records, rounds: int) -> list[Row]:
    task = load_task(config)
    validation = Split(*(part[: config.batch_size] for part in task.splits["validation"]))
    phase = start_phase(networks.build_model(config, task), config, task, 0)

    def losses(train: Split | records.Records) -> list[np.ndarray]:
        state = jax.tree.map(jnp.copy, phase.state)
        parts = run_epochs(
            phase._replace(state=state),
            train,
            validation,
            seeds=[0],
            size=task.train_size,
            first_epoch=0,
            first_step=0,
            checkpoint_seconds=math.inf,
        )
        return [part.metrics["step_losses"] for part in parts]

    resident, streamed = losses(task.splits["train"]), losses(kept)
    if not np.array_equal(resident, streamed):
        raise BenchmarkError(f"{name}: the streamed losses are others; nothing was timed")
    file = records.open_records(kept.path, room=0)
    work: dict[str, Callable[[], Any]] = {
        "resident": lambda: losses(task.splits["train"]),
        "streamed": lambda: losses(kept),
        "streamed, always from the file": lambda: losses(file),
        "reading alone": lambda: _read(phase, kept),
        "reading alone, from the file": lambda: _read(phase, file),
    }
    busy: dict[str, list[float]] = {variant: [] for variant in work}

    def clocked(variant: str) -> harness.Variant:
        def call(_: int) -> Any:
            begun = time.process_time()
            result = jax.block_until_ready(work[variant]())
            busy[variant].append(time.process_time() - begun)
            return result

        return call

    times = harness.time_interleaved(
        {variant: clocked(variant) for variant in work}, rounds=rounds, calls=1
    )
    processor = {variant: np.asarray(samples[1:]) for variant, samples in busy.items()}
    steps = phase.program.steps * phase.program.spec.epochs
    return [
        {
            "network": name,
            "batch": config.batch_size,
            "variant": variant,
            "seconds": float(np.median(samples)) / steps,
            "processor seconds": float(np.median(processor[variant])) / steps,
            "ratios": {
                "speed to resident": harness.compare(times["resident"], samples),
                "by processor time": harness.compare(processor["resident"], processor[variant]),
            },
        }
        for variant, samples in times.items()
    ]


def _read(phase: PhaseState, kept: records.Records) -> list[jax.Array]:
    """What a phase reads, without training; returns the first labels."""
    program = phase.program

    @functools.lru_cache(maxsize=3)
    def drawn(epoch: int) -> Draws:
        return draw(program, [0], epoch, len(kept))

    firsts = []
    with stream.feeding(program, kept, lambda epoch: drawn(epoch).indices, 0, 0) as feed:
        for _ in range(program.spec.epochs):
            firsts += [block.train.labels[0] for block in feed()]
    return firsts


def main(arguments: Sequence[str]) -> int:
    """Measures; returns the exit status."""
    command = harness.parser("pipeline", __doc__)
    command.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS)
    return harness.run(command, measure, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
