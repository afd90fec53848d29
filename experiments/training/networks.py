"""The network of every method, the switch between the phases, choices as data.

Outside of training a fixed layer is the library's MixedActivation, its table static. Compiled
programs take the choices as data instead, so that all seeds and controls share one compilation;
the values are the same to the bit, because the library evaluates every table with the same code.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.config import Config, check_method
from experiments.data import gradients
from experiments.data.task import Task
from experiments.data.tasks import outputs_of
from experiments.names import layer_names
from experiments.run_folder import TaskRecord
from experiments.training.keys import INIT, SWITCH, make_key
from experiments.training.memory import require_memory
from experiments.training.models import NETWORKS, PReLU
from experiments.training.user_network import build_user_network, call, require_trainable
from smartmixed_jax import (
    MLP,
    Coefficients,
    FunctionTable,
    MixedActivation,
    SelectiveActivation,
    coefficients,
    estimators,
    fix_choices,
)
from smartmixed_jax.models import ActivationFactory, uniform
from smartmixed_jax.types import Activation


@dataclasses.dataclass(frozen=True)
class Clamped:
    """function clipped to [−limit, limit]: the clamp of the published code."""

    function: Activation
    limit: float

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.clip(self.function(x), -self.limit, self.limit)

    @property
    def coefficients(self) -> Coefficients | None:
        """For the fused form, where clipping the output is clipping the input."""
        formula = coefficients(self.function)
        # Only monotone functions that are linear wherever |f| > 2 have `slope`, so that clipping x
        # clips f.
        if formula is None or formula.slope is None or formula.n_x < 0 or self.limit < 2:
            return None
        high, low = formula.high, formula.low
        if formula.p_x:
            high = min(high, self.limit / formula.p_x)
        if formula.n_x:
            low = max(low, -self.limit / formula.n_x)
        return formula._replace(high=high, low=low, slope=None)


Network = Any
"""An nnx.Module, called on x [B, ...] with rngs."""


def build_model(config: Config, task: Task | TaskRecord, phase_index: int = 0) -> Network:
    """The network of a method, freshly initialised for a phase; equal seeds give equal weights."""
    if config.is_layered:
        return _layered_model(config, task, phase_index)
    if config.has_user_network:
        layer = _layer_options(config) if config.has_choices else {}
        function = None if config.has_choices else _uniform_function(config)
        return build_user_network(config, task, phase_index, function, **layer)
    rngs = nnx.Rngs(params=make_key(config.seed, phase_index, INIT))
    activation, dtype = _activation(config), jnp.dtype(config.dtype)
    if config.network in NETWORKS:
        build = NETWORKS[config.network].build
        return build(task.shape, task.out_features, activation=activation, dtype=dtype, rngs=rngs)
    linear = _torch_linear if config.initialization == "torch" else _normal_linear
    model = MLP(
        math.prod(task.shape),
        config.widths,
        task.out_features,
        activation=activation,
        linear=functools.partial(linear, dtype=dtype),
        rngs=rngs,
    )
    # The outputs are differences of large sums: a loss of bfloat16 outputs would be 8 bits wide.
    model.layers[-1].dtype = jnp.dtype("float32")
    return model


def require_fit(config: Config, task: Task) -> None:
    """Raises ValueError for a network that cannot take the inputs of the task, or needs too much
    memory.

    And for a pool or network of the user's that cannot be had, or does not fit the method.
    """
    check_method(config)
    build = functools.partial(build_model, config, task)
    if config.has_user_network:
        if config.dtype != "float32":
            raise ValueError(
                f"dtype = {config.dtype!r}: expected float32 for a network of the user's"
            )
        pool = _layer_options(config)["pool"] if config.has_choices else None
        require_memory(config, task, build, functools.partial(apply, config, task.scale))
        require_trainable(
            build(), config, pool, functools.partial(run_network, config, task.scale), task
        )
        return
    kind = "text" if task.takes_tokens else "images" if task.has_images else ""
    fitting = [] if task.takes_tokens else ["mlp"]
    fitting += [name for name, network in NETWORKS.items() if network.inputs == kind]
    if config.network not in fitting:
        expected = " or ".join([*fitting, "MODULE:NAME"])
        raise ValueError(f"network = {config.network!r}: expected {expected} for {task.name}")
    require_memory(config, task, build, functools.partial(apply, config, task.scale))


def apply(
    config: Config, scale: float | None, model: Any, inputs: jax.Array, key: jax.Array
) -> jax.Array:
    """Raw inputs of a `Split` → outputs [B, ..., out_features]; the key draws the choices.

    Of an equation to solve: the solution and the residual, [B, 2]; with `derivative_weight` the
    value and its derivatives by the inputs, [B, 1 + d].

    Args:
        scale: of the task.
    """
    outputs = outputs_of(config.task)
    if outputs is None and not config.derivative_weight:
        return run_network(config, scale, model, inputs, key)
    graphdef, state = nnx.split(model)

    def network(x: jax.Array) -> jax.Array:
        return run_network(config, scale, nnx.merge(graphdef, state), x, key)[:, 0]

    if outputs is None:
        return gradients.outputs(network, inputs, config.derivative_weight)
    return outputs(network, inputs)


def run_network(
    config: Config, scale: float | None, model: Any, inputs: jax.Array, key: jax.Array
) -> jax.Array:
    """`apply` without what the task makes of the outputs: those of the network itself."""
    inputs = inputs.astype(jnp.int32) if scale is None else inputs.astype(jnp.float32) / scale
    if config.has_user_network:
        return call(model, inputs, key)
    if config.network == "mlp":
        inputs = inputs.reshape(inputs.shape[0], -1)
    return model(inputs, rngs=nnx.Rngs(selection=key))


def _activation(config: Config) -> ActivationFactory:
    if config.method == "prelu":
        return PReLU
    if config.is_uniform:
        return uniform(_uniform_function(config))
    return functools.partial(SelectiveActivation, **_layer_options(config))


def _layer_options(config: Config) -> dict[str, Any]:
    """Keywords of the selective layers."""
    pool, start, draws = config.activation_pool, config.start_function, config.draws_of_batch
    if config.clamp:
        pool = pool.map(lambda name, function: Clamped(function, config.clamp))
    return {
        "pool": pool,
        "estimator": getattr(estimators, config.estimator),
        "temperature": config.temperature,
        "draws": "example" if draws == config.batch_size > 1 else draws,
        "start": (start, config.start_probability) if start else None,
        "dtype": jnp.dtype(config.dtype),
    }


def _uniform_index(config: Config) -> int:
    return config.activation_pool.index(config.method.removeprefix("uniform:"))


def _uniform_function(config: Config) -> Activation:
    return config.activation_pool.functions[_uniform_index(config)]


def _normal_linear(din: int, dout: int, *, dtype: Any, rngs: nnx.Rngs) -> nnx.Linear:
    init = nnx.initializers.variance_scaling(1.0, "fan_in", "normal")
    return nnx.Linear(din, dout, kernel_init=init, dtype=dtype, rngs=rngs)


def _torch_linear(din: int, dout: int, *, dtype: Any, rngs: nnx.Rngs) -> nnx.Linear:
    """PyTorch's default: kernel and bias from U(−1/√din, 1/√din)."""

    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        bound = 1 / math.sqrt(din)
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return nnx.Linear(din, dout, kernel_init=init, bias_init=init, dtype=dtype, rngs=rngs)


# The switch


def switch(model: Network, config: Config, task: Task, dropped: Container[str] = ()) -> Network:
    """Phase 1's model → phase 2's: the choices fixed, the weights carried or reinitialized.

    Args:
        dropped: paths of layers that return to the function `start`.
    """
    fixed = fix_choices(model)
    rng = np.random.default_rng([config.seed, SWITCH])
    for path, layer in fixed_layers(fixed).items():
        learned = np.asarray(layer.table.choices)
        if path in dropped:
            learned = np.full_like(learned, _start_index(config))
        # The unclamped pool: the published code clamps in phase 1 only.
        choices = _control(config.control, learned, config, rng)
        layer.table = FunctionTable(config.activation_pool, choices)
    if not config.carry_weights:
        tables = [layer.table.choices for layer in fixed_layers(fixed).values()]
        return mixed_model(config, task, tables, phase_index=1)
    return fixed


def fixed_layers(model: Network) -> dict[str, MixedActivation]:
    """The fixed layers by their paths, in the order in which a checkpoint keeps their choices."""
    return {
        ".".join(map(str, path)): layer
        for path, layer in nnx.iter_modules(model)
        if isinstance(layer, MixedActivation)
    }


def _control(
    kind: str, choices: np.ndarray, config: Config, rng: np.random.Generator
) -> np.ndarray:
    """The learned choices [N] of a layer, or what a control puts in their place."""
    if kind == "shuffled":
        return rng.permutation(choices)
    if kind == "random":
        return rng.integers(len(config.activation_pool), size=choices.shape)
    if kind == "majority":
        return np.full_like(choices, np.argmax(np.bincount(choices)))
    return choices


def mixed_model(
    config: Config,
    task: Task | TaskRecord,
    choices: Sequence[Sequence[int]],
    phase_index: int = 0,
) -> Network:
    """A network with given choices per layer, its weights freshly initialised for a phase."""
    selective = dataclasses.replace(config, method="two_phase", clamp=0.0)
    model = fix_choices(build_model(selective, task, phase_index))
    for layer, of_layer in zip(fixed_layers(model).values(), choices, strict=True):
        layer.table = FunctionTable(config.activation_pool, of_layer)
    return model


def _layered_model(config: Config, task: Task | TaskRecord, phase_index: int) -> Network:
    """A network with one function per layer, its weights those of a selective one."""
    selective = dataclasses.replace(config, method="two_phase", clamp=0.0)
    model = build_model(selective, task, phase_index)
    paths = {
        ".".join(map(str, path))
        for path, layer in nnx.iter_modules(model)
        if isinstance(layer, SelectiveActivation)
    }
    pool, names = config.activation_pool, layer_names(config.network, paths)
    if len(config.layer_functions) != len(names):
        raise ValueError(
            f"method = {config.method!r}: {len(config.layer_functions)} functions, expected "
            f"{len(names)}, for {', '.join(names.values())}"
        )
    functions = dict(zip(names, config.layer_functions, strict=True))

    def replace(path: Any, node: Any) -> Any:
        if not isinstance(node, SelectiveActivation):
            return node
        index = pool.index(functions[".".join(map(str, path))])
        table = FunctionTable(pool, [index] * node.features)
        return MixedActivation(table, axis=node.axis, dtype=node.dtype)

    return nnx.recursive_map(replace, model)


def uniform_as_mixed(config: Config, task: Task) -> Network:
    """The network of `uniform:NAME` as a mixed one whose neurons all have that function.

    Slower than the function itself, but all uniform methods are then one program.
    """
    selective = dataclasses.replace(config, method="two_phase", clamp=0.0)
    layers = fixed_layers(fix_choices(build_model(selective, task)))
    index = _uniform_index(config)
    return mixed_model(config, task, [[index] * len(layer.table) for layer in layers.values()])


def compare_with_start(
    model: Network, config: Config, loss: Callable[[Network], float]
) -> dict[str, Any]:
    """What the learned choices are worth beside the function `start` everywhere.

    The weights are phase 1's in every comparison. Layer by layer, in their order, the choices of
    one that do not lower the loss return to `start`.

    Args:
        model: of phase 1.
        loss: of a fixed network, on data that neither weights nor logits were trained on.

    Returns:
        function: `start`. moved: neurons that chose another. learned, start, kept: the loss with
        the learned choices, with none, and with those of the layers that are kept. without: by
        layer, the loss when it returns to `start` too. dropped: the layers that are not kept.
    """
    fixed = fix_choices(nnx.view(model, deterministic=True, raise_if_not_found=False))
    layers = fixed_layers(fixed)
    pool, index = config.activation_pool, _start_index(config)
    learned = {path: layer.table for path, layer in layers.items()}
    start = {path: FunctionTable(pool, [index] * len(t)) for path, t in learned.items()}

    def loss_of(tables: Mapping[str, FunctionTable]) -> float:
        for path, layer in layers.items():
            layer.table = tables[path]
        return loss(fixed)

    moved = [path for path in learned if learned[path] != start[path]]
    kept, without = dict(learned), {}
    begun = lowest = loss_of(learned)
    for path in moved:
        without[path] = loss_of({**kept, path: start[path]})
        if without[path] <= lowest:
            lowest, kept[path] = without[path], start[path]
    nothing = loss_of(start)
    if nothing <= lowest:
        lowest, kept = nothing, start
    return {
        "function": pool.names[index],
        "moved": sum(choice != index for table in learned.values() for choice in table.choices),
        "learned": begun,
        "start": nothing,
        "kept": lowest,
        "without": without,
        "dropped": [path for path in moved if kept[path] == start[path]],
    }


def _start_index(config: Config) -> int:
    assert config.start_function is not None
    return config.activation_pool.index(config.start_function)


# Choices as data


def choices_as_data(model: Any) -> Any:
    """A model that shares its arrays with the given one, the choices of fixed layers Variables."""

    def replace(path: Any, node: Any) -> Any:
        if not isinstance(node, MixedActivation) or node.table is None:
            return node
        return MixedActivation(node.table, axis=node.axis, dtype=node.dtype, static=False)

    return nnx.recursive_map(replace, nnx.clone(model))
