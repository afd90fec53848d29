"""The guard sees every difference between two records but those that its tables allow."""

import ast
import copy
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
import pytest

from experiments import data, guard, guard_records, guard_runs
from experiments.guard_records import flat, read_record, read_run, text_of, write_record
from experiments.guard_runs import Option, respell

STATE = {
    "best_loss": np.float32(0.1),
    "params.weights.layers.0.kernel.value": np.arange(6, dtype=np.float32).reshape(2, 3),
    "params.selection.activations.0.logits.value": np.full((3, 2), -0.25, np.float32),
}
CHOICES = {"activations.0": {"pool": ["relu", "tanh"], "choices": [0, 1, 1]}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A run folder as the program leaves it."""
    folder = tmp_path_factory.mktemp("run")
    for name, value in {
        "config": {"choices": "learned", "seed": 3, "run_dir": str(folder), "warmup_steps": 0},
        "choices": CHOICES,
        "summary": {
            "phases": [{"name": "mixed", "test_loss": 1 / 3}],
            "source": f"{folder}/images (random)",
            "seconds": 1.5,
            "environment": {"date": "2026-11-25"},
        },
    }.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    rows = [{"epoch": epoch, "train_loss": 0.1 * epoch, "seconds": 0.7} for epoch in (1, 2)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    np.savez(folder / "selection.npz", **{"activations.0": np.eye(3, 2)})
    with ocp.CheckpointManager(folder / "checkpoints", item_names=("state", "position")) as manager:
        for epoch in (1, 2):
            args = ocp.args.Composite(
                state=ocp.args.StandardSave(STATE), position=ocp.args.JsonSave({"epoch": epoch})
            )
            manager.save(epoch, args=args)
    return folder


@pytest.fixture(scope="module")
def run(folder) -> dict[str, Any]:
    return read_run(folder, {"IMAGES": folder / "images"})


def found(old: Any, new: Any) -> list[tuple[str, str]]:
    return list(guard.differences("digits", old, new))


def test_a_run_is_read_whole(run):
    values = flat(run)
    state = "checkpoints/2/state/params/weights/layers/0/kernel/value"
    np.testing.assert_array_equal(values[state], np.arange(6).reshape(2, 3))
    assert values["checkpoints/1/position/epoch"] == 1
    assert values["checkpoints/2/state/best_loss"].dtype == np.float32
    assert values["selection/activations.0"].dtype == np.float64
    assert values["choices/activations.0/choices"] == [0, 1, 1]
    assert values["metrics/1/train_loss"] == 0.2
    assert values["summary/phases/0/test_loss"] == 1 / 3
    assert values["summary/source"] == "IMAGES (random)"
    for name in values:
        assert not {"seconds", "environment", "date", "run_dir"} & set(name.split("/"))


def test_a_run_equals_itself(run, folder):
    assert found(run, read_run(folder, {"IMAGES": folder / "images"})) == []


def test_a_record_is_read_as_it_was_written(run, tmp_path):
    record = {"commit": "abc", "packages": {"jax": "1"}, "runs": {"digits": run, "again": run}}
    write_record(record, tmp_path / "folder" / "record.json")
    text = (tmp_path / "folder" / "record.json").read_text()
    assert text.count("[0,1,1]") == 1  # of an object that occurs twice
    read = read_record(tmp_path / "folder" / "record.json")
    assert read == json.loads(text_of(record))
    assert found(run, read["runs"]["digits"]) == []
    run = copy.deepcopy(read["runs"]["digits"])
    run["checkpoints"]["2"]["state"]["best_loss"] = np.float32(0.2)
    assert len(found(read["runs"]["digits"], run)) == 1


def _flip(run: dict[str, Any]) -> None:
    array = run["checkpoints"]["2"]["state"]["params"]["weights"]["layers"]["0"]["kernel"]["value"]
    array.view(np.uint32)[1, 2] ^= 1


def _retype(run: dict[str, Any]) -> None:
    run["metrics"][0]["epoch"] = 1.0


def _change(run: dict[str, Any]) -> None:
    run["summary"]["phases"][0]["test_loss"] = np.nextafter(1 / 3, 1)


def _choose(run: dict[str, Any]) -> None:
    run["choices"]["activations.0"]["choices"][0] = 1


def _cut(run: dict[str, Any]) -> None:
    del run["metrics"][1]["train_loss"]


def _lose(run: dict[str, Any]) -> None:
    del run["checkpoints"]["2"]["state"]["best_loss"]


def _add(run: dict[str, Any]) -> None:
    run["checkpoints"]["2"]["state"]["params"]["more"] = np.zeros(2)


def _narrow(run: dict[str, Any]) -> None:
    run["selection"]["activations.0"] = run["selection"]["activations.0"].astype(np.float32)


def _reshape(run: dict[str, Any]) -> None:
    run["selection"]["activations.0"] = run["selection"]["activations.0"].reshape(2, 3)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_flip, 'kernel: "float32[2,3]'),
        (_retype, "digits/metrics/0/epoch: 1 → 1.0"),
        (_change, "digits/summary/phases/0/test_loss: 0.3333333333333333 → 0.33333333333333337"),
        (_choose, "digits/choices/activations.0/choices: [0,1,1] → [1,1,1]"),
        (_cut, "digits/metrics/1/train_loss: only in the old record"),
        (_lose, "digits/checkpoints/2/state/best_loss: only in the old record"),
        (_add, "digits/checkpoints/2/state/params/more: only in the new record"),
        (_narrow, 'digits/selection/activations.0: "float64[3,2]'),
        (_reshape, 'digits/selection/activations.0: "float64[3,2]'),
    ],
)
def test_a_difference_is_reported(run, change, says):
    new = copy.deepcopy(run)
    change(new)
    ((text, reason),) = found(run, new)
    assert says in text
    assert reason == ""
    # From files, without the arrays.
    ((text, _),) = found(*(json.loads(text_of(own)) for own in (run, new)))
    assert says in text


def test_how_far_arrays_are_apart(run):
    new = copy.deepcopy(run)
    new["selection"]["activations.0"][0, 1] = 0.25
    ((text, _),) = found(run, new)
    assert text.endswith("largest difference 0.25, largest value 1")


@pytest.mark.parametrize("broken", [{}, {"failed": "no memory"}])
def test_a_run_that_is_missing_or_failed_is_reported(run, broken):
    for pair in ((run, broken), (broken, run), (broken, broken)):
        ((text, reason),) = found(*pair)
        assert text.startswith(f"digits: {broken.get('failed', 'missing')} in the")
        assert reason == ""


def test_a_resumed_run_that_ended_otherwise_is_reported(run):
    good, bad = ({**run, "resumed": {"equal": equal}} for equal in (True, False))
    assert found(good, good) == []
    assert all("resumed" in text for text, _ in found(good, bad))
    assert found(good, bad)
    assert found(bad, bad)


def test_names_are_renamed_in_both(run):
    new = copy.deepcopy(run)
    new["config"]["control"] = new["config"].pop("choices")
    for number in ("1", "2"):
        (layer,) = new["checkpoints"][number]["state"]["params"]["selection"].values()
        layer["0"] = {"selection_logits": layer["0"]["logits"]["value"]}
    assert found(run, new) == []
    layer["0"]["selection_logits"][0, 0] = 1
    assert len(found(run, new)) == 1
    assert found(new, new) == []


def test_a_leaf_under_a_new_name_is_found(run):
    new = copy.deepcopy(run)
    state = new["checkpoints"]["2"]["state"]
    state["params"]["kernels"] = state["params"].pop("weights")
    old_text, new_text = (text for text, _ in found(run, new))
    kernels = "digits/checkpoints/2/state/params/kernels/layers/0/kernel"
    assert old_text.endswith(f"the new one has its value in {kernels}")
    assert new_text == f"{kernels}: only in the new record"


def test_two_values_of_one_name_are_an_error(run):
    new = copy.deepcopy(run)
    new["config"]["control"] = "learned"
    with pytest.raises(guard_runs.GuardError, match="the name digits/config/control"):
        found(run, new)


def test_what_is_named_may_differ(run, monkeypatch):
    new = copy.deepcopy(run)
    del new["config"]["warmup_steps"]
    new["config"]["warmup"] = 0.0
    _change(new)
    *rest, bad = sorted(found(run, new))
    assert [reason for _, reason in rest] == ["in one only"] * 2
    assert bad[1] == ""
    monkeypatch.setitem(guard.EXPLAINED, "digits/summary/*/test_loss", "another order of sums")
    assert {reason for _, reason in found(run, new)} == {"in one only", "another order of sums"}
    new["summary"]["phases"][0]["name"] = "static"
    assert [reason for _, reason in found(run, new)].count("") == 1


def test_compare_prints_every_run_and_says_whether_all_is_equal(run, capsys):
    new = copy.deepcopy(run)
    del new["config"]["warmup_steps"]
    old, same, other = (
        {"commit": commit, "packages": {}, "runs": {"digits": run, "conv": own}}
        for commit, own in (("a", run), ("b", new), ("c", {**new, "metrics": []}))
    )
    assert guard.compare(old, same, only=[], limit=20)
    assert "digits: equal\nconv: equal (1 allowed: in one only)\nequal" in capsys.readouterr().out
    assert not guard.compare(old, other, only=[], limit=1)
    printed = capsys.readouterr().out
    assert "digits: equal\nconv: 5 DIFFER (1 allowed: in one only)\n" in printed
    assert "... and 4 more" in printed
    assert not guard.compare(old, {**old, "runs": {"digits": run}}, only=[], limit=20)
    assert not guard.compare({**old, "runs": {"digits": run}}, old, only=[], limit=20)
    assert guard.compare({**old, "runs": {"digits": run}}, old, only=["digits"], limit=20)
    assert not guard.compare(old, old, only=["mnist"], limit=20)


def test_the_commands(run, tmp_path, capsys):
    paths = [str(tmp_path / name) for name in ("old.json", "new.json")]
    for path, own in zip(paths, (run, {**run, "summary": {}}), strict=True):
        write_record({"commit": "a", "packages": {}, "runs": {"digits": own}}, Path(path))
    assert guard.main(["compare", paths[0], paths[0]]) == 0
    assert guard.main(["compare", *paths]) == 1
    options = guard.parse(["HEAD", ".", "--only", "digits", "conv", "--jobs", "1"])
    assert (options.command, options.old, options.new) == ("commits", "HEAD", ".")
    assert (options.only, options.jobs) == (["digits", "conv"], 1)
    with pytest.raises(SystemExit):
        guard.parse(["HEAD", ".", "--only", "digit"])
    assert "invalid choice: 'digit'" in capsys.readouterr().err


def test_a_program_gets_the_options_that_it_has():
    words = ["run", "--task", "x", "--choices", "random", "--warmup-steps", "7/28", "--seed", "3/4"]
    old = ["run", "--task", "x", "--choices", "random", "--warmup-steps", "7", "--seed", "3/4"]
    new = ["run", "--task", "x", "--control", "random", "--warmup", "0.25", "--seed", "3/4"]
    known = frozenset({"--task", "--choices", "--warmup-steps", "--controls"})
    assert respell(words, guard.OPTIONS, known) == old
    known = frozenset({"--task", "--control", "--warmup"})
    assert respell(words, guard.OPTIONS, known) == new
    assert respell(["--a", "1"], [Option("--a", "--b", new_value=lambda a: a * 2)], known) == [
        "--a",
        "1",
    ]


PROGRAM = """
import json, pathlib, sys, time
if "--help" in sys.argv:
    sys.exit(print("--task --control --run-dir --checkpoint-seconds"))
assert "--choices" not in sys.argv
options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
folder = pathlib.Path(options["--run-dir"])
if options["--task"] == "broken":
    sys.exit("no memory")
folder.mkdir(parents=True, exist_ok=True)
saved, metrics = len(list(folder.glob("checkpoints/*"))), folder / "metrics.jsonl"
rows = metrics.read_text().splitlines(keepends=True) if saved else []
metrics.write_text("".join(rows[:saved]))
for epoch in range(saved + 1, 5):
    rate = RATE + (0.1 if saved and options["--task"] == "forgetful" else 0)
    with open(metrics, "a") as file:
        print(json.dumps({"phase": "ab"[epoch > 3], "rate": rate}), file=file)
    (folder / f"checkpoints/{epoch}").mkdir(parents=True)
    time.sleep(0.2 if options["--task"] == "slow" else 0)
if options["--task"] != "mute":
    (folder / "config.json").write_text(json.dumps({"control": options["--control"]}))
"""


@pytest.fixture
def train(monkeypatch):
    """Runs the guard on programs that train nothing, whose commit is the number they give."""

    def export(commit: str, folder: Path) -> str:
        (folder / "experiments").mkdir(parents=True)
        # Without it the installed package would be found before this folder.
        (folder / "experiments" / "__init__.py").touch()
        for module in ("run", "grid"):
            text = PROGRAM.replace("RATE", commit)
            (folder / "experiments" / f"{module}.py").write_text(text)
        return commit

    monkeypatch.setattr(guard_runs, "export", export)

    def train(task: str, *arguments: Any, disturbed: str = "") -> int:
        job = guard_runs.Job(f"run --task {task} --choices random", disturbed)
        other = guard_runs.Job("run --task other --choices random --data-dir DATA")
        monkeypatch.setattr(guard, "JOBS", {"some": job, "other": other})
        return guard.main([str(argument) for argument in arguments])

    return train


def test_two_commits_are_trained_and_compared(train, capsys):
    assert train("x", 1, 1.0, "--only", "some") == 1
    assert "some/metrics/0/rate: 1 → 1.0" in capsys.readouterr().out
    assert train("x", 1, 1) == 0
    printed = capsys.readouterr().out
    assert printed.count("other: skipped, it needs --data-dir") == 2
    assert printed.endswith("old: 1\nnew: 1\nsome: equal\nequal\n")


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        ("broken", "experiments.run ended with 1: no memory"),
        ("mute", "0 folders with a config.json, 0 runs"),
    ],
)
def test_a_run_that_fails_is_recorded(train, tmp_path, task, reason):
    path = tmp_path / "record.json"
    assert train(task, "record", path, "--commit", 1) == 1
    assert read_record(path)["runs"] == {"some": {"failed": reason}}


@pytest.mark.parametrize(
    ("task", "disturbed", "phases", "status"),
    [
        ("x", "cut", ["a", "b"], 0),
        ("slow", "killed", ["a", "a"], 0),
        ("forgetful", "cut", ["a", "b"], 1),
    ],
)
def test_a_run_is_disturbed_and_resumed(train, tmp_path, task, disturbed, phases, status):
    path = tmp_path / "record.json"
    assert train(task, "record", path, "--commit", 1, disturbed=disturbed) == status
    run = read_record(path)["runs"]["some"]
    assert run["config"] == {"control": "random"}
    assert [row["rate"] for row in run["metrics"]] == [1] * 4
    expected = {"phase": phases[0], "next_phase": phases[1], "equal": not status}
    assert run["resumed"] == expected


def test_the_programs_own_reader_takes_the_images(tmp_path):
    guard_runs.write_images(tmp_path)
    for name in ("cifar10", "mnist"):
        loaded = data.load(name, tmp_path, download=False)
        assert (len(loaded.train_labels), len(loaded.test_labels)) == (240, 60)
    assert loaded.train_inputs.std() > 70


def test_the_working_tree_and_a_commit_are_exported(tmp_path):
    if not shutil.which("git") or not (guard_runs.ROOT / ".git").exists():
        pytest.skip("no repository")
    for commit in (".", "HEAD"):
        guard_runs.export(commit, tmp_path / commit.strip("."))
        assert (tmp_path / commit.strip(".") / "smartmixed_jax" / "__init__.py").exists()
    with pytest.raises(guard_runs.GuardError, match="git rev-parse"):
        guard_runs.export("no-such-commit", tmp_path)


@pytest.mark.parametrize("module", [guard, guard_runs, guard_records])
def test_nothing_of_the_program_is_imported(module):
    for node in ast.walk(ast.parse(Path(module.__file__).read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module or "."]
        for name in names:
            assert not name.startswith((".", "smartmixed_jax"))
            assert not name.startswith("experiments") or name.startswith("experiments.guard_")
