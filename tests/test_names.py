"""Folders and rows tell configs apart, fields that change nothing are refused; names of layers."""

import dataclasses
import typing

import pytest

from experiments.config import MAY_DIFFER, Config
from experiments.data.functions import TARGETS
from experiments.data.tasks import TASKS
from experiments.names import (
    layer_names,
    refuse_without_effect,
    reset_without_effect,
    row_details,
    run_name,
    task_folder,
)
from experiments.presets import PRESETS, default_config
from experiments.run_folder import folder_of

BASES = [
    default_config("recommended", "digits"),
    default_config("published", "mnist"),
    default_config("recommended", "cifar10"),
    default_config("recommended", "tiny_shakespeare"),
    default_config("described", "function:ratio"),
    default_config("recommended", "function:ratio"),
    default_config("recommended", "table:trees.csv"),
    dataclasses.replace(default_config(), method="uniform:relu"),
]
OTHER_VALUES = {
    **{"method": "uniform:tanh", "pool": "extended", "network": "conv", "run_dir": "x"},
    **{"start": "tanh", "estimator": "gumbel_softmax"},
}
COMPANIONS = {
    "draws": {"estimator": "sampled_straight_through"},
    "refine_epochs": {"network": "mlp"},
    "estimator": {"draws": 1, "noise": 1.0, "final_noise": 1.0},
}
"""What else must change, because it does not fit the other value."""


def another_value(config: Config, field: str):
    """A valid value that the config does not have there."""
    value, kind = getattr(config, field), typing.get_type_hints(Config)[field]
    if field == "task":
        return "fashion_mnist"
    if field in OTHER_VALUES:
        return OTHER_VALUES[field]
    if typing.get_origin(kind) is typing.Literal:
        return next(choice for choice in typing.get_args(kind) if choice != value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, tuple):
        other = 7 if kind == tuple[int, ...] else "other"
        return tuple(2 * number for number in value) or (other,)
    if isinstance(value, float):
        return value / 2 or 0.25
    return value + 1 if isinstance(value, int) else "other"


# Folders


@pytest.mark.parametrize("base", BASES, ids=lambda config: f"{config.preset}-{config.task}")
def test_every_field_changed_alone_gives_another_folder(base):
    places = {"": folder_of(base)}
    for field in dataclasses.fields(Config):
        if field.name != "run_dir":
            value = another_value(base, field.name)
            assert value != getattr(base, field.name)
            companions = COMPANIONS.get(field.name, {})
            changed = dataclasses.replace(base, **{**companions, field.name: value})
            places[field.name] = folder_of(changed)
    same = {name for name, place in places.items() if place == places[""]} - {""}
    assert same == set(MAY_DIFFER) - {"run_dir"}
    others = [place for name, place in places.items() if name not in MAY_DIFFER]
    assert len(set(others)) == len(others)


def test_two_values_of_a_field_give_two_folders():
    base = default_config()
    rates = [0.01, 0.02, 0.03]
    configs = [dataclasses.replace(base, learning_rate=rate) for rate in rates]
    assert len({run_name(config) for config in configs}) == 3
    assert run_name(configs[0]) == run_name(dataclasses.replace(configs[0], data_dir="/elsewhere"))


def test_a_run_of_the_preset_has_a_plain_name():
    assert str(folder_of(default_config())) == "runs/digits/recommended-arch4-two_phase-seed0"
    config = dataclasses.replace(
        default_config("recommended", "function:ratio"), control="shuffled", hidden=(8, 4), seed=2
    )
    assert str(folder_of(config)) == "runs/ratio/recommended-8x4-two_phase-shuffled-seed2"


def test_tasks_that_share_a_folder_have_runs_of_their_own():
    assert not TARGETS.keys() & TASKS.keys()  # function:NAME lies in NAME's folder
    one, other = (
        dataclasses.replace(default_config(), task=task)
        for task in ("table:a/trees.csv", "table:b/trees.csv")
    )
    assert task_folder(one.task) == task_folder(other.task) == "trees"
    assert run_name(one) != run_name(other)


# Fields without effect

UNIFORM, PHASES, MLP = {"method": "uniform:relu"}, "a uniform network", "only the network mlp"


@pytest.mark.parametrize(
    ("task", "changes", "field", "why"),
    [
        ("digits", UNIFORM | {"control": "shuffled"}, "control", PHASES),
        ("digits", UNIFORM | {"carry_weights": False}, "carry_weights", PHASES),
        ("digits", UNIFORM | {"logit_learning_rate": 0.1}, "logit_learning_rate", PHASES),
        ("digits", UNIFORM | {"temperature": 1.0}, "temperature", PHASES),
        ("digits", UNIFORM | {"final_temperature": 0.1}, "final_temperature", PHASES),
        ("digits", UNIFORM | {"clamp": 10.0}, "clamp", PHASES),
        ("digits", UNIFORM | {"evaluation_noise": True}, "evaluation_noise", PHASES),
        ("digits", UNIFORM | {"schedule": "cosine_restart"}, "schedule", "with one phase"),
        ("tiny_shakespeare", {"hidden": (8,)}, "hidden", MLP),
        ("cifar10", {"architecture": 5}, "architecture", MLP),
        ("mnist", {"network": "conv", "initialization": "torch"}, "initialization", MLP),
        ("function:ratio", {"architecture": 5}, "architecture", "hidden gives the widths"),
        ("table:a.csv", {"split_column": "s", "test_fraction": 0.3}, "test_fraction", "split_col"),
        (
            "digits",
            {"selective_epochs": 1, "mixed_epochs": 1, "select_epoch": "lowest_loss"},
            "select_epoch",
            "phases of one epoch",
        ),
        ("function:ratio", {"warmup": 1e-6}, "warmup", "in steps it is the warm-up of the preset"),
    ],
)
def test_a_field_without_effect_is_refused(task, changes, field, why):
    preset = default_config(task=task)
    config = dataclasses.replace(preset, **changes)
    with pytest.raises(ValueError, match=f"^{field} = .* has no effect: {why}"):
        refuse_without_effect([config])
    kept = reset_without_effect(config)
    assert getattr(kept, field) == getattr(preset, field)
    refuse_without_effect([kept])


@pytest.mark.parametrize(
    ("task", "changes"),
    [
        ("digits", UNIFORM | {"learning_rate": 0.1, "clip": 0.0, "weight_decay": 0.1}),
        ("digits", UNIFORM | {"schedule": "constant", "select_epoch": "lowest_loss"}),
        ("digits", {"method": "uniform:gelu", "pool": "extended", "variance_matched": True}),
        ("digits", {"control": "random", "carry_weights": False, "clamp": 10.0}),
        ("digits", {"architecture": 5, "initialization": "torch", "dtype": "bfloat16"}),
        ("mnist", {"network": "conv", "augment": True, "optimizer": "sgd", "warmup": 0.1}),
        ("function:ratio", {"hidden": (), "architecture": 5, "warmup": 0.01}),
        ("digits", {"steps_per_epoch": 5, "batch_size": 32, "evaluation_noise": True}),
    ],
)
def test_fields_with_effect_are_taken(task, changes):
    refuse_without_effect([dataclasses.replace(default_config(task=task), **changes)])


def test_presets_are_never_refused():
    for preset in PRESETS:
        for task in ("digits", "mnist", "cifar10", "tiny_shakespeare", "function:ratio"):
            config = default_config(preset, task)
            refuse_without_effect([config])
            refuse_without_effect([dataclasses.replace(config, method="uniform:relu")])
            for network in ("conv", "resnet20"):
                refuse_without_effect([dataclasses.replace(config, network=network)])


# Rows


def details(*changes: dict, preset: str = "recommended") -> list[tuple[str, ...]]:
    base = default_config(preset, "digits")
    return row_details([dataclasses.replace(base, **each) for each in changes])


def test_rows_are_named_by_what_differs():
    assert details({}, {"seed": 1}, {"control": "random"}, UNIFORM) == [()] * 4
    assert details({"batch_size": 64}, {"batch_size": 64, "seed": 1}) == [(), ()]
    assert details({}, {"batch_size": 64}) == [("batch_size 128",), ("batch_size 64",)]
    assert details({"hidden": (8, 4)}, {"network": "conv"}, {}) == [
        ("8-4",),
        ("conv",),
        ("256-128",),
    ]
    assert details({}, {"data_dir": "/elsewhere", "checkpoint_seconds": 1.0}) == [(), ()]


def test_a_row_does_not_name_what_has_no_effect_there():
    assert details({"temperature": 1.0}, UNIFORM) == [(), ()]
    assert details({"temperature": 1.0}, {}, UNIFORM) == [
        ("temperature 1.0",),
        ("temperature 2.0",),
        (),
    ]


def test_rows_of_two_presets_name_the_preset_and_not_all_its_values():
    configs = [default_config("published", "digits"), default_config("described", "digits")]
    assert row_details(configs) == [("published",), ("described",)]
    configs[0] = dataclasses.replace(configs[0], batch_size=64)
    assert row_details(configs) == [("published", "batch_size 64"), ("described", "batch_size 128")]


# Layers


def paths(count: int) -> list[str]:
    return [f"activations.{number}" for number in range(count)]


def test_layers_say_where_they_stand():
    assert list(layer_names("mlp", paths(2)).values()) == ["layer 1", "layer 2"]
    assert list(layer_names("conv", paths(3)).values()) == ["conv 1", "conv 2", "hidden"]
    assert list(layer_names("transformer", paths(2)).values()) == ["block 1 MLP", "block 2 MLP"]
    names = list(layer_names("resnet20", paths(19)).values())
    assert names[:4] == [
        "stem",
        "stage 1 block 1, inside",
        "stage 1 block 1, after the addition",
        "stage 1 block 2, inside",
    ]
    assert names[6:8] == ["stage 1 block 3, after the addition", "stage 2 block 1, inside"]
    assert names[-1] == "stage 3 block 3, after the addition"
    assert len(set(names)) == 19
    assert list(layer_names("resnet20", paths(5)).values())[-1] == "block 2, after the addition"
    assert layer_names("resnet20", sorted(paths(19))) == layer_names("resnet20", paths(19))
    assert list(layer_names("resnet20", sorted(paths(19)))) == paths(19)
    assert layer_names("my_module:build", ["act1"]) == {"act1": "act1"}
