"""The two layers, and the switch between them there and back, for Flax NNX."""

from collections.abc import Callable
from typing import Any, TypeVar

import flax.errors
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from smartmixed_jax import _checks, estimators
from smartmixed_jax import layer as shared
from smartmixed_jax.estimators import gumbel_straight_through
from smartmixed_jax.mixture import apply_choices, mix
from smartmixed_jax.pools import PAPER_POOL, ActivationPool
from smartmixed_jax.table import FunctionTable
from smartmixed_jax.types import Draws, Estimator, Initializer, Integers, Scalar, Start

RngSource = nnx.Rngs | nnx.RngStream
"""What draws: its `selection` stream, or the default one; or a stream itself."""

ModuleType = TypeVar("ModuleType", bound=nnx.Module)

_RNGS = "nnx.Rngs or nnx.RngStream, as a bare key is equal in every layer: nnx.Rngs(selection=key)"
_checks.KINDS.update(
    model=("an nnx.Module", lambda value: isinstance(value, nnx.Module)),
    rngs=(_RNGS, lambda value: isinstance(value, RngSource)),
)


class SelectionLogits(nnx.Param):
    """Selection logits [N, K]: an `nnx.Param`, so that an unchanged training loop trains them.

    As a filter it separates them from the weights; it must come first. `nnx.bridge.to_linen` keeps
    them in a collection of this name in snake case, `selection_logits`.

    Example:
        >>> import jax
        >>> from flax import nnx
        >>> from smartmixed_jax import MLP, SelectionLogits
        >>> model = MLP(4, (8,), 2, rngs=nnx.Rngs(0))
        >>> graphdef, logits, weights, others = nnx.split(model, SelectionLogits, nnx.Param, ...)
        >>> len(jax.tree.leaves(logits)), len(jax.tree.leaves(weights))
        (1, 4)
    """


class Temperature(nnx.Variable):
    """A temperature given as an array, float32 []."""


class Noise(nnx.Variable):
    """A scale of the noise given as an array, float32 []."""


class Choices(nnx.Variable):
    """Fixed choices that are data of a compiled program, int32 [N]; stacked layers [..., N]."""


# The names of the Linen collections that nnx.bridge keeps them in.
nnx.register_variable_name("selection_logits", SelectionLogits, overwrite=True)
nnx.register_variable_name("choices", Choices, overwrite=True)


class SelectiveActivation(nnx.Module):
    """Every neuron picks its own activation by gradient (arXiv 2510.22450, phase 1).

    Args:
        features: N, the neurons or channels on `axis`.
        pool: K functions to choose from.
        estimator: how a choice is drawn and how its gradient reaches the logits.
        temperature: τ > 0 of the estimator. A number is a static attribute, as `nnx.Dropout`'s
            rate is; an array, here, in `nnx.view(model, temperature=τ)` or in the call, is data,
            and changes without recompiling.
        noise: β ≥ 0, the scale of the noise that choices are drawn with: 1 the paper's, 0 none. A
            number or an array, as the temperature.
        draws: how many draws serve a batch, x's axis 0: 1; an int D, each for one of D equal parts;
            or "example", one for each example. More than one needs an estimator that takes them,
            such as `estimators.sampled_straight_through`.
        axis: the axis of x that holds the N neurons.
        deterministic: argmax of the logits, no noise; `model.eval()` and `model.train()` set it.
        start: (name, probability): each neuron's probability of one function at the start, in
            (1/K, 1); None: that of `logits_init`.
        logits_init: initializer of the logits [N, K]; None: 0, and 0.001 at one random entry per
            neuron, as published.
        groups: neurons that share one choice: an int G splits the N neurons into G equal
            contiguous blocks (1: one choice for the layer), N ints in [0, G) name each neuron's
            group; None: every neuron chooses for itself.
        keep_rngs: hold a stream forked from `rngs` (its `selection` stream, or the default one)
            for models that call `act(x)` and pass nothing. In tree mode `nnx.grad` refuses such a
            model: differentiate its split parameters.
        dtype: of the computation and result; None keeps that of x.
        param_dtype: of the logits.
        rngs: its `params` stream draws the logits.

    Attributes:
        selection_logits: SelectionLogits [N, K], the only parameter; [G, K] with groups. `logits`
            is another name for it.
        groups: each neuron's group, [N] ints, or None.

    Raises:
        TypeError: an option is of the wrong type.
        ValueError: features < 1, temperature ≤ 0, groups that do not fit the features, a start
            that does not fit the pool.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from smartmixed_jax import SelectiveActivation
        >>> act = SelectiveActivation(64, rngs=nnx.Rngs(0))
        >>> act(jnp.ones((8, 64)), rngs=nnx.Rngs(selection=1)).shape
        (8, 64)
    """

    def __init__(
        self,
        features: int,
        pool: ActivationPool = PAPER_POOL,
        *,
        estimator: Estimator = gumbel_straight_through,
        temperature: Scalar = 1.0,
        noise: Scalar = 1.0,
        draws: Draws = 1,
        axis: int = -1,
        deterministic: bool = False,
        start: Start | None = None,
        logits_init: Initializer | None = None,
        groups: int | Integers | None = None,
        keep_rngs: bool = False,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        rngs: RngSource,
    ) -> None:
        drawn = (estimator, temperature, noise, draws)
        initial = (start, logits_init, groups, dtype, param_dtype)
        options = (features, pool, *drawn, axis, deterministic, *initial)
        self.groups, shape, init = shared.check_options("SelectiveActivation", *options)
        _checks.check("SelectiveActivation", keep_rngs=keep_rngs)
        self.features, self.pool, self.axis = features, pool, axis
        self.estimator, self.draws = estimator, draws
        self.temperature = _static_or_variable(Temperature, temperature)
        self.noise = _static_or_variable(Noise, noise)
        self.deterministic, self.dtype = deterministic, dtype
        key = _draw("SelectiveActivation", rngs, "params")
        self.selection_logits = SelectionLogits(init(key, shape, param_dtype))
        self.rngs = _stream("SelectiveActivation", rngs).fork() if keep_rngs else nnx.data(None)

    @property
    def logits(self) -> SelectionLogits:
        """`selection_logits`. An old state, whose logits have this name, loads by `nnx.update`."""
        return self.selection_logits

    def __call__(
        self,
        x: jax.Array,
        *,
        rngs: RngSource | None = None,
        deterministic: bool | None = None,
        temperature: Scalar | None = None,
        noise: Scalar | None = None,
    ) -> jax.Array:
        """Applies the selected functions.

        Args:
            x: [..., N] float, the N neurons on `axis`.
            rngs: its `selection` stream, or the default one, draws the choices; each call
                consumes one key, so two layers never share noise.
            deterministic: overrides the attribute.
            temperature: overrides the attribute; may be traced.
            noise: overrides the attribute; may be traced.

        Returns:
            The shape of x, in `dtype` or the dtype of x.

        Raises:
            ValueError: noise is needed and there are no rngs, or they cannot be advanced here; N
                does not fit x; τ ≤ 0.
            TypeError: x is integer or complex; rngs is a bare key.
        """
        x = shared.promote("SelectiveActivation", x, self.dtype)
        logits = self.selection_logits[...]
        deterministic = self.deterministic if deterministic is None else deterministic
        _checks.check("SelectiveActivation", deterministic=deterministic)
        if deterministic:
            selection = estimators.deterministic(logits)
        else:
            rngs = self.rngs if rngs is None else rngs
            key = None if rngs is None else _draw("SelectiveActivation", rngs)
            temperature = _held(self.temperature) if temperature is None else temperature
            noise = _held(self.noise) if noise is None else noise
            selection = shared.select(
                "SelectiveActivation",
                *(self.estimator, logits, key, temperature, noise, self.draws, x),
            )
        selection = shared.repeat_to_neurons(selection, self.groups)
        return mix(x, selection, self.pool, axis=self.axis)

    def set_view(
        self,
        deterministic: bool | None = None,
        temperature: Scalar | None = None,
        noise: Scalar | None = None,
        estimator: Estimator | None = None,
    ) -> None:
        """What `nnx.view(model, ...)` may change: a copy of the model that shares its arrays.

        Example:
            >>> from smartmixed_jax import MLP
            >>> model = MLP(4, (8,), 2, rngs=nnx.Rngs(0))
            >>> cooler = nnx.view(model, temperature=0.5)
            >>> cooler.activations[0].temperature, model.activations[0].temperature
            (0.5, 1.0)
        """
        if deterministic is not None:
            _checks.check("SelectiveActivation", deterministic=deterministic)
            self.deterministic = deterministic
        if temperature is not None:
            _checks.check_temperature("SelectiveActivation", temperature)
            self.temperature = _static_or_variable(Temperature, temperature)
        if noise is not None:
            _checks.check_noise("SelectiveActivation", noise)
            self.noise = _static_or_variable(Noise, noise)
        if estimator is not None:
            _checks.check("SelectiveActivation", estimator=estimator)
            self.estimator = estimator


class MixedActivation(nnx.Module):
    """Every neuron applies its fixed function (arXiv 2510.22450, phase 2); no parameters.

    Args:
        table: N neurons' functions.
        axis: the axis of x that holds the N neurons.
        dtype: of the computation and result; None keeps that of x.
        static: the table is a static attribute, a constant of a compiled program. Otherwise the
            choices are a Variable: data, so that models that differ in them share a compilation.

    Attributes:
        table: the table, or None if it is not static.
        choices: Choices [N], or [..., N] of layers stacked by `nnx.vmap`; None if static.

    Raises:
        TypeError: an argument is of the wrong type; in the call, x is integer or complex.

    Example:
        >>> import jax.numpy as jnp
        >>> from smartmixed_jax import PAPER_POOL, FunctionTable, MixedActivation
        >>> MixedActivation(FunctionTable(PAPER_POOL, [0, 1]))(jnp.array([-1.0, 0.0]))
        Array([0. , 0.5], dtype=float32)
    """

    def __init__(
        self, table: FunctionTable, *, axis: int = -1, dtype: Any = None, static: bool = True
    ) -> None:
        _checks.check("MixedActivation", table=table, dtype=dtype, static=static)
        _checks.check_int("MixedActivation", "axis", axis)
        self._pool = table.pool
        self.table: FunctionTable = table if static else None  # type: ignore[assignment]
        choices = None if static else Choices(jnp.asarray(table.choices, jnp.int32))
        self.choices: Choices = nnx.data(choices)  # type: ignore[assignment]
        self.axis = axis
        self.dtype = dtype

    def __call__(self, x: jax.Array, **ignored: Any) -> jax.Array:
        """x [..., N] → [..., N]. The keywords of `SelectiveActivation` are taken and ignored."""
        x = shared.promote("MixedActivation", x, self.dtype)
        choices = self.choices[...] if self.table is None else self.table.choices
        return apply_choices(x, choices, self.pool, axis=self.axis)

    @property
    def pool(self) -> ActivationPool:
        """The functions that the choices are indices of."""
        return self._pool if self.table is None else self.table.pool

    def tables(self) -> dict[str, FunctionTable]:
        """The table of each stacked layer by its index, such as "[0]"; of a single layer by ""."""
        if self.table is not None:
            return {"": self.table}
        rows = np.asarray(self.choices[...])
        return {name: FunctionTable(self.pool, rows[at]) for name, at in shared.stacked(rows, 1)}


def fix_choices(
    model: ModuleType, where: Callable[[str, SelectiveActivation], bool] | None = None
) -> ModuleType:
    """A new model in which every SelectiveActivation is its MixedActivation.

    Each neuron keeps argmax of its logits. The other parameters are new Variables that hold the
    same arrays; the input model stays intact. The outputs are those of the input model with
    `deterministic=True`, bit for bit when both are compiled. Layers stacked by `nnx.vmap` become
    one MixedActivation whose choices [..., N] are a Variable, a row for each layer.

    Args:
        model: holds SelectiveActivations.
        where: `where(path, layer)` says whether to fix that layer, path as in `summarize`; the
            others stay selective. None: all.

    Raises:
        TypeError: model is no nnx.Module, or where no function.
        ValueError: the model holds no SelectiveActivation, or `where` takes none of them; the
            logits of a layer to be fixed are traced or NaN.

    Example:
        >>> from flax import nnx
        >>> from smartmixed_jax import MLP, fix_choices
        >>> model = MLP(4, (8, 8), 2, rngs=nnx.Rngs(0))
        >>> partly = fix_choices(model, where=lambda path, layer: path == "activations.0")
        >>> [type(activation).__name__ for activation in partly.activations]
        ['MixedActivation', 'SelectiveActivation']
    """

    def fixed(path: str, layer: SelectiveActivation) -> MixedActivation:
        choices = shared.choices_of(f"fix_choices: {path}", layer.selection_logits[...])
        if layer.groups is not None:
            choices = choices[..., np.asarray(layer.groups)]
        return _mixed(layer.pool, choices, layer.axis, layer.dtype)

    return _replace("fix_choices", model, SelectiveActivation, fixed, where)


def release_choices(
    model: ModuleType,
    where: Callable[[str, MixedActivation], bool] | None = None,
    *,
    probability: float = 0.9,
    rngs: RngSource,
    keep_rngs: bool = True,
    **options: Any,
) -> ModuleType:
    """A new model in which every MixedActivation selects again, starting from its choices.

    The way back from `fix_choices`. Pool, axis and dtype are kept, and so are the argmax and the
    deterministic outputs, bit for bit when both are compiled. The other parameters are new
    Variables that hold the same arrays; the input model stays intact.

    Args:
        model: holds MixedActivations.
        where: `where(path, layer)` says whether to release that layer, path as in `summarize`;
            None: all.
        probability: of each neuron's present choice, in (1/K, 1); the K − 1 others share the rest.
        rngs: the layers' streams are forked from it.
        keep_rngs: as in `select_activations`; rngs passed to the call win over kept ones.
        options: of every SelectiveActivation: `estimator`, `temperature`, `groups`, ….

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: the model holds no MixedActivation, or `where` takes none; a probability
            outside (1/K, 1); `groups` of neurons whose choices differ.

    Example:
        >>> from flax import nnx
        >>> from smartmixed_jax import MLP, fix_choices, release_choices
        >>> fixed = fix_choices(MLP(4, (8,), 2, rngs=nnx.Rngs(0)))
        >>> model = release_choices(fixed, rngs=nnx.Rngs(1))
        >>> fix_choices(model).activations[0].table == fixed.activations[0].table
        True
    """

    def released(path: str, layer: MixedActivation) -> SelectiveActivation:
        place = f"release_choices: {path}"
        static = layer.table is not None
        choices = np.asarray(layer.table.choices if static else layer.choices[...])
        kept = {"axis": layer.axis, "dtype": layer.dtype, "rngs": rngs}
        with _checks.prefixed(place):
            result = SelectiveActivation(choices.shape[-1], layer.pool, **kept, **options)
        if result.groups is not None:
            groups = np.asarray(result.groups)
            firsts = np.unique(groups, return_index=True)[1]
            if (choices[..., firsts][..., groups] != choices).any():
                raise ValueError(f"{place}: neurons of a group hold different choices")
            choices = choices[..., firsts]
        init = shared.favouring(place, choices, len(layer.pool), probability)
        shape, dtype = (*choices.shape, len(layer.pool)), result.selection_logits.dtype
        result.selection_logits = SelectionLogits(init(None, shape, dtype))
        if keep_rngs:
            stream = _stream(place, rngs)
            result.rngs = stream.split(choices.shape[:-1]) if choices.ndim > 1 else stream.fork()
        return result

    _checks.check("release_choices", keep_rngs=keep_rngs)
    return _replace("release_choices", model, MixedActivation, released, where)


def label_parameters(params: Any, *, selection: str = "selection", weights: str = "weights") -> Any:
    """The labels of a tree of parameters, for `optax.multi_transform(transforms, labels)`.

    Selection logits are known by their type in NNX, and everywhere by their name,
    `selection_logits`: of Linen parameters, boxed or not, of a whole set of `variables`, of pure
    NNX states, of models on either side of `nnx.bridge`, and of gradients of all these. The
    function itself may be the labels: `optax.multi_transform(transforms, label_parameters)`.

    Args:
        params: a tree of parameters, or of gradients.
        selection: the label of selection logits.
        weights: the label of everything else.

    Returns:
        The tree with a label in place of every parameter.

    Raises:
        TypeError: a label is no str.

    Example:
        >>> from flax import nnx
        >>> from smartmixed_jax import SelectiveActivation, label_parameters
        >>> rngs = nnx.Rngs(0)
        >>> model = nnx.Sequential(nnx.Linear(4, 8, rngs=rngs), SelectiveActivation(8, rngs=rngs))
        >>> labels = label_parameters(nnx.state(model, nnx.Param))
        >>> labels["layers"][0]["kernel"], labels["layers"][1]["selection_logits"]
        ('weights', 'selection')
    """

    if not isinstance(selection, str) or not isinstance(weights, str):
        got = f"selection {_checks.shown(selection)} and weights {_checks.shown(weights)}"
        raise TypeError(f"label_parameters: labels must be strings, got {got}")

    def label(path: tuple[Any, ...], leaf: Any) -> str:
        names = (getattr(entry, "key", getattr(entry, "name", None)) for entry in path)
        found = isinstance(leaf, SelectionLogits) or "selection_logits" in names
        return selection if found else weights

    is_variable = lambda leaf: isinstance(leaf, nnx.Variable)  # noqa: E731
    return jax.tree_util.tree_map_with_path(label, params, is_leaf=is_variable)


def _mixed(pool: ActivationPool, choices: np.ndarray, axis: int, dtype: Any) -> MixedActivation:
    """The fixed layer of choices [N], or of stacked layers' [..., N]."""
    single = choices.ndim == 1
    table = FunctionTable(pool, choices.reshape(-1, choices.shape[-1])[0])
    layer = MixedActivation(table, axis=axis, dtype=dtype, static=single)
    if not single:
        layer.choices = Choices(jnp.asarray(choices))
    return layer


def _replace(caller: str, model: Any, kind: type, change: Any, where: Any) -> Any:
    """The model with `change(path, layer)` in place of every layer of a kind that `where` takes."""
    _checks.check(caller, model=model, where=where)
    # Each layer is held beside its replacement: in tree mode the nodes are temporary, and the id
    # of a freed one is given to the next.
    changed: dict[int, tuple[Any, nnx.Module]] = {}
    left: list[str] = []

    def replace(path: Any, node: Any) -> Any:
        if not isinstance(node, kind):
            return node
        name = ".".join(map(str, path))
        if where is not None and not where(name, node):
            left.append(name or "the model")
            return node
        if id(node) not in changed:
            changed[id(node)] = node, change(name or "the model", node)
        return changed[id(node)][1]

    result = nnx.recursive_map(replace, nnx.clone(model))
    if left and not changed:
        raise ValueError(f"{caller}: where takes none of the layers: {', '.join(left)}")
    if not changed:
        found = f"{type(model).__name__} holds no {kind.__name__} as an attribute"
        raise ValueError(f"{caller}: {found} (one inside a closure cannot be found)")
    return result


def _static_or_variable(kind: type[nnx.Variable], value: Scalar) -> Any:
    if isinstance(value, jax.Array | np.ndarray):
        return nnx.data(kind(jnp.asarray(value, jnp.float32)))
    return nnx.static(float(value))


def _held(value: float | nnx.Variable) -> Scalar:
    return value[...] if isinstance(value, nnx.Variable) else value


def _stream(where: str, rngs: RngSource, name: str = "selection") -> nnx.RngStream:
    _checks.check(where, rngs=rngs)
    if isinstance(rngs, nnx.RngStream):
        return rngs
    try:
        return rngs[name]
    except (AttributeError, KeyError) as error:
        expected = f"a stream {name!r} or a default one, got {_checks.shown(rngs)}"
        raise ValueError(f"{where}: rngs must have {expected}") from error


def _draw(where: str, rngs: RngSource, name: str = "selection") -> jax.Array:
    """The next key of the stream."""
    try:
        return _stream(where, rngs, name)()
    except flax.errors.TraceContextError as error:
        raise ValueError(
            "SelectiveActivation: a random stream made outside of jax.vmap, jax.hessian or "
            "jax.lax.scan cannot be advanced inside. Pass one made inside, "
            "model(x, rngs=nnx.Rngs(selection=key)), or call nnx.view(model, deterministic=True), "
            "or map with nnx.vmap and nnx.StateAxes"
        ) from error
