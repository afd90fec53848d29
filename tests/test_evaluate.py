"""A trained run given back, its scores recomputed, and predictions for new rows."""

import csv
import dataclasses
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from test_tables import trees, write

from experiments import evaluate
from experiments.data import DataError
from experiments.data.tasks import load_task
from experiments.evaluate import load_run, predict_file, score_test
from experiments.presets import default_config
from experiments.run_folder import read_choices, read_finished
from experiments.training.train import train_and_evaluate


def tiny(task: str, folder: Path, **changes):
    settings = dict(hidden=(8,), selective_epochs=1, mixed_epochs=1, steps_per_epoch=5)
    settings |= dict(run_dir=str(folder))
    return dataclasses.replace(default_config(task=task), **(settings | changes))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a table, and a finished run for each of its two targets."""
    home = tmp_path_factory.mktemp("evaluate")
    path = write(home / "trees.csv", trees(200))
    for name, changes in {
        "values": {"target": "volume", "split_column": "part", "select_epoch": "last"},
        "classes": {"target": "kind", "inputs": ("girth", "height")},
        "uniform": {"target": "volume", "method": "uniform:tanh"},
    }.items():
        config = tiny(f"table:{path}", home / name, **changes)
        train_and_evaluate(config, show_progress=False)
    return home


def last_phase(folder: Path) -> dict:
    return read_finished(folder).summary["phases"][-1]


@pytest.mark.parametrize("name", ["values", "classes", "uniform"])
def test_the_scores_are_those_of_the_summary(home, name):
    results = score_test(load_run(home / name))
    phase = last_phase(home / name)
    assert results == {key: phase[key] for key in results}
    assert ("test_rmse" in results) == (name != "classes")
    assert ("test_normalized_error" in results) == (name != "classes")


def test_a_table_run_gives_its_errors_in_the_unit_of_the_column(home):
    run, phase = load_run(home / "values"), last_phase(home / "values")
    predictions = predict_file(run, home / "trees.csv").columns
    error = np.array(predictions["predicted_volume"], float)[190:] - trees(200)["volume"][190:]
    assert phase["test_rmse"] == pytest.approx(np.sqrt(np.mean(error**2)), rel=1e-5)
    variance = np.var(trees(200)["volume"][190:])
    assert phase["test_normalized_error"] == pytest.approx(np.mean(error**2) / variance, rel=1e-4)


def test_the_network_is_fixed_and_in_evaluation_mode(home):
    run = load_run(home / "values")
    choices = read_choices(home / "values")
    assert {path: table.choices for path, table in run.tables.items()} == {
        path: tuple(layer.choices.tolist()) for path, layer in choices.items()
    }
    assert run.task == read_finished(home / "values").task
    inputs = load_task(run.config).splits["test"].inputs
    np.testing.assert_allclose(run.outputs(inputs), jax.jit(run.network)(inputs), rtol=1e-5)
    assert load_run(str(home / "uniform")).tables == {}


def test_the_epoch_with_the_lowest_loss_is_given_back_where_it_is_tested(tmp_path, home):
    """Training that ends worse than it was: the two sets of parameters differ."""
    config = tiny(
        f"table:{home}/trees.csv",
        tmp_path / "run",
        target="volume",
        method="uniform:relu",
        select_epoch="lowest_loss",
        selective_epochs=5,
        schedule="constant",
        learning_rate=100.0,
        warmup=0.99,
        weight_decay=0.0,
    )
    train_and_evaluate(config, show_progress=False)
    phase = last_phase(tmp_path / "run")
    assert phase["tested_epoch"] < phase["epochs"]
    results = score_test(load_run(tmp_path / "run"))
    assert results["test_loss"] == phase["test_loss"]


# Predictions


def rows_of(path: Path) -> list[dict]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_predictions_are_written_in_the_units_of_the_columns(home, capsys):
    new = {"height": [20, 25], "girth": [3, 4], "kind": ["oak", "elm"], "other": ["", "x"]}
    data = write(home / "new.csv", new)
    assert evaluate.main([str(home / "values"), "--data", str(data)]) == 0
    rows = rows_of(home / "values" / "predictions.csv")
    assert [row["row"] for row in rows] == ["2", "3"]
    table = trees(200)["volume"]
    predicted = np.array([float(row["predicted_volume"]) for row in rows])
    assert (np.abs(predicted - table.mean()) < 5 * table.std()).all()
    assert "2 predictions in" in capsys.readouterr().out
    out = home / "classes.csv"
    arguments = [str(home / "classes"), "--data", str(data), "--out", str(out)]
    assert evaluate.main(arguments) == 0
    assert {row["predicted_kind"] for row in rows_of(out)} <= {"oak", "elm", "fir"}
    assert rows_of(out)[0]["kind"] == "oak"
    assert all(1 / 3 <= float(row["probability"]) <= 1 for row in rows_of(out))
    assert "accuracy: " in capsys.readouterr().out


def test_one_row_has_no_variance(home):
    new = {"height": [20], "girth": [3], "kind": ["oak"], "volume": [60.0]}
    predictions = predict_file(load_run(home / "values"), write(home / "one.csv", new))
    error = float(predictions.columns["predicted_volume"][0]) - 60
    assert predictions.scores == {"RMSE": f"{abs(error):.4g}"}


def test_functions_and_images_are_predicted_too(tmp_path):
    config = tiny("function:product_sine", tmp_path / "function")
    train_and_evaluate(config, show_progress=False)
    columns = {"x1": [0.5, 1], "x2": [1, 1], "x3": [0, -1], "y": [0.5, 0.0]}
    run = load_run(tmp_path / "function")
    predictions = predict_file(run, write(tmp_path / "points.csv", columns))
    points = np.stack([columns[name] for name in ("x1", "x2", "x3")], 1).astype(np.float32)
    predicted = np.array(predictions.columns["predicted_y"], float)
    np.testing.assert_allclose(predicted, run.outputs(points)[:, 0], rtol=1e-5)
    assert set(predictions.scores) == {"RMSE", "MSE / Var y"}
    results = score_test(run)
    assert results == {key: last_phase(tmp_path / "function")[key] for key in results}
    assert "outside_normalized_error" in results

    digits = tiny("digits", tmp_path / "digits")
    train_and_evaluate(digits, show_progress=False)
    split = load_task(digits).splits["test"]
    np.savez(tmp_path / "a.npz", x=split.inputs[..., 0], y=split.labels)
    predictions = predict_file(load_run(tmp_path / "digits"), tmp_path / "a.npz")
    right = np.array(predictions.columns["predicted"], int) == np.asarray(split.labels)
    assert right.mean() == pytest.approx(last_phase(tmp_path / "digits")["test_score"], abs=0.01)
    np.savez(tmp_path / "b.npz", images=split.inputs)
    with pytest.raises(DataError, match=r"expected the array x, found images"):
        predict_file(load_run(tmp_path / "digits"), tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", x=split.inputs[:, :5])
    with pytest.raises(DataError, match=r"x is uint8 \[\d+, 5, 8, 1\], expected numbers"):
        predict_file(load_run(tmp_path / "digits"), tmp_path / "c.npz")


# What is refused


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"girth": [1], "kind": ["oak"]}, "no column 'height'; it has girth, kind"),
        ({"girth": ["wide"], "height": [1], "kind": ["oak"]}, "column 'girth': 'wide', expected"),
        ({"girth": [""], "height": [1], "kind": ["oak"]}, "row 2, column 'girth': a missing v"),
        ({"girth": [1], "height": [1], "kind": ["yew"]}, "'yew', expected one of elm, fir, oak"),
    ],
)
def test_rows_that_do_not_fit_leave_nothing(home, tmp_path, capsys, columns, message):
    data, out = write(tmp_path / "a.csv", columns), tmp_path / "out.csv"
    assert evaluate.main([str(home / "values"), "--data", str(data), "--out", str(out)]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not out.exists()


def test_arguments_that_do_not_fit(home, tmp_path, capsys):
    data = write(tmp_path / "a.csv", trees())
    before = data.read_text()
    for arguments, message in (
        ([str(tmp_path)], "is no run folder"),
        ([str(home / "values"), "--data", "nothing.csv"], "no file /"),
        ([str(home / "values"), "--out", "a.csv"], "--out: expected --data too"),
        ([str(home / "values"), "--data", str(data), "--out", str(data)], "another file than"),
        ([str(home / "values"), "--data", str(data), "--out", "no/a.csv"], "there is no folder no"),
    ):
        assert evaluate.main(arguments) == 1
        assert message in capsys.readouterr().err
    assert data.read_text() == before


def test_a_table_that_changed_is_noticed(home, tmp_path):
    for name in ("values", "trees.csv"):
        (shutil.copytree if name == "values" else shutil.copy)(home / name, tmp_path / name)
    run = load_run(tmp_path / "values")
    run = run._replace(
        config=dataclasses.replace(run.config, task=f"table:{tmp_path / 'trees.csv'}")
    )
    task = run.task._replace(name=run.config.task)
    score_test(run._replace(task=task))
    table = trees(200)
    table["girth"][0] += 1
    write(tmp_path / "trees.csv", table)
    with pytest.raises(DataError, match=r"are not those of the run \(extras\)"):
        score_test(run._replace(task=task))


def test_a_run_on_a_table_that_changed_is_not_resumed(home, tmp_path, monkeypatch):
    table = trees(200)
    path = write(tmp_path / "trees.csv", table)
    config = tiny(f"table:{path}", tmp_path / "run", target="volume")

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("experiments.training.train.train_phase", stop)
        train_and_evaluate(config, show_progress=False)
    table["girth"][0] += 1
    write(path, table)
    with pytest.raises(RuntimeError, match=r"holds a run on other data \(extras\)"):
        train_and_evaluate(config, show_progress=False)


def test_a_damaged_checkpoint_is_named_and_stays(home, tmp_path):
    shutil.copytree(home / "values", tmp_path / "run")
    files = [p for p in (tmp_path / "run" / "checkpoints").rglob("*") if p.is_file()]
    for path in files:
        path.write_bytes(path.read_bytes()[:10])
    with pytest.raises(ValueError, match="checkpoints/2 is damaged"):
        load_run(tmp_path / "run")
    assert all(path.exists() for path in files)
