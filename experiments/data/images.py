"""The data sets of the experiments as plain uint8 arrays, from wherever they can be had.

`load(name)` looks, in this order, for `<data_dir>/<name>.npz`, a prepared TFDS folder (read without
TensorFlow), the published raw files, TFDS preparing its folder (only where TensorFlow is installed)
and a download of the raw files with TFDS's own checksums. What had to be decoded is kept as `.npz`
in the cache directory. `digits` comes with scikit-learn and needs none of this. To make a file
that another machine reads with numpy alone:

    python -m experiments.data mnist --data-dir ~/tensorflow_datasets --out mnist.npz
"""

import dataclasses
import hashlib
import importlib.util
import logging
import os
import tempfile
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.data.datasets import DATASETS, Dataset, checked, pick_arrays
from experiments.data.decoding import find_raw, read_prepared, read_raw
from experiments.data.npz import read_npz_file
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
from experiments.data.splits import stratified_split

LOG = logging.getLogger(__name__)


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


def _load_local(name: str, folder: Path, cache: Path) -> Dataset | None:
    npz = folder / f"{name}.npz"
    if npz.is_file():
        dataset = read_npz(name, npz)
        return dataclasses.replace(dataset, source=f"{npz} ({dataset.source})")
    if prepared := find_prepared(folder / name):
        return _cached(name, prepared, cache, read_prepared)
    if paths := find_raw(name, folder):
        return _cached(name, paths, cache, read_raw)
    if paths := find_raw(name, cache):
        try:
            return _cached(name, paths, cache, read_raw)
        except DataError as error:  # an old download, not the user's file: fetch it again
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
        return _cached(name, prepared, cache, read_prepared)
    with tempfile.TemporaryDirectory() as temporary:
        paths = _download(name, cache / name if writable(cache / name) else Path(temporary))
        return _cached(name, paths, cache, read_raw)


def _load_bundled(name: str) -> Dataset:
    import sklearn.datasets

    bundle = getattr(sklearn.datasets, f"load_{name}")()
    inputs, labels = bundle.images.astype(np.uint8)[..., np.newaxis], bundle.target
    train, test = stratified_split(labels, 0.2, seed=42)
    return checked(
        name,
        [inputs[train], labels[train], inputs[test], labels[test]],
        f"scikit-learn {sklearn.__version__} load_{name}, stratified 80:20, seed 42",
    )


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
    """Reads what `write_npz` wrote, or Keras' file; DataError if it is damaged or another set."""
    try:
        arrays = read_npz_file(path)
    except Exception as error:  # a damaged zip raises any of a dozen unrelated types
        raise DataError(
            f"{name}: {path} is damaged ({describe_error(error)}); delete it or make it again"
        ) from error
    try:
        picked = pick_arrays(arrays, path)
    except DataError as error:
        raise DataError(f"{name}: {error}") from None
    return checked(name, picked, str(arrays.get("source", "its arrays")), where=str(path))


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


def _importable(*modules: str) -> bool:
    return all(importlib.util.find_spec(module) for module in modules)


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
