"""The two pure operations: `mix` with a Selection, `apply_choices` with fixed choices.

The general, masked form: every function of the pool is evaluated and one is kept per
neuron. It takes any function. `x` is [..., N] with the neurons on `axis`.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from smartmixed_jax.estimators import Selection
from smartmixed_jax.pools import Activation, ActivationPool


def mix(x: jax.Array, selection: Selection, pool: ActivationPool, *, axis: int = -1) -> jax.Array:
    """Applies to every neuron the function, or the mixture of functions, selected for it.

    A hard selection gives exactly the chosen function's value and derivative; the gradient to
    `weights[n, k]` is s[n, k] = Σ_b g[b, n] · f_k(x[b, n]), summed in at least float32. A soft
    one gives Σ_k weights[n, k] · f_k(x). With c the choices:

        y[..., n] = f_c[n](x[..., n])            (hard)

    Args:
        x: [..., N] float, the neurons on `axis`.
        selection: weights [N, K], choices [N] or None.
        pool: K functions.
        axis: the axis of x that holds the N neurons.

    Returns:
        [..., N], the dtype of x.

    Raises:
        TypeError: x is integer or complex.
        ValueError: the shapes of x, selection and pool do not fit.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from smartmixed_jax import PAPER_POOL, estimators, mix
        >>> selection = estimators.deterministic(jnp.eye(2, 6))      # neuron 0 relu, 1 sigmoid
        >>> mix(jnp.array([[-1.0, 0.0]]), selection, PAPER_POOL)
        Array([[0. , 0.5]], dtype=float32)
    """
    weights, choices = selection
    axis = _check_input("mix", x, axis)
    if weights.shape != (x.shape[axis], len(pool)):
        raise ValueError(
            f"mix: x{list(x.shape)} on axis {axis} and a pool of {len(pool)} need weights "
            f"{[x.shape[axis], len(pool)]}, got {list(weights.shape)}"
        )
    if choices is not None and choices.shape != (x.shape[axis],):
        raise ValueError(
            f"mix: x{list(x.shape)} on axis {axis} needs choices {[x.shape[axis]]}, "
            f"got {list(choices.shape)}"
        )
    if choices is None:
        return _weighted_sum(pool, axis, x, weights).astype(x.dtype)
    return _hard_mix(pool, axis, x, weights, choices)


def apply_choices(
    x: jax.Array, choices: Sequence[int] | np.ndarray, pool: ActivationPool, *, axis: int = -1
) -> jax.Array:
    """Applies to every neuron its fixed function.

    Bit for bit the value of `mix` with a hard selection of the same choices.

    Args:
        x: [..., N] float, the neurons on `axis`.
        choices: [N] static ints in [0, K).
        pool: K functions.
        axis: the axis of x that holds the N neurons.

    Returns:
        [..., N], the dtype of x.

    Raises:
        TypeError: x is integer or complex, or choices are traced or no integers.
        ValueError: a choice is outside [0, K), or N does not fit x.

    Example:
        >>> import jax.numpy as jnp
        >>> from smartmixed_jax import PAPER_POOL, apply_choices
        >>> apply_choices(jnp.array([[-1.0, 0.0]]), (0, 1), PAPER_POOL)
        Array([[0. , 0.5]], dtype=float32)
    """
    axis = _check_input("apply_choices", x, axis)
    indices = check_choices("apply_choices", choices, pool)
    if indices.shape != (x.shape[axis],):
        raise ValueError(
            f"apply_choices: x{list(x.shape)} on axis {axis} needs {x.shape[axis]} choices, "
            f"got {len(indices)}"
        )
    # Opaque to XLA, which would drop the functions not in use and compile the others differently:
    # the value would differ from that of `mix` in the last bit. One entry more, because an array
    # of equal values is folded in spite of the barrier.
    opaque = jax.lax.optimization_barrier(jnp.asarray(np.append(indices, np.int32(-1))))
    return _select(pool, axis, x, opaque[:-1])


def check_choices(
    where: str, choices: Sequence[int] | np.ndarray | jax.Array, pool: ActivationPool
) -> np.ndarray:
    """choices as a static int32 array [N]; raises as `apply_choices` does."""
    if isinstance(choices, jax.core.Tracer):
        raise TypeError(f"{where}: choices must be static integers; for traced ones use mix")
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


def _check_input(where: str, x: jax.Array, axis: int) -> int:
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"{where}: x must be a real floating-point array, got {x.dtype}")
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(f"{where}: axis {axis} is out of range for x{list(x.shape)}")
    return axis % x.ndim


@dataclasses.dataclass(frozen=True)
class _Derivative:
    """f′ as an elementwise function; through vjp, so that custom_vjp functions work too."""

    function: Activation

    def __call__(self, x: jax.Array) -> jax.Array:
        y, pullback = jax.vjp(self.function, x)
        return pullback(jnp.ones_like(y))[0]


@functools.lru_cache(maxsize=256)
def _derivatives(pool: ActivationPool) -> ActivationPool:
    return ActivationPool(
        (name, _Derivative(function))
        for name, function in zip(pool.names, pool.functions, strict=True)
    )


def _evaluate(pool: ActivationPool, k: int, x: jax.Array) -> jax.Array:
    y = pool.functions[k](x)
    if y.shape != x.shape:
        raise ValueError(
            f"{pool.names[k]!r} is not elementwise: it maps {list(x.shape)} to {list(y.shape)}"
        )
    return y.astype(x.dtype)


def _along(axis: int, ndim: int, values: jax.Array) -> jax.Array:
    """values [N] shaped to broadcast against x with N on `axis`."""
    return values.reshape([-1 if i == axis else 1 for i in range(ndim)])


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _select(pool: ActivationPool, axis: int, x: jax.Array, choices: jax.Array) -> jax.Array:
    choices = _along(axis, x.ndim, jnp.asarray(choices))
    y = _evaluate(pool, 0, x)
    for k in range(1, len(pool)):
        y = jnp.where(choices == k, _evaluate(pool, k, x), y)
    return y


@_select.defjvp
def _select_jvp(pool, axis, primals, tangents):
    # Selecting among derivatives, not differentiating the selection: there the functions not
    # chosen contribute 0 · f′_k(x), which is NaN where f′_k is infinite.
    x, choices = primals
    slope = _select(_derivatives(pool), axis, x, choices)
    return _select(pool, axis, x, choices), slope * tangents[0]


def _weighted_sum(pool: ActivationPool, axis: int, x: jax.Array, weights: jax.Array) -> jax.Array:
    """Σ_k weights[n, k] · f_k(x) in at least float32."""
    dtype = jnp.float64 if jnp.float64 in (x.dtype, weights.dtype) else jnp.float32
    terms = (
        _along(axis, x.ndim, weights[:, k].astype(dtype)) * _evaluate(pool, k, x).astype(dtype)
        for k in range(len(pool))
    )
    return functools.reduce(jnp.add, terms)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _hard_mix(
    pool: ActivationPool, axis: int, x: jax.Array, weights: jax.Array, choices: jax.Array
) -> jax.Array:
    return _select(pool, axis, x, choices)


def _hard_mix_jvp(pool, axis, primals, tangents):
    x, weights, choices = primals
    x_dot, weights_dot, _ = tangents
    y = _hard_mix(pool, axis, x, weights, choices)
    y_dot = jnp.zeros_like(y)
    if not isinstance(x_dot, SymbolicZero):
        y_dot = _select(_derivatives(pool), axis, x, choices) * x_dot
    if not isinstance(weights_dot, SymbolicZero):
        y_dot = y_dot + _weighted_sum(pool, axis, x, weights_dot).astype(x.dtype)
    return y, y_dot


_hard_mix.defjvp(_hard_mix_jvp, symbolic_zeros=True)
