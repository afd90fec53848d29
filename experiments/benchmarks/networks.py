"""The network of the training benchmarks and its compiled step, with the gradients in float64."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax import nnx

from experiments.benchmarks import harness
from experiments.benchmarks.strategies import REFERENCES
from smartmixed_jax import (
    MLP,
    PAPER_POOL,
    FunctionTable,
    MixedActivation,
    SelectiveActivation,
    estimators,
    linen,
)
from smartmixed_jax.models import ActivationFactory, uniform
from smartmixed_jax.pools import ActivationPool

WIDTHS = (784, 512, 256, 128, 64, 10)
SMOKE_WIDTHS = (12, 16, 4)
LEARNING_RATE = 1e-4

Names = Sequence[Sequence[str]]
"""The function of every neuron of every hidden layer."""


class Batches(NamedTuple):
    """What a call trains on: images [S, B, in] in [0, 1), labels int32 [S, B], keys [S]."""

    images: jax.Array
    labels: jax.Array
    keys: jax.Array


def draw_batches(widths: Sequence[int], batch: int, steps: int, seed: int) -> Batches:
    """S = steps random batches of B = batch examples."""
    keys = jax.random.split(jax.random.key(seed), 3)
    return Batches(
        jax.random.uniform(keys[0], (steps, batch, widths[0])),
        jax.random.randint(keys[1], (steps, batch), 0, widths[-1]),
        jax.random.split(keys[2], steps),
    )


def build_uniform(widths: Sequence[int], name: str) -> tuple[MLP, Names]:
    """The usual network, and the names of its functions."""
    names = [[name] * width for width in widths[1:-1]]
    return _build(widths, uniform(REFERENCES[name])), names


def build_mixed(widths: Sequence[int], pool: ActivationPool) -> tuple[MLP, Names]:
    """The network of phase 2, and the names of its random functions."""
    rng = np.random.default_rng(0)
    choices = [rng.integers(len(pool), size=width) for width in widths[1:-1]]
    layers = iter(choices)

    def build(features: int, *, rngs: nnx.Rngs) -> MixedActivation:
        return MixedActivation(FunctionTable(pool, next(layers)))

    return _build(widths, build), _names(pool, choices)


def build_selective(
    widths: Sequence[int], pool: ActivationPool, **options: Any
) -> tuple[MLP, Names]:
    """The network of phase 1, and the names of its most likely functions."""
    factory = functools.partial(
        SelectiveActivation, pool=pool, logits_init=nnx.initializers.normal(1.0), **options
    )
    model = _build(widths, factory)
    activations: Any = model.activations
    choices = [np.argmax(layer.selection_logits[...], -1) for layer in activations]
    return model, _names(pool, choices)


def _names(pool: ActivationPool, choices: Sequence[np.ndarray]) -> Names:
    return [[pool.names[choice] for choice in layer] for layer in choices]


def _build(widths: Sequence[int], activation: ActivationFactory) -> MLP:
    first, *hidden, last = widths
    return MLP(first, hidden, last, activation=activation, rngs=nnx.Rngs(0))


def loss_of(
    graphdef: nnx.GraphDef, params: nnx.State, rest: nnx.State, images: Any, labels: Any, key: Any
) -> jax.Array:
    """Mean cross-entropy of a batch."""
    outputs = nnx.merge(graphdef, params, rest)(images, rngs=nnx.Rngs(selection=key))
    return optax.softmax_cross_entropy_with_integer_labels(outputs, labels).mean()


def make_variant(model: MLP, batches: Sequence[Batches], clip: float = 0.0) -> harness.Variant:
    """Trains the model on, one call after the other: S steps of Adam in one compiled scan.

    Args:
        model: left as it is.
        batches: taken in turn.
        clip: of the global gradient norm; 0: none.
    """
    parts: Any = nnx.split(model, nnx.Param, ...)
    graphdef, params, rest = parts
    return _variant(functools.partial(loss_of, graphdef), params, rest, batches, clip)


def make_linen_variant(
    widths: Sequence[int], pool: ActivationPool, batches: Sequence[Batches]
) -> harness.Variant:
    """Trains Linen's network of phase 2, with the choices of `build_mixed`, as `make_variant`."""
    model: Any = build_mixed(widths, pool)[0]
    net = _LinenMLP(widths[1:], pool)
    variables = net.init(jax.random.key(0), batches[0].images[0])
    _, fixed = linen.fix_choices(net, variables)
    (name,) = fixed["choices"]["SelectiveActivation_0"]
    choices = {
        f"SelectiveActivation_{i}": {name: jnp.asarray(layer.table.choices)}
        for i, layer in enumerate(model.activations)
    }

    def loss_of(params: Any, rest: Any, images: Any, labels: Any, key: Any) -> jax.Array:
        outputs = net.apply({"params": params, "choices": rest}, images)
        return optax.softmax_cross_entropy_with_integer_labels(outputs, labels).mean()

    return _variant(loss_of, fixed["params"], choices, batches)


class _LinenMLP(nn.Module):
    widths: Sequence[int]
    pool: ActivationPool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for width in self.widths[:-1]:
            x = linen.SelectiveActivation(pool=self.pool)(nn.Dense(width)(x))
        return nn.Dense(self.widths[-1])(x)


def _variant(
    loss_of: Callable[..., jax.Array],
    params: Any,
    rest: Any,
    batches: Sequence[Batches],
    clip: float = 0.0,
) -> harness.Variant:
    """loss_of(params, rest, images, labels, key) is minimised over the params."""
    adam = optax.adam(LEARNING_RATE)
    optimizer = optax.chain(optax.clip_by_global_norm(clip), adam) if clip else adam

    @functools.partial(jax.jit, donate_argnums=0)
    def run(state: Any, rest: Any, batches: Batches) -> tuple[Any, jax.Array]:
        def step(state: Any, batch: Batches) -> tuple[Any, jax.Array]:
            params, opt_state = state
            loss, grads = jax.value_and_grad(loss_of)(params, rest, *batch)
            updates, opt_state = optimizer.update(grads, opt_state, params)
            return (optax.apply_updates(params, updates), opt_state), loss

        return jax.lax.scan(step, state, batches)

    state = jax.tree.map(jnp.copy, (params, optimizer.init(params)))

    def variant(i: int) -> jax.Array:
        nonlocal state
        state, losses = run(state, rest, batches[i % len(batches)])
        return losses

    return variant


# Correctness


def check(name: str, model: MLP, names: Names, batches: Batches) -> None:
    """Compares loss and gradients on the first batch with float64; BenchmarkError if they differ.

    A selective network is compared without its noise, so that its functions are the named ones.
    """
    quiet = nnx.view(model, estimator=estimators.straight_through, raise_if_not_found=False)
    parts: Any = nnx.split(quiet, nnx.Param, ...)
    graphdef, params, rest = parts
    batch = jax.tree.map(lambda leaf: leaf[0], batches)
    # Not at a GPU's default precision: a pre-activation that changes its sign changes a slope.
    with jax.default_matmul_precision("highest"):
        loss, grads = jax.jit(jax.value_and_grad(functools.partial(loss_of, graphdef)))(
            params, rest, *batch
        )
    flat = nnx.to_pure_dict(grads)
    # In this order, not in the dictionary's.
    outputs = [loss, *jax.tree.leaves([flat["layers"], flat.get("activations")])]
    harness.require_close(name, outputs, expect(model, names, batches), 1e-2)


def expect(model: MLP, names: Names, batches: Batches) -> list[np.ndarray]:
    """Float64, on the first batch: the loss, the gradients to bias and kernel per layer, and those
    to the logits [N, K] per layer if the network is selective."""
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    one_hot = dict(zip(REFERENCES, np.eye(len(REFERENCES)), strict=True))
    with jax.enable_x64(True):
        to_double = functools.partial(jax.tree.map, lambda leaf: jnp.asarray(leaf, jnp.float64))
        loss, (grads, sums) = _reference(
            to_double(jax.device_get(params["layers"])),
            [jnp.asarray([one_hot[name] for name in layer]) for layer in names],
            to_double(np.asarray(batches.images[0])),
            np.asarray(batches.labels[0]),
        )
    result = [np.asarray(leaf) for leaf in (loss, *jax.tree.leaves(grads))]
    if "activations" in params:
        used = [list(REFERENCES).index(name) for name in PAPER_POOL.names]
        for layer, weights in zip(params["activations"].values(), sums, strict=True):
            result.append(_through_softmax(layer["selection_logits"], np.asarray(weights)[:, used]))
    return result


def _through_softmax(logits: jax.Array, gradient: np.ndarray) -> np.ndarray:
    """The gradient to softmax(logits) → that to the logits, both [N, K]."""
    p = np.asarray(jax.nn.softmax(logits), np.float64)
    return p * (gradient - np.sum(p * gradient, -1, keepdims=True))


@jax.jit
@functools.partial(jax.value_and_grad, argnums=(0, 1))
def _reference(weights: Any, mixtures: Any, images: jax.Array, labels: jax.Array) -> jax.Array:
    x = images
    for i in range(len(mixtures)):
        x = x @ weights[i]["kernel"] + weights[i]["bias"]
        x = sum(mixtures[i][:, k] * function(x) for k, function in enumerate(REFERENCES.values()))
    outputs = x @ weights[len(mixtures)]["kernel"] + weights[len(mixtures)]["bias"]
    return -jnp.mean(jax.nn.log_softmax(outputs)[jnp.arange(len(labels)), labels])
