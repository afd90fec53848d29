"""Folders of data that are damaged or made to deceive: one line, nothing written, nothing run."""

import contextlib
import gzip
import io
import json
import struct
import sys
import time

import numpy as np
import pytest
from refusal import assert_refused

from experiments import data
from experiments.data.datasets import DATASETS
from experiments.data.text import load_text

pytest.importorskip("tensorflow_datasets")
pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning", "error::UserWarning")
INFO, FEATURES = "dataset_info.json", "features.json"
RECORDS = "mnist-train.array_record-00000-of-00001"
TEXT = "tiny_shakespeare-{}.array_record-00000-of-00001"


@pytest.fixture(autouse=True)
def working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setenv("SMARTMIXED_CACHE", str(tmp_path / "cache"))
    return tmp_path


def write_records(path, examples):
    """Each example a mapping: name → bytes or int."""
    from array_record.python import array_record_module
    from tensorflow_datasets.proto import tf_example_generated_pb2

    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
    for example in examples:
        record = tf_example_generated_pb2.Example()
        for name, value in example.items():
            feature = record.features.feature[name]
            values = feature.int64_list if isinstance(value, int) else feature.bytes_list
            values.value.append(value)
        writer.write(record.SerializeToString())
    writer.close()


def write_info(folder, name, sizes, **more):
    splits = [{"name": split, "shardLengths": [str(n)]} for split, n in sizes.items()]
    info = {"name": name, "fileFormat": "array_record", "splits": splits, "version": folder.name}
    (folder / INFO).write_text(json.dumps(info | more))


def image(size=(28, 28), kind="L", file_format="png"):
    from PIL import Image

    file = io.BytesIO()
    Image.new(kind, size, 7).save(file, format=file_format)
    return file.getvalue()


def write_mnist(root, examples=None):
    folder = root / "mnist" / "3.0.1"
    folder.mkdir(parents=True)
    good = [{"image": image(), "label": number % 10} for number in range(20)]
    write_records(folder / RECORDS, examples or good)
    write_records(folder / RECORDS.replace("train", "test"), good)
    write_info(folder, "mnist", {"train": len(examples or good), "test": 20})
    (folder / FEATURES).write_text("{}")
    return folder


def write_text(root, **texts):
    folder = root / "tiny_shakespeare" / "1.0.0"
    folder.mkdir(parents=True)
    texts = {"train": "to be " * 99, "validation": "or not" * 99, "test": "to be." * 99} | texts
    for split, text in texts.items():
        write_records(folder / TEXT.format(split), [{"text": text.encode()}])
    write_info(folder, "tiny_shakespeare", dict.fromkeys(texts, 1))
    return folder


def assert_load_refused(task, capsys, *texts):
    assert_refused(["--task", task, "--data-dir", "."], capsys, *texts)


# What TFDS would import


def test_no_class_that_a_folder_names_is_imported(working_directory, monkeypatch):
    """`features.json` names Python classes, which TFDS imports from the working directory too."""
    import tensorflow_datasets as tfds

    monkeypatch.syspath_prepend(working_directory)
    written = working_directory / "written"
    (working_directory / "hostile.py").write_text("open('written', 'w').close()\nclass Image: pass")
    hostile = json.dumps({"pythonClassName": "hostile.Image", "featuresDict": {"features": {}}})
    for folder in (write_mnist(working_directory), write_text(working_directory)):
        (folder / FEATURES).write_text(hostile)
        info = json.loads((folder / INFO).read_text())
        (folder / INFO).write_text(json.dumps(info | {"moduleName": "hostile"}))
        with contextlib.suppress(Exception):
            tfds.builder_from_directory(folder)
        assert written.exists()  # so the folder is hostile
        written.unlink()
        sys.modules.pop("hostile")
    assert len(data.load("mnist", working_directory).train_inputs) == 20
    assert len(load_text("tiny_shakespeare", working_directory).splits["test"]) == 594
    assert not written.exists()
    assert "hostile" not in sys.modules


# Names, numbers and files that do not agree


def lengths(*values, name="train"):
    splits = [{"name": name, "shardLengths": list(values)}, {"name": "test", "shardLengths": [20]}]
    return json.dumps({"fileFormat": "array_record", "splits": splits})


INFOS = {
    "empty": "",
    "list": "[]",
    "text": '"array_record"',
    "cut": '{"fileFormat": "array_record", "spl',
    "deep": "[" * 100_000,
    "deep splits": '{"fileFormat": "array_record", "splits": ' + "[" * 100_000,
    "binary": "\0\1",
    "no splits": '{"fileFormat": "array_record"}',
    "splits are text": '{"fileFormat": "array_record", "splits": "train"}',
    "splits are numbers": '{"fileFormat": "array_record", "splits": [1, 2]}',
    "no lengths": '{"fileFormat": "array_record", "splits": [{"name": "train"}]}',
    "train twice": lengths(20, name="test"),
    "another name": lengths(20, name="../train"),
    "none": lengths(),
    "one less": lengths("19"),
    "one more": lengths(21),
    "negative": lengths(-1),
    "two files": lengths(10, 10),
    "not whole": lengths("20.5"),
    "null": lengths(None),
    "list in list": lengths([20]),
    "many": lengths(60_000),
    "too many": lengths(70_001),
    "2**60": lengths(2**60),
    "inf": '{"fileFormat": "array_record", "splits": [{"name": "train", "shardLengths": [1e999]}]}',
}


@pytest.mark.parametrize("name", INFOS)
def test_dataset_info_that_is_not_true(name, working_directory, capsys):
    (write_mnist(working_directory) / INFO).write_text(INFOS[name])
    assert_load_refused("mnist", capsys, "mnist/3.0.1")


def test_names_of_files_are_not_taken_from_the_folder(working_directory, capsys):
    """A template with ../ or an absolute path leads nowhere."""
    folder = write_mnist(working_directory)
    info = json.loads((folder / INFO).read_text())
    for split in info["splits"]:
        split["filepathTemplate"] = "../../../{DATASET}-{SPLIT}"
    (folder / INFO).write_text(json.dumps(info))
    (folder / RECORDS).rename(working_directory / "mnist-train")
    assert_load_refused("mnist", capsys, RECORDS, "No such file")


GOOD = image()
EXAMPLES = {
    "another size": {"image": image((28, 27)), "label": 1},
    "colours": {"image": image(kind="RGB"), "label": 1},
    "huge": {"image": image((9_000, 9_000), kind="1"), "label": 1},
    "claims 2**31 pixels": {"image": GOOD[:16] + b"\x7f\xff\xff\xff" * 2 + GOOD[24:], "label": 1},
    "cut": {"image": GOOD[:40], "label": 1},
    "no image": {"label": 1},
    "no label": {"image": GOOD},
    "another kind": {"image": image(file_format="tiff"), "label": 1},
    "no picture": {"image": b"hello", "label": 1},
    "label -1": {"image": GOOD, "label": -1},
    "label 10": {"image": GOOD, "label": 10},
    "label 2**62": {"image": GOOD, "label": 2**62},
    "label of text": {"image": GOOD, "label": b"1"},
    "image of a number": {"image": 3, "label": 1},
    "nothing": {},
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_records_that_are_no_image(name, working_directory, capsys):
    good = [{"image": GOOD, "label": number % 10} for number in range(20)]
    write_mnist(working_directory, [*good, EXAMPLES[name]])
    assert_load_refused("mnist", capsys, "mnist")


FILES = {
    "missing": None,
    "empty": b"",
    "text": b"hello",
    "zeros": bytes(70_000),
    "binary": np.random.default_rng(0).integers(0, 256, 70_000, np.uint8).tobytes(),
}


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("name", [*FILES, "cut", "a length of 2**60", "a folder"])
def test_record_files_that_are_damaged(name, split, working_directory, capsys):
    path = write_mnist(working_directory) / RECORDS.replace("train", split)
    blob = path.read_bytes()
    path.unlink()
    if name == "a folder":
        path.mkdir()
    elif name == "cut":
        path.write_bytes(blob[: len(blob) // 2])
    elif name == "a length of 2**60":
        place = blob.index(b"\x89PNG") - 80  # in the header of the chunk
        path.write_bytes(blob[:place] + struct.pack("<Q", 2**60) * 8 + blob[place + 64 :])
    elif FILES[name] is not None:
        path.write_bytes(FILES[name])
    assert_load_refused("mnist", capsys, path.name)


# Texts


@pytest.mark.parametrize(
    ("texts", "text"),
    [
        (
            {"train": "".join(map(chr, range(32, 400)))},
            "different characters, expected at most 256",
        ),
        ({"train": "to be"}, "5 characters in train, expected at least 65"),
        ({"validation": "x" * 64}, "64 characters in validation, expected at least 65"),
        ({"test": ""}, "0 characters in test, expected at least 65"),
    ],
)
def test_texts_that_do_not_fit(texts, text, working_directory, capsys):
    write_text(working_directory, **texts)
    assert_load_refused("tiny_shakespeare", capsys, "tiny_shakespeare/1.0.0", text)


@pytest.mark.parametrize("name", FILES)
def test_texts_that_are_damaged(name, working_directory, capsys):
    path = write_text(working_directory) / TEXT.format("test")
    path.unlink()
    if FILES[name] is not None:
        path.write_bytes(FILES[name])
    assert_load_refused("tiny_shakespeare", capsys, path.name)


def test_a_text_of_another_coding_and_two_texts(working_directory, capsys):
    folder = write_text(working_directory)
    path = folder / TEXT.format("train")
    path.unlink()
    write_records(path, [{"text": b"\xff" * 99}])
    assert_load_refused("tiny_shakespeare", capsys, path.name)
    write_info(folder, "tiny_shakespeare", {"train": 2, "validation": 1, "test": 1})
    assert_load_refused("tiny_shakespeare", capsys, "1.0.0")
    (working_directory / "tiny_shakespeare").rename(working_directory / "away")
    (working_directory / "input.txt").write_text("to be or not")
    assert_load_refused("tiny_shakespeare", capsys, "input.txt")


# The published files


def raw_files(name: str, packed: bool) -> dict[str, bytes]:
    facts = DATASETS[name]
    return dict.fromkeys(facts.packed if packed else facts.plain, b"")


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", ["empty", "bomb", "claim", "sparse"])
def test_raw_files_that_deceive(name, packed, kind, working_directory, capsys):
    blob = {
        "empty": b"",
        "bomb": gzip.compress(bytes(10**7)),
        "claim": bytes((0, 0, 8, 3)) + struct.pack(">3I", 2**31, 2**31, 2**31),
        "sparse": b"",
    }[kind]
    for file in raw_files(name, packed):
        path = working_directory / file
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(blob)
        if kind == "sparse":
            with open(path, "r+b") as opened:
                opened.truncate(2**40)
    start = time.monotonic()
    assert_load_refused(name, capsys, str(working_directory))
    assert time.monotonic() - start < 60, "it was read"
