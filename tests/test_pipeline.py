"""Training examples read from a file: the same batches and bits as from the device."""

import contextlib
import dataclasses
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import run, run_folder
from experiments.benchmarks import pipeline
from experiments.data import records
from experiments.data.sources import DataError
from experiments.data.task import host_split
from experiments.data.tasks import load_task
from experiments.presets import default_config
from experiments.run_folder import read_metrics
from experiments.training import networks, stream, train
from experiments.training.draws import draw
from experiments.training.state import start_phase

STEPS, BATCH = 6, 8


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache folder of the test's own."""
    monkeypatch.setenv("SMARTMIXED_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def split():
    rng = np.random.default_rng(0)
    inputs = rng.integers(0, 256, (45, 3, 2), np.uint8)
    return host_split(inputs, np.arange(45, dtype=np.int32))


def tiny(**changes):
    """digits, two small layers, two epochs of seven steps a phase."""
    settings = {"hidden": (24, 16), "selective_epochs": 2, "mixed_epochs": 2, "batch_size": 200}
    return dataclasses.replace(default_config("recommended", "digits"), **(settings | changes))


def trained(folder, **changes):
    """The rows of a run, without the times, and its results."""
    path = train.train_and_evaluate(tiny(run_dir=str(folder), **changes), show_progress=False)
    rows = [{**row, "seconds": 0} for row in read_metrics(path)]
    summary = run_folder.read_finished(path).summary
    return rows, [{**phase, "seconds": 0} for phase in summary["phases"]]


def small_blocks(monkeypatch, steps=3):
    """Blocks of so many steps of 200 digits."""
    monkeypatch.setattr(stream, "BLOCK_BYTES", steps * 200 * (64 + 4))


# The file


@pytest.mark.parametrize("dtypes", [(np.uint8, np.int32), (np.float32, np.float32)])
def test_examples_come_back_by_their_numbers(tmp_path, dtypes):
    rng = np.random.default_rng(0)
    arrays = [100 * rng.random((9, 4, 3)), 100 * rng.random((9, 1))]
    split = host_split(*(a.astype(dtype) for a, dtype in zip(arrays, dtypes, strict=True)))
    kept = records.keep(split, tmp_path)
    assert len(kept) == 9
    numbers = np.array([8, 0, 3, 3])
    for found, array, shape in zip(kept.read(numbers), split, kept.shapes, strict=True):
        np.testing.assert_array_equal(found, array[numbers])
        assert (found.dtype, shape.dtype, shape.shape) == (array.dtype, array.dtype, array.shape)


@pytest.mark.parametrize("room", [0, 10, 45, 100])
def test_what_was_read_stays_in_memory_as_far_as_there_is_room(split, tmp_path, room):
    path = records.keep(split, tmp_path).path
    kept = records.open_records(path, room=room * (6 + 4))
    for numbers in (np.array([3, 44, 9, 9]), np.arange(45)[::-1], np.array([44, 10, 9, 0])):
        for _ in range(2):
            for found, array in zip(kept.read(numbers), split, strict=True):
                np.testing.assert_array_equal(found, array[numbers])
    asked: list[int] = []
    object.__setattr__(kept, "_read_file", lambda numbers: asked.extend(numbers) or [])
    with contextlib.suppress(ValueError):
        kept.read(np.arange(45))
    assert asked == list(range(min(room, 45), 45))


def test_equal_examples_are_written_once_and_others_beside_them(split, tmp_path, monkeypatch):
    first = records.keep(split, tmp_path)
    other = records.keep(split._replace(labels=split.labels + 1), tmp_path)
    monkeypatch.setattr(records, "write", None)
    assert records.keep(split, tmp_path).path == first.path != other.path
    assert len(list(tmp_path.iterdir())) == 4


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def grow(path):
    path.write_bytes(path.read_bytes() + bytes(64))


def remove(path):
    path.unlink()


def empty_header(path):
    path.with_suffix(".json").write_text("{")


def deep_header(path):
    path.with_suffix(".json").write_text("[" * 10_000)


def another_shape(path):
    header = path.with_suffix(".json")
    facts = json.loads(header.read_text())
    facts["labels"]["shape"] = [44]
    header.write_text(json.dumps(facts))


@pytest.mark.parametrize("damage", [cut, grow, remove, empty_header, deep_header, another_shape])
def test_a_damaged_file_is_named_when_it_is_opened(split, tmp_path, damage):
    path = records.keep(split, tmp_path).path
    damage(path)
    with pytest.raises(DataError) as error:
        records.keep(split, tmp_path)
    assert str(path.with_suffix("")) in str(error.value)
    assert "delete it" in str(error.value)
    if damage in (cut, grow):
        assert f"bytes, {path.stem}.json says" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_flipped_bit_is_an_error_and_no_example(split, tmp_path):
    kept = records.keep(split, tmp_path)
    blob = bytearray(kept.path.read_bytes())
    place = bytes(blob).index(split.inputs[7].tobytes())
    blob[place] ^= 1
    kept.path.write_bytes(blob)
    with pytest.raises(DataError, match=kept.path.name):
        records.open_records(kept.path).read(np.arange(45))


def test_records_of_another_size_are_an_error(split, tmp_path):
    path = records.keep(split, tmp_path).path
    header = path.with_suffix(".json")
    facts = json.loads(header.read_text())
    facts["inputs"]["shape"] = [45, 3, 3]
    header.write_text(json.dumps(facts))
    with pytest.raises(DataError, match=r"bytes of 2 examples"):
        records.open_records(path).read(np.arange(2))


def test_a_full_disk_is_one_line_and_leaves_nothing(split, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        records.keep(split, tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# The blocks


def order(epoch):
    """The 45 examples in another order per epoch; 3 of the last batch are not counted."""
    numbers = np.roll(np.arange(STEPS * BATCH) % 45, epoch)
    return jnp.asarray(np.where(np.arange(STEPS * BATCH) < 45, numbers, ~numbers)).reshape(
        STEPS, BATCH
    )


def test_blocks_cover_every_step_once_from_any_step_on():
    spans = list(stream.cut(7, 3, 3, 1, 2))
    assert spans == [(1, 2, 3), (1, 3, 6), (1, 6, 7), (2, 0, 3), (2, 3, 6), (2, 6, 7)]
    assert list(stream.cut(40, 1, 20, 0, 0)) == [(0, 0, 3), (0, 3, 23), (0, 23, 40)]
    assert stream.block_steps(352, stream.BLOCK_BYTES // 100) == 88
    assert stream.block_steps(7, 2 * stream.BLOCK_BYTES) == 1
    assert stream.block_steps(7, 1) == 7


def test_a_block_has_the_examples_of_its_steps(split, tmp_path):
    spans = list(stream.cut(STEPS, 2, 4, 0, 1))
    columns = np.arange(BATCH)
    source = stream.BlockSource(records.keep(split, tmp_path), order, spans, 4, columns)
    assert len(source) == len(spans) == 4
    for (epoch, first, last), block in zip(spans, map(source.__getitem__, range(4)), strict=True):
        assert block.inputs.shape == (4, BATCH, 3, 2)
        indices = np.asarray(order(epoch))[first:last]
        expected = np.where(indices < 0, ~indices, indices)
        np.testing.assert_array_equal(block.labels[: last - first], expected)
        np.testing.assert_array_equal(block.inputs[: last - first], split.inputs[expected])


@pytest.mark.parametrize("columns", [[0, 1, 2, 3], [4, 5, 6, 7], [2, 3, 6, 7]])
def test_a_process_reads_its_columns_of_every_batch(split, tmp_path, monkeypatch, columns):
    kept, spans = records.keep(split, tmp_path), [stream.Span(0, 2, 4)]
    whole = stream.BlockSource(kept, order, spans, 2, np.arange(BATCH))[0]
    read: list[np.ndarray] = []
    read_examples = records.Records.read
    monkeypatch.setattr(
        records.Records, "read", lambda self, n, rows: (read.append(n), read_examples(self, n))[1]
    )
    part = stream.BlockSource(kept, order, spans, 2, np.array(columns))[0]
    np.testing.assert_array_equal(part.labels, whole.labels[:, columns])
    np.testing.assert_array_equal(part.inputs, whole.inputs[:, columns])
    assert [len(numbers) for numbers in read] == [2 * len(columns)]


def start_of(config):
    task = load_task(config)
    return start_phase(networks.build_model(config, task), config, task, 0)


# Training


def test_a_streamed_run_has_the_rows_and_results_of_a_resident_one(tmp_path, monkeypatch):
    small_blocks(monkeypatch)
    resident = trained(tmp_path / "resident")
    assert trained(tmp_path / "streamed", stream=True) == resident


def test_images_augmented_and_a_convolution(tmp_path, monkeypatch):
    small_blocks(monkeypatch, steps=2)
    changes = {"network": "conv", "hidden": (), "augment": True}
    changes |= {"selective_epochs": 1, "mixed_epochs": 1, "batch_size": 400}
    resident = trained(tmp_path / "resident", **changes)
    assert trained(tmp_path / "streamed", stream=True, **changes) == resident


def test_the_training_examples_are_not_on_the_device(monkeypatch):
    task = load_task(tiny(stream=True))
    assert all(isinstance(part, jax.ShapeDtypeStruct) for part in task.splits["train"])
    assert all(isinstance(part, jax.Array) for part in task.splits["validation"])
    resident = load_task(tiny())
    assert task.record() == resident.record()
    assert task.train_size == resident.train_size == len(task.records)


class Stopped(Exception):
    pass


@pytest.mark.parametrize("resumed_streamed", [True, False])
def test_a_run_goes_on_at_the_same_example(tmp_path, monkeypatch, resumed_streamed):
    """Stopped after 4 of 7 steps, within a block of 3."""
    small_blocks(monkeypatch)
    whole = trained(tmp_path / "whole", stream=True)
    read: list[np.ndarray] = []
    read_examples = records.Records.read

    def spied(self, numbers, rows):
        read.append(numbers)
        return read_examples(self, numbers, rows)

    # One step at a time, a checkpoint after each.
    monkeypatch.setattr(train.Pace, "measured", lambda self, steps, seconds: None)
    monkeypatch.setattr(train, "CHUNK_SECONDS", 0.0)

    def stop_after_four(run_of, phase, part, record=train.record):
        row = record(run_of, phase, part)
        if run_of.position.phase_step == 5:
            raise Stopped
        return row

    config = {"stream": True, "checkpoint_seconds": 0.0}
    with monkeypatch.context() as patch:
        patch.setattr(train, "record", stop_after_four)
        with pytest.raises(Stopped):
            trained(tmp_path / "resumed", **config)
    monkeypatch.setattr(records.Records, "read", spied)
    config["stream"] = resumed_streamed
    assert trained(tmp_path / "resumed", **config) == whole
    if resumed_streamed:
        program = start_of(tiny()).program
        size = load_task(tiny()).train_size
        expected = np.asarray(draw(program, [0], 0, size).indices)[4]
        assert any(np.array_equal(numbers[:200], expected) for numbers in read[:2])


def test_a_file_damaged_while_training_is_one_line_that_names_it(tmp_path, monkeypatch, capsys):
    small_blocks(monkeypatch)
    kept = load_task(tiny(stream=True)).records
    blob = bytearray(kept.path.read_bytes())
    blob[len(blob) // 2] ^= 1
    kept.path.write_bytes(blob)
    options = ["--hidden", "8", "--selective-epochs", "1", "--mixed-epochs", "1", "--stream"]
    assert run.main([*options, "--run-dir", str(tmp_path / "run")]) == 1
    told = capsys.readouterr().err
    (line,) = [line for line in told.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: {kept.path} is damaged"), told


def test_without_grain_one_line_says_what_to_install_and_nothing_is_written(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, "grain", None)
    assert run.main(["--stream", "--run-dir", str(tmp_path / "run")]) == 1
    assert "pip install -r requirements-stream.txt" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


# The benchmark


def test_the_benchmark_times_both_and_the_reading(tmp_path):
    out = tmp_path / "record.json"
    assert pipeline.main(["--smoke", "--networks", "mlp", "--rounds", "1", "--out", str(out)]) == 0
    rows = json.loads(out.read_text())["results"]
    assert [row["variant"] for row in rows] == [
        "resident",
        "streamed",
        "streamed, always from the file",
        "reading alone",
        "reading alone, from the file",
    ]
    assert rows[0]["ratios"]["speed to resident"]["median"] == 1
    assert all(row["seconds"] > 0 for row in rows)


def test_the_benchmark_times_nothing_if_the_losses_differ(monkeypatch, capsys):
    read = records.Records.read
    monkeypatch.setattr(
        records.Records, "read", lambda self, numbers, rows: read(self, numbers[::-1], rows)
    )
    assert pipeline.main(["--smoke", "--networks", "mlp"]) == 1
    assert "the streamed losses are others" in capsys.readouterr().err
