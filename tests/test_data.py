"""Every place `experiments.data` takes arrays from, and every way each of them can be bad.

The small sets have MNIST's shapes and few examples, as IDX files, CIFAR batches and TFDS folders
written here; the last tests read the real prepared folders where they are. Nothing touches the
internet: every URL in the tables is replaced by one of this machine.
"""

import dataclasses
import functools
import gzip
import hashlib
import http.server
import importlib.util
import io
import json
import logging
import os
import shutil
import socket
import struct
import sys
import tarfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from experiments import data
from experiments.data import decoding, prepared, text
from experiments.data import images as image_sets
from experiments.data.__main__ import main
from experiments.data.datasets import ARRAYS, DATASETS
from experiments.data.splits import stratified_split

pytestmark = pytest.mark.filterwarnings("error")
TRAIN, TEST = 23, 11
REAL = Path(
    os.environ.get("TFDS_DATA_DIR") or Path(__file__).parents[2] / "shared" / "tensorflow_datasets"
)
URLS = {name: facts.url for name, facts in DATASETS.items()}  # before `no_internet`
IMPORTABLE = image_sets._importable  # before `server`
needs_mnist = pytest.mark.skipif(not (REAL / "mnist").is_dir(), reason=f"no mnist in {REAL}")
needs_cifar10 = pytest.mark.skipif(not (REAL / "cifar10").is_dir(), reason=f"no cifar10 in {REAL}")


@pytest.fixture(autouse=True)
def no_internet(monkeypatch):
    """All URLs point to a closed port of this machine, and no variable of the user counts."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for name, facts in DATASETS.items():
        url = facts.url and f"http://127.0.0.1:{port}/"
        monkeypatch.setitem(DATASETS, name, dataclasses.replace(facts, url=url))
    for variable in ("TFDS_DATA_DIR", "SMARTMIXED_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def places(tmp_path):
    """An empty data folder and a cache folder that does not exist yet."""
    (tmp_path / "data").mkdir()
    return tmp_path / "data", tmp_path / "cache"


def load(name, places, **options):
    return data.load(name, places[0], cache_dir=places[1], **options)


def small_arrays(shape=(28, 28, 1), seed=0):
    rng = np.random.default_rng(seed)
    arrays = []
    for count in (TRAIN, TEST):
        arrays.append(rng.integers(0, 256, (count, *shape), dtype=np.uint8))
        arrays.append((np.arange(count) % 10).astype(np.int32))
    return arrays


def change_facts(monkeypatch, name, **changes):
    facts = dataclasses.replace(DATASETS[name], counts=(TRAIN, TEST), **changes)
    monkeypatch.setitem(DATASETS, name, facts)


def idx_files(arrays):
    """{file name: bytes} of the four unpacked files."""
    files = {}
    for name, array in zip(DATASETS["mnist"].plain, arrays, strict=True):
        shape = array.shape[:3]
        header = bytes((0, 0, 8, len(shape))) + struct.pack(f">{len(shape)}I", *shape)
        files[name] = header + array.astype(np.uint8).tobytes()
    return files


def serve_mnist(monkeypatch, arrays):
    """{file name: bytes} of the .gz files, and MNIST's table changed to hold their checksums."""
    files = {f"{name}.gz": gzip.compress(blob) for name, blob in idx_files(arrays).items()}
    packed = {name: (hashlib.sha256(blob).hexdigest(), len(blob)) for name, blob in files.items()}
    change_facts(monkeypatch, "mnist", packed=packed)
    return files


def write_files(folder, files):
    for name, blob in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(blob)


def flip_byte(path, position):
    blob = bytearray(path.read_bytes())
    blob[position] ^= 0x40
    path.write_bytes(blob)


def write_prepared(folder, arrays, version="3.0.1", shards=(2, 1)):
    """A TFDS folder as its official MNIST builder writes it, without TensorFlow."""
    pytest.importorskip("tensorflow_datasets")
    from array_record.python import array_record_module
    from PIL import Image
    from tensorflow_datasets.proto import tf_example_generated_pb2

    folder = folder / "mnist" / version
    folder.mkdir(parents=True)
    splits = []
    for split, count, images, labels in zip(
        ("train", "test"), shards, arrays[::2], arrays[1::2], strict=True
    ):
        rows = np.array_split(np.arange(len(labels)), count)
        for shard, indices in enumerate(rows):
            name = f"mnist-{split}.array_record-{shard:05d}-of-{count:05d}"
            writer = array_record_module.ArrayRecordWriter(str(folder / name), "group_size:1")
            for index in indices:
                png, example = io.BytesIO(), tf_example_generated_pb2.Example()
                Image.fromarray(images[index].squeeze()).save(png, format="png")
                features = example.features.feature
                features["image"].bytes_list.value.append(png.getvalue())
                features["label"].int64_list.value.append(int(labels[index]))
                writer.write(example.SerializeToString())
            writer.close()
        splits.append(
            {
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                "name": split,
                "numBytes": "1",
                "shardLengths": [str(len(indices)) for indices in rows],
            }
        )
    info = {"fileFormat": "array_record", "name": "mnist", "splits": splits, "version": version}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    class_name = "tensorflow_datasets.core.features."
    image = {"dtype": "uint8", "shape": {"dimensions": ["28", "28", "1"]}}
    features = {
        "image": {"image": image, "pythonClassName": class_name + "image_feature.Image"},
        "label": {
            "classLabel": {"numClasses": "10"},
            "pythonClassName": class_name + "class_label_feature.ClassLabel",
        },
    }
    features = {
        "featuresDict": {"features": features},
        "pythonClassName": class_name + "features_dict.FeaturesDict",
    }
    (folder / "features.json").write_text(json.dumps(features))
    return folder


def assert_equal(dataset, arrays):
    for key, expected in zip(ARRAYS, arrays, strict=True):
        found = getattr(dataset, key)
        assert found.dtype == expected.dtype
        assert found.flags["C_CONTIGUOUS"]
        np.testing.assert_array_equal(found, expected, err_msg=key)


def assert_fails(call, *parts):
    """`call` ends in a DataError of one line that holds `parts`, and does not hang."""
    start = time.monotonic()
    with pytest.raises(data.DataError) as caught:
        call()
    message = str(caught.value)
    assert time.monotonic() - start < 25, message
    assert "\n" not in message
    for part in parts:
        assert str(part) in message


# The table and the bundled set.


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10"])
def test_checksums_are_those_of_tfds(name):
    tfds = pytest.importorskip("tensorflow_datasets")
    text = (Path(tfds.__file__).parent / "url_checksums" / f"{name}.txt").read_text()
    rows = [line.split("\t") for line in text.splitlines()]
    expected = {url: (sha256, int(size)) for url, size, sha256, _ in rows}
    assert {URLS[name] + file: v for file, v in DATASETS[name].packed.items()} == expected


def test_mnist_and_fashion_mnist_share_file_names_but_no_checksum():
    mnist, fashion = DATASETS["mnist"], DATASETS["fashion_mnist"]
    assert list(mnist.plain) == list(fashion.plain)
    assert list(mnist.packed) == list(fashion.packed)
    assert not set(mnist.packed.values()) & set(fashion.packed.values())


def test_digits_need_nothing(places):
    dataset = load("digits", places, download=False)
    assert dataset.train_inputs.shape == (1437, 8, 8, 1)
    assert dataset.test_inputs.shape[0] == 360
    assert dataset.train_inputs.dtype == np.uint8
    assert dataset.train_labels.dtype == np.int32
    assert dataset.train_inputs.max() == dataset.scale == 16.0
    assert dataset.class_names == tuple("0123456789")
    from sklearn.datasets import load_digits

    both = np.concatenate([dataset.train_inputs, dataset.test_inputs]).reshape(1797, -1)
    assert sorted(map(bytes, both)) == sorted(map(bytes, load_digits().data.astype(np.uint8)))
    assert_equal(load("digits", places), vars_of(dataset))
    assert not places[1].exists()


def test_unknown_name():
    assert_fails(lambda: data.load("imagenet"), "'imagenet'", *DATASETS)


@pytest.mark.parametrize("fraction", [0.1, 0.5])
def test_stratified_split_keeps_shares(fraction):
    labels = np.repeat([0, 1, 2], [100, 60, 40])
    train, validation = stratified_split(labels, fraction, seed=1)
    assert train.dtype == validation.dtype == np.int32
    assert (np.diff(train) > 0).all()
    assert (np.diff(validation) > 0).all()
    assert sorted([*train, *validation]) == list(range(200))
    np.testing.assert_array_equal(
        np.bincount(labels[validation]), np.array([100, 60, 40]) * fraction
    )
    assert not np.array_equal(validation, stratified_split(labels, fraction, seed=2)[1])
    np.testing.assert_array_equal(validation, stratified_split(labels, fraction, seed=1)[1])


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 5, float("nan")])
def test_stratified_split_refuses_fractions(fraction):
    with pytest.raises(ValueError, match=r"fraction must lie in \(0, 1\), got"):
        stratified_split(np.repeat([0, 1], 50), fraction)


# npz files.


def write_npz(folder, arrays):
    dataset = data.Dataset("mnist", *arrays, class_names=("0",), scale=255.0, source="somewhere")
    image_sets.write_npz(dataset, folder / "mnist.npz")


def test_npz_comes_first_and_needs_numpy_alone(places, monkeypatch):
    arrays = small_arrays()
    write_npz(places[0], arrays)
    (places[0] / "mnist" / "3.0.1").mkdir(parents=True)
    (places[0] / "mnist" / "3.0.1" / "dataset_info.json").write_text("damaged")
    for module in ("tensorflow_datasets", "sklearn", "pooch", "requests", "PIL", "array_record"):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setenv("TFDS_DATA_DIR", str(places[0]))
    dataset = data.load("mnist", cache_dir=places[1])
    assert_equal(dataset, arrays)
    assert dataset.source == f"{places[0] / 'mnist.npz'} (somewhere)"
    assert dataset.scale == 255.0
    assert len(dataset.class_names) == 10
    assert not places[1].exists()
    assert [p.name for p in places[0].glob("*.*")] == ["mnist.npz"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: os.truncate(path, 0),
        lambda path: os.truncate(path, path.stat().st_size // 2),
        lambda path: os.truncate(path, path.stat().st_size - 1),
        lambda path: flip_byte(path, 5000),
        lambda path: np.savez(path, train_inputs=np.zeros(3)),
    ],
    ids=["empty", "half", "last byte", "flipped", "other fields"],
)
def test_damaged_npz_of_the_user(places, damage):
    write_npz(places[0], small_arrays())
    damage(places[0] / "mnist.npz")
    assert_fails(lambda: load("mnist", places), places[0] / "mnist.npz", "mnist: ")


@pytest.mark.parametrize(
    ("index", "change", "text"),
    [
        (0, lambda x: x[:, :27], "inputs of mnist"),
        (2, lambda x: x[..., 0], "expected uint8 ['M', 28, 28, 1]"),
        (0, lambda x: x.astype(np.float32), "are float32"),
        (2, lambda x: x[:0], "[0, 28, 28, 1]"),
        (1, lambda x: x[:-1], "expected integers [23]"),
        (3, lambda x: x.astype(np.float32), "labels of mnist"),
        (1, lambda x: x + 1, "lie in [1, 10], expected [0, 9]"),
        (3, lambda x: x - 1, "lie in [-1, 8], expected [0, 9]"),
    ],
)
def test_arrays_that_do_not_fit(places, index, change, text):
    arrays = small_arrays()
    arrays[index] = change(arrays[index])
    write_npz(places[0], arrays)
    assert_fails(lambda: load("mnist", places), places[0] / "mnist.npz", text)


@pytest.mark.parametrize(("module", "function"), [(np, "savez"), (os, "replace")])
def test_write_npz_is_whole_or_not_at_all(places, monkeypatch, module, function):
    write_npz(places[0], small_arrays())
    before = (places[0] / "mnist.npz").read_bytes()

    def full_disk(file, *_, **__):
        if function == "savez":
            file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, function, full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_npz(places[0], small_arrays(seed=1))
    assert (places[0] / "mnist.npz").read_bytes() == before
    assert len(list(places[0].iterdir())) == 1


def test_pickled_npz_is_not_run(places):
    fields = dict.fromkeys([*ARRAYS, "source"], np.array([{}]))
    with open(places[0] / "mnist.npz", "wb") as file:
        np.savez(file, allow_pickle=True, **fields)
    assert_fails(lambda: load("mnist", places), "Object arrays cannot be loaded")


# The cache.


def test_cache_is_hit_until_a_file_changes(places, monkeypatch):
    arrays, other = small_arrays(), small_arrays(seed=1)
    write_files(places[0], serve_mnist(monkeypatch, arrays))
    reads, read_raw = [], image_sets.read_raw
    monkeypatch.setattr(image_sets, "read_raw", lambda *a: reads.append(a) or read_raw(*a))
    first = load("mnist", places)
    assert_equal(load("mnist", places), arrays)
    assert load("mnist", places).source == first.source
    assert len(reads) == 1
    write_files(places[0], serve_mnist(monkeypatch, other))
    assert_equal(load("mnist", places), other)
    assert len(reads) == 2
    # Cut after it was cached: the size alone must tell, even with the old time.
    path = places[0] / "train-labels-idx1-ubyte.gz"
    times = (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    os.truncate(path, path.stat().st_size - 1)
    os.utime(path, ns=times)
    assert_fails(lambda: load("mnist", places), path)


def test_damaged_cache_is_rebuilt(places, monkeypatch, caplog):
    arrays = small_arrays()
    write_files(places[0], serve_mnist(monkeypatch, arrays))
    load("mnist", places)
    (cached,) = places[1].iterdir()
    good = cached.read_bytes()
    os.truncate(cached, len(good) // 2)
    assert_equal(load("mnist", places), arrays)
    assert "decoding again" in caplog.text
    assert len(cached.read_bytes()) == len(good)


def test_unwritable_cache_costs_a_note(places, monkeypatch, caplog):
    arrays = small_arrays()
    write_files(places[0], serve_mnist(monkeypatch, arrays))
    places[1].write_text("a file where the folder should be")  # root may write everywhere else
    assert_equal(load("mnist", places), arrays)
    assert str(places[1]) in caplog.text
    assert caplog.records[0].levelno == logging.WARNING


def test_default_folders(tmp_path, monkeypatch):
    arrays = small_arrays()
    files = serve_mnist(monkeypatch, arrays)
    write_files(tmp_path / "home" / "tensorflow_datasets", files)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for variable, folder in [
        (None, tmp_path / "home" / ".cache" / "smartmixed-jax"),
        ("XDG_CACHE_HOME", tmp_path / "xdg" / "smartmixed-jax"),
        ("SMARTMIXED_CACHE", tmp_path / "own"),
    ]:
        if variable:
            value = folder.parent if variable == "XDG_CACHE_HOME" else folder
            monkeypatch.setenv(variable, str(value))
        assert_equal(data.load("mnist"), arrays)
        assert len(list(folder.glob("mnist-*.npz"))) == 1


# Raw files.


@pytest.mark.parametrize("inside", ["", "mnist"])
@pytest.mark.parametrize("packed", [True, False])
def test_idx_files(places, monkeypatch, packed, inside):
    arrays = small_arrays()
    files = serve_mnist(monkeypatch, arrays)
    if not packed:
        files = idx_files(arrays)
        plain = {name: hashlib.sha256(blob).hexdigest() for name, blob in files.items()}
        change_facts(monkeypatch, "mnist", plain=plain)
    write_files(places[0] / inside, files)
    dataset = load("mnist", places, download=False)
    assert_equal(dataset, arrays)
    assert dataset.source == f"raw files in {places[0] / inside}"


@pytest.mark.parametrize("packed", [True, False])
def test_cifar10_files(places, monkeypatch, packed):
    arrays = small_arrays((32, 32, 3))
    rows = [
        np.concatenate(
            [y[:, None].astype(np.uint8), x.transpose(0, 3, 1, 2).reshape(len(x), -1)], 1
        )
        for x, y in (arrays[:2], arrays[2:])
    ]
    blobs = [rows[0][i * 5 : i * 5 + 5].tobytes() for i in range(5)] + [rows[1].tobytes()]
    files = dict(zip(DATASETS["cifar10"].plain, blobs, strict=True))
    if packed:
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w:gz") as tar:
            for name, blob in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(blob)
                tar.addfile(member, io.BytesIO(blob))
        files = {"cifar-10-binary.tar.gz": archive.getvalue()}
        sha256 = hashlib.sha256(archive.getvalue()).hexdigest()
        change_facts(monkeypatch, "cifar10", packed={"cifar-10-binary.tar.gz": (sha256, 1)})
    change_facts(monkeypatch, "cifar10")
    write_files(places[0], files)
    assert_equal(load("cifar10", places, download=False), arrays)


def test_raw_file_with_a_wrong_byte_names_both_hashes(places, monkeypatch):
    files = serve_mnist(monkeypatch, small_arrays())
    write_files(places[0], files)
    name = "t10k-images-idx3-ubyte.gz"
    flip_byte(places[0] / name, len(files[name]) // 2)
    found = hashlib.sha256((places[0] / name).read_bytes()).hexdigest()
    expected = hashlib.sha256(files[name]).hexdigest()
    assert_fails(lambda: load("mnist", places), places[0] / name, found, expected)
    assert (places[0] / name).exists()
    assert not list(places[0].glob("*.npz"))


@pytest.mark.parametrize(
    ("file", "change", "text"),
    [
        (0, lambda blob: b"\x01" + blob[1:], "no IDX file of rank 3"),
        (1, lambda blob: blob[:6], "no IDX file of rank 1"),
        (2, lambda blob: blob[:-1], "its header says"),
        (3, lambda blob: blob[:7] + b"\x0a" + blob[8:-1], "expected integers [11]"),
    ],
)
def test_malformed_unpacked_files(places, monkeypatch, file, change, text):
    files = idx_files(small_arrays())
    name = list(files)[file]
    change_facts(monkeypatch, "fashion_mnist")
    write_files(places[0], files | {name: change(files[name])})
    assert_fails(lambda: load("fashion_mnist", places), places[0], text)


def test_raw_files_of_another_number_or_another_set(places, monkeypatch):
    files = idx_files(small_arrays())
    write_files(places[0], files)
    assert_fails(lambda: load("fashion_mnist", places), "(23, 11)", "(60000, 10000)")
    sha256 = hashlib.sha256(files["train-images-idx3-ubyte"]).hexdigest()
    assert_fails(lambda: load("mnist", places), sha256, "ba891046e6505d7a")
    change_facts(monkeypatch, "fashion_mnist")
    assert_equal(load("fashion_mnist", places), small_arrays())
    change_facts(monkeypatch, "mnist", plain={"train-images-idx3-ubyte": sha256})
    os.utime(places[0] / "train-images-idx3-ubyte", (1, 1))  # past the cache
    assert_fails(lambda: load("fashion_mnist", places), "another data set", sha256)


# The network.


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A web server of this machine; yields its folder and the list of the requests it got."""
    folder, requests = tmp_path / "www", []
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            requests.append((self.command, self.path.lstrip("/")))

    handler = functools.partial(Handler, directory=str(folder))
    with http.server.HTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, args=(0.02,))
        thread.start()
        url = f"http://127.0.0.1:{httpd.server_port}/"
        monkeypatch.setitem(DATASETS, "mnist", dataclasses.replace(DATASETS["mnist"], url=url))
        monkeypatch.setattr(image_sets, "_importable", lambda *_: False)  # no TensorFlow
        yield folder, requests
        httpd.shutdown()
        thread.join()


def test_download_once(places, server, monkeypatch):
    pytest.importorskip("pooch")
    arrays, (folder, requests) = small_arrays(), server
    files = serve_mnist(monkeypatch, arrays)
    write_files(folder, files)
    assert_equal(load("mnist", places), arrays)
    assert requests[0][0] == "HEAD"
    assert sorted(name for command, name in requests if command == "GET") == sorted(files)
    del requests[:]
    assert_equal(load("mnist", places), arrays)
    assert not requests
    assert not list(places[0].iterdir())
    # A download that was damaged since is fetched again, and only that one.
    flip_byte(places[1] / "mnist" / "train-labels-idx1-ubyte.gz", 30)
    assert_equal(load("mnist", places), arrays)
    assert [name for command, name in requests if command == "GET"] == [
        "train-labels-idx1-ubyte.gz"
    ]


@pytest.mark.parametrize("damage", ["wrong byte", "missing", "cut"])
def test_bad_download_leaves_nothing(places, server, monkeypatch, damage):
    pytest.importorskip("pooch")
    files = serve_mnist(monkeypatch, small_arrays())
    write_files(server[0], files)
    name = "t10k-labels-idx1-ubyte.gz"
    if damage == "wrong byte":
        flip_byte(server[0] / name, 30)
    elif damage == "cut":
        os.truncate(server[0] / name, 30)
    else:
        (server[0] / name).unlink()
    hashes = () if damage == "missing" else (DATASETS["mnist"].packed[name][0],)
    if hashes:
        hashes += (hashlib.sha256((server[0] / name).read_bytes()).hexdigest(),)
    assert_fails(lambda: load("mnist", places), DATASETS["mnist"].url + name, *hashes)
    left = {path.name for path in places[1].rglob("*") if path.is_file()}
    assert left == set(files) - {name}


def test_download_without_a_cache(places, server, monkeypatch, caplog):
    pytest.importorskip("pooch")
    arrays = small_arrays()
    write_files(server[0], serve_mnist(monkeypatch, arrays))
    places[1].write_text("a file where the folder should be")
    assert_equal(load("mnist", places), arrays)
    assert "not kept" in caplog.text


def test_a_text_is_downloaded_once_and_a_bad_one_not_kept(places, server, monkeypatch):
    pytest.importorskip("pooch")
    folder, requests = server
    blob = b"First Citizen:\nBefore we proceed any further, hear me speak.\n" * 10
    monkeypatch.setattr(text, "URL", DATASETS["mnist"].url)
    monkeypatch.setattr(text, "SHA256", hashlib.sha256(blob).hexdigest())

    def load_text():
        return text.load_text("tiny_shakespeare", places[0], cache_dir=places[1])

    failure = f"tiny_shakespeare: download of {text.URL}{text.FILE} failed"
    assert_fails(load_text, failure, "404")
    (folder / text.FILE).write_bytes(blob + b"!")
    assert_fails(load_text, failure, text.SHA256)
    assert not [path for path in places[1].rglob("*") if path.is_file()]
    (folder / text.FILE).write_bytes(blob)
    assert sum(len(split) for split in load_text().splits.values()) == len(blob)
    del requests[:]
    assert load_text().source == f"raw file {places[1] / 'tiny_shakespeare' / text.FILE}"
    assert not requests


def forbid(monkeypatch, *modules):
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10"])
def test_neither_data_nor_network(places, monkeypatch, name):
    pytest.importorskip("requests")
    forbid(monkeypatch, "tensorflow_datasets", "pooch")  # not even imported
    assert_fails(
        lambda: load(name, places),
        f"{name}: no data in {places[0]}",
        f"{name}.npz",
        "127.0.0.1: ConnectionError",
        "TFDS_DATA_DIR",
        "--data-dir",
    )
    assert not list(places[0].iterdir())
    assert not places[1].exists()


def test_name_look_up_that_hangs(places, monkeypatch):
    requests = pytest.importorskip("requests")
    over = threading.Event()
    monkeypatch.setattr(requests, "head", lambda *_, **__: over.wait(30))
    assert_fails(lambda: load("mnist", places), "127.0.0.1: no answer in 3.5 s")
    over.set()


def test_download_can_be_switched_off(places, monkeypatch):
    forbid(monkeypatch, "requests", "pooch", "tensorflow_datasets")
    assert_fails(lambda: load("mnist", places, download=False), "switched off")


@pytest.mark.parametrize("works", [True, False])
def test_tensorflow_prepares_after_the_probe(places, server, monkeypatch, caplog, works):
    tfds = pytest.importorskip("tensorflow_datasets")
    arrays, (folder, requests), calls = small_arrays(), server, []
    write_files(folder, serve_mnist(monkeypatch, arrays))

    class Builder:
        def download_and_prepare(self, **options):
            calls.append((options, [command for command, _ in requests]))
            if not works:
                raise RuntimeError("no protocol buffers today")
            write_prepared(places[0], arrays)

    def builder(name, *, data_dir):
        assert (name, Path(data_dir)) == ("mnist", places[0])
        return Builder()

    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: name == "tensorflow" or find_spec(name)
    )
    monkeypatch.setattr(image_sets, "_importable", IMPORTABLE)
    monkeypatch.setattr(tfds, "builder", builder)
    dataset = load("mnist", places)
    assert_equal(dataset, arrays)
    assert calls == [({"file_format": "array_record"}, ["HEAD"])]
    assert dataset.source.startswith("TFDS" if works else "raw files")
    assert works or "no protocol buffers today" in caplog.text


def test_tensorflow_is_not_asked_without_network(places, monkeypatch):
    tfds = pytest.importorskip("tensorflow_datasets")
    monkeypatch.setattr(image_sets, "_importable", lambda *_: True)
    monkeypatch.setattr(tfds, "builder", lambda *_, **__: pytest.fail("no probe came first"))
    assert_fails(lambda: load("mnist", places), "no network")


# Prepared TFDS folders.


def test_prepared_folder_in_its_order(places, monkeypatch):
    arrays = small_arrays()
    monkeypatch.setattr(prepared, "BATCH", 5)  # several reads per shard, the last one short
    folder = write_prepared(places[0], arrays, shards=(3, 1))
    dataset = load("mnist", places)
    assert_equal(dataset, arrays)
    assert dataset.source == f"TFDS {folder}"
    monkeypatch.setattr(image_sets, "read_prepared", None)
    assert_equal(load("mnist", places), arrays)  # from the cache


def test_newest_readable_version(places, caplog):
    old, new = small_arrays(seed=1), small_arrays(seed=2)
    write_prepared(places[0], old, "3.0.9")
    write_prepared(places[0], new, "3.0.10")
    write_prepared(places[0], old, "3.0.11.incompleteA1B2")
    newest = write_prepared(places[0], old, "4.0.0") / "dataset_info.json"
    newest.write_text(newest.read_text().replace("array_record", "tfrecord"))
    assert_equal(load("mnist", places), new)
    assert "4.0.0 skipped: tfrecord" in caplog.text


def test_changed_record_file_is_read_anew(places):
    old, new = small_arrays(seed=1), small_arrays(seed=2)
    folder = write_prepared(places[0], old)
    assert_equal(load("mnist", places), old)
    shutil.rmtree(folder)
    write_prepared(places[0], new)
    assert_equal(load("mnist", places), new)


def test_no_flipped_byte_goes_unnoticed(places):
    """Neither padding nor the signature is under a checksum, but all that holds an image is."""
    arrays = small_arrays()
    path = write_prepared(places[0], arrays) / "mnist-train.array_record-00000-of-00002"
    good, messages = path.read_bytes(), list[str]()
    for position in [*range(0, 12_000, 400), *range(len(good) - 65536, len(good), 4000)]:
        flip_byte(path, position)
        try:
            assert_equal(load("mnist", (places[0], places[0] / "cache" / str(position))), arrays)
        except data.DataError as error:
            messages.append(str(error))
        path.write_bytes(good)
    assert len(messages) >= 25
    assert all(str(path) in message and "\n" not in message for message in messages)


@pytest.mark.parametrize("lengths", [["12", "10"], ["12", "12"], ["11", "11"]])
def test_other_number_of_records_than_promised(places, lengths):
    info = write_prepared(places[0], small_arrays()) / "dataset_info.json"
    content = json.loads(info.read_text())
    assert content["splits"][0]["shardLengths"] == ["12", "11"]
    content["splits"][0]["shardLengths"] = lengths
    info.write_text(json.dumps(content))
    shard = 0 if lengths[0] == "11" else 1
    name = f"mnist-train.array_record-{shard:05d}-of-00002"
    promised = f"{12 - shard} records, dataset_info.json says {lengths[shard]}"
    assert_fails(lambda: load("mnist", places), info.with_name(name), promised)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("mnist-train.array_record-00001-of-00002", None),
        ("mnist-test.array_record-00000-of-00001", None),
        ("mnist-train.array_record-00001-of-00002", ""),
        ("dataset_info.json", '{"splits": '),
        ("dataset_info.json", "[]"),
        ("dataset_info.json", '{"fileFormat": "array_record", "splits": []}'),
    ],
)
def test_damaged_prepared_folder(places, file, text):
    path = write_prepared(places[0], small_arrays()) / file
    path.unlink()
    if text is not None:
        path.write_text(text)
    assert_fails(lambda: load("mnist", places), path if "-of-" in file else path.parent)
    assert not places[1].exists()


def test_long_errors_of_tfds_become_one_line(places, monkeypatch):
    folder = write_prepared(places[0], small_arrays())

    def fail(*_):
        raise ValueError("first line\n  second line " + "x" * 9999)

    monkeypatch.setattr(decoding, "_read_split", fail)
    assert_fails(lambda: load("mnist", places), folder, "first line second line x")


def test_image_of_another_shape(places):
    record = write_prepared(places[0], small_arrays((28, 14, 1))).joinpath(
        "mnist-train.array_record-00000-of-00002"
    )
    assert_fails(lambda: load("mnist", places), record, "an image of shape (28, 14, 1)")


def test_label_out_of_range_in_a_folder(places):
    arrays = small_arrays()
    arrays[3][5] = 10
    folder = write_prepared(places[0], arrays)
    assert_fails(lambda: load("mnist", places), folder, "lie in [0, 10], expected [0, 9]")
    assert not places[1].exists()


@pytest.mark.parametrize("missing", ["tensorflow_datasets", "array_record.python", "PIL"])
def test_prepared_folder_without_its_readers(places, monkeypatch, missing):
    folder = write_prepared(places[0], small_arrays())
    for module in [name for name in sys.modules if name.startswith(missing)]:
        monkeypatch.setitem(sys.modules, module, None)
    forbid(monkeypatch, missing, "requests")
    assert_fails(lambda: load("mnist", places), folder, "install", "mnist.npz")


# The real folders.


@pytest.fixture
def real_copy(places):
    """A copy of the real MNIST folder that may be damaged."""
    pytest.importorskip("tensorflow_datasets")
    (source,) = (REAL / "mnist").iterdir()
    folder = places[0] / "mnist" / source.name
    folder.mkdir(parents=True)
    for file in source.iterdir():
        shutil.copyfile(file, folder / file.name)
    return folder


@needs_mnist
def test_damaged_real_record_files(places, real_copy):
    """Cut in the header, in the middle, at the ends of blocks and before the end; flipped."""
    train = real_copy / "mnist-train.array_record-00000-of-00001"
    good = train.read_bytes()
    size, block = len(good), 65536
    cuts = [0, 100, 5000, block, 2 * block, size // 2, size // 2 // block * block]
    for cut in [*cuts, size - block, size - 10, size - 1]:
        train.write_bytes(good[:cut])
        assert_fails(lambda: load("mnist", places), train, "truncated or damaged")
    train.write_bytes(good)
    for position in (2100, size // 3, size // 2, size - block + 5):
        flip_byte(train, position)
        assert_fails(lambda: load("mnist", places), train, "truncated or damaged")
        flip_byte(train, position)
    assert not places[1].exists()


# md5 of the original files at yann.lecun.com, unpacked.
ORIGINAL_MD5 = {
    "train": ("6bbc9ace898e44ae57da46a324031adb", "a25bea736e30d166cdddb491f175f624"),
    "test": ("2646ac647ad5339dbf082846283269ea", "27ae3e4e09519cfbb04c329615203637"),
}


@needs_mnist
def test_real_mnist_is_the_original_byte_for_byte(tmp_path):
    """TFDS sorts the records by a salted hash of their index; undone, the IDX files come back."""
    pytest.importorskip("tensorflow_datasets")
    from tensorflow_datasets.core import hashing

    dataset = data.load("mnist", REAL, cache_dir=tmp_path)
    assert dataset.train_inputs.shape == (60_000, 28, 28, 1)
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(dataset.train_labels).tolist() == counts
    arrays = []
    for split, inputs, labels in [
        ("train", dataset.train_inputs, dataset.train_labels),
        ("test", dataset.test_inputs, dataset.test_labels),
    ]:
        hash_key = hashing.Hasher(split).hash_key
        order = sorted(range(len(labels)), key=hash_key)
        arrays += [np.empty_like(inputs), np.empty_like(labels)]
        arrays[-2][order], arrays[-1][order] = inputs, labels
    found = [hashlib.md5(blob).hexdigest() for blob in idx_files(arrays).values()]
    assert found == [*ORIGINAL_MD5["train"], *ORIGINAL_MD5["test"]]
    found = [hashlib.sha256(blob).hexdigest() for blob in idx_files(arrays).values()]
    assert found == list(DATASETS["mnist"].plain.values())
    start = time.process_time()  # not the wall clock: a busy machine must not fail the test
    again = data.load("mnist", REAL, cache_dir=tmp_path)
    assert time.process_time() - start < 1.0  # 0.1 s; reading the records takes 4 s
    assert_equal(again, vars_of(dataset))


@needs_cifar10
def test_real_cifar10(tmp_path):
    """The test images may be fewer than published: dataset_info.json counts."""
    pytest.importorskip("tensorflow_datasets")
    info = json.loads(next((REAL / "cifar10").glob("*/dataset_info.json")).read_text())
    promised = {split["name"]: sum(map(int, split["shardLengths"])) for split in info["splits"]}
    dataset = data.load("cifar10", REAL, cache_dir=tmp_path)
    assert dataset.train_inputs.shape == (50_000, 32, 32, 3)
    assert dataset.test_inputs.shape == (promised["test"], 32, 32, 3)
    assert np.bincount(dataset.train_labels).tolist() == [5000] * 10
    # The published mean of the training images, R, G, B: right channels in the right order.
    mean = dataset.train_inputs.mean((0, 1, 2)) / 255
    np.testing.assert_allclose(mean, [0.4914, 0.4822, 0.4465], atol=1e-4)
    names = (REAL / "cifar10").glob("*/label.labels.txt")
    assert dataset.class_names == tuple(next(names).read_text().split())


def vars_of(dataset):
    return [getattr(dataset, key) for key in ARRAYS]


# The command.


def test_command_makes_a_file_for_another_machine(places, tmp_path, monkeypatch, capsys):
    arrays = small_arrays()
    write_files(places[0], serve_mnist(monkeypatch, arrays))
    options = ["--data-dir", str(places[0]), "--cache-dir", str(places[1])]
    main(["mnist", *options, "--out", str(tmp_path / "mnist.npz")])
    printed = capsys.readouterr().out
    assert "train_inputs uint8 [23, 28, 28, 1]" in printed
    assert "test_labels int32 [11]" in printed
    assert f"source: raw files in {places[0]}" in printed
    assert_equal(data.load("mnist", tmp_path, cache_dir=tmp_path), arrays)


@pytest.mark.parametrize(
    ("name", "out", "text"),
    [("imagenet", "x.npz", "unknown data set"), ("digits", "missing/x.npz", "missing/")],
)
def test_command_fails_with_one_line(tmp_path, capsys, name, out, text):
    assert main([name, "--out", str(tmp_path / out)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert text in error
    assert error.count("\n") == 1
