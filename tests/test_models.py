"""The reference networks, and what holds for the whole package: imports and examples."""

import ast
import doctest
import functools
import importlib
import itertools
import pkgutil
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import smartmixed_jax
from experiments.training.models import ConvNet, ResNet, Transformer
from smartmixed_jax import (
    MLP,
    REGRESSION_POOL,
    MixedActivation,
    SelectionLogits,
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
        assert activation.selection_logits.shape == (activation.features, 8)
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

MODELS = {
    "mlp": (lambda **own: MLP(4, (8, 8), 2, **own), X),
    "conv": (lambda **own: ConvNet((8, 8, 1), 2, **own), jnp.ones((2, 8, 8, 1))),
    "resnet": (lambda **own: ResNet(2, blocks=1, **own), jnp.ones((2, 8, 8, 3))),
    "transformer": (
        lambda **own: Transformer(5, 6, features=8, layers=2, heads=2, **own),
        jnp.arange(12).reshape(2, 6) % 5,
    ),
}


def parts(model, *types):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(nnx.state(model, *types))]


@pytest.mark.parametrize("name", MODELS)
def test_every_model_starts_from_the_same_weights_whatever_its_activation(name):
    with jax.numpy_dtype_promotion("standard"):  # Flax's avg_pool divides by an integer
        build, x = MODELS[name]
        selective, mixed = build(rngs=nnx.Rngs(0)), build(rngs=nnx.Rngs(0))
        plain = build(activation=uniform(jax.nn.gelu), rngs=nnx.Rngs(0))
        _, _, weights, _ = nnx.split(selective, SelectionLogits, nnx.Param, ...)
        assert all(map(np.array_equal, jax.tree.leaves(weights), parts(plain, nnx.Param)))
        mixed.eval()
        fixed = fix_choices(mixed)
        np.testing.assert_array_equal(
            *(jax.jit(lambda x, model=model: model(x))(x) for model in (mixed, fixed))
        )
        assert not np.array_equal(*(selective(x, rngs=nnx.Rngs(seed)) for seed in (1, 2)))
        assert [layer.features for layer in selective.activations] == [
            len(layer.table) for layer in fixed.activations
        ]


def test_resnet_20_is_the_published_one():
    """19 convolutions and a linear layer; 0.27 million parameters (arXiv 1512.03385, table 6)."""
    model = ResNet(10, activation=uniform(jax.nn.relu), rngs=nnx.Rngs(0))
    assert len(model.convs) == len(model.activations) == 19
    count = sum(leaf.size for leaf in parts(model, nnx.Param))
    assert count == 269_722
    assert model(jnp.ones((2, 32, 32, 3))).shape == (2, 10)


def test_a_residual_block_adds_its_input():
    """With all norms after second convolutions at 0 the blocks are their shortcuts."""
    model = ResNet(5, blocks=1, widths=(3, 3, 6), activation=uniform(lambda x: x), rngs=nnx.Rngs(0))
    for norm in model.norms[2::2]:
        norm.scale[...] = jnp.zeros_like(norm.scale[...])
    model.eval()
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    stem = model.norms[0](model.convs[0](x))
    expected = model.last(jnp.pad(jnp.mean(stem[:, ::4, ::4], (1, 2)), ((0, 0), (0, 3))))
    np.testing.assert_allclose(model(x), expected, rtol=1e-5, atol=1e-5)


def test_the_transformer_is_causal():
    """Another token changes the outputs from its place on, and none before."""
    build, x = MODELS["transformer"]
    model = build(activation=uniform(jax.nn.gelu), rngs=nnx.Rngs(0))
    one = model(x)
    for place in range(6):
        other = model(x.at[:, place].set((x[:, place] + 1) % 5))
        changed = np.any(np.asarray(one != other), (0, 2))
        assert not changed[:place].any()
        assert changed[place:].all()


def test_the_transformer_is_nanogpts_small_one():
    model = Transformer(65, 64, activation=uniform(jax.nn.gelu), rngs=nnx.Rngs(0))
    # nanoGPT reports 0.80M, without the 64 x 128 positions.
    assert sum(leaf.size for leaf in parts(model, nnx.Param)) == 804_096
    loss = -jax.nn.log_softmax(model(jnp.zeros((1, 64), jnp.int32)))
    assert float(loss.mean()) == pytest.approx(np.log(65), rel=0.05)


def test_an_image_that_is_too_small_is_refused():
    with pytest.raises(ValueError, match=r"ConvNet: input_shape \(3, 8, 1\) cannot be halved 2 ti"):
        ConvNet((3, 8, 1), 2, rngs=nnx.Rngs(0))


FOLDER = Path(smartmixed_jax.__file__).parent
MODULES = sorted(module.name for module in pkgutil.iter_modules([str(FOLDER)]))
ORDER = (
    *("types", "_checks", "_sine", "pools", "estimators", "_fused", "_logit_gradients", "mixture"),
    *("table", "layer", "nnx", "models", "readout", "summary", "linen", "conversion"),
    *("_fixed_primitive", "_onnx_activation", "_onnx_graph", "_onnx_rules", "export"),
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


INSIDE = {"readout": "sympy", "export": "onnx", "_onnx_graph": "onnx", "_onnx_rules": "onnx"}
"""What some modules import too, inside the functions that need it."""


@pytest.mark.parametrize("name", ["__init__", *MODULES])
def test_the_library_imports_only_jax_flax_numpy_and_the_standard_library(name):
    roots = {imported.split(".")[0] for imported in imported_modules(FOLDER / f"{name}.py")}
    allowed = {"jax", "flax", "numpy", "smartmixed_jax", *sys.stdlib_module_names}
    allowed.add(INSIDE.get(name, "jax"))
    assert roots <= allowed, roots - allowed


@pytest.mark.parametrize("name", MODULES)
def test_imports_inside_the_library_point_one_way(name):
    assert name in ORDER, f"give {name} its place in ORDER"
    earlier = {"smartmixed_jax." + module for module in ORDER[: ORDER.index(name)]}
    earlier.add("smartmixed_jax.__version__")
    for imported in imported_modules(FOLDER / f"{name}.py"):
        if imported.startswith("smartmixed_jax"):
            parent = imported.rpartition(".")[0]
            assert imported in earlier or parent in earlier, f"{name} imports {imported}"


def test_every_public_name_is_there_once_and_has_a_docstring():
    public = smartmixed_jax.__all__
    assert len(set(public)) == len(public)
    for name in public:
        assert getattr(smartmixed_jax, name).__doc__, name


@pytest.mark.parametrize("name", ["__init__", *MODULES, "experiments.training.models"])
def test_every_docstring_example_runs(name):
    """Also those of methods, properties and compiled functions: as many as there are prompts."""
    path = name if name.startswith("experiments.") else f"smartmixed_jax.{name}"
    module = importlib.import_module(path.removesuffix(".__init__"))
    # Flax's avg_pool divides by an integer.
    with jax.numpy_dtype_promotion("standard"):
        result = doctest.testmod(module)
    prompts = re.findall(r"^ *>>> ", Path(module.__file__).read_text(), re.MULTILINE)
    assert (result.failed, result.attempted) == (0, len(prompts))
    assert prompts or name == "types" or name.startswith("_"), f"{name} has no example"
