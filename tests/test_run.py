"""Whole runs: the folder, resuming, damage, bad input, the command line."""

import dataclasses
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import demo, folder_lock, report, run_folder
from experiments import run as program
from experiments.checkpoints import Checkpoints
from experiments.config import Config
from experiments.data import DataError, functions
from experiments.data.tasks import load_task
from experiments.presets import default_config
from experiments.run_folder import RunError, read_finished
from experiments.training import step, train
from experiments.training.resuming import resume
from experiments.training.state import open_run
from experiments.training.train import train_and_evaluate
from smartmixed_jax import ActivationPool

REPOSITORY = Path(__file__).parents[1]


def tiny(folder: Path, task: str = "digits", preset: str = "recommended", **changes) -> Config:
    settings = {
        "run_dir": str(folder),
        "hidden": (16, 12),
        "selective_epochs": 2,
        "mixed_epochs": 3,
        "logit_learning_rate": 0.05,
    }
    if task != "digits":
        settings["steps_per_epoch"] = 20
    return dataclasses.replace(default_config(preset, task), **(settings | changes))


def final_state(config: Config) -> dict[str, np.ndarray]:
    """Every leaf of the last checkpoint, and the choices."""
    folder = Path(config.run_dir)
    with Checkpoints(folder) as checkpoints, folder_lock.opened(folder, config) as held:
        run = open_run(config, load_task(config), held, checkpoints)
        phase = resume(run)
    position = run.position
    assert (position.phase_index, position.phase_epoch) == (1, config.mixed_epochs)
    leaves = jax.tree_util.tree_leaves_with_path(phase.state)
    named = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}
    return {**named, "choices": np.concatenate(position.choices)}


def assert_same_run(one: Config, other: Config) -> None:
    first, second = final_state(one), final_state(other)
    assert first.keys() == second.keys()
    for name, leaf in first.items():
        np.testing.assert_array_equal(leaf, second[name], err_msg=name)
    rows = [run_folder.read_metrics(Path(config.run_dir)) for config in (one, other)]
    for row in (*rows[0], *rows[1]):
        row.pop("seconds")
    assert rows[0] == rows[1]
    summaries = [read_finished(Path(config.run_dir)).summary for config in (one, other)]
    for summary in summaries:
        summary.pop("seconds")
        summary.pop("files")  # the rows have their seconds
        summary["environment"].pop("date")  # midnight may pass between the two
    assert summaries[0] == summaries[1]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Config:
    """A run that was never interrupted."""
    config = tiny(tmp_path_factory.mktemp("whole") / "run")
    train_and_evaluate(config, show_progress=False)
    return config


def test_a_run_leaves_its_folder(whole):
    folder = Path(whole.run_dir)
    rows = run_folder.read_metrics(folder)
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5]
    assert [row["phase"] for row in rows] == ["selective"] * 2 + ["mixed"] * 3
    for row in rows:
        assert list(row["layers"]) == ["activations.0", "activations.1"]
        assert sum(row["layers"]["activations.0"]["counts"].values()) == 16
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]

    config, task, summary = read_finished(folder)
    assert config == whole
    assert task == load_task(whole).record()
    assert [phase["name"] for phase in summary["phases"]] == ["selective", "mixed"]
    assert np.sum(summary["confusion"]) == len(load_task(whole).splits["test"].labels)
    accuracy = np.trace(summary["confusion"]) / np.sum(summary["confusion"])
    assert summary["phases"][-1]["test_score"] == pytest.approx(accuracy)
    switch = summary["switch"]
    assert switch["argmax"] == switch["fixed"] == switch["start"]

    choices = json.loads((folder / "choices.json").read_text())
    logits = np.load(folder / "selection.npz")
    for path, record in choices.items():
        assert record["choices"] == logits[path].argmax(-1).tolist()
        assert tuple(record["pool"]) == whole.activation_pool.names


def test_a_complete_run_is_not_trained_again(whole, monkeypatch):
    monkeypatch.setattr(step, "end_epoch", None)
    assert train_and_evaluate(whole, show_progress=False) == Path(whole.run_dir)


@pytest.mark.parametrize("stop_after", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("checkpoint_seconds", [0.0, 1e9])
def test_an_interrupted_run_ends_like_the_whole_one(
    whole, tmp_path, monkeypatch, stop_after, checkpoint_seconds
):
    """Stopped right after an epoch's row was written: before its checkpoint, if it gets one."""
    config = dataclasses.replace(
        whole, run_dir=str(tmp_path / "run"), checkpoint_seconds=checkpoint_seconds
    )
    append = run_folder.Rows.append

    def interrupt(folder, row):
        append(folder, row)
        if row["epoch"] == stop_after:
            raise KeyboardInterrupt

    monkeypatch.setattr(run_folder.Rows, "append", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train_and_evaluate(config, show_progress=False)
    monkeypatch.setattr(run_folder.Rows, "append", append)
    trained = []
    original = step.end_epoch

    def count(*arguments):
        trained.append(arguments[0].spec.name)
        return original(*arguments)

    monkeypatch.setattr(step, "end_epoch", count)
    train_and_evaluate(config, show_progress=False)
    kept = stop_after - 1 if checkpoint_seconds == 0 else 2 * (stop_after > 2)
    assert len(trained) == 5 - kept
    assert_same_run(whole, config)


@pytest.mark.parametrize("broken", ["test_phase", "switch_phase", "write_results"])
def test_interrupted_between_the_phases(whole, tmp_path, monkeypatch, broken):
    config = dataclasses.replace(whole, run_dir=str(tmp_path / "run"))

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(train, broken, interrupt)
        train_and_evaluate(config, show_progress=False)
    train_and_evaluate(config, show_progress=False)
    assert_same_run(whole, config)


def test_a_killed_process_resumes_bit_for_bit(whole, tmp_path):
    """SIGKILL in another process, in the middle of training."""
    config = dataclasses.replace(whole, run_dir=str(tmp_path / "run"), checkpoint_seconds=0.0)
    folder = Path(config.run_dir)
    arguments = [
        *("--task", "digits", "--hidden", "16", "12", "--selective-epochs", "2"),
        *("--mixed-epochs", "3", "--logit-learning-rate", "0.05", "--checkpoint-seconds", "0"),
        *("--run-dir", str(folder)),
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "experiments.run", *arguments],
        cwd=REPOSITORY,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 400
    while len(run_folder.read_metrics(folder)) < 2 and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (folder / "summary.json").exists()
    train_and_evaluate(config, show_progress=False)
    assert_same_run(whole, config)


def test_a_damaged_checkpoint_falls_back_to_the_one_before(whole, tmp_path, monkeypatch, capsys):
    config = dataclasses.replace(whole, run_dir=str(tmp_path / "run"), checkpoint_seconds=0.0)
    append = run_folder.Rows.append

    def interrupt(folder, row):
        append(folder, row)
        if row["epoch"] == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(run_folder.Rows, "append", interrupt)
        train_and_evaluate(config, show_progress=False)
    damaged = 0
    for path in (Path(config.run_dir) / "checkpoints" / "4" / "state").rglob("*"):
        if path.is_file() and path.stat().st_size > 200:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
            damaged += 1
    assert damaged
    train_and_evaluate(config, show_progress=False)
    assert "checkpoint of epoch 4 is damaged" in capsys.readouterr().out
    aside = Path(config.run_dir) / "checkpoints" / "4.damaged"
    assert (aside / "state").is_dir()
    assert aside.with_name("4.damaged.txt").read_text().strip()
    assert_same_run(whole, config)


def test_a_folder_of_another_config_is_left_alone(whole):
    before = sorted(Path(whole.run_dir).rglob("*"))
    with pytest.raises(RunError, match="seed = 0 there, 1 now"):
        train_and_evaluate(dataclasses.replace(whole, seed=1), show_progress=False)
    assert sorted(Path(whole.run_dir).rglob("*")) == before


def test_a_folder_that_is_no_run_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(RunError, match=r"is not empty and holds no config\.json"):
        train_and_evaluate(tiny(tmp_path), show_progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_folder_in_use_is_refused(tmp_path):
    config = tiny(tmp_path / "run")
    with (
        folder_lock.opened(tmp_path / "run", config),
        pytest.raises(RunError, match="in use by another process"),
    ):
        train_and_evaluate(config, show_progress=False)


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(tmp_path):
    config = tiny(
        tmp_path / "run", learning_rate=1e30, schedule="constant", clip=0.0, checkpoint_seconds=0.0
    )
    with pytest.raises(RunError, match=r"the loss is (nan|inf) in step \d+ of 11 of epoch 1"):
        train_and_evaluate(config, show_progress=False)
    assert not (tmp_path / "run" / "summary.json").exists()


def test_a_full_disk_ends_the_run_in_one_line(tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 1_000})()
    monkeypatch.setattr("experiments.checkpoints.shutil.disk_usage", lambda _: usage)
    with pytest.raises(RunError, match=r"no checkpoint after epoch 2: .* has 0\.0 MiB free"):
        train_and_evaluate(tiny(tmp_path / "run"), show_progress=False)
    monkeypatch.undo()
    train_and_evaluate(tiny(tmp_path / "run"), show_progress=False)  # with room again, it resumes
    assert (tmp_path / "run" / "summary.json").exists()


def test_nothing_is_written_without_data(tmp_path, monkeypatch):
    def missing(*_):
        raise DataError("mnist: no data")

    monkeypatch.setattr("experiments.data.images.load", missing)
    assert program.main(["--task", "mnist", "--run-dir", str(tmp_path / "run")]) == 1
    assert not (tmp_path / "run").exists()


def test_a_function_task_saves_its_fit(tmp_path):
    config = tiny(tmp_path / "run", "function:product_sine", hidden=(16,))
    folder = train_and_evaluate(config, show_progress=False)
    summary = read_finished(folder).summary
    last = summary["phases"][-1]
    variance = float(np.var(functions.sample("product_sine", 0).test.values))
    assert last["test_normalized_error"] == pytest.approx(last["test_score"] / variance, rel=1e-4)
    assert 0 < last["test_normalized_error"] < 1
    assert "outside_normalized_error" in last
    fit = np.load(folder / "fit.npz")
    x, held = fit["line_x"], float(fit["held"])
    np.testing.assert_allclose(
        fit["line_true"][2], held * held + np.sin(2 * x), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(fit["line_true"][0], x * held + np.sin(2 * held), rtol=1e-5)
    # x1 runs along the columns of the plane, x2 along the rows.
    first, second = np.meshgrid(fit["plane_x"], fit["plane_x"])
    np.testing.assert_allclose(
        fit["plane_true"], first * second + np.sin(2 * held), rtol=1e-4, atol=1e-5
    )
    # The fitted line is the tested network: at the held point all lines and the plane agree.
    crossing = [np.interp(held, x, line) for line in fit["line_fit"]]
    assert np.ptp(crossing) < 0.02
    text = report.describe(folder)
    assert f"{last['test_normalized_error']:.2e}" in text
    assert f"{last['outside_normalized_error']:.2e}" in text


def test_a_uniform_run_has_one_phase_and_no_choices(tmp_path):
    config = tiny(tmp_path / "run", method="uniform:selu")
    folder = train_and_evaluate(config, show_progress=False)
    summary = read_finished(folder).summary
    assert [phase["name"] for phase in summary["phases"]] == ["uniform"]
    assert summary["switch"] == {}
    assert not (folder / "choices.json").exists()


# The command line


def test_the_command_prints_tables_and_draws_figures(whole, capsys):
    arguments = [
        f"--{field.name.replace('_', '-')}={getattr(whole, field.name)}"
        for field in dataclasses.fields(Config)
        if field.type in ("int", "float", int, float)
    ]
    command = [*arguments, "--run-dir", whole.run_dir, "--hidden", "16", "12"]
    assert program.main(command) == 0
    text = capsys.readouterr().out
    summary = read_finished(Path(whole.run_dir)).summary
    assert f"{100 * summary['phases'][-1]['test_score']:.2f} %" in text
    assert f"after fixing {100 * summary['switch']['fixed']:.4g} %" in text
    pictures = {path.stem for path in (Path(whole.run_dir) / "figures").glob("*.png")}
    assert pictures == {"shares", "shares_over_epochs", "choice_map", "curves", "confusion"}


def test_the_demo_compares_and_draws(tmp_path, monkeypatch, capsys):
    """The program of `make demo` on two functions and a few steps."""
    pools = {name: ActivationPool({"relu": jax.nn.relu}) for name in ("paper", "regression")}
    monkeypatch.setattr(demo, "POOLS", pools)

    def small(preset, task):
        return dataclasses.replace(tiny(tmp_path, task), run_dir=None, preset=preset)

    monkeypatch.setattr(demo, "default_config", small)
    assert demo.main([str(tmp_path / "demo")]) == 0
    text = capsys.readouterr().out
    for line in ("digits: test accuracy", "function:product_sine: normalised test error"):
        assert line in text
    assert text.count("best uniform, by validation") == 2
    named = re.findall(r"^  (\S+)/: (.*)$", text, re.MULTILINE)
    assert len(named) == 5  # two runs of each task, and the comparisons
    for folder, names in named:
        for name in names.split(", "):
            assert Path(folder, f"{name}.png").stat().st_size > 5_000
            assert Path(folder, f"{name}.svg").exists()
    assert any("fit" in names for _, names in named)
