"""One process at a time in a run folder."""

import contextlib
import dataclasses
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from experiments.config import MAY_DIFFER, Config
from experiments.effects import without_effect
from experiments.names import preset_of
from experiments.run_folder import CONFIG, LOCK, PARTIAL, RunError, read_config, write_config


@dataclasses.dataclass(frozen=True)
class Held:
    """A run folder that this process holds."""

    folder: Path
    descriptor: int

    def require(self) -> None:
        """Before anything is written: RunError if the folder or its lock is gone, or another's."""
        mine = os.fstat(self.descriptor)
        try:
            there = os.stat(self.folder / LOCK)
        except FileNotFoundError:
            there = None
        if there is None or (there.st_dev, there.st_ino) != (mine.st_dev, mine.st_ino):
            raise RunError(
                f"{self.folder / LOCK} was removed or replaced: stopped, nothing written"
            )


@contextlib.contextmanager
def opened(folder: Path, config: Config) -> Iterator[Held]:
    """Holds the folder for one process; makes it, or checks that it belongs to the config.

    Raises:
        RunError: another process holds the folder, it holds a run of another config, or it is
            no run folder.
        ValueError: its config.json is damaged.
    """
    _check_holds(folder, config)
    folder.mkdir(parents=True, exist_ok=True)
    with _lock(folder) as held:
        _check_holds(folder, config)  # again: another process may have come first
        if read_config(folder) is None:
            write_config(folder, config)
        yield held


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
def _lock(folder: Path) -> Iterator[Held]:
    with open(folder / LOCK, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(f"{folder} is in use by another process") from None
        yield Held(folder, lock.fileno())


def _check_holds(folder: Path, config: Config) -> None:
    """Raises RunError unless the folder holds this config, or nothing."""
    stored = read_config(folder)
    if stored is None:
        # A process killed before it wrote its config leaves no more than these.
        begun = {LOCK, CONFIG + PARTIAL}
        if folder.exists() and any(entry.name not in begun for entry in folder.iterdir()):
            raise RunError(f"{folder} is not empty and holds no {CONFIG}: choose another --run-dir")
        return
    differing = [
        field.name
        for field in dataclasses.fields(Config)
        if field.name not in MAY_DIFFER
        and getattr(stored, field.name) != getattr(config, field.name)
    ]
    if differing:  # perhaps only in an option that came after the run, and does not concern it
        inert = [without_effect(each, preset_of(each)) for each in (stored, config)]
        differing = [name for name in differing if not all(name in each for each in inert)]
    if differing:
        values = "; ".join(
            f"{name} = {getattr(stored, name)!r} there, {getattr(config, name)!r} now"
            for name in differing
        )
        raise RunError(f"{folder} holds another run ({values}): use another --run-dir")
