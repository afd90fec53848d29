"""A training step of ResNet-20 on images of CIFAR-10's size, as `experiments.run` trains it.

Batch 128, gradient descent with momentum, augmentation; the channels choose. Phase 1 draws new
functions in every step and trains the logits; phase 2 has random fixed choices.
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.benchmarks import harness
from experiments.benchmarks.harness import Row
from experiments.config import Config
from experiments.data.tasks import Split, Task
from experiments.objective import CLASSIFICATION
from experiments.presets import default_config
from experiments.training import networks
from experiments.training.draws import draw
from experiments.training.state import start_phase
from experiments.training.step import run_step
from smartmixed_jax import FunctionTable, SelectiveActivation

STEPS = 10


def measure(options: argparse.Namespace) -> list[Row]:
    """Rows of the seconds per step of each network; ratios to uniform ReLU and SELU."""
    size, batch, steps = (8, 4, 1) if options.smoke else (32, 128, STEPS)
    task = _task(size, 4 * batch)
    base = dataclasses.replace(default_config(task="cifar10"), batch_size=batch, steps_per_epoch=1)
    if options.smoke:  # a ResNet-20 takes longer to compile than a test may
        base = dataclasses.replace(base, network="conv")
    uniform = {
        name: dataclasses.replace(base, method=f"uniform:{name}") for name in ("relu", "selu")
    }
    variants = {name: _variant(config, task, 0, steps) for name, config in uniform.items()}
    variants |= {
        "phase 1": _variant(base, task, 0, steps),
        "phase 2": _variant(dataclasses.replace(base, control="random"), task, 1, steps),
    }
    times = harness.time_interleaved(variants, rounds=options.rounds, calls=1)
    per_step = {name: seconds / steps for name, seconds in times.items()}
    return harness.rows(per_step, ("relu", "selu"), image=[size, size, 3], batch=batch)


def _task(size: int, count: int) -> Task:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, size, size, 3), np.uint8)
    split = Split(jnp.asarray(images), jnp.asarray(rng.integers(0, 10, count, np.int32)))
    splits = dict.fromkeys(("train", "validation"), split)
    return Task("cifar10", splits, CLASSIFICATION, 10, 255.0, source="random images")


def _variant(config: Config, task: Task, phase: int, steps: int) -> harness.Variant:
    """Trains on, one call after the other: so many steps."""
    model = networks.build_model(config, task)
    if phase:
        model = networks.switch(model, config, task)
    if config.method == "two_phase":
        fast, general = (
            _steps(form, config, task, phase, 1)(0) for form in (model, _general(model))
        )
        harness.require_close(f"phase {phase + 1}", fast, general, 1e-3)
    return _steps(model, config, task, phase, steps)


def _general(model: networks.Network) -> networks.Network:
    """The network with its functions evaluated one by one, to check the fast form against."""
    model = nnx.clone(model)
    layers: Any = model.activations
    for layer in layers:
        if isinstance(layer, SelectiveActivation):
            layer.pool = layer.pool.with_form("general")
        else:
            pool = layer.table.pool.with_form("general")
            layer.table = FunctionTable(pool, layer.table.choices)
    return model


def _steps(
    model: networks.Network, config: Config, task: Task, phase: int, steps: int
) -> harness.Variant:
    program, state, non_trainable = start_phase(model, config, task, phase)
    data = task.splits["train"]
    # A copy: steps donate it, and the model is built into more than one variant.
    state, number = jax.tree.map(jnp.copy, state), 0

    def variant(i: int) -> list[jax.Array]:
        nonlocal state, number
        losses = []
        for _ in range(steps):
            draws = draw(program, [0], number, len(data.labels))
            state = run_step(program, state, non_trainable, data, draws, number, 0)
            losses.append(state.sums.loss[0])
            number += 1
        return losses

    return variant


def main(arguments: Sequence[str]) -> int:
    """Measures; returns the exit status."""
    return harness.run(harness.parser("resnet", __doc__), measure, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
