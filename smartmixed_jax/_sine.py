"""sin as vector instructions: XLA calls a scalar routine for it on CPUs, 20 times as long as tanh.

Cody and Waite's reduction x = k·π/2 + r, and the polynomials of Cephes' sinf and cosf. The result
is sin(x·(1 + δ)) with |δ| ≤ 2⁻²³: for |x| ≤ 10⁵ within 1.2e-7 of sin(x), beyond that within what a
rounding of x changes. float64 is left to XLA, 16-bit input is computed in float32.
"""

import math

import jax
import jax.numpy as jnp


def sin(x: jax.Array) -> jax.Array:
    """sin(x), any shape; its derivative is the cosine by the same reduction.

    float32 values are within 1.2e-7 for |x| ≤ 10⁵, and sin(x·(1 + δ)), |δ| ≤ 2⁻²³, beyond.
    """
    result: jax.Array = _sin(x)
    return result


@jax.custom_jvp
def _sin(x: jax.Array) -> jax.Array:
    return _quadrants(x, 0) if _is_narrow(x) else jnp.sin(x)


@jax.custom_jvp
def _cos(x: jax.Array) -> jax.Array:
    return _quadrants(x, 1) if _is_narrow(x) else jnp.cos(x)


@_sin.defjvp
def _(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    return _sin(*primals), _cos(*primals) * tangents[0]


@_cos.defjvp
def _(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    return _cos(*primals), -_sin(*primals) * tangents[0]


def _is_narrow(x: jax.Array) -> bool:
    dtype = jnp.result_type(x)
    return jnp.issubdtype(dtype, jnp.floating) and dtype != jnp.float64


def _quadrants(x: jax.Array, ahead: int) -> jax.Array:
    """sin(x + ahead·π/2), of the dtype of x."""
    x = jnp.asarray(x)
    wide = x.astype(jnp.float32)
    k = jnp.floor(wide * (2 / math.pi) + 0.5)
    r = wide
    for part in _HALF_PI:
        r = r - k * part
    r = jnp.where(r > 1.0, 1.0, jnp.where(r < -1.0, -1.0, r))  # NaN stays
    quadrant = k.astype(jnp.int32) + ahead
    z = r * r
    sine = r + r * (z * _polynomial(_SINE, z))
    cosine = 1 - 0.5 * z + z * z * _polynomial(_COSINE, z)
    y = jnp.where((quadrant & 1) == 1, cosine, sine)
    return jnp.where((quadrant & 2) == 2, -y, y).astype(x.dtype)


def _polynomial(coefficients: tuple[float, ...], z: jax.Array) -> jax.Array:
    value = jnp.full_like(z, coefficients[0])
    for coefficient in coefficients[1:]:
        value = value * z + coefficient
    return value


# π/2 in parts of 8 bits, whose products with k < 2¹⁶ are exact, and the rest.
_HALF_PI = (1.5703125, 4.825592041015625e-4, 1.2665987014770508e-6, 9.920935796805404e-10)
_SINE = (-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1)
_COSINE = (2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2)
