"""Where the arrays of a phase are while it trains: on one device, or on a mesh of D × M devices.

| array | on the mesh |
|---|---|
| examples of a batch [B, ...] | an equal part on each of the D places of the axis "data" |
| with M > 1, of wide layers: logits [N, K], choices [N] | neurons on the M places of "model" |
| their kernels [..., N], biases [N], and the optimiser's moments | with their neurons |
| everything else: all examples of a split, keys, other parameters | whole on every device |

The compiled program is the one of a single device; XLA puts in the sums over devices that these
places need. Outside of `train_phase` arrays are whole, on one device of each process: so a
checkpoint knows nothing of devices, and is restored onto any number of them.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from experiments import processes
from experiments.config import Config
from experiments.training.draws import Draws
from experiments.training.state import PhaseState

DATA, MODEL = "data", "model"
WIDE = 64
"""Layers of fewer neurons are whole on every device."""

T = TypeVar("T")


def are_several(config: Config) -> bool:
    """Whether a run trains on a mesh, if it trains."""
    return config.devices > 1 or processes.several()


def make_mesh(config: Config) -> Mesh | None:
    """The mesh that a run trains on; None for one device.

    Raises:
        ValueError: there are not so many devices, or they cannot share the batch equally.
    """
    there = jax.devices()
    count = config.devices or (len(there) if processes.several() else 1)
    if count > len(there):
        raise ValueError(f"devices = {count}: expected at most {len(there)}, those that are there")
    if processes.several() and count < len(there):
        raise ValueError(f"devices = {count}: expected {len(there)}, all of the processes, or 0")
    if count % config.model_axis:
        raise ValueError(f"model_axis = {config.model_axis}: expected a divisor of {count} devices")
    data = count // config.model_axis
    if config.batch_size % data:
        raise ValueError(
            f"batch_size = {config.batch_size}: expected a multiple of {data}, the devices that "
            "share a batch"
        )
    if count == 1:
        return None
    # Auto, said: without it a mesh's axes belong to the types of arrays, and the network's code
    # would have to say where every result is.
    types = (AxisType.Auto, AxisType.Auto)
    return jax.make_mesh((data, config.model_axis), (DATA, MODEL), types, devices=there[:count])


# Before and after a phase


def place(phase: PhaseState, config: Config) -> PhaseState:
    """The phase on the config's mesh, of several processes that of the first."""
    mesh = make_mesh(config)
    if mesh is None:
        return phase
    arrays = phase.state, phase.non_trainable
    if processes.several():
        arrays = _from_first(arrays)
    program = dataclasses.replace(phase.program, mesh=mesh)
    return PhaseState(program, *_put(arrays, functools.partial(_sharding, mesh)))


def gather(phase: PhaseState) -> PhaseState:
    """The phase whole, on one device of each process."""
    mesh = phase.program.mesh
    if mesh is None:
        return phase
    state, non_trainable = whole(mesh, (phase.state, phase.non_trainable))
    return PhaseState(dataclasses.replace(phase.program, mesh=None), state, non_trainable)


def whole(mesh: Mesh | None, tree: T) -> T:
    """Arrays of the mesh whole, on one device of each process; they live as long as the tree's."""
    if mesh is None:
        return tree
    return _on_data(lambda leaf: leaf.addressable_data(0), _replicator(mesh)(tree))


def replicate(mesh: Mesh | None, tree: T) -> T:
    """Data on every device of the mesh."""
    if mesh is None:
        return tree
    return _put(tree, lambda path, leaf: NamedSharding(mesh, PartitionSpec()))


def place_draws(mesh: Mesh | None, draws: Draws) -> Draws:
    """The draws of an epoch on the mesh: each device learns the examples of its part."""
    if mesh is None:
        return draws
    everywhere = NamedSharding(mesh, PartitionSpec())
    return _put(draws, lambda _, leaf: _batches(mesh) if leaf is draws.indices else everywhere)


def own_columns(mesh: Mesh | None, batch: int) -> np.ndarray:
    """Which examples of a batch the devices of this process have, int [columns], ascending."""
    if mesh is None:
        return np.arange(batch)
    parts = _batches(mesh).addressable_devices_indices_map((1, batch)).values()
    return np.unique([np.arange(batch)[part[1]] for part in parts if part is not None])


def place_batches(mesh: Mesh | None, tree: T, columns: np.ndarray, batch: int) -> T:
    """Examples [steps, columns, ...] of this process → [steps, batch, ...], split over devices."""
    if mesh is None:
        return jax.tree.map(jnp.asarray, tree)  # type: ignore[no-any-return]

    def place(leaf: np.ndarray) -> jax.Array:
        def part(index: Any) -> np.ndarray:
            wanted = np.arange(batch)[index[1]]
            first = int(np.searchsorted(columns, wanted[0]))
            return leaf[:, first : first + len(wanted)]

        shape = len(leaf), batch, *leaf.shape[2:]
        return jax.make_array_from_callback(shape, _batches(mesh), part)

    return jax.tree.map(place, tree)  # type: ignore[no-any-return]


# Inside a compiled program


def keep(mesh: Mesh | None, tree: T) -> T:
    """State that a program returns, where it takes it: so the next call is the same program."""
    if mesh is None:
        return tree
    shardings = jax.tree_util.tree_map_with_path(functools.partial(_sharding, mesh), tree)
    return jax.lax.with_sharding_constraint(tree, shardings)


def on_all(mesh: Mesh | None, tree: T) -> T:
    """Results that every process reads, on every device."""
    if mesh is None:
        return tree
    return jax.lax.with_sharding_constraint(tree, NamedSharding(mesh, PartitionSpec()))


def split_batches(mesh: Mesh | None, indices: jax.Array) -> jax.Array:
    """Indices [steps, batch], an equal part of each batch on each place of "data"."""
    return indices if mesh is None else jax.lax.with_sharding_constraint(indices, _batches(mesh))


# Where each array is


def _sharding(mesh: Mesh, path: Any, leaf: Any) -> NamedSharding:
    """Of an array of the state, or of fixed choices: split along its last axis of wide layers.

    That is axis 1 of a kernel [in, N], 0 of the next one [N, 10], and 0 of logits [N, K].
    """
    size = mesh.shape[MODEL]
    of_steps = ".sums" in jax.tree_util.keystr(path)
    wide = [axis for axis, n in enumerate(leaf.shape) if n >= WIDE and n % size == 0]
    if size == 1 or of_steps or not wide:
        return NamedSharding(mesh, PartitionSpec())
    return NamedSharding(mesh, PartitionSpec(*[None] * wide[-1], MODEL))


def _batches(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec(None, DATA))


# Moving


def _put(tree: T, sharding: Callable[[Any, Any], NamedSharding]) -> T:
    """Arrays that every process has whole, on the devices of their shardings."""

    def put(path: Any, leaf: Any) -> jax.Array:
        there = sharding(path, leaf)
        if not processes.several():
            return jax.device_put(leaf, there)

        def place_data(data: Any) -> jax.Array:
            value = np.asarray(data)
            return jax.make_array_from_callback(value.shape, there, lambda index: value[index])

        return _on_data(place_data, leaf)

    return jax.tree_util.tree_map_with_path(put, tree)


def _from_first(tree: T) -> T:
    """The arrays of process 0, in every process."""
    return _on_data(multihost_utils.broadcast_one_to_all, tree)


@functools.cache
def _replicator(mesh: Mesh) -> Callable[[Any], Any]:
    return jax.jit(lambda tree: tree, out_shardings=NamedSharding(mesh, PartitionSpec()))


def _on_data(function: Callable[[Any], Any], tree: T) -> T:
    """The function of every array, of random keys of what they consist of."""

    def apply(leaf: Any) -> Any:
        if not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return function(leaf)
        data = function(jax.random.key_data(leaf))
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))

    return jax.tree.map(apply, tree)
