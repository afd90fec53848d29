"""The Linen layers and fix_choices: parameters, randomness, where a module holds its layers."""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import linen as nn
from flax import serialization
from flax.core import freeze
from flax.traverse_util import flatten_dict

from smartmixed_jax import (
    PAPER_POOL,
    REGRESSION_POOL,
    ActivationPool,
    FunctionTable,
    apply_choices,
    estimators,
    mix,
)
from smartmixed_jax.linen import (
    MixedActivation,
    SelectiveActivation,
    fix_choices,
    release_choices,
    summarize,
    switch_report,
)
from smartmixed_jax.summary import summarize_logits

pytestmark = pytest.mark.usefixtures("strict")


def constant(value):
    return lambda x: jnp.full_like(x, value)


LABELS = ActivationPool({str(k): constant(float(k)) for k in range(6)})
"""Function k is the constant k: the output of a layer is its choices."""

X = jnp.linspace(-2, 2, 12).reshape(3, 4)
KEY = jax.random.key(0)
TIED = (1, 0, 0, 2)
NAMES = "relu,sigmoid,tanh,leaky_relu,elu,selu"


def bits(x):
    return np.asarray(x).view(np.int32)


def with_logits(variables, seed=0):
    """The variables with random logits, so that the neurons choose differently."""
    keys = itertools.count(seed)

    def draw(path, leaf):
        if path[-1].key != "selection_logits":
            return leaf
        return jax.random.normal(jax.random.key(next(keys)), leaf.shape, leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, variables)


def compiled(module, variables, x, **options):
    return jax.jit(lambda variables, x: module.apply(variables, x, **options))(variables, x)


# --- the layer ----------------------------------------------------------------------------


def test_init_needs_no_selection_stream_and_makes_one_matrix_of_logits():
    variables = SelectiveActivation(4).init(KEY, X)
    assert jax.tree.map(jnp.shape, variables) == {"params": {"selection_logits": (4, 6), NAMES: {}}}
    assert [leaf.shape for leaf in jax.tree.leaves(variables)] == [(4, 6)]
    y, _ = SelectiveActivation(4).init_with_output(KEY, X)
    argmax = estimators.deterministic(variables["params"]["selection_logits"])
    np.testing.assert_array_equal(y, mix(X, argmax, PAPER_POOL))
    streams = {"params": KEY, "selection": jax.random.key(1)}
    np.testing.assert_array_equal(
        SelectiveActivation(4).init(streams, X)["params"]["selection_logits"],
        variables["params"]["selection_logits"],
    )


def test_initial_logits_are_0_and_a_thousandth_at_one_random_entry_per_neuron():
    act = SelectiveActivation(600)
    logits = np.asarray(act.init(KEY, jnp.zeros((1, 600)))["params"]["selection_logits"])
    assert set(np.unique(logits)) == {np.float32(0), np.float32(1e-3)}
    np.testing.assert_array_equal((logits != 0).sum(-1), 1)
    assert (np.abs(np.bincount(logits.argmax(-1), minlength=6) - 100) < 5 * 100**0.5).all()
    half = SelectiveActivation(
        4, REGRESSION_POOL, logits_init=nn.initializers.constant(0.25), param_dtype=jnp.bfloat16
    )
    logits = half.init(KEY, X)["params"]["selection_logits"]
    assert (logits.dtype, logits.shape) == (jnp.bfloat16, (4, 8))
    np.testing.assert_array_equal(logits, np.full((4, 8), 0.25))


def test_layers_and_calls_never_share_noise_and_a_key_repeats_it():
    class Pair(nn.Module):
        @nn.compact
        def __call__(self, x):
            first = SelectiveActivation(400, LABELS, name="first")
            return first(x), first(x), SelectiveActivation(400, LABELS)(x)

    x = jnp.zeros((1, 400))
    variables = Pair().init(KEY, x)
    draws = [
        np.asarray(y[0])
        for seed in (0, 1)
        for y in Pair().apply(variables, x, rngs={"selection": jax.random.key(seed)})
    ]
    for a, b in itertools.combinations(draws, 2):
        assert (a == b).mean() < 1 / 6 + 6 * (5 / 36 / 400) ** 0.5
    again = Pair().apply(variables, x, rngs={"selection": jax.random.key(1)})
    np.testing.assert_array_equal(np.concatenate(again), draws[3:])


@pytest.mark.parametrize("rngs", [None, {"params": KEY}, {"dropout": KEY}])
def test_a_missing_selection_stream_raises_saying_what_to_pass(rngs):
    """Linen itself would take the stream params in its place."""
    act = SelectiveActivation(4)
    variables = act.init(KEY, X)
    with pytest.raises(ValueError, match=r"got no key: .* pass rngs=\{'selection': key\} to apply"):
        act.apply(variables, X, rngs=rngs)
    assert act.apply(variables, X, deterministic=True).shape == X.shape
    soft = act.copy(estimator=estimators.soft_mixture)
    expected = mix(
        X, estimators.soft_mixture(variables["params"]["selection_logits"], None, 1.0), PAPER_POOL
    )
    np.testing.assert_array_equal(soft.apply(variables, X), expected)


def test_the_argument_deterministic_wins_over_the_attribute():
    x, rngs = jnp.zeros((1, 2000)), {"selection": KEY}
    noisy = SelectiveActivation(2000, LABELS)
    variables = noisy.init(KEY, x)
    argmax = np.argmax(variables["params"]["selection_logits"], -1)

    def is_argmax(act, **options):
        return np.array_equal(act.apply(variables, x, rngs=rngs, **options)[0], argmax)

    quiet = noisy.copy(deterministic=True)
    assert [is_argmax(noisy), is_argmax(noisy, deterministic=True)] == [False, True]
    assert [is_argmax(quiet), is_argmax(quiet, deterministic=False)] == [True, False]
    streams = {"params": KEY, "selection": KEY}
    drawn, _ = noisy.init_with_output(streams, x)
    assert not np.array_equal(drawn[0], argmax)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"features": 0}, ValueError, "features must be at least 1, got 0"),
        ({"temperature": 0.0}, ValueError, "temperature must be a finite value > 0, got 0.0"),
        ({"groups": 3}, ValueError, "must be at least 1 and divide the 4 features, got 3"),
        ({"groups": (0, 0, 2, 2)}, ValueError, r"every one in use, got \[0, 2\]"),
        ({"groups": (0, 0, 1)}, ValueError, r"one group per neuron, \[4\], got \[3\]"),
        ({"features": "4"}, TypeError, "features must be an int, got '4'"),
        ({"features": True}, TypeError, "features must be an int, got True"),
        ({"axis": 1.0}, TypeError, "axis must be an int, got 1.0"),
        ({"temperature": None}, TypeError, "temperature must be a number > 0, got None"),
        ({"pool": [jax.nn.relu]}, TypeError, r"pool must be an ActivationPool, got"),
        ({"estimator": "gumbel"}, TypeError, "estimator must be a function, got 'gumbel'"),
        ({"start": "relu"}, TypeError, r"start must be \(name, probability\), got 'relu'"),
        ({"start": ("relu", 0.1)}, ValueError, r"probability must be in \(1/6, 1\)"),
    ],
)
def test_wrong_options_raise_at_init(options, error, message):
    with pytest.raises(error, match=f"SelectiveActivation the model: .*{message}"):
        SelectiveActivation(**{"features": 4, **options}).init(KEY, X)


def test_wrong_input_raises():
    act = SelectiveActivation(4, dtype=jnp.float32)
    variables = act.init(KEY, X)
    for dtype in (jnp.int32, jnp.complex64):
        with pytest.raises(TypeError, match="SelectiveActivation the model: x must be a real fl"):
            act.apply(variables, X.astype(dtype), deterministic=True)
        with pytest.raises(TypeError, match="SelectiveActivation the model: x must be a real fl"):
            act.apply(fix_choices(act, variables)[1], X.astype(dtype))
        with pytest.raises(TypeError, match="MixedActivation the model: x must be a real floating"):
            MixedActivation(FunctionTable(PAPER_POOL, [0] * 4)).apply({}, X.astype(dtype))
    with pytest.raises(ValueError, match=r"x\[4, 3\] .* needs weights \[3, 6\], got \[4, 6\]"):
        act.apply(variables, X.T, deterministic=True)
    with pytest.raises(ValueError, match=r"temperature must be a finite value > 0, got -1.0"):
        act.apply(variables, X, temperature=-1.0, rngs={"selection": KEY})
    with pytest.raises(TypeError, match="positional argument"):
        SelectiveActivation(4, PAPER_POOL, estimators.soft_mixture)


def test_a_new_temperature_changes_the_gradient_without_recompiling():
    act = SelectiveActivation(4)
    variables = with_logits(act.init(KEY, X))
    traces = []

    @jax.jit
    def gradient(variables, tau):
        traces.append(1)

        def total(variables):
            y = act.apply(variables, X, temperature=tau, rngs={"selection": KEY})
            return jnp.sum(y**2)

        return jax.grad(total)(variables)["params"]["selection_logits"]

    found = [gradient(variables, tau) for tau in (0.5, 2.0, 1.0)]
    assert len(traces) == 1
    assert np.abs(found[0] - found[1]).max() > 1e-3
    cold = act.copy(temperature=0.5)
    reference = jax.grad(lambda v: jnp.sum(cold.apply(v, X, rngs={"selection": KEY}) ** 2))(
        variables
    )
    np.testing.assert_allclose(
        found[0], reference["params"]["selection_logits"], rtol=1e-5, atol=1e-6
    )


def test_vmap_over_seeds_is_the_loop_over_them():
    net = nn.Sequential([nn.Dense(8), SelectiveActivation(8), nn.Dense(2)])
    keys = jax.random.split(KEY, 3)
    variables = jax.vmap(lambda key: net.init(key, X))(keys)

    def apply(variables, key):
        return net.apply(variables, X, rngs={"selection": key})

    found = jax.jit(jax.vmap(apply))(variables, keys)
    for index, key in enumerate(keys):
        one = jax.tree.map(lambda leaf, i=index: leaf[i], variables)
        np.testing.assert_allclose(found[index], apply(one, key), rtol=1e-5, atol=1e-6)


def test_rematerialisation_draws_the_same_choices_again():
    def gradient(layer):
        act = layer(4)
        variables = {"params": with_logits({"selection_logits": jnp.zeros((4, 6))})}
        call = lambda v: jnp.sum(act.apply(v, X, rngs={"selection": KEY}) ** 2)  # noqa: E731
        return jax.grad(call)(variables)["params"]["selection_logits"]

    found, expected = gradient(nn.remat(SelectiveActivation)), gradient(SelectiveActivation)
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_mixed_activation_applies_its_table_has_no_parameters_and_ignores_the_keywords():
    act = MixedActivation(FunctionTable(PAPER_POOL, [0, 1, 2, 5]))
    assert act.init(KEY, X) == {}
    y = act.apply({}, X, deterministic=False, temperature=-1.0)
    np.testing.assert_array_equal(y, apply_choices(X, [0, 1, 2, 5], PAPER_POOL))


# --- fix_choices: wherever a layer is made -------------------------------------------------


class Net(nn.Module):
    """Calls what it is given between two dense layers."""

    act: Any

    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(self.act(nn.Dense(4)(x)))


class Listed(nn.Module):
    acts: Any
    named: Any

    @nn.compact
    def __call__(self, x):
        for act in self.acts:
            x = act(nn.Dense(4)(x))
        return self.named["last"]["inner"](x)


class Twice(nn.Module):
    """One layer at two places, one of them in a block."""

    first: nn.Module
    block: nn.Module

    @nn.compact
    def __call__(self, x):
        return self.block(self.first(nn.Dense(4)(x)))


class Made(nn.Module):
    """Makes its layers by a factory: named by Linen, and by itself."""

    act: Callable[..., Any] = SelectiveActivation

    @nn.compact
    def __call__(self, x):
        x = self.act(6)(nn.Dense(6)(x))
        x = self.act(4, name="mine")(nn.Dense(4)(x))
        return nn.Dense(2)(self.act(4)(nn.LayerNorm()(x)))


class Setup(nn.Module):
    act: Callable[..., Any] = SelectiveActivation

    def setup(self):
        self.dense = [nn.Dense(4), nn.Dense(6)]
        self.acts = [self.act(4), self.act(6)]
        self.last = self.act(6)

    def __call__(self, x):
        for dense, act in zip(self.dense, self.acts, strict=True):
            x = act(dense(x))
        return self.last(x)


class Deep(nn.Module):
    """Passes the factory on to blocks, one of them rematerialised."""

    act: Callable[..., Any] = SelectiveActivation

    @nn.compact
    def __call__(self, x):
        x = Setup(act=self.act)(nn.Dense(4)(x))
        x = nn.remat(Made)(act=self.act)(x)
        return Made(act=self.act, name="named")(x)


class Inline(nn.Module):
    """Makes its layers on the spot: no field holds them, nor what makes them."""

    @nn.compact
    def __call__(self, x):
        x = SelectiveActivation(6, REGRESSION_POOL)(nn.Dense(6)(x))
        x = nn.jit(nn.remat(SelectiveActivation))(axis=1)(x)
        return SelectiveActivation(groups=2)(nn.Dense(4)(x))


@dataclasses.dataclass(frozen=True)
class Settings:
    act: Any = SelectiveActivation
    width: int = 4


class Configured(nn.Module):
    cfg: Settings

    def setup(self):
        self.dense = nn.Dense(self.cfg.width)
        self.inner = self.cfg.act(self.cfg.width)

    @nn.compact
    def __call__(self, x):
        return self.cfg.act(self.cfg.width)(self.inner(self.dense(x)))


class Inner(nn.Module):
    act: Callable[..., Any] = SelectiveActivation

    @nn.compact
    def __call__(self, x):
        return self.act(4)(nn.Dense(4)(x))


class Scanned(nn.Module):
    """A stack of three blocks, each with its own logits, or with one for all."""

    act: Callable[..., Any] = SelectiveActivation
    own: bool = True
    lifted: tuple[str, ...] = ("params", "choices")

    @nn.compact
    def __call__(self, x):
        each = {"variable_axes": dict.fromkeys(self.lifted, 0)}
        scan = nn.scan(
            lambda block, x, _: (block(x), None),
            split_rngs={"params": self.own, "selection": True},
            length=3,
            **(each if self.own else {"variable_broadcast": self.lifted}),
        )
        return scan(Inner(self.act), x, None)[0]


def by_vmap(act=SelectiveActivation):
    over = nn.vmap(
        Inner,
        variable_axes={"params": 0, "choices": 0},
        split_rngs={"params": True, "selection": True},
        axis_size=3,
        in_axes=None,
    )
    return over(act)


def by_def(width, name=None):
    return SelectiveActivation(width, REGRESSION_POOL, groups=2, name=name)


def shared_twice():
    act = SelectiveActivation(4)
    return Twice(act, Net(act))


REGRESSION = functools.partial(SelectiveActivation, pool=REGRESSION_POOL, deterministic=True)
TIED_ACT = functools.partial(SelectiveActivation, groups=TIED)
PATTERNS = {
    "the layer itself": lambda: SelectiveActivation(4, dtype=jnp.bfloat16),
    "a field": lambda: Net(SelectiveActivation(4, axis=1)),
    "a subclass": lambda: Net(nn.remat(SelectiveActivation)(4)),
    "groups": lambda: Net(SelectiveActivation(4, groups=TIED)),
    "Sequential": lambda: nn.Sequential(
        [nn.Dense(6), SelectiveActivation(), nn.relu, nn.Dense(4), SelectiveActivation(4)]
    ),
    "a list and nested dicts": lambda: Listed(
        [SelectiveActivation(4), nn.tanh, Inner(SelectiveActivation)],
        {"last": {"inner": SelectiveActivation(4, REGRESSION_POOL)}, "other": nn.relu},
    ),
    "a field of a field": lambda: Net(nn.Sequential([Net(SelectiveActivation(4)), nn.Dense(4)])),
    "one layer at two places": shared_twice,
    "the class": Made,
    "a partial": lambda: Made(act=REGRESSION),
    "a lambda": lambda: Made(act=lambda width, **o: SelectiveActivation(width, groups=2, **o)),
    "a def": lambda: Made(act=by_def),
    "a rematerialised class": lambda: Made(act=nn.remat(SelectiveActivation)),
    "setup": lambda: Setup(act=lambda width: REGRESSION(width)),
    "nested blocks": lambda: Deep(act=by_def),
    "inline": Inline,
    "inline inside others": lambda: nn.Sequential([Inline(), nn.remat(Inline)(), Made()]),
    "a config object": lambda: Configured(Settings()),
    "a config object with a lambda": lambda: Configured(Settings(lambda n: by_def(n))),
    "act(x)": lambda: Net(act=lambda x: SelectiveActivation(x.shape[-1])(x)),
    "act(x) without features": lambda: Net(act=lambda x: SelectiveActivation(pool=LABELS)(x)),
    "scan": Scanned,
    "scan, groups": lambda: Scanned(act=TIED_ACT),
    "scan, remat, a def": lambda: Scanned(act=nn.remat(by_def_class())),
    "scan, one layer for all": lambda: Scanned(own=False),
    "vmap": by_vmap,
    "vmap, groups": lambda: by_vmap(TIED_ACT),
}


def by_def_class():
    class Grouped(SelectiveActivation):
        groups: Any = 2

    return Grouped


def quiet(module, variables, x):
    """module.apply with every layer deterministic, compiled."""

    def call(variables, x):
        def interceptor(call, args, options, context):
            if isinstance(context.module, SelectiveActivation):
                object.__setattr__(context.module, "deterministic", True)
            return call(*args, **options)

        with nn.intercept_methods(interceptor):
            return module.apply(variables, x)

    return jax.jit(call)(variables, x)


def without_logits(variables):
    return {p: leaf for p, leaf in flatten_dict(variables).items() if p[-1] != "selection_logits"}


COMPILED = ("inline", "scan, groups", "vmap", "the layer itself")
"""Patterns whose bits are compared in programs compiled as for a user."""


def weights(variables):
    """The leaves that are neither logits nor choices."""
    kept = without_logits(variables)
    return {path: leaf for path, leaf in kept.items() if path[0] != "choices"}


@pytest.mark.parametrize(
    "pattern",
    [pytest.param(name, marks=[pytest.mark.optimized] * (name in COMPILED)) for name in PATTERNS],
)
def test_fixed_variables_keep_the_bits_and_the_weights_and_have_no_logits(pattern):
    module = PATTERNS[pattern]()
    variables = with_logits(module.init(KEY, X))
    before, shown = dict(flatten_dict(variables)), repr(module)
    same, fixed = fix_choices(module, variables)
    assert same is module
    x = jax.random.normal(jax.random.key(5), (17, 4))
    y = quiet(module, variables, x).astype(jnp.float32)
    z = compiled(module, fixed, x).astype(jnp.float32)
    np.testing.assert_array_equal(bits(z), bits(y))
    leaves, kept = weights(fixed), without_logits(variables)
    assert sorted(leaves) == sorted(kept)
    assert all(leaves[path] is kept[path] for path in kept)
    assert not any(path[-1] == "selection_logits" for path in flatten_dict(fixed))
    assert repr(module) == shown
    assert all(flatten_dict(variables)[path] is leaf for path, leaf in before.items())
    # Its choices are those of the logits: others give another output.
    other = compiled(*fix_choices(module, with_logits(variables, seed=50)), x)
    assert np.abs(other.astype(jnp.float32) - z).max() > 1e-3


@pytest.mark.parametrize("pattern", ["inline", "scan, groups", "vmap", "setup"])
def test_weights_have_the_gradient_of_the_deterministic_layers(pattern):
    module = PATTERNS[pattern]()
    variables = with_logits(module.init(KEY, X))
    _, fixed = fix_choices(module, variables)

    def gradient(variables, apply):
        params = variables["params"]
        others = {name: part for name, part in variables.items() if name != "params"}
        total = lambda p: jnp.sum(apply(module, {**others, "params": p}, X) ** 2)  # noqa: E731
        return weights({"params": jax.grad(total)(params)})

    found, expected = gradient(fixed, compiled), gradient(variables, quiet)
    expected = {path: expected[path] for path in found}
    assert max(np.abs(leaf).max() for leaf in expected.values()) > 0.01
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_fixing_calls_no_function_of_the_module():
    def fails(*args, **options):
        raise AssertionError("called")

    variables = Made().init(KEY, X)
    module = Made(act=fails)
    assert fix_choices(module, variables)[0] is module


@pytest.mark.parametrize("pattern", ["inline", "scan, groups", "setup", "the layer itself"])
def test_a_fixed_model_is_saved_and_restored_with_its_variables(pattern, tmp_path):
    module = PATTERNS[pattern]()
    _, fixed = fix_choices(module, with_logits(module.init(KEY, X)))
    y = compiled(module, fixed, X)
    blob = serialization.to_bytes(fixed)
    restored = serialization.msgpack_restore(blob)
    np.testing.assert_array_equal(compiled(module, restored, X), y)
    checkpointer = ocp.StandardCheckpointer()
    checkpointer.save(tmp_path / "fixed", fixed)
    checkpointer.wait_until_finished()
    restored = checkpointer.restore(tmp_path / "fixed", jax.tree.map(jnp.zeros_like, fixed))
    np.testing.assert_array_equal(compiled(module, restored, X), y)


def test_frozen_variables_and_numpy_leaves_are_taken():
    variables = freeze(jax.tree.map(np.asarray, with_logits(Made().init(KEY, X))))
    module, fixed = fix_choices(Made(), variables)
    assert type(fixed) is type(variables)
    y = compiled(module, fixed, X)
    np.testing.assert_array_equal(bits(y), bits(quiet(Made(), variables, X)))


def test_partitioned_logits_are_fixed():
    init = nn.with_partitioning(nn.initializers.normal(), ("neurons", None))
    act = SelectiveActivation(4, logits_init=init)
    variables = act.init(KEY, X)
    _, fixed = fix_choices(act, variables)
    choices = np.argmax(variables["params"]["selection_logits"].value, -1)
    np.testing.assert_array_equal(fixed["choices"][NAMES], choices)
    assert fixed["params"] == {}


def test_one_compilation_serves_other_choices():
    act = SelectiveActivation(4)
    apply = jax.jit(act.apply)
    for seed in range(3):
        apply(fix_choices(act, with_logits(act.init(KEY, X), seed))[1], X)
    assert apply._cache_size() == 1


# --- partly, and back ---------------------------------------------------------------------


def test_where_fixes_the_layers_it_takes_and_leaves_the_others_selective():
    module = nn.Sequential([Inline(), SelectiveActivation(4), Setup()])
    variables = with_logits(module.init(KEY, X))
    seen = {}

    def where(path, logits):
        seen[path] = logits
        return path in ("layers_0.SelectiveActivation_1", "layers_1", "layers_2.acts_1")

    _, partly = fix_choices(module, variables, where)
    flat = flatten_dict(variables["params"])
    logits = {".".join(p[:-1]): v for p, v in flat.items() if p[-1] == "selection_logits"}
    assert seen == logits
    assert len(seen) == 7
    kept = {".".join(p[1:-1]) for p in flatten_dict(partly) if p[-1] == "selection_logits"}
    assert kept == set(seen) - {"layers_0.SelectiveActivation_1", "layers_1", "layers_2.acts_1"}
    y = quiet(module, variables, X)
    np.testing.assert_array_equal(bits(quiet(module, partly, X)), bits(y))
    with pytest.raises(ValueError, match="got no key"):
        module.apply(partly, X)
    _, whole = fix_choices(module, partly)
    assert not any(path[-1] == "selection_logits" for path in flatten_dict(whole))
    np.testing.assert_array_equal(bits(compiled(module, whole, X)), bits(y))


def test_where_that_takes_no_layer_raises_naming_those_there_are():
    module = Net(SelectiveActivation(4))
    with pytest.raises(ValueError, match=r"^fix_choices: where takes none of the layers: act$"):
        fix_choices(module, module.init(KEY, X), where=lambda path, logits: path == "acts")


@pytest.mark.optimized
@pytest.mark.parametrize("pattern", COMPILED)
def test_released_choices_select_again_and_keep_the_bits(pattern):
    module = PATTERNS[pattern]()
    variables = with_logits(module.init(KEY, X))
    _, fixed = fix_choices(module, variables)
    _, back = release_choices(module, fixed, probability=0.8)
    assert jax.tree.structure(back) == jax.tree.structure(variables)
    np.testing.assert_array_equal(
        bits(quiet(module, back, X).astype(jnp.float32)),
        bits(compiled(module, fixed, X).astype(jnp.float32)),
    )
    jax.tree.map(np.testing.assert_array_equal, fix_choices(module, back)[1], fixed)
    for path, logits in flatten_dict(back["params"]).items():
        if path[-1] == "selection_logits":
            np.testing.assert_allclose(jax.nn.softmax(logits).max(-1), 0.8, rtol=1e-5)
    noise = jax.jit(lambda key: module.apply(back, X, rngs={"selection": key}))
    noisy = [noise(jax.random.key(seed)) for seed in range(12)]
    assert any(np.abs(y - noisy[0]).max() > 0 for y in noisy)


def test_releasing_partly_and_what_cannot_be_released():
    module = Setup()
    variables = module.init(KEY, X)
    _, fixed = fix_choices(module, variables)
    _, back = release_choices(module, fixed, where=lambda path, choices: path == "last")
    assert list(back["choices"]) == ["acts_0", "acts_1"]
    assert back["params"]["last"]["selection_logits"].shape == (6, 6)
    with pytest.raises(ValueError, match=r"release_choices: .* Setup hold no fixed choices"):
        release_choices(module, variables)
    with pytest.raises(ValueError, match=r"release_choices: acts_0: probability .*\(1/6, 1\)"):
        release_choices(module, fixed, probability=0.1)
    with pytest.raises(ValueError, match="where takes none of the layers: acts_0, acts_1, last"):
        release_choices(module, fixed, where=lambda path, choices: False)


# --- what was chosen ----------------------------------------------------------------------


def test_summarize_is_that_of_nnx_before_and_after_fixing():
    module = Inline()
    variables = with_logits(module.init(KEY, X))
    summary = summarize(module, variables)
    assert set(summary) == {
        "SelectiveActivation_0",
        "JitCheckpointSelectiveActivation_0",
        "SelectiveActivation_1",
    }
    logits = variables["params"]["SelectiveActivation_0"]["selection_logits"]
    assert summary["SelectiveActivation_0"] == summarize_logits(logits, REGRESSION_POOL)
    fixed = summarize(*fix_choices(module, variables))
    assert list(fixed) == list(summary)
    for path, record in fixed.items():
        assert record["counts"] == summary[path]["counts"]
        assert (record["max_probability"], record["entropy"], record["undecided"]) == (1, 0, 0)


@pytest.mark.parametrize("module", [Scanned(), by_vmap()])
def test_stacked_layers_have_a_record_each(module):
    variables = with_logits(module.init(KEY, X))
    summary = summarize(module, variables)
    (logits,) = (v for p, v in flatten_dict(variables).items() if p[-1] == "selection_logits")
    assert [path[-3:] for path in summary] == ["[0]", "[1]", "[2]"]
    assert list(summary.values()) == [summarize_logits(one, PAPER_POOL) for one in logits]
    fixed = summarize(*fix_choices(module, variables))
    assert [r["counts"] for r in fixed.values()] == [r["counts"] for r in summary.values()]


def test_functions_of_an_unnamed_pool_have_their_index_as_a_name():
    params = with_logits({"params": {"act": {"selection_logits": jnp.zeros((4, 6))}}})
    module = Net(SelectiveActivation(4))
    dense = {name: v for name, v in module.init(KEY, X)["params"].items() if name != "act"}
    params["params"] |= dense
    assert list(summarize(module, params)["act"]["counts"]) == list("012345")
    _, fixed = fix_choices(module, params)
    assert list(fixed["choices"]["act"]) == ["0,1,2,3,4,5"]
    np.testing.assert_array_equal(compiled(module, fixed, X), quiet(module, params, X))
    assert summarize(module, release_choices(module, fixed)[1])["act"]["features"] == 4


def test_the_switch_report_scores_noise_expectation_and_fixed_choices():
    module = Net(SelectiveActivation(4))
    variables = with_logits(module.init(KEY, X))

    def score(module, variables, rngs):
        return float(jnp.sum(module.apply(variables, X, rngs=rngs)))

    report = switch_report(module, variables, score, KEY)
    soft = module.clone(act=SelectiveActivation(4, estimator=estimators.soft_mixture))
    expected = {
        "noise": score(module, variables, {"selection": KEY}),
        "expectation": score(soft, variables, None),
        "fixed": float(jnp.sum(quiet(module, variables, X))),
    }
    assert report == pytest.approx(expected, rel=1e-5)
    assert len(set(report.values())) == 3
    with pytest.raises(ValueError, match=r"switch_report: .* hold no logits"):
        switch_report(*fix_choices(module, variables), score, KEY)


# --- errors -------------------------------------------------------------------------------


class Pooled(nn.Module):
    pool: ActivationPool

    @nn.compact
    def __call__(self, x):
        return SelectiveActivation(4, self.pool)(x)


def test_another_pool_is_refused_selective_and_fixed():
    others = PAPER_POOL.names[:5]
    same_length = ActivationPool(dict.fromkeys((*others, "other"), jnp.tanh))
    variables = Pooled(PAPER_POOL).init(KEY, X)
    for held in (variables, fix_choices(Pooled(PAPER_POOL), variables)[1]):
        for pool in (same_length, REGRESSION_POOL):
            with pytest.raises(
                ValueError,
                match=f"SelectiveActivation_0: its variables were made with the pool {NAMES}, got",
            ):
                jax.jit(Pooled(pool).apply)(held, X)


def test_a_transform_that_does_not_list_the_choices_raises_naming_path_and_remedy():
    module = Scanned(lifted=("params",))
    _, fixed = fix_choices(module, module.init(KEY, X))
    with pytest.raises(
        ValueError,
        match=r"SelectiveActivation_0: .* neither its selection_logits nor its choices; .*"
        r'variable_axes=\{"params": 0, "choices": 0\}',
    ):
        module.apply(fixed, X)


def test_parameters_of_the_old_name_raise_saying_what_to_rename():
    with pytest.raises(ValueError, match=r"called selection_logits now, .* hold 'logits': rename"):
        SelectiveActivation(4).apply({"params": {"logits": jnp.zeros((4, 6))}}, X)


def test_nan_logits_are_refused_naming_layer_and_neuron():
    module = Setup()
    variables = with_logits(module.init(KEY, X))
    logits = variables["params"]["last"]["selection_logits"]
    variables["params"]["last"]["selection_logits"] = logits.at[3, 1].set(jnp.nan)
    with pytest.raises(ValueError, match="fix_choices: last: the logits of neuron 3 are NaN"):
        fix_choices(module, variables)


def test_choices_of_another_width_raise():
    _, fixed = fix_choices(Net(SelectiveActivation(4)), Net(SelectiveActivation(4)).init(KEY, X))
    with pytest.raises(
        ValueError, match="SelectiveActivation act: 4 choices were fixed, it needs 2"
    ):
        Net(SelectiveActivation(4, groups=2)).apply(fixed, X)


@pytest.mark.parametrize("act", [SelectiveActivation, functools.partial(SelectiveActivation)])
def test_a_class_where_a_function_is_called_raises_saying_what_to_pass(act):
    with pytest.raises(
        TypeError, match=r"features must be an int, got an array float32\[3, 4\]: .* factory"
    ):
        Net(act).init(KEY, X)


def test_variables_without_logits_or_params_raise():
    dense = nn.Dense(2)
    with pytest.raises(ValueError, match="the variables of Dense hold no logits"):
        fix_choices(dense, dense.init(KEY, X))
    variables = Made().init(KEY, X)
    with pytest.raises(TypeError, match="must be collections by name, with 'params'"):
        fix_choices(Made(), variables["params"])
    fixed = fix_choices(Made(), variables)
    with pytest.raises(ValueError, match="the variables of Made hold no logits"):
        fix_choices(*fixed)


@pytest.mark.parametrize("module", [Net(SelectiveActivation(4)), Made()])
def test_fixing_under_jit_raises_naming_the_layer(module):
    variables = module.init(KEY, X)
    with pytest.raises(
        ValueError, match=r"fix_choices: \w+: the logits are traced; .* outside jit"
    ):
        jax.jit(lambda v: fix_choices(module, v)[1])(variables)


def test_a_lifted_transform_that_drops_the_stream_raises_naming_split_rngs():
    over = nn.vmap(Inner, variable_axes={"params": None}, split_rngs={"params": False})
    module = over()
    variables = module.init(KEY, X)
    with pytest.raises(ValueError, match=r"selection in split_rngs to nn.scan and nn.vmap"):
        module.apply(variables, X, rngs={"selection": KEY})


# --- a ResNet that takes its activation as an argument -------------------------------------


class ResNetBlock(nn.Module):
    filters: int
    act: Callable[..., Any]
    norm: Callable[..., Any]
    strides: int = 1

    @nn.compact
    def __call__(self, x):
        y = nn.Conv(self.filters, (3, 3), self.strides, use_bias=False)(x)
        y = self.act(self.filters)(self.norm()(y))
        y = nn.Conv(self.filters, (3, 3), use_bias=False)(y)
        y = self.norm(scale_init=nn.initializers.zeros_init())(y)
        if x.shape != y.shape:
            x = nn.Conv(self.filters, (1, 1), self.strides, use_bias=False, name="shortcut")(x)
            x = self.norm(name="norm_shortcut")(x)
        return self.act(self.filters)(x + y)


class ResNet(nn.Module):
    """In the manner of Flax's ImageNet example: `act` is a factory from width to layer."""

    act: Callable[..., Any] = SelectiveActivation
    filters: tuple[int, ...] = (4, 8)
    classes: int = 3

    @nn.compact
    def __call__(self, x, train=True):
        norm = functools.partial(nn.BatchNorm, use_running_average=not train, momentum=0.9)
        x = nn.Conv(self.filters[0], (3, 3), use_bias=False, name="stem")(x)
        x = self.act(self.filters[0], name="act_stem")(norm(name="norm_stem")(x))
        for index, filters in enumerate(self.filters):
            x = ResNetBlock(filters, act=self.act, norm=norm, strides=1 + (index > 0))(x)
        return nn.Dense(self.classes)(x.mean((1, 2)))


def train(module, variables, images, labels, steps):
    """A user's loop: batch statistics are mutable, everything in params is trained."""
    optimizer = optax.sgd(0.1, momentum=0.9)

    @jax.jit
    def step(params, batch_stats, state, key):
        def loss(params):
            logits, mutated = module.apply(
                {**variables, "params": params, "batch_stats": batch_stats},
                images,
                mutable=["batch_stats"],
                rngs={"selection": key},
            )
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return losses.mean(), mutated["batch_stats"]

        (value, batch_stats), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        updates, state = optimizer.update(gradients, state)
        return optax.apply_updates(params, updates), batch_stats, state, value

    params, batch_stats = variables["params"], variables["batch_stats"]
    state, values = optimizer.init(params), []
    for key in jax.random.split(jax.random.key(1), steps):
        params, batch_stats, state, value = step(params, batch_stats, state, key)
        values.append(float(value))
    return {"params": params, "batch_stats": batch_stats}, values


def test_a_resnet_trains_in_both_phases_and_keeps_its_bits_at_the_switch():
    images = jax.random.normal(jax.random.key(2), (12, 8, 8, 2))
    labels = jnp.arange(12) % 3
    module = ResNet()
    variables = module.init(KEY, images)
    before = {p: np.asarray(v) for p, v in flatten_dict(variables).items()}
    assert sum(path[-1] == "selection_logits" for path in before) == 5
    trained, losses = train(module, variables, images, labels, 12)
    assert np.mean(losses[-4:]) < np.mean(losses[:4])
    moved = {p: np.abs(before[p] - v).max() for p, v in flatten_dict(trained).items()}
    assert min(moved.values()) > 1e-5
    _, fixed = fix_choices(module, trained)
    x = jax.random.normal(jax.random.key(3), (5, 8, 8, 2))
    evaluated = compiled(module, fixed, x, train=False)

    def deterministic(width, **options):
        return SelectiveActivation(width, deterministic=True, **options)

    y = compiled(ResNet(act=deterministic), trained, x, train=False)
    np.testing.assert_array_equal(bits(evaluated), bits(y))
    assert sorted(weights(fixed)) == sorted(without_logits(trained))
    _, further = train(module, fixed, images, labels, 6)
    assert further[-1] < losses[0]
