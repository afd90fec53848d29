"""select_activations: what it finds in a model, what it says, and that the result trains."""

import functools
import logging
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.nn import silu as swoosh

from smartmixed_jax import (
    MLP,
    PAPER_POOL,
    REGRESSION_POOL,
    ActivationPool,
    SelectionLogits,
    SelectiveActivation,
    estimators,
    fix_choices,
    label_parameters,
    leaky_relu,
    select_activations,
    summarize,
)
from smartmixed_jax.conversion import HIDDEN_ACTIVATIONS
from smartmixed_jax.models import uniform

pytestmark = pytest.mark.usefixtures("strict")


def constant(value):
    return lambda x: jnp.full_like(x, value)


LABELS = ActivationPool({str(k): constant(float(k)) for k in range(6)})
"""Function k is the constant k: the output of a layer is its choices."""

X = jnp.linspace(-2, 2, 12).reshape(3, 4)


def my_function(x):
    return x * jnp.cos(x)


class Held(nnx.Module):
    """A function in every place that a model may hold one; all of them are called."""

    def __init__(self, *, rngs):
        self.linear = nnx.Linear(4, 8, rngs=rngs)
        self.attribute = nnx.relu
        self.partial = functools.partial(nnx.gelu, approximate=True)
        self.jitted = jax.jit(jax.nn.silu)
        self.sloped = leaky_relu(0.3)
        self.pair = (nnx.relu, (3, jnp.tanh))
        self.listed = nnx.List([nnx.Linear(8, 5, rngs=rngs), nnx.elu])
        self.named = nnx.Dict(f=nnx.selu)
        self.chain = nnx.Sequential(nnx.Linear(5, 6, rngs=rngs), nnx.softplus, nnx.sigmoid)
        self.own = my_function

    def __call__(self, x):
        x = self.sloped(self.jitted(self.partial(self.attribute(self.linear(x)))))
        x = self.pair[1][1](self.pair[0](x))
        linear, activation = self.listed
        return self.chain(self.own(self.named["f"](activation(linear(x)))))


WIDTHS = {
    "attribute": 8,
    "chain.layers.1": 6,
    "jitted": 8,
    "listed.1": 5,
    "named.f": 5,
    "pair.0": 8,
    "pair.1.1": 8,
    "partial": 8,
    "sloped": 8,
}


def silently(model, *inputs, seed=1, **options):
    return select_activations(model, *inputs, rngs=nnx.Rngs(seed), report=None, **options)


def widths(model):
    return {path: layer["features"] for path, layer in summarize(model).items()}


def selective_layers(model):
    return [layer for _, layer in nnx.iter_modules(model) if isinstance(layer, SelectiveActivation)]


def decided(model, seed=0):
    """The model with random logits, so that its neurons choose differently."""
    for index, layer in enumerate(selective_layers(model)):
        key = jax.random.key(100 * seed + index)
        layer.logits[...] = jax.random.normal(key, layer.logits.shape)
    return model


def compiled(model, x):
    graphdef, state = nnx.split(model)
    return np.asarray(jax.jit(lambda state, x: nnx.merge(graphdef, state)(x))(state, x))


def assert_same_bits(a, b):
    np.testing.assert_array_equal(a.view(np.int32), b.view(np.int32))


# --- select_activations: what is replaced -------------------------------------------------


def test_functions_are_found_wherever_they_are_held():
    assert widths(silently(Held(rngs=nnx.Rngs(0)), X)) == WIDTHS


def test_the_report_has_a_line_for_each_function_replaced_or_left_alone():
    lines = []
    select_activations(Held(rngs=nnx.Rngs(0)), X, rngs=nnx.Rngs(1), report=lines.append)
    names = {
        "attribute": "relu",
        "chain.layers.1": "softplus",
        "jitted": "silu",
        "listed.1": "elu",
        "named.f": "selu",
        "pair.0": "relu",
        "pair.1.1": "tanh",
        "partial": "gelu(approximate=True)",
        "sloped": "leaky_relu(slope=0.3)",
    }
    joined = {"silu", "softplus", "leaky_relu(slope=0.3)", "gelu(approximate=True)"}
    replaced = {
        path: f"{path}: {name}, now selective, {WIDTHS[path]} neurons on axis -1"
        + (f"; {name} joined the pool" if name in joined else "")
        for path, name in names.items()
    }
    ask = "name it in functions to replace it"
    left = {
        "chain.layers.2": f"chain.layers.2: sigmoid left alone: a gate or an output, {ask}",
        "own": f"own: my_function left alone: unknown, {ask}",
    }
    assert lines == [line for _, line in sorted({**replaced, **left}.items())]


def test_the_report_goes_to_the_logger_or_to_a_function_or_nowhere(caplog, capsys):
    model = nnx.Sequential(nnx.Linear(4, 3, rngs=nnx.Rngs(0)), nnx.relu)
    expected = ["layers.1: relu, now selective, 3 neurons on axis -1"]
    with caplog.at_level(logging.INFO, logger="smartmixed_jax"):
        select_activations(model, X, rngs=nnx.Rngs(1))
        records = [(r.name, r.levelname, r.getMessage()) for r in caplog.records]
        assert records == [("smartmixed_jax", "INFO", expected[0])]
        caplog.clear()
        lines = []
        select_activations(model, X, rngs=nnx.Rngs(1), report=lines.append)
        select_activations(model, X, rngs=nnx.Rngs(1), report=None)
    assert (lines, caplog.records) == (expected, [])
    assert capsys.readouterr() == ("", "")


def test_functions_named_by_the_user_are_replaced_too_and_only_those():
    model = Held(rngs=nnx.Rngs(0))
    everything = silently(model, X, functions=(*HIDDEN_ACTIVATIONS, my_function, nnx.sigmoid))
    assert widths(everything) == {**WIDTHS, "own": 5, "chain.layers.2": 6}
    assert widths(silently(model, X, functions=[my_function])) == {"own": 5}


def test_where_excludes_and_the_others_stay_the_functions_they_were():
    lines = []
    model = select_activations(
        Held(rngs=nnx.Rngs(0)),
        X,
        where=lambda path, function: path == "partial" or function is nnx.selu,
        rngs=nnx.Rngs(1),
        report=lines.append,
    )
    assert widths(model) == {"named.f": 5, "partial": 8}
    assert model.attribute is nnx.relu
    assert model.pair == (nnx.relu, (3, jnp.tanh))
    assert "attribute: relu left alone: excluded by where" in lines


@pytest.mark.parametrize(
    ("cell", "draws"),
    [(nnx.LSTMCell, 2), (nnx.OptimizedLSTMCell, 2), (nnx.GRUCell, 1), (nnx.SimpleCell, 1)],
)
def test_the_activation_of_a_recurrent_cell_is_replaced_and_its_gates_are_not(cell, draws):
    lines = []
    rnn = nnx.RNN(cell(4, 7, rngs=nnx.Rngs(0)))
    model = select_activations(rnn, X[:, None], rngs=nnx.Rngs(1), report=lines.append)
    assert widths(model) == {"cell.activation_fn": 7}
    assert lines[0] == "cell.activation_fn: tanh, now selective, 7 neurons on axis -1"
    gates = [line for line in lines[1:] if line.startswith("cell.gate_fn: sigmoid left alone")]
    assert (len(gates), len(lines)) == ((0, 1) if cell is nnx.SimpleCell else (1, 2))
    counter = model.cell.activation_fn.rngs.count
    before = int(counter[...])
    model(jnp.ones((2, 3, 4)))
    assert int(counter[...]) - before == 3 * draws


def test_a_function_passed_as_an_argument_is_found_where_it_is_stored():
    class Block(nnx.Module):
        def __init__(self, *, activation, rngs):
            self.linear, self.activation = nnx.Linear(4, 4, rngs=rngs), activation

        def __call__(self, x):
            return self.activation(self.linear(x))

    rngs = nnx.Rngs(0)
    model = nnx.Sequential(*(Block(activation=nnx.relu, rngs=rngs) for _ in range(11)))
    lines = []
    select_activations(model, X, rngs=rngs, report=lines.append)
    selective = "activation: relu, now selective, 4 neurons on axis -1"
    assert lines == [f"layers.{i}.{selective}" for i in range(11)]


def test_one_attribute_called_twice_is_one_layer_and_two_attributes_are_two():
    class Twice(nnx.Module):
        def __init__(self, *, rngs):
            self.first, self.second = (nnx.Linear(4, 4, rngs=rngs) for _ in range(2))
            self.act = nnx.relu
            self.other = nnx.relu

        def __call__(self, x):
            return self.other(self.act(self.second(self.act(self.first(x)))))

    model = silently(Twice(rngs=nnx.Rngs(0)), X)
    assert widths(model) == {"act": 4, "other": 4}


@pytest.mark.graph_mode("a module has one place only")
def test_a_module_at_two_places_keeps_being_one():
    rngs = nnx.Rngs(0)
    block = nnx.Sequential(nnx.Linear(4, 4, rngs=rngs), nnx.relu)
    lines = []
    model = nnx.Sequential(block, block, nnx.relu)
    model = select_activations(model, X, rngs=rngs, report=lines.append)
    assert [line.split(":")[0] for line in lines] == ["layers.0.layers.1", "layers.2"]
    assert model.layers[0] is model.layers[1]
    assert widths(model) == {"layers.0.layers.1": 4, "layers.2": 4}


def test_a_partly_selective_model_is_converted_further_with_other_options():
    model = silently(Held(rngs=nnx.Rngs(0)), X, where=lambda path, _: path == "attribute")
    layer = decided(model).attribute
    both = silently(
        model, X, pool=REGRESSION_POOL, where=lambda path, _: path == "partial", groups=2
    )
    assert widths(both) == {"attribute": 8, "partial": 8}
    np.testing.assert_array_equal(both.attribute.logits[...], layer.logits[...])
    assert both.partial.pool == REGRESSION_POOL
    assert both.partial.logits.shape == (2, 8)


# --- select_activations: the layers -------------------------------------------------------


def test_options_reach_every_layer():
    model = silently(
        Held(rngs=nnx.Rngs(0)),
        X,
        pool=REGRESSION_POOL,
        start=None,
        estimator=estimators.reinmax,
        temperature=2.0,
        groups=1,
        keep_rngs=False,
    )
    for layer in selective_layers(model):
        assert layer.logits.shape == (1, 8)
        assert layer.estimator is estimators.reinmax
        assert float(layer.temperature) == 2.0
        assert layer.rngs is None


def test_the_width_is_that_of_the_axis():
    class Channels(nnx.Module):
        def __init__(self):
            self.act = nnx.relu

        def __call__(self, x):
            return self.act(x)

    x = jnp.ones((2, 3, 5, 7))
    for axis, width in ((1, 3), (2, 5), (-1, 7)):
        layer = silently(Channels(), x, axis=axis).act
        assert (layer.axis, layer.features) == (axis, width)
    with pytest.raises(ValueError, match=r"act: axis 4 is out of range for x\[2, 3, 5, 7\]"):
        silently(Channels(), x, axis=4)


def test_each_layer_has_its_own_initial_logits_and_its_own_noise():
    """Also two layers of one width; and they repeat with the seed."""
    model = nnx.Sequential(nnx.relu, nnx.relu, nnx.relu)
    x = jnp.zeros((1, 400))
    first, again, other = (silently(model, x, seed=s, pool=LABELS, start=None) for s in (1, 1, 2))
    layers = [*selective_layers(first), *selective_layers(other)]
    starts = [np.argmax(layer.logits[...], -1) for layer in layers]
    draws = [np.asarray(layer(x)[0]) for _ in range(2) for layer in layers]
    for rows in (starts, draws):
        agreement = (np.stack(rows)[:, None] == np.stack(rows)[None]).mean(-1)
        np.fill_diagonal(agreement, 0)
        assert agreement.max() < 0.3
    for layer, start in zip(selective_layers(again), starts, strict=False):
        np.testing.assert_array_equal(np.argmax(layer.logits[...], -1), start)


# --- select_activations: the models -------------------------------------------------------


class WithState(nnx.Module):
    """Batch statistics, dropout with its own rngs, a function called with ints and one unused."""

    def __init__(self, *, rngs):
        self.linear = nnx.Linear(4, 6, use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(6, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.act = nnx.relu
        self.unused = nnx.relu

    def __call__(self, x):
        return self.dropout(self.act(self.norm(self.linear(x))))


def test_the_input_model_stays_intact_and_shares_its_arrays():
    model = WithState(rngs=nnx.Rngs(0))
    before = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(model, nnx.Not(nnx.RngKey))))
    graphdef = nnx.graphdef(model)
    result = silently(model, X)
    after = nnx.to_pure_dict(nnx.state(model, nnx.Not(nnx.RngKey)))
    jax.tree.map(np.testing.assert_array_equal, before, after)
    assert nnx.graphdef(model) == graphdef
    assert model.act is nnx.relu
    assert result.linear.kernel.get_value() is model.linear.kernel.get_value()
    assert result.norm.mean.get_value() is model.norm.mean.get_value()
    np.testing.assert_array_equal(result.dropout.rngs.count[...], model.dropout.rngs.count[...])
    result.linear.kernel[...] = jnp.zeros((4, 6))
    assert np.abs(model.linear.kernel[...]).max() > 0


def test_a_function_that_the_example_does_not_reach_is_left_alone():
    lines = []
    model = select_activations(
        WithState(rngs=nnx.Rngs(0)), X, rngs=nnx.Rngs(1), report=lines.append
    )
    assert model.unused is nnx.relu
    assert lines[-1] == "unused: relu left alone: not called with the example inputs"


def test_a_function_called_with_more_than_x_is_left_alone():
    class Glued(nnx.Module):
        def __init__(self):
            self.act, self.gelu = nnx.relu, nnx.gelu

        def __call__(self, x):
            return self.gelu(self.act(x), approximate=True)

    lines = []
    select_activations(Glued(), X, rngs=nnx.Rngs(1), report=lines.append)
    reason = "not called as f(x) on a float array whose shape and dtype it keeps"
    assert lines[-1] == f"gelu: gelu left alone: {reason}"


def test_inputs_may_be_shapes_flags_trees_and_rngs():
    class Asking(nnx.Module):
        def __init__(self):
            self.act = nnx.relu

        def __call__(self, batch, flag, rngs):
            assert flag is True
            return self.act(batch["x"]) + rngs.noise.normal(batch["x"].shape)

    rngs = nnx.Rngs(noise=0)
    x = jax.ShapeDtypeStruct((3, 4), jnp.float32)
    assert widths(silently(Asking(), {"x": x}, True, rngs)) == {"act": 4}
    assert int(rngs.noise.count[...]) == 0


def test_the_example_runs_in_evaluation_mode_and_needs_no_rngs_for_noise():
    """Neither for dropout nor for layers that are selective already; the mode stays."""
    model = nnx.Sequential(nnx.relu, nnx.Dropout(0.5), jnp.tanh)
    half = silently(model, X, where=lambda path, _: path == "layers.0", keep_rngs=False)
    whole = silently(half, X, keep_rngs=False)
    assert widths(whole) == {"layers.0": 4, "layers.2": 4}
    assert not whole.layers[0].deterministic
    assert not whole.layers[1].deterministic


def test_call_runs_models_that_are_called_otherwise():
    class Encoder(nnx.Module):
        def __init__(self):
            self.act = nnx.relu

        def encode(self, x, *, train):
            return self.act(x) if train else x

    model = silently(Encoder(), X, call=lambda model, x: model.encode(x, train=True))
    assert widths(model) == {"act": 4}


# --- select_activations: errors -----------------------------------------------------------


def test_nothing_replaceable_raises_naming_what_was_left_alone():
    model = nnx.Sequential(nnx.Linear(4, 3, rngs=nnx.Rngs(0)), nnx.sigmoid)
    with pytest.raises(ValueError, match=r"layers\.1: sigmoid left alone: a gate or an output"):
        silently(model, X)


def test_layers_stacked_by_vmap_raise_at_the_conversion():
    class Block(nnx.Module):
        def __init__(self, rngs):
            self.linear, self.act = nnx.Linear(4, 4, rngs=rngs), nnx.relu

        def __call__(self, x):
            return self.act(self.linear(x))

    class Deep(nnx.Module):
        def __init__(self):
            make = nnx.vmap(Block, in_axes=0, out_axes=0)
            self.blocks = make(nnx.Rngs(0).split(3))

        def __call__(self, x):
            step = nnx.scan(
                lambda x, block: (block(x), None), in_axes=(nnx.Carry, 0), out_axes=(nnx.Carry, 0)
            )
            return step(x, self.blocks)[0]

    assert Deep()(X).shape == (3, 4)
    with pytest.raises(ValueError, match=r"converted Deep does not run .* stacked by nnx\.vmap"):
        silently(Deep(), X)


def test_something_that_is_no_module_raises():
    with pytest.raises(TypeError, match=r"model must be an nnx\.Module, got"):
        silently(jnp.tanh, X)


def test_the_models_own_error_is_kept_and_says_who_ran_it():
    with pytest.raises(TypeError, match="dot_general") as raised:
        silently(Held(rngs=nnx.Rngs(0)), jnp.ones((3, 5)))
    assert "select_activations: raised by the model" in "".join(raised.value.__notes__)


WRONG = {
    "model": (nnx.Sequential, r"model must be an nnx\.Module, got <class"),
    "functions": ([nnx.relu, "tanh"], "functions must be functions, got 'tanh'"),
    "functions ": (None, "functions must be functions, got None"),
    "where": (["attribute"], r"where must be a function or None, got \['attribute'\]"),
    "call": ("encode", "call must be a function or None, got 'encode'"),
    "report": (True, "report must be a function or None, got True"),
    "pool": ([nnx.relu], r"attribute: pool must be an ActivationPool, got \["),
    "pool ": (PAPER_POOL.names, r"attribute: pool must be an ActivationPool, got \('relu'"),
    "start": ("0.9", "attribute: .*probability must be a number, got '0.9'"),
    "start ": (True, "attribute: .*probability must be a number, got True"),
    "start  ": (2, r"attribute: .*probability must be in \(1/6, 1\) .*, got 2"),
    "start   ": (1 / 6, r"attribute: .*probability must be in \(1/6, 1\)"),
    "start    ": (float("nan"), r"attribute: .*probability must be in .* got nan"),
    "rngs": (
        jax.random.key(0),
        r"attribute: .*rngs must be nnx\.Rngs or nnx\.RngStream, as .* got Array",
    ),
    "rngs ": (nnx.Rngs(dropout=0), "attribute: .*params"),
    "axis": (1.0, r"attribute: axis must be an int, got 1\.0"),
    "axis ": (2, r"attribute: axis 2 is out of range for x\[3, 8\]"),
    "groups": (3, "attribute: .*groups must be .* divide the 8 features, got 3"),
    "groups ": ("all", "attribute: .*groups must be an int or one per neuron, got 'all'"),
    "temperature": (0.0, "attribute: .*temperature must be a finite value > 0, got 0.0"),
    "estimator": ("gumbel", "attribute: .*estimator must be a function, got 'gumbel'"),
    "logits_init": (nnx.initializers.zeros, "attribute: .*start and logits_init both set"),
    "features": (3, "attribute: .*multiple values for argument 'features'"),
    "tau": (3, "attribute: .*unexpected keyword argument 'tau'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_argument_is_one_line_with_its_name_value_and_place(name):
    value, message = WRONG[name]
    options = {"model": Held(rngs=nnx.Rngs(0)), "rngs": nnx.Rngs(1), "report": None}
    options |= {name.strip(): value}
    with pytest.raises((TypeError, ValueError), match=f"^select_activations: {message}") as raised:
        select_activations(options.pop("model"), X, **options)
    assert "\n" not in str(raised.value)


def test_a_function_that_is_not_elementwise_is_refused_with_its_path():
    model = nnx.Sequential(nnx.relu, nnx.softmax)
    message = r"^select_activations: layers\.1: .*'softmax' is not elementwise"
    with pytest.raises(ValueError, match=message):
        silently(model, X, functions=[nnx.relu, nnx.softmax])
    fused = PAPER_POOL.with_form("fused")
    with pytest.raises(ValueError, match=r"^select_activations: layers\.0: .*fused.*'celu'"):
        silently(nnx.Sequential(nnx.celu), X, pool=fused)


def test_a_function_called_with_integers_or_changing_the_dtype_is_left_alone():
    def widen(x):
        return jnp.asarray(x, jnp.float32)

    class Model(nnx.Module):
        def __init__(self):
            self.act, self.wide, self.kept = nnx.relu, widen, nnx.relu

        def __call__(self, x):
            return (
                self.kept(x)
                + self.wide(x.astype(jnp.bfloat16))
                + widen(self.act(jnp.arange(4)[None]))
            )

    lines = []
    functions = (nnx.relu, widen)
    model = select_activations(
        Model(), X[:1], functions=functions, rngs=nnx.Rngs(0), report=lines.append
    )
    assert widths(model) == {"kept": 4}
    left = [line for line in lines if "whose shape and dtype it keeps" in line]
    assert [line.split(":")[0] for line in left] == ["act", "wide"]


# --- select_activations: what only looks like an activation -------------------------------


@functools.wraps(nnx.relu)
def doubled(x):
    return 2 * nnx.relu(x)


class Clipped:
    __wrapped__ = nnx.relu

    def __call__(self, x):
        return jnp.clip(x, -1, 1)


@pytest.mark.parametrize(
    "function",
    [
        doubled,
        Clipped(),
        functools.partial(doubled),
        jax.jit(doubled),
        jax.checkpoint(nnx.tanh),
        nnx.relu.__wrapped__,
    ],
)
def test_what_wraps_an_activation_is_not_taken_for_it(function):
    model = nnx.Sequential(nnx.tanh, function)
    lines = []
    converted = select_activations(model, X, rngs=nnx.Rngs(0), report=lines.append)
    assert widths(converted) == {"layers.0": 4}
    assert converted.layers[1] is function
    assert "layers.1: " in lines[1]
    assert "left alone: unknown, name it in functions to replace it" in lines[1]
    both = silently(model, X, functions=(nnx.tanh, function))
    assert widths(both) == {"layers.0": 4, "layers.1": 4}


@pytest.mark.parametrize(
    "function",
    [
        jax.jit(jax.jit(nnx.relu)),
        functools.partial(jax.jit(functools.partial(nnx.gelu, approximate=True))),
        jax.jit(leaky_relu(0.3)),
    ],
)
def test_jit_and_partial_are_looked_through(function):
    assert widths(silently(nnx.Sequential(function), X)) == {"layers.0": 4}


# --- select_activations: inline calls -----------------------------------------------------


class Base(nnx.Module):
    def pre(self, x):
        return jnp.tanh(x)  # inline: jnp.tanh in Base


class Inline(Base):
    def __init__(self, *, held=None):
        self.held = held
        self.other = (lambda x: x) if held is None else held

    @property
    def now(self):
        return swoosh(X)  # inline: swoosh in Inline

    @nnx.jit
    def compiled(self, x):
        return nnx.relu(  # inline: nnx.relu in Inline
            x
        )

    def __call__(self, x):
        """nnx.relu(x) in a docstring, and # nnx.relu(x) in a comment."""
        swoosh = self.other  # not jax.nn.silu
        gates = nnx.sigmoid(x) * jax.nn.softmax(x) * my_function(x) + jnp.sin(x)
        x = swoosh(self.pre(self.other(x)))
        x = jax.nn.gelu(approximate=False, x=x) * gates  # inline: jax.nn.gelu in Inline
        x = nnx.elu(JITTED(x)) + self.compiled(x)  # inline: JITTED in Inline, nnx.elu in Inline
        outer = lambda x: nnx.selu(x)  # noqa: E731  # inline: nnx.selu in Inline
        return outer(x)


JITTED = jax.jit(nnx.silu)


def marked_lines():
    """The lines marked above, as select_activations is to report them."""
    for number, line in enumerate(Path(__file__).read_text().splitlines(), 1):
        for call in re.findall(r"[\w.]+ in \w+", line.partition("# inline: ")[2]):
            found = f"test_conversion.py, line {number}: {call}"
            yield f"{found} left alone: called inline, make it an attribute"


def test_inline_calls_are_named_in_the_error_where_nothing_can_be_replaced():
    with pytest.raises(ValueError, match="Inline holds no activation function") as raised:
        silently(Inline(), X)
    pattern = ["+ self.act = nnx.relu", "- x = nnx.relu(x)", "+ x = self.act(x)"]
    lines = [line.strip() for line in str(raised.value).splitlines()[1:]]
    assert [line.split("  ")[-1].strip() for line in lines[:3]] == pattern
    assert [line for line in lines[3:] if "called inline" in line] == list(marked_lines())
    assert len(list(marked_lines())) == 7


def test_inline_calls_are_reported_once_where_some_functions_can_be_replaced():
    lines = []
    model = nnx.Sequential(Inline(held=nnx.relu), Inline())
    select_activations(model, X, rngs=nnx.Rngs(0), report=lines.append)
    assert lines[1].startswith("layers.0.other: relu, now selective")
    assert [line for line in lines if "called inline" in line] == list(marked_lines())


def test_inline_calls_of_the_users_functions_are_named_and_others_are_not():
    class Local(nnx.Module):
        def __init__(self):
            self.act = nnx.relu

        def __call__(self, x):
            return nnx.relu(enclosed(my_function(self.act(x))))

    enclosed, lines = my_function, []
    options = {"functions": (my_function,), "call": lambda model, x: model(x)}
    with pytest.raises(ValueError, match=r"my_function in Local .*\n.*unknown|Local") as raised:
        silently(Local(), X, **options)
    found = [line for line in str(raised.value).splitlines() if "called inline" in line]
    assert [line.split(": ")[1].split()[0] for line in found] == ["enclosed", "my_function"]
    assert lines == []


def test_without_source_the_error_names_the_pattern_alone():
    names = {}
    source = "class Hidden(nnx.Module):\n    def __call__(self, x):\n        return nnx.relu(x)"
    exec(source, {"nnx": nnx, "__name__": "nowhere"}, names)
    with pytest.raises(ValueError, match="Hidden holds no activation function") as raised:
        silently(names["Hidden"](), X)
    assert str(raised.value).endswith("+ x = self.act(x)")


# --- under jax's own transforms -----------------------------------------------------------


class Scalar(nnx.Module):
    """A network of one point, as for differential equations."""

    def __init__(self, *, rngs):
        self.first, self.last = nnx.Linear(2, 16, rngs=rngs), nnx.Linear(16, 1, rngs=rngs)
        self.act = nnx.tanh

    def __call__(self, x, rngs=None):
        keywords = {} if rngs is None else {"rngs": rngs}
        return self.last(self.act(self.first(x), **keywords))[0]


POINTS = jnp.linspace(-1, 1, 8).reshape(4, 2)


def scan_over(model):
    return lambda x: jax.lax.scan(lambda carry, row: (carry, model(row)), None, x)


@pytest.mark.parametrize(
    "transformed",
    [
        lambda model: jax.vmap(model)(POINTS),
        lambda model: jax.hessian(model)(POINTS[0]),
        lambda model: jax.jacfwd(jax.grad(model))(POINTS[0]),
        lambda model: scan_over(model)(POINTS),
        lambda model: jax.vmap(jax.grad(model))(POINTS),
    ],
)
def test_kept_rngs_under_jaxs_transforms_are_an_error_that_names_the_ways_out(transformed):
    model = silently(Scalar(rngs=nnx.Rngs(0)), POINTS[0])
    with pytest.raises(ValueError, match="cannot be advanced inside") as raised:
        transformed(model)
    for way in ("rngs=nnx.Rngs(selection=key)", "deterministic=True", "nnx.StateAxes"):
        assert way in str(raised.value)
    assert "\n" not in str(raised.value)


def test_the_ways_out_work():
    plain = Scalar(rngs=nnx.Rngs(0))
    model = silently(plain, POINTS[0])
    quiet = nnx.view(model, deterministic=True)
    np.testing.assert_allclose(jax.vmap(quiet)(POINTS), jax.vmap(plain)(POINTS), rtol=1e-5)
    hessians = [jax.vmap(jax.hessian(each))(POINTS) for each in (quiet, plain)]
    np.testing.assert_allclose(*hessians, rtol=1e-4, atol=1e-5)

    key = jax.random.key(3)
    one_draw = jax.vmap(lambda x: model(x, rngs=nnx.Rngs(selection=key)))(POINTS)
    alone = [model(x, rngs=nnx.Rngs(selection=key)) for x in POINTS]
    np.testing.assert_allclose(one_draw, jnp.stack(alone), rtol=1e-5, atol=1e-6)
    keys = jax.random.split(key, 4)
    draws = jax.vmap(lambda x, key: model(x, rngs=nnx.Rngs(selection=key)))(POINTS, keys)
    assert np.abs(draws - one_draw).max() > 1e-3
    assert jax.hessian(lambda x: model(x, rngs=nnx.Rngs(selection=key)))(POINTS[0]).shape == (2, 2)


@pytest.mark.graph_mode("nnx.StateAxes are of graph mode")
def test_a_map_of_nnx_advances_the_kept_rngs():
    model = silently(Scalar(rngs=nnx.Rngs(0)), POINTS[0])
    axes = nnx.StateAxes({nnx.RngState: None, ...: None})
    before = int(model.act.rngs.count[...])
    mapped = nnx.vmap(lambda model, x: model(x), in_axes=(axes, 0))
    first, second = mapped(model, POINTS), mapped(model, POINTS)
    assert int(model.act.rngs.count[...]) == before + 2
    assert np.abs(first - second).max() > 1e-3


# --- training -----------------------------------------------------------------------------


def assert_all_moved(before, after):
    moved = jax.tree.map(lambda old, new: np.abs(old - new).max(), before, after)
    assert min(jax.tree.leaves(moved)) > 1e-6


@pytest.mark.optimized
@pytest.mark.graph_mode("nnx.grad takes no model that holds rngs")
def test_the_converted_model_trains_in_an_unchanged_loop_and_is_fixed_bit_for_bit():
    model = silently(WithState(rngs=nnx.Rngs(0)), X)
    optimizer = nnx.Optimizer(model, optax.sgd(0.1), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer, x):
        value, gradients = nnx.value_and_grad(lambda model: jnp.mean((model(x) - 0.7) ** 2))(model)
        optimizer.update(model, gradients)
        return value

    before = jax.tree.map(np.asarray, nnx.state(model, nnx.Param))
    values = [step(model, optimizer, X) for _ in range(30)]
    assert_all_moved(before, nnx.state(model, nnx.Param))
    assert np.mean(values[-10:]) < np.mean(values[:10])
    model.eval()
    decided(model)
    assert_same_bits(compiled(fix_choices(model), X), compiled(model, X))


def test_in_either_mode_a_loop_over_split_parameters_trains_it_with_fresh_noise():
    """What the docstring names for tree mode."""
    model = silently(Held(rngs=nnx.Rngs(0)), X)
    optimizer = nnx.Optimizer(model, optax.sgd(0.1), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer, x):
        graphdef, params, rest = nnx.split(model, nnx.Param, ...)

        def loss(params):
            model = nnx.merge(graphdef, params, rest, copy=True)
            value = jnp.mean((model(x) - 0.7) ** 2)
            return value, nnx.state(model, nnx.Not(nnx.Param))

        (value, rest), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        nnx.update(model, rest)
        optimizer.update(model, gradients)
        return value

    before = jax.tree.map(np.asarray, nnx.state(model, nnx.Param))
    counter = model.attribute.rngs.count
    start = int(counter[...])
    for _ in range(3):
        step(model, optimizer, X)
    assert int(counter[...]) == start + 3
    assert_all_moved(before, nnx.state(model, nnx.Param))


def test_without_noise_it_trains_in_an_unchanged_loop_in_either_mode():
    options = {"estimator": estimators.straight_through, "keep_rngs": False, "start": None}
    model = silently(Held(rngs=nnx.Rngs(0)), X, **options)
    optimizer = nnx.Optimizer(model, optax.sgd(0.1), wrt=nnx.Param)
    before = jax.tree.map(np.asarray, nnx.state(model, nnx.Param))
    gradients = nnx.grad(lambda model: jnp.mean((model(X) - 0.7) ** 2))(model)
    optimizer.update(model, nnx.state(gradients, nnx.Param))
    assert_all_moved(before, nnx.state(model, nnx.Param))


@pytest.mark.optimized
@pytest.mark.parametrize("jit", [False, True])
def test_a_converted_model_with_containers_is_fixed_bit_for_bit(jit):
    model = decided(silently(Held(rngs=nnx.Rngs(0)), X))
    model.eval()
    fixed = fix_choices(model)
    assert selective_layers(fixed) == []
    call = nnx.jit(lambda model, x: model(x)) if jit else lambda model, x: model(x)
    assert_same_bits(np.asarray(call(fixed, X)), np.asarray(call(model, X)))


def test_labels_find_every_selective_layer_of_a_converted_model():
    model = silently(Held(rngs=nnx.Rngs(0)), X)
    labels = jax.tree.leaves(label_parameters(nnx.state(model, nnx.Param)))
    assert (labels.count("selection"), labels.count("weights")) == (len(WIDTHS), 6)
    assert len(jax.tree.leaves(nnx.state(model, SelectionLogits))) == len(WIDTHS)


def test_the_functions_of_a_uniform_network_of_the_library_are_found_like_any_others():
    model = MLP(4, (8, 6), 2, activation=uniform(jax.nn.relu), rngs=nnx.Rngs(0))
    assert widths(silently(model, X)) == {"activations.0": 8, "activations.1": 6}
