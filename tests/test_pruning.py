"""Networks with fewer neurons: their derivatives, what is removed, what the fit reaches."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from test_formula import network

from experiments import pruning
from experiments.evaluate import load_run
from experiments.objective import CLASSIFICATION
from experiments.presets import default_config
from experiments.pruning import prune_and_refit
from experiments.training.models import PReLU
from experiments.training.train import train_and_evaluate
from smartmixed_jax import (
    MLP,
    PAPER_POOL,
    REGRESSION_POOL,
    FunctionTable,
    MixedActivation,
    SelectiveActivation,
)
from smartmixed_jax.models import uniform
from smartmixed_jax.summary import formula


def points(count, d, seed=2):
    return np.random.default_rng(seed).uniform(-2, 2, (count, d)).astype(np.float32)


def split(x, y):
    half = len(x) * 3 // 4
    return (x[:half], y[:half]), (x[half:], y[half:])


def mixed(pool):
    """An activation whose neurons have the functions of the pool in turn."""

    def build(features, *, rngs):
        return MixedActivation(FunctionTable(pool, np.arange(features) % len(pool)))

    return build


def mlp(activation, hidden=(9, 10), out=2):
    return MLP(3, hidden, out, activation=activation, rngs=nnx.Rngs(0))


ACTIVATIONS = {
    "regression": mixed(REGRESSION_POOL),
    "paper": mixed(PAPER_POOL),
    "uniform": uniform(jnp.sin),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("hidden", [(5,), (9, 10), (4, 3, 8)])
def test_outputs_and_derivatives_are_those_of_the_network(name, hidden):
    model = mlp(ACTIVATIONS[name], hidden)
    as_arrays, x = pruning._network_of(model), points(7, 3)
    np.testing.assert_allclose(pruning._forward(as_arrays, x).outputs, model(x), atol=2e-6)

    graphdef, params = nnx.split(model)

    def outputs(flat_params):
        return nnx.merge(graphdef, flat_params)(x).ravel()

    expected = jax.jacobian(outputs)(params)["layers"]
    blocks = [
        np.asarray(expected[place][part][...]).reshape(14, -1)
        for place in range(len(hidden) + 1)
        for part in ("kernel", "bias")
    ]
    found = pruning._jacobian(as_arrays, x.astype(np.float64))
    np.testing.assert_allclose(found, np.concatenate(blocks, 1), atol=2e-5)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_network_of_arrays_becomes_the_model_that_it_was(name):
    model = mlp(ACTIVATIONS[name])
    again = pruning._model_of(model, pruning._network_of(model))
    x = points(7, 3)
    assert again(x).tolist() == model(x).tolist()


def test_the_neurons_of_the_least_effect_go_and_leave_their_mean():
    """In both layers: one that nothing listens to, and one that hardly changes."""
    first = [[1, 0.5, 0, 0.3], [0, 0.5, 1e-4, 0.2], [1, 0, 0, 0.1]]
    second = [[1, 0.2], [0.5, 0.1], [2, 0.4], [0, 0]]
    model = network(
        (first, [0, 1, 1, 0]), ["tanh", "sin", "square", "gelu"],
        (second, [0.1, 0]), ["tanh", "gauss"],
        ([[2], [1e-4]], [0.3]),
    )  # fmt: skip
    before, x = pruning._network_of(model), points(50, 3)
    fewer = pruning._remove(before, x)
    assert [len(choices) for choices in fewer.choices] == [3, 2]
    assert pruning._remove(fewer, x).neurons == 4
    wanted = pruning._forward(before, x).outputs
    while fewer.neurons > 3:
        fewer = pruning._remove(fewer, x)
    assert [len(choices) for choices in fewer.choices] == [2, 1]
    np.testing.assert_allclose(pruning._forward(fewer, x).outputs, wanted, atol=2e-3)


def test_every_layer_keeps_a_neuron():
    as_arrays, x = pruning._network_of(mlp(uniform(jnp.tanh), (2, 3, 2))), points(20, 3)
    for _ in range(9):
        as_arrays = pruning._remove(as_arrays, x)
    assert [len(choices) for choices in as_arrays.choices] == [1, 1, 1]
    assert pruning._remove(as_arrays, x).neurons == 3


def wide_sine():
    """sin 2x3 from two neurons where one will do, and a product from three squares."""
    kernel = [[1, 1, 0, 0, 1], [1, -1, 0, 0, 0.5], [0, 0, 2.1, 1.9, 0]]
    functions = ["square", "square", "sin", "sin", "square"]
    last = [[0.5], [-0.5], [0.5], [0.5], [1e-3]]
    return network((kernel, [0, 0, 0, 0, 0]), functions, (last, [0.1]))


def test_neurons_that_the_fit_does_not_need_are_removed():
    x = points(400, 3)
    y = (x[:, 0] * x[:, 1] + np.sin(2 * x[:, 2]))[:, None]
    model = wide_sine()
    small, error = prune_and_refit(model, *split(x, y), limit=2e-6)
    assert small.activations[0].table.counts()["sin"] == 1
    assert small.activations[0].table.counts()["square"] == 2
    np.testing.assert_allclose(small(x), y, atol=1e-5)
    assert error < 1e-12
    found = float(jnp.mean((small(x[300:]) - y[300:]) ** 2) / jnp.var(y[300:]))
    assert error == pytest.approx(found, rel=0.1, abs=1e-9)
    assert str(formula(small, x)) == "x1*x2 + sin(2*x3)"
    assert len(model.activations[0].table) == 5


TARGETS = {
    "product and sine": lambda a, b, c: a * b + np.sin(2 * c),
    "wave of a square": lambda a, b, c: np.sin(a**2) + b - c,
    "two outputs": lambda a, b, c: np.stack([np.maximum(a, 0) + b * c, np.exp(-b * b)], -1),
}


@pytest.mark.parametrize("name", TARGETS)
def test_targets_of_the_pools_functions_are_fitted_to_rounding(name):
    """From weights near those of the target, with neurons too many."""
    rng = np.random.default_rng(0)
    x = points(600, 3, seed=5)
    y = TARGETS[name](*x.T).reshape(600, -1).astype(np.float32)
    kernel = np.zeros((3, 8), np.float32)
    if name == "wave of a square":
        kernel[:, :3] = np.eye(3)
        second = np.zeros((8, 4))
        second[:3, :3] = [[2, 0, 0], [0, 1, 0], [0, 0, 1]]
        layers = [
            (kernel, np.zeros(8)), ["square", "identity", "identity", *["tanh"] * 5],
            (second, np.zeros(4)), ["sin", "identity", "identity", "gauss"],
            (np.array([[1], [1], [-1], [0]]), [0]),
        ]  # fmt: skip
    else:
        kernel[:, :4] = [[1, 1, 0, 0], [1, -1, 0, 0], [0, 0, 2, 0]]
        last = np.zeros((8, y.shape[1]))
        last[:3, 0] = [0.5, -0.5, 1]
        functions = ["square", "square", "sin", "gelu", "tanh", "sin", "tanh", "gelu"]
        if name == "two outputs":
            kernel[:, :4] = [[0, 0, 1, 0], [1, 1, 0, 1], [1, -1, 0, 0]]
            last[:4] = [[0.5, 0], [-0.5, 0], [1, 0], [0, 1]]
            functions[2:4] = ["relu", "gauss"]
        layers = [(kernel, np.zeros(8)), functions, (last, np.zeros(y.shape[1]))]
    model = network(*layers, pool=REGRESSION_POOL)
    for layer in model.layers:
        noise = rng.standard_normal(layer.kernel.shape).astype(np.float32)
        layer.kernel[...] = layer.kernel[...] + 0.02 * noise
    train, validation = split(x, y)
    small, error = prune_and_refit(model, train, validation)
    assert error < 1e-11
    found = np.mean((small(validation[0]) - validation[1]) ** 2) / np.var(validation[1])
    assert float(found) == pytest.approx(error, abs=1e-12)


def test_of_all_networks_that_of_the_lowest_validation_error_is_taken(monkeypatch):
    model, x = mlp(uniform(jnp.tanh), (6,), 1), points(80, 3)
    y = np.sin(x[:, :1])
    errors = iter([4.0, 5.0, 1.0, 2.0, 3.0, 9.0])
    monkeypatch.setattr(pruning, "_error", lambda network, examples: next(errors))
    small, error = prune_and_refit(model, *split(x, y))
    assert (error, small.layers[0].kernel.shape[1]) == (1.0, 4)
    errors = iter([4.0, 5.0, 1.0, 2.0, 3.0, 9.0])
    small, error = prune_and_refit(model, *split(x, y), limit=3.5)
    assert (error, small.layers[0].kernel.shape[1]) == (3.0, 2)


def test_with_one_function_all_neurons_get_that_of_the_most():
    # relu is the most frequent of both layers together, in the second only sin is.
    choices = iter([[0, 0, 0, 0, 1, 2], [0, 3, 3, 3, 1]])

    def build(features, *, rngs):
        return MixedActivation(FunctionTable(REGRESSION_POOL, next(choices)))

    model, x = mlp(build, (6, 5), 1), points(80, 3)
    small = prune_and_refit(model, *split(x, np.maximum(x[:, :1], 0)), one_function=True).model
    assert {name for layer in small.activations for name in layer.table.names} == {"relu"}
    assert [layer.table.choices for layer in model.activations][1] == (0, 3, 3, 3, 1)


def test_with_one_function_a_uniform_network_is_made_smaller_as_it_is():
    model, x = mlp(uniform(jnp.tanh), (6,), 1), points(80, 3)
    data = split(x, np.sin(x[:, :1]))
    assert (
        prune_and_refit(model, *data).error
        == prune_and_refit(model, *data, one_function=True).error
    )


def test_one_function_of_two_pools_is_refused():
    pools = iter([PAPER_POOL, REGRESSION_POOL])
    model = mlp(lambda features, *, rngs: mixed(next(pools))(features, rngs=rngs), (6, 5), 1)
    x = points(80, 3)
    with pytest.raises(ValueError, match="one pool"):
        prune_and_refit(model, *split(x, x[:, :1]), one_function=True)
    assert prune_and_refit(model, *split(x, x[:, :1])).error < 1


def test_what_is_not_finite_ends_the_removal(monkeypatch):
    model, x = mlp(uniform(jnp.tanh), (6,), 1), points(80, 3)
    monkeypatch.setattr(pruning, "_fit", lambda network, train: network._replace(
        weights=[(kernel * np.nan, bias) for kernel, bias in network.weights]
    ))  # fmt: skip
    small, error = prune_and_refit(model, *split(x, np.sin(x[:, :1])))
    assert small.layers[0].kernel.shape[1] == 6
    assert np.isfinite(error)


def test_the_last_neuron_of_a_layer_does_not_end_the_removal():
    """Even where it has less effect than every other."""
    model = network(([[1e-3], [0], [0]], [0]), ["tanh"], (np.ones((1, 4)), [0, 1, 2, 3]),
                    ["sin", "tanh", "gelu", "gauss"], (np.ones((4, 1)), [0]))  # fmt: skip
    as_arrays = pruning._network_of(model)
    for _ in range(3):
        as_arrays = pruning._remove(as_arrays, points(20, 3))
    assert [len(choices) for choices in as_arrays.choices] == [1, 1]


def test_the_parabola_is_summed_over_the_rows(monkeypatch):
    as_arrays, x = pruning._network_of(mlp(ACTIVATIONS["regression"])), points(50, 3)
    residual = np.random.default_rng(0).standard_normal((50, 2))
    curvature, gradient = pruning._parabola(as_arrays, x, residual)
    monkeypatch.setattr(pruning, "ROWS", 12)
    for whole, summed in zip(
        (curvature, gradient), pruning._parabola(as_arrays, x, residual), strict=True
    ):
        np.testing.assert_allclose(summed, whole, rtol=1e-9, atol=1e-9)
    jacobian = pruning._jacobian(as_arrays, x)
    np.testing.assert_allclose(gradient, jacobian.T @ residual.ravel(), rtol=1e-9, atol=1e-9)


def test_of_too_many_weights_only_the_last_layer_is_fitted(monkeypatch):
    before = pruning._network_of(mlp(uniform(jnp.tanh), (5, 4), 1))
    x = points(60, 3)
    monkeypatch.setattr(pruning, "WEIGHTS", 10)
    after = pruning._fit(before, pruning._arrays((x, np.sin(x[:, :1]))))
    pairs = zip(before.weights, after.weights, strict=True)
    assert [bool((old != new).any()) for (old, _), (new, _) in pairs] == [False, False, True]


def test_a_fit_lowers_the_error_of_every_network_and_never_raises_it():
    x = points(200, 3)
    y = np.sin(x[:, :1] * x[:, 1:2])
    for name, build in ACTIVATIONS.items():
        for large in (False, True):
            before = pruning._network_of(mlp(build, (12, 8), 1))
            train = pruning._arrays((x, y))
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(pruning, "LARGE", 1 if large else 64)
                after = pruning._fit(before, train)
            pairs = zip(before.weights, after.weights, strict=True)
            changed = [bool((old != new).any()) for (old, _), (new, _) in pairs]
            assert changed == ([False, False, True] if large else [True] * 3), name
            limit = 1 if large else 0.5
            assert pruning._error(after, train) < limit < pruning._error(before, train), name


def test_only_networks_whose_functions_no_longer_change_are_made_smaller(tmp_path, monkeypatch):
    tiny = dict(hidden=(4,), selective_epochs=1, mixed_epochs=1, steps_per_epoch=2)
    config = dataclasses.replace(default_config(task="function:kinks"), **tiny)
    folder = train_and_evaluate(
        dataclasses.replace(config, run_dir=str(tmp_path / "run")), show_progress=False
    )
    run = load_run(folder)
    monkeypatch.setattr(pruning, "STEPS", (2, 2))
    small = pruning.smaller(run)
    assert small.tables["activations.0"] == small.network.activations[0].table
    assert len(small.tables["activations.0"]) < len(run.tables["activations.0"])
    for activation in (SelectiveActivation, PReLU):
        changing = run._replace(network=mlp(activation, (4,), 1), tables={})
        with pytest.raises(ValueError, match="expected an mlp that chose"):
            pruning.smaller(changing)
    images = run._replace(task=run.task._replace(objective=CLASSIFICATION))
    with pytest.raises(ValueError, match="expected an mlp that chose"):
        pruning.smaller(images)
