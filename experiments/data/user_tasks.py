"""A task of the user's: a function MODULE:NAME that returns a `Task`."""

import dataclasses
import inspect
import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.config import LARGEST, SMALLEST
from experiments.data.task import Split, Task, host_split
from experiments.importing import load_object, one_line
from experiments.objective import (
    OBJECTIVES,
    Objective,
    cross_entropy,
    double_softmax_cross_entropy,
)
from experiments.typed_json import is_number, shown


def find_maker(name: str) -> Callable[..., Any]:
    """The function; ValueError if there is none, or it takes more than a seed."""
    maker = load_object("task", name)
    if not callable(maker):
        raise ValueError(f"task = {name!r} is a {type(maker).__name__}, expected a function")
    try:
        parameters = inspect.signature(maker).parameters.values()
    except (ValueError, TypeError) as error:
        raise ValueError(f"task = {name!r}: its arguments cannot be read ({error})") from None
    needed = [p.name for p in parameters if p.default is p.empty and p.kind < p.VAR_POSITIONAL]
    if needed not in ([], ["seed"]):
        raise ValueError(f"task = {name!r} takes {', '.join(needed)}, expected nothing, or seed")
    return maker


def make_task(name: str, seed: int) -> Task:
    """The task that the user's function returns, its splits on the host.

    Args:
        name: MODULE:NAME.
        seed: for a function that takes one; its data then differ between seeds.

    Raises:
        ValueError: the function fails or returns something else; the line says what.
    """
    maker = find_maker(name)
    seeded = "seed" in inspect.signature(maker).parameters
    try:
        task = maker(seed=seed) if seeded else maker()
    except (Exception, SystemExit) as error:  # whatever the user's function raises
        raise ValueError(f"task = {name!r} fails ({one_line(error)})") from error
    try:
        return _checked(task, name, seeded)
    except (ValueError, TypeError) as error:
        raise ValueError(f"task = {name!r}: {one_line(error).partition(': ')[2]}") from error


def _checked(task: Any, name: str, seeded: bool) -> Task:
    if not isinstance(task, Task):
        raise ValueError(f"the function returns {type(task).__name__}, expected a Task")
    if not isinstance(task.splits, Mapping) or not {"train", "validation", "test"} <= {
        *task.splits
    }:
        found = list(task.splits) if isinstance(task.splits, Mapping) else task.splits
        raise ValueError(f"splits are {shown(found)}, expected train, validation and test")
    splits = {part: _checked_split(part, split) for part, split in task.splits.items()}
    for what in ("inputs", "labels"):
        shapes = {getattr(split, what).shape[1:] for split in splits.values()}
        kinds = {getattr(split, what).dtype for split in splits.values()}
        if len(shapes) > 1 or len(kinds) > 1:
            raise ValueError(f"{what} of the splits differ: {shapes} {kinds}")
    if type(task.out_features) is not int or task.out_features < 1:
        raise ValueError(f"out_features = {task.out_features!r}, expected an integer >= 1")
    for field in ("scale", "label_scale"):
        value = getattr(task, field)
        if value is not None and not (is_number(value) and SMALLEST <= value <= LARGEST):
            raise ValueError(f"{field} = {value!r}, expected None or a float32 above 0")
    if task.takes_tokens and any(split.inputs.dtype.kind == "f" for split in splits.values()):
        raise ValueError("scale = None: expected tokens, integers, as inputs, found floats")
    if not isinstance(task.source, str):
        raise ValueError(f"source = {shown(task.source)}, expected text")
    if task.tabulate_fit is not None and not callable(task.tabulate_fit):
        raise ValueError(f"tabulate_fit = {shown(task.tabulate_fit)}, expected a function")
    if not isinstance(task.extras, Mapping):
        raise ValueError(f"extras = {shown(task.extras)}, expected a dict")
    if not all(isinstance(name, str) for name in task.class_names):
        raise ValueError(f"class_names = {shown(task.class_names)}, expected texts")
    if not isinstance(task.objective, Objective):
        raise ValueError(f"objective is {type(task.objective).__name__}, expected an Objective")
    task = dataclasses.replace(
        task,
        name=name,
        splits=splits,
        objective=_named(task.objective, name),
        class_names=tuple(task.class_names),
        seeded=seeded,
        source=task.source or f"the function {name}",
        extras=json.loads(json.dumps(dict(task.extras))),
    )
    if task.class_names and len(task.class_names) != task.out_features:
        raise ValueError(f"{len(task.class_names)} class_names for {task.out_features} classes")
    labels = np.concatenate([np.asarray(split.labels).reshape(-1) for split in splits.values()])
    if task.objective.loss in (cross_entropy, double_softmax_cross_entropy) and (
        labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= task.out_features
    ):
        raise ValueError(
            f"labels are {labels.dtype} in [{labels.min()}, {labels.max()}], expected classes "
            f"0 to {task.out_features - 1}"
        )
    _check_objective(task)
    return task


def _check_objective(task: Task) -> None:
    """Raises ValueError if the objective does not give a number per example."""
    labels = task.splits["train"].labels[:3]
    if task.objective.normalized and (labels.shape[1:] != (1,) or task.out_features != 1):
        raise ValueError(
            f"labels are {['M', *labels.shape[1:]]} and out_features = {task.out_features}, "
            f"expected ['M', 1] and 1 for {task.objective.name}"
        )
    places = task.shape[:1] if task.takes_tokens else ()
    outputs = jax.ShapeDtypeStruct((len(labels), *places, task.out_features), jnp.float32)
    for name in ("loss", "score"):
        what = f"the {name} for outputs {list(outputs.shape)} and labels {list(labels.shape)}"
        try:
            result = jax.eval_shape(getattr(task.objective, name), outputs, labels)
        except Exception as error:  # whatever the user's objective raises
            raise ValueError(f"{what} fails ({one_line(error)})") from error
        if result.shape != outputs.shape[:-1]:
            raise ValueError(f"{what} is {list(result.shape)}, expected a number per prediction")


def _checked_split(part: str, split: Any) -> Split:
    if not isinstance(split, tuple | list) or len(split) != 2:
        raise ValueError(f"split {part} is {type(split).__name__}, expected Split(inputs, labels)")
    inputs, labels = map(np.asarray, split)
    for what, array in (("inputs", inputs), ("labels", labels)):
        if array.dtype.kind not in "fiub" or not array.ndim or not array.size:
            raise ValueError(
                f"{what} of {part} are {array.dtype} {list(array.shape)}, expected numbers [M, ...]"
            )
    if inputs.ndim < 2 or len(inputs) != len(labels):
        raise ValueError(
            f"{part} has inputs {list(inputs.shape)} and labels {list(labels.shape)}, expected "
            "[M, ...] each, the same M"
        )
    for what, array in (("inputs", inputs), ("labels", labels)):
        if array.dtype.kind in "iu" and not -(2**31) <= array.min() <= array.max() < 2**31:
            raise ValueError(
                f"{what} of {part} lie in [{array.min()}, {array.max()}], expected int32"
            )
    with np.errstate(over="ignore"):  # what is infinite in float32 is refused with the rest
        if inputs.dtype != np.uint8:
            inputs = inputs.astype(
                np.int32 if inputs.dtype.kind in "iu" else np.float32, copy=False
            )
        labels = labels.astype(np.float32 if labels.dtype.kind == "f" else np.int32, copy=False)
    if labels.dtype == np.float32 and labels.ndim == 1:
        labels = labels[:, None]  # values [M]: outputs are [M, 1]
    return host_split(inputs, labels)


def _named(objective: Objective, task_name: str) -> Objective:
    """An objective of the user's under its place MODULE:NAME, by which a run folder finds it."""
    if objective in OBJECTIVES.values():
        return objective
    module = task_name.partition(":")[0]
    for name, value in vars(sys.modules[module]).items():
        if value is objective:
            return dataclasses.replace(objective, name=f"{module}:{name}")
    raise ValueError(
        f"the objective {objective.name!r} is made inside the function, expected one that has a "
        f"name in the module {module}, where a run folder finds it again"
    )
