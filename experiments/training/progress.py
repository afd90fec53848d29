"""A progress bar with loss, score and time left; plain lines where there is no terminal."""

import statistics
import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import rich.progress

from experiments.config import Config, total_epochs
from experiments.objective import Objective

LINE_SECONDS = 10.0
"""Without a terminal, a line at most this often."""


class Progress:
    """Shows the epochs of runs that train at once; `update` takes their rows of metrics.jsonl.

    Args:
        configs: of the runs, all of one task.
        objective: of that task.
        enabled: False shows nothing.
    """

    def __init__(
        self, configs: Sequence[Config], objective: Objective, enabled: bool = True
    ) -> None:
        config = configs[0]
        self._title = f"{config.task} {config.variant} seed {config.seed}"
        if len(configs) > 1:
            self._title = f"{config.task} {len(configs)} runs"
        self._total = total_epochs(config)
        self._objective = objective
        self._enabled = enabled
        self._bar: rich.progress.Progress | None = None
        self._last_line = 0.0
        if enabled and sys.stdout.isatty():
            self._bar = rich.progress.Progress(
                rich.progress.TextColumn("{task.description}"),
                rich.progress.BarColumn(),
                rich.progress.MofNCompleteColumn(),
                rich.progress.TextColumn("{task.fields[metrics]}"),
                rich.progress.TimeRemainingColumn(),
            )

    def __enter__(self) -> "Progress":
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task(self._title, total=self._total, metrics="compiling")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, rows: Sequence[dict[str, Any]]) -> None:
        """One epoch is done: a row per run, of which the means are shown."""
        names = ("train_loss", "validation_loss", "validation_score")
        means = {name: statistics.fmean(row[name] for row in rows) for name in names}
        row = {**rows[0], **means}
        text = f"loss {row['train_loss']:.4g}  validation {row['validation_loss']:.4g}"
        if self._objective.has_score:
            score = self._objective.format_metric(row["validation_score"], ".2f")
            text += f"  {self._objective.metric} {score}"
        if self._bar is not None:
            self._bar.update(self._task, completed=row["epoch"], metrics=f"{row['phase']} {text}")
        elif self._enabled:
            now = time.monotonic()
            if now - self._last_line >= LINE_SECONDS or row["epoch"] == self._total:
                self._last_line = now
                head = f"{self._title}: epoch {row['epoch']}/{self._total} {row['phase']}"
                print(f"{head}  {text}", flush=True)
