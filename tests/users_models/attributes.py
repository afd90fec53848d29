"""The same CNN with its activations as attributes: `select_activations` finds them."""

from functools import partial

import jax
from flax import nnx


class CNN(nnx.Module):
    def __init__(self, *, rngs: nnx.Rngs):
        self.conv1 = nnx.Conv(1, 32, kernel_size=(3, 3), rngs=rngs)
        self.batch_norm1 = nnx.BatchNorm(32, rngs=rngs)
        self.dropout1 = nnx.Dropout(rate=0.025)
        self.conv2 = nnx.Conv(32, 64, kernel_size=(3, 3), rngs=rngs)
        self.batch_norm2 = nnx.BatchNorm(64, rngs=rngs)
        self.avg_pool = partial(nnx.avg_pool, window_shape=(2, 2), strides=(2, 2))
        self.linear1 = nnx.Linear(3136, 256, rngs=rngs)
        self.dropout2 = nnx.Dropout(rate=0.025)
        self.linear2 = nnx.Linear(256, 10, rngs=rngs)
        self.act1 = self.act2 = self.act3 = nnx.relu

    def __call__(self, x: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        x = self.dropout1(self.conv1(x), rngs=rngs)
        x = self.avg_pool(self.act1(self.batch_norm1(x)))
        x = self.avg_pool(self.act2(self.batch_norm2(self.conv2(x))))
        x = x.reshape(x.shape[0], -1)
        x = self.act3(self.dropout2(self.linear1(x), rngs=rngs))
        return self.linear2(x)
