"""Tables of finished runs, read from their folders.

`python -m experiments.report FOLDER ...` describes each; `--table` first only compares them.
"""

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rich.box
import rich.console
import rich.table
from scipy import special

from experiments.config import Config, from_json

BEST_UNIFORM = "best uniform, by validation"


def load(folder: Path) -> tuple[Config, dict[str, Any]]:
    """The config and summary of a finished run; ValueError if it is not one."""
    try:
        config = from_json((folder / "config.json").read_text())
        return config, json.loads((folder / "summary.json").read_text())
    except FileNotFoundError as error:
        raise ValueError(f"{folder} holds no finished run: {error.filename} is missing") from None


def test_score(config: Config, summary: dict[str, Any]) -> float:
    """Of the last phase: test accuracy in %, the normalised test error MSE / Var y of a function,
    or the test loss of a text."""
    last = summary["phases"][-1]
    if config.is_text:
        return last["test_loss"]
    return last["test_normalized_error"] if config.is_regression else 100 * last["test_score"]


def validation_error(config: Config, summary: dict[str, Any]) -> float:
    """Of the last phase, lower is better: of the same kind as `test_score`."""
    last = summary["phases"][-1]
    if config.is_text:
        return last["validation_loss"]
    return last["validation_score"] if config.is_regression else -last["validation_score"]


def lower_is_better(config: Config) -> bool:
    """Whether `test_score` is an error."""
    return config.is_regression or config.is_text


def score_name(config: Config) -> str:
    """What `test_score` is, with its unit."""
    if config.is_text:
        return "test loss, nats per character"
    return "normalised test error, MSE / Var y" if config.is_regression else "test accuracy (%)"


def format_score(config: Config, score: float) -> str:
    """A score, or a difference of two, without its unit."""
    if config.is_regression:
        return f"{score:.2e}"
    return f"{score:.3f}" if config.is_text else f"{score:.2f}"


def interval(values: Sequence[float]) -> list[float]:
    """The mean, and of three values or more the ends of its 95 % interval (Student's t)."""
    mean = float(np.mean(values))
    if len(values) < 3:
        return [mean]
    quantile = special.stdtrit(len(values) - 1, 0.975)
    half = float(quantile * np.std(values, ddof=1) / math.sqrt(len(values)))
    return [mean, mean - half, mean + half]


def describe(folder: Path) -> str:
    """One run: its phases, what the switch cost, and what each layer chose."""
    config, summary = load(folder)
    network: str = config.network
    if network == "mlp":
        network = "hidden " + "-".join(map(str, config.widths))
    parts = [
        f"{config.task}, {config.preset}, {config.method}, {network}, seed {config.seed} "
        f"({summary['seconds']:.0f} s, {summary['environment']['device']})",
        _phase_table(config, summary),
    ]
    if summary["switch"]:
        parts += [_switch_line(config, summary["switch"]), _layer_table(summary["switch"])]
    return "\n\n".join(parts)


def _phase_table(config: Config, summary: dict[str, Any]) -> str:
    rows = []
    for phase in summary["phases"]:
        row = {
            "phase": phase["name"],
            "epochs": phase["epochs"],
            "tested epoch": phase["tested_epoch"],
            "validation loss": f"{phase['validation_loss']:.4g}",
        }
        if config.is_regression:
            row["test error"] = f"{phase['test_normalized_error']:.2e}"
            row["outside"] = f"{phase['outside_normalized_error']:.2e}"
        else:
            row["validation accuracy"] = f"{100 * phase['validation_score']:.2f} %"
            if config.is_text:
                row["test loss"] = f"{phase['test_loss']:.4g}"
            row["test accuracy"] = f"{100 * phase['test_score']:.2f} %"
        rows.append(row)
    return format_table(rows) + ("\nerrors are MSE / Var y" if config.is_regression else "")


def _switch_line(config: Config, switch: dict[str, Any]) -> str:
    names = {
        "noise": "noise on",
        "argmax": "argmax",
        "expectation": "expectation",
        "fixed": "after fixing",
        "start": "start of phase 2",
    }
    scale, unit = (1.0, "") if config.is_regression else (100.0, " %")
    values = (f"{label} {scale * switch[name]:.4g}{unit}" for name, label in names.items())
    kind = "MSE" if config.is_regression else "accuracy"
    return f"the switch, validation {kind}: " + ", ".join(values)


def _layer_table(switch: dict[str, Any]) -> str:
    rows = [
        {
            "layer": str(number + 1),
            "neurons": layer["features"],
            **{name: f"{100 * share:.0f} %" for name, share in layer["shares"].items()},
            "confidence": f"{layer['max_probability']:.2f}",
            "undecided": f"{100 * layer['undecided']:.0f} %",
        }
        for number, layer in enumerate(switch["layers"].values())
    ]
    note = "confidence: mean largest probability; undecided: neurons where it is below 1/2"
    return f"{format_table(rows)}\n{note}"


def compare(folders: Sequence[Path]) -> str:
    """Runs of one task: test score per method and seed, means, and paired differences.

    The first run's method is the one that the others are compared with. The best uniform network
    of a seed is the one with the best validation score. Errors of functions are averaged on the
    log scale, and compared by their ratio.
    """
    runs = [load(folder) for folder in folders]
    config = runs[0][0]
    scores: dict[str, dict[int, float]] = {}
    best: dict[int, tuple[float, str]] = {}
    for run, summary in runs:
        scores.setdefault(run.variant, {})[run.seed] = test_score(run, summary)
        if run.method.startswith("uniform:"):
            candidate = validation_error(run, summary), run.method
            best[run.seed] = min(best.get(run.seed, candidate), candidate)
    first = next(iter(scores))
    if best:
        scores[BEST_UNIFORM] = {seed: scores[name][seed] for seed, (_, name) in best.items()}
    seeds = sorted({run.seed for run, _ in runs})
    rows = []
    for variant, by_seed in scores.items():
        row = {"method": variant}
        for seed in seeds:
            cell = format_score(config, by_seed[seed]) if seed in by_seed else ""
            if variant == BEST_UNIFORM and cell:
                cell += f" ({best[seed][1].removeprefix('uniform:')})"
            row[f"seed {seed}"] = cell
        if len(seeds) > 1:
            kind = "ratio to" if config.is_regression else "minus"
            row |= {
                "mean": _over_seeds(config, by_seed),
                f"{kind} {first}": _against(config, by_seed, scores[first]),
            }
        rows.append(row)
    note = "\n[95 % interval of the mean over seeds, Student's t]" if len(seeds) > 2 else ""
    return f"{config.task}: {score_name(config)}\n\n{format_table(rows)}{note}"


def _over_seeds(config: Config, by_seed: Mapping[int, float]) -> str:
    """Their mean, on the log scale for errors of functions."""
    values = list(by_seed.values())
    if config.is_regression:
        values = [math.exp(number) for number in interval([math.log(value) for value in values])]
    else:
        values = interval(values)
    return _with_ends([format_score(config, value) for value in values])


def _against(config: Config, by_seed: Mapping[int, float], first: Mapping[int, float]) -> str:
    """Paired by seed."""
    pairs = [(by_seed[seed], first[seed]) for seed in by_seed if seed in first]
    if by_seed is first or not pairs:
        return ""
    if config.is_regression:
        ratios = interval([math.log(own / other) for own, other in pairs])
        # Two digits, and no exponent below a million.
        return _with_ends([f"{float(f'{math.exp(ratio):.2g}'):g}" for ratio in ratios])
    differences = interval([own - other for own, other in pairs])
    return _with_ends(["+" * (n > 0) + format_score(config, n) for n in differences])


def _with_ends(numbers: Sequence[str]) -> str:
    mean, *ends = numbers
    return f"{mean} [{', '.join(ends)}]" if ends else mean


def format_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows with the same keys as text, the keys on top."""
    table = rich.table.Table(*rows[0], box=rich.box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for row in rows:
        table.add_row(*map(str, row.values()))
    console = rich.console.Console(
        width=200, color_system=None, highlight=False, markup=False, force_jupyter=False
    )
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().rstrip().split("\n"))


def main(arguments: Sequence[str]) -> int:
    """Describes each run; with --table only compares them."""
    try:
        folders = [Path(argument) for argument in arguments if argument != "--table"]
        if not folders:
            raise ValueError("expected one run folder or more")
        if "--table" not in arguments:
            print("\n\n".join(describe(folder) for folder in folders) + "\n")
        if len(folders) > 1:
            print(compare(folders))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
