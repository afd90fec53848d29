"""Tables of finished runs, read from their folders: `python -m experiments.report RUN ...`.

Each run is described, and the runs of a task are compared. Runs that are not complete are named.
With --html FILE the same is one page, with verdicts in words, figures and commands (page.py).
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import rich.box
import rich.console
import rich.table

from experiments import across, statistics
from experiments.command_line import Parser, exit_status
from experiments.comparison import BEST_START, BEST_UNIFORM, Comparison, Row, compare_runs
from experiments.names import layer_names, network_name
from experiments.objective import Objective
from experiments.run_folder import SUMMARY, is_complete, progress_of, read_finished


def describe(folder: Path) -> str:
    """One run: its phases, what the switch cost, and what each layer chose.

    Raises:
        ValueError: the run is not complete, or a file of its folder is missing or damaged.
    """
    config, task, summary = read_finished(folder)
    network = network_name(config)
    if config.network == "mlp":
        network = f"hidden {network}"
    try:
        parts = [
            f"{config.task}, {config.preset}, {config.method}, {network}, seed {config.seed} "
            f"({summary['seconds']:.0f} s, {summary['environment']['device']})",
            _noted(format_table(phase_rows(task.objective, summary)), task.objective.note),
        ]
        if switch := summary["switch"]:
            names = layer_names(config.network, switch["layers"])
            parts += [_switch_line(task.objective, switch)]
            if "beside_start" in switch:
                parts += [_start_line(switch["beside_start"], names)]
            parts += [_noted(format_table(layer_rows(switch["layers"], names)), LAYER_NOTE)]
    except KeyError as missing:
        raise ValueError(f"{folder / SUMMARY} holds no {missing}") from None
    return "\n\n".join(parts)


def _noted(table: str, note: str) -> str:
    return f"{table}\n{note}" if note else table


def phase_rows(objective: Objective, summary: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each phase: its epochs, and its results on validation and test data."""
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
    return rows


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


def _start_line(beside: dict[str, Any], names: Mapping[str, str]) -> str:
    """How many neurons left the function that all started from, and what that was worth."""
    start = beside["function"]
    line = (
        f"{beside['moved']} neurons chose another function than {start}; validation loss "
        f"{beside['learned']:.4g} with their choices, {beside['start']:.4g} without"
    )
    dropped = ", ".join(names[path] for path in beside["dropped"])
    return f"{line}; back to {start}, because no better: {dropped}" if dropped else line


LAYER_NOTE = "confidence: mean largest probability; undecided: neurons where it is below 1/2"


def layer_rows(
    layers: Mapping[str, dict[str, Any]], names: Mapping[str, str]
) -> list[dict[str, Any]]:
    """A row for each layer: the shares of its functions, and how sure its neurons are."""
    return [
        {
            "layer": names[path],
            "neurons": layer["features"],
            **{name: f"{100 * share:.0f} %" for name, share in layer["shares"].items()},
            "confidence": f"{layer['max_probability']:.2f}",
            "undecided": f"{100 * layer['undecided']:.0f} %",
        }
        for path, layer in ((path, layers[path]) for path in names)
    ]


def compare(folders: Sequence[Path]) -> str:
    """Runs of one task: test score per row and seed, means, and paired differences.

    Of several architectures: verdicts, the paper's tables, and these scores of each.

    A row is a method with its control, and what else tells configs apart. The first row is the one
    that the others are compared with. The best uniform network of a seed, and the best of several
    starts, is picked by its validation result. Where the objective has a log scale, means are
    geometric, and runs are compared by their ratio.

    Raises:
        ValueError: see `compare_runs`.
    """
    comparison = compare_runs(folders)
    heading = f"{comparison.task.name}: {comparison.task.objective.label}"
    if not across.are_several(comparison):
        return f"{heading}\n\n{_compared(comparison)}"
    told = [_part(part) for part in across.parts(comparison)]
    told += [
        f"{heading}, {across.label(name)}\n\n{_compared(of_architecture)}"
        for name, of_architecture in across.by_architecture(comparison).items()
    ]
    return "\n\n".join(told)


def _compared(comparison: Comparison) -> str:
    note = f"\n{INTERVAL_NOTE}" if len(comparison.seeds) > 2 else ""
    return f"{format_table(comparison_rows(comparison))}{note}"


def _part(part: across.Part) -> str:
    lines = [part.heading, "", *part.sentences]
    if part.rows:
        lines.append(format_table(part.rows))
    return "\n".join([*lines, *filter(None, [part.note])])


INTERVAL_NOTE = "[95 % interval of the mean over seeds, Student's t]"


def comparison_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """A row for each method: its score for every seed, the mean, and beside the first method."""
    objective, seeds = comparison.task.objective, comparison.seeds
    first = comparison.rows[0]
    rows = []
    for row in (*comparison.rows, *comparison.best_start(), *comparison.best_uniform()):
        cells = {"method": row.name, **{f"seed {seed}": _cell(row, seed) for seed in seeds}}
        if len(seeds) > 1:
            kind = "ratio to" if objective.log_scale else "minus"
            against = "" if row is first else _against(objective, row.scores(), first.scores())
            cells |= {
                "mean": _over_seeds(objective, row.scores()),
                f"{kind} {first.name}": against,
            }
        rows.append(cells)
    return rows


def _cell(row: Row, seed: int) -> str:
    """The score of a run; of one that was picked also which it was."""
    if seed not in row.runs:
        return ""
    config, task, _ = row.runs[seed]
    picked = {BEST_UNIFORM: config.method.removeprefix("uniform:"), BEST_START: config.start}
    which = f" ({picked[row.variant]})" if row.variant in picked else ""
    return task.objective.format(row.scores()[seed]) + which


def _over_seeds(objective: Objective, by_seed: Mapping[int, float]) -> str:
    """Their mean with its interval."""
    average = statistics.geometric_interval if objective.log_scale else statistics.interval
    return _with_ends([objective.format(number) for number in average(list(by_seed.values()))])


def _against(objective: Objective, by_seed: Mapping[int, float], first: Mapping[int, float]) -> str:
    """The ratio to the first method, or the difference from it, paired by seed."""
    pairs = statistics.pairs(by_seed, first)
    if not pairs:
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
    """Describes and compares runs; returns the exit status."""
    parser = Parser(prog="python -m experiments.report", description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, metavar="RUN", help="the folder of a run")
    parser.add_argument("--table", action="store_true", help="only compare them")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write one page instead")
    options = parser.parse_args(arguments)
    if options.html is not None:
        from experiments import page

        return exit_status(lambda: page.write(options.folders, options.html))
    return exit_status(lambda: _report(options.folders, only_table=options.table))


def _report(folders: Sequence[Path], *, only_table: bool) -> int:
    unfinished = [progress_of(folder) for folder in folders if not is_complete(folder)]
    complete = [folder for folder in folders if is_complete(folder)]
    if not complete:
        raise ValueError("; ".join(unfinished))
    parts = [] if only_table else [describe(folder) for folder in complete]
    parts += unfinished
    if only_table or len(complete) > 1:
        parts.append(compare(complete))
    print("\n\n".join(parts))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
