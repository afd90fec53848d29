"""Methods compared over several architectures: the paper's tables and measures, and verdicts.

A *family* is the learned choices of a preset beside what was trained alike: its controls, uniform
networks, PReLU. Parts are the same for text and page: a heading, then sentences, or a table with a
note. A score is the mean over seeds; where the objective has a log scale, the geometric one.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments import ranks, statistics
from experiments.comparison import BEST_UNIFORM, LEARNED, Comparison, Row
from experiments.config import ARCHITECTURES, PRESET_NAMES, Config
from experiments.names import computation, network_name
from experiments.objective import Objective
from experiments.verdicts import POWER, counted, difference, smallest_seen, verdict, with_ends

PAPER = (
    "The paper has one seed and 400 epochs: 98.03 % test and 98.22 % validation accuracy of an "
    "architecture that it does not name, 2 to 3 points above phase 1. One accuracy of 98 % on "
    "10,000 images has a standard error of 0.14 points."
)


UNIFORM = "uniform:"


class Part(NamedTuple):
    """A part of the report.

    Attributes:
        heading: above it.
        sentences: a list of them.
        rows: of a table, all with the same keys.
        note: below the table.
    """

    heading: str
    sentences: Sequence[str] = ()
    rows: Sequence[Mapping[str, Any]] = ()
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Family:
    """The learned choices of one preset and what was trained alike.

    Attributes:
        name: of the preset, and what else tells it from the other families.
        methods: by their names, and by architecture; the learned choices first.
        best: per architecture, the uniform network that validation picks for each seed.
    """

    name: str
    methods: dict[str, dict[str, Row]]
    best: dict[str, Row]

    @property
    def config(self) -> Config:
        """Of its first run."""
        return next(iter(self.methods[LEARNED].values())).config


def by_architecture(compared: Comparison) -> dict[str, Comparison]:
    """The rows of every architecture, by its name, which they no longer have."""
    found: dict[str, list[Row]] = {}
    for row in compared.rows:
        name = network_name(row.config)
        details = tuple(detail for detail in row.details if detail != name)
        found.setdefault(name, []).append(row._replace(details=details))
    ordered = sorted(found, key=lambda name: _order(found[name][0].config))
    return {name: dataclasses.replace(compared, rows=found[name]) for name in ordered}


def _order(config: Config) -> tuple[int, tuple[int, ...]]:
    """The paper's order; widths that it does not have come last."""
    numbers = {widths: number for number, widths in ARCHITECTURES.items()}
    return numbers.get(config.widths, len(numbers) + 1), config.widths


def are_several(compared: Comparison) -> bool:
    """Whether the runs are of mlps with different widths."""
    configs = [row.config for row in compared.rows]
    return len({c.widths for c in configs}) > 1 and all(c.network == "mlp" for c in configs)


def label(name: str) -> str:
    """The architecture with its number in the paper: 3: 512-256-128-64."""
    numbers = {"-".join(map(str, widths)): number for number, widths in ARCHITECTURES.items()}
    return f"{numbers[name]}: {name}" if name in numbers else name


def families(compared: Comparison) -> list[Family]:
    """In the order of the presets."""
    parts = by_architecture(compared)
    learned: dict[tuple[str, ...], dict[str, Row]] = {}
    for name, part in parts.items():
        for row in part.rows:
            if row.variant == LEARNED:
                learned.setdefault(row.details, {})[name] = row
    found = [_family(details, of_them, parts) for details, of_them in learned.items()]
    return sorted(found, key=lambda family: PRESET_NAMES.index(family.config.preset))


def _family(
    details: tuple[str, ...], learned: Mapping[str, Row], parts: Mapping[str, Comparison]
) -> Family:
    methods: dict[str, dict[str, Row]] = {LEARNED: dict(learned)}
    best: dict[str, Row] = {}
    for name, row in learned.items():
        alike = [other for other in parts[name].rows if _trained_alike(row, other)]
        for other in alike:
            methods.setdefault(other.variant, {})[name] = other
        same = [other._replace(details=()) for other in alike]
        for chosen in dataclasses.replace(parts[name], rows=same).best_uniform():
            best[name] = chosen
    preset = next(iter(learned.values())).config.preset
    others = [detail for detail in details if detail != preset]
    ordered = {method: methods[method] for method in sorted(methods, key=_place)}
    return Family(", ".join([preset, *others]), ordered, best)


def _place(method: str) -> int:
    """Learned choices first, then uniform networks, controls, PReLU; else in the order found."""
    if method == LEARNED:
        return 0
    return 1 if method.startswith(UNIFORM) else 2 if method.startswith(LEARNED) else 3


def _trained_alike(learned: Row, other: Row) -> bool:
    """Whether another row has the settings of the learned one, but for method and control."""
    mine, theirs = learned.config, other.config
    changed = dataclasses.replace(
        mine, method=theirs.method, control=theirs.control, seed=theirs.seed
    )
    return other.variant != LEARNED and computation(changed) == computation(theirs)


# Parts of the report


def parts(compared: Comparison) -> list[Part]:
    """Verdicts over the architectures, then the tables of every family."""
    objective = compared.task.objective
    told = [
        Part(VERDICTS, sentences=verdicts(compared), note=VERDICTS_NOTE),
        Part(BESIDE_BEST, rows=difference_rows(objective, families(compared)), note=BESIDE_NOTE),
    ]
    for family in families(compared):
        told += [
            Part(
                f"{family.name}: {objective.label}",
                rows=score_rows(objective, family),
                note=f"{SCORE_NOTE} {PAPER}" if compared.task.name == "mnist" else SCORE_NOTE,
            ),
            Part(f"{family.name}: phase 2 beside phase 1", rows=phase_rows(objective, family)),
            Part(f"{family.name}: best epoch", rows=epoch_rows(family), note=EPOCH_NOTE),
        ]
        ranked = rank_rows(objective, family)
        if ranked:
            told.append(Part(f"{family.name}: ranks", rows=ranked, note=RANK_NOTE))
    return [part for part in told if part.sentences or part.rows]


VERDICTS = "The learned choices over the architectures, with 95 % intervals"
VERDICTS_NOTE = (
    "A pair is an architecture and a seed: what is said holds for these architectures. p is of the "
    "sign-flip test, corrected by Holm's method for all of these sentences."
)
BESIDE_BEST = "The learned choices beside the best uniform network, by architecture"
BESIDE_NOTE = (
    "Paired by seed, with the 95 % interval (Student's t); the best uniform network of a seed is "
    f"picked by validation. Seen: what these seeds show with probability {POWER:g}."
)
SCORE_NOTE = (
    "Mean over the seeds ± half of its 95 % interval (Student's t; from three seeds on); last row: "
    "mean ± standard deviation over the architectures."
)
EPOCH_NOTE = "With the lowest validation loss, counted over both phases, mean over the seeds."
RANK_NOTE = (
    "By the mean over the seeds: the paper's measures, and on how many architectures a method has "
    "each rank; methods that tie share their ranks."
)


def verdicts(compared: Comparison) -> list[str]:
    """Of every family: the learned choices beside the best uniform network, controls and PReLU.

    VERDICTS_NOTE says what the pairs and the p-values are.
    """
    objective = compared.task.objective
    told = []
    for family in families(compared):
        others = {BEST_UNIFORM: family.best} | {
            name: rows
            for name, rows in family.methods.items()
            if name != LEARNED and not name.startswith(UNIFORM)
        }
        for name, rows in others.items():
            pairs, seeds = _pairs(family.methods[LEARNED], rows)
            if pairs:
                told.append((family.name, name, pairs, _counted(rows, seeds, len(pairs))))
    p_values = iter(statistics.holm([_p_value(objective, pairs) for _, _, pairs, _ in told]))
    sentences = []
    for preset, name, pairs, count in told:
        said = verdict(objective, pairs, name, count=count, p_value=float(next(p_values)))
        sentences.append(f"{preset}: {said[0].lower()}{said[1:]}")
    return sentences


def _pairs(
    learned: Mapping[str, Row], other: Mapping[str, Row]
) -> tuple[list[tuple[float, float]], set[int]]:
    """The compared numbers of both, and the seeds."""
    pairs, seeds = [], set()
    for name in learned:
        if name in other:
            mine, theirs = learned[name].scores(), other[name].scores()
            pairs += statistics.pairs(mine, theirs)
            seeds |= mine.keys() & theirs.keys()
    return pairs, seeds


def _counted(rows: Mapping[str, Row], seeds: set[int], pairs: int) -> str:
    inside = f"{counted(len(rows), 'architecture')}, {counted(len(seeds), 'seed')}"
    return f"{counted(pairs, 'pair')} ({inside})"


def _p_value(objective: Objective, pairs: Sequence[tuple[float, float]]) -> float:
    differences = statistics.differences(pairs, geometric=objective.log_scale)
    return statistics.sign_flip_test(differences).p_value if len(pairs) > 1 else 1.0


def difference_rows(objective: Objective, found: Sequence[Family]) -> list[dict[str, str]]:
    """Of every family and architecture: learned beside best uniform, and what would be seen."""
    rows = []
    for family in found:
        for name, best in family.best.items():
            pairs = statistics.pairs(family.methods[LEARNED][name].scores(), best.scores())
            if pairs:
                numbers = statistics.differences(pairs, geometric=objective.log_scale)
                rows.append(
                    {
                        "preset": family.name,
                        "architecture": label(name),
                        "learned beside best": difference(objective, statistics.interval(numbers)),
                        "seen": smallest_seen(objective, numbers),
                        "seeds": str(len(pairs)),
                    }
                )
    return rows


def columns(family: Family) -> dict[str, dict[str, Row]]:
    """The methods of the paper's tables in their order, then the others."""
    uniform = {name: rows for name, rows in family.methods.items() if name.startswith(UNIFORM)}
    first = {LEARNED: family.methods[LEARNED], **uniform}
    best = {"best uniform": family.best} if len(uniform) > 1 else {}
    return {name.removeprefix(UNIFORM): rows for name, rows in (first | best).items()} | {
        name: rows for name, rows in family.methods.items() if name not in first
    }


def score_rows(objective: Objective, family: Family) -> list[dict[str, str]]:
    """An architecture per row, a method per column; the last row is over the architectures."""
    methods = columns(family)
    rows = [
        {"architecture": label(name)}
        | {method: _score(objective, rows.get(name)) for method, rows in methods.items()}
        for name in family.methods[LEARNED]
    ]
    last = {method: _over_architectures(objective, rows) for method, rows in methods.items()}
    return [*rows, {"architecture": "all", **last}]


def _score(objective: Objective, row: Row | None) -> str:
    if row is None:
        return ""
    average = statistics.geometric_interval if objective.log_scale else statistics.interval
    mean, *ends = average(list(row.scores().values()))
    told = objective.format(mean)
    if not ends:
        return told
    if objective.log_scale:
        return f"{told} [{', '.join(map(objective.format, ends))}]"
    return f"{told} ± {objective.format(ends[1] - mean)}"


def _mean(objective: Objective, row: Row) -> float:
    return statistics.mean(list(row.scores().values()), geometric=objective.log_scale)


def _over_architectures(objective: Objective, rows: Mapping[str, Row]) -> str:
    means = [_mean(objective, row) for row in rows.values()]
    if not means:
        return ""
    told = objective.format(statistics.mean(means, geometric=objective.log_scale))
    if len(means) < 2 or objective.log_scale:
        return told
    return f"{told} ± {objective.format(float(np.std(means, ddof=1)))}"


def phase_rows(objective: Objective, family: Family) -> list[dict[str, str]]:
    """What phase 2 has over the network at the end of phase 1, on the test set."""
    rows = []
    for name, row in family.methods[LEARNED].items():
        by_seed = {
            seed: [objective.compared(phase) for phase in run.summary["phases"]]
            for seed, run in row.runs.items()
            if objective.result in run.summary["phases"][0]
        }
        if not by_seed:
            return []
        first = {seed: scores[0] for seed, scores in by_seed.items()}
        last = {seed: scores[-1] for seed, scores in by_seed.items()}
        average = statistics.geometric_interval if objective.log_scale else statistics.interval
        compare = statistics.paired_ratios if objective.log_scale else statistics.paired_differences
        change = compare(statistics.pairs(last, first))
        rows.append(
            {
                "architecture": label(name),
                "phase 1": objective.format(average(list(first.values()))[0]),
                "phase 2": objective.format(average(list(last.values()))[0]),
                "ratio" if objective.log_scale else "difference": _with_ends(objective, change),
            }
        )
    return rows


def _with_ends(objective: Objective, numbers: Sequence[float]) -> str:
    if objective.log_scale:
        return with_ends(numbers, "{:.2g}".format)
    return with_ends(numbers, lambda number: "+" * (number > 0) + objective.format(number))


def epoch_rows(family: Family) -> list[dict[str, str]]:
    """As `score_rows`."""
    methods = {name: rows for name, rows in columns(family).items() if name != "best uniform"}
    return [
        {"architecture": label(name)}
        | {method: _best_epoch(rows.get(name)) for method, rows in methods.items()}
        for name in family.methods[LEARNED]
    ]


def _best_epoch(row: Row | None) -> str:
    if row is None:
        return ""
    epochs = []
    for run in row.runs.values():
        *before, last = run.summary["phases"]
        if "best_epoch" not in last:
            return ""
        epochs.append(sum(phase["epochs"] for phase in before) + last["best_epoch"])
    return f"{np.mean(epochs):.0f}"


def ranked_scores(objective: Objective, family: Family) -> tuple[list[str], np.ndarray]:
    """The methods of the paper, and their scores [D, M] on architectures that have all of them."""
    methods = {LEARNED: family.methods[LEARNED]} | {
        name: rows for name, rows in family.methods.items() if name.startswith(UNIFORM)
    }
    names = [name for name in methods[LEARNED] if all(name in rows for rows in methods.values())]
    scores = [[_mean(objective, rows[name]) for rows in methods.values()] for name in names]
    told = [method.removeprefix(UNIFORM) for method in methods]
    return told, np.array(scores).reshape(len(names), len(methods))


def rank_rows(objective: Objective, family: Family) -> list[dict[str, str]]:
    """The paper's measures, a method per row; none with fewer than two methods or architectures."""
    methods, scores = ranked_scores(objective, family)
    if min(scores.shape) < 2:
        return []
    lower = objective.lower_is_better
    found = ranks.rank_measures(scores, lower_is_better=lower)
    average = ranks.ranks(scores, lower_is_better=lower).mean(0)
    return [
        {
            "method": method,
            "first ranks": f"{found.first_ranks[place]:g}",
            "mean reciprocal rank": f"{found.mean_reciprocal_rank[place]:.3f}",
            "average rank": f"{average[place]:.2f}",
            **{
                f"rank {rank}": f"{count:.3g}"
                for rank, count in enumerate(found.distribution[place], 1)
            },
        }
        for place, method in enumerate(methods)
    ]
