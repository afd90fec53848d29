"""The recipe of real tables: their splits, the methods beside ours, and the page of numbers."""

import json

import numpy as np
import pytest

from experiments.data.sources import DataError
from experiments.data.tasks import load_task
from experiments.recipes import tables

ROWS, SPLITS = 60, 3


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Three made tables, of which every row is for testing in at most one split."""
    rng = np.random.default_rng(0)
    for name in ("yacht", "wine", "energy"):
        x = rng.normal(size=(ROWS, 2))
        y = x[:, 0] * x[:, 1] + 0.1 * rng.normal(size=ROWS)
        lines = [",".join(map(str, row)) for row in np.column_stack([x, y]).tolist()]
        (tmp_path / f"{name}.csv").write_text("\n".join(["x1,x2,y", *lines]))
        test = np.zeros((SPLITS, ROWS), bool)
        for split, rows in enumerate(np.array_split(rng.permutation(ROWS), 10)[:SPLITS]):
            test[split, rows] = True
        packed = np.packbits(test, axis=1)
        np.savez(tmp_path / f"{name}.splits.npz", test=packed, rows=ROWS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_split_tests_on_the_rows_that_are_given(folder):
    x, y, test, _ = table = tables.read_splits(folder, "yacht")
    assert test.shape == (SPLITS, ROWS)
    assert (test.sum(0) <= 1).all()
    path = tables.write_split(table, "yacht", 1)
    config = tables.study(path, 1).configs("learned")[0]
    splits = load_task(config).splits
    assert [len(splits[part].labels) for part in ("train", "validation", "test")] == [48, 6, 6]
    train = x[tables.parts_of(test, 1) == "train"]
    expected = (x[test[1]] - train.mean(0)) / train.std(0)
    np.testing.assert_allclose(splits["test"].inputs, expected, rtol=1e-4, atol=1e-5)
    assert not np.array_equal(tables.parts_of(test, 0), tables.parts_of(test, 1))
    assert len(y) == ROWS


def test_splits_of_another_table_are_one_line(folder):
    np.savez(folder / "yacht.splits.npz", test=np.zeros((2, 1), np.uint8), rows=8)
    with pytest.raises(DataError, match="8 rows, the table has 60"):
        tables.read_splits(folder, "yacht")
    np.savez(folder / "yacht.splits.npz", mask=np.zeros(3))
    with pytest.raises(DataError, match="expected test and rows"):
        tables.read_splits(folder, "yacht")
    with pytest.raises(DataError, match="no file"):
        tables.read_splits(folder, "power")


@pytest.mark.parametrize("fit", [tables.boosted, tables.process])
def test_what_people_would_use_fits(fit):
    x = np.random.default_rng(0).uniform(-1, 1, (300, 2))
    y = 100 + 10 * np.sin(3 * x[:, 0])
    predict = fit(x[:200], y[:200], 0)
    assert np.sqrt(np.mean((predict(x[200:]) - y[200:]) ** 2)) < 0.2 * y.std()


def test_every_method_has_its_error_on_every_split(folder, monkeypatch, capsys):
    whole = tables.study

    def small(table, split, **changes):
        tiny = {"hidden": (4,), "selective_epochs": 1, "mixed_epochs": 1, "steps_per_epoch": 2}
        study = whole(table, split, **tiny, **changes)
        names = ("learned", "shuffled", "uniform relu", "uniform tanh")
        return study._replace(variants={name: study.variants[name] for name in names})

    monkeypatch.setattr(tables, "study", small)
    words = "--tables yacht wine energy --splits 2 --write tables.json --data-dir"
    assert tables.main([*words.split(), str(folder)]) == 0
    told = capsys.readouterr().out
    assert "0.67 ± 0.05" in told
    assert "gradient boosting" in told
    results = json.loads((folder / "tables.json").read_text())["results"]
    assert [record["table"] for record in results] == ["yacht", "wine", "energy"]
    assert {len(errors) for r in results for errors in r["test_rmse"].values()} == {2}
    assert {*results[0]["test_rmse"]} == {
        *("learned", "shuffled", "best uniform", "gradient boosting", "Gaussian process")
    }
    assert (folder / "runs" / "tables.png").exists()


def test_a_table_in_a_package_has_splits_and_derivatives(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    table = tables.read_packaged("diabetes")
    assert table.test.shape == (tables.SPLITS, len(table.y))
    assert (table.test.sum(1) == len(table.y) // 10).all()
    assert len(np.unique(table.test, axis=0)) == tables.SPLITS

    made = (np.zeros((30, 2)), np.zeros(30), np.ones((30, 2)))
    monkeypatch.setattr(tables, "_packaged", lambda name: made)
    table = tables.read_packaged("engine_fuel")
    np.testing.assert_array_equal(np.load(tables.write_split(table, "engine_fuel", 0))["dy"], 1)


def test_the_tables_of_smt_are_those_of_its_examples():
    pytest.importorskip("smt")
    sizes = {"airfoil_drag": (42_039, 16), "engine_thrust": (1_056, 3), "engine_fuel": (1_056, 3)}
    for name, shape in sizes.items():
        table = tables.read_packaged(name)
        assert table.x.shape == table.dy.shape == shape
        assert np.isfinite(table.y).all()


def test_what_is_missing_is_one_line(monkeypatch, capsys):
    def missing(name):
        raise ImportError("no module")

    monkeypatch.setattr(tables, "_packaged", missing)
    with pytest.raises(DataError, match=r"engine_fuel needs smt .*: pip install smt"):
        tables.read_packaged("engine_fuel")
    with pytest.raises(SystemExit):
        tables.main(["--tables", "yacht"])
    assert "--data-dir: expected the folder of the tables" in capsys.readouterr().err
