"""A table of the user's, in a CSV or NPZ file: what its columns are, and which row is for what."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.data import gradients
from experiments.data.encoding import (
    Column,
    Encoding,
    encode_inputs,
    encode_target,
    indices_of,
    numbers_of,
    require_columns,
)
from experiments.data.reading import Columns, numbers, read_columns, texts
from experiments.data.sources import DataError
from experiments.data.splits import split_rows

LOG = logging.getLogger(__name__)

FEW = 10
"""A column of whole numbers with at most so many distinct ones is taken as classes."""
MOST_CATEGORIES = 100
LEAST_ROWS = 6
PARTS = ("train", "validation", "test")


class Options(NamedTuple):
    """What the config says of a table; its fields have the same names.

    Attributes:
        target: the column to predict; of an NPZ file "" stands for its array y.
        target_kind: auto, values or classes.
        inputs: the columns that the network sees; none: all others.
        split_column: says which row is for what; "": drawn.
        validation_fraction, test_fraction: of the rows, if drawn.
        seed: of the draw.
        derivative_weight: of the derivatives of y, which an NPZ file then has; 0: they are not
            fitted.
    """

    target: str
    target_kind: str
    inputs: tuple[str, ...]
    split_column: str
    validation_fraction: float
    test_fraction: float
    seed: int
    derivative_weight: float = 0.0


class Table(NamedTuple):
    """A table as arrays.

    Attributes:
        parts: train, validation and test: inputs float32 [M, d], and labels: classes int32 [M] or
            standardised values float32 [M, 1], or with derivatives [M, 1 + d].
        encoding: how they came from the columns.
        sha256: of the file.
    """

    parts: dict[str, tuple[np.ndarray, np.ndarray]]
    encoding: Encoding
    sha256: str


def load_table(path: Path, options: Options) -> Table:
    """Reads, checks, splits and encodes a table; DataError names what does not fit."""
    split = [options.split_column] if options.split_column else []
    columns = read_columns(path, split)
    target = options.target or ("y" if path.suffix.lower() == ".npz" else "")
    _check_roles(columns, target, split, options.inputs)
    others = [name for name in columns.cells if name not in (target, *split)]
    classes = _classes(columns, target, options.target_kind)
    if classes is None:
        rows = _parts(columns, options, None, ())
        target_column = _standardized_target(columns, target, rows)
    else:
        target_column = Column(target, categories=classes)
        rows = _parts(columns, options, indices_of(columns, target_column), classes)
    input_columns = _input_columns(columns, options.inputs or others, rows["train"])
    encoding = Encoding(input_columns, target_column)
    x, y = encode_inputs(columns, encoding), encode_target(columns, encoding)
    if options.derivative_weight:
        slopes = gradients.labels(columns, encoding, options.derivative_weight)
        y = np.concatenate([y, slopes], -1)
    parts = {part: (x[rows[part]], y[rows[part]]) for part in PARTS}
    return Table(parts, encoding, hashlib.sha256(path.read_bytes()).hexdigest())


def _check_roles(
    columns: Columns, target: str, split: Sequence[str], inputs: Sequence[str]
) -> None:
    path, names = columns.path, columns.cells
    if not target:
        raise DataError(f"{path}: --target says which column to predict: {', '.join(names)}")
    if columns.size < LEAST_ROWS:
        few = f"{columns.size} row{'s' * (columns.size > 1)}"
        raise DataError(f"{path}: {few}, expected at least {LEAST_ROWS}")
    if "," in target and target not in names:
        raise DataError(f"{path}: target = {target!r}: expected one column, a run predicts one")
    for option, given in (("target", [target]), ("split_column", split), ("inputs", inputs)):
        require_columns(columns, given, f"{option}: ")
    if {target, *split} & set(inputs) or target in split:
        raise DataError(f"{path}: a column is the target, the split or an input, only one of them")


# The target


def _classes(columns: Columns, target: str, kind: str) -> tuple[str, ...] | None:
    """The classes of the target, in order; None for values."""
    values = numbers(columns, target)
    if values is None:
        if kind == "values":
            raise DataError(
                f"{columns.path}: target_kind = 'values': column {target!r} holds text, such as "
                f"{texts(columns, target)[0]!r}"
            )
        names = sorted(set(texts(columns, target)))
    else:
        distinct = np.unique(values)
        few = len(distinct) <= FEW and _are_whole(columns, target)
        if kind == "values" or (kind == "auto" and not few):
            return None
        names = [f"{value:.15g}" for value in distinct]
        if kind == "auto" and len(names) > 2:
            LOG.warning(
                "%s: the %d whole numbers in %r are taken as classes; --target-kind values fits "
                "them as numbers",
                *(columns.path, len(names), target),
            )
    if len(names) == 1:
        raise DataError(f"{columns.path}: column {target!r} is {names[0]} in every row")
    return tuple(names)


def _are_whole(columns: Columns, name: str) -> bool:
    """Whether the column is written as whole numbers: 3, not 3.0."""
    cells = columns.cells[name]
    if cells.dtype.kind != "U":
        return cells.dtype.kind in "iu"
    return all(cell.lstrip("+-").isdigit() for cell in cells.tolist())


def _standardized_target(columns: Columns, target: str, rows: Mapping[str, np.ndarray]) -> Column:
    values = numbers_of(columns, target)
    for part, indices in rows.items():
        if np.ptp(values[indices]) == 0:
            raise DataError(
                f"{columns.path}: column {target!r} is {values[indices[0]]:g} in every row of "
                f"{part}, expected values that differ"
            )
    fitted = values[rows["train"]]
    return Column(target, float(fitted.mean()), float(fitted.std()))


# The parts


def _parts(
    columns: Columns, options: Options, labels: np.ndarray | None, classes: Sequence[str]
) -> dict[str, np.ndarray]:
    """The rows for training, validation and test.

    Args:
        labels: index of every row's class; None for values.
        classes: their names.
    """
    if options.split_column:
        rows = _parts_by_column(columns, options.split_column)
        if labels is not None:
            unseen = sorted(set(labels.tolist()) - set(labels[rows["train"]].tolist()))
            if unseen:
                raise DataError(
                    f"{columns.path}: no row for training is of the class {classes[unseen[0]]!r}"
                )
        return rows
    shares = options.validation_fraction, options.test_fraction
    if sum(shares) >= 1:
        raise ValueError(
            f"validation_fraction = {shares[0]:g} and test_fraction = {shares[1]:g}: expected a "
            "sum below 1"
        )
    counts = [columns.size] if labels is None else np.bincount(labels).tolist()
    # An error's variance needs two values.
    least = 2 if labels is None else 1
    if min(counts) < 3 * least:
        few = f"{min(counts)} row{'s' * (min(counts) > 1)}"
        if labels is not None:
            few = f"the class {classes[counts.index(min(counts))]!r} has {few}"
        raise DataError(
            f"{columns.path}: {few}, expected at least {3 * least}, for training, validation and "
            "test"
        )
    groups = np.zeros(columns.size, int) if labels is None else labels
    try:
        return split_rows(groups, *shares, options.seed, least)
    except ValueError as error:
        raise DataError(f"{columns.path}: {error} for the shares {shares}") from None


def _parts_by_column(columns: Columns, name: str) -> dict[str, np.ndarray]:
    cells = texts(columns, name)
    for row, cell in enumerate(cells):
        if cell not in PARTS:
            raise columns.fail(row, name, f"{cell!r}, expected {', '.join(PARTS[:-1])} or test")
    rows = {part: np.flatnonzero(np.array(cells) == part) for part in PARTS}
    for part, indices in rows.items():
        if not indices.size:
            raise DataError(f"{columns.path}: column {name!r} names no row for {part}")
    return rows


# Columns as numbers


def _input_columns(columns: Columns, names: Sequence[str], train: np.ndarray) -> tuple[Column, ...]:
    """How each input is encoded; columns that are constant are left out."""
    encoded, constant = [], []
    for name in names:
        column = _input_column(columns, name, train)
        if column is None:
            constant.append(name)
        else:
            encoded.append(column)
    if not encoded:
        raise DataError(f"{columns.path}: no column is left as an input (constant: {constant})")
    if constant:
        LOG.warning("%s: constant and left out: %s", columns.path, ", ".join(constant))
    return tuple(encoded)


def _input_column(columns: Columns, name: str, train: np.ndarray) -> Column | None:
    values = numbers(columns, name)
    if values is None:
        categories = sorted(set(texts(columns, name)))
        if len(categories) > min(MOST_CATEGORIES, max(columns.size // 2, 2)):
            raise DataError(
                f"{columns.path}: column {name!r} holds {len(categories)} different texts, such as "
                f"{categories[0]!r}, expected numbers or few categories; --inputs names the "
                "columns to use"
            )
        return Column(name, categories=tuple(categories)) if len(categories) > 1 else None
    if np.ptp(values) == 0:
        return None
    # A column may be constant in the training rows alone. What `std` returns then is rounding, not
    # always 0, and divided by it the other rows would be as large as 1e15.
    scaled = values[train] if np.ptp(values[train]) else values
    return Column(name, float(values[train].mean()), float(scaled.std()))
