"""Figures of runs, read from their folders: `python -m experiments.figures RUN_DIR ...`.

Every figure is a pure function of what `read_run` read. `draw_figures` writes those that a folder
has data for to its `figures/`, as PNG (200 dpi) and SVG. Nothing here touches pyplot or the
global matplotlib settings, so the functions can be used in a notebook.
"""

from experiments.figures.confusion_matrix import confusion
from experiments.figures.critical_difference import critical_difference
from experiments.figures.drawing import draw_comparison, draw_figures
from experiments.figures.fitted_function import fit
from experiments.figures.fitted_image import image
from experiments.figures.function_shares import shares, shares_over_epochs
from experiments.figures.neuron_map import choice_cells, choice_map
from experiments.figures.run_comparison import comparison
from experiments.figures.signs import FUNCTION_SIGNS, OTHER_SIGNS, function_signs
from experiments.figures.style import (
    FAINTEST,
    FIGURES,
    FUNCTION_COLORS,
    INK,
    MUTED,
    OTHER_COLORS,
    STYLE,
    WIDTH,
    MissingData,
    figure_of_a_run,
    function_colors,
    layer_labels,
)
from experiments.figures.training_curves import curves, tested_epochs
from experiments.run_folder import LayerChoices, RunData, read_run

__all__ = [
    "FAINTEST",
    "FIGURES",
    "FUNCTION_COLORS",
    "FUNCTION_SIGNS",
    "INK",
    "MUTED",
    "OTHER_COLORS",
    "OTHER_SIGNS",
    "STYLE",
    "WIDTH",
    "LayerChoices",
    "MissingData",
    "RunData",
    "choice_cells",
    "choice_map",
    "comparison",
    "confusion",
    "critical_difference",
    "curves",
    "draw_comparison",
    "draw_figures",
    "figure_of_a_run",
    "fit",
    "function_colors",
    "function_signs",
    "image",
    "layer_labels",
    "read_run",
    "shares",
    "shares_over_epochs",
    "tested_epochs",
]
