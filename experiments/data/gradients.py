"""Values with their derivatives by the inputs, for tables that have both (Czarnecki et al., arXiv
1706.04859): a network's derivatives are fitted beside its values."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data.encoding import Encoding
from experiments.data.pdes import Function
from experiments.data.reading import Columns, read_arrays
from experiments.data.sources import DataError


def outputs(network: Function, x: jax.Array, weight: float) -> jax.Array:
    """Values and √(weight/d) · derivatives of a network at x [B, d], as [B, 1 + d].

    Summed over a row, their squared errors are that of the value plus `weight` times the mean of
    those of the derivatives. Rows must not depend on each other.
    """
    values, pull_back = jax.vjp(network, x)
    (slopes,) = pull_back(jnp.ones_like(values))
    return jnp.concatenate([values[:, None], math.sqrt(weight / x.shape[1]) * slopes], -1)


def labels(columns: Columns, encoding: Encoding, weight: float) -> np.ndarray:
    """√(weight/d) · the derivatives of the standardised target by the inputs, float32 [M, d].

    Raises:
        DataError: the file has no array dy [M, columns], or a column is text.
    """
    dy = read_arrays(columns.path).get("dy") if columns.path.suffix.lower() == ".npz" else None
    if dy is None:
        raise DataError(
            f"{columns.path}: derivative_weight needs an NPZ file with dy [M, d], the derivatives "
            "of y by the columns of x"
        )
    texts = [column.name for column in encoding.inputs if column.categories is not None]
    if encoding.target.name != "y" or encoding.target.categories is not None or texts:
        what = f"column {texts[0]!r} holds text" if texts else "y is not what is fitted as values"
        raise DataError(f"{columns.path}: derivative_weight: {what}")
    names = list(columns.cells)[: list(columns.cells).index("y")]  # the columns of x come first
    if dy.shape != (columns.size, len(names)) or dy.dtype.kind not in "fiu":
        raise DataError(
            f"{columns.path}: dy is {dy.dtype} {list(dy.shape)}, expected numbers "
            f"{[columns.size, len(names)]}"
        )
    used = [names.index(column.name) for column in encoding.inputs]
    scales = np.array([column.scale for column in encoding.inputs]) / encoding.target.scale
    with np.errstate(over="ignore"):
        scaled = (math.sqrt(weight / len(used)) * dy[:, used] * scales).astype(np.float32)
    for row, place in np.argwhere(~np.isfinite(scaled)).tolist():
        raise columns.fail(row, f"dy by {encoding.inputs[place].name}", f"{dy[row, used[place]]}")
    return scaled
