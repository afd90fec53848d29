"""A task as device arrays: what the training loop sees of the data."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import data, targets
from experiments.config import Config


class Split(NamedTuple):
    """inputs [M, d] (uint8 for images, float32 otherwise); labels int32 [M] or values [M, 1]."""

    inputs: jax.Array
    labels: jax.Array


class Task(NamedTuple):
    """The splits of one run on the device.

    Attributes:
        splits: `train`, `validation`, `test`, and for functions `outside` (beyond the box that
            the training points fill).
        in_features: d.
        out_features: classes, or 1.
        scale: inputs are divided by it, inside the compiled step.
        class_names: empty for regression.
        source: one line, where the data came from.
    """

    splits: dict[str, Split]
    in_features: int
    out_features: int
    scale: float
    class_names: tuple[str, ...]
    source: str


def load_task(config: Config) -> Task:
    """The data of a run; a DataError or ValueError says what is missing."""
    return _function_task(config) if config.is_regression else _image_task(config)


def _function_task(config: Config) -> Task:
    name = config.task.removeprefix("function:")
    samples = targets.sample(name, config.seed)
    splits = {
        part: Split(jnp.asarray(points.inputs), jnp.asarray(points.values))
        for part, points in samples._asdict().items()
    }
    d = targets.dimension(name)
    return Task(splits, d, 1, 1.0, (), f"function {name} of {d} variables, drawn with seed")


def _image_task(config: Config) -> Task:
    dataset = data.load(config.task, config.data_dir)
    kept, held_out = data.stratified_split(dataset.train_labels, config.validation_fraction, 42)
    images = dataset.train_inputs.reshape(len(dataset.train_inputs), -1)
    parts = {
        "train": (images[kept], dataset.train_labels[kept]),
        "validation": (images[held_out], dataset.train_labels[held_out]),
        "test": (dataset.test_inputs.reshape(len(dataset.test_inputs), -1), dataset.test_labels),
    }
    splits = {
        name: Split(jnp.asarray(inputs), jnp.asarray(labels.astype(np.int32)))
        for name, (inputs, labels) in parts.items()
    }
    return Task(
        splits,
        images.shape[-1],
        len(dataset.class_names),
        dataset.scale,
        dataset.class_names,
        dataset.source,
    )
