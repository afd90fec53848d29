"""Which runs train together, and from where they go on.

On an accelerator the runs of one program train at once, their arrays stacked; on a CPU, where that
is slower, one after another. Each keeps its own folder and could go on alone.
"""

import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from experiments import networks, run_folder
from experiments.config import Config
from experiments.loop import Phase, Run, enter, stacked, train_phases
from experiments.program import neutral
from experiments.progress import Progress
from experiments.run_folder import START, Checkpoints, RunError, folder_of, is_complete
from experiments.tasks import Task, load_task

AT_ONCE = 64
"""At most so many runs train at once on an accelerator."""


def train_all(
    configs: Sequence[Config], *, at_once: int | None = None, show_progress: bool = True
) -> list[Path | RunError]:
    """Trains or resumes every run, or finds it complete.

    Args:
        configs: of the runs, in any order; those of one program train together.
        at_once: how many of them. Default: 1 on a CPU, `AT_ONCE` elsewhere.
        show_progress: on the terminal.

    Returns:
        Per config the run's folder, or why the run stopped: a loss that is not finite stops its
        run only.

    Raises:
        DataError: the data cannot be had; nothing is written.
        RunError: a folder is in use or belongs to another config, or the disk is full.
    """
    at_once = at_once or (1 if jax.default_backend() == "cpu" else AT_ONCE)
    load = _Loader()
    ended: dict[int, Path | RunError] = {}
    for group in plan(configs, at_once):
        errors = _train_group([configs[index] for index in group], load, show_progress)
        for index, error in zip(group, errors, strict=True):
            ended[index] = error or folder_of(configs[index])
    return [ended[index] for index in range(len(configs))]


def plan(configs: Sequence[Config], at_once: int) -> list[list[int]]:
    """Indices of the configs in groups of one program, of about equal size up to `at_once`."""
    programs: dict[Any, list[int]] = {}
    for index, config in enumerate(configs):
        programs.setdefault((neutral(config), config.data_dir), []).append(index)
    groups = []
    for indices in programs.values():
        size = math.ceil(len(indices) / math.ceil(len(indices) / at_once))
        groups += [indices[first : first + size] for first in range(0, len(indices), size)]
    return groups


class _Loader:
    """Loads a run's data, or returns the last run's when they are the same."""

    def __init__(self) -> None:
        self._last: tuple[Any, Task] | None = None

    def __call__(self, config: Config) -> Task:
        seed = config.seed if config.is_regression else None
        what = (config.task, config.data_dir, config.validation_fraction, seed)
        if self._last is None or self._last[0] != what:
            self._last = what, load_task(config)
        return self._last[1]


def _train_group(
    configs: Sequence[Config], load: _Loader, show_progress: bool
) -> list[RunError | None]:
    """Trains what is not complete; per config the error that stopped it."""
    # Before any folder is made: without data nothing is written.
    tasks = [None if is_complete(folder_of(config)) else load(config) for config in configs]
    runs: list[Run] = []
    with contextlib.ExitStack() as opened:
        for config, task in zip(configs, tasks, strict=True):
            folder = folder_of(config)
            opened.enter_context(run_folder.opened(folder, config))
            if task is not None and not is_complete(folder):
                checkpoints = Checkpoints(folder)
                opened.callback(checkpoints.close)
                runs.append(Run(config, task, folder, checkpoints))
        for cohort, phase in _resume(runs):
            with Progress([run.config for run in cohort], show_progress) as progress:
                train_phases(cohort, phase, progress)
    stopped = {run.folder: run.error for run in runs}
    return [stopped.get(folder_of(config)) for config in configs]


# Where a group begins


def _resume(runs: Sequence[Run]) -> Iterator[tuple[list[Run], Phase]]:
    """The runs that go on together, each time with their state, until all had their turn.

    Runs go on together from an epoch whose checkpoint each of them has. So a process killed
    between two checkpoints of a group loses one interval, and a run that stopped long before the
    others keeps none of them back.
    """
    waiting = list(runs)
    while waiting:
        saved = {run: set(run.checkpoints.epochs()) for run in waiting}
        shared = sorted(set().union(*saved.values()), reverse=True)
        epochs = max(
            shared, key=lambda epoch: sum(epoch in own for own in saved.values()), default=0
        )
        cohort = [run for run in waiting if not shared or epochs in saved[run]]
        if (phase := _restore(cohort, epochs)) is not None:
            for run in cohort:
                run.checkpoints.drop_after(epochs)
                run_folder.truncate_metrics(run.folder, epochs)
            yield cohort, phase
            waiting = [run for run in waiting if run not in cohort]


def _restore(runs: Sequence[Run], epochs: int) -> Phase | None:
    """The beginning, or the state after so many epochs; None if a checkpoint is damaged."""
    together = len(runs) > 1
    if not epochs:
        for run in runs:
            run.position = START
        return stacked([_start(run, together) for run in runs])
    started = []
    for run in runs:
        try:
            run.position = run.checkpoints.restore_position(epochs)
            phase = _start(run, together)
            state = run.checkpoints.restore_state(epochs, phase.state)
            started.append(phase._replace(state=state))
        except Exception as error:  # Orbax and its storage raise many kinds
            run.checkpoints.discard(epochs, error)
            return None
    return stacked(started)


def _start(run: Run, together: bool) -> Phase:
    """The phase at which a run stands, its weights new."""
    config, task, position = run.config, run.task, run.position
    if position.phase == 1:
        return enter(run, networks.mixed_model(config, task, list(position.choices)))
    if together and config.method.startswith("uniform:"):
        return enter(run, networks.uniform_as_mixed(config, task))
    return enter(run, networks.build_model(config, task))
