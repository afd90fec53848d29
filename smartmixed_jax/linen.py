"""The two layers and the switch between them, for Flax Linen: the twins of those in `nnx`.

    from smartmixed_jax import linen

    class Net(nn.Module):
        act: Callable = linen.SelectiveActivation          # a factory from width to layer

        @nn.compact
        def __call__(self, x):
            return nn.Dense(10)(self.act(64)(nn.Dense(64)(x)))

    net = Net()
    variables = net.init(key, x)
    net.apply(variables, x, rngs={"selection": key})       # each neuron draws its function
    fixed, variables = linen.fix_choices(net, variables)   # phase 2: the same weights

A logits matrix of one API is that of the other: `{"params": {"logits": layer.logits[...]}}`.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.core import FrozenDict, freeze
from flax.traverse_util import flatten_dict, unflatten_dict

from smartmixed_jax import estimators
from smartmixed_jax.estimators import Estimator, gumbel_straight_through, repeat_to_neurons
from smartmixed_jax.layer import (
    Initializer,
    argmax,
    check_fixable,
    check_options,
    logits_shape,
    one_random_entry,
    promote,
    table_of,
)
from smartmixed_jax.mixture import apply_choices, mix
from smartmixed_jax.pools import PAPER_POOL, ActivationPool
from smartmixed_jax.table import FunctionTable

Path = tuple[str, ...]
Variables = Mapping[str, Any]
ModuleType = TypeVar("ModuleType", bound=nn.Module)

PATTERN = (
    "hold the layer in a field of its module, Net(act=SelectiveActivation(64)), or a factory from "
    "width to layer, Net(act=SelectiveActivation), that setup or compact code calls"
)


@dataclasses.dataclass(frozen=True)
class FixedLayers:
    """What a fixed factory knows: for the path of each layer the choices of its rows of logits.

    None stands for a layer that was left selective.
    """

    choices: tuple[tuple[Path, tuple[int, ...] | None], ...]

    def at(self, path: Path) -> tuple[int, ...] | None:
        """The choices of the layer at `path`; raises ValueError if there was none."""
        choices = dict(self.choices)
        if path not in choices:
            raise ValueError(
                f"SelectiveActivation {_name(path)}: fix_choices met no layer of this path, only "
                f"{', '.join(map(_name, choices))}; apply the fixed module itself, not inside "
                "another module"
            )
        return choices[path]


class SelectiveActivation(nn.Module):
    """Every neuron picks its own activation by gradient (arXiv 2510.22450, phase 1).

    The parameter is `logits` [N, K], or [G, K] with groups. `apply` draws the choices from the
    stream `selection`: `rngs={"selection": key}`. `init` needs none: without that stream it takes
    the argmax, because its output is thrown away and `init(key, x)` is how Linen modules are
    initialised.

    Attributes:
        features: N, the neurons or channels on `axis`.
        pool: K functions to choose from.
        estimator: how a choice is drawn and how its gradient reaches the logits.
        temperature: τ > 0 of the estimator; the argument of the call may be traced, so that it
            changes without recompiling.
        axis: the axis of x that holds the N neurons.
        deterministic: argmax of the logits, no noise.
        logits_init: initializer of the logits.
        groups: neurons that share one choice: an int G splits the N neurons into G equal
            contiguous blocks (1: one choice for the layer), a tuple of N ints in [0, G) names each
            neuron's group; None: every neuron chooses for itself.
        dtype: of the computation and result; None keeps that of x.
        param_dtype: of the logits.
        fixed: set by `fix_choices`; leave it out.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from smartmixed_jax import linen
        >>> act, x = linen.SelectiveActivation(64), jnp.ones((8, 64))
        >>> variables = act.init(jax.random.key(0), x)
        >>> act.apply(variables, x, rngs={"selection": jax.random.key(1)}).shape
        (8, 64)
    """

    features: int
    pool: ActivationPool = PAPER_POOL
    _: dataclasses.KW_ONLY
    estimator: Estimator = gumbel_straight_through
    temperature: float | jax.Array = 1.0
    axis: int = -1
    deterministic: bool = False
    logits_init: Initializer = one_random_entry()
    groups: int | Sequence[int] | None = None
    dtype: Any = None
    param_dtype: Any = jnp.float32
    fixed: FixedLayers | None = dataclasses.field(default=None, repr=False)

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        *,
        deterministic: bool | None = None,
        temperature: float | jax.Array | None = None,
    ) -> jax.Array:
        """Applies the selected functions.

        Args:
            x: [..., N] float, the N neurons on `axis`.
            deterministic: overrides the attribute.
            temperature: overrides the attribute; may be traced.

        Returns:
            The shape of x, in `dtype` or the dtype of x.

        Raises:
            ValueError: an attribute is out of its range; noise is needed and there is no stream
                `selection`; N does not fit x; the variables hold no logits.
            TypeError: x is integer or complex.
        """
        groups = check_options(self.features, self.temperature, self.groups)
        x = promote("SelectiveActivation", x, self.dtype)
        shape = logits_shape(self.features, self.pool, groups)
        choices = None if self.fixed is None else self.fixed.at(self.path)
        if choices is not None:
            if len(choices) != shape[0]:
                raise ValueError(
                    f"SelectiveActivation {_name(self.path)}: {len(choices)} choices were fixed, "
                    f"the layer needs {shape[0]}"
                )
            table = table_of(choices, self.pool, groups)
            return apply_choices(x, table.choices, table.pool, axis=self.axis)
        if not (self.has_variable("params", "logits") or self.is_mutable_collection("params")):
            raise ValueError(
                f"SelectiveActivation {_name(self.path)}: the variables hold no logits; if "
                f"fix_choices took them, it did not find this layer: {PATTERN}"
            )
        logits = self.param("logits", self.logits_init, shape, self.param_dtype)
        # Not make_rng alone: without the stream it would take the one called params.
        noise = self.has_rng("selection")
        if deterministic is None:
            deterministic = self.deterministic or (self.is_initializing() and not noise)
        if deterministic:
            selection = estimators.deterministic(logits)
        else:
            key = self.make_rng("selection") if noise else None
            temperature = self.temperature if temperature is None else temperature
            selection = self.estimator(logits, key, temperature)
        return mix(x, repeat_to_neurons(selection, groups), self.pool, axis=self.axis)


class MixedActivation(nn.Module):
    """Every neuron applies its fixed function (arXiv 2510.22450, phase 2); no parameters.

    Attributes:
        table: N neurons' functions, static.
        axis: the axis of x that holds the N neurons.
        dtype: of the computation and result; None keeps that of x.

    Example:
        >>> import jax.numpy as jnp
        >>> from smartmixed_jax import PAPER_POOL, FunctionTable, linen
        >>> linen.MixedActivation(FunctionTable(PAPER_POOL, [0, 1])).apply({}, jnp.array([-1., 0.]))
        Array([0. , 0.5], dtype=float32)
    """

    table: FunctionTable
    _: dataclasses.KW_ONLY
    axis: int = -1
    dtype: Any = None

    def __call__(
        self,
        x: jax.Array,
        *,
        deterministic: bool | None = None,
        temperature: float | jax.Array | None = None,
    ) -> jax.Array:
        """x [..., N] → [..., N]. The keywords of `SelectiveActivation` are taken and ignored."""
        del deterministic, temperature
        x = promote("MixedActivation", x, self.dtype)
        return apply_choices(x, self.table.choices, self.table.pool, axis=self.axis)


@dataclasses.dataclass(frozen=True)
class FixedFactory:
    """A factory from width to layer whose layers look their choices up by their path.

    The layers stay SelectiveActivations, because Linen names a module after its class: those of
    another class would be called, and would call their neighbours, something else.
    """

    factory: Callable[..., Any]
    layers: FixedLayers

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        layer = self.factory(*args, **kwargs)
        if isinstance(layer, SelectiveActivation):
            # In place: it has its name and its place in the parent already.
            object.__setattr__(layer, "fixed", self.layers)
        return layer


def fix_choices(
    module: ModuleType,
    variables: Variables,
    *,
    where: Callable[[str, Any], bool] | None = None,
) -> tuple[ModuleType, Variables]:
    """A new module in which every SelectiveActivation is fixed, and its variables.

    Each neuron keeps argmax of its logits. The variables are the same arrays under the same names,
    without the logits; module and variables given stay intact. The outputs are those of the input
    module with deterministic layers, bit for bit when both are compiled.

    A module holds its activations in fields, as layers or as factories, also inside tuples, lists,
    dicts, `functools.partial`s and the fields of modules in its fields:

    * a layer, `Net(act=SelectiveActivation(64))`, becomes a MixedActivation;
    * a factory from width to layer, `Net(act=SelectiveActivation)`, a `functools.partial` of it or
      `lambda width: SelectiveActivation(width, ...)`, called in setup or in compact code, here or
      in a block that it is passed to, becomes a factory whose layers know their choices by their
      path. To find it, the functions in the fields are called once with a width.

    Args:
        module: unbound.
        variables: its variables, the logits in the collection `params`.
        where: `where(path, layer)` says whether to fix that layer, path with dots such as
            "Block_0.SelectiveActivation_1"; the others stay selective. `layer` is the one in the
            field, or what the factory makes for as many features as there are rows of logits, or
            None if nothing in the fields makes such a layer. None: all.

    Raises:
        ValueError: there are no logits, or `where` takes none of them; a layer is neither in a
            field nor made by a factory in one; a layer to be fixed is traced, or stacked by
            nn.scan or nn.vmap.

    Example:
        >>> import flax.linen as nn, jax, jax.numpy as jnp
        >>> from smartmixed_jax import linen
        >>> net = nn.Sequential([nn.Dense(8), linen.SelectiveActivation(8), nn.Dense(2)])
        >>> variables = net.init(jax.random.key(0), jnp.ones((1, 4)))
        >>> fixed, variables = linen.fix_choices(net, variables)
        >>> sorted(variables["params"]), type(fixed.layers[1]).__name__
        (['layers_0', 'layers_2'], 'MixedActivation')
    """
    if "params" not in variables:
        raise ValueError(
            f"fix_choices: the variables must hold the collection 'params', got {sorted(variables)}"
        )
    params = flatten_dict(variables["params"], keep_empty_nodes=True)
    logits = {path[:-1]: nn.unbox(leaf) for path, leaf in params.items() if path[-1] == "logits"}
    if not logits:
        raise ValueError(
            f"fix_choices: the variables of {type(module).__name__} hold no logits of a "
            "SelectiveActivation"
        )
    found = _Fields(module, variables, logits)
    known: dict[Path, tuple[int, ...] | None] = {}
    for path, values in logits.items():
        layer = found.layer(path)
        if where is not None and not where(".".join(path), layer):
            known[path] = None
            continue
        if layer is None and values.ndim == 2:
            raise ValueError(
                f"fix_choices: no field of {type(module).__name__} holds or makes the layer "
                f"{_name(path)}: {PATTERN}"
            )
        check_fixable(_name(path), values, found.shape(path), "nn.scan or nn.vmap")
        known[path] = tuple(argmax(values).tolist())
    if not any(choices is not None for choices in known.values()):
        names = ", ".join(map(_name, known))
        raise ValueError(f"fix_choices: where takes none of the layers: {names}")
    rest = {p: leaf for p, leaf in params.items() if known.get(p[:-1]) is None or p[-1] != "logits"}
    new = {**variables, "params": unflatten_dict(rest)}
    return found.fixed(known), freeze(new) if isinstance(variables, FrozenDict) else new


class _Fields:
    """The layers and factories in the fields of a module, at any depth."""

    def __init__(self, module: Any, variables: Variables, logits: Mapping[Path, Any]) -> None:
        self.module = module
        self.bound = module.bind(variables)
        self.logits = logits
        self.held: dict[Path, SelectiveActivation] = {}
        self.factories: list[tuple[Any, SelectiveActivation]] = []
        callables: list[Any] = []

        def record(value: Any, bound: Any) -> Any:
            if not isinstance(value, SelectiveActivation):
                callables.append(value)
            elif bound is not None and bound.path in logits:
                self.held[bound.path] = value
            else:
                self.factories.append((value, value))
            return value

        _map_fields(record, module, self.bound, {})
        made = [v for path, v in logits.items() if path not in self.held and v.ndim > 1]
        rows = sorted({v.shape[-2] for v in made})
        for value in callables:
            layers = (_call_factory(value, features) for features in rows)
            layer = next((layer for layer in layers if layer is not None), None)
            if layer is not None:
                self.factories.append((value, layer))

    def layer(self, path: Path) -> SelectiveActivation | None:
        """The layer in a field that has this path, or one that a factory would make for it."""
        if path in self.held:
            return self.held[path]
        shape = self.logits[path].shape
        for factory, layer in self.factories:
            if len(shape) > 1 and len(layer.pool) == shape[-1]:
                return _call_factory(factory, shape[-2]) or layer
        return None

    def shape(self, path: Path) -> tuple[int, int] | None:
        """That of the logits, if the layer is in a field."""
        layer = self.held.get(path)
        return None if layer is None else logits_shape(layer.features, layer.pool, _groups(layer))

    def fixed(self, known: Mapping[Path, tuple[int, ...] | None]) -> Any:
        """The module with these choices."""

        def layers(before: FixedLayers | None) -> FixedLayers:
            earlier = {} if before is None else dict(before.choices)
            return FixedLayers(tuple({**earlier, **known}.items()))

        def replace(value: Any, bound: Any) -> Any:
            if isinstance(value, SelectiveActivation):
                if bound is None or bound.path not in known:
                    return value.clone(fixed=layers(value.fixed))
                choices = known[bound.path]
                if choices is None:
                    return value
                table = table_of(choices, value.pool, _groups(value))
                return MixedActivation(table, axis=value.axis, dtype=value.dtype, name=value.name)
            if not any(value is factory for factory, _ in self.factories):
                return value
            if isinstance(value, FixedFactory):
                return FixedFactory(value.factory, layers(value.layers))
            return FixedFactory(value, layers(None))

        return _map_fields(replace, self.module, self.bound, {})


def _map_fields(
    replace: Callable[[Any, Any], Any], value: Any, bound: Any, memo: dict[int, tuple[Any, Any]]
) -> Any:
    """`value` with `replace` applied to each SelectiveActivation and each callable inside it.

    `bound` is the same inside a bound module, or None where Linen binds nothing. A module at two
    places stays one, which is why `memo` holds what became of each.
    """

    def go(child: Any, bound: Any = None) -> Any:
        return _map_fields(replace, child, bound, memo)

    if isinstance(value, nn.Module):
        if id(value) not in memo:
            if isinstance(value, SelectiveActivation):
                new = replace(value, bound)
            else:
                names = [f.name for f in dataclasses.fields(value) if f.init]
                fields = {n: getattr(value, n) for n in names if n not in ("name", "parent")}
                mapped = {n: go(v, getattr(bound, n, None)) for n, v in fields.items()}
                changed = {n: v for n, v in mapped.items() if v is not fields[n]}
                new = value.clone(**changed) if changed else value
            memo[id(value)] = value, new
        return memo[id(value)][1]
    if isinstance(value, Mapping):
        inner = {} if bound is None else bound
        items = {key: go(v, inner.get(key)) for key, v in value.items()}
        mapping: Any = type(value)
        return value if _same(items.values(), value.values()) else mapping(items)
    if isinstance(value, tuple | list):
        inner = [None] * len(value) if bound is None else bound
        parts = [go(v, b) for v, b in zip(value, inner, strict=True)]
        if _same(parts, value):
            return value
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    if not callable(value):
        return value
    new = replace(value, None)
    if new is value and isinstance(value, functools.partial):
        args, keywords = go(value.args), go(value.keywords)
        if args is not value.args or keywords is not value.keywords:
            return functools.partial(value.func, *args, **keywords)
    return new


def _same(first: Iterable[Any], second: Iterable[Any]) -> bool:
    return all(a is b for a, b in zip(first, second, strict=True))


def _call_factory(factory: Any, features: int) -> SelectiveActivation | None:
    """The layer that it makes for so many features; None if it is no factory of such layers."""
    if isinstance(factory, SelectiveActivation):
        return factory
    if isinstance(factory, type) and not issubclass(factory, SelectiveActivation):
        return None
    # A field may hold any function, such as an initializer, which fails in its own way.
    try:
        layer = factory(features)
    except Exception:
        return None
    return layer if isinstance(layer, SelectiveActivation) else None


def _groups(layer: SelectiveActivation) -> tuple[int, ...] | None:
    return check_options(layer.features, layer.temperature, layer.groups)


def _name(path: Path) -> str:
    return ".".join(path) or "the model"
