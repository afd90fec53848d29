"""Many runs: which train together, their arrays stacked, and how they go on.

On an accelerator the runs of one program train at once, their arrays stacked to [R, ...]; on a CPU,
where that is slower, one after another. Each keeps its folder and could go on alone. The steps of a
run are those of train.py.
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from experiments import folder_lock, run_folder, signals
from experiments.checkpoints import START, Checkpoints, DamagedCheckpoint, Moment
from experiments.config import Config, phases
from experiments.data.tasks import Loader, Split
from experiments.run_folder import RunError, folder_of, is_intact
from experiments.training import devices, networks
from experiments.training.compilation import release_compilations
from experiments.training.outcome import go_on, switch_phase, test_phase, write_results
from experiments.training.program import compile_key, data_key
from experiments.training.progress import Progress
from experiments.training.resuming import Build, begin_phase, fall_back, restore
from experiments.training.state import PhaseState, Run, TrainState, open_run
from experiments.training.train import (
    NotFinite,
    load_fitting_task,
    record,
    run_epochs,
    train_and_evaluate,
)

AT_ONCE = 64
"""At most so many runs train at once on an accelerator."""
WRITERS = 8
"""Threads that write the checkpoints of a group."""

Stopped = dict[Path, NotFinite]
"""Why a run stopped, by its folder; its place in the stacked arrays is then ignored."""


def train_all(
    configs: Sequence[Config],
    *,
    at_once: int | None = None,
    show_progress: bool = True,
    on_end: Callable[[Sequence[Config]], None] | None = None,
) -> list[Path | RunError]:
    """Trains or resumes every run, or finds it complete.

    Args:
        configs: of the runs, in any order; those of one program train together.
        at_once: how many of them. Default: 1 on a CPU, `AT_ONCE` elsewhere; always 1 where a run
            has several devices.
        show_progress: on the terminal.
        on_end: called with the configs of runs that have just ended, or were complete before.

    Returns:
        Per config the run's folder, or why the run stopped: a loss that is not finite stops its
        run only.

    Raises:
        ValueError: a config names no task, or does not fit it; nothing is written of its group.
        DataError: the data cannot be had; the same.
        RunError: a folder is in use or belongs to another config, or the disk is full.
    """
    if any(map(devices.are_several, configs)):
        at_once = 1
    at_once = at_once or (1 if jax.default_backend() == "cpu" else AT_ONCE)
    load = Loader()
    stopped: Stopped = {}
    for indices in group_by_program(configs, at_once):
        release_compilations()
        group = [configs[index] for index in indices]
        if len(group) > 1:
            stopped |= _train_group(group, load, show_progress)
        else:
            try:
                train_and_evaluate(group[0], load=load, show_progress=show_progress)
            except NotFinite as error:
                stopped[folder_of(group[0])] = error
        if on_end is not None:
            on_end(group)
    folders = map(folder_of, configs)
    return [stopped.get(folder, folder) for folder in folders]


def group_by_program(configs: Sequence[Config], at_once: int) -> list[list[int]]:
    """Indices of the configs in groups of one program, of about equal size up to `at_once`."""
    programs: dict[Any, list[int]] = {}
    for index, config in enumerate(configs):
        # A run that may go on at another learning rate than the others goes alone, and one that
        # reads its own examples.
        alone = index if config.retries or config.stream else None
        programs.setdefault((compile_key(config), data_key(config), alone), []).append(index)
    groups = []
    for indices in programs.values():
        size = math.ceil(len(indices) / math.ceil(len(indices) / at_once))
        groups += [indices[first : first + size] for first in range(0, len(indices), size)]
    return groups


def _train_group(configs: Sequence[Config], load: Loader, show_progress: bool) -> Stopped:
    """Trains what is not complete of the runs of one program."""
    stopped: Stopped = {}
    # Before any folder is made: without data nothing is written.
    tasks = [
        None if is_intact(folder_of(config)) else load_fitting_task(config, load)
        for config in configs
    ]
    runs: list[Run] = []
    with contextlib.ExitStack() as opened:
        for config, task in zip(configs, tasks, strict=True):
            folder = folder_of(config)
            held = opened.enter_context(folder_lock.opened(folder, config))
            if task is not None and not is_intact(folder):
                run_folder.keep_task(folder, task.record())
                checkpoints = opened.enter_context(Checkpoints(folder))
                runs.append(open_run(config, task, held, checkpoints))
        opened.enter_context(signals.deferred())
        for cohort, phase in _resume(runs):
            cohort_configs = [run.config for run in cohort]
            objective = cohort[0].task.objective
            with Progress(cohort_configs, objective, show_progress) as progress:
                _train_cohort(cohort, phase, progress, stopped)
    return stopped


# Where the runs of a group go on


def _resume(runs: Sequence[Run]) -> Iterator[tuple[list[Run], PhaseState]]:
    """The runs that go on together, each time with their phase, until all had their turn.

    Runs go on together from a moment whose checkpoint each of them has. So a process killed
    between two checkpoints of a group loses one interval, and a run that stopped long before the
    others keeps none of them back.
    """
    waiting = list(runs)
    while waiting:
        saved = {run: set(run.checkpoints.moments()) for run in waiting}
        shared = sorted(set().union(*saved.values()), reverse=True)
        moment = max(
            shared, key=lambda moment: sum(moment in saved[run] for run in waiting), default=None
        )
        cohort = [run for run in waiting if moment is None or moment in saved[run]]
        phase = _restore_cohort(cohort, moment)
        if phase is not None:
            yield cohort, phase
            waiting = [run for run in waiting if run not in cohort]


def _restore_cohort(runs: Sequence[Run], moment: Moment | None) -> PhaseState | None:
    """The beginning, or the state at a moment; None if a checkpoint is damaged, and set aside."""
    build: Build = networks.build_model
    if len(runs) > 1 and runs[0].config.is_uniform:
        build = networks.uniform_as_mixed  # all uniform methods are one program
    started = []
    for run in runs:
        if moment is None:
            run.position = START
            started.append(begin_phase(run, build(run.config, run.task)))
            continue
        try:
            started.append(restore(run, moment, build))
        except DamagedCheckpoint as error:
            fall_back(run, moment, error, build)
            return None
    return _stack_phases(started)


# Training together


def _train_cohort(
    cohort: Sequence[Run], phase: PhaseState, progress: Progress, stopped: Stopped
) -> None:
    """Trains runs that stand at the same epoch to their end; what they leave is in their folders.

    A loss that is not finite stops its run only, as `stopped` says then.
    """
    runs = list(cohort)
    while runs:
        phase = _train_phase(runs, phase, progress, stopped)
        if all(run.folder in stopped for run in runs):
            return
        next_runs, next_phases = [], []
        for run, phase_of_run in zip(runs, _unstack_phase(phase, len(runs)), strict=True):
            if run.folder in stopped:
                continue
            outputs = test_phase(run, phase_of_run)
            if phase.program.phase_index + 1 == len(phases(run.config)):
                write_results(run, phase_of_run, outputs)
            else:
                next_runs.append(run)
                chosen = phase.program.spec.name == "selective"
                network = (switch_phase if chosen else go_on)(run, phase_of_run)
                next_phases.append(begin_phase(run, network, phase_of_run))
        runs = next_runs
        if runs:
            phase = _stack_phases(next_phases)


def _train_phase(
    runs: Sequence[Run], phase: PhaseState, progress: Progress, stopped: Stopped
) -> PhaseState:
    """Trains to the end of the phase, or until every run has stopped."""
    parts = run_epochs(
        phase,
        _stack_splits(runs, "train"),
        _stack_splits(runs, "validation"),
        seeds=[run.config.seed for run in runs],
        size=runs[0].task.train_size,
        first_epoch=runs[0].position.phase_epoch,
        first_step=runs[0].position.phase_step,
        checkpoint_seconds=min(run.config.checkpoint_seconds for run in runs),
    )
    for part in parts:
        rows = []
        for run, metrics in zip(runs, unstack(part.metrics, len(runs)), strict=True):
            if run.folder in stopped:
                continue
            try:
                own = part._replace(metrics=metrics, seconds=part.seconds / len(runs))
                rows.append(record(run, phase, own))
            except NotFinite as error:
                stopped[run.folder] = error
        if not rows:
            break
        if whole := [row for row in rows if row is not None]:
            progress.update(whole)
        if part.state is not None:
            phase = phase._replace(state=part.state)
            _save(runs, part.state, stopped)
            signals.end_if_asked()
    return phase


def _save(runs: Sequence[Run], state: TrainState, stopped: Stopped) -> None:
    """A checkpoint of every run that goes on."""

    def save(pair: tuple[Run, TrainState]) -> None:
        run, state_of_run = pair
        if run.folder not in stopped:
            run.save(state_of_run)

    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(save, zip(runs, unstack(state, len(runs)), strict=True)))


# Stacking


def stack(trees: Sequence[Any]) -> Any:
    """The runs' trees as one of [R, ...] leaves; a single tree as it is."""
    if len(trees) == 1:
        return trees[0]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def unstack(tree: Any, runs: int) -> list[Any]:
    """The trees that `stack` took, on the host; a single one as it is."""
    if runs == 1:
        return [tree]
    tree = jax.device_get(tree)
    leaves, structure = jax.tree.flatten(tree)
    return [jax.tree.unflatten(structure, [leaf[run] for leaf in leaves]) for run in range(runs)]


def _stack_phases(started: Sequence[PhaseState]) -> PhaseState:
    (program,) = {phase.program for phase in started}
    return PhaseState(
        dataclasses.replace(program, runs=len(started)),
        stack([phase.state for phase in started]),
        stack([phase.non_trainable for phase in started]),
    )


def _unstack_phase(phase: PhaseState, runs: int) -> list[PhaseState]:
    program = dataclasses.replace(phase.program, runs=1)
    parts = zip(unstack(phase.state, runs), unstack(phase.non_trainable, runs), strict=True)
    return [PhaseState(program, state, non_trainable) for state, non_trainable in parts]


def _stack_splits(runs: Sequence[Run], name: str) -> Split:
    """[R, ...] of data that are drawn with the seed; others are the same for all runs."""
    splits = [run.task.splits[name] for run in runs]
    return stack(splits if runs[0].task.seeded else splits[:1])
