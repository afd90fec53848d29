"""Every file of a run folder comes back as it was written, and a damaged one is named."""

import dataclasses
import json

import numpy as np
import pytest

from experiments import folder_lock, run_folder
from experiments.config import MAY_DIFFER
from experiments.data.tasks import load_task
from experiments.objective import CLASSIFICATION, NEXT_CHARACTER
from experiments.presets import default_config
from experiments.run_folder import RunError, TaskRecord


def test_a_task_record_comes_back(tmp_path):
    extras = {"mean": [0.5, 1.0], "scale": [2.0, 3.0]}
    for number, record in enumerate(
        (
            TaskRecord("mine", NEXT_CHARACTER, (64,), 65, extras={"vocabulary": "ab\n"}),
            TaskRecord("mine", CLASSIFICATION, (8, 8, 1), 2, ("no", "yes"), "a file", extras),
        )
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        run_folder.write_task(folder, record)
        run_folder.write_config(folder, default_config())
        run_folder.write_summary(folder, {"phases": [{"test_loss": 0.5, "test_score": 0.9}]})
        assert run_folder.read_finished(folder).task == record


@pytest.mark.parametrize("task", ["digits", "function:ratio"])
def test_a_task_says_all_that_its_record_holds(task):
    loaded = load_task(default_config(task=task))
    record = loaded.record()
    assert (record.name, record.objective, record.shape) == (task, loaded.objective, loaded.shape)
    json.dumps(record.extras)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", '{"task": 3}'),
        ("config.json", "[]"),
        ("task.json", '{"name": "digits"}'),
        ("task.json", '{"name": "x", "objective": "guess", "shape": [], "class_names": []}'),
        ("summary.json", '{"phases": ['),
    ],
)
def test_a_damaged_file_of_a_finished_run_is_named(tmp_path, name, content):
    run_folder.write_config(tmp_path, default_config())
    run_folder.write_task(tmp_path, TaskRecord("digits", CLASSIFICATION, (8, 8, 1), 10))
    run_folder.write_summary(tmp_path, {"phases": []})
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=rf"{tmp_path}/{name} cannot be read: ") as caught:
        run_folder.read_finished(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_damaged_config_is_not_overwritten(tmp_path):
    folder = tmp_path / "run"
    config = default_config()
    with folder_lock.opened(folder, config):
        pass
    (folder / "config.json").write_text("{")
    with (
        pytest.raises(ValueError, match=r"config\.json cannot be read"),
        folder_lock.opened(folder, config),
    ):
        pass
    assert (folder / "config.json").read_text() == "{"


def test_a_damaged_row_is_named_and_a_last_line_cut_short_is_left_out(tmp_path):
    rows = run_folder.Rows(tmp_path)
    for epoch in (1, 2, 3):
        rows.append({"epoch": epoch})
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text()[:-3])
    assert run_folder.read_metrics(tmp_path) == [{"epoch": 1}, {"epoch": 2}]
    path.write_text('{"epo\n{"epoch": 2}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl cannot be read"):
        run_folder.read_metrics(tmp_path)


def test_fields_that_may_differ_are_fields():
    names = {field.name for field in dataclasses.fields(default_config())}
    assert names >= set(MAY_DIFFER)


@pytest.mark.parametrize("method", ["uniform:relu", "two_phase"])
def test_only_an_option_that_concerns_the_run_makes_another_of_it(tmp_path, method):
    config = dataclasses.replace(default_config(), method=method)
    run_folder.write_config(
        tmp_path, dataclasses.replace(config, carry_moments=False, start="tanh")
    )
    if method == "two_phase":
        with pytest.raises(RunError, match="carry_moments = False there, True now"):
            folder_lock.opened(tmp_path, config).__enter__()
        return
    with folder_lock.opened(tmp_path, config):
        pass
    with (
        pytest.raises(RunError, match=r"another run \(seed = 0 there, 1 now\)"),
        folder_lock.opened(tmp_path, dataclasses.replace(config, seed=1)),
    ):
        pass


def test_arrays_come_back(tmp_path):
    logits = {"activations.0": np.arange(6.0).reshape(2, 3)}
    run_folder.write_config(tmp_path, default_config())
    run_folder.write_task(tmp_path, TaskRecord("digits", CLASSIFICATION, (8, 8, 1), 10))
    run_folder.Rows(tmp_path).append({"epoch": 1, "phase": "selective"})
    run_folder.write_selection(tmp_path, logits)
    choices = run_folder.LayerChoices(("a", "b"), np.array([1, 0]))
    run_folder.write_choices(tmp_path, {"activations.0": choices})
    run = run_folder.read_run(tmp_path)
    np.testing.assert_array_equal(run.logits["activations.0"], logits["activations.0"])
    assert run.choices["activations.0"].pool == ("a", "b")
    assert run.choices["activations.0"].choices.tolist() == [1, 0]
    assert run.rows("selective") == [{"epoch": 1, "phase": "selective"}]
    assert (run.summary, run.fit) == (None, None)
