"""The library's own sin: its values, derivatives of every order, dtypes and special values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smartmixed_jax import EXTENDED_POOL, apply_choices
from smartmixed_jax.pools import sin

pytestmark = pytest.mark.usefixtures("strict")


def samples(bound: float) -> np.ndarray:
    return np.random.default_rng(0).uniform(-bound, bound, 100_000).astype(np.float32)


@pytest.mark.parametrize("bound", [1e-3, 1.0, 30.0, 1e3, 1e5])
def test_values_and_derivatives_are_those_of_sin(bound):
    x = samples(bound)
    exact = x.astype(np.float64)
    function, expected = sin, (np.sin(exact), np.cos(exact), -np.sin(exact), -np.cos(exact))
    for order in expected:
        np.testing.assert_allclose(jax.jit(jax.vmap(function))(x), order, atol=1.2e-7, rtol=0)
        function = jax.grad(function)


def test_a_small_argument_keeps_its_relative_accuracy():
    x = np.geomspace(1e-30, 1, 1_000, dtype=np.float32)
    np.testing.assert_allclose(sin(x), np.sin(x.astype(np.float64)), rtol=1.5e-7)
    np.testing.assert_array_equal(sin(-x), -sin(x))


def test_far_out_it_is_the_sine_of_a_neighbour():
    x = samples(1e7)
    exact, step = x.astype(np.float64), np.spacing(np.abs(x))
    # |sin(x) − sin(x + δ)| ≤ δ, with δ the distance to the next float32.
    assert (np.abs(jax.jit(sin)(x) - np.sin(exact)) <= step + 1.2e-7).all()
    far = jax.jit(sin)(jnp.array([1e10, -1e20, 3e38], jnp.float32))
    assert (np.abs(far) <= 1).all()


def test_special_values():
    found = np.asarray(sin(jnp.array([jnp.inf, -jnp.inf, jnp.nan, 0.0], jnp.float32)))
    np.testing.assert_array_equal(found, [np.nan, np.nan, np.nan, 0.0])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_sixteen_bits_are_rounded_once(dtype):
    x = jnp.asarray(samples(30.0)[:1_000], dtype)
    assert sin(x).dtype == dtype
    wide = x.astype(jnp.float32)
    np.testing.assert_array_equal(jax.jit(sin)(x), jax.jit(sin)(wide).astype(dtype))


def test_float64_and_integers_are_left_to_jax():
    np.testing.assert_array_equal(sin(jnp.arange(3)), jnp.sin(jnp.arange(3)))
    with jax.enable_x64(True):
        x = jnp.linspace(-9, 9, 99, dtype=jnp.float64)
        np.testing.assert_array_equal(sin(x), jnp.sin(x))
        np.testing.assert_allclose(jax.vmap(jax.grad(sin))(x), jnp.cos(x), rtol=1e-15)


def test_a_fixed_layer_has_the_third_derivatives_of_its_functions():
    """Beyond the first the fused form takes the functions' own derivatives."""
    choices = np.arange(len(EXTENDED_POOL))
    x = np.random.default_rng(0).normal(size=choices.shape).astype(np.float32)

    def third(f):
        for _ in range(3):
            f = jax.grad(lambda x, f=f: jnp.sum(f(x)))
        return f

    found = third(lambda x: apply_choices(x, choices, EXTENDED_POOL))(x)
    own = [third(f)(x[k]) for k, f in enumerate(EXTENDED_POOL.functions)]
    np.testing.assert_allclose(found, own, rtol=1e-5, atol=1e-5)
