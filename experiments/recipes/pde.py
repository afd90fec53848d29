"""Differential equations: the learned choices beside uniform networks and a mixture, at equal time.

    python -m experiments.recipes.pde [--equations burgers ...] [--write FILE.json]

Networks d-32-32-32-1, preset `recommended` for equations (6,000 steps of Adam, 500 of L-BFGS),
seeds 0-4. Every method has as many steps as take our time, measured by
experiments.benchmarks.rivals --task pde:burgers. The mixture, one per layer and never fixed, is the
closest published rival. Choices are shuffled as a control. Half a minute a run on one CPU
core, 70 minutes for all; the same command again goes on. Expected: experiments/LOG.md.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments import recipes
from experiments.command_line import exit_status
from experiments.data.pdes import EQUATIONS
from experiments.presets import default_config
from experiments.recipes import over_tasks, regret
from experiments.training.compilation import keep_compilations

SEEDS = range(5)
MIXTURE = "smooth_layer_mixture"
STEPS = 121.0
"""Of 100 steps of phase 2 a mean epoch of ours takes the time, with 6 of 60 in phase 1."""
COSTS = {
    "sin": 0.793,
    "tanh": 0.782,
    "gelu": 0.893,
    "gauss": 0.751,
    MIXTURE: 1.93,
}
"""The time of a step by that of a step of our phase 2."""


def changes(name: str) -> dict[str, Any]:
    """What a uniform network, or the mixture, changes in the preset; it has our time."""
    steps = {"steps_per_epoch": round(STEPS / COSTS[name])}
    if name == MIXTURE:
        return {"network": f"experiments.rivals:{name}", "method": "uniform:tanh", **steps}
    return {"method": f"uniform:{name}", **steps}


def study(equation: str) -> recipes.Study:
    base = default_config(task=f"pde:{equation}")
    variants = {name if name == MIXTURE else f"uniform {name}": changes(name) for name in COSTS}
    return recipes.study(base, SEEDS, controls=("shuffled",), uniform=(), **variants)


def main(arguments: Sequence[str]) -> int:
    parser = recipes.Parser(prog="python -m experiments.recipes.pde", description=__doc__)
    parser.add_argument(
        "--equations", nargs="+", choices=EQUATIONS, default=list(EQUATIONS), metavar="NAME"
    )
    parser.add_argument("--write", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)

    def work() -> int:
        keep_compilations()
        studies = regret.train([study(name) for name in options.equations])
        found = over_tasks.errors(studies, every_member=True)
        tables = over_tasks.task_table(found, options.equations)
        print(f"\n{tables}\n\n{over_tasks.verdict_table(found)}")
        if options.write:
            record = over_tasks.record(found, options.equations)
            over_tasks.write(options.write, "experiments.recipes.pde", arguments, [record])
        return 0

    return exit_status(work)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
