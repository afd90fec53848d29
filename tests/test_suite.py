"""The recipe of the functions not looked at before: what it trains, and its verdicts."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from experiments import pruning, recipes, statistics
from experiments.data.targets import FIRST, SUITE
from experiments.evaluate import load_data, load_run
from experiments.names import refuse_without_effect
from experiments.presets import default_config
from experiments.recipes import over_tasks, pde, regret, suite
from experiments.run_folder import folder_of, read_finished


def test_its_targets_are_not_those_of_the_preset():
    assert len(SUITE) >= 16
    assert not {*SUITE} & {*FIRST}
    assert {*suite.FEW} <= {*SUITE}


def test_every_run_is_one_that_its_command_would_train():
    study = suite.study("bessel", refine_epochs=2, points=250)
    assert next(iter(study.variants)) == "learned"
    for variant in study.variants:
        refuse_without_effect(study.configs(variant))
    folders = [folder_of(config) for config in study.configs()]
    assert len(set(folders)) == len(folders)
    assert {(c.points, c.refine_epochs) for c in study.configs()} == {(250, 2)}


def test_equations_are_solved_at_equal_time():
    study = pde.study("burgers")
    pool = study.base.activation_pool.names
    assert {f"uniform {name}" for name in pool} < {*study.variants}
    for name in study.variants:
        refuse_without_effect(study.configs(name))
    phase_1 = 3.1  # of a step of phase 2, as experiments.benchmarks.rivals --task pde:burgers says
    share = study.base.selective_epochs / (study.base.selective_epochs + study.base.mixed_epochs)
    steps = study.base.steps_per_epoch * (1 + share * (phase_1 - 1))
    assert pytest.approx(steps, rel=0.01) == pde.STEPS
    cost = pde.COSTS["smooth_layer_mixture"]
    (mixture, *_) = study.configs("smooth_layer_mixture")
    assert mixture.steps_per_epoch * cost == pytest.approx(steps, rel=0.01)


def test_rivals_have_as_many_steps_as_take_our_time():
    config = default_config(task="function:bessel")
    steps = config.steps_per_epoch
    phase_1 = 2.547  # the time of its step, as experiments.benchmarks.rivals prints it
    share = config.selective_epochs / (config.selective_epochs + config.mixed_epochs)
    assert pytest.approx(steps * (1 + share * (phase_1 - 1)), rel=0.01) == suite.STEPS
    for name, (cost, _) in suite.RIVALS.items():
        assert suite.rival(name)["steps_per_epoch"] == pytest.approx(suite.STEPS / cost, abs=0.5)


def test_verdicts_are_over_the_targets():
    learned = np.exp(np.array([[0.0, 2.0], [1.0, 1.0], [3.0, 1.0]]))
    found = {"learned": learned, "worse": 4 * learned, "mixed": learned * [[2.0], [2.0], [0.25]]}
    said = over_tasks.verdicts(found)
    assert said["learned"]["ratio"] == pytest.approx([1.0, 1.0, 1.0])
    assert said["learned"]["error"] == pytest.approx(np.exp(4 / 3))
    assert said["worse"]["ratio"] == pytest.approx([4.0, 4.0, 4.0])
    assert (said["worse"]["won"], said["mixed"]["won"]) == (1.0, pytest.approx(2 / 3))
    assert said["mixed"]["ratio"] == pytest.approx(statistics.geometric_interval([2.0, 2.0, 0.25]))
    assert said["mixed"]["rank"] == pytest.approx((2 + 2 + 1) / 3)
    rows = over_tasks.verdict_table(found).splitlines()[2:]
    assert [row.split()[0] for row in rows] == ["learned", "mixed", "worse"]


def test_of_starts_and_of_uniform_networks_the_best_by_validation_counts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny = {"hidden": (6,), "selective_epochs": 1, "mixed_epochs": 1, "steps_per_epoch": 2}
    base = dataclasses.replace(default_config(task="function:bessel"), **tiny)
    names = ("sin", "square", "relu")
    made = recipes.study(base, (0, 1), uniform=names, controls=(), starts=names)
    assert made.variants["start sin"] == {"start": "sin", "start_probability": 0.5}
    (found,) = regret.train([made])
    for best, kind in (("best uniform", "uniform"), ("best start", "start")):
        for seed, picked in enumerate(found[best]):
            runs = [found[f"{kind} {name}"][seed] for name in names]
            losses = [run.summary["phases"][-1]["validation_loss"] for run in runs]
            assert picked is runs[int(np.argmin(losses))]
            assert len(set(losses)) == 3


@pytest.fixture
def small_study(tmp_path, monkeypatch):
    """The recipe with few variants of tiny networks."""
    monkeypatch.chdir(tmp_path)
    whole = suite.study

    def small(target, **changes):
        study = whole(target, **changes)
        names = ["learned", "shuffled", "prelu"]
        names += [f"{kind} {name}" for kind in ("uniform", "start") for name in ("relu", "sin")]
        variants = {n: {**study.variants[n]} for n in names if n in study.variants}
        if "prelu" in variants:
            variants["prelu"]["steps_per_epoch"] = 2
        tiny = {"hidden": (6,), "selective_epochs": 1, "mixed_epochs": 1, "steps_per_epoch": 2}
        base = dataclasses.replace(study.base, **tiny)
        return study._replace(base=base, variants=variants)

    monkeypatch.setattr(suite, "study", small)


def test_it_trains_compares_draws_and_writes(small_study, monkeypatch, capsys):
    words = "--targets bessel cone --rivals prelu --write suite.json"
    assert suite.main(words.split()) == 0
    told = capsys.readouterr().out
    assert "best uniform" in told
    (result,) = json.loads(Path("suite.json").read_text())["results"]
    assert result["tasks"] == ["bessel", "cone"]
    assert np.shape(result["errors"]["prelu"]) == (2, 3)
    assert "start sin" not in result["errors"]
    for verdicts, ours in (("verdicts", "learned"), (over_tasks.BESIDE_BEST_START, "best start")):
        assert f"by {ours} [95 %]" in told
        errors = (np.log(result["errors"][name]).mean() for name in ("best uniform", ours))
        ratio = np.exp(np.subtract(*errors))
        assert result[verdicts]["best uniform"]["ratio"][0] == pytest.approx(ratio)
    assert Path("runs/suite.png").exists()
    monkeypatch.setitem(suite.VARIED, "points", (60, 90))
    assert suite.main(["--vary", "points", "--targets", "cone", "--rivals"]) == 0
    told = capsys.readouterr().out
    assert "points 60" in told
    assert "points 90" in told


def test_smaller_networks_are_compared_beside_rivals_with_their_time(
    small_study, monkeypatch, capsys
):
    monkeypatch.setattr(pruning, "STEPS", (2, 2))
    words = ["--smaller", "4", "--targets", "bessel", "--rivals", "prelu", "--write"]
    assert suite.main([*words, "first.json"]) == 0
    assert "[1, 1]" not in capsys.readouterr().out
    (first,) = json.loads(Path("first.json").read_text())["results"]
    picked = ["best uniform", "best start"]
    assert {*first["errors"]} == {"learned", "shuffled", "prelu", *picked}
    files = sorted(Path("runs").glob("**/smaller.json"))
    assert len(files) == 3 * (2 + 2 * 2)
    kinds = [run_kind(file.parent) for file in files]
    assert sorted(kinds) == ["two_phase"] * 12 + ["uniform"] * 6
    for kind in set(kinds):
        file = files[kinds.index(kind)]
        run, kept = load_run(file.parent), suite.Smaller(**json.loads(file.read_text()))
        ways = [pruning.smaller(run, one_function=alike) for alike in (False, True)]
        small = min(ways, key=lambda way: error_of(way, "validation"))
        assert kept.validation == pytest.approx(error_of(small, "validation"))
        assert kept.test == pytest.approx(error_of(small, "test"))
        assert kept.neurons == [layer.kernel.shape[1] for layer in small.network.layers[:-1]]
    # What was found is read, not found again; of two the better by validation counts.
    for place, file in enumerate(files):
        alike = place < len(files) / 2
        file.write_text(json.dumps(suite.Smaller(place % 2, 5 + place, [1, 1], alike)._asdict()))
    monkeypatch.setattr(suite, "smaller", None)
    assert suite.main([*words, "again.json"]) == 0
    (again,) = json.loads(Path("again.json").read_text())["results"]
    told = {file.parent.name: suite.Smaller(**json.loads(file.read_text())) for file in files}
    for best, mark in (("best uniform", "uniform"), ("best start", "two_phase")):
        members = [
            [small for name, small in told.items() if mark in name and small.test == error]
            for error in again["errors"][best][0]
        ]
        assert [[member.validation for member in found] for found in members] == [[0]] * 3
        alike = sum(member.one_function for (member,) in members)
        assert again[f"{best}, of one function"] == f"{alike} of 3"


def run_kind(folder):
    return read_finished(folder).config.method.partition(":")[0]


def error_of(run, part):
    inputs, values = map(np.asarray, load_data(run).splits[part])
    return float(np.mean((run.outputs(inputs) - values) ** 2) / np.var(values))


def test_the_better_of_two_ways_of_a_network_that_chose_is_kept(small_study, monkeypatch):
    def first_or_second(run, one_function=False):
        asked.append((run.config.method, one_function))
        return run

    asked: list = []
    monkeypatch.setattr(suite, "smaller", first_or_second)
    monkeypatch.setattr(suite, "normalized_error", lambda *_: errors.pop())
    errors = [4.0, 1.0, 3.0, 2.0]  # popped from the end: validation and test, twice
    assert suite.main(["--targets", "bessel", "--rivals"]) == 0
    runs = map(read_finished, Path("runs/bessel").iterdir())
    run = next(run for run in runs if run.config.method == "two_phase")
    found = suite.make_smaller(run)
    assert found[:2] == (1.0, 4.0)
    assert found.one_function
    assert asked == [("two_phase", False), ("two_phase", True)]


def test_only_networks_of_the_lowest_validation_error_are_made_smaller(small_study, monkeypatch):
    monkeypatch.setattr(pruning, "STEPS", (2, 2))
    assert suite.main(["--smaller", "2", "--targets", "bessel", "--rivals"]) == 0
    made = [file.parent for file in Path("runs").glob("**/smaller.json")]
    assert len(made) == 3 * (2 + 2 + 1)
    runs = {folder: read_finished(folder) for folder in Path("runs/bessel").iterdir()}
    for seed in range(3):
        members = [
            (run.summary["phases"][-1]["validation_loss"], folder)
            for folder, run in runs.items()
            if run.config.seed == seed and run.config.start != "none"
        ]
        assert [folder in made for _, folder in sorted(members)] == [True, False]


@pytest.mark.parametrize(("smaller", "times"), [(2, 13.3), (8, 29.3)])
def test_rivals_of_smaller_networks_have_more_steps(smaller, times):
    ours = suite.rival("spline_kan")
    longer = suite.rival("spline_kan", suite.times_with(smaller))
    ratio = longer["steps_per_epoch"] / ours["steps_per_epoch"]
    assert ratio == pytest.approx(times, rel=0.1)
    assert suite.study("bessel", times=2.0).variants["siren"] == suite.rival("siren", 2.0)
