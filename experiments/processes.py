"""Several processes that train one run: how they find each other, and who writes.

Every process runs the same program. Process 0 alone has the run's folder, its lock and the
terminal; the others work in a copy of the folder that is gone when the run ends. So no file system
need be shared, and what is read is the same everywhere. What hangs on a clock or a signal is
decided together: `largest`.
"""

import contextlib
import io
import os
import re
import shutil
import sys
import tarfile
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from experiments import folder_lock, signals
from experiments.command_line import Parser, exit_status
from experiments.config import Config
from experiments.folder_lock import Held
from experiments.machine import require_memory_for_jax
from experiments.run_folder import FIGURES, LOCK, RunError

HEARTBEAT_SECONDS = 30
"""A process that was not heard of for so long has ended, and the others end too."""


def is_first() -> bool:
    """This process writes and prints; the only one, where there is one."""
    return jax.process_index() == 0


def several() -> bool:
    return jax.process_count() > 1


# Joining and leaving


def add_options(parser: Parser) -> None:
    """--distributed, and what says who is who where no cluster does."""
    group = parser.add_argument_group("several processes")
    group.add_argument(
        "--distributed",
        action="store_true",
        help="this process is one of several that train the run together, each started with the "
        "same options; Slurm, Open MPI or a TPU pod says which, or the next three options do",
    )
    group.add_argument(
        "--coordinator", metavar="HOST:PORT", help="where process 0 can be reached by the others"
    )
    group.add_argument("--processes", type=int, metavar="N", help="how many there are")
    group.add_argument("--process-id", type=int, metavar="I", help="of this process, 0 to N - 1")


@contextlib.contextmanager
def joined(arguments: Sequence[str]) -> Iterator[None]:
    """Of the processes that `add_options` describes one; to be entered before JAX has devices.

    An error inside ends the process with one line at once, because JAX would wait at its end for
    the others, who wait for it.

    Raises:
        ValueError: the options do not fit together, or the others cannot be found, or a limit of
            this process leaves JAX too little memory.
    """
    require_memory_for_jax()
    parser = Parser(add_help=False)
    add_options(parser)
    options, _ = parser.parse_known_args(arguments)
    facts = {
        "coordinator_address": options.coordinator,
        "num_processes": options.processes,
        "process_id": options.process_id,
    }
    given = sum(fact is not None for fact in facts.values())
    if given and not options.distributed:
        raise ValueError("--coordinator, --processes and --process-id need --distributed")
    if given not in (0, len(facts)):
        raise ValueError("--coordinator, --processes and --process-id: expected all or none")
    if not options.distributed:
        yield
        return
    try:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(**facts, heartbeat_timeout_seconds=HEARTBEAT_SECONDS)
        multihost_utils.sync_global_devices("joined")  # now, while all of them are here
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"--distributed: {_first_line(error)}") from error
    try:
        with contextlib.ExitStack() as silent:
            if not is_first():
                null = silent.enter_context(open(os.devnull, "w"))
                silent.enter_context(contextlib.redirect_stdout(null))
            yield
    except SystemExit:
        raise
    except BaseException as error:
        os._exit(_fail(error))


def _fail(error: BaseException) -> int:
    """Prints why this process ends, and returns its exit status."""

    def work() -> int:
        # A collective that another process left; XLA raises either.
        lost = isinstance(error, ValueError) and re.search("Gloo|NCCL", str(error))
        if lost or isinstance(error, jax.errors.JaxRuntimeError):
            who = f"process {jax.process_index()} of {jax.process_count()}"
            raise RunError(
                f"{who} cannot go on, the same command resumes: {_first_line(error)}"
            ) from error
        raise error

    try:
        status = exit_status(work)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return status


def _first_line(error: BaseException) -> str:
    return str(error).split("\n")[0][:300]


# Going on together


def largest(number: float) -> float:
    """Of the numbers of all processes, which must all ask: so that a clock or a signal of one
    decides the same in each."""
    if not several():
        return number
    return float(np.max(multihost_utils.process_allgather(np.float32(number))))


def end_if_asked() -> None:
    """`signals.end_if_asked`, of a signal that any of the processes was sent."""
    if number := int(largest(signals.asked())):
        raise signals.Interrupted(number)


@contextlib.contextmanager
def opened(folder: Path, config: Config) -> Iterator[Held]:
    """`folder_lock.opened`, in all processes but the first of a copy of the folder.

    Raises:
        RunError, ValueError: as `folder_lock.opened`; of several processes RunError in each.
    """
    if not several():
        with folder_lock.opened(folder, config) as held:
            yield held
        return
    with contextlib.ExitStack() as stack:
        refused = ""
        if is_first():
            try:
                held = stack.enter_context(folder_lock.opened(folder, config))
            except (RunError, ValueError, OSError) as error:
                refused = str(error)
        else:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="smartmixed-")))
        if refused := _from_first(refused.encode()).decode():
            raise RunError(refused)
        refresh(folder)
        if not is_first():
            held = stack.enter_context(folder_lock.opened(folder, config))
        yield held


def refresh(folder: Path) -> None:
    """In all processes but the first: what the run's folder holds, in place of what was here."""
    if not several():
        return
    archive = _from_first(_packed(folder) if is_first() else b"")
    if is_first():
        return
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        # Python before 3.11.4 has no filters; nor has it an argument for one.
        files.extraction_filter = getattr(tarfile, "data_filter", None)
        files.extractall(folder)


def _packed(folder: Path) -> bytes:
    """What a run goes on from, as a tar file."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as files:
        for path in sorted(folder.iterdir()):
            if path.name not in (FIGURES, LOCK):
                files.add(path, path.name)
    return buffer.getvalue()


def _from_first(data: bytes) -> bytes:
    """The bytes of process 0, in every process."""
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(data))))
    if not size:
        return b""
    buffer = np.frombuffer(data, np.uint8) if is_first() else np.zeros(size, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(buffer)).tobytes()
