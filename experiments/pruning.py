"""A smaller fixed network: the neuron of the least effect is removed, the others fitted again."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from experiments.training.networks import choices_as_data
from smartmixed_jax import MLP, FunctionTable, MixedActivation

STEPS = 100
"""At most so many of L-BFGS after a neuron is removed."""
TRIES = 4
"""So many neurons, those of the least effect first, are tried before none is removed."""

Examples = tuple[jax.Array, jax.Array]
"""Inputs [M, d] and values [M, out_features]."""
Masks = list[np.ndarray]
"""Per hidden layer, 0 for a neuron that is removed, otherwise 1: [N]."""


def prune_and_refit(
    model: MLP, train: Examples, validation: Examples, limit: float = 2e-6
) -> tuple[MLP, float]:
    """The network without the neurons that the fit does not need.

    Args:
        model: fixed.
        train: what the weights are fitted to by L-BFGS, after every removal.
        validation: what the fit is measured on.
        limit: a removal stays if MSE / Var y is at most this, or at most what it was before.

    Returns:
        A fixed network, of the neurons that are left, and its MSE / Var y on the validation
        examples.
    """
    parts: Any = nnx.split(choices_as_data(model), nnx.Param, ...)
    graphdef, params, others = parts
    masks = [np.ones(layer.kernel.shape[1], np.float32) for layer in list(model.layers)[:-1]]
    fit = functools.partial(_refit, graphdef, others, train, validation)
    params, error = fit(params, masks, 0.0)
    limit = max(limit, float(error))

    def removal(params: Any, masks: Masks) -> tuple[Any, Masks] | None:
        for number, neuron in _by_effect(graphdef, others, params, masks, train[0])[:TRIES]:
            fewer = _without(masks, number, neuron)
            # Half of the limit on the training examples is enough to go on.
            refitted, found = fit(params, fewer, limit / 2)
            if found <= limit:
                return refitted, fewer
        return None

    while removed := removal(params, masks):
        params, masks = removed
    params, error = fit(params, masks, 0.0)
    return _smaller(model, params, masks), float(error)


@functools.partial(jax.jit, static_argnums=0)
def _run(graphdef: Any, others: Any, params: Any, masks: Any, x: jax.Array) -> jax.Array:
    """The outputs without the neurons whose mask is 0."""
    model = nnx.merge(graphdef, params, others)
    for layer, mask in zip(list(model.layers)[1:], masks, strict=True):
        layer.kernel[...] = layer.kernel[...] * mask[:, None]
    return model(x)


@functools.partial(jax.jit, static_argnums=0)
def _refit(
    graphdef: Any,
    others: Any,
    train: Examples,
    validation: Examples,
    params: Any,
    masks: Any,
    goal: float,
) -> tuple[Any, jax.Array]:
    """L-BFGS on all training examples, until MSE / Var y is at most the goal.

    Returns:
        The parameters, and MSE / Var y on the validation examples.
    """
    optimizer = optax.lbfgs()

    def loss(params: Any, examples: Examples = train) -> jax.Array:
        outputs = _run(graphdef, others, params, masks, examples[0])
        return jnp.mean((outputs - examples[1]) ** 2) / jnp.var(examples[1])

    value_and_grad = optax.value_and_grad_from_state(loss)

    def step(carry: Any) -> Any:
        params, state, _, done = carry
        value, gradient = value_and_grad(params, state=state)
        updates, state = optimizer.update(
            gradient, state, params, value=value, grad=gradient, value_fn=loss
        )
        return optax.apply_updates(params, updates), state, value, done + 1

    def goes_on(carry: Any) -> jax.Array:
        return (carry[2] > goal) & (carry[3] < STEPS)

    start = params, optimizer.init(params), loss(params), jnp.zeros((), jnp.int32)
    fitted = jax.lax.while_loop(goes_on, step, start)[0]
    return fitted, loss(fitted, validation)


def _by_effect(
    graphdef: Any, others: Any, params: Any, masks: Masks, inputs: jax.Array
) -> list[tuple[int, int]]:
    """The neurons that are left, as (layer, neuron), those first that move the outputs least."""
    outputs = _run(graphdef, others, params, masks, inputs)
    left = [(n, j) for n, mask in enumerate(masks) for j in np.flatnonzero(mask).tolist()]

    def effect(place: tuple[int, int]) -> float:
        without = _run(graphdef, others, params, _without(masks, *place), inputs)
        return float(jnp.mean(jnp.var(without - outputs, 0)))

    return sorted(left, key=effect)


def _without(masks: Masks, number: int, neuron: int) -> Masks:
    changed = [mask.copy() for mask in masks]
    changed[number][neuron] = 0
    return changed


def _smaller(model: MLP, params: Any, masks: Masks) -> MLP:
    """A network of the neurons that are left."""
    kept = [np.flatnonzero(mask) for mask in masks]
    layers: list[Any] = list(model.activations)
    tables = [layer.tables()[""] for layer in layers]
    waiting = iter(
        FunctionTable(table.pool, np.asarray(table.choices)[places])
        for table, places in zip(tables, kept, strict=True)
    )
    out = model.layers[-1].kernel.shape[1]
    small = MLP(
        model.in_features,
        [len(places) for places in kept],
        out,
        activation=lambda features, *, rngs: MixedActivation(next(waiting)),
        rngs=nnx.Rngs(0),
    )
    rows = [np.arange(model.in_features), *kept]
    columns = [*kept, np.arange(out)]
    for number, layer in enumerate(small.layers):
        fitted = params["layers"][number]
        kernel = np.asarray(fitted["kernel"][...])
        layer.kernel[...] = jnp.asarray(kernel[rows[number]][:, columns[number]])
        layer.bias[...] = jnp.asarray(np.asarray(fitted["bias"][...])[columns[number]])
    return small
