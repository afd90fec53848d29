"""The fast form: as exact as it says, everywhere, for every pool, in every mode of JAX."""

import re

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.test_util import check_grads

from smartmixed_jax import (
    EXTENDED_POOL,
    MLP,
    PAPER_POOL,
    REGRESSION_POOL,
    ActivationPool,
    Coefficients,
    FunctionTable,
    MixedActivation,
    Selection,
    apply_choices,
    covered,
    estimators,
    leaky_relu,
    mix,
)
from smartmixed_jax.pools import gauss, identity, square, zero

pytestmark = [pytest.mark.optimized, pytest.mark.usefixtures("strict")]

FAMILY = ActivationPool(
    {
        **dict(zip(PAPER_POOL.names, PAPER_POOL.functions, strict=True)),
        "identity": identity,
        "zero": zero,
        "silu": jax.nn.silu,
        "gelu": jax.nn.gelu,
        "gauss": gauss,
        "mish": jax.nn.mish,
        "softplus": jax.nn.softplus,
        "leaky_0.2": leaky_relu(0.2),
        "leaky_-0.5": leaky_relu(-0.5),
    }
)
"""Everything with coefficients in one pool: every term of the formula is in use."""

EXACT = (*PAPER_POOL.names, "identity", "gauss", "silu", "leaky_0.2", "leaky_-0.5")
"""Within 3 ulp of float32; silu above −87."""
TINY = float(np.finfo(np.float32).tiny)


def grid(largest=1e30):
    """Both signs: every magnitude to 1e30, and densely where the exponential lives."""
    rng = np.random.default_rng(0)
    dense = [rng.uniform(0, 110, 100_000), rng.uniform(0, 4, 50_000), np.linspace(80, 95, 20_000)]
    x = np.concatenate([np.geomspace(1e-37, largest, 30_000), *dense, [0.0]]).astype(np.float32)
    return np.concatenate([x, -x])


def exactly(function, x):
    """function(x) and its derivative in float64."""
    with jax.enable_x64(True):
        x = jnp.asarray(x, jnp.float64)
        y, pullback = jax.vjp(function, x)
        return np.asarray(y), np.asarray(pullback(jnp.ones_like(y))[0])


@jax.jit(static_argnums=(1, 2))
def evaluate(x, k, pool):
    """The pool's k-th function at x [B]; one neuron."""
    y, pullback = jax.vjp(lambda x: apply_choices(x[:, None], (k,), pool)[:, 0], x)
    return y, pullback(jnp.ones_like(y))[0]


def ulps(y, exact):
    """|y − exact| in units of float32's last place at exact."""
    spacing = np.spacing(np.maximum(np.abs(exact), TINY).astype(np.float32))
    return np.abs(np.asarray(y, np.float64) - exact) / spacing


@pytest.mark.parametrize("pool", [PAPER_POOL, REGRESSION_POOL, FAMILY], ids=["6", "8", "15"])
def test_values_are_within_3_ulp_and_gradients_within_1e6_of_float64(pool):
    x = grid()
    for k in covered(pool):
        name, (exact, slope) = pool.names[k], exactly(pool.functions[k], x)
        y, gradient = evaluate(x, k, pool)
        kept = (np.abs(exact) >= TINY) | (exact == 0)
        if name in EXACT:
            kept &= (x > -87) if name == "silu" else True
            assert ulps(y, exact)[kept].max() <= 3, name
        near = np.abs(x) < 100
        scale = np.maximum(1, np.abs(exact))
        assert (np.abs(np.asarray(y, np.float64) - exact) / scale)[near].max() <= 1e-6, name
        # At a kink the convention decides; a test of its own.
        assert np.abs(gradient - slope)[(x != 0) & kept].max() <= 1e-6, name


def test_gelu_is_within_1e6_everywhere_below_its_linear_part():
    x = grid()
    exact, _ = exactly(jax.nn.gelu, x)
    y, _ = evaluate(x, FAMILY.index("gelu"), FAMILY)
    assert np.abs(np.asarray(y, np.float64) - exact)[x < 8].max() <= 1e-6


LIMITS = {
    "relu": (0.0, 0.0, np.inf),
    "sigmoid": (0.0, 0.5, 1.0),
    "tanh": (-1.0, 0.0, 1.0),
    "leaky_relu": (-np.inf, 0.0, np.inf),
    "elu": (-1.0, 0.0, np.inf),
    "selu": (-1.7580993408473766, 0.0, np.inf),
    "identity": (-np.inf, 0.0, np.inf),
    "zero": (0.0, 0.0, 0.0),
    "silu": (0.0, 0.0, np.inf),
    "gelu": (0.0, 0.0, np.inf),
    "gauss": (0.0, 1.0, 0.0),
    "mish": (0.0, 0.0, np.inf),
    "softplus": (0.0, float(np.log(2)), np.inf),
    "leaky_0.2": (-np.inf, 0.0, np.inf),
    "leaky_-0.5": (np.inf, 0.0, np.inf),
}
"""At −∞, ±0 and ∞."""
SLOPES = {
    "relu": (0.0, 0.0, 1.0),
    "sigmoid": (0.0, 0.25, 0.0),
    "tanh": (0.0, 1.0, 0.0),
    "leaky_relu": (0.01, 0.01, 1.0),
    "elu": (0.0, 1.0, 1.0),
    "selu": (0.0, 1.7580993408473766, 1.0507009873554805),
    "identity": (1.0, 1.0, 1.0),
    "zero": (0.0, 0.0, 0.0),
    "silu": (0.0, 0.5, 1.0),
    "gelu": (0.0, 0.5, 1.0),
    "gauss": (0.0, 0.0, 0.0),
    "mish": (0.0, 0.6, 1.0),
    "softplus": (0.0, 0.5, 1.0),
    "leaky_0.2": (0.2, 0.2, 1.0),
    "leaky_-0.5": (-0.5, -0.5, 1.0),
}
"""Derivatives at −∞, ±0 and ∞; at a kink that of the negative side."""


@pytest.mark.parametrize("pool", [PAPER_POOL, FAMILY], ids=["6", "15"])
def test_zeros_infinities_and_nan_are_as_documented(pool):
    x = np.array([-np.inf, -0.0, 0.0, np.inf, np.nan], np.float32)
    for k, name in enumerate(pool.names):
        y, slope = evaluate(x, k, pool)
        low, middle, high = LIMITS[name]
        np.testing.assert_allclose(y, [low, middle, middle, high, np.nan], rtol=3e-7)
        low, middle, high = SLOPES[name]
        np.testing.assert_allclose(slope[:4], [low, middle, middle, high], rtol=3e-7, atol=1e-12)


@pytest.mark.parametrize(
    "functions", [{"relu": jax.nn.relu, "zero": zero}, {"zero": zero}, {"relu": jax.nn.relu}]
)
def test_nan_survives_where_no_term_of_the_pool_holds_x(functions):
    pool = ActivationPool(functions)
    for k in range(len(pool)):
        assert np.isnan(evaluate(np.array([np.nan], np.float32), k, pool)[0]).all()


@pytest.mark.parametrize("pool", [PAPER_POOL, FAMILY], ids=["6", "15"])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_16_bit_values_and_gradients_are_rounded_once(pool, dtype):
    x = jnp.asarray(grid(largest=1e4), dtype)
    x = x[jnp.isfinite(x)]
    wide = np.asarray(x, np.float32)
    half_ulp, tiny = float(jnp.finfo(dtype).eps) / 2, float(jnp.finfo(dtype).tiny)
    for k, name in enumerate(pool.names):
        exact = exactly(pool.functions[k], wide)
        got = evaluate(x, k, pool)
        for y, expected in zip(got, exact, strict=True):
            assert y.dtype == dtype
            y = np.asarray(y, np.float64)
            kept = (np.abs(expected) > 4 * tiny) & (np.abs(expected) < 6e4) & (wide != 0)
            # A thousandth more: float32 may itself be just beyond a tie. And not the far tails.
            kept &= (wide > -80) if name in ("gelu", "mish", "softplus") else True
            error = np.abs(y - expected)[kept] / np.abs(expected)[kept]
            absolute = np.abs(y - expected)[kept]
            assert ((error <= half_ulp * (1 + 1e-3)) | (absolute <= 1e-6)).all(), name


def test_float64_input_is_computed_in_float64():
    with jax.enable_x64(True):
        x = jnp.linspace(-40, 40, 4001, dtype=jnp.float64)
        for k, function in enumerate(FAMILY.functions):
            y, slope = evaluate(x, k, FAMILY)
            expected, derivative = exactly(function, x)
            assert y.dtype == jnp.float64
            np.testing.assert_allclose(y, expected, rtol=1e-13, atol=1e-14)
            np.testing.assert_allclose(slope[x != 0], derivative[x != 0], rtol=1e-12, atol=1e-13)


# --- derivatives --------------------------------------------------------------------------

SMOOTH = ActivationPool(
    {"sigmoid": jax.nn.sigmoid, "tanh": jnp.tanh, "identity": identity, "gauss": gauss}
)


@pytest.mark.parametrize(
    "pool", [SMOOTH, ActivationPool({"tanh": jnp.tanh, "sigmoid": jax.nn.sigmoid})]
)
def test_numerical_derivatives_agree_to_second_order_in_both_modes(pool):
    """From x (a pool with gauss) and from the output (one without)."""
    with jax.enable_x64(True):
        x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4)))
        choices = tuple(np.arange(4) % len(pool))
        check_grads(lambda x: apply_choices(x, choices, pool), (x,), order=2)
        weights = jax.nn.one_hot(jnp.asarray(choices), len(pool), dtype=jnp.float64)
        hard = jnp.asarray(choices)
        check_grads(lambda x: mix(x, Selection(weights, hard), pool), (x,), order=2)


@pytest.mark.parametrize(
    "functions",
    [
        {"relu": jax.nn.relu, "falls": leaky_relu(-0.5)},  # y > 0 does not say x > 0
        {"relu": jax.nn.relu, "sin": jnp.sin},  # the formula alone would give sin relu's slope
    ],
)
def test_a_small_pools_gradient_is_the_chosen_functions_own(functions):
    pool, x = ActivationPool(functions), np.linspace(-3, 3, 8, dtype=np.float32)
    for k, function in enumerate(pool.functions):
        np.testing.assert_allclose(evaluate(x, k, pool)[1], exactly(function, x)[1], atol=1e-6)


def test_hessian_of_a_fixed_network_is_that_of_the_general_form():
    x = jnp.asarray(np.random.default_rng(0).normal(size=4), jnp.float32)

    def hessian(pool):
        return jax.hessian(lambda x: jnp.sum(apply_choices(x, (1, 2, 4, 5), pool) ** 2))(x)

    np.testing.assert_allclose(hessian(PAPER_POOL), hessian(PAPER_POOL.with_form("general")), 1e-5)


def test_gradient_to_the_logits_holds_at_every_batch_size_and_remainder():
    for batch in (1, 31, 33, 128, 1023, 1030):
        rng = np.random.default_rng(batch)
        x = jnp.asarray(rng.normal(size=(batch, 600)), jnp.float32)
        g = jnp.asarray(rng.normal(size=(batch, 600)), jnp.float32)
        selection = estimators.deterministic(jnp.zeros((600, 6)))

        def loss(weights, x=x, g=g, choices=selection.choices):
            return jnp.sum(g * mix(x, Selection(weights, choices), PAPER_POOL))

        got = jax.jit(jax.grad(loss))(selection.weights)
        values = np.stack([exactly(f, np.asarray(x))[0] for f in PAPER_POOL.functions])
        expected = np.einsum("bn,kbn->nk", np.asarray(g, np.float64), values)
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=2e-6 * np.sqrt(batch))


# --- any pool, table, shape and dtype -----------------------------------------------------

CANDIDATES = dict(zip(FAMILY.names, FAMILY.functions, strict=True))
CANDIDATES |= {"sin": jnp.sin, "square": square, "erf_gelu": lambda x: jax.nn.gelu(x, False)}
CANDIDATES |= dict(
    (f"{name} matched", function)
    for name, function in zip(
        EXTENDED_POOL.names, EXTENDED_POOL.variance_matched().functions, strict=True
    )
)


@hypothesis.settings(deadline=None, max_examples=12, derandomize=True)
@hypothesis.given(data=st.data())
def test_any_pool_gives_the_general_forms_values_and_gradients(data):
    names = data.draw(
        st.lists(st.sampled_from(sorted(CANDIDATES)), min_size=1, max_size=6, unique=True)
    )
    pool = ActivationPool({name: CANDIDATES[name] for name in names})
    shape = data.draw(st.sampled_from([(3, 5), (7,), (2, 3, 4), (1, 1), (0, 2), (40, 3)]))
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    dtype = data.draw(st.sampled_from([jnp.float32, jnp.bfloat16]))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    x = jnp.asarray(3 * rng.normal(size=shape), dtype)
    g = jnp.asarray(rng.normal(size=shape), dtype)
    choices = rng.integers(0, len(pool), shape[axis])

    def run(form):
        def hard(x, weights):
            selection = Selection(weights, jnp.asarray(choices, jnp.int32))
            return mix(x, selection, pool.with_form(form), axis=axis)

        weights = jax.nn.one_hot(choices, len(pool))
        y, pullback = jax.jit(lambda x, w: jax.vjp(hard, x, w))(x, weights)
        return y, *pullback(g)

    fast, general = run("auto"), run("general")
    fixed = jax.jit(lambda x: apply_choices(x, choices, pool, axis=axis))(x)
    np.testing.assert_array_equal(np.asarray(fixed, np.float32), np.asarray(fast[0], np.float32))
    # The general form rounds every function to bfloat16, the fast form only the result.
    tolerance = 4e-6 if dtype == jnp.float32 else 4e-2
    for ours, theirs in zip(fast, general, strict=True):
        assert ours.dtype == theirs.dtype
        assert ours.shape == theirs.shape
        scale = max(1.0, float(jnp.max(jnp.abs(theirs), initial=0)))
        ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
        np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance * scale)


# --- which form, and what is compiled -----------------------------------------------------


def test_the_pool_decides_the_form_and_says_so():
    assert covered(PAPER_POOL) == (0, 1, 2, 3, 4, 5)
    assert covered(FAMILY) == tuple(range(len(FAMILY)))
    outside = [EXTENDED_POOL.index(name) for name in ("sin", "square")]
    assert set(range(len(EXTENDED_POOL))) - set(covered(EXTENDED_POOL)) == set(outside)
    assert covered(PAPER_POOL.with_form("general")) == ()
    assert PAPER_POOL.form == "auto"
    assert PAPER_POOL.with_form("fused") != PAPER_POOL
    assert PAPER_POOL.with_form("general").with_form("auto") == PAPER_POOL
    matched = PAPER_POOL.with_form("fused").variance_matched()
    assert matched.form == "fused"
    assert covered(matched) == (0, 1, 2, 3, 4, 5)


def test_a_forced_form_that_cannot_be_raises_naming_the_functions():
    with pytest.raises(ValueError, match=r"\['sin', 'square'\] have no coefficients"):
        apply_choices(jnp.ones((2, 1)), (0,), EXTENDED_POOL.with_form("fused"))
    with pytest.raises(ValueError, match="form must be one of auto, fused, general, got 'fast'"):
        PAPER_POOL.with_form("fast")


def test_a_users_function_joins_by_its_attribute():
    class Hat:
        """1 − |tanh x| = 2e/(1 + e) with e = exp(−2|x|)."""

        coefficients = Coefficients(low=-99, high=99, scale=2.0, p_e=2.0, p_d=1.0, n_e=2.0, n_d=1.0)

        def __call__(self, x):
            return 1 - jnp.abs(jnp.tanh(x))

    pool = ActivationPool({"hat": Hat(), "relu": jax.nn.relu})
    assert covered(pool) == (0, 1)
    x = np.linspace(-3, 3, 101, dtype=np.float32)
    np.testing.assert_allclose(evaluate(x, 0, pool)[0], 1 - np.abs(np.tanh(x)), atol=1e-6)


def fixed_network():
    rng = np.random.default_rng(0)
    return MLP(
        20,
        (16, 12),
        3,
        activation=lambda n, rngs: MixedActivation(
            FunctionTable(PAPER_POOL, rng.integers(0, 6, n))
        ),
        rngs=nnx.Rngs(0),
    )


def test_a_fixed_network_compiles_to_one_masked_computation():
    """No gather, scatter, conditional or loop over functions, forward or backward."""
    graphdef, params = nnx.split(fixed_network())

    def loss(params, x):
        return jnp.sum(nnx.merge(graphdef, params)(x) ** 2)

    text = jax.jit(jax.value_and_grad(loss)).lower(params, jnp.ones((8, 20))).compile().as_text()
    operations = set(re.findall(r" = \S+ ([a-z][a-z\-]*)\(", text))
    assert "fusion" in operations
    forbidden = {"gather", "scatter", "conditional", "while", "dynamic-slice", "sort", "call"}
    assert not operations & (forbidden | {"dynamic-update-slice"})


def temporaries(batch, features, selective):
    """Bytes of temporaries of value and gradients, in units of one [B, N] float32 array."""
    pool, choices = PAPER_POOL, tuple(np.random.default_rng(0).integers(0, 6, features).tolist())

    def fixed(x, g, logits):
        y, pullback = jax.vjp(lambda x: apply_choices(x, choices, pool), x)
        return y, pullback(g)

    def drawn(x, g, logits):
        def run(x, logits):
            selection = estimators.gumbel_straight_through(logits, jax.random.key(0), 1.0)
            return mix(x, selection, pool)

        y, pullback = jax.vjp(run, x, logits)
        return y, pullback(g)

    x, logits = jnp.ones((batch, features)), jnp.zeros((features, 6))
    compiled = jax.jit(drawn if selective else fixed).lower(x, x, logits).compile()
    return compiled.memory_analysis().temp_size_in_bytes / (4 * batch * features)


@pytest.mark.parametrize("batch", [128, 1024])
def test_the_fixed_form_keeps_one_array_at_most(batch):
    assert temporaries(batch, 512, selective=False) <= 1


@pytest.mark.parametrize(
    ("batch", "features", "bar"),
    [(128, 512, 6), (128, 64, 6.5), (512, 256, 6), (1024, 512, 1), (1024, 64, 1), (4096, 512, 1)],
)
def test_selection_keeps_at_most_the_documented_temporaries(batch, features, bar):
    assert temporaries(batch, features, selective=True) <= bar


def temporaries_of_draws(batch, draws):
    """As `temporaries`, of a batch whose parts have choices of their own."""

    def run(x, logits):
        sample = estimators.sampled_straight_through(logits, jax.random.key(0), 1.0, draws=draws)
        return mix(x, sample, PAPER_POOL)

    def value_and_gradients(x, g, logits):
        y, pullback = jax.vjp(run, x, logits)
        return y, pullback(g)

    x, logits = jnp.ones((batch, 512)), jnp.zeros((512, 6))
    compiled = jax.jit(value_and_gradients).lower(x, x, logits).compile()
    return compiled.memory_analysis().temp_size_in_bytes / (4 * x.size)


@pytest.mark.parametrize("batch", [128, 1024])
def test_many_draws_keep_three_arrays_more_than_one_at_most(batch):
    one = temporaries_of_draws(batch, 1)
    assert temporaries_of_draws(batch, 16) <= one + 1
    assert temporaries_of_draws(batch, batch) <= one + 3
