"""A network of the user's: a factory MODULE:NAME, its selective layers wherever it holds them."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.config import Config
from experiments.data.task import Task
from experiments.importing import load_object, one_line
from experiments.run_folder import TaskRecord
from experiments.training.keys import ACTIVATION, INIT, make_key
from smartmixed_jax import ActivationPool, SelectiveActivation
from smartmixed_jax.pools import Activation


class UniformActivation(nnx.Module):
    """One function for every neuron, called as a selective layer is."""

    def __init__(self, function: Activation) -> None:
        self.function = function

    def __call__(self, x: jax.Array, *, rngs: Any = None) -> jax.Array:
        """x [..., N] → [..., N]."""
        return self.function(x)


def build_user_network(
    config: Config,
    task: Task | TaskRecord,
    phase_index: int,
    function: Activation | None,
    **layer: Any,
) -> nnx.Module:
    """What the user's factory returns, called as (input_shape, out_features, activation, rngs).

    Args:
        config, task, phase_index: as for `build_model`.
        function: of every neuron, in a uniform network; None: the neurons choose.
        layer: keywords of SelectiveActivation.

    Raises:
        ValueError: the factory cannot be imported, fails, or returns no nnx.Module.
    """
    factory = load_object("network", config.network)
    # A stream of their own: networks that differ only in the activation start from equal weights.
    streams = nnx.Rngs(make_key(config.seed, phase_index, ACTIVATION))

    def activation(features: int, *, rngs: Any = None) -> nnx.Module:
        if function is not None:
            return UniformActivation(function)
        # Kept, so that the model may call act(x) as well as act(x, rngs=rngs).
        return SelectiveActivation(features, keep_rngs=True, rngs=streams, **layer)

    rngs = nnx.Rngs(make_key(config.seed, phase_index, INIT))
    arguments = {
        "input_shape": task.shape,
        "out_features": task.out_features,
        "activation": activation,
        "rngs": rngs,
    }
    try:
        if arguments.keys() <= inspect.signature(factory).parameters.keys():
            model = factory(**arguments)
        else:
            model = factory(*arguments.values())
    except Exception as error:  # whatever the user's factory raises
        raise ValueError(
            f"network = {config.network!r} fails as a function of {', '.join(arguments)} "
            f"({one_line(error)})"
        ) from error
    if not isinstance(model, nnx.Module):
        raise ValueError(
            f"network = {config.network!r} returns {type(model).__name__}, expected an nnx.Module"
        )
    return model


def require_trainable(
    model: nnx.Module,
    config: Config,
    pool: ActivationPool | None,
    run: Callable[[nnx.Module, jax.Array, jax.Array], jax.Array],
    task: Task,
) -> None:
    """Raises ValueError for a network that cannot be trained on the task.

    Args:
        model: as `build_user_network` returned it.
        pool: of its selective layers; None for a uniform network.
        run: (model, raw inputs, key) → outputs.
    """
    name = f"network = {config.network!r}"
    layers = {
        ".".join(map(str, path)): layer
        for path, layer in nnx.iter_modules(model)
        if isinstance(layer, SelectiveActivation)
    }
    if pool is not None and not layers:
        raise ValueError(
            f"{name} holds no selective layer: it makes them by activation(features, rngs=rngs) "
            "and keeps them as attributes; without any, --method uniform:NAME trains it"
        )
    for path, layer in layers.items():
        if layer.pool != pool or layer.groups is not None or layer.logits[...].ndim != 2:
            raise ValueError(
                f"{name}: the layer {path} is not as activation(features, rngs=rngs) makes it: "
                "expected the functions of --pool, no groups, no nnx.vmap or nnx.scan"
            )
    graphdef, state = nnx.split(model)
    rows = max(2, config.draws_of_batch)  # a draw of choices needs an example
    inputs = jax.ShapeDtypeStruct((rows, *task.shape), task.splits["train"].inputs.dtype)
    try:
        outputs = jax.eval_shape(
            lambda state, x, key: run(nnx.merge(graphdef, state, copy=True), x, key),
            *(state, inputs, jax.random.key(0)),
        )
    except Exception as error:  # whatever the user's model raises
        raise ValueError(
            f"{name} fails on inputs {list(inputs.shape)} ({one_line(error)})"
        ) from error
    shape = (*inputs.shape[: 1 + task.takes_tokens], task.out_features)
    is_array = isinstance(outputs, jax.ShapeDtypeStruct)
    if not is_array or outputs.shape != shape or not jnp.issubdtype(outputs.dtype, np.floating):
        found = f"{outputs.dtype} {list(outputs.shape)}" if is_array else type(outputs).__name__
        raise ValueError(
            f"{name} returns {found} for inputs {list(inputs.shape)}, expected floats {list(shape)}"
        )


def call(model: Any, x: jax.Array, key: jax.Array) -> jax.Array:
    """Outputs of the model, its dropout and its selective layers drawing with the key.

    The model is called as `model(x, rngs=rngs)` if it takes rngs, else as `model(x)`; streams that
    it keeps are set to begin with the key.
    """
    kept = nnx.to_flat_state(nnx.state(model, nnx.RngState))
    if kept:
        fresh = [
            (path, variable.replace(_begun(variable, jax.random.fold_in(key, number))))
            for number, (path, variable) in enumerate(kept)
        ]
        nnx.update(model, nnx.from_flat_state(fresh))
    parameters = inspect.signature(model.__call__).parameters.values()
    if any(p.name == "rngs" or p.kind == p.VAR_KEYWORD for p in parameters):
        return model(x, rngs=nnx.Rngs(jax.random.fold_in(key, len(kept))))
    return model(x)


def _begun(variable: nnx.Variable, key: jax.Array) -> jax.Array:
    """The key or the count of a stream at its beginning, alike for stacked streams."""
    value = variable.get_value()
    if isinstance(variable, nnx.RngCount):
        return jnp.zeros_like(value)
    return jax.random.split(key, value.shape) if value.shape else key
