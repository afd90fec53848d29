"""What runs and layers are called: a run's folder, its row in a table or figure, its layers."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from experiments.config import MAY_DIFFER, Config
from experiments.effects import without_effect
from experiments.presets import default_config

FIELDS = tuple(field.name for field in dataclasses.fields(Config))
NETWORK_FIELDS = ("network", "architecture", "hidden")
VARIANT_FIELDS = ("method", "control", "carry_weights")
"""What `Config.variant` says."""
NO_DETAILS = ("task", "preset", "seed", *NETWORK_FIELDS, *VARIANT_FIELDS)
"""Fields that are told in other ways than as a detail of a row or a page."""


def preset_of(config: Config) -> Config:
    """The values of the config's preset for its task."""
    return default_config(config.preset, config.task)


def changed_fields(config: Config) -> dict[str, Any]:
    """The fields that differ from the preset's values for the task, but for those in MAY_DIFFER."""
    preset = preset_of(config)
    return {
        name: getattr(config, name)
        for name in FIELDS
        if name not in MAY_DIFFER and getattr(config, name) != getattr(preset, name)
    }


def refuse_without_effect(configs: Sequence[Config]) -> None:
    """Raises ValueError for a field that was changed and changes nothing in any of the configs."""
    inert = [without_effect(config, preset_of(config)) for config in configs]
    changed = {name: value for config in configs for name, value in changed_fields(config).items()}
    for name, value in changed.items():
        if all(name in reasons for reasons in inert):
            raise ValueError(f"{name} = {value!r} has no effect: {inert[0][name]}")


def reset_without_effect(config: Config) -> Config:
    """The config with its preset's values in the fields that change nothing in it."""
    preset = preset_of(config)
    inert = without_effect(config, preset)
    return dataclasses.replace(config, **{name: getattr(preset, name) for name in inert})


def computation(config: Config) -> Config:
    """Equal for two configs that compute the same, whatever their presets are called.

    Such as one function everywhere with the settings of `published` and of `described`, which
    differ in phase 1 only.
    """
    config = reset_without_effect(config)
    inert = set(without_effect(config, preset_of(config))) - {"warmup"}
    # Not warmup: whether it has an effect is judged beside the preset's, so that value stays.
    return dataclasses.replace(
        config,
        **{name: getattr(ANY, name) for name in (*inert, *MAY_DIFFER, "preset")},
    )


ANY = Config()
"""Values for fields whose value does not count."""


# Folders


def task_folder(task: str) -> str:
    """The folder of a task's runs: digits; ratio of function:ratio, trees of table:data/trees.csv.

    Tasks may share it; `run_name` keeps them apart.
    """
    kind, _, rest = task.partition(":")
    if kind in ("table", "arrays", "image"):
        return Path(rest).stem or kind
    return re.sub(r"[^\w.-]+", "-", rest if kind == "function" else task)


def run_name(config: Config) -> str:
    """The name of a run's folder: PRESET-NETWORK-VARIANT-seedN, and a hash of what else differs.

    In one `task_folder`, two configs have the same name only if they differ in nothing but fields
    of MAY_DIFFER.
    """
    network: str = config.network
    shown = ["network", "seed", *VARIANT_FIELDS]
    if ":" in network:  # the user's, MODULE:NAME
        network, shown = network.replace(":", "-"), shown[1:]
    if network == "mlp":
        network = "x".join(map(str, config.hidden)) or f"arch{config.architecture}"
        shown += ["hidden"] if config.hidden else ["hidden", "architecture"]
    variant = config.variant.replace(":", "-")
    if config.is_layered:  # a deep network's functions are too long for a folder's name
        variant = "layers"
        shown.remove("method")
    others = {name: value for name, value in changed_fields(config).items() if name not in shown}
    if task_folder(config.task) != config.task.removeprefix("function:"):
        others["task"] = config.task
    name = f"{config.preset}-{network}-{variant}-seed{config.seed}"
    return f"{name}-{_short_hash(others)}" if others else name


def _short_hash(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]


# Rows


def row_details(configs: Sequence[Config]) -> list[tuple[str, ...]]:
    """What tells each of some configs of one task apart from the others, beside variant and seed.

    The preset and the network where they differ between the configs, and then every other field
    that some of them changed, such as "batch_size 64"; not where the field has no effect.
    """
    inert = [without_effect(config, preset_of(config)) for config in configs]
    changed = {name for config in configs for name in changed_fields(config)}
    named = [
        name
        for name in FIELDS
        if name in changed
        and name not in NO_DETAILS
        and _differ(
            getattr(config, name)
            for config, reasons in zip(configs, inert, strict=True)
            if name not in reasons
        )
    ]
    presets = _differ(config.preset for config in configs)
    networks = _differ(map(network_name, configs))
    return [
        (
            *([config.preset] if presets else []),
            *([network_name(config)] if networks else []),
            *(f"{name} {getattr(config, name)}" for name in named if name not in reasons),
        )
        for config, reasons in zip(configs, inert, strict=True)
    ]


def shared_details(configs: Sequence[Config]) -> tuple[str, ...]:
    """What all of some configs changed alike in their presets, such as "batch_size 64"."""
    first, *others = map(changed_fields, configs)
    return tuple(
        f"{name} {value}"
        for name, value in first.items()
        if name not in NO_DETAILS and all(name in c and c[name] == value for c in others)
    )


def _differ(values: Iterable[Any]) -> bool:
    return len(set(values)) > 1


def network_name(config: Config) -> str:
    """The network, an mlp by its hidden widths: 512-256-128-64."""
    return "-".join(map(str, config.widths)) if config.network == "mlp" else config.network


# Layers


def layer_names(network: str, paths: Iterable[str]) -> dict[str, str]:
    """The names of a network's selective layers, by their paths, the same in figures and tables.

    Args:
        network: as in the config.
        paths: of all selective layers, in any order: activations.0, activations.1, ...; the
            layers of a user's network are called by their paths.

    Returns:
        The names in the order of the layers.
    """
    ordered = sorted(paths, key=_numbers_by_value)
    names = {}
    for path in ordered:
        match = re.fullmatch(r"activations\.(\d+)", path)
        names[path] = _layer_name(network, int(match[1]), len(ordered)) if match else path
    return names


def _numbers_by_value(path: str) -> list[tuple[int, str]]:
    """A key that puts activations.2 before activations.10, where metrics.jsonl has it behind."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in path.split(".")]


def _layer_name(network: str, place: int, count: int) -> str:
    if network == "transformer":
        return f"block {place + 1} MLP"
    if network == "conv":
        return "hidden" if place == count - 1 else f"conv {place + 1}"
    if network == "resnet20":
        return _residual_layer_name(place, count)
    return f"layer {place + 1}"


STAGES = 3
"""Of the ResNet for small images, each with the same number of blocks of two layers."""


def _residual_layer_name(place: int, count: int) -> str:
    if place == 0:
        return "stem"
    number, second = divmod(place - 1, 2)
    where = "after the addition" if second else "inside"
    per_stage, left_over = divmod(count - 1, 2 * STAGES)
    if left_over:  # another network than the one that the experiments train
        return f"block {number + 1}, {where}"
    stage, block = divmod(number, per_stage)
    return f"stage {stage + 1} block {block + 1}, {where}"
