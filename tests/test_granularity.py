"""Selection on any axis and for any group of neurons, in the layers where networks have them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from smartmixed_jax import (
    ActivationPool,
    SelectiveActivation,
    estimators,
    fix_choices,
    summarize,
)

pytestmark = pytest.mark.usefixtures("strict")


# Few functions: most of the time of these tests is compilation.
POOL = ActivationPool({"relu": jax.nn.relu, "tanh": jnp.tanh, "elu": jax.nn.elu})


class ByHand(nnx.Module):
    """The straight-through layer written out: Σ_k w[n, k] f_k(x), all functions, plain JAX."""

    def __init__(self, features, *, axis=-1, groups=None, rngs):
        self.groups = tuple(range(features)) if groups is None else groups
        self.axis = axis
        shape = (max(self.groups) + 1, len(POOL))
        self.selection_logits = nnx.Param(jax.random.normal(rngs.params(), shape))

    def __call__(self, x):
        soft = jax.nn.softmax(self.selection_logits[...])
        hard = jax.nn.one_hot(jnp.argmax(soft, -1), len(POOL))
        weights = (hard + (soft - jax.lax.stop_gradient(soft)))[np.asarray(self.groups)]
        values = jnp.stack([f(jnp.moveaxis(x, self.axis, -1)) for f in POOL.functions])
        return jnp.moveaxis(jnp.einsum("k...n,nk->...n", values, weights), -1, self.axis)


class ConvNHWC(nnx.Module):
    """Per channel, the channels last."""

    def __init__(self, activation, rngs):
        self.conv = nnx.Conv(2, 4, (3, 3), rngs=rngs)
        self.act = activation(4, rngs=rngs)

    def __call__(self, x):
        return self.act(self.conv(x))


class ConvNCHW(nnx.Module):
    """Per channel, the channels before the pixels."""

    def __init__(self, activation, rngs):
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), (4, 2, 3, 3)))
        self.act = activation(4, axis=1, rngs=rngs)

    def __call__(self, x):
        return self.act(jax.lax.conv(x, self.kernel[...], (1, 1), "SAME"))


class TransformerMLP(nnx.Module):
    """Per hidden unit of the MLP of a block."""

    def __init__(self, activation, rngs):
        self.up = nnx.Linear(3, 8, rngs=rngs)
        self.act = activation(8, rngs=rngs)
        self.down = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x):
        return x + self.down(self.act(self.up(x)))


class GatedMLP(nnx.Module):
    """Per hidden unit of the gate of a gated MLP (SwiGLU's place of silu)."""

    def __init__(self, activation, rngs):
        self.gate = nnx.Linear(3, 8, rngs=rngs)
        self.up = nnx.Linear(3, 8, rngs=rngs)
        self.act = activation(8, rngs=rngs)
        self.down = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x):
        return x + self.down(self.act(self.gate(x)) * self.up(x))


class Recurrent(nnx.Module):
    """Per unit of a recurrent cell: the cell takes the layer as its activation function."""

    def __init__(self, cell, activation, rngs, **options):
        cell = cell(3, 5, activation_fn=activation(5, rngs=rngs), rngs=rngs)
        # The RNN's own rngs would keep nnx.grad from working in tree mode.
        self.rnn = nnx.RNN(cell, rngs=False, **options)

    def __call__(self, x):
        return self.rnn(x, rngs=nnx.Rngs(carry=0))

    @property
    def act(self):
        return self.rnn.cell.activation_fn


class Tied(nnx.Module):
    """Neurons that share a choice."""

    def __init__(self, groups, activation, rngs):
        self.linear = nnx.Linear(3, 6, rngs=rngs)
        self.act = activation(6, groups=groups, rngs=rngs)

    def __call__(self, x):
        return self.act(self.linear(x))


SEQUENCE, PIXELS, CHANNELS_FIRST = (2, 4, 3), (2, 5, 5, 2), (2, 2, 5, 5)
PLACES = {
    "convolution NHWC": (ConvNHWC, PIXELS),
    "convolution NCHW": (ConvNCHW, CHANNELS_FIRST),
    "transformer": (TransformerMLP, SEQUENCE),
    "gated": (GatedMLP, SEQUENCE),
    "lstm": (functools.partial(Recurrent, nnx.LSTMCell), SEQUENCE),
    "gru": (functools.partial(Recurrent, nnx.GRUCell), SEQUENCE),
    "tied": (functools.partial(Tied, (0, 1, 0, 2, 2, 1)), SEQUENCE),
    "one per layer": (functools.partial(Tied, (0,) * 6), SEQUENCE),
}
places = pytest.mark.parametrize(("build", "shape"), PLACES.values(), ids=PLACES)

straight_through = functools.partial(
    SelectiveActivation, pool=POOL, estimator=estimators.straight_through
)
kept_noise = functools.partial(SelectiveActivation, pool=POOL, keep_rngs=True)


def selective(build, shape, activation=straight_through):
    """The model with random logits, its input, and a random direction of the same shape."""
    model = build(activation, nnx.Rngs(0))
    model.act.selection_logits[...] = jax.random.normal(
        jax.random.key(1), model.act.selection_logits.shape
    )
    x = jax.random.normal(jax.random.key(2), shape)
    return model, x, jax.random.normal(jax.random.key(3), model(x).shape)


@nnx.jit
def value_and_gradients(model, x, direction):
    """The gradients of a projection, so that no symmetry of the output hides a mistake."""
    return nnx.value_and_grad(lambda model: jnp.sum(direction * model(x) ** 2))(model)


@places
def test_value_and_gradients_are_those_of_the_layer_written_out(build, shape):
    model, x, direction = selective(build, shape)
    reference = build(ByHand, nnx.Rngs(0))
    nnx.update(reference, nnx.state(model, nnx.Param))
    value, gradients = value_and_gradients(model, x, direction)
    expected_value, expected = value_and_gradients(reference, x, direction)
    np.testing.assert_allclose(value, expected_value, rtol=1e-4)
    found, expected = (nnx.to_pure_dict(nnx.state(g, nnx.Param)) for g in (gradients, expected))
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5), found, expected
    )
    for leaf in jax.tree.leaves(found):
        assert np.abs(leaf).max() > 1e-4
    # No neuron and no group is left out.
    flat = nnx.to_flat_state(nnx.state(gradients, nnx.Param))
    (logits,) = (leaf[...] for path, leaf in flat if path[-1] == "selection_logits")
    groups = model.act.groups
    rows = model.act.features if groups is None else max(groups) + 1
    assert logits.shape == (rows, len(POOL))
    assert np.abs(logits).max(-1).min() > 1e-5


@pytest.mark.optimized
@places
def test_fixed_outputs_are_the_bits_of_the_deterministic_ones(build, shape):
    model, x, _ = selective(build, shape)
    model.eval()
    call = nnx.jit(lambda model, x: model(x))
    fixed = fix_choices(model)
    y = np.asarray(call(model, x))
    np.testing.assert_array_equal(np.asarray(call(fixed, x)).view(np.int32), y.view(np.int32))
    (layer,) = summarize(fixed).values()
    rows = model.act.selection_logits.shape[0]
    used = sum(count > 0 for count in layer["counts"].values())
    assert (used == 1) == (rows == 1)


@pytest.mark.graph_mode("nnx.grad takes no model that holds rngs")
@pytest.mark.parametrize("place", ["convolution NHWC", "gru", "tied"])
def test_with_noise_of_their_own_the_logits_train_in_an_unchanged_loop(place):
    model, x, direction = selective(*PLACES[place], kept_noise)
    before = np.asarray(model.act.selection_logits[...]).copy()
    for _ in range(2):
        _, gradients = value_and_gradients(model, x, direction)
        nnx.update(
            model,
            jax.tree.map(lambda p, g: p - 0.1 * g, nnx.state(model, nnx.Param), gradients),
        )
    assert np.abs(np.asarray(model.act.selection_logits[...]) - before).max(-1).min() > 1e-5


# --- what shares a draw -------------------------------------------------------------------


def constant(value):
    return lambda x: jnp.full_like(x, value)


LABELS = ActivationPool({str(k): constant(k / 10) for k in range(6)})
"""Function k is a constant: the output of a layer is its draws."""

noisy = functools.partial(SelectiveActivation, pool=LABELS)


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_on_any_axis_one_draw_serves_all_other_axes(axis):
    x = jnp.moveaxis(jnp.zeros((2, 3, 4, 40)), -1, axis)
    act = noisy(40, axis=axis, rngs=nnx.Rngs(0))
    rows = np.moveaxis(np.asarray(act(x, rngs=nnx.Rngs(1))), axis, -1).reshape(-1, 40)
    assert (rows == rows[0]).all()
    assert len(np.unique(rows[0])) == 6


def recurrent_draws(**options):
    """What each unit drew at each of 30 steps, in two calls of one RNN: [2, 30, 40]."""

    def cell(*args, activation_fn, rngs):
        return nnx.SimpleCell(3, 40, activation_fn=activation_fn, rngs=rngs)

    def activation(features, rngs):
        return noisy(40, keep_rngs=True, rngs=rngs)

    model = Recurrent(cell, activation, nnx.Rngs(0), **options)
    call = nnx.jit(lambda model, x: model(x))
    calls = [np.asarray(call(model, jnp.zeros((2, 30, 3)))) for _ in range(2)]
    for y in calls:
        np.testing.assert_array_equal(y[0], y[1])
    return np.stack([y[0] for y in calls])


def agreement(rows):
    """The largest share of units in which two of the rows agree."""
    shares = (rows[:, None] == rows[None]).mean(-1)
    return shares[np.triu_indices(len(rows), 1)].max()


def test_under_rnn_a_layer_draws_at_every_time_step():
    draws = recurrent_draws()
    assert agreement(draws.reshape(60, 40)) < 0.55


def test_under_rnn_with_broadcast_rngs_one_draw_serves_the_sequence():
    first, second = recurrent_draws(broadcast_rngs=nnx.RngState)
    assert (first == first[0]).all()
    assert (second == second[0]).all()
    assert agreement(np.stack([first[0], second[0]])) < 0.55


@pytest.mark.graph_mode("nnx.grad takes no model that holds rngs")
def test_one_draw_per_sequence_trains_too():
    model, x, direction = selective(
        functools.partial(Recurrent, nnx.GRUCell, broadcast_rngs=nnx.RngState),
        SEQUENCE,
        kept_noise,
    )
    _, gradients = value_and_gradients(model, x, direction)
    assert (
        np.abs(gradients["rnn"]["cell"]["activation_fn"]["selection_logits"]).max(-1).min() > 1e-5
    )


def test_tied_neurons_draw_together_and_groups_apart():
    groups = tuple(int(g) for g in np.random.default_rng(0).permutation(np.repeat(range(50), 4)))
    act = noisy(200, groups=groups, rngs=nnx.Rngs(0))
    draws = np.asarray(act(jnp.zeros((1, 200)), rngs=nnx.Rngs(1))[0])
    by_group = [set(draws[np.asarray(groups) == g]) for g in range(50)]
    assert all(len(values) == 1 for values in by_group)
    assert len(set.union(*by_group)) == 6
