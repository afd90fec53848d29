"""Choices that are fixed before phase 1 ends: when, and how.

A fixed layer's logits are so far apart that every estimator draws its choices, and that no gradient
reaches them. Nothing else of the run changes: not its length, not its learning rates.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from experiments.config import Config
from experiments.training.program import Program
from smartmixed_jax.summary import statistics

FAR = 1e4
"""Between the logit of a fixed choice and the others: exp(−FAR) and its gradient are 0."""

Choices = list[jax.Array]
"""Per layer [N]: the function with the largest logit."""


def choices_to_compare(config: Config, selection: nnx.State) -> Choices:
    """The choices at the beginning of an epoch, where the criterion compares them with its end."""
    if config.fix_when != "stable":
        return []
    return [jnp.argmax(logits, -1) for logits in jax.tree.leaves(selection)]


def fix_settled(
    program: Program, selection: nnx.State, before: Choices, epoch: jax.Array | int, best: jax.Array
) -> nnx.State:
    """The selection logits after an epoch, those of settled layers FAR apart.

    Args:
        selection: logits [N, K] per layer.
        before: as `choices_to_compare` gave them.
        epoch: within the phase, from 0, int32 [].
        best: the epoch with the lowest validation loss, from 1, int32 [].
    """
    config, done = program.config, epoch + 1
    if program.spec.name != "selective":
        return selection
    if config.fix_when == "end" and not config.layer_by_layer:
        return selection
    layers, structure = jax.tree.flatten(selection)
    choices = [jnp.argmax(logits, -1) for logits in layers]
    if config.fix_when == "end":
        parts = range(1, len(layers) + 1)
        settled = [done * len(layers) >= part * program.spec.epochs for part in parts]
    elif config.fix_when == "decided":
        settled = [1 - statistics(logits)["undecided"] >= config.fix_share for logits in layers]
    elif config.fix_when == "stable":
        pairs = zip(choices, before, strict=True)
        settled = [jnp.mean(now == old) >= config.fix_share for now, old in pairs]
    else:
        settled = [done - best >= config.fix_patience for _ in layers]
    if not config.layer_by_layer:
        settled = [jnp.all(jnp.stack(settled))] * len(layers)
    if config.fix_when != "end":
        settled = [now & (done >= config.fix_patience) for now in settled]
    fixed = [
        jnp.where(now, FAR * jax.nn.one_hot(chosen, logits.shape[-1], dtype=logits.dtype), logits)
        for logits, chosen, now in zip(layers, choices, settled, strict=True)
    ]
    return jax.tree.unflatten(structure, fixed)
