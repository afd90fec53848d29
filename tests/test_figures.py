"""Figures show the numbers of the run folder and nothing else changes."""

import itertools
import json
import shutil
import struct
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text
from synthetic_runs import write_run

from experiments import figures, folder_lock, run_folder
from experiments.config import POOLS
from experiments.figures import drawing
from experiments.figures.__main__ import main
from experiments.ranks import critical_difference
from experiments.run_folder import RunData, RunError

PHASE_FIGURES = ["shares", "shares_over_epochs", "choice_map", "curves"]
DEEP = (768, 512, 512, 256, 256, 128, 128, 128, 64, 64, 64, 32, 32, 32, 16, 16, 16)


FOLDERS = {
    "images": dict(architecture=3, selective_epochs=20, mixed_epochs=40),
    "deep": dict(hidden=DEEP, selective_epochs=10, mixed_epochs=90, pool="extended"),
    "resnet": dict(task="cifar10", selective_epochs=2, mixed_epochs=4),
    "text": dict(task="tiny_shakespeare", pool="extended", select_epoch="lowest_loss"),
    "uniform": dict(method="uniform:relu", selective_epochs=10, mixed_epochs=20),
    "function": dict(task="function:product_sine"),
}


class Gallery:
    """Run folders and their figures, made when they are asked for and then kept."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._runs: dict[str, RunData] = {}
        self._figures: dict[tuple[str, str], tuple[Figure, list]] = {}

    def run(self, name: str) -> RunData:
        if name not in self._runs:
            self._runs[name] = figures.read_run(write_run(self.root / name, **FOLDERS[name]))
        return self._runs[name]

    def figure(self, name: str, kind: str) -> Figure:
        return self.drawn(name, kind)[0]

    def drawn(self, name: str, kind: str) -> tuple[Figure, list]:
        """The figure, and its visible texts with their boxes in pixels."""
        if (name, kind) not in self._figures:
            run = self.run(name)
            self._figures[name, kind] = draw_and_note_texts(lambda: figures.FIGURES[kind](run))
        return self._figures[name, kind]


def draw_and_note_texts(draw) -> tuple[Figure, list]:
    """A figure, and its visible texts with their boxes in pixels."""
    texts, plain = [], Text.draw

    def draw_and_note(text, renderer):
        if text.get_visible() and text.get_text():
            texts.append((text, text.get_window_extent(renderer)))
        plain(text, renderer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Text, "draw", draw_and_note)
        return draw(), texts


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Gallery:
    return Gallery(tmp_path_factory.mktemp("gallery"))


@pytest.fixture(autouse=True)
def unchanged_settings():
    """No figure may change the settings of the caller."""
    # As plain dicts: RcParams itself resolves the backend when it is read.
    before = dict.copy(matplotlib.rcParams)
    yield
    assert dict.copy(matplotlib.rcParams) == before


# Which files appear


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose figures are drawn."""
    folder = tmp_path_factory.mktemp("small") / "run"
    write_run(folder, selective_epochs=2, mixed_epochs=2, hidden=(16, 8))
    assert len(figures.draw_figures(folder)) == 10
    return folder


@pytest.fixture
def copy(small, tmp_path) -> Path:
    return shutil.copytree(small, tmp_path / "copy")


def png_size(path: Path) -> tuple[int, int]:
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", data[16:24])


def test_every_marked_function_of_the_folder_is_a_figure_of_a_run():
    assert set(figures.FIGURES) == {*PHASE_FIGURES, "confusion", "fit", "image"}
    assert figures.FIGURES["shares"] is figures.shares


def test_a_folder_gets_the_figures_it_has_data_for(small, tmp_path):
    short = dict(selective_epochs=1, mixed_epochs=1)
    uniform = write_run(tmp_path / "uniform", method="uniform:relu", **short)
    function = write_run(tmp_path / "function", task="function:product_sine", **short)
    for folder, expected in (
        (small, [*PHASE_FIGURES, "confusion"]),
        (uniform, ["curves", "confusion"]),
        (function, [*PHASE_FIGURES, "fit"]),
    ):
        paths = figures.draw_figures(folder)
        assert paths == [
            folder / "figures" / f"{figure}.{kind}"
            for figure in figures.FIGURES
            if figure in expected
            for kind in ("png", "svg")
        ]
        assert set(paths) == set((folder / "figures").iterdir())
        for path in paths:
            if path.suffix == ".png":
                width, height = png_size(path)
                assert 600 <= width <= 1400, path
                assert 150 <= height <= 1900, path
            else:
                assert "<svg" in path.read_text()[:1000]
                assert path.stat().st_size < 4e6


@pytest.fixture
def written(monkeypatch) -> list[str]:
    """The names of the figures that are written from now on."""
    names: list[str] = []
    plain = drawing._write

    def write(figure, path, digest):
        names.append(path.stem)
        plain(figure, path, digest)

    monkeypatch.setattr(drawing, "_write", write)
    return names


def test_what_would_not_change_is_not_drawn_again(copy, written, monkeypatch):
    paths = figures.draw_figures(copy)
    assert len(paths) == 10
    assert not written
    (copy / "figures" / "curves.svg").unlink()
    (copy / "figures" / "shares.png").write_bytes(b"half a pic")
    assert figures.draw_figures(copy) == paths
    assert written == ["shares", "curves"]
    written.clear()
    monkeypatch.setitem(figures.FIGURES, "curves", figures.FIGURES["shares"])  # quick to draw
    monkeypatch.setattr(drawing, "FIGURES", {"shares": figures.FIGURES["shares"]})
    (copy / "fit.npz").write_bytes((copy / "selection.npz").read_bytes())
    figures.draw_figures(copy)
    assert written == ["shares"]
    monkeypatch.setattr(drawing, "_version", lambda: "other code")
    figures.draw_figures(copy)
    figures.draw_figures(copy)
    assert written == ["shares"] * 2
    figures.draw_figures(copy, force=True)
    assert written == ["shares"] * 3


def test_a_folder_in_use_is_not_drawn(copy, capsys):
    with folder_lock.locked(copy):
        with pytest.raises(RunError, match="in use by another process"):
            figures.draw_figures(copy, force=True)
        assert main([str(copy)]) == 1
    assert capsys.readouterr().err == f"error: {copy} is in use by another process\n"


def test_a_comparison_is_drawn_when_a_result_changes(copy, tmp_path, written):
    path = tmp_path / "comparison.png"
    first = figures.draw_comparison([copy], path)
    assert figures.draw_comparison([copy], path) == first == [path, path.with_suffix(".svg")]
    assert len(written) == 1
    bytes_of_first = [file.read_bytes() for file in first]
    figures.draw_comparison([copy], path, force=True)
    assert [file.read_bytes() for file in first] == bytes_of_first  # equal data, equal bytes
    summary = json.loads((copy / "summary.json").read_text())
    run_folder.write_summary(copy, {**summary, "seconds": 1.0})
    figures.draw_comparison([copy], path)
    assert len(written) == 3


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *itertools.product(("images", "deep", "resnet", "text", "function"), PHASE_FIGURES),
        *itertools.product(("images", "resnet", "uniform"), ["confusion"]),
        *(("uniform", "curves"), ("function", "fit")),
    ],
)
def test_no_text_is_clipped_or_covered_by_another(gallery, name, kind):
    figure, texts = gallery.drawn(name, kind)
    assert len(texts) > 5
    assert_legible(figure, texts)


@pytest.mark.parametrize("largest", [1.3e-6, 3e-6, 2e-5, 1e-3, 1.0])
def test_a_comparison_has_legible_texts_on_any_range(tmp_path, largest):
    scores = {"two_phase": [1e-6], "uniform:relu": [largest]}
    folders = scored(tmp_path, "function:product_sine", scores)
    figure, texts = draw_and_note_texts(lambda: figures.comparison(folders))
    assert_legible(figure, texts)
    axis = figure.axes[0].xaxis
    low, high = axis.get_view_interval()
    labelled = [
        label.get_text()
        for place, label in zip(axis.get_majorticklocs(), axis.get_majorticklabels(), strict=True)
        if low <= place <= high
    ]
    assert 1 <= len(labelled) <= 8
    assert all(labelled)


def assert_legible(figure: Figure, texts: list) -> None:
    """No text leaves the figure or lies on another."""
    width, height = figure.bbox.size
    for text, box in texts:
        inside = box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height
        assert inside, (text.get_text(), box)
    upright = [(text.get_text(), box) for text, box in texts if text.get_rotation() in (0, 90)]
    boxes = np.array([box.extents for _, box in upright])
    low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    covered = (high - low > 1).all(-1) & ~np.eye(len(boxes), dtype=bool)
    assert not [(upright[i][0], upright[j][0]) for i, j in np.argwhere(covered)]


def test_missing_files_leave_their_figures_out(tmp_path):
    folder = write_run(tmp_path / "run", selective_epochs=1, mixed_epochs=1, hidden=(16,))
    for name in ("summary.json", "selection.npz", "choices.json"):
        (folder / name).unlink()
    stems = {path.stem for path in figures.draw_figures(folder)}
    assert stems == {"curves", "shares_over_epochs"}
    with pytest.raises(figures.MissingData, match=r"no choices\.json"):
        figures.shares(figures.read_run(folder))


def test_a_run_in_its_first_phase_has_figures(tmp_path):
    folder = write_run(tmp_path / "run", selective_epochs=3, mixed_epochs=3, hidden=(16, 8))
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    for name in ("summary.json", "selection.npz", "choices.json"):
        (folder / name).unlink()
    # The last line is cut short: the run writes it now.
    (folder / "metrics.jsonl").write_text(lines[0] + lines[1][:40])
    assert len(figures.draw_figures(folder)) == 4


@pytest.mark.parametrize("damage", ["config.json", "task.json", "metrics.jsonl"])
def test_no_run_folder_is_one_error(tmp_path, capsys, damage):
    folder = write_run(tmp_path / "run", method="uniform:relu", mixed_epochs=1)
    (folder / damage).unlink()
    with pytest.raises(ValueError, match=f"run is no run folder: it holds no {damage}"):
        figures.draw_figures(folder)
    assert main([str(folder)]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert not (folder / "figures").exists()


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "task.json",
        "metrics.jsonl",
        "choices.json",
        "selection.npz",
        "summary.json",
    ],
)
def test_a_damaged_file_is_named(tmp_path, name):
    folder = write_run(tmp_path / "run", selective_epochs=1, mixed_epochs=1, hidden=(16,))
    path = folder / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] + b"\n\n")
    with pytest.raises(ValueError, match=rf"{name} cannot be read: "):
        figures.read_run(folder)


# The numbers drawn are those of the folder


def test_shares_are_the_counts_of_the_choices(gallery):
    run = gallery.run("images")
    axes = gallery.figure("images", "shares").axes[0]
    drawn = [
        (round(bar.get_y() + bar.get_height() / 2), to_hex(bar.get_facecolor()), bar.get_width())
        for bar in axes.patches
    ]
    expected = [
        (row, figures.FUNCTION_COLORS[name].lower(), 100 * np.mean(layer.choices == index))
        for row, layer in enumerate(run.choices.values())
        for index, name in enumerate(layer.pool)
        if (layer.choices == index).any()
    ]
    assert [bar[:2] for bar in drawn] == [bar[:2] for bar in expected]
    np.testing.assert_allclose([bar[2] for bar in drawn], [bar[2] for bar in expected])
    large = [f"{width:.0f}" for *_, width in expected if width >= 4]
    assert [text.get_text() for text in axes.texts] == large
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == ["layer 1 (512)", "layer 2 (256)", "layer 3 (128)", "layer 4 (64)"]


def test_shares_over_epochs_are_the_metrics(gallery):
    run = gallery.run("images")
    figure = gallery.figure("images", "shares_over_epochs")
    names = run.config.activation_pool.names
    for number, axes in enumerate(figure.axes):
        path = f"activations.{number}"
        assert axes.get_title("left") == f"layer {number + 1} ({run.config.widths[number]})"
        areas, fixed = axes.collections[: len(names)], axes.collections[len(names) :]
        assert [to_hex(area.get_facecolor()[0]) for area in areas] == [
            figures.FUNCTION_COLORS[name].lower() for name in names
        ]
        rows = run.rows("selective")
        for epoch in (1, 7, len(rows)):
            shares = [rows[epoch - 1]["layers"][path]["shares"][name] for name in names]
            np.testing.assert_allclose(heights(areas, epoch - 0.5), np.multiply(100, shares))
        shares = run.rows("mixed")[-1]["layers"][path]["shares"]
        drawn = heights(fixed, 1.09 * len(rows))
        np.testing.assert_allclose(drawn, [100 * shares[name] for name in names])


def test_many_layers_stand_in_their_order_and_say_where(gallery):
    """metrics.jsonl has activations.10 before activations.2."""
    run = gallery.run("resnet")
    assert list(run.metrics[0]["layers"])[2] == "activations.10"
    labels = [
        text.get_text() for text in gallery.figure("resnet", "shares").axes[0].get_yticklabels()
    ]
    assert labels[:3] == [
        "stem (16)",
        "stage 1 block 1, inside (16)",
        "stage 1 block 1, after the addition (16)",
    ]
    assert labels[10] == "stage 2 block 2, after the addition (32)"
    panels = gallery.figure("resnet", "shares_over_epochs").axes[: len(labels)]
    assert [panel.get_title("left").replace("\n", ", ") for panel in panels] == labels
    for panel, path in zip(panels, [f"activations.{number}" for number in range(19)], strict=True):
        share = 100 * run.rows("selective")[-1]["layers"][path]["shares"]["relu"]
        (height,) = heights(panel.collections[:1], 1.5)
        assert height == pytest.approx(share), path
    upper = gallery.figure("resnet", "curves").axes[2]
    assert [line.get_label() for line in upper.lines] == list(run.choices)


def heights(areas, x: float) -> list[float]:
    """The extent of filled areas at x."""
    found = []
    for area in areas:
        vertices = area.get_paths()[0].vertices
        half = len(vertices) // 2
        edges = []
        for edge in (vertices[:half], vertices[half:][::-1]):
            edge = edge[np.argsort(edge[:, 0], kind="stable")]
            edges.append(np.interp(x, edge[:, 0], edge[:, 1]))
        found.append(abs(edges[1] - edges[0]))
    return found


def lines(axes, label: str):
    return next(line for line in axes.lines if line.get_label() == label)


@pytest.mark.parametrize("name", ["images", "uniform", "function", "text"])
def test_curves_are_the_metrics(gallery, name):
    run = gallery.run(name)
    figure = gallery.figure(name, "curves")
    quantities = [("loss", 1), ("score", 100)][: 1 if name == "function" else 2]
    for axes, (quantity, scale) in zip(figure.axes, quantities, strict=False):
        for split in ("train", "validation"):
            line = lines(axes, split)
            assert line.get_xdata().tolist() == [row["epoch"] for row in run.metrics]
            values = [scale * row[f"{split}_{quantity}"] for row in run.metrics]
            np.testing.assert_array_equal(line.get_ydata(), values)
        label = "tested: the last epoch of a phase"
        if name == "text":
            label = "tested: the lowest validation loss of a phase"
        tested = lines(axes, label)
        phases = run.summary["phases"]
        offsets = np.cumsum([0, *(phase["epochs"] for phase in phases)])
        key = "best_epoch" if name == "text" else "epochs"
        expected = [start + phase[key] for start, phase in zip(offsets, phases, strict=False)]
        assert tested.get_xdata().tolist() == expected
        values = lines(axes, "validation").get_ydata()
        np.testing.assert_array_equal(tested.get_ydata(), [values[at - 1] for at in expected])
        marks = [text.get_text() for text in axes.texts]
        assert marks == ([] if name == "uniform" else ["switch"])
    assert (figure.axes[0].get_yscale() == "log") or name != "function"
    assert len(figure.axes) == {"images": 4, "uniform": 2, "function": 3, "text": 4}[name]


def test_confidence_and_temperature_are_those_of_phase_1(gallery):
    run = gallery.run("images")
    rows = run.rows("selective")
    upper, lower = gallery.figure("images", "curves").axes[2:]
    for path in run.choices:
        values = [row["layers"][path]["max_probability"] for row in rows]
        np.testing.assert_array_equal(lines(upper, path).get_ydata(), values)
    np.testing.assert_array_equal(lower.lines[0].get_ydata(), [r["temperature"] for r in rows])
    assert [label.get_text() for label in upper.get_yticklabels()] == ["1/6", "0.5", "1"]


def test_confusion_holds_percent_and_counts(gallery):
    run = gallery.run("images")
    counts = np.array(run.summary["confusion"])
    axes = gallery.figure("images", "confusion").axes[0]
    cells = {tuple(map(round, text.get_position()[::-1])): text for text in axes.texts}
    assert set(cells) == set(map(tuple, np.argwhere(counts).tolist()))
    for (row, column), text in cells.items():
        percent, count = text.get_text().split("\n")
        assert count == f"({counts[row, column]})"
        assert float(percent) == pytest.approx(counts[row, column] / 10, abs=0.05)
    image = axes.images[0].get_array()
    assert image.mask.diagonal().all()
    assert image.mask.sum() == 10
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == run.summary["class_names"]


def test_fit_is_the_fit(gallery):
    run = gallery.run("function")
    figure = gallery.figure("function", "fit")
    panels, planes = figure.axes[:3], figure.axes[3:6]
    for number, axes in enumerate(panels):
        for label, key in (("true", "line_true"), ("fitted", "line_fit")):
            line = lines(axes, label)
            np.testing.assert_array_equal(line.get_xdata(), run.fit["line_x"])
            np.testing.assert_array_equal(line.get_ydata(), run.fit[key][number])
        assert axes.get_xlabel() == f"$x_{number + 1}$  (others held at 0.5)"
        shade = axes.patches[0]
        assert (shade.get_x(), shade.get_width()) == (-2, 4)
    true, fitted = run.fit["plane_true"], run.fit["plane_fit"]
    drawn = [axes.images[0] for axes in planes]
    for image, values in zip(drawn, (true, fitted, np.log10(np.abs(fitted - true))), strict=True):
        np.testing.assert_allclose(image.get_array(), values)
        assert image.origin == "lower"
    assert drawn[0].get_clim() == drawn[1].get_clim()


# Many runs


def scored(root: Path, task: str, scores: dict[str, list[float]]) -> list[Path]:
    folders = []
    for method, values in scores.items():
        for seed, value in enumerate(values):
            folder = root / f"{method.replace(':', '-')}-{seed}"
            write_run(folder, task, method=method, seed=seed, selective_epochs=1, mixed_epochs=1)
            summary = json.loads((folder / "summary.json").read_text())
            kinds = {"function": "test_normalized_error", "tiny_shakespeare": "test_loss"}
            key = kinds.get(task.split(":")[0], "test_score")
            summary["phases"][-1][key] = value
            run_folder.write_summary(folder, summary)
            folders.append(folder)
    return folders


@pytest.mark.parametrize(
    ("task", "scores", "order", "scale", "label"),
    [
        (
            "fashion_mnist",
            {"two_phase": [0.89, 0.9], "uniform:relu": [0.91, 0.9], "uniform:tanh": [0.88, 0.87]},
            ["uniform relu", "two-phase", "uniform tanh"],
            "linear",
            "test accuracy (%)",
        ),
        (
            "function:product_sine",
            {"uniform:relu": [2e-4, 3e-4], "two_phase": [1e-6, 2e-6], "uniform:sin": [4e-5, 3e-5]},
            ["two-phase", "uniform sin", "uniform relu"],
            "log",
            "normalised test error, MSE / Var y",
        ),
        (
            "tiny_shakespeare",
            {"two_phase": [1.99, 2.0], "uniform:relu": [1.86, 1.87], "uniform:tanh": [1.93, 1.94]},
            ["uniform relu", "uniform tanh", "two-phase"],
            "linear",
            "test loss, nats per character",
        ),
    ],
)
def test_comparison_shows_every_run_best_first(tmp_path, task, scores, order, scale, label):
    figure = figures.comparison(scored(tmp_path, task, scores))
    assert figure.get_suptitle() == task
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.get_yticklabels()] == order
    weights = [text.get_fontweight() for text in axes.get_yticklabels()]
    assert [weight == "bold" for weight in weights] == [name == "two-phase" for name in order]
    assert (axes.get_xscale(), axes.get_xlabel()) == (scale, label)
    points = [line for line in axes.lines if line.get_marker() == "o"]
    for place, (name, line) in enumerate(zip(order, points, strict=True)):
        values = scores[name.replace("uniform ", "uniform:").replace("two-phase", "two_phase")]
        factor = 100 if label == "test accuracy (%)" else 1
        np.testing.assert_allclose(line.get_xdata(), np.multiply(factor, values))
        assert set(line.get_ydata()) == {place}
        color = figures.FUNCTION_COLORS.get(name.removeprefix("uniform "), figures.INK)
        assert line.get_markerfacecolor() == color


def test_comparison_tells_controls_and_networks_apart(tmp_path):
    short = dict(selective_epochs=1, mixed_epochs=1)
    folders = [
        write_run(tmp_path / "a", **short),
        write_run(tmp_path / "b", control="shuffled", **short),
        write_run(tmp_path / "c", hidden=(16, 8), **short),
        write_run(tmp_path / "d", carry_weights=False, **short),
    ]
    axes = figures.comparison(folders).axes[0]
    weights = {text.get_text(): text.get_fontweight() for text in axes.get_yticklabels()}
    assert weights == {
        "two-phase, 512-256-128-64": "bold",
        "two-phase, shuffled, 512-256-128-64": "normal",
        "two-phase, 16-8": "bold",
        "two-phase, reinitialized, 512-256-128-64": "normal",
    }


def test_comparison_wants_one_task_and_finished_runs(gallery, tmp_path):
    gallery.run("uniform"), gallery.run("function")
    with pytest.raises(ValueError, match="expected runs of one task, got"):
        figures.comparison([gallery.root / "uniform", gallery.root / "function"])
    with pytest.raises(ValueError, match="got none"):
        figures.comparison([])
    with pytest.raises(ValueError, match=r"holds no config\.json"):
        figures.comparison([tmp_path])


# Many data sets


def drawn_ranks(methods: int, rows: int = 18, names=None, digits: int = 9) -> tuple[Figure, list]:
    rng = np.random.default_rng(methods)
    scores = np.round(rng.normal(size=(rows, methods)) + np.linspace(0, 2, methods), digits)
    names = names or [f"method {number + 1}" for number in range(methods)]
    return draw_and_note_texts(lambda: figures.critical_difference(names, scores))


@pytest.mark.parametrize(
    "options",
    [
        dict(methods=3, rows=2),
        dict(methods=4),
        dict(methods=8, digits=0),
        dict(methods=14, rows=60),
        dict(methods=9, names=["two-phase, reinitialized, 512-256-128-64"] * 9),
        dict(methods=14, rows=30, digits=-2),  # all tie
    ],
)
def test_a_critical_difference_diagram_has_legible_names(options):
    figure, texts = drawn_ranks(**options)
    assert_legible(figure, texts)
    (axes,) = figure.axes
    assert axes.get_position().width * figure.get_figwidth() > 1.0


def test_a_critical_difference_diagram_joins_what_is_not_told_apart():
    scores = -np.array([[1, 2, 3, 4.0], [1, 2, 3, 4], [2, 1, 4, 3], [1, 2, 3, 4]] * 4)
    figure, texts = draw_and_note_texts(
        lambda: figures.critical_difference(list("abcd"), scores, data_sets="architectures")
    )
    (axes,) = figure.axes
    names = {text.get_text() for text, _ in texts}
    assert {"a  1.25", "b  1.75", "3.25  c", "3.75  d"} <= names
    assert {"critical difference 1.17"} <= names
    assert axes.get_xlabel().startswith("average rank over 16 architectures, 1 is the best; ")
    assert axes.get_xlabel().endswith("Friedman test p < 0.0001")
    assert axes.get_xlim() == (1, 4)
    bars = [line.get_xdata() for line in axes.lines if line.get_linewidth() > 2]
    near = [sorted(rank for rank in (1.25, 1.75, 3.25, 3.75) if a <= rank <= b) for a, b in bars]
    assert near == [[1.25, 1.75], [3.25, 3.75]]
    with pytest.raises(ValueError, match="3 names: expected one for each of the 4 methods"):
        figures.critical_difference(list("abc"), scores)


def test_no_bar_of_a_critical_difference_diagram_reaches_a_method_outside_its_group():
    figure, _ = drawn_ranks(14, 60)
    (axes,) = figure.axes
    lines = axes.lines
    ranks_of = [1 + 13 * line.get_xdata()[1] for line in lines if len(line.get_xdata()) == 3]
    bars = [line for line in lines if line.get_linewidth() > 2]
    assert len(ranks_of) == 14
    assert len(bars) > 2
    longest = critical_difference(14, 60)
    for bar in bars:
        low, high = bar.get_xdata()
        within = [rank for rank in ranks_of if low <= rank <= high]
        assert max(within) - min(within) < longest
    for one, other in itertools.combinations(bars, 2):
        if one.get_ydata()[0] == other.get_ydata()[0]:
            (_, end), (begin, _) = sorted([tuple(one.get_xdata()), tuple(other.get_xdata())])
            assert end < begin


# Colours


def test_every_function_of_every_pool_has_its_own_colour():
    names = {name for pool in POOLS.values() for name in pool.names}
    assert names <= set(figures.FUNCTION_COLORS)
    assert len({to_hex(color) for color in figures.FUNCTION_COLORS.values()}) == len(
        figures.FUNCTION_COLORS
    )
    for pool in POOLS.values():
        assert figures.function_colors(pool.names) == {
            name: figures.FUNCTION_COLORS[name] for name in pool.names
        }


def test_unknown_functions_get_other_colours():
    colors = figures.function_colors(["mine", "relu", "yours"])
    assert colors["relu"] == figures.FUNCTION_COLORS["relu"]
    assert [colors["mine"], colors["yours"]] == list(figures.OTHER_COLORS[:2])
    assert not set(figures.OTHER_COLORS) & set(figures.FUNCTION_COLORS.values())


def test_settings_of_the_caller_do_not_matter(gallery):
    run = gallery.run("uniform")
    plain = figures.curves(run)
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "black"}):
        other = figures.curves(run)
    assert pixels(plain) == pixels(other)


def pixels(figure: Figure) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return bytes(canvas.buffer_rgba())
