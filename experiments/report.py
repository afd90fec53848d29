"""Tables of finished runs, read from their folders.

`python -m experiments.report FOLDER ...` describes each; `--table` first only compares them.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import rich.box
import rich.console
import rich.table

from experiments import statistics
from experiments.objective import Objective
from experiments.run_folder import read_finished

BEST_UNIFORM = "best uniform, by validation"


def describe(folder: Path) -> str:
    """One run: its phases, what the switch cost, and what each layer chose."""
    config, task, summary = read_finished(folder)
    network: str = config.network
    if network == "mlp":
        network = "hidden " + "-".join(map(str, config.widths))
    parts = [
        f"{config.task}, {config.preset}, {config.method}, {network}, seed {config.seed} "
        f"({summary['seconds']:.0f} s, {summary['environment']['device']})",
        _phase_table(task.objective, summary),
    ]
    if summary["switch"]:
        parts += [_switch_line(task.objective, summary["switch"]), _layer_table(summary["switch"])]
    return "\n\n".join(parts)


def _phase_table(objective: Objective, summary: dict[str, Any]) -> str:
    rows = []
    for phase in summary["phases"]:
        row = {
            "phase": phase["name"],
            "epochs": phase["epochs"],
            "tested epoch": phase["tested_epoch"],
            "validation loss": f"{phase['validation_loss']:.4g}",
        }
        for label, (key, write) in objective.columns.items():
            if key in phase:
                row[label] = write(phase[key])
        rows.append(row)
    return "\n".join(filter(None, [format_table(rows), objective.note]))


def _switch_line(objective: Objective, switch: dict[str, Any]) -> str:
    names = {
        "noise": "noise on",
        "argmax": "argmax",
        "expectation": "expectation",
        "fixed": "after fixing",
        "start": "start of phase 2",
    }
    values = (f"{label} {objective.format_metric(switch[name])}" for name, label in names.items())
    return f"the switch, validation {objective.metric}: " + ", ".join(values)


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
    of a seed is picked by its validation result. Where the objective has a log scale, means are
    geometric, and runs are compared by their ratio.
    """
    runs = [read_finished(folder) for folder in folders]
    objective = runs[0].task.objective
    scores: dict[str, dict[int, float]] = {}
    best: dict[int, tuple[float, str]] = {}
    for config, _, summary in runs:
        last = summary["phases"][-1]
        scores.setdefault(config.variant, {})[config.seed] = objective.compared(last)
        if config.method.startswith("uniform:"):
            candidate = objective.validation_error(last), config.method
            best[config.seed] = min(best.get(config.seed, candidate), candidate)
    first = next(iter(scores))
    if best:
        scores[BEST_UNIFORM] = {seed: scores[name][seed] for seed, (_, name) in best.items()}
    seeds = sorted({run.config.seed for run in runs})
    rows = []
    for variant, by_seed in scores.items():
        row = {"method": variant}
        for seed in seeds:
            cell = objective.format(by_seed[seed]) if seed in by_seed else ""
            if variant == BEST_UNIFORM and cell:
                cell += f" ({best[seed][1].removeprefix('uniform:')})"
            row[f"seed {seed}"] = cell
        if len(seeds) > 1:
            kind = "ratio to" if objective.log_scale else "minus"
            row |= {
                "mean": _over_seeds(objective, by_seed),
                f"{kind} {first}": _against(objective, by_seed, scores[first]),
            }
        rows.append(row)
    note = "\n[95 % interval of the mean over seeds, Student's t]" if len(seeds) > 2 else ""
    return f"{runs[0].config.task}: {objective.label}\n\n{format_table(rows)}{note}"


def _over_seeds(objective: Objective, by_seed: Mapping[int, float]) -> str:
    """Their mean with its interval."""
    average = statistics.geometric_interval if objective.log_scale else statistics.interval
    return _with_ends([objective.format(number) for number in average(list(by_seed.values()))])


def _against(objective: Objective, by_seed: Mapping[int, float], first: Mapping[int, float]) -> str:
    """The ratio to the first method, or the difference from it, paired by seed."""
    pairs = statistics.pairs(by_seed, first)
    if by_seed is first or not pairs:
        return ""
    if objective.log_scale:
        # Two digits, and no exponent below a million.
        ratios = statistics.paired_ratios(pairs)
        return _with_ends([f"{float(f'{ratio:.2g}'):g}" for ratio in ratios])
    differences = statistics.paired_differences(pairs)
    return _with_ends(["+" * (number > 0) + objective.format(number) for number in differences])


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
