"""What was chosen, over the seeds of finished runs: `python -m experiments.chosen RUN ...`.

Shares of each function per layer, when they settle, whether matched neurons of two seeds agree, how
large the weights between functions are, dead and saturated neurons before and after the switch. Of
every method and control of one task, but for uniform networks.

    python -m experiments.chosen RUN ... --majority FILE.json
    python -m experiments.run --config FILE.json

The first writes the config of a network with one function per layer, the one that most of its
neurons chose over the seeds; the second trains that network from scratch.
"""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from experiments.chosen.tables import (
    Chosen,
    agreement_table,
    settled_table,
    share_table,
    unit_table,
    wiring_tables,
)
from experiments.chosen.units import dead_and_saturated
from experiments.command_line import Parser, exit_status
from experiments.comparison import Row, compare_runs
from experiments.config import LAYERS, Config, to_json
from experiments.evaluate import TrainedRun, load_data, load_run, load_switched
from experiments.names import layer_names, reset_without_effect
from experiments.run_folder import read_config, read_run, write_text
from smartmixed_jax.summary import most_chosen


def read_chosen(folders: Sequence[Path]) -> list[Chosen]:
    """Finished runs of one task, by what they differ in beside the seed; no uniform networks.

    Raises:
        ValueError: as `compare_runs`; or a run without choices.
    """
    comparison = compare_runs(folders)
    folder_of = {read_config(folder): Path(folder) for folder in folders}
    rows = [row for row in comparison.rows if row.config.has_choices]
    if not rows:
        raise ValueError("expected a run whose neurons choose, got uniform networks alone")
    return [_read_row(row, folder_of) for row in rows]


def _read_row(row: Row, folder_of: Mapping[Config | None, Path]) -> Chosen:
    folders = [folder_of[row.runs[seed].config] for seed in sorted(row.runs)]
    runs = [read_run(folder) for folder in folders]
    for folder, run in zip(folders, runs, strict=True):
        if not run.choices:
            raise ValueError(f"{folder} holds no choices.json")
    layers = runs[0].choices or {}
    (pool,) = {layer.pool for layer in layers.values()}
    return Chosen(row.name, folders, runs, layer_names(runs[0].config.network, layers), pool)


def describe(chosen: Chosen, *, restore: bool, resamples: int | None) -> str:
    """All tables of the runs of one row.

    Args:
        restore: the networks too, for their weights and what they do on the validation data.
        resamples: of the permutation tests; None: as many as they need.

    Raises:
        ValueError, DataError: a network or the data cannot be had.
    """
    seeds = ", ".join(str(run.config.seed) for run in chosen.runs)
    parts = [f"{chosen.name}: seeds {seeds}", share_table(chosen), settled_table(chosen)]
    if not restore:
        return "\n\n".join(parts)
    trained = [load_run(folder) for folder in chosen.folders]
    if chosen.runs[0].config.network == "mlp":
        weights = [dense_layers(run) for run in trained]
        if len(weights) > 1:
            incoming = [layers[:-1] for layers in weights]
            parts.append(agreement_table(chosen, incoming, resamples or 999))
        if len(chosen.layers) > 1:
            between = [[kernel for kernel, _ in layers[1:-1]] for layers in weights]
            parts.append(wiring_tables(chosen, between, resamples))
    else:
        parts.append("agreement between seeds, and weights between functions: of an mlp alone")
    before, after = [], []
    for folder, run in zip(chosen.folders, trained, strict=True):
        inputs = load_data(run).splits["validation"].inputs
        switched = load_switched(folder)
        before.append(None if switched is None else dead_and_saturated(switched, inputs))
        after.append(dead_and_saturated(run, inputs))
    parts.append(unit_table(chosen, before, after))
    return "\n\n".join(parts)


def dense_layers(run: TrainedRun) -> list[tuple[np.ndarray, np.ndarray]]:
    """Kernels and biases of an mlp, from the first layer to the last."""
    layers = run.network.layers
    return [(np.asarray(layer.kernel[...]), np.asarray(layer.bias[...])) for layer in layers]


def majority_config(chosen: Chosen) -> Config:
    """The config of a network with the majority's function per layer, of the first run's seed.

    What else that run was told stays, as far as it has an effect without choices.
    """
    names = [
        most_chosen(dict(zip(chosen.pool, counts.tolist(), strict=True)))
        for path in chosen.layers
        for counts in [np.bincount(chosen.choices(path).ravel(), minlength=len(chosen.pool))]
    ]
    config = dataclasses.replace(chosen.runs[0].config, method=LAYERS + ",".join(names))
    return dataclasses.replace(reset_without_effect(config), run_dir=None)


def _write_majority(folders: Sequence[Path], path: Path) -> int:
    rows = read_chosen(folders)
    if len(rows) > 1:
        names = ", ".join(row.name for row in rows)
        raise ValueError(f"--majority: expected runs that differ in the seed alone, got {names}")
    config = majority_config(rows[0])
    write_text(path, to_json(config))
    print(f"{config.method}\npython -m experiments.run --config {path}")
    return 0


def main(arguments: Sequence[str]) -> int:
    """Prints what was chosen; returns the exit status."""
    parser = Parser(prog="python -m experiments.chosen", description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, metavar="RUN", help="the folder of a run")
    parser.add_argument(
        "--no-networks",
        action="store_true",
        help="shares and when they settle alone: no network is restored, no data are read",
    )
    parser.add_argument(
        "--resamples",
        type=int,
        metavar="N",
        help="permutations of each test (default: as many as Holm's method needs)",
    )
    parser.add_argument(
        "--majority",
        type=Path,
        metavar="FILE.json",
        help="instead: write the config of a network with the majority's function per layer",
    )
    options = parser.parse_args(arguments)

    def work() -> int:
        if options.majority is not None:
            return _write_majority(options.folders, options.majority)
        if options.resamples is not None and options.resamples < 1:
            raise ValueError(f"--resamples {options.resamples}: expected 1 or more")
        for number, chosen in enumerate(read_chosen(options.folders)):
            text = describe(chosen, restore=not options.no_networks, resamples=options.resamples)
            print(text if number == 0 else f"\n\n{text}", flush=True)
        return 0

    return exit_status(work)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
