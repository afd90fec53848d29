"""Run folders with made-up numbers, for what reads them: no network is trained."""

import dataclasses
from pathlib import Path

import numpy as np

from experiments import run_folder
from experiments.config import Config
from experiments.objective import CLASSIFICATION, NEXT_CHARACTER, REGRESSION, Objective
from experiments.presets import default_config
from experiments.run_folder import LayerChoices, TaskRecord

LAYERS = {
    "conv": (32, 64, 256),
    "resnet20": (16,) * 7 + (32,) * 6 + (64,) * 6,
    "transformer": (512,) * 4,
}


VERSIONS = {"python": "3.11", "jax": "0.10", "flax": "0.12"}


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
    widths = LAYERS.get(config.network, config.widths)
    functions, depth = len(config.activation_pool), len(widths)
    logits = {}
    for number, width in enumerate(widths):
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
                    for path, layer in sorted(logits.items())  # as a compiled epoch returns them
                },
            }
        )
    return rows


def summary_of(config: Config, rows: list[dict], rng: np.random.Generator) -> dict:
    phases = []
    for name in dict.fromkeys(row["phase"] for row in rows):
        own = [row for row in rows if row["phase"] == name]
        best = min(own, key=lambda row: row["validation_loss"])
        epoch = best["phase_epoch"]
        phase = {"name": name, "epochs": len(own), "best_epoch": epoch, "tested_epoch": epoch}
        for split in ("validation", "test"):
            phase[f"{split}_loss"] = best["validation_loss"]
            phase[f"{split}_score"] = best["validation_score"]
        if objective_of(config) is REGRESSION:
            phase["test_normalized_error"] = float(1e-5 * np.exp(rng.normal()))
            phase["outside_normalized_error"] = 1e-2
        phases.append(phase)
    summary = {"phases": phases, "switch": {}, "class_names": [], "seconds": 60.0}
    summary["environment"] = {**VERSIONS, "date": "2026-11-26", "device": "cpu"}
    if objective_of(config).confusion:
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
    written = run_folder.Rows(folder)
    for row in rows:
        written.append(row)
    if logits:
        names = config.activation_pool.names
        choices = {path: LayerChoices(names, layer.argmax(-1)) for path, layer in logits.items()}
        run_folder.write_choices(folder, choices)
        run_folder.write_selection(folder, logits)
    if objective_of(config) is REGRESSION:
        run_folder.write_fit(folder, fit_arrays())
    run_folder.write_summary(folder, summary_of(config, rows, rng))
    return folder
