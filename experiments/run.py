"""Runs one config: `python -m experiments.run --help`.

A run is a list of phases over one training loop. It leaves a folder with config.json,
metrics.jsonl, checkpoints/, choices.json, selection.npz, summary.json and figures/; the same
command again resumes it, or prints its results when it is complete.
"""

import argparse
import datetime
import json
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments import run_folder, targets, train
from experiments.config import PRESET_NAMES, Config, default_config, epochs_before, phases
from experiments.data import DataError
from experiments.progress import Progress
from experiments.run_folder import Checkpoints, RunError
from experiments.tasks import Task, load_task
from experiments.train import Program, State
from smartmixed_jax import MLP, summarize, switch_report
from smartmixed_jax.summary import selection_logits


class Position(NamedTuple):
    """Where a run stands: what a checkpoint holds beside the state.

    Attributes:
        phase: index into the phases.
        epoch: epochs of that phase done.
        choices: of phase 2, per layer; empty before the switch.
        results: of the finished phases.
        switch: the switch report; empty before the switch.
    """

    phase: int = 0
    epoch: int = 0
    choices: tuple[list[int], ...] = ()
    results: tuple[dict[str, Any], ...] = ()
    switch: dict[str, Any] = {}  # noqa: RUF012


def run_folder_of(config: Config) -> Path:
    """The run's folder."""
    if config.run_dir is not None:
        return Path(config.run_dir)
    return Path("runs") / config.task.replace("function:", "") / config.name


def run(config: Config, *, show_progress: bool = True) -> Path:
    """Trains, or resumes, or finds the run complete; returns its folder.

    Raises:
        DataError: the data cannot be had; nothing is written.
        RunError: the folder is in use or belongs to another config, or the loss is not finite.
    """
    folder = run_folder_of(config)
    task = load_task(config)
    with run_folder.opened(folder, config):
        if not (folder / "summary.json").exists():
            checkpoints = Checkpoints(folder)
            try:
                with Progress(config, show_progress) as progress:
                    _train(config, task, folder, checkpoints, progress)
            finally:
                checkpoints.close()
    return folder


def _train(
    config: Config, task: Task, folder: Path, checkpoints: Checkpoints, progress: Progress
) -> None:
    position, program, state, rest = _resume(config, task, checkpoints)
    run_folder.truncate_metrics(folder, _epochs_done(config, position))
    while True:
        state, position = _train_phase(
            config, task, folder, checkpoints, progress, position, program, state, rest
        )
        result, outputs = _finish_phase(config, folder, program, state, rest, task)
        position = position._replace(results=(*position.results, result))
        if position.phase + 1 == len(phases(config)):
            break
        model = program.model(train.selected(config, state), rest)
        model, position = _switch(config, task, folder, program, model, position)
        program, state, rest = train.start_phase(model, config, task, position.phase)
    model = program.model(train.selected(config, state), rest)
    _write_summary(config, task, folder, position, model, outputs)


def _train_phase(
    config: Config,
    task: Task,
    folder: Path,
    checkpoints: Checkpoints,
    progress: Progress,
    position: Position,
    program: Program,
    state: State,
    rest: nnx.State,
) -> tuple[State, Position]:
    """Trains from the position to the end of its phase."""
    spec = program.spec
    layers = {} if spec.name == "selective" else summarize(program.model(state.params, rest))
    saved = time.monotonic()
    for epoch in range(position.epoch, spec.epochs):
        begun = time.monotonic()
        state, metrics = train.run_epoch(
            program,
            state,
            rest,
            task.splits["train"],
            task.splits["validation"],
            train.draw(program, config.seed, epoch, len(task.splits["train"].labels)),
            jnp.int32(epoch),
        )
        position = position._replace(epoch=epoch + 1)
        done = _epochs_done(config, position)
        metrics = jax.device_get(metrics)
        step_losses = metrics.pop("step_losses")
        _require_finite(step_losses, spec.name, done, program.steps)
        if spec.name == "selective":
            layers = summarize(program.model(state.params, rest))
        row = {
            "epoch": done,
            "phase": spec.name,
            "phase_epoch": epoch + 1,
            **{name: float(value) for name, value in metrics.items()},
            "first_step_loss": float(step_losses[0]),
            "lowest_step_loss": float(step_losses.min()),
            "seconds": time.monotonic() - begun,
            "layers": layers,
        }
        run_folder.append_metrics(folder, row)
        progress.update(row)
        last = epoch + 1 == spec.epochs
        if last or time.monotonic() - saved >= config.checkpoint_seconds:
            checkpoints.save(done, state, position._asdict())
            saved = time.monotonic()
    return state, position


def _epochs_done(config: Config, position: Position) -> int:
    return epochs_before(config, position.phase) + position.epoch


def _require_finite(losses: np.ndarray, phase: str, epoch: int, steps: int) -> None:
    bad = np.flatnonzero(~np.isfinite(losses))
    if bad.size:
        raise RunError(
            f"the loss is {losses[bad[0]]} in step {bad[0] + 1} of {steps} of epoch {epoch} "
            f"({phase} phase): stopped; the last checkpoint is from before"
        )


def _resume(
    config: Config, task: Task, checkpoints: Checkpoints
) -> tuple[Position, Program, State, nnx.State]:
    """The newest readable checkpoint, or the beginning."""
    for epochs, record in checkpoints.positions():
        position = Position(**record)
        model = (
            train.mixed_model(config, task, list(position.choices))
            if position.phase == 1
            else train.build_model(config, task)
        )
        program, state, rest = train.start_phase(model, config, task, position.phase)
        try:
            return position, program, checkpoints.restore(epochs, state), rest
        except Exception as error:  # Orbax and its storage raise many kinds
            checkpoints.discard(epochs, error)
    return Position(), *train.start_phase(train.build_model(config, task), config, task, 0)


# Between and after the phases


def _finish_phase(
    config: Config,
    folder: Path,
    program: Program,
    state: State,
    rest: nnx.State,
    task: Task,
) -> tuple[dict[str, Any], np.ndarray]:
    """The one look at the test set, with the parameters that `select_epoch` names.

    Returns:
        The phase's results, and the network's outputs on the test set [M, out_features].
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
    params = train.selected(config, state)
    tau = train.temperature(program, last * program.steps)
    key = train.make_key(config.seed, program.phase, train.EVALUATION)
    outputs = {}
    for number, name in enumerate(name for name in ("test", "outside") if name in task.splits):
        split = task.splits[name]
        # Epochs fold in 0, 1, …; these are beyond them.
        noise = jax.random.fold_in(key, 1_000_000 + number)
        loss, score, outputs[name] = train.evaluate(program, params, rest, split, noise, tau)
        result[f"{name}_loss"], result[f"{name}_score"] = float(loss), float(score)
        if config.is_regression:
            variance = float(np.var(np.asarray(split.labels)))
            result[f"{name}_normalized_error"] = float(score) / variance
    return result, np.asarray(outputs["test"])


def _switch(
    config: Config, task: Task, folder: Path, program: Program, model: Any, position: Position
) -> tuple[MLP, Position]:
    """Phase 1's model → phase 2's, with the files that say what was chosen and what it cost."""
    score = train.score_with(program, task.splits["validation"])
    noise = nnx.Rngs(selection=train.make_key(config.seed, 0, train.SWITCH))
    model = nnx.view(model, temperature=config.final_temperature)
    report: dict[str, Any] = switch_report(model, score, noise)
    switched: Any = train.switch(model, config, task)
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


def _write_summary(
    config: Config,
    task: Task,
    folder: Path,
    position: Position,
    model: Any,
    outputs: np.ndarray,
) -> None:
    """summary.json, and fit.npz for a function; outputs are those on the test set."""
    summary: dict[str, Any] = {
        "phases": position.results,
        "switch": position.switch,
        "class_names": task.class_names,
        "source": task.source,
        "seconds": sum(row["seconds"] for row in run_folder.read_metrics(folder)),
        "environment": environment(),
    }
    if config.is_regression:
        run_folder.write_arrays(folder / "fit.npz", _fit(config, task, model))
    else:
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


def _fit(config: Config, task: Task, model: Any) -> dict[str, np.ndarray]:
    """The fitted function and the true one along every variable and on the plane of x1 and x2."""
    name = config.task.removeprefix("function:")
    predict = jax.jit(lambda inputs: model(inputs)[:, 0])
    d, held = task.in_features, 0.5
    line = np.linspace(-targets.OUTSIDE, targets.OUTSIDE, 241, dtype=np.float32)
    inputs = np.full((d, line.size, d), held, np.float32)
    inputs[np.arange(d), :, np.arange(d)] = line
    plane_x = np.linspace(-targets.OUTSIDE, targets.OUTSIDE, 97, dtype=np.float32)
    plane = np.full((plane_x.size, plane_x.size, d), held, np.float32)
    plane[..., 0], plane[..., 1] = np.meshgrid(plane_x, plane_x)

    def both(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        flat = points.reshape(-1, d)
        true, fit = targets.evaluate(name, flat)[:, 0], np.asarray(predict(flat))
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


# The command line


def parse(arguments: Sequence[str]) -> Config:
    """Command-line arguments → Config; --preset and --task decide the defaults of the rest."""
    try:
        import tyro
    except ImportError:
        raise RunError("the command line needs tyro: pip install tyro") from None

    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset", default="recommended", choices=PRESET_NAMES)
    first.add_argument("--task", default="digits")
    chosen, _ = first.parse_known_args(arguments)
    return tyro.cli(
        Config,
        prog="python -m experiments.run",
        description=__doc__,
        default=default_config(chosen.preset, chosen.task),
        args=list(arguments),
    )


def main(arguments: Sequence[str]) -> int:
    """Runs, prints the results and draws the figures; returns the exit status."""
    from experiments import plots, report

    try:
        config = parse(arguments)
        folder = run(config)
        print(report.describe(folder))
        figures = plots.draw_figures(folder)
        print(f"{len(figures)} figures in {folder / 'figures'}")
    except (DataError, RunError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command again resumes", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
