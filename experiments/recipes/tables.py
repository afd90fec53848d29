"""Real tables with their standard splits: the learned choices beside what people would use.

    python -m experiments.recipes.tables --data-dir FOLDER [--tables yacht ...] [--splits 20]
    python -m experiments.recipes.tables --tables engine_thrust [--derivative-weight 1]

FOLDER holds NAME.csv, its last column y the target, and NAME.splits.npz: `test`, a mask [splits,
rows] packed by numpy.packbits, and `rows`. Four more tables are in packages and need no folder:
diabetes (scikit-learn); airfoil_drag, engine_thrust and engine_fuel (smt), whose derivatives by the
inputs are known too and with --derivative-weight are fitted by the networks; each has ten splits.
Each split is a run with seed 0, 1, …; a tenth of its training rows validates, the same for every
method. Networks d-64-64-1, preset `recommended` for tables: learned choices, shuffled ones, uniform
networks of the eight functions; and scikit-learn's gradient boosting and, up to 2,000 rows, a
Gaussian process, on the same training rows. The numbers are test RMSE, means over the splits ±
their standard error. About half a minute a split of all methods on one CPU core; the same command
again goes on. Expected: experiments/LOG.md.
"""

import dataclasses
import math
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments import recipes
from experiments.command_line import exit_status
from experiments.data.encoding import numbers_of
from experiments.data.reading import find_file, read_arrays, read_columns
from experiments.data.sources import DataError
from experiments.presets import default_config
from experiments.recipes import over_tasks, regret
from experiments.report import format_table
from experiments.training.compilation import keep_compilations
from smartmixed_jax import REGRESSION_POOL

TABLES = (
    *("yacht", "energy", "concrete", "airfoil", "wine", "kin8nm", "power", "naval"),
    *("elevators", "pol"),
)
PACKAGED = ("diabetes", "airfoil_drag", "engine_thrust", "engine_fuel")
SPLITS = 10
"""Of a table in a package: nine tenths of its rows, drawn, train and validate."""
PUBLISHED = dict(
    concrete="4.82 ± 0.16",
    energy="0.54 ± 0.06",
    kin8nm="0.08",
    power="4.01 ± 0.04",
    wine="0.62 ± 0.01",
    yacht="0.67 ± 0.05",
)
"""Of a network with one hidden layer of 50 units and dropout, 20 splits (Gal and Ghahramani)."""
PROCESS_ROWS = 2_000
"""A Gaussian process takes the cube of its rows as time."""
FOLDER, FIGURE = Path("runs/tables"), Path("runs/tables.png")


class Table(NamedTuple):
    """x [M, d], y [M], the test rows of every split, bool [splits, M], and ∂y/∂x [M, d] or None."""

    x: np.ndarray
    y: np.ndarray
    test: np.ndarray
    dy: np.ndarray | None = None


def read_splits(folder: Path, name: str) -> Table:
    """A table with its splits; DataError if they do not fit."""
    columns = read_columns(find_file(f"{name}.csv", str(folder)))
    inputs = [column for column in columns.cells if column != "y"]
    x = np.stack([numbers_of(columns, column) for column in inputs], -1)
    y = numbers_of(columns, "y")
    arrays = read_arrays(folder / f"{name}.splits.npz")
    try:
        test = np.unpackbits(arrays["test"], axis=1)[:, : int(arrays["rows"])].astype(bool)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{folder / name}.splits.npz: expected test and rows ({error})") from None
    if test.shape[1] != len(y):
        raise DataError(f"{folder / name}.splits.npz: {test.shape[1]} rows, the table has {len(y)}")
    return Table(x, y, test)


def read_packaged(name: str) -> Table:
    """A table that a package holds; DataError where the package is missing."""
    try:
        x, y, dy = _packaged(name)
    except ImportError as error:
        package = "scikit-learn" if name == "diabetes" else "smt"
        raise DataError(f"{name} needs {package} ({error}): pip install {package}") from None
    test = np.zeros((SPLITS, len(y)), bool)
    for split, rows in enumerate(test):
        rows[np.random.default_rng([split, 0x7AB]).permutation(len(y))[: len(y) // 10]] = True
    return Table(x, y, test, dy)


def _packaged(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    if name == "diabetes":
        from sklearn.datasets import load_diabetes

        return *load_diabetes(return_X_y=True), None
    if name == "airfoil_drag":
        from smt.examples.airfoil_parameters.learning_airfoil_parameters import (
            load_cd_training_data,
        )

        return load_cd_training_data()  # type: ignore[no-any-return]
    from smt.examples.b777_engine.b777_engine import get_b777_engine

    x, y, dy, _ = get_b777_engine()
    column = ("engine_thrust", "engine_fuel").index(name)
    return x, y[:, column], dy[:, column]


def parts_of(test: np.ndarray, split: int) -> np.ndarray:
    """train, validation or test for every row of a split, [M]."""
    rows = np.random.default_rng(split).permutation(np.flatnonzero(~test[split]))
    parts = np.full(test.shape[1], "train", dtype="<U10")
    parts[test[split]] = "test"
    parts[rows[: math.ceil(len(rows) / 10)]] = "validation"
    return parts


def write_split(table: Table, name: str, split: int) -> Path:
    """A table with a column that says which row is for what, as `--split-column split` takes it."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{name}-{split:02}.npz"
    more: dict[str, Any] = {} if table.dy is None else {"dy": table.dy}
    np.savez(path, x=table.x, y=table.y, split=parts_of(table.test, split), **more)
    return path


def study(file: Path, split: int, **changes: Any) -> recipes.Study:
    base = dataclasses.replace(
        default_config(task=f"table:{file}"),
        target_kind="values",
        split_column="split",
        **changes,
    )
    uniform = REGRESSION_POOL.names
    return recipes.study(base, [split], controls=("shuffled",), uniform=uniform)


# What people would use instead


def boosted(x: np.ndarray, y: np.ndarray, seed: int) -> Callable[[np.ndarray], np.ndarray]:
    """Gradient boosting with scikit-learn's defaults."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    fitted = HistGradientBoostingRegressor(random_state=seed).fit(x, y)
    return fitted.predict  # type: ignore[no-any-return]


def process(x: np.ndarray, y: np.ndarray, seed: int) -> Callable[[np.ndarray], np.ndarray]:
    """A Gaussian process: squared exponential with a length per input, and noise."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    kernel = ConstantKernel() * RBF(np.ones(x.shape[1])) + WhiteKernel(0.1)
    fitted = GaussianProcessRegressor(kernel, normalize_y=True, random_state=seed)
    with warnings.catch_warnings():  # the length of an input without effect has no end
        warnings.simplefilter("ignore", ConvergenceWarning)
        return make_pipeline(StandardScaler(), fitted).fit(x, y).predict  # type: ignore[no-any-return]


def others(table: Table, splits: int) -> dict[str, np.ndarray]:
    """Test RMSE of every split, [splits], by method."""
    x, y, test, _ = table
    methods = {"gradient boosting": boosted}
    if len(y) <= PROCESS_ROWS:
        methods["Gaussian process"] = process
    found: dict[str, list[float]] = {method: [] for method in methods}
    for split in range(splits):
        parts = parts_of(test, split)
        train, held_out = parts == "train", parts == "test"
        for method, fit in methods.items():
            error = fit(x[train], y[train], split)(x[held_out]) - y[held_out]
            found[method].append(float(np.sqrt(np.mean(error**2))))
    return {method: np.array(errors) for method, errors in found.items()}


def networks(table: Table, name: str, splits: int, weight: float) -> dict[str, np.ndarray]:
    """The same of the networks; every split is a study of its own, picked by its validation."""
    changes = {"derivative_weight": weight} if weight else {}
    studies = [study(write_split(table, name, split), split, **changes) for split in range(splits)]
    trained = regret.train(studies)
    return {
        variant: np.array([_rmse(runs[variant][0]) for runs in trained])
        for variant in trained[0]
        if not regret.is_member(variant)
    }


def _rmse(run: regret.FinishedRun) -> float:
    number: float = run.summary["phases"][-1]["test_rmse"]
    return number


def table_of(found: dict[str, dict[str, np.ndarray]]) -> str:
    """A row for each table: RMSE ± standard error by method, and what was published."""
    methods = list(dict.fromkeys(method for of_table in found.values() for method in of_table))
    return format_table(
        [
            {
                "table": name,
                **{m: with_error(of_table[m]) if m in of_table else "" for m in methods},
                "published": PUBLISHED.get(name, ""),
            }
            for name, of_table in found.items()
        ]
    )


def with_error(errors: np.ndarray) -> str:
    """Mean ± standard error, of [splits]."""
    error = float(np.std(errors, ddof=1) / math.sqrt(len(errors))) if len(errors) > 1 else 0.0
    return f"{errors.mean():.3g} ± {error:.2g}"


def main(arguments: Sequence[str]) -> int:
    parser = recipes.Parser(prog="python -m experiments.recipes.tables", description=__doc__)
    parser.add_argument("--data-dir", type=Path, metavar="FOLDER")
    parser.add_argument("--tables", nargs="+", choices=(*TABLES, *PACKAGED), metavar="NAME")
    parser.add_argument("--splits", type=int, default=20, metavar="N")
    parser.add_argument("--derivative-weight", type=float, default=0.0, metavar="WEIGHT")
    parser.add_argument("--write", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    folder, weight = options.data_dir, options.derivative_weight
    names = options.tables or [*(TABLES if folder else ()), *PACKAGED]
    if folder is None and not set(names) <= set(PACKAGED):
        parser.error("--data-dir: expected the folder of the tables")

    def work() -> int:
        keep_compilations()
        found, records = {}, []
        for name in names:
            table = read_packaged(name) if name in PACKAGED else read_splits(folder, name)
            count = min(options.splits, len(table.test))
            found[name] = networks(table, name, count, weight) | others(table, count)
            print(f"\n{table_of(found)}", flush=True)
            lists = {method: errors.tolist() for method, errors in found[name].items()}
            records.append({"table": name, "test_rmse": lists})
        shared = [m for m in next(iter(found.values())) if all(m in f for f in found.values())]
        by_table = {m: np.array([[of[m].mean()] for of in found.values()]) for m in shared}
        print(f"\n{over_tasks.verdict_table(by_table)}")
        if len(found) > 1 and len(shared) > 2:
            over_tasks.draw_ranks(by_table, FIGURE, "tables")
            print(FIGURE)
        if options.write:
            over_tasks.write(options.write, "experiments.recipes.tables", arguments, records)
        return 0

    return exit_status(work)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
