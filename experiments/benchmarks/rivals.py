"""A training step of each rival beside ours: how many of its steps take the time of one of ours.

Networks as `experiments.run --task function:product_sine` trains them, of three inputs and one
output on 4,000 points, batch 128; or those of --task pde:burgers or image:camera, with the uniform
networks of its pool. `time` is that of a step to a step with fixed choices. KANs need jaxkan and
are left out without it. One step of L-BFGS on all points, of which most is the line search, is a
row of its own, but for an image.
"""

import argparse
import dataclasses
import importlib.util
import sys
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from experiments.benchmarks import harness
from experiments.benchmarks.harness import Row
from experiments.config import Config
from experiments.data.tasks import load_task
from experiments.presets import default_config
from experiments.training import networks
from experiments.training.draws import draw
from experiments.training.state import split_model, start_phase
from experiments.training.step import run_steps

KANS = ("spline_kan", "wide_spline_kan", "chebyshev_kan")
IMAGES = ("image_siren",)
RIVALS = ("prelu", "rational", "layer_mixture", "siren", *KANS)
OURS = "phase 2"


def measure(options: argparse.Namespace) -> list[Row]:
    """Rows of the seconds per step of each network; ratios to phase 2."""
    steps = 2 if options.smoke else 50
    base = dataclasses.replace(
        default_config(task=options.task), steps_per_epoch=steps, refine_epochs=1
    )
    kind = options.task.partition(":")[0]
    names = list({"pde": ("smooth_layer_mixture",), "image": IMAGES}.get(kind, RIVALS))
    if importlib.util.find_spec("jaxkan") is None:
        names = [name for name in names if name not in KANS]
    rivals = {
        name: dataclasses.replace(
            base, network=f"experiments.rivals:{name}", method="uniform:tanh", refine_epochs=0
        )
        for name in names
    }
    uniform = base.activation_pool.names if kind in ("pde", "image") else ["tanh"]
    cases = {
        "phase 1": (base, 0),
        OURS: (base, 1),
        **{
            f"uniform {name}": (dataclasses.replace(base, method=f"uniform:{name}"), 0)
            for name in uniform
        },
        **{name: (config, 0) for name, config in rivals.items()},
    }
    if kind != "image":
        cases["L-BFGS, choices fixed"] = base, 2
    parameters, variants = {}, {}
    for name, (config, phase) in cases.items():
        variants[name], parameters[name] = _variant(config, phase)
    times = harness.time_interleaved(variants, rounds=options.rounds, calls=1)
    per_step = {name: seconds / steps for name, seconds in times.items()}
    rows = harness.rows(per_step, (OURS,), batch=base.batch_size)
    return [{**row, "parameters": parameters[row["variant"]]} for row in rows]


def _variant(config: Config, phase_index: int) -> tuple[harness.Variant, int]:
    """Trains on, one call after the other: an epoch. And the number of its weights."""
    task = load_task(config)
    model = networks.build_model(config, task)
    if phase_index:
        model = networks.switch(model, config, task)
    phase = start_phase(model, config, task, phase_index)
    program, non_trainable = phase.program, phase.non_trainable
    state = phase.state
    draws = draw(program, [0], 0, task.train_size)

    def call(_: int) -> Any:
        nonlocal state
        state = run_steps(
            program, state, non_trainable, task.train, draws, jnp.int32(0), 0, program.steps
        )
        return jnp.copy(state.sums.loss)  # the state is donated to the next call

    weights: nnx.State = split_model(model)[1]["weights"]
    return call, sum(leaf.size for leaf in jax.tree.leaves(weights))


def main(arguments: Sequence[str]) -> int:
    """Measures; returns the exit status."""
    parser = harness.parser("rivals", __doc__)
    parser.add_argument("--task", default="function:product_sine", metavar="TASK")
    return harness.run(parser, measure, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
