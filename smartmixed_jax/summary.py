"""What was chosen: plain dicts and arrays, no plotting."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from smartmixed_jax.estimators import soft_mixture
from smartmixed_jax.nnx import MixedActivation, SelectiveActivation, fix_choices
from smartmixed_jax.pools import ActivationPool

UNDECIDED = 0.5
"""A neuron whose largest probability is below this has not decided."""


def selection_logits(model: nnx.Module) -> dict[str, np.ndarray]:
    """The logits of every SelectiveActivation, by path, in the order of the model.

    [N, K], or [G, K] where neurons share a choice: what the layer holds.
    """
    return {
        path: np.asarray(layer.logits[...])
        for path, layer in _layers(model)
        if isinstance(layer, SelectiveActivation)
    }


def summarize(model: nnx.Module) -> dict[str, dict[str, Any]]:
    """What the neurons of each selective or fixed layer chose.

    Returns:
        path of the layer → `features` N; `counts` and `shares` per function name (argmax);
        and of π = softmax(logits), as means over the N neurons: `max_probability` in [1/K, 1],
        `entropy` in nats in [0, ln K], `undecided` the share of neurons whose largest π is below
        1/2. A fixed layer has 1, 0 and 0 there.

    Example:
        >>> from flax import nnx
        >>> from smartmixed_jax import MLP, summarize
        >>> summary = summarize(MLP(4, (8,), 2, rngs=nnx.Rngs(0)))
        >>> summary["activations.0"]["features"], sum(summary["activations.0"]["counts"].values())
        (8, 8)
    """
    summary = {}
    for path, layer in _layers(model):
        if isinstance(layer, SelectiveActivation):
            summary[path] = summarize_logits(layer.logits[...], layer.pool, layer.groups)
        else:
            counts = layer.table.counts()
            summary[path] = {**_counted(counts), **_CERTAIN}
    return summary


def summarize_logits(
    logits: np.ndarray | jax.Array, pool: ActivationPool, groups: tuple[int, ...] | None = None
) -> dict[str, Any]:
    """One layer of `summarize` from its logits [N, K], or [G, K] and each neuron's group [N]."""
    logits = np.asarray(logits)
    if groups is not None:
        logits = logits[np.asarray(groups)]
    counts = np.bincount(np.argmax(logits, -1), minlength=len(pool))
    probabilities = np.asarray(jax.nn.softmax(jnp.asarray(logits, jnp.float32)), np.float64)
    largest = probabilities.max(-1)
    log = np.log(np.maximum(probabilities, np.finfo(np.float64).tiny))
    return {
        **_counted(dict(zip(pool.names, counts.tolist(), strict=True))),
        "max_probability": float(largest.mean()),
        "entropy": float(-(probabilities * log).sum(-1).mean()),
        "undecided": float((largest < UNDECIDED).mean()),
    }


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


_CERTAIN = {"max_probability": 1.0, "entropy": 0.0, "undecided": 0.0}


def _layers(model: nnx.Module) -> list[tuple[str, SelectiveActivation | MixedActivation]]:
    return [
        (".".join(map(str, path)), layer)
        for path, layer in nnx.iter_modules(model)
        if isinstance(layer, SelectiveActivation | MixedActivation)
    ]


def _counted(counts: dict[str, int]) -> dict[str, Any]:
    features = sum(counts.values())
    return {
        "features": features,
        "counts": counts,
        "shares": {name: count / features for name, count in counts.items()},
    }
