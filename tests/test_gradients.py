"""Tables with the derivatives of y: their labels, the loss, and that they help."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.data import gradients
from experiments.data.sources import DataError
from experiments.data.tasks import load_task
from experiments.evaluate import load_run, predict_file, score_test
from experiments.presets import default_config
from experiments.run import main
from experiments.run_folder import folder_of, read_finished
from experiments.training import networks
from experiments.training.program import compile_key
from experiments.training.train import train_and_evaluate

WEIGHT = 2.0


def read_summary(folder) -> dict:
    return read_finished(folder)[2]


def made(rows: int = 60, **changes) -> dict:
    """y = 3·x1² + sin(x2) and its derivatives; x2 has another scale, x3 is constant."""
    rng = np.random.default_rng(0)
    x = np.column_stack([rng.normal(size=rows), 5 * rng.normal(size=rows), np.full(rows, 2.0)])
    y = 3 * x[:, 0] ** 2 + np.sin(x[:, 1])
    dy = np.column_stack([6 * x[:, 0], np.cos(x[:, 1]), np.full(rows, 7.0)])
    return {"x": x, "y": y, "dy": dy, **changes}


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("made.npz", **made())
    return tmp_path / "made.npz"


def config_of(file, **changes):
    config = default_config(task=f"table:{file}")
    short = dict(selective_epochs=1, mixed_epochs=1, steps_per_epoch=5, hidden=(8,))
    options = dict(target_kind="values", derivative_weight=WEIGHT, **short)
    return dataclasses.replace(config, **{**options, **changes})


def test_labels_are_the_derivatives_of_the_standardised_target(file):
    split = load_task(config_of(file)).splits["train"]
    assert split.labels.shape == (len(split.inputs), 3)
    assert split.inputs.shape[1] == 2  # x3 is left out, with its derivative
    mean, scale = (np.asarray(f(made()["x"], 0)) for f in (np.mean, np.std))
    columns = load_task(config_of(file)).extras["columns"]
    (m1, s1), (m2, s2) = ((c["mean"], c["scale"]) for c in columns["inputs"])
    target = columns["target"]["scale"]
    x1, x2 = np.asarray(split.inputs[:, 0]) * s1 + m1, np.asarray(split.inputs[:, 1]) * s2 + m2
    factor = np.sqrt(WEIGHT / 2) / target
    expected = np.column_stack([6 * x1 * s1, np.cos(x2) * s2]) * factor
    np.testing.assert_allclose(split.labels[:, 1:], expected, rtol=1e-4, atol=1e-4)
    assert abs(m1 - mean[0]) < 1
    assert 0.5 < s2 / scale[1] < 2


def test_outputs_are_values_and_weighted_derivatives():
    x = jnp.asarray(np.random.default_rng(1).normal(size=(5, 2)), jnp.float32)
    found = gradients.outputs(lambda x: x[:, 0] ** 2 * x[:, 1], x, 8.0)
    expected = [x[:, 0] ** 2 * x[:, 1], 2 * 2 * x[:, 0] * x[:, 1], 2 * x[:, 0] ** 2]
    np.testing.assert_allclose(found, np.stack(expected, -1), rtol=1e-6)


def test_the_loss_adds_the_derivatives_and_the_score_does_not(file):
    task = load_task(config_of(file))
    labels = task.splits["test"].labels
    losses, scores = task.objective.losses_and_scores(labels + 1, labels)
    np.testing.assert_allclose(losses, 3.0, rtol=1e-5)
    np.testing.assert_allclose(scores, 1.0, rtol=1e-5)
    assert task.results("test", 3.0, 1.0)["test_normalized_error"] == pytest.approx(
        1 / float(np.var(np.asarray(labels[:, 0]))), rel=1e-5
    )


@pytest.mark.parametrize("method", ["two_phase", "uniform:tanh"])
def test_a_run_trains_and_its_scores_are_recomputed(file, method):
    config = config_of(file, method=method, run_dir=str(file.parent / "run"))
    summary = read_summary(train_and_evaluate(config))
    run = load_run(folder_of(config))
    for key, value in score_test(run).items():
        assert value == pytest.approx(summary["phases"][-1][key], rel=1e-4), key
    columns = predict_file(run, file).columns
    assert list(columns) == ["row", "y", "predicted_y"]


def test_derivatives_help_where_rows_are_few(tmp_path):
    np.savez(tmp_path / "few.npz", **made(60))
    common = dict(method="uniform:tanh", hidden=(32,), selective_epochs=5, mixed_epochs=15)
    errors = [
        read_summary(
            train_and_evaluate(
                config_of(
                    tmp_path / "few.npz",
                    steps_per_epoch=50,
                    derivative_weight=weight,
                    run_dir=str(tmp_path / str(weight)),
                    **common,
                )
            )
        )["phases"][-1]["test_rmse"]
        for weight in (0.0, 1.0)
    ]
    assert errors[1] < 0.9 * errors[0]


def test_the_weight_is_a_part_of_the_program_and_the_file_is_not(file):
    keys = [
        compile_key(config_of(*arguments))
        for arguments in ((file,), (file.with_name("other.npz"),))
    ]
    assert keys[0] == keys[1]
    assert compile_key(config_of(file, derivative_weight=0.0)) != keys[0]


def test_selective_layers_give_the_derivatives_that_they_compute(file):
    config = config_of(file)
    task = load_task(config)
    model = networks.build_model(config, task)
    x, key = task.splits["train"].inputs[:32], jax.random.key(3)
    found = networks.apply(config, 1.0, model, x, key)
    plain = dataclasses.replace(config, derivative_weight=0.0)
    step = 1e-2 * jnp.eye(2)[0]
    ends = [networks.apply(plain, 1.0, model, x + s * step, key)[:, 0] for s in (-1, 1)]
    near = np.sqrt(WEIGHT / 2) * (ends[1] - ends[0]) / 2e-2
    assert np.mean(np.abs(found[:, 1] - near) < 2e-2) > 0.8  # not where a kink lies between


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"dy": np.zeros((60, 2))}, {}, r"dy is float64 \[60, 2\], expected numbers \[60, 3\]"),
        ({"dy": np.full((60, 3), "a")}, {}, r"dy is <U1 \[60, 3\], expected numbers"),
        ({"dy": np.full((60, 3), np.nan)}, {}, r"row 0, column 'dy by x1': nan"),
        ({"y": np.arange(60) % 3}, {"target_kind": "classes"}, "y is not what is fitted as values"),
        ({}, {"target": "x1"}, "y is not what is fitted as values"),
    ],
)
def test_derivatives_that_do_not_fit_are_one_line(tmp_path, changes, options, message):
    np.savez(tmp_path / "bad.npz", **made(**changes))
    with pytest.raises(DataError, match=message):
        load_task(config_of(tmp_path / "bad.npz", **options))


def test_a_file_without_derivatives_is_one_line(tmp_path, capsys):
    (tmp_path / "a.csv").write_text("a,y\n" + "\n".join(f"{i},{i}.5" for i in range(60)))
    with pytest.raises(DataError, match="needs an NPZ file with dy"):
        load_task(config_of(tmp_path / "a.csv", target="y"))
    assert main(["--task", "function:ratio", "--derivative-weight", "1"]) == 1
    said = capsys.readouterr().err
    assert re.search("derivative_weight = 1.0 has no effect on function:ratio", said), said
