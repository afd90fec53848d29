"""A run folder: config, metrics, checkpoints. The same command in the same folder resumes."""

import contextlib
import dataclasses
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from experiments.config import Config, from_json, to_json

NEUTRAL_FIELDS = ("data_dir", "run_dir", "checkpoint_seconds")
"""Fields that may differ when a run is resumed."""


class RunError(RuntimeError):
    """A run cannot start or go on; one line says why."""


class Position(NamedTuple):
    """Where a run stands: what a checkpoint holds beside the state.

    Attributes:
        phase: index into the phases.
        epoch: epochs of that phase done.
        choices: of phase 2, per layer; empty before the switch.
        results: of the finished phases.
        switch: the switch report; empty before the switch.
    """

    phase: int = 0
    epoch: int = 0
    choices: tuple[list[int], ...] = ()
    results: tuple[dict[str, Any], ...] = ()
    switch: dict[str, Any] = {}  # noqa: RUF012


START = Position()


def folder_of(config: Config) -> Path:
    """The run's folder."""
    if config.run_dir is not None:
        return Path(config.run_dir)
    return Path("runs") / config.task.replace("function:", "") / config.name


def is_complete(folder: Path) -> bool:
    """The run's summary is written, and it is written last."""
    return (folder / "summary.json").exists()


@contextlib.contextmanager
def opened(folder: Path, config: Config) -> Iterator[None]:
    """Holds the folder for one process; makes it, or checks that it belongs to the config.

    Raises:
        RunError: another process holds the folder, it holds a run of another config, or it is
            no run folder.
    """
    path = folder / "config.json"
    if path.exists():
        _check_same(folder, config)
    elif folder.exists() and any(entry.name != ".lock" for entry in folder.iterdir()):
        raise RunError(f"{folder} is not empty and holds no config.json: choose another --run-dir")
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(f"{folder} is in use by another process") from None
        if not path.exists():
            write_text(path, to_json(config))
        yield


def _check_same(folder: Path, config: Config) -> None:
    try:
        stored = from_json((folder / "config.json").read_text())
    except (ValueError, TypeError, KeyError) as error:
        raise RunError(f"{folder}/config.json cannot be read: {error}") from None
    differing = [
        f"{field.name} = {getattr(stored, field.name)!r} there, {getattr(config, field.name)!r} now"
        for field in dataclasses.fields(Config)
        if field.name not in NEUTRAL_FIELDS
        and getattr(stored, field.name) != getattr(config, field.name)
    ]
    if differing:
        raise RunError(
            f"{folder} holds another run ({'; '.join(differing)}): use another --run-dir"
        )


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    temporary = path.with_name(path.name + ".partial")
    temporary.write_text(text)
    os.replace(temporary, path)


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes an .npz whole or not at all."""
    temporary = path.with_name(path.name + ".partial")
    with open(temporary, "wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    os.replace(temporary, path)


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl, one per epoch; a last line cut short is left out."""
    path = folder / "metrics.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def truncate_metrics(folder: Path, epochs: int) -> None:
    """Keeps the rows of the first `epochs` epochs: what the checkpoint knows."""
    rows = read_metrics(folder)[:epochs]
    write_text(folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def append_metrics(folder: Path, row: dict[str, Any]) -> None:
    with open(folder / "metrics.jsonl", "a") as file:
        file.write(json.dumps(row) + "\n")


class Checkpoints:
    """The last two states of a run, each with its position, on disk through Orbax."""

    def __init__(self, folder: Path) -> None:
        self._manager = ocp.CheckpointManager(
            (folder / "checkpoints").absolute(),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=2, enable_async_checkpointing=False, cleanup_tmp_directories=True
            ),
            item_names=("state", "position"),
        )

    def save(self, epochs: int, state: Any, position: Position) -> None:
        """Saves the state after `epochs` epochs of the run.

        Raises:
            RunError: the disk is full; earlier checkpoints stay.
        """
        # Asked before, because Orbax leaves half a checkpoint and pages of threads' tracebacks.
        needed = 2 * sum(leaf.nbytes for leaf in jax.tree.leaves(state)) + 2**20
        free = shutil.disk_usage(self._manager.directory).free
        if free < needed:
            raise RunError(
                f"no checkpoint after epoch {epochs}: {self._manager.directory} has "
                f"{free / 2**20:.1f} MiB free, {needed / 2**20:.1f} needed"
            )
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(_named_leaves(state)),
            position=ocp.args.JsonSave(position._asdict()),
        )
        try:
            self._manager.save(epochs, args=args, force=True)
        except (OSError, ValueError) as error:
            raise RunError(f"no checkpoint after epoch {epochs}: {_first_line(error)}") from error

    def epochs(self) -> list[int]:
        """The epochs of the run after which a checkpoint was saved."""
        return list(self._manager.all_steps())

    def restore_position(self, epochs: int) -> Position:
        args = ocp.args.Composite(position=ocp.args.JsonRestore())
        return Position(**self._manager.restore(epochs, args=args).position)

    def restore_state(self, epochs: int, state: Any) -> Any:
        """The saved state in the structure of `state`."""
        target = {
            name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
            for name, leaf in _named_leaves(state).items()
        }
        args = ocp.args.Composite(state=ocp.args.StandardRestore(target))
        leaves = self._manager.restore(epochs, args=args).state
        return jax.tree.unflatten(jax.tree.structure(state), [leaves[name] for name in target])

    def discard(self, epochs: int, error: Exception) -> None:
        """Deletes a damaged checkpoint and says so."""
        reason = _first_line(error)
        print(f"checkpoint of epoch {epochs} is damaged ({reason}); falling back", flush=True)
        self._manager.delete(epochs)

    def drop_after(self, epochs: int) -> None:
        """Deletes the checkpoints that a run which goes on from `epochs` will write again."""
        for later in self.epochs():
            if later > epochs:
                self._manager.delete(later)

    def close(self) -> None:
        self._manager.close()


def _first_line(error: Exception) -> str:
    return str(error).split("\n")[0][:200]


def _named_leaves(tree: Any) -> dict[str, jax.Array]:
    """The leaves of a tree in its order, named by their paths."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    named = {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}
    assert len(named) == len(leaves)
    return named
