"""What is random in an epoch, folded from the run's seed, the phase and the step.

So a run can stop after any epoch and go on with the same numbers.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from experiments.config import epochs_before
from experiments.training.keys import AUGMENTATION, BATCHES, EVALUATION, SELECTION, make_key
from experiments.training.program import Program


class Draws(NamedTuple):
    """What is random in one epoch; with R > 1 runs every array is [R, ...].

    Attributes:
        indices: int32 [steps, batch] into the training data. The last batch is filled up with
            ~i, which stands for example i, not counted: a batch normalisation sees whole batches.
        noise: a key per step, [steps].
        augmentation: a key per step, [steps].
        evaluation: the key of the validation.
    """

    indices: jax.Array
    noise: jax.Array
    augmentation: jax.Array
    evaluation: jax.Array


def draw(program: Program, seeds: Sequence[int], epoch: int, size: int) -> Draws:
    """The batches and keys of an epoch.

    Compiled apart from `run_epoch`, because the bits of a generator take longer to compile than a
    small network, and this way all methods share one compilation of them.

    Args:
        program: of the phase.
        seeds: of its runs.
        epoch: within the phase, from 0.
        size: number of training examples.
    """
    return _draw(
        jnp.asarray(seeds if program.runs > 1 else seeds[0], jnp.uint32),
        jnp.int32(program.phase_index),
        jnp.int32(epoch),
        jnp.int32(epochs_before(program.config, program.phase_index)),
        size=size,
        batch=program.config.batch_size,
        steps=program.steps,
        replacement=bool(program.config.steps_per_epoch),
    )


@functools.partial(jax.jit, static_argnames=("size", "batch", "steps", "replacement"))
def _draw(
    seeds: jax.Array,
    phase_index: jax.Array,
    epoch: jax.Array,
    first_epoch: jax.Array,
    *,
    size: int,
    batch: int,
    steps: int,
    replacement: bool,
) -> Draws:
    def draw_of_seed(seed: jax.Array) -> Draws:
        # Phase 0's key in every phase: all methods of a comparison see the same batches, alike
        # augmented.
        key = jax.random.fold_in(make_key(seed, 0, BATCHES), first_epoch + epoch)
        if replacement:
            indices = jax.random.randint(key, (steps, batch), 0, size)
        else:
            order = jnp.resize(jax.random.permutation(key, size), (steps * batch,))
            filled = jnp.where(jnp.arange(steps * batch) < size, order, ~order)
            indices = filled.reshape(steps, batch)
        fold = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
        noise = fold(make_key(seed, phase_index, SELECTION), epoch * steps + jnp.arange(steps))
        numbers = (first_epoch + epoch) * steps + jnp.arange(steps)
        augmentation = fold(make_key(seed, 0, AUGMENTATION), numbers)
        evaluation = jax.random.fold_in(make_key(seed, phase_index, EVALUATION), epoch)
        return Draws(indices, noise, augmentation, evaluation)

    return jax.vmap(draw_of_seed)(seeds) if seeds.ndim else draw_of_seed(seeds)
