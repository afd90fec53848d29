"""ActivationPool and the three pools: order, identity, values, variance matching."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from smartmixed_jax import EXTENDED_POOL, PAPER_POOL, REGRESSION_POOL, ActivationPool, mix
from smartmixed_jax.estimators import deterministic

pytestmark = pytest.mark.usefixtures("strict")

POOLS = {"paper": PAPER_POOL, "regression": REGRESSION_POOL, "extended": EXTENDED_POOL}
DOCUMENTED_ORDER = {
    "paper": "relu sigmoid tanh leaky_relu elu selu",
    "regression": "relu tanh silu sin square identity gauss gelu",
    "extended": "relu sigmoid tanh leaky_relu elu selu gelu silu softplus mish identity zero sin "
    "square gauss",
}
ALPHA, SCALE = 1.6732632423543772, 1.0507009873554805
FORMULAS = {
    "relu": lambda x: np.maximum(x, 0),
    "sigmoid": special.expit,
    "tanh": np.tanh,
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "selu": lambda x: SCALE * np.where(x > 0, x, ALPHA * np.expm1(np.minimum(x, 0))),
    "gelu": lambda x: x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "silu": lambda x: x * special.expit(x),
    "softplus": lambda x: np.logaddexp(x, 0),
    "mish": lambda x: x * np.tanh(np.logaddexp(x, 0)),
    "identity": lambda x: x,
    "zero": np.zeros_like,
    "sin": np.sin,
    "square": lambda x: x * x / 2,
    "gauss": lambda x: np.exp(-x * x),
}


def normal_moments(function):
    """E f and E f² under N(0, 1) by Gauss-Legendre on pieces that end at the kink at 0."""
    nodes, weights = np.polynomial.legendre.leggauss(60)
    edges = np.linspace(-9, 9, 13)
    half = (edges[1:] - edges[:-1])[:, None] / 2
    x = ((edges[1:] + edges[:-1])[:, None] / 2 + half * nodes).ravel()
    mass = (half * weights).ravel() * np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    y = np.asarray(function(jnp.asarray(x, jnp.float32)), np.float64)
    return mass @ y, mass @ y**2


@pytest.mark.parametrize("pool", POOLS)
def test_pool_holds_its_functions_in_the_documented_order(pool):
    names = tuple(DOCUMENTED_ORDER[pool].split())
    assert POOLS[pool].names == names
    assert len(POOLS[pool]) == len(POOLS[pool].functions) == len(names)
    assert [POOLS[pool].index(name) for name in names] == list(range(len(names)))


@pytest.mark.parametrize("pool", POOLS)
def test_every_function_has_the_documented_values(pool):
    x = np.concatenate([np.linspace(-12, 12, 961), [0.0, 1e-6, -1e-6, 30.0, -30.0]])
    x = x.astype(np.float32)
    for name, function in zip(POOLS[pool].names, POOLS[pool].functions, strict=True):
        y = np.asarray(function(jnp.asarray(x)))
        assert y.dtype == np.float32
        expected = FORMULAS[name](x.astype(np.float64))
        np.testing.assert_allclose(y, expected, rtol=3e-6, atol=2e-6, err_msg=name)


@pytest.mark.parametrize("pool", POOLS)
def test_every_function_is_finite_on_the_real_line(pool):
    x = jnp.array([-1e18, -1e4, -90.0, 0.0, 90.0, 1e4, 1e18], jnp.float32)
    for name, function in zip(POOLS[pool].names, POOLS[pool].functions, strict=True):
        y, pullback = jax.vjp(function, x)
        assert np.isfinite(y).all(), name
        assert np.isfinite(pullback(jnp.ones_like(y))[0]).all(), name


def test_pool_takes_a_mapping_or_pairs():
    pairs = [("tanh", jnp.tanh), ("sin", jnp.sin)]
    assert ActivationPool(pairs) == ActivationPool(iter(pairs)) == ActivationPool(dict(pairs))
    assert ActivationPool(pairs).functions == (jnp.tanh, jnp.sin)
    assert repr(ActivationPool(pairs)) == "ActivationPool(tanh, sin)"


def test_pools_are_equal_exactly_when_names_functions_and_order_are():
    pool = ActivationPool({"tanh": jnp.tanh, "sin": jnp.sin})
    same = ActivationPool({"tanh": jnp.tanh, "sin": jnp.sin})
    assert pool == same
    assert hash(pool) == hash(same)
    others = [
        ActivationPool({"sin": jnp.sin, "tanh": jnp.tanh}),
        ActivationPool({"tanh": jnp.tanh, "sine": jnp.sin}),
        ActivationPool({"tanh": jnp.tanh, "sin": jnp.cos}),
        ActivationPool({"tanh": jnp.tanh}),
        ("tanh", "sin"),
    ]
    assert all(pool != other for other in others)


def test_an_equal_pool_is_a_static_argument_that_does_not_retrace():
    traces = []

    def apply(pool, x):
        traces.append(pool)
        return mix(x, deterministic(jnp.eye(2, len(pool))), pool)

    apply = jax.jit(apply, static_argnums=0)
    x = jnp.ones((3, 2))
    apply(ActivationPool({"tanh": jnp.tanh, "sin": jnp.sin}), x)
    apply(ActivationPool({"tanh": jnp.tanh, "sin": jnp.sin}), x)
    assert len(traces) == 1
    apply(ActivationPool({"tanh": jnp.tanh, "cos": jnp.cos}), x)
    assert len(traces) == 2


@pytest.mark.parametrize(
    ("functions", "error", "message"),
    [
        ({}, ValueError, "empty pool"),
        ([], ValueError, "empty pool"),
        ([("a", jnp.sin), ("b", jnp.cos), ("a", jnp.tanh)], ValueError, r"duplicate names \['a'\]"),
        ({"a": 3.5}, TypeError, "'a' must be a function, got 3.5"),
        ({7: jnp.sin}, TypeError, "non-empty string without commas, got 7"),
        ({"": jnp.sin}, TypeError, "non-empty string without commas, got ''"),
        ({"a,b": jnp.sin}, TypeError, "non-empty string without commas, got 'a,b'"),
        ([jnp.sin], TypeError, "expected names → functions, got"),
        (3, TypeError, "expected names → functions, got 3"),
    ],
)
def test_a_bad_pool_raises_naming_the_value(functions, error, message):
    with pytest.raises(error, match=f"ActivationPool: .*{message}"):
        ActivationPool(functions)


def test_an_unknown_name_raises_naming_it_and_the_pool():
    with pytest.raises(ValueError, match=r"no function 'gelu' in \['relu', 'sigmoid'"):
        PAPER_POOL.index("gelu")


@pytest.mark.parametrize("pool", POOLS)
def test_variance_matched_functions_have_mean_0_and_second_moment_1(pool):
    matched = POOLS[pool].variance_matched()
    assert matched.names == POOLS[pool].names
    for name, function in zip(matched.names, matched.functions, strict=True):
        if name != "zero":
            mean, second = normal_moments(function)
            assert abs(mean) < 1e-5, name
            assert abs(second - 1) < 1e-5, name


def test_variance_matching_shifts_and_scales_and_nothing_else():
    x = jnp.linspace(-3, 3, 101)
    for name, matched in zip(
        PAPER_POOL.names, PAPER_POOL.variance_matched().functions, strict=True
    ):
        function = PAPER_POOL.functions[PAPER_POOL.index(name)]
        mean, second = normal_moments(function)
        expected = (np.asarray(function(x), np.float64) - mean) / math.sqrt(second - mean**2)
        np.testing.assert_allclose(matched(x), expected, atol=2e-5, err_msg=name)


def test_variance_matching_keeps_constants():
    def five(x):
        return jnp.full_like(x, 5.0)

    matched = ActivationPool({"five": five, "sin": jnp.sin}).variance_matched()
    assert matched.functions[0] is five
    assert matched.functions[1] is not jnp.sin
    zero = EXTENDED_POOL.index("zero")
    assert EXTENDED_POOL.variance_matched().functions[zero] is EXTENDED_POOL.functions[zero]


def test_variance_matching_twice_gives_equal_pools():
    assert PAPER_POOL.variance_matched() == PAPER_POOL.variance_matched()
    assert hash(PAPER_POOL.variance_matched()) == hash(PAPER_POOL.variance_matched())
    assert PAPER_POOL.variance_matched() != PAPER_POOL


def test_variance_matching_works_inside_jit():
    x = jnp.linspace(-2, 2, 6)[None]
    selection = deterministic(jnp.eye(6))
    inside = jax.jit(lambda x: mix(x, selection, PAPER_POOL.variance_matched()))(x)
    np.testing.assert_allclose(inside, mix(x, selection, PAPER_POOL.variance_matched()), rtol=1e-6)


@pytest.mark.parametrize("function", [jnp.log, lambda x: jnp.exp(x * x), lambda x: x / 0.0])
def test_variance_matching_of_a_function_without_finite_moments_raises_naming_it(function):
    pool = ActivationPool({"tanh": jnp.tanh, "wild": function})
    with pytest.raises(ValueError, match=r"variance_matched: 'wild' has mean .* expected finite"):
        pool.variance_matched()
