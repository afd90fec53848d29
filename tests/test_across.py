"""Methods over several architectures: the paper's tables, verdicts, and the page of a grid."""

import dataclasses
import re

import numpy as np
import pytest

from experiments import across, page, ranks, report, run_folder, statistics
from experiments.comparison import compare_runs
from experiments.names import run_name
from experiments.objective import CLASSIFICATION, REGRESSION
from experiments.presets import default_config
from experiments.recipes import paper
from experiments.run_folder import TaskRecord, is_complete, read_finished
from tests.synthetic_runs import write_run
from tests.test_page import Reader

SEEDS = range(3)
WIDTHS = {1: "1: 512", 4: "4: 256-128", 3: "3: 512-256-128-64"}


def write(root, preset, architecture, method, seed, score, validation=None, **changes):
    """A finished run with made-up numbers: of phase 1, where there is one, half the score."""
    config = dataclasses.replace(
        default_config(preset, changes.pop("task", "digits")),
        architecture=architecture,
        hidden=(),
        method=method,
        seed=seed,
        **changes,
    )
    objective = REGRESSION if config.task.startswith("function:") else CLASSIFICATION
    folder = root / run_name(config)
    folder.mkdir(parents=True)
    run_folder.write_config(folder, config)
    run_folder.write_task(folder, TaskRecord(config.task, objective, (64,), 10))
    key = objective.result
    last = {"validation_score": score if validation is None else validation, key: score}
    phases = [{**last, "epochs": 2, "best_epoch": 2}]
    if config.has_choices:
        phases.insert(0, {"validation_score": 0.1, key: score / 2, "epochs": 3, "best_epoch": 1})
    run_folder.write_summary(folder, {"phases": phases})
    return folder


@pytest.fixture
def grid(tmp_path):
    """published and described share their uniform networks; learned is 0.01 better than relu."""
    rng = np.random.default_rng(0)
    folders = []
    for architecture in (4, 3, 1):
        for seed in SEEDS:
            base = 0.5 + 0.1 * architecture + 0.001 * rng.normal()

            def add(preset, method, score, seed=seed, architecture=architecture, **changes):
                folders.append(
                    write(tmp_path, preset, architecture, method, seed, score, **changes)
                )

            add("published", "uniform:relu", base)
            add("published", "uniform:tanh", base - 0.02)
            add("published", "prelu", base + 0.02)
            add("described", "two_phase", base + 0.01 + 0.001 * rng.normal())
            add("published", "two_phase", base + 0.001 * rng.normal())
            add("described", "two_phase", base, control="random")
    return folders


def test_the_architectures_are_in_the_papers_order_with_their_numbers(grid):
    parts = across.by_architecture(compare_runs(grid))
    assert [across.label(name) for name in parts] == [WIDTHS[number] for number in (1, 3, 4)]
    assert across.label("7-5") == "7-5"
    assert {row.details for part in parts.values() for row in part.rows} == {
        ("published",),
        ("described",),
    }


def test_a_family_has_what_was_trained_alike_whatever_its_preset_is_called(grid):
    published, described = across.families(compare_runs(grid))
    assert (published.name, described.name) == ("published", "described")
    uniform = ["two_phase", "uniform:relu", "uniform:tanh"]
    assert list(published.methods) == [*uniform, "prelu"]
    assert list(described.methods) == [*uniform, "two_phase-random", "prelu"]
    for method in uniform[1:]:
        assert published.methods[method].keys() == described.methods[method].keys()
        for name, row in published.methods[method].items():
            assert row.scores() == described.methods[method][name].scores()


def test_other_settings_are_no_family(grid, tmp_path):
    grid.append(write(tmp_path, "described", 1, "uniform:selu", 0, 0.1, learning_rate=0.5))
    for family in across.families(compare_runs(grid)):
        assert "uniform:selu" not in family.methods


def test_verdicts_are_over_all_pairs_with_holms_correction(grid):
    told = across.verdicts(compare_runs(grid))
    assert len(told) == 5
    published, described = (
        [sentence for sentence in told if sentence.startswith(name)]
        for name in ("published: ", "described: ")
    )
    assert "no difference to best uniform, by validation is shown" in published[0]
    assert published[1].startswith("published: worse than prelu: ")
    best, random, prelu = described
    assert best.startswith("described: better than best uniform, by validation: +0.99 points [")
    assert random.startswith("described: better than two_phase-random")
    assert prelu.startswith("described: worse than prelu: ")
    assert "9 pairs (3 architectures, 3 seeds)" in best
    found = across.families(compare_runs(grid))[1]
    pairs = [
        pair
        for name, row in found.methods["two_phase"].items()
        for pair in statistics.pairs(row.scores(), found.best[name].scores())
    ]
    p_value = statistics.sign_flip_test([one - other for one, other in pairs]).p_value
    assert p_value == 2 / 2**9
    # Four of the five tests have the smallest p that nine pairs can have.
    assert f"p = {5 * p_value:.2g}." in best


def test_the_best_uniform_network_is_picked_by_validation(tmp_path):
    folders = []
    for architecture in (1, 4):
        for method, score, validation in (
            ("two_phase", 0.9, 0.9),
            ("uniform:relu", 0.8, 0.5),
            ("uniform:tanh", 0.7, 0.6),
        ):
            folders += [
                write(tmp_path, "published", architecture, method, seed, score, validation)
                for seed in SEEDS
            ]
    (family,) = across.families(compare_runs(folders))
    for row in family.best.values():
        assert row.scores() == {seed: pytest.approx(70) for seed in SEEDS}
    assert across.verdicts(compare_runs(folders))[0].startswith("published: better than best")
    rows = across.difference_rows(CLASSIFICATION, [family])
    assert [row["learned beside best"] for row in rows] == [
        "+20.00 points [+20.00, +20.00]",
        "+20.00 points [+20.00, +20.00]",
    ]


def test_tables_have_means_intervals_and_what_is_over_the_architectures(grid):
    compared = compare_runs(grid)
    _, described = across.families(compared)
    *rows, last = across.score_rows(CLASSIFICATION, described)
    assert [row["architecture"] for row in rows] == [WIDTHS[number] for number in (1, 3, 4)]
    assert list(last) == [
        *("architecture", "two_phase", "relu", "tanh", "best uniform", "two_phase-random", "prelu"),
    ]
    scores = list(described.methods["prelu"]["512"].scores().values())
    mean, low, _ = statistics.interval(scores)
    assert rows[0]["prelu"] == f"{mean:.2f} ± {mean - low:.2f}"
    means = [np.mean(list(row.scores().values())) for row in described.methods["prelu"].values()]
    assert last["prelu"] == f"{np.mean(means):.2f} ± {np.std(means, ddof=1):.2f}"
    (first, *_) = across.phase_rows(CLASSIFICATION, described)
    assert float(first["phase 2"]) == pytest.approx(2 * float(first["phase 1"]), abs=0.02)
    (epochs, *_) = across.epoch_rows(described)
    assert (epochs["two_phase"], epochs["relu"]) == ("5", "2")


def test_ranks_are_those_of_the_papers_methods(grid):
    _, described = across.families(compare_runs(grid))
    methods, scores = across.ranked_scores(CLASSIFICATION, described)
    assert methods == ["two_phase", "relu", "tanh"]
    assert scores.shape == (3, 3)
    rows = across.rank_rows(CLASSIFICATION, described)
    assert [row["first ranks"] for row in rows] == ["3", "0", "0"]
    assert [row["average rank"] for row in rows] == ["1.00", "2.00", "3.00"]
    measured = ranks.rank_measures(scores)
    assert [row["mean reciprocal rank"] for row in rows] == [
        f"{value:.3f}" for value in measured.mean_reciprocal_rank
    ]
    assert [row["rank 3"] for row in rows] == ["0", "0", "3"]


def test_an_architecture_that_lacks_a_method_is_not_ranked(grid):
    few = [f for f in grid if not re.search("arch3-uniform-tanh", f.name)]
    _, described = across.families(compare_runs(few))
    assert across.ranked_scores(CLASSIFICATION, described)[1].shape == (2, 3)
    assert across.score_rows(CLASSIFICATION, described)[1]["tanh"] == ""


def test_errors_are_told_by_their_ratio(tmp_path):
    task = "function:ratio"
    folders = [
        write(
            tmp_path, "recommended", architecture, method, seed, error * 10**architecture, task=task
        )
        for architecture in (1, 2)
        for method, error in (("two_phase", 1e-6), ("uniform:sin", 4e-6 + 1e-7 * architecture))
        for seed in SEEDS
    ]
    assert is_complete(folders[0])
    told = report.compare(folders)
    assert "better than best uniform, by validation: 0.24 times the error [" in told
    assert "points" not in told


def test_the_text_has_the_parts_in_order_and_each_architecture(grid, capsys):
    assert report.main(["--table", *map(str, grid)]) == 0
    told = capsys.readouterr().out
    places = [
        told.index(heading)
        for heading in (
            across.VERDICTS,
            across.BESIDE_BEST,
            "published: test accuracy (%)",
            "published: ranks",
            "described: test accuracy (%)",
            "digits: test accuracy (%), 1: 512",
            "digits: test accuracy (%), 4: 256-128",
        )
    ]
    assert places == sorted(places)
    assert across.PAPER not in told  # of MNIST


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """The recipe on digits, one epoch per phase, two uniform networks: its folder and page."""
    root = tmp_path_factory.mktemp("paper")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paper, "METHODS", ("two_phase", "uniform:relu", "uniform:tanh"))
        patch.setattr(paper, "CONTROLS", ("learned", "random"))
        patch.setattr(paper, "SEEDS", {"first": range(3), "others": range(1)})
        patch.setattr(paper, "FIRST", (4,))
        whole = paper.bases
        tiny = {"selective_epochs": 1, "mixed_epochs": 1, "batch_size": 512}
        patch.setattr(
            paper,
            "bases",
            lambda *a, **o: [dataclasses.replace(base, **tiny) for base in whole(*a, **o)],
        )
        arguments = ["--task", "digits", "--architectures", "1", "4", "--run-dir", str(root / "p")]
        assert paper.main(arguments) == 0
    return root


def test_the_recipe_trains_every_cell_once(recipe):
    configs = [read_finished(folder).config for folder in (recipe / "p").iterdir()]
    # Two presets share their uniform networks: 2 + 2, and of recommended 2 + 2.
    counts = {1: 8, 4: 3 * 8}
    for architecture, count in counts.items():
        assert sum(config.architecture == architecture for config in configs) == count
    assert {c.preset for c in configs if c.control != "learned"} == {"recommended"}
    assert {c.preset for c in configs if c.is_uniform} == {"published", "recommended"}


def test_the_page_of_the_recipe_needs_nothing_else_and_has_every_section(recipe):
    text = (recipe / "p.html").read_text()
    reader = Reader()
    reader.feed(text)
    assert reader.open == []
    assert len(reader.ids) == len(set(reader.ids))
    assert all(address.startswith(("#", "data:")) for address in reader.addresses)
    for preset in ("published", "described", "recommended"):
        assert f">{preset}: ranks</h3>" in text
        assert f">{preset}: average ranks</figcaption>" in text
    assert text.index(across.VERDICTS) < text.index(across.BESIDE_BEST)
    assert text.count("<details>") == 2
    assert "python -m experiments.run --task digits --preset described" in text
    assert "What each layer chose" in text


def test_the_page_escapes_what_users_wrote(tmp_path):
    task = "arrays:<script>alert(1)</script>&.npz"
    folders = [
        write_run(tmp_path / f"{architecture}{method[:3]}{seed}", task, **cell)
        for architecture in (1, 4)
        for method in ("two_phase", "uniform:relu", "prelu")
        for seed in SEEDS
        for cell in [{"architecture": architecture, "method": method, "seed": seed}]
    ]
    text = page.page(folders)
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert" in text
    assert text.count("<details>") == 2


def planned_for(budget, architectures=range(1, 19), names=paper.PRESET_NAMES):
    folder = paper.FOLDERS[budget]
    presets = paper.bases("mnist", names, budget=budget, data_dir=None, run_dir=folder)
    return presets, paper.plan(architectures, presets, budget=budget)


def test_every_seed_of_the_paper_and_its_epochs():
    _, planned = planned_for("tenth")
    assert [len(cells) for cells in planned] == [100] * 3 + [60] * 15
    assert [cells[0].architecture for cells in planned[:4]] == [1, 3, 9, 2]
    everything = [config for cells in planned for config in cells]
    assert len({config.run_dir for config in everything}) == len(everything) == 1200
    full, (of_full,) = planned_for("full", [2])
    assert [(c.selective_epochs, c.mixed_epochs) for c in full] == [(50, 350), (50, 350), (10, 20)]
    assert len(of_full) == 200


def test_the_short_budget_has_three_seeds_everywhere_and_fewer_steps():
    _, planned = planned_for("short")
    assert [len(cells) for cells in planned] == [60] * 18
    everything = [config for cells in planned for config in cells]
    assert {c.seed for c in everything} == {0, 1, 2}
    assert {(c.selective_epochs, c.mixed_epochs, c.steps_per_epoch) for c in everything} == {
        (1, 2, 150),
        (1, 7, 150),
    }


@pytest.mark.parametrize("presets", [["recommended"], ["published", "described"], ["described"]])
def test_only_the_presets_that_are_asked_for_are_trained(presets):
    found, (of_one,) = planned_for("short", [2], presets)
    assert [base.preset for base in found] == presets
    ours, theirs = "recommended" in presets, len({"published", "described"} & {*presets})
    assert len(of_one) == 3 * (11 * ours + (theirs + 7 if theirs else 0))
    two_phase = {(c.preset, c.control) for c in of_one if c.method == "two_phase"}
    assert {preset for preset, _ in two_phase} == {*presets}
    assert {preset for preset, control in two_phase if control != "learned"} <= {"recommended"}
