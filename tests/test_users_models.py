"""A model as users have it trains selectively in its own training loop, and is fixed."""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from sklearn.datasets import load_digits

from smartmixed_jax import (
    MixedActivation,
    SelectionLogits,
    SelectiveActivation,
    fix_choices,
    label_parameters,
    select_activations,
    summarize,
)

FOLDER = Path(__file__).parent / "users_models"
HIDDEN = {"act1": 32, "act2": 64, "act3": 256}


def cnn(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.CNN(rngs=nnx.Rngs(0))


def batches(size=32, count=12):
    images, labels = load_digits(return_X_y=True)
    images = jax.image.resize(images.reshape(-1, 8, 8, 1) / 16, (len(images), 28, 28, 1), "linear")
    for start in range(0, size * count, size):
        yield {
            "image": images[start : start + size].astype(jnp.float32),
            "label": jnp.asarray(labels[start : start + size]),
        }


# The training loop of the tutorial, nothing about selection in it.


def loss_fn(model, rngs, batch):
    logits = model(batch["image"], rngs)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
    return losses.mean(), logits


@nnx.jit
def train_step(model, optimizer, metrics, rngs, batch):
    (loss, logits), grads = nnx.value_and_grad(loss_fn, has_aux=True)(model, rngs, batch)
    metrics.update(loss=loss, logits=logits, labels=batch["label"])
    optimizer.update(model, grads)


def train(model, transform):
    model.train()
    optimizer = nnx.Optimizer(model, transform, wrt=nnx.Param)
    metrics = nnx.MultiMetric(loss=nnx.metrics.Average("loss"), accuracy=nnx.metrics.Accuracy())
    rngs = nnx.Rngs(dropout=1)
    losses = []
    for batch in batches():
        train_step(model, optimizer, metrics, rngs, batch)
        losses.append(float(metrics.compute()["loss"]))
        metrics.reset()
    return losses


@nnx.jit
def predict(model, image):
    return model(image)


def by_select_activations():
    model = cnn("attributes")
    images = jnp.zeros((1, 28, 28, 1))
    # Almost even odds, so that the few steps below move some neurons to other functions.
    return select_activations(model, images, start=0.2, rngs=nnx.Rngs(1), report=None)


def by_hand():
    return cnn("selective")


def test_the_two_edits_of_the_model_are_the_same_function():
    """As attributes the activations compute what they did inline."""
    image = next(batches())["image"]
    inline, attributes = cnn("inline"), cnn("attributes")
    inline.eval()
    attributes.eval()
    np.testing.assert_array_equal(predict(inline, image), predict(attributes, image))


def test_the_converted_model_is_the_inline_one_until_it_is_trained():
    image = next(batches(size=4))["image"]
    inline, converted = cnn("inline"), by_select_activations()
    inline.eval()
    converted.eval()
    np.testing.assert_allclose(predict(converted, image), predict(inline, image), rtol=1e-5)


def test_the_inline_model_raises_naming_the_pattern_and_every_line():
    with pytest.raises(
        ValueError, match=r"CNN holds no activation .*\n.*\+ self.act = nnx.relu"
    ) as e:
        select_activations(cnn("inline"), jnp.zeros((1, 28, 28, 1)), rngs=nnx.Rngs(1), report=None)
    source = (FOLDER / "inline.py").read_text().splitlines()
    numbers = [number for number, line in enumerate(source, 1) if "nnx.relu(" in line]
    left = "nnx.relu in CNN left alone: called inline, make it an attribute"
    lines = [f"  inline.py, line {number}: {left}" for number in numbers]
    assert str(e.value).splitlines()[4:] == lines
    assert len(lines) == 3


@pytest.mark.graph_mode("nnx.grad takes no model that holds rngs")
@pytest.mark.parametrize("build", [by_hand, by_select_activations])
def test_the_cnn_trains_selectively_is_fixed_and_trains_on(build):
    model = build()
    assert {path: layer["features"] for path, layer in summarize(model).items()} == HIDDEN
    labels = label_parameters(nnx.state(model, nnx.Param))
    before = jax.tree.map(np.asarray, nnx.state(model, nnx.Param))
    transform = optax.multi_transform(
        {"selection": optax.adam(0.02), "weights": optax.adam(1e-3)}, labels
    )
    losses = train(model, transform)
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])
    moved = jax.tree.map(
        lambda old, new: np.abs(old - new).max(), before, nnx.state(model, nnx.Param)
    )
    assert min(jax.tree.leaves(moved)) > 1e-5
    assert min(jax.tree.leaves(nnx.filter_state(moved, SelectionLogits))) > 0.02

    model.eval()
    image = next(batches())["image"]
    selective = predict(model, image)
    fixed = fix_choices(model)
    np.testing.assert_array_equal(
        np.asarray(predict(fixed, image)).view(np.int32), np.asarray(selective).view(np.int32)
    )
    assert all(isinstance(getattr(fixed, name), MixedActivation) for name in HIDDEN)
    counts = [sum(n > 0 for n in layer["counts"].values()) for layer in summarize(fixed).values()]
    assert min(counts) > 1, "the switch proves little if a layer has one function only"

    assert np.mean(train(fixed, optax.adam(1e-3))[-3:]) < np.mean(losses[-3:])


@pytest.mark.graph_mode("nnx.grad takes no model that holds rngs")
def test_every_training_step_draws_anew():
    """With all weights frozen two steps differ by their noise alone."""
    model = by_select_activations()
    image = next(batches(size=4))["image"]
    model.eval()
    for name in HIDDEN:
        assert isinstance(getattr(model, name), SelectiveActivation)
        getattr(model, name).deterministic = False
    first, second = predict(model, image), predict(model, image)
    assert np.abs(first - second).max() > 1e-3
