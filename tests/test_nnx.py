"""The NNX layers and fix_choices: parameters, randomness, compilation, the switch."""

import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from smartmixed_jax import (
    MLP,
    PAPER_POOL,
    ActivationPool,
    FunctionTable,
    MixedActivation,
    SelectionLogits,
    SelectiveActivation,
    apply_choices,
    estimators,
    fix_choices,
    mix,
    summarize,
)
from smartmixed_jax._checks import shown

pytestmark = pytest.mark.usefixtures("strict")


def constant(value):
    return lambda x: jnp.full_like(x, value)


LABELS = ActivationPool({str(k): constant(float(k)) for k in range(6)})
"""Function k is the constant k: the output of a layer is its choices."""

X = jnp.linspace(-2, 2, 12).reshape(3, 4)


class Pair(nnx.Module):
    """Two selective layers side by side."""

    def __init__(self, features, pool=LABELS, *, rngs, **options):
        self.a = SelectiveActivation(features, pool, rngs=rngs, **options)
        self.b = SelectiveActivation(features, pool, rngs=rngs, **options)

    def __call__(self, x, **options):
        return self.a(x, **options), self.b(x, **options)


def with_logits(layer, seed=0):
    """The layer with random logits, so that its neurons choose differently."""
    layer.selection_logits[...] = jax.random.normal(
        jax.random.key(seed), layer.selection_logits.shape
    )
    return layer


def mlp(widths=(8, 8), seed=0):
    model = MLP(4, widths, 2, rngs=nnx.Rngs(seed))
    for index, activation in enumerate(model.activations):
        with_logits(activation, seed=10 * seed + index)
    return model


def bits(x):
    return np.asarray(x).view(np.int32)


def compiled(model, x, seed=None):
    """model(x) under plain jax.jit on split state."""
    graphdef, state = nnx.split(model)

    @jax.jit
    def call(state, x):
        options = {} if seed is None else {"rngs": nnx.Rngs(selection=seed)}
        return nnx.merge(graphdef, state)(x, **options)

    return call(state, x)


# --- parameters ---------------------------------------------------------------------------


def test_the_only_parameter_is_one_matrix_of_selection_logits():
    act = SelectiveActivation(5, rngs=nnx.Rngs(0))
    variables = jax.tree.leaves(
        nnx.state(act, nnx.Variable), is_leaf=lambda v: isinstance(v, nnx.Variable)
    )
    assert [type(variable) for variable in variables] == [SelectionLogits]
    assert issubclass(SelectionLogits, nnx.Param)
    assert act.selection_logits.shape == (5, 6)
    assert act.selection_logits.dtype == jnp.float32


def test_initial_logits_are_0_and_a_thousandth_at_one_random_entry_per_neuron():
    logits = np.asarray(SelectiveActivation(600, rngs=nnx.Rngs(0)).selection_logits[...])
    assert set(np.unique(logits)) == {np.float32(0), np.float32(1e-3)}
    np.testing.assert_array_equal((logits != 0).sum(-1), 1)
    entries = np.bincount(logits.argmax(-1), minlength=6)
    assert (np.abs(entries - 100) < 5 * 100**0.5).all()


def test_initial_logits_differ_between_layers_and_seeds_and_repeat_with_the_seed():
    first, other, again = (Pair(50, rngs=nnx.Rngs(seed)) for seed in (0, 1, 0))
    assert (
        np.mean(np.argmax(first.a.selection_logits, -1) == np.argmax(first.b.selection_logits, -1))
        < 0.5
    )
    assert (
        np.mean(np.argmax(first.a.selection_logits, -1) == np.argmax(other.a.selection_logits, -1))
        < 0.5
    )
    np.testing.assert_array_equal(first.a.selection_logits[...], again.a.selection_logits[...])
    np.testing.assert_array_equal(first.b.selection_logits[...], again.b.selection_logits[...])


def test_logits_init_and_param_dtype_make_the_logits():
    act = SelectiveActivation(
        3, rngs=nnx.Rngs(0), logits_init=nnx.initializers.constant(0.25), param_dtype=jnp.bfloat16
    )
    assert act.selection_logits.dtype == jnp.bfloat16
    np.testing.assert_array_equal(act.selection_logits[...], np.full((3, 6), 0.25))
    assert act(X[:, :3], rngs=nnx.Rngs(0)).dtype == jnp.float32
    assert SelectiveActivation(3, rngs=nnx.Rngs(0)["params"]).selection_logits.shape == (3, 6)


# --- value --------------------------------------------------------------------------------


def test_the_layer_is_its_estimator_and_mix():
    """With the key that its stream gives."""
    act = with_logits(SelectiveActivation(4, rngs=nnx.Rngs(0), temperature=0.7))
    y = act(X, rngs=nnx.Rngs(selection=3))
    key = nnx.Rngs(selection=3)["selection"]()
    selection = estimators.gumbel_straight_through(act.selection_logits[...], key, 0.7)
    np.testing.assert_array_equal(y, mix(X, selection, PAPER_POOL))
    soft = SelectiveActivation(4, rngs=nnx.Rngs(0), estimator=estimators.soft_mixture)
    expected = mix(X, estimators.soft_mixture(soft.selection_logits[...], None, 1.0), PAPER_POOL)
    np.testing.assert_array_equal(soft(X), expected)


def test_axis_1_selects_per_channel():
    x = jax.random.normal(jax.random.key(0), (2, 4, 3, 3))
    act = with_logits(SelectiveActivation(4, axis=1, rngs=nnx.Rngs(0)))
    y = act(x, deterministic=True)
    last = mix(
        jnp.moveaxis(x, 1, -1), estimators.deterministic(act.selection_logits[...]), PAPER_POOL
    )
    np.testing.assert_array_equal(y, jnp.moveaxis(last, -1, 1))
    np.testing.assert_array_equal(fix_choices(act)(x), y)


def test_dtype_is_that_of_the_input_or_the_one_given():
    act = SelectiveActivation(4, rngs=nnx.Rngs(0))
    for dtype in (jnp.float32, jnp.bfloat16, jnp.float16):
        assert act(X.astype(dtype), rngs=nnx.Rngs(0)).dtype == dtype
        assert fix_choices(act)(X.astype(dtype)).dtype == dtype
    half = with_logits(SelectiveActivation(4, dtype=jnp.bfloat16, rngs=nnx.Rngs(0)))
    y = half(X, deterministic=True)
    assert y.dtype == jnp.bfloat16
    assert fix_choices(half)(X).dtype == jnp.bfloat16
    np.testing.assert_array_equal(fix_choices(half)(X), y)


def test_the_argument_deterministic_wins_over_the_attribute():
    act = SelectiveActivation(2000, LABELS, rngs=nnx.Rngs(0))
    x = jnp.zeros((1, 2000))
    argmax = np.argmax(act.selection_logits[...], -1)

    def is_argmax(**options):
        return np.array_equal(act(x, rngs=nnx.Rngs(1), **options)[0], argmax)

    assert [is_argmax(), is_argmax(deterministic=True)] == [False, True]
    act.eval()
    assert act.deterministic
    assert [is_argmax(), is_argmax(deterministic=False)] == [True, False]
    assert is_argmax(deterministic=None)
    act.train()
    assert not act.deterministic
    assert not is_argmax()
    fixed = SelectiveActivation(2000, LABELS, deterministic=True, rngs=nnx.Rngs(0))
    np.testing.assert_array_equal(fixed(x)[0], argmax)


# --- groups -------------------------------------------------------------------------------

TIED = (2, 0, 1, 1, 0, 2, 2, 2)
"""Eight neurons in three groups of unequal size, mixed."""

BLOCKS = (0, 0, 0, 0, 1, 1, 1, 1)


@pytest.mark.parametrize(
    ("groups", "normalised"),
    [(2, BLOCKS), (np.int64(2), BLOCKS), (1, (0,) * 8), (8, tuple(range(8)))]
    + [(kind(TIED), TIED) for kind in (tuple, list, np.array, jnp.array)],
)
def test_groups_are_held_as_each_neurons_group_and_logits_have_one_row_per_group(
    groups, normalised
):
    act = SelectiveActivation(8, groups=groups, rngs=nnx.Rngs(0))
    assert act.groups == normalised
    assert {type(group) for group in act.groups} == {int}
    assert act.selection_logits.shape == (max(normalised) + 1, 6)
    again = SelectiveActivation(8, groups=normalised, rngs=nnx.Rngs(1))
    assert nnx.split(act)[0] == nnx.split(again)[0]
    np.testing.assert_array_equal((np.asarray(act.selection_logits[...]) != 0).sum(-1), 1)


@pytest.mark.parametrize("groups", [1, 4, TIED])
@pytest.mark.parametrize("estimator", [estimators.gumbel_straight_through, estimators.reinmax])
def test_neurons_of_a_group_always_draw_the_same_function(groups, estimator):
    act = SelectiveActivation(8, LABELS, groups=groups, estimator=estimator, rngs=nnx.Rngs(0))
    rngs = nnx.Rngs(selection=0)
    draws = np.stack([act(jnp.zeros((1, 8)), rngs=rngs)[0] for _ in range(60)])
    of_group = [
        draws[:, np.asarray(act.groups) == g] for g in range(len(act.selection_logits[...]))
    ]
    for drawn in of_group:
        assert (drawn == drawn[:, :1]).all()
        assert len(np.unique(drawn)) == 6
    for first, second in itertools.combinations(of_group, 2):
        assert (first[:, 0] != second[:, 0]).any()


@pytest.mark.parametrize(
    "estimator",
    [estimators.gumbel_straight_through, estimators.soft_mixture, estimators.gumbel_rao],
)
def test_the_gradient_of_a_group_is_the_sum_over_its_neurons(estimator):
    """Of the per-neuron gradients for the same draw: the mixture's ones, pulled back to [G, K]."""
    act = with_logits(SelectiveActivation(8, groups=TIED, estimator=estimator, rngs=nnx.Rngs(0)))
    x = jax.random.normal(jax.random.key(1), (5, 8))
    g = jax.random.normal(jax.random.key(2), (5, 8))
    found = nnx.grad(lambda act: jnp.sum(g * act(x, rngs=nnx.Rngs(selection=3))))(act)
    key = nnx.Rngs(selection=3)["selection"]()
    selection, pull = jax.vjp(lambda logits: estimator(logits, key, 1.0), act.selection_logits[...])
    expected = 0
    for neuron, group in enumerate(TIED):

        def of_neuron(weights, neuron=neuron, group=group):
            choices = selection.choices
            one = estimators.Selection(
                weights[group : group + 1], None if choices is None else choices[group : group + 1]
            )
            return jnp.sum(g[:, neuron] * mix(x[:, neuron : neuron + 1], one, PAPER_POOL)[:, 0])

        cotangent = jax.grad(of_neuron)(selection.weights)
        zero = jax.tree.map(lambda c: np.zeros(c.shape, jax.dtypes.float0), selection.choices)
        expected += pull(estimators.Selection(cotangent, zero))[0]
    assert np.abs(expected).min(-1).max() > 1e-3
    np.testing.assert_allclose(found.selection_logits[...], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.optimized
@pytest.mark.parametrize("groups", [1, 2, TIED])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_fixed_layer_of_groups_has_a_table_of_neurons_and_keeps_the_bits(groups, dtype):
    act = with_logits(SelectiveActivation(8, groups=groups, dtype=dtype, rngs=nnx.Rngs(0)))
    act.eval()
    fixed = fix_choices(act)
    choices = np.argmax(act.selection_logits[...], -1)
    assert fixed.table.choices == tuple(choices[group] for group in act.groups)
    x = jax.random.normal(jax.random.key(5), (17, 8))
    y, z = (compiled(model, x).astype(jnp.float32) for model in (act, fixed))
    np.testing.assert_array_equal(bits(y), bits(z))


def test_groups_of_one_neuron_are_the_layer_without_groups():
    tied = with_logits(SelectiveActivation(4, groups=4, rngs=nnx.Rngs(0)))
    free = with_logits(SelectiveActivation(4, rngs=nnx.Rngs(0)))
    y, z = (compiled(act, X, seed=3) for act in (tied, free))
    np.testing.assert_array_equal(bits(y), bits(z))


def test_without_groups_nothing_is_gathered():
    """One layer with, one without; the trace of the layer without has no gather."""

    def traced(act):
        graphdef, state = nnx.split(act)
        return str(
            jax.make_jaxpr(
                lambda state, x: nnx.merge(graphdef, state)(x, rngs=nnx.Rngs(selection=0))
            )(state, X)
        )

    tied, free = (SelectiveActivation(4, groups=g, rngs=nnx.Rngs(0)) for g in (2, None))
    counts = [traced(act).count("gather") for act in (tied, free)]
    assert counts[0] > counts[1] == traced_gathers_of_mix()


def traced_gathers_of_mix():
    def apply(logits, key):
        return mix(X, estimators.gumbel_straight_through(logits, key, 1.0), PAPER_POOL)

    return str(jax.make_jaxpr(apply)(jnp.zeros((4, 6)), jax.random.key(0))).count("gather")


@pytest.mark.parametrize(
    ("groups", "error", "message"),
    [
        (0, ValueError, "an int groups must be at least 1 and divide the 4 features, got 0"),
        (-2, ValueError, "an int groups must be at least 1 and divide the 4 features, got -2"),
        (3, ValueError, "an int groups must be at least 1 and divide the 4 features, got 3"),
        (8, ValueError, "an int groups must be at least 1 and divide the 4 features, got 8"),
        ((0, 0, 1), ValueError, r"one group per neuron, \[4\], got \[3\]"),
        (((0, 0), (1, 1)), ValueError, r"one group per neuron, \[4\], got \[2, 2\]"),
        ((), ValueError, r"one group per neuron, \[4\], got \[0\]"),
        ((0, 0, 2, 2), ValueError, r"groups must be 0 to G − 1, every one in use, got \[0, 2\]"),
        ((1, 1, 1, 1), ValueError, r"groups must be 0 to G − 1, every one in use, got \[1\]"),
        ((-1, 0, 1, 1), ValueError, r"every one in use, got \[-1, 0, 1\]"),
        (True, TypeError, "groups must be an int or one per neuron, got True"),
        (2.0, TypeError, "groups must be an int or one per neuron, got 2.0"),
        ((0, 0, 1, 1.0), TypeError, r"one per neuron, got \(0, 0, 1, 1.0\)"),
        ("0011", TypeError, "groups must be an int or one per neuron, got '0011'"),
    ],
)
def test_groups_that_do_not_fit_raise_naming_value_and_expectation(groups, error, message):
    with pytest.raises(error, match=f"^SelectiveActivation: .*{message}"):
        SelectiveActivation(4, groups=groups, rngs=nnx.Rngs(0))


def test_groups_that_are_traced_raise():
    with pytest.raises(TypeError, match="groups must be an int or one per neuron, got"):
        jax.jit(lambda g: SelectiveActivation(4, groups=g, rngs=nnx.Rngs(0))(X))(jnp.arange(4))


# --- randomness ---------------------------------------------------------------------------


def assert_independent(draws):
    """No two rows agree in more neurons than independent draws among 6 would."""
    draws = np.asarray(draws)
    agreement = (draws[:, None] == draws[None]).mean(-1)
    np.fill_diagonal(agreement, 0)
    assert agreement.max() < 1 / 6 + 6 * (5 / 36 / draws.shape[-1]) ** 0.5


def test_layers_and_calls_and_seeds_never_share_noise():
    x = jnp.zeros((1, 400))
    model = Pair(400, rngs=nnx.Rngs(0))
    draws = []
    for seed in (0, 1):
        rngs = nnx.Rngs(selection=seed)
        draws += [y[0] for _ in range(6) for y in model(x, rngs=rngs)]
    rngs = nnx.Rngs(7)  # no stream called selection: the default one
    draws += [y[0] for _ in range(3) for y in model(x, rngs=rngs)]
    assert_independent(draws)
    again = model(x, rngs=nnx.Rngs(selection=0))
    np.testing.assert_array_equal(again[0][0], draws[0])
    np.testing.assert_array_equal(again[1][0], draws[1])


def test_a_stream_is_taken_as_rngs():
    act = SelectiveActivation(100, LABELS, rngs=nnx.Rngs(0))
    x = jnp.zeros((1, 100))
    from_stream = act(x, rngs=nnx.Rngs(selection=3)["selection"])
    np.testing.assert_array_equal(from_stream, act(x, rngs=nnx.Rngs(selection=3)))


@pytest.mark.graph_mode("a layer cannot hold the state of its stream")
def test_kept_rngs_give_fresh_noise_at_every_call_of_every_layer():
    x = jnp.zeros((1, 400))
    model = Pair(400, rngs=nnx.Rngs(0), keep_rngs=True)
    eager = [y[0] for _ in range(5) for y in model(x)]
    call = nnx.jit(lambda model, x: model(x))
    jitted = [y[0] for _ in range(5) for y in call(model, x)]
    assert_independent(eager + jitted)
    named = Pair(400, rngs=nnx.Rngs(0, selection=5), keep_rngs=True)
    assert_independent([named(x)[0][0], model(x)[0][0], named(x)[1][0]])


@pytest.mark.graph_mode("a layer cannot hold the state of its stream")
def test_rngs_of_the_call_win_over_kept_ones_and_kept_ones_are_no_parameter():
    act = SelectiveActivation(100, LABELS, rngs=nnx.Rngs(0), keep_rngs=True)
    x = jnp.zeros((1, 100))
    first, second = (act(x, rngs=nnx.Rngs(selection=3)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert len(jax.tree.leaves(nnx.state(act, nnx.Param))) == 1


def test_a_call_without_rngs_raises_naming_the_remedy_and_needs_none_without_noise():
    act = SelectiveActivation(4, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"got no key: pass rngs=nnx\.Rngs\(selection=seed\)"):
        act(X)
    assert act(X, deterministic=True).shape == X.shape


@pytest.mark.parametrize("key", [jax.random.key(0), jax.random.PRNGKey(0), 3])
def test_a_bare_key_raises_at_the_call_and_at_construction(key):
    act = SelectiveActivation(4, rngs=nnx.Rngs(0))
    message = rf"^SelectiveActivation: rngs must be nnx\.Rngs .* got {re.escape(shown(key))}"
    with pytest.raises(TypeError, match=message):
        act(X, rngs=key)
    with pytest.raises(TypeError, match=message):
        SelectiveActivation(4, rngs=key)


# --- errors -------------------------------------------------------------------------------


@pytest.mark.parametrize("features", [0, -2])
def test_features_below_1_raise(features):
    with pytest.raises(ValueError, match=f"features must be at least 1, got {features}"):
        SelectiveActivation(features, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_bad_temperature_raises_wherever_it_enters(temperature):
    message = f"temperature must be a finite value > 0, got {temperature}"
    with pytest.raises(ValueError, match=f"SelectiveActivation: {message}"):
        SelectiveActivation(4, temperature=temperature, rngs=nnx.Rngs(0))
    act = SelectiveActivation(4, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=message):
        act(X, rngs=nnx.Rngs(0), temperature=temperature)
    with pytest.raises(ValueError, match=f"SelectiveActivation: {message}"):
        nnx.view(act, temperature=temperature)
    act.temperature = temperature
    with pytest.raises(ValueError, match=message):
        act(X, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.complex64])
def test_input_that_is_no_real_float_raises_even_with_a_dtype(dtype):
    act = SelectiveActivation(4, dtype=jnp.float32, rngs=nnx.Rngs(0))
    message = f"x must be a real floating-point array, got {jnp.dtype(dtype).name}"
    with pytest.raises(TypeError, match=f"SelectiveActivation: {message}"):
        act(X.astype(dtype), rngs=nnx.Rngs(0))
    with pytest.raises(TypeError, match=f"MixedActivation: {message}"):
        fix_choices(act)(X.astype(dtype))


def test_a_wrong_number_of_features_raises_naming_both():
    act = SelectiveActivation(5, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"x\[3, 4\] .* needs weights \[4, 6\], got \[5, 6\]"):
        act(X, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"x\[3, 4\] on axis 1 needs choices \[4\], got \[5\]"):
        fix_choices(act)(X)


# --- training and compilation -------------------------------------------------------------


def loss(model, x, rngs):
    return jnp.mean(model(x, rngs=rngs) ** 2)


def test_gradients_reach_logits_and_weights():
    gradients = nnx.grad(loss, argnums=0)(mlp(), X, nnx.Rngs(selection=0))
    leaves = jax.tree.leaves(nnx.state(gradients, nnx.Param))
    assert sorted(leaf.shape for leaf in leaves) == [
        (2,), (4, 8), (8,), (8,), (8, 2), (8, 6), (8, 6), (8, 8),
    ]  # fmt: skip
    assert all(np.abs(leaf).max() > 1e-6 for leaf in leaves)


def test_an_unchanged_training_loop_trains_logits_and_weights():
    """nnx.Optimizer, nnx.value_and_grad, wrt=nnx.Param, nothing about selection."""
    model = mlp()
    before = jax.tree.map(np.asarray, nnx.state(model, nnx.Param))
    optimizer = nnx.Optimizer(model, optax.sgd(0.05), wrt=nnx.Param)
    rngs = nnx.Rngs(selection=0)
    losses = []
    for _ in range(15):
        value, gradients = nnx.value_and_grad(loss)(model, X, rngs)
        optimizer.update(model, nnx.state(gradients, nnx.Param))
        losses.append(value)
    moved = jax.tree.map(
        lambda old, new: np.abs(old - new).max(), before, nnx.state(model, nnx.Param)
    )
    assert all(change > 1e-5 for change in jax.tree.leaves(moved))
    assert np.mean(losses[-5:]) < np.mean(losses[:5])


def test_a_jitted_scan_over_split_state_trains_too():
    """The train step of the experiments: plain jax.jit, both parts as arguments."""
    graphdef, params, rest = nnx.split(mlp(), nnx.Param, ...)

    @jax.jit
    def train(params, rest, keys):
        def step(params, key):
            def total(params):
                return loss(nnx.merge(graphdef, params, rest), X, nnx.Rngs(selection=key))

            value, gradients = jax.value_and_grad(total)(params)
            return jax.tree.map(lambda p, g: p - 0.05 * g, params, gradients), value

        return jax.lax.scan(step, params, keys)

    trained, values = train(params, rest, jax.random.split(jax.random.key(0), 30))
    assert np.mean(values[-5:]) < np.mean(values[:5])
    moved = jax.tree.map(lambda old, new: np.abs(old - new).max(), params, trained)
    assert all(change > 1e-5 for change in jax.tree.leaves(moved))


def test_nnx_jit_and_plain_jit_agree_with_the_eager_call():
    model = mlp()
    eager = model(X, rngs=nnx.Rngs(selection=0))
    by_nnx = nnx.jit(lambda model, x: model(x, rngs=nnx.Rngs(selection=0)))(model, X)
    np.testing.assert_allclose(by_nnx, eager, rtol=1e-5, atol=1e-6)
    plain = compiled(model, X, seed=0)
    np.testing.assert_array_equal(bits(plain), bits(by_nnx))


def temperatures_by_argument(act):
    return [(act, tau) for tau in (0.5, 1.0, 2.0)]


def temperatures_by_view(act):
    return [(nnx.view(act, temperature=jnp.float32(tau)), None) for tau in (0.5, 1.0, 2.0)]


def temperatures_by_constructor(act):
    layers = [
        SelectiveActivation(4, rngs=nnx.Rngs(0), temperature=jnp.float32(tau))
        for tau in (0.5, 1.0, 2.0)
    ]
    return [(with_logits(layer), None) for layer in layers]


@pytest.mark.optimized
@pytest.mark.parametrize(
    "by", [temperatures_by_argument, temperatures_by_view, temperatures_by_constructor]
)
@pytest.mark.parametrize("jit", ["nnx", "jax"])
def test_a_new_temperature_changes_the_gradient_without_recompiling(by, jit):
    traces = []

    def gradient(act, tau):
        traces.append(1)

        def total(act):
            return jnp.sum(act(X, rngs=nnx.Rngs(selection=1), temperature=tau) ** 2)

        return nnx.grad(total)(act).selection_logits[...]

    @functools.partial(jax.jit, static_argnums=0)
    def on_split_state(graphdef, state, tau):
        return gradient(nnx.merge(graphdef, state), tau)

    by_nnx = nnx.jit(gradient)
    call = by_nnx if jit == "nnx" else lambda act, tau: on_split_state(*nnx.split(act), tau)
    act = with_logits(SelectiveActivation(4, rngs=nnx.Rngs(0)))
    found = [call(layer, tau) for layer, tau in by(act)]
    assert len(traces) == 1
    reference = SelectiveActivation(4, rngs=nnx.Rngs(0), temperature=0.5)  # static: another trace
    np.testing.assert_allclose(found[0], call(with_logits(reference), None), rtol=1e-5)
    assert np.abs(found[0] - found[1]).max() > 1e-3
    assert np.abs(found[1] - found[2]).max() > 1e-3


def test_view_changes_a_copy_that_shares_the_logits():
    act = SelectiveActivation(4, rngs=nnx.Rngs(0))
    view = nnx.view(act, deterministic=True, temperature=3.0, estimator=estimators.reinmax)
    assert (view.deterministic, float(view.temperature)) == (True, 3.0)
    assert view.estimator is estimators.reinmax
    assert (act.deterministic, float(act.temperature)) == (False, 1.0)
    assert act.estimator is estimators.gumbel_straight_through
    assert view.selection_logits.get_value() is act.selection_logits.get_value()


def test_vmap_over_seeds_is_the_loop_over_them():
    models = [mlp(seed=seed) for seed in range(3)]
    graphdef = nnx.split(models[0])[0]
    states = [nnx.split(model)[1] for model in models]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    keys = jax.random.split(jax.random.key(0), 3)

    def apply(state, key):
        return nnx.merge(graphdef, state)(X, rngs=nnx.Rngs(selection=key))

    found = jax.jit(jax.vmap(apply))(stacked, keys)
    one = jax.jit(apply)
    for y, state, key in zip(found, states, keys, strict=True):
        np.testing.assert_allclose(y, one(state, key), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("remat", ["nnx", "jax"])
def test_rematerialisation_changes_no_gradient(remat):
    """The second forward pass draws the same choices as the first."""

    def call(act, x):
        return act(x, rngs=nnx.Rngs(selection=2))

    def total(act, wrap):
        return jnp.sum(wrap(call)(act, X) ** 2)

    def through_jax(call):
        def apply(act, x):
            graphdef, state = nnx.split(act)
            return jax.checkpoint(lambda state, x: call(nnx.merge(graphdef, state), x))(state, x)

        return apply

    act = with_logits(SelectiveActivation(4, rngs=nnx.Rngs(0)))
    wrap = nnx.remat if remat == "nnx" else through_jax
    found = nnx.grad(lambda act: total(act, wrap))(act)
    expected = nnx.grad(lambda act: total(act, lambda call: call))(act)
    assert np.abs(expected.selection_logits[...]).max() > 0.01
    np.testing.assert_allclose(
        found.selection_logits[...], expected.selection_logits[...], rtol=1e-5
    )


# --- MixedActivation ----------------------------------------------------------------------


def test_mixed_activation_applies_its_table_and_has_no_parameters():
    act = MixedActivation(FunctionTable(PAPER_POOL, [0, 1, 2, 5]))
    assert jax.tree.leaves(nnx.state(act)) == []
    np.testing.assert_array_equal(act(X), apply_choices(X, [0, 1, 2, 5], PAPER_POOL))


def test_mixed_activation_takes_and_ignores_the_keywords_of_the_selective_one():
    act = MixedActivation(FunctionTable(PAPER_POOL, [0, 1, 2, 5]))
    for options in (
        {"rngs": nnx.Rngs(0)},
        {"rngs": None, "deterministic": False, "temperature": -1.0},
        {"deterministic": True},
    ):
        np.testing.assert_array_equal(act(X, **options), act(X))


# --- fix_choices --------------------------------------------------------------------------


class Block(nnx.Module):
    def __init__(self, features, *, rngs):
        self.dense = nnx.Linear(features, features, rngs=rngs)
        self.act = SelectiveActivation(features, rngs=rngs)

    def __call__(self, x, **options):
        return self.act(self.dense(x), **options)


class Nested(nnx.Module):
    """Selective layers in a List, a Dict and a Sequential, below other modules."""

    def __init__(self, *, rngs):
        self.blocks = nnx.List([Block(4, rngs=rngs) for _ in range(2)])
        self.named = nnx.Dict(first=Block(4, rngs=rngs), plain=nnx.Linear(4, 4, rngs=rngs))
        self.chain = nnx.Sequential(
            nnx.Linear(4, 4, rngs=rngs), SelectiveActivation(4, rngs=rngs), jnp.tanh
        )

    def __call__(self, x):
        for block in self.blocks:
            x = block(x)
        return self.chain(self.named["plain"](self.named["first"](x)))


def selective_layers(model):
    return [m for _, m in nnx.iter_modules(model) if isinstance(m, SelectiveActivation)]


def mixed_layers(model):
    return [m for _, m in nnx.iter_modules(model) if isinstance(m, MixedActivation)]


def nested():
    model = Nested(rngs=nnx.Rngs(0))
    for seed, layer in enumerate(selective_layers(model)):
        with_logits(layer, seed)
    model.eval()
    return model


def test_fixed_layers_hold_the_argmax_of_their_own_logits_wherever_they_are():
    model = nested()
    fixed = fix_choices(model)
    assert selective_layers(fixed) == []
    selective = selective_layers(model)
    assert len(selective) == 4
    for before, after in zip(selective, mixed_layers(fixed), strict=True):
        assert after.table == FunctionTable(PAPER_POOL, np.argmax(before.selection_logits[...], -1))
    paths = [path for path, m in nnx.iter_modules(model) if isinstance(m, SelectiveActivation)]
    assert paths == [path for path, m in nnx.iter_modules(fixed) if isinstance(m, MixedActivation)]


def test_many_layers_are_fixed_each_with_its_own_choices():
    model = mlp((8,) * 12)
    for layer, fixed in zip(model.activations, fix_choices(model).activations, strict=True):
        np.testing.assert_array_equal(
            fixed.table.choices, np.argmax(layer.selection_logits[...], -1)
        )


def test_the_fixed_model_holds_the_very_same_weight_arrays():
    model = nested()
    fixed = fix_choices(model)
    weights = nnx.to_flat_state(nnx.state(fixed, nnx.Param))
    assert len(weights) == 10
    before = dict(nnx.to_flat_state(nnx.state(model, nnx.Param)))
    for path, variable in weights:
        assert variable.get_value() is before[path].get_value(), path


def test_the_input_model_stays_intact_also_when_the_fixed_one_is_trained():
    model = nested()
    before = jax.tree.map(np.asarray, nnx.state(model))
    fixed = fix_choices(model)
    fixed.blocks[0].dense.kernel[...] = jnp.zeros((4, 4))
    optimizer = nnx.Optimizer(fixed, optax.sgd(0.1), wrt=nnx.Param)
    gradients = nnx.grad(lambda model: jnp.sum(model(X) ** 2))(fixed)
    optimizer.update(fixed, nnx.state(gradients, nnx.Param))
    jax.tree.map(np.testing.assert_array_equal, before, nnx.state(model))
    assert len(selective_layers(model)) == 4
    kernels = [m.named["plain"].kernel[...] for m in (model, fixed)]
    assert np.abs(kernels[0] - kernels[1]).max() > 0


@pytest.mark.optimized
@pytest.mark.parametrize("build", [nested, lambda: mlp((8, 8))])
def test_fixed_outputs_are_the_bits_of_the_deterministic_ones_under_jit(build):
    model = build()
    model.eval()
    x = jax.random.normal(jax.random.key(5), (17, 4))
    y = compiled(model, x)
    np.testing.assert_array_equal(bits(compiled(fix_choices(model), x)), bits(y))
    model.train()
    np.testing.assert_array_equal(bits(compiled(fix_choices(model), x)), bits(y))


def test_a_root_layer_becomes_a_mixed_activation_with_its_axis_and_dtype():
    act = with_logits(SelectiveActivation(4, axis=1, dtype=jnp.bfloat16, rngs=nnx.Rngs(0)))
    fixed = fix_choices(act)
    assert isinstance(fixed, MixedActivation)
    assert (fixed.axis, fixed.dtype) == (1, jnp.bfloat16)
    assert fixed.table.choices == tuple(np.argmax(act.selection_logits[...], -1).tolist())
    assert fixed.pool is act.pool


@pytest.mark.graph_mode("a module has one place only")
def test_a_layer_used_at_two_places_becomes_one_mixed_activation():
    class Twice(nnx.Module):
        def __init__(self, *, rngs):
            self.first = with_logits(SelectiveActivation(4, rngs=rngs))
            self.inner = nnx.List([self.first, with_logits(SelectiveActivation(4, rngs=rngs), 1)])

    fixed = fix_choices(Twice(rngs=nnx.Rngs(0)))
    assert fixed.first is fixed.inner[0]
    assert fixed.first.table != fixed.inner[1].table


def test_a_fixed_model_keeps_training_under_jit():
    graphdef, params, rest = nnx.split(fix_choices(mlp()), nnx.Param, ...)

    @jax.jit
    def step(params):
        value, gradients = jax.value_and_grad(
            lambda params: jnp.mean(nnx.merge(graphdef, params, rest)(X) ** 2)
        )(params)
        return jax.tree.map(lambda p, g: p - 0.05 * g, params, gradients), value

    values = []
    for _ in range(10):
        params, value = step(params)
        values.append(value)
    assert values[-1] < values[0]


def test_a_model_without_selective_layers_raises_naming_it():
    with pytest.raises(ValueError, match="Linear holds no SelectiveActivation"):
        fix_choices(nnx.Linear(2, 2, rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match="MLP holds no SelectiveActivation"):
        fix_choices(fix_choices(mlp()))


def test_fixing_under_jit_raises_naming_the_layer():
    with pytest.raises(
        ValueError, match=r"fix_choices: activations\.0: the logits are traced; call"
    ):
        nnx.jit(lambda model: fix_choices(model)(X))(mlp())
    with pytest.raises(ValueError, match="fix_choices: the model: the logits are traced"):
        nnx.jit(lambda act: fix_choices(act)(X))(SelectiveActivation(4, rngs=nnx.Rngs(0)))


def test_where_fixes_the_layers_it_takes_and_leaves_the_others_selective():
    model = nested()
    model.train()
    seen = {}

    def where(path, layer):
        seen[path] = layer
        return path in ("blocks.1.act", "chain.layers.1")

    fixed = fix_choices(model, where)
    paths = ["blocks.0.act", "blocks.1.act", "chain.layers.1", "named.first.act"]
    assert sorted(seen) == sorted(summarize(model)) == sorted(summarize(fixed)) == paths
    before, after = (
        {".".join(map(str, path)): layer for path, layer in nnx.iter_modules(m)}
        for m in (model, fixed)
    )
    for path, layer in seen.items():
        assert isinstance(layer, SelectiveActivation)
        logits = before[path].selection_logits
        assert layer.selection_logits.get_value() is logits.get_value()
        if path in ("blocks.1.act", "chain.layers.1"):
            assert after[path].table == FunctionTable(PAPER_POOL, np.argmax(logits[...], -1))
        else:
            assert after[path].selection_logits.get_value() is logits.get_value()
            assert after[path].selection_logits is not logits
            assert not after[path].deterministic


@pytest.mark.optimized
def test_fixing_one_layer_after_the_other_keeps_the_bits():
    model = mlp((8, 8, 8))
    model.eval()
    x = jax.random.normal(jax.random.key(5), (17, 4))
    y = compiled(model, x)
    partly = model
    for index in (1, 0, 2):
        partly = fix_choices(partly, lambda path, layer, i=index: path == f"activations.{i}")
        np.testing.assert_array_equal(bits(compiled(partly, x)), bits(y))
    assert nnx.split(partly)[0] == nnx.split(fix_choices(model))[0]


def test_a_layer_left_selective_may_be_stacked():
    model = mlp()
    first, *_ = model.activations
    first.selection_logits.set_value(jnp.stack([first.selection_logits[...]] * 3))
    fixed = fix_choices(model, where=lambda path, layer: path == "activations.1")
    assert fixed.activations[0].selection_logits.shape == (3, 8, 6)


def test_where_that_takes_no_layer_raises_naming_those_there_are():
    with pytest.raises(
        ValueError, match=r"^fix_choices: where takes none of the layers: .*activations\.0, .*\.1$"
    ):
        fix_choices(mlp(), where=lambda path, layer: path == "activation.0")
    with pytest.raises(ValueError, match=r"where takes none of the layers: the model$"):
        fix_choices(SelectiveActivation(4, rngs=nnx.Rngs(0)), where=lambda path, layer: False)
    with pytest.raises(ValueError, match="Linear holds no SelectiveActivation"):
        fix_choices(nnx.Linear(2, 2, rngs=nnx.Rngs(0)), where=lambda path, layer: True)
