"""A trained run: its network, its scores, and predictions for new rows.

    python -m experiments.evaluate RUN
    python -m experiments.evaluate RUN --data FILE [--out FILE.csv]
    python -m experiments.evaluate RUN --formula

The first recomputes the scores of the test split, from the data of the run. The second predicts for
the rows of a CSV or NPZ file, with scores if it has the target too, and writes the predictions to
predictions.csv in the run's folder, or to --out. The third writes the network as a sum of its
functions, as it is; experiments.recipes.formula makes one smaller first.
"""

import argparse
import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments import run_folder
from experiments.checkpoints import Checkpoints, DamagedCheckpoint, Moment, Position
from experiments.config import Config, has_fixed_choices, phases
from experiments.data.datasets import KERAS_ARRAYS
from experiments.data.encoding import (
    Column,
    encode_inputs,
    encode_target,
    encoding_of,
    input_units,
)
from experiments.data.functions import variables
from experiments.data.reading import read_arrays, read_columns
from experiments.data.sources import DataError
from experiments.data.tasks import Task, load_task
from experiments.machine import require_memory_for_jax
from experiments.run import exit_status
from experiments.run_folder import TaskRecord
from experiments.training import networks
from experiments.training.outcome import score_splits
from experiments.training.program import Program, compile_key
from experiments.training.state import split_model
from smartmixed_jax import MLP, FunctionTable
from smartmixed_jax.summary import Formula, formula


class TrainedRun(NamedTuple):
    """A trained network with what is needed to use it.

    Attributes:
        config: of the run.
        task: shape of an input, classes, objective, and `extras` such as the columns of a table.
        network: of the last phase, in evaluation mode, as plain Flax NNX; `outputs` calls it.
        tables: which function each neuron has, by the path of the layer; empty for a uniform
            network.

    Example:
        run = load_run("runs/digits/recommended-arch4-two_phase-seed0")
        classes = run.outputs(images).argmax(-1)       # images uint8 [M, 8, 8, 1], as they are
    """

    config: Config
    task: TaskRecord
    network: Any
    tables: dict[str, FunctionTable]

    def outputs(self, inputs: Any) -> np.ndarray:
        """Of raw inputs [M, *task.shape] → float32 [M, ..., out_features].

        Args:
            inputs: as the splits of the task hold them: images and points as they are, the rows of
                a table as `encode_inputs` makes them, tokens.
        """
        inputs, batch = self.checked(inputs), self.config.batch_size
        graphdef, state = nnx.split(self.network)

        @jax.jit
        def run(state: nnx.State, inputs: jax.Array) -> jax.Array:
            model = nnx.merge(graphdef, state)
            return networks.apply(self.config, self.task.scale, model, inputs, jax.random.key(0))

        # The last batch is filled up by wrapping around, so that one program serves all.
        indices = np.arange(-(-len(inputs) // batch) * batch) % len(inputs)
        parts = [run(state, inputs[index]) for index in indices.reshape(-1, batch)]
        return np.concatenate(parts)[: len(inputs)].astype(np.float32)

    def checked(self, inputs: Any) -> np.ndarray:
        """Raw inputs as an array; ValueError unless they are [M, *task.shape], M ≥ 1."""
        inputs = np.asarray(inputs)
        if inputs.shape[1:] != self.task.shape or not len(inputs):
            raise ValueError(f"inputs are {list(inputs.shape)}, expected {['M', *self.task.shape]}")
        return inputs


def load_run(folder: str | Path) -> TrainedRun:
    """The trained network of a finished run, from its folder alone.

    Raises:
        ValueError: the folder holds no finished run, or a damaged file.
    """
    folder = Path(folder)
    config, task, _ = run_folder.read_finished(folder)
    with Checkpoints(folder) as checkpoints:
        if not (moments := checkpoints.moments()):
            raise ValueError(f"{folder} holds no checkpoint")
        network, _ = _restore(checkpoints, moments[-1], config, task)
    return trained(config, task, network)


def load_switched(folder: str | Path) -> TrainedRun | None:
    """The network between the phases of a finished run: phase 1's weights, the choices fixed.

    With `carry_weights` it is that with which phase 2 began. A folder keeps the last two
    checkpoints: this one is among them if phase 2 took less than --checkpoint-seconds.

    Returns:
        The network; None where its checkpoint is gone, and for a uniform network.

    Raises:
        ValueError: as `load_run`.
    """
    folder = Path(folder)
    config, task, _ = run_folder.read_finished(folder)
    end = Moment(config.selective_epochs)
    with Checkpoints(folder) as checkpoints:
        if not config.has_choices or end not in checkpoints.moments():
            return None
        selective, position = _restore(checkpoints, end, config, task)
    choices = run_folder.read_choices(folder)
    if position.phase_index != 0 or choices is None:
        return None
    _, params, _ = split_model(selective)
    tables = [layer.choices.tolist() for layer in choices.values()]
    network = networks.mixed_model(config, task, tables)
    nnx.update(network, params["weights"], params["statistics"])
    return trained(config, task, network)


def _restore(
    checkpoints: Checkpoints, moment: Moment, config: Config, task: TaskRecord
) -> tuple[Any, Position]:
    """The network of a checkpoint with the parameters that are tested, and its position."""
    try:
        position = checkpoints.restore_position(moment)
        if has_fixed_choices(config, position.phase_index):
            network = networks.mixed_model(config, task, position.choices)
        else:
            network = networks.build_model(config, task)
        _, params, _ = split_model(network)
        part = "params" if config.select_epoch == "last" else "best_params"
        params = checkpoints.restore_part(moment, part, params)
    except DamagedCheckpoint as error:
        raise ValueError(f"checkpoint {checkpoints.place(moment)} is damaged ({error})") from None
    nnx.update(network, *params.values())
    return network, position


def trained(config: Config, task: TaskRecord, network: Any) -> TrainedRun:
    """A network of a run with its tables, in evaluation mode."""
    network.eval()
    tables = {path: layer.table for path, layer in networks.fixed_layers(network).items()}
    return TrainedRun(config, task, network, tables)


def load_data(run: TrainedRun) -> Task:
    """The data of a run.

    Raises:
        DataError, ValueError: they cannot be had, or are not those that the run had.
    """
    task = load_task(run.config)
    if changed := task.record().differs_in(run.task):
        raise DataError(f"the data of {run.config.task} are not those of the run ({changed})")
    return task


def score_test(run: TrainedRun) -> dict[str, float]:
    """The results of the test split, recomputed from the data of the run, as summary.json has them.

    Raises:
        DataError, ValueError: as `load_data`.
    """
    task, config = load_data(run), run.config
    graphdef, params, non_trainable = split_model(run.network)
    program = Program(
        graphdef, compile_key(config), len(phases(config)) - 1, 1, task.objective, task.scale
    )
    return score_splits(config, task, program, params, non_trainable)[0]


# The formula

ROWS = 2_000
"""At most so many of the training examples say what contributes."""


def read_formula(run: TrainedRun) -> Formula:
    """The formula of a run's network, measured on its training examples.

    Of a table it is in the units of the columns: the standardisation becomes part of the first and
    the last layer. The inputs of a function have the names of its arguments; others are x1, x2, ….

    Raises:
        ValueError: the network is no mlp with fixed choices, or its inputs are not [M, d].
        DataError: the data cannot be had.
    """
    if len(run.task.shape) != 1 or run.task.scale != 1:
        raise ValueError(f"formula: inputs of {run.task.name} are no numbers [M, d]")
    inputs = np.asarray(load_data(run).splits["train"].inputs[:ROWS], np.float64)
    names, model = None, run.network
    if run.config.task.startswith("function:"):
        names = variables(run.config.task.removeprefix("function:"))
    try:
        if "columns" in run.task.extras:
            encoding = encoding_of(run.task.extras["columns"])
            names, mean, scale = input_units(encoding)
            inputs = inputs * scale + mean
            if isinstance(model, MLP):
                model = _in_units(model, mean, scale, encoding.target)
        return formula(model, inputs, names=names)
    except TypeError as error:
        raise ValueError(str(error)) from None


def _in_units(model: MLP, mean: np.ndarray, scale: np.ndarray, target: Column) -> MLP:
    """A network of (x − mean) / scale → one of x, its outputs in the unit of the target."""
    model = nnx.clone(model)
    first, last = model.layers[0], model.layers[-1]
    kernel = np.asarray(first.kernel[...], np.float64) / scale[:, None]
    first.kernel[...] = jnp.asarray(kernel, jnp.float32)
    first.bias[...] -= jnp.asarray(mean @ kernel, jnp.float32)
    last.kernel[...] *= target.scale
    last.bias[...] = last.bias[...] * target.scale + target.mean
    return model


# Predictions


class Predictions(NamedTuple):
    """Predictions for the rows of a file.

    Attributes:
        columns: of predictions.csv by their name, each with a cell per row.
        scores: label → value, as text; empty if the file has no target.
    """

    columns: dict[str, Sequence[Any]]
    scores: dict[str, str]


def predict_file(run: TrainedRun, path: Path) -> Predictions:
    """Predictions for the rows of a CSV or NPZ file, in the units of its columns.

    Args:
        path: of a table or function, a file with the columns of the inputs; of images and other
            arrays, an NPZ file with x [M, ...] as the task has it, and maybe y.

    Raises:
        DataError: the file cannot be read, lacks a column, or a cell does not fit.
    """
    if run.task.scale is None:
        raise DataError(f"{path}: predictions for rows of text are not made")
    if "columns" not in run.task.extras:
        return _predict_arrays(run, path)
    encoding = encoding_of(run.task.extras["columns"])
    columns = read_columns(path)
    target = encoding.target
    outputs = run.outputs(encode_inputs(columns, encoding))
    labels = encode_target(columns, encoding) if target.name in columns.cells else None
    found: dict[str, Sequence[Any]] = {"row": list(columns.rows)}
    if labels is not None:
        found[target.name] = columns.cells[target.name].tolist()
    if target.categories is not None:
        found |= _classes(f"predicted_{target.name}", outputs, target.categories)
        return Predictions(found, _scores(run, outputs, labels))
    values = outputs[:, 0].astype(np.float64) * target.scale + target.mean
    found[f"predicted_{target.name}"] = [f"{value:.8g}" for value in values]
    return Predictions(found, _scores(run, outputs, labels, target.scale))


def _predict_arrays(run: TrainedRun, path: Path) -> Predictions:
    if path.suffix.lower() != ".npz":
        raise DataError(f"{path}: expected an NPZ file with x {['M', *run.task.shape]}")
    arrays = read_arrays(path)
    x = next(
        (arrays[name] for name in ("x", KERAS_ARRAYS[2], "test_inputs") if name in arrays), None
    )
    if x is None:
        raise DataError(f"{path}: expected the array x, found {', '.join(arrays) or 'none'}")
    if x.shape[1:] == run.task.shape[:-1] and run.task.shape[-1] == 1:
        x = x[..., None]
    if x.shape[1:] != run.task.shape or not len(x) or x.dtype.kind not in "fiub":
        raise DataError(
            f"{path}: x is {x.dtype} {list(x.shape)}, expected numbers {['M', *run.task.shape]}"
        )
    outputs = run.outputs(x)
    labels = next((arrays[n] for n in ("y", KERAS_ARRAYS[3], "test_labels") if n in arrays), None)
    found: dict[str, Sequence[Any]] = {"row": range(len(x))}
    if not run.task.objective.confusion:
        flat = outputs.reshape(len(outputs), -1)
        names = [f"predicted_{number + 1}" for number in range(flat.shape[1])]
        found |= dict(zip(names, flat.T.tolist(), strict=True))
        if labels is not None:
            labels = labels.reshape(len(labels), -1).astype(np.float32)
        return Predictions(found, _scores(run, outputs, labels))
    names = list(run.task.class_names or map(str, range(run.task.out_features)))
    found |= _classes("predicted", outputs, names)
    if labels is not None:
        labels = labels.reshape(-1)
        if len(labels) != len(x) or labels.dtype.kind not in "iuU":
            raise DataError(f"{path}: y is {labels.dtype} [{len(labels)}], expected [{len(x)}]")
        if not (set(map(str, labels.tolist())) <= set(names)):
            raise DataError(f"{path}: y holds labels that are none of {', '.join(names)}")
        labels = np.array([names.index(str(label)) for label in labels.tolist()], np.int32)
    return Predictions(found, _scores(run, outputs, labels))


def _classes(column: str, outputs: np.ndarray, names: Sequence[str]) -> dict[str, Sequence[Any]]:
    probabilities = np.asarray(jax.nn.softmax(outputs, -1))
    chosen = [names[index] for index in probabilities.argmax(-1)]
    return {column: chosen, "probability": [f"{value:.4f}" for value in probabilities.max(-1)]}


def _scores(
    run: TrainedRun, outputs: np.ndarray, labels: np.ndarray | None, scale: float = 1.0
) -> dict[str, str]:
    if labels is None:
        return {}
    objective = run.task.objective
    _, scores = objective.losses_and_scores(jnp.asarray(outputs), jnp.asarray(labels))
    score = float(jnp.mean(scores))
    if not objective.normalized:
        return {objective.metric: objective.format_metric(score)}
    found = {"RMSE": f"{scale * score**0.5:.4g}"}
    if np.var(labels):
        found["MSE / Var y"] = f"{score / float(np.var(labels)):.3g}"
    return found


def write_predictions(path: Path, predictions: Predictions) -> None:
    """A CSV file with a line per row."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(predictions.columns)
    writer.writerows(zip(*predictions.columns.values(), strict=True))
    run_folder.write_text(path, text.getvalue())


def describe_results(run: TrainedRun, results: dict[str, float]) -> str:
    """The results as the run's table has them, and below as summary.json has them."""
    columns = run.task.objective.columns.items()
    told = [f"{label}: {write(results[key])}" for label, (key, write) in columns if key in results]
    return "\n".join([*told, *(f"{key} = {value}" for key, value in results.items())])


def describe_formula(found: Formula) -> str:
    """The text of a formula, its neurons, and how far it is from the network."""
    return f"{found}\n{found.neurons} neurons, {found.error:.1e} from the network (RMS / std)"


def main(arguments: Sequence[str]) -> int:
    """Scores, or predicts, or writes a formula; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="the folder of a finished run")
    parser.add_argument("--data", metavar="FILE", type=Path, help="CSV or NPZ")
    parser.add_argument("--out", metavar="FILE", type=Path, help="of the predictions")
    parser.add_argument("--formula", action="store_true", help="the network as a sum of functions")
    options = parser.parse_args(arguments)

    def work() -> int:
        require_memory_for_jax()
        if options.formula:
            if options.data is not None or options.out is not None:
                raise ValueError("--formula: expected no --data and no --out")
            print(describe_formula(read_formula(load_run(options.run))))
            return 0
        if options.data is None:
            if options.out is not None:
                raise ValueError("--out: expected --data too")
            run = load_run(options.run)
            print(describe_results(run, score_test(run)))
            return 0
        if not options.data.is_file():
            raise DataError(f"no file {options.data.absolute()}")
        out = options.out or options.run / run_folder.PREDICTIONS
        if out.exists() and out.samefile(options.data):
            raise ValueError(f"--out {out}: expected another file than --data")
        if not out.parent.is_dir():
            raise ValueError(f"--out {out}: there is no folder {out.parent}")
        predictions = predict_file(load_run(options.run), options.data)
        write_predictions(out, predictions)
        for label, value in predictions.scores.items():
            print(f"{label}: {value}")
        print(f"{len(predictions.columns['row'])} predictions in {out}")
        return 0

    return exit_status(work)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
