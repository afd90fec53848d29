"""Finished runs as one page that needs nothing else: verdicts, tables, figures, commands.

`python -m experiments.report RUN ... --html FILE`. The page reads the run folders as the tables and
figures do, and holds its style, a dozen lines of script that sort its tables, and its pictures as
SVG; it is readable on a phone, and in a dark window.
"""

import dataclasses
import html
import io
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.style
from matplotlib.figure import Figure

from experiments import across, report
from experiments.comparison import LEARNED, Comparison, Row, compare_runs
from experiments.config_options import words_of
from experiments.figures import FIGURES, STYLE, MissingData, comparison, critical_difference
from experiments.names import changed_fields, layer_names, network_name, shared_details
from experiments.run_folder import FinishedRun, is_complete, progress_of, read_finished, read_run
from experiments.verdicts import verdicts

TITLES = {
    "curves": "Training",
    "shares": "What each layer chose",
    "shares_over_epochs": "What was chosen, over the epochs",
    "choice_map": "Every neuron's choice",
    "confusion": "Right and wrong classes",
    "fit": "The fitted function",
    "image": "The fitted image",
}


def write(folders: Sequence[Path], file: Path) -> int:
    """Writes the page; returns the exit status. Runs that are not complete are named on it.

    Raises:
        ValueError: no run is complete, or a folder is damaged.
    """
    file.write_text(page(folders))
    print(file)
    return 0


def page(folders: Sequence[Path]) -> str:
    """The page of some runs, of one task or several."""
    complete = [folder for folder in folders if is_complete(folder)]
    unfinished = [progress_of(folder) for folder in folders if not is_complete(folder)]
    if not complete:
        raise ValueError("; ".join(unfinished))
    by_task: dict[str, list[Path]] = {}
    for folder in complete:
        by_task.setdefault(read_finished(folder).task.name, []).append(folder)
    sections = [_section(name, of_task) for name, of_task in by_task.items()]
    links = "".join(f'<li><a href="#{_id(name)}">{_text(name)}</a></li>' for name in by_task)
    parts = [
        "<h1>Networks whose neurons choose their activation</h1>",
        f"<nav><ul>{links}</ul></nav>" if len(by_task) > 1 else "",
        *(f"<p>Not complete: {_text(line)}</p>" for line in unfinished),
        *sections,
    ]
    title = ", ".join(by_task)
    return TEMPLATE.format(title=_text(title), style=CSS, script=JS, body="\n".join(parts))


def _section(name: str, folders: Sequence[Path]) -> str:
    """What is known of a task: verdicts first."""
    compared = compare_runs(folders)
    if across.are_several(compared):
        return _section_of_architectures(name, compared)
    compared = learned_first(compared)
    objective = compared.task.objective
    runs = [run for row in compared.rows for run in row.runs.values()]
    sentences = "".join(f"<li>{_text(sentence)}</li>" for sentence in verdicts(compared))
    note = f"<p>{_text(report.INTERVAL_NOTE)}</p>" if len(compared.seeds) > 2 else ""
    parts = [
        _heading(name, runs),
        f"<p>The learned choices, with 95 % intervals:</p><ul>{sentences}</ul>"
        if sentences
        else "",
        f"<h3>{_text(objective.label)}</h3>{table(report.comparison_rows(compared))}{note}",
        _figure(comparison(_alike(compared)), "Every run", f"{name} comparison"),
        *_of_one_run(name, compared),
        "<h3>Commands</h3>",
        *(f"<pre>{html.escape(command)}</pre>" for command in commands(runs)),
        f"<p>{_text(_hardware(runs))}</p></section>",
    ]
    return "\n".join(filter(None, parts))


def _section_of_architectures(name: str, compared: Comparison) -> str:
    """Verdicts, the paper's tables, then each architecture by itself, folded."""
    runs = [run for row in compared.rows for run in row.runs.values()]
    by_name = {
        architecture: learned_first(part)
        for architecture, part in across.by_architecture(compared).items()
    }
    first = next(iter(by_name.values()))
    parts = [
        _heading(name, runs),
        *map(_part, across.parts(compared)),
        *_rank_figures(name, compared),
        "<h3>Each architecture, seed by seed, with the commands</h3>",
        *(_architecture(name, architecture, part) for architecture, part in by_name.items()),
        *_of_one_run(name, first),
        f"<p>{_text(_hardware(runs))}</p></section>",
    ]
    return "\n".join(filter(None, parts))


def _heading(name: str, runs: Sequence[FinishedRun]) -> str:
    """Opens the section of a task, and says what its runs changed in their presets."""
    changed = ", ".join(shared_details([run.config for run in runs]))
    told = f"<p>Every run: {_text(changed)}, otherwise as in its preset.</p>" if changed else ""
    return f'<section id="{_id(name)}"><h2>{_text(name)}</h2>{told}'


def _part(part: across.Part) -> str:
    sentences = "".join(f"<li>{_text(sentence)}</li>" for sentence in part.sentences)
    pieces = [
        f"<h3>{_text(part.heading)}</h3>",
        f"<ul>{sentences}</ul>" if sentences else "",
        table(part.rows) if part.rows else "",
        f"<p>{_text(part.note)}</p>" if part.note else "",
    ]
    return "\n".join(filter(None, pieces))


def _rank_figures(name: str, compared: Comparison) -> Iterable[str]:
    """A critical-difference diagram of every family that has three methods or more."""
    objective = compared.task.objective
    for family in across.families(compared):
        methods, scores = across.ranked_scores(objective, family)
        if scores.shape[0] > 1 and scores.shape[1] > 2:
            figure = critical_difference(
                methods,
                scores,
                lower_is_better=objective.lower_is_better,
                data_sets="architectures",
            )
            yield _figure(figure, f"{family.name}: average ranks", f"{name} ranks {family.name}")


def _architecture(name: str, architecture: str, compared: Comparison) -> str:
    """The runs of one architecture, seed by seed, and their commands, folded."""
    runs = [run for row in compared.rows for run in row.runs.values()]
    folders = [folder for row in compared.rows for folder in row.folders.values()]
    lines = "\n".join(commands(runs))
    parts = [
        f"<details><summary>{_text(across.label(architecture))}</summary>",
        table(report.comparison_rows(compared)),
        f"<p>{_text(report.INTERVAL_NOTE)}</p>" if len(compared.seeds) > 2 else "",
        _figure(comparison(folders), "Every run", f"{name} {architecture} comparison"),
        f"<pre>{html.escape(lines)}</pre></details>",
    ]
    return "\n".join(filter(None, parts))


def learned_first(compared: Comparison) -> Comparison:
    """The learned choices as the preset has them as the first row, and shorter names.

    A row is told by what it does not share with the first.
    """

    def changes(row: Row) -> int:
        return len(changed_fields(next(iter(row.runs.values())).config))

    learned = [row for row in compared.rows if row.variant == LEARNED]
    first = min(learned, key=changes, default=compared.rows[0])
    rows = [first, *(row for row in compared.rows if row is not first)]
    told = [
        row._replace(details=tuple(d for d in row.details if d not in first.details))
        for row in rows
    ]
    return dataclasses.replace(compared, rows=sorted(told, key=lambda row: bool(row.details)))


def _alike(compared: Comparison) -> list[Path]:
    """The runs that differ from the first in their method, control and seed only."""
    rows = [row for row in compared.rows if not row.details]
    return [folder for row in rows for folder in row.folders.values()]


# One run


def _of_one_run(name: str, compared: Comparison) -> Iterable[str]:
    """The first method with its lowest seed: tables and figures."""
    row = compared.rows[0]
    seed = min(row.runs)
    config, task, summary = row.runs[seed]
    folder = row.folders[seed]
    yield f"<h3>{_text(row.name)}, {_text(network_name(config))}, seed {seed}</h3>"
    yield table(report.phase_rows(task.objective, summary))
    if switch := summary["switch"]:
        names = layer_names(config.network, switch["layers"])
        yield table(report.layer_rows(switch["layers"], names))
        yield f"<p>{_text(report.LAYER_NOTE)}</p>"
    data = read_run(folder)
    for figure_name, draw in FIGURES.items():
        try:
            figure = draw(data)
        except MissingData:
            continue
        title = TITLES.get(figure_name, figure_name.replace("_", " "))
        yield _figure(figure, title, f"{name} {figure_name}")


def commands(runs: Sequence[FinishedRun]) -> list[str]:
    """What trains each run, the seeds of a method as one line."""
    seeds: dict[str, list[int]] = {}
    for config, _, _ in runs:
        line = "python -m experiments.run " + shlex.join(words_of(config))
        seeds.setdefault(line, []).append(config.seed)
    return [
        f"{line} --seed {of_line[0]}" + (f"   # to {of_line[-1]}" if len(of_line) > 1 else "")
        for line, of_line in seeds.items()
    ]


def _hardware(runs: Sequence[FinishedRun]) -> str:
    """Where and when the runs were trained, and for how long."""
    places = {
        "{device}, jax {jax}, flax {flax}, Python {python}".format(**run.summary["environment"])
        for run in runs
    }
    dates = sorted({run.summary["environment"]["date"] for run in runs})
    span = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    minutes = sum(run.summary["seconds"] for run in runs) / 60
    count = "1 run" if len(runs) == 1 else f"{len(runs)} runs"
    return f"{count}, {minutes:.0f} minutes, {span}: {'; '.join(sorted(places))}."


# HTML


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows with the same keys as a table that is sorted by a click on a heading."""
    head = "".join(f'<th><button type="button">{_text(key)}</button></th>' for key in rows[0])
    body = "".join(
        "<tr>" + "".join(f"<td>{_text(value)}</td>" for value in row.values()) + "</tr>"
        for row in rows
    )
    inside = f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
    return f'<div class="scroll"><table>{inside}</table></div>'


def _figure(figure: Figure, title: str, name: str) -> str:
    return f"<figure>{svg(figure, _id(name))}<figcaption>{_text(title)}</figcaption></figure>"


def svg(figure: Figure, prefix: str) -> str:
    """The figure as an <svg> element, its ids beginning with a prefix that no other has."""
    buffer = io.StringIO()
    with matplotlib.style.context(["default", STYLE]):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    return re.sub(r'(url\(#|href="#)', rf"\g<1>{prefix}-", text)


def _id(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower())


def _text(value: Any) -> str:
    """Escaped, with minus signs for the hyphens of numbers."""
    return html.escape(re.sub(r"(?<![\w.-])-(?=\d)", "\u2212", str(value)))


TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
{body}
</main>
<script>{script}</script>
</body>
</html>
"""

CSS = """
:root { --ink: #1b1b1b; --paper: #fff; --line: #d5d5d5; --quiet: #f3f3f3; --link: #0b5cad; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e6e6; --paper: #161616; --line: #3a3a3a; --quiet: #222; --link: #7db4ee; }
}
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 1rem; }
h2 { margin-top: 3rem; border-bottom: 1px solid var(--line); overflow-wrap: anywhere; }
a { color: var(--link); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem .3rem 0; border-bottom: 1px solid var(--line); text-align: left;
  white-space: nowrap; }
th button { all: unset; cursor: pointer; font-weight: 600; }
th button:focus-visible { outline: 2px solid var(--link); }
th[aria-sort=ascending] button::after { content: " \\2191"; }
th[aria-sort=descending] button::after { content: " \\2193"; }
pre { background: var(--quiet); padding: .6rem; overflow-x: auto; font-size: .8rem; }
figure { margin: 1.5rem 0; padding: .6rem; background: #fff; border-radius: .4rem; overflow-x: auto;
  color: #1b1b1b; }
figure svg { max-width: 100%; min-width: 30rem; height: auto; }
details { border-bottom: 1px solid var(--line); }
summary { cursor: pointer; padding: .5rem 0; font-weight: 600; }
figcaption { font-size: .875rem; }
"""

JS = """
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.parentElement, row = head.parentElement;
    const column = [...row.children].indexOf(head);
    const up = head.getAttribute("aria-sort") !== "ascending";
    for (const other of row.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const body = head.closest("table").tBodies[0];
    const value = (tr) => tr.children[column].textContent.replace("\\u2212", "-");
    const compare = (a, b) => {
      const [x, y] = [parseFloat(value(a)), parseFloat(value(b))];
      return isNaN(x) || isNaN(y) ? value(a).localeCompare(value(b)) : x - y;
    };
    body.append(...[...body.rows].sort((a, b) => (up ? 1 : -1) * compare(a, b)));
  });
}
"""
