"""Choice maps: a cell is its neuron, and no two functions look alike, however pale or seen."""

import itertools

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from synthetic_runs import softmax, write_run

from experiments import figures
from experiments.config import POOLS
from experiments.figures import neuron_map
from experiments.figures.neuron_map import CELL, DPI, lay_out
from experiments.run_folder import LayerChoices

STEPS = 12
"""Confidences from 1/K to 1 at which cells are compared."""


def cells_of(names: tuple[str, ...]) -> np.ndarray:
    """The cell of every function at every confidence, [K, STEPS, 7, 7, 3], without the gap."""
    confidences = np.linspace(1 / len(names), 1, STEPS)
    cells = [
        figures.choice_cells(LayerChoices(names, np.full(STEPS, choice)), confidences)
        for choice in range(len(names))
    ]
    return np.stack(cells)[:, :, 1:, 1:]


# Ways to see RGB in [0, 1]


def grey(colors: np.ndarray) -> np.ndarray:
    return (colors @ [0.299, 0.587, 0.114])[..., None]


def color_blind(matrix: list[list[float]]):
    """Machado, Oliveira and Fernandes (2009), severity 1: a matrix for linear RGB."""

    def see(colors: np.ndarray) -> np.ndarray:
        linear = np.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4)
        seen = np.clip(linear @ np.array(matrix).T, 0, 1)
        return np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055)

    return see


VIEWS = {
    "plain": lambda colors: colors,
    "grey": grey,
    "deuteranopia": color_blind(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "protanopia": color_blind(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
}
OWN_POOL = ("mine", "relu", "yours", *(f"function_{number}" for number in range(17)))


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("pool", [*POOLS, "own"])
def test_every_pair_of_functions_differs_at_every_pair_of_confidences(pool, view):
    """In at least 9 of a cell's 49 pixels the brightness or a colour differs by 15 %; of 7, where
    functions have no sign of their own."""
    names = OWN_POOL if pool == "own" else POOLS[pool].names
    seen = VIEWS[view](cells_of(names))
    for one, other in itertools.combinations(range(len(names)), 2):
        distance = np.abs(seen[one][:, None] - seen[other][None]).max(-1)
        differing = (distance > 0.15).sum((-1, -2))
        assert differing.min() >= (7 if pool == "own" else 9), (names[one], names[other])


@pytest.mark.parametrize("view", VIEWS)
def test_a_sign_stands_out_at_every_confidence(view):
    names = POOLS["extended"].names
    seen = VIEWS[view](cells_of(names)).mean(-1)
    for name, cells in zip(names, seen, strict=True):
        sign = figures.function_signs(names)[name]
        if sign.any():
            inside = cells[:, 1:-1, 1:-1]
            contrast = np.abs(inside[:, sign] - cells[:, :1, 0]).min()
            assert contrast > 0.25, name


def test_signs_differ_from_each_other_and_from_each_others_negatives():
    names = tuple(figures.FUNCTION_SIGNS)
    signs = figures.function_signs(names)
    for one, other in itertools.combinations(names, 2):
        differing = int((signs[one] ^ signs[other]).sum())
        assert 9 <= differing <= 16, (one, other)


def test_functions_without_a_sign_of_their_own_get_different_ones():
    signs = figures.function_signs(OWN_POOL)
    assert signs["relu"].tolist() == figures.function_signs(["relu"])["relu"].tolist()
    assert len({sign.tobytes() for sign in signs.values()}) == len(OWN_POOL) == 20


def test_certain_neurons_have_the_full_colour_and_chance_the_faintest():
    layer = LayerChoices(("relu", "sin"), np.array([0, 1, 1]))
    ground = figures.choice_cells(layer, np.array([1.0, 1.0, 0.5]))[:, 1, 1]
    np.testing.assert_allclose(ground[0], to_rgb(figures.FUNCTION_COLORS["relu"]))
    np.testing.assert_allclose(ground[1], to_rgb(figures.FUNCTION_COLORS["sin"]))
    np.testing.assert_allclose(1 - ground[2], figures.FAINTEST * (1 - ground[1]))


# The map


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two layers, the second of which does not fill its row."""
    folder = tmp_path_factory.mktemp("map") / "run"
    short = dict(selective_epochs=1, mixed_epochs=1)
    return figures.read_run(write_run(folder, pool="extended", hidden=(64, 40), **short))


def test_a_cell_of_the_map_is_its_neuron_to_the_pixel(run):
    figure = figures.choice_map(run)
    axes = figure.axes[0]
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3] / 255
    left, top = axes.transData.transform((0, 0))
    dot = round(axes.transData.transform((1, 0))[0] - left)
    left, top = round(left), round(len(pixels) - top)
    for image, (path, layer) in zip(axes.images, run.choices.items(), strict=True):
        probabilities = softmax(run.logits[path])[np.arange(len(layer.choices)), layer.choices]
        cells = figures.choice_cells(layer, probabilities)
        begin = top + round(image.get_extent()[3]) * dot
        for neuron in (0, 5, 31, 32, len(cells) - 1):
            row, column = divmod(neuron, 32)
            y, x = begin + row * CELL * dot, left + column * CELL * dot
            drawn = pixels[y : y + CELL * dot : dot, x : x + CELL * dot : dot]
            np.testing.assert_allclose(drawn, cells[neuron], atol=1 / 255, err_msg=str(neuron))
    # The end of the last row is empty.
    alpha = axes.images[1].get_array().reshape(2, CELL, 32, CELL, 4)[:, 0, :, 0, 3]
    np.testing.assert_array_equal(alpha.ravel(), np.arange(64) < 40)


@pytest.mark.parametrize(
    ("sizes", "columns", "cell"),
    [
        ([24, 16], 24, CELL),
        ([64, 64], 32, CELL),
        ([512, 256, 128, 64], 64, CELL),
        ([512] * 4, 64, CELL),
        ([2000] * 12, 128, CELL),
        ([20_000] * 10, 512, 1),
        ([1_000_000], 1024, 1),
    ],
)
def test_a_map_fits_its_width_and_has_signs_as_long_as_they_fit(sizes, columns, cell):
    layout = lay_out(sizes, 5.7)
    assert (layout.columns, layout.cell) == (columns, cell)
    assert layout.columns * layout.cell * layout.dot <= 5.7 * DPI
    assert layout.height < 12
    for size, begin, end in zip(sizes, layout.tops, layout.tops[1:], strict=False):
        rows = -(-size // layout.columns)
        assert end - begin > rows * layout.cell
        assert (end - begin) * layout.dot >= 0.11 * DPI  # room for a label


def test_a_map_without_signs_says_so(tmp_path, monkeypatch):
    short = dict(selective_epochs=1, mixed_epochs=1)
    many = figures.read_run(write_run(tmp_path / "run", hidden=(40_000,), **short))
    figure = figures.choice_map(many)
    assert neuron_map.PLAIN in [text.get_text() for text in figure.texts]
    cells = figure.axes[0].images[0].get_array().reshape(-1, 4)[:40_000, :3]
    names = many.config.activation_pool.names
    palette = [to_rgb(figures.FUNCTION_COLORS[name]) for name in names]
    expected = np.array(palette)[many.choices["activations.0"].choices]
    np.testing.assert_allclose(cells, expected)
