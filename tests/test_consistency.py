"""NNX ≡ Linen ≡ pure functions, bit for bit; parameters move between the two by dictionary."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from flax.traverse_util import flatten_dict

from smartmixed_jax import (
    MLP,
    PAPER_POOL,
    REGRESSION_POOL,
    SelectiveActivation,
    estimators,
    fix_choices,
    linen,
    mix,
)

pytestmark = pytest.mark.usefixtures("strict")

N = 6
KEY = jax.random.key(7)
TIED = (2, 0, 1, 1, 0, 2)
ESTIMATORS = (
    estimators.gumbel_straight_through,
    estimators.gumbel_softmax,
    estimators.straight_through,
    estimators.soft_mixture,
    estimators.reinmax,
    functools.partial(estimators.gumbel_rao, num_samples=3),
)


def bits(tree):
    return [np.asarray(leaf).view(f"u{leaf.dtype.itemsize}") for leaf in jax.tree.leaves(tree)]


def assert_same_bits(first, *others):
    for other in others:
        for a, b in zip(bits(first), bits(other), strict=True):
            np.testing.assert_array_equal(a, b)


def by_functions(options, logits, x, key):
    """The layer written out in the pure functions; None as key: deterministic."""
    if key is None:
        selection = estimators.deterministic(logits)
    else:
        selection = options["estimator"](logits, key, options["temperature"])
    if options["groups"] is not None:
        members = np.asarray(options["groups"])
        choices = selection.choices
        selection = estimators.Selection(
            selection.weights[members], None if choices is None else choices[members]
        )
    return mix(x, selection, options["pool"], axis=options["axis"])


def by_nnx(options, logits, x, key):
    act = SelectiveActivation(N, rngs=nnx.Rngs(0), **options)
    act.selection_logits.set_value(logits)
    rngs = None if key is None else nnx.Rngs(selection=key)
    return act(x, rngs=rngs, deterministic=key is None)


def by_linen(options, logits, x, key):
    act = linen.SelectiveActivation(N, **options)
    rngs = None if key is None else {"selection": key}
    variables = {"params": {"selection_logits": logits}}
    return act.apply(variables, x, rngs=rngs, deterministic=key is None)


def value_and_gradients(layer, options, logits, x, g, key):
    """y, and the gradients to logits and x of Σ g·y, compiled; under jit as users call it."""

    @jax.jit
    def run(logits, x, g):
        y, pull = jax.vjp(lambda logits, x: layer(options, logits, x, key), logits, x)
        return y, pull(g)

    return run(logits, x, g)


@pytest.fixture
def same_key(monkeypatch):
    """Every stream gives the key that it was made of, to be the same in both APIs.

    Each derives its keys in its own way: NNX folds a counter into the key of the stream, Linen
    also the path of the module.
    """
    monkeypatch.setattr(nnx.RngStream, "__call__", lambda stream: KEY)
    monkeypatch.setattr(nn.Module, "make_rng", lambda module, name="params": KEY)


PLAIN, CHANNELS = (-1, None, PAPER_POOL), (1, TIED, REGRESSION_POOL)
CASES = [
    *((estimator, True, *PLAIN) for estimator in ESTIMATORS),
    *((estimator, True, *CHANNELS) for estimator in (ESTIMATORS[0], ESTIMATORS[3])),
    *((ESTIMATORS[0], False, *where) for where in (PLAIN, CHANNELS)),
]


@pytest.mark.usefixtures("same_key")
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(("estimator", "drawn", "axis", "groups", "pool"), CASES)
def test_nnx_linen_and_pure_functions_agree_to_the_bit(estimator, axis, groups, pool, drawn, dtype):
    """Values and gradients, for the same logits: deterministic, and with the same drawn key."""
    options = {
        **{"estimator": estimator, "axis": axis, "groups": groups, "pool": pool},
        "temperature": 1.5,
    }
    rows = N if groups is None else 1 + max(groups)
    logits = jax.random.normal(jax.random.key(0), (rows, len(pool)))
    shape = (5, N) if axis == -1 else (2, N, 3)
    x, g = (2 * jax.random.normal(jax.random.key(seed), shape, dtype) for seed in (1, 2))
    arguments = options, logits, x, g, KEY if drawn else None
    results = [value_and_gradients(layer, *arguments) for layer in (by_functions, by_nnx, by_linen)]
    y, (to_logits, to_x) = results[0]
    assert y.dtype == to_x.dtype == dtype
    assert np.abs(np.asarray(to_x, np.float32)).max() > 0.1
    assert (np.abs(to_logits).max() > 1e-3) == drawn
    assert_same_bits(*results)


def test_the_key_that_an_estimator_gets_is_the_streams_own():
    """Not the seed's, and not the same for two calls: what the test above puts aside."""
    seen = []

    def recording(logits, key, temperature):
        seen.append(key)
        return estimators.gumbel_straight_through(logits, key, temperature)

    x = jnp.ones((1, N))
    act = SelectiveActivation(N, estimator=recording, rngs=nnx.Rngs(0))
    rngs, twin = (nnx.Rngs(selection=KEY) for _ in range(2))
    for _ in range(2):
        act(x, rngs=rngs)
    module = linen.SelectiveActivation(N, estimator=recording)
    variables = module.init(jax.random.key(0), x)
    module.apply(variables, x, rngs={"selection": KEY})
    bound = module.bind(variables, rngs={"selection": KEY})
    bound(x)
    bound(x)
    expected = [twin["selection"](), twin["selection"]()]
    bound = module.bind(variables, rngs={"selection": KEY})
    first = bound.make_rng("selection")
    expected += [first, first, bound.make_rng("selection")]
    assert_same_bits(*([jax.random.key_data(key) for key in keys] for keys in (seen, expected)))
    different = [jax.random.key_data(key).tolist() for key in (*expected[:3], expected[4], KEY)]
    assert all(a != b for a, b in itertools.combinations(different, 2))


def test_logits_move_between_the_layers_by_plain_dictionary():
    x = jax.random.normal(jax.random.key(1), (5, N))
    act = SelectiveActivation(N, groups=2, rngs=nnx.Rngs(3))
    module = linen.SelectiveActivation(N, groups=2)
    variables = {"params": {"selection_logits": act.selection_logits[...]}}
    y = jax.jit(lambda v: module.apply(v, x, deterministic=True))(variables)
    act.eval()
    graphdef, state = nnx.split(act)
    assert_same_bits(y, jax.jit(lambda state: nnx.merge(graphdef, state)(x))(state))
    own = module.init(jax.random.key(9), x)
    assert [leaf.shape for leaf in jax.tree.leaves(own)] == [(2, 6)]
    act.selection_logits[...] = own["params"]["selection_logits"]
    (choices,) = jax.tree.leaves(linen.fix_choices(module, own)[1])
    assert fix_choices(act).table.choices == tuple(choices[np.repeat([0, 1], N // 2)].tolist())


class Network(nn.Module):
    """`MLP` in Linen, its parts named as there."""

    hidden: tuple[int, ...]
    out_features: int

    def setup(self):
        self.layers = [nn.Dense(width) for width in (*self.hidden, self.out_features)]
        self.activations = [linen.SelectiveActivation(width) for width in self.hidden]

    def __call__(self, x, **options):
        *hidden, last = self.layers
        for layer, activation in zip(hidden, self.activations, strict=True):
            x = activation(layer(x), **options)
        return last(x)


def to_linen(params):
    """{"layers": {0: ...}} → {"layers_0": ...}: how each API names the parts of a list."""
    return {f"{name}_{i}": part for name, parts in params.items() for i, part in parts.items()}


def to_nnx(params):
    result = {}
    for name, part in params.items():
        kind, _, index = name.rpartition("_")
        result.setdefault(kind, {})[int(index)] = part
    return result


def test_parameters_of_a_network_move_between_the_apis_both_ways():
    x = jax.random.normal(jax.random.key(1), (5, 4))
    model = MLP(4, (N, 8), 2, rngs=nnx.Rngs(0))
    model.eval()
    module = Network((N, 8), 2)

    @jax.jit
    def by_linen(params):
        return module.apply({"params": params}, x, deterministic=True)

    def by_nnx(model):
        graphdef, state = nnx.split(model)
        return jax.jit(lambda state: nnx.merge(graphdef, state)(x))(state)

    moved = to_linen(nnx.to_pure_dict(nnx.state(model, nnx.Param)))
    own = module.init(jax.random.key(5), x)["params"]
    shapes = [flatten_dict(jax.tree.map(jnp.shape, tree)) for tree in (moved, own)]
    assert shapes[0] == shapes[1]
    assert_same_bits(by_linen(moved), by_nnx(model))
    state = nnx.state(model, nnx.Param)
    nnx.replace_by_pure_dict(state, to_nnx(own))
    nnx.update(model, state)
    assert_same_bits(by_linen(own), by_nnx(model))
    assert np.abs(by_linen(own) - by_linen(moved)).max() > 1e-3
