"""Rivals: the published formulas, and that the program trains each."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments import rivals
from experiments.data.tasks import load_task
from experiments.pools import find_pool
from experiments.presets import default_config
from experiments.run_folder import read_metrics
from experiments.training.train import train_and_evaluate
from smartmixed_jax import REGRESSION_POOL

KANS = ("spline_kan", "wide_spline_kan", "chebyshev_kan")
MIXTURES = ("layer_mixture", "smooth_layer_mixture")
NAMES = ("prelu", "rational", *MIXTURES, "siren", "image_siren", *KANS)


def build(name: str, seed: int = 0) -> nnx.Module:
    if name in KANS:
        pytest.importorskip("jaxkan")
    return getattr(rivals, name)((3,), 1, None, nnx.Rngs(seed))


def size(model: nnx.Module) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


def test_a_prelu_begins_with_a_slope_of_a_quarter_for_every_neuron():
    layer = rivals.PReLU(2, rngs=nnx.Rngs(0))
    np.testing.assert_allclose(layer(jnp.array([[-4.0, 2.0]])), [[-1.0, 2.0]])
    layer.slope[...] = jnp.array([0.5, 0.0])
    np.testing.assert_allclose(layer(jnp.array([[-4.0, -4.0]])), [[-2.0, 0.0]])


def test_a_rational_function_begins_near_leaky_relu():
    x = jnp.linspace(-3, 3, 61)
    found = rivals.Rational(1, rngs=nnx.Rngs(0))(x)
    np.testing.assert_allclose(found, jax.nn.leaky_relu(x, 0.01), atol=0.07)


@pytest.mark.parametrize("pool", [REGRESSION_POOL, find_pool("equations")])
def test_a_layer_mixture_begins_as_the_mean_of_the_pool(pool):
    x = jnp.linspace(-2, 2, 9)
    found = rivals.LayerMixture(pool, 9, rngs=nnx.Rngs(0))(x)
    expected = np.mean([f(x) for f in pool.functions], axis=0)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_the_kernels_of_a_siren_keep_its_bounds():
    first, second, last = (layer.kernel[...] for layer in build("siren").layers)
    for kernel, bound in (
        (first, 1 / 3),
        (second, math.sqrt(6 / 64) / 3),
        (last, math.sqrt(6 / 64) / 3),
    ):
        assert 0.9 * bound < jnp.abs(kernel).max() <= bound


def test_the_wide_kan_has_as_many_parameters_as_ours():
    mlp = 3 * 64 + 64 + 64 * 64 + 64 + 64 + 1
    assert abs(size(build("wide_spline_kan")) / mlp - 1) < 0.15


@pytest.mark.parametrize("name", NAMES)
def test_equal_shapes_are_one_program(name):
    one, other = (nnx.split(build(name, seed)) for seed in (0, 1))
    assert one[0] == other[0]
    params = [jax.tree.leaves(nnx.filter_state(part[1], nnx.Param)) for part in (one, other)]
    # But for the mixtures' logits, which begin at 0.
    assert any(not np.array_equal(a, b) for a, b in zip(*params, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_the_program_trains_it(tmp_path, name):
    build(name)
    config = dataclasses.replace(
        default_config(task="function:ratio"),
        network=f"experiments.rivals:{name}",
        method="uniform:relu",
        hidden=(),
        selective_epochs=1,
        mixed_epochs=2,
        steps_per_epoch=30,
        learning_rate=3e-3,
        run_dir=str(tmp_path / "run"),
    )
    task = load_task(config)
    train_and_evaluate(config, load=lambda _: task, show_progress=False)
    first, *_, last = read_metrics(tmp_path / "run")
    assert last["train_loss"] < first["train_loss"]
