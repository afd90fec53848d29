"""The two pure operations: `mix` with a Selection, `apply_choices` with fixed choices.

Functions with coefficients are evaluated together by the fast form (`one_exp`); every other
function of the pool is evaluated everywhere and kept where it is chosen. `x` is [..., N] with the
neurons on `axis`.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from smartmixed_jax import one_exp
from smartmixed_jax.estimators import Selection
from smartmixed_jax.pools import Activation, ActivationPool, zero


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
    # Opaque to XLA as in `apply_choices`, should they be constants of the caller's program.
    columns = one_exp.drawn_columns(pool, choices, one_exp.wide(x.dtype))
    choices, columns = jax.lax.optimization_barrier((choices, columns))
    return _hard_mix(pool, axis, x, weights, choices, columns)


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
    opaque, columns = jax.lax.optimization_barrier(
        (
            jnp.asarray(np.append(indices, np.int32(-1))),
            jnp.asarray(one_exp.fixed_columns(pool, indices), one_exp.wide(x.dtype)),
        )
    )
    return _select(pool, axis, x, opaque[:-1], columns)


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


def _along(axis: int, ndim: int, values: jax.Array) -> jax.Array:
    """values [..., N] shaped to broadcast against x with N on `axis`."""
    shape = [-1 if i == axis else 1 for i in range(ndim)]
    return values.reshape(*values.shape[:-1], *shape)


# Choosing


def _select(
    pool: ActivationPool, axis: int, x: jax.Array, choices: jax.Array, columns: jax.Array
) -> jax.Array:
    """f_c[n](x); choices [N] and columns [C + 1, N] say the same, to the two forms."""
    fast = one_exp.covered(pool)
    y = _one_exp(pool, x, _along(axis, x.ndim, columns)) if fast else jnp.zeros_like(x)
    others = tuple(
        (k, _Elementwise(name, function))
        for k, (name, function) in enumerate(zip(pool.names, pool.functions, strict=True))
        if k not in fast
    )
    return _masked(others, x, _along(axis, x.ndim, choices), y) if others else y


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _one_exp(pool: ActivationPool, x: jax.Array, columns: jax.Array) -> jax.Array:
    """The pool's functions that have coefficients, by the fast form; any number for the others."""
    return one_exp.evaluate(pool, x.astype(one_exp.wide(x.dtype)), columns).astype(x.dtype)


@_one_exp.defjvp
def _one_exp_jvp(pool, primals, tangents):
    x, columns = primals
    y, wide = _one_exp(pool, x, columns), one_exp.wide(x.dtype)
    # The derivative from a y that is rounded to 16 bits would be off by as much.
    known = y if x.dtype == wide else None
    slope = one_exp.slope(pool, x.astype(wide), known, columns)
    return y, slope.astype(x.dtype) * tangents[0]


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
class _Elementwise:
    """The function, checked to keep the shape."""

    name: str
    function: Activation

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.function(x)
        if y.shape != x.shape:
            raise ValueError(
                f"{self.name!r} is not elementwise: it maps {list(x.shape)} to {list(y.shape)}"
            )
        return y


@dataclasses.dataclass(frozen=True)
class _Derivative:
    """f′ as an elementwise function; through vjp, so that custom_vjp functions work too."""

    function: Activation

    def __call__(self, x: jax.Array) -> jax.Array:
        y, pullback = jax.vjp(self.function, x)
        return pullback(jnp.ones_like(y))[0]


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _hard_mix(
    pool: ActivationPool,
    axis: int,
    x: jax.Array,
    weights: jax.Array,
    choices: jax.Array,
    columns: jax.Array,
) -> jax.Array:
    return _select(pool, axis, x, choices, columns)


def _hard_mix_jvp(pool, axis, primals, tangents):
    x, _, *chosen = primals
    x_dot, weights_dot, *_ = tangents
    if isinstance(x_dot, SymbolicZero):
        y = _select(pool, axis, x, *chosen)
        y_dot = jnp.zeros_like(y)
    else:
        y, y_dot = jax.jvp(lambda x: _select(pool, axis, x, *chosen), (x,), (x_dot,))
    if not isinstance(weights_dot, SymbolicZero):
        y_dot = y_dot + _weighted_sum(pool, axis, x, weights_dot).astype(x.dtype)
    return y, y_dot


_hard_mix.defjvp(_hard_mix_jvp, symbolic_zeros=True)


# Weighting: Σ_k weights[n, k] · f_k(x), whose transpose is the gradient to the weights


@functools.partial(jax.jit, static_argnums=(0, 1))
def _weighted_sum(pool: ActivationPool, axis: int, x: jax.Array, weights: jax.Array) -> jax.Array:
    """Σ_k weights[n, k] · f_k(x) in at least float32.

    Its transpose takes the sums over the batch that the logits need. It computes the function
    values anew: of small batches all at once, of large ones block by block of rows.
    """
    dtype = jnp.promote_types(one_exp.wide(x.dtype), one_exp.wide(weights.dtype))
    if not x.size:
        return jnp.zeros(x.shape, dtype)
    matrix = jnp.asarray(one_exp.terms_matrix(pool), dtype)
    coefficients = jnp.einsum("jk,nk->jn", matrix, weights.astype(dtype), precision="highest")
    rows = jnp.moveaxis(x, axis, -1)
    shape = rows.shape
    rows = rows.reshape(-1, shape[-1])
    at_once = jax.default_backend() == "cpu" and len(rows) < BLOCKED
    result = (_sum_at_once if at_once else _sum_by_blocks)(pool, rows, coefficients)
    return jnp.moveaxis(result.reshape(shape), -1, axis)


BLOCKED = 1024
"""From so many rows on the sums are taken block by block."""


@functools.partial(jax.checkpoint, static_argnums=0)
def _sum_at_once(pool: ActivationPool, rows: jax.Array, coefficients: jax.Array) -> jax.Array:
    """Σ_j coefficients[j] · φ_j(rows); rows [B, N], coefficients [J, N]."""
    # The transpose of `split` is one stack, and that of the broadcast one plain sum over its rows:
    # two passes on both cores, where a sum per term would be J passes and slower ones.
    spread = jnp.broadcast_to(coefficients[:, None], (len(coefficients), *rows.shape))
    parts = [part[0] for part in jax.lax.split(spread, [1] * len(coefficients))]
    return _add_up(parts, one_exp.terms(pool, rows))


def _sum_by_blocks(pool: ActivationPool, rows: jax.Array, coefficients: jax.Array) -> jax.Array:
    """The same, a block of rows at a time."""
    on_cpu = jax.default_backend() == "cpu"
    batch, features = rows.shape
    # Few enough for a CPU's cache, and a sixteenth of the batch at most. XLA for GPUs fuses the
    # sums by itself.
    block = max(1, min(32_768 // features, batch // 16)) if on_cpu else batch

    def repeat(row: jax.Array) -> jax.Array:
        # As a product, because its transpose sums faster than a reduction does on a CPU.
        ones = jnp.ones((block, 1), row.dtype)
        product = functools.partial(jnp.matmul, precision="highest")
        return product(ones, row[None]) if on_cpu else jnp.broadcast_to(row, (block, features))

    # Each coefficient is a block of its own, equal in every row: so the transpose adds up whole
    # blocks, elementwise, and sums over the rows of a block once, after the last.
    spread = [repeat(row) for row in coefficients]

    @jax.checkpoint
    def add(rows: jax.Array) -> jax.Array:
        parts = [part[: len(rows)] for part in spread]
        return _add_up(parts, one_exp.terms(pool, rows, share=on_cpu))

    whole = batch // block * block
    result = jax.lax.map(add, rows[:whole].reshape(-1, block, features)).reshape(whole, features)
    return jnp.concatenate([result, add(rows[whole:])]) if whole < batch else result


def _add_up(coefficients: Sequence[jax.Array], terms: Sequence[jax.Array]) -> jax.Array:
    products = (c * y.astype(c.dtype) for c, y in zip(coefficients, terms, strict=True))
    return functools.reduce(jnp.add, products)
