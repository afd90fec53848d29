"""One training loop for every phase: pure, compiled functions of a state.

An epoch is one `lax.scan` over data that lives on the device, and validation is part of the
same program. All randomness is folded from the run's seed, the phase and the step, so a run can
stop after any epoch and go on with the same numbers.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from experiments.augment import shift_and_mirror
from experiments.config import epochs_before
from experiments.evaluation import apply, evaluate_model, losses_and_scores
from experiments.networks import AUGMENTATION, BATCHES, EVALUATION, SELECTION, make_key
from experiments.program import (
    Params,
    Program,
    State,
    learning_rate,
    optimizer,
    temperature,
    trained,
)
from experiments.tasks import Split
from smartmixed_jax.summary import UNDECIDED


class Draws(NamedTuple):
    """What is random in one epoch.

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
        noise = fold(make_key(seed, phase, SELECTION), epoch * steps + jnp.arange(steps))
        numbers = (first_epoch + epoch) * steps + jnp.arange(steps)
        augmentation = fold(make_key(seed, 0, AUGMENTATION), numbers)
        evaluation = jax.random.fold_in(make_key(seed, phase, EVALUATION), epoch)
        return Draws(indices, noise, augmentation, evaluation)

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

    def one(
        state: State,
        rest: nnx.State,
        train: Split,
        validation: Split,
        draws: Draws,
        epoch: jax.Array,
    ) -> tuple[State, dict[str, Any]]:
        def step(carry: Carry, batch: Batch) -> tuple[Carry, Sums]:
            return _step(program, carry, rest, train, batch)

        carry = state.params, state.opt_state
        (params, opt_state), sums = jax.lax.scan(step, carry, _batches(program, draws, epoch))
        state = state._replace(params=params, opt_state=opt_state)
        return _end(program, state, rest, sums, validation, draws.evaluation, epoch)

    data = _data_axis(program)
    several = _over_runs(program, one, 0, 0, data, data, 0, None)
    return several(state, rest, train, validation, draws, epoch)


def run_epoch_by_steps(
    program: Program,
    state: State,
    rest: nnx.State,
    train: Split,
    validation: Split,
    draws: Draws,
    epoch: jax.Array,
) -> tuple[State, dict[str, Any]]:
    """`run_epoch` as two programs: a step, called from the host, and the end of an epoch.

    For convolutions on a CPU: inside a loop XLA's CPU compiler makes their gradients a hundred
    times slower (github.com/jax-ml/jax/issues/12868).
    """
    batches, several = _batches(program, draws, epoch), program.runs > 1
    carry, steps = (state.params, state.opt_state), []
    for number in range(program.steps):
        drawn = [part[:, number] if several else part[number] for part in batches[1:]]
        carry, sums = run_step(program, carry, rest, train, Batch(batches.step[number], *drawn))
        steps.append(sums)
    every = jax.tree.map(lambda *parts: jnp.stack(parts, int(several)), *steps)
    state = state._replace(params=carry[0], opt_state=carry[1])
    return _one_end(program, state, rest, every, validation, draws.evaluation, epoch)


def epoch_function(program: Program) -> Callable[..., tuple[State, dict[str, Any]]]:
    """`run_epoch`, or its form by steps where that is faster."""
    on_cpu = jax.default_backend() == "cpu"
    return run_epoch_by_steps if program.config.has_convolutions and on_cpu else run_epoch


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


def _batches(program: Program, draws: Draws, epoch: jax.Array) -> Batch:
    """All steps of an epoch; the draws of several runs have these in front."""
    steps = epoch * program.steps + jnp.arange(program.steps)
    return Batch(steps, draws.indices, draws.noise, draws.augmentation)


def _over_runs(program: Program, one: Callable[..., Any], *axes: Any) -> Callable[..., Any]:
    """The function of one run over the runs of the program."""
    return one if program.runs == 1 else jax.vmap(one, in_axes=axes)


def _data_axis(program: Program) -> int | None:
    return 0 if program.config.is_regression else None


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def run_step(
    program: Program, carry: Carry, rest: nnx.State, train: Split, batch: Batch
) -> tuple[Carry, Sums]:
    """One compiled training step; the carry is donated."""
    one = functools.partial(_step, program)
    axes = (0, 0, _data_axis(program), Batch(None, 0, 0, 0))
    return _over_runs(program, one, *axes)(carry, rest, train, batch)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def _one_end(program: Program, *arguments: Any) -> tuple[State, dict[str, Any]]:
    one = functools.partial(_end, program)
    return _over_runs(program, one, 0, 0, 0, _data_axis(program), 0, None)(*arguments)


def _step(
    program: Program, carry: Carry, rest: nnx.State, train: Split, batch: Batch
) -> tuple[Carry, Sums]:
    params, opt_state = carry
    mask = batch.indices >= 0
    index = jnp.where(mask, batch.indices, ~batch.indices)
    inputs, labels = train.inputs[index], train.labels[index]
    if program.config.augment:
        inputs = shift_and_mirror(batch.augmentation, inputs)

    def loss(trained: Params) -> tuple[jax.Array, tuple[Sums, nnx.State]]:
        tau = temperature(program, batch.step)
        model = program.model({**params, **trained}, rest, tau)
        outputs = apply(program, model, inputs, batch.noise)
        losses, scores = losses_and_scores(program.config, outputs, labels)
        count = jnp.sum(mask)
        total = jnp.sum(jnp.where(mask, losses, 0))
        mean = total / count
        sums = Sums(mean, total, jnp.sum(jnp.where(mask, scores, 0)), count)
        return mean, (sums, nnx.state(model, nnx.BatchStat))

    own = trained(params)
    gradients, (sums, statistics) = jax.grad(loss, has_aux=True)(own)
    updates, opt_state = optimizer(program).update(gradients, opt_state, own)
    params = {**optax.apply_updates(own, updates), "statistics": statistics}
    return (params, opt_state), sums


def _end(
    program: Program,
    state: State,
    rest: nnx.State,
    sums: Sums,
    validation: Split,
    key: jax.Array,
    epoch: jax.Array,
) -> tuple[State, dict[str, Any]]:
    """Validates after an epoch; `sums` has the steps in front."""
    params = state.params
    last_step = epoch * program.steps + program.steps - 1
    model = program.model(params, rest, temperature(program, last_step))
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
    count = jnp.sum(sums.examples)
    return state, {
        "step_losses": sums.loss,
        "train_loss": jnp.sum(sums.losses) / count,
        "train_score": jnp.sum(sums.scores) / count,
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
