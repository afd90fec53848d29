"""Compiled programs are kept on disk, so that the second start of a program skips compiling."""

import os
import tempfile
from pathlib import Path
from typing import Any

import jax

SMALLEST_SECONDS = 0.05
"""Compilations that took less are not kept. A small network's epoch takes 1 to 3 s, and before it
some eighty array operations take 0.03 to 0.1 s each."""


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
