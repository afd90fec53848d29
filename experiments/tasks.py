"""A task as device arrays: what the training loop sees of the data."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import data, targets, text
from experiments.config import Config


class Split(NamedTuple):
    """Inputs and labels of M examples.

    Attributes:
        inputs: images uint8 [M, H, W, C], points float32 [M, d], or characters uint8 [M, T].
        labels: classes int32 [M], values float32 [M, 1], or the next characters uint8 [M, T].
    """

    inputs: jax.Array
    labels: jax.Array


class Task(NamedTuple):
    """The splits of one run on the device.

    Attributes:
        splits: `train`, `validation`, `test`, and for functions `outside` (beyond the box that
            the training points fill).
        shape: of one input.
        out_features: classes, characters, or 1.
        scale: inputs are divided by it, inside the compiled step.
        class_names: empty for functions and text.
        source: one line, where the data came from.
    """

    splits: dict[str, Split]
    shape: tuple[int, ...]
    out_features: int
    scale: float
    class_names: tuple[str, ...]
    source: str

    @property
    def in_features(self) -> int:
        """The inputs of a network that takes them flat."""
        return math.prod(self.shape)


def load_task(config: Config) -> Task:
    """The data of a run; a DataError or ValueError says what is missing."""
    if config.is_regression:
        return _function_task(config)
    return _text_task(config) if config.is_text else _image_task(config)


def _function_task(config: Config) -> Task:
    name = config.task.removeprefix("function:")
    samples = targets.sample(name, config.seed)
    splits = {
        part: Split(jnp.asarray(points.inputs), jnp.asarray(points.values))
        for part, points in samples._asdict().items()
    }
    d = targets.dimension(name)
    return Task(splits, (d,), 1, 1.0, (), f"function {name} of {d} variables, drawn with seed")


def _image_task(config: Config) -> Task:
    dataset = data.load(config.task, config.data_dir)
    kept, held_out = data.stratified_split(dataset.train_labels, config.validation_fraction, 42)
    images = dataset.train_inputs
    parts = {
        "train": (images[kept], dataset.train_labels[kept]),
        "validation": (images[held_out], dataset.train_labels[held_out]),
        "test": (dataset.test_inputs, dataset.test_labels),
    }
    splits = {
        name: Split(jnp.asarray(inputs), jnp.asarray(labels.astype(np.int32)))
        for name, (inputs, labels) in parts.items()
    }
    return Task(
        splits,
        images.shape[1:],
        len(dataset.class_names),
        dataset.scale,
        dataset.class_names,
        dataset.source,
    )


CONTEXT = 64
"""Characters of one example of text."""


def _text_task(config: Config) -> Task:
    corpus = text.load(config.task, config.data_dir)
    # Training sees a window at every place, evaluation each character once.
    strides = {"train": 1, "validation": CONTEXT, "test": CONTEXT}
    splits = {}
    for name, stride in strides.items():
        characters = corpus.splits[name]
        windows = np.lib.stride_tricks.sliding_window_view(characters, CONTEXT + 1)[::stride]
        splits[name] = Split(jnp.asarray(windows[:, :-1]), jnp.asarray(windows[:, 1:]))
    return Task(splits, (CONTEXT,), len(corpus.vocabulary), 1.0, (), corpus.source)
