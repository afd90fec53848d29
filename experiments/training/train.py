"""A run, from its data to its results: `train_and_evaluate`, and the steps that it is made of.

Where a run goes on after it was stopped is in resuming.py; several runs at once are in
parallel.py, made of the same steps.
"""

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import processes, run_folder, signals
from experiments.checkpoints import Checkpoints
from experiments.config import Config
from experiments.data.records import Records
from experiments.data.tasks import Split, Task, load_task
from experiments.machine import require_memory_for_jax
from experiments.run_folder import RunError, folder_of, is_intact
from experiments.training import devices, networks, step, stream
from experiments.training.draws import Draws, draw
from experiments.training.outcome import go_on, switch_phase, test_phase, write_results
from experiments.training.progress import Progress
from experiments.training.resuming import begin_phase, resume, retry
from experiments.training.state import PhaseState, Run, TrainState, open_run


class NotFinite(RunError):
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
        ValueError: the config names no task, or does not fit it, and nothing is written; or a file
            of the run is damaged.
        DataError: the data cannot be had; nothing is written.
        RunError: the folder is in use or belongs to another config, a number is not finite, the
            disk is full, or no checkpoint can be read.
        Interrupted: a signal asked to end; the last checkpoint is from then.
    """
    folder = folder_of(config)
    # Before the folder is made: without data nothing is written.
    task = None if is_intact(folder) else load_fitting_task(config, load)
    with processes.opened(folder, config) as held:
        if task is None or is_intact(held.folder):
            return folder
        run_folder.keep_task(held.folder, task.record())
        with (
            Checkpoints(held.folder) as checkpoints,
            Progress([config], task.objective, show_progress) as progress,
            signals.deferred(),
        ):
            run = open_run(config, task, held, checkpoints)
            phase = resume(run)
            while True:
                try:
                    train(run, phase, progress)
                    return folder
                except NotFinite as error:
                    phase = retry(run, error)


def train(run: Run, phase: PhaseState | None, progress: Progress) -> None:
    """A run, or what is left of it: its phases, and their results.

    Args:
        phase: where it stands; None at its beginning.
    """
    if phase is None:
        network = networks.build_model(run.config, run.task)
        phase = begin_phase(run, network)
    # Phase 1, in which the neurons choose; of a uniform network the only one.
    if run.position.phase_index == 0:
        phase = train_phase(run, phase, progress)
        outputs = test_phase(run, phase)
        if run.config.has_choices:
            network = switch_phase(run, phase)
            phase = begin_phase(run, network, phase)
    # Phase 2, with fixed choices.
    if phase.program.spec.name == "mixed":
        phase = train_phase(run, phase, progress)
        outputs = test_phase(run, phase)
    # And all parameters once more, on all examples at once.
    if run.config.refine_epochs:
        if phase.program.spec.name != "refined":
            network = go_on(run, phase)
            phase = begin_phase(run, network)
        phase = train_phase(run, phase, progress)
        outputs = test_phase(run, phase)
    write_results(run, phase, outputs)


def load_fitting_task(config: Config, load: Callable[[Config], Task]) -> Task:
    """The task of a config; ValueError if its network, devices or memory do not fit."""
    require_memory_for_jax()
    task = load(config)
    networks.require_fit(config, task)
    devices.make_mesh(config)
    return task


# A phase


def train_phase(run: Run, phase: PhaseState, progress: Progress) -> PhaseState:
    """Trains to the end of the phase; every epoch leaves a row, and some a checkpoint."""
    phase = devices.place(phase, run.config)
    mesh, train = phase.program.mesh, run.task.train
    parts = run_epochs(
        phase,
        train if isinstance(train, Records) else devices.replicate(mesh, train),
        devices.replicate(mesh, run.task.splits["validation"]),
        seeds=[run.config.seed],
        size=run.task.train_size,
        first_epoch=run.position.phase_epoch,
        first_step=run.position.phase_step,
        checkpoint_seconds=run.config.checkpoint_seconds,
    )
    for part in parts:
        row = record(run, phase, part)
        if row is not None:
            progress.update([row])
        if part.state is not None:
            phase = phase._replace(state=part.state)
            run.save(devices.whole(mesh, part.state))
            processes.end_if_asked()
    return devices.gather(phase)


class Part(NamedTuple):
    """What the host learns of an epoch; with R > 1 runs, metrics and state are [R, ...].

    Attributes:
        steps: of the epoch, done.
        metrics: on the host; of a whole epoch as `end_epoch` returns them, of a part as `look`.
        seconds: since the epoch before.
        state: where a checkpoint is due, and always after the last epoch; else None.
    """

    steps: int
    metrics: dict[str, Any]
    seconds: float
    state: TrainState | None


CHUNK_SECONDS = 1.0
"""About so long are the steps that the device does between two looks at signals and the clock."""


class Pace:
    """How many steps take about `CHUNK_SECONDS`: one at first, then as measured."""

    steps = 1

    def measured(self, steps: int, seconds: float) -> None:
        """So many steps took so long."""
        target = int(CHUNK_SECONDS * steps / max(seconds, 1e-9))
        self.steps = min(max(target, 1), 8 * self.steps)


def run_epochs(
    phase: PhaseState,
    train: Split | Records,
    validation: Split,
    *,
    seeds: Sequence[int],
    size: int,
    first_epoch: int,
    first_step: int,
    checkpoint_seconds: float,
) -> Iterator[Part]:
    """Trains to the end of the phase, and yields every epoch when it is done.

    An epoch shorter than `CHUNK_SECONDS` is yielded while the device computes the next, except
    where a checkpoint is due. A longer one is cut, and yielded in the middle too where one is due.

    Args:
        phase: after `first_step` steps of `first_epoch`; its state is donated.
        train: data on the device, or of one run in a file.
        validation: data on the device.
        seeds: of the phase's runs.
        size: number of training examples of a run.
        first_epoch: within the phase, from 0.
        first_step: within that epoch, from 0.
        checkpoint_seconds: between two checkpoints.
    """
    program, state, non_trainable = phase
    run_steps, pace = step.steps_function(program), Pace()
    seen = saved = time.monotonic()

    def is_due(at_least: float = 0.0) -> bool:
        late = time.monotonic() - saved >= max(checkpoint_seconds, at_least)
        return bool(processes.largest(signals.asked() or late))

    def arrived(steps: int, metrics: dict[str, Any], state: TrainState | None) -> Part:
        nonlocal seen, saved
        metrics = jax.device_get(metrics)  # waits for the device
        seconds = time.monotonic() - seen
        if steps == program.steps:
            seen += seconds
        return Part(steps, metrics, seconds, state)

    # Streamed blocks are read two epochs ahead at most.
    @functools.lru_cache(maxsize=3 if isinstance(train, Records) else 1)
    def drawn(number: int) -> Draws:
        return draw(program, seeds, number, size)

    def order(number: int) -> jax.Array:
        return drawn(number).indices

    under_way: dict[str, Any] | None = None
    with stream.feeding(program, train, order, first_epoch, first_step) as feed:
        for number in range(first_epoch, program.spec.epochs):
            draws, epoch = drawn(number), jnp.int32(number)
            draws = devices.place_draws(program.mesh, draws)
            done, first_step = first_step, 0
            for block in feed():
                while done < block.last:
                    begun, first = time.monotonic(), done
                    done = min(first + pace.steps, block.last)
                    data = block.train, draws
                    state = run_steps(program, state, non_trainable, *data, epoch, first, done)
                    if done - first < program.steps:
                        jax.block_until_ready(state.sums.loss)
                        pace.measured(done - first, processes.largest(time.monotonic() - begun))
                    if done < program.steps and is_due(CHUNK_SECONDS):
                        yield arrived(done, step.look(program, state), state)
                        saved = time.monotonic()
            state, metrics = step.end_epoch(
                program, state, non_trainable, validation, draws.evaluation, epoch
            )
            # The device has its next epoch: time to look at the last one.
            if under_way is not None:
                yield arrived(program.steps, under_way, None)
            under_way = metrics
            if number + 1 == program.spec.epochs or is_due():
                yield arrived(program.steps, under_way, state)
                under_way = None
                saved = time.monotonic()


def record(run: Run, phase: PhaseState, part: Part) -> dict[str, Any] | None:
    """Moves the run on by a part of an epoch; a whole epoch appends a row and returns it.

    Args:
        part: of this run alone.

    Raises:
        NotFinite: a loss or an array was not; there is no row then.
        RunError: the row cannot be written.
    """
    program, position = phase.program, run.position
    require_finite(run, phase, part)
    if part.steps < program.steps:
        run.position = position._replace(phase_step=part.steps)
        return None
    run.position = position._replace(phase_epoch=position.phase_epoch + 1, phase_step=0)
    numbers = dict(part.metrics)
    losses, layers, _ = (numbers.pop(name) for name in ("step_losses", "layers", "finite"))
    row = {
        "epoch": run.epochs_done,
        "phase": program.spec.name,
        "phase_epoch": run.position.phase_epoch,
        **{name: float(value) for name, value in numbers.items()},
        "first_step_loss": float(losses[0]),
        "lowest_step_loss": float(losses.min()),
        "seconds": part.seconds,
        "layers": layer_records(layers, run.config.activation_pool.names) or run.fixed_layers,
    }
    run.held.require()
    run.rows.append(row)
    run.position = run.position._replace(rows=run.rows.sha256)
    return row


def require_finite(run: Run, phase: PhaseState, part: Part) -> None:
    """Raises NotFinite for a loss or an array that is not finite, and names it and its place."""
    program, metrics = phase.program, part.metrics
    bad = np.flatnonzero(~np.isfinite(metrics["step_losses"][: part.steps]))
    if bad.size:
        problem, steps = f"the loss is {metrics['step_losses'][bad[0]]}", int(bad[0]) + 1
    elif not metrics["finite"].all():
        names = list(step.checked_arrays(phase.state))
        array = names[int(np.argmin(metrics["finite"]))]
        problem, steps = f"{array} is not finite", part.steps
    elif not np.isfinite(metrics.get("validation_loss", 0.0)):
        problem, steps = f"the validation loss is {metrics['validation_loss']}", part.steps
    else:
        return
    raise NotFinite(
        f"{problem} in step {steps} of {program.steps} of epoch {run.epochs_done + 1} "
        f"({program.spec.name} phase): stopped; the last checkpoint is from before"
    )


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
