"""The page of finished runs: what it says in words, and that it needs nothing else."""

import dataclasses
import html.parser
import shlex

import numpy as np
import pytest

from experiments import page, report, statistics
from experiments.command_line import Parser
from experiments.comparison import compare_runs
from experiments.config_options import parse_config, words_of
from experiments.presets import default_config
from tests.synthetic_runs import write_run
from tests.test_report import finished

UNIFORM = ("uniform:relu", "uniform:tanh")


def runs(root, scores, key="test_score", **changes):
    """Folders by method, of which each has a list of scores, one per seed."""
    return finished(
        root,
        {
            (method, seed): {"validation_score": score, key: score}
            for method, of_method in scores.items()
            for seed, score in enumerate(of_method)
        },
        **changes,
    )


def told(folders):
    return page.verdicts(page.learned_first(compare_runs(folders)))


def test_what_an_interval_leaves_out_is_a_difference(tmp_path):
    learned = np.array([0.90, 0.91, 0.92, 0.93])
    scores = {
        "uniform:relu": learned - np.array([0.010, 0.011, 0.012, 0.011]),
        "two_phase": learned,
        "uniform:tanh": learned + np.array([0.010, 0.011, 0.012, 0.011]),
        "uniform:elu": learned + np.array([0.010, -0.011, 0.012, -0.011]),
        "uniform:selu": learned,
    }
    best, *others = told(runs(tmp_path, scores))
    assert best.startswith("Worse than best uniform, by validation: -1.1")
    better, worse, same, equal = others
    assert better.startswith("Better than uniform:relu: +1.10 points [+0.97, +1.23], 4 seeds.")
    assert worse.startswith("Worse than uniform:tanh: -1.10 points [-1.23, -0.97]")
    deviation = 100 * np.std(scores["uniform:elu"] - learned, ddof=1)
    visible = statistics.smallest_difference(deviation, 4)
    assert same.startswith("No difference to uniform:elu is shown: ")
    assert same.endswith(f". 4 seeds show one of {visible:.2f} points with probability 0.8.")
    assert equal == "Equal to uniform:selu in 4 seeds."


def test_errors_are_told_by_their_ratio(tmp_path):
    error = np.array([1e-4, 2e-4, 4e-4])
    scores = {"two_phase": error, "uniform:relu": error * [3.9, 4.0, 4.1]}
    folders = runs(tmp_path, scores, "test_normalized_error", task="function:ratio")
    best, relu = told(folders)
    assert relu == "Better than uniform:relu: 0.25 times the error [0.23, 0.27], 3 seeds."
    assert best.startswith("Better than best uniform, by validation: 0.25 times")


def test_two_seeds_have_no_interval_and_no_learned_run_no_verdict(tmp_path):
    scores = {"two_phase": [0.9, 0.8], "uniform:relu": [0.1, 0.2]}
    assert told(runs(tmp_path / "two", scores))[1] == (
        "Beside uniform:relu: 2 seeds, too few for an interval."
    )
    del scores["two_phase"]
    assert told(runs(tmp_path / "none", scores)) == []


def test_the_presets_own_run_is_the_first_row_and_lends_its_details(tmp_path):
    scores = {"two_phase": [0.9, 0.8, 0.7], "uniform:relu": [0.1, 0.2, 0.3]}
    folders = runs(tmp_path / "a", {"two_phase": [0.5, 0.6, 0.7]}, temperature=1.0)
    folders += runs(tmp_path / "b", scores)
    rows = page.learned_first(compare_runs(folders)).rows
    assert [row.name for row in rows] == ["two_phase", "uniform:relu", "two_phase, temperature 1.0"]


@pytest.mark.parametrize(
    ("task", "changes"),
    [
        ("mnist", {"method": "uniform:tanh", "hidden": (8, 4), "drop_worse": True}),
        ("mnist", {"preset": "published"}),
        ("function:ratio", {"range": (-1.0, 2.5), "label_noise": 0.1, "carry_moments": True}),
        ("digits", {"drop_worse": False, "control": "shuffled", "learning_rate": 3e-4}),
    ],
)
def test_the_command_of_a_run_makes_its_config(task, changes):
    preset = changes.get("preset", "recommended")
    config = dataclasses.replace(default_config(preset, task), **changes)
    found, _ = parse_config(shlex.split(shlex.join(words_of(config))), Parser(prog="x"))
    assert found == config


class Reader(html.parser.HTMLParser):
    """Every tag is closed where it should be; ids and addresses."""

    def __init__(self) -> None:
        super().__init__()
        self.open, self.ids, self.addresses, self.rows = [], [], [], 0

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids += [found["id"]] if "id" in found else []
        self.addresses += [v for k, v in attributes if k in ("src", "href", "xlink:href")]
        self.rows += tag == "tr"
        if tag not in ("meta", "br", "link"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("page")
    folders = [
        write_run(root / f"{task[:8]}-{method[:7]}-{seed}", task=task, method=method, seed=seed)
        for task in ("digits", "function:ratio")
        for method in ("two_phase", "uniform:relu")
        for seed in range(3)
    ]
    assert report.main([*map(str, folders), "--html", str(root / "page.html")]) == 0
    return root / "page.html"


def test_the_page_needs_nothing_else(written):
    reader = Reader()
    reader.feed(written.read_text())
    assert reader.open == []
    assert len(reader.ids) == len(set(reader.ids))
    assert all(address.startswith(("#", "data:")) for address in reader.addresses)
    inside = [address for address in reader.addresses if address.startswith("#")]
    assert {address[1:] for address in inside} <= set(reader.ids)


def test_the_page_has_verdicts_tables_figures_and_commands_of_every_task(written):
    text = written.read_text()
    for heading in (">digits</h2>", ">function:ratio</h2>", "What each layer chose"):
        assert heading in text
    assert "The fitted function" in text
    assert text.count("<h3>Commands</h3>") == 2
    assert "python -m experiments.run --task digits --seed 0   # to 2" in text
    assert "--method uniform:relu" in text
    assert "points [" in text
    assert "6 runs, " in text
    assert text.count("<svg") >= 8
    assert 'type="button"' in text


def test_the_page_says_what_all_runs_changed_in_their_presets(tmp_path):
    made = {f"seed{seed}": {"seed": seed, "batch_size": 64} for seed in (0, 1)}
    folders = [
        write_run(tmp_path / name, hidden=(6, 5), **changes) for name, changes in made.items()
    ]
    said = "<p>Every run: batch_size 64, otherwise as in its preset.</p>"
    assert said in page.page(folders)
    folders.append(write_run(tmp_path / "plain", hidden=(6, 5), seed=2))
    assert "otherwise as in its preset" not in page.page(folders)


def test_runs_that_are_not_complete_are_named(tmp_path):
    folders = runs(tmp_path, {"two_phase": [0.9, 0.8]})
    (folders[1] / "summary.json").unlink()
    with pytest.raises(ValueError, match="two_phase-1"):
        page.page(folders[1:])
