"""Checks of arguments; every error is one line with the place, the value and what is expected.

`where` is what an error names first: the function, or the layer and its path.
"""

import numbers
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from smartmixed_jax.pools import ActivationPool


def short(value: object) -> str:
    """repr(value) in at most 60 characters."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


def check_int(where: str, name: str, value: object) -> int:
    """`value` as an int; raises TypeError for anything else, bool included."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
        kind = f"an array {value.dtype}{list(value.shape)}" if _is_array(value) else short(value)
        raise TypeError(f"{where}: {name} must be an int, got {kind}")
    return int(value)


def check_pool(where: str, pool: object) -> None:
    """Raises TypeError unless `pool` is an ActivationPool."""
    if not isinstance(pool, ActivationPool):
        raise TypeError(
            f"{where}: pool must be an ActivationPool, got {short(pool)}; "
            'make one: ActivationPool({"relu": jax.nn.relu, ...})'
        )


def check_float_input(where: str, x: jax.Array) -> None:
    """Raises TypeError unless x is a real floating-point array."""
    if not _is_array(x) or not jnp.issubdtype(x.dtype, jnp.floating):
        got = x.dtype if _is_array(x) else short(x)
        raise TypeError(f"{where}: x must be a real floating-point array, got {got}")


def check_axis(where: str, x: jax.Array, axis: object) -> int:
    """`axis` of x, from 0; raises TypeError or ValueError if x has no such axis."""
    axis = check_int(where, "axis", axis)
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(f"{where}: axis {axis} is out of range for x{list(x.shape)}")
    return axis % x.ndim


def check_temperature(where: str, temperature: object, minimum: float = 0.0) -> None:
    """Raises if `temperature` is no number, or if it is concrete and not finite, ≤ 0 or < minimum.

    Raises:
        TypeError: no real number, nor an array [] of them.
        ValueError: out of range.
    """
    is_number = isinstance(temperature, numbers.Real) and not isinstance(temperature, bool)
    is_scalar = _is_array(temperature) and temperature.ndim == 0  # type: ignore[attr-defined]
    if not is_number and not is_scalar:
        raise TypeError(f"{where}: temperature must be a number > 0, got {short(temperature)}")
    if isinstance(temperature, jax.core.Tracer):
        return
    value = float(temperature)  # type: ignore[arg-type]
    if not (0.0 < value < float("inf")) or value < minimum:
        expected = f"a finite value ≥ {minimum:g}" if minimum else "a finite value > 0"
        raise ValueError(f"{where}: temperature must be {expected}, got {value}")


def check_choices(
    where: str, choices: Sequence[int] | np.ndarray | jax.Array, pool: ActivationPool
) -> np.ndarray:
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
        raise TypeError(
            f"{where}: choices must be integers [N], got {indices.dtype}{list(indices.shape)}"
        )
    outside = (indices < 0) | (indices >= len(pool))
    if outside.any():
        neuron = int(np.argmax(outside))
        raise ValueError(
            f"{where}: choice {indices[neuron]} of neuron {neuron} is outside [0, {len(pool)}) "
            f"for {pool}"
        )
    return indices.astype(np.int32)


def check_groups(
    where: str, groups: int | Sequence[int] | np.ndarray | None, features: int
) -> tuple[int, ...] | None:
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
    if isinstance(groups, jax.core.Tracer) or not all(
        isinstance(group, int | np.integer) and not isinstance(group, bool)
        for group in np.asarray(groups, object).ravel()
    ):
        raise TypeError(
            f"{where}: groups must be an int or one int per neuron, got {short(groups)}"
        )
    indices = np.asarray(groups, np.int64)
    if indices.ndim == 0:
        count = int(indices)
        if count < 1 or features % count:
            raise ValueError(
                f"{where}: an int groups must be at least 1 and divide the {features} features, "
                f"got {count}"
            )
        indices = np.repeat(np.arange(count), features // count)
    if indices.shape != (features,):
        raise ValueError(
            f"{where}: groups must name one group per neuron, [{features}], "
            f"got {list(indices.shape)}"
        )
    used = np.unique(indices)
    if not np.array_equal(used, np.arange(len(used))):
        raise ValueError(
            f"{where}: groups must be 0 to G − 1, every one in use, got {short(used.tolist())}"
        )
    return tuple(indices.tolist())


def _is_array(value: object) -> bool:
    return isinstance(value, jax.Array | np.ndarray)
