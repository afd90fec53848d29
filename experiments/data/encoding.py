"""The columns of a table as the numbers of a network, and how: the run folder keeps it.

Columns of numbers are standardised, columns of text become a 0 or 1 for each of their values; so
new rows can be encoded, and predictions given in the unit of the column.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from experiments.data.reading import Columns, canonical, numbers, texts
from experiments.data.sources import DataError


class Column(NamedTuple):
    """How a column becomes numbers.

    Attributes:
        name: of the column.
        mean, scale: a number becomes (number − mean) / scale.
        categories: the values of a column of text or of classes, in order; None for numbers.
    """

    name: str
    mean: float = 0.0
    scale: float = 1.0
    categories: tuple[str, ...] | None = None


class Encoding(NamedTuple):
    """How the columns of a table become inputs and labels."""

    inputs: tuple[Column, ...]
    target: Column

    def to_record(self) -> dict[str, Any]:
        """As JSON takes it."""

        def record(column: Column) -> dict[str, Any]:
            categories = None if column.categories is None else list(column.categories)
            return {**column._asdict(), "categories": categories}

        return {"inputs": [record(column) for column in self.inputs], "target": record(self.target)}


def encoding_of(record: Mapping[str, Any]) -> Encoding:
    """What `to_record` wrote."""

    def column(fields: Mapping[str, Any]) -> Column:
        categories = fields["categories"]
        return Column(**{**fields, "categories": None if categories is None else tuple(categories)})

    return Encoding(tuple(map(column, record["inputs"])), column(record["target"]))


def encode_inputs(columns: Columns, encoding: Encoding) -> np.ndarray:
    """The network's inputs, float32 [M, d]; DataError if a column does not fit the encoding."""
    require_columns(columns, [column.name for column in encoding.inputs])
    parts = []
    for column in encoding.inputs:
        if column.categories is None:
            parts.append(_standardized(columns, column)[:, None])
        else:
            parts.append(np.eye(len(column.categories))[indices_of(columns, column)])
    return np.concatenate(parts, axis=1).astype(np.float32)


def input_units(encoding: Encoding) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    """Name, mean and scale of each of the network's inputs, as `encode_inputs` has them: d each."""
    names, means, scales = [], [], []
    for column in encoding.inputs:
        parts = [column.name]
        if column.categories is not None:
            parts = [f"{column.name}_{value}" for value in column.categories]
        names += parts
        means += [column.mean] * len(parts)
        scales += [column.scale] * len(parts)
    return tuple(names), np.array(means), np.array(scales)


def encode_target(columns: Columns, encoding: Encoding) -> np.ndarray:
    """The labels: classes int32 [M], or standardised values float32 [M, 1]."""
    if encoding.target.categories is not None:
        return indices_of(columns, encoding.target)
    return _standardized(columns, encoding.target)[:, None]


def _standardized(columns: Columns, column: Column) -> np.ndarray:
    """float32 [M]."""
    with np.errstate(over="ignore"):
        values = (numbers_of(columns, column.name) - column.mean) / column.scale
        values = values.astype(np.float32)
    for row in np.flatnonzero(~np.isfinite(values)).tolist():
        raise columns.fail(row, column.name, "too far from the training rows for float32")
    return values


def numbers_of(columns: Columns, name: str) -> np.ndarray:
    values = numbers(columns, name)
    if values is None:
        raise columns.fail(0, name, f"{texts(columns, name)[0]!r}, expected numbers")
    return values


def indices_of(columns: Columns, column: Column) -> np.ndarray:
    """The index of every cell in the column's categories, int32 [M]."""
    categories = column.categories or ()
    index = {category: number for number, category in enumerate(categories)}
    found = []
    for row, cell in enumerate(texts(columns, column.name)):
        number = index.get(cell, index.get(canonical(cell)))
        if number is None:
            shown = ", ".join(categories[:10]) + (", …" if len(categories) > 10 else "")
            raise columns.fail(row, column.name, f"{cell!r}, expected one of {shown}")
        found.append(number)
    return np.array(found, np.int32)


def require_columns(columns: Columns, names: Iterable[str], what: str = "") -> None:
    """Raises DataError for a column that the table does not have."""
    if missing := [name for name in names if name not in columns.cells]:
        raise DataError(
            f"{columns.path}: {what}no column {', '.join(map(repr, missing))}; it has "
            f"{', '.join(columns.cells)}"
        )
