"""How much memory a process of this machine may use."""

import os
import resource
from pathlib import Path

CGROUP_FILES = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
"""A container's limit, in the two versions of Linux's control groups."""


def host_memory() -> int:
    """Bytes: the machine's, or the limit of the process or its container where that is less."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        limits.append(limit)
    for file in CGROUP_FILES:
        text = file.read_text().strip() if file.is_file() else "max"
        if text.isdigit():
            limits.append(int(text))
    return min(limits)


def as_gib(count: float) -> str:
    """Bytes as they are told: 1.5 GiB."""
    return f"{count / 2**30:.3g} GiB"
