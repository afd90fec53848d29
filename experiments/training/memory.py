"""Whether a run fits into memory, from shapes alone: nothing is allocated before that is known."""

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, TypeVar

import jax
from flax import nnx
from jax.extend.core import Jaxpr, jaxprs_in_params

from experiments.config import LARGEST_INT, Config, total_epochs
from experiments.data.task import Task
from experiments.machine import as_gib, memory_for_arrays
from experiments.names import network_name
from experiments.training.optimizer import MEMORY

T = TypeVar("T")

ARRAYS_PER_LAYER = 3
"""Of a layer's size that the backward pass needs: into the activation, out of it, a gradient.

More are needed for a moment, how many depends on the compiler: what is counted is needed surely.
"""


def require_memory(
    config: Config,
    task: Task,
    build: Callable[[], nnx.Module],
    apply: Callable[[nnx.Module, jax.Array, jax.Array], jax.Array],
) -> None:
    """Raises ValueError for a run that needs more memory than there is, or counts beyond int32.

    Args:
        build: returns the network; traced only, and not asked again if it is the user's and fails.
        apply: (network, raw inputs, key) → outputs; likewise.
    """
    size = task.train_size
    steps = _require_counts(config, size)
    drawn = steps * config.batch_size
    on_device = {*task.splits} - ({"train"} if task.records else set())
    needed = {
        "data": sum(_size(split) for part, split in task.splits.items() if part in on_device),
        # `draw`: indices, the random bits they come from, and for every step keys and results.
        "an epoch's order": 4 * drawn
        + 16 * (drawn if config.steps_per_epoch else size)
        + 32 * steps,
    }
    if config.network == "mlp":  # first, because shapes of 10^18 numbers take minutes to trace
        widths = (math.prod(task.shape), *config.widths, task.out_features)
        weights = 4 * sum(before * after for before, after in pairwise(widths))
        _require_room(config, {**needed, "weights": weights})
    model = _traced(config, lambda: nnx.eval_shape(build))
    if model is None:
        return
    parts: Any = nnx.split(model, nnx.Param, ...)
    graphdef, params, rest = parts
    # The parameters, the best ones, gradients, and the moments of the optimiser.
    copies = 3 + (2 if config.optimizer == "adam" else 1)
    if config.refine_epochs:
        copies = max(copies, 3 + 2 * MEMORY)
    needed["weights and optimiser"] = copies * _size(params)
    _require_room(config, needed)
    train = task.splits["train"].inputs
    batch = size if config.refine_epochs else config.batch_size
    inputs = jax.ShapeDtypeStruct((batch, *task.shape), train.dtype)
    forward = jax.make_jaxpr(
        lambda params, rest, x, key: apply(nnx.merge(graphdef, params, rest, copy=True), x, key)
    )
    found = _traced(config, lambda: forward(params, rest, inputs, jax.random.key(0)))
    if found is not None:
        layers = sum(_layer_sizes(found.jaxpr))
        needed["a batch"] = ARRAYS_PER_LAYER * layers + 4 * inputs.size
        _require_room(config, needed)


def _traced(config: Config, trace: Callable[[], T]) -> T | None:
    """What a trace gives; None for a network of the user's that fails.

    It is built and called by a check of its own, which says what is wrong.
    """
    try:
        return trace()
    except Exception:
        if config.has_user_network:
            return None
        raise


def _require_counts(config: Config, size: int) -> int:
    """Steps per epoch; ValueError if what is counted is beyond int32."""
    steps = config.steps_per_epoch or math.ceil(size / config.batch_size)
    for what, count in (
        ("examples in the batches of an epoch", steps * config.batch_size),
        ("steps in all epochs", steps * total_epochs(config)),
    ):
        if count > LARGEST_INT:
            raise ValueError(
                f"batch_size = {config.batch_size} and {total_epochs(config)} epochs of {steps} "
                f"steps: {count} {what}, expected at most {LARGEST_INT}"
            )
    return steps


def _require_room(config: Config, needed: dict[str, int]) -> None:
    where, memory = _memory()
    total = sum(needed.values())
    if total > memory:
        large = {name: part for name, part in needed.items() if part > total / 100}
        parts = ", ".join(f"{name} {as_gib(part)}" for name, part in large.items())
        raise ValueError(
            f"network {network_name(config)} with batch_size = {config.batch_size} needs about "
            f"{as_gib(total)} ({parts}), {where} has {as_gib(memory)}"
        )


def _memory() -> tuple[str, int]:
    """The first device, or this machine where the device uses its memory, and the bytes there."""
    device = jax.local_devices()[0]
    limit = (device.memory_stats() or {}).get("bytes_limit")
    return (f"the device {device}", limit) if limit else ("this machine", memory_for_arrays())


def _size(arrays: Any) -> int:
    return sum(array.size * array.dtype.itemsize for array in jax.tree.leaves(arrays))


def _layer_sizes(jaxpr: Jaxpr) -> Iterator[int]:
    """The bytes of what every matrix product and convolution gives."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("dot_general", "conv_general_dilated"):
            yield from (_size(variable.aval) for variable in equation.outvars)
        for inner in jaxprs_in_params(equation.params):
            yield from _layer_sizes(inner)
