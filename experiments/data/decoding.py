"""Image sets from the files that hold them: a prepared TFDS folder, or the published raw files."""

import gzip
import hashlib
import io
import math
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from experiments.data.datasets import DATASETS, Dataset, checked
from experiments.data.prepared import RecordFile, find_records, reading
from experiments.data.sources import DataError, describe_error


def read_prepared(name: str, files: Sequence[Path]) -> Dataset:
    folder = files[0].parent
    try:
        import array_record.python.array_record_module  # noqa: F401
        import PIL.Image  # noqa: F401
        import tensorflow_datasets.proto  # noqa: F401
    except ImportError as error:
        raise DataError(
            f"{name}: reading {folder} needs tensorflow-datasets, array_record and"
            f" pillow ({describe_error(error)}); install them, or make {name}.npz with"
            " python -m experiments.data where they are"
        ) from error
    facts = DATASETS[name]
    arrays: list[np.ndarray] = []
    try:
        for split in ("train", "test"):
            shards = find_records(folder, name, split, sum(facts.counts))
            arrays += _read_split(shards, facts.shape)
    except DataError:
        raise
    except Exception as error:
        raise DataError(
            f"{name}: the TFDS folder {folder} cannot be read ({describe_error(error)});"
            " copy or prepare it again"
        ) from error
    return checked(name, arrays, f"TFDS {folder}")


def _read_split(
    files: Sequence[RecordFile], shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """All images and labels of a split, in TFDS's own (shuffled, fixed) order."""
    count = sum(file.size for file in files)
    images, labels = np.empty((count, *shape), np.uint8), np.empty(count, np.int64)
    row = 0
    for file in files:
        with reading(file) as records:
            for record in records:
                images[row], labels[row] = _decode_example(record, shape)
                row += 1
    return images, labels


def _decode_example(record: bytes, shape: tuple[int, ...]) -> tuple[np.ndarray, int]:
    from PIL import Image
    from tensorflow_datasets.proto import tf_example_generated_pb2

    features = tf_example_generated_pb2.Example.FromString(record).features.feature
    file = io.BytesIO(features["image"].bytes_list.value[0])
    image = Image.open(file, formats=("PNG", "JPEG"))
    found = (image.height, image.width, len(image.getbands()))
    if found != shape:  # asked before the pixels are decoded
        raise ValueError(f"an image of shape {found}, expected {shape}")
    return np.asarray(image).reshape(shape), features["label"].int64_list.value[0]


def find_raw(name: str, folder: Path) -> list[Path] | None:
    """All packed or all unpacked files of a set, in `<folder>/<name>` or in `folder`."""
    for place in (folder / name, folder):
        for names in (DATASETS[name].packed, DATASETS[name].plain):
            paths = [place / file for file in names]
            if all(path.is_file() for path in paths):
                return paths
    return None


def read_raw(name: str, paths: Sequence[Path]) -> Dataset:
    facts, folder = DATASETS[name], paths[0].parent
    most = sum(facts.counts) * (math.prod(facts.shape) + 1) + 2**20  # and headers
    files: dict[str, bytes] = {}
    for path, plain in zip(paths, facts.plain, strict=False):  # one archive may hold them all
        if (size := path.stat().st_size) > most:  # before it is read
            raise DataError(f"{path} has {size} bytes, expected at most {most}; copy it again")
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
    return checked(name, arrays, f"raw files in {folder}")


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
