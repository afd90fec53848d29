"""What a run trains on: every kind of data becomes a `Task`, its splits on the device.

A new kind of data set needs a function from a config to a `Task`, and an entry in `TASKS`.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.config import Config
from experiments.data import functions, images
from experiments.data.datasets import DATASETS
from experiments.data.splits import stratified_split
from experiments.data.text import load_text
from experiments.names import changed_fields
from experiments.objective import (
    CLASSIFICATION,
    NEXT_CHARACTER,
    REGRESSION,
    Objective,
    with_double_softmax,
)
from experiments.run_folder import TaskRecord


class Split(NamedTuple):
    """Inputs and labels of M examples.

    Attributes:
        inputs: images uint8 [M, H, W, C], points float32 [M, d], or characters uint8 [M, T].
        labels: classes int32 [M], values float32 [M, 1], or the next characters uint8 [M, T].
    """

    inputs: jax.Array
    labels: jax.Array


@dataclass(frozen=True, eq=False)
class Task:
    """A problem with its data: all that training, reports and figures know of it.

    Attributes:
        name: as in the config.
        splits: `train`, `validation` and `test`; of a function also `outside` (beyond the box that
            the training points fill). Every split has the same shapes but for M.
        objective: loss, score, and how results are told.
        out_features: classes, characters, or 1.
        scale: inputs are divided by it, as float32, inside the compiled step; None for tokens,
            which a network takes as int32.
        class_names: in the order of the labels; empty where there are none.
        source: one line, where the data came from.
        seeded: the data are drawn with the run's seed, so that runs of two seeds share nothing.
        extras: what else is needed to use the trained network later, as JSON takes it.
        tabulate_fit: for a problem whose true function is known: the trained function, inputs
            [B, d] → values [B], → the arrays of fit.npz.
    """

    name: str
    splits: Mapping[str, Split]
    objective: Objective
    out_features: int
    scale: float | None = 1.0
    class_names: tuple[str, ...] = ()
    source: str = ""
    seeded: bool = False
    extras: Mapping[str, Any] = field(default_factory=dict)
    tabulate_fit: Callable[[functions.Fitted], dict[str, np.ndarray]] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one input."""
        return self.splits["train"].inputs.shape[1:]

    @property
    def takes_tokens(self) -> bool:
        return self.scale is None

    @property
    def has_images(self) -> bool:
        return len(self.shape) == 3

    def record(self) -> TaskRecord:
        """What the run folder keeps of it."""
        return TaskRecord(
            name=self.name,
            objective=self.objective,
            shape=self.shape,
            out_features=self.out_features,
            class_names=self.class_names,
            source=self.source,
            extras=dict(self.extras),
        )


class Kind(NamedTuple):
    """How tasks of one kind are had.

    Attributes:
        load: the task of a config; a DataError or ValueError says what is missing.
        reads: the fields of the config, beside `task`, that the data depend on.
        check: raises ValueError for a name that no such task has, before any data are read.
        about: one line for --help.
    """

    load: Callable[[Config], Task]
    reads: tuple[str, ...]
    check: Callable[[str], Any] = lambda name: None
    about: str = ""


def load_task(config: Config) -> Task:
    """The data of a run.

    Raises:
        ValueError: there is no such task, or it has no use for an option of the config.
        DataError: the data cannot be had.
    """
    kind = find_kind(config.task)
    _refuse_unread(config, kind)
    task = kind.load(config)
    if config.double_softmax:
        task = replace(task, objective=with_double_softmax(task.objective))
    if config.augment and not task.has_images:
        raise ValueError("augment = True: expected False for a task without images")
    return task


def _refuse_unread(config: Config, kind: Kind) -> None:
    """Raises ValueError for an option that says something of data which the task has not."""
    for_data = {name for other in TASKS.values() for name in other.reads} - {"seed"}
    for name, value in changed_fields(config).items():
        if name in for_data and name not in kind.reads:
            raise ValueError(f"{name} = {value!r} has no effect on {config.task}")


def find_kind(name: str) -> Kind:
    """The kind of a task; ValueError if there is no such task."""
    kind = TASKS.get(name) or TASKS.get(name.partition(":")[0] + ":")
    if kind is None:
        known = (name + "NAME" if name.endswith(":") else name for name in TASKS)
        raise ValueError(f"task = {name!r}: expected one of {', '.join(known)}")
    kind.check(name)
    return kind


def describe_tasks() -> dict[str, str]:
    """What --help says of every task, by its name."""
    return {name + "NAME" * name.endswith(":"): kind.about for name, kind in TASKS.items()}


class Loader:
    """`load_task` that returns the last run's task where the data are the same."""

    def __init__(self) -> None:
        self._last: tuple[Any, Task] | None = None

    def __call__(self, config: Config) -> Task:
        fields = ("task", "double_softmax", "augment", *find_kind(config.task).reads)
        what = tuple(getattr(config, field) for field in fields)
        if self._last is None or self._last[0] != what:
            self._last = what, load_task(config)
        return self._last[1]


# The kinds


def _load_function(config: Config) -> Task:
    name = config.task.removeprefix("function:")
    samples = functions.sample(name, config.seed)
    return Task(
        name=config.task,
        splits={
            part: Split(jnp.asarray(points.inputs), jnp.asarray(points.values))
            for part, points in samples._asdict().items()
        },
        objective=REGRESSION,
        out_features=1,
        source=f"function {name} of {functions.dimension(name)} variables, drawn with seed",
        seeded=True,
        tabulate_fit=functools.partial(functions.tabulate_fit, name),
    )


def _load_images(config: Config) -> Task:
    dataset = images.load(config.task, config.data_dir)
    kept, held_out = stratified_split(dataset.train_labels, config.validation_fraction, 42)
    parts = {
        "train": (dataset.train_inputs[kept], dataset.train_labels[kept]),
        "validation": (dataset.train_inputs[held_out], dataset.train_labels[held_out]),
        "test": (dataset.test_inputs, dataset.test_labels),
    }
    return Task(
        name=config.task,
        splits={
            part: Split(jnp.asarray(inputs), jnp.asarray(labels.astype(np.int32)))
            for part, (inputs, labels) in parts.items()
        },
        objective=CLASSIFICATION,
        out_features=len(dataset.class_names),
        scale=dataset.scale,
        class_names=dataset.class_names,
        source=dataset.source,
    )


CONTEXT = 64
"""Characters of one example of text."""


def _load_text(config: Config) -> Task:
    corpus = load_text(config.task, config.data_dir)
    # Training sees a window at every place, evaluation each character once.
    strides = {"train": 1, "validation": CONTEXT, "test": CONTEXT}
    splits = {}
    for name, stride in strides.items():
        characters = corpus.splits[name]
        windows = np.lib.stride_tricks.sliding_window_view(characters, CONTEXT + 1)[::stride]
        splits[name] = Split(jnp.asarray(windows[:, :-1]), jnp.asarray(windows[:, 1:]))
    return Task(
        name=config.task,
        splits=splits,
        objective=NEXT_CHARACTER,
        out_features=len(corpus.vocabulary),
        scale=None,
        source=corpus.source,
        extras={"vocabulary": corpus.vocabulary},
    )


def _images(name: str) -> Kind:
    facts = DATASETS[name]
    height, width, colours = facts.shape
    about = (
        f"{sum(facts.counts):,} images of {height}x{width}{' in colour' * (colours > 1)}, "
        f"{facts.class_names.count(',') + 1} classes{'' if facts.url else '; needs no download'}"
    )
    return Kind(_load_images, ("data_dir", "validation_fraction"), about=about)


TASKS: dict[str, Kind] = {
    **{name: _images(name) for name in DATASETS},
    "tiny_shakespeare": Kind(
        _load_text, ("data_dir",), about="1.1 million characters of plays, the next one to predict"
    ),
    "function:": Kind(
        _load_function,
        ("seed",),
        lambda name: functions.dimension(name.removeprefix("function:")),
        about="a function of 2 to 4 variables to fit: one of those below",
    ),
}
"""By name, or by the part of the name up to the colon."""
