"""The research program: data, the training loop, runs, figures. Imports the library only."""

from experiments.machine import require_memory_to_import

require_memory_to_import()  # here, because every command imports JAX before its first line
