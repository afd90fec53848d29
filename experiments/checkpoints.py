"""The states of a run on disk, in its folder's checkpoints/."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp

from experiments.run_folder import CHECKPOINTS, DAMAGED_CHECKPOINTS, RunError


class Position(NamedTuple):
    """Where a run stands: what a checkpoint holds beside the state.

    Attributes:
        phase_index: into `config.phases`.
        phase_epoch: epochs of that phase done.
        choices: of phase 2, per layer; empty before the switch.
        results: of the finished phases.
        switch: the switch report; empty before the switch.
    """

    phase_index: int = 0
    phase_epoch: int = 0
    choices: tuple[list[int], ...] = ()
    results: tuple[dict[str, Any], ...] = ()
    switch: dict[str, Any] = {}  # noqa: RUF012


START = Position()


class DamagedCheckpoint(RuntimeError):
    """A checkpoint cannot be read; one line says which and why."""


class Checkpoints:
    """The last two states of a run, each with its position, on disk through Orbax."""

    def __init__(self, folder: Path, *, read_only: bool = False) -> None:
        self._folder = folder
        self._manager = ocp.CheckpointManager(
            (folder / CHECKPOINTS).absolute(),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=2,
                enable_async_checkpointing=False,
                cleanup_tmp_directories=not read_only,
                create=not read_only,
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
        """The position that was saved; DamagedCheckpoint if it cannot be read."""
        args = ocp.args.Composite(position=ocp.args.JsonRestore())
        with _reading(epochs):
            return Position(**self._manager.restore(epochs, args=args).position)

    def restore_state(self, epochs: int, state: Any) -> Any:
        """The saved state in the structure of `state`; DamagedCheckpoint if it cannot be read."""
        target = {
            name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
            for name, leaf in _named_leaves(state).items()
        }
        args = ocp.args.Composite(state=ocp.args.StandardRestore(target))
        with _reading(epochs):
            leaves = self._manager.restore(epochs, args=args).state
            return jax.tree.unflatten(jax.tree.structure(state), [leaves[name] for name in target])

    def restore_part(self, epochs: int, name: str, part: Any) -> Any:
        """One field of the saved state, in the structure of `part`; errors as `restore_state`.

        Of a `Checkpoints` that has restored no state yet.
        """
        target = {f"{name}.{path}": leaf for path, leaf in _named_leaves(part).items()}
        restore = ocp.args.PyTreeRestore(
            target,
            ocp.checkpoint_utils.construct_restore_args(target),
            partial_restore=True,
        )
        with _reading(epochs):
            leaves = self._manager.restore(epochs, args=ocp.args.Composite(state=restore)).state
            return jax.tree.unflatten(jax.tree.structure(part), [leaves[name] for name in target])

    def set_aside(self, epochs: int) -> Path:
        """Moves a checkpoint out of the way, to the folder that is returned; nothing is deleted."""
        aside = self._folder / DAMAGED_CHECKPOINTS
        aside.mkdir(exist_ok=True)
        number = len(list(aside.glob(f"{epochs}*")))
        place = aside / (f"{epochs}-{number + 1}" if number else str(epochs))
        shutil.move(self._manager.directory / str(epochs), place)
        self._manager.reload()
        return place

    def drop_after(self, epochs: int) -> None:
        """Deletes the checkpoints that a run which goes on from `epochs` will write again."""
        for later in self.epochs():
            if later > epochs:
                self._manager.delete(later)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._manager.close()


@contextlib.contextmanager
def _reading(epochs: int) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # Orbax and its storage raise many kinds
        raise DamagedCheckpoint(
            f"checkpoint of epoch {epochs} is damaged ({_first_line(error)})"
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).split("\n")[0][:200]


def _named_leaves(tree: Any) -> dict[str, jax.Array]:
    """The leaves of a tree in its order, named by their paths."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    named = {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}
    assert len(named) == len(leaves)
    return named
