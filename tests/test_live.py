"""The live view: what of a run reaches TensorBoard and Weights & Biases, and when."""

import shutil
import sys
import types

import numpy as np
import pytest

from experiments import live
from experiments.checkpoints import Checkpoints
from experiments.config import Config
from experiments.run import main
from experiments.run_folder import read_metrics, read_selection
from experiments.training.train import train_and_evaluate

OPTIONS = {
    "task": "digits",
    "hidden": (16, 8),
    "selective_epochs": 2,
    "mixed_epochs": 1,
    "checkpoint_seconds": 0.0,
}


class Recorded:
    """A writer that keeps what it gets: (kind, name, epoch) → content."""

    def __init__(self):
        self.got, self.closed = {}, False

    def numbers(self, numbers, epoch):
        self.got |= {("number", name, epoch): number for name, number in numbers.items()}

    def values(self, name, values, epoch):
        self.got["values", name, epoch] = values

    def picture(self, name, pixels, epoch):
        self.got["picture", name, epoch] = pixels

    def close(self):
        self.closed = True

    def names(self, kind):
        return {name for k, name, _ in self.got if k == kind}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("live") / "digits" / "one"
    return train_and_evaluate(Config(**OPTIONS, run_dir=str(place)), show_progress=False)


def test_every_epoch_and_the_results_are_handed_on_once(folder):
    writer = Recorded()
    follower = live.Follower(folder, [writer])
    follower.look()
    rows = read_metrics(folder)
    for row in rows:
        for name in ("train", "validation"):
            key = ("number", f"loss/{name}", row["epoch"])
            assert writer.got[key] == row[f"{name}_loss"]
        share = writer.got["number", "share_activations.0/relu", row["epoch"]]
        assert share == row["layers"]["activations.0"]["shares"]["relu"]
    assert writer.got["number", "entropy/activations.0", 1] > 0
    assert {"test_loss/mixed", "test_score/mixed"} <= writer.names("number")
    before = dict(writer.got)
    writer.got.clear()
    follower.look()
    assert not writer.got
    assert before


def test_a_finished_run_shows_what_was_fixed(folder):
    writer = Recorded()
    live.Follower(folder, [writer]).look()
    assert writer.names("picture") == {"choices/fixed"}
    pixels = writer.got["picture", "choices/fixed", 3]
    assert pixels.dtype == np.uint8
    assert pixels.shape[2] == 3
    assert pixels.std() > 10


def test_a_run_in_phase_1_shows_its_logits_and_choices(folder, tmp_path):
    """As it is between two epochs: no choices yet, one checkpoint, half a row."""
    config = (folder / "config.json").read_text()
    rows = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    copy = tmp_path / "two"
    (copy / "checkpoints").mkdir(parents=True)
    (copy / "config.json").write_text(config)
    (copy / "metrics.jsonl").write_text(rows[0] + rows[1][:20])
    writer = Recorded()
    follower = live.Follower(copy, [writer])
    follower.look()
    assert {epoch for _, _, epoch in writer.got} == {1}
    assert not writer.names("picture")

    # The last two are kept: that of the switch, which still trains logits, and that of the end.
    moment = min(Checkpoints(folder).moments())
    place = Checkpoints(folder).place(moment)
    shutil.copytree(place, copy / "checkpoints" / place.name)
    (copy / "metrics.jsonl").write_text("".join(rows[:2]))
    follower.look()
    found = {
        name.partition("/")[2]: v for (kind, name, _), v in writer.got.items() if kind == "values"
    }
    at_switch = read_selection(folder)
    assert found.keys() == at_switch.keys()
    for path, logits in at_switch.items():
        np.testing.assert_array_equal(found[path], logits)
    assert writer.names("picture") == {"choices/phase_1"}


def test_a_checkpoint_that_is_gone_or_damaged_waits(folder, tmp_path):
    copy = tmp_path / "two"
    (copy / "checkpoints" / "1").mkdir(parents=True)
    (copy / "config.json").write_text((folder / "config.json").read_text())
    writer = Recorded()
    live.Follower(copy, [writer]).look()
    assert not writer.got


def read_events(place):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(place))
    events.Reload()
    return events


def test_a_run_writes_event_files_beside_it(tmp_path, capsys):
    words = ["--task=digits", "--hidden=8", "--selective-epochs=1", "--mixed-epochs=1"]
    words += [f"--run-dir={tmp_path / 'digits' / 'one'}"]
    assert main([*words, f"--tensorboard={tmp_path / 'events'}"]) == 0
    events = read_events(tmp_path / "events" / "digits" / "one")
    rows = read_metrics(tmp_path / "digits" / "one")
    losses = events.Scalars("loss/validation")
    assert [event.step for event in losses] == [1, 2]
    np.testing.assert_allclose(
        [event.value for event in losses], [row["validation_loss"] for row in rows], rtol=1e-6
    )
    (picture,) = events.Images("choices/fixed")
    assert picture.width > 300
    # Once more, of a run that is complete: the same, not twice.
    assert (
        live.main([str(tmp_path / "digits"), "--once", f"--tensorboard={tmp_path / 'events'}"]) == 0
    )
    assert [e.step for e in read_events(tmp_path / "events/digits/one").Scalars("loss/train")] == [
        1,
        2,
    ]


class FakeRun:
    def __init__(self, step):
        self.step, self.logged, self.finished = step, [], False

    def log(self, content, step):
        self.logged.append((step, content))

    def finish(self):
        self.finished = True


@pytest.mark.parametrize("begun", [0, 2])
def test_weights_and_biases_goes_on_where_it_stopped(folder, monkeypatch, begun):
    run = FakeRun(begun)
    module = types.ModuleType("wandb")
    asked = {}
    module.init = lambda **options: asked.update(options) or run
    module.Image, module.Histogram = (
        (lambda content: ("image", content)),
        (lambda v: ("histogram", v)),
    )
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.setattr(live.importlib.util, "find_spec", lambda name: object())
    view = live.Live([folder.parent], None, "project")
    view.look()
    view.close()
    assert asked["project"] == "project"
    assert asked["name"] == "digits/one"
    assert asked["config"]["task"] == "digits"
    assert min(step for step, _ in run.logged) == max(begun, 1)
    assert any("choices/fixed" in content for _, content in run.logged)
    assert run.finished


def test_a_writer_that_fails_ends_the_view_and_not_the_training(tmp_path, caplog, monkeypatch):
    def fail(self):
        raise OSError("no room")

    monkeypatch.setattr(live.Live, "look", fail)
    with live.following([tmp_path], tmp_path / "events", None):
        trained = True
    assert trained
    assert "the live view has ended: OSError: no room" in caplog.text


def test_a_missing_package_is_said_before_anything_trains(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(live.importlib.util, "find_spec", lambda name: None)
    words = ["--task=digits", f"--run-dir={tmp_path / 'run'}", "--wandb=project"]
    assert main(words) == 1
    assert "this needs wandb: pip install -r requirements-live.txt" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
