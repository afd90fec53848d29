"""Tiny Shakespeare as arrays of characters, from wherever it can be had.

`load_text` looks for a prepared TFDS folder (read without TensorFlow), then for the published file
`input.txt`, then downloads it with TFDS's own checksum. A TFDS folder that needs preparing is not
made: the one text file is all that it would hold.
"""

import dataclasses
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from experiments.data.prepared import find_records, reading
from experiments.data.sources import (
    DataError,
    cache_folder,
    data_folder,
    describe_error,
    fetch,
    find_prepared,
    unreachable,
    writable,
)

FILE = "input.txt"
URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/"
SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
SHARES = {"train": 0.9, "validation": 0.05, "test": 0.05}
"""Of the text, in its order: TFDS's splits."""

MOST_CHARACTERS = 256
"""Different ones: a character is a uint8."""


@dataclasses.dataclass(frozen=True)
class Corpus:
    """A text by characters.

    Attributes:
        splits: train, validation and test: uint8 [M], indices into the vocabulary.
        vocabulary: every character of the text, sorted.
        source: one line, where the text came from.
    """

    splits: Mapping[str, np.ndarray]
    vocabulary: str
    source: str


def load_text(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    download: bool = True,
) -> Corpus:
    """Loads `tiny_shakespeare`; the arguments are those of `experiments.data.load`.

    Raises:
        DataError: another name, a damaged file, or neither data nor network (in < 5 s).
    """
    if name != "tiny_shakespeare":
        raise DataError(f"unknown text {name!r}: expected tiny_shakespeare")
    try:
        folder, cache = data_folder(data_dir), cache_folder(cache_dir)
        if prepared := find_prepared(folder / name):
            return _read_prepared(prepared[0].parent)
        for place in (folder / name, folder, cache / name):
            if (place / FILE).is_file():
                return _read_raw(place / FILE)
        return _read_raw(_download(name, folder, cache / name, download))
    except OSError as error:  # no permission, a disk that fails: the text names the path
        raise DataError(f"{name}: {describe_error(error)}") from error


def _corpus(texts: Mapping[str, str], source: str) -> Corpus:
    vocabulary = "".join(sorted(set("".join(texts.values()))))
    if len(vocabulary) > MOST_CHARACTERS:
        raise DataError(
            f"{source}: {len(vocabulary)} different characters, expected at most {MOST_CHARACTERS}"
        )
    index = {character: number for number, character in enumerate(vocabulary)}
    splits = {
        split: np.fromiter((index[character] for character in text), np.uint8, len(text))
        for split, text in texts.items()
    }
    return Corpus(splits, vocabulary, source)


def _read_prepared(folder: Path) -> Corpus:
    try:
        texts = {split: _read_split(folder, split) for split in SHARES}
    except DataError:
        raise
    except ImportError as error:
        raise DataError(
            f"tiny_shakespeare: reading {folder} needs tensorflow-datasets and array_record "
            f"({describe_error(error)}); install them, or put {FILE} beside it"
        ) from error
    except Exception as error:
        raise DataError(
            f"tiny_shakespeare: the TFDS folder {folder} cannot be read "
            f"({describe_error(error)}); copy it again"
        ) from error
    return _corpus(texts, f"TFDS {folder}")


def _read_split(folder: Path, split: str) -> str:
    import array_record.python.array_record_module  # noqa: F401
    from tensorflow_datasets.proto import tf_example_generated_pb2

    (file,) = find_records(folder, "tiny_shakespeare", split, most=1)
    with reading(file) as records:
        (record,) = records
        features = tf_example_generated_pb2.Example.FromString(record).features.feature
        return features["text"].bytes_list.value[0].decode()


def _read_raw(path: Path) -> Corpus:
    blob = path.read_bytes()
    if (found := hashlib.sha256(blob).hexdigest()) != SHA256:
        raise DataError(
            f"{path} ({len(blob)} bytes) is damaged or another text: sha256 {found}, expected "
            f"{SHA256}; delete it or copy it again"
        )
    text = blob.decode()
    first = int(len(text) * SHARES["train"])
    second = int(len(text) * (SHARES["train"] + SHARES["validation"]))
    texts = {"train": text[:first], "validation": text[first:second], "test": text[second:]}
    return _corpus(texts, f"raw file {path}")


def _download(name: str, looked_in: Path, folder: Path, allowed: bool) -> Path:
    if problem := unreachable(URL + FILE) if allowed else "downloading is switched off":
        raise DataError(
            f"{name}: no data in {looked_in} (no prepared TFDS folder or {FILE}) and no network "
            f"({problem}); copy a prepared TFDS folder there, set TFDS_DATA_DIR or --data-dir, or "
            "connect (to download 1 MB)"
        )
    if not writable(folder):
        raise DataError(f"{name}: {folder} cannot be written; set SMARTMIXED_CACHE to a folder")
    return fetch(name, URL + FILE, SHA256, folder)
