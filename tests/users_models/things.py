"""What a user brings, and what is wrong with it: for test_own.py."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.data import Split, Task
from experiments.objective import CLASSIFICATION, REGRESSION
from smartmixed_jax import ActivationPool, SelectiveActivation


def absolute(outputs, labels):
    return jnp.abs(outputs - labels)[:, 0]


MAE = dataclasses.replace(
    REGRESSION,
    name="mae",
    loss=absolute,
    score=absolute,
    metric="MAE",
    normalized=False,
    result="test_score",
    unit="m",
    columns={"test MAE": ("test_score", "{:.3f} m".format)},
)
VAGUE = dataclasses.replace(
    MAE, name="vague", loss=lambda outputs, labels: jnp.sum(outputs), score=absolute
)
POOL = ActivationPool({"relu": jax.nn.relu, "sin": jnp.sin})
NUMBER = 3


def splits(seed=0, shape=(6, 2)):
    x = np.random.default_rng(seed).normal(size=(100, *shape)).astype(np.float32)
    y = np.sin(x.reshape(100, -1).sum(1))[:, None]
    ends = {"train": (0, 60), "validation": (60, 80), "test": (80, 100)}
    return {part: Split(x[slice(*pair)], y[slice(*pair)]) for part, pair in ends.items()}


def waves(seed):
    return Task("waves", splits(seed), MAE, 1)


def fixed():
    return Task("fixed", splits(), REGRESSION, 1)


class Net(nnx.Module):
    """Selective layers in a dictionary and as an attribute, dropout, model(x)."""

    def __init__(self, input_shape, out_features, activation, rngs):
        self.first = nnx.Linear(int(np.prod(input_shape)), 8, rngs=rngs)
        self.block = nnx.Dict(act=activation(8, rngs=rngs))
        self.drop = nnx.Dropout(0.2, rngs=rngs)
        self.second = nnx.Linear(8, 7, rngs=rngs)
        self.act = activation(7, rngs=rngs)
        self.last = nnx.Linear(7, out_features, rngs=rngs)

    def __call__(self, x):
        x = self.drop(self.block["act"](self.first(x.reshape(len(x), -1))))
        return self.last(self.act(self.second(x)))


class WithRngs(Net):
    def __call__(self, x, *, rngs=None):
        x = self.block["act"](self.first(x.reshape(len(x), -1)), rngs=rngs)
        return self.last(self.act(self.second(self.drop(x, rngs=rngs)), rngs=rngs))


def positional(shape, classes, act, streams):
    return Net(shape, classes, act, streams)


def bump(x1):
    return np.exp(-(x1**2))


# What is wrong.


def no_task():
    return 3


def failing():
    raise RuntimeError("no power")


def two(a, b):
    return 3


def half():
    return dataclasses.replace(fixed(), splits={"train": splits()["train"]})


def nan():
    parts = splits()
    return dataclasses.replace(
        fixed(), splits=parts | {"test": Split(parts["test"].inputs * np.nan, parts["test"].labels)}
    )


def ragged():
    parts = splits()
    return dataclasses.replace(fixed(), splits=parts | {"test": splits(shape=(5, 2))["test"]})


def lengths():
    parts = splits()
    return dataclasses.replace(
        fixed(), splits=parts | {"test": (parts["test"].inputs[:3], parts["test"].labels)}
    )


def classes():
    return dataclasses.replace(fixed(), objective=CLASSIFICATION)


def broadcast():
    parts = {n: Split(s.inputs, np.repeat(s.labels, 2, 1)) for n, s in splits().items()}
    return dataclasses.replace(fixed(), splits=parts)


def unnamed():
    return dataclasses.replace(fixed(), class_names=("a", "b"))


def arrays():
    return dataclasses.replace(fixed(), extras={"mean": np.zeros(2)})


def vague():
    return dataclasses.replace(fixed(), objective=VAGUE)


def flat():
    parts = {n: Split(s.inputs, s.labels[:, 0]) for n, s in splits().items()}
    return dataclasses.replace(fixed(), splits=parts)


def hidden_objective():
    return dataclasses.replace(fixed(), objective=dataclasses.replace(MAE, metric="other"))


def scalar(x1):
    return 1.0


def text(x1):
    return np.array(["a"] * len(x1))


def root(x1, x2):
    return np.sqrt(x1) + x2


def by_math(x1):
    import math

    return math.sin(x1)


def star(*x):
    return x[0]


def number(input_shape, out_features, activation, rngs):
    return 3


def breaks(input_shape, out_features, activation, rngs):
    raise RuntimeError("too deep")


def plain(input_shape, out_features, activation, rngs):
    return Net(input_shape, out_features, lambda n, rngs: jnp.tanh, rngs)


def own_layers(input_shape, out_features, activation, rngs):
    return Net(input_shape, out_features, lambda n, rngs: SelectiveActivation(n, rngs=rngs), rngs)


def wide(input_shape, out_features, activation, rngs):
    return Net(input_shape, out_features + 1, activation, rngs)


def narrow(input_shape, out_features, activation, rngs):
    return Net((3,), out_features, activation, rngs)
