"""What a run leaves beside its metrics: results of the phases, choices, the summary, the fit."""

import datetime
import json
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax
import jax
import numpy as np
from flax import nnx

from experiments import networks, run_folder, targets
from experiments.config import Config, epochs_before
from experiments.evaluation import evaluate, score_with
from experiments.networks import EVALUATION, SWITCH, Network, make_key
from experiments.program import Program, State, selected, temperature
from experiments.run_folder import Position
from experiments.tasks import Task
from smartmixed_jax import summarize, switch_report
from smartmixed_jax.summary import selection_logits


def finish_phase(
    config: Config,
    task: Task,
    folder: Path,
    program: Program,
    state: State,
    rest: nnx.State,
) -> tuple[dict[str, Any], np.ndarray]:
    """The one look at the test set, with the parameters that `select_epoch` names.

    Returns:
        The phase's results, and the network's outputs on the test set [M, ..., out_features].
    """
    best, last = int(state.best_epoch), program.spec.epochs
    tested = best if config.select_epoch == "lowest_loss" else last
    row = run_folder.read_metrics(folder)[epochs_before(config, program.phase) + tested - 1]
    result: dict[str, Any] = {
        "name": program.spec.name,
        "epochs": last,
        "best_epoch": best,
        "tested_epoch": tested,
        "validation_loss": row["validation_loss"],
        "validation_score": row["validation_score"],
    }
    params = selected(program, state)
    tau = temperature(program, last * program.steps)
    key = make_key(config.seed, program.phase, EVALUATION)
    outputs = {}
    for number, name in enumerate(name for name in ("test", "outside") if name in task.splits):
        split = task.splits[name]
        # Epochs fold in 0, 1, …; these are beyond them.
        noise = jax.random.fold_in(key, 1_000_000 + number)
        loss, score, outputs[name] = evaluate(program, params, rest, split, noise, tau)
        result[f"{name}_loss"], result[f"{name}_score"] = float(loss), float(score)
        if config.is_regression:
            variance = float(np.var(np.asarray(split.labels)))
            result[f"{name}_normalized_error"] = float(score) / variance
    return result, np.asarray(outputs["test"])


def switch_phase(
    config: Config, task: Task, folder: Path, program: Program, model: Any, position: Position
) -> tuple[Network, Position]:
    """Phase 1's model → phase 2's, with the files that say what was chosen and what it cost."""
    score = score_with(program, task.splits["validation"])
    noise = nnx.Rngs(selection=make_key(config.seed, 0, SWITCH))
    model = nnx.view(model, temperature=config.final_temperature)
    report: dict[str, Any] = switch_report(model, score, noise)
    switched: Any = networks.switch(model, config, task)
    report["start"] = score(switched, noise)
    report["layers"] = summarize(model)
    run_folder.write_arrays(folder / "selection.npz", selection_logits(model))
    tables = {
        f"activations.{number}": json.loads(activation.table.to_json())
        for number, activation in enumerate(switched.activations)
    }
    run_folder.write_text(folder / "choices.json", json.dumps(tables))
    choices = tuple(table["choices"] for table in tables.values())
    return switched, position._replace(phase=1, epoch=0, choices=choices, switch=report)


def write_summary(
    config: Config,
    task: Task,
    folder: Path,
    position: Position,
    outputs: np.ndarray,
    fitted: Callable[[np.ndarray], jax.Array],
) -> None:
    """summary.json, and fit.npz for a function.

    Args:
        outputs: on the test set, [M, out_features].
        fitted: the trained function: inputs [B, d] → values [B].
    """
    summary: dict[str, Any] = {
        "phases": position.results,
        "switch": position.switch,
        "class_names": task.class_names,
        "source": task.source,
        "seconds": sum(row["seconds"] for row in run_folder.read_metrics(folder)),
        "environment": environment(),
    }
    if config.is_regression:
        run_folder.write_arrays(folder / "fit.npz", _fit(config, task, fitted))
    elif not config.is_text:
        confusion = np.zeros((task.out_features, task.out_features), int)
        labels = np.asarray(task.splits["test"].labels)
        np.add.at(confusion, (labels, np.argmax(outputs, -1)), 1)
        summary["confusion"] = confusion.tolist()
    run_folder.write_text(folder / "summary.json", json.dumps(summary, indent=2))


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


def _fit(
    config: Config, task: Task, fitted: Callable[[np.ndarray], jax.Array]
) -> dict[str, np.ndarray]:
    """The fitted function and the true one along every variable and on the plane of x1 and x2."""
    name = config.task.removeprefix("function:")
    d, held = task.in_features, 0.5
    line = np.linspace(-targets.OUTSIDE, targets.OUTSIDE, 241, dtype=np.float32)
    inputs = np.full((d, line.size, d), held, np.float32)
    inputs[np.arange(d), :, np.arange(d)] = line
    plane_x = np.linspace(-targets.OUTSIDE, targets.OUTSIDE, 97, dtype=np.float32)
    plane = np.full((plane_x.size, plane_x.size, d), held, np.float32)
    plane[..., 0], plane[..., 1] = np.meshgrid(plane_x, plane_x)

    def both(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        flat = points.reshape(-1, d)
        true, fit = targets.evaluate(name, flat)[:, 0], np.asarray(fitted(flat))
        return true.reshape(points.shape[:-1]), fit.reshape(points.shape[:-1])

    line_true, line_fit = both(inputs)
    plane_true, plane_fit = both(plane)
    return {
        "line_x": line,
        "line_true": line_true,
        "line_fit": line_fit,
        "plane_x": plane_x,
        "plane_true": plane_true,
        "plane_fit": plane_fit,
        "held": np.asarray(held),
        "inside": np.asarray(targets.INSIDE),
    }
