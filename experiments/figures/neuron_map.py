"""Every neuron's choice, and how sure it is."""

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from experiments.figures.style import (
    FAINTEST,
    INK,
    MUTED,
    WIDTH,
    function_colors,
    layer_label,
    legend_columns,
    pool_of,
    present,
    styled,
)
from experiments.run_folder import LayerChoices, RunData


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


@styled
def choice_map(run: RunData) -> Figure:
    """Every neuron's choice, in order, 32 or 64 to a row (more if there are very many).

    The hue is the function, the strength of the colour the softmax probability of that choice at
    the switch, from 1/K (pale) to 1.
    """
    layers = present(run.choices, "choices.json")
    logits = present(run.logits, "selection.npz")
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
    colors = function_colors(pool_of(layers))
    colors = {name: color for name, color in colors.items() if name in used}
    labels = [layer_label(path, len(layer.choices)) for path, layer in layers.items()]
    left = 0.1 + 0.056 * max(map(len, labels))
    cell = min(0.17, (WIDTH - left - 0.1) / columns)
    width = max(3.4, left + cell * columns + 0.1)
    across = legend_columns(list(colors), width - left)
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
