"""The fitted image beside the true one."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.figures.style import WIDTH, MissingData, figure_of_a_run, present
from experiments.run_folder import RunData


@figure_of_a_run
def image(run: RunData) -> Figure:
    """The true image, the fitted one, and the absolute error of its intensities.

    Both images have one scale, from 0 to 1. The error is the mean over the colours; its scale ends
    at its 99th percentile, so that a few pixels at edges do not hide the rest.
    """
    data = present(run.fit, "fit.npz")
    if "image_true" not in data:
        raise MissingData("the task is no image")
    true, fitted = data["image_true"], np.clip(data["image_fit"], 0, 1)
    error = np.abs(data["image_fit"] - true).mean(-1)
    height, width = error.shape
    panel = WIDTH / 3.3 * height / width
    figure = Figure(figsize=(WIDTH, min(panel, WIDTH) + 0.35), layout="constrained")
    panels = figure.subplots(1, 3)
    top = max(float(np.percentile(error, 99)), 1e-3)
    grey: dict[str, Any] = dict(cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    errors = dict(cmap="magma", vmin=0, vmax=top, interpolation="nearest")
    pictures = (true, "true", grey), (fitted, "fitted", grey), (error, "|fitted − true|", errors)
    for axes, (picture, title, scale) in zip(panels, pictures, strict=True):
        shown = axes.imshow(picture.squeeze(-1) if picture.shape[2:] == (1,) else picture, **scale)
        axes.set_title(title, pad=3)
        axes.set_axis_off()
    extend = "max" if error.max() > top else "neither"
    bar = figure.colorbar(shown, cax=axes.inset_axes((1.03, 0, 0.05, 1)), extend=extend)
    bar.outline.set_visible(False)
    return figure
