"""Tables of the user's: what is read, how it is encoded and split, and what is refused."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from experiments.data import DataError
from experiments.data.encoding import encode_inputs, encoding_of
from experiments.data.reading import read_columns
from experiments.data.splits import split_rows
from experiments.data.tasks import load_task
from experiments.presets import default_config


def write(path: Path, columns: dict, separator: str = ",") -> Path:
    lines = [separator.join(columns)]
    lines += [separator.join(map(str, row)) for row in zip(*columns.values(), strict=True)]
    path.write_text("\n".join(lines) + "\n")
    return path


def trees(rows: int = 60) -> dict:
    """Numbers, text, a class, a value, a split."""
    rng = np.random.default_rng(0)
    girth, height = rng.uniform(1, 5, rows).round(3), rng.uniform(10, 30, rows).round(2)
    kind = [("oak", "elm", "fir")[i % 3] for i in range(rows)]
    parts = ["train"] * (rows - 20) + ["validation"] * 10 + ["test"] * 10
    volume = (girth * height + 100 * (np.array(kind) == "oak")).round(3)
    return {"girth": girth, "height": height, "kind": kind, "part": parts, "volume": volume}


def config_of(path: Path, **changes):
    return dataclasses.replace(default_config(task=f"table:{path}"), **changes)


def load(path: Path, **changes):
    return load_task(config_of(path, **changes))


def test_numbers_are_standardised_by_the_training_rows_and_text_is_one_hot(tmp_path):
    table = trees()
    task = load(write(tmp_path / "a.csv", table), target="volume", split_column="part")
    assert task.shape == (5,)
    train = np.asarray(task.splits["train"].inputs)
    girth = table["girth"][:40]
    np.testing.assert_allclose(train[:, 0], (girth - girth.mean()) / girth.std(), atol=1e-5)
    expected = np.array(table["kind"])[:40, None] == ["elm", "fir", "oak"]
    np.testing.assert_array_equal(train[:, 2:], expected)
    volume, labels = table["volume"], np.asarray(task.splits["test"].labels)
    assert labels.shape == (10, 1)
    np.testing.assert_allclose(
        labels[:, 0], (volume[50:] - volume[:40].mean()) / volume[:40].std(), atol=1e-5
    )
    assert task.label_scale == pytest.approx(volume[:40].std())
    assert not task.seeded
    json.dumps(task.extras)


def test_rows_are_split_by_the_seed_in_the_shares(tmp_path):
    path = write(tmp_path / "a.csv", trees())
    tasks = [load(path, target="volume", seed=seed) for seed in (0, 0, 1)]
    inputs = [np.asarray(task.splits["test"].inputs) for task in tasks]
    assert [len(tasks[0].splits[part].labels) for part in ("train", "validation", "test")] == [
        *(42, 9, 9)
    ]
    np.testing.assert_array_equal(inputs[0], inputs[1])
    assert not np.array_equal(inputs[0], inputs[2])
    other = load(path, target="volume", test_fraction=0.3, validation_fraction=0.1)
    assert [len(other.splits[part].labels) for part in ("validation", "test")] == [6, 18]


def test_every_row_is_in_one_part_and_every_class_in_all():
    groups = np.repeat([0, 1, 2], [3, 10, 47])
    parts = split_rows(groups, 0.15, 0.15, seed=5)
    np.testing.assert_array_equal(np.sort(np.concatenate(list(parts.values()))), np.arange(60))
    for rows in parts.values():
        assert set(groups[rows]) == {0, 1, 2}


@pytest.mark.parametrize(
    ("cells", "kind", "classes"),
    [
        (["a", "b", "b"], "auto", ("a", "b")),
        (["True", "False", "True"], "auto", ("False", "True")),
        (["2", "0", "10"], "auto", ("0", "2", "10")),
        (["2.0", "0.0", "1.0"], "auto", ()),
        (["2.5", "0.5", "1.5"], "classes", ("0.5", "1.5", "2.5")),
        (["2", "0", "1"], "values", ()),
        ([str(i) for i in range(12)], "auto", ()),
    ],
)
def test_the_kind_of_the_target(tmp_path, cells, kind, classes):
    cells = cells * 12
    table = {"x": np.arange(len(cells)) % 7, "y": cells}
    task = load(write(tmp_path / "a.csv", table), target="y", target_kind=kind)
    assert task.class_names == classes
    assert task.out_features == (len(classes) or 1)
    if classes:
        assert set(np.asarray(task.splits["train"].labels).tolist()) == set(range(len(classes)))


def test_whole_numbers_taken_as_classes_are_said(tmp_path, caplog):
    path = write(tmp_path / "a.csv", {"x": range(40), "stars": [1, 2, 3, 4] * 10})
    load(path, target="stars")
    assert "4 whole numbers in 'stars' are taken as classes; --target-kind values" in caplog.text


def test_constant_columns_are_left_out_and_said(tmp_path, caplog):
    path = write(tmp_path / "a.csv", {"x": range(40), "one": [1] * 40, "y": np.arange(40) / 3})
    assert load(path, target="y").shape == (1,)
    assert "constant and left out: one" in caplog.text


@pytest.mark.parametrize("value", [1.0, 0.1, -0.003, 123.456])
def test_a_column_that_is_constant_in_training_alone_stays_small(tmp_path, value):
    """The deviation of equal numbers need not be 0 as computed."""
    rows = 1_000
    table = {
        "x": np.arange(rows) % 7,
        "rare": [value] * (rows - 1) + [1.1 * value],
        "y": np.arange(rows) / 3,
        "part": ["train"] * (rows - 100) + ["validation"] * 50 + ["test"] * 50,
    }
    task = load(write(tmp_path / "a.csv", table), target="y", split_column="part")
    assert np.abs(task.splits["test"].inputs).max() < 100


@pytest.mark.parametrize("separator", [";", "\t"])
def test_other_separators_quotes_blank_lines_and_byte_order_marks(tmp_path, separator):
    text = ['\ufeff"a b"', "y"], ['"1"', "2.5"], [], ["3", "4.5"], [" 5 ", "1.5"]
    path = tmp_path / "a.csv"
    path.write_text("\n".join(separator.join(cells) for cells in text), encoding="utf-8")
    columns = read_columns(path)
    assert {name: cells.tolist() for name, cells in columns.cells.items()} == {
        "a b": ["1", "3", "5"],
        "y": ["2.5", "4.5", "1.5"],
    }
    assert columns.rows == [2, 4, 5]


def test_npz_is_read_like_csv(tmp_path):
    table = trees()
    x = np.stack([table["girth"], table["height"]], 1)
    np.savez(tmp_path / "a.npz", x=x, y=table["volume"][:, None], part=np.array(table["part"]))
    task = load(tmp_path / "a.npz", split_column="part")
    csv = write(tmp_path / "a.csv", {"x1": x[:, 0], "x2": x[:, 1], **table})
    other = load(csv, target="volume", inputs=("x1", "x2"), split_column="part")
    np.testing.assert_allclose(task.splits["test"].inputs, other.splits["test"].inputs, atol=1e-6)
    np.testing.assert_allclose(task.splits["test"].labels, other.splits["test"].labels, atol=1e-6)
    np.savez(tmp_path / "b.npz", x=x, y=np.array(table["kind"]), columns=["girth", "height"])
    named = load(tmp_path / "b.npz")
    assert named.class_names == ("elm", "fir", "oak")
    assert [column["name"] for column in named.extras["columns"]["inputs"]] == ["girth", "height"]


def test_the_encoding_of_the_record_takes_new_rows(tmp_path):
    path = write(tmp_path / "a.csv", trees())
    task = load(path, target="volume", split_column="part")
    encoding = encoding_of(json.loads(json.dumps(task.extras))["columns"])
    rows = write(tmp_path / "b.csv", {"kind": ["fir"], "height": [20], "girth": [3]})
    encoded = encode_inputs(read_columns(rows), encoding)
    np.testing.assert_array_equal(encoded[0, 2:], [0, 1, 0])
    girth, height = (column for column in encoding.inputs[:2])
    expected = [(3 - girth.mean) / girth.scale, (20 - height.mean) / height.scale]
    np.testing.assert_allclose(encoded[0, :2], expected, rtol=1e-6)
    rows = write(tmp_path / "c.csv", {"kind": ["palm"], "height": [20], "girth": [3]})
    with pytest.raises(DataError, match="row 2, column 'kind': 'palm', expected one of elm, fir"):
        encode_inputs(read_columns(rows), encoding)


def test_a_table_is_looked_for_below_the_data_folder_too(tmp_path):
    write(tmp_path / "a.csv", trees())
    config = config_of("a.csv", target="volume", data_dir=str(tmp_path))
    assert load_task(config).source == f"column volume of {tmp_path / 'a.csv'}"


# What is refused


def changed(**columns) -> dict:
    return {name: values for name, values in (trees() | columns).items() if values is not None}


def cells(name: str, row: int, cell: object) -> dict:
    column = list(trees()[name])
    column[row] = cell
    return {name: column}


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({}, {"target": ""}, "--target says which column to predict: girth, height, kind, part"),
        ({}, {"target": "wolume"}, "target: no column 'wolume'; it has girth, height, kind"),
        ({}, {"target": "girth,height"}, "target = 'girth,height': expected one column"),
        ({}, {"inputs": ("age",)}, "inputs: no column 'age'; it has"),
        ({}, {"inputs": ("volume",)}, "the target, the split or an input, only one of them"),
        ({}, {"split_column": "set"}, "split_column: no column 'set'; it has"),
        ({}, {"split_column": "kind"}, "row 2, column 'kind': 'oak', expected train, validation"),
        ({"part": ["train"] * 60}, {"split_column": "part"}, "names no row for validation"),
        ({"volume": [1.5] * 60}, {}, "column 'volume' is 1.5 in every row"),
        ({"volume": ["x"] * 60}, {}, "column 'volume' is x in every row"),
        (cells("girth", 3, ""), {}, "row 5, column 'girth': a missing value: fill it in"),
        (cells("girth", 3, "NaN"), {}, r"row 5, column 'girth': a missing value \(NaN\)"),
        (cells("kind", 0, "NA"), {}, r"row 2, column 'kind': a missing value \(NA\)"),
        (cells("volume", 59, ""), {}, "row 61, column 'volume': a missing value"),
        (cells("girth", 3, "?"), {}, "row 5, column 'girth': '[?]' is no number, as most"),
        (cells("girth", 3, "inf"), {}, "row 5, column 'girth': inf is no finite number"),
        ({"kind": [f"tree {i}" for i in range(60)]}, {}, "'kind' holds 60 different texts"),
        ({}, {"target": "kind", "target_kind": "values"}, "column 'kind' holds text"),
        (cells("kind", 0, "yew"), {"target": "kind"}, "the class 'yew' has 1 row, expected at"),
        (
            cells("kind", 59, "yew"),
            {"target": "kind", "split_column": "part"},
            "no row for training is of the class 'yew'",
        ),
        ({"volume": range(60)}, {"target_kind": "classes"}, "the class '0' has 1 row"),
        ({"girth": [1] * 60}, {"inputs": ("girth",)}, "no column is left as an input"),
        ({}, {"validation_fraction": 0.6, "test_fraction": 0.4}, "expected a sum below 1"),
    ],
)
def test_a_table_that_does_not_fit_is_one_line(tmp_path, columns, options, message):
    path = write(tmp_path / "a.csv", changed(**columns))
    with pytest.raises((DataError, ValueError), match=message) as caught:
        load(path, **({"target": "volume"} | options))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "is empty"),
        (b"a,y\n", "has no row below the names"),
        (b"a,y\n1,2\n", "1 row, expected at least 6"),
        (b"a,a,y\n1,2,3\n", "two columns are called 'a'"),
        (b",a,y\n0,1,2\n", "column 1 has no name; pandas writes no such column with index=False"),
        (b"1,2,3\n4,5,6\n", "names of the columns in row 1, found only numbers"),
        (b"a,y\n1,2\n1,2,3\n", "row 3: 3 cells, expected 2"),
        (b'a,y\n1,"2\n', "row 2: unexpected end of data"),
        (b"a,y\n\xff,2\n", "is no UTF-8 text"),
    ],
)
def test_a_file_that_is_no_table_is_one_line(tmp_path, text, message):
    (tmp_path / "a.csv").write_bytes(text)
    with pytest.raises(DataError, match=message) as caught:
        load(tmp_path / "a.csv", target="y")
    assert "\n" not in str(caught.value)


X = np.arange(40.0).reshape(20, 2)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"inputs": X}, "expected the arrays x, y, found inputs"),
        ({"x": X}, "target: no column 'y'; it has x1, x2"),
        ({"x": X[:, 0], "y": X[:, 0]}, r"x is float64 \[20\], expected numbers \[M, d\]"),
        ({"x": X, "y": X}, r"y is float64 \[20, 2\], expected numbers or text \[20\] or \[20, 1\]"),
        ({"x": X, "y": X[:5, 0]}, r"y is float64 \[5\]"),
        ({"x": X, "y": X[:, 0], "columns": ["a"]}, "1 columns are named, x has 2"),
        ({"x": X, "y": X[:, 0], "columns": ["a", "y"]}, "two columns are called 'y'"),
        ({"x": X, "y": np.full(20, np.nan)}, "row 0, column 'y': nan"),
        ({"x": X, "y": np.array([{}] * 20)}, "cannot be read .*pickle"),
    ],
)
def test_arrays_that_are_no_table_are_one_line(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=message):
        load(tmp_path / "a.npz")


def test_a_file_that_is_not_there_or_of_another_kind(tmp_path):
    with pytest.raises(DataError, match=r"no file /.*nothing\.csv or /.*nothing\.csv"):
        load("nothing.csv", target="y", data_dir=str(tmp_path))
    (tmp_path / "a.xlsx").write_text("")
    with pytest.raises(DataError, match=r"a\.xlsx: expected a file that ends in \.csv or \.npz"):
        load(tmp_path / "a.xlsx", target="y")
    (tmp_path / "a.npz").write_text("no zip")
    with pytest.raises(DataError, match=r"a\.npz cannot be read"):
        load(tmp_path / "a.npz")
