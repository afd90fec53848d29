"""What the benchmarks share: interleaved timing, ratios, the comparison with float64, the record.

A shared machine is up to twice as slow in one second as in the next, so a time says little and
a ratio of two times from the same round says much.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.report import format_table
from experiments.training.outcome import environment

Row = dict[str, Any]
Variant = Callable[[int], Any]
"""Dispatches call number i, from 0 on, and returns the arrays to wait for; inputs take turns."""


class BenchmarkError(Exception):
    """Ends a benchmark with one line."""


# Timing


def time_interleaved(
    variants: Mapping[str, Variant], *, rounds: int, calls: int, seed: int = 0
) -> dict[str, np.ndarray]:
    """Times every variant once per round, in an order drawn for each round.

    Args:
        variants: names → variants; one more round comes first, to compile and warm up.
        rounds: samples per variant.
        calls: calls dispatched per sample before waiting for them together.
        seed: of the order.

    Returns:
        names → seconds per call, [rounds].
    """
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    order, rng = list(variants), np.random.default_rng(seed)
    for number in range(rounds + 1):
        for name in order:
            seconds[name].append(_sample(variants[name], number * calls, calls))
        rng.shuffle(order)
    return {name: np.asarray(samples[1:]) for name, samples in seconds.items()}


def _sample(variant: Variant, first: int, calls: int) -> float:
    begun = time.perf_counter()
    # All outputs are held and waited for: a CPU may finish independent calls out of order.
    jax.block_until_ready([variant(i) for i in range(first, first + calls)])
    return (time.perf_counter() - begun) / calls


def compare(times: np.ndarray, baseline: np.ndarray) -> dict[str, float]:
    """Median and quartiles of the ratio of two variants' times [rounds], round by round."""
    lower, median, upper = np.quantile(times / baseline, [0.25, 0.5, 0.75])
    return {"median": float(median), "lower": float(lower), "upper": float(upper)}


def rows(times: Mapping[str, np.ndarray], baselines: Sequence[str], **setting: Any) -> list[Row]:
    """One row per variant: the setting, median seconds per call, ratios to the baselines."""
    return [
        {
            **setting,
            "variant": name,
            "seconds": float(np.median(samples)),
            "ratios": {f"to {base}": compare(samples, times[base]) for base in baselines},
        }
        for name, samples in times.items()
    ]


# Correctness


def require_close(name: str, outputs: Any, expected: Any, tolerance: float) -> None:
    """Raises BenchmarkError unless ‖output − expected‖ ≤ tolerance · ‖expected‖ in every array.

    Args:
        name: of the variant, for the message.
        outputs: a sequence of arrays.
        expected: as many float64 arrays of the same shapes.
        tolerance: of the relative error.
    """
    for number, (output, wanted) in enumerate(zip(outputs, expected, strict=True)):
        got, wanted = np.asarray(output, np.float64), np.asarray(wanted)
        if got.shape != wanted.shape:
            raise BenchmarkError(
                f"{name}: result {number} has shape {list(got.shape)}, expected "
                f"{list(wanted.shape)}"
            )
        error = np.linalg.norm(got - wanted) / np.linalg.norm(wanted)
        if not error <= tolerance:
            raise BenchmarkError(
                f"{name}: result {number} is off by {error:.1e} of its norm from float64, allowed "
                f"is {tolerance:.0e}; nothing was timed"
            )


# The command line


def parser(program: str, description: str) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    result = argparse.ArgumentParser(
        prog=f"python -m experiments.benchmarks.{program}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    result.add_argument("--smoke", action="store_true", help="tiny sizes, 2 rounds: a test")
    result.add_argument("--out", type=Path, metavar="FILE.json", help="write the figures here")
    result.add_argument("--rounds", type=int, metavar="N", help="samples per variant (15)")
    return result


def run(
    command: argparse.ArgumentParser,
    measure: Callable[[argparse.Namespace], list[Row]],
    arguments: Sequence[str],
) -> int:
    """Measures, prints the table and writes the record; returns the exit status."""
    options = command.parse_args(arguments)
    if options.rounds is None:
        options.rounds = 2 if options.smoke else 15
    try:
        if options.rounds < 1:
            raise BenchmarkError(f"--rounds must be at least 1, got {options.rounds}")
        if options.out is not None and not options.out.parent.is_dir():
            raise BenchmarkError(f"--out: there is no folder {options.out.parent}")
        load = os.getloadavg()[0]  # of the minute before: what else the machine was doing
        results = measure(options)
        record = {
            "command": " ".join([command.prog, *arguments]),
            "rounds": options.rounds,
            "environment": {**environment(), "cpus": os.cpu_count(), "load": load},
            "results": results,
        }
        print(describe(record))
        if options.out is not None:
            options.out.write_text(json.dumps(record, indent=2) + "\n")
    except (BenchmarkError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def describe(record: Mapping[str, Any]) -> str:
    """A record as text: where it was measured, and one line per variant."""
    place, results = record["environment"], record["results"]
    cpus = f"{place['cpus']} CPUs with load {place['load']:.1f}"
    lines = [record["command"], f"{place['device']}, {cpus}, jax {place['jax']}, {place['date']}"]
    if "ratios" in results[0]:
        lines.append(f"medians of {record['rounds']} rounds, ratios with quartiles")
    return "\n".join([*lines, "", format_table([_format(row) for row in results])])


def _format(row: Row) -> dict[str, str]:
    cells = {}
    for name, value in row.items():
        if name == "ratios":
            for label, ratio in value.items():
                cells[label] = "{median:.3f} [{lower:.3f}, {upper:.3f}]".format(**ratio)
        elif name.endswith("seconds"):
            cells[name.replace("seconds", "ms")] = f"{1e3 * value:.3f}"
        elif isinstance(value, float):
            cells[name] = f"{value:.2f}"
        elif isinstance(value, Sequence) and not isinstance(value, str):
            cells[name] = "×".join(map(str, value))
        else:
            cells[name] = str(value)
    return cells
