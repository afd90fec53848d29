"""select_activations: the converted model starts from the given one."""

import functools
import itertools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from smartmixed_jax import (
    EXTENDED_POOL,
    PAPER_POOL,
    REGRESSION_POOL,
    ActivationPool,
    SelectiveActivation,
    covered,
    fix_choices,
    leaky_relu,
    select_activations,
)
from smartmixed_jax.conversion import HIDDEN_ACTIVATIONS

EXACT_GELU = functools.partial(nnx.gelu, approximate=False)
STEEP = functools.partial(nnx.leaky_relu, negative_slope=0.3)


def snake(x):
    return x + jnp.sin(x) ** 2


FUNCTIONS = {
    **{f.__name__: f for f in HIDDEN_ACTIVATIONS if not isinstance(f, type)},
    "leaky_relu(slope)": leaky_relu(0.2),
    "exact gelu": EXACT_GELU,
    "steep leaky_relu": STEEP,
    "elu(alpha)": functools.partial(nnx.elu, alpha=0.7),
    "negative slope": functools.partial(nnx.leaky_relu, negative_slope=-0.3),
    "snake": snake,
    "jit": jax.jit(nnx.silu),
}
ROUNDED_BY_CONTEXT = ("exact gelu", "squareplus", "gru")
"""XLA for CPUs contracts their products and sums, or not, by what else it compiles with them."""


class Pointwise(nnx.Module):
    def __init__(self, act):
        self.act = act

    def __call__(self, x):
        return self.act(x)


def converted(model, *inputs, **options):
    options = {"functions": (*HIDDEN_ACTIVATIONS, snake), "report": None, **options}
    return select_activations(model, *inputs, rngs=nnx.Rngs(1), **options)


def compiled(model, *inputs):
    graphdef, state = nnx.split(model)
    return jax.jit(lambda state, *inputs: nnx.merge(graphdef, state)(*inputs))(state, *inputs)


def assert_same_bits(a, b):
    np.testing.assert_array_equal(np.asarray(a).view(np.int32), np.asarray(b).view(np.int32))


def names(model):
    return {
        layer.pool.names[k]
        for _, layer in nnx.iter_modules(model)
        if isinstance(layer, SelectiveActivation)
        for k in np.argmax(layer.selection_logits[...], -1)
    }


# --- each function ------------------------------------------------------------------------


@pytest.mark.optimized
@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("form", ["auto", "general"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_activation_is_the_function_that_stood_there(name, form):
    x = jnp.linspace(-9, 9, 320).reshape(20, 16).at[0, :4].set(jnp.array([0.0, -0.0, 1e3, -1e3]))
    pool = PAPER_POOL.with_form(form)
    model = converted(Pointwise(FUNCTIONS[name]), x, pool=pool)
    assert model.act.pool.form == form
    model.eval()
    y, expected = compiled(model, x), jax.jit(FUNCTIONS[name])(x)
    error = jnp.abs(y - expected) / jnp.maximum(1, jnp.abs(expected))
    assert error.max() <= 1e-6
    if form == "general" and name not in ROUNDED_BY_CONTEXT:
        assert_same_bits(y, expected)
    assert_same_bits(compiled(fix_choices(model), x), y)


@hypothesis.settings(deadline=None, max_examples=12, derandomize=True, database=None)
@hypothesis.given(
    function=st.sampled_from([FUNCTIONS[name] for name in FUNCTIONS]),
    start=st.floats(0.35, 0.99),
    pool=st.sampled_from([PAPER_POOL, REGRESSION_POOL]),
    groups=st.sampled_from([None, 1, 2]),
)
def test_its_probability_is_start_in_every_neuron_and_the_others_share_the_rest(
    function, start, pool, groups
):
    layer = converted(Pointwise(function), jnp.ones((1, 4)), pool=pool, start=start, groups=groups)
    pi = np.asarray(jax.nn.softmax(layer.act.selection_logits[...]))
    assert pi.shape[0] == (groups or 4)
    largest = pi.max(-1)
    np.testing.assert_allclose(largest, start, rtol=1e-5)
    rest = np.sort(pi, -1)[:, :-1]
    np.testing.assert_allclose(rest, (1 - start) / (pi.shape[1] - 1), rtol=1e-3)


# --- names --------------------------------------------------------------------------------

IN_THE_PAPERS_POOL = {
    "relu": [nnx.relu, jax.jit(nnx.relu), functools.partial(jax.jit(nnx.relu))],
    "tanh": [nnx.tanh, jax.lax.tanh, jax.jit(jax.jit(jnp.tanh)), functools.partial(jax.lax.tanh)],
    "leaky_relu": [leaky_relu(0.01), functools.partial(nnx.leaky_relu, negative_slope=0.01)],
    "elu": [functools.partial(nnx.elu, alpha=1.0), jax.jit(functools.partial(nnx.elu))],
    "sigmoid": [jax.nn.sigmoid, jax.lax.logistic],
}


@pytest.mark.parametrize("name", IN_THE_PAPERS_POOL)
def test_the_same_function_by_another_object_counts_as_in_the_pool(name):
    for function in IN_THE_PAPERS_POOL[name]:
        model = converted(Pointwise(function), jnp.ones((1, 4)), functions=[function])
        assert (model.act.pool, names(model)) == (PAPER_POOL, {name})


@pytest.mark.parametrize(
    ("pool", "function"),
    [
        (ActivationPool({"r": nnx.relu, "mine": jax.jit(nnx.celu)}), nnx.celu),
        (ActivationPool({"r": nnx.relu, "mine": nnx.swish}), jax.jit(nnx.silu)),
        (
            ActivationPool({"r": nnx.relu, "mine": functools.partial(nnx.gelu, approximate=False)}),
            functools.partial(jax.nn.gelu, approximate=False),
        ),
        (ActivationPool({"r": nnx.relu, "mine": leaky_relu(0.3)}), STEEP),
        (ActivationPool({"r": nnx.relu, "mine": STEEP}), leaky_relu(0.3)),
        (
            ActivationPool({"r": nnx.relu, "mine": nnx.gelu}),
            functools.partial(nnx.gelu, approximate=True),
        ),
    ],
)
def test_a_function_of_the_users_pool_is_found_under_its_name(pool, function):
    model = converted(Pointwise(function), jnp.ones((1, 4)), pool=pool, start=0.8)
    assert (model.act.pool, names(model)) == (pool, {"mine"})


@pytest.mark.parametrize(
    ("function", "name", "fused"),
    [
        (nnx.gelu, "gelu", True),
        (EXACT_GELU, "gelu(approximate=False)", False),
        (STEEP, "leaky_relu(negative_slope=0.3)", True),
        (jax.jit(jax.nn.mish), "mish", True),
        (leaky_relu(0.2), "leaky_relu(slope=0.2)", True),
        (functools.partial(nnx.elu, alpha=0.5), "elu(alpha=0.5)", False),
        (snake, "snake", False),
    ],
)
def test_a_function_that_is_not_in_the_pool_joins_it_as_the_last(function, name, fused):
    lines = []
    model = converted(Pointwise(function), jnp.ones((1, 4)), report=lines.append)
    pool = model.act.pool
    assert pool.names == (*PAPER_POOL.names, name)
    assert pool.functions[:-1] == PAPER_POOL.functions
    assert (len(pool) - 1 in covered(pool)) == fused
    assert lines == [f"act: {name}, now selective, 4 neurons on axis -1; {name} joined the pool"]


def test_a_joining_function_gets_an_unused_name_without_commas():
    def relu(x):
        return x * (x > 1).astype(x.dtype)

    taken = ActivationPool({"relu": nnx.relu, "relu_2": jnp.sin})
    for function, pool, name in (
        (relu, PAPER_POOL, "relu_2"),
        (relu, taken, "relu_3"),
        (lambda x: x * x, PAPER_POOL, "act"),
        (functools.partial(jnp.clip, min=-1.0, max=2.0), PAPER_POOL, "clip(min=-1.0 max=2.0)"),
    ):
        options = {"pool": pool, "functions": [function]}
        layer = converted(Pointwise(function), jnp.ones((1, 4)), **options).act
        assert layer.pool.names[-1] == name
        layer.deterministic = True
        x = jnp.linspace(-3, 3, 8).reshape(2, 4)
        np.testing.assert_allclose(layer(x), function(x), rtol=1e-6)


def test_without_a_start_the_pool_is_as_it_is_and_the_start_the_papers():
    model = converted(Pointwise(EXACT_GELU), jnp.ones((1, 300)), start=None)
    logits = np.asarray(model.act.selection_logits[...])
    assert model.act.pool == PAPER_POOL
    assert sorted(set(logits.ravel().tolist())) == pytest.approx([0.0, 1e-3])
    assert (logits > 0).sum(1).tolist() == [1] * 300
    assert len(set(logits.argmax(1))) == 6


def test_two_layers_have_the_functions_that_stood_in_each():
    model = nnx.Sequential(nnx.relu, nnx.gelu, EXACT_GELU, jnp.tanh)
    layers = converted(model, jnp.ones((1, 4))).layers
    added = [layer.pool.names[6:] for layer in layers]
    assert added == [(), ("gelu",), ("gelu(approximate=False)",), ()]
    pools = [layer.pool for layer in converted(model, jnp.ones((1, 4)), pool=EXTENDED_POOL).layers]
    assert [len(pool) for pool in pools] == [15, 15, 16, 15]


# --- models -------------------------------------------------------------------------------


class Convolutional(nnx.Module):
    """Batch statistics, dropout, two functions."""

    def __init__(self, *, rngs):
        self.first = nnx.Conv(3, 16, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(16, rngs=rngs)
        self.second = nnx.Conv(16, 8, (3, 3), rngs=rngs)
        self.dropout = nnx.Dropout(0.3, rngs=rngs)
        self.head = nnx.Linear(8, 2, rngs=rngs)
        self.act, self.last = nnx.relu, STEEP

    def __call__(self, x):
        x = nnx.avg_pool(self.act(self.norm(self.first(x))), (2, 2))
        return self.head(self.dropout(self.last(self.second(x)).mean((1, 2))))


class TransformerBlock(nnx.Module):
    def __init__(self, act=nnx.gelu, *, rngs):
        self.attention = nnx.MultiHeadAttention(2, 8, 8, decode=False, rngs=rngs)
        self.norms = nnx.List([nnx.LayerNorm(8, rngs=rngs) for _ in range(2)])
        self.up, self.down = nnx.Linear(8, 16, rngs=rngs), nnx.Linear(16, 8, rngs=rngs)
        self.act = act

    def __call__(self, x):
        x = x + self.attention(self.norms[0](x))
        return x + self.down(self.act(self.up(self.norms[1](x))))


class Perceptron(nnx.Module):
    def __init__(self, act, *, rngs):
        widths = (8, 24, 16, 2)
        pairs = itertools.pairwise(widths)
        self.layers = nnx.List([nnx.Linear(a, b, rngs=rngs) for a, b in pairs])
        self.act = act

    def __call__(self, x):
        for layer in self.layers[:-1]:
            x = self.act(layer(x))
        return self.layers[-1](x)


MODELS = {
    "cnn": (Convolutional, (4, 8, 8, 3)),
    "lstm": (lambda rngs: nnx.RNN(nnx.LSTMCell(8, 16, rngs=rngs)), (2, 5, 8)),
    "gru": (lambda rngs: nnx.RNN(nnx.GRUCell(8, 16, rngs=rngs)), (2, 5, 8)),
    "transformer": (TransformerBlock, (2, 6, 8)),
    "mlp with partial": (functools.partial(Perceptron, STEEP), (9, 8)),
    "mlp with tanh": (functools.partial(Perceptron, jax.lax.tanh), (9, 8)),
    "exact gelu": (functools.partial(TransformerBlock, EXACT_GELU), (2, 6, 8)),
}


def moved(model):
    """The model with weights and batch statistics that are no longer the initial ones."""
    random = np.random.default_rng(0)
    state = nnx.state(model, (nnx.Param, nnx.BatchStat))
    nnx.update(model, jax.tree.map(lambda v: v + 0.3 * random.random(v.shape, np.float32), state))
    return model


@pytest.mark.optimized
@pytest.mark.parametrize("name", MODELS)
def test_the_deterministic_output_of_a_model_with_any_weights_is_kept(name):
    build, shape = MODELS[name]
    x = jax.random.normal(jax.random.key(0), shape)
    model = moved(build(rngs=nnx.Rngs(0)))
    general, fused = (
        converted(model, x, pool=PAPER_POOL.with_form(form)) for form in ("general", "auto")
    )
    for each in (model, general, fused):
        each.eval()
    expected = compiled(model, x)
    np.testing.assert_allclose(compiled(general, x), expected, rtol=1e-6, atol=1e-7)
    if name not in ROUNDED_BY_CONTEXT:
        assert_same_bits(compiled(general, x), expected)
    np.testing.assert_allclose(compiled(fused, x), expected, rtol=1e-5, atol=1e-6)


def test_with_noise_a_tenth_of_the_neurons_tries_another_function():
    x = jnp.full((1, 4000), -2.0)
    model = converted(Pointwise(nnx.relu), x)
    kept = [float(jnp.mean(model(x) == 0)) for _ in range(3)]
    np.testing.assert_allclose(kept, 0.9, atol=0.03)
    assert len(set(kept)) == 3
