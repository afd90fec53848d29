"""The scale of the noise, and draws for parts of a batch: estimators, `mix`, both layers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from smartmixed_jax import (
    EXTENDED_POOL,
    PAPER_POOL,
    REGRESSION_POOL,
    ActivationPool,
    Selection,
    SelectiveActivation,
    apply_choices,
    estimators,
    linen,
    mix,
)

pytestmark = pytest.mark.usefixtures("strict")

KEY = jax.random.key(0)
LOGITS = jax.random.normal(jax.random.key(1), (5, 6))
X = jax.random.normal(jax.random.key(2), (12, 5))
SCALED = ("gumbel_straight_through", "sampled_straight_through", "gumbel_rao")
"""Hard estimators whose noise has a scale."""


def constant(value):
    return lambda x: jnp.full_like(x, value)


LABELS = ActivationPool({str(k): constant(float(k)) for k in range(6)})
"""Function k is the constant k: the output of a layer is its choices."""

sampled = estimators.sampled_straight_through


# --- noise --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCALED)
@pytest.mark.parametrize("noise", [0.5, 2.0])
def test_choices_have_the_frequencies_of_softmax_of_logits_over_the_noise(name, noise):
    rows = jnp.tile(LOGITS[:1], (20_000, 1))
    choices = getattr(estimators, name)(rows, KEY, 1.0, noise=noise).choices
    shares = np.bincount(choices, minlength=6) / len(rows)
    expected = np.asarray(jax.nn.softmax(LOGITS[0] / noise))
    assert np.abs(shares - expected).max() < 5 * 0.5 / len(rows) ** 0.5


@pytest.mark.parametrize("name", SCALED)
def test_without_noise_the_choices_are_the_argmax_and_of_equal_logits_the_first(name):
    logits = jnp.concatenate([LOGITS, jnp.zeros((1, 6)), 1e-3 * jnp.eye(6)[3:4]])
    for key in (KEY, jax.random.key(7)):
        choices = getattr(estimators, name)(logits, key, 1.0, noise=0.0).choices
        if name != "gumbel_rao":  # draws even then, among equal ones
            np.testing.assert_array_equal(choices, np.argmax(logits, -1))
        np.testing.assert_array_equal(choices[:5], np.argmax(LOGITS, -1))
        assert choices[6] == 3


def test_a_soft_sample_without_noise_is_the_soft_mixture():
    found = estimators.gumbel_softmax(LOGITS, KEY, 0.7, noise=0.0).weights
    np.testing.assert_allclose(found, estimators.soft_mixture(LOGITS, KEY, 0.7).weights, rtol=1e-6)


@pytest.mark.parametrize("name", SCALED)
def test_no_noise_has_the_gradient_of_straight_through(name):
    def gradient(estimator, **options):
        value = lambda logits: jnp.sum(estimator(logits, KEY, 0.7, **options).weights[:, 2])  # noqa: E731
        return jax.grad(value)(LOGITS)

    found = gradient(getattr(estimators, name), noise=0.0)
    np.testing.assert_allclose(found, gradient(estimators.straight_through), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", [*SCALED, "gumbel_softmax"])
def test_a_noise_of_1_is_the_estimator_as_it_was(name):
    estimator = getattr(estimators, name)
    one, other = estimator(LOGITS, KEY, 0.7), estimator(LOGITS, KEY, 0.7, noise=1.0)
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize("name", ["straight_through", "soft_mixture", "deterministic"])
def test_what_draws_nothing_takes_noise_and_draws_without_effect(name):
    estimator = getattr(estimators, name)
    one, other = estimator(LOGITS, KEY, 0.7), estimator(LOGITS, KEY, 0.7, noise=3.0, draws=4)
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        (
            "gumbel_straight_through",
            {"draws": 2},
            ValueError,
            "draws must be 1, because .* got 2",
        ),
        ("gumbel_softmax", {"draws": 2}, ValueError, "gumbel_softmax: draws must be 1"),
        ("gumbel_rao", {"draws": 2}, ValueError, "gumbel_rao: draws must be 1"),
        ("reinmax", {"draws": 2}, ValueError, "reinmax: draws must be 1"),
        ("reinmax", {"noise": 0.5}, ValueError, "reinmax: noise must be 1, .* got 0.5"),
        ("sampled_straight_through", {"draws": 0}, ValueError, "draws must be at least 1, got 0"),
        ("sampled_straight_through", {"draws": 2.0}, TypeError, "draws must be an int, got 2.0"),
        ("sampled_straight_through", {"draws": "example"}, TypeError, "draws must be an int"),
        ("sampled_straight_through", {"noise": -1.0}, ValueError, "a finite value ≥ 0, got -1.0"),
        ("gumbel_rao", {"noise": float("nan")}, ValueError, "a finite value ≥ 0, got nan"),
        (
            "gumbel_straight_through",
            {"noise": "1"},
            TypeError,
            "noise must be a number ≥ 0, got '1'",
        ),
    ],
)
def test_wrong_noise_and_draws_are_one_line(name, options, error, message):
    with pytest.raises(error, match=message) as caught:
        getattr(estimators, name)(LOGITS, KEY, 1.0, **options)
    assert "\n" not in str(caught.value)


# --- draws --------------------------------------------------------------------------------


def test_draws_are_independent_and_each_has_the_distribution():
    choices = np.asarray(sampled(LOGITS, KEY, 1.0, draws=40_000).choices)
    assert choices.shape == (40_000, 5)
    one_hot = np.eye(6)[choices]  # [D, N, K]
    expected = np.asarray(jax.nn.softmax(LOGITS))
    np.testing.assert_allclose(one_hot.mean(0), expected, atol=5 * 0.5 / 200)
    # Joint frequencies of one neuron in draws that follow each other, and of two neurons.
    for one, other, p, q in (
        (choices[:-1, 0], choices[1:, 0], expected[0], expected[0]),
        (choices[:, 0], choices[:, 1], expected[0], expected[1]),
    ):
        joint = np.histogram2d(one, other, bins=np.arange(7))[0] / len(one)
        np.testing.assert_allclose(joint, np.outer(p, q), atol=5 * 0.5 / 200)


def by_rows(x, choices, pool):
    """Every row with the choices of its part, one after the other."""
    parts = np.arange(len(x)) * len(choices) // len(x)
    apply = jax.jit(lambda row, chosen: apply_choices(row, chosen, pool))
    return np.stack([apply(row, choices[d]) for row, d in zip(x, parts, strict=True)])


@pytest.mark.optimized
@pytest.mark.parametrize("pool", [PAPER_POOL, REGRESSION_POOL, EXTENDED_POOL], ids=len)
@pytest.mark.parametrize("draws", [1, 2, 5, 12])
def test_every_part_has_the_bits_of_the_fixed_form(pool, draws):
    """5 parts of 12 rows: as equal as can be."""
    x = jax.random.normal(KEY, (12, 40))
    logits = jax.random.normal(KEY, (40, len(pool)))
    selection = sampled(logits, KEY, 1.0, draws=draws)
    y = jax.jit(lambda x: mix(x, selection, pool))(x)
    expected = by_rows(x, jnp.atleast_2d(selection.choices), pool)
    np.testing.assert_array_equal(np.asarray(y).view(np.int32), expected.view(np.int32))


@pytest.mark.parametrize("draws", [1, 3, 12])
@pytest.mark.parametrize("pool", [PAPER_POOL, REGRESSION_POOL], ids=len)
def test_gradients_are_those_of_the_chosen_functions_and_sums_over_the_batch(pool, draws):
    logits = jax.random.normal(KEY, (5, len(pool)))
    direction = jax.random.normal(jax.random.key(3), X.shape)
    choices = jnp.atleast_2d(sampled(logits, KEY, 0.7, draws=draws).choices)

    @functools.partial(jax.grad, argnums=(0, 1))
    def by_draws(x, logits):
        return jnp.sum(direction * mix(x, sampled(logits, KEY, 0.7, draws=draws), pool))

    @jax.grad
    def by_hand(x):
        return jnp.sum(direction * by_rows(x, choices, pool))

    found_x, found = jax.jit(by_draws)(X, logits)
    parts = np.arange(12) * draws // 12
    slopes = [jax.vmap(jax.vmap(jax.grad(lambda v, k: jax.lax.switch(k, pool.functions, v))))]
    expected_x = direction * slopes[0](X, choices[parts])
    np.testing.assert_allclose(found_x, expected_x, rtol=1e-5, atol=1e-6)
    # ∂L/∂w[n, k] = Σ_b g[b, n] f_k(x[b, n]), whatever was drawn; then through softmax(logits/τ).
    sums = np.stack([np.sum(direction * f(X), 0) for f in pool.functions], -1)
    p = np.asarray(jax.nn.softmax(logits / 0.7))
    expected = p * (sums - (p * sums).sum(-1, keepdims=True)) / 0.7
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("axis", [1, 2, -1])
def test_any_axis_but_the_first(axis):
    x = jax.random.normal(KEY, (4, 5, 5))
    selection = sampled(LOGITS, KEY, 1.0, draws=4)
    y = mix(x, selection, PAPER_POOL, axis=axis)
    for row, choices, found in zip(x, selection.choices, y, strict=True):
        expected = apply_choices(row, choices, PAPER_POOL, axis=axis - 1 if axis > 0 else axis)
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)
    with pytest.raises(ValueError, match=r"x\[5, 4\] stand on axis 0, which draws divide"):
        mix(x[0, :, :4], selection, PAPER_POOL, axis=0)


def test_draws_that_do_not_fit_are_one_line():
    selection = sampled(LOGITS, KEY, 1.0, draws=13)
    with pytest.raises(ValueError, match=r"mix: x\[12, 5\] has fewer rows than 13 draws"):
        mix(X, selection, PAPER_POOL)
    with pytest.raises(ValueError, match=r"needs choices \[13, 4\], got \[13, 5\]"):
        mix(X[:, :4], Selection(selection.weights[:4], selection.choices), PAPER_POOL)


def test_under_vmap_every_run_has_its_own_draws():
    keys = jax.random.split(KEY, 3)
    run = lambda key: mix(X, sampled(LOGITS, key, 1.0, draws=4), LABELS)  # noqa: E731
    found = jax.vmap(run)(keys)
    np.testing.assert_array_equal(found, jnp.stack([run(key) for key in keys]))
    assert not np.array_equal(found[0], found[1])


def test_a_batch_on_several_devices_has_the_same_values():
    mesh = jax.make_mesh((1,), ("batch",))
    sharding = jax.sharding.NamedSharding(mesh, jax.P("batch"))
    run = jax.jit(lambda x: mix(x, sampled(LOGITS, KEY, 1.0, draws=4), PAPER_POOL))
    np.testing.assert_array_equal(run(jax.device_put(X, sharding)), run(X))


# --- the layers ---------------------------------------------------------------------------


def layer(**options):
    return SelectiveActivation(400, LABELS, estimator=sampled, rngs=nnx.Rngs(0), **options)


@pytest.mark.parametrize(("draws", "distinct"), [(1, 1), (3, 3), ("example", 12)])
def test_a_layer_draws_for_parts_of_the_batch(draws, distinct):
    y = np.asarray(layer(draws=draws)(jnp.zeros((12, 400)), rngs=nnx.Rngs(1)))
    assert len(np.unique(y, axis=0)) == distinct
    assert len(np.unique(y[:4], axis=0)) == {1: 1, 3: 1, 12: 4}[distinct]


def test_neurons_of_a_group_share_every_draw():
    y = np.asarray(layer(draws="example", groups=2)(jnp.zeros((12, 400)), rngs=nnx.Rngs(1)))
    assert (y[:, :200] == y[:, :1]).all()
    assert (y[:, 200:] == y[:, 200:201]).all()
    assert not np.array_equal(y[:, 0], y[:, 200])


@pytest.mark.parametrize("draws", [1, 4, "example"])
@pytest.mark.parametrize("noise", [1.0, 0.5])
def test_both_flax_apis_and_the_functions_agree(draws, noise):
    act = SelectiveActivation(5, estimator=sampled, draws=draws, noise=noise, rngs=nnx.Rngs(0))
    act.selection_logits[...] = LOGITS
    key = nnx.Rngs(selection=7).selection()
    count = 12 if draws == "example" else draws
    expected = mix(X, sampled(LOGITS, key, 1.0, noise=noise, draws=count), PAPER_POOL)
    np.testing.assert_array_equal(act(X, rngs=nnx.Rngs(selection=7)), expected)

    class Inner(nn.Module):
        @nn.compact
        def __call__(self, x):
            return linen.SelectiveActivation(estimator=same_key, draws=draws, noise=noise)(x)

    def same_key(logits, _, temperature, **options):
        return sampled(logits, key, temperature, **options)

    net = Inner()
    variables = net.init(KEY, X)
    variables["params"]["SelectiveActivation_0"]["selection_logits"] = LOGITS
    np.testing.assert_array_equal(net.apply(variables, X, rngs={"selection": KEY}), expected)


def test_an_estimator_of_three_arguments_works_where_noise_and_draws_are_1():
    def own(logits, key, temperature):
        return estimators.straight_through(logits, key, temperature)

    act = SelectiveActivation(5, estimator=own, rngs=nnx.Rngs(0))
    assert act(X, rngs=nnx.Rngs(1)).shape == X.shape


@pytest.mark.parametrize("by", ["argument", "view"])
def test_another_noise_does_not_recompile(by):
    act = SelectiveActivation(5, estimator=sampled, draws=4, noise=jnp.array(1.0), rngs=nnx.Rngs(0))
    act.selection_logits[...] = LOGITS
    traces = []

    @nnx.jit
    def call(act, noise, tau):
        traces.append(1)
        if by == "view":
            return nnx.view(act, noise=noise, temperature=tau)(X, rngs=nnx.Rngs(selection=KEY))
        return act(X, rngs=nnx.Rngs(selection=KEY), noise=noise, temperature=tau)

    quiet, *_, loud = (
        call(act, jnp.float32(beta), jnp.float32(2 * beta + 1)) for beta in (0, 1, 3)
    )
    assert len(traces) == 1
    np.testing.assert_allclose(quiet, act(X, deterministic=True), rtol=1e-6)
    assert np.abs(loud - quiet).max() > 0.1


def test_a_recurrent_layer_draws_for_every_example_and_step():
    cell = nnx.SimpleCell(
        3, 400, activation_fn=lambda x: act(x), kernel_init=nnx.initializers.zeros, rngs=nnx.Rngs(0)
    )
    act = layer(draws="example", keep_rngs=True)
    carry = jnp.zeros((6, 400))
    y = np.stack([cell(carry, jnp.zeros((6, 3)))[1] for _ in range(2)])
    assert len(np.unique(y.reshape(12, 400), axis=0)) == 12


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"draws": "examples"}, ValueError, "draws must be an int or \"example\", got 'examples'"),
        ({"draws": 0}, ValueError, "draws must be at least 1, got 0"),
        ({"draws": True}, TypeError, "draws must be an int, got True"),
        ({"noise": -0.5}, ValueError, "noise must be a finite value ≥ 0, got -0.5"),
        ({"noise": None}, TypeError, "noise must be a number ≥ 0, got None"),
    ],
)
def test_wrong_options_raise_in_both_apis(options, error, message):
    with pytest.raises(error, match=f"SelectiveActivation: {message}"):
        layer(**options)
    with pytest.raises(error, match=f"SelectiveActivation the model: {message}"):
        linen.SelectiveActivation(estimator=sampled, **options).init(KEY, X)


def test_an_example_without_a_batch_is_told_so():
    with pytest.raises(ValueError, match=r'draws="example" needs examples on axis 0, got float32'):
        layer(draws="example")(jnp.zeros(400), rngs=nnx.Rngs(1))
