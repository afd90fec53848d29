"""What `import smartmixed_jax` takes beside `import flax.nnx` alone, each in a process of its own.

The time of the import statement, without that of starting Python.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence

import numpy as np

from experiments.benchmarks import harness
from experiments.benchmarks.harness import BenchmarkError, Row

MODULES = {"flax.nnx": "flax.nnx", "smartmixed_jax": "smartmixed_jax"}
"""The name of a variant → what it imports."""

_TIMED = "from time import perf_counter as t; s = t(); import {}; print(t() - s)"


def measure(options: argparse.Namespace) -> list[Row]:
    """A row per module, with its ratio to flax.nnx; a round before fills the disk cache."""
    times: dict[str, list[float]] = {name: [] for name in MODULES}
    order, rng = list(MODULES), np.random.default_rng(0)
    for _ in range(options.rounds + 1):
        for name in order:
            times[name].append(import_seconds(MODULES[name]))
        rng.shuffle(order)
    counted = {name: np.asarray(seconds[1:]) for name, seconds in times.items()}
    return harness.rows(counted, ("flax.nnx",))


def import_seconds(module: str) -> float:
    """Of one import, in a new process; BenchmarkError if it fails."""
    command = [sys.executable, "-c", _TIMED.format(module)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise BenchmarkError(f"import {module}: {done.stderr.strip().splitlines()[-1]}")
    return float(done.stdout)


def main(arguments: Sequence[str]) -> int:
    """Measures; returns the exit status."""
    return harness.run(harness.parser("import_time", __doc__), measure, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
