"""Checks of arguments; every error is one line with the place, the value and what is expected.

`where` is what an error names first: the function, or the layer and its path.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from smartmixed_jax.pools import ActivationPool
from smartmixed_jax.types import Groups, Integers


def shown(value: object) -> str:
    """An array by dtype and shape, float32[8, 64]; anything else by its repr, cut at 60 letters."""
    if isinstance(value, jax.Array | np.ndarray) and value.ndim:
        return f"{value.dtype}{list(value.shape)}"
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


def check_int(where: str, name: str, value: object) -> int:
    """`value` as an int; raises TypeError for anything else, bool included."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
        array = "an array " if isinstance(value, jax.Array | np.ndarray) else ""
        raise TypeError(f"{where}: {name} must be an int, got {array}{shown(value)}")
    return int(value)


def check_pool(where: str, pool: object) -> None:
    """Raises TypeError unless `pool` is an ActivationPool."""
    if not isinstance(pool, ActivationPool):
        raise TypeError(f"{where}: pool must be an ActivationPool, got {shown(pool)}")


def check_floating(where: str, name: str, x: object) -> None:
    """Raises TypeError unless x is a real floating-point array."""
    is_array = isinstance(x, jax.Array | np.ndarray)
    if not is_array or not jnp.issubdtype(x.dtype, jnp.floating):  # type: ignore[attr-defined]
        raise TypeError(f"{where}: {name} must be a real floating-point array, got {shown(x)}")


def check_axis(where: str, x: jax.Array, axis: object) -> int:
    """`axis` of x, from 0; raises TypeError or ValueError if x has no such axis."""
    axis = check_int(where, "axis", axis)
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(f"{where}: axis {axis} is out of range for x{list(x.shape)}")
    return axis % x.ndim


def check_temperature(where: str, temperature: object, minimum: float = 0.0) -> None:
    """Raises TypeError unless τ is a real number or an array [] of one, which may be traced.

    Raises ValueError for a concrete τ that is not finite, ≤ 0 or < minimum.
    """
    value = _number(where, "temperature", temperature, "> 0")
    expected = f"a finite value ≥ {minimum:g}" if minimum else "a finite value > 0"
    if value is not None and not (0.0 < value < float("inf") and value >= minimum):
        raise ValueError(f"{where}: temperature must be {expected}, got {value}")


def check_noise(where: str, noise: object) -> None:
    """The same for β, which may be 0."""
    value = _number(where, "noise", noise, "≥ 0")
    if value is not None and not 0.0 <= value < float("inf"):
        raise ValueError(f"{where}: noise must be a finite value ≥ 0, got {value}")


def _number(where: str, name: str, value: Any, expected: str) -> float | None:
    """A concrete number or array [] as a float, None for a traced one; else raises TypeError."""
    traced = isinstance(value, jax.core.Tracer)
    array: Any = value if traced else np.asarray(value)
    if array.ndim or not any(jnp.issubdtype(array.dtype, k) for k in (jnp.floating, jnp.integer)):
        raise TypeError(f"{where}: {name} must be a number {expected}, got {shown(value)}")
    return None if traced else float(array)


def check_draws(where: str, draws: object, *, per_example: bool = True) -> None:
    """Raises TypeError or ValueError unless draws is an int ≥ 1, or, where allowed, "example"."""
    if per_example and isinstance(draws, str):
        if draws != "example":
            raise ValueError(f'{where}: draws must be an int or "example", got {shown(draws)}')
    elif check_int(where, "draws", draws) < 1:
        raise ValueError(f"{where}: draws must be at least 1, got {draws}")


def check_choices(where: str, choices: Integers, pool: ActivationPool) -> np.ndarray:
    """Concrete `choices` as an int32 array [N].

    Raises:
        TypeError: they are traced or no integers [N].
        ValueError: a choice is outside [0, K).
    """
    check_pool(where, pool)
    if isinstance(choices, jax.core.Tracer):
        raise TypeError(f"{where}: choices must be static integers, got traced ones")
    indices = np.asarray(choices)
    if indices.ndim != 1 or (indices.size and not np.issubdtype(indices.dtype, np.integer)):
        raise TypeError(f"{where}: choices must be integers [N], got {shown(indices)}")
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
    entries = [1.0] if isinstance(groups, jax.core.Tracer) else np.asarray(groups, object).ravel()
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
