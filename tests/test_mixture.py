"""mix and apply_choices: exact values, exact gradients, every transformation of JAX."""

import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from smartmixed_jax import (
    EXTENDED_POOL,
    PAPER_POOL,
    REGRESSION_POOL,
    ActivationPool,
    Selection,
    apply_choices,
    estimators,
    mix,
)

pytestmark = pytest.mark.usefixtures("strict")

POOLS = {"paper": PAPER_POOL, "regression": REGRESSION_POOL, "extended": EXTENDED_POOL}
POOLS |= {f"{name}, general": POOLS[name].with_form("general") for name in ("paper", "regression")}
SMOOTH = ActivationPool({"tanh": jnp.tanh, "sin": jnp.sin, "silu": jax.nn.silu})
SHAPES = [((5, 7), -1), ((1, 16), -1), ((9,), -1), ((4, 1), -1), ((2, 3, 5), -1), ((0, 3), -1)]
SHAPES += [((2, 5, 3, 2), 1), ((3, 4), -2)]

jitted_mix = jax.jit(mix, static_argnums=2, static_argnames="axis")
jitted_apply = jax.jit(apply_choices, static_argnums=(1, 2), static_argnames="axis")


@functools.partial(jax.jit, static_argnums=0)
def every_function(pool, x):
    return [function(x).astype(x.dtype) for function in pool.functions]


def bits(x):
    x = np.asarray(x)
    return x.view({2: np.uint16, 4: np.int32}[x.dtype.itemsize])


def sample(shape, dtype=jnp.float32, seed=0):
    return jnp.asarray(3 * np.random.default_rng(seed).normal(size=shape), dtype)


def draw_choices(features, pool, seed=0):
    return np.random.default_rng(seed).integers(0, len(pool), features).astype(np.int32)


def hard(choices, pool):
    """The hard Selection of fixed choices."""
    choices = jnp.asarray(choices, jnp.int32)
    return Selection(jax.nn.one_hot(choices, len(pool)), choices)


def chosen(values, choices, axis):
    """values[k] of the chosen k per neuron, by NumPy indexing."""
    values = [np.moveaxis(np.asarray(value), axis, -1) for value in values]
    columns = [values[choice][..., n] for n, choice in enumerate(choices)]
    return np.moveaxis(np.stack(columns, -1), -1, axis)


def hard_mix(x, choices, pool, axis=-1):
    return mix(x, hard(choices, pool), pool, axis=axis)


# --- values -------------------------------------------------------------------------------


@pytest.mark.optimized
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", POOLS)
def test_hard_mix_has_the_bits_of_the_chosen_function(name, dtype):
    """Operation by operation. Under jit XLA may contract a multiplication and an addition."""
    pool, x = POOLS[name].with_form("general"), sample((3, 15), dtype)
    choices = np.arange(15) % len(pool)
    y = hard_mix(x, choices, pool)
    assert y.dtype == dtype
    expected = chosen([function(x) for function in pool.functions], choices, -1)
    np.testing.assert_array_equal(bits(y), bits(expected))


@pytest.mark.optimized
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", POOLS)
def test_compiled_mix_and_apply_choices_agree_to_the_bit(name, dtype):
    pool = POOLS[name]
    every_shape = name == "paper" and dtype == jnp.float32
    for seed, (shape, axis) in enumerate(SHAPES if every_shape else SHAPES[:1]):
        x = sample(shape, dtype, seed)
        choices = draw_choices(shape[axis], pool, seed)
        y = jitted_mix(x, hard(choices, pool), pool, axis=axis)
        assert y.shape == shape
        assert y.dtype == dtype
        fixed = jitted_apply(x, tuple(choices.tolist()), pool, axis=axis)
        np.testing.assert_array_equal(bits(fixed), bits(y))
        if seed == 0:
            expected = chosen(every_function(pool, x), choices, axis).astype(np.float64)
            precision = 2 * float(jnp.finfo(dtype).eps)
            np.testing.assert_allclose(np.asarray(y, np.float64), expected, precision, precision)


@pytest.mark.optimized
@pytest.mark.parametrize("name", POOLS)
def test_the_bits_do_not_depend_on_which_functions_are_in_use(name):
    """One function alone, or two, give the bits they have beside all others."""
    pool, x = POOLS[name], sample((5, 7))
    alone = [jitted_mix(x, hard(np.full(7, k), pool), pool) for k in range(len(pool))]
    several = [np.arange(7) % 2, len(pool) - 1 - np.arange(7) % 2, np.arange(7) % len(pool)]
    same = range(len(pool)) if name.startswith("regression") else (0, len(pool) - 1)
    for choices in [*(np.full(7, k) for k in same), *several]:
        expected = bits(chosen(alone, choices, -1))
        np.testing.assert_array_equal(bits(jitted_mix(x, hard(choices, pool), pool)), expected)
        fixed = jitted_apply(x, tuple(choices.tolist()), pool)
        np.testing.assert_array_equal(bits(fixed), expected)


@pytest.mark.parametrize("axis", [-1, 0])
def test_soft_mix_is_the_weighted_sum(axis):
    x = sample((4, 5))
    weights = np.random.default_rng(0).dirichlet(np.ones(6), x.shape[axis]).astype(np.float32)
    y = mix(x, Selection(jnp.asarray(weights), None), PAPER_POOL, axis=axis)
    expected = np.zeros(x.shape)
    for k, value in enumerate(every_function(PAPER_POOL, x)):
        column = weights[:, k].astype(np.float64)
        expected += np.asarray(value, np.float64) * (column if axis == -1 else column[:, None])
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)


def test_soft_mix_of_bfloat16_is_summed_in_float32():
    x = sample((64, 5), jnp.bfloat16)
    weights = np.random.default_rng(0).dirichlet(np.ones(6), 5).astype(np.float32)
    y = mix(x, Selection(jnp.asarray(weights), None), PAPER_POOL)
    assert y.dtype == jnp.bfloat16
    wide = x.astype(jnp.float32)
    values = np.stack([np.asarray(v, np.float64) for v in every_function(PAPER_POOL, wide)])
    expected = np.einsum("kbn,nk->bn", values, weights.astype(np.float64))
    # Half a unit in the last place of bfloat16: rounded once, at the end.
    np.testing.assert_allclose(np.asarray(y, np.float64), expected, rtol=2**-8, atol=1e-6)


# --- gradients ----------------------------------------------------------------------------


@pytest.mark.optimized
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", POOLS)
def test_gradient_to_x_is_the_chosen_functions_own(name, dtype):
    pool = POOLS[name]
    x, g = sample((6, 15), dtype), sample((6, 15), dtype, seed=1)
    choices = np.arange(15) % len(pool)

    @jax.jit
    def own(x):
        return [jax.vjp(function, x)[1](g)[0] for function in pool.functions]

    expected = np.asarray(chosen(own(x), choices, -1), np.float32)
    static = jax.jit(lambda x: jax.vjp(lambda x: apply_choices(x, choices, pool), x)[1](g)[0])
    traced = jax.jit(lambda x, s: jax.vjp(lambda x: mix(x, s, pool), x)[1](g)[0])
    tolerance = 1e-6 if dtype == jnp.float32 else 2**-5
    for gradient in (static(x), traced(x, hard(choices, pool))):
        assert gradient.dtype == dtype
        gradient = np.asarray(gradient, np.float32)
        np.testing.assert_allclose(gradient, expected, rtol=tolerance, atol=tolerance)


WILD = ActivationPool(
    {
        "relu": jax.nn.relu,
        "sqrt": jnp.sqrt,
        "log": jnp.log,
        "square": lambda x: x * x,
        "reciprocal": lambda x: 1 / x,
        "tanh": jnp.tanh,
    }
)


@pytest.mark.parametrize("k", [0, 5])
def test_functions_not_chosen_do_no_harm_where_they_or_their_derivatives_are_infinite(k):
    x = jnp.array([[0.0, -0.0, -1.0, 1e30, -1e30, 2.0]])
    selection = hard(np.full(6, k), WILD)
    function = WILD.functions[k]
    expected = jax.grad(lambda x: jnp.sum(function(x)))(x)
    assert np.isfinite(expected).all()
    for call in (
        lambda x: mix(x, selection, WILD),
        lambda x: apply_choices(x, [k] * 6, WILD),
    ):
        gradient = jax.grad(lambda x: jnp.sum(call(x)))  # noqa: B023
        np.testing.assert_allclose(jax.jit(call)(x), function(x), rtol=1e-6)
        np.testing.assert_allclose(jax.jit(gradient)(x), expected, rtol=1e-6)
        slope = jax.jit(lambda x: jax.jvp(call, (x,), (jnp.ones_like(x),))[1])(x)  # noqa: B023
        np.testing.assert_allclose(slope, expected, rtol=1e-6)
        curvature = jax.jit(jax.grad(lambda x: jnp.sum(gradient(x))))(x)  # noqa: B023
        assert np.isfinite(curvature).all()


def exact_weight_gradient(x, g, pool):
    """s[n, k] = Σ_b g[b, n] f_k(x[b, n]) in float64."""
    values = np.stack([np.asarray(v, np.float64) for v in every_function(pool, x)])
    return np.einsum("bn,kbn->nk", np.asarray(g, np.float64), values)


@pytest.mark.parametrize("name", POOLS)
def test_gradient_to_the_weights_is_the_sum_of_g_times_every_function(name):
    pool = POOLS[name]
    x, g, choices = sample((33, 7)), sample((33, 7), seed=1), draw_choices(7, pool)

    @jax.jit
    def gradient(weights, choices):
        mixed = lambda weights: mix(x, Selection(weights, choices), pool)  # noqa: E731
        return jax.vjp(mixed, weights)[1](g)[0]

    found = gradient(*hard(choices, pool))
    np.testing.assert_allclose(found, exact_weight_gradient(x, g, pool), rtol=1e-4, atol=1e-4)


def test_gradient_to_the_weights_sums_over_leading_axes_around_the_neurons_axis():
    x, g, choices = sample((2, 5, 3)), sample((2, 5, 3), seed=1), draw_choices(5, PAPER_POOL)
    weights, choices = hard(choices, PAPER_POOL)
    mixed = lambda weights: mix(x, Selection(weights, choices), PAPER_POOL, axis=1)  # noqa: E731
    found = jax.jit(lambda weights: jax.vjp(mixed, weights)[1](g)[0])(weights)
    flat_x, flat_g = (jnp.moveaxis(a, 1, -1).reshape(-1, 5) for a in (x, g))
    expected = exact_weight_gradient(flat_x, flat_g, PAPER_POOL)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_gradient_to_the_weights_of_bfloat16_accumulates_in_float32():
    """A bfloat16 sum of 4096 positive terms would stop growing at 256 times a term."""
    x = jnp.abs(sample((4096, 3), jnp.bfloat16)) + 1
    weights, choices = hard([0, 1, 2], PAPER_POOL)

    def total(weights):
        y = mix(x, Selection(weights, choices), PAPER_POOL)
        assert y.dtype == jnp.bfloat16
        return jnp.sum(y.astype(jnp.float32))

    found = jax.jit(jax.grad(total))(weights)
    assert found.dtype == jnp.float32
    exact = exact_weight_gradient(x.astype(jnp.float32), jnp.ones(x.shape), PAPER_POOL)
    np.testing.assert_allclose(found, exact, rtol=1e-5)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_gradient_to_the_logits_is_the_papers(temperature):
    """(1/τ) p ⊙ (s − Σ_k p_k s_k), p the relaxed softmax of the same noise."""
    x, g, key = sample((12, 5)), sample((12, 5), seed=1), jax.random.key(3)
    logits = jax.random.normal(jax.random.key(4), (5, 6))

    def total(logits):
        selection = estimators.gumbel_straight_through(logits, key, temperature)
        return jnp.sum(g * mix(x, selection, PAPER_POOL))

    p = np.asarray(estimators.gumbel_softmax(logits, key, temperature).weights, np.float64)
    s = exact_weight_gradient(x, g, PAPER_POOL)
    expected = p * (s - (p * s).sum(-1, keepdims=True)) / temperature
    np.testing.assert_allclose(jax.jit(jax.grad(total))(logits), expected, rtol=1e-3, atol=1e-4)


@jax.custom_vjp
def tripled(x):
    return jnp.sin(x)


tripled.defvjp(lambda x: (jnp.sin(x), x), lambda x, g: (3 * jnp.cos(x) * g,))


def test_a_function_with_its_own_reverse_rule_keeps_it():
    pool = ActivationPool({"relu": jax.nn.relu, "tripled": tripled})
    x = sample((4, 2))
    for call in (
        lambda x: mix(x, hard([0, 1], pool), pool),
        lambda x: apply_choices(x, [0, 1], pool),
    ):
        np.testing.assert_allclose(call(x)[:, 1], np.sin(x[:, 1]), rtol=1e-6)
        gradient = jax.grad(lambda x: jnp.sum(call(x)))(x)  # noqa: B023
        np.testing.assert_allclose(gradient[:, 1], 3 * np.cos(x[:, 1]), rtol=1e-5)
        np.testing.assert_array_equal(gradient[:, 0], np.asarray(x[:, 0]) > 0)


def test_second_derivatives_are_the_functions_own():
    x, choices = sample((3,)), [0, 1, 2]
    second = [jax.jit(jax.vmap(jax.grad(jax.grad(f))))(x) for f in SMOOTH.functions]
    expected = chosen(second, choices, -1)
    for call in (
        lambda x: hard_mix(x, choices, SMOOTH),
        lambda x: apply_choices(x, choices, SMOOTH),
    ):
        total = lambda x: jnp.sum(call(x))  # noqa: B023, E731
        np.testing.assert_allclose(
            jax.jit(jax.hessian(total))(x), np.diag(expected), rtol=1e-4, atol=1e-6
        )
        along = jax.jit(lambda x: jax.jvp(jax.grad(total), (x,), (jnp.ones(3),))[1])(x)  # noqa: B023
        np.testing.assert_allclose(along, expected, rtol=1e-4, atol=1e-6)


def test_numerical_derivatives_agree_in_both_modes():
    """Of x to second order, and of x and weights together where they enter linearly."""
    x, choices = 0.5 * sample((2, 3)), np.array([0, 1, 2])
    for call in (
        lambda x: hard_mix(x, choices, SMOOTH),
        lambda x: apply_choices(x, choices, SMOOTH),
    ):
        check_grads(call, (x,), order=2, modes=("fwd", "rev"), atol=2e-2, rtol=2e-2)
    weights = jnp.asarray(np.random.default_rng(0).dirichlet(np.ones(3), 3), jnp.float32)
    soft = lambda x, weights: mix(x, Selection(weights, None), SMOOTH)  # noqa: E731
    check_grads(soft, (x, weights), order=1, modes=("fwd", "rev"), atol=2e-2, rtol=2e-2)


def test_forward_mode_of_a_hard_mix_takes_both_tangents():
    x, x_dot = sample((4, 3)), sample((4, 3), seed=1)
    weights, choices = hard([0, 1, 2], SMOOTH)
    weights_dot = sample((3, 3), seed=2)
    mixed = lambda x, weights: mix(x, Selection(weights, choices), SMOOTH)  # noqa: E731
    found = jax.jvp(mixed, (x, weights), (x_dot, weights_dot))[1]
    pairs = [jax.jvp(function, (x,), (x_dot,)) for function in SMOOTH.functions]
    slopes = chosen([slope for _, slope in pairs], [0, 1, 2], -1)
    gains = np.einsum("kbn,nk->bn", np.stack([value for value, _ in pairs]), weights_dot)
    np.testing.assert_allclose(found, slopes + gains, rtol=1e-4, atol=1e-5)


# --- transformations ----------------------------------------------------------------------


def value_and_gradients(transform):
    """Σ y² of a hard mix through `transform`, and its gradients to x and the weights."""
    x, (weights, choices) = sample((3, 4, 6)), hard(np.arange(6), PAPER_POOL)

    def total(x, weights):
        mixed = transform(lambda x: mix(x, Selection(weights, choices), PAPER_POOL))
        return jnp.sum(mixed(x) ** 2)

    return jax.jit(jax.value_and_grad(total, argnums=(0, 1)))(x, weights)


def scanned(function):
    return lambda x: jax.lax.scan(lambda carry, row: (carry, function(row)), 0, x)[1]


@pytest.mark.parametrize("transform", [jax.vmap, jax.checkpoint, scanned, jax.jit])
def test_transformations_change_neither_value_nor_gradients(transform):
    expected = jax.tree.leaves(value_and_gradients(lambda function: function))
    found = jax.tree.leaves(value_and_gradients(transform))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_vmap_over_selections_is_the_loop_over_them():
    x = sample((4, 6))
    keys = jax.random.split(jax.random.key(0), 5)
    logits = jnp.zeros((6, 6))

    def total(x, logits, key):
        selection = estimators.gumbel_straight_through(logits, key, 1.0)
        return jnp.sum(mix(x, selection, PAPER_POOL) ** 2)

    gradient = jax.jit(jax.grad(total, argnums=(0, 1)))
    batched = jax.jit(jax.vmap(jax.grad(total, argnums=(0, 1)), in_axes=(None, None, 0)))
    found = batched(x, logits, keys)
    loop = [gradient(x, logits, key) for key in keys]
    for a, b in zip(found, zip(*loop, strict=True), strict=True):
        np.testing.assert_allclose(a, np.stack(b), rtol=1e-4, atol=1e-5)


def test_new_choices_do_not_retrace_mix():
    traces = []

    @jax.jit
    def apply(x, selection):
        traces.append(1)
        return mix(x, selection, PAPER_POOL)

    x = sample((2, 3))
    for choices in ([0, 1, 2], [5, 5, 5], [3, 0, 4]):
        apply(x, hard(choices, PAPER_POOL))
    assert len(traces) == 1


@pytest.mark.optimized
@hypothesis.settings(max_examples=12, deadline=None, derandomize=True, database=None)
@hypothesis.given(data=st.data())
def test_any_pool_shape_and_choices_give_the_chosen_values_and_gradients(data):
    """Without jit: over subsets of all functions in any order, small shapes and any axis."""
    functions = dict(zip(EXTENDED_POOL.names, EXTENDED_POOL.functions, strict=True))
    names = data.draw(st.lists(st.sampled_from(sorted(functions)), min_size=1, max_size=4))
    pool = ActivationPool({name: functions[name] for name in names})
    shape = data.draw(st.sampled_from([(3,), (3, 1), (1, 3), (2, 1, 3)]))
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    choices = data.draw(
        st.lists(st.integers(0, len(pool) - 1), min_size=shape[axis], max_size=shape[axis])
    )
    x = sample(shape, seed=data.draw(st.integers(0, 9)))
    fixed, pullback = jax.vjp(lambda x: apply_choices(x, choices, pool, axis=axis), x)
    np.testing.assert_array_equal(fixed, hard_mix(x, choices, pool, axis))
    pairs = [jax.vjp(function, x) for function in pool.functions]
    expected = chosen([value for value, _ in pairs], choices, axis)
    np.testing.assert_allclose(fixed, expected, rtol=1e-6, atol=1e-6)
    slopes = chosen([back(jnp.ones_like(x))[0] for _, back in pairs], choices, axis)
    np.testing.assert_allclose(pullback(jnp.ones_like(x))[0], slopes, rtol=1e-5, atol=1e-6)


# --- errors -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.complex64, jnp.bool_])
def test_input_that_is_no_real_float_raises_naming_dtype_and_place(dtype):
    x = jnp.ones((2, 3), dtype)
    message = f"x must be a real floating-point array, got {jnp.dtype(dtype).name}"
    with pytest.raises(TypeError, match=f"mix: {message}"):
        mix(x, hard([0, 0, 0], PAPER_POOL), PAPER_POOL)
    with pytest.raises(TypeError, match=f"apply_choices: {message}"):
        apply_choices(x, [0, 0, 0], PAPER_POOL)


@pytest.mark.parametrize(
    ("weights", "choices", "got"),
    [
        (jnp.ones((4, 6)), jnp.zeros(4, jnp.int32), r"weights \[3, 6\], got \[4, 6\]"),
        (jnp.ones((3, 5)), jnp.zeros(3, jnp.int32), r"weights \[3, 6\], got \[3, 5\]"),
        (jnp.ones((3, 5)), None, r"weights \[3, 6\], got \[3, 5\]"),
        (jnp.ones((3, 6)), jnp.zeros(1, jnp.int32), r"choices \[3\], got \[1\]"),
        (jnp.ones((3, 6)), jnp.zeros((3, 1), jnp.int32), r"choices \[3, 3\], got \[3, 1\]"),
    ],
)
def test_a_selection_that_does_not_fit_raises_naming_the_shapes(weights, choices, got):
    with pytest.raises(ValueError, match=rf"mix: x\[2, 3\] on axis 1 .*{got}"):
        mix(jnp.ones((2, 3)), Selection(weights, choices), PAPER_POOL)


@pytest.mark.parametrize("axis", [2, -3])
def test_an_axis_out_of_range_raises_naming_it(axis):
    with pytest.raises(ValueError, match=rf"mix: axis {axis} is out of range for x\[2, 3\]"):
        mix(jnp.ones((2, 3)), hard([0, 0, 0], PAPER_POOL), PAPER_POOL, axis=axis)
    with pytest.raises(ValueError, match=f"apply_choices: axis {axis} is out of range"):
        apply_choices(jnp.ones((2, 3)), [0, 0, 0], PAPER_POOL, axis=axis)


@pytest.mark.parametrize(
    ("choices", "error", "message"),
    [
        ([0, 1], ValueError, r"x\[2, 3\] on axis 1 needs choices \[3\], got \[2\]"),
        ([0, 6, 1], ValueError, r"choice 6 of neuron 1 is outside \[0, 6\)"),
        ([0, 1, -1], ValueError, r"choice -1 of neuron 2 is outside \[0, 6\)"),
        ([0.0, 1.0, 2.0], TypeError, r"choices must be integers \[N\], got \[0\.0, 1\.0, 2\.0\]"),
        (
            [True, False, True],
            TypeError,
            r"choices must be integers \[N\], got \[True, False, True\]",
        ),
        ([[0, 1, 2]], TypeError, r"choices must be integers \[N\], got \[\[0, 1, 2\]\]"),
    ],
)
def test_bad_choices_raise_naming_them(choices, error, message):
    with pytest.raises(error, match=f"apply_choices: {message}"):
        apply_choices(jnp.ones((2, 3)), choices, PAPER_POOL)


@pytest.mark.optimized
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("pool", [PAPER_POOL, REGRESSION_POOL, PAPER_POOL.with_form("general")])
def test_traced_choices_give_the_bits_and_gradients_of_static_ones(pool, axis):
    x = jax.random.normal(jax.random.key(0), (5, 5))
    choices = jnp.arange(5) % len(pool)

    def static(x):
        return apply_choices(x, np.asarray(choices), pool, axis=axis)

    traced = jax.jit(lambda x, choices: apply_choices(x, choices, pool, axis=axis))
    np.testing.assert_array_equal(traced(x, choices), jax.jit(static)(x))
    gradient = jax.jit(jax.grad(lambda x, choices: traced(x, choices).sum()))
    expected = jax.jit(jax.grad(lambda x: static(x).sum()))
    np.testing.assert_array_equal(gradient(x, choices), expected(x))


def test_traced_choices_compile_once_and_are_checked_by_shape_and_dtype():
    apply = jax.jit(lambda choices: apply_choices(jnp.ones((2, 3)), choices, PAPER_POOL))
    for choices in ([0, 1, 2], [5, 5, 5]):
        apply(jnp.array(choices))
    assert apply._cache_size() == 1
    with pytest.raises(ValueError, match=r"needs choices \[3\], got \[2\]"):
        apply(jnp.zeros(2, jnp.int32))
    with pytest.raises(TypeError, match=r"choices must be integers \[N\], got float32"):
        apply(jnp.zeros(3))


def test_a_function_that_is_not_elementwise_raises_naming_it():
    pool = ActivationPool({"relu": jax.nn.relu, "total": lambda x: jnp.sum(x, -1)})
    message = r"'total' is not elementwise: it maps \[2, 3\] to \[2\]"
    with pytest.raises(ValueError, match=message):
        mix(jnp.ones((2, 3)), hard([0, 0, 0], pool), pool)
    with pytest.raises(ValueError, match=message):
        apply_choices(jnp.ones((2, 3)), [0, 0, 0], pool)
