"""The loop over phases and epochs, for one run or several at once.

The host writes the rows of an epoch while the device computes the next.
"""

import dataclasses
import functools
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments import outcome, run_folder, train
from experiments.config import Config, epochs_before, phases
from experiments.evaluation import predict
from experiments.program import (
    Program,
    State,
    carry_moments,
    selected,
    stack,
    start_phase,
    unstack,
)
from experiments.progress import Progress
from experiments.run_folder import START, Checkpoints, Position, RunError
from experiments.tasks import Split, Task
from smartmixed_jax import summarize

WRITERS = 8
"""Checkpoints of several runs are written in so many threads."""


@dataclasses.dataclass(eq=False)
class Run:
    """One run of a group, on the host.

    Attributes:
        position: where it stands.
        layers: the summary of its fixed choices, in phase 2.
        error: why it stopped; its place in the group's arrays is then ignored.
    """

    config: Config
    task: Task
    folder: Path
    checkpoints: Checkpoints
    position: Position = START
    layers: dict[str, Any] = dataclasses.field(default_factory=dict)
    error: RunError | None = None

    @property
    def epochs_done(self) -> int:
        return epochs_before(self.config, self.position.phase) + self.position.epoch


class Phase(NamedTuple):
    """A group's arrays in one phase; `start_phase` returns those of one run."""

    program: Program
    state: State
    rest: nnx.State


def enter(run: Run, model: nnx.Module) -> Phase:
    """The model in the phase at which a run stands."""
    run.layers = summarize(model) if run.position.phase == 1 else {}
    return Phase(*start_phase(model, run.config, run.task, run.position.phase))


def stacked(started: Sequence[Phase]) -> Phase:
    (program,) = {phase.program for phase in started}
    return Phase(
        dataclasses.replace(program, runs=len(started)),
        stack([phase.state for phase in started]),
        stack([phase.rest for phase in started]),
    )


def train_phases(runs: list[Run], start: Phase, progress: Progress) -> None:
    """Trains runs that stand at the same epoch to their end; what they leave is in their folders.

    A loss that is not finite stops its run only: `Run.error` says so.
    """
    phase: Phase | None = start
    while phase is not None:
        phase = _train_phase(runs, phase, progress)
        runs, phase = _next_phase(runs, phase)


def _train_phase(runs: Sequence[Run], phase: Phase, progress: Progress) -> Phase:
    """Trains to the end of the phase, or until every run has stopped."""
    program, state, rest = phase
    data = _data(runs, "train"), _data(runs, "validation")
    size = len(runs[0].task.splits["train"].labels)
    seeds = [run.config.seed for run in runs]
    interval = min(run.config.checkpoint_seconds for run in runs)
    begun = saved = time.monotonic()
    pending: dict[str, Any] | None = None
    run_epoch = train.epoch_function(program)
    for epoch in range(runs[0].position.epoch, program.spec.epochs):
        draws = train.draw(program, seeds, epoch, size)
        state, metrics = run_epoch(program, state, rest, *data, draws, jnp.int32(epoch))
        # The device has its next epoch: time to look at the last one.
        if pending is not None:
            begun = _record(runs, program, pending, begun, progress)
        pending = metrics
        if epoch + 1 == program.spec.epochs or time.monotonic() - saved >= interval:
            begun = _record(runs, program, pending, begun, progress)
            pending = None
            _save(runs, state)
            saved = time.monotonic()
        if all(run.error for run in runs):
            break
    return Phase(program, state, rest)


def _data(runs: Sequence[Run], split: str) -> Split:
    """Images are the same for all runs; every seed has its own points of a function."""
    own = [run.task.splits[split] for run in runs]
    return stack(own if runs[0].config.is_regression else own[:1])


def _record(
    runs: Sequence[Run],
    program: Program,
    metrics: dict[str, Any],
    begun: float,
    progress: Progress,
) -> float:
    """Waits for an epoch, writes a row per run, and returns the time when it was there.

    A row's seconds are the run's share: the time since the epoch before, over the runs.
    """
    metrics = jax.device_get(metrics)
    now = time.monotonic()
    rows = []
    for run, own in zip(runs, unstack(metrics, program.runs), strict=True):
        if run.error:
            continue
        run.position = run.position._replace(epoch=run.position.epoch + 1)
        losses, layers = own.pop("step_losses"), own.pop("layers")
        run.error = _not_finite(losses, program, run.epochs_done)
        if run.error:
            continue
        row = {
            "epoch": run.epochs_done,
            "phase": program.spec.name,
            "phase_epoch": run.position.epoch,
            **{name: float(value) for name, value in own.items()},
            "first_step_loss": float(losses[0]),
            "lowest_step_loss": float(losses.min()),
            "seconds": (now - begun) / program.runs,
            "layers": _layer_records(layers, run.config.activation_pool.names) or run.layers,
        }
        run_folder.append_metrics(run.folder, row)
        rows.append(row)
    if rows:
        progress.update(rows)
    return now


def _not_finite(losses: np.ndarray, program: Program, epoch: int) -> RunError | None:
    bad = np.flatnonzero(~np.isfinite(losses))
    if not bad.size:
        return None
    return RunError(
        f"the loss is {losses[bad[0]]} in step {bad[0] + 1} of {program.steps} of epoch {epoch} "
        f"({program.spec.name} phase): stopped; the last checkpoint is from before"
    )


def _layer_records(
    layers: dict[str, dict[str, np.ndarray]], names: Sequence[str]
) -> dict[str, Any]:
    """The records of `summarize` from the numbers of an epoch; empty for no selective layer."""
    records = {}
    for path, own in layers.items():
        counts, features = own["counts"].tolist(), int(own["counts"].sum())
        records[path] = {
            "features": features,
            "counts": dict(zip(names, counts, strict=True)),
            "shares": {n: count / features for n, count in zip(names, counts, strict=True)},
            **{name: float(own[name]) for name in ("max_probability", "entropy", "undecided")},
        }
    return records


def _save(runs: Sequence[Run], state: State) -> None:
    living = [
        (run, own)
        for run, own in zip(runs, unstack(state, len(runs)), strict=True)
        if run.error is None
    ]

    def save(run: Run, own: State) -> None:
        run.checkpoints.save(run.epochs_done, own, run.position)

    if len(living) == 1:
        return save(*living[0])
    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(lambda pair: save(*pair), living))


def _next_phase(runs: Sequence[Run], phase: Phase) -> tuple[list[Run], Phase | None]:
    """The runs that have another phase, at its beginning; the others have left their results."""
    program = dataclasses.replace(phase.program, runs=1)
    states, rests = (unstack(tree, len(runs)) for tree in (phase.state, phase.rest))
    ended = [
        (run, _end_phase(run, Phase(program, state, rest)))
        for run, state, rest in zip(runs, states, rests, strict=True)
        if run.error is None
    ]
    going_on = [run for run, start in ended if start]
    started = [start for _, start in ended if start]
    return going_on, stacked(started) if started else None


def _end_phase(run: Run, phase: Phase) -> Phase | None:
    """Leaves what a run leaves after a phase; returns its next one."""
    config, task, folder, (program, state, rest) = run.config, run.task, run.folder, phase
    result, outputs = outcome.finish_phase(config, task, folder, program, state, rest)
    run.position = run.position._replace(results=(*run.position.results, result))
    params = selected(program, state)
    if program.phase + 1 == len(phases(config)):
        fitted = functools.partial(predict, program, params, rest)
        outcome.write_summary(config, task, folder, run.position, outputs, fitted)
        return None
    model, run.position = outcome.switch_phase(
        config, task, folder, program, program.model(params, rest), run.position
    )
    start = enter(run, model)
    if config.carry_moments:
        start = start._replace(state=carry_moments(state, start.state))
    return start
