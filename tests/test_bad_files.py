"""Tables, arrays and code of the user's that cannot be trained on: one line, nothing written."""

import io
import struct
import sys
import zipfile

import numpy as np
import pytest
from refusal import assert_refused

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning", "error::UserWarning")


@pytest.fixture(autouse=True)
def working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("SMARTMIXED_CACHE", str(tmp_path / "cache"))
    yield tmp_path
    for name in ("good", "bad"):
        sys.modules.pop(name, None)


# Tables in CSV

ROWS = [f"{i},{i * i % 7 + 0.5},{'ab'[i % 2]},{i * 1.5}" for i in range(30)]


def table(row: int | None = None, text: str = "", names: str = "a,b,c,y") -> bytes:
    """The file, one of its rows (from 0) replaced."""
    rows = [text if number == row else line for number, line in enumerate(ROWS)]
    return "\n".join([names, *rows, ""]).encode()


def column(place: int, cells) -> bytes:
    """The file, one of its columns replaced."""
    rows = [line.split(",") for line in ROWS]
    changed = [
        ",".join([*r[:place], str(c), *r[place + 1 :]]) for r, c in zip(rows, cells, strict=True)
    ]
    return "\n".join(["a,b,c,y", *changed, ""]).encode()


X, Y = np.random.default_rng(0).normal(size=(30, 2)), np.arange(30.0) / 7
IMAGES = np.random.default_rng(0).random((40, 5, 4)).astype(np.float32)
LABELS = np.arange(40) % 4


def spoiled(array: np.ndarray, value: float) -> np.ndarray:
    """One of its numbers replaced."""
    changed = array.astype(np.float64)
    changed[(7,) + (1,) * (array.ndim - 1)] = value
    return changed


JUNK = np.random.default_rng(0).integers(0, 256, 5000, np.uint8).tobytes()
CSV = {
    "empty": b"",
    "blank": b" \n\n",
    "byte order mark": b"\xef\xbb\xbf",
    "only names": b"a,b,c,y\n",
    "one row": b"a,y\n1,2\n",
    "five rows": b"a,y\n" + b"1,2\n" * 5,
    "only numbers": b"1,2\n3,4\n",
    "one column": b"y\n" + b"1\n2.5\n" * 9,
    "short row": table(3, "1,2,a"),
    "long row": table(3, "1,2,a,3,4"),
    "missing": table(3, "1,,a,3"),
    "missing text": table(3, "1,2,,3"),
    "missing target": table(3, "1,2,a,"),
    "nan": table(3, "nan,2,a,3"),
    "NaN target": table(3, "1,2,a,NaN"),
    "inf": table(3, "inf,2,a,3"),
    "-inf target": table(3, "1,2,a,-inf"),
    "1e400": table(3, "1e400,2,a,3"),
    "1e400 target": table(3, "1,2,a,1e400"),
    "1e308": table(3, "1e308,2,a,3"),
    "1e308 target": table(3, "1,2,a,1e308"),
    "-1e308 and 1e308": column(0, [(-1) ** i * 1e308 for i in range(30)]),
    "1e200": column(0, [i * 1e200 for i in range(30)]),
    "1e200 target": column(3, [i * 1e200 for i in range(30)]),
    "1e-200": column(0, [i * 1e-200 for i in range(30)]),
    "1e-120 and 1": column(0, [(i > 20) + i * 1e-120 for i in range(30)]),
    "1e-310 target": column(3, [(i + 0.5) * 1e-310 for i in range(30)]),
    "text in numbers": table(3, "x,2,a,3"),
    "hexadecimal": table(3, "0x10,2,a,3"),
    "underscore": table(3, "1_000,2,a,3"),
    "complex": table(3, "1+2j,2,a,3"),
    "names twice": table(names="a,a,c,y"),
    "no name": table(names="a,,c,y"),
    "no target": table(names="a,b,c,z"),
    "fewer names": table(names="a,b,y"),
    "constant target": column(3, [1.5] * 30),
    "constant text target": column(3, ["x"] * 30),
    "target of many texts": column(3, [f"text {i}" for i in range(30)]),
    "column of many texts": column(2, [f"text {i}" for i in range(30)]),
    "rare class": column(3, ["x"] * 29 + ["z"]),
    "open quote": table(3, '1,2,"a,3'),
    "quote inside": table(3, '1,2,"a"b,3'),
    "huge cell": table(3, f"1,2,{'a' * 200_000},3"),
    "long text": table(3, f"{'x' * 100_000},2,a,3"),
    "NUL": table(3, "1,2\0,a,3"),
    "UTF-16": table().decode().encode("utf-16"),
    "Latin-1": table(3, "1,2,\xe4,3").decode().encode("latin-1"),
    "binary": JUNK,
    "zip": b"PK\x03\x04" + JUNK,
    "gzip": b"\x1f\x8b\x08" + JUNK,
}


@pytest.mark.parametrize("name", CSV)
def test_a_bad_table(name, working_directory, capsys):
    (working_directory / "t.csv").write_bytes(CSV[name])
    assert_refused(["--task", "table:t.csv", "--target", "y"], capsys, "t.csv")


OPTIONS = """
|target
--target z|'z'
--target a,y|'a,y'
--target y --inputs y|t.csv
--target y --inputs z|'z'
--target y --split-column c|'c'
--target y --split-column z|'z'
--target y --split-column y|t.csv
--target c --target-kind values|'c'
--target y --target-kind classes|t.csv
--target y --validation-fraction 0.5 --test-fraction 0.5|test_fraction
--target y --data-dir nowhere --task table:u.csv|u.csv
--target y --task table:.|no file
--target y --task table:t.txt|t.txt
""".strip("\n").splitlines()


@pytest.mark.parametrize("line", OPTIONS)
def test_a_table_with_options_that_do_not_fit(line, working_directory, capsys):
    options, _, text = line.partition("|")
    for name in ("t.csv", "t.txt"):
        (working_directory / name).write_bytes(table())
    assert_refused(["--task", "table:t.csv", *options.split()], capsys, text)


# Arrays in NPZ


def npz(**arrays) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def archive(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as opened:
        for name, blob in members.items():
            opened.writestr(name.replace("_npy", ".npy"), blob)
    return file.getvalue()


def header(shape: object, dtype: str = "<f8", data: bytes = b"") -> bytes:
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + data


def changed(blob: bytes, place: int) -> bytes:
    return blob[:place] + bytes([blob[place] ^ 0x40]) + blob[place + 1 :]


GOOD = npz(x=X, y=Y)
DAMAGED = {
    "empty file": b"",
    "text": b"x,y\n1,2\n",
    "binary": JUNK,
    "one array": header((2,), data=bytes(16)),
    "no array": archive(),
    "no member": archive(readme_txt=b"hello"),
    "a member that is no array": archive(x_npy=b"hello", y_npy=b"hello"),
    "header alone": archive(x_npy=header((30, 2)), y_npy=header((30,))),
    "claims 2**60": archive(x_npy=header((2**59, 2), data=bytes(480))),
    "claims 2**90": archive(x_npy=header((2**45, 2**45), data=bytes(480))),
    "claims less": archive(x_npy=header((1, 2), data=bytes(480))),
    "claims -1": archive(x_npy=header((-1, 2), data=bytes(480))),
    "claims text": archive(x_npy=header("'many'", data=bytes(480))),
    "header that calls": archive(x_npy=header("__import__('os').abort()")),
    "unknown kind": archive(x_npy=header((30, 2), "<q77", bytes(480))),
    "version 9": archive(x_npy=b"\x93NUMPY\x09\x00" + bytes(500)),
    "objects": npz(x=X, y=np.array([{}] * 30)),
    "objects everywhere": npz(x=np.array([[{}, {}]] * 30), y=Y),
    **{f"cut at {cut}": GOOD[:cut] for cut in (10, 100, 600, len(GOOD) - 30, len(GOOD) - 1)},
    **{f"changed at {place}": changed(GOOD, place) for place in (0, 250, 400, 900)},
}
TABLES = {
    "no x": {"y": Y},
    "no y": {"x": X},
    "x [M]": {"x": X[:, 0], "y": Y},
    "x [M, 2, 1]": {"x": X[..., None], "y": Y},
    "x []": {"x": np.float64(3), "y": Y},
    "x [0, 2]": {"x": X[:0], "y": Y[:0]},
    "x [M, 0]": {"x": X[:, :0], "y": Y},
    "x of 1 row": {"x": X[:1], "y": Y[:1]},
    "x complex": {"x": X + 1j, "y": Y},
    "x text": {"x": X.astype(str), "y": Y},
    "x times": {"x": X.astype("datetime64[s]"), "y": Y},
    "x records": {"x": np.zeros((30, 2), "f4,i4"), "y": Y},
    "x nan": {"x": spoiled(X, np.nan), "y": Y},
    "x inf": {"x": spoiled(X, np.inf), "y": Y},
    "x 1e308": {"x": 1e308 * np.sign(X), "y": Y},
    "x long": {"x": np.full((30, 2), np.longdouble("1e4000")), "y": Y},
    "x constant": {"x": np.ones((30, 2)), "y": Y},
    "y []": {"x": X, "y": np.float64(3)},
    "y [M - 1]": {"x": X, "y": Y[1:]},
    "y [M, 2]": {"x": X, "y": X},
    "y [0]": {"x": X, "y": Y[:0]},
    "y complex": {"x": X, "y": Y + 1j},
    "y nan": {"x": X, "y": Y * np.nan},
    "y inf": {"x": X, "y": np.where(Y == 0, np.inf, Y)},
    "y constant": {"x": X, "y": np.ones(30)},
    "y 1e200": {"x": X, "y": Y * 1e200},
    "y text": {"x": X, "y": np.array([f"text {i}" for i in range(30)])},
    "one column named": {"x": X, "y": Y, "columns": np.array(["a"])},
    "columns []": {"x": X, "y": Y, "columns": np.array("ab")},
    "columns twice": {"x": X, "y": Y, "columns": np.array(["a", "a"])},
    "columns [2, 1]": {"x": X, "y": Y, "columns": np.array([["a"], [""]])[:1]},
    "columns with y": {"x": X, "y": Y, "columns": np.array(["a", "y"])},
}


@pytest.mark.parametrize("name", [*DAMAGED, *TABLES])
def test_a_bad_table_of_arrays(name, working_directory, capsys):
    blob = DAMAGED[name] if name in DAMAGED else npz(**TABLES[name])
    (working_directory / "t.npz").write_bytes(blob)
    assert_refused(["--task", "table:t.npz"], capsys, "t.npz")


@pytest.mark.parametrize("name", DAMAGED)
def test_bad_arrays_of_an_image_set(name, working_directory, capsys):
    (working_directory / "mnist.npz").write_bytes(DAMAGED[name])
    assert_refused(["--task", "mnist", "--data-dir", "."], capsys, "mnist.npz")


IMAGE_SETS = {
    "no test": {"x_test": None, "y_test": None},
    "images [M]": {"x_train": LABELS},
    "images []": {"x_train": np.float32(3)},
    "images [M, 5]": {"x_train": IMAGES[:, 0]},
    "images [M, 5, 4, 1, 1]": {"x_train": IMAGES[..., None, None]},
    "no images": {"x_train": IMAGES[:0], "y_train": LABELS[:0]},
    "no test images": {"x_test": IMAGES[:0], "y_test": LABELS[:0]},
    "no pixels": {"x_train": IMAGES[:, :0], "x_test": IMAGES[:, :0]},
    "another size": {"x_test": IMAGES[:, 1:]},
    "complex": {"x_train": IMAGES + 1j},
    "text": {"x_train": IMAGES.astype(str)},
    "nan": {"x_train": spoiled(IMAGES, np.nan)},
    "nan in test": {"x_test": spoiled(IMAGES, np.nan)},
    "inf": {"x_train": spoiled(IMAGES, -np.inf)},
    "inf as float32": {"x_train": spoiled(IMAGES, 1e300)},
    "labels []": {"y_train": np.int64(3)},
    "labels [M, 2]": {"y_train": np.stack([LABELS, LABELS], 1)},
    "labels [M - 1]": {"y_train": LABELS[1:]},
    "labels of floats": {"y_train": LABELS + 0.5},
    "labels of nan": {"y_train": LABELS * np.nan},
    "one class": {"y_train": LABELS * 0, "y_test": LABELS * 0},
    "a class once": {"y_train": np.where(np.arange(40) == 3, 9, LABELS)},
    "a class only in test": {"y_test": LABELS + 1},
    "text and numbers": {"y_test": LABELS.astype(str)},
    "names []": {"class_names": np.array("abcd")},
    "two names": {"class_names": np.array(["a", "b"])},
    "five names": {"class_names": np.array(list("abcde")), "y_train": LABELS.astype(str)},
    "objects": {"class_names": np.array([None, 1, 2, 3])},
}


@pytest.mark.parametrize("name", IMAGE_SETS)
def test_bad_images(name, working_directory, capsys):
    arrays = {"x_train": IMAGES, "y_train": LABELS, "x_test": IMAGES, "y_test": LABELS}
    arrays = {n: a for n, a in (arrays | IMAGE_SETS[name]).items() if a is not None}
    np.savez(working_directory / "i.npz", **arrays)
    assert_refused(["--task", "arrays:i.npz"], capsys, "i.npz")
