"""Trains the program of a commit from outside and reads what its runs left; for experiments.guard.

Commands of the program are run in a copy of its files, so nothing of it is imported.
"""

import dataclasses
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from experiments.guard_records import Run, flat, read_run, saved_epochs, text_of

ROOT = Path(__file__).parents[1]
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


class GuardError(RuntimeError):
    """A run or a command failed; one line says why."""


@dataclasses.dataclass(frozen=True)
class Job:
    """One command of the program.

    Attributes:
        command: after `python -m experiments.`, in the old spelling. IMAGES stands for the folder
            of `write_images`, DATA for the user's folder of prepared data.
        disturbed: how it is trained a second time, to be resumed: "killed" in phase 1, or "cut": a
            copy without its last checkpoint; empty: only once.
    """

    command: str
    disturbed: str = ""


@dataclasses.dataclass(frozen=True)
class Option:
    """An option with a new spelling, and what each spelling makes of a value in a job's command.

    `old` is empty for an option that older programs do not have: they go without.
    """

    old: str
    new: str
    old_value: Callable[[str], str] = str
    new_value: Callable[[str], str] = str


@dataclasses.dataclass(frozen=True)
class Program:
    """The program of a commit.

    Attributes:
        folder: of its files.
        runs: where its runs go.
        cache: of compilations, for both programs of a comparison.
        places: the folders that commands call by a name.
        respelled: options whose spelling changed.
        known: the options that it has.
    """

    folder: Path
    runs: Path
    cache: Path
    places: Mapping[str, Path]
    respelled: Sequence[Option]
    known: frozenset[str] = frozenset()

    def start(self, command: Sequence[str], output: int = subprocess.PIPE) -> subprocess.Popen:
        """Starts a command in the folder of the program, on the CPU."""
        # A cache per thread: an entry that another process is writing would be read in part.
        cache = self.cache / threading.current_thread().name
        environment = {name: own for name, own in os.environ.items() if name != "PYTHONPATH"} | {
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        arguments = [sys.executable, "-m", f"experiments.{command[0]}", *command[1:]]
        return subprocess.Popen(
            arguments, cwd=self.folder, env=environment, text=True, stdout=output, stderr=output
        )

    def execute(self, command: Sequence[str]) -> str:
        """Runs a command to its end; returns what it printed."""
        process = self.start(command)
        printed, errors = process.communicate()
        if process.returncode:
            reason = (errors.strip() or "no message").splitlines()[-1]
            raise GuardError(f"experiments.{command[0]} ended with {process.returncode}: {reason}")
        return printed

    def command(self, job: Job, folder: Path) -> list[str]:
        """A job's command in the spelling of this program."""
        words = [str(self.places.get(word, word)) for word in job.command.split()]
        if "--checkpoint-seconds" not in words:  # at the ends of phases only
            words += ["--checkpoint-seconds", "1000000"]
        return [*respell(words, self.respelled, self.known), "--run-dir", str(folder)]


def respell(words: Sequence[str], respelled: Sequence[Option], known: frozenset[str]) -> list[str]:
    """A command for a program that has the known options."""
    options = {option.old or option.new: option for option in respelled}
    result: list[str] = []
    convert: Callable[[str], str] = str
    for word in words:
        if not word.startswith("--"):
            result.append(convert(word))
        elif word not in options:
            result.append(word)
            convert = str
        elif (option := options[word]).new in known:
            result.append(option.new)
            convert = option.new_value
        else:
            result.append(option.old)
            convert = option.old_value if option.old else lambda value: ""
    return [word for word in result if word]


def make_record(
    commit: str,
    work: Path,
    jobs: Mapping[str, Job],
    respelled: Sequence[Option],
    *,
    data_dir: str | None,
    workers: int,
) -> dict[str, Any]:
    """Trains the jobs with a commit, or with the working tree (`.`).

    Args:
        work: a folder for both records of a comparison.
        data_dir: with prepared data; jobs that need it are skipped without.
        workers: jobs at a time.

    Returns:
        The record: the commit, the packages' versions, and the runs by name.
    """
    places, folder = {"IMAGES": work / "images"}, Path(tempfile.mkdtemp(dir=work))
    write_images(work / "images")
    if data_dir:
        places["DATA"] = Path(data_dir).absolute()
    program = Program(folder / "program", folder / "runs", work / "compiled", places, respelled)
    record: dict[str, Any] = {"commit": export(commit, program.folder)}
    record["packages"] = {name: version(name) for name in PACKAGES}
    helps = "".join(program.execute([module, "--help"]) for module in ("run", "grid"))
    program = dataclasses.replace(program, known=frozenset(re.findall(r"--[a-z-]+", helps)))
    ready = [name for name, job in jobs.items() if data_dir or "DATA" not in job.command.split()]
    for name in jobs.keys() - set(ready):
        print(f"{name}: skipped, it needs --data-dir")
    print(f"{len(ready)} jobs with {record['commit']}", flush=True)
    with ThreadPoolExecutor(workers, thread_name_prefix="worker") as pool:
        found = list(pool.map(lambda name: train(program, name, jobs[name]), ready))
    record["runs"] = {name: run for runs in found for name, run in runs.items()}
    return record


def export(commit: str, folder: Path) -> str:
    """Writes the files of a commit, or of the working tree; returns the commit's full name."""

    def git(*arguments: str) -> bytes:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True)
        if done.returncode:
            raise GuardError(f"git {arguments[0]}: {done.stderr.decode().strip()}")
        return done.stdout

    if commit != ".":
        commit = git("rev-parse", "--verify", f"{commit}^{{commit}}").decode().strip()
        zipfile.ZipFile(io.BytesIO(git("archive", "--format=zip", commit))).extractall(folder)
        return commit
    for path in git("ls-files", "-z", "-co", "--exclude-standard").decode().split("\0"):
        if (ROOT / path).is_file():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / path, folder / path)
    return "working tree"


def write_images(folder: Path) -> None:
    """Random cifar10.npz and mnist.npz, in a format that every program has to read."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, shape in {"cifar10": (32, 32, 3), "mnist": (28, 28, 1)}.items():
        rng, arrays = np.random.default_rng(0), {"source": np.asarray("random")}
        for split, size in {"train": 240, "test": 60}.items():
            arrays[f"{split}_inputs"] = rng.integers(256, size=(size, *shape), dtype=np.uint8)
            arrays[f"{split}_labels"] = np.arange(size) % 10
        np.savez(folder / f"{name}.npz", allow_pickle=False, **arrays)


# Training


def train(program: Program, name: str, job: Job) -> dict[str, Run]:
    """What each run of a job left, by the run's name; {"failed": reason} if it did not end."""
    begun, folder = time.monotonic(), program.runs / name
    try:
        program.execute(program.command(job, folder))
        paths = sorted(folder.rglob("config.json"))
        runs = {_label(name, folder, path): read_run(path.parent, program.places) for path in paths}
        if not runs or len(runs) < len(paths):
            raise GuardError(f"{len(paths)} folders with a config.json, {len(runs)} runs")
        if job.disturbed:
            runs[name]["resumed"] = _resume(program, name, job, runs[name])
    except Exception as error:  # what a rebuilt program leaves may break any reader
        reason = str(error) if isinstance(error, GuardError) else repr(error)
        print(f"{name}: {reason}", flush=True)
        return {name: {"failed": reason}}
    print(f"{name}: {time.monotonic() - begun:.0f} s", flush=True)
    return runs


def _label(job: str, folder: Path, path: Path) -> str:
    """A run's name: the job's, in a grid with what varies there, because folders' names change."""
    if path.parent == folder:
        return job
    config = json.loads(path.read_text())
    control = config["control" if "control" in config else "choices"]
    return f"{job}/{config['method']}-{control}-seed{config['seed']}"


def _resume(program: Program, name: str, job: Job, whole: Run) -> dict[str, Any]:
    """Trains a job again, disturbed; says where it went on and whether it left the same."""
    folder = program.runs / f"{name}-resumed"
    command = program.command(job, folder)
    phases = [row["phase"] for row in whole["metrics"]]
    if job.disturbed == "killed":
        for _ in range(5):
            _kill(program, command, folder)
            saved = saved_epochs(folder)
            if saved and saved[-1] < phases.count(phases[0]):
                break
        else:
            raise GuardError("the run could not be killed in phase 1, after a checkpoint")
    else:
        shutil.copytree(program.runs / name, folder)
        shutil.rmtree(folder / f"checkpoints/{saved_epochs(folder)[-1]}")
        for file in ("summary.json", "fit.npz"):
            (folder / file).unlink(missing_ok=True)
    epoch = saved_epochs(folder)[-1]
    program.execute(command)
    before, after = flat(whole), flat(read_run(folder, program.places))
    unequal = [key for key in before | after if text_of(before.get(key)) != text_of(after.get(key))]
    verdict = f"{len(unequal)} values differ: {', '.join(unequal[:5])}" if unequal else "equal"
    print(f"{name}: resumed after epoch {epoch} of {len(phases)}: {verdict}", flush=True)
    return {"phase": phases[epoch - 1], "next_phase": phases[epoch], "equal": not unequal}


def _kill(program: Program, command: Sequence[str], folder: Path) -> None:
    """Starts a run and kills it after its second epoch."""
    shutil.rmtree(folder, ignore_errors=True)
    process, metrics = program.start(command, subprocess.DEVNULL), folder / "metrics.jsonl"
    while not metrics.exists() or metrics.read_bytes().count(b"\n") < 2:
        if process.poll() is not None:
            break
        time.sleep(0.005)
    process.kill()
    process.wait()
