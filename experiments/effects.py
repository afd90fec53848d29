"""Which options change nothing, given the others."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

from experiments.config import WITHOUT_NOISE, Config, phases


class WithoutEffect(NamedTuple):
    """Fields that change nothing when `when(config, preset)` is true, preset as below, and why."""

    fields: tuple[str, ...]
    when: Callable[[Config, Config], bool]
    why: str


WITHOUT_EFFECT: tuple[WithoutEffect, ...] = (
    WithoutEffect(
        (
            *("control", "carry_weights", "carry_moments", "clip_together"),
            *("logit_learning_rate", "logit_warmup"),
            *("estimator", "temperature", "final_temperature", "noise", "final_noise", "draws"),
            *("start", "start_probability", "drop_worse", "clamp", "evaluation_noise"),
            *("fix_when", "layer_by_layer", "fix_share", "fix_patience"),
        ),
        lambda config, preset: not config.has_choices,
        "a uniform network has no choices and one phase",
    ),
    WithoutEffect(
        ("architecture", "hidden", "initialization"),
        lambda config, preset: config.network != "mlp",
        "only the network mlp has it",
    ),
    WithoutEffect(
        ("architecture",), lambda config, preset: config.hidden != (), "hidden gives the widths"
    ),
    WithoutEffect(
        ("schedule",),
        lambda config, preset: (
            not config.has_choices and "constant" not in (config.schedule, preset.schedule)
        ),
        "with one phase, cosine and cosine_restart are the same",
    ),
    WithoutEffect(
        ("carry_moments",),
        lambda config, preset: not dataclasses.replace(config, carry_moments=True).carries_moments,
        "the moments are those of the last epoch's weights, which do not go on",
    ),
    WithoutEffect(
        ("start_probability", "drop_worse"),
        lambda config, preset: ":" not in config.pool and not config.start_function,
        "there is no start",
    ),
    WithoutEffect(
        ("noise", "final_noise", "draws"),
        lambda config, preset: config.estimator in WITHOUT_NOISE,
        "the estimator draws nothing",
    ),
    WithoutEffect(
        ("fix_share",),
        lambda config, preset: config.fix_when not in ("decided", "stable"),
        "no share decides when choices are fixed",
    ),
    WithoutEffect(
        ("fix_patience",),
        lambda config, preset: config.fix_when == "end",
        "choices are fixed at the end of phase 1",
    ),
    WithoutEffect(("clip_together",), lambda config, preset: not config.clip, "nothing is clipped"),
    WithoutEffect(
        ("logit_warmup",),
        lambda config, preset: config.logit_learning_rate == 0,
        "the logits do not move",
    ),
    WithoutEffect(
        ("select_epoch",),
        lambda config, preset: all(spec.epochs == 1 for spec in phases(config)),
        "phases of one epoch have no other to select",
    ),
    WithoutEffect(
        ("validation_fraction", "test_fraction"),
        lambda config, preset: bool(config.split_column),
        "split_column says which row is for what",
    ),
    WithoutEffect(
        ("warmup",),
        lambda config, preset: (
            bool(steps := (config.selective_epochs + config.mixed_epochs) * config.steps_per_epoch)
            and round(config.warmup * steps) == round(preset.warmup * steps)
        ),
        "in steps it is the warm-up of the preset",
    ),
)
"""What the other options make pointless; a task's data say the rest (data/tasks.py). The fields in
MAY_DIFFER never count, nor does `pool`, which says what uniform:NAME may name."""


def without_effect(config: Config, preset: Config) -> dict[str, str]:
    """The fields whose value changes nothing in this config, and why.

    Args:
        config: of a run.
        preset: the values of its preset for its task, as `presets.default_config` gives them.
    """
    return {
        field: rule.why
        for rule in reversed(WITHOUT_EFFECT)  # of two reasons the first stays
        if rule.when(config, preset)
        for field in rule.fields
    }
