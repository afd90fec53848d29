"""formula: networks whose sums are known, what is left out of them, and what is refused."""

import math
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from smartmixed_jax import (
    EXTENDED_POOL,
    MLP,
    PAPER_POOL,
    ActivationPool,
    FunctionTable,
    MixedActivation,
    fix_choices,
    leaky_relu,
)
from smartmixed_jax.models import uniform
from smartmixed_jax.summary import formula

pytestmark = pytest.mark.usefixtures("strict")

X = np.random.default_rng(1).uniform(-2, 2, (500, 3)).astype(np.float32)


def network(*layers, pool=EXTENDED_POOL):
    """A fixed MLP of (kernel, bias) and the functions of the layer in between, in turn."""
    linears, functions = layers[::2], layers[1::2]
    kernels = [np.asarray(kernel, np.float32) for kernel, _ in linears]
    widths = [kernel.shape[1] for kernel in kernels]
    activations = iter(functions)

    def activation(features, *, rngs):
        return MixedActivation(FunctionTable(pool, [pool.index(f) for f in next(activations)]))

    din, *hidden, out = kernels[0].shape[0], *widths
    model = MLP(din, hidden, out, activation=activation, rngs=nnx.Rngs(0))
    for layer, kernel, (_, bias) in zip(model.layers, kernels, linears, strict=True):
        layer.kernel[...] = jnp.asarray(kernel)
        layer.bias[...] = jnp.asarray(bias, jnp.float32)
    return model


def product_sine():
    """x1 x2 from two squares, sin 2x3 with its sign turned, and a gauss that says nothing."""
    kernel = [[1, 1, 0, 0.3], [1, -1, 0, 0.2], [0, 0, -2, 0.1]]
    functions = ["square", "square", "sin", "gauss"]
    return network((kernel, [0, 0, 0, 0]), functions, ([[0.5], [-0.5], [-1], [1e-4]], [0]))


def test_a_product_of_squares_and_a_sine_are_read():
    found = formula(product_sine(), X)
    assert str(found) == "x1*x2 + sin(2*x3)"
    assert found.neurons == 3
    assert found.error < 1e-3
    x1, x2, x3 = X.T
    np.testing.assert_allclose(found(X)[:, 0], x1 * x2 + np.sin(2 * x3), atol=1e-5)


def test_without_inputs_it_is_measured_on_points_of_its_own():
    assert str(formula(product_sine())) == "x1*x2 + sin(2*x3)"


def test_neurons_that_contribute_nothing_leave_their_mean():
    """A constant and a small wave: they go, and with them what only they are fed by."""
    first = [[1, 0.5], [0, 0.5], [0, 0]]
    second = [[1, 0], [0, 1e-3]]
    model = network(
        (first, [0, 1]), ["tanh", "sin"], (second, [0, 3]), ["identity", "softplus"],
        ([[2], [1]], [0]),
    )  # fmt: skip
    found = formula(model, X)
    assert str(found) == "2*tanh(x1) + 3.05"
    assert found.neurons == 2
    assert found.error < 0.001
    assert formula(model, X, tolerance=0).neurons == 4


def test_the_error_is_that_of_the_text_measured_against_the_network():
    model = network(([[1.2345], [0], [0]], [0]), ["sin"], ([[1.2345]], [0]))
    found = formula(model, X, digits=1)
    assert str(found) == "sin(x1)"
    outputs = np.asarray(model(jnp.asarray(X)))
    expected = np.sqrt(np.mean((np.sin(X[:, :1]) - outputs) ** 2)) / outputs.std()
    assert found.error == pytest.approx(expected, rel=1e-4)
    assert formula(model, X, digits=6).error < 1e-5


@pytest.mark.parametrize("name", EXTENDED_POOL.names)
def test_every_function_is_what_the_text_says(name):
    """What is printed, evaluated by Python, is the network."""
    kernel, bias = [[1.5, -0.7], [-0.5, 0.25], [0, 0.75]], [0.25, -4]
    model = network((kernel, bias), [name, name], ([[1.25], [-0.5]], [0.125]))
    found = formula(model, X, tolerance=1e-6, digits=8)
    known = dict(zip(EXTENDED_POOL.names, EXTENDED_POOL.functions, strict=True))
    known |= dict(zip(["x1", "x2", "x3"], jnp.asarray(X.T), strict=True))
    said = np.broadcast_to(eval(str(found), {}, known), len(X))
    outputs = np.asarray(model(jnp.asarray(X)))[:, 0]
    np.testing.assert_allclose(said, outputs, atol=2e-5)
    np.testing.assert_allclose(found(X)[:, 0], outputs, atol=2e-5)
    assert (name in str(found)) == (name not in ("identity", "zero", "square"))


@pytest.mark.parametrize(
    ("functions", "expected"),
    [
        (["sin", "sin"], "4*sin(x1 - x2 + 0.5)"),
        (["tanh", "tanh"], "4*tanh(x1 - x2 + 0.5)"),
        (["gauss", "gauss"], "-2*gauss(x1 - x2 + 0.5)"),
        (["relu", "relu"], "-3*relu(-x1 + x2 - 0.5) + relu(x1 - x2 + 0.5)"),
    ],
)
def test_opposite_neurons_are_one_where_the_function_is_odd_or_even(functions, expected):
    kernel = [[1, -1], [-1, 1], [0, 0]]
    model = network((kernel, [0.5, -0.5]), functions, ([[1], [-3]], [0]))
    assert str(formula(model, X)) == expected


def test_turns_of_a_sine_and_multiples_of_a_relu_are_one():
    kernel = [[2, 2, 0, 0], [0, 0, 1, 3], [0, 0, 0, 0]]
    bias = [math.pi, -2 * math.pi, -0.5, -1.5]
    functions = ["sin", "sin", "relu", "relu"]
    model = network((kernel, bias), functions, ([[1], [3], [1], [1]], [0]))
    assert str(formula(model, X)) == "4*relu(x2 - 0.5) + 2*sin(2*x1)"


def test_layers_are_read_through_and_a_large_square_stays_one():
    first = [[1, 0, 1], [0, 1, 0], [0, 0, 0]]
    second = [[1], [2], [1]]
    model = network(
        (first, [0, 0, 0]), ["square", "identity", "sin"], (second, [1]), ["square"],
        ([[2]], [0]),
    )  # fmt: skip
    expected = (X[:, 0] ** 2 / 2 + 2 * X[:, 1] + np.sin(X[:, 0]) + 1) ** 2
    found = formula(model, X, tolerance=0)
    np.testing.assert_allclose(found(X)[:, 0], expected, rtol=1e-3, atol=1e-2)
    for part in ("0.25*x1**4", "2*x1**2*x2", "4*x2**2", "sin(x1)**2", "x1**2*sin(x1)", " + 1"):
        assert part in str(found)
    wide = network((np.eye(3)[:, [0] * 30], np.arange(30)), ["sin"] * 30, (np.ones((30, 1)), [0]),
                   ["square"], ([[1]], [0]))  # fmt: skip
    found = formula(wide, X, tolerance=1e-5, digits=8)
    assert str(found).startswith("square(")
    assert found.error < 1e-3


def test_names_and_several_outputs():
    kernel = [[2, 0], [0, 1], [0, 0]]
    model = network((kernel, [0, 0]), ["sin", "identity"], ([[1, 0], [0, -1]], [0, 5]))
    found = formula(model, X, names=["time", "girth", "height"])
    assert str(found) == "y1 = sin(2*time)\ny2 = -girth + 5"
    assert found(X).shape == (500, 2)


def test_a_constant_output_is_a_number():
    model = network((np.zeros((3, 1)), [1]), ["tanh"], ([[2]], [1]))
    assert str(formula(model, X)) == "2.52"
    model = network((np.zeros((3, 1)), [1]), ["tanh"], ([[0]], [0]))
    assert (str(formula(model, X)), formula(model, X).error) == ("0", 0.0)


def test_functions_of_the_users_have_the_names_of_the_pool():
    pool = ActivationPool({"wave": lambda x: jnp.sin(3 * x), "leaky_0.2": leaky_relu(0.2)})
    model = network(
        ([[1, -2], [0, 0], [0, 0]], [0, 0]), ["wave", "leaky_0.2"], ([[1], [1]], [0]), pool=pool
    )
    assert str(formula(model, X)) == "2*leaky_0.2(-x1) + wave(x1)"


def test_a_variance_matched_pool_is_read_as_the_functions_themselves():
    pool = EXTENDED_POOL.subset("sin", "square").variance_matched()
    model = network(
        ([[2, 0], [0, 1], [0, 0]], [0, 0]), ["sin", "square"], ([[1], [1]], [0]), pool=pool
    )
    found = formula(model, X, digits=7)
    scale = pool.functions[1].scale
    assert str(found).startswith(f"{scale / 2:.7g}*x2**2 + {pool.functions[0].scale:.7g}*sin(2*x1)")
    assert found.error < 1e-5


def test_choices_that_are_data_are_read_too():
    model = product_sine()
    table = model.activations[0].table
    model.activations[0] = MixedActivation(table, static=False)
    assert str(formula(model, X)) == "x1*x2 + sin(2*x3)"


def test_the_model_is_left_as_it_is():
    model = product_sine()
    before = jax.tree.map(np.array, nnx.state(model))
    formula(model, X)
    jax.tree.map(np.testing.assert_array_equal, before, nnx.state(model))


def test_sympy_has_the_same_expression():
    sympy = pytest.importorskip("sympy")
    (found,) = formula(product_sine(), X).sympy()
    x1, x2, x3 = sympy.symbols("x1:4")
    assert sympy.simplify(found - x1 * x2 - sympy.sin(2.0 * x3)) == 0


@pytest.mark.parametrize("name", EXTENDED_POOL.names)
def test_sympy_knows_the_functions_or_leaves_them_undefined(name):
    sympy = pytest.importorskip("sympy")
    model = network(([[1.5], [0], [0]], [0.25]), [name], ([[2]], [0]))
    (expression,) = formula(model, X, digits=7).sympy()
    undefined = {str(call.func) for call in expression.atoms(sympy.core.function.AppliedUndef)}
    if undefined:
        assert undefined == {name}
        assert name in ("leaky_relu", "elu", "selu", "gelu", "mish")
        return
    said = [float(expression.subs("x1", float(value))) for value in X[:20, 0]]
    outputs = np.asarray(model(jnp.asarray(X[:20])))[:, 0]
    np.testing.assert_allclose(said, outputs, atol=1e-5)


def test_without_sympy_there_is_the_text(monkeypatch):
    monkeypatch.setitem(sys.modules, "sympy", None)
    found = formula(product_sine(), X)
    assert str(found) == "x1*x2 + sin(2*x3)"
    with pytest.raises(ImportError, match="pip install sympy"):
        found.sympy()


def selective():
    return MLP(3, (4,), 1, rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
    ("model", "options", "error", "message"),
    [
        (selective(), {}, TypeError, r"activations\.0 is selective.*fix_choices"),
        (nnx.Linear(3, 1, rngs=nnx.Rngs(0)), {}, TypeError, "must be an MLP, got Linear"),
        (None, {}, TypeError, "must be an MLP, got None"),
        (
            MLP(3, (4,), 1, activation=uniform(jnp.sin), rngs=nnx.Rngs(0)),
            {},
            TypeError,
            r"activations\.0 must be a MixedActivation",
        ),
        (product_sine(), {"inputs": X[:, :2]}, ValueError, r"\[M, 3\].*got float32\[500, 2\]"),
        (product_sine(), {"inputs": X[0]}, ValueError, r"\[M, 3\]"),
        (product_sine(), {"inputs": X[:0]}, ValueError, "M ≥ 1"),
        (product_sine(), {"inputs": X + np.float32(np.inf)}, ValueError, "finite"),
        (product_sine(), {"inputs": [[1, 2, 3]]}, TypeError, "an array of numbers"),
        (product_sine(), {"names": ["a", "b"]}, ValueError, "3 different ones"),
        (product_sine(), {"names": ["a", "b", "a"]}, ValueError, "3 different ones"),
        (product_sine(), {"names": "abc"}, TypeError, "names must be strings"),
        (product_sine(), {"names": [1, 2, 3]}, TypeError, "names must be strings"),
        (product_sine(), {"names": 3}, TypeError, "names must be strings"),
        (product_sine(), {"tolerance": -1}, ValueError, "tolerance"),
        (product_sine(), {"tolerance": "small"}, TypeError, "tolerance"),
        (product_sine(), {"digits": 0}, ValueError, "digits must be at least 1"),
        (product_sine(), {"digits": 2.5}, TypeError, "digits must be an int"),
    ],
)
def test_what_cannot_be_read_is_one_line(model, options, error, message):
    with pytest.raises(error, match=message) as raised:
        formula(model, **options)
    assert str(raised.value).startswith("formula: ")
    assert "\n" not in str(raised.value)


def test_a_fixed_network_of_the_paper_pool_is_read_with_a_small_error():
    found = formula(fix_choices(selective()), X, tolerance=1e-6, digits=7)
    assert found.error < 1e-4
    assert any(name in str(found) for name in PAPER_POOL.names)
