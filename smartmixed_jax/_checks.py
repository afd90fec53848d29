"""Checks of arguments; every error is one line with the place, the value and what is expected.

`where` is what an error names first: the function, or the layer and its path.
"""

import contextlib
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from smartmixed_jax.types import Activation, Groups, Integers, Selection


def shown(value: object) -> str:
    """An array by dtype and shape, float32[8, 64]; anything else by its repr, cut at 60 letters."""
    if isinstance(value, jax.Array | np.ndarray) and value.ndim:
        return f"{value.dtype}{list(value.shape)}"
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


@contextlib.contextmanager
def prefixed(where: str) -> Iterator[None]:
    """Puts `where` before the message of a TypeError or ValueError raised inside."""
    try:
        yield
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{where}: {error}") from error


def check(where: str, /, **arguments: object) -> None:
    """Raises TypeError unless every argument is what KINDS says of its name."""
    for name, value in arguments.items():
        expected, holds = KINDS[name]
        if not holds(value):
            raise TypeError(f"{where}: {name} must be {expected}, got {shown(value)}")


def is_array(value: Any, kind: Any) -> bool:
    """Whether `value` is an array of a kind of dtype, such as jnp.floating; it may be traced."""
    return isinstance(value, jax.Array | np.ndarray) and jnp.issubdtype(value.dtype, kind)


def _is_key(key: Any) -> bool:
    old = is_array(key, jnp.uint32) and key.ndim == 1
    return old or (is_array(key, jax.dtypes.prng_key) and not key.ndim)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def _is_floating_dtype(dtype: Any) -> bool:
    try:
        return dtype is None or jnp.issubdtype(jnp.dtype(dtype), jnp.floating)
    except (TypeError, ValueError):
        return False


_FUNCTION = "a function", callable
_OPTIONAL = "a function or None", lambda value: value is None or callable(value)
_BOOL = "a bool", lambda value: isinstance(value, bool | np.bool_)
_DTYPE = "None or a real floating-point dtype", _is_floating_dtype
_FLOATS = "a real floating-point array", lambda value: is_array(value, jnp.floating)

KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    **dict.fromkeys(("activation", "change", "estimator", "function", "linear"), _FUNCTION),
    **dict.fromkeys(("call", "logits_init", "report", "where"), _OPTIONAL),
    **dict.fromkeys(("deterministic", "keep_rngs", "static"), _BOOL),
    **dict.fromkeys(("dtype", "param_dtype"), _DTYPE),
    **dict.fromkeys(("logits", "weights", "x"), _FLOATS),
    "choices": ("integers [N]", lambda value: is_array(value, jnp.integer)),
    "functions": ("functions", callable),
    "hidden": ("a sequence of widths", lambda value: isinstance(value, Iterable)),
    "key": ("a PRNG key", _is_key),
    "probability": ("a number", _is_number),
    "score": _FUNCTION,
    "selection": ("a Selection", lambda value: isinstance(value, Selection)),
    "text": ("a str", lambda value: isinstance(value, str)),
}
"""The name of an argument → what it must be, and the test of it; others add what they define."""


def check_int(where: str, name: str, value: object, minimum: int | None = None) -> int:
    """`value` as an int; raises TypeError for anything else, bool included.

    Raises ValueError for one < minimum.
    """
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
        array = "an array " if isinstance(value, jax.Array | np.ndarray) else ""
        raise TypeError(f"{where}: {name} must be an int, got {array}{shown(value)}")
    if minimum is not None and value < minimum:
        raise ValueError(f"{where}: {name} must be at least {minimum}, got {value}")
    return int(value)


def check_logits(where: str, logits: jax.Array | np.ndarray, functions: int | None = None) -> None:
    """Raises TypeError or ValueError unless logits are real floats [N, K], not NaN if concrete."""
    check(where, logits=logits)
    if logits.ndim != 2 or functions not in (None, logits.shape[1]):
        raise ValueError(f"{where}: logits must be [N, {functions or 'K'}], got {shown(logits)}")
    check_not_nan(where, "logits", logits)


def check_not_nan(where: str, name: str, values: jax.Array | np.ndarray) -> None:
    """Raises ValueError if one of concrete values [..., N, K] is NaN."""
    if isinstance(values, jax.core.Tracer) or not getattr(values, "is_fully_addressable", True):
        return
    nan = np.argwhere(np.isnan(np.asarray(values)))
    if nan.size:
        values_of = f"the {name} of neuron {nan[0, -2]}"
        raise ValueError(f"{where}: {values_of} are NaN: nothing to choose by")


def check_axis(where: str, x: jax.Array, axis: object) -> int:
    """`axis` of x, from 0; raises TypeError or ValueError if x has no such axis."""
    axis = check_int(where, "axis", axis)
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(f"{where}: axis {axis} is out of range for x{list(x.shape)}")
    return axis % x.ndim


def check_temperature(where: str, temperature: object, minimum: float = 0.0) -> None:
    """`check_number` for τ > 0 and ≥ minimum."""
    expected = f" ≥ {minimum:g}" if minimum else " > 0"
    holds = lambda value: value > 0 and value >= minimum  # noqa: E731
    check_number(where, "temperature", temperature, expected, holds)


def check_noise(where: str, noise: object) -> None:
    """`check_number` for β ≥ 0."""
    check_number(where, "noise", noise, " ≥ 0", lambda value: value >= 0)


def check_number(where: str, name: str, value: Any, limits: str = "", holds: Any = None) -> None:
    """Raises TypeError unless `value` is a real number or an array [] of one, which may be traced.

    Raises ValueError for a concrete one that is not finite, or outside the limits (`holds`).
    """
    traced = isinstance(value, jax.core.Tracer)
    array: Any = value if traced else _array(value)
    kinds = (jnp.floating, jnp.integer)
    if array.ndim or not any(jnp.issubdtype(array.dtype, kind) for kind in kinds):
        raise TypeError(f"{where}: {name} must be a number{limits}, got {shown(value)}")
    if not traced and not (math.isfinite(array) and (holds is None or holds(float(array)))):
        raise ValueError(f"{where}: {name} must be a finite value{limits}, got {float(array)}")


def _array(value: Any, dtype: Any = None) -> np.ndarray:
    """A NumPy array of `value`; of None if there is none, as of a ragged list or a traced value."""
    try:
        return np.asarray(value, dtype)
    except (TypeError, ValueError):
        return np.asarray(None)


def check_draws(where: str, draws: object, *, per_example: bool = True) -> None:
    """Raises TypeError or ValueError unless draws is an int ≥ 1, or, where allowed, "example"."""
    if per_example and isinstance(draws, str):
        if draws != "example":
            raise ValueError(f'{where}: draws must be an int or "example", got {shown(draws)}')
    else:
        check_int(where, "draws", draws, 1)


def check_choices(where: str, choices: Integers, pool: Sized) -> np.ndarray:
    """Concrete `choices` as an int32 array [N].

    Raises:
        TypeError: they are traced or no integers [N].
        ValueError: a choice is outside [0, K).
    """
    if isinstance(choices, jax.core.Tracer):
        raise TypeError(f"{where}: choices must be static integers, got traced ones")
    indices = _array(choices)
    # NumPy would make a number of True beside 1.
    bools = isinstance(choices, list | tuple) and bool in map(type, choices)
    integers = not indices.size or (np.issubdtype(indices.dtype, np.integer) and not bools)
    if indices.ndim != 1 or not integers:
        raise TypeError(f"{where}: choices must be integers [N], got {shown(choices)}")
    outside = np.flatnonzero((indices < 0) | (indices >= len(pool)))
    if outside.size:
        at = f"choice {indices[outside[0]]} of neuron {outside[0]}"
        raise ValueError(f"{where}: {at} is outside [0, {len(pool)}) for {pool}")
    return indices.astype(np.int32)


def check_groups(where: str, groups: int | Integers | None, features: int) -> Groups:
    """`groups` as each neuron's group: [N] ints in [0, G), every one in use.

    Args:
        where: what an error names first.
        groups: an int G, N neurons in G equal contiguous blocks; each neuron's group; or None.
        features: N.

    Raises:
        TypeError: groups are no integers.
        ValueError: G does not divide N; not N groups; a group is not in use.
    """
    if groups is None:
        return None
    # As objects: NumPy would make a number of True, and of 1.0 beside 1.
    entries = _array(groups, object).ravel()
    if not all(isinstance(g, int | np.integer) and not isinstance(g, bool) for g in entries):
        raise TypeError(f"{where}: groups must be an int or one per neuron, got {shown(groups)}")
    indices = np.asarray(groups, np.int64)
    if indices.ndim == 0:
        count = int(indices)
        if count < 1 or features % count:
            expected = f"at least 1 and divide the {features} features"
            raise ValueError(f"{where}: an int groups must be {expected}, got {count}")
        indices = np.repeat(np.arange(count), features // count)
    if indices.shape != (features,):
        got = f"[{features}], got {list(indices.shape)}"
        raise ValueError(f"{where}: groups must name one group per neuron, {got}")
    used = np.unique(indices)
    if not np.array_equal(used, np.arange(len(used))):
        got = shown(used.tolist())
        raise ValueError(f"{where}: groups must be 0 to G − 1, every one in use, got {got}")
    return tuple(indices.tolist())


@functools.lru_cache(maxsize=256)
def check_elementwise(where: str, name: str, function: Activation) -> None:
    """Raises ValueError if f on an array differs from f on its elements, or gives no real floats.

    Best effort: a function that cannot be called here is left to fail where it is used.
    """
    alone: list[Any] = []
    try:
        with jax.ensure_compile_time_eval():
            x = jnp.array([[0.5, -1.5, 2.0], [-0.25, 1.25, -3.0]], jnp.float32)
            y: Any = function(x)
            whole = np.asarray(y)
            if whole.shape == x.shape:
                alone = [np.asarray(function(value.reshape(1, 1))).item() for value in x.ravel()]
    except Exception:
        return
    if whole.shape != x.shape:
        got = f"it maps [2, 3] to {list(whole.shape)}"
        raise ValueError(f"{where}: {name!r} is not elementwise: {got}")
    if not jnp.issubdtype(whole.dtype, jnp.floating):
        raise ValueError(f"{where}: {name!r} must give real floats, got {shown(y)}")
    if not np.allclose(whole, np.reshape(alone, x.shape), rtol=1e-4, atol=1e-5, equal_nan=True):
        got = "a value depends on the other elements"
        raise ValueError(f"{where}: {name!r} is not elementwise: {got}")
