"""An NNX model that you have, made selective: its activation functions become layers.

Only what a model holds can be replaced: as an attribute, in a container or in a dataclass config. A
call inside a method, `nnx.relu(x)`, cannot; the report names its line.
"""

import ast
import dataclasses
import functools
import inspect
import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from smartmixed_jax import _checks
from smartmixed_jax._fused import coefficients
from smartmixed_jax.mixture import apply_choices
from smartmixed_jax.nnx import MixedActivation, ModuleType, RngSource, SelectiveActivation
from smartmixed_jax.pools import PAPER_POOL, ActivationPool, leaky_relu

_LOGGER = logging.getLogger("smartmixed_jax")

HIDDEN_ACTIVATIONS: tuple[Callable[..., Any], ...] = (
    jax.nn.relu, jax.nn.relu6, jax.nn.leaky_relu, leaky_relu, jax.nn.elu, jax.nn.celu, jax.nn.selu,
    jax.nn.gelu, jax.nn.silu, jax.nn.hard_silu, jax.nn.mish, jax.nn.softplus, jax.nn.soft_sign,
    jax.nn.squareplus, jnp.tanh, jax.lax.tanh, jax.nn.hard_tanh,
)  # fmt: skip
"""What `select_activations` replaces: functions of hidden layers, no gates and no outputs."""

_GATES = (jax.nn.sigmoid, jax.nn.hard_sigmoid, jax.nn.log_sigmoid,
          jax.nn.softmax, jax.nn.log_softmax)  # fmt: skip


def select_activations(
    model: ModuleType,
    *inputs: Any,
    pool: ActivationPool = PAPER_POOL,
    start: float | None = 0.9,
    functions: Iterable[Callable[..., Any]] = HIDDEN_ACTIVATIONS,
    where: Callable[[str, Callable[..., Any]], bool] | None = None,
    call: Callable[..., Any] | None = None,
    report: Callable[[str], Any] | None = _LOGGER.info,
    rngs: RngSource,
    keep_rngs: bool = True,
    **options: Any,
) -> ModuleType:
    """A new model in which the activation functions of a model are SelectiveActivations.

    Replaced is a function that the model, or a module in it, holds: as an attribute, `self.act =
    nnx.relu`, as the `activation_fn` of `nnx.LSTMCell`, in `nnx.Sequential`, in a list, tuple or
    dictionary (these become `nnx.List` and `nnx.Dict`), in a dataclass config (it becomes a
    `ConfigProxy`, one for each module that holds it); also as a `functools.partial` or under
    `jax.jit`. Each becomes one layer with its own logits and its own noise; called several times,
    it stays one layer, with a draw for each call. Called at several widths, it becomes an
    `ActivationByWidth`, a layer for each. The weights are new Variables that hold the same arrays;
    the input model stays intact, and is run only abstractly, in evaluation mode, to learn the
    widths.

    By default the converted model starts from the given one, trained or not: every neuron favours
    the function that stood there, so the deterministic outputs (`model.eval()`) are the same up to
    rounding: in float32 each layer is within 1e-6 · max(1, |y|). With `pool.with_form("general")`
    each layer computes the very function, and compiled models agree bit for bit, unless XLA
    contracts a product and a sum in one of them and not in the other, as it does on a CPU for exact
    gelu, squareplus and the update of a GRU.

    Args:
        model: the model.
        inputs: example inputs, arrays or `jax.ShapeDtypeStruct`s; other values are passed as is.
        pool: K functions to choose from.
        start: each neuron's probability, in (1/K, 1), of the function that stood there. One that
            is not in the pool joins it, in that layer, as the last one. None: the pool as it is,
            and the paper's start.
        functions: what counts as an activation: relu, relu6, leaky_relu, elu, celu, selu, gelu,
            silu, hard_silu, mish, softplus, soft_sign, squareplus, tanh, hard_tanh. Gates and
            outputs (sigmoid, softmax) do not. For yours, `(*HIDDEN_ACTIVATIONS, my_function)`.
        where: `where(path, function)` says whether to replace it, path as in `summarize`.
        call: `call(model, *inputs)` runs the model; None: `model(*inputs)`.
        report: called with one line per function replaced, per function left alone and why, and
            per inline call; None: silent. By default these go to Python's logger "smartmixed_jax"
            at level INFO.
        rngs: draws the initial logits, and the streams of the layers.
        keep_rngs: each layer holds its stream, as models call `act(x)` and pass nothing. In NNX's
            tree mode `nnx.grad` takes no model that holds rngs (`nnx.Dropout(rngs=...)` neither):
            differentiate `nnx.split`'s parameters there, or take an estimator without noise
            (`estimators.straight_through`) and keep_rngs=False. `jax.vmap(model)` and
            `jax.hessian(model)` need rngs made inside, `nnx.view(model, deterministic=True)`, or
            `nnx.vmap` with `nnx.StateAxes`. Under `nnx.RNN` a layer draws at every time step;
            `nnx.RNN(cell, broadcast_rngs=nnx.RngState)` makes one draw, new in every call, serve
            the sequence.
        options: of every SelectiveActivation: `estimator`, `temperature`, `axis`, `groups`, ….
            Call again with another `where` for layers that need others.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: nothing to replace; a start outside (1/K, 1); a function that is not
            elementwise; the converted model does not run (layers stacked by `nnx.vmap` do not).

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from smartmixed_jax import select_activations
        >>> rngs = nnx.Rngs(0)
        >>> linear = nnx.Linear(4, 8, rngs=rngs)
        >>> model = nnx.Sequential(linear, nnx.gelu, nnx.Linear(8, 2, rngs=rngs), nnx.softmax)
        >>> selective = select_activations(model, jnp.ones((1, 4)), rngs=rngs, report=print)
        layers.1: gelu, now selective, 8 neurons on axis -1; gelu joined the pool
        layers.3: softmax left alone: a gate or an output, name it in functions to replace it
        >>> selective.eval()                            # no noise: the model as it was
        >>> jnp.allclose(selective(jnp.ones((1, 4))), model(jnp.ones((1, 4))))
        Array(True, dtype=bool)
    """
    known = tuple(functions) if isinstance(functions, Iterable) else (functions,)
    _checks.check("select_activations", model=model, where=where, call=call, report=report)
    for function in known:
        _checks.check("select_activations", functions=function)
    call = call or (lambda model, *inputs: model(*inputs))
    options.update(rngs=rngs, keep_rngs=keep_rngs)
    recorders = _recorded(model, call, inputs)
    result = nnx.clone(model)
    lines, layers = [], {}
    for place, recorder in zip(_places(result), recorders, strict=True):
        taken = _is_one_of(place.function, known)
        if not recorder.inputs and (not taken or place.in_config):
            # Nothing that could be an activation; or of a config that other modules hold too.
            continue
        line = f"{place.path}: {_name(place.function)}"
        if reason := _reason(place.path, recorder, taken, where):
            lines.append(f"{line} left alone: {reason}")
            continue
        layers[place], text = _converted(place, recorder.inputs, pool, start, options)
        lines.append(f"{line}, now selective, {text}")
    lines += _inline_calls(model, known)
    if not layers:
        raise ValueError(_nothing_found(model, lines))
    _put(layers)
    try:
        _run(result, call, inputs)
    except Exception as error:
        found = f"the converted {type(model).__name__} does not run with the example inputs"
        reason = f"(layers stacked by nnx.vmap cannot be converted): {error}"
        raise ValueError(f"select_activations: {found} {reason}") from error
    if report is not None:
        for line in lines:
            report(line)
    return result


class ActivationByWidth(nnx.Module):
    """A selective layer for each of the widths at which a model calls one activation.

    Args:
        layers: width N → the layer of N neurons.
        axis: the axis of x that holds the N neurons.

    Attributes:
        layers: nnx.Dict, the layers by their width as a string: `layers["16"]`.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from smartmixed_jax import select_activations, summarize
        >>> rngs = nnx.Rngs(0)
        >>> class Model(nnx.Module):
        ...     def __init__(self):
        ...         self.linear, self.act = nnx.Linear(4, 8, rngs=rngs), nnx.relu
        ...     def __call__(self, x):
        ...         return self.act(self.linear(self.act(x)))
        >>> list(summarize(select_activations(Model(), jnp.ones((1, 4)), rngs=rngs)))
        ['act.layers.4', 'act.layers.8']
    """

    def __init__(self, layers: dict[int, SelectiveActivation], *, axis: int = -1) -> None:
        if not isinstance(layers, dict) or not layers:
            got = _checks.shown(layers)
            raise TypeError(f"ActivationByWidth: layers must be width → layer, got {got}")
        for layer in layers.values():
            _checks.check("ActivationByWidth: layers", model=layer)
        _checks.check_int("ActivationByWidth", "axis", axis)
        self.layers = nnx.Dict({str(width): layers[width] for width in layers})
        self.axis = axis

    def __call__(self, x: jax.Array, *, rngs: RngSource | None = None, **keywords: Any) -> Any:
        """x [..., N] → [..., N] by the layer of N neurons; the keywords are passed on to it.

        Args:
            x: [..., N] float.
            rngs: as in `SelectiveActivation`.
            keywords: `deterministic` and `temperature`, as in `SelectiveActivation`.

        Raises:
            ValueError: there is no layer for N.
        """
        _checks.check("ActivationByWidth", x=x)
        width = str(x.shape[_checks.check_axis("ActivationByWidth", x, self.axis)])
        if width not in self.layers:
            expected = f"expected one of {', '.join(self.layers)}"
            raise ValueError(f"ActivationByWidth: no layer of {width} neurons, {expected}")
        return self.layers[width](x, rngs=rngs, **keywords)


class ConfigProxy(nnx.Pytree):
    """A dataclass config some of whose functions are layers; everything else is the config's.

    It passes for an instance of the config's class, in `isinstance` and in `dataclasses`, and the
    config's methods and properties see the layers. It is equal to itself alone: two modules that
    hold one config hold two proxies, with layers of their own.

    Args:
        stands_for: the config, which stays as it is.
        replaced: names of its fields → what stands there instead.

    Example:
        >>> import dataclasses, jax.numpy as jnp
        >>> from flax import nnx
        >>> from smartmixed_jax import SelectiveActivation
        >>> from smartmixed_jax.conversion import ConfigProxy
        >>> @dataclasses.dataclass(frozen=True)
        ... class Config:
        ...     width: int = 8
        ...     act: object = nnx.relu
        >>> proxy = ConfigProxy(Config(), {"act": SelectiveActivation(8, rngs=nnx.Rngs(0))})
        >>> proxy.width, isinstance(proxy, Config), proxy.act(jnp.ones(8), deterministic=True).shape
        (8, True, (8,))
    """

    def __init__(self, stands_for: Any, replaced: dict[str, Any]) -> None:
        self.stands_for = stands_for
        for name, value in replaced.items():
            setattr(self, name, value)

    # type() and nnx see the proxy, isinstance and dataclasses the config.
    __class__ = property(lambda self: type(vars(self).get("stands_for", self)))  # type: ignore
    __dataclass_fields__ = property(lambda self: self.stands_for.__dataclass_fields__)

    def __getattr__(self, name: str) -> Any:
        if name == "stands_for":  # while it is being copied
            raise AttributeError(name)
        defined = inspect.getattr_static(type(self.stands_for), name, None)
        is_method = inspect.isfunction(defined) or isinstance(defined, property)
        if is_method and name not in _items(self.stands_for):
            return defined.__get__(self)
        return getattr(self.stands_for, name)

    def __reduce__(self) -> tuple[Any, ...]:
        return object.__new__, (ConfigProxy,), vars(self).copy()


# Where a model holds functions


@dataclasses.dataclass(frozen=True, eq=False)
class _Place:
    """A function in a model: an attribute of `holder`, keys[0], or by keys[1:] inside of it."""

    path: str
    holder: nnx.Pytree
    keys: tuple[Any, ...]
    function: Callable[..., Any]
    in_config: bool


def _places(model: nnx.Module) -> list[_Place]:
    """The functions that the modules of a model hold, each once, in an order of their names."""
    seen: set[int] = set()

    def within(path: tuple[Any, ...], holder: nnx.Pytree, keys: Any, value: Any, configs: Any):
        if isinstance(value, nnx.Pytree):
            if not configs:  # a module inside a config is the user's own, not a copy
                yield from walk(path, value)
        elif callable(value):
            if not isinstance(value, type | nnx.Variable):
                yield _Place(".".join(map(str, path)), holder, keys, value, bool(configs))
        elif id(value) not in configs:
            inner = (*configs, id(value)) if dataclasses.is_dataclass(value) else configs
            for key, item in sorted(_items(value).items()):
                yield from within((*path, key), holder, (*keys, key), item, inner)

    def walk(path: tuple[Any, ...], node: nnx.Pytree) -> Iterator[_Place]:
        if id(node) in seen or isinstance(node, SelectiveActivation | MixedActivation):
            return
        seen.add(id(node))
        own = [name for name in vars(node) if not name.startswith("_pytree__")]
        names = _items(node) if type(node) is ConfigProxy else own
        # Sorted, because the two modes of NNX copy attributes in different orders.
        for name in sorted(names, key=lambda name: (len(name) if name.isdigit() else 0, name)):
            configs = () if name in own else (id(node),)
            yield from within((*path, name), node, (name,), getattr(node, name), configs)

    return list(walk((), model))


def _items(value: Any) -> dict[Any, Any]:
    """What a container or a dataclass holds, by index, key or field; {} of anything else."""
    if isinstance(value, dict | nnx.Dict) and all(isinstance(key, str) for key in value):
        return dict(value)
    # A named tuple is left alone: nothing that holds layers has both its names and its indices.
    if isinstance(value, list | tuple | nnx.List) and not hasattr(value, "_fields"):
        return dict(enumerate(value))
    if dataclasses.is_dataclass(value):
        return {f.name: getattr(value, f.name, None) for f in dataclasses.fields(value)}
    return {}


def _put(values: dict[_Place, Any]) -> None:
    """Puts a value into each place; a container or config that gets a module becomes a node."""
    for place, new in values.items():
        name, *keys = place.keys
        value = _replaced(getattr(place.holder, name), keys, new)
        # The attribute was static; a module is data.
        setattr(place.holder, name, nnx.data(value) if nnx.is_data(value) else value)


def _replaced(value: Any, keys: list[Any], new: Any) -> Any:
    """The value with `new` at `keys` inside of it."""
    if not keys:
        return new
    items = _items(value)
    items[keys[0]] = _replaced(items[keys[0]], keys[1:], new)
    holds_modules = any(map(nnx.is_data, items.values()))
    if isinstance(value, dict | nnx.Dict):
        return nnx.Dict(items) if holds_modules else items
    if isinstance(value, list | tuple | nnx.List):
        return nnx.List(items.values()) if holds_modules else type(value)(items.values())
    config = value.stands_for if type(value) is ConfigProxy else value
    old = _items(config)
    return ConfigProxy(config, {key: items[key] for key in items if items[key] is not old[key]})


# What they are called with


class _Recorder:
    """A function that notes what arrays it is applied to."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.inputs: list[jax.ShapeDtypeStruct] = []
        self.called_otherwise = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        y = self.function(*args, **kwargs)
        x = _float_array(args[0]) if len(args) == 1 and not kwargs else None
        if x is not None and x == _float_array(y):
            self.inputs.append(x)
        else:
            self.called_otherwise = True
        return y

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["function"], name)


def _float_array(x: Any) -> jax.ShapeDtypeStruct | None:
    """Shape and dtype of a floating-point array; None of anything else."""
    is_float = isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jnp.floating)
    return jax.ShapeDtypeStruct(x.shape, x.dtype) if is_float else None


def _recorded(model: nnx.Module, call: Any, inputs: tuple[Any, ...]) -> list[_Recorder]:
    """A recorder for each of `_places(model)`, after a run of the model."""
    copy = nnx.clone(model)
    recorders = {place: _Recorder(place.function) for place in _places(copy)}
    _put(recorders)
    try:
        _run(copy, call, inputs)
    except Exception as error:
        error.add_note("select_activations: raised by the model, run with the example inputs")
        raise
    return list(recorders.values())


def _run(model: nnx.Module, call: Any, inputs: tuple[Any, ...]) -> None:
    """Runs the model in evaluation mode, abstractly: nothing is computed, no state changes."""
    leaves, structure = jax.tree.flatten(inputs, is_leaf=lambda v: isinstance(v, nnx.Pytree))
    kinds = jax.Array | np.ndarray | jax.ShapeDtypeStruct | nnx.Pytree
    arrays = {i: leaf for i, leaf in enumerate(leaves) if isinstance(leaf, kinds)}

    def run(model: nnx.Module, arrays: dict[int, Any]) -> Any:
        merged = [arrays.get(i, leaf) for i, leaf in enumerate(leaves)]
        call(model, *jax.tree.unflatten(structure, merged))

    model = nnx.view(model, deterministic=True, raise_if_not_found=False)
    nnx.eval_shape(run, model, arrays)


def _reason(path: str, recorder: _Recorder, taken: bool, where: Any) -> str | None:
    """Why a function is left alone; None if it is to be replaced."""
    if not taken:
        kind = "a gate or an output" if _is_one_of(recorder.function, _GATES) else "unknown"
        return f"{kind}, name it in functions to replace it"
    if where is not None and not where(path, recorder.function):
        return "excluded by where"
    if recorder.called_otherwise:
        return "not called as f(x) on a float array whose shape and dtype it keeps"
    return None if recorder.inputs else "not called with the example inputs"


# What becomes of them


def _converted(
    place: _Place, inputs: list[Any], pool: Any, start: Any, options: Any
) -> tuple[nnx.Module, str]:
    """The layer in place of a function that is applied to the inputs, and what to report of it."""
    where, axis = f"select_activations: {place.path}", options.get("axis", -1)
    _checks.check(where, pool=pool)
    widths = dict.fromkeys(x.shape[_checks.check_axis(where, x, axis)] for x in inputs)
    text = f"{' and '.join(map(str, widths))} neurons on axis {axis}"
    with _checks.prefixed(where):
        if start is not None:
            wanted = pool
            pool, name = _with(place, pool)
            options = {**options, "start": (name, start)}
            text += "" if pool is wanted else f"; {name} joined the pool"
        layers = {width: SelectiveActivation(width, pool, **options) for width in widths}
        # Refuses what is not elementwise, and what the pool's form does not take.
        jax.eval_shape(lambda x: apply_choices(x, (0,), pool), jax.ShapeDtypeStruct((1,), "f4"))
    return ActivationByWidth(layers, axis=axis) if len(layers) > 1 else layers.popitem()[1], text


def _with(place: _Place, pool: ActivationPool) -> tuple[ActivationPool, str]:
    """The pool with a place's function in it, and the name that it has there."""
    # As the fused form knows it; under jax.jit it would not.
    known = (f for f in _unwrapped(place.function) if coefficients(f))
    function = next(known, place.function)
    for name, member in zip(pool.names, pool.functions, strict=True):
        if any(_are_same(f, g) for f in _unwrapped(function) for g in _unwrapped(member)):
            return pool, name
    wanted = _name(place.function).replace(",", "")  # pools are named in lists with commas
    wanted = place.path.rpartition(".")[2] if wanted == "<lambda>" else wanted
    names = (wanted, *(f"{wanted}_{i}" for i in range(2, 3 + len(pool))))
    name = next(name for name in names if name not in pool.names)
    members = zip((*pool.names, name), (*pool.functions, function), strict=True)
    return ActivationPool(members).with_form(pool.form), name


def _are_same(f: Any, g: Any) -> bool:
    if isinstance(f, functools.partial) and isinstance(g, functools.partial):
        return (f.func, f.args, f.keywords) == (g.func, g.args, g.keywords)
    return f is g or (coefficients(f) is not None and coefficients(f) == coefficients(g))


_Jitted: Any = type(jax.jit(jnp.sin))


def _unwrapped(function: Any, with_arguments: bool = False) -> Iterator[Any]:
    """The function, and what it is under jax.jit or a functools.partial without effect."""
    yield function
    if isinstance(function, _Jitted):
        yield from _unwrapped(function.__wrapped__, with_arguments)
    elif isinstance(function, functools.partial):
        inner, slope = function.func, function.keywords.get("negative_slope")
        # Below 0 the two differ in the sign of zero.
        if inner is jax.nn.leaky_relu and isinstance(slope, float) and slope >= 0:
            yield leaky_relu(slope)
        if with_arguments or (not function.args and _are_defaults(inner, function.keywords)):
            yield from _unwrapped(inner, with_arguments)


def _are_defaults(function: Any, keywords: dict[str, Any]) -> bool:
    parameters = inspect.signature(function).parameters if keywords else {}
    defaults = {name: repr(parameter.default) for name, parameter in parameters.items()}
    return all(defaults.get(name) == repr(value) for name, value in keywords.items())


def _is_one_of(function: Any, known: tuple[Any, ...]) -> bool:
    """Whether a function is in `known`, by itself, under jax.jit or in a functools.partial."""
    classes = tuple(k for k in known if isinstance(k, type))
    inner = list(_unwrapped(function, with_arguments=True))
    return any(isinstance(f, classes) or any(f is k for k in known) for f in inner)


# What to say


def _name(function: Any) -> str:
    """The function's name, with the arguments of a functools.partial."""
    if isinstance(function, functools.partial):
        keywords = (f"{name}={_checks.shown(value)}" for name, value in function.keywords.items())
        arguments = ", ".join((*map(_checks.shown, function.args), *keywords))
        return f"{_name(function.func)}({arguments})" if arguments else _name(function.func)
    return getattr(function, "__name__", None) or _checks.shown(function)


def _inline_calls(model: nnx.Module, known: tuple[Any, ...]) -> list[str]:
    """A line for every call of a known function in the methods of a model's classes."""
    lines = {}
    for cls in {cls for _, module in nnx.iter_modules(model) for cls in type(module).__mro__}:
        if cls.__module__.partition(".")[0] not in ("builtins", "flax", "smartmixed_jax"):
            for member in vars(cls).values():
                for file, line, name in _calls_in(member, known):
                    text = f"{file}, line {line}: {name} in {cls.__name__} left alone"
                    lines[file, line, name] = f"{text}: called inline, make it an attribute"
    return [lines[key] for key in sorted(lines)]


def _calls_in(member: Any, known: tuple[Any, ...]) -> Iterator[tuple[str, int, str]]:
    """(file, line, name) of every call of a known function in the source of a method."""
    method = inspect.unwrap(getattr(member, "__func__", getattr(member, "fget", member)))
    try:
        source, first = inspect.getsourcelines(method)
        tree = ast.parse("if True:\n" + "".join(source))
        names = {**method.__globals__, **inspect.getclosurevars(method).nonlocals}
    except (AttributeError, OSError, SyntaxError, TypeError, ValueError):
        return  # no method, or without source, as of a class made by exec
    for name in method.__code__.co_varnames:
        names.pop(name, None)
    for call in ast.walk(tree):
        if isinstance(call, ast.Call):
            name, *parts = ast.unparse(call.func).split(".")
            function = names.get(name)
            for part in parts:
                function = getattr(function, "__dict__", {}).get(part)
            if not isinstance(function, type) and _is_one_of(function, known):
                file = Path(method.__code__.co_filename).name
                yield file, first + call.lineno - 2, ".".join((name, *parts))


def _nothing_found(model: nnx.Module, lines: list[str]) -> str:
    left = "".join(f"\n  {line}" for line in lines)
    return (
        f"select_activations: {type(model).__name__} holds no activation function as an attribute "
        "that can be replaced. A call inside a method cannot; make it an attribute:\n"
        "  in __init__  + self.act = nnx.relu\n"
        "  in __call__  - x = nnx.relu(x)\n"
        f"               + x = self.act(x){left}"
    )
