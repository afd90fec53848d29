"""A run, from its data to its results: `train_and_evaluate`, and the steps that it is made of.

Several runs at once are in parallel.py, made of the same steps.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments import folder_lock, run_folder
from experiments.checkpoints import START, Checkpoints, DamagedCheckpoint
from experiments.config import Config
from experiments.data.tasks import Split, Task, load_task
from experiments.run_folder import RunError, folder_of, is_complete
from experiments.training import networks, step
from experiments.training.draws import draw
from experiments.training.outcome import switch_phase, test_phase, write_results
from experiments.training.progress import Progress
from experiments.training.state import PhaseState, Run, TrainState, start_phase
from smartmixed_jax import summarize

Build = Callable[[Config, Task], nnx.Module]
"""The network with which a run begins."""


class LossNotFinite(RunError):
    """Training cannot go on; the last checkpoint is from before."""


def train_and_evaluate(
    config: Config, *, load: Callable[[Config], Task] = load_task, show_progress: bool = True
) -> Path:
    """Trains a run, or resumes it at its newest checkpoint, or finds it complete.

    Args:
        config: what to train.
        load: returns the task of the config.
        show_progress: on the terminal.

    Returns:
        The run's folder; run_folder.py says what it holds.

    Raises:
        ValueError: the config names no task, or does not fit it; nothing is written.
        DataError: the data cannot be had; nothing is written.
        RunError: the folder is in use or belongs to another config, the loss is not finite, or
            the disk is full.
    """
    folder = folder_of(config)
    # Before the folder is made: without data nothing is written.
    task = None if is_complete(folder) else load_fitting_task(config, load)
    with folder_lock.opened(folder, config):
        if task is None or is_complete(folder):
            return folder
        run_folder.keep_task(folder, task.record())
        with Checkpoints(folder) as checkpoints:
            run = Run(config, task, folder, checkpoints)
            phase = resume(run)
            if phase is None:
                network = networks.build_model(config, task)
                phase = begin_phase(run, network)
            with Progress([config], task.objective, show_progress) as progress:
                # Phase 1, in which the neurons choose; of a uniform network the only one.
                if run.position.phase_index == 0:
                    phase = train_phase(run, phase, progress)
                    outputs = test_phase(run, phase)
                    if config.method == "two_phase":
                        network = switch_phase(run, phase)
                        phase = begin_phase(run, network)
                # Phase 2, with fixed choices.
                if run.position.phase_index == 1:
                    phase = train_phase(run, phase, progress)
                    outputs = test_phase(run, phase)
                write_results(run, phase, outputs)
    return folder


def load_fitting_task(config: Config, load: Callable[[Config], Task]) -> Task:
    """The task of a config; ValueError if its network does not fit."""
    task = load(config)
    networks.require_fit(config, task)
    return task


# Where a run goes on


def resume(run: Run) -> PhaseState | None:
    """The phase at the newest checkpoint that can be read; None: the run begins."""
    for epochs in sorted(run.checkpoints.epochs(), reverse=True):
        phase = restore(run, epochs)
        if phase is not None:
            forget_after(run, epochs)
            return phase
    forget_after(run, 0)
    return None


def restore(run: Run, epochs: int, build: Build = networks.build_model) -> PhaseState | None:
    """The phase after so many epochs of the run; None if that checkpoint is damaged.

    Args:
        build: the network of the first phase.
    """
    try:
        run.position = run.checkpoints.restore_position(epochs)
        if run.position.phase_index == 0:
            model = build(run.config, run.task)
        else:
            choices = list(run.position.choices)
            model = networks.mixed_model(run.config, run.task, choices)
        phase = begin_phase(run, model)
        return phase._replace(state=run.checkpoints.restore_state(epochs, phase.state))
    except DamagedCheckpoint as error:
        place = run.checkpoints.set_aside(epochs)
        print(f"{error}; kept as {place}, falling back", flush=True)
        run.position = START
        return None


def forget_after(run: Run, epochs: int) -> None:
    """Drops the checkpoints and rows that a run which goes on from `epochs` will write again."""
    run.checkpoints.drop_after(epochs)
    run_folder.truncate_metrics(run.folder, epochs)


# A phase


def begin_phase(run: Run, model: nnx.Module) -> PhaseState:
    """The phase at which the run stands, at its beginning, with the weights of the model."""
    run.fixed_layers = summarize(model) if run.position.phase_index == 1 else {}
    return start_phase(model, run.config, run.task, run.position.phase_index)


def train_phase(run: Run, phase: PhaseState, progress: Progress) -> PhaseState:
    """Trains to the end of the phase; every epoch leaves a row, and some a checkpoint."""
    epochs = run_epochs(
        phase,
        run.task.splits["train"],
        run.task.splits["validation"],
        seeds=[run.config.seed],
        size=len(run.task.splits["train"].labels),
        first_epoch=run.position.phase_epoch,
        checkpoint_seconds=run.config.checkpoint_seconds,
    )
    for epoch in epochs:
        progress.update([record_epoch(run, phase, epoch.metrics, epoch.seconds)])
        if epoch.state is not None:
            phase = phase._replace(state=epoch.state)
            run.checkpoints.save(run.epochs_done, epoch.state, run.position)
    return phase


class Epoch(NamedTuple):
    """What the host learns of an epoch; with R > 1 runs, metrics and state are [R, ...].

    Attributes:
        metrics: as `run_epoch` returns them, on the host.
        seconds: since the epoch before.
        state: after it, where a checkpoint is due, and always after the last; else None.
    """

    metrics: dict[str, Any]
    seconds: float
    state: TrainState | None


def run_epochs(
    phase: PhaseState,
    train: Split,
    validation: Split,
    *,
    seeds: Sequence[int],
    size: int,
    first_epoch: int,
    checkpoint_seconds: float,
) -> Iterator[Epoch]:
    """Trains to the end of the phase, and yields every epoch when it is done.

    An epoch is yielded while the device computes the next, except where a checkpoint is due.

    Args:
        phase: at the beginning of `first_epoch`; its state is donated.
        train, validation: data on the device.
        seeds: of the phase's runs.
        size: number of training examples of a run.
        first_epoch: within the phase, from 0.
        checkpoint_seconds: between two checkpoints.
    """
    program, state, non_trainable = phase
    run_epoch = step.epoch_function(program)
    seen = saved = time.monotonic()

    def arrived(metrics: dict[str, Any], state: TrainState | None) -> Epoch:
        nonlocal seen
        metrics = jax.device_get(metrics)  # waits for the device
        before, seen = seen, time.monotonic()
        return Epoch(metrics, seen - before, state)

    under_way: dict[str, Any] | None = None
    for number in range(first_epoch, program.spec.epochs):
        draws = draw(program, seeds, number, size)
        state, metrics = run_epoch(
            program, state, non_trainable, train, validation, draws, jnp.int32(number)
        )
        # The device has its next epoch: time to look at the last one.
        if under_way is not None:
            yield arrived(under_way, None)
        under_way = metrics
        is_last = number + 1 == program.spec.epochs
        if is_last or time.monotonic() - saved >= checkpoint_seconds:
            yield arrived(under_way, state)
            under_way = None
            saved = time.monotonic()


def record_epoch(
    run: Run, phase: PhaseState, metrics: dict[str, Any], seconds: float
) -> dict[str, Any]:
    """Appends the row of an epoch to the run's metrics, and returns it.

    Args:
        metrics: of this run alone, on the host.
        seconds: the run's share of the epoch's time.

    Raises:
        LossNotFinite: a step's loss was not; there is no row then.
    """
    program = phase.program
    run.position = run.position._replace(phase_epoch=run.position.phase_epoch + 1)
    numbers = dict(metrics)
    losses, layers = numbers.pop("step_losses"), numbers.pop("layers")
    bad = np.flatnonzero(~np.isfinite(losses))
    if bad.size:
        raise LossNotFinite(
            f"the loss is {losses[bad[0]]} in step {bad[0] + 1} of {program.steps} of epoch "
            f"{run.epochs_done} ({program.spec.name} phase): stopped; the last checkpoint is from "
            "before"
        )
    row = {
        "epoch": run.epochs_done,
        "phase": program.spec.name,
        "phase_epoch": run.position.phase_epoch,
        **{name: float(value) for name, value in numbers.items()},
        "first_step_loss": float(losses[0]),
        "lowest_step_loss": float(losses.min()),
        "seconds": seconds,
        "layers": layer_records(layers, run.config.activation_pool.names) or run.fixed_layers,
    }
    run_folder.append_metrics(run.folder, row)
    return row


def layer_records(layers: dict[str, dict[str, np.ndarray]], names: Sequence[str]) -> dict[str, Any]:
    """The records of `summarize` from the numbers of an epoch; empty for no selective layer."""
    records = {}
    for path, numbers in layers.items():
        counts, features = numbers["counts"].tolist(), int(numbers["counts"].sum())
        records[path] = {
            "features": features,
            "counts": dict(zip(names, counts, strict=True)),
            "shares": {n: count / features for n, count in zip(names, counts, strict=True)},
            **{name: float(numbers[name]) for name in ("max_probability", "entropy", "undecided")},
        }
    return records
