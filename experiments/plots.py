"""Figures of runs, read from their folders: `python -m experiments.plots RUN_DIR ...`.

Every figure is a pure function of what `load_run` read. `draw_figures` writes those that a folder
has data for to its `figures/`, as PNG (200 dpi) and SVG. Nothing here touches pyplot or the
global matplotlib settings, so the functions can be used in a notebook.
"""

import functools
import itertools
import json
import math
import os
import re
import sys
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec, TypeVar

import matplotlib.style
import numpy as np
from matplotlib import colormaps, ticker
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, ListedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from experiments import report, run_folder
from experiments.config import Config, from_json

FUNCTION_COLORS = {
    "relu": "#0072B2",
    "sigmoid": "#CC79A7",
    "tanh": "#009E73",
    "leaky_relu": "#56B4E9",
    "elu": "#E69F00",
    "selu": "#D55E00",
    "gelu": "#8B5000",
    "silu": "#6B0214",
    "softplus": "#600058",
    "mish": "#8FE5FD",
    "identity": "#2E2391",
    "zero": "#565656",
    "sin": "#F0E442",
    "square": "#8E86F5",
    "gauss": "#6DD4A9",
}
"""One colour per function, in every figure. The paper's six are from Okabe and Ito's palette; no
two of the fifteen are closer than 0.07 in OKLab, as seen with or without red-green blindness."""

OTHER_COLORS = ("#117733", "#AA4499", "#999933", "#882255", "#44AA99", "#DDCC77")
"""For functions without a colour of their own, in the order of their pool."""

ACCENT, MUTED, INK = "#0072B2", "#9A9A9A", "#222222"
WIDTH = 6.75
"""Inches: the text width of a two-column paper; narrower figures fit one column."""
FAINTEST = 0.15
"""How much colour a neuron keeps that is no more confident than chance."""

STYLE: dict[str, Any] = {
    "figure.dpi": 200,
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "legend.handlelength": 1.4,
    "legend.columnspacing": 1.2,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "lines.linewidth": 1.2,
    "svg.hashsalt": "smartmixed",
}

P = ParamSpec("P")
T = TypeVar("T")


class MissingData(ValueError):
    """The folder lacks what a figure shows."""


class LayerChoices(NamedTuple):
    """The functions a layer chooses from and the chosen indices, int [N]."""

    pool: tuple[str, ...]
    choices: np.ndarray


@dataclass(frozen=True)
class RunData:
    """What a run folder holds; None where a file is missing.

    Attributes:
        config: config.json.
        metrics: the rows of metrics.jsonl, at least one.
        choices: choices.json, by the path of the layer.
        logits: selection.npz, float [N, K] by the path of the layer.
        summary: summary.json.
        fit: fit.npz.
    """

    config: Config
    metrics: list[dict[str, Any]]
    choices: dict[str, LayerChoices] | None = None
    logits: dict[str, np.ndarray] | None = None
    summary: dict[str, Any] | None = None
    fit: dict[str, np.ndarray] | None = None

    def rows(self, phase: str) -> list[dict[str, Any]]:
        """The metrics of one phase."""
        return [row for row in self.metrics if row["phase"] == phase]


# Reading


def load_run(folder: Path) -> RunData:
    """Reads a run folder; a run that has not finished has fewer figures.

    Raises:
        ValueError: config.json or metrics.jsonl is missing or empty, or a file is damaged.
    """
    folder = Path(folder)
    config = _read(folder / "config.json", lambda path: from_json(path.read_text()))
    metrics = _read(folder / "metrics.jsonl", lambda path: run_folder.read_metrics(path.parent))
    if config is None or not metrics:
        absent = "config.json" if config is None else "metrics.jsonl with an epoch"
        raise ValueError(f"{folder} is no run folder: it holds no {absent}")
    return RunData(
        config,
        metrics,
        _read(folder / "choices.json", _read_choices),
        _read(folder / "selection.npz", _read_arrays),
        _read(folder / "summary.json", lambda path: json.loads(path.read_text())),
        _read(folder / "fit.npz", _read_arrays),
    )


def _read(path: Path, reader: Callable[[Path], T]) -> T | None:
    if not path.exists():
        return None
    try:
        return reader(path)
    except (OSError, EOFError, ValueError, TypeError, KeyError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    # Opened here: np.load leaves a damaged archive open.
    with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
        return dict(arrays)


def _read_choices(path: Path) -> dict[str, LayerChoices]:
    return {
        layer: LayerChoices(tuple(table["pool"]), np.asarray(table["choices"], int))
        for layer, table in json.loads(path.read_text()).items()
    }


def _present(value: T | None, name: str) -> T:
    if value is None:
        raise MissingData(f"the run folder holds no {name}")
    return value


# Shared by the figures


def _styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draws under STYLE alone and freezes the layout, whatever the caller's settings are."""

    @functools.wraps(draw)
    def styled(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with matplotlib.style.context(["default", STYLE]):
            figure = draw(*args, **kwargs)
            figure.draw_without_rendering()  # ticks are made here, with these fonts
            figure.set_layout_engine("none")
        return figure

    return styled


def function_colors(names: Sequence[str]) -> dict[str, str]:
    """The colour of every function of a pool; names without their own get OTHER_COLORS in turn."""
    others = itertools.cycle(OTHER_COLORS)
    return {name: FUNCTION_COLORS.get(name) or next(others) for name in names}


def layer_label(path: str, features: int) -> str:
    """activations.0, 512 → layer 1 (512); other paths stay as they are."""
    match = re.fullmatch(r"activations\.(\d+)", path)
    return f"{f'layer {int(match[1]) + 1}' if match else path} ({features})"


def _text_color(color: Any) -> str:
    red, green, blue = to_rgb(color)
    return "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 0.55 else INK


def _columns(names: Sequence[str], width: float) -> int:
    """How many columns of legend entries, filled one after the other, fit in `width` inches."""
    entries = [0.42 + 0.06 * len(name) for name in names]
    for depth in range(1, len(names)):
        columns = math.ceil(len(names) / depth)
        if sum(max(part) for part in np.array_split(entries, columns)) <= width:
            return columns
    return 1


def _function_legend(figure: Figure, colors: dict[str, str]) -> None:
    figure.legend(
        handles=[Patch(color=color, label=name) for name, color in colors.items()],
        loc="outside upper center",
        ncols=_columns(list(colors), figure.get_figwidth() - 0.2),
        handlelength=1.0,
        handleheight=1.0,
    )


def _pool_of(layers: dict[str, LayerChoices]) -> list[str]:
    """The functions of all layers, in order, each once."""
    return list(dict.fromkeys(name for layer in layers.values() for name in layer.pool))


# What was chosen


@_styled
def shares(run: RunData) -> Figure:
    """Share of neurons, in %, that each function got at the switch: one stacked bar per layer.

    Shares of 4 % and more are written in their segment. Functions that no neuron chose are left
    out of the legend.
    """
    layers = _present(run.choices, "choices.json")
    colors = function_colors(_pool_of(layers))
    figure = Figure(figsize=(WIDTH, 0.85 + 0.24 * len(layers)), layout="constrained")
    axes = figure.subplots()
    used = set()
    for row, layer in enumerate(layers.values()):
        counts = np.bincount(layer.choices, minlength=len(layer.pool))
        left = 0.0
        for name, count in zip(layer.pool, counts.tolist(), strict=True):
            if count:
                share = 100 * count / len(layer.choices)
                axes.barh(row, share, 0.78, left, color=colors[name], ec="white", lw=0.5)
                if share >= 4:
                    ink = _text_color(colors[name])
                    at = (left + share / 2, row)
                    axes.text(*at, f"{share:.0f}", c=ink, ha="center", va="center", fontsize=7)
                left += share
                used.add(name)
    labels = [layer_label(path, len(layer.choices)) for path, layer in layers.items()]
    axes.set_yticks(range(len(layers)), labels)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set(xlim=(0, 100), ylim=(len(layers) - 0.5, -0.5), xlabel="share of neurons (%)")
    _function_legend(figure, {name: color for name, color in colors.items() if name in used})
    return figure


@_styled
def shares_over_epochs(run: RunData) -> Figure:
    """Share of neurons, in %, per function over the epochs of phase 1: one panel per layer.

    A row of metrics fills the epoch before it. The narrow strip behind the switch line holds the
    fixed shares of phase 2; its width says nothing about its length.
    """
    selective = [row for row in run.rows("selective") if row["layers"]]
    if not selective:
        raise MissingData("metrics.jsonl holds no layers of a selective phase")
    mixed = run.rows("mixed")
    layers = selective[-1]["layers"]
    names = list(dict.fromkeys(name for layer in layers.values() for name in layer["shares"]))
    columns = _panel_columns(len(layers))
    lines = math.ceil(len(layers) / columns)
    size = (min(max(3.4, 0.55 + 1.55 * columns), WIDTH), 0.8 + 1.2 * lines)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for path, panel in zip(layers, panels, strict=False):
        history = _share_history(selective, path, names)
        fixed = _share_history(mixed[-1:], path, names)[:, -1:] if mixed else None
        _share_panel(panel, history, fixed, list(function_colors(names).values()))
        panel.set_title(layer_label(path, layers[path]["features"]), loc="left", pad=3)
    for panel in panels[len(layers) :]:
        panel.set_visible(False)
    for panel in panels[max(0, len(layers) - columns) : len(layers)]:
        panel.tick_params(labelbottom=True)
    figure.supxlabel("epoch of phase 1" + ("; right of the line: phase 2" if mixed else ""), size=8)
    figure.supylabel("share of neurons (%)", size=8)
    _function_legend(figure, function_colors(names))
    return figure


def _panel_columns(panels: int) -> int:
    """Columns of a grid with few empty places."""
    if panels <= 4:
        return panels
    return min((4, 3, 5) if panels <= 12 else (4, 5), key=lambda columns: -panels % columns)


def _share_history(rows: list[dict[str, Any]], path: str, names: list[str]) -> np.ndarray:
    """Shares in %, [functions, epochs]."""
    shares = [[row["layers"][path]["shares"].get(name, 0.0) for name in names] for row in rows]
    return 100 * np.asarray(shares).T


def _share_panel(
    axes: Axes, history: np.ndarray, fixed: np.ndarray | None, colors: list[str]
) -> None:
    epochs = history.shape[1]
    steps = np.concatenate([history[:, :1], history], axis=1)
    axes.stackplot(np.arange(epochs + 1), steps, colors=colors, step="pre", lw=0)
    end = float(epochs)
    if fixed is not None:
        start, end = 1.04 * epochs, 1.14 * epochs
        axes.axvline(1.02 * epochs, color=INK, lw=0.8)
        axes.stackplot([start, end], fixed.repeat(2, axis=1), colors=colors, lw=0)
    ticks = ticker.MaxNLocator(4, integer=True).tick_values(0, epochs)
    axes.set_xticks([tick for tick in ticks if 0 <= tick <= epochs])
    axes.set(xlim=(0, end), ylim=(0, 100), yticks=(0, 50, 100))
    axes.spines["bottom"].set_bounds(0, epochs)


def choice_colors(layer: LayerChoices, probabilities: np.ndarray) -> np.ndarray:
    """RGB [N, 3]: the colour of each neuron's choice, blended to white as its confidence falls.

    Args:
        layer: the choices.
        probabilities: [N], of each neuron's choice; 1/K leaves FAINTEST of the colour, 1 all.
    """
    palette = np.array([to_rgb(color) for color in function_colors(layer.pool).values()])
    return 1 - _strength(probabilities, len(layer.pool))[:, None] * (1 - palette[layer.choices])


def _strength(probabilities: np.ndarray, functions: int) -> np.ndarray:
    chance = 1 / functions
    confidence = np.clip((probabilities - chance) / max(1 - chance, 1e-9), 0, 1)
    return FAINTEST + (1 - FAINTEST) * confidence


@_styled
def choice_map(run: RunData) -> Figure:
    """Every neuron's choice, in order, 32 or 64 to a row (more if there are very many).

    The hue is the function, the strength of the colour the softmax probability of that choice at
    the switch, from 1/K (pale) to 1.
    """
    layers = _present(run.choices, "choices.json")
    logits = _present(run.logits, "selection.npz")
    if set(layers) != set(logits):
        raise ValueError("choices.json and selection.npz hold different layers")
    sizes = [len(layer.choices) for layer in layers.values()]
    columns = min(32, max(sizes))
    while sum(math.ceil(size / columns) for size in sizes) > (100 if columns >= 64 else 12):
        columns *= 2
    gap = 0.9  # of a cell, between layers
    tops = np.cumsum([0, *(math.ceil(size / columns) + gap for size in sizes)])
    figure, axes = _map_canvas(layers, columns, float(tops[-1]) - gap)
    for (path, layer), top in zip(layers.items(), tops, strict=False):
        exponent = np.exp(logits[path] - logits[path].max(-1, keepdims=True, initial=-np.inf))
        softmax = exponent / exponent.sum(-1, keepdims=True)
        colors = choice_colors(layer, softmax[np.arange(len(layer.choices)), layer.choices])
        _draw_cells(axes, colors, columns, float(top))
    heights = np.diff(tops) - gap
    labels = [layer_label(path, len(layer.choices)) for path, layer in layers.items()]
    axes.set_yticks(tops[:-1] + heights / 2, labels)
    return figure


def _draw_cells(axes: Axes, colors: np.ndarray, columns: int, top: float) -> None:
    """One layer: cells of size 1 from `top` down; the rest of its last row stays empty."""
    rows = math.ceil(len(colors) / columns)
    cells = np.zeros((rows * columns, 4))
    cells[: len(colors), :3] = colors
    cells[: len(colors), 3] = 1
    x, y = np.arange(columns + 1), top + np.arange(rows + 1)
    axes.pcolormesh(x, y, cells.reshape(rows, columns, 4), ec="white", lw=0.3)


def _map_canvas(layers: dict[str, LayerChoices], columns: int, rows: float) -> tuple[Figure, Axes]:
    """The empty map of square cells between its legends, laid out in inches."""
    used = {layer.pool[choice] for layer in layers.values() for choice in set(layer.choices)}
    colors = function_colors(_pool_of(layers))
    colors = {name: color for name, color in colors.items() if name in used}
    labels = [layer_label(path, len(layer.choices)) for path, layer in layers.items()]
    left = 0.1 + 0.056 * max(map(len, labels))
    cell = min(0.17, (WIDTH - left - 0.1) / columns)
    width = max(3.4, left + cell * columns + 0.1)
    across = _columns(list(colors), width - left)
    header, footer = 0.16 + 0.17 * math.ceil(len(colors) / across), 0.45
    height = header + rows * cell + footer
    figure = Figure(figsize=(width, height))
    bounds = (left / width, footer / height, cell * columns / width, rows * cell / height)
    axes = figure.add_axes(bounds)
    axes.set(xlim=(0, columns), ylim=(rows, 0), xticks=[])
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    handles = [Patch(color=color, label=name) for name, color in colors.items()]
    figure.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(left / width, 1),
        ncols=across,
        handlelength=1.0,
        handleheight=1.0,
        borderaxespad=0.5,
        borderpad=0,
    )
    _confidence_legend(figure, left, max(len(layer.pool) for layer in layers.values()), columns)
    return figure, axes


def _confidence_legend(figure: Figure, left: float, functions: int, columns: int) -> None:
    """Below the map: how neurons are laid out, and the ramp from 1/K to 1."""
    width, height = figure.get_size_inches()
    figure.text(left / width, 0.31 / height, f"neurons in order, {columns} per row", va="center")
    ramp = figure.add_axes((left / width, 0.1 / height, 0.6 / width, 0.1 / height))
    strength = _strength(np.linspace(1 / functions, 1, 64), functions)
    grey = 1 - strength[None, :, None] * (1 - np.array(to_rgb(INK)))
    ramp.imshow(grey, aspect="auto", extent=(0, 1, 0, 1))
    ramp.set(xticks=[], yticks=[])
    ramp.spines[:].set(visible=True, lw=0.3, color=MUTED)
    label = f"probability of the choice, 1/{functions} to 1"
    figure.text((left + 0.68) / width, 0.15 / height, label, va="center")


# How it was trained


@_styled
def curves(run: RunData) -> Figure:
    """Training and validation over the epochs of all phases, and how phase 1 decided.

    Loss and accuracy (%), or the mean squared error of a function task; a ring marks the lowest
    validation loss of each phase. On the right, for phase 1: the mean over a layer's neurons of
    the largest softmax probability, one line per layer, and the temperature.
    """
    quantities = ["loss"] if run.config.is_regression else ["loss", "score"]
    selective = [row for row in run.rows("selective") if row["layers"]]
    extra = [0.75] if selective else []
    single = len(quantities) == 1 and not selective
    figure = Figure(figsize=(4.2 if single else WIDTH, 2.5), layout="constrained")
    ratios = [1.0] * len(quantities) + extra
    grid = figure.add_gridspec(1, len(ratios), width_ratios=ratios)
    for column, quantity in enumerate(quantities):
        axes = figure.add_subplot(grid[column])
        _curve_panel(axes, run, quantity)
        if column == 0:
            handles, labels = axes.get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside upper left", ncols=3)
    if selective:
        _decision_panels(figure, grid[-1], selective)
    return figure


def best_epochs(run: RunData) -> list[dict[str, Any]]:
    """The row of metrics with the lowest validation loss of each phase."""
    phases = dict.fromkeys(row["phase"] for row in run.metrics)
    return [min(run.rows(phase), key=lambda row: row["validation_loss"]) for phase in phases]


def _curve_panel(axes: Axes, run: RunData, quantity: str) -> None:
    """One quantity, `loss` or `score`, of both splits over global epochs."""
    scale = 100 if quantity == "score" else 1
    epochs = [row["epoch"] for row in run.metrics]
    dot = "." if len(epochs) == 1 else ""
    for split, color, width in (("train", MUTED, 1.0), ("validation", ACCENT, 1.2)):
        values = [scale * row[f"{split}_{quantity}"] for row in run.metrics]
        axes.plot(epochs, values, color=color, lw=width, label=split, marker=dot)
    best = best_epochs(run)
    values = [scale * row[f"validation_{quantity}"] for row in best]
    ring: dict[str, Any] = dict(
        ls="", marker="o", ms=4.5, mfc="white", mec=ACCENT, mew=1.2, zorder=5
    )
    label = "lowest validation loss of a phase"
    axes.plot([row["epoch"] for row in best], values, label=label, **ring)
    if run.rows("mixed") and run.rows("selective"):
        at = run.rows("selective")[-1]["epoch"] + 0.5
        axes.axvline(at, color=INK, lw=0.7, ls=(0, (4, 3)), zorder=0)
        top = axes.get_xaxis_transform()
        axes.text(at, 1.02, "switch", ha="center", va="bottom", fontsize=7, transform=top)
    axes.set(xlabel="epoch", ylabel=_quantity_name(run.config, quantity))
    axes.xaxis.set_major_locator(ticker.MaxNLocator(5, integer=True))
    if quantity == "loss":
        _log_if_wide(axes, run.config.is_regression)


def _quantity_name(config: Config, quantity: str) -> str:
    if quantity == "score":
        return "accuracy (%)"
    return "mean squared error" if config.is_regression else "loss"


def _log_if_wide(axes: Axes, always: bool) -> None:
    """A log axis for values that span more than a factor 10; few decades get labels between."""
    values = np.concatenate([np.asarray(line.get_ydata(), float) for line in axes.lines[:2]])
    values = values[np.isfinite(values) & (values > 0)]
    if not values.size or not (always or values.max() > 10 * values.min()):
        return
    axes.set_yscale("log")
    if values.max() < 1000 * values.min():
        axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
        axes.yaxis.set_minor_formatter(ticker.NullFormatter())


def _decision_panels(figure: Figure, place: SubplotSpec, rows: list[dict[str, Any]]) -> None:
    """Mean largest probability per layer, above the temperature, over the epochs of phase 1."""
    grid = place.subgridspec(2, 1, height_ratios=(1.5, 1))
    upper, lower = figure.add_subplot(grid[0]), figure.add_subplot(grid[1])
    epochs = [row["epoch"] for row in rows]
    dot = "." if len(epochs) == 1 else ""
    layers = rows[-1]["layers"]
    depth = ListedColormap(colormaps["viridis_r"](np.linspace(0.12, 1, len(layers))))
    for number, path in enumerate(layers):
        values = [row["layers"][path]["max_probability"] for row in rows]
        upper.plot(epochs, values, color=depth(number), lw=1.0, label=path, marker=dot)
    functions = max(len(layer["shares"]) for layer in layers.values())
    ticks = {1 / functions: f"1/{functions}", 0.5: "0.5", 1.0: "1"}
    chance = min(1 / functions, 0.9)
    upper.set_yticks(list(ticks), list(ticks.values()))
    upper.set(ylim=(chance - 0.02, 1.02), ylabel="mean max.\nprobability")
    upper.tick_params(labelbottom=False)
    lower.plot(epochs, [row["temperature"] for row in rows], color=INK, lw=1.0, marker=dot)
    lower.set(xlabel="epoch, phase 1", ylabel="temperature")
    lower.set_ylim(0, 1.15 * max(row["temperature"] for row in rows))
    lower.xaxis.set_major_locator(ticker.MaxNLocator(3, integer=True))
    upper.sharex(lower)
    figure.align_ylabels([upper, lower])
    if len(layers) > 1:
        _depth_legend(figure, upper)


def _depth_legend(figure: Figure, axes: Axes) -> None:
    """The first and last layer, and those between where there is room."""
    lines = axes.lines if len(axes.lines) <= 4 else [axes.lines[0], axes.lines[-1]]
    handles = [Line2D([], [], color=line.get_color(), lw=1.4) for line in lines]
    numbers = [axes.lines.index(line) + 1 for line in lines]
    between = " to" if len(lines) < len(axes.lines) else ""
    labels = [f"layer {numbers[0]}{between}", *map(str, numbers[1:])]
    figure.legend(handles, labels, loc="upper right", ncols=len(lines), handlelength=1.0)


# What came out


@_styled
def confusion(run: RunData) -> Figure:
    """Where each class of the test set went, in % of its examples, with counts in brackets.

    The colour scale is that of the errors; the correct cells on the diagonal are grey. With more
    than 20 classes the numbers and some names are left out.
    """
    summary = _present(run.summary, "summary.json")
    counts = np.asarray(_present(summary.get("confusion"), "confusion matrix"), int)
    classes = len(counts)
    names = summary.get("class_names") or [str(number) for number in range(classes)]
    percent = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    wrong = np.ma.masked_array(percent, np.eye(classes, dtype=bool))
    side = min(max(0.43 * classes, 2.2), 4.7)
    figure = Figure(figsize=(side + 1.5, side + 0.75), layout="constrained")
    axes = figure.subplots()
    steps = ["#FFFFFF", "#F6B26B", "#D55E00", "#7A2E00"]
    heat = LinearSegmentedColormap.from_list("errors", steps).with_extremes(bad="#EDEDED")
    image = axes.imshow(wrong, cmap=heat, vmin=0, vmax=max(float(wrong.max() or 0), 1.0))
    if classes <= 20:
        _write_cells(axes, image, counts, percent)
        axes.set_xticks(np.arange(classes - 1) + 0.5, minor=True)
        axes.set_yticks(np.arange(classes - 1) + 0.5, minor=True)
        axes.grid(which="minor", color="#DDDDDD", lw=0.4)
    slanted = max(map(len, names)) > 4
    turn: dict[str, Any] = dict(rotation=40, ha="right", rotation_mode="anchor") if slanted else {}
    labelled = range(0, classes, math.ceil(classes / 20))
    axes.set_xticks(labelled, [names[k] for k in labelled], **turn)
    axes.set_yticks(labelled, [names[k] for k in labelled])
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.tick_params(which="both", length=0)
    axes.spines[:].set(visible=classes > 20, color="#DDDDDD")
    bar = figure.colorbar(image, ax=axes, shrink=0.6, aspect=22, pad=0.02)
    bar.set_label("errors (% of the true class)")
    bar.outline.set_visible(False)
    return figure


def _write_cells(axes: Axes, image: AxesImage, counts: np.ndarray, percent: np.ndarray) -> None:
    """Percent and count in every cell that is not empty."""
    size = 6.5 if len(counts) <= 12 else 4.5
    for row, column in np.argwhere(counts).tolist():
        color = "#777777"
        if row != column:
            color = _text_color(image.to_rgba(percent[row, column])[:3])
        share = percent[row, column]
        text = "100" if share == 100 else "<0.1" if share < 0.05 else f"{share:.1f}"
        text += f"\n({counts[row, column]})"
        axes.text(column, row, text, c=color, ha="center", va="center", fontsize=size)


@_styled
def fit(run: RunData) -> Figure:
    """The fitted function against the true one.

    Above: each variable in turn, the others held; the range of the training points is shaded.
    Below: the plane of the first two variables, the training box outlined, and the base-10
    logarithm of the difference.
    """
    data = _present(run.fit, "fit.npz")
    figure = Figure(figsize=(WIDTH, 4.3), layout="constrained")
    halves: Any = figure.subfigures(2, 1, height_ratios=(1, 1.12))
    upper, lower = halves
    panels = upper.subplots(1, len(data["line_true"]), sharey=True, squeeze=False)[0]
    for number, axes in enumerate(panels):
        _line_panel(axes, data, number)
    panels[0].set_ylabel("value")
    handles, labels = panels[0].get_legend_handles_labels()
    upper.legend(handles, labels, loc="outside upper center", ncols=3)
    _plane_panels(lower, data)
    return figure


def _held(data: dict[str, np.ndarray], varied: int) -> str:
    """What the variables that do not vary are held at."""
    others = len(data["line_true"]) - varied
    if not others:
        return ""
    return f"{'others' if others > 1 else 'other'} held at {float(data['held']):g}"


def _line_panel(axes: Axes, data: dict[str, np.ndarray], number: int) -> None:
    inside = float(data["inside"])
    axes.axvspan(-inside, inside, color="#EFEFEF", lw=0, zorder=0, label="training range")
    axes.plot(data["line_x"], data["line_true"][number], color="black", lw=0.8, label="true")
    dashes: dict[str, Any] = dict(color="#D55E00", lw=1.5, ls=(0, (3, 2)))
    axes.plot(data["line_x"], data["line_fit"][number], label="fitted", **dashes)
    held = _held(data, 1)
    axes.set_xlabel(f"$x_{number + 1}$" + (f"  ({held})" if held else ""))
    axes.set_xlim(data["line_x"][0], data["line_x"][-1])


def _plane_panels(figure: Any, data: dict[str, np.ndarray]) -> None:
    true, fitted, x = data["plane_true"], data["plane_fit"], data["plane_x"]
    difference = np.log10(np.maximum(np.abs(fitted - true), np.finfo(np.float32).tiny))
    finite = difference[np.abs(fitted - true) > 0]
    lowest = float(np.percentile(finite, 1)) if finite.size else -8.0
    # One scale for both, that of the true function: a wild extrapolation must not flatten it.
    values = dict(cmap="viridis", vmin=float(true.min()), vmax=float(true.max()))
    errors = dict(cmap="magma", vmin=lowest, vmax=max(float(difference.max()), lowest + 1))
    panels = figure.subplots(1, 3, sharex=True, sharey=True)
    half, inside = (x[1] - x[0]) / 2, float(data["inside"])
    for axes, plane, title, scale in zip(
        panels,
        (true, fitted, difference),
        ("true", "fitted", r"$\log_{10}$ |fitted − true|"),
        (values, values, errors),
        strict=True,
    ):
        extent = (x[0] - half, x[-1] + half, x[0] - half, x[-1] + half)
        image = axes.imshow(plane, origin="lower", extent=extent, interpolation="nearest", **scale)
        axes.add_patch(
            Rectangle((-inside, -inside), 2 * inside, 2 * inside, fc="none", ec="white", lw=0.9)
        )
        axes.set_title(title, pad=3)
        axes.set(xlabel="$x_1$", xlim=(x[0], x[-1]), ylim=(x[0], x[-1]))
        if axes is not panels[0]:
            beyond = _beyond(true, fitted) if axes is panels[1] else "neither"
            bar = figure.colorbar(image, cax=axes.inset_axes((1.04, 0, 0.06, 1)), extend=beyond)
            bar.outline.set_visible(False)
    held = _held(data, 2)
    panels[0].set_ylabel("$x_2$" + (f"  ({held})" if held else ""))


def _beyond(true: np.ndarray, fitted: np.ndarray) -> str:
    """Which ends of the true function's range the fitted one leaves."""
    low, high = fitted.min() < true.min(), fitted.max() > true.max()
    return ("both" if high else "min") if low else ("max" if high else "neither")


# Many runs


@_styled
def comparison(folders: Sequence[Path]) -> Figure:
    """The test score of finished runs of one task: a point per run, a row per method, best first.

    Test accuracy in %, a text's loss, or the normalised error MSE / Var y on a log axis. The tick
    is the mean of a row, on the log axis the geometric one. Two-phase runs are on a tinted row in
    bold, their controls grey; uniform ones have their function's colour.
    """
    runs = [report.load(Path(folder)) for folder in folders]
    tasks = sorted({config.task for config, _ in runs})
    if len(tasks) != 1:
        raise ValueError(f"comparison: expected runs of one task, got {tasks or 'none'}")
    regression = runs[0][0].is_regression
    rows: dict[str, list[float]] = {}
    colors: dict[str, str] = {}
    for label, (config, summary) in zip(_method_labels([r[0] for r in runs]), runs, strict=True):
        rows.setdefault(label, []).append(report.test_score(config, summary))
        colors[label] = _method_color(config)
    means = {label: _mean(scores, regression) for label, scores in rows.items()}
    lower_is_better = report.lower_is_better(runs[0][0])
    order = sorted(rows, key=means.__getitem__, reverse=not lower_is_better)
    figure = Figure(figsize=(4.2, 0.6 + 0.21 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for place, label in enumerate(order):
        if colors[label] == INK:
            axes.axhspan(place - 0.5, place + 0.5, color="#E8F1F7", lw=0, zorder=0)
        axes.plot([means[label]] * 2, [place - 0.3, place + 0.3], color=INK, lw=1.0, zorder=2)
        points: dict[str, Any] = dict(marker="o", ms=5, mfc=colors[label], mec=INK, mew=0.4)
        axes.plot(rows[label], [place] * len(rows[label]), ls="", zorder=3, **points)
    axes.set_yticks(range(len(order)), order)
    for text, label in zip(axes.get_yticklabels(), order, strict=True):
        text.set_fontweight("bold" if colors[label] == INK else "normal")
    axes.set_ylim(len(order) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#E4E4E4", lw=0.5)
    axes.set_axisbelow(True)
    axes.set_xlabel(report.score_name(runs[0][0]))
    if regression:
        axes.set_xscale("log")
    return figure


def _method_color(config: Config) -> str:
    if config.method == "two_phase":
        return INK if config.variant == config.method else MUTED
    name = config.method.removeprefix("uniform:")
    return function_colors([name])[name]


def _mean(scores: list[float], geometric: bool) -> float:
    return float(np.exp(np.mean(np.log(scores))) if geometric else np.mean(scores))


def _method_labels(configs: list[Config]) -> list[str]:
    """Method and control; preset and widths too where the runs differ in them."""
    presets = len({config.preset for config in configs}) > 1
    networks = len({config.widths for config in configs}) > 1
    labels = []
    for config in configs:
        method, *controls = config.variant.split("-")
        parts = [method.replace("uniform:", "uniform ").replace("two_phase", "two-phase")]
        parts += controls
        parts += [config.preset] if presets else []
        parts += ["-".join(map(str, config.widths))] if networks else []
        labels.append(", ".join(parts))
    return labels


# Writing

FIGURES: dict[str, Callable[[RunData], Figure]] = {
    "shares": shares,
    "shares_over_epochs": shares_over_epochs,
    "choice_map": choice_map,
    "curves": curves,
    "confusion": confusion,
    "fit": fit,
}


def draw_figures(run_dir: Path) -> list[Path]:
    """Writes figures/NAME.png and .svg for every figure that the folder has data for.

    Returns:
        the files written.

    Raises:
        ValueError: the folder is no run folder, or a file in it is damaged.
    """
    run = load_run(run_dir)
    paths = []
    for name, draw in FIGURES.items():
        try:
            figure = draw(run)
        except MissingData:
            continue
        paths += _write(figure, Path(run_dir) / "figures" / f"{name}.png")
    return paths


def draw_comparison(run_dirs: Sequence[Path], path: Path) -> list[Path]:
    """Writes `comparison` of finished runs to path as PNG and SVG; returns the two files."""
    return _write(comparison(run_dirs), Path(path))


def _write(figure: Figure, path: Path) -> list[Path]:
    """PNG and SVG, each whole or not at all; equal data give equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written = []
    for suffix, metadata in ((".png", {"Software": None}), (".svg", {"Date": None})):
        target = path.with_suffix(suffix)
        temporary = target.with_name(target.name + ".partial")
        with matplotlib.style.context(["default", STYLE]):
            figure.savefig(temporary, dpi=200, format=suffix[1:], metadata=metadata)
        os.replace(temporary, target)
        written.append(target)
    return written


def main(arguments: Sequence[str]) -> int:
    """Draws the figures of every folder named; returns the exit status."""
    if not arguments:
        print("usage: python -m experiments.plots RUN_DIR ...", file=sys.stderr)
        return 2
    try:
        for folder in map(Path, arguments):
            print(*draw_figures(folder), sep="\n")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
