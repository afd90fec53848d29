"""The data sets of the experiments as plain uint8 arrays, from wherever they can be had.

`load(name)` looks, in this order, for `<data_dir>/<name>.npz`, a prepared TFDS folder (read without
TensorFlow), the published raw files, TFDS preparing its folder (only where TensorFlow is installed)
and a download of the raw files with TFDS's own checksums. What had to be decoded is kept as `.npz`
in the cache directory. `digits` comes with scikit-learn and needs none of this. To make a file
that another machine reads with numpy alone:

    python -m experiments.data mnist --data-dir ~/tensorflow_datasets --out mnist.npz
"""

import argparse
import dataclasses
import gzip
import hashlib
import importlib.util
import io
import json
import logging
import os
import re
import sys
import tarfile
import tempfile
import threading
import urllib.parse
import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.datasets import ARRAYS, DATASETS

LOG = logging.getLogger(__name__)
PROBE_SECONDS = 3.5  # with the imports, an offline run ends within 5 s
TIMEOUTS = (4.0, 15.0)  # connect, read: a server that stalls ends the download
BATCH = 1_000  # records per read: one by one takes 24 s for MNIST, this 4 s


class DataError(RuntimeError):
    """The data cannot be had; one line says what was looked for, where, and what to do."""


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A labelled image set in memory, split as it was published.

    Attributes:
      train_inputs, test_inputs: uint8 [M, H, W, C], values in [0, scale].
      train_labels, test_labels: int32 [M], values in [0, len(class_names)).
      scale: the input value that maps to 1.0.
      source: one line, where these arrays came from.
    """

    name: str
    train_inputs: np.ndarray
    train_labels: np.ndarray
    test_inputs: np.ndarray
    test_labels: np.ndarray
    class_names: tuple[str, ...]
    scale: float
    source: str


def describe_error(error: object) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]


def load(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    download: bool = True,
) -> Dataset:
    """Loads one of `DATASETS`; the module's docstring says where from.

    Args:
      name: a key of `DATASETS`.
      data_dir: holds `<name>.npz`, `<name>/<version>/` as TFDS prepares it, or raw files (or
        `<name>/` does). Default: the variable TFDS_DATA_DIR, else ~/tensorflow_datasets.
      cache_dir: for decoded arrays and downloads. Default: the variable SMARTMIXED_CACHE, else
        `smartmixed-jax` in XDG_CACHE_HOME or ~/.cache. If it cannot be written, nothing is kept.
      download: False forbids any use of the network.

    Returns:
      The data set, its dtypes, shapes and value ranges checked.

    Raises:
      DataError: unknown name, damaged or mismatched files, or neither data nor network (in < 5 s).
    """
    if name not in DATASETS:
        raise DataError(f"unknown data set {name!r}: expected one of {', '.join(DATASETS)}")
    if not DATASETS[name].url:
        return _load_bundled(name)
    try:
        folder, cache = data_folder(data_dir), cache_folder(cache_dir)
        return _load_local(name, folder, cache) or _load_remote(name, folder, cache, download)
    except OSError as error:  # no permission, a disk that fails: the text names the path
        raise DataError(f"{name}: {describe_error(error)}") from error


def data_folder(data_dir: str | os.PathLike[str] | None) -> Path:
    """Where data are looked for: the argument, or TFDS_DATA_DIR, or ~/tensorflow_datasets."""
    folder = Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")
    return folder.expanduser().absolute()


def cache_folder(cache_dir: str | os.PathLike[str] | None) -> Path:
    """Where downloads and decoded arrays are kept; `load` says where that is."""
    home_cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "smartmixed-jax"
    cache = Path(cache_dir or os.environ.get("SMARTMIXED_CACHE") or home_cache)
    return cache.expanduser().absolute()


def _load_local(name: str, folder: Path, cache: Path) -> Dataset | None:
    npz = folder / f"{name}.npz"
    if npz.is_file():
        dataset = read_npz(name, npz)
        return dataclasses.replace(dataset, source=f"{npz} ({dataset.source})")
    if prepared := find_prepared(folder / name):
        return _cached(name, prepared, cache, _read_prepared)
    if paths := _find_raw(name, folder):
        return _cached(name, paths, cache, _read_raw)
    if paths := _find_raw(name, cache):
        try:
            return _cached(name, paths, cache, _read_raw)
        except DataError as error:  # an old download, not the user's file: fetch it anew
            LOG.warning("%s", error)
    return None


def _load_remote(name: str, folder: Path, cache: Path, download: bool) -> Dataset:
    facts = DATASETS[name]
    archive = facts.url + next(iter(facts.packed))
    if problem := unreachable(archive) if download else "downloading is switched off":
        size = sum(size for _, size in facts.packed.values()) / 1e6
        raise DataError(
            f"{name}: no data in {folder} (no {name}.npz, prepared TFDS folder or raw files) and no"
            f" network ({problem}); copy a prepared TFDS folder there, set TFDS_DATA_DIR or"
            f" --data-dir, or connect (to download {size:.0f} MB)"
        )
    if _importable("tensorflow", "tensorflow_datasets") and (prepared := _prepare(name, folder)):
        return _cached(name, prepared, cache, _read_prepared)
    with tempfile.TemporaryDirectory() as temporary:
        paths = _download(name, cache / name if writable(cache / name) else Path(temporary))
        return _cached(name, paths, cache, _read_raw)


def _load_bundled(name: str) -> Dataset:
    import sklearn.datasets

    bundle = getattr(sklearn.datasets, f"load_{name}")()
    inputs, labels = bundle.images.astype(np.uint8)[..., np.newaxis], bundle.target
    train, test = stratified_split(labels, 0.2, seed=42)
    return _dataset(
        name,
        [inputs[train], labels[train], inputs[test], labels[test]],
        f"scikit-learn {sklearn.__version__} load_{name}, stratified 80:20, seed 42",
    )


def _dataset(name: str, arrays: Sequence[np.ndarray], source: str, where: str = "") -> Dataset:
    """Checks `arrays` (in the order of `ARRAYS`) against the facts; DataError where they differ."""
    facts = DATASETS[name]
    names = tuple(facts.class_names.split(","))
    where = f"of {name} from {where or source}"
    for inputs, labels in (arrays[:2], arrays[2:]):
        if inputs.dtype != np.uint8 or inputs.shape[1:] != facts.shape or not len(inputs):
            raise DataError(
                f"inputs {where} are {inputs.dtype} {list(inputs.shape)}, "
                f"expected uint8 {['M', *facts.shape]}"
            )
        if labels.dtype.kind not in "iu" or labels.shape != inputs.shape[:1]:
            raise DataError(
                f"labels {where} are {labels.dtype} {list(labels.shape)}, "
                f"expected integers [{len(inputs)}]"
            )
        limits = (("inputs", inputs, int(facts.scale)), ("labels", labels, len(names) - 1))
        for what, values, top in limits:
            if values.min() < 0 or values.max() > top:
                raise DataError(
                    f"{what} {where} lie in [{values.min()}, {values.max()}], expected [0, {top}]"
                )
    dtypes = (np.uint8, np.int32, np.uint8, np.int32)
    fields = {
        key: np.ascontiguousarray(array, dtype)
        for key, array, dtype in zip(ARRAYS, arrays, dtypes, strict=True)
    }
    return Dataset(name=name, **fields, class_names=names, scale=facts.scale, source=source)


def write_npz(dataset: Dataset, path: str | os.PathLike[str]) -> None:
    """Writes every field of `dataset` to `path`, whole or not at all; OSError if it cannot."""
    path = Path(path)
    fields: dict[str, Any] = {key: np.asarray(value) for key, value in vars(dataset).items()}
    # In the same folder, or it could not be moved to its place in one step.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "wb") as file:
            np.savez(file, allow_pickle=False, **fields)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_npz(name: str, path: str | os.PathLike[str]) -> Dataset:
    """Reads what `write_npz` wrote; DataError if the file is damaged or holds another data set."""
    try:
        # Opened here, because np.load leaves a damaged file open.
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays, source = [file[key] for key in ARRAYS], str(file["source"])
    except Exception as error:  # a damaged zip raises any of a dozen unrelated types
        raise DataError(
            f"{name}: {path} is damaged or not made by experiments.data"
            f" ({describe_error(error)}); delete it or make it anew"
        ) from error
    return _dataset(name, arrays, source, where=str(path))


Read = Callable[[str, Sequence[Path]], Dataset]


def _cached(name: str, files: Sequence[Path], cache: Path, read: Read) -> Dataset:
    """`read(name, files)`, or what it gave last time if the files kept place, size and time."""
    state = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    path = cache / f"{name}-{hashlib.sha256(repr(state).encode()).hexdigest()[:16]}.npz"
    if path.is_file():
        try:
            return read_npz(name, path)
        except DataError as error:
            LOG.warning("%s; decoding again", error)
    dataset = read(name, files)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        write_npz(dataset, path)
    except OSError as error:
        LOG.warning("%s: decoded arrays not kept in %s (%s)", name, cache, describe_error(error))
    return dataset


def find_prepared(root: Path) -> list[Path] | None:
    """The files of the newest `<root>/<version>` in array_record format, without importing TFDS."""
    infos = {
        tuple(map(int, path.parent.name.split("."))): path
        for path in root.glob("*/dataset_info.json")
        if re.fullmatch(r"\d+\.\d+\.\d+", path.parent.name)  # not `3.0.1.incompleteXYZ`
    }
    for _, path in sorted(infos.items(), reverse=True):
        try:
            file_format = json.loads(path.read_text()).get("fileFormat", "tfrecord")
        except (ValueError, AttributeError) as error:
            raise DataError(
                f"{path} is damaged ({describe_error(error)}); copy it again"
            ) from error
        if file_format == "array_record":
            return sorted(path.parent.iterdir())
        LOG.warning(
            "%s skipped: %s, only array_record is read without TensorFlow", path.parent, file_format
        )
    return None


def _read_prepared(name: str, files: Sequence[Path]) -> Dataset:
    folder = files[0].parent
    try:
        import array_record.python.array_record_module  # noqa: F401  TFDS imports it only on use
        import PIL.Image  # noqa: F401
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise DataError(
            f"{name}: reading {folder} needs tensorflow-datasets, array_record and"
            f" pillow ({describe_error(error)}); install them, or make {name}.npz with"
            " python -m experiments.data where they are"
        ) from error
    try:
        # From the directory, not by name: takes any version and can never reach for the network.
        builder = tfds.builder_from_directory(folder)
        shape = DATASETS[name].shape
        arrays = [*_read_split(builder, "train", shape), *_read_split(builder, "test", shape)]
    except DataError:
        raise
    except Exception as error:  # TFDS raises what its parsers raise
        raise DataError(
            f"{name}: the TFDS folder {folder} cannot be read ({describe_error(error)});"
            " copy or prepare it again"
        ) from error
    return _dataset(name, arrays, f"TFDS {folder}")


def _read_split(builder: Any, split: str, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """All images and labels of a split, in TFDS's own (shuffled, fixed) order."""
    import tensorflow_datasets as tfds
    from array_record.python import array_record_module

    info = builder.info.splits[split]
    images = np.empty((info.num_examples, *shape), np.uint8)
    labels = np.empty(info.num_examples, np.int64)
    raw = tfds.decode.DeserializeMethod.RAW_BYTES
    row, source = 0, builder.as_data_source(split, deserialize_method=raw)
    for shard in info.file_instructions:  # shard by shard, so that an error can name the file
        try:
            # A file cut at a block boundary can read without an error: count first.
            reader = array_record_module.ArrayRecordReader(str(shard.filename))
            found = reader.num_records()
            reader.close()
            if found != shard.examples_in_shard:
                raise ValueError(
                    f"{found} records, dataset_info.json says {shard.examples_in_shard}"
                )
            stop = row + found
            while row < stop:
                for record in source.__getitems__(range(row, min(row + BATCH, stop))):
                    images[row], labels[row] = _decode_example(record, shape)
                    row += 1
        except Exception as error:
            raise DataError(
                f"{shard.filename} is truncated or damaged ({describe_error(error)});"
                " copy it again or prepare the folder anew"
            ) from error
    return images, labels


def _decode_example(record: bytes, shape: tuple[int, ...]) -> tuple[np.ndarray, int]:
    from PIL import Image
    from tensorflow_datasets.proto import tf_example_generated_pb2

    features = tf_example_generated_pb2.Example.FromString(record).features.feature
    image = np.asarray(Image.open(io.BytesIO(features["image"].bytes_list.value[0])))
    image = image.reshape(*image.shape[:2], -1)  # Pillow drops the channel axis of grey images
    if image.shape != shape:
        raise ValueError(f"an image of shape {image.shape}, expected {shape}")
    return image, features["label"].int64_list.value[0]


def _find_raw(name: str, folder: Path) -> list[Path] | None:
    """All packed or all unpacked files of a set, in `<folder>/<name>` or in `folder`."""
    for place in (folder / name, folder):
        for names in (DATASETS[name].packed, DATASETS[name].plain):
            paths = [place / file for file in names]
            if all(path.is_file() for path in paths):
                return paths
    return None


def _read_raw(name: str, paths: Sequence[Path]) -> Dataset:
    facts, folder = DATASETS[name], paths[0].parent
    files: dict[str, bytes] = {}
    for path, plain in zip(paths, facts.plain, strict=False):  # one archive may hold them all
        blob = path.read_bytes()
        if path.name in facts.packed:
            _verify(path, blob, facts.packed[path.name][0])
            files |= _unpack(path.name, blob, facts.plain)
        else:
            _verify(path, blob, facts.plain[plain])
            files[plain] = blob
    try:
        arrays = facts.parse(files)
    except ValueError as error:
        raise DataError(f"{name}: in {folder}: {error}; copy the file again") from error
    if (found := (len(arrays[0]), len(arrays[2]))) != facts.counts:
        raise DataError(f"{name}: {folder} holds {found} examples, expected {facts.counts}")
    return _dataset(name, arrays, f"raw files in {folder}")


def _verify(path: Path, blob: bytes, expected: str | None) -> None:
    """Raises DataError for a wrong checksum; with none known, for a file of another data set."""
    found = hashlib.sha256(blob).hexdigest()
    others = {sha256 for facts in DATASETS.values() for sha256 in facts.plain.values()} - {None}
    if found != expected if expected else found in others:
        raise DataError(
            f"{path} ({len(blob)} bytes) is damaged or of another data set: sha256 {found}, "
            f"expected {expected or 'another'}; delete it or copy it again"
        )


def _unpack(name: str, blob: bytes, wanted: Iterable[str]) -> dict[str, bytes]:
    if not name.endswith(".tar.gz"):
        return {name.removesuffix(".gz"): gzip.decompress(blob)}
    with tarfile.open(fileobj=io.BytesIO(blob)) as archive:
        members = {file: archive.extractfile(file) for file in wanted}
        return {file: member.read() for file, member in members.items() if member}


def writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return False
    return True


def _importable(*modules: str) -> bool:
    return all(importlib.util.find_spec(module) for module in modules)


def unreachable(url: str) -> str | None:
    """Why the host of `url` does not answer, or None if it does, within PROBE_SECONDS."""
    import requests

    answers: list[str | None] = []

    def probe() -> None:
        try:
            requests.head(url, timeout=PROBE_SECONDS)
            answers.append(None)  # any status will do: what is asked is the way to the host
        except Exception as error:  # in a thread nobody else would report it
            answers.append(type(error).__name__)

    # A look-up of the host name ignores every timeout: leave it behind in a daemon thread.
    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    reason = answers[0] if answers else f"no answer in {PROBE_SECONDS:g} s"
    return reason and f"{urllib.parse.urlsplit(url).hostname}: {reason}"


def _prepare(name: str, folder: Path) -> list[Path] | None:
    """Lets TFDS (with TensorFlow) prepare `<folder>/<name>`; None, with a note, if it cannot."""
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=folder)
        builder.download_and_prepare(file_format="array_record")
    except Exception as error:  # whatever it was, the raw files are still to be had
        LOG.warning("%s: TFDS could not prepare %s (%s)", name, folder, describe_error(error))
    return find_prepared(folder / name)


def _download(name: str, folder: Path) -> list[Path]:
    """Downloads the packed files into `folder`."""
    facts = DATASETS[name]
    return [
        fetch(name, facts.url + file, sha256, folder) for file, (sha256, _) in facts.packed.items()
    ]


def fetch(name: str, url: str, sha256: str, folder: Path) -> Path:
    """Downloads a file into `folder`; pooch deletes what does not match its sha256."""
    import pooch

    file = url.rpartition("/")[2]
    downloader = pooch.HTTPDownloader(timeout=TIMEOUTS, chunk_size=1 << 20)
    try:
        pooch.retrieve(url, f"sha256:{sha256}", file, folder, downloader=downloader)
    except (ValueError, OSError) as error:
        if (response := getattr(error, "response", None)) is not None:
            response.close()  # pooch leaves the socket of a 404 open
        raise DataError(f"{name}: download of {url} failed ({describe_error(error)})") from error
    return folder / file


def stratified_split(
    labels: np.ndarray, fraction: float = 0.1, seed: int = 42
) -> tuple[np.ndarray, np.ndarray]:
    """Splits examples so that both parts keep the share of every class.

    Args:
      labels: integers [M]; every class at least twice.
      fraction: of the examples that go to validation, in (0, 1).

    Returns:
      (train_indices, validation_indices): int32, sorted, together 0 .. M - 1.

    Raises:
      ValueError: fraction outside (0, 1), or too few examples of a class.
    """
    from sklearn.model_selection import train_test_split

    if not 0.0 < fraction < 1.0:
        raise ValueError(f"fraction must lie in (0, 1), got {fraction}")
    indices = np.arange(len(labels), dtype=np.int32)
    train, validation = train_test_split(
        indices, test_size=float(fraction), random_state=seed, stratify=labels
    )
    return np.sort(train), np.sort(validation)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Loads a data set; --out keeps it as one file.")
    parser.add_argument("name", help=", ".join(DATASETS))
    parser.add_argument("--data-dir", help="default: TFDS_DATA_DIR, else ~/tensorflow_datasets")
    parser.add_argument("--cache-dir", help="default: SMARTMIXED_CACHE, else ~/.cache/...")
    parser.add_argument("--out", help="write the arrays to this .npz file")
    options = parser.parse_args(arguments)
    try:
        dataset = load(options.name, options.data_dir, cache_dir=options.cache_dir)
        for key in ARRAYS:
            print(f"{key} {getattr(dataset, key).dtype} {list(getattr(dataset, key).shape)}")
        print(f"source: {dataset.source}")
        if options.out:
            write_npz(dataset, options.out)
    except (DataError, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
