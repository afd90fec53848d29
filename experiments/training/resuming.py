"""Where a run goes on: from its newest checkpoint that can be read, or at its beginning.

Nothing is deleted here, and nothing changed unless a checkpoint can be read.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from flax import nnx

from experiments import processes, run_folder
from experiments.checkpoints import START, DamagedCheckpoint, Moment
from experiments.config import Config
from experiments.data.task import Task
from experiments.run_folder import DamagedRows, LayerChoices, Rows, RunError, is_complete
from experiments.training import networks
from experiments.training.optimizer import carry_moments
from experiments.training.outcome import choices_of, keep_choices
from experiments.training.program import compile_key
from experiments.training.state import PhaseState, Run, start_phase
from smartmixed_jax import summarize

Build = Callable[[Config, Task], nnx.Module]
"""The network with which a run begins."""


def begin_phase(run: Run, model: nnx.Module, before: PhaseState | None = None) -> PhaseState:
    """The phase at which the run stands, at its beginning, with the weights of the model.

    Args:
        before: the phase that ended, whose moments go on if the config says so.
    """
    run.fixed_layers = summarize(model) if run.position.phase_index == 1 else {}
    phase = start_phase(model, run.settings, run.task, run.position.phase_index)
    if before is None or not run.config.carries_moments:
        return phase
    opt_state = carry_moments(before.state.opt_state, phase.state.opt_state)
    return phase._replace(state=phase.state._replace(opt_state=opt_state))


def resume(run: Run) -> PhaseState | None:
    """The phase at the newest checkpoint that can be read; None: the run begins.

    Raises:
        RunError: none can be read; nothing is changed.
        ValueError: metrics.jsonl holds the rows of none, or another file is damaged and there is
            no checkpoint; nothing is changed.
    """
    problem = run_folder.damage(run.folder) if is_complete(run.folder) else ""
    for moment in reversed(run.checkpoints.moments()):
        try:
            phase = restore(run, moment)
        except DamagedCheckpoint as error:
            fall_back(run, moment, error)
        except DamagedRows as error:
            problem = str(error)
        else:
            if problem:
                print(f"{problem}: made again from the checkpoint of {moment}", flush=True)
            return phase
    if problem:
        raise ValueError(f"{problem}, and no checkpoint can make it again; nothing is changed")
    return None


def restore(run: Run, moment: Moment, build: Build = networks.build_model) -> PhaseState:
    """The phase as a checkpoint has it, and the run where it stood then.

    Args:
        build: the network of the first phase.

    Raises:
        DamagedCheckpoint, RunError: as `Checkpoints.restore_state`.
        DamagedRows: metrics.jsonl does not hold the rows of that moment.
    """
    run.position = run.checkpoints.restore_position(moment)
    if run.position.phase_index == 0:
        model = build(run.config, run.task)
    else:
        model = networks.mixed_model(run.config, run.task, run.position.choices)
    phase = begin_phase(run, model)
    state, run.logits = run.checkpoints.restore_state(moment, phase.state)
    told = [run.rows.restore(run.epochs_done, run.position.rows)]
    if run.position.phase_index == 1:
        told.append(remake_choices(run, choices_of(model)))
    print(*(f"{line}\n" for line in told if line), sep="", end="", flush=True)
    return phase._replace(state=state)


def fall_back(
    run: Run, moment: Moment, damage: DamagedCheckpoint, build: Build = networks.build_model
) -> None:
    """Sets a damaged checkpoint aside, if another can be read; otherwise RunError."""
    place = run.checkpoints.place(moment)
    others = [other for other in run.checkpoints.moments() if other != moment]
    if not any(can_be_read(run, other, build) for other in reversed(others)):
        no_other = "and no other can be read" if others else "and it is the only one"
        raise RunError(f"checkpoint {place} is damaged ({damage}), {no_other}; nothing is changed")
    aside = run.checkpoints.set_aside(moment, str(damage))
    print(f"checkpoint of {moment} is damaged ({damage}): kept as {aside}", flush=True)


def can_be_read(run: Run, moment: Moment, build: Build) -> bool:
    """A checkpoint holds what was saved, and the rows are there."""
    try:
        restore(run, moment, build)
    except (DamagedCheckpoint, DamagedRows):
        return False
    return True


def remake_choices(run: Run, layers: dict[str, LayerChoices]) -> str:
    """Writes choices.json and selection.npz if they are not as the checkpoint has them.

    Returns:
        What was damaged; empty if nothing.
    """
    try:
        found = run_folder.read_choices(run.folder) or {}
        logits = run_folder.read_selection(run.folder) or {}
        same = found.keys() == layers.keys() and logits.keys() == run.logits.keys()
        if (
            same
            and all(found[path].pool == layers[path].pool for path in layers)
            and all(np.array_equal(found[path].choices, layers[path].choices) for path in layers)
            and all(np.array_equal(logits[path], run.logits[path]) for path in logits)
        ):
            return ""
        told = f"{run.folder / run_folder.CHOICES}, or the logits beside it, are not the run's"
    except ValueError as error:
        told = str(error)
    keep_choices(run, layers)
    return f"{told}: made again from the checkpoint"


def retry(run: Run, error: RunError) -> PhaseState | None:
    """After a number that was not finite: the last checkpoint, with the learning rates halved.

    Returns:
        The phase there; None: the run begins.

    Raises:
        RunError: the error, once the run has no retry left.
    """
    retries = run.position.retries
    if len(retries) == run.config.retries:
        raise error
    processes.refresh(run.folder)
    run.position, run.rows = START, Rows(run.folder)
    phase = resume(run)
    run.position = run.position._replace(retries=(*retries, str(error)))
    print(f"{error}; retry {len(run.position.retries)} at half the learning rates", flush=True)
    if phase is None:
        return None
    program = dataclasses.replace(phase.program, config=compile_key(run.settings))
    return phase._replace(program=program)
