"""Every neuron's choice, and how sure it is.

A cell has its function's colour, the paler the less sure the choice, and on it the function's sign,
dark or white, in a contrast that does not depend on the confidence. So functions differ in shape
where their colours are pale, printed in grey, or seen with red-green blindness.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.image import BboxImage
from matplotlib.legend import Legend
from matplotlib.legend_handler import HandlerBase
from matplotlib.patches import Patch
from matplotlib.transforms import Bbox, TransformedBbox

from experiments.figures.signs import SIZE, function_signs
from experiments.figures.style import (
    FAINTEST,
    STYLE,
    WIDTH,
    figure_of_a_run,
    function_colors,
    layer_labels,
    legend_columns,
    luma,
    pool_of,
    present,
)
from experiments.run_folder import LayerChoices, RunData

CELL = SIZE + 3
"""Dots along a side of a cell: a white one, the margin, the sign, the margin."""
DPI = STYLE["figure.dpi"]
LARGEST = 4
"""Pixels along a side of a dot, at most."""
PLAIN = "cells are too small for signs and confidence: the colour alone is the function"


def choice_cells(layer: LayerChoices, probabilities: np.ndarray) -> np.ndarray:
    """RGB [N, CELL, CELL, 3]: the cell of each neuron.

    Args:
        layer: the choices.
        probabilities: [N], of each neuron's choice; 1/K leaves FAINTEST of the colour, 1 all.
    """
    palette = np.array([to_rgb(color) for color in function_colors(layer.pool).values()])
    signs = np.array(list(function_signs(layer.pool).values()))[layer.choices]
    colors = palette[layer.choices]
    ground = 1 - _strength(probabilities, len(layer.pool))[:, None] * (1 - colors)
    # Dark signs have the hue of their function, so that pale cells keep it.
    dark = colors * np.minimum(1, 0.2 / luma(colors))[:, None]
    ink = np.where((luma(ground) > 0.55)[:, None], dark, 1.0)
    cells = np.ones((len(colors), CELL, CELL, 3))
    cells[:, 1:, 1:] = ground[:, None, None]
    cells[:, 2:-1, 2:-1][signs] = np.repeat(ink, signs.sum((1, 2)), axis=0)
    return cells


def _strength(probabilities: np.ndarray, functions: int) -> np.ndarray:
    chance = 1 / functions
    confidence = np.clip((probabilities - chance) / max(1 - chance, 1e-9), 0, 1)
    return FAINTEST + (1 - FAINTEST) * confidence


class Layout(NamedTuple):
    """Where the cells are.

    Attributes:
        columns: cells in a row.
        cell: dots along the side of a cell: CELL, or 1 without signs.
        dot: pixels along the side of a dot.
        tops: of the layers, in dots, and the end of the last.
    """

    columns: int
    cell: int
    dot: int
    tops: list[int]

    @property
    def width(self) -> float:
        """In inches."""
        return self.columns * self.cell * self.dot / DPI

    @property
    def height(self) -> float:
        """In inches."""
        return self.tops[-1] * self.dot / DPI


def lay_out(sizes: list[int], width: float) -> Layout:
    """The layout of layers of so many neurons on a map of that width in inches.

    The largest cells of a flat map with signs; else the largest of a high one; else no signs.
    """
    pixels, widest = int(width * DPI), min(32, max(sizes))
    layouts = [
        _stack(sizes, columns, CELL, min(LARGEST, pixels // (CELL * columns)))
        for columns in (widest, 64, 128)
        if CELL * columns <= pixels
    ]
    flat = [layout for layout in layouts if layout.height <= 2.4 and layout.dot > 1]
    high = [layout for layout in layouts if layout.height <= 9]
    for group in (flat, high):
        if group:
            return max(group, key=lambda layout: layout.dot)
    columns = 2 ** max(8, math.ceil(math.log2(sum(sizes) / 256) / 2 + 4))
    return _stack(sizes, min(columns, pixels), 1, max(1, pixels // columns))


def _stack(sizes: list[int], columns: int, cell: int, dot: int) -> Layout:
    """Layers one below the other, far enough apart for their labels."""
    tops = [0]
    gap = max(1, round(0.9 * cell))
    for size in sizes:
        height = cell * math.ceil(size / columns)
        tops.append(tops[-1] + max(height + gap, math.ceil(0.11 * DPI / dot)))
    return Layout(columns, cell, dot, tops)


@figure_of_a_run
def choice_map(run: RunData) -> Figure:
    """Every neuron's choice, in order, in rows of 32, 64 or 128.

    Colour and sign are the function; the strength of the colour is the softmax probability of the
    choice at the switch, from 1/K (pale) to 1. With more neurons than cells of 8 pixels fit (about
    25,000) the signs and the confidence are left out, and the legend says so.
    """
    choices = present(run.choices, "choices.json")
    logits = present(run.logits, "selection.npz")
    if set(choices) != set(logits):
        raise ValueError("choices.json and selection.npz hold different layers")
    labels = layer_labels(run.config.network, {p: len(c.choices) for p, c in choices.items()})
    layers = {path: choices[path] for path in labels}
    left = round((0.1 + 0.056 * max(map(len, labels.values()))) * DPI) / DPI
    layout = lay_out([len(layer.choices) for layer in layers.values()], WIDTH - left - 0.1)
    figure, axes = _canvas(layers, left, layout)
    for (path, layer), top in zip(layers.items(), layout.tops, strict=False):
        probabilities = _softmax(logits[path])[np.arange(len(layer.choices)), layer.choices]
        cells = _plain_cells(layer) if layout.cell == 1 else choice_cells(layer, probabilities)
        _draw_cells(axes, cells, layout.columns, top)
    ends = [image.get_extent() for image in axes.images]
    axes.set_yticks([(bottom + top) / 2 for _, _, bottom, top in ends], labels.values())
    return figure


def _softmax(logits: np.ndarray) -> np.ndarray:
    exponent = np.exp(logits - logits.max(-1, keepdims=True, initial=-np.inf))
    return exponent / exponent.sum(-1, keepdims=True)


def _plain_cells(layer: LayerChoices) -> np.ndarray:
    """[N, 1, 1, 3]: the full colour of each choice."""
    palette = np.array([to_rgb(color) for color in function_colors(layer.pool).values()])
    return palette[layer.choices][:, None, None]


def _draw_cells(axes: Axes, cells: np.ndarray, columns: int, top: int) -> None:
    """One layer from `top` down; the rest of its last row stays empty."""
    count, side = cells.shape[:2]
    rows = math.ceil(count / columns)
    image = np.zeros((rows * columns, side, side, 4))
    image[:count, ..., :3] = cells
    image[:count, ..., 3] = 1
    image = image.reshape(rows, columns, side, side, 4).swapaxes(1, 2)
    image = image.reshape(rows * side, columns * side, 4)
    axes.imshow(image, extent=(0, columns * side, top + rows * side, top), aspect="auto")


def _canvas(layers: Mapping[str, LayerChoices], left: float, layout: Layout) -> tuple[Figure, Axes]:
    """The empty map between its legends, laid out in inches on whole pixels."""
    used = {layer.pool[choice] for layer in layers.values() for choice in set(layer.choices)}
    pool = pool_of(layers)
    names = [name for name in pool if name in used]
    width = max(3.4 if layout.cell > 1 else 5.2, left + layout.width + 0.1)
    across = legend_columns(names, width - left)
    header, footer = 0.16 + 0.17 * math.ceil(len(names) / across), 0.45
    width, header = round(width * DPI) / DPI, round(header * DPI) / DPI
    height = header + layout.height + footer
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes(
        (left / width, footer / height, layout.width / width, layout.height / height)
    )
    axes.set(xlim=(0, layout.columns * layout.cell), ylim=(layout.tops[-1], 0), xticks=[])
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    figure.legend(
        handles=[Patch(label=name) for name in names],
        handler_map={Patch: _CellHandler(pool)},
        loc="upper left",
        bbox_to_anchor=(left / width, 1),
        ncols=across,
        handlelength=1.2,
        handletextpad=0.4,
        handleheight=1.2,
        borderaxespad=0.5,
        borderpad=0,
    )
    _footer(figure, left, tuple(pool), names[0], layout)
    return figure, axes


class _CellHandler(HandlerBase):
    """Draws the sure cell of the function that a handle is labelled with."""

    def __init__(self, pool: list[str]) -> None:
        super().__init__()
        self.pool = tuple(pool)

    def create_artists(
        self,
        legend: Legend,
        orig_handle: Artist,
        xdescent: float,
        ydescent: float,
        width: float,
        height: float,
        fontsize: float,
        trans: Any,
    ) -> list[Artist]:
        layer = LayerChoices(self.pool, np.array([self.pool.index(str(orig_handle.get_label()))]))
        (cell,) = choice_cells(layer, np.ones(1))
        box = TransformedBbox(Bbox.from_bounds(-xdescent, -ydescent, height, height), trans)
        image = BboxImage(box, interpolation="nearest")
        image.set_data(cell[1:, 1:])
        return [image]


def _footer(
    figure: Figure, left: float, pool: tuple[str, ...], example: str, layout: Layout
) -> None:
    """Below the map: how neurons are laid out, and a function's cells from 1/K to 1."""
    width, height = figure.get_size_inches()
    order = f"neurons in order, {layout.columns} per row"
    if layout.cell == 1:
        figure.text(left / width, 0.31 / height, order, va="center")
        figure.text(left / width, 0.15 / height, PLAIN, va="center")
        return
    figure.text(left / width, 0.31 / height, order, va="center")
    steps = np.linspace(1 / len(pool), 1, 6)
    cells = choice_cells(LayerChoices(pool, np.full(6, pool.index(example))), steps)
    across = 6 * CELL * 2 / DPI
    ramp = figure.add_axes((left / width, 0.1 / height, across / width, CELL * 2 / DPI / height))
    _draw_cells(ramp, cells, 6, 0)
    ramp.set_axis_off()
    label = f"probability of the choice, 1/{len(pool)} to 1"
    figure.text((left + across + 0.08) / width, 0.15 / height, label, va="center")
