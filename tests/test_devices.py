"""Many devices and processes: the numbers of one, a process that is killed, another number."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import run
from experiments.benchmarks.many_devices import ONE, Place, differences, finish, launch, log_of
from experiments.presets import default_config
from experiments.run_folder import read_metrics
from experiments.training.train import train_and_evaluate

TOLERANCE = 1e-5
"""Of losses, relative, over a few epochs: sums over a batch are taken in another order."""
OPTIONS = (
    "--task digits --hidden 64 --batch-size 256 --selective-epochs 2 --mixed-epochs 1 --start none"
)
OPTIONS += " --estimator sampled_straight_through --draws 16 --logit-learning-rate 0.1"
OPTIONS += " --checkpoint-seconds 0"


def test_on_eight_devices():
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    tests = Path(__file__).with_name("on_eight_devices.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-o", "addopts=", str(tests)]
    ran = subprocess.run(
        command, env=os.environ | {"XLA_FLAGS": flags}, capture_output=True, text=True
    )
    assert not ran.returncode, ran.stdout[-6000:]


def start(folder, place, victim=-1, epoch=0, more=()):
    module = ["-m", "tests.killed_run", str(victim), str(epoch)]
    return launch([*OPTIONS.split(), *more], folder, place, module)


def test_four_processes_end_when_one_is_killed_and_two_resume(tmp_path, monkeypatch):
    """With examples from a file, of which each reads its part; one process has them all."""
    monkeypatch.setenv("SMARTMIXED_CACHE", str(tmp_path / "cache"))
    one, folder, streamed = tmp_path / "one", tmp_path / "run", ["--stream"]
    reference = start(one, ONE)
    statuses = finish(start(folder, Place(processes=4), 2, 1, streamed), limit=300)
    assert finish(reference, limit=300) == [0]
    assert statuses == [1, 1, -9, 1]
    for process in (0, 1, 3):
        *_, last = log_of(folder, process).read_text().strip().split("\n")
        assert last.startswith(f"error: process {process} of 4 cannot go on, the same command"), (
            last
        )
    assert len(read_metrics(folder)) == 1
    assert finish(start(folder, Place(processes=2), more=streamed), limit=300) == [0, 0]
    found = differences(one, folder)
    assert max(found.train_loss, found.validation_loss) < TOLERANCE
    assert (found.validation_score, found.test_score) == (0, 0)
    # Only the first process prints and draws; what the others did is gone.
    assert "10 figures" not in log_of(folder, 1).read_text()
    assert "test accuracy" in log_of(folder, 0).read_text()
    assert "test accuracy" not in log_of(folder, 1).read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"devices": 2}, "devices = 2: expected at most 1, those that are there"),
        ({"model_axis": 2}, "model_axis = 2: expected a divisor of 1 devices"),
    ],
)
def test_devices_that_are_not_there_are_refused_before_anything_is_written(
    tmp_path, changes, message
):
    folder = tmp_path / "run"
    config = default_config("recommended", "digits")
    with pytest.raises(ValueError, match=message):
        train_and_evaluate(dataclasses.replace(config, run_dir=str(folder), **changes))
    assert not folder.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--process-id", "0"], "need --distributed"),
        (["--distributed", "--processes", "2"], "expected all or none"),
        (["--distributed"], "--distributed: "),  # no cluster is found here
        (["--devices", "-1"], "devices = -1: expected "),
        (["--model-axis", "0"], "model_axis = 0: expected "),
    ],
)
def test_options_that_do_not_fit_are_one_line(tmp_path, capsys, options, message):
    status = run.main(["--task", "digits", "--run-dir", str(tmp_path / "run"), *options])
    captured = capsys.readouterr()
    assert status == 1
    assert captured.err.startswith("error: ")
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert not (tmp_path / "run").exists()
