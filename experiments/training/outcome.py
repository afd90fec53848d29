"""What a phase leaves: its test, the switch to the next, and at the end the summary of the run."""

import datetime
import functools
import platform
from collections.abc import Mapping
from typing import Any

import flax
import jax
import numpy as np
from flax import nnx

from experiments import run_folder
from experiments.config import Config, epochs_before
from experiments.data.task import Task
from experiments.run_folder import LayerChoices
from experiments.training import networks
from experiments.training.evaluation import evaluate, loss_with, predict, score_with
from experiments.training.keys import EVALUATION, SWITCH, make_key
from experiments.training.optimizer import scales
from experiments.training.program import Params, Program
from experiments.training.state import PhaseState, Run
from smartmixed_jax import summarize, switch_report
from smartmixed_jax.summary import selection_logits


def test_phase(run: Run, phase: PhaseState) -> np.ndarray:
    """The one look at the test set, with the parameters that `select_epoch` names.

    The results join those of `run.position`.

    Returns:
        The network's outputs on the test set, [M, ..., out_features].
    """
    config, task, program = run.config, run.task, phase.program
    best, last = int(phase.state.best_epoch), program.spec.epochs
    tested = best if config.select_epoch == "lowest_loss" else last
    epoch = epochs_before(config, program.phase_index) + tested
    (row,) = (row for row in run_folder.read_metrics(run.folder) if row["epoch"] == epoch)
    result: dict[str, Any] = {
        "name": program.spec.name,
        "epochs": last,
        "best_epoch": best,
        "tested_epoch": tested,
        "validation_loss": row["validation_loss"],
        "validation_score": row["validation_score"],
    }
    scores, outputs = score_splits(config, task, program, phase.selected, phase.non_trainable)
    result |= scores
    run_folder.json_text(result)  # before anything is made of a result that is not finite
    run.position = run.position._replace(results=(*run.position.results, result))
    return outputs


def score_splits(
    config: Config, task: Task, program: Program, params: Params, non_trainable: nnx.State
) -> tuple[dict[str, float], np.ndarray]:
    """Results on the splits that the task is scored on, and the outputs on the test split."""
    scaled = scales(program, program.spec.epochs * program.steps)
    key = make_key(config.seed, program.phase_index, EVALUATION)
    results: dict[str, float] = {}
    outputs = {}
    for number, name in enumerate(task.scored):
        # Epochs fold in 0, 1, …; these are beyond them.
        noise = jax.random.fold_in(key, 1_000_000 + number)
        loss, score, outputs[name] = evaluate(
            program, params, non_trainable, task.splits[name], noise, scaled
        )
        results |= task.results(name, float(loss), float(score))
    return results, np.asarray(outputs["test"])


def switch_phase(run: Run, phase: PhaseState) -> nnx.Module:
    """Phase 1's network → phase 2's, with the files that say what was chosen and what it cost.

    `run.position` is then the beginning of phase 2.
    """
    config, task = run.config, run.task
    score = score_with(phase.program, task.splits["validation"])
    noise = nnx.Rngs(selection=make_key(config.seed, 0, SWITCH))
    last = scales(phase.program, phase.program.spec.epochs * phase.program.steps)
    model = nnx.view(phase.model(), **last)
    report: dict[str, Any] = switch_report(model, score, noise)
    dropped: list[str] = []
    if config.start_function:
        loss = loss_with(phase.program, task.splits["validation"])
        beside = networks.compare_with_start(model, config, loss)
        dropped = beside["dropped"] if config.drop_worse else []
        report["beside_start"] = {**beside, "dropped": dropped}
    switched = networks.switch(model, config, task, dropped)
    quiet = nnx.view(switched, deterministic=True, raise_if_not_found=False)  # dropout off
    report["start"] = score(quiet, noise)
    report["layers"] = summarize(model)
    run_folder.json_text(report)
    run.logits = {path: np.asarray(logits) for path, logits in selection_logits(model).items()}
    layers = choices_of(switched)
    keep_choices(run, layers)
    run.position = run.position._replace(
        phase_index=1,
        phase_epoch=0,
        choices=tuple(layer.choices.tolist() for layer in layers.values()),
        switch=report,
    )
    return switched


def go_on(run: Run, phase: PhaseState) -> nnx.Module:
    """A phase's network as it is; `run.position` is then the beginning of the next phase."""
    run.position = run.position._replace(
        phase_index=phase.program.phase_index + 1, phase_epoch=0, phase_step=0
    )
    network: nnx.Module = phase.model()
    return network


def choices_of(network: nnx.Module) -> dict[str, LayerChoices]:
    """What the fixed layers of a network have, by their paths."""
    return {
        path: LayerChoices(layer.table.pool.names, np.asarray(layer.table.choices, int))
        for path, layer in networks.fixed_layers(network).items()
    }


def keep_choices(run: Run, layers: Mapping[str, LayerChoices]) -> None:
    """choices.json and selection.npz."""
    run.held.require()
    run_folder.write_choices(run.folder, layers)
    run_folder.write_selection(run.folder, run.logits)


def write_results(run: Run, phase: PhaseState, outputs: np.ndarray) -> None:
    """summary.json, and before it fit.npz for a task whose true function is known.

    Args:
        phase: the last.
        outputs: on the test set, from `test_phase`.
    """
    task = run.task
    run.held.require()
    summary: dict[str, Any] = {
        "phases": run.position.results,
        "switch": run.position.switch,
        "class_names": task.class_names,
        "source": task.source,
        "seconds": sum(row["seconds"] for row in run_folder.read_metrics(run.folder)),
        "environment": environment(),
    }
    if run.position.retries:
        summary["retries"] = run.position.retries
    if task.objective.confusion:
        summary["confusion"] = _confusion(task, outputs)
    if task.tabulate_fit is not None:
        predicted = functools.partial(predict, phase.program, phase.selected, phase.non_trainable)

        def fitted(inputs: np.ndarray) -> jax.Array:
            outputs = predicted(inputs)  # of an equation the residual too
            return outputs[:, 0] if task.out_features == 1 else outputs

        run_folder.write_fit(run.folder, task.tabulate_fit(fitted))
    run_folder.write_summary(run.folder, summary)


def _confusion(task: Task, outputs: np.ndarray) -> list[list[int]]:
    """Test examples by their class and the predicted one, [classes][classes]."""
    counts = np.zeros((task.out_features, task.out_features), int)
    labels = np.asarray(task.splits["test"].labels)
    np.add.at(counts, (labels, np.argmax(outputs, -1)), 1)
    return counts.tolist()


def environment() -> dict[str, Any]:
    """Date, versions and device of a run."""
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "flax": flax.__version__,
        "backend": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
    }
