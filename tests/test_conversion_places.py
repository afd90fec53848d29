"""select_activations: functions called at several widths, and functions in dataclass configs."""

import copy
import dataclasses
import itertools
import pickle
import typing
from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint
import pytest
from flax import nnx

from smartmixed_jax import (
    MixedActivation,
    SelectiveActivation,
    fix_choices,
    release_choices,
    select_activations,
    summarize,
)
from smartmixed_jax.conversion import ActivationByWidth, ConfigProxy

pytestmark = pytest.mark.usefixtures("strict")

X = jnp.linspace(-2, 2, 12).reshape(3, 4)


def silently(model, *inputs, seed=1, **options):
    return select_activations(model, *inputs, rngs=nnx.Rngs(seed), report=None, **options)


def reported(model, *inputs, **options):
    lines = []
    model = select_activations(model, *inputs, rngs=nnx.Rngs(1), report=lines.append, **options)
    return model, lines


def widths(model):
    return {path: layer["features"] for path, layer in summarize(model).items()}


def layers(model, kind=SelectiveActivation):
    return [layer for _, layer in nnx.iter_modules(model) if isinstance(layer, kind)]


def decided(model):
    """The model with random logits, so that its neurons choose differently."""
    for index, layer in enumerate(layers(model)):
        logits = layer.selection_logits
        logits[...] = jax.random.normal(jax.random.key(index), logits.shape)
    return model


def compiled(model, x):
    graphdef, state = nnx.split(model)
    return np.asarray(jax.jit(lambda state, x: nnx.merge(graphdef, state)(x))(state, x))


def assert_same_bits(a, b):
    np.testing.assert_array_equal(np.asarray(a).view(np.int32), np.asarray(b).view(np.int32))


# --- several widths -----------------------------------------------------------------------


class Perceptron(nnx.Module):
    """One function for all hidden layers, as in most NNX code."""

    def __init__(self, dims=(4, 16, 12, 3), activation=nnx.relu, *, rngs):
        pairs = itertools.pairwise(dims)
        self.layers = nnx.List([nnx.Linear(a, b, rngs=rngs) for a, b in pairs])
        self.activation = activation

    def __call__(self, x):
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        return self.layers[-1](x)


class WithTime(nnx.Module):
    """A block of a diffusion model: its function serves the embedding of the time too."""

    def __init__(self, *, rngs):
        self.conv = nnx.Conv(4, 6, (3,), rngs=rngs)
        self.embed = nnx.Linear(1, 10, rngs=rngs)
        self.project = nnx.Linear(10, 6, rngs=rngs)
        self.act = nnx.silu

    def __call__(self, x):
        time = self.project(self.act(self.embed(jnp.ones((1, 1)))))
        return self.act(self.conv(x) + time)


class ChannelsFirst(nnx.Module):
    """Vectors and images, the neurons on axis 1 of both; one width twice."""

    def __init__(self):
        self.acts = (jnp.tanh, nnx.relu)

    def __call__(self, x):
        image = jnp.repeat(x[:, :, None], 5, axis=2)
        return self.acts[1](x) + self.acts[1](image).sum(2) + self.acts[1](x[:, :2]).sum()


@pytest.mark.parametrize(
    ("model", "axis", "expected"),
    [
        (Perceptron, -1, {"activation.layers.16": 16, "activation.layers.12": 12}),
        (WithTime, -1, {"act.layers.10": 10, "act.layers.6": 6}),
        (lambda rngs: ChannelsFirst(), 1, {"acts.1.layers.4": 4, "acts.1.layers.2": 2}),
    ],
)
def test_each_width_gets_a_layer_and_the_model_stays_what_it_was(model, axis, expected):
    model = model(rngs=nnx.Rngs(0))
    selective, lines = reported(model, X, axis=axis)
    assert widths(selective) == expected
    seen = " and ".join(map(str, expected.values()))
    assert f", now selective, {seen} neurons on axis {axis}" in lines[-1]
    selective.eval()
    np.testing.assert_allclose(selective(X), model(X), rtol=1e-5, atol=1e-6)
    assert [layer.axis for layer in layers(selective)] == [axis] * 2


@pytest.mark.optimized
def test_the_layers_of_the_widths_are_fixed_and_released_bit_for_bit():
    model = decided(silently(Perceptron(rngs=nnx.Rngs(0)), X))
    model.eval()
    fixed = fix_choices(model)
    assert (len(layers(fixed, MixedActivation)), len(layers(fixed))) == (2, 0)
    assert widths(fixed) == widths(model)
    released = release_choices(fixed, rngs=nnx.Rngs(2))
    released.eval()
    for other in (fixed, released):
        assert_same_bits(compiled(other, X), compiled(model, X))
    partly = fix_choices(model, where=lambda path, layer: path == "activation.layers.12")
    assert isinstance(partly.activation.layers["16"], SelectiveActivation)


def test_views_and_compiled_calls_work_through_the_dispatch():
    model = decided(silently(Perceptron(rngs=nnx.Rngs(0)), X))
    quiet = nnx.view(model, deterministic=True)
    assert all(layer.deterministic for layer in layers(quiet))
    assert not any(layer.deterministic for layer in layers(model))
    expected = fix_choices(model)(X)
    np.testing.assert_allclose(nnx.jit(lambda model, x: model(x))(quiet, X), expected, rtol=1e-5)
    with_noise = nnx.jit(lambda model, x: model(x))
    assert np.abs(with_noise(model, X) - with_noise(model, X)).max() > 1e-3
    cold = nnx.view(model, temperature=0.5)
    assert {layer.temperature for layer in layers(cold)} == {0.5}


def test_a_checkpoint_is_restored_into_an_abstract_model(tmp_path):
    def build():
        return silently(Perceptron(rngs=nnx.Rngs(0)), X)

    model = decided(build())
    with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "model", nnx.state(model))
        checkpointer.wait_until_finished()
        graphdef, abstract = nnx.split(nnx.eval_shape(build))
        restored = nnx.merge(graphdef, checkpointer.restore(tmp_path / "model", abstract))
    for other in (restored, model):
        other.eval()
    assert_same_bits(compiled(restored, X), compiled(model, X))


def test_keywords_are_passed_on_to_the_layer_of_the_width():
    model = silently(Perceptron(rngs=nnx.Rngs(0)), X, keep_rngs=False)
    act, x = decided(model).activation, jnp.ones((1, 12))
    assert isinstance(act, ActivationByWidth)
    layer = act.layers["12"]
    for keywords in (
        {"rngs": nnx.Rngs(selection=3)},
        {"rngs": nnx.Rngs(selection=3), "temperature": 9.0},
        {"deterministic": True},
    ):
        again = {**keywords, "rngs": nnx.Rngs(selection=3)} if "rngs" in keywords else keywords
        np.testing.assert_array_equal(act(x, **keywords), layer(x, **again))
    chain = nnx.Sequential(nnx.Linear(4, 12, rngs=nnx.Rngs(0)), act)
    assert chain(X, rngs=nnx.Rngs(selection=1)).shape == (3, 12)
    with pytest.raises(ValueError, match="noise"):
        act(x)


@pytest.mark.parametrize("fix", [False, True])
def test_a_width_that_the_example_did_not_have_is_a_line_naming_the_widths(fix):
    model = silently(Perceptron(rngs=nnx.Rngs(0)), X)
    act = (fix_choices(model) if fix else model).activation
    for x, error, message in (
        (jnp.ones((2, 7)), ValueError, "no layer of 7 neurons, expected one of 1[62], 1[62]$"),
        (jnp.ones(()), ValueError, r"axis -1 is out of range for x\[\]"),
        (jnp.ones((2, 12), int), TypeError, "x must be a real floating-point array, got int32"),
        ([1.0], TypeError, r"x must be a real floating-point array, got \[1.0\]"),
    ):
        with pytest.raises(error, match=f"ActivationByWidth: {message}") as raised:
            act(x)
        assert "\n" not in str(raised.value)


def test_options_that_fit_one_width_only_name_the_path_and_the_value():
    model = Perceptron(rngs=nnx.Rngs(0))
    by_four = silently(model, X, groups=4)
    assert {layer.selection_logits.shape for layer in layers(by_four)} == {(4, 6)}
    with pytest.raises(ValueError, match=r"^select_activations: activation: .*divide the 12.*8$"):
        silently(model, X, groups=8)


def test_a_dispatch_of_a_converted_model_is_left_as_it_is_by_a_second_conversion():
    class Two(nnx.Module):
        def __init__(self, *, rngs):
            self.first, self.last = Perceptron(rngs=rngs), jnp.tanh

        def __call__(self, x):
            return self.last(self.first(x))

    model = Two(rngs=nnx.Rngs(0))
    half = silently(model, X, where=lambda path, _: path == "first.activation")
    both = silently(half, X)
    assert widths(both) == {**widths(half), "last": 3}


# --- dataclass configs --------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Frozen:
    act: Callable = nnx.gelu
    width: int = 4

    def activate(self, x):
        """A method that uses the function."""
        return self.act(x)

    @property
    def function(self):
        return self.act


@dataclasses.dataclass
class Mutable:
    act: Callable = nnx.gelu
    width: int = 4


@dataclasses.dataclass(frozen=True, slots=True)
class Slotted:
    act: Callable = nnx.gelu
    width: int = 4


@flax.struct.dataclass
class Struct:
    act: Callable = flax.struct.field(pytree_node=False, default=nnx.gelu)
    width: int = flax.struct.field(pytree_node=False, default=4)


CONFIGS = [Frozen, Mutable, Slotted, Struct]


@dataclasses.dataclass(frozen=True)
class Nested:
    mlp: Frozen = Frozen()
    pair: tuple = (nnx.relu, "text", {"f": jnp.tanh})
    gate: Callable = nnx.sigmoid
    depth: int = 2


class Block(nnx.Module):
    def __init__(self, cfg, *, rngs):
        self.cfg = cfg
        self.linear = nnx.Linear(4, cfg.width, rngs=rngs)

    def __call__(self, x):
        return self.cfg.act(self.linear(x))


class Deep(nnx.Module):
    """Blocks share one config object, which the root holds too and does not call."""

    def __init__(self, cfg, block=Block, *, rngs):
        self.cfg = cfg
        self.blocks = nnx.List([block(cfg, rngs=rngs) for _ in range(2)])

    def __call__(self, x):
        for block in self.blocks:
            x = block(x)
        return x


@pytest.mark.parametrize("config", CONFIGS)
def test_a_function_of_a_config_is_found_and_the_users_config_stays_as_it_was(config):
    cfg = config()
    model = Block(cfg, rngs=nnx.Rngs(0))
    selective, lines = reported(model, X)
    assert lines == ["cfg.act: gelu, now selective, 4 neurons on axis -1; gelu joined the pool"]
    assert (model.cfg, cfg.act, cfg) == (cfg, nnx.gelu, config())
    assert isinstance(selective.cfg.act, SelectiveActivation)
    selective.eval()
    np.testing.assert_allclose(selective(X), model(X), rtol=1e-5, atol=1e-6)
    decided(selective)
    for other in (fix_choices(selective), nnx.view(selective, deterministic=True)):
        assert_same_bits(compiled(other, X), compiled(selective, X))
    fixed = fix_choices(selective)
    assert widths(fixed) == {"cfg.act": 4}
    assert isinstance(fixed.cfg.act, MixedActivation)
    assert isinstance(release_choices(fixed, rngs=nnx.Rngs(0)).cfg.act, SelectiveActivation)


def test_modules_that_share_a_config_get_layers_of_their_own():
    cfg = Frozen()
    selective, lines = reported(Deep(cfg, rngs=nnx.Rngs(0)), X)
    assert [line.split(":")[0] for line in lines] == ["blocks.0.cfg.act", "blocks.1.cfg.act"]
    first, second = (block.cfg for block in selective.blocks)
    assert first.act is not second.act
    first.act.selection_logits[...] += 1.0
    assert np.abs(first.act.logits[...] - second.act.logits[...]).max() > 0.5
    assert selective.cfg is cfg
    draws = [np.asarray(act(jnp.ones((1, 4)))) for act in (first.act, second.act) for _ in "12"]
    assert len({draw.tobytes() for draw in draws}) > 1


class NestedBlock(nnx.Module):
    def __init__(self, cfg, *, rngs):
        self.cfg = cfg
        self.linear = nnx.Linear(4, 4, rngs=rngs)

    def __call__(self, x):
        x = self.cfg.mlp.activate(self.linear(x)) + self.cfg.mlp.function(x)
        x = self.cfg.pair[2]["f"](self.cfg.pair[0](x))
        assert self.cfg.pair[1] == "text"
        return x * self.cfg.gate(x)


def test_nested_configs_and_containers_in_them_methods_and_properties_see_the_layers():
    cfg = Nested()
    model = Deep(cfg, NestedBlock, rngs=nnx.Rngs(0))
    selective, lines = reported(model, X)
    inside = ("mlp.act", "pair.0", "pair.2.f")
    expected = [f"blocks.{i}.cfg.{name}" for i in range(2) for name in inside]
    assert sorted(widths(selective)) == expected
    ask = "left alone: a gate or an output, name it in functions to replace it"
    assert lines[0] == f"blocks.0.cfg.gate: sigmoid {ask}"
    assert cfg == Nested()
    counts = [int(layer.rngs.count[...]) for layer in layers(selective)]
    selective(X)
    drawn = [int(layer.rngs.count[...]) for layer in layers(selective)]
    assert np.subtract(drawn, counts).tolist() == [2, 1, 1] * 2
    selective.eval()
    np.testing.assert_allclose(selective(X), model(X), rtol=1e-5, atol=1e-6)
    assert_same_bits(compiled(fix_choices(selective), X), compiled(selective, X))


def test_a_proxy_passes_for_the_config_and_is_equal_to_itself_alone():
    cfg = Nested()
    model = silently(Deep(cfg, NestedBlock, rngs=nnx.Rngs(0)), X)
    proxy, other = (block.cfg for block in model.blocks)
    assert isinstance(proxy, Nested)
    assert isinstance(proxy.mlp, Frozen)
    assert isinstance(proxy, nnx.Pytree)
    assert (proxy.depth, proxy.mlp.width, proxy.gate) == (2, 4, nnx.sigmoid)
    assert [f.name for f in dataclasses.fields(proxy)] == ["mlp", "pair", "gate", "depth"]
    changed = dataclasses.replace(proxy, depth=3)
    assert (type(changed), changed.depth, changed.mlp) == (Nested, 3, proxy.mlp)
    assert proxy == proxy
    assert proxy != other
    assert proxy != cfg
    assert cfg != proxy
    assert len({proxy, other}) == 2
    assert "depth=2" in repr(proxy)
    assert "SelectiveActivation" in repr(proxy)
    with pytest.raises(AttributeError, match="'Nested' object has no attribute 'depht'"):
        proxy.depht  # noqa: B018


def test_super_works_in_a_method_of_a_config():
    @dataclasses.dataclass(frozen=True)
    class Child(Frozen):
        def activate(self, x):
            return 2 * super().activate(x)

    class Model(nnx.Module):
        def __init__(self):
            self.cfg = Child()

        def __call__(self, x):
            return self.cfg.activate(x)

    model = silently(Model(), X)
    assert widths(model) == {"cfg.act": 4}
    model.eval()
    np.testing.assert_allclose(model(X), 2 * nnx.gelu(X), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("way", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_fixed_model_with_a_config_survives_copies(way):
    model = decided(silently(Block(Frozen(), rngs=nnx.Rngs(0)), X))
    fixed = fix_choices(model)
    again = way(fixed)
    assert type(again.cfg) is ConfigProxy
    assert isinstance(again.cfg, Frozen)
    assert again.cfg.width == 4
    assert_same_bits(compiled(again, X), compiled(fixed, X))


def test_a_mutable_config_can_be_changed_on_the_converted_model_alone():
    cfg = Mutable()
    model = silently(Block(cfg, rngs=nnx.Rngs(0)), X)
    model.cfg.width = 5
    assert (model.cfg.width, cfg.width, nnx.clone(model).cfg.width) == (5, 4, 5)


def test_the_rest_of_a_config_is_converted_by_a_second_call():
    model = NestedBlock(Nested(), rngs=nnx.Rngs(0))
    half = silently(model, X, where=lambda path, _: path in ("cfg.pair.0", "cfg.mlp.act"))
    before = decided(half).cfg.pair[0].selection_logits[...]
    rest = silently(half, X, functions=(jnp.tanh, nnx.sigmoid))
    assert sorted(widths(rest)) == ["cfg.gate", "cfg.mlp.act", "cfg.pair.0", "cfg.pair.2.f"]
    np.testing.assert_array_equal(rest.cfg.pair[0].selection_logits[...], before)
    assert type(rest.cfg.stands_for) is Nested


def test_a_config_used_at_two_widths_gets_a_layer_for_each():
    class Model(nnx.Module):
        def __init__(self, *, rngs):
            self.cfg, self.linear = Frozen(), nnx.Linear(4, 9, rngs=rngs)

        def __call__(self, x):
            return self.cfg.act(self.linear(self.cfg.act(x)))

    model = silently(Model(rngs=nnx.Rngs(0)), X)
    assert widths(model) == {"cfg.act.layers.4": 4, "cfg.act.layers.9": 9}


def test_configs_that_hold_each_other_modules_or_functions_of_other_kinds_stay_intact():
    @dataclasses.dataclass
    class Odd:
        module: nnx.Module
        init: Callable = nnx.initializers.zeros
        kind: type = int
        unset: int = dataclasses.field(init=False)
        parent: typing.Any = None

    class Model(nnx.Module):
        def __init__(self):
            self.cfg = Odd(nnx.Sequential(nnx.relu))
            self.cfg.parent = self.cfg
            self.act = nnx.relu

        def __call__(self, x):
            return self.cfg.module(self.act(x)) + self.cfg.kind(1)

    model = Model()
    selective = silently(model, X)
    assert widths(selective) == {"act": 4}
    assert model.cfg.module.layers[0] is nnx.relu
    assert selective.cfg is model.cfg


def test_a_named_tuple_is_left_alone_and_works():
    class Pair(typing.NamedTuple):
        act: Callable
        other: Callable

    class Model(nnx.Module):
        def __init__(self):
            self.pair, self.act = Pair(nnx.relu, jnp.cos), nnx.relu

        def __call__(self, x):
            act, other = self.pair
            return self.act(act(x) + self.pair.act(other(x)))

    model = silently(Model(), X)
    assert widths(model) == {"act": 4}
    assert model.pair == (nnx.relu, jnp.cos)
