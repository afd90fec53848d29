"""Tables keep runs apart that differ, and name what is damaged, missing or not complete."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from experiments import report, run_folder
from experiments.comparison import compare_runs
from experiments.config import Config
from experiments.objective import CLASSIFICATION, REGRESSION
from experiments.presets import default_config
from experiments.run_folder import TaskRecord


def finished(root: Path, scores: dict[tuple[str, int], dict[str, float]], **changes) -> list[Path]:
    """Folders of runs as they end, with the numbers of their last phase."""
    objective = REGRESSION if "task" in changes else CLASSIFICATION
    folders = []
    for (method, seed), phase in scores.items():
        folder = root / f"{method.replace(':', '-')}-{seed}"
        task = changes.get("task", "digits")
        config = dataclasses.replace(
            default_config(task=task), hidden=(16, 12), method=method, seed=seed, **changes
        )
        folder.mkdir(parents=True)
        run_folder.write_config(folder, config)
        run_folder.write_task(folder, TaskRecord(config.task, objective, (64,), 1))
        run_folder.write_summary(folder, {"phases": [phase]})
        folders.append(folder)
    return folders


def row_of(table: str, method: str) -> str:
    return " ".join(next(line for line in table.splitlines() if line.startswith(method)).split())


def test_the_comparison_picks_the_best_uniform_network_by_validation(tmp_path):
    scores = {"two_phase": (0.5, 0.9), "uniform:relu": (0.88, 0.91), "uniform:tanh": (0.89, 0.80)}
    table = report.compare(
        finished(
            tmp_path,
            {
                (method, 0): {"validation_score": validation, "test_score": score}
                for method, (validation, score) in scores.items()
            },
        )
    )
    assert row_of(table, "best uniform") == "best uniform, by validation 80.00 (tanh)"
    assert row_of(table, "uniform:relu") == "uniform:relu 91.00"
    assert "digits: test accuracy (%)" in table
    assert "mean" not in table


def test_the_comparison_picks_the_best_start_by_validation(tmp_path):
    folders = finished(tmp_path, {("two_phase", 0): {"validation_score": 0.95, "test_score": 0.99}})
    for start, validation, test in (("relu", 0.91, 0.80), ("tanh", 0.90, 0.97)):
        more = finished(
            tmp_path / start,
            {("two_phase", 0): {"validation_score": validation, "test_score": test}},
            start=start,
            start_probability=0.5,
        )
        if start == "tanh":
            assert "best start" not in report.compare(folders)
        folders += more
    table = report.compare(folders)
    assert row_of(table, "best start") == "best start, by validation 80.00 (relu)"
    assert row_of(table, "two_phase, start tanh").endswith("start_probability 0.5 97.00")


def test_the_comparison_gives_means_paired_differences_and_their_intervals(tmp_path):
    two_phase, relu = [0.90, 0.92, 0.94], [0.92, 0.93, 0.97]
    scores = {
        (method, seed): {"validation_score": 0.5, "test_score": score}
        for method, values in (("two_phase", two_phase), ("uniform:relu", relu))
        for seed, score in enumerate(values)
    }
    table = report.compare(finished(tmp_path, scores))
    low, high = stats.t.interval(0.95, 2, loc=92, scale=stats.sem([90, 92, 94]))
    assert row_of(table, "two_phase").endswith(f"94.00 92.00 [{low:.2f}, {high:.2f}]")
    low, high = stats.t.interval(0.95, 2, loc=2, scale=stats.sem([2, 1, 3]))
    assert row_of(table, "uniform:relu").endswith(f"+2.00 [{low:.2f}, +{high:.2f}]")
    assert "minus two_phase" in table


def test_errors_of_functions_are_compared_by_their_ratio(tmp_path):
    two_phase, relu = [1e-6, 4e-6, 2e-6], [8e-6, 8e-6, 8e-6]
    scores = {
        (method, seed): {"validation_score": 0.5, "test_normalized_error": score}
        for method, values in (("two_phase", two_phase), ("uniform:relu", relu))
        for seed, score in enumerate(values)
    }
    settings = dict(task="function:product_sine", batch_size=8)
    table = report.compare(finished(tmp_path, scores, **settings))
    logs = np.log([8, 2, 4])
    low, high = np.exp(stats.t.interval(0.95, 2, loc=np.mean(logs), scale=stats.sem(logs)))
    assert row_of(table, "uniform:relu").endswith(f" 4 [{low:.2g}, {high:.2g}]")
    assert " 2.00e-06 [" in row_of(table, "two_phase")
    assert "ratio to two_phase" in table


def test_a_comparison_with_runs_missing_shows_the_rest(tmp_path):
    scores = {
        run: {"validation_score": 0.5, "test_score": 0.25}
        for run in (("two_phase", 0), ("two_phase", 1), ("uniform:relu", 1), ("uniform:tanh", 2))
    }
    table = report.compare(finished(tmp_path, scores))
    assert row_of(table, "two_phase") == "two_phase 25.00 25.00 25.00"
    assert row_of(table, "uniform:relu") == "uniform:relu 25.00 25.00 0.00"
    assert row_of(table, "uniform:tanh") == "uniform:tanh 25.00 25.00"
    assert row_of(table, "best").endswith("25.00 (relu) 25.00 (tanh) 25.00 0.00")


ONE = {("two_phase", 0): {"validation_score": 0.5, "test_score": 0.25}}


def test_configs_that_differ_have_rows_of_their_own(tmp_path):
    scores = {
        (method, 0): {"validation_score": 0.5, "test_score": 0.25}
        for method in ("two_phase", "uniform:relu")
    }
    folders = finished(tmp_path / "a", scores)
    folders += finished(tmp_path / "b", scores, batch_size=64)
    table = report.compare(folders)
    assert row_of(table, "two_phase, batch_size 128") == "two_phase, batch_size 128 25.00"
    assert row_of(table, "two_phase, batch_size 64") == "two_phase, batch_size 64 25.00"
    assert len([line for line in table.splitlines() if line.startswith("best uniform")]) == 2


def test_a_run_named_twice_counts_once_and_a_copy_is_refused(tmp_path, monkeypatch):
    (folder,) = finished(tmp_path / "a", ONE)
    (copy,) = finished(tmp_path / "b", ONE)
    monkeypatch.chdir(tmp_path)
    (row,) = compare_runs([folder, folder.relative_to(tmp_path)]).rows
    assert list(row.runs) == [0]
    with pytest.raises(ValueError, match=r"hold the same run \(two_phase, seed 0\)"):
        compare_runs([folder, copy])


def test_runs_of_different_tasks_are_refused(tmp_path, capsys):
    (digits,) = finished(tmp_path / "a", ONE)
    numbers = {"validation_score": 0.5, "test_normalized_error": 1e-3}
    (ratio,) = finished(tmp_path / "b", {("two_phase", 0): numbers}, task="function:ratio")
    assert report.main(["--table", str(digits), str(ratio)]) == 1
    captured = capsys.readouterr()
    message = f"expected runs of one task, got digits ({digits}) and function:ratio ({ratio})"
    assert captured.err == f"error: {message}\n"
    assert not captured.out


def test_a_run_that_is_not_complete_is_told_and_the_others_reported(tmp_path, capsys):
    (whole,) = finished(tmp_path / "a", ONE)
    (part,) = finished(tmp_path / "b", ONE)
    (part / "summary.json").unlink()
    rows = run_folder.Rows(part)
    for epoch in (1, 2, 3):
        rows.append({"epoch": epoch, "phase": "selective"})
    assert report.main(["--table", str(whole), str(part)]) == 0
    told = f"{part} holds no finished run: 3 of 120 epochs are done"
    text = capsys.readouterr().out
    assert told in text
    assert "digits: test accuracy" in text
    assert report.main([str(part)]) == 1
    assert capsys.readouterr().err == f"error: {told}\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", None, "it holds no config.json"),
        ("config.json", "{", "config.json cannot be read"),
        ("config.json", "[]", "config.json cannot be read"),
        ("config.json", '{"hidden": [], "sead": 1}', "config.json cannot be read: .*sead"),
        ("task.json", None, "it holds no task.json"),
        ("task.json", "{}", "task.json cannot be read: it holds no 'objective'"),
        ("task.json", '{"objective": "chess"}', "task.json cannot be read: objective 'chess'"),
        ("summary.json", '{"phases"', "summary.json cannot be read"),
        ("summary.json", "{}", "summary.json cannot be read: it holds no 'phases'"),
        ("summary.json", '{"phases": []}', "summary.json cannot be read: it holds no phases"),
        ("summary.json", '{"phases": [{}]}', "summary.json holds no test_score of the last phase"),
    ],
)
def test_a_damaged_or_missing_file_is_named(tmp_path, capsys, name, content, message):
    (folder,) = finished(tmp_path, ONE)
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        report.compare([folder])
    for options in ([], ["--table"]):
        assert report.main([*options, str(folder)]) == 1
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        assert str(folder) in error


def test_a_summary_without_what_a_description_needs_is_named(tmp_path):
    (folder,) = finished(tmp_path, ONE)
    with pytest.raises(ValueError, match=r"summary\.json holds no 'seconds'"):
        report.describe(folder)


def test_layers_have_names_in_the_table(tmp_path):
    (folder,) = finished(tmp_path, ONE)
    run_folder.write_config(
        folder, Config(task="tiny_shakespeare", network="transformer", selective_epochs=1)
    )
    layer = {"features": 4, "shares": {"relu": 1.0}, "max_probability": 0.5, "undecided": 0.25}
    phase = {"name": "mixed", "epochs": 1, "tested_epoch": 1, "validation_loss": 0.5}
    summary = {
        "phases": [phase | ONE["two_phase", 0]],
        "switch": dict.fromkeys(("noise", "argmax", "expectation", "fixed", "start"), 0.5)
        | {"layers": {"activations.0": layer, "activations.1": layer}},
        "seconds": 1.0,
        "environment": {"device": "cpu"},
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    text = report.describe(folder)
    assert row_of(text, "block 2 MLP") == "block 2 MLP 4 100 % 0.50 25 %"
