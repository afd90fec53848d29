"""The networks of the experiments beside the MLP; each takes its activation as an argument.

All parameters of the other layers are drawn before the activations draw theirs, so networks that
differ only in the activation start from the same weights. The last layer is linear and never
selective.
"""

import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from smartmixed_jax import SelectiveActivation
from smartmixed_jax.models import ActivationFactory, activate
from smartmixed_jax.nnx import RngSource


class PReLU(nnx.Module):
    """max(x, 0) + a · min(x, 0), a slope for every neuron (He et al., arXiv 1502.01852).

    Args:
        features: N.
        rngs: not used: every slope starts at 0.25.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from experiments.training.models import PReLU
        >>> PReLU(2, rngs=nnx.Rngs(0))(jnp.array([-1.0, 1.0])).tolist()
        [-0.25, 1.0]
    """

    def __init__(self, features: int, *, rngs: RngSource) -> None:
        self.slope = nnx.Param(jnp.full((features,), 0.25))

    def __call__(self, x: jax.Array) -> jax.Array:
        """x [..., N] → [..., N]."""
        return jnp.maximum(x, 0) + self.slope[...].astype(x.dtype) * jnp.minimum(x, 0)


class ConvNet(nnx.Module):
    """A small convolutional network: 3x3 convolutions, each with pooling, and two linear layers.

    Every convolution halves the image, and its channels choose, the same function at all places.

    Args:
        input_shape: (H, W, C) of one image.
        out_features: classes.
        channels: of the convolutions.
        hidden: width of the linear layer before the last.
        activation: as in `MLP`; called with the channels or width of each layer.
        dtype: of the computation in all layers but the last; None keeps that of the input.
        rngs: its `params` stream draws the parameters.

    Raises:
        ValueError: the image is too small to be halved so often.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from experiments.training.models import ConvNet
        >>> model = ConvNet((28, 28, 1), 10, rngs=nnx.Rngs(0))
        >>> model(jnp.ones((8, 28, 28, 1)), rngs=nnx.Rngs(selection=1)).shape
        (8, 10)
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int],
        out_features: int,
        *,
        channels: Sequence[int] = (32, 64),
        hidden: int = 256,
        activation: ActivationFactory = SelectiveActivation,
        dtype: Any = None,
        rngs: nnx.Rngs,
    ) -> None:
        height, width, colours = input_shape
        scale = 2 ** len(channels)
        if min(height, width) < scale:
            raise ValueError(
                f"ConvNet: input_shape {input_shape} cannot be halved {len(channels)} times"
            )
        widths = (colours, *channels)
        flat = (height // scale) * (width // scale) * widths[-1]
        conv = functools.partial(nnx.Conv, kernel_size=(3, 3), dtype=dtype, rngs=rngs)
        self.convs = nnx.List([conv(cin, cout) for cin, cout in itertools.pairwise(widths)])
        self.hidden = nnx.Linear(flat, hidden, dtype=dtype, rngs=rngs)
        self.last = nnx.Linear(hidden, out_features, dtype=jnp.float32, rngs=rngs)
        self.activations = nnx.List([activation(n, rngs=rngs) for n in (*channels, hidden)])

    def __call__(self, x: jax.Array, *, rngs: RngSource | None = None) -> jax.Array:
        """x [B, H, W, C] → [B, out_features]; rngs is passed to the selective layers."""
        *activations, last = self.activations
        for conv, activation in zip(self.convs, activations, strict=True):
            x = activate(activation, conv(x), rngs)
            x = nnx.avg_pool(x, (2, 2), strides=(2, 2))
        x = self.hidden(x.reshape(x.shape[0], -1))
        return self.last(activate(last, x, rngs))


class ResNet(nnx.Module):
    """The residual network for 32x32 images of He et al. (arXiv 1512.03385, section 4.2).

    6n + 2 layers with n `blocks` per stage: 3 give ResNet-20. The shortcuts have no parameters;
    where the width grows they skip every second place and fill the new channels with 0.

    Args:
        out_features: classes.
        in_features: channels of the image.
        blocks: residual blocks per stage, n.
        widths: channels of the stages; each stage after the first halves the image.
        activation: as in `MLP`; called with the channels of each of the 2n·stages + 1 layers.
        dtype: of the computation in all layers but the last; None keeps that of the input.
        rngs: its `params` stream draws the parameters.

    The batch normalisations hold running statistics: `model.train()` and `model.eval()`.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from experiments.training.models import ResNet
        >>> model = ResNet(10, rngs=nnx.Rngs(0))
        >>> len(model.activations)
        19
    """

    def __init__(
        self,
        out_features: int,
        *,
        in_features: int = 3,
        blocks: int = 3,
        widths: Sequence[int] = (16, 32, 64),
        activation: ActivationFactory = SelectiveActivation,
        dtype: Any = None,
        rngs: nnx.Rngs,
    ) -> None:
        shared: Any = dict(dtype=dtype, rngs=rngs)
        init = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")
        conv: Any = functools.partial(nnx.Conv, use_bias=False, kernel_init=init, **shared)
        norm: Any = functools.partial(nnx.BatchNorm, momentum=0.9, **shared)
        # Two convolutions per block; the first one of a stage but the first has stride 2.
        channels = [widths[0], *(width for width in widths for _ in range(2 * blocks))]
        pairs = enumerate(itertools.pairwise((in_features, *channels)))
        halving = {1 + 2 * blocks * stage for stage in range(1, len(widths))}
        self.convs = nnx.List(
            [conv(*pair, (3, 3), strides=2 if layer in halving else 1) for layer, pair in pairs]
        )
        self.norms = nnx.List([norm(width) for width in channels])
        self.last = nnx.Linear(widths[-1], out_features, dtype=jnp.float32, rngs=rngs)
        self.activations = nnx.List([activation(width, rngs=rngs) for width in channels])

    def __call__(self, x: jax.Array, *, rngs: RngSource | None = None) -> jax.Array:
        """x [B, H, W, in_features] → [B, out_features]; rngs goes to the selective layers."""
        layers = zip(self.convs, self.norms, self.activations, strict=True)
        conv, norm, activation = next(layers)
        x = activate(activation, norm(conv(x)), rngs)
        for first, second in _pairs(layers):
            (conv, norm, activation), (conv_2, norm_2, activation_2) = first, second
            y = activate(activation, norm(conv(x)), rngs)
            y = norm_2(conv_2(y))
            x = activate(activation_2, y + _shortcut(x, y.shape), rngs)
        return self.last(jnp.mean(x, (1, 2)))


def _shortcut(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """x [B, H, W, C] at the shape of a block's output: every second place, new channels 0."""
    stride = x.shape[1] // shape[1]
    x = x[:, ::stride, ::stride]
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, shape[-1] - x.shape[-1])))


class Transformer(nnx.Module):
    """A small decoder for characters, as nanoGPT's: pre-norm blocks, learned positions, no biases.

    The hidden units of every block's MLP choose; the output shares the embedding's matrix.

    Args:
        vocabulary: V, the number of tokens.
        context: the longest input.
        features: width of the residual stream.
        layers: blocks.
        heads: of the attention in each block.
        expansion: hidden units of a block's MLP, in units of `features`.
        activation: as in `MLP`; called with the hidden units of each block.
        dtype: of the computation; None keeps float32. The outputs are always float32.
        rngs: its `params` stream draws the parameters.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from experiments.training.models import Transformer
        >>> model = Transformer(65, 64, features=32, layers=2, heads=2, rngs=nnx.Rngs(0))
        >>> model(jnp.zeros((8, 64), jnp.int32), rngs=nnx.Rngs(selection=1)).shape
        (8, 64, 65)
    """

    def __init__(
        self,
        vocabulary: int,
        context: int,
        *,
        features: int = 128,
        layers: int = 4,
        heads: int = 4,
        expansion: int = 4,
        activation: ActivationFactory = SelectiveActivation,
        dtype: Any = None,
        rngs: nnx.Rngs,
    ) -> None:
        hidden, init = expansion * features, nnx.initializers.normal(0.02)
        # Projections into the residual stream: its variance would grow with their number.
        residual = nnx.initializers.normal(0.02 / (2 * layers) ** 0.5)
        shared: Any = dict(dtype=dtype, rngs=rngs)
        embed: Any = functools.partial(nnx.Embed, features=features, embedding_init=init, **shared)
        linear = functools.partial(nnx.Linear, use_bias=False, **shared)
        norm = functools.partial(nnx.LayerNorm, features, use_bias=False, **shared)
        attention = functools.partial(
            nnx.MultiHeadAttention, heads, features, use_bias=False, decode=False, **shared
        )

        def stack(build: Callable[..., Any], *args: Any, **options: Any) -> nnx.List:
            return nnx.List([build(*args, **options) for _ in range(layers)])

        self.tokens, self.positions = embed(vocabulary), embed(context)
        self.attentions = stack(attention, kernel_init=init, out_kernel_init=residual)
        self.ups = stack(linear, features, hidden, kernel_init=init)
        self.downs = stack(linear, hidden, features, kernel_init=residual)
        self.norms = nnx.List([norm() for _ in range(2 * layers)])
        self.last_norm = norm()
        self.activations = stack(activation, hidden, rngs=rngs)

    def __call__(self, x: jax.Array, *, rngs: RngSource | None = None) -> jax.Array:
        """Tokens x int [B, T ≤ context] → logits of the next ones [B, T, V], float32."""
        mask = nnx.make_causal_mask(x)
        x = self.tokens(x) + self.positions(jnp.arange(x.shape[-1]))[None]
        layers = zip(self.attentions, self.ups, self.activations, self.downs, strict=True)
        for (attention, up, activation, down), (before, between) in zip(
            layers, _pairs(self.norms), strict=True
        ):
            x = x + attention(before(x), mask=mask)
            x = x + down(activate(activation, up(between(x)), rngs))
        return self.tokens.attend(self.last_norm(x)).astype(jnp.float32)


def _pairs(items: Iterable[Any]) -> Iterable[tuple[Any, Any]]:
    """(first, second), (third, fourth), …"""
    return zip(*[iter(items)] * 2, strict=True)


class Kind(NamedTuple):
    """A network of the experiments with an architecture of its own."""

    inputs: Literal["images", "text"]
    build: Callable[..., Any]
    """Called as build(shape, out_features, activation=…, dtype=…, rngs=…), shape one example's."""


NETWORKS = {
    "conv": Kind("images", ConvNet),
    "resnet20": Kind("images", lambda shape, out, **own: ResNet(out, in_features=shape[-1], **own)),
    "transformer": Kind("text", lambda shape, out, **own: Transformer(out, *shape, **own)),
}
"""By the name of the option --network; mlp, whose widths are options too, is built elsewhere."""
