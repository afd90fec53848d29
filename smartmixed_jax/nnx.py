"""The two layers and the switch between them, for Flax NNX."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx

from smartmixed_jax import estimators
from smartmixed_jax.estimators import (
    Estimator,
    check_temperature,
    gumbel_straight_through,
    repeat_to_neurons,
)
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

RngSource = nnx.Rngs | nnx.RngStream
"""What draws: its `selection` stream, or the default one; or a stream itself."""

ModuleType = TypeVar("ModuleType", bound=nnx.Module)


class SelectionLogits(nnx.Param):
    """Selection logits [N, K]: an `nnx.Param`, so that an unchanged training loop trains them.

    As a filter it separates them from the weights; it must come first.

    Example:
        >>> import jax
        >>> from flax import nnx
        >>> from smartmixed_jax import MLP, SelectionLogits
        >>> model = MLP(4, (8,), 2, rngs=nnx.Rngs(0))
        >>> graphdef, logits, weights, rest = nnx.split(model, SelectionLogits, nnx.Param, ...)
        >>> len(jax.tree.leaves(logits)), len(jax.tree.leaves(weights))
        (1, 4)
    """


class SelectiveActivation(nnx.Module):
    """Every neuron picks its own activation by gradient (arXiv 2510.22450, phase 1).

    Args:
        features: N, the neurons or channels on `axis`.
        pool: K functions to choose from.
        estimator: how a choice is drawn and how its gradient reaches the logits.
        temperature: τ > 0 of the estimator. Held as an array: `nnx.view(model, temperature=τ)`
            or the argument of the call changes it without recompiling.
        axis: the axis of x that holds the N neurons.
        deterministic: argmax of the logits, no noise; `model.eval()` and `model.train()` set it.
        logits_init: initializer of the logits [N, K].
        keep_rngs: hold a stream forked from `rngs` (its `selection` stream, or the default one)
            for models that call `act(x)` and pass nothing. In tree mode `nnx.grad` refuses such a
            model: differentiate its split parameters.
        groups: neurons that share one choice: an int G splits the N neurons into G equal
            contiguous blocks (1: one choice for the layer), N ints in [0, G) name each neuron's
            group; None: every neuron chooses for itself.
        dtype: of the computation and result; None keeps that of x.
        param_dtype: of the logits.
        rngs: its `params` stream draws the logits.

    Attributes:
        logits: SelectionLogits [N, K], the only parameter; [G, K] with groups.
        groups: each neuron's group, [N] ints, or None.

    Raises:
        ValueError: features < 1, temperature ≤ 0, groups that do not fit the features.

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
        temperature: float | jax.Array = 1.0,
        axis: int = -1,
        deterministic: bool = False,
        logits_init: Initializer = one_random_entry(),
        keep_rngs: bool = False,
        groups: int | Sequence[int] | None = None,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        rngs: RngSource,
    ) -> None:
        self.groups = check_options(features, temperature, groups)
        self.features = features
        self.pool = pool
        self.estimator = estimator
        self.temperature = jnp.asarray(temperature, jnp.float32)
        self.axis = axis
        self.deterministic = deterministic
        self.dtype = dtype
        key = rngs.params() if isinstance(rngs, nnx.Rngs) else _stream(rngs)()
        shape = logits_shape(features, pool, self.groups)
        self.logits = SelectionLogits(logits_init(key, shape, param_dtype))
        self.rngs = _stream(rngs).fork() if keep_rngs else nnx.data(None)

    def __call__(
        self,
        x: jax.Array,
        *,
        rngs: RngSource | None = None,
        deterministic: bool | None = None,
        temperature: float | jax.Array | None = None,
    ) -> jax.Array:
        """Applies the selected functions.

        Args:
            x: [..., N] float, the N neurons on `axis`.
            rngs: its `selection` stream, or the default one, draws the choices; each call
                consumes one key, so two layers never share noise.
            deterministic: overrides the attribute.
            temperature: overrides the attribute; may be traced.

        Returns:
            The shape of x, in `dtype` or the dtype of x.

        Raises:
            ValueError: noise is needed and there are no rngs; N does not fit x; τ ≤ 0.
            TypeError: x is integer or complex; rngs is a bare key.
        """
        x = promote("SelectiveActivation", x, self.dtype)
        logits = self.logits[...]
        if self.deterministic if deterministic is None else deterministic:
            selection = estimators.deterministic(logits)
        else:
            rngs = self.rngs if rngs is None else rngs
            key = None if rngs is None else _stream(rngs)()
            temperature = self.temperature if temperature is None else temperature
            selection = self.estimator(logits, key, temperature)
        selection = repeat_to_neurons(selection, self.groups)
        return mix(x, selection, self.pool, axis=self.axis)

    def fix(self) -> "MixedActivation":
        """The fixed layer with choices[n] = argmax_k logits[n, k], those of n's group."""
        table = table_of(argmax(self.logits[...]), self.pool, self.groups)
        return MixedActivation(table, axis=self.axis, dtype=self.dtype)

    def set_view(
        self,
        deterministic: bool | None = None,
        temperature: float | jax.Array | None = None,
        estimator: Estimator | None = None,
    ) -> None:
        """What `nnx.view(model, ...)` may change: a copy of the model that shares its arrays.

        Example:
            >>> from smartmixed_jax import MLP
            >>> model = MLP(4, (8,), 2, rngs=nnx.Rngs(0))
            >>> cooler = nnx.view(model, temperature=0.5)
            >>> cooler.activations[0].temperature, model.activations[0].temperature
            (Array(0.5, dtype=float32), Array(1., dtype=float32))
        """
        if deterministic is not None:
            self.deterministic = deterministic
        if temperature is not None:
            check_temperature("SelectiveActivation", temperature)
            self.temperature = jnp.asarray(temperature, jnp.float32)
        if estimator is not None:
            self.estimator = estimator


class MixedActivation(nnx.Module):
    """Every neuron applies its fixed function (arXiv 2510.22450, phase 2); no parameters.

    Args:
        table: N neurons' functions, static.
        axis: the axis of x that holds the N neurons.
        dtype: of the computation and result; None keeps that of x.

    Example:
        >>> import jax.numpy as jnp
        >>> from smartmixed_jax import PAPER_POOL, FunctionTable, MixedActivation
        >>> MixedActivation(FunctionTable(PAPER_POOL, [0, 1]))(jnp.array([-1.0, 0.0]))
        Array([0. , 0.5], dtype=float32)
    """

    def __init__(self, table: FunctionTable, *, axis: int = -1, dtype: Any = None) -> None:
        self.table = table
        self.axis = axis
        self.dtype = dtype

    def __call__(
        self,
        x: jax.Array,
        *,
        rngs: RngSource | None = None,
        deterministic: bool | None = None,
        temperature: float | jax.Array | None = None,
    ) -> jax.Array:
        """x [..., N] → [..., N]. The keywords of `SelectiveActivation` are taken and ignored."""
        del rngs, deterministic, temperature
        x = promote("MixedActivation", x, self.dtype)
        return apply_choices(x, self.table.choices, self.table.pool, axis=self.axis)


def fix_choices(
    model: ModuleType, where: Callable[[str, SelectiveActivation], bool] | None = None
) -> ModuleType:
    """A new model in which every SelectiveActivation is its MixedActivation.

    Each neuron keeps argmax of its logits. The other parameters are new Variables that hold the
    same arrays; the input model stays intact. The outputs are those of the input model with
    `deterministic=True`, bit for bit when both are compiled.

    Args:
        model: holds SelectiveActivations.
        where: `where(path, layer)` says whether to fix that layer, path as in `summarize`; the
            others stay selective. None: all.

    Raises:
        ValueError: the model holds no SelectiveActivation, or `where` takes none of them; a layer
            to be fixed is traced or stacked.

    Example:
        >>> from flax import nnx
        >>> from smartmixed_jax import MLP, fix_choices
        >>> model = MLP(4, (8, 8), 2, rngs=nnx.Rngs(0))
        >>> partly = fix_choices(model, where=lambda path, layer: path == "activations.0")
        >>> [type(activation).__name__ for activation in partly.activations]
        ['MixedActivation', 'SelectiveActivation']
    """
    # Each layer is held beside its replacement: in tree mode the nodes are temporary, and the id
    # of a freed one is given to the next.
    fixed: dict[int, tuple[SelectiveActivation, MixedActivation]] = {}
    left: list[str] = []

    def replace(path: Any, node: Any) -> Any:
        if not isinstance(node, SelectiveActivation):
            return node
        if where is not None and not where(".".join(map(str, path)), node):
            left.append(_name(path))
            return node
        shape = logits_shape(node.features, node.pool, node.groups)
        check_fixable(_name(path), node.logits[...], shape, "nnx.vmap")
        return fixed.setdefault(id(node), (node, node.fix()))[1]

    result = nnx.recursive_map(replace, nnx.clone(model))
    if left and not fixed:
        raise ValueError(f"fix_choices: where takes none of the layers: {', '.join(left)}")
    if not fixed:
        raise ValueError(
            f"fix_choices: {type(model).__name__} holds no SelectiveActivation "
            "(one inside a closure cannot be found: hold it as an attribute)"
        )
    return result


def _name(path: Any) -> str:
    return ".".join(map(str, path)) or "the model"


def _stream(rngs: RngSource) -> nnx.RngStream:
    if isinstance(rngs, nnx.Rngs):
        return rngs["selection"]
    if isinstance(rngs, nnx.RngStream):
        return rngs
    raise TypeError(
        f"rngs must be nnx.Rngs or nnx.RngStream, got {type(rngs).__name__}; a bare key would give "
        "every layer the same noise: pass nnx.Rngs(selection=key)"
    )
