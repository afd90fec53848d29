"""The method: `mix` with a Selection (phase 1), `apply_choices` with fixed choices (phase 2).

With c the choices, g = ∂L/∂y, and neurons n on `axis` of x:

    y[..., n] = f_c[n](x[..., n])                     the value, in both phases
    ∂L/∂x[..., n] = g[..., n] · f′_c[n](x[..., n])    in both phases
    ∂L/∂w[n, k] = Σ_b g[b, n] · f_k(x[b, n])          to the weights, in phase 1

Functions with coefficients are evaluated together by one fused formula; every other function of the
pool is evaluated everywhere and kept where it is chosen. Both phases agree to the bit.
"""

import dataclasses
import functools
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from smartmixed_jax import _checks, _fused
from smartmixed_jax._logit_gradients import weighted_sum
from smartmixed_jax.pools import ActivationPool, zero
from smartmixed_jax.types import Activation, Integers, Selection

replacement: ContextVar[Any] = ContextVar("replacement", default=None)
"""During an export, what `apply_choices` calls as (pool, x, choices that broadcast against x)."""


def mix(x: jax.Array, selection: Selection, pool: ActivationPool, *, axis: int = -1) -> jax.Array:
    """Applies to every neuron the function, or the mixture of functions, selected for it.

    A hard selection gives exactly the chosen function's value and derivative; the gradient to
    `weights[n, k]` is s[n, k] = Σ_b g[b, n] · f_k(x[b, n]), summed in at least float32. A soft
    one gives Σ_k weights[n, k] · f_k(x). With c the choices:

        y[..., n] = f_c[n](x[..., n])            (hard)

    Args:
        x: [..., N] float, the neurons on `axis`.
        selection: weights [N, K], choices [N], [D, N] or None. Of D draws the d-th serves the d-th
            of D equal parts of x's axis 0; parts that cannot be equal differ by one row.
        pool: K functions.
        axis: the axis of x that holds the N neurons; not axis 0 with several draws.

    Returns:
        [..., N], the dtype of x.

    Raises:
        TypeError: x or the weights are no real floats; another argument is of the wrong type.
        ValueError: the shapes of x, selection and pool do not fit; concrete weights of a mixture
            are NaN; a function of the pool is not elementwise or gives no real floats.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from smartmixed_jax import PAPER_POOL, estimators, mix
        >>> selection = estimators.deterministic(jnp.eye(2, 6))      # neuron 0 relu, 1 sigmoid
        >>> mix(jnp.array([[-1.0, 0.0]]), selection, PAPER_POOL)
        Array([[0. , 0.5]], dtype=float32)
    """
    _checks.check("mix", selection=selection)
    weights, choices = selection
    axis = _check_input("mix", x, axis, pool)
    _checks.check("mix", weights=weights)
    _check_fit("mix", x, axis, "weights", weights, (x.shape[axis], len(pool)))
    if choices is None:
        _checks.check_not_nan("mix", "weights", weights)
        return weighted_sum(pool, axis, x, weights).astype(x.dtype)
    _checks.check("mix", choices=choices)
    if choices.ndim == 2:
        parts, choices, axis = _parts(x, choices, axis)
        return _hard_mix(pool, axis, parts, weights, *_opaque(pool, choices, x.dtype)).reshape(
            x.shape
        )
    _check_fit("mix", x, axis, "choices", choices, (x.shape[axis],))
    return _hard_mix(pool, axis, x, weights, *_opaque(pool, choices, x.dtype))


def _parts(x: jax.Array, choices: jax.Array, axis: int) -> tuple[jax.Array, jax.Array, int]:
    """x [B, ...] as D parts [D, B/D, ...] with its choices [D, N] and the axis of the neurons."""
    batch, draws = x.shape[0], choices.shape[0]
    if axis == 0:
        raise ValueError(
            f"mix: the neurons of x{list(x.shape)} stand on axis 0, which draws divide"
        )
    _check_fit("mix", x, axis, "choices", choices, (draws, x.shape[axis]))
    if not isinstance(batch, int) or batch % draws:  # a symbolic batch has a draw per example
        if draws != batch:
            if draws > batch:
                raise ValueError(f"mix: x{list(x.shape)} has fewer rows than {draws} draws")
            choices = choices[np.arange(batch) * draws // batch]
        draws = batch
    return x.reshape(draws, batch // draws, *x.shape[1:]), choices, axis + 1


def apply_choices(
    x: jax.Array, choices: Integers, pool: ActivationPool, *, axis: int = -1
) -> jax.Array:
    """Applies to every neuron its fixed function.

    Bit for bit the value of `mix` with a hard selection of the same choices.

    Args:
        x: [..., N] float, the neurons on `axis`.
        choices: [N] ints in [0, K). Static, they are a constant of the compiled program; traced,
            they are data of it, and must be in range.
        pool: K functions.
        axis: the axis of x that holds the N neurons.

    Returns:
        [..., N], the dtype of x.

    Raises:
        TypeError: x is no real floats, or choices are no integers.
        ValueError: a static choice is outside [0, K), or N does not fit x; a function of the pool
            is not elementwise or gives no real floats.

    Example:
        >>> import jax.numpy as jnp
        >>> from smartmixed_jax import PAPER_POOL, apply_choices
        >>> apply_choices(jnp.array([[-1.0, 0.0]]), (0, 1), PAPER_POOL)
        Array([[0. , 0.5]], dtype=float32)
    """
    axis = _check_input("apply_choices", x, axis, pool)
    traced = isinstance(choices, jax.core.Tracer)
    indices: Any = choices if traced else _checks.check_choices("apply_choices", choices, pool)
    _checks.check("apply_choices", choices=indices)
    _check_fit("apply_choices", x, axis, "choices", indices, (x.shape[axis],))
    if (replaced := replacement.get()) is not None:
        return replaced(pool, x, _along(axis, x.ndim, False, jnp.asarray(indices)))
    if traced:
        return _select(pool, axis, x, *_opaque(pool, indices, x.dtype))
    # One entry more, because XLA folds an array of equal values in spite of the barrier.
    rows = jnp.asarray(_fused.static_coefficients(pool, indices), _fused.wide(x.dtype))
    longer = jnp.asarray(np.append(indices, np.int32(-1)))
    longer, rows = jax.lax.optimization_barrier((longer, rows))
    return _select(pool, axis, x, longer[:-1], rows)


def select(pool: ActivationPool, x: jax.Array, choices: jax.Array) -> jax.Array:
    """f_c(x) elementwise, choices ints that broadcast against x."""
    chosen = jax.lax.optimization_barrier(jnp.broadcast_to(choices, x.shape))
    fused = _fused.covered(pool)
    y = _fused_value(pool, x, chosen, chosen) if fused else jnp.zeros_like(x)
    others = tuple((k, f) for k, f in enumerate(pool.functions) if k not in fused)
    return _masked(others, x, chosen, y) if others else y


def _opaque(pool: ActivationPool, choices: jax.Array, dtype: Any) -> tuple[jax.Array, jax.Array]:
    """Choices [..., N] and their rows of coefficients [C + 1, ..., N], hidden from XLA.

    If XLA saw constants it would drop the functions that are not in use and compile the others
    differently: the values of the two phases would differ in the last bit. Of several draws the
    choices stand for their rows too: each element then looks up its coefficients.
    """
    if choices.ndim > 1:
        choices = jax.lax.optimization_barrier(choices)
        return choices, choices
    rows = _fused.traced_coefficients(pool, choices, _fused.wide(dtype))
    return jax.lax.optimization_barrier((choices, rows))


def _check_input(where: str, x: jax.Array, axis: int, pool: ActivationPool) -> int:
    _checks.check(where, x=x, pool=pool)
    for name, function in zip(pool.names, pool.functions, strict=True):
        if _fused.coefficients(function) is None:
            _checks.check_elementwise(where, name, function)
    return _checks.check_axis(where, x, axis)


def _check_fit(where: str, x: jax.Array, axis: int, name: str, array: Any, shape: Any) -> None:
    if array.shape != shape:
        got = f"{list(shape)}, got {list(array.shape)}"
        raise ValueError(f"{where}: x{list(x.shape)} on axis {axis} needs {name} {got}")


def _along(axis: int, ndim: int, draws: bool, values: jax.Array) -> jax.Array:
    """values [..., N], or [..., D, N] of draws, shaped to broadcast against x with N on `axis`.

    The D draws are on axis 0 of x.
    """
    shape = [1] * ndim
    shape[axis] = values.shape[-1]
    if draws:
        shape[0] = values.shape[-2]
    return values.reshape(*values.shape[: -1 - draws], *shape)


# Choosing


def _select(
    pool: ActivationPool, axis: int, x: jax.Array, choices: jax.Array, rows: jax.Array
) -> jax.Array:
    """f_c[n](x): functions with coefficients by `rows` [C + 1, ..., N], the others by `choices`."""
    fused = _fused.covered(pool)
    along = functools.partial(_along, axis, x.ndim, choices.ndim > 1)
    chosen = along(choices)
    y = _fused_value(pool, x, along(rows), chosen) if fused else jnp.zeros_like(x)
    others = tuple((k, f) for k, f in enumerate(pool.functions) if k not in fused)
    return _masked(others, x, chosen, y) if others else y


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _fused_value(
    pool: ActivationPool, x: jax.Array, rows: jax.Array, choices: jax.Array
) -> jax.Array:
    """f_c[n](x) of functions that have coefficients; any number where the choice has none."""
    return _fused.evaluate(pool, x.astype(_fused.wide(x.dtype)), rows).astype(x.dtype)


@_fused_value.defjvp
def _fused_value_jvp(pool, primals, tangents):
    x, rows, choices = primals
    y = _fused_value(pool, *primals)
    return y, _fused_slope(pool, x, y, rows, choices) * tangents[0]


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _fused_slope(
    pool: ActivationPool, x: jax.Array, y: jax.Array, rows: jax.Array, choices: jax.Array
) -> jax.Array:
    """f′_c[n](x) of the same functions, y their value."""
    wide = _fused.wide(x.dtype)
    # The derivative from a y that is rounded to 16 bits would be off by as much.
    known = y if x.dtype == wide else None
    return _fused.derivative(pool, x.astype(wide), known, rows).astype(x.dtype)


@_fused_slope.defjvp
def _fused_slope_jvp(pool, primals, tangents):
    # From here on the functions' own derivatives: those of the formula would cost seven times tanh.
    x, _, _, choices = primals
    second = tuple((k, _Derivative(_Derivative(pool.functions[k]))) for k in _fused.covered(pool))
    curvature = _masked(second, x, choices, jnp.zeros_like(x))
    return _fused_slope(pool, *primals), curvature * tangents[0]


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _masked(
    functions: tuple[tuple[int, Activation], ...], x: jax.Array, choices: jax.Array, y: jax.Array
) -> jax.Array:
    """f_k(x) where choices is k, for every (k, f_k); y elsewhere."""
    for k, function in functions:
        y = jnp.where(choices == k, function(x).astype(x.dtype), y)
    return y


@_masked.defjvp
def _masked_jvp(functions, primals, tangents):
    # Selecting among derivatives, not differentiating the selection: there the functions not
    # chosen contribute 0 · f′_k(x), which is NaN where f′_k is infinite.
    x, choices, _ = primals
    x_dot, _, y_dot = tangents
    derivatives = tuple((k, _Derivative(function)) for k, function in functions)
    slope = _masked(derivatives, x, choices, jnp.zeros_like(x))
    kept = _masked(tuple((k, zero) for k, _ in functions), x, choices, y_dot)
    return _masked(functions, *primals), slope * x_dot + kept


@dataclasses.dataclass(frozen=True)
class _Derivative:
    """f′ as an elementwise function; through vjp, so that custom_vjp functions work too."""

    function: Activation

    def __call__(self, x: jax.Array) -> jax.Array:
        y, pullback = jax.vjp(self.function, x)
        return pullback(jnp.ones_like(y))[0]


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _hard_mix(pool: ActivationPool, axis: int, x: jax.Array, weights: jax.Array, *chosen: Any):
    return _select(pool, axis, x, *chosen)


def _hard_mix_jvp(pool, axis, primals, tangents):
    x, _, *chosen = primals
    x_dot, weights_dot, *_ = tangents
    if isinstance(x_dot, SymbolicZero):
        y = _select(pool, axis, x, *chosen)
        y_dot = jnp.zeros_like(y)
    else:
        y, y_dot = jax.jvp(lambda x: _select(pool, axis, x, *chosen), (x,), (x_dot,))
    if not isinstance(weights_dot, SymbolicZero):
        y_dot = y_dot + weighted_sum(pool, axis, x, weights_dot).astype(x.dtype)
    return y, y_dot


_hard_mix.defjvp(_hard_mix_jvp, symbolic_zeros=True)
