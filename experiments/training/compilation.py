"""Compiled programs are kept on disk, so that the second start of a program skips compiling, and
let go of before a process runs out of memory maps."""

import os
import tempfile
from pathlib import Path
from typing import Any

import jax

SMALLEST_SECONDS = 0.05
"""Compilations that took less are not kept. A small network's epoch takes 1 to 3 s, and before it
some eighty array operations take 0.03 to 0.1 s each."""

MAPS, ALLOWED = Path("/proc/self/maps"), Path("/proc/sys/vm/max_map_count")
"""Where Linux lists the memory maps of this process, and says how many there may be."""


def keep_compilations() -> None:
    """Turns JAX's persistent compilation cache on, unless the user decided about it.

    JAX_COMPILATION_CACHE_DIR names another folder, JAX_ENABLE_COMPILATION_CACHE=false switches
    the cache off. A program calls this in its main(), an import never does.
    """
    config: Any = jax.config
    if not config.jax_enable_compilation_cache or config.jax_compilation_cache_dir:
        return
    home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    try:
        folder = home.expanduser() / "smartmixed-jax" / "compiled"
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except (OSError, RuntimeError):  # a home that is read-only, or none: compile as ever
        return
    config.update("jax_compilation_cache_dir", str(folder))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        config.update("jax_persistent_cache_min_compile_time_secs", SMALLEST_SECONDS)


def release_compilations() -> None:
    """Lets go of all compiled programs when they take half of what Linux lets a process map.

    On a CPU a program takes tens of memory maps, of which Linux allows 65,530; without one XLA ends
    the process. What is still needed is compiled again, or read from disk.
    """
    try:
        used, allowed = MAPS.read_bytes().count(b"\n"), int(ALLOWED.read_text())
    except OSError:  # not Linux
        return
    if 2 * used > allowed:
        jax.clear_caches()
