"""How much memory a process of this machine may use, and whether that is enough for JAX.

A process that a limit denies memory is aborted inside XLA, or killed by the kernel, wherever it
is: so what JAX itself takes is known here, and a command asks before JAX has devices.
"""

import os
import resource
from pathlib import Path

CGROUP_FILES = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
"""A container's limit, in the two versions of Linux's control groups."""

ADDRESS_SPACE = "the address space of a process (ulimit -v)"
ADDRESSES, ADDRESSES_PER_CORE = 2_300_000_000, 200_000_000
"""Bytes of addresses that a small run takes, most of them for the stacks and heaps of threads.

Measured, its pictures included: 2.01 GB on one core, 2.21 GB on two, a small convolution 2.32 GB
(jax 0.10.2 on a CPU); and something beyond."""
ADDRESSES_TO_IMPORT = 600_000_000
"""Without any device; 0.52 GB measured."""
RESIDENT = 600_000_000
"""Bytes of memory that a small run takes: 0.58 GB measured on one core, 0.69 GB on two."""


def host_memory() -> int:
    """Bytes: the machine's, or the limit of the process or its container where that is less."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    return min([*limits, *filter(None, (_address_limit(), _container_limit()))])


def memory_for_arrays() -> int:
    """Bytes that JAX leaves a run under the limits of the process and its container.

    Of addresses the half: what is counted of a run is what it needs surely, and under such a limit
    the first that is missing, of a compiler or a checkpoint, ends the process.
    """
    room = [host_memory()]
    if limit := _address_limit():
        room.append((limit - _addresses_of_jax()) // 2)
    if limit := _container_limit():
        room.append(limit - RESIDENT)
    return max(min(room), 0)


def require_memory_for_jax() -> None:
    """Raises ValueError if JAX cannot have devices under the limits of the process."""
    _require(ADDRESS_SPACE, _address_limit(), _addresses_of_jax())
    _require("the memory of this container", _container_limit(), RESIDENT)


def require_memory_to_import() -> None:
    """Ends the process with one line if its limit denies even the imports of this program."""
    try:
        _require(ADDRESS_SPACE, _address_limit(), ADDRESSES_TO_IMPORT)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None


def _require(what: str, limit: int | None, needed: int) -> None:
    if limit is not None and limit < needed:
        raise ValueError(
            f"{what} is limited to {as_gib(limit)}: expected at least {as_gib(needed)}, which this "
            "program takes before it has any data"
        )


def _addresses_of_jax() -> int:
    ours = getattr(os, "sched_getaffinity", None)  # not on a Mac
    return ADDRESSES + ADDRESSES_PER_CORE * (len(ours(0)) if ours else os.cpu_count() or 1)


def _address_limit() -> int | None:
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if limit == resource.RLIM_INFINITY else limit


def _container_limit() -> int | None:
    texts = [file.read_text().strip() for file in CGROUP_FILES if file.is_file()]
    return min((int(text) for text in texts if text.isdigit()), default=None)


def as_gib(count: float) -> str:
    """Bytes as they are told: 1.5 GiB."""
    return f"{count / 2**30:.3g} GiB"
