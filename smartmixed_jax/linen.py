"""The two layers, and the switch between them there and back, for Flax Linen: twins of `nnx`.

    from smartmixed_jax import linen

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(10)(linen.SelectiveActivation()(nn.Dense(64)(x)))

    net = Net()
    variables = net.init(key, x)
    net.apply(variables, x, rngs={"selection": key})       # each neuron draws its function
    net, variables = linen.fix_choices(net, variables)     # phase 2: the same weights

The parameter is `selection_logits`; a logits matrix of one API is that of the other. Beside it
`init` leaves the names of the pool, as the key of an empty dictionary, "relu,sigmoid,…": no array,
so nothing more is trained, but another pool is refused. Fixed choices are the collection `choices`,
an int32 [N] per layer under the same key. A layer is fixed when it sees them, wherever it was made;
so a fixed model is its variables, and is saved and restored with them. Lifted transforms must list
the collection: `nn.scan(..., variable_axes={"params": 0, "choices": 0})`.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.core import FrozenDict, freeze, unfreeze
from flax.traverse_util import empty_node, flatten_dict, unflatten_dict

from smartmixed_jax import _checks, estimators
from smartmixed_jax import layer as shared
from smartmixed_jax.estimators import gumbel_straight_through
from smartmixed_jax.mixture import apply_choices, mix
from smartmixed_jax.pools import PAPER_POOL, ActivationPool
from smartmixed_jax.summary import fixed_record, layer_record, statistics
from smartmixed_jax.table import FunctionTable
from smartmixed_jax.types import (
    Draws,
    Estimator,
    Groups,
    Initializer,
    Integers,
    Scalar,
    Selection,
    Start,
)

Path = tuple[str, ...]
"""The names of the modules that lead to one."""

Variables = Mapping[str, Any]
"""Collections by name, as Linen's `init` returns them."""

ModuleType = TypeVar("ModuleType", bound=nn.Module)


def _are_variables(value: Any) -> bool:
    is_mapping = isinstance(value, Mapping)
    held = [value[name] for name in ("params", "choices") if is_mapping and name in value]
    return bool(held) and all(isinstance(collection, Mapping) for collection in held)


_checks.KINDS.update(
    module=("an nn.Module", lambda value: isinstance(value, nn.Module)),
    variables=("collections by name, with 'params' or 'choices' among them", _are_variables),
)


class SelectiveActivation(nn.Module):
    """Every neuron picks its own activation by gradient (arXiv 2510.22450, phase 1).

    The parameter is `selection_logits` [N, K], or [G, K] with groups. `apply` draws the choices
    from the stream `selection`: `rngs={"selection": key}`. `init` needs none: without that stream
    it takes the argmax, because its output is thrown away and `init(key, x)` is how Linen modules
    are initialised. Where the variables hold the layer's `choices` it applies those.

    Attributes:
        features: N, the neurons or channels on `axis`; None takes it from x.
        pool: K functions to choose from.
        estimator: how a choice is drawn and how its gradient reaches the logits.
        temperature: τ > 0 of the estimator; the argument of the call may be traced, so that it
            changes without recompiling.
        noise: β ≥ 0, the scale of the noise that choices are drawn with: 1 the paper's, 0 none; the
            argument of the call may be traced.
        draws: how many draws serve a batch, x's axis 0: 1; an int D, each for one of D equal parts;
            or "example", one for each example. More than one needs an estimator that takes them,
            such as `estimators.sampled_straight_through`.
        axis: the axis of x that holds the N neurons.
        deterministic: argmax of the logits, no noise.
        start: (name, probability): each neuron's probability of one function at the start, in
            (1/K, 1); None: that of `logits_init`.
        logits_init: initializer of the logits; None: 0, and 0.001 at one random entry per neuron.
        groups: neurons that share one choice: an int G splits the N neurons into G equal
            contiguous blocks (1: one choice for the layer), a tuple of N ints in [0, G) names each
            neuron's group; None: every neuron chooses for itself.
        dtype: of the computation and result; None keeps that of x.
        param_dtype: of the logits.

    Raises:
        TypeError: `features` is an array: the class stands where a function of x is called.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from smartmixed_jax import linen
        >>> act, x = linen.SelectiveActivation(), jnp.ones((8, 64))
        >>> variables = act.init(jax.random.key(0), x)
        >>> act.apply(variables, x, rngs={"selection": jax.random.key(1)}).shape
        (8, 64)
    """

    features: int | None = None
    pool: ActivationPool = PAPER_POOL
    _: dataclasses.KW_ONLY
    estimator: Estimator = gumbel_straight_through
    temperature: Scalar = 1.0
    noise: Scalar = 1.0
    draws: Draws = 1
    axis: int = -1
    deterministic: bool = False
    start: Start | None = None
    logits_init: Initializer | None = None
    groups: int | Integers | None = None
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        if isinstance(self.features, jax.Array | np.ndarray):
            got = f"an array {_checks.shown(self.features)}"
            raise TypeError(
                f"SelectiveActivation: features must be an int, got {got}: the class is a factory "
                "from width to layer. Where a function of x is called, pass lambda x: "
                "SelectiveActivation()(x), or call activation(width)(x)"
            )
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        *,
        deterministic: bool | None = None,
        temperature: Scalar | None = None,
        noise: Scalar | None = None,
    ) -> jax.Array:
        """Applies the selected functions, or the fixed ones.

        Args:
            x: [..., N] float, the N neurons on `axis`.
            deterministic: overrides the attribute.
            temperature: overrides the attribute; may be traced.
            noise: overrides the attribute; may be traced.

        Returns:
            The shape of x, in `dtype` or the dtype of x.

        Raises:
            ValueError: an attribute is out of its range; noise is needed and there is no stream
                `selection`; N does not fit x; the variables hold neither logits nor choices, or
                the choices of another pool.
            TypeError: x is integer or complex; an attribute is of the wrong type.
        """
        where = f"SelectiveActivation {_name(self.path)}"
        x = shared.promote(where, x, self.dtype)
        width = x.shape[_checks.check_axis(where, x, self.axis)]
        features = width if self.features is None else self.features
        drawn = (self.estimator, self.temperature, self.noise, self.draws)
        initial = (self.start, self.logits_init, self.groups, self.dtype, self.param_dtype)
        options = (features, self.pool, *drawn, self.axis, self.deterministic, *initial)
        groups, shape, init = shared.check_options(where, *options)
        if self.is_initializing() and self.is_mutable_collection("params"):
            self.put_variable("params", ",".join(self.pool.names), {})
        params, choices = (self.variables.get(name, {}) for name in ("params", "choices"))
        recorded = [name for name, value in params.items() if not jax.tree.leaves(value)]
        for made_with in (*choices, *recorded):
            if made_with not in (",".join(self.pool.names), _unnamed(len(self.pool))):
                got = f"made with the pool {made_with}, got {self.pool}"
                raise ValueError(f"{where}: its variables were {got}")
        for fixed in choices.values():
            return self._apply_fixed(where, x, fixed, groups)
        if LOGITS not in params and not self.is_mutable_collection("params"):
            raise ValueError(f"{where}: {RENAMED if 'logits' in params else NOT_VISIBLE}")
        logits = self.param(LOGITS, init, shape, self.param_dtype)
        # Not make_rng alone: without the stream it would take the one called params.
        streamed = self.has_rng("selection")
        if deterministic is None:
            deterministic = self.deterministic or (self.is_initializing() and not streamed)
        _checks.check(where, deterministic=deterministic)
        if deterministic:
            selection = estimators.deterministic(logits)
        else:
            key = self.make_rng("selection") if streamed else None
            temperature = self.temperature if temperature is None else temperature
            noise = self.noise if noise is None else noise
            selection = shared.select(
                where, self.estimator, logits, key, temperature, noise, self.draws, x
            )
        return mix(x, shared.repeat_to_neurons(selection, groups), self.pool, axis=self.axis)

    def _apply_fixed(self, where: str, x: jax.Array, choices: jax.Array, groups: Groups):
        """The fixed layer; where choices are [G, K], of `switch_report`, the mixture by weights."""
        needed = x.shape[self.axis] if groups is None else 1 + max(groups)
        if len(choices) != needed:
            raise ValueError(f"{where}: {len(choices)} choices were fixed, it needs {needed}")
        if choices.ndim == 2:
            mixture = shared.repeat_to_neurons(Selection(choices, None), groups)
            return mix(x, mixture, self.pool, axis=self.axis)
        if groups is not None:
            choices = choices[np.asarray(groups)]
        return apply_choices(x, choices, self.pool, axis=self.axis)


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

    def __call__(self, x: jax.Array, **ignored: Any) -> jax.Array:
        """x [..., N] → [..., N]. The keywords of `SelectiveActivation` are taken and ignored."""
        where = f"MixedActivation {_name(self.path)}"
        _checks.check(where, table=self.table)
        x = shared.promote(where, x, self.dtype)
        return apply_choices(x, self.table.choices, self.table.pool, axis=self.axis)


def fix_choices(
    module: ModuleType,
    variables: Variables,
    where: Callable[[str, jax.Array], bool] | None = None,
) -> tuple[ModuleType, Variables]:
    """The module, and new variables in which the choices of its layers are fixed.

    Each neuron keeps argmax of its logits, which move from `params` into the collection `choices`;
    all other arrays are the same. Module and variables given stay intact. The outputs are those of
    deterministic layers, bit for bit when both are compiled.

    Args:
        module: as it is; none of its functions is called.
        variables: its variables, the logits in the collection `params`.
        where: `where(path, logits)` says whether to fix that layer, path with dots such as
            "Block_0.SelectiveActivation_1"; the others stay selective. None: all.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: there are no logits, or `where` takes none of them; logits are traced or NaN.

    Example:
        >>> import flax.linen as nn, jax, jax.numpy as jnp
        >>> from smartmixed_jax import linen
        >>> net = nn.Sequential([nn.Dense(8), linen.SelectiveActivation(), nn.Dense(2)])
        >>> variables = net.init(jax.random.key(0), jnp.ones((1, 4)))
        >>> net, variables = linen.fix_choices(net, variables)
        >>> sorted(variables["params"]), variables["choices"]["layers_1"].keys()
        (['layers_0', 'layers_2'], dict_keys(['relu,sigmoid,tanh,leaky_relu,elu,selu']))
    """

    layers = _taken("fix_choices", module, variables, "logits", where)
    choices = {}
    for path, layer in layers.items():
        chosen = shared.choices_of(f"fix_choices: {_name(path)}", layer.logits)
        choices[*path, layer.key] = jnp.asarray(chosen)
    params = {(*path, name): None for path, v in layers.items() for name in (LOGITS, v.key)}
    return module, _updated(variables, params=params, choices=choices)


def release_choices(
    module: ModuleType,
    variables: Variables,
    where: Callable[[str, jax.Array], bool] | None = None,
    *,
    probability: float = 0.9,
    param_dtype: Any = jnp.float32,
) -> tuple[ModuleType, Variables]:
    """The module, and new variables in which fixed layers select again, from their choices.

    The way back from `fix_choices`: the argmax, and so the deterministic outputs, are kept.

    Args:
        module: as it is.
        variables: its variables, with fixed choices.
        where: `where(path, choices)` says whether to release that layer; None: all.
        probability: of each neuron's present choice, in (1/K, 1); the K − 1 others share the rest.
        param_dtype: of the logits.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: there are no fixed choices, or `where` takes none; a probability outside
            (1/K, 1).

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from smartmixed_jax import linen
        >>> act, x = linen.SelectiveActivation(), jnp.ones((8, 64))
        >>> act, fixed = linen.fix_choices(act, act.init(jax.random.key(0), x))
        >>> act, variables = linen.release_choices(act, fixed, probability=0.5)
        >>> float(jax.nn.softmax(variables["params"]["selection_logits"]).max())
        0.5
    """
    _checks.check("release_choices", param_dtype=param_dtype)
    layers = _taken("release_choices", module, variables, "choices", where)
    params: dict[Path, Any] = {}
    for path, layer in layers.items():
        place, functions = f"release_choices: {_name(path)}", len(layer.names)
        init = shared.favouring(place, layer.choices, functions, probability)
        params[*path, LOGITS] = init(None, (*layer.choices.shape, functions), param_dtype)
        params[*path, layer.key] = {}
    choices = {(*path, layer.key): None for path, layer in layers.items()}
    return module, _updated(variables, params=params, choices=choices)


def summarize(module: nn.Module, variables: Variables) -> dict[str, dict[str, Any]]:
    """What the neurons of each selective or fixed layer chose: `smartmixed_jax.summarize`'s twin.

    Args:
        module: as it is.
        variables: its variables. Where `init` could not record the names of a pool, because the
            parameters were flattened or made by hand, functions have their index as a name.

    Returns:
        path of the layer → its record, as there. Where neurons share a choice, groups are counted.

    Raises:
        TypeError: module or variables are of the wrong type.
        ValueError: logits are NaN.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from smartmixed_jax import linen
        >>> act, x = linen.SelectiveActivation(), jnp.ones((8, 64))
        >>> linen.summarize(act, act.init(jax.random.key(0), x))["the model"]["features"]
        64
    """
    records = {}
    for path, layer in _layers("summarize", module, variables).items():
        rows, axes = (layer.logits, 2) if layer.choices is None else (layer.choices, 1)
        for name, at in shared.stacked(rows, axes):
            if layer.choices is None:
                with _checks.prefixed(f"summarize: {_name(path) + name}"):
                    record = layer_record(statistics(rows[at]), layer.names)
            else:
                counts = np.bincount(np.asarray(rows[at]), minlength=len(layer.names))
                record = fixed_record(dict(zip(layer.names, counts.tolist(), strict=True)))
            records[_name(path) + name] = record
    return records


def switch_report(
    module: nn.Module,
    variables: Variables,
    score: Callable[[nn.Module, Variables, dict[str, jax.Array]], float],
    key: jax.Array,
) -> dict[str, float]:
    """The same weights scored before and after fixing: `smartmixed_jax.switch_report`'s twin.

    Args:
        module: holds SelectiveActivations.
        variables: its variables.
        score: (module, variables, rngs) → a number, such as the accuracy of
            `module.apply(variables, x, rngs=rngs)` on held-out data.
        key: of the noise.

    Returns:
        score with the `noise` on; `expectation`, the mixture Σ_k softmax(logits)_k f_k(x) in every
        layer; `fixed`, after `fix_choices`. (Deterministic layers are the same function as fixed
        ones; the variables of a Linen module cannot make a layer deterministic.)
    """
    rngs = {"selection": key}
    layers = _taken("switch_report", module, variables, "logits", None)
    _checks.check("switch_report", score=score, key=key)
    soft = {
        (*path, v.key): jax.nn.softmax(v.logits.astype("float32")) for path, v in layers.items()
    }
    return {
        "noise": score(module, variables, rngs),
        "expectation": score(module, _updated(variables, choices=soft), rngs),
        "fixed": score(*fix_choices(module, variables), rngs),
    }


def fixed_choices(
    module: nn.Module, variables: Variables
) -> tuple[dict[str, dict[str, list[Any]]], list[str]]:
    """The choices of fixed layers by path, and the paths of layers that still select.

    The choices as `FunctionTable.to_json` has them: `pool`, names, and `choices`. Where neurons
    share a choice, groups are listed; layers stacked by `nn.scan` or `nn.vmap` have an index.

    Raises:
        TypeError: module or variables are of the wrong type.
    """
    fixed, selective = {}, []
    for path, held in _layers("fixed_choices", module, variables).items():
        if held.choices is None:
            selective.append(_name(path))
            continue
        rows = np.asarray(held.choices)
        for name, at in shared.stacked(rows, 1):
            record = {"pool": list(held.names), "choices": rows[at].tolist()}
            fixed[_name(path) + name] = record
    return fixed, selective


# What the variables hold of a layer

LOGITS = "selection_logits"
RENAMED = f"its parameter is called {LOGITS} now, the variables hold 'logits': rename it"
NOT_VISIBLE = (
    f"the variables hold neither its {LOGITS} nor its choices; if fix_choices moved them, a lifted "
    'transform must list the collection: variable_axes={"params": 0, "choices": 0} of nn.scan and '
    "nn.vmap"
)


class _Layer(NamedTuple):
    """One layer in the variables.

    Attributes:
        key: of its entry in `choices`: the names of its pool, with commas.
        logits: [..., G, K]; leading axes of layers stacked by nn.scan or nn.vmap. None if fixed.
        choices: int32 [..., G]; None while it selects.
    """

    key: str
    logits: Any
    choices: Any

    @property
    def names(self) -> tuple[str, ...]:
        """Of the functions, K."""
        return tuple(self.key.split(","))


def _layers(name: str, module: nn.Module, variables: Variables) -> dict[Path, _Layer]:
    """The layers by their path; name: of the caller."""
    _checks.check(name, module=module, variables=variables)
    params, choices = (_flat(variables, collection) for collection in ("params", "choices"))
    logits = {path[:-1]: nn.unbox(leaf) for path, leaf in params.items() if path[-1] == LOGITS}
    for path, rows in logits.items():
        _checks.check(f"{name}: {_name(path)}", logits=rows)
    keys = {path: _unnamed(rows.shape[-1]) for path, rows in logits.items()}
    if isinstance(module, SelectiveActivation):
        keys[()] = ",".join(module.pool.names)
    recorded = [path for path, leaf in params.items() if leaf is empty_node]
    keys |= {
        path[:-1]: path[-1]
        for path in (*recorded, *choices)
        if path[:-1] in keys or path in choices
    }
    return {
        path: _Layer(key, logits.get(path), choices.get((*path, key))) for path, key in keys.items()
    }


def _flat(variables: Variables, collection: str) -> dict[Path, Any]:
    """The leaves of a collection by path; names of a pool are there, with an empty node."""
    return flatten_dict(unfreeze(variables.get(collection, {})), keep_empty_nodes=True)


def _taken(name: str, module: Any, variables: Variables, held: str, where: Any) -> dict[Path, Any]:
    """The layers that hold `held`, "logits" or "choices", and that `where` takes.

    name: of the caller.
    """
    _checks.check(name, where=where)
    layers = _layers(name, module, variables)
    found = {path: layer for path, layer in layers.items() if getattr(layer, held) is not None}
    if not found:
        kind = "logits of a SelectiveActivation" if held == "logits" else "fixed choices"
        raise ValueError(f"{name}: the variables of {type(module).__name__} hold no {kind}")
    if where is None:
        return found
    taken = {path: v for path, v in found.items() if where(".".join(path), getattr(v, held))}
    if not taken:
        raise ValueError(f"{name}: where takes none of the layers: {', '.join(map(_name, found))}")
    return taken


def _updated(variables: Variables, **changes: Mapping[Path, Any]) -> Variables:
    """New variables with leaves of collections set, or removed where None."""
    result = dict(variables)
    for collection, leaves in changes.items():
        flat = {**_flat(variables, collection), **leaves}
        kept = unflatten_dict({path: leaf for path, leaf in flat.items() if leaf is not None})
        result.pop(collection, None)
        result |= {collection: kept} if kept or collection == "params" else {}
    return freeze(result) if isinstance(variables, FrozenDict) else result


def _unnamed(functions: int) -> str:
    """The key of a layer of which only the number of functions is known."""
    return ",".join(map(str, range(functions)))


def _name(path: Path) -> str:
    return ".".join(path) or "the model"
