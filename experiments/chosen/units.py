"""Dead and saturated neurons of a trained network, on examples."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.config import Config
from experiments.evaluate import TrainedRun
from experiments.training import networks
from experiments.training.networks import choices_as_data
from experiments.training.program import compile_key
from smartmixed_jax import MixedActivation

FLAT = 0.005
"""A neuron is flat at an input where |f′| is below this; the slopes of leaky_relu are not."""
SATURATED = 0.9
"""Share of inputs at which a saturated neuron is flat, or more."""


class Units(NamedTuple):
    """The neurons of a layer.

    Attributes:
        dead: bool [N]: flat at every input: constant, and without gradient.
        saturated: bool [N]: flat at 90 % of the inputs or more, but not all.
    """

    dead: np.ndarray
    saturated: np.ndarray


def dead_and_saturated(run: TrainedRun, inputs: Any) -> dict[str, Units]:
    """The state of every neuron with a fixed choice, by the path of its layer.

    Args:
        inputs: raw inputs [M, *task.shape], as `TrainedRun.outputs` takes them. An input of a
            convolution's channel is a place of an image, of a text a character.
    """
    shares = flat_shares(run, inputs)
    return {
        path: Units(flat == 1, (flat >= SATURATED) & (flat < 1)) for path, flat in shares.items()
    }


def flat_shares(run: TrainedRun, inputs: Any) -> dict[str, np.ndarray]:
    """The share of the inputs at which each neuron is flat, [N] by the path of its layer."""
    inputs, batch = run.checked(inputs), run.config.batch_size
    parts: Any = nnx.split(_watched(choices_as_data(run.network)), Counts, ...)
    graphdef, counts, others = parts
    static = graphdef, compile_key(run.config), run.task.scale
    for first in range(0, len(inputs), batch):
        counts = _count(*static, counts, others, inputs[first : first + batch])
    found = {}
    for path, variable in nnx.to_flat_state(counts):
        flat, places = np.asarray(variable[...], np.float64)
        found[".".join(map(str, path[:-1]))] = flat / places
    return found


# The choices are data: the networks of all seeds share one compilation.
@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _count(
    graphdef: nnx.GraphDef,
    config: Config,
    scale: float | None,
    counts: nnx.State,
    others: nnx.State,
    inputs: jax.Array,
) -> nnx.State:
    """The counts after some more inputs."""
    model = nnx.merge(graphdef, counts, others, copy=True)
    networks.apply(config, scale, model, inputs, jax.random.key(0))
    return nnx.state(model, Counts)


class Counts(nnx.Variable):
    """At how many inputs each neuron of a layer was flat, and how many there were: int32 [2, N]."""


class _Watched(nnx.Module):
    """A fixed layer that counts where its neurons are flat."""

    def __init__(self, layer: MixedActivation) -> None:
        self.layer = layer
        self.counts = Counts(jnp.zeros((2, *layer.choices.shape), jnp.int32))

    def __call__(self, x: jax.Array, **options: Any) -> jax.Array:
        y, pull = jax.vjp(lambda x: self.layer(x, **options), x)
        (slope,) = pull(jnp.ones_like(y))
        flat = jnp.moveaxis(jnp.abs(slope) < FLAT, self.layer.axis, -1)
        flat = flat.reshape(-1, flat.shape[-1])
        self.counts[...] += jnp.stack([flat.sum(0), jnp.ones_like(flat).sum(0)])
        return y


def _watched(network: Any) -> Any:
    """The network, whose choices are data, with fixed layers that count."""

    def watch(path: Any, node: Any) -> Any:
        del path
        return _Watched(node) if isinstance(node, MixedActivation) else node

    return nnx.recursive_map(watch, network)
