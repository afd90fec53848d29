"""The compiled part of training: steps, the end of an epoch, a whole epoch; of every phase.

Steps are one loop with traced bounds over data that lives on the device, so that an epoch can be
cut anywhere with one compilation and the same bits. With R > 1 runs, state, draws and metrics are
[R, ...].
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
from experiments.data.tasks import outputs_of
from experiments.training import devices
from experiments.training.draws import Draws
from experiments.training.evaluation import apply, evaluate_model
from experiments.training.fixing import choices_to_compare, fix_settled
from experiments.training.optimizer import learning_rate, optimizer, scales
from experiments.training.program import Params, Program
from experiments.training.state import Sums, TrainState, trained
from smartmixed_jax.summary import statistics

Step = int | jax.Array


class Batches(NamedTuple):
    """The examples of some steps of an epoch, in the order in which they are trained on.

    Attributes:
        inputs, labels: as those of a `Split`, of S steps: [S, batch, ...].
        first: the first of the steps, int32 [].
    """

    inputs: jax.Array
    labels: jax.Array
    first: Any


def _step(
    program: Program,
    state: TrainState,
    non_trainable: nnx.State,
    train: Split | Batches,
    draws: Draws,
    epoch: Step,
    number: Step,
) -> TrainState:
    """One step of the optimiser: the given one of the epoch, from 0."""
    indices = draws.indices[number]
    mask = indices >= 0
    if isinstance(train, Batches):
        place = number - train.first
        inputs, labels = (
            jax.lax.dynamic_index_in_dim(array, place, keepdims=False)
            for array in (train.inputs, train.labels)
        )
    else:
        index = jnp.where(mask, indices, ~indices)
        inputs, labels = train.inputs[index], train.labels[index]
    if program.config.augment:
        inputs = shift_and_mirror(draws.augmentation[number], inputs)
    scaled = scales(program, epoch * program.steps + number)

    def loss(trainable: Params) -> tuple[jax.Array, tuple[Sums, nnx.State]]:
        model = program.model({**state.params, **trainable}, non_trainable, scaled)
        outputs = apply(program, model, inputs, draws.noise[number])
        losses, scores = program.objective.losses_and_scores(outputs, labels)
        count = jnp.sum(mask)
        total = jnp.sum(jnp.where(mask, losses, 0))
        mean = total / count
        sums = Sums(mean, total, jnp.sum(jnp.where(mask, scores, 0)), count)
        return mean, (sums, nnx.state(model, nnx.BatchStat))

    trainable = trained(state.params)
    gradients, (sums, statistics) = jax.grad(loss, has_aux=True)(trainable)
    updates, opt_state = optimizer(program).update(gradients, state.opt_state, trainable)
    state = state._replace(
        params={**optax.apply_updates(trainable, updates), "statistics": statistics},
        opt_state=opt_state,
        sums=jax.tree.map(lambda all, one: all.at[number].set(one), state.sums, sums),
    )
    return devices.keep(program.mesh, state)


def _refining_step(
    program: Program,
    state: TrainState,
    non_trainable: nnx.State,
    train: Split,
    draws: Draws,
    epoch: Step,
    number: Step,
) -> TrainState:
    """One step of L-BFGS on all examples; its loss and score are those after it."""

    def scored(trainable: Params) -> tuple[jax.Array, jax.Array]:
        model = program.model({**state.params, **trainable}, non_trainable)
        outputs = apply(program, model, train.inputs, draws.noise[number])
        return program.objective.losses_and_scores(outputs, train.labels)

    def loss(trainable: Params) -> jax.Array:
        return jnp.mean(scored(trainable)[0])

    rule, trainable = optimizer(program), trained(state.params)
    value, gradients = optax.value_and_grad_from_state(loss)(trainable, state=state.opt_state)
    updates, opt_state = rule.update(
        gradients, state.opt_state, trainable, value=value, grad=gradients, value_fn=loss
    )
    trainable = optax.apply_updates(trainable, updates)
    losses, scores = scored(trainable)
    count = jnp.int32(losses.size)
    sums = Sums(jnp.mean(losses), jnp.sum(losses), jnp.sum(scores), count)
    state = state._replace(
        params={**state.params, **trainable},
        opt_state=opt_state,
        sums=jax.tree.map(lambda all, one: all.at[number].set(one), state.sums, sums),
    )
    return devices.keep(program.mesh, state)


# Steps


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def run_steps(
    program: Program,
    state: TrainState,
    non_trainable: nnx.State,
    train: Split | Batches,
    draws: Draws,
    epoch: Step,
    first: Step,
    last: Step,
) -> TrainState:
    """The steps first … last − 1 of an epoch; one compiled program for every part of every epoch.

    Args:
        program: static.
        state: donated.
        non_trainable: the part of the network without gradients.
        train: data on the device, [R, ...] if the program is `seeded`; or batches of these steps.
        draws: of this epoch.
        epoch: within the phase, from 0, int32 []; the same for all runs.
        first, last: within the epoch, from 0, int32 [].
    """
    step = _over_runs(program, _step_of(program), 0, 0, _data_axis(program), 0, None, None)

    def body(number: jax.Array, state: TrainState) -> TrainState:
        fixed = non_trainable
        if outputs_of(program.config.task) is not None:
            # As if the choices changed from step to step: XLA would move what a layer makes of them
            # out of the loop, once for each call of the network in a residual, and then not see
            # that the calls are the same. Twice the time.
            fixed, number = jax.lax.optimization_barrier((fixed, number))
        return step(state, fixed, train, draws, epoch, number)

    return jax.lax.fori_loop(first, last, body, state)


def run_steps_from_host(
    program: Program,
    state: TrainState,
    non_trainable: nnx.State,
    train: Split | Batches,
    draws: Draws,
    epoch: Step,
    first: int,
    last: int,
) -> TrainState:
    """`run_steps` with its loop on the host.

    For convolutions on a CPU: inside a loop XLA's CPU compiler makes their gradients a hundred
    times slower (github.com/jax-ml/jax/issues/12868).
    """
    for number in range(first, last):
        state = run_step(
            program, state, non_trainable, train, draws, jnp.int32(epoch), jnp.int32(number)
        )
    return state


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def run_step(program: Program, state: TrainState, *arguments: Any) -> TrainState:
    """One compiled training step, of the arguments of `_step`; the state is donated."""
    step = _over_runs(program, _step_of(program), 0, 0, _data_axis(program), 0, None, None)
    return step(state, *arguments)


def _step_of(program: Program) -> Callable[..., TrainState]:
    return _refining_step if program.spec.name == "refined" else _step


def steps_function(program: Program) -> Callable[..., TrainState]:
    """`run_steps`, or its form on the host where that is faster."""
    on_cpu = jax.default_backend() == "cpu"
    return run_steps_from_host if program.has_convolutions and on_cpu else run_steps


# The end of an epoch


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def end_epoch(
    program: Program,
    state: TrainState,
    non_trainable: nnx.State,
    validation: Split,
    key: jax.Array,
    epoch: Step,
) -> tuple[TrainState, dict[str, Any]]:
    """Validates, keeps the best parameters and fixes what has settled.

    Args:
        program: static.
        state: after the last step of the epoch; donated.
        non_trainable: the part of the network without gradients.
        validation: data on the device, [R, ...] if the program is `seeded`.
        key: of the validation.
        epoch: within the phase, from 0, int32 [].

    Returns:
        The next state, and `step_losses` [steps], `train_loss`, `train_score`,
        `validation_loss`, `validation_score`, `temperature`, `learning_rate` [], `finite`, of
        every array of `checked_arrays`, and `layers`, the numbers of the library's `summarize` for
        each selective layer: here, because the state may be donated to the next epoch before the
        host looks at this one.
    """
    data = _data_axis(program)
    return _over_runs(program, _end_epoch, 0, 0, data, 0, None)(  # type: ignore[no-any-return]
        state, non_trainable, validation, key, epoch
    )


def _end_epoch(
    program: Program,
    state: TrainState,
    non_trainable: nnx.State,
    validation: Split,
    key: jax.Array,
    epoch: Step,
) -> tuple[TrainState, dict[str, Any]]:
    params, sums = state.params, state.sums
    last_step = epoch * program.steps + program.steps - 1
    scaled = scales(program, last_step)
    model = program.model(params, non_trainable, scaled)
    validation_loss, validation_score, _ = evaluate_model(program, model, validation, key)
    better = validation_loss < state.best_loss
    best_params = jax.tree.map(
        lambda new, old: jnp.where(better, new, old), params, state.best_params
    )
    best_epoch = jnp.where(better, epoch + 1, state.best_epoch)
    selection = fix_settled(program, params["selection"], state.before, epoch, best_epoch)
    state = state._replace(
        params={**params, "selection": selection},
        before=choices_to_compare(program.config, selection),
        best_params=best_params,
        best_loss=jnp.where(better, validation_loss, state.best_loss),
        best_epoch=best_epoch,
    )
    count = jnp.sum(sums.examples)
    metrics = {
        "step_losses": sums.loss,
        "train_loss": jnp.sum(sums.losses) / count,
        "train_score": jnp.sum(sums.scores) / count,
        "validation_loss": validation_loss,
        "validation_score": validation_score,
        **scaled,
        "learning_rate": learning_rate(program, last_step),
        "finite": _finite(state),
        "layers": {
            ".".join(map(str, path[:-1])): statistics(logits[...])
            for path, logits in nnx.to_flat_state(selection)
        },
    }
    return devices.keep(program.mesh, state), devices.on_all(program.mesh, metrics)


@functools.partial(jax.jit, static_argnums=0)
def look(program: Program, state: TrainState) -> dict[str, jax.Array]:
    """`step_losses` and `finite` in the middle of an epoch; those of later steps mean nothing."""
    return _over_runs(program, _look, 0)(state)  # type: ignore[no-any-return]


def _look(program: Program, state: TrainState) -> dict[str, jax.Array]:
    metrics = {"step_losses": state.sums.loss, "finite": _finite(state)}
    return devices.on_all(program.mesh, metrics)


def _finite(state: TrainState) -> jax.Array:
    """Of every array of `checked_arrays`: all of it is finite; bool [arrays]."""
    return jnp.stack([jnp.all(jnp.isfinite(array)) for array in checked_arrays(state).values()])


def checked_arrays(state: TrainState) -> dict[str, jax.Array]:
    """Parameters and moments of the optimiser, by their paths."""
    parts = {**state.params, "optimiser": state.opt_state}
    return {
        jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(parts)
        if jnp.issubdtype(leaf.dtype, jnp.floating)
    }


# An epoch


def run_epoch(
    program: Program,
    state: TrainState,
    non_trainable: nnx.State,
    train: Split,
    validation: Split,
    draws: Draws,
    epoch: Step,
) -> tuple[TrainState, dict[str, Any]]:
    """All steps of an epoch and its end: arguments and results of `run_steps` and `end_epoch`."""
    run = steps_function(program)
    state = run(program, state, non_trainable, train, draws, epoch, 0, program.steps)
    return end_epoch(program, state, non_trainable, validation, draws.evaluation, epoch)


def _over_runs(program: Program, function: Callable[..., Any], *axes: Any) -> Callable[..., Any]:
    """`function` with the program, of one run's arrays or, if R > 1, of [R, ...] arrays."""
    function = functools.partial(function, program)
    return function if program.runs == 1 else jax.vmap(function, in_axes=axes)


def _data_axis(program: Program) -> int | None:
    return 0 if program.seeded else None
