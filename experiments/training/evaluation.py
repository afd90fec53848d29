"""Losses and scores of a network on a split, compiled once for all networks of a program."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from experiments.data.task import Split
from experiments.training import devices, networks
from experiments.training.networks import choices_as_data
from experiments.training.program import Params, Program


def apply(program: Program, model: Any, inputs: jax.Array, key: jax.Array) -> jax.Array:
    """Raw inputs of a `Split` → outputs [B, ..., out_features]; the key draws the choices."""
    return networks.apply(program.config, program.scale, model, inputs, key)


@functools.partial(jax.jit, static_argnums=0)
def evaluate(
    program: Program,
    params: Params,
    non_trainable: nnx.State,
    split: Split,
    key: jax.Array,
    scales: dict[str, jax.Array],
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Mean loss [], mean score [] and outputs [M, ..., out_features] on a split.

    Selective layers are deterministic unless the config's `evaluation_noise` is set; then choices
    are drawn for every batch.
    """
    return evaluate_model(program, program.model(params, non_trainable, scales), split, key)


@functools.partial(jax.jit, static_argnums=0)
def predict(
    program: Program, params: Params, non_trainable: nnx.State, inputs: jax.Array
) -> jax.Array:
    """Inputs [B, d] of a function → outputs [B, K], the network as it is tested."""
    model = nnx.view(
        program.model(params, non_trainable), deterministic=True, raise_if_not_found=False
    )
    return apply(program, model, inputs, jax.random.key(0))


def score_with(program: Program, split: Split) -> Callable[[nnx.Module, nnx.Rngs], float]:
    """(model, rngs) → mean score on the split, the model as it is: for `switch_report`.

    Fixed choices are data here too: the networks of all seeds share one compilation.
    """
    return lambda model, rngs: float(_as_it_is(program, split, model, rngs["selection"]())[1])


def loss_with(program: Program, split: Split) -> Callable[[nnx.Module], float]:
    """model → mean loss on the split, of a model that draws nothing."""
    return lambda model: float(_as_it_is(program, split, model, jax.random.key(0))[0])


def _as_it_is(
    program: Program, split: Split, model: nnx.Module, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
    graphdef, leaves = nnx.split(choices_as_data(model))
    return _loss_and_score(program, graphdef, leaves, split, key)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _loss_and_score(
    program: Program, graphdef: nnx.GraphDef, leaves: nnx.State, split: Split, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
    return _evaluate_batches(program, nnx.merge(graphdef, leaves), split, key)[:2]


def evaluate_model(
    program: Program, model: nnx.Module, split: Split, key: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """What `evaluate` returns, inside a compiled program."""
    quiet = not program.config.evaluation_noise
    model = nnx.view(model, deterministic=quiet, raise_if_not_found=False)
    return _evaluate_batches(program, model, split, key)


def _evaluate_batches(
    program: Program, model: nnx.Module, split: Split, key: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    model = nnx.view(model, use_running_average=True, raise_if_not_found=False)
    size = len(split.labels)
    batch = program.config.batch_size
    steps = -(-size // batch)
    # The last batch wraps around; its surplus outputs are cut off below.
    indices = (jnp.arange(steps * batch) % size).reshape(steps, batch)
    indices = devices.split_batches(program.mesh, indices)

    def step(_: None, inputs: tuple[jax.Array, jax.Array]) -> tuple[None, jax.Array]:
        number, index = inputs
        draw = jax.random.fold_in(key, number)
        # Streams that a model keeps can be drawn from only where they were made.
        inside = nnx.clone(model) if program.config.has_user_network else model
        return None, apply(program, inside, split.inputs[index], draw)

    _, outputs = jax.lax.scan(step, None, (jnp.arange(steps), indices))
    outputs = devices.on_all(program.mesh, outputs)
    outputs = outputs.reshape(steps * batch, *outputs.shape[2:])[:size]
    losses, scores = program.objective.losses_and_scores(outputs, split.labels)
    return jnp.mean(losses), jnp.mean(scores), outputs
