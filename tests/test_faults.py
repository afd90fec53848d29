"""What a run survives, and what stops it: nothing is lost, nothing is silent.

experiments.faults does the same at full size.
"""

import dataclasses
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from experiments import checkpoints, faults, run_folder, signals
from experiments.checkpoints import Checkpoints, Moment
from experiments.command_line import exit_status
from experiments.data.tasks import Split, load_task
from experiments.run_folder import RunError
from experiments.training import train
from experiments.training.train import train_and_evaluate

ROOT = Path(__file__).parents[1]


def tiny(folder: Path, **changes):
    settings = {"hidden": (12, 8), "selective_epochs": 2, "mixed_epochs": 3}
    return faults.config_of(folder, **{**settings, **changes})


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing disturbed."""
    config = tiny(tmp_path_factory.mktemp("whole") / "run")
    train_and_evaluate(config, show_progress=False)
    return config


@pytest.fixture
def cut(whole, tmp_path):
    """Its copy without the summary: the command goes on from the last checkpoint."""
    folder = tmp_path / "run"
    shutil.copytree(whole.run_dir, folder)
    (folder / "summary.json").unlink()
    return dataclasses.replace(whole, run_dir=str(folder))


def assert_same(config, whole):
    one, other = (faults.left(Path(own.run_dir)) for own in (config, whole))
    assert {name: (one.get(name), other.get(name)) for name in one | other
            if one.get(name) != other.get(name)} == {}  # fmt: skip


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def resume(config):
    return train_and_evaluate(config, show_progress=False)


def one_line(error) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


# An error while a run is restored


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.EIO, "Input/output error"),
        OSError(errno.EMFILE, "Too many open files"),
        ValueError("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes"),
    ],
)
def test_what_may_pass_stops_and_changes_nothing(cut, monkeypatch, error):
    before = files(Path(cut.run_dir))

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(ocp.Checkpointer, "restore", fail)
    with pytest.raises(
        RunError, match=r"checkpoints/5 cannot be read now .*nothing is changed"
    ) as e:
        resume(cut)
    one_line(e)
    assert files(Path(cut.run_dir)) == before


def test_a_network_that_does_not_build_changes_nothing(cut, monkeypatch):
    before = files(Path(cut.run_dir))

    def fail(*_):
        raise RuntimeError("no network")

    monkeypatch.setattr("experiments.training.networks.mixed_model", fail)
    with pytest.raises(RuntimeError, match="no network"):
        resume(cut)
    assert files(Path(cut.run_dir)) == before


def test_another_optimiser_is_named_and_changes_nothing(cut, monkeypatch):
    before = files(Path(cut.run_dir))
    monkeypatch.setattr("experiments.training.state.optimizer", lambda _: optax.sgd(0.1))
    with pytest.raises(RunError, match=r"checkpoints/5 holds another structure: .*opt_state"):
        resume(cut)
    assert files(Path(cut.run_dir)) == before


def test_another_format_is_named_and_changes_nothing(cut, monkeypatch):
    before = files(Path(cut.run_dir))
    monkeypatch.setattr(checkpoints, "FORMAT", 3)
    with pytest.raises(RunError, match="has format 2, expected 3"):
        resume(cut)
    assert files(Path(cut.run_dir)) == before


def test_if_none_can_be_read_nothing_is_changed(cut):
    places = Path(cut.run_dir, "checkpoints")
    for place in places.iterdir():
        (place / "position" / "metadata").write_text("{")
    before = files(Path(cut.run_dir))
    with pytest.raises(RunError, match=r"checkpoints/5 is damaged .* no other can be read"):
        resume(cut)
    assert files(Path(cut.run_dir)) == before


# One bit


# A read of another array may end after the damage was found, and finds Orbax's event loop closed.
@pytest.mark.filterwarnings(
    "ignore:Exception ignored in. None:pytest.PytestUnraisableExceptionWarning"
)
@pytest.mark.parametrize("number", range(8))
def test_one_bit_of_a_checkpoint_is_seen(cut, whole, number, capsys):
    rng, newest = random.Random(number), Path(cut.run_dir, "checkpoints", "5")
    large = [p for p in newest.rglob("*") if p.is_file() and p.stat().st_size > 1000]
    position = newest / "position" / "metadata"
    faults.flip(position if number < 3 else rng.choice(large), rng)
    resume(cut)
    assert_same(cut, whole)
    told = capsys.readouterr()
    assert len(told.out.splitlines()) <= 1
    assert not told.err
    if told.out:
        assert "checkpoint of epoch 5 is damaged" in told.out
        aside = Path(cut.run_dir, "checkpoints", "5.damaged")
        assert aside.is_dir()
        assert aside.with_name("5.damaged.txt").read_text()


def test_another_number_that_is_as_likely_is_seen(cut, whole, capsys):
    """Written by Orbax itself: only the SHA-256 tells."""
    with Checkpoints(Path(cut.run_dir)) as kept:
        handler, place = ocp.PyTreeCheckpointHandler(), kept.place(Moment(5))
        to_numpy = jax.tree.map(
            lambda _: ocp.RestoreArgs(restore_type=np.ndarray),
            handler.metadata(place / "state").tree,
        )
        leaves = handler.restore(
            place / "state", args=ocp.args.PyTreeRestore(restore_args=to_numpy)
        )
        name = next(name for name in leaves if "kernel" in name)
        leaves[name] = np.nextafter(leaves[name], np.float32(9))
        header = json.loads((place / "position" / "metadata").read_text())
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(leaves), position=ocp.args.JsonSave(header)
        )
        kept._checkpointer.save(place, args=args, force=True)
    resume(cut)
    assert "the SHA-256 of" in capsys.readouterr().out
    assert_same(cut, whole)


# Signals, pipes


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
@pytest.mark.parametrize("within", [False, True])
def test_a_signal_saves_and_the_run_ends_like_the_whole_one(
    whole, tmp_path, monkeypatch, number, within
):
    config = dataclasses.replace(whole, run_dir=str(tmp_path / "run"), checkpoint_seconds=1e6)
    name, owner = ("measured", train.Pace) if within else ("append", run_folder.Rows)
    original, calls = getattr(owner, name), []

    def interrupt(self, *arguments):
        original(self, *arguments)
        calls.append(arguments)
        if len(calls) == 2:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(train, "CHUNK_SECONDS", 1e-9)  # a step at a time
    before = signal.signal(number, signal.SIG_DFL)  # where the tests run it may be ignored
    try:
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, interrupt)
            assert exit_status(lambda: resume(config) is None) == 128 + number
    finally:
        signal.signal(number, before)
    with Checkpoints(Path(config.run_dir)) as kept:
        assert kept.moments() == [Moment(0, 2) if within else Moment(2)]
    resume(config)
    assert_same(config, whole)
    assert not Path(config.run_dir, "checkpoints-within-epoch").exists()


def test_checkpoints_by_time_inside_an_epoch(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "CHUNK_SECONDS", 1e-9)
    config = dataclasses.replace(whole, run_dir=str(tmp_path / "run"))
    original, seen = Checkpoints.save, []

    def save(self, moment, *arguments):
        original(self, moment, *arguments)
        seen.append(moment)
        if moment == Moment(3, 7):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Checkpoints, "save", save)
        resume(config)
    assert seen[:3] == [Moment(0, 1), Moment(0, 2), Moment(0, 3)]
    resume(config)
    assert_same(config, whole)


def test_a_second_signal_ends_at_once():
    program = (
        "import os, signal, time\n"
        "from experiments import signals\n"
        "with signals.caught(), signals.deferred():\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    time.sleep(60)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True)
    assert done.returncode == -signal.SIGTERM


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
def test_an_interrupted_import_leaves_no_traceback(tmp_path):
    command = [sys.executable, "-m", "experiments.run", "--run-dir", str(tmp_path / "run")]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # which a job may ignore
    try:
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, before)
    while "jaxlib" not in Path(f"/proc/{process.pid}/maps").read_text():
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate()
    assert (process.returncode, told) == (-signal.SIGINT, "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_outside_of_training_ends_at_once_even_in_a_finaliser(number):
    program = (
        "import os, sys, time\n"
        "from experiments.command_line import exit_status\n"
        "class Last:\n"
        "    def __del__(self):\n"
        f"        os.kill(os.getpid(), {int(number)})\n"
        "        time.sleep(0.1)\n"
        "def work():\n"
        "    print('begun')\n"
        "    last = Last()\n"
        "    del last\n"
        "    return 0\n"
        "import signal\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "sys.exit(exit_status(work))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 128 + number
    assert done.stdout == "begun\n"
    assert done.stderr == "interrupted; the same command again resumes\n"


def test_signals_that_the_parent_ignores_stay_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals.caught():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_closed_pipe_does_not_end_a_command():
    program = (
        "import sys\n"
        "from experiments.command_line import exit_status\n"
        "def work():\n"
        "    for _ in range(100):\n"
        "        print('x' * 10_000, flush=True)\n"
        "    print('done', file=sys.stderr)\n"
        "    return 0\n"
        "sys.exit(exit_status(work))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    assert process.stderr.read() == b"done\n"
    process.stderr.close()
    assert process.wait() == 0


# The folder


def test_killed_before_the_config_was_written_leaves_a_usable_folder(whole, tmp_path):
    config = dataclasses.replace(whole, run_dir=str(tmp_path / "run"))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").touch()
    (tmp_path / "run" / "config.json.partial").write_text('{"preset": "reco')
    resume(config)
    assert_same(config, whole)


@pytest.mark.parametrize("removed", [".lock", "", "replaced"])
def test_the_older_of_two_writers_stops_before_it_writes(whole, tmp_path, monkeypatch, removed):
    folder = tmp_path / "run"
    config = dataclasses.replace(whole, run_dir=str(folder))
    original = run_folder.Rows.append

    def append(self, row):
        original(self, row)
        if row["epoch"] == 2 and removed:
            (folder / ".lock").unlink()
            if removed == "replaced":
                (folder / ".lock").touch()
        elif row["epoch"] == 2:
            shutil.rmtree(folder)

    monkeypatch.setattr(run_folder.Rows, "append", append)
    with pytest.raises(RunError, match="was removed or replaced"):
        resume(config)
    assert not folder.exists() or len(run_folder.read_metrics(folder)) == 2


# Rows and other files


@pytest.mark.parametrize("damage", [faults.swap_rows, faults.double_row])
def test_rows_that_stand_elsewhere_are_put_right(cut, whole, damage, capsys):
    damage(Path(cut.run_dir, "metrics.jsonl"), random.Random(0))
    resume(cut)
    assert_same(cut, whole)
    assert "metrics.jsonl: the rows were not in order or twice" in capsys.readouterr().out


def test_a_missing_row_is_named_before_anything_is_trained(cut):
    path = Path(cut.run_dir, "metrics.jsonl")
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:1] + lines[2:]))
    before = files(Path(cut.run_dir))
    with pytest.raises(ValueError, match=r"metrics\.jsonl is damaged \(no row of epoch 2\)") as e:
        resume(cut)
    one_line(e)
    assert files(Path(cut.run_dir)) == before


def test_a_row_that_an_older_checkpoint_does_not_need_is_made_again(cut, whole, capsys):
    path = Path(cut.run_dir, "metrics.jsonl")
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:4]))
    resume(cut)
    assert_same(cut, whole)
    told = capsys.readouterr().out
    assert "no row of epoch 5" in told
    assert "made again from the checkpoint of epoch 4" in told


@pytest.mark.parametrize("name", ["summary.json", "choices.json", "selection.npz", "metrics.jsonl"])
@pytest.mark.parametrize("damage", [faults.flip, faults.cut])
def test_a_file_of_a_finished_run_is_made_again(whole, tmp_path, capsys, name, damage):
    folder = tmp_path / "run"
    shutil.copytree(whole.run_dir, folder)
    config = dataclasses.replace(whole, run_dir=str(folder))
    damage(folder / name, random.Random(1))
    with pytest.raises(ValueError, match=name):
        run_folder.read_finished(folder)
    if name == "metrics.jsonl":  # no checkpoint holds its rows
        with pytest.raises(ValueError, match=r"metrics\.jsonl is damaged"):
            resume(config)
        return
    resume(config)
    assert_same(config, whole)
    assert name in capsys.readouterr().out


@pytest.mark.parametrize("name", ["choices.json", "selection.npz"])
def test_what_the_switch_wrote_is_made_again_on_the_way(cut, whole, name, capsys):
    Path(cut.run_dir, name).write_bytes(b"{")
    resume(cut)
    assert_same(cut, whole)
    assert f"{name} cannot be read" in capsys.readouterr().out


# Numbers that are not finite


def with_nan(split: str):
    def load(config):
        task = load_task(config)
        inputs, labels = task.splits[split]
        bad = Split(inputs.astype(jnp.float32).at[3].set(jnp.nan), labels)
        return dataclasses.replace(task, splits={**task.splits, split: bad})

    return load


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("train", r"the loss is nan in step \d+ of 11 of epoch 1 \(selective phase\)"),
        ("validation", r"the validation loss is nan in step 11 of 11 of epoch 1"),
        ("test", r"a result is not finite: test_loss is nan"),
    ],
)
def test_nan_stops_the_run_and_enters_no_file(tmp_path, split, message):
    config = tiny(tmp_path / "run")
    with pytest.raises(RunError, match=message) as error:
        train_and_evaluate(config, load=with_nan(split), show_progress=False)
    one_line(error)
    for path in (tmp_path / "run").rglob("*.json*"):
        assert "NaN" not in path.read_text()
    assert not (tmp_path / "run" / "summary.json").exists()


def test_parameters_that_the_last_step_made_infinite_are_named_and_not_saved(tmp_path, monkeypatch):
    config = tiny(tmp_path / "run", hidden=(9, 7), steps_per_epoch=1)
    for module in ("state", "step"):
        broken = f"experiments.training.{module}.optimizer"
        monkeypatch.setattr(broken, lambda _: optax.scale(jnp.inf))
    told = r"selection\.activations\.0\.selection_logits is not finite in step 1 of 1 of epoch 1"
    with pytest.raises(RunError, match=told):
        resume(config)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_retry_goes_on_at_half_the_learning_rates(tmp_path, monkeypatch):
    config = tiny(tmp_path / "run", retries=1, schedule="constant")
    original = train.require_finite

    def fail_once(run, phase, part):
        if run.epochs_done == 3 and not run.position.retries:
            raise train.NotFinite("the loss is nan in step 1")
        original(run, phase, part)

    monkeypatch.setattr(train, "require_finite", fail_once)
    resume(config)
    rates = [row["learning_rate"] for row in run_folder.read_metrics(tmp_path / "run")]
    np.testing.assert_allclose(rates, config.learning_rate * np.array([1, 1, 1, 0.5, 0.5]))
    summary = run_folder.read_finished(tmp_path / "run").summary
    assert summary["retries"] == ["the loss is nan in step 1"]


def test_without_a_retry_left_it_stops(tmp_path, monkeypatch):
    def fail(run, phase, part):
        raise train.NotFinite("the loss is nan in step 1")

    monkeypatch.setattr(train, "require_finite", fail)
    with pytest.raises(train.NotFinite):
        resume(tiny(tmp_path / "run", retries=2))


# The program that does all this at full size


@pytest.mark.parametrize(("kind", "times"), [("bits", 2), ("files", 12)])
def test_the_faults_find_nothing(kind, times, monkeypatch, capsys):
    monkeypatch.setattr(faults, "REAL_SIZE", {"hidden": (16,)})
    assert faults.main([kind, "--times", str(times), "--seed", "1"]) == 0
    assert f"{kind}: {times} in" in capsys.readouterr().out


def test_the_faults_find_what_is_silent(monkeypatch, capsys):
    monkeypatch.setattr(checkpoints, "_identity", lambda leaf: [*checkpoints._kind(leaf), ""])
    monkeypatch.setattr(faults, "REAL_SIZE", {"hidden": (300,), "mixed_epochs": 1})
    assert faults.main(["bits", "--times", "8"]) == 1
    assert "silently another" in capsys.readouterr().out
