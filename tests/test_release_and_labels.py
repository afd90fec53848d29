"""release_choices and label_parameters of NNX models.

The labels of Linen parameters are tested where Linen's are.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from smartmixed_jax import (
    MLP,
    PAPER_POOL,
    REGRESSION_POOL,
    ActivationPool,
    FunctionTable,
    MixedActivation,
    SelectionLogits,
    SelectiveActivation,
    estimators,
    fix_choices,
    label_parameters,
    release_choices,
)

pytestmark = pytest.mark.usefixtures("strict")


def constant(value):
    return lambda x: jnp.full_like(x, value)


LABELS = ActivationPool({str(k): constant(float(k)) for k in range(6)})
"""Function k is the constant k: the output of a layer is its choices."""

X = jnp.linspace(-2, 2, 12).reshape(3, 4)


def compiled(model, x):
    graphdef, state = nnx.split(model)
    return np.asarray(jax.jit(lambda state, x: nnx.merge(graphdef, state)(x))(state, x))


def assert_same_bits(a, b):
    np.testing.assert_array_equal(a.view(np.int32), b.view(np.int32))


def decided(model):
    """The model with random logits, so that its neurons choose differently."""
    for index, (_, layer) in enumerate(nnx.iter_modules(model)):
        if isinstance(layer, SelectiveActivation):
            logits = layer.selection_logits
            logits[...] = jax.random.normal(jax.random.key(index), logits.shape)
    return model


# --- release_choices ----------------------------------------------------------------------


def fixed_mlp():
    return fix_choices(decided(MLP(4, (8, 8), 2, rngs=nnx.Rngs(0))))


@pytest.mark.parametrize("probability", [0.2, 0.9, 0.999])
def test_released_layers_give_their_choices_the_probability(probability):
    fixed = fixed_mlp()
    model = release_choices(fixed, probability=probability, rngs=nnx.Rngs(1))
    for layer, before in zip(model.activations, fixed.activations, strict=True):
        pi = np.asarray(jax.nn.softmax(layer.selection_logits[...]))
        choices = np.asarray(before.table.choices)
        np.testing.assert_allclose(pi[np.arange(8), choices], probability, rtol=1e-5)
        others = np.delete(pi.ravel(), np.arange(8) * 6 + choices)
        np.testing.assert_allclose(others, (1 - probability) / 5, rtol=1e-3)


@pytest.mark.optimized
def test_releasing_is_the_way_back_bit_for_bit():
    fixed = fixed_mlp()
    model = release_choices(fixed, rngs=nnx.Rngs(1))
    model.eval()
    assert_same_bits(compiled(model, X), compiled(fixed, X))
    again = fix_choices(model)
    assert [a.table for a in again.activations] == [a.table for a in fixed.activations]


def test_axis_dtype_and_pool_are_kept_and_options_passed_on():
    table = FunctionTable(REGRESSION_POOL, [0, 3, 3])
    fixed = MixedActivation(table, axis=1, dtype=jnp.bfloat16)
    layer = release_choices(
        fixed, rngs=nnx.Rngs(0), estimator=estimators.reinmax, temperature=3.0, keep_rngs=False
    )
    assert (layer.axis, layer.dtype, layer.pool) == (1, jnp.bfloat16, REGRESSION_POOL)
    assert layer.estimator is estimators.reinmax
    assert float(layer.temperature) == 3.0
    assert layer.rngs is None
    assert fix_choices(layer).table == table


def test_released_groups_share_a_choice_and_must_have_shared_it():
    fixed = MixedActivation(FunctionTable(PAPER_POOL, [2, 2, 5, 5]))
    layer = release_choices(fixed, groups=2, rngs=nnx.Rngs(0))
    assert layer.selection_logits.shape == (2, 6)
    assert fix_choices(layer).table == fixed.table
    scattered = release_choices(
        MixedActivation(FunctionTable(PAPER_POOL, [5, 2, 2, 5])),
        groups=[1, 0, 0, 1],
        rngs=nnx.Rngs(0),
    )
    assert fix_choices(scattered).table.choices == (5, 2, 2, 5)
    with pytest.raises(ValueError, match="the model: neurons of a group hold different"):
        release_choices(fixed, groups=1, rngs=nnx.Rngs(0))


def test_where_releases_some_layers():
    fixed = fixed_mlp()
    model = release_choices(fixed, lambda path, _: path == "activations.1", rngs=nnx.Rngs(1))
    kinds = [type(activation) for activation in model.activations]
    assert kinds == [MixedActivation, SelectiveActivation]
    with pytest.raises(ValueError, match=r"where takes none .* activations\.0, activations\.1"):
        release_choices(fixed, lambda path, _: False, rngs=nnx.Rngs(1))


def test_the_fixed_model_stays_intact_and_shares_its_arrays_with_the_released_one():
    fixed = fixed_mlp()
    before = jax.tree.map(np.asarray, nnx.state(fixed))
    model = release_choices(fixed, rngs=nnx.Rngs(1))
    assert model.layers[0].kernel.get_value() is fixed.layers[0].kernel.get_value()
    model.layers[0].kernel[...] = jnp.zeros((4, 8))
    jax.tree.map(np.testing.assert_array_equal, before, nnx.state(fixed))
    assert all(isinstance(activation, MixedActivation) for activation in fixed.activations)


def test_released_layers_select_again_each_with_its_own_noise():
    fixed = nnx.List([MixedActivation(FunctionTable(LABELS, [0] * 2000)) for _ in range(2)])
    layers = release_choices(fixed, probability=0.5, rngs=nnx.Rngs(0))
    x = jnp.zeros((1, 2000))
    draws = np.stack([layer(x)[0] for _ in range(2) for layer in layers])
    np.testing.assert_allclose((draws == 0).mean(-1), 0.5, atol=0.06)
    agreement = (draws[:, None] == draws[None]).mean(-1)[np.triu_indices(4, 1)]
    assert agreement.max() < 0.4


def test_what_cannot_be_released_raises():
    fixed = MixedActivation(FunctionTable(PAPER_POOL, [0]))
    for probability in (1 / 6, 1.0, 0.0, float("nan")):
        with pytest.raises(ValueError, match=r"probability must be in \(1/6, 1\) .* got"):
            release_choices(fixed, probability=probability, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="MLP holds no MixedActivation"):
        release_choices(MLP(4, (8,), 2, rngs=nnx.Rngs(0)), rngs=nnx.Rngs(0))


@pytest.mark.graph_mode("a module has one place only")
def test_a_fixed_layer_at_two_places_becomes_one_selective_layer():
    layer = MixedActivation(FunctionTable(PAPER_POOL, [0, 1]))
    model = release_choices(nnx.List([layer, layer]), rngs=nnx.Rngs(0))
    assert model[0] is model[1]


# --- label_parameters ---------------------------------------------------------------------


class Confusable(nnx.Module):
    """The user's own parameter `logits`, of the shape of selection logits."""

    def __init__(self, *, rngs):
        self.linear = nnx.Linear(4, 8, rngs=rngs)
        self.act = SelectiveActivation(8, rngs=rngs, estimator=estimators.straight_through)
        self.logits = nnx.Param(jnp.full((8, 6), 0.1))

    def __call__(self, x):
        return self.act(self.linear(x)) @ self.logits[...]


@pytest.mark.parametrize("callable_labels", [False, True])
@pytest.mark.parametrize("rates", [(0.1, 0.0), (0.0, 0.1), (0.2, 0.1)])
def test_logits_and_weights_move_with_their_own_rates_in_nnx(callable_labels, rates):
    model = Confusable(rngs=nnx.Rngs(0))
    labels = label_parameters if callable_labels else label_parameters(nnx.state(model, nnx.Param))
    by_label = {
        "selection": optax.sgd(rates[0], momentum=0.9),
        "weights": optax.sgd(rates[1], momentum=0.9),
    }
    optimizer = nnx.Optimizer(model, optax.multi_transform(by_label, labels), wrt=nnx.Param)

    def loss(model):
        return jnp.sum(model(X) ** 2)

    before = jax.tree.map(np.asarray, nnx.state(model, nnx.Param))
    gradients = nnx.grad(loss)(model)
    expected = jax.tree.map(
        lambda g: np.asarray(g).copy(), nnx.to_pure_dict(nnx.state(gradients, nnx.Param))
    )
    nnx.jit(lambda m, o, g: o.update(m, g))(model, optimizer, gradients)
    moved = jax.tree.map(
        lambda old, new: np.asarray(old - new),
        nnx.to_pure_dict(before),
        nnx.to_pure_dict(nnx.state(model, nnx.Param)),
    )
    for path, rate in (
        (("act", "selection_logits"), rates[0]),
        (("linear", "kernel"), rates[1]),
        (("logits",), rates[1]),
    ):
        delta, gradient = (functools.reduce(lambda d, k: d[k], path, t) for t in (moved, expected))
        assert np.abs(gradient).max() > 1e-3
        np.testing.assert_allclose(delta, rate * gradient, rtol=1e-3, atol=1e-6)


def test_labels_are_by_type_in_a_state_and_by_name_in_plain_trees():
    model = Confusable(rngs=nnx.Rngs(0))
    params = nnx.state(model, nnx.Param)
    expected = {
        "act": {"selection_logits": "selection"},
        "linear": {"bias": "weights", "kernel": "weights"},
        "logits": "weights",
    }
    for tree in (params, nnx.as_pure(params), nnx.to_pure_dict(params)):
        assert nnx.to_pure_dict(nnx.State(dict(label_parameters(tree)))) == expected
    named = label_parameters(params, selection="a", weights="b")
    assert (named["act"]["selection_logits"], named["linear"]["bias"]) == ("a", "b")


def test_a_users_own_logits_are_weights_alone_or_beside_selective_layers():
    class Lonely(nnx.Module):
        def __init__(self):
            self.logits = nnx.Param(jnp.zeros((8, 6)))

    model = nnx.Dict(mine=Lonely(), act=SelectiveActivation(8, rngs=nnx.Rngs(0)))
    params = nnx.state(model, nnx.Param)
    expected = {"mine": {"logits": "weights"}, "act": {"selection_logits": "selection"}}
    for tree in (params, nnx.to_pure_dict(params)):
        labels = label_parameters(tree)
        assert {name: dict(labels[name]) for name in labels} == expected


def test_a_renamed_variable_of_the_type_is_selection_and_plain_trees_may_be_empty():
    stacked = {"blocks": {"act": {"selection_logits": jnp.zeros((3, 8, 6))}}}
    assert label_parameters(stacked) == {"blocks": {"act": {"selection_logits": "selection"}}}
    assert label_parameters({"mine": SelectionLogits(jnp.zeros((8, 6)))}) == {"mine": "selection"}
    assert label_parameters({"selection_logits": jnp.zeros(3)}) == {"selection_logits": "selection"}
    assert label_parameters({}) == {}


def test_logits_is_another_name_of_the_parameter():
    layer = SelectiveActivation(8, rngs=nnx.Rngs(0))
    assert layer.logits is layer.selection_logits
    assert list(nnx.to_pure_dict(nnx.state(layer))) == ["selection_logits"]
