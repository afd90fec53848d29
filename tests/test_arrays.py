"""Images of the user's in NPZ files, and Keras' files of the known sets."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from experiments import data
from experiments.config import Config
from experiments.data import DataError
from experiments.data.tasks import load_task
from experiments.presets import default_config
from experiments.run_folder import read_finished
from experiments.training.train import train_and_evaluate


def small(task: str, **changes) -> Config:
    settings = dict(selective_epochs=1, mixed_epochs=1, steps_per_epoch=4, batch_size=16)
    return dataclasses.replace(default_config(task=task), **(settings | {"hidden": (8,)} | changes))


def images(shape=(5, 4), labels=3, dtype=np.uint8) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", 60), ("test", 20)):
        arrays[f"y_{part}"] = np.arange(count) % labels
        x = rng.uniform(0, 250, (count, *shape)) + 5.0 * arrays[f"y_{part}"][:, None, None]
        arrays[f"x_{part}"] = x.astype(dtype)
    return arrays


def load_arrays(path: Path, arrays: dict, **changes):
    np.savez(path, **arrays)
    return load_task(small(f"arrays:{path}", **changes))


def test_arrays_of_any_size_and_name_are_images(tmp_path):
    arrays = images()
    task = load_arrays(tmp_path / "a.npz", arrays)
    assert (task.shape, task.out_features, task.scale) == ((5, 4, 1), 3, 255.0)
    assert [len(task.splits[part].labels) for part in task.splits] == [54, 6, 20]
    ours = {
        "train_inputs": arrays["x_train"][..., None],
        "train_labels": arrays["y_train"][:, None],
        "test_inputs": arrays["x_test"][..., None],
        "test_labels": arrays["y_test"][:, None],
    }
    other = load_arrays(tmp_path / "b.npz", ours)
    np.testing.assert_array_equal(task.splits["train"].inputs, other.splits["train"].inputs)
    np.testing.assert_array_equal(task.splits["test"].labels, arrays["y_test"])


def test_labels_may_be_text_or_any_integers_and_images_floats(tmp_path):
    arrays = images(dtype=np.float64)
    names = np.array(["cat", "dog", "eel"])
    for part in ("y_train", "y_test"):
        arrays[part] = names[arrays[part]]
    task = load_arrays(tmp_path / "a.npz", arrays)
    assert task.class_names == ("cat", "dog", "eel")
    assert task.scale == pytest.approx(arrays["x_train"].max())
    assert np.abs(task.splits["train"].inputs / task.scale).max() <= 1
    arrays = images()
    arrays |= {"y_train": arrays["y_train"] * 7, "y_test": arrays["y_test"] * 7}
    assert load_arrays(tmp_path / "b.npz", arrays).class_names == ("0", "7", "14")
    signed = {name: x / 127.5 - 1 if "x" in name else x for name, x in images().items()}
    assert load_arrays(tmp_path / "c.npz", signed).scale == 1.0
    named = load_arrays(tmp_path / "d.npz", images() | {"class_names": np.array(list("abcd"))})
    assert named.class_names == tuple("abcd")


def test_too_few_images_for_the_validation_are_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"validation_fraction = 0\.01: .*number of classes = 3"):
        load_arrays(tmp_path / "a.npz", images(), validation_fraction=0.01)


def test_arrays_train(tmp_path):
    np.savez(tmp_path / "a.npz", **images())
    config = small(f"arrays:{tmp_path}/a.npz", run_dir=str(tmp_path / "run"))
    summary = read_finished(train_and_evaluate(config, show_progress=False)).summary
    assert np.sum(summary["confusion"]) == 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x_test": None}, "expected the arrays train_inputs, .*found .*x_train"),
        ({"x_train": np.zeros((60, 5))}, r"training images are float64 \[60, 5\], expected"),
        ({"x_test": np.zeros((20, 4, 4))}, r"training images are \[5, 4, 1\], test images \[4,"),
        ({"y_train": np.eye(3)[images()["y_train"]]}, r"labels are float64 \[60, 3\], expected"),
        ({"y_test": np.full(20, 9)}, "a test image has the label 9, expected one of the 3 of"),
        ({"x_test": np.full((20, 5, 4), np.nan)}, "test image 0 holds nan or inf"),
        ({"y_train": np.zeros(60, int), "y_test": np.zeros(20, int)}, "1 class"),
        ({"y_train": np.array([0, 1, 2, *[0] * 57])}, "the class 1 has 1 training image"),
        ({"class_names": np.array(["a", "b"])}, "the label 2, expected one of the 2 of class_n"),
    ],
)
def test_arrays_that_do_not_fit_are_one_line(tmp_path, change, message):
    arrays = {n: array for n, array in (images() | change).items() if array is not None}
    with pytest.raises(DataError, match=message):
        load_arrays(tmp_path / "a.npz", arrays)


def test_the_file_of_keras_is_a_set_of_ours(tmp_path):
    arrays = images((28, 28), 10)
    np.savez(tmp_path / "mnist.npz", **arrays)
    found = data.load("mnist", tmp_path)
    np.testing.assert_array_equal(found.train_inputs[..., 0], arrays["x_train"])
    np.testing.assert_array_equal(found.test_labels, arrays["y_test"])
    labels = {name: a[:, None] if name[0] == "y" else a for name, a in arrays.items()}
    np.savez(tmp_path / "mnist.npz", **labels)
    np.testing.assert_array_equal(data.load("mnist", tmp_path).test_labels, arrays["y_test"])


def test_a_file_of_another_layout_is_not_called_damaged(tmp_path):
    np.savez(tmp_path / "mnist.npz", images=np.zeros(3), labels=np.zeros(3))
    with pytest.raises(DataError, match=r"expected the arrays .*x_train.*; found images, labels"):
        data.load("mnist", tmp_path)
    with pytest.raises(DataError) as caught:
        data.load("mnist", tmp_path)
    assert "delete" not in str(caught.value)
