"""Every benchmark runs end to end, and none times a wrong result."""

import json
import math
import sys

import jax
import numpy as np
import pytest

from experiments.benchmarks import (
    activation,
    against_pytorch,
    harness,
    layer,
    memory,
    networks,
    resnet,
    serving,
    step,
    strategies,
)


def measured(program, tmp_path, *options):
    """The record that --smoke leaves."""
    out = tmp_path / "record.json"
    assert program.main(["--smoke", "--out", str(out), *options]) == 0
    record = json.loads(out.read_text())
    assert record["command"].startswith("python -m experiments.benchmarks.")
    assert {"date", "jax", "device", "backend", "cpus", "load"} <= record["environment"].keys()
    assert record["results"]
    return record


def require_ratios(record, labels):
    for row in record["results"]:
        assert row["ratios"].keys() == labels
        for ratio in row["ratios"].values():
            assert 0 < ratio["lower"] <= ratio["median"] <= ratio["upper"] < math.inf


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_activation(tmp_path, capsys, dtype):
    record = measured(activation, tmp_path, "--dtype", dtype, "--rounds", "1")
    require_ratios(record, {"to relu", "to selu"})
    variants = strategies.strategies(4).keys()
    assert [(row["pass"], row["variant"]) for row in record["results"]] == [
        (name, variant) for name in ("forward", "forward+backward") for variant in variants
    ]
    assert record["rounds"] == 1
    assert all(row["seconds"] > 0 and row["dtype"] == dtype for row in record["results"])
    assert "fixed, gather and scatter" in capsys.readouterr().out


def test_serving(tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    record = measured(serving, tmp_path, "--rounds", "1")
    require_ratios(record, {"to relu", "to gelu"})
    assert len(record["results"]) == 2 * 2 * 2 * 3
    assert {row["runtime"] for row in record["results"]} == {"onnxruntime", "JAX"}
    assert all(row["bytes"] > 0 for row in record["results"])


# test_activation runs every strategy; compiling them again would be half of these tests' time.
FEW = ("relu", "selu", "fixed", "selective")


def test_layer(tmp_path, monkeypatch):
    every = strategies.strategies
    monkeypatch.setattr(
        strategies, "strategies", lambda features: {name: every(features)[name] for name in FEW}
    )
    require_ratios(measured(layer, tmp_path), {"to relu", "to selu"})


def test_step(tmp_path):
    record = measured(step, tmp_path)
    require_ratios(record, {"to relu", "to selu", "to phase 2"})
    assert {"relu", "selu", "gelu", "phase 1", "phase 2", "phase 2, Linen"} <= {
        row["variant"] for row in record["results"]
    }


def test_resnet(tmp_path):
    record = measured(resnet, tmp_path)
    require_ratios(record, {"to relu", "to selu"})
    names = [row["variant"] for row in record["results"]]
    assert names == ["relu", "selu", "phase 1", "phase 2"]


def test_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "VARIANTS", FEW)
    record = measured(memory, tmp_path)
    assert {row["context"] for row in record["results"]} == {"alone", "layer"}
    for row in record["results"]:
        assert 0 <= row["B=8"] < math.inf


def test_against_pytorch(tmp_path):
    pytest.importorskip("torch")
    record = measured(against_pytorch, tmp_path)
    require_ratios(record, {"pytorch / jax", "compiled pytorch / jax"})
    assert [row["network"] for row in record["results"]] == list(against_pytorch.PARTNERS)


def test_without_pytorch_one_line_says_how_to_get_it(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "experiments.benchmarks.published_pytorch", raising=False)
    monkeypatch.delattr("experiments.benchmarks.published_pytorch", raising=False)
    assert against_pytorch.main(["--smoke"]) == 1
    assert capsys.readouterr().err == "error: this needs PyTorch: pip install torch==2.13.0\n"


# A wrong result is not timed


def forbid_timing(monkeypatch):
    def fail(*args, **kwargs):
        raise AssertionError("timed")

    monkeypatch.setattr(harness, "time_interleaved", fail)


@pytest.mark.parametrize("program", [activation, layer, memory])
def test_a_wrong_value_ends_the_program(monkeypatch, capsys, program):
    forbid_timing(monkeypatch)
    right = strategies.apply_choices
    monkeypatch.setattr(
        strategies, "apply_choices", lambda x, choices, pool: right(x, (choices + 1) % 6, pool)
    )
    assert program.main(["--smoke"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: fixed")
    assert error.count("\n") == 1


def test_a_wrong_gradient_ends_the_program(monkeypatch, capsys):
    right = strategies.mix

    def without_gradient(x, selection, pool):
        weights = jax.lax.stop_gradient(selection.weights)
        return right(x, selection._replace(weights=weights), pool)

    monkeypatch.setattr(strategies, "mix", without_gradient)
    assert memory.main(["--smoke"]) == 1
    assert "selective (alone): result 2 is off" in capsys.readouterr().err


def test_a_step_of_other_functions_ends_the_program(monkeypatch, capsys):
    forbid_timing(monkeypatch)
    model, _ = networks.build_uniform(networks.SMOKE_WIDTHS, "selu")
    monkeypatch.setattr(networks, "build_uniform", lambda widths, name: (model, [["elu"] * 16]))
    assert step.main(["--smoke"]) == 1
    assert "result 0 is off" in capsys.readouterr().err


# The harness


def test_ratios_are_taken_within_a_round():
    ratio = harness.compare(np.array([2.0, 20.0, 6.0]), np.array([1.0, 10.0, 2.0]))
    assert ratio == {"median": 2.0, "lower": 2.0, "upper": 2.5}


def test_every_round_times_every_variant_once_on_the_next_inputs():
    calls = []
    variants = {name: lambda i, name=name: calls.append((name, i)) for name in "abc"}
    times = harness.time_interleaved(variants, rounds=20, calls=2)
    assert len(calls) == 21 * 3 * 2  # one round to warm up
    orders = {tuple(name for name, _ in calls[k : k + 6 : 2]) for k in range(0, len(calls), 6)}
    assert all(sorted(order) == ["a", "b", "c"] for order in orders)
    assert len(orders) > 1
    assert all([i for called, i in calls if called == name] == list(range(42)) for name in "abc")
    assert all(samples.shape == (20,) and (samples > 0).all() for samples in times.values())


def test_nan_is_not_close():
    with pytest.raises(harness.BenchmarkError, match="off by nan"):
        harness.require_close("f", [np.array([np.nan])], [np.array([1.0])], 1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rounds", "0"], "--rounds must be at least 1, got 0"),
        (["--out", "no/such/folder/record.json"], "--out: there is no folder no/such/folder"),
    ],
)
def test_bad_options_end_before_anything_is_measured(monkeypatch, capsys, options, message):
    forbid_timing(monkeypatch)
    assert activation.main(["--smoke", *options]) == 1
    assert capsys.readouterr().err == f"error: {message}\n"
