"""The reference networks, and what holds for the whole package: imports and examples."""

import ast
import doctest
import functools
import importlib
import itertools
import pkgutil
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import smartmixed_jax
from smartmixed_jax import (
    MLP,
    REGRESSION_POOL,
    MixedActivation,
    SelectiveActivation,
    estimators,
    fix_choices,
)
from smartmixed_jax.models import uniform

pytestmark = pytest.mark.usefixtures("strict")

X = jnp.linspace(-1, 1, 12).reshape(3, 4)


def weights(model):
    return [
        np.asarray(leaf) for layer in model.layers for leaf in jax.tree.leaves(nnx.state(layer))
    ]


@pytest.mark.parametrize("hidden", [(), (8, 8), (7, 5, 3)])
def test_mlp_has_one_activation_per_hidden_layer_and_a_linear_last_layer(hidden):
    model = MLP(4, hidden, 2, rngs=nnx.Rngs(0))
    shapes = [layer.kernel.shape for layer in model.layers]
    widths = (4, *hidden, 2)
    assert shapes == list(itertools.pairwise(widths))
    assert [activation.features for activation in model.activations] == list(hidden)
    assert model(X, rngs=nnx.Rngs(1)).shape == (3, 2)


def test_the_last_layer_is_linear():
    """Doubling its kernel and bias doubles the output, for selective and uniform networks."""
    for activation in (SelectiveActivation, uniform(jnp.tanh)):
        model = MLP(4, (8, 8), 2, activation=activation, rngs=nnx.Rngs(0))
        y = model(X, rngs=nnx.Rngs(1))
        last = model.layers[-1]
        last.kernel[...] = 2 * last.kernel[...]
        last.bias[...] = 2 * last.bias[...]
        np.testing.assert_allclose(model(X, rngs=nnx.Rngs(1)), 2 * y, rtol=1e-6)


def test_a_uniform_mlp_is_the_plain_network():
    model = MLP(4, (8, 8), 2, activation=uniform(jnp.tanh), rngs=nnx.Rngs(0))
    x = X
    for layer in model.layers[:-1]:
        x = jnp.tanh(
            x @ layer.kernel[...] + jnp.broadcast_to(layer.bias[...], (3, layer.bias.size))
        )
    last = model.layers[-1]
    expected = x @ last.kernel[...] + jnp.broadcast_to(last.bias[...], (3, 2))
    np.testing.assert_allclose(model(X), expected, rtol=1e-5, atol=1e-6)
    assert len(jax.tree.leaves(nnx.state(model, nnx.Param))) == 6


def test_networks_of_one_seed_share_their_weights_whatever_their_activation():
    factories = [
        SelectiveActivation,
        functools.partial(SelectiveActivation, pool=REGRESSION_POOL, temperature=2.0),
        functools.partial(SelectiveActivation, keep_rngs=True),
        uniform(jax.nn.relu),
    ]
    models = [MLP(4, (8, 8), 2, activation=a, rngs=nnx.Rngs(3)) for a in factories]
    reference = weights(models[0])
    assert len(reference) == 6
    for model in models[1:]:
        for a, b in zip(weights(model), reference, strict=True):
            np.testing.assert_array_equal(a, b)
    other = weights(MLP(4, (8, 8), 2, rngs=nnx.Rngs(4)))
    assert np.abs(other[1] - reference[1]).max() > 0.01


def test_a_partial_sets_pool_estimator_and_temperature_of_every_layer():
    options = {"estimator": estimators.reinmax, "temperature": 2.0, "pool": REGRESSION_POOL}
    factory = functools.partial(SelectiveActivation, **options)
    model = MLP(4, (8, 8), 2, activation=factory, rngs=nnx.Rngs(0))
    for activation in model.activations:
        assert activation.logits.shape == (activation.features, 8)
        assert activation.estimator is estimators.reinmax
        assert float(activation.temperature) == 2.0


def test_a_partial_of_linear_sets_the_initializers_of_every_layer():
    linear = functools.partial(nnx.Linear, bias_init=nnx.initializers.constant(0.5))
    model = MLP(4, (8, 8), 2, linear=linear, rngs=nnx.Rngs(0))
    assert [float(layer.bias[...].min()) for layer in model.layers] == [0.5, 0.5, 0.5]


def test_selective_layers_get_the_rngs_of_the_call_and_differ_between_layers():
    model = MLP(4, (8, 8), 2, rngs=nnx.Rngs(0))
    first, second, again = (model(X, rngs=nnx.Rngs(selection=seed)) for seed in (0, 1, 0))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - second).max() > 1e-3
    with pytest.raises(ValueError, match="got no key"):
        model(X)


def test_a_second_call_does_not_retrace():
    traces = []

    @jax.jit
    def step(state, x, key):
        traces.append(1)
        return nnx.merge(graphdef, state)(x, rngs=nnx.Rngs(selection=key))

    graphdef, state = nnx.split(MLP(4, (8, 8), 2, rngs=nnx.Rngs(0)))
    step(state, X, jax.random.key(0))
    other = nnx.split(MLP(4, (8, 8), 2, rngs=nnx.Rngs(1)))[1]
    step(other, 2 * X, jax.random.key(1))
    assert len(traces) == 1


def test_models_built_alike_have_equal_definitions():
    """So that they share one compiled program; also after fixing with equal choices."""
    build = functools.partial(MLP, 4, (8, 8), 2)
    first, second = (build(rngs=nnx.Rngs(0)) for _ in range(2))
    assert nnx.split(first)[0] == nnx.split(second)[0]
    fixed = [fix_choices(model) for model in (first, second)]
    assert nnx.split(fixed[0])[0] == nnx.split(fixed[1])[0]
    assert all(isinstance(activation, MixedActivation) for activation in fixed[0].activations)
    assert nnx.split(fixed[0])[0] != nnx.split(first)[0]


# --- the package --------------------------------------------------------------------------

FOLDER = Path(smartmixed_jax.__file__).parent
MODULES = sorted(module.name for module in pkgutil.iter_modules([str(FOLDER)]))
ORDER = (
    *("pools", "estimators", "one_exp", "mixture", "table", "layer"),
    *("nnx", "linen", "conversion", "models", "summary"),
)
"""A module imports only modules before it."""


def imported_modules(path):
    """Every module that the file imports, at any depth, by full name."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("name", ["__init__", *MODULES])
def test_the_library_imports_only_jax_flax_numpy_and_the_standard_library(name):
    roots = {imported.split(".")[0] for imported in imported_modules(FOLDER / f"{name}.py")}
    allowed = {"jax", "flax", "numpy", "smartmixed_jax", *sys.stdlib_module_names}
    assert roots <= allowed, roots - allowed


@pytest.mark.parametrize("name", MODULES)
def test_imports_inside_the_library_point_one_way(name):
    assert name in ORDER, f"give {name} its place in ORDER"
    earlier = {"smartmixed_jax." + module for module in ORDER[: ORDER.index(name)]}
    for imported in imported_modules(FOLDER / f"{name}.py"):
        if imported.startswith("smartmixed_jax"):
            parent = imported.rpartition(".")[0]
            assert imported in earlier or parent in earlier, f"{name} imports {imported}"


def test_every_public_name_is_there_once_and_has_a_docstring():
    public = smartmixed_jax.__all__
    assert len(set(public)) == len(public)
    for name in public:
        assert getattr(smartmixed_jax, name).__doc__, name


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_run(name):
    module = importlib.import_module(f"smartmixed_jax.{name}")
    result = doctest.testmod(module)
    assert result.failed == 0
    if name != "layer":
        assert result.attempted > 0
