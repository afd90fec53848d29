"""The records of a prepared TFDS folder, read without TFDS.

TFDS would import the Python classes that features.json names, whatever they are: the file is not
read here. dataset_info.json gives the numbers of records, and nothing else; the names of the record
files are those that TFDS gives them, so that no other file is opened.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from experiments.data.sources import DataError, describe_error
from experiments.typed_json import parse_json

INFO = "dataset_info.json"
BATCH = 1_000  # records per read: one by one takes 24 s for MNIST, this 4 s


class RecordFile(NamedTuple):
    """A file of a split, and how many records it should hold."""

    path: Path
    size: int


def find_records(folder: Path, name: str, split: str, most: int) -> list[RecordFile]:
    """The files of a split, their numbers of records as dataset_info.json says and they say.

    Args:
        folder: holds INFO.
        name: of the data set.
        most: records that a split may have.

    Raises:
        DataError: they do not say the same, a file is missing, or there are too many records.
        ValueError: dataset_info.json does not say it.
    """
    sizes = _sizes(folder / INFO, split)
    if sum(sizes) > most:
        raise ValueError(f"{INFO} says {sum(sizes)} records in {split}, expected at most {most}")
    files = [
        RecordFile(folder / f"{name}-{split}.array_record-{place:05d}-of-{len(sizes):05d}", size)
        for place, size in enumerate(sizes)
    ]
    for file in files:  # before any is read
        with reading(file):
            pass
    return files


def _sizes(info: Path, split: str) -> list[int]:
    try:
        splits = parse_json(info.read_text())["splits"]
        (lengths,) = (entry["shardLengths"] for entry in splits if entry["name"] == split)
        sizes = [int(length) for length in lengths]
    except (TypeError, LookupError, ValueError, OverflowError) as error:
        raise ValueError(f"no numbers of records of {split} in {INFO}") from error
    if not sizes or min(sizes) < 0:
        raise ValueError(f"{INFO} says {sizes[:10]} records in {split}, expected positive numbers")
    return sizes


@contextlib.contextmanager
def reading(file: RecordFile) -> Iterator[Iterator[bytes]]:
    """The records of a file in their order; whatever fails on them is a DataError with its name."""
    from array_record.python import array_record_module

    try:
        file.path.stat()  # the reader finds no records in a file that is missing
        reader = array_record_module.ArrayRecordReader(str(file.path))
        with contextlib.closing(reader):
            # A file cut at a block boundary can read without an error: count first.
            if (found := reader.num_records()) != file.size:
                raise ValueError(f"{found} records, {INFO} says {file.size}")
            starts = range(0, file.size, BATCH)
            yield (
                record
                for start in starts
                for record in reader.read(start, min(start + BATCH, file.size))
            )
    except Exception as error:  # the reader and the decoders raise many kinds
        raise DataError(
            f"{file.path} is truncated or damaged ({describe_error(error)}); copy or prepare the "
            "folder again"
        ) from error
