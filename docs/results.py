"""The pages of results and of benchmarks, from the files that recipes and benchmarks write.

    PYTHONPATH=. python docs/results.py FOLDER        results.md and benchmarks.md, there

Every section gives its numbers, the command that makes them, and where and when they were measured.
"""

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.ranks import critical_difference, friedman
from experiments.recipes import over_tasks as recipe
from experiments.recipes.tables import with_error
from experiments.statistics import geometric_interval, interval
from experiments.verdicts import with_ends

Record = Mapping[str, Any]
FILES = Path(__file__).resolve().parents[1] / "experiments/results"


class Section(NamedTuple):
    """A heading, what is compared, the file, and what makes a verdict and tables of its content."""

    heading: str
    text: str
    file: str
    read: Callable[[Record], tuple[str, list[str]]]


def pages() -> dict[str, str]:
    """File names → Markdown. A file of results that is missing is an error."""
    written = [_section(section) for section in RESULTS]
    short = [
        f"* **{each.heading}**: {verdict}."
        for each, (verdict, _) in zip(RESULTS, written, strict=True)
    ]
    sections = ["\n".join(short), *(text for _, text in written)]
    return {
        "results.md": _page("Results", RESULTS_TEXT, sections),
        "benchmarks.md": _page("Benchmarks", BENCHMARKS_TEXT, _benchmarks()),
    }


def _page(title: str, text: str, sections: Iterable[str]) -> str:
    return "\n\n".join([f"# {title}", text, *sections]) + "\n"


def _section(section: Section) -> tuple[str, str]:
    """Its verdict, and all of it."""
    record = json.loads((FILES / section.file).read_text())
    verdict, tables = section.read(record)
    return verdict, "\n\n".join([f"## {section.heading}", section.text, *tables, _source(record)])


def _source(record: Record) -> str:
    place = record["environment"]
    device = "2 shared CPU cores" if place["device"].startswith("cpu") else place["device"]
    versions = ", ".join(f"{name} {place[name]}" for name in ("python", "jax", "flax"))
    return f"```bash\n{record['command']}\n```\n\n{device}, {versions}, {place['date']}."


# Tables


def markdown(rows: Sequence[Mapping[str, str]]) -> str:
    """Rows of the same columns."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [columns, ["---"] * len(columns), *([row.get(c, "") for c in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


NAMES = {"as_it_was": "the paper's phase 1", "noise": "uniform, in phase 1 with its noise"}


def _named(name: str) -> str:
    return NAMES.get(name, name.replace("_", " "))


def _short(number: float) -> str:
    """3e-06, 0.88, 930, 130,000."""
    return f"{number:.2g}" if number < 100 else f"{float(f'{number:.2g}'):,.0f}"


def _ratio_verdict(ratio: Sequence[float]) -> str:
    """What the error of the best uniform network by ours says; `ratio` has the interval's ends."""
    return f"the best uniform network has {_ratio(ratio)}"


def _ratio(ratio: Sequence[float]) -> str:
    _, low, high = ratio
    word = "ours is better" if low > 1 else "ours is worse" if high < 1 else "level"
    return f"{with_ends(ratio, _short)} times our error: {word}"


def over_tasks(record: Record) -> tuple[str, list[str]]:
    """Methods over several tasks: a table of verdicts, then every task."""
    tables = []
    for part in record["results"]:
        verdicts = [
            row | {"method": _named(row["method"])}
            for row in recipe.verdict_rows(part["verdicts"], _short)
        ]
        by_task = [
            {_named(name): cell for name, cell in row.items()} | {"task": _named(row["task"])}
            for row in recipe.task_rows(part["errors"], part["tasks"], _short)
        ]
        tables += [markdown(verdicts), _folded("Every task", markdown(by_task))]
    first = record["results"][0]
    verdict = _ratio_verdict(first["verdicts"]["best uniform"]["ratio"])
    if beside_start := first.get(recipe.BESIDE_BEST_START):
        ratio = beside_start["best uniform"]["ratio"]
        verdict += (
            f"; beside the best of as many runs of ours, each from another start, {_ratio(ratio)}"
        )
    return verdict, tables


def tables(record: Record) -> tuple[str, list[str]]:
    """Real tables: RMSE ± standard error over the splits, and the best uniform one to ours."""
    rows, better, worse = [], 0, 0
    for part in record["results"]:
        of = {name: np.asarray(errors) for name, errors in part["test_rmse"].items()}
        ratios = geometric_interval((of["best uniform"] / of["learned"]).tolist())
        better, worse = better + (ratios[1] > 1), worse + (ratios[2] < 1)
        rows.append(
            {"table": f"{part['table']}, {len(of['learned'])} splits"}
            | {name: with_error(errors) for name, errors in of.items()}
            | {"best uniform / learned [95 %]": with_ends(ratios, "{:.3f}".format)}
        )
    verdict = (
        f"beside the best uniform network ours is better on {better} of {len(rows)}, worse on "
        f"{worse}, level on the others"
    )
    # A Gaussian process is fitted to the small tables alone.
    most = max(len(part["test_rmse"]) for part in record["results"])
    whole = [part for part in record["results"] if len(part["test_rmse"]) == most]
    ranked = dict.fromkeys((_ranked(record["results"]), _ranked(whole)))
    return verdict, [markdown(rows), *ranked]


def _ranked(parts: Sequence[Record]) -> str:
    """Average ranks of the methods that every table has, and Friedman's test; of five or more."""
    shared = [name for name in parts[0]["test_rmse"] if all(name in p["test_rmse"] for p in parts)]
    scores = [[np.mean(part["test_rmse"][name]) for name in shared] for part in parts]
    if len(parts) < 5 or len(shared) < 3:
        return ""
    found = friedman(np.array(scores), lower_is_better=True)
    pairs = zip(shared, found.average_ranks, strict=True)
    told = ", ".join(f"{name} {rank:.1f}" for name, rank in pairs)
    apart = critical_difference(len(shared), len(parts))
    return (
        f"Average ranks over the {len(parts)} tables: {told}. Friedman's test: p = "
        f"{found.p_value:.2g}; ranks that differ by less than {apart:.2f} are not told apart."
    )


def images(record: Record) -> tuple[str, list[str]]:
    """PSNR of the pixels between those that were fitted."""
    differences = [
        np.subtract(part["test_psnr"]["learned"], part["test_psnr"]["best uniform"])
        for part in record["results"]
    ]
    gain = with_ends(interval(np.concatenate(differences).tolist()), "{:+.1f}".format)
    rows = [
        {"image": f"{part['image']}, {len(part['seeds'])} seeds"}
        | {
            _named(name): with_ends(interval(psnr), "{:.1f}".format)
            for name, psnr in part["test_psnr"].items()
        }
        for part in record["results"]
    ]
    return f"ours less the best uniform network: {gain} dB", [markdown(rows)]


def regret(record: Record) -> tuple[str, list[str]]:
    """One run beside its controls and every uniform network of its pool."""
    found, verdict = [], ""
    for part in record["tasks"].values():
        number: Callable[[float], str] = _short if part["ratio"] else "{:.4g}".format
        label = "score by ours [95 %]" if part["ratio"] else "score less ours [95 %]"
        difference: Callable[[float], str] = _short if part["ratio"] else "{:+.3f}".format
        rows = [
            {
                "method": _named(name),
                part["score"]: number(of["score"]),
                label: with_ends(of["difference"], difference) if name != "learned" else "",
            }
            for name, of in part["beside"].items()
        ]
        found.append(markdown(rows))
        best = part["beside"]["best uniform"]["difference"]
        if part["ratio"]:
            verdict = _ratio_verdict(best)
        else:
            sign = 1 if part["lower_is_better"] else -1
            low, high = sorted(sign * end for end in best[1:])
            word = "ours is better" if low > 0 else "ours is worse" if high < 0 else "level"
            verdict = f"the best uniform network less ours: {with_ends(best, difference)}: {word}"
    return verdict, found


def _folded(title: str, table: str) -> str:
    return f'<details markdown="1"><summary>{title}</summary>\n\n{table}\n\n</details>'


# Benchmarks


def _benchmarks() -> list[str]:
    folder = FILES / "benchmarks"
    files = [path for pattern in ("*/*.json", "*.json") for path in sorted(folder.glob(pattern))]
    return [_benchmark(path, json.loads(path.read_text())) for path in files]


def _benchmark(path: Path, record: Record) -> str:
    place = record["environment"]["device"]
    heading = f"## {path.stem.replace('_', ' ')}, {'CPU' if place == 'cpu' else place}"
    table = markdown([_cells(row) for row in record["results"]])
    long = len(record["results"]) > LONG
    notes = [note for note in record.get("notes", ()) if isinstance(note, str)]
    shown = _folded(f"{len(record['results'])} rows", table) if long else table
    return "\n\n".join([heading, shown, *notes, _source(record)])


LONG = 16
"""Rows of a table that is folded."""


def _cells(row: Record) -> dict[str, str]:
    cells: dict[str, str] = {}
    for name, value in row.items():
        if name == "ratios":
            cells |= {
                label: f"{ratio['median']:.2f} [{ratio['lower']:.2f}, {ratio['upper']:.2f}]"
                for label, ratio in value.items()
            }
        elif name.endswith("seconds"):
            cells[name.replace("seconds", "ms")] = f"{1e3 * value:.3f}"
        elif isinstance(value, dict):
            cells[name] = f"{value['median']:.2f} [{value['lower']:.2f}, {value['upper']:.2f}]"
        elif isinstance(value, float):
            cells[name] = f"{value:.3g}"
        elif isinstance(value, list):
            cells[name] = "×".join(map(str, value))
        else:
            cells[name] = str(value)
    return cells


BENCHMARKS_TEXT = """\
Ratios of times in one process, median [quartiles] of interleaved rounds. Every program compares
with float64 before it times, and runs on whatever device JAX finds. On an H100 a step of an MLP or
a ResNet-20 at batch 128 is a chain of small kernels, whose number counts more than their work."""

RESULTS_TEXT = """\
What was measured, from the files in `experiments/results`. Choices were made by validation data,
test data reported once; intervals are Student's, over the pairs of a seed or over the tasks.
Ours is `learned`, preset `recommended`; the best uniform network is picked by validation for each
task and seed. Errors by `learned` above 1 say that ours is better. The runs of MNIST, one by one:
[architecture 3](experiments/results/mnist/report.html),
[architectures 1 and 9](experiments/results/mnist_architectures/report.html),
[3 with the paper's presets](experiments/results/mnist_architectures/architecture_3.html),
[all 18, 450 steps](experiments/results/mnist_architectures/short.html),
[the paper's presets, 1,200 steps](experiments/results/mnist_architectures/short_published.html)."""

RESULTS = (
    Section(
        "Twelve functions",
        "Those that the preset was found with, by validation. Test error to the variance of the "
        "target, geometric means of five seeds; 6,000 steps.",
        "regret/functions.json",
        regret,
    ),
    Section(
        "24 other functions, 18 of them never looked at",
        "The same, three seeds, with a spline KAN that trains for our time. The best start is one "
        "of eight, by validation: its neurons begin with the same function with probability 1/2.",
        "suite/spline_kan.json",
        over_tasks,
    ),
    Section(
        "… with a last phase of L-BFGS",
        "The same targets and seeds; every run ends with 200 steps of L-BFGS on all points.",
        "suite/lbfgs.json",
        over_tasks,
    ),
    Section(
        "… with neurons removed",
        "The same targets and seeds; a fifth of the neurons is removed in every round, and the "
        "others are fitted by Levenberg–Marquardt. Of a seed all eight uniform networks are made "
        "smaller and the best four of eight starts, these twice, as they are and with the function "
        "of most neurons in all; the best by validation counts.",
        "suite/smaller.json",
        over_tasks,
    ),
    Section(
        "… beside a spline KAN with the time of all that",
        "Six of the targets. The KAN trains for the time of eight runs of ours and eight removals, "
        "29 times that of one run.",
        "suite/smaller_spline_kan.json",
        over_tasks,
    ),
    Section(
        "Differential equations",
        "Relative L2 error, geometric means of five seeds; all methods train for our time. The "
        "layer mixture is never fixed.",
        "equations/relative_l2.json",
        over_tasks,
    ),
    Section(
        "Real tables",
        "Test RMSE ± standard error over the standard splits. The best uniform network is picked "
        "by validation, split by split.",
        "tables/rmse.json",
        tables,
    ),
    Section(
        "Real tables whose derivatives are known",
        "The same, with the mean squared error of the derivatives by the inputs in the loss of the "
        "networks.",
        "tables/derivatives.json",
        tables,
    ),
    Section(
        "Images as functions",
        "PSNR in dB of the pixels between those that were fitted; all methods train for our time.",
        "images/psnr.json",
        images,
    ),
    Section("MNIST, architecture 3", "Test accuracy in %.", "regret/mnist.json", regret),
    Section("digits", "Test accuracy in %, ten seeds.", "regret/digits.json", regret),
    Section(
        "Tiny Shakespeare, a character Transformer",
        "Test loss in nats, five seeds.",
        "regret/tiny_shakespeare.json",
        regret,
    ),
    Section(
        "… choosing among ten functions, from relu²",
        "Test loss in nats, five seeds.",
        "regret/tiny_shakespeare_modern.json",
        regret,
    ),
)

if __name__ == "__main__":
    for name, text in pages().items():
        Path(sys.argv[1], name).write_text(text)
