"""Prints flags with which XLA compiles three times as fast, those that the installed one knows.

What it compiles is slower, and may differ in the last place: `pytest -m optimized` goes without.
"""

import os
import subprocess
import sys

WANTED = ("--xla_backend_optimization_level=0", "--xla_cpu_use_fusion_emitters=false")


def is_known(flag: str) -> bool:
    """XLA aborts the process that starts with a flag it does not know."""
    environment = os.environ | {"XLA_FLAGS": flag, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", "import jax; jax.devices()"]
    return not subprocess.run(command, env=environment, capture_output=True).returncode


if __name__ == "__main__":
    print(*filter(is_known, WANTED))
