"""Images as functions: pixels and their places, PSNR, what a run makes of them, the user's own."""

import dataclasses
import json
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from experiments import run
from experiments.config import Config
from experiments.data import image_function
from experiments.data.sources import DataError
from experiments.data.tasks import load_task
from experiments.evaluate import load_run, score_test
from experiments.names import refuse_without_effect
from experiments.objective import IMAGE, REGRESSION, squared_error
from experiments.presets import default_config
from experiments.recipes import images, regret
from experiments.rivals import IMAGE_WIDTH
from experiments.run_folder import folder_of, read_finished, read_run
from experiments.training.train import train_and_evaluate

SHAPE = (10, 16)


def made(channels: int, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    """A smooth image, uint8 [H, W] or [H, W, 3]."""
    row, column = np.indices(shape)
    planes = [127 + 100 * np.sin((n + 1) * column / 6 + row / 5) for n in range(channels)]
    return np.stack(planes, -1).astype(np.uint8).squeeze()


@pytest.fixture
def files(tmp_path):
    """The folder with grey.png and colour.png."""
    Image.fromarray(made(1)).save(tmp_path / "grey.png")
    Image.fromarray(made(3)).save(tmp_path / "colour.png")
    return tmp_path


def config_of(file: Path, **changes) -> Config:
    small = {"hidden": (16,), "batch_size": 16, "selective_epochs": 1, "mixed_epochs": 4}
    return dataclasses.replace(default_config(task=f"image:{file}"), **(small | changes))


# Pixels


def test_the_splits_are_the_pixels_each_once(files):
    task = load_task(config_of(files / "colour.png", range=(-4.0, 4.0)))
    image, (height, width) = made(3), SHAPE
    found = np.full((height, width), "", dtype="<U10")
    for part, (inputs, labels) in task.splits.items():
        column, row = np.rint(np.asarray(inputs).T * 2 + [[7.5], [4.5]]).astype(int)
        np.testing.assert_allclose(inputs, np.stack([column - 7.5, row - 4.5], -1) / 2, rtol=1e-6)
        np.testing.assert_allclose(labels, image[row, column] / 255, rtol=1e-6)
        assert (found[row, column] == "").all()
        found[row, column] = part
    is_test = np.indices(SHAPE).sum(0) % 2 == 1
    assert (found[is_test] == "test").all()
    assert (found[~is_test] != "test").all()
    assert [(found == part).sum() for part in ("train", "validation")] == [76, 4]


def test_another_seed_has_the_same_pixels(files):
    one, other = (load_task(config_of(files / "grey.png", seed=seed)) for seed in (0, 1))
    np.testing.assert_array_equal(one.splits["train"].inputs, other.splits["train"].inputs)
    assert not one.seeded


@pytest.mark.parametrize("bounds", [(-1.0, 1.0), (0.0, 4.0)])
def test_the_longer_side_fills_the_range_and_pixels_are_square(bounds):
    places = image_function.coordinates(4, 8, bounds)
    pitch = (bounds[1] - bounds[0]) / 8
    np.testing.assert_allclose(places[0, :, 0], bounds[0] + pitch * (np.arange(8) + 0.5))
    np.testing.assert_allclose(places[:, 0, 1], np.mean(bounds) + pitch * (np.arange(4) - 1.5))


def test_large_images_are_averaged_down():
    image = np.random.default_rng(0).random((12, 24, 3)).astype(np.float32)
    blocks = image.reshape(4, 3, 8, 3, 3).mean((1, 3))
    np.testing.assert_allclose(image_function.shrink(image, 8), blocks, atol=1e-6)
    assert image_function.shrink(image, 24) is image
    assert image_function.shrink(image[:, :5], 8).shape == (8, 3, 3)


@pytest.mark.parametrize(("name", "channels"), [("camera", 1), ("astronaut", 3)])
def test_the_images_of_scikit_image(name, channels):
    data = pytest.importorskip("skimage").data
    image, source = image_function.load_image(name, None)
    assert image.shape == (256, 256, channels)
    assert "scikit-image" in source
    raw = getattr(data, name)().reshape(256, 2, 256, 2, channels) / 255
    np.testing.assert_allclose(image, raw.mean((1, 3)), atol=1e-6)


def test_what_scikit_image_is_needed_for_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(DataError, match=r"image:camera needs scikit-image .*pip install"):
        image_function.load_image("camera", None)


# The objective


def test_the_squared_error_is_a_mean_over_the_outputs():
    outputs, labels = jnp.array([[1.0, 2.0], [0.5, 0.0]]), jnp.array([[0.0, 0.0], [0.0, 0.0]])
    np.testing.assert_array_equal(squared_error(outputs, labels), [2.5, 0.125])
    np.testing.assert_array_equal(squared_error(outputs[:, :1], labels[:, :1]), [1.0, 0.25])


def test_psnr_is_that_of_the_mean_squared_error():
    rng = np.random.default_rng(0)
    true, fitted = rng.random((2, 50, 3))
    losses, scores = IMAGE.losses_and_scores(jnp.float32(fitted), jnp.float32(true))
    found = IMAGE.results("test", float(losses.mean()), float(scores.mean()), true)
    expected = -10 * np.log10(np.mean((fitted - true) ** 2))
    assert found["test_psnr"] == pytest.approx(expected, rel=1e-5)
    assert IMAGE.results("test", 0.0, 0.0, true)["test_psnr"] == pytest.approx(150)
    assert "test_psnr" not in REGRESSION.results("test", 0.1, 0.1, true)


def test_the_higher_psnr_and_the_lower_validation_loss_are_better():
    assert not IMAGE.lower_is_better
    assert IMAGE.compared({"test_psnr": 31.25}) == 31.25
    assert IMAGE.validation_error({"validation_loss": 0.1}) < IMAGE.validation_error(
        {"validation_loss": 0.2}
    )


# A run


@pytest.mark.parametrize("name", ["grey", "colour"])
def test_a_run_trains_is_told_and_drawn(files, capsys, name):
    words = f"--task image:{files / name}.png --hidden 16 --batch-size 16 --selective-epochs 1"
    words += f" --mixed-epochs 8 --range -2 2 --run-dir {files / 'run'}"
    assert run.main(words.split()) == 0
    assert "test PSNR" in capsys.readouterr().out
    _, task, summary = read_finished(files / "run")
    first, last = summary["phases"]
    assert last["validation_loss"] < first["validation_loss"]
    fit = read_run(files / "run").fit
    channels = 1 if name == "grey" else 3
    assert fit["image_fit"].shape == (*SHAPE, channels)
    true = made(channels).reshape(*SHAPE, channels) / 255
    np.testing.assert_allclose(fit["image_true"], true, rtol=1e-6)
    squared = ((fit["image_fit"] - true) ** 2).mean(-1)
    is_test = np.indices(SHAPE).sum(0) % 2 == 1
    psnr = -10 * np.log10(squared[is_test].mean())
    assert last["test_psnr"] == pytest.approx(psnr, rel=1e-4)
    # The training pixels are all others but for the 4 that validate.
    others = squared[~is_test].sum() - 4 * last["validation_loss"]
    assert last["train_psnr"] == pytest.approx(-10 * np.log10(others / 76), rel=1e-3)
    assert task.objective.compared(last) == last["test_psnr"]
    assert (files / "run" / "figures" / "image.png").exists()
    assert not (files / "run" / "figures" / "fit.png").exists()
    scores = score_test(load_run(files / "run"))
    assert scores["train_psnr"] == pytest.approx(last["train_psnr"], rel=1e-4)


def test_training_examples_in_a_file_are_not_scored(files, monkeypatch):
    monkeypatch.setenv("SMARTMIXED_CACHE", str(files / "cache"))
    pytest.importorskip("array_record")
    task = load_task(config_of(files / "grey.png", stream=True))
    assert task.scored == ("test",)
    assert load_task(config_of(files / "grey.png")).scored == ("test", "train")


# The user's


def saved(folder: Path, name: str, image: Image.Image) -> np.ndarray:
    image.save(folder / name)
    return image_function.load_image(name, str(folder))[0]


def test_files_of_other_kinds(tmp_path):
    grey, colour = Image.fromarray(made(1)), Image.fromarray(made(3))
    expected = made(1)[..., None] / 255
    np.testing.assert_allclose(saved(tmp_path, "la.png", grey.convert("LA")), expected, rtol=1e-6)
    deep = Image.fromarray(made(1).astype(np.uint16) * 257)
    np.testing.assert_allclose(saved(tmp_path, "deep.png", deep), expected, rtol=1e-6)
    found = saved(tmp_path, "rgba.png", colour.convert("RGBA"))
    np.testing.assert_allclose(found, made(3) / 255, rtol=1e-6)
    palette = saved(tmp_path, "p.png", colour.quantize(16))
    assert palette.shape == (*SHAPE, 3)
    assert saved(tmp_path, "bits.png", grey.convert("1")).shape == (*SHAPE, 1)
    assert saved(tmp_path, "photo.jpg", colour).shape == (*SHAPE, 3)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("nothing.png", "nothing.png: no file .*known by name: astronaut, camera"),
        ("text.png", "text.png cannot be read as an image"),
        ("half.png", "half.png cannot be read as an image"),
        ("line.png", "1 x 16 pixels, expected at least 2 x 2"),
        ("long.png", "1 x 256 pixels, expected at least 2 x 2"),
    ],
)
def test_what_is_no_image_is_one_line(files, name, told, capsys):
    (files / "text.png").write_text("x,y\n1,2\n")
    (files / "half.png").write_bytes((files / "colour.png").read_bytes()[:200])
    Image.fromarray(made(1, (1, 16)).reshape(1, 16)).save(files / "line.png")
    Image.fromarray(made(1, (2, 700))).save(files / "long.png")
    with pytest.raises(DataError, match=told):
        load_task(config_of(files / name))
    words = ["--task", f"image:{files / name}", "--run-dir", str(files / "run")]
    assert run.main(words) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert not (files / "run").exists()


def test_two_images_of_one_name_have_two_folders():
    folders = {folder_of(config_of(Path(place) / "a.png")) for place in ("one", "two")}
    assert len(folders) == 2
    assert {folder.parent for folder in folders} == {Path("runs/a")}


# The recipe


def test_every_method_has_our_time_and_width():
    study = images.study("camera")
    assert {f"uniform {name}" for name in study.base.activation_pool.names} < {*study.variants}
    for name in study.variants:
        refuse_without_effect(study.configs(name))
    for name, (cost, _) in images.METHODS.items():
        assert images.method(name)["steps_per_epoch"] * cost == pytest.approx(
            images.STEPS, rel=0.05
        )
    (siren, *_) = study.configs("image_siren")
    assert siren.range == (-1.0, 1.0)
    assert study.base.hidden == (IMAGE_WIDTH, IMAGE_WIDTH)


def test_the_recipe_trains_tells_and_writes(files, monkeypatch, capsys):
    monkeypatch.chdir(files)
    whole = images.study

    def small(image, seeds, methods):
        study = whole(str(files / "grey.png"), seeds, methods)
        tiny = {"hidden": (4,), "selective_epochs": 1, "mixed_epochs": 1, "steps_per_epoch": 2}
        base = dataclasses.replace(study.base, batch_size=16, **tiny)
        variants = {name: {**changes} for name, changes in study.variants.items()}
        for name in ("uniform tanh", "image_siren"):
            variants[name]["steps_per_epoch"] = 2
        return study._replace(base=base, variants=variants)

    monkeypatch.setattr(images, "study", small)
    words = "--images camera --methods tanh image_siren --write images.json"
    assert images.main(words.split()) == 0
    told = capsys.readouterr().out
    assert "test PSNR, dB" in told
    assert regret.BEST in told
    content = json.loads(Path("images.json").read_text())
    (result,) = content["results"]
    assert {*result["test_psnr"]} == {
        "learned",
        "shuffled",
        "uniform tanh",
        "image_siren",
        regret.BEST,
    }
    assert all(len(numbers) == 3 for numbers in result["train_psnr"].values())
    assert result["settings"]["image_siren"]["steps"] == 4
    assert content["environment"]["date"]


def test_a_siren_learns_an_image(files):
    config = config_of(
        files / "grey.png",
        network="experiments.rivals:image_siren",
        method="uniform:relu",
        hidden=(),
        range=(-1.0, 1.0),
        learning_rate=1e-3,
        mixed_epochs=9,
        run_dir=str(files / "siren"),
    )
    folder = train_and_evaluate(config, show_progress=False)
    assert read_finished(folder).summary["phases"][-1]["train_psnr"] > 25
