"""Every file of a run folder: its name, its writer, its reader. Nothing else opens one.

| file | holds |
|---|---|
| config.json | the config, as `config.to_json` writes it |
| task.json | what is known of the task beside its name: `TaskRecord` |
| metrics.jsonl | a row per epoch |
| checkpoints/ | the last two states, by the number of epochs done: checkpoints.py |
| checkpoints-within-epoch/ | a later one, by epochs and steps: only while a long epoch is trained |
| choices.json | what phase 2 fixed, a function table per layer |
| selection.npz | the logits [N, K] at the switch, per layer |
| summary.json | the results of the phases, the switch, versions, the SHA-256 of the others; last |
| fit.npz | a fitted function or image beside the true one |
| figures/ | pictures |
| predictions.csv | for rows that the user gave to `experiments.evaluate` |
| .lock | held by the process that writes: folder_lock.py |

The same command in the same folder resumes.
"""

import dataclasses
import hashlib
import io
import json
import math
import os
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from experiments.config import Config, from_json, to_json, total_epochs
from experiments.names import run_name, task_folder
from experiments.objective import Objective, find_objective
from experiments.typed_json import parse_json

CONFIG, TASK, METRICS, SUMMARY = "config.json", "task.json", "metrics.jsonl", "summary.json"
CHOICES, SELECTION, FIT = "choices.json", "selection.npz", "fit.npz"
CHECKPOINTS, CHECKPOINTS_WITHIN = "checkpoints", "checkpoints-within-epoch"
FIGURES, PREDICTIONS, LOCK = "figures", "predictions.csv", ".lock"
PARTIAL = ".partial"
"""Ends the name of a file that is being written."""

RESULT_FILES = (CONFIG, TASK, SUMMARY)
DATA_FILES = (*RESULT_FILES, METRICS, CHOICES, SELECTION, FIT)
"""What tables and figures are made from: of many runs, and of one."""
CHECKED_FILES = tuple(name for name in DATA_FILES if name != SUMMARY)
"""Those whose SHA-256 is in summary.json, as far as the run has them."""

T = TypeVar("T")


class RunError(RuntimeError):
    """A run cannot start or go on; one line says why."""


class DamagedRows(ValueError):
    """metrics.jsonl does not hold the rows that a run wrote; one line says which."""


# The folder


def folder_of(config: Config) -> Path:
    """The run's folder: --run-dir, or one that no other config has."""
    if config.run_dir is not None:
        return Path(config.run_dir)
    return Path("runs") / task_folder(config.task) / run_name(config)


def figures_folder(folder: Path) -> Path:
    """Where the pictures of a run are."""
    return folder / FIGURES


def is_complete(folder: Path) -> bool:
    """The run's summary is written, and it is written last."""
    return (folder / SUMMARY).exists()


def is_intact(folder: Path) -> bool:
    """The run is complete, and its files are those that it left."""
    return is_complete(folder) and not damage(folder)


def damage(folder: Path) -> str:
    """What is wrong with the files of a complete run, one line; empty if nothing."""
    try:
        summary = _required(folder, SUMMARY, _parse_summary)
        _check_files(folder, summary)
    except ValueError as error:
        return str(error)
    return ""


def progress_of(folder: Path) -> str:
    """One line about a run that is not complete: how far it is."""
    config = _required(folder, CONFIG, _parse_config)
    done, total = len(read_metrics(folder)), total_epochs(config)
    return f"{folder} holds no finished run: {done} of {total} epochs are done"


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
    metrics, summary = read_metrics(folder), _read(folder / SUMMARY, _parse_summary)
    for name, content in ((CONFIG, config), (f"{METRICS} with an epoch", metrics), (TASK, task)):
        if not content:
            raise ValueError(f"{folder} is no run folder: it holds no {name}")
    assert config is not None
    _check_files(folder, summary or {})
    return RunData(
        config,
        metrics,
        read_choices(folder),
        read_selection(folder),
        summary,
        _read(folder / FIT, _parse_arrays),
        task,
    )


def read_finished(folder: Path) -> FinishedRun:
    """Config, task and summary of a finished run; ValueError if it is not one, or damaged."""
    folder = Path(folder)
    config = _required(folder, CONFIG, _parse_config)
    if not is_complete(folder):
        raise ValueError(progress_of(folder))
    task = _required(folder, TASK, _parse_task)
    summary = _required(folder, SUMMARY, _parse_summary)
    _check_files(folder, summary)
    if task.objective.result not in summary["phases"][-1]:
        raise ValueError(f"{folder / SUMMARY} holds no {task.objective.result} of the last phase")
    return FinishedRun(config, task, summary)


def read_config(folder: Path) -> Config | None:
    """config.json; None before it is written."""
    return _read(folder / CONFIG, _parse_config)


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl, of epochs 1, 2, …; a last line cut short is left out."""
    return _read(folder / METRICS, _parse_rows) or []


def read_selection(folder: Path) -> dict[str, np.ndarray] | None:
    """selection.npz, by the path of the layer; None before the switch."""
    return _read(folder / SELECTION, _parse_arrays)


def read_choices(folder: Path) -> dict[str, LayerChoices] | None:
    """choices.json, by the path of the layer; None before the switch."""
    return _read(folder / CHOICES, _parse_choices)


def _required(folder: Path, name: str, parse: Callable[[Path], T]) -> T:
    content = _read(folder / name, parse)
    if content is None and not folder.exists():
        raise ValueError(f"{folder} does not exist")
    if content is None:
        raise ValueError(f"{folder} is no run folder: it holds no {name}")
    return content


def _read(path: Path, parse: Callable[[Path], T]) -> T | None:
    if not path.exists():
        return None
    try:
        return parse(path)
    except _DAMAGE as error:
        raise ValueError(f"{path} cannot be read: {_told(error)}") from None


_DAMAGE: tuple[type[Exception], ...] = (OSError, EOFError, ValueError, TypeError, LookupError)
_DAMAGE += (zipfile.BadZipFile, zlib.error, NotImplementedError)


def _told(error: Exception) -> str:
    return f"it holds no {error}" if isinstance(error, KeyError) else str(error)


def _parse_config(path: Path) -> Config:
    return from_json(path.read_text())


def _parse_object(text: str) -> dict[str, Any]:
    record = parse_json(text)
    if not isinstance(record, dict):
        raise ValueError(f"expected a JSON object, got {text[:20]!r}")
    return record


def _parse_summary(path: Path) -> dict[str, Any]:
    summary = _parse_object(path.read_text())
    if summary.pop("sha256", None) not in (None, _sha256_of(summary)):
        raise ValueError("its SHA-256 is another")
    if not (isinstance(summary["phases"], list) and summary["phases"]):
        raise ValueError("it holds no phases")
    return summary


def _sha256_of(summary: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(summary, sort_keys=True).encode()).hexdigest()


def _check_files(folder: Path, summary: Mapping[str, Any]) -> None:
    """Raises ValueError for a file that is not the one that the finished run left."""
    for name, expected in summary.get("files", {}).items():
        path = folder / name
        if not path.exists():
            raise ValueError(f"{path} is missing")
        if hashlib.sha256(path.read_bytes()).hexdigest() != expected:
            raise ValueError(f"{path} cannot be read: its SHA-256 is not that of {SUMMARY}")


def _parse_task(path: Path) -> TaskRecord:
    record = _parse_object(path.read_text())
    objective = find_objective(record["objective"])
    for name in ("shape", "class_names"):
        record[name] = tuple(record[name])
    return TaskRecord(**{**record, "objective": objective})


def _parse_rows(path: Path) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(path.read_text().split("\n")[:-1], 1):
        try:
            row = _parse_object(line)
        except ValueError as error:
            raise ValueError(f"row {number} of {path}: {error}") from None
        if row.get("epoch") != number:
            raise ValueError(f"row {number} is of epoch {row.get('epoch')}")
        rows.append(row)
    return rows


def _parse_arrays(path: Path) -> dict[str, np.ndarray]:
    # Opened here: np.load leaves a damaged archive open.
    with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
        return dict(arrays)


def _parse_choices(path: Path) -> dict[str, LayerChoices]:
    return {
        layer: LayerChoices(tuple(table["pool"]), np.asarray(table["choices"], int))
        for layer, table in _parse_object(path.read_text()).items()
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
    write_text(folder / TASK, json_text(record, indent=2))


class Rows:
    """The rows of metrics.jsonl that a run knows of; the file is cut to them with the next."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / METRICS
        self._hash, self._size = hashlib.sha256(), 0

    @property
    def sha256(self) -> str:
        """Of all rows."""
        return self._hash.hexdigest()

    def append(self, row: Mapping[str, Any]) -> None:
        """Adds the row of an epoch; RunError if it cannot be written."""
        line = (json_text(row) + "\n").encode()
        try:
            with open(self._path, "r+b" if self._path.exists() else "xb") as file:
                file.truncate(self._size)
                file.seek(self._size)
                file.write(line)
        except OSError as error:
            raise RunError(f"{self._path} cannot be written ({error.strerror})") from error
        self._hash.update(line)
        self._size += len(line)

    def restore(self, epochs: int, sha256: str) -> str:
        """Goes on after the row of an epoch.

        Args:
            epochs: of which there are rows.
            sha256: of those rows.

        Returns:
            Empty, or what is damaged: rows that stand in another order, or twice, are put right.

        Raises:
            DamagedRows: the rows are not those; the line says which file.
        """
        lines = self._path.read_bytes().splitlines(keepends=True) if self._path.exists() else []
        if self._take(lines[:epochs], sha256):
            return ""
        whole = {_epoch_of(line): line for line in lines}
        ordered = [whole[epoch] for epoch in range(1, epochs + 1) if epoch in whole]
        if not self._take(ordered, sha256):
            missing = [str(epoch) for epoch in range(1, epochs + 1) if epoch not in whole]
            problem = f"no row of epoch {', '.join(missing)}" if missing else "a row is another"
            raise DamagedRows(f"{self._path} is damaged ({problem})")
        write_bytes(self._path, b"".join(ordered))
        return f"{self._path}: the rows were not in order or twice; put right"

    def _take(self, lines: Sequence[bytes], sha256: str) -> bool:
        text = b"".join(lines)
        known = hashlib.sha256(text)
        if known.hexdigest() != sha256:
            return False
        self._hash, self._size = known, len(text)
        return True


def _epoch_of(line: bytes) -> Any:
    try:
        epoch = parse_json(line)["epoch"]
    except (ValueError, LookupError, TypeError):
        return None
    return epoch if isinstance(epoch, int) else None


def write_choices(folder: Path, layers: Mapping[str, LayerChoices]) -> None:
    """By the path of the layer."""
    record = {
        path: {"pool": layer.pool, "choices": layer.choices.tolist()}
        for path, layer in layers.items()
    }
    write_text(folder / CHOICES, json_text(record))


def write_selection(folder: Path, logits: Mapping[str, np.ndarray]) -> None:
    """The logits [N, K] by the path of their layer."""
    _write_arrays(folder / SELECTION, logits)


def write_fit(folder: Path, arrays: Mapping[str, np.ndarray]) -> None:
    _write_arrays(folder / FIT, arrays)


def write_summary(folder: Path, summary: Mapping[str, Any]) -> None:
    """The last file of a run: from now on it is complete."""
    files = {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in CHECKED_FILES
        if (folder / name).exists()
    }
    record = json.loads(json_text({**summary, "files": files}))
    record.pop("sha256", None)  # of a summary that was read as it stands
    write_text(folder / SUMMARY, json_text({**record, "sha256": _sha256_of(record)}, indent=2))


def json_text(record: Any, indent: int | None = None) -> str:
    """JSON without NaN and infinity, which no other reader knows; RunError if there is one."""
    try:
        return json.dumps(record, indent=indent, allow_nan=False)
    except ValueError:
        raise RunError(f"a result is not finite: {_not_finite(record)}") from None


def _not_finite(record: Any, place: str = "") -> str:
    """The first number that is not finite, and where it is."""
    if isinstance(record, float) and not math.isfinite(record):
        return f"{place} is {record}"
    parts: Any = record.items() if isinstance(record, Mapping) else ()
    if isinstance(record, list | tuple):
        parts = enumerate(record)
    found = (_not_finite(part, f"{place}.{name}".lstrip(".")) for name, part in parts)
    return next(filter(None, found), "")


def write_text(path: Path, text: str) -> None:
    """Whole or not at all."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Whole or not at all."""
    temporary = path.with_name(path.name + PARTIAL)
    temporary.write_bytes(content)
    os.replace(temporary, path)


def _write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    content = io.BytesIO()
    np.savez(content, **arrays)  # type: ignore[arg-type]
    write_bytes(path, content.getvalue())
