"""What the layers of Flax NNX and Flax Linen share: options, initial logits, choices, tables."""

import itertools
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from smartmixed_jax import _checks
from smartmixed_jax.pools import ActivationPool
from smartmixed_jax.types import (
    Draws,
    Estimator,
    Groups,
    Initializer,
    Integers,
    Key,
    Scalar,
    Selection,
    Start,
)


def one_random_entry(value: float = 1e-3) -> Initializer:
    """Initializer [N, K]: 0, and `value` at one random entry per row (the published one).

    Raises TypeError or ValueError unless value is a finite number.

    Example:
        >>> from smartmixed_jax.layer import one_random_entry
        >>> one_random_entry()(jax.random.key(0), (64, 6)).max(axis=-1).min()
        Array(0.001, dtype=float32)
    """

    _checks.check_number("one_random_entry", "value", value)

    def init(key: jax.Array, shape: tuple[int, int], dtype: Any = jnp.float32) -> jax.Array:
        chosen = jax.random.randint(key, shape[:1], 0, shape[1])
        return value * jax.nn.one_hot(chosen, shape[1], dtype=dtype)

    return init


def favouring(where: str, choices: Any, functions: int, probability: float) -> Initializer:
    """Initializer whose softmax gives each row's choice `probability`, the other K − 1 the rest.

    Args:
        where: what an error names first.
        choices: an index for all rows, or one per row [..., N].
        functions: K.
        probability: in (1/K, 1).
    """
    _checks.check(where, probability=probability)
    if not 1 / functions < probability < 1:
        expected = f"in (1/{functions}, 1) for {functions} functions"
        raise ValueError(f"{where}: probability must be {expected}, got {probability}")
    value = math.log(probability * (functions - 1) / (1 - probability))

    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        del key
        rows = np.broadcast_to(np.asarray(choices), shape[:-1])
        return value * jax.nn.one_hot(rows, shape[-1], dtype=dtype)

    return init


def check_options(
    where: str,
    features: int,
    pool: ActivationPool,
    estimator: Estimator,
    temperature: Scalar,
    noise: Scalar,
    draws: Draws,
    axis: int,
    deterministic: bool,
    start: Start | None,
    logits_init: Initializer | None,
    groups: int | Integers | None,
    dtype: Any,
    param_dtype: Any,
) -> tuple[Groups, tuple[int, int], Initializer]:
    """Raises TypeError or ValueError, with value and place, if an option is wrong.

    Returns:
        groups: each neuron's group, [N] ints in [0, G), or None.
        shape: of the logits, (G, K); G = N without groups.
        logits_init: initializer of the logits.
    """
    _checks.check(where, pool=pool, estimator=estimator, logits_init=logits_init)
    _checks.check(where, deterministic=deterministic, dtype=dtype, param_dtype=param_dtype)
    _checks.check_int(where, "features", features, 1)
    _checks.check_int(where, "axis", axis)
    _checks.check_temperature(where, temperature)
    _checks.check_noise(where, noise)
    _checks.check_draws(where, draws)
    if start is not None:
        if logits_init is not None:
            raise ValueError(f"{where}: start and logits_init both set the initial logits")
        if not isinstance(start, tuple | list) or len(start) != 2 or not isinstance(start[0], str):
            got = _checks.shown(start)
            raise TypeError(f"{where}: start must be (name, probability), got {got}")
        logits_init = favouring(f"{where}: start", pool.index(start[0]), len(pool), start[1])
    checked = _checks.check_groups(where, groups, features)
    rows = features if checked is None else 1 + max(checked)
    return checked, (rows, len(pool)), logits_init or one_random_entry()


def select(
    where: str,
    estimator: Estimator,
    logits: jax.Array,
    key: Key,
    temperature: Scalar,
    noise: Scalar,
    draws: Draws,
    x: jax.Array,
) -> Selection:
    """What the estimator selects for x; noise and draws are passed to it where they are not 1.

    Args:
        where: what an error names first.
        x: with draws "example" its axis 0 says how many.
    """
    _checks.check_temperature(where, temperature)
    _checks.check_noise(where, noise)
    if draws == "example":
        if not x.ndim > 1:
            raise ValueError(
                f'{where}: draws="example" needs examples on axis 0, got {_checks.shown(x)}'
            )
        draws = x.shape[0]
    options: dict[str, Any] = {}
    if isinstance(noise, jax.Array) or noise != 1:
        options["noise"] = noise
    if isinstance(draws, int) and draws == 1:
        return estimator(logits, key, temperature, **options)
    return estimator(logits, key, temperature, draws=draws, **options)


def repeat_to_neurons(selection: Selection, groups: Groups) -> Selection:
    """The selection of G groups as that of their N neurons; the gradient sums over a group.

    Args:
        selection: weights [G, K], choices [G], [D, G] or None.
        groups: each neuron's group, [N] in [0, G); None: every neuron chooses for itself, and the
            selection is returned as it is.

    Returns:
        weights [N, K], choices [N], [D, N] or None.

    Example:
        >>> import jax.numpy as jnp
        >>> from smartmixed_jax import estimators
        >>> from smartmixed_jax.layer import repeat_to_neurons
        >>> selection = estimators.deterministic(jnp.eye(2, 6))
        >>> repeat_to_neurons(selection, (0, 0, 1)).choices
        Array([0, 0, 1], dtype=int32)
    """
    if groups is None:
        return selection
    index = np.asarray(groups, np.int32)

    weights, choices = selection
    weights = jnp.take(weights, index, axis=0, mode="clip")
    return Selection(weights, None if choices is None else choices[..., index])


def stacked(array: Any, axes: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """("[i]", (i,)) for each of the arrays that are stacked in one; ("", ()) if it is a single one.

    Args:
        array: [..., and `axes` axes of a single one].
        axes: see there.
    """
    for index in itertools.product(*map(range, array.shape[: array.ndim - axes])):
        yield "".join(f"[{i}]" for i in index), index


def choices_of(where: str, logits: jax.Array | np.ndarray) -> np.ndarray:
    """argmax of concrete logits [..., K], of equal ones the first: ints [...].

    Raises:
        ValueError: the logits are traced, or one of them is NaN.
    """
    if isinstance(logits, jax.core.Tracer):
        raise ValueError(f"{where}: the logits are traced; call it outside jit")
    _checks.check_not_nan(where, "logits", logits)
    return np.argmax(np.asarray(logits), axis=-1).astype(np.int32)


def promote(where: str, x: jax.Array, dtype: Any) -> jax.Array:
    """x in `dtype`, or as it is; raises TypeError unless it is a real float."""
    # Integers are refused even if dtype would convert them: token ids here are a mistake.
    _checks.check(where, x=x, dtype=dtype)
    return x if dtype is None else x.astype(dtype)
