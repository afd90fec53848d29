"""One run on one device, on eight, in two and four processes, and stopped and resumed elsewhere.

    python -m experiments.benchmarks.many_devices --task mnist --hidden 128 64

The options are those of `experiments.run`. The devices are simulated: threads of the CPU, or
processes on this machine that speak through gloo. So it says that the numbers are equal, not how
fast anything is. Prints a table: how far losses and scores of any epoch are from those of one
device, and how the run ended that lost a process.
"""

import itertools
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from experiments.command_line import Parser
from experiments.run_folder import CHECKPOINTS, is_complete, read_finished, read_metrics

LIMIT = 1800
"""Seconds for a run; one that hangs is ended."""


class Place(NamedTuple):
    """Where a run trains: so many processes of so many simulated devices."""

    processes: int = 1
    devices: int = 1
    options: tuple[str, ...] = ()

    def __str__(self) -> str:
        places = "1 process" if self.processes == 1 else f"{self.processes} processes"
        devices = "1 device" if self.devices == 1 else f"{self.devices} devices"
        return " ".join([f"{places} × {devices}", *self.options])


class Differences(NamedTuple):
    """The largest over the epochs: relative of the losses, absolute of the scores."""

    train_loss: float
    validation_loss: float
    validation_score: float
    test_score: float


ONE = Place()
UNINTERRUPTED = (
    Place(devices=8),
    Place(devices=8, options=("--model-axis", "2")),
    Place(processes=2),
    Place(processes=4),
)
KILL, TERMINATE = signal.SIGKILL, signal.SIGTERM
STOPPED = (
    # Where it is stopped, each time in which process and by what, and where it goes on to its end.
    (((Place(devices=8), 0, KILL), (Place(devices=2), 0, KILL)), ONE),
    (((Place(processes=4), 2, KILL), (Place(processes=2), 0, KILL)), Place(devices=8)),
    (((Place(processes=2), 1, TERMINATE),), Place(processes=4)),
)


def launch(
    arguments: Sequence[str], folder: Path, place: Place, module: Sequence[str] = ()
) -> list[subprocess.Popen]:
    """Starts the processes of a run; what they print is in FOLDER-PROCESS.log.

    Args:
        arguments: of the run.
        folder: of the run.
        place: where it trains.
        module: words that start the program; default `-m experiments.run`.
    """
    count = f"--xla_force_host_platform_device_count={place.devices}"
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {count}",
    }
    command = [sys.executable, *(module or ("-m", "experiments.run")), *arguments]
    command += ["--run-dir", str(folder), *place.options]
    if place.processes == 1:
        facts = [["--devices", str(place.devices)]]
    else:
        address = ["--distributed", "--coordinator", f"localhost:{_free_port()}"]
        numbers = ["--processes", str(place.processes), "--process-id"]
        facts = [[*address, *numbers, str(number)] for number in range(place.processes)]
    processes = []
    for number, words in enumerate(facts):
        with open(log_of(folder, number), "a") as log:
            processes.append(
                subprocess.Popen(
                    [*command, *words], env=environment, stdout=log, stderr=subprocess.STDOUT
                )
            )
    return processes


def log_of(folder: Path, process: int) -> Path:
    return folder.parent / f"{folder.name}-{process}.log"


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def finish(processes: Sequence[subprocess.Popen], limit: float = LIMIT) -> list[int]:
    """Waits for all; their exit statuses.

    Raises:
        subprocess.TimeoutExpired: one of them hangs; all are killed.
    """
    end = time.monotonic() + limit
    try:
        return [process.wait(max(0.1, end - time.monotonic())) for process in processes]
    finally:
        for process in processes:
            process.kill()


def train(arguments: Sequence[str], folder: Path, place: Place) -> float:
    """Trains to the end; the seconds. RuntimeError if a process fails."""
    begun = time.monotonic()
    statuses = finish(launch(arguments, folder, place))
    if any(statuses) or not is_complete(folder):
        last = log_of(folder, 0).read_text()[-2000:]
        raise RuntimeError(f"{place}: ended with {statuses}\n{last}")
    return time.monotonic() - begun


def train_and_stop(
    arguments: Sequence[str], folder: Path, place: Place, victim: int, by: signal.Signals
) -> tuple[list[int], float]:
    """Sends one process a signal after the next checkpoint.

    Returns:
        The exit statuses of all, and the seconds to their end.

    Raises:
        RuntimeError: the run ended before.
    """
    before = _saved(folder)
    processes = launch(arguments, folder, place)
    while _saved(folder) <= before:
        if processes[victim].poll() is not None:
            statuses = finish(processes)
            raise RuntimeError(f"{place}: ended with {statuses} before it was stopped")
        time.sleep(0.05)
    processes[victim].send_signal(by)
    begun = time.monotonic()
    return finish(processes), time.monotonic() - begun


def _saved(folder: Path) -> int:
    """Epochs of the newest checkpoint."""
    names = [path.name for path in (folder / CHECKPOINTS).glob("*")]
    return max([int(name) for name in names if name.isdigit()], default=0)


def differences(one: Path, other: Path) -> Differences:
    """Between two finished runs of one config; ValueError if one lacks an epoch."""
    pairs = list(zip(read_metrics(one), read_metrics(other), strict=True))

    def relative(name: str) -> float:
        return max(abs(a[name] - b[name]) / abs(a[name]) for a, b in pairs)

    tests = [read_finished(folder).summary["phases"] for folder in (one, other)]
    return Differences(
        relative("train_loss"),
        relative("validation_loss"),
        max(abs(a["validation_score"] - b["validation_score"]) for a, b in pairs),
        max(abs(a["test_score"] - b["test_score"]) for a, b in zip(*tests, strict=True)),
    )


def main(arguments: Sequence[str]) -> None:
    """Trains everywhere and prints the table."""
    parser = Parser(prog="python -m experiments.benchmarks.many_devices")
    parser.add_argument("--folder", type=Path, help="for the runs; default: one that is removed")
    own, rest = parser.parse_known_args(arguments)
    run = [*rest, "--checkpoint-seconds", "0"]
    with tempfile.TemporaryDirectory() as temporary:
        root = own.folder or Path(temporary)
        root.mkdir(parents=True, exist_ok=True)
        numbers = itertools.count()

        def folder() -> Path:
            return root / f"run{next(numbers)}"

        one = folder()
        seconds = train(run, one, ONE)
        last = read_finished(one).summary["phases"][-1]
        print(f"{ONE}, {seconds:.0f} s: {last}", flush=True)
        for place in UNINTERRUPTED:
            where = folder()
            seconds = train(run, where, place)
            print(f"{place}, {seconds:.0f} s: {_shown(differences(one, where))}", flush=True)
        for stops, final in STOPPED:
            where = folder()
            for place, victim, by in stops:
                statuses, seconds = train_and_stop(run, where, place, victim, by)
                print(
                    f"{place}, {by.name} to process {victim} after epoch {_saved(where)}: all had "
                    f"ended after {seconds:.1f} s, with {statuses}",
                    flush=True,
                )
            seconds = train(run, where, final)
            shown = _shown(differences(one, where))
            print(f"  resumed with {final}, {seconds:.0f} s: {shown}", flush=True)


def _shown(found: Differences) -> str:
    return ", ".join(f"{name} {value:.1e}" for name, value in found._asdict().items())


if __name__ == "__main__":
    main(sys.argv[1:])
