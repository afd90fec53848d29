"""Figures show the numbers of the run folder and nothing else changes."""

import dataclasses
import json
import struct
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text

from experiments import figures, run_folder
from experiments.config import POOLS, Config
from experiments.figures.__main__ import main
from experiments.objective import CLASSIFICATION, NEXT_CHARACTER, REGRESSION, Objective
from experiments.presets import default_config
from experiments.run_folder import TaskRecord

PHASE_FIGURES = ["shares", "shares_over_epochs", "choice_map", "curves"]
DEEP = (768, 512, 512, 256, 256, 128, 128, 128, 64, 64, 64, 32, 32, 32, 16, 16, 16)


# Synthetic run folders


def objective_of(config: Config) -> Objective:
    if config.task.startswith("function:"):
        return REGRESSION
    return NEXT_CHARACTER if config.task == "tiny_shakespeare" else CLASSIFICATION


def softmax(logits: np.ndarray) -> np.ndarray:
    exponent = np.exp(logits - logits.max(-1, keepdims=True))
    return exponent / exponent.sum(-1, keepdims=True)


def layer_row(names: tuple[str, ...], logits: np.ndarray, certain: bool = False) -> dict:
    counts = np.bincount(logits.argmax(-1), minlength=len(names))
    largest = softmax(logits).max(-1)
    return {
        "features": len(logits),
        "counts": dict(zip(names, counts.tolist(), strict=True)),
        "shares": dict(zip(names, (counts / len(logits)).tolist(), strict=True)),
        "max_probability": 1.0 if certain else float(largest.mean()),
        "entropy": 0.0 if certain else 1.0,
        "undecided": 0.0 if certain else float((largest < 0.5).mean()),
    }


def drawn_logits(config: Config, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Early layers lean to the first functions of the pool, deep ones to the last."""
    functions, depth = len(config.activation_pool), len(config.widths)
    logits = {}
    for number, width in enumerate(config.widths):
        peak = (functions - 1) * (0.2 + 0.7 * number / max(depth - 1, 1))
        tilt = 1.5 * np.exp(-0.5 * (np.arange(functions) - peak) ** 2)
        spread = rng.gamma(2.0, 0.6, (width, 1))
        logits[f"activations.{number}"] = tilt + spread * rng.gumbel(size=(width, functions))
    return logits


def metrics_rows(config: Config, logits: dict[str, np.ndarray]) -> list[dict]:
    rng = np.random.default_rng(1)
    names = config.activation_pool.names
    start = {path: rng.normal(0, 0.1, layer.shape) for path, layer in logits.items()}
    total = config.selective_epochs + config.mixed_epochs
    rows = []
    for epoch in range(1, total + 1):
        selective = epoch <= config.selective_epochs
        done = min(epoch / config.selective_epochs, 1.0)
        phase = ("selective" if selective else "mixed") if logits else "uniform"
        noise = np.exp(rng.normal(0, 0.08, 2))
        fall = 2.3 * np.exp(-5 * (epoch / total) ** 0.6)
        train = (fall + (0.02 if selective else 0.005)) * noise[0]
        validation = (fall + 0.09) * noise[1]
        scores = (float(np.exp(-train)), float(np.exp(-0.9 * validation)))
        if objective_of(config) is REGRESSION:
            validation = train * 1.2 * noise[1]
            scores = (train, validation)
        rows.append(
            {
                "epoch": epoch,
                "phase": phase,
                "phase_epoch": epoch - (0 if phase != "mixed" else config.selective_epochs),
                "train_loss": float(train),
                "train_score": scores[0],
                "validation_loss": float(validation),
                "validation_score": scores[1],
                "temperature": 2.0 - 1.5 * done,
                "learning_rate": 1e-3,
                "seconds": 0.5,
                "layers": {
                    path: layer_row(names, start[path] + done * layer, not selective)
                    for path, layer in logits.items()
                },
            }
        )
    return rows


def summary_of(config: Config, rows: list[dict], rng: np.random.Generator) -> dict:
    phases = []
    for name in dict.fromkeys(row["phase"] for row in rows):
        own = [row for row in rows if row["phase"] == name]
        best = min(own, key=lambda row: row["validation_loss"])
        phase = {"name": name, "epochs": len(own), "best_epoch": best["phase_epoch"]}
        for split in ("validation", "test"):
            phase[f"{split}_loss"] = best["validation_loss"]
            phase[f"{split}_score"] = best["validation_score"]
        if objective_of(config) is REGRESSION:
            phase["test_normalized_error"] = float(1e-5 * np.exp(rng.normal()))
            phase["outside_normalized_error"] = 1e-2
        phases.append(phase)
    summary = {"phases": phases, "switch": {}, "class_names": []}
    if objective_of(config) is not REGRESSION:
        wrong = rng.poisson(rng.gamma(0.4, 6, (10, 10)))
        np.fill_diagonal(wrong, 0)
        summary["confusion"] = (wrong + np.diag(1000 - wrong.sum(1))).tolist()
        summary["class_names"] = [
            *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
            *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        ]
    return summary


def fit_arrays() -> dict[str, np.ndarray]:
    """x1·x2 + sin 2x3, fitted well inside the training box and badly outside."""

    def fitted(true: np.ndarray, *inputs: np.ndarray) -> np.ndarray:
        outside = sum(np.maximum(np.abs(x) - 2, 0) ** 2 for x in inputs)
        return true + 0.002 * np.sin(5 * sum(inputs) + 0.3) - 0.4 * outside

    line, plane = np.linspace(-3, 3, 121), np.linspace(-3, 3, 61)
    true = np.stack([0.5 * line + np.sin(1), 0.5 * line + np.sin(1), 0.25 + np.sin(2 * line)])
    x1, x2 = np.meshgrid(plane, plane)
    plane_true = x1 * x2 + np.sin(1)
    return {
        "line_x": line,
        "line_true": true,
        "line_fit": fitted(true, line),
        "plane_x": plane,
        "plane_true": plane_true,
        "plane_fit": fitted(plane_true, x1, x2),
        "held": np.float32(0.5),
        "inside": np.float32(2.0),
    }


def write_run(folder: Path, task: str = "fashion_mnist", **changes) -> Path:
    """A finished run's folder."""
    config = dataclasses.replace(default_config("recommended", task), **changes)
    rng = np.random.default_rng(config.seed)
    logits = drawn_logits(config, rng) if config.method == "two_phase" else {}
    rows = metrics_rows(config, logits)
    folder.mkdir(parents=True)
    run_folder.write_config(folder, config)
    run_folder.write_task(folder, TaskRecord(config.task, objective_of(config), (64,), 10))
    for row in rows:
        run_folder.append_metrics(folder, row)
    run_folder.write_summary(folder, summary_of(config, rows, rng))
    if logits:
        names = list(config.activation_pool.names)
        choices = {
            path: {"pool": names, "choices": layer.argmax(-1).tolist()}
            for path, layer in logits.items()
        }
        run_folder.write_choices(folder, choices)
        run_folder.write_selection(folder, logits)
    if objective_of(config) is REGRESSION:
        run_folder.write_fit(folder, fit_arrays())
    return folder


FOLDERS = {
    "images": dict(architecture=3, selective_epochs=20, mixed_epochs=40),
    "deep": dict(hidden=DEEP, selective_epochs=10, mixed_epochs=90, pool="extended"),
    "uniform": dict(method="uniform:relu", selective_epochs=10, mixed_epochs=20),
    "function": dict(task="function:product_sine"),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("runs")
    return {name: write_run(root / name, **changes) for name, changes in FOLDERS.items()}


@pytest.fixture(autouse=True)
def unchanged_settings():
    """No figure may change the settings of the caller."""
    # As plain dicts: RcParams itself resolves the backend when it is read.
    before = dict.copy(matplotlib.rcParams)
    yield
    assert dict.copy(matplotlib.rcParams) == before


# Which files appear


def png_size(path: Path) -> tuple[int, int]:
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", data[16:24])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("images", [*PHASE_FIGURES, "confusion"]),
        ("uniform", ["curves", "confusion"]),
        ("function", [*PHASE_FIGURES, "fit"]),
    ],
)
def test_a_folder_gets_the_figures_it_has_data_for(folders, name, expected):
    paths = figures.draw_figures(folders[name])
    written = {path.name for path in (folders[name] / "figures").iterdir()}
    assert {path.name for path in paths} == written
    assert written == {figure + suffix for figure in expected for suffix in (".png", ".svg")}
    for path in paths:
        if path.suffix == ".png":
            width, height = png_size(path)
            assert 600 <= width <= 1400, path
            assert 150 <= height <= 1900, path
        else:
            assert "<svg" in path.read_text()[:1000]
            assert path.stat().st_size < 4e6


@pytest.mark.parametrize("name", FOLDERS)
def test_no_text_is_clipped(folders, name, monkeypatch):
    run = figures.read_run(folders[name])
    texts = []
    plain_draw = Text.draw

    def draw_and_note(text, renderer):
        if text.get_visible() and text.get_text():
            texts.append((text.get_text(), text.get_window_extent(renderer)))
        plain_draw(text, renderer)

    for draw in figures.FIGURES.values():
        try:
            figure = draw(run)
        except figures.MissingData:
            continue
        texts.clear()
        with monkeypatch.context() as patch:
            patch.setattr(Text, "draw", draw_and_note)
            figure.draw_without_rendering()
        width, height = figure.bbox.size
        assert len(texts) > 5
        for text, box in texts:
            inside = box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height
            assert inside, (draw.__name__, text, box)


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


def test_equal_data_give_equal_files(folders, tmp_path):
    first, second = (
        figures.draw_comparison([folders["uniform"]], tmp_path / name / "comparison.png")
        for name in ("a", "b")
    )
    assert [path.suffix for path in first] == [".png", ".svg"]
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()


# The numbers drawn are those of the folder


def test_shares_are_the_counts_of_the_choices(folders):
    run = figures.read_run(folders["images"])
    axes = figures.shares(run).axes[0]
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


def test_shares_over_epochs_are_the_metrics(folders):
    run = figures.read_run(folders["images"])
    figure = figures.shares_over_epochs(run)
    names = run.config.activation_pool.names
    for number, axes in enumerate(figure.axes):
        path = f"activations.{number}"
        assert axes.get_title("left") == figures.layer_label(path, run.config.widths[number])
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


def test_a_cell_of_the_map_is_its_neuron(folders):
    run = figures.read_run(folders["images"])
    axes = figures.choice_map(run).axes[0]
    assert len(axes.collections) == 4
    for mesh, path in zip(axes.collections, run.logits, strict=True):
        logits, layer = run.logits[path], run.choices[path]
        cells = np.asarray(mesh.get_array()).reshape(-1, 4)
        assert len(cells) == len(logits)  # the widths are multiples of 64
        for neuron in (0, 5, len(logits) - 1):
            choice = layer.choices[neuron]
            probability = softmax(logits[neuron])[choice]
            strength = 0.15 + 0.85 * (probability - 1 / 6) / (1 - 1 / 6)
            full = np.array(to_rgb(figures.FUNCTION_COLORS[layer.pool[choice]]))
            expected = strength * full + (1 - strength) * 1.0
            np.testing.assert_allclose(cells[neuron], [*expected, 1], atol=1e-6)


def test_the_map_leaves_the_end_of_a_row_empty(tmp_path):
    folder = write_run(tmp_path / "run", selective_epochs=1, mixed_epochs=1, hidden=(40, 16))
    first, second = figures.choice_map(figures.read_run(folder)).axes[0].collections
    for mesh, neurons in ((first, 40), (second, 16)):
        alpha = np.asarray(mesh.get_array()).reshape(-1, 4)[:, 3]
        np.testing.assert_array_equal(alpha, np.arange(len(alpha)) < neurons)
        assert len(alpha) % 32 == 0


def test_certain_neurons_have_the_full_colour_and_chance_the_faintest():
    layer = figures.LayerChoices(("relu", "sin"), np.array([0, 1, 1]))
    colors = figures.choice_colors(layer, np.array([1.0, 1.0, 0.5]))
    assert to_hex(colors[0]) == figures.FUNCTION_COLORS["relu"].lower()
    assert to_hex(colors[1]) == figures.FUNCTION_COLORS["sin"].lower()
    np.testing.assert_allclose(1 - colors[2], figures.FAINTEST * (1 - colors[1]))


def lines(axes, label: str):
    return next(line for line in axes.lines if line.get_label() == label)


@pytest.mark.parametrize("name", ["images", "uniform", "function"])
def test_curves_are_the_metrics(folders, name):
    run = figures.read_run(folders[name])
    figure = figures.curves(run)
    quantities = [("loss", 1), ("score", 100)][: 1 if name == "function" else 2]
    for axes, (quantity, scale) in zip(figure.axes, quantities, strict=False):
        for split in ("train", "validation"):
            line = lines(axes, split)
            assert line.get_xdata().tolist() == [row["epoch"] for row in run.metrics]
            values = [scale * row[f"{split}_{quantity}"] for row in run.metrics]
            np.testing.assert_array_equal(line.get_ydata(), values)
        best = lines(axes, "lowest validation loss of a phase").get_xdata().tolist()
        phases = run.summary["phases"]
        offsets = np.cumsum([0, *(phase["epochs"] for phase in phases)])
        expected = [start + p["best_epoch"] for start, p in zip(offsets, phases, strict=False)]
        assert best == expected
        marks = [text.get_text() for text in axes.texts]
        assert marks == ([] if name == "uniform" else ["switch"])
    assert (figure.axes[0].get_yscale() == "log") or name != "function"
    assert len(figure.axes) == {"images": 4, "uniform": 2, "function": 3}[name]


def test_confidence_and_temperature_are_those_of_phase_1(folders):
    run = figures.read_run(folders["images"])
    rows = run.rows("selective")
    upper, lower = figures.curves(run).axes[2:]
    for path in run.choices:
        values = [row["layers"][path]["max_probability"] for row in rows]
        np.testing.assert_array_equal(lines(upper, path).get_ydata(), values)
    np.testing.assert_array_equal(lower.lines[0].get_ydata(), [r["temperature"] for r in rows])
    assert [label.get_text() for label in upper.get_yticklabels()] == ["1/6", "0.5", "1"]


def test_confusion_holds_percent_and_counts(folders):
    run = figures.read_run(folders["images"])
    counts = np.array(run.summary["confusion"])
    axes = figures.confusion(run).axes[0]
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


def test_fit_is_the_fit(folders):
    run = figures.read_run(folders["function"])
    figure = figures.fit(run)
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
            (folder / "summary.json").write_text(json.dumps(summary))
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
    axes = figures.comparison(scored(tmp_path, task, scores)).axes[0]
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


def test_comparison_wants_one_task_and_finished_runs(folders, tmp_path):
    with pytest.raises(ValueError, match="expected runs of one task, got"):
        figures.comparison([folders["images"], folders["function"]])
    with pytest.raises(ValueError, match="got none"):
        figures.comparison([])
    with pytest.raises(ValueError, match="no finished run"):
        figures.comparison([tmp_path])


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


def test_settings_of_the_caller_do_not_matter(folders):
    run = figures.read_run(folders["uniform"])
    plain = figures.curves(run)
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "black"}):
        other = figures.curves(run)
    assert pixels(plain) == pixels(other)


def pixels(figure: Figure) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return bytes(canvas.buffer_rgba())
