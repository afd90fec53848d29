"""What was chosen, as tables: of the runs of one row, over their seeds."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments import statistics
from experiments.chosen.association import (
    TOLERANCE,
    Weights,
    Wiring,
    agreement,
    matches_of_pairs,
    settled_epoch,
    share_intervals,
    wiring,
)
from experiments.chosen.units import FLAT, SATURATED, Units
from experiments.report import format_table
from experiments.run_folder import RunData

LEVEL = 0.05
"""p-values below it are shown."""


class Chosen(NamedTuple):
    """The runs of one row, a seed each, in the order of the seeds.

    Attributes:
        name: of the row.
        folders: [S].
        runs: [S], what the folders hold.
        layers: the layers' names, by their paths.
        pool: the functions' names.
    """

    name: str
    folders: list[Path]
    runs: list[RunData]
    layers: dict[str, str]
    pool: tuple[str, ...]

    def choices(self, path: str) -> np.ndarray:
        """Of one layer, [S, N]."""
        return np.stack([run.choices[path].choices for run in self.runs if run.choices])

    @property
    def used(self) -> list[int]:
        """The functions that any neuron chose."""
        return sorted({int(c) for path in self.layers for c in np.unique(self.choices(path))})


# From the rows and choices alone


def share_table(chosen: Chosen) -> str:
    """Per layer the share of neurons of each function, with its interval over seeds."""
    rows = []
    for path, name in chosen.layers.items():
        choices = chosen.choices(path)
        shares = share_intervals(choices, len(chosen.pool))
        cells = {chosen.pool[index]: _percent(shares[index]) for index in chosen.used}
        rows.append({"layer": name, "neurons": choices.shape[1], **cells})
    note = "\n[95 % interval of the mean over seeds, Student's t]" if len(chosen.runs) > 2 else ""
    return f"share of neurons (%)\n{format_table(rows)}{note}"


def _percent(numbers: Sequence[float]) -> str:
    mean, *ends = (f"{100 * number:.0f}" for number in numbers)
    return f"{mean} [{', '.join(ends)}]" if ends else mean


def settled_table(chosen: Chosen) -> str:
    """Per layer and seed the epoch from which on its shares stay."""
    rows = []
    for path, name in chosen.layers.items():
        epochs = {}
        for run in chosen.runs:
            layers = [row["layers"][path] for row in run.rows("selective")]
            counts = np.array([[layer["counts"][f] for f in chosen.pool] for layer in layers])
            epochs[f"seed {run.config.seed}"] = settled_epoch(counts)
        rows.append({"layer": name, **epochs})
    return (
        "settled: the epoch of phase 1 from which on the shares stay within "
        f"{100 * TOLERANCE:.0f} % of the neurons of those\nat its end; neurons that change places "
        "are not seen\n"
        f"{format_table(rows)}"
    )


# From the weights


def agreement_table(chosen: Chosen, networks: Sequence[Weights], resamples: int) -> str:
    """Per layer how often matched neurons of two seeds chose the same function."""
    found = [
        agreement(chosen.choices(path), matches, resamples=resamples)
        for path, matches in zip(chosen.layers, matches_of_pairs(networks), strict=True)
    ]
    adjusted = statistics.holm([each.p_value for each in found])
    rows = [
        {
            "layer": name,
            "agree": f"{100 * each.share:.1f} %",
            "by chance": f"{100 * each.chance:.1f} %",
            "p, Holm": f"{p_value:.2g}",
        }
        for name, each, p_value in zip(chosen.layers.values(), found, adjusted, strict=True)
    ]
    return (
        "agreement between seeds: pairs of neurons that chose the same function, matched by their "
        f"incoming weights\n{format_table(rows)}"
    )


def wiring_tables(
    chosen: Chosen, kernels: Sequence[Sequence[np.ndarray]], resamples: int | None
) -> str:
    """Between layers that follow each other, mean |weight| from function to function.

    Args:
        kernels: per seed those between the layers, [N, M] each.
        resamples: permutations; None: so many that Holm's method can find an effect.
    """
    paths, functions = list(chosen.layers), len(chosen.pool)
    if resamples is None:
        resamples = max(999, 100 * len(chosen.used) ** 2 * (len(paths) - 1))
    found = []
    for place, path in enumerate(paths[:-1]):
        between = np.stack([layers[place] for layers in kernels])
        ends = chosen.choices(path), chosen.choices(paths[place + 1])
        found.append(wiring(between, *ends, functions, resamples=resamples))
    p_values = np.stack([each.p_value for each in found])
    tested = ~np.isnan(p_values)
    p_values[tested] = statistics.holm(p_values[tested])
    tables = []
    for place, (each, adjusted) in enumerate(zip(found, p_values, strict=True)):
        start, end = (chosen.layers[path] for path in paths[place : place + 2])
        tables.append(f"from {start} to {end}\n{_wiring_table(chosen, each, adjusted)}")
    return "\n".join(
        [
            "weights between functions: mean |weight| over that of the layer; with its p where it "
            f"is below {LEVEL}\n(permuted choices, Holm over {tested.sum()} ratios)",
            *tables,
        ]
    )


def _wiring_table(chosen: Chosen, found: Wiring, adjusted: np.ndarray) -> str:
    def cell(start: int, end: int) -> str:
        ratio, p_value = found.ratio[start, end], adjusted[start, end]
        if np.isnan(ratio):
            return ""
        return f"{ratio:.2f}" + (f" (p {p_value:.1g})" if p_value < LEVEL else "")

    return format_table(
        [
            {
                "from": chosen.pool[start],
                **{f"to {chosen.pool[end]}": cell(start, end) for end in chosen.used},
            }
            for start in chosen.used
        ]
    )


# From the data


def unit_table(
    chosen: Chosen,
    before: Sequence[Mapping[str, Units] | None],
    after: Sequence[Mapping[str, Units]],
) -> str:
    """Dead and saturated neurons per layer and function, of all seeds together."""
    at_switch = {seed: units for seed, units in enumerate(before) if units is not None}
    moments = {"at the switch": at_switch} if at_switch else {}
    moments["at the end"] = dict(enumerate(after))
    rows = []
    for path, name in chosen.layers.items():
        choices = chosen.choices(path)
        for index in np.unique(choices).tolist():
            row = {
                "layer": name,
                "function": chosen.pool[index],
                "neurons": np.sum(choices == index),
            }
            for state in Units._fields:
                for moment, by_seed in moments.items():
                    states = [
                        getattr(units[path], state)[choices[seed] == index]
                        for seed, units in by_seed.items()
                    ]
                    row[f"{state} {moment}"] = _percent_of(np.concatenate(states))
            rows.append(row)
    missing = len(before) - len(at_switch)
    note = f"\nno checkpoint of the switch: {missing} of {len(before)} runs" if missing else ""
    return (
        f"neurons (%) that are dead, |f′| < {FLAT} at every validation input, or saturated, at "
        f"{100 * SATURATED:.0f} % of them or more\n{format_table(rows)}{note}"
    )


def _percent_of(states: np.ndarray) -> str:
    return f"{100 * np.mean(states):.1f}" if states.size else ""
