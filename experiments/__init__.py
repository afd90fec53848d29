"""The research program: data, the training loop, runs, figures. Imports the library only."""

from experiments.machine import require_memory_to_import
from experiments.signals import end_quietly_while_importing

# Here, because every command imports JAX before its first line.
require_memory_to_import()
end_quietly_while_importing()
