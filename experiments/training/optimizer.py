"""Learning rate, temperature, noise and the optimiser of a phase."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.config import Config, epochs_before, total_epochs
from experiments.training.program import Params, Program


def learning_rate(program: Program, step: jax.Array | int) -> jax.Array:
    """The weights' learning rate at a step of the phase."""
    config = program.config
    before = epochs_before(config, program.phase_index) * program.steps
    if config.schedule == "constant":
        rate = jnp.float32(config.learning_rate)
    else:
        epochs, offset = program.spec.epochs, 0
        if config.schedule == "cosine":
            epochs, offset = total_epochs(config), before
        cosine = optax.cosine_decay_schedule(config.learning_rate, epochs * program.steps)
        rate = cosine(step + offset)
    warmup_steps = round(config.warmup * total_epochs(config) * program.steps)
    if not warmup_steps:
        return rate
    return rate * jnp.minimum((before + step + 1) / warmup_steps, 1.0)


def scales(program: Program, step: jax.Array | int) -> dict[str, Any]:
    """`temperature` τ, and `noise` β where it is not 1, at a step of phase 1; both linear."""
    config = program.config
    last = max(program.spec.epochs * program.steps - 1, 1)
    fraction = jnp.minimum(step / last, 1.0)

    def between(first: float, last: float) -> jax.Array:
        return first + fraction * (last - first)

    found: dict[str, Any] = {"temperature": between(config.temperature, config.final_temperature)}
    if (config.noise, config.final_noise) != (1.0, 1.0):
        found["noise"] = between(config.noise, config.final_noise)
    return found


def optimizer(program: Program) -> optax.GradientTransformation:
    """Weights and logits as two groups, clipped together or the weights alone."""
    config = program.config
    rate: Any = config.logit_learning_rate
    if config.logit_warmup:
        frozen_steps = round(config.logit_warmup * program.spec.epochs * program.steps)
        rate = optax.join_schedules(
            [optax.constant_schedule(0.0), optax.constant_schedule(config.logit_learning_rate)],
            [frozen_steps],
        )
    groups = {
        "weights": _weights_optimizer(config, functools.partial(learning_rate, program)),
        "selection": optax.adam(rate),
    }
    clip = optax.clip_by_global_norm(config.clip) if config.clip else optax.identity()
    if not config.clip_together:
        groups["weights"], clip = optax.chain(clip, groups["weights"]), optax.identity()
    return optax.chain(clip, optax.multi_transform(groups, {name: name for name in groups}))


def carry_moments(before: optax.OptState, fresh: optax.OptState) -> optax.OptState:
    """A fresh state of `optimizer`, with the moments that another phase's has of the same weights.

    The schedules stay at the beginning of the new phase, and so do the logits' moments.
    """
    groups = fresh[-1].inner_states
    old, new = (
        jax.tree.flatten(state[-1].inner_states["weights"], is_leaf=_is_schedule)
        for state in (before, fresh)
    )
    leaves = [
        mine if _is_schedule(mine) else theirs for mine, theirs in zip(new[0], old[0], strict=True)
    ]
    weights = jax.tree.unflatten(new[1], leaves)
    return (*fresh[:-1], fresh[-1]._replace(inner_states={**groups, "weights": weights}))


def _is_schedule(node: Any) -> bool:
    return isinstance(node, optax.ScaleByScheduleState)


def _weights_optimizer(config: Config, rate: optax.Schedule) -> optax.GradientTransformation:
    if config.optimizer == "sgd":
        rule = optax.sgd(rate, momentum=0.9, nesterov=True)
        if not config.weight_decay:
            return rule
        return optax.chain(optax.add_decayed_weights(config.weight_decay, _kernels), rule)
    if not config.weight_decay:
        return optax.adam(rate)
    return optax.adamw(rate, weight_decay=config.weight_decay, mask=_kernels)


def _kernels(params: Params) -> Any:
    """True for kernels and embeddings, False for biases and the scales of norms."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)
