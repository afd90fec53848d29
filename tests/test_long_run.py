"""A long run is at its end as it was at its beginning."""

import gc
import math
import sys

import jax
import numpy as np
import pytest

from experiments import faults
from experiments.benchmarks import long_run
from experiments.benchmarks.long_run import Sample
from experiments.run_folder import Rows, RunError
from experiments.training.train import train_and_evaluate


def test_nothing_is_left_behind_by_an_epoch(tmp_path, monkeypatch):
    """60 epochs: so many objects of Python, and arrays on the device, after 20 as after 60."""
    counts, append = [], Rows.append

    def count(rows, row):
        append(rows, row)
        if row["epoch"] % 20 == 0:
            gc.collect()
            counts.append((len(gc.get_objects()), len(jax.live_arrays())))

    monkeypatch.setattr(Rows, "append", count)
    config = faults.config_of(
        tmp_path / "run", method="uniform:relu", selective_epochs=60, checkpoint_seconds=1e6
    )
    train_and_evaluate(config, show_progress=False)
    (objects, arrays), _, (last_objects, last_arrays) = counts
    assert last_objects - objects < 40  # less than one an epoch
    assert last_arrays == arrays


PROGRAM = """
import sys, time
kept = []
with open(sys.argv[1] + "/metrics.jsonl", "w", buffering=1) as rows:
    for _ in range(60):
        kept.append(bytearray(int(sys.argv[2])))
        time.sleep(0.01)
        print("{}", file=rows)
"""


@pytest.mark.parametrize(("kept", "grown"), [(0, []), (2**20, ["resident"])])
def test_what_grows_is_seen(tmp_path, monkeypatch, kept, grown):
    monkeypatch.setattr(long_run, "INTERVAL", 0.01)
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), str(kept)]
    samples = long_run.watch(command, tmp_path, tmp_path / "log")
    assert samples[-1].rows >= 58
    before, after = (long_run.tenth(samples, np.ones(60), *part) for part in ((6, 20), (46, 60)))
    monkeypatch.setitem(long_run.LARGEST_GROWTH, "processor", math.inf)  # ticks are coarse
    assert long_run.grows(before, after) == grown


def test_seconds_of_the_processor_are_per_epoch():
    samples = [Sample(n, 2**20, 0.1 * n if n < 50 else 5 + 0.2 * (n - 50)) for n in range(100)]
    seconds = np.arange(100.0)
    before, after = (long_run.tenth(samples, seconds, *part) for part in ((10, 20), (90, 100)))
    assert before == (10, 20, 2**20, pytest.approx(0.1), 14.5)
    assert after == (90, 100, 2**20, pytest.approx(0.2), 94.5)
    assert long_run.grows(before, after) == ["processor"]
    with pytest.raises(RunError, match="too short to be seen"):
        long_run.tenth(samples[:1], seconds, 0, 10)


def test_a_run_that_fails_is_told(tmp_path):
    with pytest.raises(RunError, match=r"the run ended with 3: no"):
        command = [sys.executable, "-c", "import sys; print('no'); sys.exit(3)"]
        long_run.watch(command, tmp_path, tmp_path / "log")
