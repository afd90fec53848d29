"""Whether a long run is as fast, and as small, at its end as at its beginning.

    python -m experiments.benchmarks.long_run [--epochs 10000] [OPTION ...]

Trains the digits, hidden layers of 24 and 16 neurons, half of the epochs in each phase, in another
process, and looks at it ten times a second: the memory that is resident, and the processor time,
which other programs disturb less than the clock. Of each phase the second tenth of its epochs (the
first has compilations) is compared with the last. Other options are those of `experiments.run`. The
exit status is 1 if either grows. Needs Linux.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.command_line import Parser, exit_status
from experiments.run_folder import METRICS, RunError, is_complete, read_metrics

RUN = "--task digits --hidden 24 16 --logit-learning-rate 0.1"
LARGEST_GROWTH = {"resident": 1.05, "processor": 1.25}
"""Of the last tenth to the second, beyond which it is not flat; less is noise on a busy machine."""

INTERVAL = 0.1
"""Seconds between two looks."""


class Sample(NamedTuple):
    """A process at one moment: rows written, bytes resident, seconds of the processor."""

    rows: int
    resident: int
    processor: float


class Tenth(NamedTuple):
    """Epochs first … last − 1 of a run: bytes, and seconds per epoch of processor and clock."""

    first: int
    last: int
    resident: float
    processor: float
    clock: float


def watch(command: Sequence[str], folder: Path, log: Path) -> list[Sample]:
    """Runs the command, which trains in the folder, to its end.

    Raises:
        RunError: it ended with an error.
    """
    samples: list[Sample] = []
    metrics = _Lines(folder / METRICS)
    with open(log, "w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
    try:
        while process.poll() is None:
            samples.extend(_look(process.pid, metrics))
            time.sleep(INTERVAL)
    finally:
        process.kill()
    if process.returncode:
        raise RunError(f"the run ended with {process.returncode}: {log.read_text()[-300:]}")
    return samples


class _Lines:
    """The number of lines of a file that grows, each byte read once."""

    def __init__(self, path: Path) -> None:
        self._path, self._place, self._count = path, 0, 0

    def count(self) -> int:
        if self._path.exists():
            with open(self._path, "rb") as file:
                file.seek(self._place)
                text = file.read()
            self._place += len(text)
            self._count += text.count(b"\n")
        return self._count


def _look(pid: int, metrics: _Lines) -> Iterator[Sample]:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (ProcessLookupError, IndexError):  # it has just ended
        return
    ticks = int(fields[11]) + int(fields[12])  # of the program and of the kernel for it
    resident = pages * os.sysconf("SC_PAGE_SIZE")
    yield Sample(metrics.count(), resident, ticks / os.sysconf("SC_CLK_TCK"))


def tenth(samples: Sequence[Sample], seconds: np.ndarray, first: int, last: int) -> Tenth:
    """What was seen between two epochs.

    Args:
        samples: of the whole run.
        seconds: of the clock, of every epoch, [epochs].
        first, last: of the epochs.
    """
    seen = [sample for sample in samples if first <= sample.rows < last]
    if len(seen) < 2 or seen[0].rows == seen[-1].rows:
        raise RunError(f"epochs {first} to {last} were too short to be seen: expected more epochs")
    processor = (seen[-1].processor - seen[0].processor) / (seen[-1].rows - seen[0].rows)
    resident = float(np.median([sample.resident for sample in seen]))
    return Tenth(first, last, resident, processor, float(np.median(seconds[first:last])))


def grows(before: Tenth, after: Tenth) -> list[str]:
    """What of the later tenth is larger than noise makes it."""
    return [
        name
        for name, most in LARGEST_GROWTH.items()
        if getattr(after, name) > most * getattr(before, name)
    ]


def main(arguments: Sequence[str]) -> int:
    """Trains and compares; returns the exit status."""
    parser = Parser(prog="python -m experiments.benchmarks.long_run", description=__doc__)
    parser.add_argument("--epochs", type=int, default=10_000, metavar="N", help="[10000]")
    options, others = parser.parse_known_args(arguments)

    def work() -> int:
        with tempfile.TemporaryDirectory() as place:
            return _compare(options.epochs // 2, others, Path(place) / "run")

    return exit_status(work)


def _compare(half: int, others: Sequence[str], folder: Path) -> int:
    words = [*RUN.split(), "--selective-epochs", str(half), "--mixed-epochs", str(half)]
    command = [sys.executable, "-m", "experiments.run", "--run-dir", str(folder), *words, *others]
    samples = watch(command, folder, folder.with_name("log"))
    assert is_complete(folder)
    seconds = np.array([row["seconds"] for row in read_metrics(folder)])
    grown = []
    for phase in range(2):
        begin = phase * half
        parts = [(begin + half // 10, begin + half // 5), (begin + half - half // 10, begin + half)]
        before, after = (tenth(samples, seconds, *part) for part in parts)
        for part in (before, after):
            print(
                f"phase {phase + 1}, epochs {part.first} to {part.last}: "
                f"{part.resident / 2**20:.1f} MiB, per epoch {1e3 * part.processor:.2f} ms of the "
                f"processor, {1e3 * part.clock:.2f} ms by the clock (median)",
                flush=True,
            )
        grown += [f"{name} of phase {phase + 1}" for name in grows(before, after)]
    print(f"not flat: {', '.join(grown)}" if grown else "flat")
    return 1 if grown else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
