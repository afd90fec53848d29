"""Which formulas can be read from a network? Trained in two phases, made smaller, written as a sum.

    python -m experiments.recipes.formula [--targets NAME ...] [--seeds N]
    python -m experiments.recipes.formula --runs RUN ...

Preset `recommended` for functions, hidden widths as in WIDTHS, clip 0.5. Then experiments.pruning
removes neurons as long as the fit stays, and the formula is read from what is left. Of the seeds
that with the lowest error of its text on the validation points is printed, with its error on the
test points, RMS by the standard deviation of the values. The second form reads runs of yours,
functions and tables of values. About half a minute a run on one CPU core; the same command again
trains nothing. Expected: experiments/LOG.md.
"""

import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments import recipes
from experiments.command_line import exit_status
from experiments.config import Config
from experiments.data.functions import formulas
from experiments.data.targets import TARGETS
from experiments.evaluate import (
    describe_formula,
    load_data,
    load_run,
    read_formula,
)
from experiments.presets import default_config
from experiments.pruning import normalized_error, smaller
from experiments.training.compilation import keep_compilations
from experiments.training.train import train_and_evaluate
from smartmixed_jax.summary import Formula

WIDTHS: dict[str, tuple[int, ...]] = {
    "product_sine": (16,),
    "dot_product": (16,),
    "sum_of_unlike": (16,),
    "rosenbrock": (8, 8),
}
"""Hidden widths by target, (16,) for others."""
CLIP = 0.5
"""Of the gradient's norm: at the preset's 0.03 these small networks do not reach sum_of_unlike."""

LIMIT = 2e-6
"""Of MSE / Var y: the smallest network is read that is as good."""


class Reading(NamedTuple):
    """A formula that was read from the run of a seed.

    Attributes:
        validation, test: RMS of the text minus the values, by the standard deviation of these.
        fitted: the same of the network as it was trained, on the test points.
    """

    seed: int
    formula: Formula
    validation: float
    test: float
    fitted: float


def configs(target: str, seeds: int) -> list[Config]:
    base = default_config("recommended", f"function:{target}")
    base = dataclasses.replace(base, hidden=WIDTHS.get(target, (16,)), clip=CLIP)
    return [dataclasses.replace(base, seed=seed) for seed in range(seeds)]


def read(config: Config) -> Reading:
    """Trains a run of a function, or finds it trained, and reads it."""
    run = load_run(train_and_evaluate(config))
    found, splits = read_formula(smaller(run, LIMIT)), load_data(run).splits

    def error(part: str, function: Callable[[np.ndarray], np.ndarray] = found) -> float:
        inputs, values = map(np.asarray, splits[part])
        return float(np.sqrt(normalized_error(function(inputs), values)))

    fitted = error("test", run.outputs)
    return Reading(config.seed, found, error("validation"), error("test"), fitted)


def main(arguments: Sequence[str]) -> int:
    parser = recipes.Parser(prog="python -m experiments.recipes.formula", description=__doc__)
    parser.add_argument(
        "--targets", nargs="+", choices=TARGETS, default=list(WIDTHS), metavar="NAME"
    )
    parser.add_argument("--seeds", type=int, default=4, metavar="N")
    parser.add_argument("--runs", nargs="+", type=Path, default=[], metavar="RUN")
    options = parser.parse_args(arguments)
    if options.seeds < 1:
        parser.error(f"--seeds {options.seeds}: expected at least 1")

    def work() -> int:
        keep_compilations()
        for folder in options.runs:
            print(f"{folder}\n{describe_formula(read_formula(smaller(load_run(folder), LIMIT)))}\n")
        for target in [] if options.runs else options.targets:
            found = [read(config) for config in configs(target, options.seeds)]
            best = min(found, key=lambda reading: reading.validation)
            print(f"\n{target} = {formulas()[target]}\n{describe_formula(best.formula)}")
            print(f"test {best.test:.1e}, network {best.fitted:.1e} (RMS / std); ", end="")
            of_all = ", ".join(f"{reading.test:.1e}" for reading in found)
            print(f"seed {best.seed}; of seeds 0 to {len(found) - 1}: {of_all}", flush=True)
        return 0

    return exit_status(work)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
