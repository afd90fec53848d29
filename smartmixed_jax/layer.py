"""What the layers of Flax NNX and Flax Linen share: defaults, checks, and the table of a layer."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from smartmixed_jax.estimators import check_groups, check_temperature
from smartmixed_jax.pools import ActivationPool
from smartmixed_jax.table import FunctionTable

Initializer = Callable[..., jax.Array]


def one_random_entry(value: float = 1e-3) -> Initializer:
    """Initializer [N, K]: 0, and `value` at one random entry per row (the published one)."""

    def init(key: jax.Array, shape: tuple[int, int], dtype: Any = jnp.float32) -> jax.Array:
        chosen = jax.random.randint(key, shape[:1], 0, shape[1])
        return value * jax.nn.one_hot(chosen, shape[1], dtype=dtype)

    return init


def check_options(
    features: int, temperature: float | jax.Array, groups: int | Sequence[int] | None
) -> tuple[int, ...] | None:
    """`groups` as each neuron's group; raises if an option of a SelectiveActivation is wrong."""
    if features < 1:
        raise ValueError(f"SelectiveActivation: features must be at least 1, got {features}")
    check_temperature("SelectiveActivation", temperature)
    return check_groups("SelectiveActivation", groups, features)


def logits_shape(
    features: int, pool: ActivationPool, groups: tuple[int, ...] | None
) -> tuple[int, int]:
    """(N, K), or (G, K) with groups."""
    return features if groups is None else 1 + max(groups), len(pool)


def argmax(logits: jax.Array | np.ndarray) -> np.ndarray:
    """The choice of each row of logits that are not traced; of equal ones the first."""
    return np.argmax(np.asarray(logits), axis=-1)


def table_of(
    choices: Sequence[int] | np.ndarray, pool: ActivationPool, groups: tuple[int, ...] | None
) -> FunctionTable:
    """The table of N neurons from choices [N], or [G] with groups."""
    return FunctionTable(
        pool, choices if groups is None else np.asarray(choices)[np.asarray(groups)]
    )


def check_fixable(
    name: str, logits: jax.Array | np.ndarray, shape: tuple[int, ...] | None, stacked_by: str
) -> None:
    """Raises ValueError if the layer's logits are traced or of another shape; None: any [N, K]."""
    if isinstance(logits, jax.core.Tracer):
        raise ValueError(f"fix_choices: {name} is traced; call it outside jit")
    if logits.ndim != 2 or shape not in (None, logits.shape):
        raise ValueError(
            f"fix_choices: {name} holds logits {list(logits.shape)}, expected "
            f"{list(shape) if shape else '[N, K]'}; layers stacked by {stacked_by} cannot be fixed"
        )


def promote(where: str, x: jax.Array, dtype: Any) -> jax.Array:
    """x in `dtype`, or as it is; raises TypeError unless it is a real float."""
    # Integers are refused even if dtype would convert them: token ids here are a mistake.
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"{where}: x must be a real floating-point array, got {x.dtype}")
    return x if dtype is None else x.astype(dtype)
