"""Several processes share a grid: --shard, the Slurm file, submitit."""

import argparse
import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments import grid, submit
from experiments.names import run_name
from experiments.run_folder import RunError, folder_of, is_complete, read_metrics
from experiments.shards import Shard, parse_shard

try:  # here, because its log keeps the stderr of the time when it is imported
    import submitit
except ImportError:
    submitit = None
needs_submitit = pytest.mark.skipif(
    submitit is None, reason="needs submitit (requirements-slurm.txt)"
)

REPOSITORY = Path(__file__).parents[1]
SMALL = ["--seeds", "0", "1", "--methods", "uniform:relu", "--hidden", "8"]
SMALL += ["--selective-epochs", "1", "--mixed-epochs", "1", "--batch-size", "512"]


def test_every_cell_belongs_to_one_shard():
    for size in range(8):
        for count in range(1, 10):
            parts = [Shard(index, count).cells(range(size)) for index in range(count)]
            assert sorted(itertools.chain(*parts)) == list(range(size))
            assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_shard_is_written_as_it_is_read():
    assert parse_shard("2/5") == Shard(2, 5)
    assert str(Shard(2, 5)) == "2/5"


@pytest.mark.parametrize("text", ["3/2", "2/2", "x", "0/0", "-1/2", "1", "1/2/3", "", "1.0/2"])
def test_a_bad_shard_is_one_line_before_anything_is_written(text, tmp_path, capsys):
    with pytest.raises(argparse.ArgumentTypeError):
        parse_shard(text)
    with pytest.raises(SystemExit) as end:
        grid.main([f"--shard={text}", "--run-dir", str(tmp_path / "runs")])
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: argument --shard: {text!r}: expected i/n with 0 <= i < n")
    assert not any(tmp_path.iterdir())


def test_a_shard_trains_its_cells_and_compares_what_is_complete(tmp_path, capsys):
    arguments = [*SMALL, "--run-dir", str(tmp_path)]
    configs = grid.parse_arguments(arguments).configs
    assert grid.main([*arguments, "--shard", "1/2"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == [run_name(configs[1])]
    assert "1 of 2 runs are complete" in capsys.readouterr().out
    assert grid.main([*arguments, "--shard", "2/3"]) == 0  # a shard without cells
    assert len(list(tmp_path.iterdir())) == 1
    assert grid.main([*arguments, "--shard", "0/2"]) == 0
    out = capsys.readouterr().out
    assert "seed 0" in out.rpartition("1 of 2 runs are complete")[2]
    assert "seed 1" in out.rpartition("1 of 2 runs are complete")[2]
    assert sum(map(is_complete, tmp_path.iterdir())) == 2


def test_a_shard_does_not_touch_the_cells_of_others(tmp_path, monkeypatch):
    trained = []
    monkeypatch.setattr(grid, "train_all", lambda configs, **_: trained.append(configs) or [])
    monkeypatch.setattr(grid, "zip", lambda *_, strict: [], raising=False)
    arguments = ["--seeds", "0", "1", "2", "--methods", "two_phase", "uniform:relu"]
    arguments += ["--run-dir", str(tmp_path)]
    for index in range(2):
        assert grid.main([*arguments, "--shard", f"{index}/2"]) == 0
    configs = grid.parse_arguments(arguments).configs
    assert trained == [configs[0::2], configs[1::2]]


def test_a_shard_killed_in_a_cell_goes_on_in_that_cell(tmp_path):
    """SIGKILL in the second of its two cells; what the first left is not written again."""
    arguments = [*SMALL, "--mixed-epochs", "3", "--checkpoint-seconds", "0", "--shard", "1/2"]
    arguments += ["--methods", "uniform:relu", "two_phase"]
    whole, killed = ([*arguments, "--run-dir", str(tmp_path / name)] for name in "ab")
    first, second = map(folder_of, grid.parse_arguments(killed).configs[1::2])
    process = subprocess.Popen(
        [sys.executable, "-m", "experiments.grid", *killed],
        cwd=REPOSITORY,
        env=environment(),
        stdout=subprocess.DEVNULL,
    )
    while not read_metrics(second) and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert is_complete(first)
    assert not is_complete(second)
    left = {path: path.stat().st_mtime_ns for path in first.glob("[!.]*")}
    assert grid.main(killed) == 0
    assert {path: path.stat().st_mtime_ns for path in first.glob("[!.]*")} == left
    assert grid.main(whole) == 0
    for folder in (first, second):
        assert losses(folder) == losses(tmp_path / "a" / folder.name)


def losses(folder):
    return [(row["train_loss"], row["validation_loss"]) for row in read_metrics(folder)]


# The two front ends


def environment(**variables):
    return {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHON": sys.executable, **variables}


def test_the_slurm_file_shares_a_grid(tmp_path):
    """Two tasks of its array at once, as Slurm starts them."""
    file = REPOSITORY / "experiments" / "slurm" / "grid.sbatch"
    assert len(file.read_text().splitlines()) <= 15
    command = ["bash", str(file), *SMALL, "--run-dir", str(tmp_path)]
    tasks = [
        subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env=environment(SLURM_ARRAY_TASK_ID=str(index), SLURM_ARRAY_TASK_COUNT="2"),
            stdout=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    outputs = [task.communicate()[0] for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0]
    assert sum(map(is_complete, tmp_path.iterdir())) == 2
    for index, out in enumerate(outputs):
        assert f"seed {index}" in out


@needs_submitit
def test_submitit_shares_a_grid_among_local_processes(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    arguments = ["--jobs", "2", "--logs", str(tmp_path / "logs"), "--", *SMALL]
    assert submit.main([*arguments, "--run-dir", str(tmp_path / "runs")]) == 0
    out = capsys.readouterr().out
    assert out.count("job ") == 2
    assert "seed 0" in out
    assert "seed 1" in out
    assert "runs are complete" not in out
    logs = [path.read_text() for path in sorted((tmp_path / "logs").glob("*.out"))]
    assert sum("uniform:relu" in log for log in logs) == 2


@needs_submitit
def test_a_job_is_the_grids_command_and_is_queued_again_as_it_is(monkeypatch):
    seen = []
    monkeypatch.setattr(grid, "main", lambda arguments: seen.append(arguments) or len(seen) - 1)
    job = submit.ShardJob(("--task", "mnist"), Shard(1, 4))
    job()
    assert seen == [["--task", "mnist", "--shard", "1/4"]]
    with pytest.raises(RunError, match="shard 1/4 ended with status 1"):
        job()
    assert job.checkpoint().function is job


@needs_submitit
@pytest.mark.parametrize(
    ("arguments", "status", "line"),
    [
        (["--jobs", "0"], 2, "--jobs 0: expected at least 1"),
        (["--set", "timeout_min"], 2, "--set: invalid setting value: 'timeout_min'"),
        (["--set", "colour=red"], 1, "colour"),
        (["--cluster", "slurm"], 1, "slurm: "),
        (["--", "--shard", "0/2"], 1, "--shard 0/2: the jobs have their own"),
        (["--", "--methods", "uniform:swish"], 1, "method = 'uniform:swish'"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_submitted(arguments, status, line, tmp_path, capsys):
    given = ["--logs", str(tmp_path / "logs"), *arguments]
    try:
        found = submit.main(given)
    except SystemExit as end:
        found = end.code
    assert found == status
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith("error: ")
    assert line in told
    assert not list((tmp_path / "logs").glob("*.pkl"))


def test_without_submitit_one_line_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert submit.main(["--logs", str(tmp_path / "logs")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "pip install -r requirements-slurm.txt" in line
    assert not any(tmp_path.iterdir())
