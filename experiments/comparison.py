"""Finished runs of one task side by side: what the table of `report` and the figure both show."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from experiments.config import Config
from experiments.names import row_details
from experiments.run_folder import FinishedRun, TaskRecord, read_finished

LEARNED = "two_phase"
BEST_UNIFORM = "best uniform, by validation"
BEST_START = "best start, by validation"
START = ("start ", "start_probability ")
"""How the details of a start begin."""


class Row(NamedTuple):
    """Runs whose configs differ in nothing but the seed.

    Attributes:
        variant: `Config.variant`.
        details: what else tells the row from the others.
        runs: by their seed.
        folders: of the runs, by their seed.
    """

    variant: str
    details: tuple[str, ...]
    runs: dict[int, FinishedRun]
    folders: dict[int, Path]

    @property
    def name(self) -> str:
        return ", ".join((self.variant, *self.details))

    @property
    def config(self) -> Config:
        """Of its first run."""
        return next(iter(self.runs.values())).config

    @property
    def is_uniform(self) -> bool:
        return self.config.is_uniform

    def scores(self) -> dict[int, float]:
        """The number by which runs of the task are compared, by seed."""
        return {
            seed: run.task.objective.compared(run.summary["phases"][-1])
            for seed, run in self.runs.items()
        }


@dataclass(frozen=True)
class Comparison:
    """Rows in the order in which their first runs were named."""

    task: TaskRecord
    rows: list[Row]

    @property
    def seeds(self) -> list[int]:
        return sorted({seed for row in self.rows for seed in row.runs})

    def best_uniform(self) -> list[Row]:
        """Per seed the uniform run with the best validation result; a row per set of details."""
        return _best(BEST_UNIFORM, [row for row in self.rows if row.is_uniform])

    def best_start(self) -> list[Row]:
        """The same of learned runs that start from several functions, named one by one."""
        rows = [
            row._replace(details=tuple(d for d in row.details if not d.startswith(START)))
            for row in self.rows
            if row.variant == LEARNED and row.config.start not in ("auto", "none")
        ]
        several = len({row.config.start for row in rows}) > 1
        return _best(BEST_START, rows) if several else []


def _best(name: str, rows: Sequence[Row]) -> list[Row]:
    """Per seed the run with the best validation result; a row for each set of details."""
    best: dict[tuple[str, ...], Row] = {}
    for row in rows:
        chosen = best.setdefault(row.details, Row(name, row.details, {}, {}))
        for seed, run in row.runs.items():
            known = chosen.runs.get(seed)
            if known is None or validation_error(run) < validation_error(known):
                chosen.runs[seed], chosen.folders[seed] = run, row.folders[seed]
    return list(best.values())


def validation_error(run: FinishedRun) -> float:
    """By which a method is picked without the test set; lower wins."""
    return run.task.objective.validation_error(run.summary["phases"][-1])


def compare_runs(folders: Sequence[Path]) -> Comparison:
    """Reads finished runs; a folder named twice counts once.

    Raises:
        ValueError: no runs, runs of different tasks, a run twice, or a folder without a finished
            run.
    """
    folders = list({Path(folder).resolve(): Path(folder) for folder in folders}.values())
    runs = [read_finished(folder) for folder in folders]
    by_task = {run.task.name: folder for folder, run in zip(folders, runs, strict=True)}
    if len(by_task) != 1:
        found = " and ".join(f"{name} ({folder})" for name, folder in sorted(by_task.items()))
        raise ValueError(f"expected runs of one task, got {found or 'none'}")
    details = row_details([run.config for run in runs])
    rows: dict[tuple[str, tuple[str, ...]], Row] = {}
    places: dict[tuple[str, int], Path] = {}
    for folder, run, told_apart in zip(folders, runs, details, strict=True):
        key = run.config.variant, told_apart
        row = rows.setdefault(key, Row(*key, {}, {}))
        place = row.name, run.config.seed
        if place in places:
            raise ValueError(
                f"{places[place]} and {folder} hold the same run ({row.name}, seed {place[1]})"
            )
        places[place] = folder
        row.runs[run.config.seed], row.folders[run.config.seed] = run, folder
    return Comparison(runs[0].task, list(rows.values()))
