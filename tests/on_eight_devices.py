"""Checks on a machine of eight simulated devices: test_devices.py runs them in another process."""

import contextlib
import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import monitoring
from jax.sharding import NamedSharding, PartitionSpec

from experiments.benchmarks import scaling
from experiments.config import Config
from experiments.data.records import Records
from experiments.data.tasks import load_task
from experiments.presets import default_config
from experiments.run_folder import Rows, read_choices, read_finished, read_metrics
from experiments.training import devices, networks, step, stream
from experiments.training.draws import draw
from experiments.training.state import PhaseState, start_phase
from experiments.training.train import train_and_evaluate
from smartmixed_jax import PAPER_POOL, FunctionTable, MixedActivation, estimators
from smartmixed_jax.layer import select

TOLERANCE = 1e-5
"""Relative, of losses over a few epochs: sums over a batch are taken in another order."""
COLLECTIVE = re.compile(r"= .*\b(all-reduce|all-gather|collective-permute|all-to-all)(?:-start)?\(")


def tiny(**changes) -> Config:
    settings = {
        "hidden": (128, 64),
        "selective_epochs": 2,
        "mixed_epochs": 1,
        "batch_size": 128,
        "estimator": "sampled_straight_through",
        "draws": 16,
        "logit_learning_rate": 0.1,
        "start": "none",
        "checkpoint_seconds": 0.0,
    }
    return dataclasses.replace(default_config("recommended", "digits"), **(settings | changes))


def train(folder, **changes):
    config = tiny(run_dir=str(folder), **changes)
    return train_and_evaluate(config, show_progress=False)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return train(tmp_path_factory.mktemp("one") / "run")


def assert_close(one, other, rows=None):
    pairs = list(zip(read_metrics(one)[:rows], read_metrics(other)[:rows], strict=True))
    assert pairs
    for row, same in pairs:
        for name in ("train_loss", "validation_loss", "first_step_loss", "validation_score"):
            assert same[name] == pytest.approx(row[name], rel=TOLERANCE), (row["epoch"], name)
    if rows is None:
        for path, layer in read_choices(one).items():
            np.testing.assert_array_equal(layer.choices, read_choices(other)[path].choices)
        test, same = (read_finished(f).summary["phases"][-1]["test_loss"] for f in (one, other))
        assert same == pytest.approx(test, rel=TOLERANCE)


def placed(config: Config) -> PhaseState:
    task = load_task(config)
    return devices.place(start_phase(networks.build_model(config, task), config, task, 0), config)


def compiled_steps(config: Config) -> str:
    """The program of the steps of an epoch, as text."""
    task, phase = load_task(config), placed(config)
    program, mesh, train = phase.program, phase.program.mesh, task.train
    with contextlib.ExitStack() as open_files:
        drawn = draw(program, [0], 0, task.train_size)
        if isinstance(train, Records):
            feed = stream.feeding(program, train, lambda _: drawn.indices, 0, 0)
            train = next(iter(open_files.enter_context(feed)())).train
        else:
            train = devices.replicate(mesh, train)
    arguments = phase.state, phase.non_trainable, train, devices.place_draws(mesh, drawn)
    lowered = step.run_steps.lower(phase.program, *arguments, jnp.int32(0), 0, 1)
    return lowered.compile().as_text()


@pytest.fixture(scope="module")
def compiled():
    """The names of what is compiled from now on."""
    names = []

    def listen(event, duration, **words):
        if event == "/jax/core/compile/backend_compile_duration":
            names.append(words.get("fun_name"))

    monitoring.register_event_duration_secs_listener(listen)
    return names


@pytest.fixture(scope="module")
def eight(one, compiled, tmp_path_factory):
    compiled.clear()
    return train(tmp_path_factory.mktemp("eight") / "run", devices=8)


def test_eight_devices_train_to_the_metrics_of_one_with_a_program_per_phase(one, eight, compiled):
    assert_close(one, eight)
    assert [compiled.count(f"jit({name})") for name in ("run_steps", "end_epoch")] == [2, 2]


# Streamed examples


@pytest.mark.parametrize("model_axis", [1, 2])
def test_streamed_examples_are_split_and_change_no_loss(eight, tmp_path, monkeypatch, model_axis):
    monkeypatch.setenv("SMARTMIXED_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(stream, "BLOCK_BYTES", 3 * 128 * (64 + 4))  # of three steps
    shapes, place = set(), devices.place_batches

    def spied(*arguments, **options):
        blocks = place(*arguments, **options)
        shapes.add(blocks.inputs.sharding.shard_shape(blocks.inputs.shape))
        return blocks

    monkeypatch.setattr(devices, "place_batches", spied)
    streamed = train(tmp_path / "run", devices=8, model_axis=model_axis, stream=True)
    assert shapes == {(3, 128 // (8 // model_axis), 8, 8, 1)}
    whole = eight if model_axis == 1 else train(tmp_path / "whole", devices=8, model_axis=2)
    rows, expected = map(read_metrics, (streamed, whole))
    for row, same in zip(rows, expected, strict=True):
        for name in row.keys() - {"seconds", "layers"}:
            assert row[name] == same[name], (row["epoch"], name)
        for path, layer in row["layers"].items():
            assert layer["counts"] == same["layers"][path]["counts"]
            # Of the logits, whose gradients XLA may sum in another order.
            assert layer["entropy"] == pytest.approx(same["layers"][path]["entropy"], rel=1e-6)


def test_streaming_needs_no_collective(tmp_path, monkeypatch):
    monkeypatch.setenv("SMARTMIXED_CACHE", str(tmp_path / "cache"))
    text = compiled_steps(tiny(devices=8, stream=True))
    assert COLLECTIVE.findall(text) == ["all-reduce", "all-reduce"]
    assert re.search(r"u8\[\d+,16,8,8,1\]", text)  # an eighth of every batch
    assert not re.search(r"\[(\d+,)?128,8,8,1\]", text)


def test_a_process_knows_the_examples_of_its_devices():
    mesh = devices.make_mesh(tiny(devices=8, model_axis=2))
    assert mesh is not None
    np.testing.assert_array_equal(devices.own_columns(mesh, 128), np.arange(128))
    two = mesh.devices[1:3]  # as a process would have them that has four of eight
    part = jax.sharding.Mesh(two, mesh.axis_names)
    batches = jax.random.randint(jax.random.key(0), (5, 64, 3), 0, 9)
    found = devices.place_batches(part, np.asarray(batches), np.arange(64), 64)
    np.testing.assert_array_equal(found, batches)
    assert found.sharding.shard_shape(found.shape) == (5, 32, 3)


@pytest.mark.parametrize("then", [1, 2])
def test_a_streamed_run_goes_on_elsewhere_at_the_same_example(
    one, eight, tmp_path, monkeypatch, then
):
    monkeypatch.setenv("SMARTMIXED_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(stream, "BLOCK_BYTES", 3 * 128 * (64 + 4))
    monkeypatch.setattr(Rows, "append", stop_after(2, Rows.append))
    with pytest.raises(Stopped):
        train(tmp_path / "run", devices=8, stream=True)
    monkeypatch.undo()
    monkeypatch.setenv("SMARTMIXED_CACHE", str(tmp_path / "cache"))
    assert_close(one, train(tmp_path / "run", devices=then, stream=then == 2))


class Stopped(Exception):
    pass


@pytest.mark.parametrize("then", [2, 8])
def test_a_run_stopped_on_eight_devices_goes_on_with_two_or_eight(
    one, eight, tmp_path, monkeypatch, then
):
    folder, append = tmp_path / "run", Rows.append
    monkeypatch.setattr(Rows, "append", stop_after(2, append))
    with pytest.raises(Stopped):
        train(folder, devices=8, model_axis=1 if then == 8 else 4)
    monkeypatch.undo()
    assert len(read_metrics(folder)) == 2
    assert_close(one, train(folder, devices=then))
    if then == 8:
        rows, expected = (
            [{**row, "seconds": 0} for row in read_metrics(f)] for f in (folder, eight)
        )
        assert rows == expected


def stop_after(epoch, append):
    def stop(rows, row):
        append(rows, row)
        if row["epoch"] == epoch:
            raise Stopped

    return stop


@pytest.mark.parametrize("draws", [1, 16, "example"])
def test_every_device_draws_the_choices_of_one(draws):
    logits = jax.random.normal(jax.random.key(1), (128, 6))
    x = jax.random.normal(jax.random.key(2), (128, 128))

    def choices(logits, key, x):
        estimator = estimators.sampled_straight_through
        return select("here", estimator, logits, key, 1.0, 1.0, draws, x).choices

    key = jax.random.key(0)
    expected = np.asarray(choices(logits, key, x))
    for model_axis in (1, 2, 8):
        mesh = devices.make_mesh(tiny(devices=8, model_axis=model_axis))
        assert mesh is not None
        there = [
            jax.device_put(logits, NamedSharding(mesh, PartitionSpec("model"))),
            jax.device_put(key, NamedSharding(mesh, PartitionSpec())),
            jax.device_put(x, NamedSharding(mesh, PartitionSpec("data", "model"))),
        ]
        np.testing.assert_array_equal(jax.jit(choices)(*there), expected)


def test_logits_and_choices_are_where_their_neurons_are():
    phase = placed(tiny(devices=8, model_axis=4))
    parts = {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf.sharding.shard_shape(
            leaf.shape
        )
        for path, leaf in jax.tree_util.tree_leaves_with_path(phase.state.params)
    }
    assert {name.removesuffix(".value"): shape for name, shape in parts.items()} == {
        "selection.activations.0.selection_logits": (32, 6),
        "selection.activations.1.selection_logits": (16, 6),
        "weights.layers.0.bias": (32,),
        "weights.layers.0.kernel": (64, 32),
        "weights.layers.1.bias": (16,),
        "weights.layers.1.kernel": (128, 16),
        "weights.layers.2.bias": (10,),
        "weights.layers.2.kernel": (16, 10),
    }
    config = tiny(devices=8, model_axis=4)
    task = load_task(config)
    fixed = networks.mixed_model(config, task, [[0] * 128, [1] * 64])
    (choices, *_) = jax.tree.leaves(
        devices.place(start_phase(fixed, config, task, 1), config).non_trainable
    )
    assert choices.sharding.shard_shape(choices.shape) == (32,)


def test_a_step_of_data_parallel_training_sums_its_gradients_once():
    text = compiled_steps(tiny(devices=8))
    # The number of counted examples; all gradients, with the losses.
    assert COLLECTIVE.findall(text) == ["all-reduce", "all-reduce"]
    assert "f32[16,128]" in text  # an eighth of a batch
    assert "f32[128,128]" not in text
    (line,) = re.findall(r"= \((.*f32.*)\) all-reduce\(", text)
    sizes = [
        np.prod(list(map(int, re.findall(r"\d+", s)))) for s in re.findall(r"f32\[(.*?)\]", line)
    ]
    # Beside the gradients the sums of losses and of scores: what is counted on paper.
    assert sum(sizes) == scaling.summed((64, 128, 64, 10), selective=True) + 2


def test_the_fixed_layer_holds_no_collective_of_its_own():
    choices = np.random.default_rng(0).integers(6, size=256)
    layer = MixedActivation(FunctionTable(PAPER_POOL, choices))
    mesh = devices.make_mesh(tiny(devices=8, model_axis=2))
    assert mesh is not None
    place = NamedSharding(mesh, PartitionSpec("data", "model"))
    x = jax.device_put(jax.random.normal(jax.random.key(0), (64, 256)), place)

    def loss(x):
        return jax.vjp(layer, x)[1](x)[0]

    for function in (layer, loss):
        compiled = jax.jit(lambda x, function=function: function(x)).lower(x).compile()
        assert not COLLECTIVE.findall(compiled.as_text())
        (sharding,) = jax.tree.leaves(compiled.output_shardings)
        assert sharding.is_equivalent_to(place, 2)
    # What the pattern would find: a sum over the neurons needs one.
    text = jax.jit(lambda x: layer(x).sum(-1)).lower(x).compile().as_text()
    assert COLLECTIVE.findall(text)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"devices": 9}, "devices = 9: expected at most 8"),
        ({"devices": 8, "model_axis": 3}, "model_axis = 3: expected a divisor of 8 devices"),
        ({"devices": 3}, "batch_size = 128: expected a multiple of 3"),
    ],
)
def test_devices_that_cannot_share_the_work_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        train(tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()
