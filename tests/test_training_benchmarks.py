"""The benchmarks of the training loop: their arithmetic, and that they run."""

import json

import numpy as np
import pytest

from experiments import data
from experiments.benchmarks import grid, profile
from experiments.benchmarks.training import Span, find_data

SPANS = [
    Span("selective", 0.0, 3.0),
    Span("selective", 3.0, 4.0),
    Span("mixed", 5.0, 7.0),
    Span("mixed", 7.5, 8.0),
    Span("mixed", 8.0, 9.0),
]


def test_shares_count_the_time_between_epochs_and_the_switch():
    one, two, both = profile.shares(SPANS)
    assert (one["phase"], one["epochs"], one["wall seconds"], one["share %"]) == (
        "selective",
        2,
        4.0,
        100.0,
    )
    assert (two["in epochs"], two["share %"]) == (3.5, 87.5)
    assert (both["epochs"], both["wall seconds"]) == (5, 9.0)
    assert both["share %"] == pytest.approx(100 * 7.5 / 9)


def test_the_rate_leaves_the_first_epoch_out():
    assert grid.rate(SPANS, "selective") == 1.0
    assert grid.rate(SPANS, "mixed") == 1.0


def test_random_images_stand_in_where_there_are_none(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "nothing"))
    monkeypatch.setenv("SMARTMIXED_CACHE", str(tmp_path / "nothing"))
    assert find_data("mnist", tmp_path, small=True) == str(tmp_path)
    dataset = data.load("mnist", tmp_path, download=False)
    assert "random images" in dataset.source
    assert dataset.train_inputs.shape == (1_280, 28, 28, 1)
    assert np.bincount(dataset.train_labels).min() == 128
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert find_data("mnist", tmp_path, small=False) is None


@pytest.mark.parametrize("program", [profile, grid])
def test_the_programs_print_and_write_their_figures(program, tmp_path, capsys):
    path = tmp_path / "figures.json"
    options = ["--smoke", "--out", str(path)]
    assert program.main(options) == 0
    record = json.loads(path.read_text())
    text = capsys.readouterr().out
    assert record["command"] in text
    assert record["notes"][0].startswith("random images")
    assert {"date", "jax", "device"} <= record["environment"].keys()
    if program is profile:
        assert [row["epochs"] for row in record["results"]] == [2, 2, 4]
        assert all(0 < row["share %"] < 100.01 for row in record["results"])
    else:
        assert [row["seeds at once"] for row in record["results"]] == [1, 2]
        for row in record["results"]:
            assert row["400 epochs, s per seed"] > row["ends, s per seed"] > 0
