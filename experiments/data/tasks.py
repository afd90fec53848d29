"""The kinds of tasks, and how the `Task` of a config is had.

A new kind of data needs a function from a config to a `Task`, and an entry in `TASKS`.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.config import Config
from experiments.data import arrays, functions, image_function, images, pdes, records, tables
from experiments.data.datasets import DATASETS, Dataset
from experiments.data.encoding import Column, Encoding
from experiments.data.reading import find_file
from experiments.data.sources import DataError, cache_folder
from experiments.data.splits import stratified_split
from experiments.data.task import Split, Task, host_split
from experiments.data.text import load_text
from experiments.data.user_tasks import find_maker, make_task
from experiments.names import changed_fields
from experiments.objective import (
    CLASSIFICATION,
    COLUMN_REGRESSION,
    COLUMN_REGRESSION_WITH_DERIVATIVES,
    EQUATION,
    EQUATION_WITHOUT_SOLUTION,
    IMAGE,
    NEXT_CHARACTER,
    REGRESSION,
    with_double_softmax,
)

__all__ = ["TASKS", "Kind", "Loader", "Split", "Task", "find_kind", "load_task"]


Outputs = Callable[[pdes.Function, jax.Array], jax.Array]


class Kind(NamedTuple):
    """How tasks of one kind are had.

    Attributes:
        load: the task of a config, its arrays on the host; a DataError or ValueError says what is
            missing.
        reads: the fields of the config, beside `task`, that the data depend on.
        check: raises ValueError for a name that no such task has, before any data are read.
        outputs: (name, network [B, d] → [B], x [B, d]) → what loss and score are of, if it is not
            the network's output.
        argument: what follows the colon, for the list of tasks.
        about: one line for --help.
    """

    load: Callable[[Config], Task]
    reads: tuple[str, ...]
    check: Callable[[str], Any] = lambda name: None
    outputs: Callable[[str, pdes.Function, jax.Array], jax.Array] | None = None
    argument: str = ""
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
    _require_finite(task)
    if task.objective.normalized:
        _require_variance(task)
    if config.double_softmax:
        task = replace(task, objective=with_double_softmax(task.objective))
    if config.augment and not task.has_images:
        raise ValueError("augment = True: expected False for a task without images")
    return on_device(streamed(task) if config.stream else task)


def streamed(task: Task) -> Task:
    """The task with its training examples in a file of the cache folder."""
    kept = records.keep(task.splits["train"], cache_folder(None) / "records")
    return replace(task, splits={**task.splits, "train": kept.shapes}, records=kept)


def on_device(task: Task) -> Task:
    """The task with its arrays on the device, but for training examples in a file."""
    splits = {
        part: split if part == "train" and task.records else Split(*map(jnp.asarray, split))
        for part, split in task.splits.items()
    }
    return replace(task, splits=splits)


def _require_finite(task: Task) -> None:
    """Raises DataError for nan or inf in any split, wherever the data are from."""
    for part, split in task.splits.items():
        for what, array in split._asdict().items():
            values = np.asarray(array)
            if values.dtype.kind in "iub" or np.isfinite(values).all():
                continue
            row, *place = np.argwhere(~np.isfinite(values))[0].tolist()
            where = ", ".join([f"row {row}", *([f"column {_place(place)}"] if place else [])])
            raise DataError(
                f"{task.name}: {what} of {part}, {where}: {values[row, *place]} is no finite "
                "number of float32"
            )


def _require_variance(task: Task) -> None:
    """Raises DataError for labels whose variance, which divides errors, is 0 or inf."""
    for part, split in task.splits.items():
        with np.errstate(over="ignore", under="ignore"):
            variance = float(np.var(np.asarray(split.labels)))
        if not 0 < variance < float("inf"):
            raise DataError(
                f"{task.name}: the variance of the labels of {part} is {variance:g}, expected "
                "values that differ, of a size that float32 can square"
            )


def _place(indices: Sequence[int]) -> str:
    return str(indices[0] if len(indices) == 1 else list(indices))


def _refuse_unread(config: Config, kind: Kind) -> None:
    """Raises ValueError for an option that says something of data which the task has not."""
    for_data = {name for other in TASKS.values() for name in other.reads} - {"seed"}
    for name, value in changed_fields(config).items():
        if name in for_data and name not in kind.reads:
            raise ValueError(f"{name} = {value!r} has no effect on {config.task}")


def find_kind(name: str) -> Kind:
    """The kind of a task; ValueError if there is no such task."""
    colon, rest = name.partition(":")[1:]
    kind = kind_of(name)
    known = ", ".join(task + known_kind.argument for task, known_kind in TASKS.items())
    if kind is None or (colon and not rest):
        raise ValueError(f"task = {name!r}: expected one of {known}, MODULE:NAME")
    try:
        kind.check(name)
    except ValueError as error:
        if kind is USERS and "no module" in str(error):
            raise ValueError(f"{error}; the other tasks are {known}") from None
        raise
    return kind


def kind_of(name: str) -> Kind | None:
    """The same without looking whether such a task can be had; None if the name fits no kind."""
    prefix, _, rest = name.partition(":")
    return TASKS.get(name) or TASKS.get(prefix + ":") or (USERS if prefix and rest else None)


def outputs_of(name: str) -> Outputs | None:
    """What a task's network is taken for; None: its outputs are used as they are."""
    kind = kind_of(name)
    return None if kind is None or kind.outputs is None else functools.partial(kind.outputs, name)


def describe_tasks() -> dict[str, str]:
    """What --help says of every task, by its name."""
    return {
        **{name + kind.argument: kind.about for name, kind in TASKS.items()},
        "MODULE:NAME": USERS.about,
    }


class Loader:
    """`load_task` that returns the last run's task where the data are the same."""

    def __init__(self) -> None:
        self._last: tuple[Any, Task] | None = None

    def __call__(self, config: Config) -> Task:
        fields = ("task", "double_softmax", "augment", "stream", *find_kind(config.task).reads)
        what = tuple(getattr(config, field) for field in fields)
        if self._last is None or self._last[0] != what:
            self._last = what, load_task(config)
        return self._last[1]


# The kinds


def _load_function(config: Config) -> Task:
    name = config.task.removeprefix("function:")
    samples = functions.sample(
        name, config.seed, config.range, train=config.points, noise=config.label_noise
    )
    names = functions.variables(name)
    columns = Encoding(tuple(map(Column, names)), Column("value" if "y" in names else "y"))
    return Task(
        name=config.task,
        splits={
            part: host_split(points.inputs, points.values)
            for part, points in samples._asdict().items()
            if points is not None
        },
        objective=REGRESSION,
        out_features=1,
        source=f"function {name} of {len(names)} variables, drawn with seed",
        seeded=True,
        extras={"columns": columns.to_record()},
        tabulate_fit=functools.partial(functions.tabulate_fit, name, bounds=config.range),
    )


def _load_equation(config: Config) -> Task:
    name = config.task.removeprefix("pde:")
    equation = pdes.find_equation(name)
    pdes.require_usable(name, equation)
    is_known = equation.reference is not None
    splits = pdes.sample(equation, config.seed, config.points)
    return Task(
        name=config.task,
        splits={part: host_split(*points) for part, points in splits.items()},
        objective=EQUATION if is_known else EQUATION_WITHOUT_SOLUTION,
        out_features=1,
        source=f"equation {name} of {len(equation.low)} coordinates, drawn with seed",
        seeded=True,
        tabulate_fit=functools.partial(pdes.tabulate_fit, equation) if is_known else None,
    )


def _load_image(config: Config) -> Task:
    image, source = image_function.load_image(config.task.removeprefix("image:"), config.data_dir)
    height, width, channels = image.shape
    parts = image_function.split(image, config.range, config.validation_fraction)
    return Task(
        name=config.task,
        splits={part: host_split(*pixels) for part, pixels in parts.items()},
        objective=IMAGE,
        out_features=channels,
        source=f"{source}, {height} x {width} pixels",
        tabulate_fit=functools.partial(image_function.tabulate_fit, image, config.range),
    )


def _load_table(config: Config) -> Task:
    path = find_file(config.task.removeprefix("table:"), config.data_dir)
    fields = {name: getattr(config, name) for name in tables.Options._fields}
    table = tables.load_table(path, tables.Options(**fields))
    target = table.encoding.target
    classes, is_values = target.categories or (), target.categories is None
    fitted = COLUMN_REGRESSION_WITH_DERIVATIVES if config.derivative_weight else COLUMN_REGRESSION
    return Task(
        name=config.task,
        splits={part: host_split(*pair) for part, pair in table.parts.items()},
        objective=fitted if is_values else CLASSIFICATION,
        out_features=1 if is_values else len(classes),
        class_names=classes,
        source=f"column {target.name} of {path}",
        seeded=not config.split_column,
        extras={"columns": table.encoding.to_record(), "sha256": table.sha256},
        label_scale=target.scale if is_values else None,
    )


def _load_images(config: Config) -> Task:
    return _task_of_images(config, images.load(config.task, config.data_dir))


def _load_arrays(config: Config) -> Task:
    path = find_file(config.task.removeprefix("arrays:"), config.data_dir)
    return _task_of_images(config, arrays.load_arrays(path))


def _task_of_images(config: Config, dataset: Dataset) -> Task:
    fraction = config.validation_fraction
    try:
        kept, held_out = stratified_split(dataset.train_labels, fraction, 42)
    except ValueError as error:  # too few images for so many classes
        raise ValueError(f"validation_fraction = {fraction}: {error}") from error
    parts = {
        "train": (dataset.train_inputs[kept], dataset.train_labels[kept]),
        "validation": (dataset.train_inputs[held_out], dataset.train_labels[held_out]),
        "test": (dataset.test_inputs, dataset.test_labels),
    }
    return Task(
        name=config.task,
        splits={
            part: host_split(inputs, labels.astype(np.int32))
            for part, (inputs, labels) in parts.items()
        },
        objective=CLASSIFICATION,
        out_features=len(dataset.class_names),
        scale=dataset.scale,
        class_names=dataset.class_names,
        source=dataset.source,
    )


def _load_users(config: Config) -> Task:
    return make_task(config.task, config.seed)


CONTEXT = 64
"""Characters of one example of text."""


def _load_text(config: Config) -> Task:
    corpus = load_text(config.task, config.data_dir)
    # Training sees a window at every place, evaluation each character once.
    strides = {"train": 1, "validation": CONTEXT, "test": CONTEXT}
    splits = {}
    for name, stride in strides.items():
        characters = corpus.splits[name]
        if len(characters) <= CONTEXT:
            raise DataError(
                f"{corpus.source}: {len(characters)} characters in {name}, expected at least "
                f"{CONTEXT + 1}"
            )
        windows = np.lib.stride_tricks.sliding_window_view(characters, CONTEXT + 1)[::stride]
        splits[name] = host_split(windows[:, :-1], windows[:, 1:])
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
        ("seed", "range", "points", "label_noise"),
        lambda name: functions.dimension(name.removeprefix("function:")),
        argument="NAME",
        about="a function of a few variables to fit: one of those below, or MODULE:NAME",
    ),
    "pde:": Kind(
        _load_equation,
        ("seed", "points"),
        lambda name: pdes.find_equation(name.removeprefix("pde:")),
        lambda name, *given: pdes.outputs(pdes.find_equation(name.removeprefix("pde:")), *given),
        argument="NAME",
        about="a differential equation to solve: " + ", ".join(pdes.EQUATIONS) + ", or MODULE:NAME",
    ),
    "image:": Kind(
        _load_image,
        ("data_dir", "range", "validation_fraction"),
        argument="NAME",
        about=f"an image to fit as a function of the place: {', '.join(image_function.NAMES)}, or "
        "your FILE.png",
    ),
    "table:": Kind(
        _load_table,
        ("data_dir", *tables.Options._fields),
        argument="FILE",
        about="your CSV file, or .npz with x and y: --target COLUMN from the others",
    ),
    "arrays:": Kind(
        _load_arrays,
        ("data_dir", "validation_fraction"),
        argument="FILE.npz",
        about="your images: x_train, y_train, x_test, y_test",
    ),
}
"""By name, or by the part of the name up to the colon."""

USERS = Kind(_load_users, ("seed",), find_maker, about="your function that returns a Task")
"""Any other MODULE:NAME: a function of the user's."""
