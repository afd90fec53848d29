"""An existing NNX model made selective, and back; labels that tell selection from weights.

Only what a model holds as an attribute can be replaced: an inline `nnx.relu(x)` is invisible.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from smartmixed_jax.nnx import MixedActivation, RngSource, SelectiveActivation
from smartmixed_jax.pools import PAPER_POOL, ActivationPool, leaky_relu

ModuleType = TypeVar("ModuleType", bound=nnx.Module)

HIDDEN_ACTIVATIONS: tuple[Callable[..., Any], ...] = (
    jax.nn.relu,
    jax.nn.relu6,
    jax.nn.leaky_relu,
    leaky_relu,
    jax.nn.elu,
    jax.nn.celu,
    jax.nn.selu,
    jax.nn.gelu,
    jax.nn.silu,
    jax.nn.hard_silu,
    jax.nn.mish,
    jax.nn.softplus,
    jax.nn.soft_sign,
    jax.nn.squareplus,
    jnp.tanh,
    jax.lax.tanh,
    jax.nn.hard_tanh,
)
"""What `select_activations` replaces: functions of hidden layers, no gates and no outputs."""

_GATES = (
    jax.nn.sigmoid,
    jax.nn.hard_sigmoid,
    jax.nn.log_sigmoid,
    jax.nn.softmax,
    jax.nn.log_softmax,
)


def select_activations(
    model: ModuleType,
    *inputs: Any,
    pool: ActivationPool = PAPER_POOL,
    functions: Iterable[Callable[..., Any]] = HIDDEN_ACTIVATIONS,
    where: Callable[[str, Callable[..., Any]], bool] | None = None,
    call: Callable[..., Any] | None = None,
    report: Callable[[str], Any] | None = print,
    rngs: RngSource,
    keep_rngs: bool = True,
    **options: Any,
) -> ModuleType:
    """A new model in which the activation functions of a model are SelectiveActivations.

    Replaced is a function that the model, or a module in it, holds as an attribute: `self.act =
    nnx.relu`, an element of `nnx.Sequential`, of a list, tuple or dictionary (these become
    `nnx.List` and `nnx.Dict`), the `activation_fn` of `nnx.LSTMCell`; also as a
    `functools.partial` or under `jax.jit`. Each becomes one layer with its own initial logits and
    its own noise; called several times, it stays one layer and draws anew at each call. The
    weights are new Variables that hold the same arrays; the input model stays intact, and is run
    only abstractly, in evaluation mode, to learn each layer's width.

    Args:
        model: the model.
        inputs: example inputs, arrays or `jax.ShapeDtypeStruct`s; other values are passed as is.
        pool: K functions to choose from.
        functions: what counts as an activation: relu, relu6, leaky_relu, elu, celu, selu, gelu,
            silu, hard_silu, mish, softplus, soft_sign, squareplus, tanh, hard_tanh. Gates and
            outputs (sigmoid, softmax) do not. For yours, `(*HIDDEN_ACTIVATIONS, my_function)`.
        where: `where(path, function)` says whether to replace it, path as in `summarize`.
        call: `call(model, *inputs)` runs the model; None: `model(*inputs)`.
        report: called with one line per function replaced, and per function left alone and why;
            None: silent.
        rngs: draws the initial logits, and the streams of the layers.
        keep_rngs: each layer holds its stream, as models call `act(x)` and pass nothing. In NNX's
            tree mode `nnx.grad` takes no model that holds rngs (`nnx.Dropout(rngs=...)` neither):
            differentiate `nnx.split`'s parameters there, or take an estimator without noise
            (`estimators.straight_through`) and keep_rngs=False. Under `nnx.RNN` a layer draws at
            every time step; `nnx.RNN(cell, broadcast_rngs=nnx.RngState)` makes one draw, new in
            every call, serve the sequence.
        options: of every SelectiveActivation: `estimator`, `temperature`, `axis`, `groups`, ….
            Call again with another `where` for layers that need others.

    Raises:
        ValueError: nothing to replace; a function is called at two widths; the converted model
            does not run (layers stacked by `nnx.vmap` do not).

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from smartmixed_jax import select_activations
        >>> rngs = nnx.Rngs(0)
        >>> linear = nnx.Linear(4, 8, rngs=rngs)
        >>> model = nnx.Sequential(linear, nnx.relu, nnx.Linear(8, 2, rngs=rngs), nnx.softmax)
        >>> selective = select_activations(model, jnp.ones((1, 4)), rngs=rngs)
        layers.1: relu, now selective, 8 neurons on axis -1
        layers.3: softmax left alone: a gate or an output, name it in functions to replace it
        >>> selective(jnp.ones((1, 4))).shape
        (1, 2)
    """
    if not isinstance(model, nnx.Module):
        raise TypeError(f"select_activations: model must be an nnx.Module, got {model!r:.60}")
    known = tuple(functions)
    axis = options.get("axis", -1)
    call = _call if call is None else call
    recorders = _recorded(model, call, inputs)
    result = nnx.clone(model)
    lines, layers = [], {}
    for place, recorder in zip(_places(result), recorders, strict=True):
        taken = _is_one_of(recorder.function, known)
        if not taken and not recorder.shapes:
            continue  # an initializer, a dot_general, …: nothing that could be an activation
        reason = _reason(place.path, recorder, taken, where)
        line = f"{place.path}: {_name(recorder.function)}"
        if reason:
            lines.append(f"{line} left alone: {reason}")
            continue
        width = _width(place.path, recorder.shapes, axis)
        layers[place] = SelectiveActivation(width, pool, rngs=rngs, keep_rngs=keep_rngs, **options)
        lines.append(f"{line}, now selective, {width} neurons on axis {axis}")
    if not layers:
        raise ValueError(_nothing_found(model, lines))
    _put(layers)
    try:
        _run(result, call, inputs)
    except Exception as error:
        raise ValueError(
            f"select_activations: the converted {type(model).__name__} does not run with the "
            f"example inputs (layers stacked by nnx.vmap cannot be converted): {error}"
        ) from error
    if report is not None:
        for line in lines:
            report(line)
    return result


# Where a model holds functions


@dataclasses.dataclass(frozen=True, eq=False)
class _Place:
    """A function in a model: holder.attribute, or inside the container that is held there."""

    path: str
    holder: nnx.Pytree
    attribute: str
    keys: tuple[Any, ...]
    function: Callable[..., Any]


def _places(model: nnx.Module) -> list[_Place]:
    """The functions that the modules of a model hold, each once, in an order of their names."""
    seen: set[int] = set()

    def within(path: tuple[Any, ...], holder: Any, attribute: str, keys: Any, value: Any):
        if isinstance(value, nnx.Pytree):
            yield from walk(path, value)
        elif isinstance(value, list | tuple):
            for index, item in enumerate(value):
                yield from within((*path, index), holder, attribute, (*keys, index), item)
        elif isinstance(value, dict) and all(isinstance(key, str) for key in value):
            for key in sorted(value):
                yield from within((*path, key), holder, attribute, (*keys, key), value[key])
        elif callable(value) and not isinstance(value, type | nnx.Variable):
            yield _Place(".".join(map(str, path)), holder, attribute, keys, value)

    def walk(path: tuple[Any, ...], node: nnx.Pytree) -> Iterator[_Place]:
        if id(node) in seen or isinstance(node, SelectiveActivation | MixedActivation):
            return
        seen.add(id(node))
        # Sorted, because the two modes of NNX copy attributes in different orders.
        names = (name for name in vars(node) if not name.startswith("_pytree__"))
        for name in sorted(names, key=lambda name: (len(name) if name.isdigit() else 0, name)):
            yield from within((*path, name), node, name, (), vars(node)[name])

    return list(walk((), model))


def _put(values: dict[_Place, Any]) -> None:
    """Puts a value into each place; a container that gets a module becomes NNX's."""
    attributes: dict[tuple[int, str], list[_Place]] = {}
    for place in values:
        attributes.setdefault((id(place.holder), place.attribute), []).append(place)
    for places in attributes.values():
        holder, attribute = places[0].holder, places[0].attribute
        replaced = {place.keys: values[place] for place in places}
        value = _rebuilt(vars(holder)[attribute], (), replaced)
        # The attribute was static; a module is data.
        setattr(holder, attribute, nnx.data(value) if nnx.is_data(value) else value)


def _rebuilt(value: Any, keys: tuple[Any, ...], replaced: dict[tuple[Any, ...], Any]) -> Any:
    if keys in replaced:
        return replaced[keys]
    if isinstance(value, list | tuple):
        items = [_rebuilt(item, (*keys, i), replaced) for i, item in enumerate(value)]
        if any(map(nnx.is_data, items)):
            return nnx.List(items)
        return items if isinstance(value, list) else tuple(items)
    if isinstance(value, dict):
        pairs = {key: _rebuilt(item, (*keys, key), replaced) for key, item in value.items()}
        return nnx.Dict(pairs) if any(map(nnx.is_data, pairs.values())) else pairs
    return value


def _is_one_of(function: Any, known: tuple[Any, ...]) -> bool:
    while function is not None:
        for candidate in known:
            if function is candidate:
                return True
            if isinstance(candidate, type) and isinstance(function, candidate):
                return True
        if isinstance(function, functools.partial):
            function = function.func
        else:
            function = getattr(function, "__wrapped__", None)
    return False


# What they are called with


class _Recorder:
    """A function that notes the shapes it is applied to."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.shapes: list[tuple[int, ...]] = []
        self.called_otherwise = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        y = self.function(*args, **kwargs)
        x = args[0] if len(args) == 1 and not kwargs else None
        if isinstance(x, jax.Array) and isinstance(y, jax.Array) and x.shape == y.shape:
            self.shapes.append(x.shape)
        else:
            self.called_otherwise = True
        return y

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["function"], name)


def _recorded(
    model: nnx.Module, call: Callable[..., Any], inputs: tuple[Any, ...]
) -> list[_Recorder]:
    """A recorder for each of `_places(model)`, after a run of the model."""
    copy = nnx.clone(model)
    recorders = {place: _Recorder(place.function) for place in _places(copy)}
    _put(recorders)
    _run(copy, call, inputs)
    return list(recorders.values())


def _run(model: nnx.Module, call: Callable[..., Any], inputs: tuple[Any, ...]) -> None:
    """Runs the model in evaluation mode, abstractly: nothing is computed, no state changes."""
    leaves, structure = jax.tree.flatten(inputs, is_leaf=lambda v: isinstance(v, nnx.Pytree))
    arrays = {i: leaf for i, leaf in enumerate(leaves) if _is_traced(leaf)}

    def run(model: nnx.Module, arrays: dict[int, Any]) -> Any:
        merged = [arrays.get(i, leaf) for i, leaf in enumerate(leaves)]
        call(model, *jax.tree.unflatten(structure, merged))

    model = nnx.view(model, deterministic=True, raise_if_not_found=False)
    nnx.eval_shape(run, model, arrays)


def _call(model: Any, *inputs: Any) -> Any:
    return model(*inputs)


def _is_traced(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray | jax.ShapeDtypeStruct | nnx.Pytree)


def _reason(
    path: str, recorder: _Recorder, taken: bool, where: Callable[[str, Any], bool] | None
) -> str | None:
    """Why a function is left alone; None if it is to be replaced."""
    if not taken:
        kind = "a gate or an output" if _is_one_of(recorder.function, _GATES) else "unknown"
        return f"{kind}, name it in functions to replace it"
    if where is not None and not where(path, recorder.function):
        return "excluded by where"
    if recorder.called_otherwise:
        return "not called as f(x) with one array"
    return None if recorder.shapes else "not called with the example inputs"


def _width(path: str, shapes: list[tuple[int, ...]], axis: int) -> int:
    for shape in shapes:
        if not -len(shape) <= axis < len(shape):
            raise ValueError(
                f"select_activations: {path}: axis {axis} is out of range for x{list(shape)}"
            )
    widths = {shape[axis]: shape for shape in shapes}
    if len(widths) > 1:
        seen = " and ".join(f"{width} (x{list(shape)})" for width, shape in widths.items())
        raise ValueError(
            f"select_activations: {path} is called at different widths on axis {axis}: {seen}; "
            "give each width an attribute of its own"
        )
    return next(iter(widths))


def _nothing_found(model: nnx.Module, lines: list[str]) -> str:
    left = "".join(f"\n  {line}" for line in lines)
    return (
        f"select_activations: {type(model).__name__} holds no activation function as an attribute "
        "that can be replaced. A call inside a method cannot be seen; make it an attribute:\n"
        "  in __init__  + self.act = nnx.relu\n"
        "  in __call__  - x = nnx.relu(x)\n"
        f"               + x = self.act(x){left}"
    )


def _name(function: Any) -> str:
    if isinstance(function, functools.partial):
        return _name(function.func)
    return getattr(function, "__name__", None) or f"{function!r:.60}"
