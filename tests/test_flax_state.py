"""What a layer holds is what Flax expects of one: what works for nnx.Dropout works here."""

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import nnx

from smartmixed_jax import (
    PAPER_POOL,
    FunctionTable,
    MixedActivation,
    SelectionLogits,
    SelectiveActivation,
    fix_choices,
    label_parameters,
    select_activations,
)
from smartmixed_jax.nnx import Choices, Temperature

X = jnp.linspace(-2, 2, 32).reshape(2, 16)


def dropout():
    return nnx.Dropout(0.5, rngs=nnx.Rngs(0))


def selective():
    return SelectiveActivation(16, keep_rngs=True, rngs=nnx.Rngs(0))


def annealed():
    """Its temperature is an array."""
    return SelectiveActivation(16, temperature=jnp.array(2.0), keep_rngs=True, rngs=nnx.Rngs(0))


def fixed_as_data():
    return MixedActivation(FunctionTable(PAPER_POOL, [i % 6 for i in range(16)]), static=False)


LAYERS = (dropout, selective, annealed, fixed_as_data)


# --- every leaf is a Variable ---------------------------------------------------------------


@pytest.mark.parametrize("make", LAYERS)
def test_every_leaf_of_the_state_is_a_variable(make):
    leaves = nnx.to_flat_state(nnx.state(make()))
    assert all(isinstance(leaf, nnx.Variable) for _, leaf in leaves)
    for _, leaf in leaves:
        leaf.get_value()


@pytest.mark.parametrize("make", [dropout, selective])
def test_parameters_and_random_state_are_all_there_is(make):
    graphdef, params, random = nnx.split(make(), nnx.Param, nnx.RngState)
    assert nnx.merge(graphdef, params, random)(X).shape == X.shape


def test_logits_temperature_choices_and_random_state_are_told_apart_by_type():
    _, logits, temperature, random = nnx.split(annealed(), SelectionLogits, Temperature, ...)
    assert [leaf.shape for leaf in jax.tree.leaves(logits)] == [(16, 6)]
    assert jax.tree.leaves(temperature) == [2.0]
    assert len(jax.tree.leaves(random)) == 2
    _, choices = nnx.split(fixed_as_data(), Choices)
    assert [leaf.shape for leaf in jax.tree.leaves(choices)] == [(16,)]


@pytest.mark.parametrize("make", LAYERS)
def test_a_state_is_restored_into_an_abstract_model(make, tmp_path):
    def build():
        return nnx.Sequential(nnx.Linear(8, 16, rngs=nnx.Rngs(0)), make())

    model = jax.tree.map(lambda leaf: leaf, build())
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", nnx.state(model))
        checkpointer.wait_until_finished()
        graphdef, abstract = nnx.split(nnx.eval_shape(build))
        restored = nnx.merge(graphdef, checkpointer.restore(tmp_path / "state", abstract))
    y = nnx.view(restored, deterministic=True, raise_if_not_found=False)(X[:, :8])
    expected = nnx.view(model, deterministic=True, raise_if_not_found=False)(X[:, :8])
    np.testing.assert_array_equal(y, expected)


@pytest.mark.graph_mode("nnx.StateAxes and nnx.cached_partial are of graph mode")
@pytest.mark.parametrize("make", [dropout, selective])
def test_state_axes_tabulate_and_cached_partial(make):
    axes = nnx.StateAxes({nnx.Param: None, nnx.RngState: None})
    over = nnx.vmap(lambda model, x: model(x), in_axes=(axes, None), axis_size=2)
    assert over(make(), X).shape == (2, *X.shape)
    assert type(make()).__name__ in nnx.tabulate(make(), X)
    call = nnx.cached_partial(nnx.jit(lambda model, x: model(x)), make())
    assert call(X).shape == X.shape


@pytest.mark.parametrize("make", LAYERS)
def test_states_as_pure_dicts_and_clones(make):
    model = make()
    pure = nnx.to_pure_dict(nnx.state(model))
    twin = make()
    nnx.replace_by_pure_dict(state := nnx.state(twin), pure)
    nnx.update(twin, state)
    twin = nnx.clone(twin)
    leaves = [jax.tree.leaves(nnx.state(one)) for one in (twin, model)]
    for found, expected in zip(*leaves, strict=True):
        assert found.dtype == expected.dtype
        if not jnp.issubdtype(found.dtype, jax.dtypes.prng_key):
            np.testing.assert_array_equal(found, expected)


# --- a number is static, an array is data ----------------------------------------------------


def test_a_number_is_a_static_attribute_and_an_array_a_variable():
    assert SelectiveActivation(2, temperature=2, rngs=nnx.Rngs(0)).temperature == 2.0
    held = SelectiveActivation(2, temperature=np.float32(2), rngs=nnx.Rngs(0)).temperature
    assert isinstance(held, float | Temperature)
    act = SelectiveActivation(2, rngs=nnx.Rngs(0))
    assert isinstance(nnx.view(act, temperature=jnp.array(0.5)).temperature, Temperature)
    assert act.temperature == 1.0
    both = nnx.view(nnx.view(act, temperature=jnp.array(0.5)), temperature=0.25)
    assert both.temperature == 0.25


def test_a_temperature_that_anneals_compiles_once():
    act = SelectiveActivation(16, rngs=nnx.Rngs(0))
    graphdef, state = nnx.split(act)
    traces = []

    @jax.jit
    def gradient(state, tau, key):
        traces.append(1)

        def total(state):
            model = nnx.view(nnx.merge(graphdef, state), temperature=tau)
            return jnp.sum(model(X, rngs=nnx.Rngs(selection=key)) ** 2)

        return jax.grad(total)(state)

    key = jax.random.key(0)
    found = [gradient(state, jnp.float32(tau), key) for tau in (0.5, 1.0, 2.0)]
    assert len(traces) == 1
    assert np.abs(jax.tree.leaves(found[0])[0] - jax.tree.leaves(found[2])[0]).max() > 1e-4


# --- names -----------------------------------------------------------------------------------


def test_an_old_state_loads_under_the_new_name():
    act = SelectiveActivation(4, rngs=nnx.Rngs(0))
    new = jax.random.normal(jax.random.key(1), (4, 6))
    nnx.update(act, nnx.State({"logits": SelectionLogits(new)}))
    np.testing.assert_array_equal(act.selection_logits[...], new)
    assert act.logits is act.selection_logits


class Bridged(nnx.Module):
    def __init__(self, *, rngs):
        self.linear = nnx.Linear(8, 16, rngs=rngs)
        self.act = SelectiveActivation(16, keep_rngs=True, rngs=rngs)

    def __call__(self, x):
        return self.act(self.linear(x))


def test_to_linen_keeps_the_logits_in_a_collection_of_their_name():
    streams = {"params": jax.random.key(0), "selection": jax.random.key(1)}
    variables = nnx.bridge.to_linen(Bridged).init(streams, X[:, :8])
    assert set(variables) == {"params", "selection_logits"}
    labels = label_parameters(variables)
    assert jax.tree.leaves(labels["selection_logits"]) == ["selection"]
    assert set(jax.tree.leaves(labels["params"])) == {"weights"}
    assert nnx.variable_name_from_type(nnx.Param) == "params"


# --- streams ---------------------------------------------------------------------------------


def net():
    rngs = nnx.Rngs(0)
    model = nnx.Sequential(nnx.Linear(2, 16, rngs=rngs), nnx.tanh, nnx.Linear(16, 1, rngs=rngs))
    return select_activations(model, jnp.ones(2), rngs=rngs, report=None)


def scanned(model):
    return jax.lax.scan(lambda carry, x: (carry, model(x)), 0, jnp.ones((4, 2)))


@pytest.mark.graph_mode("in tree mode a stream is an array that the transformation hands back")
@pytest.mark.parametrize(
    "use",
    [
        lambda model: jax.vmap(model)(jnp.ones((4, 2))),
        lambda model: jax.hessian(lambda x: model(x)[0])(jnp.ones(2)),
        scanned,
        lambda model: jax.jit(model)(jnp.ones(2)),
    ],
    ids=["vmap", "hessian", "scan", "jit"],
)
def test_a_kept_stream_that_cannot_be_advanced_says_the_way_out(use):
    with pytest.raises(ValueError, match=r"made outside .* rngs=nnx\.Rngs\(selection=key\)"):
        use(net())
    use(nnx.view(net(), deterministic=True))


def test_a_stream_made_inside_is_one_draw_for_all_examples():
    act = SelectiveActivation(64, rngs=nnx.Rngs(0))
    key, x = jax.random.key(3), jax.random.normal(jax.random.key(4), (5, 64))
    one_by_one = jax.vmap(lambda x: act(x, rngs=nnx.Rngs(selection=key)))(x)
    np.testing.assert_allclose(one_by_one, act(x, rngs=nnx.Rngs(selection=key)), rtol=1e-6)


# --- layers stacked by NNX's transforms ------------------------------------------------------


def stack(shape=(3,), **options):
    make = lambda rngs: SelectiveActivation(8, rngs=rngs, **options)  # noqa: E731
    for size in reversed(shape):
        make = nnx.split_rngs(splits=size)(nnx.vmap(axis_size=size)(make))
    model = make(nnx.Rngs(0))
    logits = model.selection_logits
    logits[...] = jax.random.normal(jax.random.key(1), logits.shape)
    return model


def test_a_stack_is_fixed_summarized_and_released_a_table_per_layer():
    from smartmixed_jax import release_choices, summarize

    model = stack()
    logits = np.asarray(model.selection_logits[...])
    fixed = fix_choices(model)
    assert list(fixed.tables()) == ["[0]", "[1]", "[2]"]
    for table, rows in zip(fixed.tables().values(), logits, strict=True):
        assert table.choices == tuple(np.argmax(rows, -1).tolist())
    before, after = summarize(model), summarize(fixed)
    assert list(before) == list(after) == ["[0]", "[1]", "[2]"]
    assert [r["counts"] for r in before.values()] == [r["counts"] for r in after.values()]
    back = release_choices(fixed, rngs=nnx.Rngs(5))
    assert back.selection_logits.shape == logits.shape
    np.testing.assert_array_equal(np.argmax(back.selection_logits[...], -1), logits.argmax(-1))
    assert back.rngs.key.shape == (3,)


@pytest.mark.optimized
@pytest.mark.parametrize("options", [{}, {"groups": 4}, {"axis": 1}])
def test_a_fixed_stack_has_the_bits_of_the_deterministic_one(options):
    model = nnx.view(stack(**options), deterministic=True)
    x = jax.random.normal(jax.random.key(2), (8, 8))
    over = nnx.jit(nnx.vmap(lambda model, x: model(x), in_axes=(0, None)))
    np.testing.assert_array_equal(over(fix_choices(model), x), over(model, x))


@pytest.mark.graph_mode("nnx.scan over a module of Choices")
def test_a_fixed_stack_is_scanned():
    model = nnx.view(stack(), deterministic=True)
    run = nnx.jit(nnx.scan(lambda x, layer: (layer(x), None), in_axes=(nnx.Carry, 0)))
    x = jax.random.normal(jax.random.key(2), (5, 8))
    np.testing.assert_array_equal(run(x, fix_choices(model))[0], run(x, model)[0])


def test_two_leading_axes_have_a_record_each():
    from smartmixed_jax import summarize

    model = stack((2, 3))
    names = [f"[{i}][{j}]" for i in range(2) for j in range(3)]
    assert list(summarize(model)) == list(summarize(fix_choices(model))) == names


def test_nan_logits_are_refused_naming_layer_and_neuron():
    model = nnx.Sequential(SelectiveActivation(4, rngs=nnx.Rngs(0)), nnx.relu)
    logits = model.layers[0].selection_logits
    logits[...] = logits[...].at[2, 1].set(jnp.nan)
    with pytest.raises(ValueError, match=r"fix_choices: layers\.0: the logits of neuron 2 are NaN"):
        fix_choices(model)
    pair = stack((2,))
    pair.selection_logits[...] = pair.selection_logits[...].at[1, 3, 0].set(jnp.nan)
    with pytest.raises(ValueError, match="the logits of neuron 3 are NaN"):
        fix_choices(pair)
