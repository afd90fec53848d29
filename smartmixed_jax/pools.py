"""The functions a neuron may choose from: ordered, named, hashable pools.

`K` is the number of functions in a pool. Every function is elementwise: it maps an
array of any shape to an array of the same shape. It should be finite on the whole
real line, because the gradient to the selection logits evaluates every function of
the pool, chosen or not.
"""

import dataclasses
import functools
import importlib
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from smartmixed_jax._checks import KINDS, check, check_elementwise, check_number, shown
from smartmixed_jax._sine import sin
from smartmixed_jax.types import Activation

Form = Literal["auto", "fused", "general"]
"""How a pool is evaluated; see `ActivationPool.with_form`."""


def identity(x: jax.Array) -> jax.Array:
    """x itself."""
    return x


def zero(x: jax.Array) -> jax.Array:
    """0 everywhere: a neuron that chooses it is pruned."""
    return jnp.zeros_like(x)


def square(x: jax.Array) -> jax.Array:
    """x² / 2, the scale whose second moment under N(0, 1) is 3/4."""
    return 0.5 * (x * x)


def squared_relu(x: jax.Array) -> jax.Array:
    """max(x, 0)² (So et al. 2021, arXiv 2109.08668)."""
    return jnp.square(jax.nn.relu(x))


def gauss(x: jax.Array) -> jax.Array:
    """exp(−x²)."""
    return jnp.exp(-(x * x))


@dataclasses.dataclass(frozen=True)
class leaky_relu:
    """x for x > 0, slope·x otherwise; slope may be any finite number. The derivative at 0 is slope.

    Example:
        >>> from smartmixed_jax import ActivationPool, leaky_relu
        >>> ActivationPool({"relu": jax.nn.relu, "leaky_0.2": leaky_relu(0.2)})
        ActivationPool(relu, leaky_0.2)
    """

    slope: float = 0.01

    def __post_init__(self) -> None:
        check_number("leaky_relu", "slope", self.slope)

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.where(x > 0, x, self.slope * x)


class ActivationPool:
    """An ordered, immutable, hashable mapping from names to elementwise functions.

    Pools with the same names and the same function objects, in the same order and form, are
    equal, so a pool can be a static argument of `jax.jit`. `copy.deepcopy` gives the same pool, and
    `pickle` an equal one: functions travel by their import path. A function without one, such as a
    lambda, is an error of `pickle`; `cloudpickle` takes it along by value.

    Args:
        functions: names → functions; the order gives every function its index
            0 … K−1. Names are non-empty strings without commas.

    Attributes:
        names: K, in order.
        functions: K, in order.
        form: how `mix` and `apply_choices` evaluate the pool; see `with_form`.

    Raises:
        ValueError: the pool is empty, or a name appears twice.
        TypeError: a name is no string, or a function cannot be called or hashed.

    Example:
        >>> pool = ActivationPool({"relu": jax.nn.relu, "sin": jnp.sin})
        >>> pool.names, len(pool), pool.index("sin")
        (('relu', 'sin'), 2, 1)
    """

    def __init__(self, functions: Mapping[str, Activation] | Iterable[tuple[str, Activation]]):
        pairs = functions.items() if isinstance(functions, Mapping) else functions
        items: tuple[Any, ...] = tuple(pairs) if isinstance(pairs, Iterable) else (pairs,)
        if not all(isinstance(item, tuple) and len(item) == 2 for item in items):
            raise TypeError(f"ActivationPool: expected names → functions, got {shown(functions)}")
        if not items:
            raise ValueError("ActivationPool: expected at least one function, got an empty pool")
        for name, function in items:
            if not isinstance(name, str) or not name or "," in name:
                expected = "a non-empty string without commas"
                raise TypeError(f"ActivationPool: a name must be {expected}, got {shown(name)}")
            if not callable(function) or isinstance(function, type):
                got = shown(function)
                raise TypeError(f"ActivationPool: {name!r} must be a function, got {got}")
        self.names: tuple[str, ...] = tuple(name for name, _ in items)
        self.functions: tuple[Activation, ...] = tuple(function for _, function in items)
        duplicates = sorted({name for name in self.names if self.names.count(name) > 1})
        if duplicates:
            raise ValueError(f"ActivationPool: duplicate names {duplicates} in {list(self.names)}")
        self._set_form("auto")

    def _set_form(self, form: Form) -> None:
        self.form = form
        self._key = (self.names, self.functions, form)
        try:
            self._hash = hash(self._key)
        except TypeError as error:
            expected = f"hashable, got {shown(self.functions)}"
            raise TypeError(f"ActivationPool: functions must be {expected}: {error}") from error

    def with_form(self, form: Form) -> "ActivationPool":
        """The same functions, evaluated in a given form by `mix` and `apply_choices`.

        Args:
            form: "auto", what every pool starts with: functions with coefficients by one fused
                formula (`smartmixed_jax.covered`), the others one by one; "fused": an error if a
                function has no coefficients; "general": every function by itself.

        Raises:
            ValueError: form is none of the three.

        Example:
            >>> from smartmixed_jax import PAPER_POOL
            >>> PAPER_POOL.with_form("general") == PAPER_POOL
            False
        """
        if not isinstance(form, str) or form not in get_args(Form):
            expected = f"one of {', '.join(get_args(Form))}, got {shown(form)}"
            raise ValueError(f"ActivationPool.with_form: form must be {expected}")
        pool = ActivationPool(zip(self.names, self.functions, strict=True))
        pool._set_form(form)
        return pool

    def map(self, change: Callable[[str, Activation], Activation]) -> "ActivationPool":
        """The pool of change(name, function), under the same names and in the same form.

        Raises:
            TypeError: change is no function, or gives none.

        Example:
            >>> from smartmixed_jax import PAPER_POOL
            >>> clamped = PAPER_POOL.map(lambda name, f: lambda x: jnp.clip(f(x), -10, 10))
            >>> clamped.functions[0](jnp.array([99.0]))
            Array([10.], dtype=float32)
        """
        check("ActivationPool.map", change=change)
        pairs = zip(self.names, self.functions, strict=True)
        return ActivationPool((name, change(name, f)) for name, f in pairs).with_form(self.form)

    def subset(self, *names: str) -> "ActivationPool":
        """The functions with these names, in this order; ValueError if there is no such function.

        Example:
            >>> from smartmixed_jax import EXTENDED_POOL
            >>> EXTENDED_POOL.subset("relu", "tanh", "sin")
            ActivationPool(relu, tanh, sin)
        """
        return ActivationPool((name, self.functions[self.index(name)]) for name in names)

    def index(self, name: str) -> int:
        """The index of the function called `name`; ValueError if there is none."""
        if not isinstance(name, str) or name not in self.names:
            raise ValueError(f"ActivationPool: no function {shown(name)} in {list(self.names)}")
        return self.names.index(name)

    def variance_matched(self) -> "ActivationPool":
        """The same functions, each shifted and scaled to E f = 0 and E f² = 1 under N(0, 1).

        So no function wins at the start by its gain alone. Constants stay as they are.

        Raises:
            ValueError: a function is not elementwise, gives no real floats, or has no finite mean
                and variance under N(0, 1).

        Example:
            >>> from smartmixed_jax import PAPER_POOL
            >>> relu = PAPER_POOL.variance_matched().functions[0]
            >>> round(relu.shift, 3), round(relu.scale, 3)
            (0.399, 1.713)
        """
        return self.map(_standardized)

    def __len__(self) -> int:
        return len(self.names)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ActivationPool) and self._key == other._key

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        return f"ActivationPool({', '.join(self.names)})"

    def __deepcopy__(self, memo: dict[int, Any]) -> "ActivationPool":
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _pool, (self.names, tuple(map(_packed, self.functions)), self.form)


KINDS.update(pool=("an ActivationPool", lambda value: isinstance(value, ActivationPool)))


def _packed(function: Activation) -> Any:
    """A function as pickle takes it: by its import path, or as it is where it has none.

    By path because jax.nn's functions are objects that pickle copies: the copy is another function,
    unequal to the one in `_fused`'s table and compiled again. Public modules of JAX come first.
    """
    name = getattr(function, "__qualname__", "")
    for module in ("jax.nn", "jax.numpy", "jax.lax", getattr(function, "__module__", None)):
        try:
            if module and _unpacked((module, name)) is function:
                return module, name
        except (ImportError, AttributeError):
            pass
    return function


def _unpacked(packed: Any) -> Any:
    if not isinstance(packed, tuple):
        return packed
    module, name = packed
    return functools.reduce(getattr, name.split("."), importlib.import_module(module))


def _pool(names: tuple[str, ...], functions: tuple[Any, ...], form: Form) -> ActivationPool:
    return ActivationPool(zip(names, map(_unpacked, functions), strict=True)).with_form(form)


def _affine(function: Any, shift: float, scale: float) -> "Affine":
    return Affine(_unpacked(function), shift, scale)


@dataclasses.dataclass(frozen=True)
class Affine:
    """scale · (function(x) − shift): a function of which two equal copies are equal."""

    function: Activation
    shift: float
    scale: float

    def __call__(self, x: jax.Array) -> jax.Array:
        return (self.function(x) - self.shift) * self.scale

    def __deepcopy__(self, memo: dict[int, Any]) -> "Affine":
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _affine, (_packed(self.function), self.shift, self.scale)


def _standardized(name: str, function: Activation) -> Activation:
    check_elementwise("variance_matched", name, function)
    # Kinks rule out Gauss-Hermite quadrature; on this grid the trapezoid rule is
    # exact to the float32 accuracy of the function itself.
    x = np.linspace(-12.0, 12.0, 48_001)
    density = np.exp(-(x**2) / 2)
    density /= density.sum()
    with jax.ensure_compile_time_eval():
        y = np.asarray(function(jnp.asarray(x, jnp.float32)), np.float64)
    with np.errstate(all="ignore"):
        mean = float(density @ y)
        deviation = math.sqrt(float(density @ (y - mean) ** 2))
    if not (math.isfinite(mean) and math.isfinite(deviation)):
        got = f"mean {mean} and standard deviation {deviation} under N(0, 1)"
        raise ValueError(f"variance_matched: {name!r} has {got}, expected finite values")
    if deviation < 1e-6 * max(1.0, abs(mean)):
        return function
    return Affine(function, mean, 1.0 / deviation)


EXTENDED_POOL = ActivationPool(
    {
        "relu": jax.nn.relu,
        "sigmoid": jax.nn.sigmoid,
        "tanh": jnp.tanh,
        "leaky_relu": jax.nn.leaky_relu,
        "elu": jax.nn.elu,
        "selu": jax.nn.selu,
        "gelu": jax.nn.gelu,
        "silu": jax.nn.silu,
        "softplus": jax.nn.softplus,
        "mish": jax.nn.mish,
        "identity": identity,
        "zero": zero,
        "sin": sin,
        "square": square,
        "gauss": gauss,
    }
)
"""Every named function of the library: the paper's pool and nine more. gelu is the tanh form."""

PAPER_POOL = EXTENDED_POOL.subset("relu", "sigmoid", "tanh", "leaky_relu", "elu", "selu")
"""The six functions of the paper (arXiv 2510.22450), in its order."""

REGRESSION_POOL = EXTENDED_POOL.subset(
    "relu", "tanh", "silu", "sin", "square", "identity", "gauss", "gelu"
)
"""Eight functions for fitting functions of a few variables."""

SMOOTH_POOL = EXTENDED_POOL.subset(
    "sin", "tanh", "gelu", "silu", "softplus", "gauss", "identity", "square"
)
"""Eight functions with derivatives of every order, for equations that contain them."""

MODERN_POOL = ActivationPool(
    {
        **dict(zip(PAPER_POOL.names, PAPER_POOL.functions, strict=True)),
        "gelu": jax.nn.gelu,
        "silu": jax.nn.silu,
        "identity": identity,
        "squared_relu": squared_relu,
    }
)
"""The paper's pool with what newer networks use: GELU, SiLU, and relu² (arXiv 2109.08668)."""
