"""The sums over the batch that the gradient to the logits needs.

`weighted_sum` is Σ_k weights[n, k] · f_k(x). It is linear in the weights, and its transpose is
what phase 1 pays for: s[n, k] = Σ_b g[b, n] · f_k(x[b, n]). By the pool's basis functions φ_1 … φ_J
these are J ≤ K sums, taken in at least float32. The function values are computed again rather than
kept: of small batches all at once, of large ones block by block of rows.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from smartmixed_jax import _fused
from smartmixed_jax.pools import ActivationPool

BLOCKED = 1024
"""From so many rows on the sums are taken block by block."""


@functools.partial(jax.jit, static_argnums=(0, 1))
def weighted_sum(pool: ActivationPool, axis: int, x: jax.Array, weights: jax.Array) -> jax.Array:
    """Σ_k weights[n, k] · f_k(x), x [..., N] with the neurons on `axis`, in at least float32."""
    dtype = jnp.promote_types(_fused.wide(x.dtype), _fused.wide(weights.dtype))
    if 0 in x.shape:
        return jnp.zeros(x.shape, dtype)
    matrix = jnp.asarray(_fused.basis_matrix(pool), dtype)
    coefficients = jnp.einsum("jk,nk->jn", matrix, weights.astype(dtype), precision="highest")
    rows = jnp.moveaxis(x, axis, -1)
    shape = rows.shape
    rows = rows.reshape(-1, shape[-1])
    batch = rows.shape[0]
    # Of a symbolic batch (jax.export) no blocks can be cut.
    blocked = isinstance(batch, int) and (jax.default_backend() != "cpu" or batch >= BLOCKED)
    result = (_sum_by_blocks if blocked else _sum_at_once)(pool, rows, coefficients)
    return jnp.moveaxis(result.reshape(shape), -1, axis)


@functools.partial(jax.checkpoint, static_argnums=0)
def _sum_at_once(pool: ActivationPool, rows: jax.Array, coefficients: jax.Array) -> jax.Array:
    """Σ_j coefficients[j] · φ_j(rows); rows [B, N], coefficients [J, N]."""
    # The transpose of `split` is one stack, and that of the broadcast one plain sum over its rows:
    # two passes on both cores, where a sum per basis function would be J passes and slower ones.
    spread = jnp.broadcast_to(coefficients[:, None], (len(coefficients), *rows.shape))
    parts = [part[0] for part in jax.lax.split(spread, [1] * len(coefficients))]
    return _add_up(parts, _fused.basis(pool, rows))


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
        return _add_up(parts, _fused.basis(pool, rows, share=on_cpu))

    whole = batch // block * block
    result = jax.lax.map(add, rows[:whole].reshape(-1, block, features)).reshape(whole, features)
    return jnp.concatenate([result, add(rows[whole:])]) if whole < batch else result


def _add_up(coefficients: Sequence[jax.Array], values: Sequence[jax.Array]) -> jax.Array:
    products = (c * y.astype(c.dtype) for c, y in zip(coefficients, values, strict=True))
    return functools.reduce(jnp.add, products)
