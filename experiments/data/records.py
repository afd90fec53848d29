"""Training examples in an array_record file, read by their numbers as they are needed.

A record is the bytes of one input and of its label; beside FILE.array_record, FILE.json says their
shapes and dtypes, how many records there are, and the size of the file. `keep` writes both once for
the arrays of a task. What array_record reads it verifies by a hash, so that a flipped bit is an
error and no example. It takes 5 microseconds of a core per record, ten times as long as a copy in
memory: so examples that were read stay in memory, as many as have room.
"""

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.data.sources import DataError, describe_error
from experiments.data.task import Split, host_split
from experiments.machine import host_memory
from experiments.typed_json import parse_json

SUFFIX, HEADER = ".array_record", ".json"
ROWS = 4_096
"""So many examples are hashed and written at a time."""


@dataclasses.dataclass(frozen=True, eq=False)
class Records:
    """The examples of an open file.

    Attributes:
        path: of the array_record file.
        shapes: of all M examples, as a `Split` of `jax.ShapeDtypeStruct`.
        reader: of array_record; threads may share it.
        memory: the first examples once they were read, [K, ...], K ≤ M.
        in_memory: which of them were, bool [K].
    """

    path: Path
    shapes: Split
    reader: Any
    memory: list[np.ndarray]
    in_memory: np.ndarray

    def __len__(self) -> int:
        return int(self.shapes.labels.shape[0])

    @property
    def example_bytes(self) -> int:
        """Of one example."""
        return _example_bytes(self.shapes)

    def read(self, numbers: np.ndarray, rows: int | None = None) -> Split:
        """The examples of some numbers, int [B] in 0 … M − 1, on the host.

        Args:
            rows: of the arrays, at least B; those from B on hold anything. Default: B.

        Raises:
            DataError: the file cannot be read there; the line names it.
        """
        has_room = numbers < len(self.in_memory)
        known = np.zeros(len(numbers), bool)
        known[has_room] = self.in_memory[numbers[has_room]]
        rows = len(numbers) if rows is None else rows
        whole = [_aligned((rows, *shape.shape[1:]), shape.dtype) for shape in self.shapes]
        found = [array[: len(numbers)] for array in whole]
        if known.all():
            for array, memory in zip(found, self.memory, strict=True):
                np.take(memory, numbers, axis=0, out=array, mode="clip")  # the others buffer
            return host_split(*whole)
        new = has_room & ~known
        from_file = self._read_file(numbers[~known])
        for array, memory, examples in zip(found, self.memory, from_file, strict=True):
            array[known] = memory[numbers[known]]
            array[~known] = examples
            memory[numbers[new]] = array[new]
        self.in_memory[numbers[new]] = True  # last: other threads look here
        return host_split(*whole)

    def _read_file(self, numbers: np.ndarray) -> list[np.ndarray]:
        try:
            blob = b"".join(self.reader.read(numbers.tolist()))
        except Exception as error:  # whatever array_record raises
            raise _damaged(self.path, describe_error(error)) from error
        if len(blob) != len(numbers) * self.example_bytes:
            raise _damaged(self.path, f"{len(blob)} bytes of {len(numbers)} examples")
        rows = np.frombuffer(blob, np.uint8).reshape(len(numbers), -1)
        arrays, first = [], 0
        for shape in self.shapes:
            last = first + _bytes_of_one(shape)
            column = np.ascontiguousarray(rows[:, first:last]).view(shape.dtype)
            arrays.append(column.reshape(len(numbers), *shape.shape[1:]))
            first = last
        return arrays


def keep(split: Split, folder: Path) -> Records:
    """The records of a task's examples, written into the folder unless they are there.

    Args:
        split: arrays on the host; those of a `np.memmap` may be larger than the memory.
        folder: where the file is kept, under the SHA-256 of the examples.

    Raises:
        DataError: array_record is not installed, or the file cannot be written, or is damaged.
    """
    path = folder / (_sha256(split) + SUFFIX)
    if not path.with_suffix(HEADER).is_file():
        write(split, path)
    return open_records(path)


def write(split: Split, path: Path) -> None:
    """Writes the examples and then their header, each whole or not at all.

    Raises:
        DataError: array_record is not installed, or the disk is full.
    """
    # In the same folder, or it could not be moved to its place in one step.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = _array_record().ArrayRecordWriter(str(temporary), "group_size:1,uncompressed")
        for rows in _rows(split):
            for row in rows:
                writer.write(row.tobytes())
        writer.close()
        arrays = {
            name: {"shape": list(array.shape), "dtype": array.dtype.name}
            for name, array in split._asdict().items()
        }
        header = json.dumps({"bytes": temporary.stat().st_size, **arrays}, indent=2)
        os.replace(temporary, path)
        temporary.write_text(header + "\n")
        os.replace(temporary, path.with_suffix(HEADER))
    except DataError:
        raise
    except Exception as error:  # whatever array_record raises
        raise DataError(f"{path} cannot be written ({describe_error(error)})") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def open_records(path: Path, room: int | None = None) -> Records:
    """Opens a file that `write` wrote.

    Args:
        path: of the array_record file.
        room: so many bytes of examples may stay in memory; default: a quarter of the host's.

    Raises:
        DataError: array_record is not installed, or the file or its header is missing, cut or
            another's; the line names it.
    """
    module, header = _array_record(), path.with_suffix(HEADER)
    try:
        facts = parse_json(header.read_text())
        shapes = Split(*(_struct(facts[name]) for name in Split._fields))
        size = int(facts["bytes"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise _damaged(header, describe_error(error)) from error
    try:
        if (found := path.stat().st_size) != size:
            raise ValueError(f"{found} bytes, {header.name} says {size}")
        reader = module.ArrayRecordReader(str(path), "index_storage_option:in_memory")
        if (count := reader.num_records()) != shapes.labels.shape[0]:
            raise ValueError(f"{count} records, {header.name} says {shapes.labels.shape[0]}")
    except Exception as error:  # whatever array_record raises
        raise _damaged(path, describe_error(error)) from error
    room = host_memory() // 4 if room is None else room
    kept = min(count, room // _example_bytes(shapes))
    memory = [np.empty((kept, *shape.shape[1:]), shape.dtype) for shape in shapes]
    return Records(path, shapes, reader, memory, np.zeros(kept, bool))


def _array_record() -> Any:
    try:
        import grain  # noqa: F401  reads them ahead: to say now that it is missing
        from array_record.python import array_record_module
    except ImportError as error:
        raise DataError(
            f"--stream needs array_record and grain ({describe_error(error)}): "
            "pip install -r requirements-stream.txt"
        ) from error
    return array_record_module


def _damaged(path: Path, problem: str) -> DataError:
    return DataError(f"{path} is damaged ({problem}); delete it and its {HEADER} to write it again")


def _struct(facts: Any) -> Any:
    return jax.ShapeDtypeStruct(tuple(facts["shape"]), np.dtype(facts["dtype"]))


def _aligned(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An array that a CPU device takes without a copy: it begins at a multiple of 64 bytes."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    room = np.empty(size + 64, np.uint8)
    first = -room.ctypes.data % 64
    return room[first : first + size].view(dtype).reshape(shape)


def _example_bytes(shapes: Split) -> int:
    return sum(map(_bytes_of_one, shapes))


def _bytes_of_one(shape: Any) -> int:
    return int(np.prod(shape.shape[1:], dtype=int) * np.dtype(shape.dtype).itemsize)


def _rows(split: Split) -> Iterator[np.ndarray]:
    """The bytes of the examples, uint8 [up to ROWS, bytes of one]."""
    for first in range(0, len(split.labels), ROWS):
        arrays = [np.ascontiguousarray(array[first : first + ROWS]) for array in split]
        yield np.hstack([array.reshape(len(array), -1).view(np.uint8) for array in arrays])


def _sha256(split: Split) -> str:
    found = hashlib.sha256(repr([(a.shape, a.dtype.name) for a in split]).encode())
    for rows in _rows(split):
        found.update(rows.data)
    return found.hexdigest()[:32]
