"""One process at a time in a run folder."""

import contextlib
import dataclasses
import fcntl
from collections.abc import Iterator
from pathlib import Path

from experiments.config import MAY_DIFFER, Config
from experiments.run_folder import CONFIG, LOCK, RunError, read_config, write_config


@contextlib.contextmanager
def opened(folder: Path, config: Config) -> Iterator[None]:
    """Holds the folder for one process; makes it, or checks that it belongs to the config.

    Raises:
        RunError: another process holds the folder, it holds a run of another config, or it is
            no run folder.
        ValueError: its config.json is damaged.
    """
    _check_holds(folder, config)
    folder.mkdir(parents=True, exist_ok=True)
    with _lock(folder):
        _check_holds(folder, config)  # again: another process may have come first
        if read_config(folder) is None:
            write_config(folder, config)
        yield


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the folder of a run for one process, whatever its config.

    Raises:
        RunError: another process holds it.
        ValueError: it is no run folder.
    """
    if not (folder / CONFIG).exists():
        raise ValueError(f"{folder} is no run folder: it holds no {CONFIG}")
    with _lock(folder):
        yield


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[None]:
    with open(folder / LOCK, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(f"{folder} is in use by another process") from None
        yield


def _check_holds(folder: Path, config: Config) -> None:
    """Raises RunError unless the folder holds this config, or nothing."""
    stored = read_config(folder)
    if stored is None:
        if folder.exists() and any(entry.name != LOCK for entry in folder.iterdir()):
            raise RunError(f"{folder} is not empty and holds no {CONFIG}: choose another --run-dir")
        return
    differing = [
        f"{field.name} = {getattr(stored, field.name)!r} there, {getattr(config, field.name)!r} now"
        for field in dataclasses.fields(Config)
        if field.name not in MAY_DIFFER
        and getattr(stored, field.name) != getattr(config, field.name)
    ]
    if differing:
        raise RunError(
            f"{folder} holds another run ({'; '.join(differing)}): use another --run-dir"
        )
