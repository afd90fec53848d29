"""Every file of a run folder: its name, its writer, its reader. Nothing else opens one.

| file | holds |
|---|---|
| config.json | the config, as `config.to_json` writes it |
| task.json | what is known of the task beside its name: `TaskRecord` |
| metrics.jsonl | a row per epoch |
| checkpoints/ | the last two states, by the number of epochs done: checkpoints.py |
| checkpoints-damaged/ | those that could not be read |
| choices.json | what phase 2 fixed, a function table per layer |
| selection.npz | the logits [N, K] at the switch, per layer |
| summary.json | the results of the phases, the switch, versions; written last |
| fit.npz | a fitted function beside the true one |
| figures/ | pictures |
| predictions.csv | for rows that the user gave to `experiments.evaluate` |
| .lock | held by the process that writes |

The same command in the same folder resumes.
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from experiments.config import Config, from_json, to_json
from experiments.objective import Objective, find_objective

CONFIG, TASK, METRICS, SUMMARY = "config.json", "task.json", "metrics.jsonl", "summary.json"
CHOICES, SELECTION, FIT = "choices.json", "selection.npz", "fit.npz"
CHECKPOINTS, DAMAGED_CHECKPOINTS = "checkpoints", "checkpoints-damaged"
FIGURES, PREDICTIONS, LOCK = "figures", "predictions.csv", ".lock"

MAY_DIFFER = ("data_dir", "run_dir", "checkpoint_seconds")
"""Fields of the config that may differ when a run is resumed."""

T = TypeVar("T")


class RunError(RuntimeError):
    """A run cannot start or go on; one line says why."""


# The folder


def folder_of(config: Config) -> Path:
    """The run's folder."""
    if config.run_dir is not None:
        return Path(config.run_dir)
    return Path("runs") / _folder_name(config.task) / config.name


def _folder_name(task: str) -> str:
    """function:ratio → ratio, table:data/trees.csv → trees, my_tasks:waves → my_tasks-waves."""
    kind, _, rest = task.partition(":")
    if kind in ("table", "arrays"):
        return Path(rest).stem
    return (rest if kind == "function" else task).replace(":", "-")


def figures_folder(folder: Path) -> Path:
    """Where the pictures of a run are."""
    return folder / FIGURES


def is_complete(folder: Path) -> bool:
    """The run's summary is written, and it is written last."""
    return (folder / SUMMARY).exists()


@contextlib.contextmanager
def opened(folder: Path, config: Config) -> Iterator[None]:
    """Holds the folder for one process; makes it, or checks that it belongs to the config.

    Raises:
        RunError: another process holds the folder, it holds a run of another config, or it is
            no run folder.
        ValueError: its config.json is damaged.
    """
    stored = _read(folder / CONFIG, _parse_config)
    if stored is not None:
        _check_same(folder, stored, config)
    elif folder.exists() and any(entry.name != LOCK for entry in folder.iterdir()):
        raise RunError(f"{folder} is not empty and holds no {CONFIG}: choose another --run-dir")
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LOCK, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(f"{folder} is in use by another process") from None
        if stored is None:
            write_config(folder, config)
        yield


def _check_same(folder: Path, stored: Config, config: Config) -> None:
    differing = [
        f"{field.name} = {getattr(stored, field.name)!r} there, {getattr(config, field.name)!r} now"
        for field in dataclasses.fields(Config)
        if field.name not in MAY_DIFFER
        and getattr(stored, field.name) != getattr(config, field.name)
    ]
    if differing:
        raise RunError(
            f"{folder} holds another run ({'; '.join(differing)}): use another --run-dir"
        )


# What the files hold


class TaskRecord(NamedTuple):
    """What a run folder keeps of its task, so that no reader must know the task by its name.

    Attributes:
        name: as in the config.
        objective: loss, score, and how results are told; by its name in the file.
        shape: of one input.
        out_features: of the network.
        class_names: in the order of the labels; may be empty.
        source: one line, where the data came from.
        extras: what else the trained network needs, such as means and scales of standardised
            columns.
        scale: inputs are divided by it; None for tokens.
    """

    name: str
    objective: Objective
    shape: tuple[int, ...]
    out_features: int
    class_names: tuple[str, ...] = ()
    source: str = ""
    extras: Mapping[str, Any] = {}
    scale: float | None = 1.0

    def differs_in(self, other: "TaskRecord") -> str:
        """What differs, but for the source, by name; empty if nothing."""
        pairs = zip(self._fields, self, other, strict=True)
        return ", ".join(name for name, a, b in pairs if name != "source" and a != b)


class LayerChoices(NamedTuple):
    """The functions a layer chooses from and the chosen indices, int [N]."""

    pool: tuple[str, ...]
    choices: np.ndarray


class FinishedRun(NamedTuple):
    """What reports need of a run that is complete."""

    config: Config
    task: TaskRecord
    summary: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class RunData:
    """What a run folder holds; None where a file is missing.

    Attributes:
        config: config.json.
        metrics: the rows of metrics.jsonl, at least one.
        choices: choices.json, by the path of the layer.
        logits: selection.npz, float [N, K] by the path of the layer.
        summary: summary.json.
        fit: fit.npz.
        task: task.json.
    """

    config: Config
    metrics: list[dict[str, Any]]
    choices: dict[str, LayerChoices] | None = None
    logits: dict[str, np.ndarray] | None = None
    summary: dict[str, Any] | None = None
    fit: dict[str, np.ndarray] | None = None
    task: TaskRecord | None = None

    def rows(self, phase: str) -> list[dict[str, Any]]:
        """The metrics of one phase."""
        return [row for row in self.metrics if row["phase"] == phase]


# Reading: a ValueError names a file that is damaged


def read_run(folder: Path) -> RunData:
    """Reads all of a run folder, finished or not.

    Raises:
        ValueError: config.json, task.json or metrics.jsonl is missing or empty, or a file is
            damaged.
    """
    folder = Path(folder)
    config, task = _read(folder / CONFIG, _parse_config), _read(folder / TASK, _parse_task)
    metrics = read_metrics(folder)
    for name, content in ((CONFIG, config), (f"{METRICS} with an epoch", metrics), (TASK, task)):
        if not content:
            raise ValueError(f"{folder} is no run folder: it holds no {name}")
    assert config is not None
    return RunData(
        config,
        metrics,
        read_choices(folder),
        _read(folder / SELECTION, _parse_arrays),
        _read(folder / SUMMARY, _parse_json),
        _read(folder / FIT, _parse_arrays),
        task,
    )


def read_finished(folder: Path) -> FinishedRun:
    """Config, task and summary of a finished run; ValueError if it is not one."""
    folder = Path(folder)
    return FinishedRun(
        _required(folder, CONFIG, _parse_config),
        _required(folder, TASK, _parse_task),
        _required(folder, SUMMARY, _parse_json),
    )


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl, one per epoch; a last line cut short is left out."""
    return _read(folder / METRICS, _parse_rows) or []


def read_choices(folder: Path) -> dict[str, LayerChoices] | None:
    """choices.json, by the path of the layer; None before the switch."""
    return _read(folder / CHOICES, _parse_choices)


def _required(folder: Path, name: str, parse: Callable[[Path], T]) -> T:
    content = _read(folder / name, parse)
    if content is None:
        raise ValueError(f"{folder} holds no finished run: {folder / name} is missing")
    return content


def _read(path: Path, parse: Callable[[Path], T]) -> T | None:
    if not path.exists():
        return None
    try:
        return parse(path)
    except (OSError, EOFError, ValueError, TypeError, KeyError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None


def _parse_config(path: Path) -> Config:
    return from_json(path.read_text())


def _parse_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def _parse_task(path: Path) -> TaskRecord:
    record = json.loads(path.read_text())
    objective = find_objective(record["objective"])
    for name in ("shape", "class_names"):
        record[name] = tuple(record[name])
    return TaskRecord(**{**record, "objective": objective})


def _parse_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]]


def _parse_arrays(path: Path) -> dict[str, np.ndarray]:
    # Opened here: np.load leaves a damaged archive open.
    with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
        return dict(arrays)


def _parse_choices(path: Path) -> dict[str, LayerChoices]:
    return {
        layer: LayerChoices(tuple(table["pool"]), np.asarray(table["choices"], int))
        for layer, table in json.loads(path.read_text()).items()
    }


# Writing: a file is written whole or not at all, only rows are appended


def write_config(folder: Path, config: Config) -> None:
    write_text(folder / CONFIG, to_json(config))


def keep_task(folder: Path, task: TaskRecord) -> None:
    """Writes what is known of the task; RunError if the folder has a run on other data."""
    if changed := task.differs_in(_read(folder / TASK, _parse_task) or task):
        raise RunError(f"{folder} holds a run on other data ({changed}): use another --run-dir")
    write_task(folder, task)


def write_task(folder: Path, task: TaskRecord) -> None:
    record = {**task._asdict(), "objective": task.objective.name}
    write_text(folder / TASK, json.dumps(record, indent=2))


def append_metrics(folder: Path, row: Mapping[str, Any]) -> None:
    """Adds the row of an epoch."""
    with open(folder / METRICS, "a") as file:
        file.write(json.dumps(row) + "\n")


def truncate_metrics(folder: Path, epochs: int) -> None:
    """Keeps the rows of the first `epochs` epochs: what the checkpoint knows."""
    rows = read_metrics(folder)[:epochs]
    write_text(folder / METRICS, "".join(json.dumps(row) + "\n" for row in rows))


def write_choices(folder: Path, tables: Mapping[str, Mapping[str, Any]]) -> None:
    """A table's record (`pool`, `choices`) by the path of its layer."""
    write_text(folder / CHOICES, json.dumps(tables))


def write_selection(folder: Path, logits: Mapping[str, np.ndarray]) -> None:
    """The logits [N, K] by the path of their layer."""
    _write_arrays(folder / SELECTION, logits)


def write_fit(folder: Path, arrays: Mapping[str, np.ndarray]) -> None:
    _write_arrays(folder / FIT, arrays)


def write_summary(folder: Path, summary: Mapping[str, Any]) -> None:
    """The last file of a run: from now on it is complete."""
    write_text(folder / SUMMARY, json.dumps(summary, indent=2))


def write_text(path: Path, text: str) -> None:
    """Whole or not at all."""
    temporary = path.with_name(path.name + ".partial")
    temporary.write_text(text)
    os.replace(temporary, path)


def _write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    temporary = path.with_name(path.name + ".partial")
    with open(temporary, "wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    os.replace(temporary, path)
