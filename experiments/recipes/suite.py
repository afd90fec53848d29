"""Functions not looked at before: the learned choices beside what people would use instead.

    python -m experiments.recipes.suite [--targets bessel ...] [--refine | --smaller N]
        [--write FILE.json]
    python -m experiments.recipes.suite --vary points

Networks d-64-64-1, preset `recommended` (6,000 steps), the 24 targets of data/targets.py with which
the preset was not found, seeds 0-2. Uniform networks have as many steps as ours; rivals as many as
take our time, measured by experiments.benchmarks.rivals, and a learning rate chosen by the stage
`rivals` of experiments.recipes.search. The best uniform network, of eight, is picked by validation;
so is the best start, of eight runs of ours, in each of which every neuron begins with another
function with probability 1/2. These two cost the same.

--refine adds a last phase of L-BFGS to every method. --smaller compares networks from which neurons
are removed, the others fitted again (experiments.pruning): the learned, the shuffled, and of each
seed N uniform networks (all: 8) and N/2 starts, of which the best is picked. Networks that chose
are made smaller twice, as they are and with the function of most neurons in all, so N times as
well. Rivals then have the time of all that. --vary repeats a part of it with other numbers of
points, noise on the values, or widths. About four hours on one CPU core; the same command again
goes on. Expected: experiments/LOG.md.

The numbers of the tables are normalised test errors, MSE / Var y, geometric means over the seeds;
intervals are over the targets.
"""

import dataclasses
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments import recipes
from experiments.command_line import exit_status
from experiments.comparison import validation_error
from experiments.data.targets import SUITE
from experiments.evaluate import load_data, load_run
from experiments.presets import default_config
from experiments.pruning import normalized_error, smaller
from experiments.recipes import over_tasks, regret
from experiments.run_folder import FinishedRun, folder_of, write_text
from experiments.training.compilation import keep_compilations
from smartmixed_jax import REGRESSION_POOL

SEEDS = range(3)
STEPS = 107.7
"""Of 100 steps of phase 2 a mean epoch of ours takes the time, with 3 of 60 in phase 1."""
RIVALS: dict[str, tuple[float, float]] = {
    "prelu": (0.65, 1e-2),
    "rational": (0.97, 2e-2),
    "layer_mixture": (1.29, 5e-2),
    "siren": (0.64, 1e-2),
    "spline_kan": (14.1, 5e-2),
    "wide_spline_kan": (41.4, 2e-2),
    "chebyshev_kan": (0.52, 1e-2),
}
"""The time of a step by that of a step of our phase 2, and the learning rate."""
CLIP = 0.5
"""Of the gradient's norm, with which the rates were found."""
VARIED: dict[str, Sequence[Any]] = {
    "points": (250, 1000, 4000, 16000),
    "label_noise": (0.0, 0.01, 0.1, 0.5),
    "hidden": ((16, 16), (32, 32), (64, 64), (128, 128)),
}
FEW = ("dot_product", "black_body", "sum_of_unlike", "hinge_product", "wave_packet", "bessel")
"""The targets for --vary, one of each kind."""
FIGURE = Path("runs/suite.png")
KEPT = "smaller.json"
"""In the folder of a run: what its smaller network is like."""
REMOVAL = 8 / 3
"""Of one run of ours, about, the removal of neurons takes the time."""


def rival(name: str, times: float = 1.0) -> dict[str, Any]:
    """What a network of experiments.rivals changes in the preset; `times` the time of our run."""
    cost, rate = RIVALS[name]
    return {
        "network": f"experiments.rivals:{name}",
        "method": "uniform:relu",
        "steps_per_epoch": max(1, round(times * STEPS / cost)),
        "learning_rate": rate,
        "clip": CLIP,
        "schedule": "cosine",
    }


def study(
    target: str, *, rivals: Sequence[str] = tuple(RIVALS), times: float = 1.0, **changes: Any
) -> recipes.Study:
    base = dataclasses.replace(default_config(task=f"function:{target}"), **changes)
    others = {name: rival(name, times) for name in rivals}
    names = REGRESSION_POOL.names
    controls = ("shuffled", "majority")
    return recipes.study(base, SEEDS, controls=controls, uniform=names, starts=names, **others)


class Smaller(NamedTuple):
    """Of a smaller network MSE / Var y, the neurons of its layers, and whether they are alike."""

    validation: float
    test: float
    neurons: list[int]
    one_function: bool


def times_with(smaller: int) -> float:
    """Of one run of ours, the time of every start and of so many removals."""
    return len(REGRESSION_POOL.names) + REMOVAL * smaller


def smaller_networks(found: Sequence[regret.Runs], count: int) -> dict[str, list[list[Smaller]]]:
    """By variant, what was picked included: of every task and seed the smaller network.

    Of uniform networks so many, of starts half as many, those of the lowest validation error, are
    made smaller, and that counts whose validation error is then the lowest.
    """
    networks = {
        name: [[make_smaller(run) for run in runs[name]] for runs in found]
        for name in ("learned", "shuffled")
    }
    for prefix, best in regret.PICKED.items():
        networks[best] = [_best_smaller(runs, prefix, count) for runs in found]
    return networks


def _best_smaller(runs: regret.Runs, prefix: str, count: int) -> list[Smaller]:
    """One for each seed."""
    members = [by_seed for name, by_seed in runs.items() if name.startswith(prefix)]
    best = []
    for of_seed in zip(*members, strict=True):
        tries = 1 if of_seed[0].config.is_uniform else 2
        candidates = sorted(of_seed, key=validation_error)[: count // tries]
        best.append(min(map(make_smaller, candidates), key=lambda small: small.validation))
    return best


def _test_errors(networks: Sequence[Sequence[Smaller]]) -> np.ndarray:
    return np.array([[small.test for small in of_task] for of_task in networks])


def _one_function(networks: Mapping[str, Sequence[Sequence[Smaller]]]) -> dict[str, str]:
    """Of every variant, how many networks have one function in all neurons."""
    alike = {
        name: [small.one_function for of_task in rows for small in of_task]
        for name, rows in networks.items()
    }
    return {f"{name}, of one function": f"{sum(a)} of {len(a)}" for name, a in alike.items()}


def make_smaller(run: FinishedRun) -> Smaller:
    """What `experiments.pruning.smaller` makes of a run; kept in its folder.

    Of one that chose the better by validation of two: its choices, and one function everywhere.
    """
    folder = folder_of(run.config)
    file = folder / KEPT
    if not file.exists():
        found = min(_ways(run, folder), key=lambda small: small.validation)
        write_text(file, json.dumps(found._asdict()) + "\n")
        print(f"{folder}: {found.neurons} neurons, MSE / Var y {found.test:.1e}", flush=True)
    return Smaller(**json.loads(file.read_text()))


def _ways(run: FinishedRun, folder: Path) -> Iterator[Smaller]:
    trained = load_run(folder)
    splits = load_data(trained).splits
    for one_function in (False, True)[: 1 if run.config.is_uniform else 2]:
        small = smaller(trained, one_function=one_function)
        validation, test = (
            normalized_error(small.outputs(np.asarray(inputs)), np.asarray(values))
            for inputs, values in (splits["validation"], splits["test"])
        )
        neurons = [layer.kernel.shape[1] for layer in small.network.layers[:-1]]
        yield Smaller(validation, test, neurons, one_function or run.config.is_uniform)


def main(arguments: Sequence[str]) -> int:
    parser = recipes.Parser(prog="python -m experiments.recipes.suite", description=__doc__)
    parser.add_argument("--targets", nargs="+", choices=SUITE, metavar="NAME")
    parser.add_argument("--rivals", nargs="*", choices=RIVALS, default=list(RIVALS), metavar="NAME")
    last = parser.add_mutually_exclusive_group()
    last.add_argument("--refine", action="store_true")
    last.add_argument("--smaller", type=int, choices=(2, 4, 6, 8), metavar="N")
    parser.add_argument("--vary", choices=VARIED)
    parser.add_argument("--write", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    targets = options.targets or (FEW if options.vary else list(SUITE))
    changes: dict[str, Any] = {"refine_epochs": 2} if options.refine else {}
    changes |= {"times": times_with(options.smaller)} if options.smaller else {}
    varied = [{options.vary: value} for value in VARIED[options.vary]] if options.vary else [{}]

    def work() -> int:
        keep_compilations()
        written = []
        for more in varied:
            studies = [study(t, rivals=options.rivals, **changes, **more) for t in targets]
            runs = regret.train(studies)
            found, notes = over_tasks.errors(runs), dict(more)
            if options.smaller:
                networks = smaller_networks(runs, options.smaller)
                found = {name: found[name] for name in options.rivals}
                found |= {name: _test_errors(rows) for name, rows in networks.items()}
                notes |= _one_function(networks)
            title = ", ".join(f"{name} {value}" for name, value in notes.items())
            tables = [title, over_tasks.task_table(found, targets)]
            tables.append(over_tasks.verdict_table(found))
            print("\n" + "\n\n".join(filter(None, tables)), flush=True)
            written.append({**notes, **over_tasks.record(found, targets)})
        if options.write:
            over_tasks.write(options.write, "experiments.recipes.suite", arguments, written)
        if len(targets) > 1 and not options.vary:
            over_tasks.draw_ranks(found, FIGURE, "functions")
            print(FIGURE)
        return 0

    return exit_status(work)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
