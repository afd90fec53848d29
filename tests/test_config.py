"""The config: presets, names, errors, JSON; and the regression functions."""

import dataclasses
import json
import math

import numpy as np
import pytest

from experiments.config import (
    ARCHITECTURES,
    Config,
    PhaseSpec,
    from_json,
    phases,
    to_json,
)
from experiments.data import functions
from experiments.data.tasks import TASKS, find_kind, load_task
from experiments.presets import ALWAYS, PRESETS, RECOMMENDED, default_config
from smartmixed_jax import PAPER_POOL


def test_published_preset_is_the_papers_protocol():
    config = default_config("published", "mnist")
    assert (config.learning_rate, config.logit_learning_rate, config.schedule) == (
        1e-4,
        1e-4,
        "constant",
    )
    assert (config.temperature, config.final_temperature) == (0.3, 0.3)
    assert (config.clip, config.clamp, config.batch_size) == (1.0, 10.0, 128)
    assert config.double_softmax
    assert config.evaluation_noise
    assert not config.carry_weights
    assert config.select_epoch == "lowest_loss"
    assert phases(config) == (PhaseSpec("selective", 50), PhaseSpec("mixed", 350))
    assert config.activation_pool == PAPER_POOL


def test_described_differs_from_published_in_what_the_abstract_says():
    published, described = PRESETS["published"], PRESETS["described"]
    changed = {
        field.name
        for field in dataclasses.fields(Config)
        if getattr(published, field.name) != getattr(described, field.name)
    }
    assert changed == {"preset", "clamp", "evaluation_noise", "carry_weights"}


def test_architectures_are_the_papers_seventeen_and_the_lost_one():
    assert sorted(ARCHITECTURES) == list(range(1, 19))
    assert ARCHITECTURES[3] == (512, 256, 128, 64)
    assert ARCHITECTURES[9] == (768, 512, 512, 256, 256)
    for number, width in zip(range(10, 18), (128, 128, 64, 64, 32, 32, 16, 16), strict=True):
        assert ARCHITECTURES[number] == (*ARCHITECTURES[number - 1], width)
    assert ARCHITECTURES[18] == (768, 512, 512, 256)


def test_a_uniform_baseline_is_one_phase_of_the_same_length():
    config = dataclasses.replace(default_config(), method="uniform:tanh")
    assert phases(config) == (PhaseSpec("uniform", config.selective_epochs + config.mixed_epochs),)


@pytest.mark.parametrize("task", ["digits", "mnist", "function:product_sine"])
@pytest.mark.parametrize("preset", PRESETS)
def test_json_round_trip(preset, task):
    config = default_config(preset, task)
    assert from_json(to_json(config)) == config
    assert hash(from_json(to_json(config))) == hash(config)


def test_an_unknown_field_is_an_error():
    record = {**json.loads(to_json(default_config())), "learning_rat": 1.0}
    with pytest.raises(ValueError, match="unknown field 'learning_rat': is learning_rate meant"):
        from_json(json.dumps(record))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("method", "uniform:swish"),
        ("method", "three_phase"),
        ("pool", "big"),
        ("preset", "best"),
        ("architecture", 19),
        ("hidden", (64, 0)),
        ("batch_size", 0),
        ("selective_epochs", 0),
        ("temperature", 0.0),
        ("final_temperature", -1.0),
        ("learning_rate", float("nan")),
        ("learning_rate", 0.0),
        ("clip", -1.0),
        ("control", "shufled"),
        ("warmup", -0.5),
        ("warmup", float("nan")),
        ("validation_fraction", 1.0),
    ],
)
def test_a_bad_value_is_named(field, value):
    with pytest.raises(ValueError, match=str(value).split(":")[-1].replace("(", r"\(")[:6]):
        dataclasses.replace(default_config(), **{field: value})


@pytest.mark.parametrize("task", ["mnits", "function:nothing", "funktion:ratio", "mnist:"])
def test_a_task_that_does_not_exist_is_named(task):
    with pytest.raises(ValueError, match=task):
        find_kind(task)


def test_a_warm_up_as_long_as_the_run_is_refused():
    with pytest.raises(ValueError, match=r"warmup = 1\.0: .* no warm-up longer than the run"):
        dataclasses.replace(default_config(), warmup=1.0)


def test_presets_know_existing_tasks_and_name_no_variant():
    assert RECOMMENDED.keys() | ALWAYS.keys() <= TASKS.keys()
    for preset in PRESETS:
        for task in ("digits", "cifar10", "tiny_shakespeare", "function:ratio"):
            assert default_config(preset, task).variant == "two_phase"


@pytest.mark.parametrize(
    ("name", "point", "value"),
    [
        ("product_sine", (2.0, -1.5, 0.25), -3.0 + math.sin(0.5)),
        ("normal_density", (1.0, -1.0), math.exp(-0.125) / math.sqrt(2 * math.pi)),
        ("kinks", (1.0, 0.5, -1.3), 0.5 - 0.5 + 1.0),
        ("kinks", (0.0, -1.0, 0.0), 0.3),
    ],
)
def test_targets_have_their_values(name, point, value):
    np.testing.assert_allclose(
        functions.evaluate(name, np.array([point])), [[value]], rtol=1e-6, atol=1e-7
    )


@pytest.mark.parametrize("name", functions.TARGETS)
def test_points_lie_where_they_should(name):
    samples = functions.sample(name, seed=3, train=500, validation=100, test=400)
    d = functions.dimension(name)
    assert 2 <= d <= 9
    assert (samples.outside is None) == (name == "cone")  # 0 there
    samples = samples._replace(outside=samples.outside or samples.test)
    for points, count in zip(samples, (500, 100, 400, 400), strict=True):
        assert points.inputs.shape == (count, d)
        assert points.values.shape == (count, 1)
        assert np.isfinite(points.values).all()
    for points in samples[:3]:
        largest = np.abs(points.inputs).max()
        assert 1.9 < largest <= 2.0
    if name != "cone":
        distance = np.abs(samples.outside.inputs).max(-1)
        assert ((distance > 2.0) & (distance <= 3.0)).all()


def test_noise_is_on_the_values_to_train_and_validate_on():
    without, noisy = (functions.sample("ratio", 2, noise=noise) for noise in (0.0, 0.1))
    for part in without._fields:
        np.testing.assert_array_equal(getattr(without, part).inputs, getattr(noisy, part).inputs)
    for part in ("test", "outside"):
        np.testing.assert_array_equal(getattr(without, part).values, getattr(noisy, part).values)
    added = noisy.train.values - without.train.values
    assert 0.095 < added.std() / without.train.values.std() < 0.105
    assert abs(added.mean()) < 0.005 * without.train.values.std()
    assert (
        0.09
        < (noisy.validation.values - without.validation.values).std() / (without.train.values.std())
        < 0.11
    )
    assert not np.array_equal(added, functions.sample("ratio", 3, noise=0.1).train.values)


def test_a_run_has_the_points_and_the_noise_that_its_config_says():
    config = dataclasses.replace(default_config(task="function:ratio"), points=77, label_noise=0.5)
    train = load_task(config).splits["train"]
    expected = functions.sample("ratio", 0, train=77, noise=0.5).train
    np.testing.assert_array_equal(train.labels, expected.values)


def test_seeds_draw_different_points_and_no_split_repeats_another():
    first, second = (functions.sample("ratio", seed, train=50, validation=50) for seed in (0, 1))
    assert not np.array_equal(first.train.inputs, second.train.inputs)
    assert not np.array_equal(first.train.inputs, first.validation.inputs)
    np.testing.assert_array_equal(
        first.train.inputs, functions.sample("ratio", 0, train=50, validation=50).train.inputs
    )
