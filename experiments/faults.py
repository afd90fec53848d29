"""What a run survives: kills, signals, damaged files, a full disk, little memory, few open files.

    python -m experiments.faults [KIND ...] [--times N] [--seed N] [--keep FOLDER]

KIND: kills (100), signals (50), bits (120 flipped in checkpoints of 0.8 million parameters),
files (120 other damages, of every file of a run), limits. Every run must end like the undisturbed
one, to the bit, or stop with one line that names a file. A kill takes 5 s, a signal 6 s and a
damage 1 s on a CPU core; the program prints what happened how often, and its exit status is 1 if
anything else happened.
"""

import collections
import contextlib
import dataclasses
import io
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from experiments.command_line import Parser, exit_status
from experiments.config import Config
from experiments.config_options import words_of
from experiments.guard_records import flat, read_run, text_of
from experiments.presets import default_config
from experiments.run_folder import folder_of
from experiments.training.compilation import keep_compilations
from experiments.training.train import train_and_evaluate

ROOT = Path(__file__).parents[1]
TIMES = {"kills": 100, "signals": 50, "bits": 120, "files": 120, "limits": 3}
SMALL: dict[str, Any] = {
    "hidden": (24, 16),
    "selective_epochs": 6,
    "mixed_epochs": 14,
    "logit_learning_rate": 0.1,
}
LONG_EPOCHS: dict[str, Any] = {"steps_per_epoch": 3000, "selective_epochs": 2, "mixed_epochs": 2}
REAL_SIZE: dict[str, Any] = {
    "architecture": 18,
    "hidden": (),
    "selective_epochs": 2,
    "mixed_epochs": 3,
}

SAME, NAMED = "like the undisturbed run", "one line that names the file"
SAVED, ONE_LINE = "ended by the signal", "one line"
GOOD = (SAME, NAMED, SAVED, ONE_LINE)


def config_of(folder: Path, **changes: Any) -> Config:
    """A run on the digits that keeps a checkpoint of every epoch."""
    base = dataclasses.replace(default_config(task="digits"), **SMALL)
    base = dataclasses.replace(base, checkpoint_seconds=0.0, run_dir=str(folder))
    return dataclasses.replace(base, **changes)


def command_of(config: Config) -> list[str]:
    """The command that trains the config."""
    folder = str(folder_of(config))
    return [sys.executable, "-m", "experiments.run", "--run-dir", folder, *words_of(config)]


def left(folder: Path) -> dict[str, str]:
    """Everything that a run leaves but for seconds and dates; of its checkpoints the last."""
    run = read_run(folder, {}, last_checkpoints=1)
    run["config"].pop("checkpoint_seconds")
    run["checkpoints"] = run["checkpoints"].popitem()[1]
    return {name: text_of(value) for name, value in flat(run).items()}


def told(text: str, folder: Path) -> str:
    """The verdict on a command that ended early, by what it printed."""
    lines = [line for line in text.strip().splitlines() if line.startswith("error: ")]
    if "Traceback" in text:
        return "a traceback"
    if len(lines) != 1:
        return f"{len(lines)} lines of error"
    return NAMED if str(folder) in lines[0] else f"a line that names no file: {lines[0][:150]}"


# Kills and signals, of another process


def start(config: Config, **options: Any) -> "subprocess.Popen[str]":
    """The run's command in a process of its own."""
    return subprocess.Popen(
        command_of(config),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        **options,
    )


def moments(folder: Path) -> list[Callable[[], bool]]:
    """When to kill: while a file is written, right after it is, or when it is about to be."""
    saving = folder / "checkpoints"
    return [
        lambda: any(saving.glob("*tmp*")),
        lambda: any(folder.glob("*.partial")),
        lambda: (folder / "choices.json").exists(),
        lambda: (folder / "config.json").exists(),
        lambda: (folder / "summary.json").exists(),
        lambda: len(list(saving.glob("*"))) > 1,
    ]


def kill(config: Config, rng: random.Random) -> bool:
    """Starts the run and kills it, after a while or at a chosen moment; False if it had ended."""
    process, folder = start(config), folder_of(config)
    chosen, patience = rng.choice(moments(folder)), rng.uniform(2.0, 7.0)
    at_moment, begun = rng.random() < 0.6, time.monotonic()
    while process.poll() is None:
        waited = time.monotonic() - begun > patience
        if waited and (not at_moment or chosen() or time.monotonic() - begun > 15):
            process.kill()
        time.sleep(0.001)
    process.communicate()
    return process.returncode == -signal.SIGKILL


def kills(times: int, rng: random.Random, home: Path) -> collections.Counter[str]:
    """SIGKILL, again and again until the run is complete; then a next run, until enough."""
    whole = config_of(home / "whole")
    train_and_evaluate(whole, show_progress=False)
    expected, found, done = left(folder_of(whole)), collections.Counter[str](), 0
    while done < times:
        config, killed = config_of(home / f"killed-{done}"), 0
        while done + killed < times and killed < 8 and kill(config, rng):
            killed += 1
        process = start(config)
        text, _ = process.communicate()
        same = process.returncode == 0 and left(folder_of(config)) == expected
        found[SAME if same else f"another run, {told(text, folder_of(config))}"] += max(killed, 1)
        done += max(killed, 1)
        shutil.rmtree(folder_of(config))
    return found


def signals(times: int, rng: random.Random, home: Path) -> collections.Counter[str]:
    """SIGTERM, SIGHUP, SIGINT in long epochs; then the same command, to the end."""
    whole = config_of(home / "whole", **LONG_EPOCHS)
    train_and_evaluate(whole, show_progress=False)
    expected, found, done = left(folder_of(whole)), collections.Counter[str](), 0
    while done < times:
        config = config_of(home / f"signalled-{done}", **LONG_EPOCHS, checkpoint_seconds=1e6)
        for _ in range(3):
            number = rng.choice([signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
            process = start(config)
            time.sleep(rng.uniform(3.0, 8.0))
            if process.poll() is not None:
                break
            process.send_signal(number)
            text, _ = process.communicate()
            done += 1
            # Negative: before the run began or after its end, where nothing can be lost.
            ends = (128 + number, -number, 0)
            right = process.returncode in ends and "Traceback" not in text
            found[SAVED if right else f"exit {process.returncode}: {text[-200:]}"] += 1
        process = start(config)
        text, _ = process.communicate()
        same = process.returncode == 0 and left(folder_of(config)) == expected
        found[SAME if same else f"another run, {told(text, folder_of(config))}"] += 1
        shutil.rmtree(folder_of(config))
    return found


# Damage, in this process


def again(config: Config, expected: dict[str, str]) -> str:
    """Runs the same command on a damaged folder; what came of it."""
    text, folder = io.StringIO(), folder_of(config)

    def work() -> int:
        from experiments import report

        train_and_evaluate(config, show_progress=False)
        report.describe(folder)
        return 0

    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        status = exit_status(work)
    if status:
        return told(text.getvalue(), folder)
    after = left(folder)
    differing = [name for name in expected | after if expected.get(name) != after.get(name)]
    return f"silently another: {differing[:3]}" if differing else SAME


def flip(path: Path, rng: random.Random, lowest: int = 0) -> None:
    """One bit of a file, at least so many bytes from its beginning."""
    content = bytearray(path.read_bytes())
    place = rng.randrange(min(lowest, len(content) - 1), len(content))
    content[place] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def swap_rows(path: Path, rng: random.Random) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    one, other = rng.sample(range(len(lines)), 2)
    lines[one], lines[other] = lines[other], lines[one]
    path.write_bytes(b"".join(lines))


def double_row(path: Path, rng: random.Random) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    place = rng.randrange(len(lines))
    path.write_bytes(b"".join([*lines[: place + 1], *lines[place:]]))


def drop_row(path: Path, rng: random.Random) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    del lines[rng.randrange(len(lines))]
    path.write_bytes(b"".join(lines))


def cut(path: Path, rng: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(len(content))])


def overwrite(path: Path, rng: random.Random) -> None:
    path.write_bytes(rng.choice([b"", b"null", b"[" * 10_000, b"\xff\x00" * 50, b"{}"]))


def remove(path: Path, rng: random.Random) -> None:
    path.unlink()


ROWS = (swap_rows, double_row, drop_row)
ANY = (flip, flip, cut, overwrite, remove)


def damaged(
    times: int,
    rng: random.Random,
    home: Path,
    config: Config,
    damage: Callable[[Path, random.Random], None],
) -> collections.Counter[str]:
    """Damages copies of a run, cut before its end or complete, and runs its command again."""
    train_and_evaluate(config, show_progress=False)
    whole, found = folder_of(config), collections.Counter[str]()
    expected = left(whole)
    for _ in range(times):
        copy = home / "copy"
        shutil.copytree(whole, copy)
        if rng.random() < 0.5:
            for name in ("summary.json", "fit.npz"):
                (copy / name).unlink(missing_ok=True)
        damage(copy, rng)
        found[again(dataclasses.replace(config, run_dir=str(copy)), expected)] += 1
        shutil.rmtree(copy)
    return found


def bits(times: int, rng: random.Random, home: Path) -> collections.Counter[str]:
    """One bit of the newest checkpoint's largest files, or of its position."""

    def damage(folder: Path, rng: random.Random) -> None:
        (folder / "summary.json").unlink(missing_ok=True)
        newest = max((folder / "checkpoints").iterdir(), key=lambda place: int(place.name))
        files = [path for path in sorted(newest.rglob("*")) if path.is_file()]
        largest = max(path.stat().st_size for path in files)
        large = [path for path in files if path.stat().st_size > largest / 4]
        position = [newest / "position" / "metadata"]
        flip(rng.choice(position if rng.random() < 0.2 else large), rng)

    return damaged(times, rng, home, config_of(home / "whole", **REAL_SIZE), damage)


def files(times: int, rng: random.Random, home: Path) -> collections.Counter[str]:
    """Any damage to any file."""

    def damage(folder: Path, rng: random.Random) -> None:
        top = [path for path in sorted(folder.glob("[!.]*")) if path.is_file()]
        inside = [path for path in sorted(folder.glob("checkpoints/**/*")) if path.is_file()]
        path = rng.choice(rng.choice([top, inside]))
        if path in inside:  # of a complete run they are not read
            (folder / "summary.json").unlink(missing_ok=True)
        ways = (*ROWS, *ANY) if path.name == "metrics.jsonl" else ANY
        rng.choice([way for way in ways if path.stat().st_size])(path, rng)

    return damaged(times, rng, home, config_of(home / "whole"), damage)


# Limits


LITTLE_MEMORY = {"0.4 GB of memory": 400_000_000, "1.2 GB of memory": 1_200_000_000}


def limits(times: int, rng: random.Random, home: Path) -> collections.Counter[str]:
    """A disk without room, little memory, 24 open files; then none of these, to the end."""
    whole, found = config_of(home / "whole"), collections.Counter[str]()
    train_and_evaluate(whole, show_progress=False)
    expected = left(folder_of(whole))

    def limit(kind: int, value: int) -> Callable[[], None]:
        return lambda: resource.setrlimit(kind, (value, value))

    kinds = {
        "a full disk": limit(resource.RLIMIT_FSIZE, 20_000),
        **{name: limit(resource.RLIMIT_AS, value) for name, value in LITTLE_MEMORY.items()},
        "24 open files": limit(resource.RLIMIT_NOFILE, 24),
    }

    def ended(config: Config, process: "subprocess.Popen[str]") -> str:
        text, _ = process.communicate()
        if process.returncode == 0:
            return SAME if left(folder_of(config)) == expected else "another run"
        lines = [line for line in text.splitlines() if line.startswith("error: ")]
        if process.returncode != 1 or len(lines) != 1 or "Traceback" in text:
            return f"exit {process.returncode}, {lines or text[-200:]}"
        return ONE_LINE

    for name, own in kinds.items():
        config = config_of(home / name.replace(" ", "-"))
        verdict = ended(config, start(config, preexec_fn=own))
        if name in LITTLE_MEMORY and folder_of(config).exists():
            verdict += ", but after a folder was made"
        found[f"{name}: {verdict}"] += 1
        found[f"{name}, then none: {ended(config, start(config))}"] += 1
    return found


KINDS = {"kills": kills, "signals": signals, "bits": bits, "files": files, "limits": limits}


def main(arguments: Sequence[str]) -> int:
    """Injects the faults; returns the exit status."""
    parser = Parser(prog="python -m experiments.faults", description=__doc__)
    parser.add_argument("kinds", nargs="*", metavar="KIND", choices=[*KINDS, []], default=[])
    parser.add_argument("--times", type=int, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    options = parser.parse_args(arguments)

    def work() -> int:
        keep_compilations()
        bad = 0
        for name in options.kinds or KINDS:
            rng, times = random.Random(options.seed), options.times or TIMES[name]
            begun = time.monotonic()
            with tempfile.TemporaryDirectory(prefix="faults-") as home:
                found = KINDS[name](times, rng, Path(home))
            print(f"{name}: {sum(found.values())} in {time.monotonic() - begun:.0f} s", flush=True)
            for verdict, count in found.most_common():
                print(f"    {count:4d}  {verdict}", flush=True)
            bad += sum(n for told, n in found.items() if told.split(": ", 1)[-1] not in GOOD)
        return int(bad > 0)

    return exit_status(work)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
