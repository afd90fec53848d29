"""One training loop for every phase: pure, compiled functions of a state.

An epoch is one `lax.scan` over data that lives on the device, and validation is part of the
same program. All randomness is folded from the run's seed, the phase and the step, so a run can
stop after any epoch and go on with the same numbers.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from experiments.config import epochs_before
from experiments.evaluation import apply, evaluate_model, losses_and_scores
from experiments.networks import BATCHES, EVALUATION, SELECTION, make_key
from experiments.program import (
    Params,
    Program,
    State,
    learning_rate,
    optimizer,
    temperature,
)
from experiments.tasks import Split
from smartmixed_jax.summary import UNDECIDED


class Draws(NamedTuple):
    """What is random in one epoch.

    Attributes:
        indices: int32 [steps, batch] into the training data; −1 pads the last short batch.
        noise: a key per step, [steps].
        evaluation: the key of the validation.
    """

    indices: jax.Array
    noise: jax.Array
    evaluation: jax.Array


@functools.partial(jax.jit, static_argnames=("size", "batch", "steps", "replacement"))
def _draw(
    seeds: jax.Array,
    phase: jax.Array,
    epoch: jax.Array,
    first_epoch: jax.Array,
    *,
    size: int,
    batch: int,
    steps: int,
    replacement: bool,
) -> Draws:
    def one(seed: jax.Array) -> Draws:
        # Phase 0's key in every phase: all methods of a comparison see the same batches.
        key = jax.random.fold_in(make_key(seed, 0, BATCHES), first_epoch + epoch)
        if replacement:
            indices = jax.random.randint(key, (steps, batch), 0, size)
        else:
            order = jax.random.permutation(key, size)
            padded = jnp.pad(order, (0, steps * batch - size), constant_values=-1)
            indices = padded.reshape(steps, batch)
        fold = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
        noise = fold(make_key(seed, phase, SELECTION), epoch * steps + jnp.arange(steps))
        evaluation = jax.random.fold_in(make_key(seed, phase, EVALUATION), epoch)
        return Draws(indices, noise, evaluation)

    return jax.vmap(one)(seeds) if seeds.ndim else one(seeds)


def draw(program: Program, seeds: Sequence[int], epoch: int, size: int) -> Draws:
    """The batches and keys of an epoch of the program's phase, for the seeds of its runs.

    Apart from `run_epoch`, because the bits of a generator take longer to compile than a small
    network, and this way all methods share one compilation of them.
    """
    return _draw(
        jnp.asarray(seeds if program.runs > 1 else seeds[0], jnp.uint32),
        jnp.int32(program.phase),
        jnp.int32(epoch),
        jnp.int32(epochs_before(program.config, program.phase)),
        size=size,
        batch=program.config.batch_size,
        steps=program.steps,
        replacement=bool(program.config.steps_per_epoch),
    )


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def run_epoch(
    program: Program,
    state: State,
    rest: nnx.State,
    train: Split,
    validation: Split,
    draws: Draws,
    epoch: jax.Array,
) -> tuple[State, dict[str, Any]]:
    """Trains for one epoch and validates; one compiled program per phase.

    With several runs every argument but the epoch has them in front, and so has the result;
    images, which all seeds share, have not.

    Args:
        program: static.
        state: donated.
        rest: what is never trained.
        train, validation: data on the device.
        draws: of this epoch.
        epoch: within the phase, from 0, int32 [].

    Returns:
        The next state, and `step_losses` [steps], `train_loss`, `train_score`,
        `validation_loss`, `validation_score`, `temperature`, `learning_rate` [], and `layers`,
        the numbers of the library's `summarize` for each selective layer: here, because the
        state may be donated to the next epoch before the host looks at this one.
    """
    one = functools.partial(_run_epoch, program)
    if program.runs == 1:
        return one(state, rest, train, validation, draws, epoch)
    data = 0 if program.config.is_regression else None
    several = jax.vmap(one, in_axes=(0, 0, data, data, 0, None))
    return several(state, rest, train, validation, draws, epoch)


def _run_epoch(
    program: Program,
    state: State,
    rest: nnx.State,
    train: Split,
    validation: Split,
    draws: Draws,
    epoch: jax.Array,
) -> tuple[State, dict[str, Any]]:
    config = program.config
    transform = optimizer(program)
    first = epoch * program.steps

    def loss(
        params: Params, step: jax.Array, index: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, Any]:
        mask = index >= 0
        model = program.model(params, rest, temperature(program, step))
        inputs, labels = train.inputs[index], train.labels[index]
        outputs = apply(program, model, inputs, key)
        losses, scores = losses_and_scores(config, outputs, labels)
        count = jnp.sum(mask)
        total = jnp.sum(jnp.where(mask, losses, 0))
        return total / count, (total, jnp.sum(jnp.where(mask, scores, 0)), count)

    def train_step(carry: tuple[Params, optax.OptState], inputs: tuple[jax.Array, ...]):
        params, opt_state = carry
        (value, sums), gradients = jax.value_and_grad(loss, has_aux=True)(params, *inputs)
        updates, opt_state = transform.update(gradients, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), (value, sums)

    steps = first + jnp.arange(program.steps)
    (params, opt_state), (step_losses, sums) = jax.lax.scan(
        train_step, (state.params, state.opt_state), (steps, draws.indices, draws.noise)
    )
    total, score, count = (jnp.sum(part) for part in sums)
    last_step = first + program.steps - 1
    model = program.model(params, rest, temperature(program, last_step))
    validation_loss, validation_score, _ = evaluate_model(
        program, model, validation, draws.evaluation
    )

    better = validation_loss < state.best_loss
    best_params = jax.tree.map(
        lambda new, old: jnp.where(better, new, old), params, state.best_params
    )
    state = State(
        params,
        opt_state,
        best_params,
        jnp.where(better, validation_loss, state.best_loss),
        jnp.where(better, epoch + 1, state.best_epoch),
    )
    return state, {
        "step_losses": step_losses,
        "train_loss": total / count,
        "train_score": score / count,
        "validation_loss": validation_loss,
        "validation_score": validation_score,
        "temperature": temperature(program, last_step),
        "learning_rate": learning_rate(program, last_step),
        "layers": {
            ".".join(map(str, path[:-1])): _summarize(logits[...])
            for path, logits in nnx.to_flat_state(params["selection"])
        },
    }


def _summarize(logits: jax.Array) -> dict[str, jax.Array]:
    """Of a layer's logits [N, K]: argmax counts [K], and means over the neurons []."""
    chosen = jax.nn.one_hot(jnp.argmax(logits, -1), logits.shape[-1], dtype=jnp.int32)
    log = jax.nn.log_softmax(logits.astype(jnp.float32))
    probabilities = jnp.exp(log)
    largest = jnp.max(probabilities, -1)
    return {
        "counts": jnp.sum(chosen, 0),
        "max_probability": jnp.mean(largest),
        "entropy": -jnp.mean(jnp.sum(probabilities * log, -1)),
        "undecided": jnp.mean(largest < UNDECIDED),
    }
