"""Image sets from the files that hold them: a prepared TFDS folder, or the published raw files."""

import gzip
import hashlib
import io
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.data.datasets import DATASETS, Dataset, checked
from experiments.data.sources import DataError, describe_error

BATCH = 1_000  # records per read: one by one takes 24 s for MNIST, this 4 s


def read_prepared(name: str, files: Sequence[Path]) -> Dataset:
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
    return checked(name, arrays, f"TFDS {folder}")


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
                " copy or prepare the folder again"
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
