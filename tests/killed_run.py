"""`experiments.run` without pictures; one of its processes kills itself after an epoch.

python -m tests.killed_run PROCESS EPOCH OPTIONS
"""

import os
import signal
import sys

import jax

from experiments import figures, run
from experiments.checkpoints import Checkpoints

victim, last_epoch = map(int, sys.argv[1:3])
save = Checkpoints.save


def save_and_die(checkpoints, moment, *arguments):
    save(checkpoints, moment, *arguments)
    if jax.process_index() == victim and moment.epochs == last_epoch:
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    Checkpoints.save = save_and_die
    figures.draw_figures = lambda folder: []
    sys.exit(run.main(sys.argv[3:]))
