"""The states of a run on disk, through Orbax: in its folder's checkpoints/.

Each holds the arrays, named, and beside them where the run stands and a SHA-256 of everything.
Reading changes nothing; what is stale is removed after a newer state is on disk.
"""

import contextlib
import errno
import functools
import gc
import hashlib
import json
import logging
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from experiments import processes
from experiments.run_folder import CHECKPOINTS, CHECKPOINTS_WITHIN, RunError, write_text

FORMAT = 2
"""Of what a checkpoint holds; one of another format is refused."""
KEPT = 2
"""Checkpoints at the end of an epoch."""


class Moment(NamedTuple):
    """When a checkpoint was saved: after so many epochs of the run, and steps of the next."""

    epochs: int
    steps: int = 0

    def __str__(self) -> str:
        return f"epoch {self.epochs}" + (f", step {self.steps} of the next" if self.steps else "")


class Position(NamedTuple):
    """Where a run stands: what a checkpoint holds beside the state.

    Attributes:
        phase_index: into `config.phases`.
        phase_epoch: epochs of that phase done.
        phase_step: steps of the next epoch done.
        choices: of phase 2, per layer; empty before the switch.
        results: of the finished phases.
        switch: the switch report; empty before the switch.
        rows: the SHA-256 of the rows of metrics.jsonl.
        retries: what was not finite, each time before the run went on at a lower learning rate.
    """

    phase_index: int = 0
    phase_epoch: int = 0
    phase_step: int = 0
    choices: tuple[list[int], ...] = ()
    results: tuple[dict[str, Any], ...] = ()
    switch: dict[str, Any] = {}  # noqa: RUF012
    rows: str = hashlib.sha256().hexdigest()
    retries: tuple[str, ...] = ()


START = Position()


class DamagedCheckpoint(RuntimeError):
    """A checkpoint does not hold what was saved; one line says what is wrong."""


class Checkpoints:
    """The last states of a run, each with its position.

    checkpoints/E holds the state after E epochs, the last two; checkpoints-within-epoch/E+S the
    last one S steps later, until the epoch has ended. Of several processes the first saves.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()
        # Directories at once: otherwise threads that save wait for each other's by one counter.
        at_once = ocp.options.AsyncOptions(create_directories_asynchronously=False)
        # Of several processes each reads in its own folder: none waits for another.
        index = jax.process_index()
        alone = ocp.options.MultiprocessingOptions(index, {index}, f"process{index}")
        self._checkpointer = ocp.Checkpointer(
            ocp.CompositeCheckpointHandler(
                composite_options=ocp.CompositeOptions(alone, async_options=at_once),
                state=ocp.StandardCheckpointHandler(multiprocessing_options=alone),
                position=ocp.JsonCheckpointHandler(multiprocessing_options=alone),
            ),
            multiprocessing_options=alone,
        )

    def moments(self) -> list[Moment]:
        """What there is, the newest last."""
        found = [place.name for place in self._places() if re.fullmatch(r"\d+(\+\d+)?", place.name)]
        return sorted(Moment(*map(int, name.split("+"))) for name in found)

    def _places(self) -> list[Path]:
        parents = [self._folder / name for name in (CHECKPOINTS, CHECKPOINTS_WITHIN)]
        return [place for parent in parents if parent.is_dir() for place in parent.iterdir()]

    def place(self, moment: Moment) -> Path:
        """The folder of a checkpoint."""
        if moment.steps:
            return self._folder / CHECKPOINTS_WITHIN / f"{moment.epochs}+{moment.steps}"
        return self._folder / CHECKPOINTS / str(moment.epochs)

    def save(
        self, moment: Moment, state: Any, position: Position, logits: Mapping[str, np.ndarray]
    ) -> None:
        """Saves, then removes what this state makes stale.

        Args:
            moment: of the run.
            state: a tree of arrays.
            position: of the same moment.
            logits: those at the switch, by layer.

        Raises:
            RunError: the disk is full, or cannot be written; earlier checkpoints stay.
        """
        if not processes.is_first():
            return
        if processes.several():  # Orbax saves no jax.Array that only one of them has
            state = jax.device_get(state)
        leaves = _named_leaves({"state": state, "switch": dict(logits)})
        place = self.place(moment)
        place.parent.mkdir(exist_ok=True)
        # Asked before, because Orbax leaves half a checkpoint and pages of threads' tracebacks.
        needed = 2 * sum(leaf.nbytes for leaf in leaves.values()) + 2**20
        free = shutil.disk_usage(place.parent).free
        if free < needed:
            raise RunError(
                f"no checkpoint after {moment}: {place.parent} has {free / 2**20:.1f} MiB free, "
                f"{needed / 2**20:.1f} needed"
            )
        header = {
            "format": FORMAT,
            "leaves": {name: _identity(leaf) for name, leaf in leaves.items()},
            "position": position._asdict(),
        }
        header["sha256"] = _sha256(header)
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(leaves), position=ocp.args.JsonSave(header)
        )
        try:
            with _quiet():
                self._checkpointer.save(place, args=args, force=True)
        except (OSError, ValueError) as error:
            raise RunError(f"no checkpoint after {moment}: {_first_line(error)}") from error
        self._remove_stale(moment)

    def _remove_stale(self, newest: Moment) -> None:
        """What a run that went on from `newest` will not read, and what a killed save left."""
        at_ends = [moment for moment in self.moments() if moment <= newest and not moment.steps]
        kept = {self.place(moment) for moment in [newest, *at_ends[-KEPT:]]}
        for place in self._places():
            if place not in kept and ".damaged" not in place.name:
                shutil.rmtree(place, ignore_errors=True)
        with contextlib.suppress(OSError):  # it is not there, or not empty
            (self._folder / CHECKPOINTS_WITHIN).rmdir()

    # Reading

    def restore_position(self, moment: Moment) -> Position:
        """The position that was saved; errors as `restore_state`."""
        position: dict[str, Any] = self._header(moment)["position"]
        return Position(**{**position, **{n: tuple(position[n]) for n in _TUPLES}})

    def restore_state(self, moment: Moment, state: Any) -> tuple[Any, dict[str, np.ndarray]]:
        """The saved state in the structure of `state`, and the logits at the switch by layer.

        Raises:
            DamagedCheckpoint: it does not hold what was saved.
            RunError: it is of another format or structure, or cannot be read now.
        """
        saved = self._header(moment)["leaves"]
        target: dict[str, Any] = _named_leaves({"state": state})
        for name in saved:
            if name.startswith(_AT_SWITCH):
                dtype, shape, _ = saved[name]
                target[name] = np.zeros(shape, dtype)
        self._require_structure(moment, saved, target)
        abstract = {name: _abstract(leaf) for name, leaf in target.items()}
        args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
        leaves = self._read(moment, args).state
        self._require_same(moment, saved, leaves)
        logits = {
            name.removeprefix(_AT_SWITCH): np.asarray(leaves.pop(name))
            for name in list(leaves)
            if name.startswith(_AT_SWITCH)
        }
        names = _named_leaves({"state": state})
        return jax.tree.unflatten(jax.tree.structure(state), [leaves[n] for n in names]), logits

    def restore_part(self, moment: Moment, name: str, part: Any) -> Any:
        """One field of the saved state, in the structure of `part`; errors as `restore_state`."""
        saved = self._header(moment)["leaves"]
        prefix = f"state.{name}."
        target = {f"{prefix}{path}": leaf for path, leaf in _named_leaves(part).items()}
        saved = {path: saved[path] for path in saved if path.startswith(prefix)}
        self._require_structure(moment, saved, target)
        leaves = self._restore_some(moment, saved, target)
        return jax.tree.unflatten(jax.tree.structure(part), [leaves[name] for name in target])

    def restore_logits(self, moment: Moment) -> dict[str, np.ndarray]:
        """The logits [N, K] that were trained, by the path of the layer; errors as `restore_state`.

        None of a phase that trains no logits.
        """
        saved = {
            name: leaf
            for name, leaf in self._header(moment)["leaves"].items()
            if _TRAINED_LOGITS.fullmatch(name)
        }
        target = {name: np.zeros(shape, dtype) for name, (dtype, shape, _) in saved.items()}
        leaves = self._restore_some(moment, saved, target) if saved else {}
        return {
            found[1]: np.asarray(leaf)
            for name, leaf in leaves.items()
            if (found := _TRAINED_LOGITS.fullmatch(name))
        }

    def _restore_some(
        self, moment: Moment, saved: Mapping[str, Any], target: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The leaves of `target`, which is some of the saved state."""
        restore = ocp.args.PyTreeRestore(
            target,
            ocp.checkpoint_utils.construct_restore_args(target),
            partial_restore=True,
        )
        # Another handler than that of whole states, which a Checkpointer keeps once it was used.
        with ocp.Checkpointer(
            ocp.CompositeCheckpointHandler(state=ocp.PyTreeCheckpointHandler())
        ) as checkpointer:
            args = ocp.args.Composite(state=restore)
            leaves: dict[str, Any] = self._read(moment, args, checkpointer).state
        self._require_same(moment, saved, leaves)
        return leaves

    def _header(self, moment: Moment) -> dict[str, Any]:
        args = ocp.args.Composite(position=ocp.args.JsonRestore())
        header = self._read(moment, args).position
        if not isinstance(header, dict) or "sha256" not in header:
            if isinstance(header, dict) and "phase_index" in header:
                raise self._other(moment, f"has format 1, of an older version; expected {FORMAT}")
            raise DamagedCheckpoint("its position holds no SHA-256")
        if header.pop("sha256") != _sha256(header):
            raise DamagedCheckpoint("the SHA-256 of its position is another")
        if header["format"] != FORMAT:
            raise self._other(moment, f"has format {header['format']!r}, expected {FORMAT}")
        return header

    def _read(self, moment: Moment, args: Any, checkpointer: Any = None) -> Any:
        """What Orbax reads; a failure is sorted into damage, and what may pass."""
        place, failure = self.place(moment), RuntimeError()
        with _quiet():
            try:
                return (checkpointer or self._checkpointer).restore(place, args=args)
            except Exception as error:  # Orbax and its storage raise many kinds
                told = _first_line(error)
                failure = DamagedCheckpoint(told)
                if may_pass(error, place):
                    failure = RunError(f"{place} cannot be read now ({told}); nothing is changed")
            gc.collect()  # its other threads failed too, and each would tell so when it is freed
        _drop_what_follows()
        raise failure

    def _require_structure(
        self, moment: Moment, saved: Mapping[str, Any], target: Mapping[str, Any]
    ) -> None:
        expected = {name: _kind(leaf) for name, leaf in target.items()}
        found = {name: (dtype, tuple(shape)) for name, (dtype, shape, _) in saved.items()}
        for name in sorted({*expected, *found}):
            if expected.get(name) != found.get(name):
                has, needs = (_told_kind(kinds.get(name)) for kinds in (found, expected))
                raise self._other(moment, f"holds another structure: {name} is {has}, not {needs}")

    def _require_same(
        self, moment: Moment, saved: Mapping[str, Any], leaves: Mapping[str, Any]
    ) -> None:
        for name, leaf in leaves.items():
            if _identity(leaf)[2] != saved[name][2]:
                raise DamagedCheckpoint(f"the SHA-256 of {name} is another")

    def _other(self, moment: Moment, problem: str) -> RunError:
        return RunError(f"{self.place(moment)} {problem}; nothing is changed")

    def set_aside(self, moment: Moment, reason: str) -> Path:
        """Renames a checkpoint that cannot be read to N.damaged, the reason beside it."""
        place = self.place(moment)
        number, aside = 1, place.with_name(f"{place.name}.damaged")
        while aside.exists():
            number += 1
            aside = place.with_name(f"{place.name}.damaged-{number}")
        place.rename(aside)
        write_text(aside.with_name(f"{aside.name}.txt"), f"{reason}\n")
        return aside

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._checkpointer.close()


_AT_SWITCH = "switch."
_TRAINED_LOGITS = re.compile(r"state\.params\.selection\.(.+)\.selection_logits\.value")
_TUPLES = ("choices", "results", "retries")
_PASSING = {errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EIO, errno.EACCES, errno.EPERM}
_PASSING |= {errno.ESTALE, errno.ETIMEDOUT, errno.ENETDOWN, errno.EINTR, errno.EBUSY}
_PASSING_WORDS = {"RESOURCE_EXHAUSTED", "Out of memory", "Too many open files", "std::bad_alloc"}
_PASSING_WORDS |= {"Permission denied", "PERMISSION_DENIED", "Cannot allocate memory"}


def may_pass(error: BaseException, place: Path) -> bool:
    """The error says nothing of the files: no memory, too many open, a disk that fails to answer.

    Args:
        place: of the files; each is read, and where that fails too, the disk is to blame.
    """
    known: BaseException | None = error
    while known is not None:
        if isinstance(known, MemoryError) or getattr(known, "errno", None) in _PASSING:
            return True
        if any(word in str(known) for word in _PASSING_WORDS):
            return True
        known = known.__cause__ or known.__context__
    try:
        for path in place.rglob("*"):
            if path.is_file():
                path.read_bytes()
    except (OSError, MemoryError) as failed:
        return getattr(failed, "errno", None) != errno.ENOENT
    return False


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the messages and tracebacks that Orbax leaves beside what it raises."""
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    before, hook = [logger.disabled for logger in loggers], sys.unraisablehook
    for logger in loggers:
        logger.disabled = True
    sys.unraisablehook = lambda _: None
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for logger, disabled in zip(loggers, before, strict=True):
            logger.disabled = disabled


@functools.cache
def _drop_what_follows() -> None:
    """Drops what Orbax's other threads met after one of them failed, told when it is freed."""
    hook = sys.unraisablehook

    def of_others(unraisable: Any) -> None:
        code = getattr(unraisable.object, "cr_code", None)
        if code is None or "orbax" not in code.co_filename:
            hook(unraisable)

    sys.unraisablehook = of_others
    logging.getLogger("asyncio").addFilter(lambda record: "orbax" not in record.getMessage())


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().split("\n")
    return lines[0][:200] or type(error).__name__


def _kind(leaf: Any) -> tuple[str, tuple[int, ...]]:
    return str(np.dtype(leaf.dtype)), tuple(leaf.shape)


def _told_kind(kind: tuple[str, tuple[int, ...]] | None) -> str:
    return "missing" if kind is None else f"{kind[0]}{list(kind[1])}"


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None))


def _identity(leaf: Any) -> list[Any]:
    """dtype, shape and SHA-256 of an array."""
    return [*_kind(leaf), hashlib.sha256(np.asarray(leaf).tobytes()).hexdigest()]


def _sha256(record: Any) -> str:
    """Of JSON data."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _named_leaves(tree: Any) -> dict[str, Any]:
    """The leaves of a tree in its order, named by their paths."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    named = {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}
    assert len(named) == len(leaves)
    return named
