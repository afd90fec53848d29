"""Images of the user's, in an NPZ file, as a `Dataset`."""

from pathlib import Path

import numpy as np

from experiments.data.datasets import Dataset, as_images, pick_arrays
from experiments.data.reading import read_arrays, read_names
from experiments.data.sources import DataError


def load_arrays(path: Path) -> Dataset:
    """Reads images of any size and their classes, split as they are.

    Args:
        path: holds train_inputs, train_labels, test_inputs, test_labels, or as Keras calls them
            x_train, y_train, x_test, y_test: images [M, H, W] or [M, H, W, C] of any number type,
            labels [M] or [M, 1], integers or text; and maybe `class_names`, text [classes].

    Raises:
        DataError: the file cannot be read, or an array does not fit.
    """
    arrays = read_arrays(path)
    train_inputs, train_labels, test_inputs, test_labels = as_images(pick_arrays(arrays, path))
    _check(path, "training", train_inputs, train_labels)
    _check(path, "test", test_inputs, test_labels)
    if train_inputs.shape[1:] != test_inputs.shape[1:]:
        raise DataError(
            f"{path}: training images are {list(train_inputs.shape[1:])}, test images "
            f"{list(test_inputs.shape[1:])}"
        )
    classes = np.unique(train_labels)
    names = read_names(arrays, "class_names", path) or list(map(str, classes))
    if "class_names" in arrays and classes.dtype.kind in "iu":
        classes = np.arange(len(names))  # a class may be missing from the training images
    for part, labels in (("training", train_labels), ("test", test_labels)):
        if unknown := set(labels.tolist()) - set(classes.tolist()):
            raise DataError(
                f"{path}: a {part} image has the label {min(unknown)!r}, expected one of the "
                f"{len(classes)} of {'class_names' if 'class_names' in arrays else 'training'}"
            )
    if len(names) != len(classes):
        raise DataError(f"{path}: {len(names)} class names for {len(classes)} classes")
    if len(classes) < 2:
        raise DataError(f"{path}: the training images have 1 class, expected at least 2")
    for label, count in zip(*np.unique(train_labels, return_counts=True), strict=True):
        if count < 2:
            raise DataError(
                f"{path}: the class {label} has {count} training image, expected at least 2, one "
                "for validation"
            )
    index = {label: number for number, label in enumerate(classes.tolist())}
    train_labels, test_labels = (
        np.array([index[label] for label in labels.tolist()], np.int32)
        for labels in (train_labels, test_labels)
    )
    scale, both = _scale(train_inputs), (train_inputs.dtype, test_inputs.dtype)
    dtype = np.dtype(np.uint8 if both == (np.uint8, np.uint8) else np.float32)
    return Dataset(
        path.stem,
        train_inputs.astype(dtype),
        train_labels,
        test_inputs.astype(dtype),
        test_labels,
        tuple(names),
        scale,
        str(path),
    )


def _scale(images: np.ndarray) -> float:
    """What images are divided by: 255 for uint8, the largest value of others without a sign."""
    if images.dtype == np.uint8:
        return 255.0
    return 1.0 if images.min() < 0 else max(float(images.max()), 1.0)


def _check(path: Path, part: str, images: np.ndarray, labels: np.ndarray) -> None:
    if images.ndim != 4 or not images.size or images.dtype.kind not in "fiub":
        raise DataError(
            f"{path}: {part} images are {images.dtype} {list(images.shape)}, expected numbers "
            "[M, H, W] or [M, H, W, C]"
        )
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iuU":
        raise DataError(
            f"{path}: {part} labels are {labels.dtype} {list(labels.shape)}, expected integers or "
            f"text [{len(images)}]"
        )
    if images.dtype.kind == "f":
        with np.errstate(over="ignore"):
            finite = np.isfinite(images.astype(np.float32)).all((1, 2, 3))
        if not finite.all():
            raise DataError(f"{path}: {part} image {np.argmin(finite)} holds nan or inf")
