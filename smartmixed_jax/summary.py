"""What was chosen: plain dicts and arrays, no plotting."""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from smartmixed_jax import _checks
from smartmixed_jax.estimators import soft_mixture
from smartmixed_jax.layer import stacked
from smartmixed_jax.nnx import MixedActivation, SelectiveActivation, fix_choices
from smartmixed_jax.pools import ActivationPool
from smartmixed_jax.readout import Formula as Formula
from smartmixed_jax.readout import formula as formula
from smartmixed_jax.types import Groups

UNDECIDED = 0.5
"""A neuron whose largest probability is below this has not decided."""


def statistics(logits: jax.Array, groups: Groups = None) -> dict[str, jax.Array]:
    """What the neurons of one layer chose and how sure they are; may be traced.

    Args:
        logits: [N, K], or [G, K] with groups.
        groups: each neuron's group, [N], or None.

    Returns:
        `counts` int32 [K] of the argmax, and of π = softmax(logits), as means over the N neurons
        []: `max_probability` in [1/K, 1], `entropy` in nats in [0, ln K], `undecided`, the share
        of neurons whose largest π is below 1/2.

    Raises:
        TypeError: the logits are no real floats.
        ValueError: they are not [N, K], or NaN if they are concrete.

    Example:
        >>> from smartmixed_jax.summary import statistics
        >>> statistics(jnp.array([[0.0, 99.0], [99.0, 0.0]]))["counts"]
        Array([1, 1], dtype=int32)
    """
    _checks.check_logits("statistics", logits)
    return _statistics(logits, groups)


@functools.partial(jax.jit, static_argnums=1)
def _statistics(logits: jax.Array, groups: Groups) -> dict[str, jax.Array]:
    logits = logits if groups is None else logits[np.asarray(groups)]
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


def layer_record(statistics: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """`statistics` of a layer as one of `summarize`'s records, by the names of the pool."""
    counts = np.asarray(statistics["counts"]).tolist()
    features = sum(counts)
    return {
        "features": features,
        "counts": dict(zip(names, counts, strict=True)),
        "shares": {name: n / features for name, n in zip(names, counts, strict=True)},
        **{name: float(statistics[name]) for name in ("max_probability", "entropy", "undecided")},
    }


def selection_logits(model: nnx.Module) -> dict[str, np.ndarray]:
    """The logits of every SelectiveActivation, by path, in the order of the model.

    [N, K], or [G, K] where neurons share a choice: what the layer holds; [..., N, K] of layers
    stacked by `nnx.vmap`.
    """
    _checks.check("selection_logits", model=model)
    return {
        path: np.asarray(layer.selection_logits[...])
        for path, layer in _layers(model)
        if isinstance(layer, SelectiveActivation)
    }


def summarize(model: nnx.Module) -> dict[str, dict[str, Any]]:
    """What the neurons of each selective or fixed layer chose.

    Returns:
        path of the layer → `features` N; `counts` and `shares` per function name (argmax);
        and `max_probability`, `entropy` and `undecided` as in `statistics`. A fixed layer has 1, 0
        and 0 there. Layers stacked by `nnx.vmap` have a record each: path[0], path[1], ….

    Raises:
        TypeError: model is no nnx.Module.
        ValueError: logits are NaN.

    Example:
        >>> from flax import nnx
        >>> from smartmixed_jax import MLP, summarize
        >>> summary = summarize(MLP(4, (8,), 2, rngs=nnx.Rngs(0)))
        >>> summary["activations.0"]["features"], sum(summary["activations.0"]["counts"].values())
        (8, 8)
    """
    _checks.check("summarize", model=model)
    summary = {}
    for path, layer in _layers(model):
        if isinstance(layer, SelectiveActivation):
            logits = layer.selection_logits[...]
            for name, index in stacked(logits, 2):
                with _checks.prefixed(f"summarize: {path or 'the model'}{name}"):
                    record = summarize_logits(logits[index], layer.pool, layer.groups)
                summary[path + name] = record
        else:
            for name, table in layer.tables().items():
                summary[path + name] = fixed_record(table.counts())
    return summary


def majority(model: nnx.Module) -> dict[str, str]:
    """The function that most neurons of each selective or fixed layer chose; of equals the first.

    With one function per layer a network can be built by hand, and trained from scratch: what of
    the choices is left if no neuron has its own.

    Returns:
        path of the layer, as in `summarize` → name of the function in the layer's pool.

    Raises:
        TypeError, ValueError: as `summarize`.

    Example:
        >>> from smartmixed_jax import MixedActivation, PAPER_POOL, FunctionTable
        >>> majority(MixedActivation(FunctionTable(PAPER_POOL, [0, 2, 2])))
        {'': 'tanh'}
    """
    _checks.check("majority", model=model)
    return {path: most_chosen(record["counts"]) for path, record in summarize(model).items()}


def most_chosen(counts: Mapping[str, int]) -> str:
    """The name with the largest count, of equals the first."""
    return max(counts, key=lambda name: counts[name])


def summarize_logits(
    logits: np.ndarray | jax.Array, pool: ActivationPool, groups: Groups = None
) -> dict[str, Any]:
    """One record of `summarize` from a layer's logits [N, K], or [G, K] and each neuron's group."""
    _checks.check("summarize_logits", pool=pool)
    _checks.check_logits("summarize_logits", logits, len(pool))
    return layer_record(_statistics(logits, groups), pool.names)


def fixed_record(counts: dict[str, int]) -> dict[str, Any]:
    """One record of `summarize` of a fixed layer."""
    certain = {"max_probability": 1.0, "entropy": 0.0, "undecided": 0.0}
    return layer_record({"counts": list(counts.values()), **certain}, tuple(counts))


def switch_report(
    model: nnx.Module, score: Callable[[nnx.Module, nnx.Rngs], float], rngs: nnx.Rngs
) -> dict[str, float]:
    """The same weights scored before and after fixing.

    Args:
        model: holds SelectiveActivations.
        score: (model, rngs) → a number, such as the accuracy on held-out data.
        rngs: the noise of the score "noise".

    Returns:
        score with the `noise` on; `argmax`, deterministic; `expectation`, the mixture
        Σ_k softmax(logits)_k f_k(x) in every layer; `fixed`, after `fix_choices`. `argmax` and
        `fixed` are the same function.
    """
    _checks.check("switch_report", model=model, score=score, rngs=rngs)
    # Dropout and batch statistics in evaluation mode in all four: only the selection differs.
    model = nnx.view(model, deterministic=True, use_running_average=True, raise_if_not_found=False)
    fixed = fix_choices(model)
    noise = nnx.view(model, only=SelectiveActivation, deterministic=False)
    expectation = nnx.view(noise, only=SelectiveActivation, estimator=soft_mixture, temperature=1.0)
    return {
        "noise": score(noise, rngs),
        "argmax": score(model, rngs),
        "expectation": score(expectation, rngs),
        "fixed": score(fixed, rngs),
    }


def _layers(model: nnx.Module) -> Iterator[tuple[str, SelectiveActivation | MixedActivation]]:
    for path, layer in nnx.iter_modules(model):
        if isinstance(layer, SelectiveActivation | MixedActivation):
            yield ".".join(map(str, path)), layer
