"""Tables as their files have them: columns by name, from CSV or NPZ; a fault names its place."""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.data.npz import read_npz_file
from experiments.data.sources import DataError, describe_error, local_path
from experiments.typed_json import shown

SMALLEST, LARGEST = 1e-100, 1e100
"""Of the numbers in a table: means and variances are computed in float64."""

MISSING = frozenset({"", "na", "n/a", "nan", "null"})


class Columns(NamedTuple):
    """A table as its file has it.

    Attributes:
        path: of the file.
        cells: of each column by its name, [M]: text, or the numbers of an NPZ file.
        rows: where each row stands: its line in a CSV, where the names are in line 1; its index
            in an NPZ.
    """

    path: Path
    cells: dict[str, np.ndarray]
    rows: Sequence[int]

    @property
    def size(self) -> int:
        """M."""
        return len(self.rows)

    def fail(self, row: int, name: str, problem: str) -> DataError:
        """The error of a cell, the row counted from 0."""
        place = f"{self.path}, row {self.rows[row]}, column {shown(name)}"
        return DataError(f"{place}: {problem[:300]}")


def find_file(text: str, data_dir: str | None) -> Path:
    """A file by its path, or below data_dir; DataError if there is none."""
    places = [local_path(text)]
    if data_dir is not None:
        places.append(local_path(data_dir) / text)
    for place in places:
        if place.is_file():
            return place
    looked = " or ".join(str(place.absolute()) for place in places)
    raise DataError(f"no file {looked}")


def read_columns(path: Path, extra: Sequence[str] = ()) -> Columns:
    """Reads a table.

    Args:
        path: a CSV file whose first line names the columns, separated by commas, semicolons or
            tabs; or an NPZ file with the arrays x [M, d] and y [M] or [M, 1], and maybe `columns`,
            the d names (default x1, x2, …).
        extra: further arrays [M] of an NPZ file that are columns.

    Raises:
        DataError: the file cannot be read, or is no such table.
    """
    try:
        if path.suffix.lower() == ".csv":
            return _read_csv(path)
        if path.suffix.lower() == ".npz":
            return _read_npz(path, extra)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({describe_error(error)})") from error
    raise DataError(f"{path}: expected a file that ends in .csv or .npz")


# CSV


def _read_csv(path: Path) -> Columns:
    try:
        # Excel begins UTF-8 with a byte order mark.
        with open(path, encoding="utf-8-sig", newline="") as file:
            first = next((line for line in file if line.strip()), "")
            file.seek(0)
            delimiter = max(",;\t", key=first.count)
            reader = csv.reader(file, delimiter=delimiter, skipinitialspace=True, strict=True)
            # A quoted cell may go over several lines: a row is named by its last.
            lines = [(reader.line_num, row) for row in reader if row]
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no UTF-8 text ({error.reason} at byte {error.start})") from None
    except csv.Error as error:
        raise DataError(f"{path}, row {reader.line_num}: {error}") from None
    if not lines:
        raise DataError(f"{path} is empty")
    (_, names), *rows = lines
    names = [name.strip() for name in names]
    _check_names(path, names)
    if not rows:
        raise DataError(f"{path} has no row below the names of its columns")
    for line, row in rows:
        if len(row) != len(names):
            raise DataError(f"{path}, row {line}: {len(row)} cells, expected {len(names)}")
        if any("\0" in cell for cell in row):
            raise DataError(f"{path}, row {line}: a NUL, expected text")
    cells = {
        name: np.array([row[place].strip() for _, row in rows]) for place, name in enumerate(names)
    }
    return Columns(path, cells, [line for line, _ in rows])


def _check_names(path: Path, names: Sequence[str]) -> None:
    if all(_number(name) is not None for name in names):
        raise DataError(f"{path}: expected the names of the columns in row 1, found only numbers")
    for place, name in enumerate(names, 1):
        if not name:
            hint = "; pandas writes no such column with index=False" if place == 1 else ""
            raise DataError(f"{path}: column {place} has no name{hint}")
        if name in names[: place - 1]:
            raise DataError(f"{path}: two columns are called {name!r}")


# NPZ


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Every array of an NPZ file; DataError if it cannot be read."""
    try:
        return read_npz_file(path)
    except Exception as error:  # a damaged zip raises any of a dozen unrelated types
        raise DataError(f"{path} cannot be read ({describe_error(error)})") from error


def read_names(arrays: Mapping[str, np.ndarray], key: str, path: Path) -> list[str]:
    """An array of names, which may be missing; DataError if it has another shape."""
    names = arrays.get(key, np.array([]))
    if names.ndim != 1:
        raise DataError(f"{path}: {key} has the shape {list(names.shape)}, expected a list")
    return [str(name) for name in names]


def _read_npz(path: Path, extra: Sequence[str]) -> Columns:
    arrays = read_arrays(path)
    if missing := [name for name in ("x", *extra) if name not in arrays]:
        raise DataError(
            f"{path}: expected the arrays {', '.join(['x', 'y', *extra])}, found "
            f"{', '.join(arrays) or 'none'} (no {missing[0]})"
        )
    x = arrays["x"]
    if x.ndim != 2 or not x.size or x.dtype.kind not in "fiub":
        raise DataError(f"{path}: x is {x.dtype} {list(x.shape)}, expected numbers [M, d]")
    names = read_names(arrays, "columns", path)
    names = names or [f"x{number + 1}" for number in range(x.shape[1])]
    if len(names) != x.shape[1]:
        raise DataError(f"{path}: {len(names)} columns are named, x has {x.shape[1]}")
    cells = dict(zip(names, x.T, strict=True))
    others = [name for name in ("y", *extra) if name in arrays]
    _check_names(path, [*names, *others])
    for name in others:
        array = arrays[name]
        if array.shape not in ((len(x),), (len(x), 1)) or array.dtype.kind not in "fiubU":
            raise DataError(
                f"{path}: {name} is {array.dtype} {list(array.shape)}, expected numbers or text "
                f"[{len(x)}] or [{len(x)}, 1], one per row"
            )
        cells[name] = array.reshape(-1)
    cells = {n: a.astype(str) if a.dtype.kind == "b" else a for n, a in cells.items()}
    return Columns(path, cells, range(len(x)))


# Cells


def texts(columns: Columns, name: str) -> list[str]:
    """The cells of a column as text, numbers without needless digits; none may be missing."""
    cells = columns.cells[name]
    found = [cell if isinstance(cell, str) else f"{cell:.15g}" for cell in cells.tolist()]
    for row, cell in enumerate(found):
        if cell.lower() in MISSING:
            value = f"a missing value ({cell})" if cell else "a missing value"
            raise columns.fail(row, name, f"{value}: fill it in, or leave out the row")
    return found


def numbers(columns: Columns, name: str) -> np.ndarray | None:
    """A column of numbers, float64 [M]; None for text. None may be missing.

    Where at least half of the cells are numbers, one that is not is an error.
    """
    cells = columns.cells[name]
    if cells.dtype.kind in "fiu":
        with np.errstate(over="ignore"):
            values = cells.astype(np.float64)
    else:
        found = texts(columns, name)
        parsed = [_number(cell) for cell in found]
        wrong = [row for row, value in enumerate(parsed) if value is None]
        if 2 * len(wrong) > len(parsed):
            return None
        if wrong:
            problem = f"{found[wrong[0]]!r} is no number, as most of the column are"
            raise columns.fail(wrong[0], name, problem)
        values = np.array(parsed, np.float64)
    for row in np.flatnonzero(~np.isfinite(values)).tolist():
        raise columns.fail(row, name, f"{values[row]} is no finite number")
    sizes = np.abs(values)
    for row in np.flatnonzero((sizes > LARGEST) | ((sizes > 0) & (sizes < SMALLEST))).tolist():
        ends = f"from {SMALLEST:g} to {LARGEST:g}"
        raise columns.fail(row, name, f"{values[row]}, expected 0 or a size {ends}")
    return values


def _number(cell: str) -> float | None:
    try:
        return float(cell) if "_" not in cell else None
    except ValueError:
        return None


def canonical(cell: str) -> str:
    """3.0 and 03 as 3; other text as it is."""
    value = _number(cell)
    return cell if value is None or not math.isfinite(value) else f"{value:.15g}"
