"""The Linen layers and fix_choices: parameters, randomness, where a module holds its layers."""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
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
from smartmixed_jax.linen import MixedActivation, SelectiveActivation, fix_choices

pytestmark = pytest.mark.usefixtures("strict")


def constant(value):
    return lambda x: jnp.full_like(x, value)


LABELS = ActivationPool({str(k): constant(float(k)) for k in range(6)})
"""Function k is the constant k: the output of a layer is its choices."""

X = jnp.linspace(-2, 2, 12).reshape(3, 4)
KEY = jax.random.key(0)
TIED = (1, 0, 0, 2)


def bits(x):
    return np.asarray(x).view(np.int32)


def with_logits(variables, seed=0):
    """The variables with random logits, so that the neurons choose differently."""
    keys = itertools.count(seed)

    def draw(path, leaf):
        if path[-1].key != "logits":
            return leaf
        return jax.random.normal(jax.random.key(next(keys)), leaf.shape, leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, variables)


def compiled(module, variables, x, **options):
    return jax.jit(lambda variables, x: module.apply(variables, x, **options))(variables, x)


# --- the layer ----------------------------------------------------------------------------


def test_init_needs_no_selection_stream_and_makes_one_matrix_of_logits():
    variables = SelectiveActivation(4).init(KEY, X)
    assert jax.tree.map(jnp.shape, variables) == {"params": {"logits": (4, 6)}}
    y, _ = SelectiveActivation(4).init_with_output(KEY, X)
    argmax = estimators.deterministic(variables["params"]["logits"])
    np.testing.assert_array_equal(y, mix(X, argmax, PAPER_POOL))
    streams = {"params": KEY, "selection": jax.random.key(1)}
    np.testing.assert_array_equal(
        SelectiveActivation(4).init(streams, X)["params"]["logits"], variables["params"]["logits"]
    )


def test_initial_logits_are_0_and_a_thousandth_at_one_random_entry_per_neuron():
    act = SelectiveActivation(600)
    logits = np.asarray(act.init(KEY, jnp.zeros((1, 600)))["params"]["logits"])
    assert set(np.unique(logits)) == {np.float32(0), np.float32(1e-3)}
    np.testing.assert_array_equal((logits != 0).sum(-1), 1)
    assert (np.abs(np.bincount(logits.argmax(-1), minlength=6) - 100) < 5 * 100**0.5).all()
    half = SelectiveActivation(
        4, REGRESSION_POOL, logits_init=nn.initializers.constant(0.25), param_dtype=jnp.bfloat16
    )
    logits = half.init(KEY, X)["params"]["logits"]
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
    expected = mix(X, estimators.soft_mixture(variables["params"]["logits"], None, 1.0), PAPER_POOL)
    np.testing.assert_array_equal(soft.apply(variables, X), expected)


def test_the_argument_deterministic_wins_over_the_attribute():
    x, rngs = jnp.zeros((1, 2000)), {"selection": KEY}
    noisy = SelectiveActivation(2000, LABELS)
    variables = noisy.init(KEY, x)
    argmax = np.argmax(variables["params"]["logits"], -1)

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
    ],
)
def test_wrong_options_raise_at_init(options, error, message):
    with pytest.raises(error, match=f"SelectiveActivation: .*{message}"):
        SelectiveActivation(**{"features": 4, **options}).init(KEY, X)


def test_wrong_input_raises():
    act = SelectiveActivation(4, dtype=jnp.float32)
    variables = act.init(KEY, X)
    for dtype in (jnp.int32, jnp.complex64):
        with pytest.raises(TypeError, match="SelectiveActivation: x must be a real floating"):
            act.apply(variables, X.astype(dtype), deterministic=True)
        with pytest.raises(TypeError, match="MixedActivation: x must be a real floating"):
            fix_choices(act, variables)[0].apply({}, X.astype(dtype))
    with pytest.raises(ValueError, match=r"x\[4, 3\] .* need weights \[3, 6\], got \[4, 6\]"):
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

        return jax.grad(total)(variables)["params"]["logits"]

    found = [gradient(variables, tau) for tau in (0.5, 2.0, 1.0)]
    assert len(traces) == 1
    assert np.abs(found[0] - found[1]).max() > 1e-3
    cold = act.copy(temperature=0.5)
    reference = jax.grad(lambda v: jnp.sum(cold.apply(v, X, rngs={"selection": KEY}) ** 2))(
        variables
    )
    np.testing.assert_allclose(found[0], reference["params"]["logits"], rtol=1e-5, atol=1e-6)


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
        variables = {"params": with_logits({"logits": jnp.zeros((4, 6))})}
        call = lambda v: jnp.sum(act.apply(v, X, rngs={"selection": KEY}) ** 2)  # noqa: E731
        return jax.grad(call)(variables)["params"]["logits"]

    found, expected = gradient(nn.remat(SelectiveActivation)), gradient(SelectiveActivation)
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_mixed_activation_applies_its_table_has_no_parameters_and_ignores_the_keywords():
    act = MixedActivation(FunctionTable(PAPER_POOL, [0, 1, 2, 5]))
    assert act.init(KEY, X) == {}
    y = act.apply({}, X, deterministic=False, temperature=-1.0)
    np.testing.assert_array_equal(y, apply_choices(X, [0, 1, 2, 5], PAPER_POOL))


# --- fix_choices: where a module holds its layers -----------------------------------------


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


class Blocks(nn.Module):
    block: Callable[..., Any]

    @nn.compact
    def __call__(self, x):
        return self.block()(self.block()(x))


def by_def(width, name=None):
    return SelectiveActivation(width, REGRESSION_POOL, groups=2, name=name)


REGRESSION = functools.partial(SelectiveActivation, pool=REGRESSION_POOL, deterministic=True)


def shared_twice():
    act = SelectiveActivation(4)
    return Twice(act, Net(act))


HELD = {
    "the layer itself": lambda: SelectiveActivation(4, dtype=jnp.bfloat16),
    "a field": lambda: Net(SelectiveActivation(4, axis=1)),
    "a subclass": lambda: Net(nn.remat(SelectiveActivation)(4)),
    "groups": lambda: Net(SelectiveActivation(4, groups=TIED)),
    "Sequential": lambda: nn.Sequential(
        [nn.Dense(6), SelectiveActivation(6), nn.relu, nn.Dense(4), SelectiveActivation(4)]
    ),
    "a list and nested dicts": lambda: Listed(
        [SelectiveActivation(4), nn.tanh, Inner(SelectiveActivation)],
        {"last": {"inner": SelectiveActivation(4, REGRESSION_POOL)}, "other": nn.relu},
    ),
    "a field of a field": lambda: Net(nn.Sequential([Net(SelectiveActivation(4)), nn.Dense(4)])),
    "one layer at two places": shared_twice,
}
MADE = {
    "the class": Made,
    "a partial": lambda: Made(act=REGRESSION),
    "a lambda": lambda: Made(act=lambda width, **o: SelectiveActivation(width, groups=2, **o)),
    "a def": lambda: Made(act=by_def),
    "a rematerialised class": lambda: Made(act=nn.remat(SelectiveActivation)),
    "setup": lambda: Setup(act=lambda width: REGRESSION(width)),
    "nested blocks": lambda: Deep(act=by_def),
    "a field of a field, beside one that is held": lambda: nn.Sequential(
        [Made(), nn.Dense(4), SelectiveActivation(4), Setup(act=SelectiveActivation)]
    ),
    "a partial of a block": lambda: Blocks(functools.partial(Made, act=by_def)),
    "a layer in a partial of a block": lambda: Blocks(
        functools.partial(Net, act=SelectiveActivation(4))
    ),
}


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
    return {p: leaf for p, leaf in flatten_dict(variables).items() if p[-1] != "logits"}


@pytest.mark.parametrize("pattern", [*HELD, *MADE])
def test_a_fixed_module_keeps_the_bits_and_the_weights_and_has_no_logits(pattern):
    module = {**HELD, **MADE}[pattern]()
    variables = with_logits(module.init(KEY, X))
    before, shown = dict(flatten_dict(variables)), repr(module)
    fixed, rest = fix_choices(module, variables)
    x = jax.random.normal(jax.random.key(5), (17, 4))
    y = quiet(module, variables, x).astype(jnp.float32)
    z = compiled(fixed, rest, x).astype(jnp.float32)
    np.testing.assert_array_equal(bits(z), bits(y))
    leaves, kept = flatten_dict(rest), without_logits(variables)
    assert sorted(leaves) == sorted(kept)
    assert all(leaves[path] is kept[path] for path in kept)
    assert repr(module) == shown
    assert all(flatten_dict(variables)[path] is leaf for path, leaf in before.items())
    # The fixed module is initialised with the same names.
    again = flatten_dict(fixed.init(KEY, X))
    assert sorted(again) == sorted(kept)
    # and its choices are those of the logits: others give another output.
    other = compiled(*fix_choices(module, with_logits(variables, seed=50)), x)
    assert np.abs(other.astype(jnp.float32) - z).max() > 1e-3


def test_held_layers_become_mixed_activations_with_axis_dtype_and_table():
    act = SelectiveActivation(4, axis=1, dtype=jnp.bfloat16, groups=TIED)
    variables = with_logits(act.init(KEY, X))
    fixed, rest = fix_choices(act, variables)
    assert isinstance(fixed, MixedActivation)
    assert (fixed.axis, fixed.dtype, rest) == (1, jnp.bfloat16, {"params": {}})
    choices = np.argmax(variables["params"]["logits"], -1)
    assert fixed.table == FunctionTable(PAPER_POOL, choices[np.asarray(TIED)])
    twice = shared_twice()
    fixed, _ = fix_choices(twice, twice.init(KEY, X))
    assert fixed.first is fixed.block.act
    assert isinstance(fixed.first, MixedActivation)


def test_modules_fixed_alike_are_equal_and_hashable():
    variables = with_logits(Made().init(KEY, X))
    first, second = (fix_choices(Made(), variables)[0] for _ in range(2))
    assert first == second
    assert hash(first) == hash(second)
    assert first != fix_choices(Made(), with_logits(variables, seed=9))[0]


def test_frozen_variables_and_numpy_leaves_are_taken():
    variables = freeze(jax.tree.map(np.asarray, with_logits(Made().init(KEY, X))))
    fixed, rest = fix_choices(Made(), variables)
    assert type(rest) is type(variables)
    y = compiled(fixed, rest, X)
    np.testing.assert_array_equal(bits(y), bits(quiet(Made(), variables, X)))


def test_partitioned_logits_are_fixed():
    init = nn.with_partitioning(nn.initializers.normal(), ("neurons", None))
    act = SelectiveActivation(4, logits_init=init)
    variables = act.init(KEY, X)
    fixed, rest = fix_choices(act, variables)
    assert rest == {"params": {}}
    choices = np.argmax(variables["params"]["logits"].value, -1)
    assert fixed.table.choices == tuple(choices.tolist())


# --- partly -------------------------------------------------------------------------------


def test_where_fixes_the_layers_it_takes_and_leaves_the_others_selective():
    module = nn.Sequential([Made(act=by_def), SelectiveActivation(2), Setup()])
    variables = with_logits(module.init(KEY, X))
    seen = {}

    def where(path, layer):
        seen[path] = layer
        return path in ("layers_0.mine", "layers_1", "layers_2.acts_1")

    fixed, rest = fix_choices(module, variables, where=where)
    assert set(seen) == {
        *("layers_0.SelectiveActivation_0", "layers_0.mine", "layers_0.SelectiveActivation_1"),
        *("layers_1", "layers_2.acts_0", "layers_2.acts_1", "layers_2.last"),
    }
    assert {path: layer.pool for path, layer in seen.items()} == {
        path: REGRESSION_POOL if path.startswith("layers_0") else PAPER_POOL for path in seen
    }
    assert seen["layers_1"] is module.layers[1]
    kept = {".".join(path[1:-1]) for path in flatten_dict(rest) if path[-1] == "logits"}
    assert kept == set(seen) - {"layers_0.mine", "layers_1", "layers_2.acts_1"}
    assert all(leaf is flatten_dict(variables)[path] for path, leaf in flatten_dict(rest).items())
    y = quiet(module, variables, X)
    np.testing.assert_array_equal(bits(quiet(fixed, rest, X)), bits(y))
    with pytest.raises(ValueError, match="got no key"):
        fixed.apply(rest, X)
    whole, rest = fix_choices(fixed, rest)
    assert not any(path[-1] == "logits" for path in flatten_dict(rest))
    np.testing.assert_array_equal(bits(compiled(whole, rest, X)), bits(y))


def test_where_that_takes_no_layer_raises_naming_those_there_are():
    module = Net(SelectiveActivation(4))
    with pytest.raises(ValueError, match=r"^fix_choices: where takes none of the layers: act$"):
        fix_choices(module, module.init(KEY, X), where=lambda path, layer: path == "acts")


# --- errors -------------------------------------------------------------------------------


class Inline(nn.Module):
    @nn.compact
    def __call__(self, x):
        return SelectiveActivation(4)(nn.Dense(4)(x))


PATTERN = r"hold the layer in a field of its module, .* or a factory from width to layer"


def test_a_layer_made_inside_compact_code_raises_naming_the_pattern():
    variables = Inline().init(KEY, X)
    with pytest.raises(
        ValueError, match=f"no field of Inline .* the layer SelectiveActivation_0: {PATTERN}"
    ):
        fix_choices(Inline(), variables)
    closure = Net(nn.tanh).clone(act=lambda x: SelectiveActivation(4)(x))
    with pytest.raises(ValueError, match=f"no field of Net .*{PATTERN}"):
        fix_choices(closure, closure.init(KEY, X))


def test_a_layer_made_inside_compact_code_beside_a_factory_raises_at_the_first_call():
    module = nn.Sequential([Made(), nn.Dense(4), Inline()])
    fixed, rest = fix_choices(module, module.init(KEY, X))
    with pytest.raises(
        ValueError, match=rf"layers_2\.SelectiveActivation_0: the variables hold no .*{PATTERN}"
    ):
        fixed.apply(rest, X)


def test_a_fixed_module_inside_another_raises_rather_than_taking_other_choices():
    fixed, rest = fix_choices(Made(), Made().init(KEY, X))
    outer = nn.Sequential([fixed])
    message = r"layers_0\.SelectiveActivation_0: fix_choices met no layer of this path, only .*mine"
    with pytest.raises(ValueError, match=message):
        outer.apply({"params": {"layers_0": rest["params"]}}, X)
    with pytest.raises(ValueError, match=message):
        outer.init(KEY, X)


def test_a_factory_that_now_makes_another_width_raises():
    fixed, rest = fix_choices(Made(), Made().init(KEY, X))
    wider = fixed.clone(
        act=fixed.act.__class__(lambda width, **o: by_def(8, **o), fixed.act.layers)
    )
    with pytest.raises(
        ValueError, match=r"SelectiveActivation_0: 6 choices were fixed, .* needs 2"
    ):
        wider.apply(rest, X)


def test_variables_without_logits_or_params_raise():
    dense = nn.Dense(2)
    with pytest.raises(ValueError, match="the variables of Dense hold no logits"):
        fix_choices(dense, dense.init(KEY, X))
    variables = Made().init(KEY, X)
    with pytest.raises(ValueError, match=r"must hold the collection 'params', got .*'Dense_0'"):
        fix_choices(Made(), variables["params"])
    fixed = fix_choices(Made(), variables)
    with pytest.raises(ValueError, match="the variables of Made hold no logits"):
        fix_choices(*fixed)


@pytest.mark.parametrize("module", [Net(SelectiveActivation(4)), Made()])
def test_fixing_under_jit_raises_naming_the_layer(module):
    variables = module.init(KEY, X)
    with pytest.raises(ValueError, match=r"fix_choices: \w+ is traced; call it outside jit"):
        jax.jit(lambda v: fix_choices(module, v)[0].apply(v, X))(variables)


class Square(nn.Module):
    act: Any

    @nn.compact
    def __call__(self, x):
        return self.act(nn.Dense(4)(x))


def stacked_by_vmap():
    over = nn.vmap(
        Square, variable_axes={"params": 0}, split_rngs={"params": True}, axis_size=3, in_axes=None
    )
    return over(SelectiveActivation(4))


class Scanned(nn.Module):
    """A stack of three blocks, each with its own logits, or with one for all."""

    act: Callable[..., Any] = SelectiveActivation
    own: bool = True

    @nn.compact
    def __call__(self, x):
        axes = {"variable_axes": {"params": 0}} if self.own else {"variable_broadcast": "params"}
        scan = nn.scan(
            lambda block, x, _: (block(x), None),
            split_rngs={"params": self.own, "selection": True},
            length=3,
            **axes,
        )
        return scan(Inner(self.act), x, None)[0]


class Inner(nn.Module):
    act: Callable[..., Any]

    @nn.compact
    def __call__(self, x):
        return self.act(4)(nn.Dense(4)(x))


def test_stacked_layers_raise_naming_the_shape_and_shared_ones_are_fixed():
    for module in (Scanned(), stacked_by_vmap()):
        variables = module.init(KEY, X)
        with pytest.raises(
            ValueError, match=r"holds logits \[3, 4, 6\], expected .*by nn\.scan or nn\.vmap cannot"
        ):
            fix_choices(module, variables)
    module = Scanned(own=False)
    variables = with_logits(module.init(KEY, X))
    y = quiet(module, variables, X)
    np.testing.assert_array_equal(bits(compiled(*fix_choices(module, variables), X)), bits(y))


def test_a_lifted_transform_that_drops_the_stream_raises_naming_split_rngs():
    over = nn.vmap(Square, variable_axes={"params": None}, split_rngs={"params": False})
    module = over(SelectiveActivation(4))
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
                {"params": params, "batch_stats": batch_stats},
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
    assert sum(path[-1] == "logits" for path in before) == 5
    trained, losses = train(module, variables, images, labels, 12)
    assert np.mean(losses[-4:]) < np.mean(losses[:4])
    moved = {p: np.abs(before[p] - v).max() for p, v in flatten_dict(trained).items()}
    assert min(moved.values()) > 1e-5
    fixed, rest = fix_choices(module, trained)
    x = jax.random.normal(jax.random.key(3), (5, 8, 8, 2))
    evaluated = compiled(fixed, rest, x, train=False)

    def deterministic(width, **options):
        return SelectiveActivation(width, deterministic=True, **options)

    y = compiled(ResNet(act=deterministic), trained, x, train=False)
    np.testing.assert_array_equal(bits(evaluated), bits(y))
    assert sorted(flatten_dict(rest)) == sorted(without_logits(trained))
    _, further = train(fixed, rest, images, labels, 6)
    assert further[-1] < losses[0]
