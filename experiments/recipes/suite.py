"""Functions not looked at before: the learned choices beside what people would use instead.

    python -m experiments.recipes.suite [--targets bessel ...] [--refine] [--write FILE.json]
    python -m experiments.recipes.suite --vary points

Networks d-64-64-1, preset `recommended` (6,000 steps), the 24 targets of data/targets.py with which
the preset was not found, seeds 0-2. Uniform networks have as many steps as ours; rivals as many as
take our time, measured by experiments.benchmarks.rivals, and a learning rate chosen by the stage
`rivals` of experiments.recipes.search. --refine adds a last phase of L-BFGS to every method. --vary
repeats a part of it with other numbers of points, noise on the values, or widths. About three hours
on one CPU core; the same command again goes on. Expected: experiments/LOG.md.

The numbers of the tables are normalised test errors, MSE / Var y, geometric means over the seeds;
intervals are over the targets.
"""

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from experiments import recipes, statistics
from experiments.command_line import exit_status
from experiments.data.targets import SUITE
from experiments.figures.critical_difference import critical_difference
from experiments.presets import default_config
from experiments.recipes import regret
from experiments.report import format_table
from experiments.run_folder import FinishedRun
from experiments.training.compilation import keep_compilations
from experiments.training.outcome import environment
from smartmixed_jax import REGRESSION_POOL

SEEDS = range(3)
STEPS = 104.5
"""Of 100 steps of phase 2 a mean epoch of ours takes the time, with 3 of 60 in phase 1."""
RIVALS: dict[str, tuple[float, float]] = {
    "prelu": (0.29, 1e-2),
    "rational": (0.44, 2e-2),
    "layer_mixture": (1.41, 5e-2),
    "siren": (0.91, 1e-2),
    "spline_kan": (7.66, 5e-2),
    "wide_spline_kan": (20.3, 2e-2),
    "chebyshev_kan": (0.21, 1e-2),
}
"""The time of a step by that of a step of our phase 2, and the learning rate."""
VARIED: dict[str, Sequence[Any]] = {
    "points": (250, 1000, 4000, 16000),
    "label_noise": (0.0, 0.01, 0.1, 0.5),
    "hidden": ((16, 16), (32, 32), (64, 64), (128, 128)),
}
FEW = ("dot_product", "black_body", "sum_of_unlike", "hinge_product", "wave_packet", "bessel")
"""The targets for --vary, one of each kind."""
FIGURE = Path("runs/suite.png")


def rival(name: str) -> dict[str, Any]:
    """What a network of experiments.rivals changes in the preset."""
    cost, rate = RIVALS[name]
    return {
        "network": f"experiments.rivals:{name}",
        "method": "uniform:relu",
        "steps_per_epoch": max(1, round(STEPS / cost)),
        "learning_rate": rate,
        "schedule": "cosine",
    }


def study(target: str, *, rivals: Sequence[str] = tuple(RIVALS), **changes: Any) -> recipes.Study:
    base = dataclasses.replace(default_config(task=f"function:{target}"), **changes)
    others = {name: rival(name) for name in rivals}
    return recipes.study(
        base, SEEDS, controls=("shuffled", "majority"), uniform=REGRESSION_POOL.names, **others
    )


# What came out


def errors(studies: Sequence[regret.Runs]) -> dict[str, np.ndarray]:
    """By variant, best uniform included: the errors [targets, seeds]."""

    def error(run: FinishedRun) -> float:
        number: float = run.summary["phases"][-1]["test_normalized_error"]
        return number

    names = [name for name in studies[0] if not name.startswith("uniform ")]
    return {
        name: np.array([[error(run) for run in study[name]] for study in studies]) for name in names
    }


def target_table(found: Mapping[str, np.ndarray], targets: Sequence[str]) -> str:
    """A row for each target."""
    return format_table(
        [
            {
                "target": target,
                **{
                    name: f"{statistics.mean(error[row].tolist(), geometric=True):.2g}"
                    for name, error in found.items()
                },
            }
            for row, target in enumerate(targets)
        ]
    )


def verdicts(found: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """Of every variant: its geometric mean, and how the learned choices compare on the targets.

    Returns:
        By variant `error`; `ratio`, its error by that of the learned choices, with the ends of the
        95 % interval over the targets; `won`, the share of targets where that is above 1; and
        `rank`, the average over the targets.
    """
    logs = {name: np.log(error).mean(1) for name, error in found.items()}
    average = stats.rankdata(np.stack(list(logs.values()), 1), axis=1).mean(0)
    return {
        name: {
            "error": float(np.exp(log.mean())),
            "ratio": np.exp(statistics.interval((log - logs["learned"]).tolist())).tolist(),
            "won": float(np.mean(log > logs["learned"])),
            "rank": float(rank),
        }
        for (name, log), rank in zip(logs.items(), average, strict=True)
    }


def verdict_table(found: Mapping[str, dict[str, Any]]) -> str:
    """A row for each variant, the best first."""
    return format_table(
        [
            {
                "method": name,
                "geometric mean": f"{numbers['error']:.2g}",
                "by learned [95 %]": _interval(numbers["ratio"]) if name != "learned" else "",
                "learned is better on": f"{numbers['won']:.0%}" if name != "learned" else "",
                "average rank": f"{numbers['rank']:.1f}",
            }
            for name, numbers in sorted(found.items(), key=lambda item: item[1]["rank"])
        ]
    )


def _interval(numbers: Sequence[float]) -> str:
    mean, *ends = (f"{number:.2g}" for number in numbers)
    return f"{mean} [{', '.join(ends)}]" if ends else mean


def main(arguments: Sequence[str]) -> int:
    parser = recipes.Parser(prog="python -m experiments.recipes.suite", description=__doc__)
    parser.add_argument("--targets", nargs="+", choices=SUITE, metavar="NAME")
    parser.add_argument("--rivals", nargs="*", choices=RIVALS, default=list(RIVALS), metavar="NAME")
    parser.add_argument("--refine", action="store_true")
    parser.add_argument("--vary", choices=VARIED)
    parser.add_argument("--write", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    targets = options.targets or (FEW if options.vary else list(SUITE))
    changes: dict[str, Any] = {"refine_epochs": 2} if options.refine else {}
    varied = [{options.vary: value} for value in VARIED[options.vary]] if options.vary else [{}]

    def work() -> int:
        keep_compilations()
        written = []
        for more in varied:
            studies = [study(t, rivals=options.rivals, **changes, **more) for t in targets]
            found = errors(regret.train(studies))
            summary = verdicts(found)
            title = ", ".join(f"{name} {value}" for name, value in more.items())
            parts = [title, target_table(found, targets), verdict_table(summary)]
            print("\n" + "\n\n".join(filter(None, parts)), flush=True)
            lists = {name: error.tolist() for name, error in found.items()}
            written.append({**more, "targets": targets, "verdicts": summary, "errors": lists})
        if options.write:
            command = " ".join(["python -m experiments.recipes.suite", *arguments])
            content = {"command": command, "environment": environment(), "results": written}
            options.write.write_text(json.dumps(content, indent=1) + "\n")
        if len(targets) > 1 and not options.vary:
            names = list(found)
            scores = np.stack([np.log(error).mean(1) for error in found.values()], 1)
            figure = critical_difference(names, scores, lower_is_better=True, data_sets="functions")
            figure.savefig(FIGURE, dpi=200)
            print(FIGURE)
        return 0

    return exit_status(work)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
