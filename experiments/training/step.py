"""The compiled part of training: a step, the end of an epoch, a whole epoch; of every phase.

An epoch is one `lax.scan` over data that lives on the device, and validation is part of the
same program. With R > 1 runs, state, draws and metrics are [R, ...].
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from experiments.data.augment import shift_and_mirror
from experiments.data.task import Split
from experiments.training.draws import Draws
from experiments.training.evaluation import apply, evaluate_model
from experiments.training.fixing import Choices, choices_before, fix_settled
from experiments.training.optimizer import learning_rate, optimizer, scales
from experiments.training.program import Params, Program
from experiments.training.state import TrainState, trained
from smartmixed_jax.summary import statistics


class Batch(NamedTuple):
    """What is drawn for a step, as in `Draws`, and its number within the phase."""

    step: Any
    indices: Any
    noise: Any
    augmentation: Any


class Sums(NamedTuple):
    """Of a step: the mean loss, and sums over the counted examples with their number."""

    loss: jax.Array
    losses: jax.Array
    scores: jax.Array
    examples: jax.Array


Carry = tuple[Params, optax.OptState]
"""What a step changes."""


def _step(
    program: Program, carry: Carry, non_trainable: nnx.State, train: Split, batch: Batch
) -> tuple[Carry, Sums]:
    """One step of the optimiser."""
    params, opt_state = carry
    mask = batch.indices >= 0
    index = jnp.where(mask, batch.indices, ~batch.indices)
    inputs, labels = train.inputs[index], train.labels[index]
    if program.config.augment:
        inputs = shift_and_mirror(batch.augmentation, inputs)

    def loss(trainable: Params) -> tuple[jax.Array, tuple[Sums, nnx.State]]:
        model = program.model({**params, **trainable}, non_trainable, scales(program, batch.step))
        outputs = apply(program, model, inputs, batch.noise)
        losses, scores = program.objective.losses_and_scores(outputs, labels)
        count = jnp.sum(mask)
        total = jnp.sum(jnp.where(mask, losses, 0))
        mean = total / count
        sums = Sums(mean, total, jnp.sum(jnp.where(mask, scores, 0)), count)
        return mean, (sums, nnx.state(model, nnx.BatchStat))

    trainable = trained(params)
    gradients, (sums, statistics) = jax.grad(loss, has_aux=True)(trainable)
    updates, opt_state = optimizer(program).update(gradients, opt_state, trainable)
    params = {**optax.apply_updates(trainable, updates), "statistics": statistics}
    return (params, opt_state), sums


def _end_epoch(
    program: Program,
    state: TrainState,
    non_trainable: nnx.State,
    sums: Sums,
    validation: Split,
    key: jax.Array,
    epoch: jax.Array,
    before: Choices,
) -> tuple[TrainState, dict[str, Any]]:
    """Validates, keeps the best parameters and fixes what has settled.

    Args:
        sums: arrays are [steps].
        before: the choices at the beginning of the epoch, as `choices_before` gives them.
    """
    params = state.params
    last_step = epoch * program.steps + program.steps - 1
    scaled = scales(program, last_step)
    model = program.model(params, non_trainable, scaled)
    validation_loss, validation_score, _ = evaluate_model(program, model, validation, key)
    better = validation_loss < state.best_loss
    best_params = jax.tree.map(
        lambda new, old: jnp.where(better, new, old), params, state.best_params
    )
    state = state._replace(
        best_params=best_params,
        best_loss=jnp.where(better, validation_loss, state.best_loss),
        best_epoch=jnp.where(better, epoch + 1, state.best_epoch),
    )
    selection = fix_settled(program, params["selection"], before, epoch, state.best_epoch)
    params = {**params, "selection": selection}
    state = state._replace(params=params)
    count = jnp.sum(sums.examples)
    return state, {
        "step_losses": sums.loss,
        "train_loss": jnp.sum(sums.losses) / count,
        "train_score": jnp.sum(sums.scores) / count,
        "validation_loss": validation_loss,
        "validation_score": validation_score,
        **scaled,
        "learning_rate": learning_rate(program, last_step),
        "layers": {
            ".".join(map(str, path[:-1])): statistics(logits[...])
            for path, logits in nnx.to_flat_state(params["selection"])
        },
    }


# An epoch at once


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def run_epoch(
    program: Program,
    state: TrainState,
    non_trainable: nnx.State,
    train: Split,
    validation: Split,
    draws: Draws,
    epoch: jax.Array,
) -> tuple[TrainState, dict[str, Any]]:
    """Trains for one epoch and validates; one compiled program per phase.

    Args:
        program: static.
        state: donated.
        non_trainable: the part of the network without gradients.
        train, validation: data on the device, [R, ...] if the program is `seeded`.
        draws: of this epoch.
        epoch: within the phase, from 0, int32 []; the same for all runs.

    Returns:
        The next state, and `step_losses` [steps], `train_loss`, `train_score`,
        `validation_loss`, `validation_score`, `temperature`, `learning_rate` [], and `layers`,
        the numbers of the library's `summarize` for each selective layer: here, because the
        state may be donated to the next epoch before the host looks at this one.
    """

    def epoch_of_run(
        state: TrainState,
        non_trainable: nnx.State,
        train: Split,
        validation: Split,
        draws: Draws,
        epoch: jax.Array,
    ) -> tuple[TrainState, dict[str, Any]]:
        def step(carry: Carry, batch: Batch) -> tuple[Carry, Sums]:
            return _step(program, carry, non_trainable, train, batch)

        before = choices_before(program, state.params["selection"])
        carry = state.params, state.opt_state
        (params, opt_state), sums = jax.lax.scan(step, carry, _batches(program, draws, epoch))
        state = state._replace(params=params, opt_state=opt_state)
        return _end_epoch(
            program, state, non_trainable, sums, validation, draws.evaluation, epoch, before
        )

    data = _data_axis(program)
    epoch_of_runs = _over_runs(program, epoch_of_run, 0, 0, data, data, 0, None)
    return epoch_of_runs(state, non_trainable, train, validation, draws, epoch)


def _batches(program: Program, draws: Draws, epoch: jax.Array) -> Batch:
    """All steps of an epoch: their numbers [steps], and the draws."""
    steps = epoch * program.steps + jnp.arange(program.steps)
    return Batch(steps, draws.indices, draws.noise, draws.augmentation)


def _over_runs(program: Program, function: Callable[..., Any], *axes: Any) -> Callable[..., Any]:
    """A function of one run's arrays as one of [R, ...] arrays, if R > 1."""
    return function if program.runs == 1 else jax.vmap(function, in_axes=axes)


def _data_axis(program: Program) -> int | None:
    return 0 if program.seeded else None


# An epoch step by step


def run_epoch_by_steps(
    program: Program,
    state: TrainState,
    non_trainable: nnx.State,
    train: Split,
    validation: Split,
    draws: Draws,
    epoch: jax.Array,
) -> tuple[TrainState, dict[str, Any]]:
    """`run_epoch` as two programs: a step, called from the host, and the end of an epoch.

    For convolutions on a CPU: inside a loop XLA's CPU compiler makes their gradients a hundred
    times slower (github.com/jax-ml/jax/issues/12868).
    """
    batches, step_axis = _batches(program, draws, epoch), int(program.runs > 1)
    before = choices_before(program, state.params["selection"])
    carry, sums = (state.params, state.opt_state), []
    for number in range(program.steps):
        drawn = [part[:, number] if step_axis else part[number] for part in batches[1:]]
        batch = Batch(batches.step[number], *drawn)
        carry, sums_of_step = run_step(program, carry, non_trainable, train, batch)
        sums.append(sums_of_step)
    stacked = jax.tree.map(lambda *parts: jnp.stack(parts, step_axis), *sums)
    state = state._replace(params=carry[0], opt_state=carry[1])
    return end_epoch(
        program, state, non_trainable, stacked, validation, draws.evaluation, epoch, before
    )


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def run_step(
    program: Program, carry: Carry, non_trainable: nnx.State, train: Split, batch: Batch
) -> tuple[Carry, Sums]:
    """One compiled training step; the carry is donated."""
    step = functools.partial(_step, program)
    axes = (0, 0, _data_axis(program), Batch(None, 0, 0, 0))
    return _over_runs(program, step, *axes)(carry, non_trainable, train, batch)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def end_epoch(program: Program, *arguments: Any) -> tuple[TrainState, dict[str, Any]]:
    """`_end_epoch`, compiled; the state is donated."""
    end = functools.partial(_end_epoch, program)
    return _over_runs(program, end, 0, 0, 0, _data_axis(program), 0, None, 0)(*arguments)


def epoch_function(program: Program) -> Callable[..., tuple[TrainState, dict[str, Any]]]:
    """`run_epoch`, or its form by steps where that is faster."""
    on_cpu = jax.default_backend() == "cpu"
    return run_epoch_by_steps if program.has_convolutions and on_cpu else run_epoch
