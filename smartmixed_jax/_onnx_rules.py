"""A jaxpr as ONNX nodes: what each primitive of JAX becomes.

The arrays of the model are known, so what depends on them alone is computed here and becomes a
constant. A `Value` is a view: transposed axes and broadcast ones cost no node until one needs them.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from smartmixed_jax._fixed_primitive import fixed_activation
from smartmixed_jax._onnx_activation import groups, written
from smartmixed_jax._onnx_graph import Graph


class Unsupported(ValueError):
    """What has no form in plain ONNX operators here; the message names it."""


@dataclasses.dataclass(frozen=True, eq=False)
class Value:
    """What a variable of a jaxpr is in the graph.

    Attributes:
        shape: of the variable; a dimension that is no int is the batch.
        dtype: of the variable.
        name: in the graph; "" if the value is known.
        array: the value if it is known, its axes in order; broadcast ones may have length 1.
        order: axis i of the variable is axis order[i] of what `name` stands for.
        lengths: of the axes of the variable; 1 where they are broadcast still.
    """

    shape: tuple[Any, ...]
    dtype: np.dtype
    name: str
    array: np.ndarray | None
    order: tuple[int, ...]
    lengths: tuple[Any, ...]

    @property
    def physical(self) -> tuple[Any, ...]:
        """The lengths of the axes of what `name` stands for."""
        result = [1] * len(self.order)
        for axis, at in enumerate(self.order):
            result[at] = self.lengths[axis]
        return tuple(result)


def known(array: Any, shape: tuple[Any, ...] | None = None) -> Value:
    """A Value that is known; it broadcasts to `shape`."""
    array = np.asarray(array)
    return Value(
        array.shape if shape is None else shape,
        array.dtype,
        "",
        array,
        tuple(range(array.ndim)),
        array.shape,
    )


Rule = Callable[..., Any]
"""A function (converter, *inputs, **parameters) → a Value, or a list of them."""

RULES: dict[str, Rule] = {}
"""By the name of the primitive: (converter, its inputs, its parameters) → its outputs."""


RuleType = TypeVar("RuleType", bound=Callable[..., Any])


def rule(*names: str) -> Callable[[RuleType], RuleType]:
    """Registers the rule of primitives."""

    def register(function: RuleType) -> RuleType:
        RULES.update(dict.fromkeys(names, function))
        return function

    return register


class Converter:
    """Reads jaxprs and appends to a graph.

    Attributes:
        graph: what is appended to.
        batch: the one dimension that is no int.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    def run(self, jaxpr: Any, consts: Sequence[Any], inputs: Sequence[Value]) -> list[Value]:
        """The outputs of a jaxpr."""
        values: dict[Any, Value] = dict(zip(jaxpr.invars, inputs, strict=True))
        values |= {v: known(c) for v, c in zip(jaxpr.constvars, consts, strict=True)}

        def read(atom: Any) -> Value:
            if not isinstance(atom, Literal):
                return values[atom]
            aval: Any = atom.aval
            return known(np.asarray(atom.val, aval.dtype))

        for equation in _needed(jaxpr):
            results = self.apply(equation, [read(atom) for atom in equation.invars])
            values.update(zip(equation.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def apply(self, equation: Any, inputs: list[Value]) -> list[Value]:
        """The outputs of an equation."""
        name, params = equation.primitive.name, equation.params
        inner = _inner(params) if name not in RULES else None
        if inner is not None and name in CALLS:
            jaxpr, consts = inner
            return self.run(jaxpr, consts, inputs)
        if (folded := _fold(equation, inputs)) is not None:
            return folded
        if name not in RULES:
            raise Unsupported(
                f"the primitive {name!r} ({_description(equation)}) is none of those that are "
                "exported"
            )
        for value in inputs:
            if value.dtype.kind not in "fiub" or value.dtype.itemsize == 2:
                raise Unsupported(f"{name!r} computes in {value.dtype}, expected float32")
        try:
            result = RULES[name](self, *inputs, **params)
        except Unsupported as error:
            raise Unsupported(
                f"the primitive {name!r} ({_description(equation)}): {error}"
            ) from None
        results = result if isinstance(result, list) else [result]
        return [
            dataclasses.replace(
                value, shape=variable.aval.shape, dtype=np.dtype(variable.aval.dtype)
            )
            for value, variable in zip(results, equation.outvars, strict=True)
        ]

    # Values as names in the graph

    def name(self, value: Value, order: Any = None, full: bool = True) -> str:
        """The name of the value with its axes in this order.

        Args:
            value: what is wanted.
            order: axis i of the result is axis order[i] of the variable; None: as they are.
            full: whether broadcast axes must have their length.
        """
        rank = len(value.lengths)
        order = tuple(range(rank)) if order is None else tuple(order)
        if value.array is not None:
            array = value.array
            if full and array.shape != value.shape and array.ndim == len(value.shape):
                array = np.broadcast_to(array, tuple(map(_length, value.shape, array.shape)))
            if full and any(not isinstance(size, int) for size in value.shape):
                raise Unsupported(f"an array {list(value.shape)} of numbers known beforehand")
            return self.graph.array(np.transpose(array, order))
        if full and value.lengths != value.shape:
            value = self._expand(value)
        wanted = [value.order[axis] for axis in order]
        if wanted == list(range(rank)):
            return value.name
        return self.graph.add("Transpose", value.name, perm=wanted)

    def _expand(self, value: Value) -> Value:
        shape = dataclasses.replace(value, lengths=value.shape).physical
        if any(not isinstance(size, int) for size in shape):
            raise Unsupported(f"a broadcast to {list(value.shape)}")
        name = self.graph.add("Expand", value.name, self.graph.integers(shape))
        return dataclasses.replace(value, name=name, lengths=value.shape)

    def made(self, name: str, lengths: Sequence[Any], dtype: Any = np.float32) -> Value:
        """A Value of a node's output, its axes in order."""
        lengths = tuple(lengths)
        return Value(lengths, np.dtype(dtype), name, None, tuple(range(len(lengths))), lengths)

    def elementwise(self, op: str, *inputs: Value, dtype: Any = None, **attributes: Any) -> Value:
        """A node whose inputs broadcast against each other, as they lie in memory."""
        unknown = [v for v in inputs if v.array is None]
        first = max(unknown, key=lambda v: len(v.order)) if unknown else inputs[0]
        names = []
        for value in inputs:
            if value.array is not None:
                names.append(self._operand(value, first))
            elif value.order == first.order:
                names.append(value.name)
            else:
                names.append(self.name(value, np.argsort(first.order), full=False))
        lengths = _broadcast(*(v.lengths for v in inputs))
        name = self.graph.add(op, *names, **attributes)
        dtype = np.dtype(first.dtype if dtype is None else dtype)
        return Value(lengths, dtype, name, None, first.order, lengths)

    def _operand(self, value: Value, like: Value) -> str:
        array = value.array
        assert array is not None
        if array.size and (array.ndim == 0 or (array == array.reshape(-1)[0]).all()):
            return self.graph.array(array.reshape(-1)[0])
        return self.graph.array(np.transpose(array, np.argsort(like.order)))

    def constant(self, value: Value) -> np.ndarray:
        """A value that must be known."""
        if value.array is None:
            raise Unsupported("expected an operand that does not depend on the input")
        return value.array


CALLS = {"jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint",
         "custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr", "custom_lin"}  # fmt: skip


def _inner(params: dict[str, Any]) -> tuple[Any, Sequence[Any]] | None:
    """The jaxpr that an equation calls, and its constants."""
    for key in ("call_jaxpr", "jaxpr", "fun_jaxpr"):
        jaxpr = params.get(key)
        if jaxpr is not None:
            return (jaxpr.jaxpr, jaxpr.consts) if hasattr(jaxpr, "consts") else (jaxpr, ())
    return None


def _needed(jaxpr: Any) -> list[Any]:
    """The equations that the outputs depend on."""
    needed = {atom for atom in jaxpr.outvars if not isinstance(atom, Literal)}
    kept = []
    for equation in reversed(jaxpr.eqns):
        if needed.intersection(equation.outvars):
            kept.append(equation)
            needed.update(atom for atom in equation.invars if not isinstance(atom, Literal))
    return kept[::-1]


def _fold(equation: Any, inputs: list[Value]) -> list[Value] | None:
    """The outputs if all inputs are known, and the shapes do not depend on the batch."""
    arrays: list[Any] = [value.array for value in inputs]
    if any(array is None for array in arrays) or equation.primitive is fixed_activation:
        return None
    params = equation.params
    shapes = [getattr(variable.aval, "shape", ()) for variable in equation.outvars]
    symbolic = any(not isinstance(size, int) for shape in shapes for size in shape)
    if symbolic or any(value.lengths != value.shape for value in inputs):
        if equation.primitive.name not in ELEMENTWISE:
            if symbolic:
                return None
            arrays = [np.broadcast_to(a, v.shape) for a, v in zip(arrays, inputs, strict=True)]
        else:
            ranks = [array for array in arrays if array is not None and array.ndim]
            shape = np.broadcast_shapes(*(array.shape for array in ranks))
            arrays = [a if not np.ndim(a) else np.broadcast_to(a, shape) for a in arrays]
    elif not inputs and symbolic:
        return None
    operands = [jnp.asarray(array) if isinstance(array, np.ndarray) else array for array in arrays]
    results = equation.primitive.bind(*operands, **params)
    results = results if equation.primitive.multiple_results else [results]
    return [
        known(result, variable.aval.shape) if not _is_key(result) else _key(result)
        for result, variable in zip(results, equation.outvars, strict=True)
    ]


def _is_key(value: Any) -> bool:
    return jnp.issubdtype(value.dtype, jax.dtypes.prng_key)


def _key(value: Any) -> Value:
    """A PRNG key: known, and no array of NumPy."""
    return Value(value.shape, value.dtype, "", value, tuple(range(value.ndim)), value.shape)


def _length(size: Any, known: int) -> int:
    return size if isinstance(size, int) else known


def _broadcast(*shapes: tuple[Any, ...]) -> tuple[Any, ...]:
    rank = max(map(len, shapes))
    result: list[Any] = [1] * rank
    for shape in shapes:
        for axis, size in enumerate(shape):
            if len(shape) == rank and not (isinstance(size, int) and size == 1):
                result[axis] = size
    return tuple(result)


def _description(equation: Any) -> str:
    shapes = [getattr(atom.aval, "str_short", lambda: "")() for atom in equation.invars]
    return " × ".join(shapes) or "no operands"


def sizes(shape: Sequence[Any]) -> list[int]:
    """A shape as Reshape takes it: −1 for the batch."""
    result = [size if isinstance(size, int) else -1 for size in shape]
    if result.count(-1) > 1:
        raise Unsupported(f"a reshape to {list(shape)}")
    return result


# Elementwise

UNARY = {
    "abs": "Abs", "ceil": "Ceil", "cos": "Cos", "cosh": "Cosh", "erf": "Erf", "exp": "Exp",
    "floor": "Floor", "log": "Log", "logistic": "Sigmoid", "neg": "Neg", "sign": "Sign",
    "sin": "Sin", "sinh": "Sinh", "sqrt": "Sqrt", "tan": "Tan", "tanh": "Tanh", "asin": "Asin",
    "acos": "Acos", "atan": "Atan", "asinh": "Asinh", "acosh": "Acosh", "atanh": "Atanh",
}  # fmt: skip
BINARY = {
    "add": "Add", "add_any": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "max": "Max",
    "min": "Min", "pow": "Pow",
}  # fmt: skip
COMPARISONS = {
    "eq": ("Equal", False), "ne": ("Equal", True), "lt": ("Less", False),
    "le": ("LessOrEqual", False), "gt": ("Greater", False), "ge": ("GreaterOrEqual", False),
}  # fmt: skip
LOGICAL = {"and": "And", "or": "Or", "xor": "Xor"}


def _unary(op: str) -> Rule:
    return lambda to, x, **_: to.elementwise(op, x)


def _binary(op: str) -> Rule:
    return lambda to, x, y, **_: to.elementwise(op, x, y)


for _name, _op in UNARY.items():
    RULES[_name] = _unary(_op)
for _name, _op in BINARY.items():
    RULES[_name] = _binary(_op)


@rule("max")
def _max(to: Converter, x: Value, y: Value, **_: Any) -> Value:
    for value, other in ((x, y), (y, x)):
        if value.array is not None and not value.array.any() and value.dtype.kind == "f":
            return to.elementwise("Relu", other)
    return to.elementwise("Max", x, y)


@rule("div")
def _div(to: Converter, x: Value, y: Value, **_: Any) -> Value:
    return to.elementwise("Div", x, y)


def _comparison(op: str, negated: bool) -> Rule:
    def convert(to: Converter, x: Value, y: Value, **_: Any) -> Value:
        result = to.elementwise(op, x, y, dtype=bool)
        return to.elementwise("Not", result) if negated else result

    return convert


for _name, (_op, _negated) in COMPARISONS.items():
    RULES[_name] = _comparison(_op, _negated)


def _logic(op: str) -> Rule:
    def convert(to: Converter, x: Value, y: Value, **_: Any) -> Value:
        return to.elementwise(op if x.dtype.kind == "b" else f"Bitwise{op}", x, y)

    return convert


for _name, _op in LOGICAL.items():
    RULES[_name] = _logic(_op)


@rule("not")
def _not(to: Converter, x: Value, **_: Any) -> Value:
    return to.elementwise("Not" if x.dtype.kind == "b" else "BitwiseNot", x)


@rule("square")
def _square(to: Converter, x: Value, **_: Any) -> Value:
    return to.elementwise("Mul", x, x)


@rule("integer_pow")
def _integer_pow(to: Converter, x: Value, *, y: int, **_: Any) -> Value:
    if y == 2:
        return to.elementwise("Mul", x, x)
    return to.elementwise("Pow", x, known(np.asarray(y, x.dtype)))


@rule("rsqrt")
def _rsqrt(to: Converter, x: Value, **_: Any) -> Value:
    return to.elementwise("Reciprocal", to.elementwise("Sqrt", x))


@rule("exp2")
def _exp2(to: Converter, x: Value, **_: Any) -> Value:
    return to.elementwise("Exp", to.elementwise("Mul", x, _like(math.log(2), x)))


@rule("expm1")
def _expm1(to: Converter, x: Value, **_: Any) -> Value:
    return to.elementwise("Sub", to.elementwise("Exp", x), _like(1, x))


@rule("log1p")
def _log1p(to: Converter, x: Value, **_: Any) -> Value:
    return to.elementwise("Log", to.elementwise("Add", x, _like(1, x)))


@rule("erfc")
def _erfc(to: Converter, x: Value, **_: Any) -> Value:
    one = _like(1, x)
    return dataclasses.replace(
        to.elementwise("Sub", one, to.elementwise("Erf", x)), lengths=x.lengths
    )


@rule("round")
def _round(to: Converter, x: Value, *, rounding_method: Any, **_: Any) -> Value:
    if rounding_method != jax.lax.RoundingMethod.TO_NEAREST_EVEN:
        raise Unsupported("rounding half away from zero")
    return to.elementwise("Round", x)


@rule("rem")
def _rem(to: Converter, x: Value, y: Value, **_: Any) -> Value:
    return to.elementwise("Mod", x, y, fmod=1)


@rule("is_finite")
def _is_finite(to: Converter, x: Value, **_: Any) -> Value:
    bad = to.elementwise("IsInf", x, dtype=bool), to.elementwise("IsNaN", x, dtype=bool)
    return to.elementwise("Not", to.elementwise("Or", *bad))


@rule("select_n")
def _select_n(to: Converter, which: Value, *cases: Value, **_: Any) -> Value:
    if len(cases) != 2:
        raise Unsupported(f"{len(cases)} cases")
    if which.dtype.kind != "b":
        which = to.elementwise("Cast", which, dtype=bool, to=_onnx_type(bool))
    no, yes = cases
    return to.elementwise("Where", which, yes, no, dtype=no.dtype)


@rule("clamp")
def _clamp(to: Converter, low: Value, x: Value, high: Value, **_: Any) -> Value:
    return to.elementwise("Min", to.elementwise("Max", x, low), high)


@rule("convert_element_type")
def _convert(to: Converter, x: Value, *, new_dtype: Any, **_: Any) -> Value:
    new = np.dtype(new_dtype)
    if new == x.dtype:
        return x
    if new.itemsize == 2 and new.kind not in "iu":
        raise Unsupported(f"a conversion to {new}, expected float32")
    return to.elementwise("Cast", x, dtype=new, to=_onnx_type(new))


@rule("copy", "copy_p", "stop_gradient", "reduce_precision", "sharding_constraint")
def _identity(to: Converter, x: Value, **_: Any) -> Value:
    return x


@rule("optimization_barrier")
def _barrier(to: Converter, *x: Value, **_: Any) -> list[Value]:
    return list(x)


ELEMENTWISE = {*UNARY, *BINARY, *COMPARISONS, *LOGICAL, "not", "square", "integer_pow", "rsqrt",
               "exp2", "expm1", "log1p", "erfc", "round", "rem", "is_finite", "select_n", "clamp",
               "convert_element_type", "copy", "copy_p", "stop_gradient"}  # fmt: skip


def _like(number: float, x: Value) -> Value:
    return known(np.asarray(number, x.dtype))


def _onnx_type(dtype: Any) -> int:
    from onnx import helper

    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


# Axes


@rule("broadcast_in_dim")
def _broadcast_in_dim(
    to: Converter, x: Value, *_: Value, shape: Any, broadcast_dimensions: Any, **__: Any
) -> Value:
    dims, missing = list(broadcast_dimensions), len(shape) - len(broadcast_dimensions)
    lengths: list[Any] = [1] * len(shape)
    for axis, at in enumerate(dims):
        lengths[at] = x.lengths[axis]
    if x.array is not None:
        array = x.array.reshape([size for size in lengths])
        return Value(tuple(shape), x.dtype, "", array, tuple(range(len(shape))), array.shape)
    if not missing:
        return dataclasses.replace(x, shape=tuple(shape))
    new = [axis for axis in range(len(shape)) if axis not in dims]
    name = to.graph.add("Unsqueeze", to.name(x, full=False), to.graph.integers(new))
    return to.made(name, lengths, x.dtype)


@rule("reshape")
def _reshape(
    to: Converter, x: Value, *_: Value, new_sizes: Any, dimensions: Any, **__: Any
) -> Value:
    if dimensions is not None:
        raise Unsupported("axes in another order")
    if x.array is not None:
        if tuple(s for s in x.lengths if s != 1) == tuple(s for s in new_sizes if s != 1):
            return known(x.array.reshape(tuple(new_sizes)))
        if x.array.size == 1:
            return Value(tuple(new_sizes), x.dtype, "", x.array.reshape((1,) * len(new_sizes)),
                         tuple(range(len(new_sizes))), (1,) * len(new_sizes))  # fmt: skip
        raise Unsupported("numbers known beforehand, for every example")
    name = to.graph.add("Reshape", to.name(x), to.graph.integers(sizes(new_sizes)))
    return to.made(name, new_sizes, x.dtype)


@rule("squeeze")
def _squeeze(to: Converter, x: Value, *, dimensions: Any, **_: Any) -> Value:
    if not len(dimensions):  # ONNX would remove every axis of length 1
        return x
    kept = [axis for axis in range(len(x.lengths)) if axis not in dimensions]
    lengths = [x.lengths[axis] for axis in kept]
    if x.array is not None:
        return known(x.array.reshape(lengths))
    gone = sorted(x.order[axis] for axis in dimensions)
    name = to.graph.add("Squeeze", x.name, to.graph.integers(gone))
    order = np.argsort(np.argsort([x.order[axis] for axis in kept])).tolist()
    return dataclasses.replace(to.made(name, lengths, x.dtype), order=tuple(order))


@rule("expand_dims")
def _expand_dims(to: Converter, x: Value, *, dimensions: Any, **_: Any) -> Value:
    rank = len(x.lengths) + len(dimensions)
    kept = [axis for axis in range(rank) if axis not in dimensions]
    shape = [1] * rank
    for axis, at in enumerate(kept):
        shape[at] = x.lengths[axis]
    return _broadcast_in_dim(to, x, shape=shape, broadcast_dimensions=kept)


@rule("transpose")
def _transpose(to: Converter, x: Value, *, permutation: Any, **_: Any) -> Value:
    lengths = tuple(x.lengths[axis] for axis in permutation)
    if x.array is not None:
        array = np.transpose(x.array, permutation)
        return Value(lengths, x.dtype, "", array, tuple(range(array.ndim)), lengths)
    order = tuple(x.order[axis] for axis in permutation)
    return dataclasses.replace(x, order=order, lengths=lengths)


@rule("concatenate")
def _concatenate(to: Converter, *inputs: Value, dimension: int, **_: Any) -> Value:
    unknown = [value for value in inputs if value.array is None]
    order = unknown[0].order if unknown else tuple(range(len(inputs[0].shape)))
    names = [to.name(value, np.argsort(order)) for value in inputs]
    name = to.graph.add("Concat", *names, axis=order[dimension])
    lengths = list(inputs[0].shape)
    lengths[dimension] = sum(value.shape[dimension] for value in inputs)
    return dataclasses.replace(to.made(name, lengths, inputs[0].dtype), order=order)


@rule("slice")
def _slice(
    to: Converter, x: Value, *, start_indices: Any, limit_indices: Any, strides: Any, **_: Any
) -> Value:
    strides = strides or [1] * len(start_indices)
    parts = {}
    lengths = list(x.lengths)
    for axis, part in enumerate(zip(start_indices, limit_indices, strides, strict=True)):
        begin, end, step = part
        if isinstance(begin, int) and begin == 0 and end is x.shape[axis] and step == 1:
            continue
        if isinstance(begin, int) and begin == 0 and step == 1 and end == x.shape[axis]:
            continue
        if not all(isinstance(number, int) for number in part):
            raise Unsupported("a part of the batch")
        lengths[axis] = 1 if x.lengths[axis] == 1 else -(-(end - begin) // step)
        if x.lengths[axis] != 1:
            parts[axis] = part
    if x.array is not None:
        index = tuple(slice(*parts[a]) if a in parts else slice(None) for a in range(x.array.ndim))
        return known(x.array[index])
    if not parts:
        return dataclasses.replace(x, lengths=tuple(lengths))
    begins, ends, steps = (
        to.graph.integers([part[i] for part in parts.values()]) for i in range(3)
    )
    axes = to.graph.integers([x.order[axis] for axis in parts])
    name = to.graph.add("Slice", x.name, begins, ends, axes, steps)
    return dataclasses.replace(x, name=name, lengths=tuple(lengths))


@rule("dynamic_slice")
def _dynamic_slice(to: Converter, x: Value, *starts: Value, slice_sizes: Any, **_: Any) -> Value:
    begins, ends = [], []
    for start, size, length in zip(starts, slice_sizes, x.shape, strict=True):
        at = int(to.constant(start))
        if isinstance(length, int):
            at = min(max(at + length * (at < 0), 0), length - size)
        begins.append(at)
        ends.append(at + size if at else size)
    return _slice(to, x, start_indices=begins, limit_indices=ends, strides=None)


@rule("split")
def _split(to: Converter, x: Value, *, sizes: Any, axis: int, **_: Any) -> list[Value]:
    name = to.name(x, np.argsort(x.order))
    names = to.graph.split(
        "Split", name, to.graph.integers(sizes), outputs=len(sizes), axis=x.order[axis]
    )
    results = []
    for part, size in zip(names, sizes, strict=True):
        lengths = tuple(size if a == axis else s for a, s in enumerate(x.shape))
        results.append(dataclasses.replace(to.made(part, lengths, x.dtype), order=x.order))
    return results


@rule("rev")
def _rev(to: Converter, x: Value, *, dimensions: Any, **_: Any) -> Value:
    count = len(dimensions)
    numbers = ([-1] * count, [-(2**62)] * count, [x.order[a] for a in dimensions], [-1] * count)
    name = to.graph.add("Slice", x.name, *map(to.graph.integers, numbers))
    return dataclasses.replace(x, name=name)


@rule("pad")
def _pad(to: Converter, x: Value, value: Value, *, padding_config: Any, **_: Any) -> Value:
    if any(inner or low < 0 or high < 0 for low, high, inner in padding_config):
        raise Unsupported("negative padding, or padding between elements")
    rank = len(padding_config)
    before, after = [0] * rank, [0] * rank
    for axis, (low, high, _inner) in enumerate(padding_config):
        before[x.order[axis]], after[x.order[axis]] = low, high
    name = to.graph.add(
        "Pad",
        to.name(x, np.argsort(x.order)),
        to.graph.integers([*before, *after]),
        to.graph.array(to.constant(value)),
    )
    lengths = [s + low + high for s, (low, high, _) in zip(x.shape, padding_config, strict=True)]
    return dataclasses.replace(to.made(name, lengths, x.dtype), order=x.order)


@rule("iota")
def _iota(to: Converter, *_: Value, dtype: Any, shape: Any, dimension: int, **__: Any) -> Value:
    if not isinstance(shape[dimension], int):
        raise Unsupported("numbers that count the batch")
    lengths = [1] * len(shape)
    lengths[dimension] = shape[dimension]
    array = np.arange(shape[dimension], dtype=dtype).reshape(lengths)
    return Value(tuple(shape), array.dtype, "", array, tuple(range(len(shape))), array.shape)


@rule("gather")
def _gather(
    to: Converter, x: Value, indices: Value, *, dimension_numbers: Any, slice_sizes: Any, **_: Any
) -> Value:
    dims = dimension_numbers
    if indices.array is not None and indices.array.ndim == 1 and not dims.operand_batching_dims:
        return _one_slice(to, x, indices.array, dims, slice_sizes)
    whole = "more than whole rows, or known places along several axes"
    places = dims.start_index_map
    sizes = [1 if a in places else size for a, size in enumerate(x.shape)]
    if tuple(dims.collapsed_slice_dims) != tuple(places) or list(slice_sizes) != sizes:
        raise Unsupported(whole)
    if dims.operand_batching_dims:
        raise Unsupported(whole)
    rank = len(x.shape) - len(places) + len(indices.shape) - 1
    batch = [axis for axis in range(rank) if axis not in dims.offset_dims]
    if indices.array is not None and len(batch) == len(places):
        return _grid(to, x, indices.array, places, batch, dims.offset_dims)
    if len(places) != 1:
        raise Unsupported(whole)
    (axis,) = places
    if batch != list(range(axis, axis + len(batch))):
        raise Unsupported(whole)
    rows = _squeeze(to, indices, dimensions=(len(indices.shape) - 1,))
    rows = dataclasses.replace(rows, shape=indices.shape[:-1])
    name = to.graph.add("Gather", to.name(x), to.name(rows), axis=axis)
    lengths = (*x.shape[:axis], *indices.shape[:-1], *x.shape[axis + 1 :])
    return to.made(name, lengths, x.dtype)


def _one_slice(to: Converter, x: Value, start: np.ndarray, dims: Any, slice_sizes: Any) -> Value:
    """One slice from a known place: x[:, 1:3]."""
    begins, ends = [0] * len(x.shape), list(slice_sizes)
    for axis, at in zip(dims.start_index_map, start.tolist(), strict=True):
        if at:
            begins[axis], ends[axis] = at, at + slice_sizes[axis]
    part = _slice(to, x, start_indices=begins, limit_indices=ends, strides=None)
    part = dataclasses.replace(part, shape=tuple(slice_sizes))
    return _squeeze(to, part, dimensions=dims.collapsed_slice_dims)


def _grid(
    to: Converter, x: Value, indices: np.ndarray, places: Any, batch: Any, offset: Any
) -> Value:
    """Known places along axes of x, each axis by itself: x[:, ::2, ::2] is a grid of them."""
    for number, axis in enumerate(places):
        at = np.moveaxis(indices[..., number], number, 0)
        rows = at.reshape(len(at), -1)
        if (rows != rows[:, :1]).any():
            raise Unsupported("known places that are no grid")
        line = rows[:, 0]
        step = int(line[1] - line[0]) if len(line) > 1 else 1
        if step > 0 and (np.diff(line) == step).all() and x.array is None:
            begin = [int(line[0]) if a == axis else 0 for a in range(len(x.shape))]
            end = [int(line[-1]) + 1 if a == axis else s for a, s in enumerate(x.shape)]
            steps = [step if a == axis else 1 for a in range(len(x.shape))]
            x = _slice(to, x, start_indices=begin, limit_indices=end, strides=steps)
        else:
            name = to.graph.add("Gather", to.name(x), to.graph.integers(line), axis=axis)
            x = to.made(name, [len(line) if a == axis else s for a, s in enumerate(x.shape)])
        x = dataclasses.replace(x, shape=x.lengths)
    kept = [axis for axis in range(len(x.shape)) if axis not in places]
    source = dict(zip(batch, places, strict=True)) | dict(zip(offset, kept, strict=True))
    return _transpose(to, x, permutation=[source[axis] for axis in range(len(x.shape))])


# Sums


def _reduction(op: str) -> Rule:
    def convert(to: Converter, x: Value, *, axes: Any, **_: Any) -> Value:
        if any(x.lengths[axis] != x.shape[axis] for axis in axes):
            x = to._expand(x)
        source, dtype = x, x.dtype
        if dtype.kind == "b":
            source = to.elementwise("Cast", x, dtype=np.int32, to=_onnx_type(np.int32))
        places = to.graph.integers(sorted(x.order[axis] for axis in axes))
        name = to.graph.add(op, source.name, places, keepdims=0)
        if dtype.kind == "b":
            name = to.graph.add("Cast", name, to=_onnx_type(bool))
        kept = [axis for axis in range(len(x.shape)) if axis not in axes]
        order = np.argsort(np.argsort([x.order[axis] for axis in kept])).tolist()
        made = to.made(name, [x.lengths[axis] for axis in kept], dtype)
        return dataclasses.replace(made, order=tuple(order))

    return convert


RULES |= {
    "reduce_sum": _reduction("ReduceSum"),
    "reduce_max": _reduction("ReduceMax"),
    "reduce_min": _reduction("ReduceMin"),
    "reduce_prod": _reduction("ReduceProd"),
    "reduce_and": _reduction("ReduceMin"),
    "reduce_or": _reduction("ReduceMax"),
}


def _arg(op: str) -> Rule:
    def convert(to: Converter, x: Value, *, axes: Any, index_dtype: Any, **_: Any) -> Value:
        (axis,) = axes
        name = to.graph.add(op, to.name(x), axis=axis, keepdims=0)
        name = to.graph.add("Cast", name, to=_onnx_type(index_dtype))
        return to.made(name, [s for a, s in enumerate(x.shape) if a != axis], index_dtype)

    return convert


RULES |= {"argmax": _arg("ArgMax"), "argmin": _arg("ArgMin")}


@rule("cumsum")
def _cumsum(to: Converter, x: Value, *, axis: int, reverse: bool, **_: Any) -> Value:
    place = to.graph.array(np.asarray(x.order[axis], np.int64))
    name = to.graph.add("CumSum", to.name(x, np.argsort(x.order)), place, reverse=int(reverse))
    return dataclasses.replace(x, name=name, lengths=x.shape)


def _window(op: str) -> Rule:
    def convert(
        to: Converter,
        x: Value,
        *_: Value,
        window_dimensions: Any,
        window_strides: Any,
        padding: Any,
        base_dilation: Any = (),
        window_dilation: Any = (),
        **__: Any,
    ) -> Value:
        if any(d != 1 for d in (*base_dilation, *window_dilation)):
            raise Unsupported("a dilated window")
        settings = list(zip(window_dimensions, window_strides, padding, strict=True))
        trivial = [a for a, s in enumerate(settings) if s == (1, 1, (0, 0))]
        if len(trivial) < 2:
            raise Unsupported("a window over the batch, or over the channels")
        # The last of them is the channels', unless they come first.
        outer = [trivial[0], trivial[-1]] if len(trivial) == 2 else trivial[:2]
        spatial = [a for a in range(len(settings)) if a not in outer]
        order = [*outer, *spatial]
        attributes: dict[str, Any] = {
            "kernel_shape": [settings[a][0] for a in spatial],
            "strides": [settings[a][1] for a in spatial],
            "pads": [settings[a][2][i] for i in (0, 1) for a in spatial],
        }
        if op == "AveragePool":
            attributes["count_include_pad"] = 1
        name = to.graph.add(op, to.name(x, order), **attributes)
        lengths = [
            s if a in outer else (s + sum(settings[a][2]) - settings[a][0]) // settings[a][1] + 1
            for a, s in enumerate(x.shape)
        ]
        made = to.made(name, [lengths[a] for a in order], x.dtype)
        made = dataclasses.replace(made, order=tuple(np.argsort(order)), lengths=tuple(lengths))
        if op == "AveragePool":
            made = to.elementwise("Mul", made, _like(math.prod(window_dimensions), x))
        return made

    return convert


RULES |= {"reduce_window_sum": _window("AveragePool"), "reduce_window_max": _window("MaxPool")}


@rule("conv_general_dilated")
def _conv(
    to: Converter,
    x: Value,
    kernel: Value,
    *,
    window_strides: Any,
    padding: Any,
    lhs_dilation: Any,
    rhs_dilation: Any,
    dimension_numbers: Any,
    feature_group_count: int,
    batch_group_count: int,
    **_: Any,
) -> Value:
    if any(d != 1 for d in lhs_dilation) or batch_group_count != 1:
        raise Unsupported("a transposed convolution, or groups of the batch")
    if any(number < 0 for pair in padding for number in pair):
        raise Unsupported("negative padding")
    lhs, rhs, out = dimension_numbers
    name = to.graph.add(
        "Conv",
        to.name(x, lhs),
        to.name(kernel, rhs),
        strides=list(window_strides),
        pads=[pair[i] for i in (0, 1) for pair in padding],
        dilations=list(rhs_dilation),
        group=feature_group_count,
        kernel_shape=[kernel.shape[a] for a in rhs[2:]],
    )
    lengths: list[Any] = [0] * len(out)
    lengths[out[0]], lengths[out[1]] = x.shape[lhs[0]], kernel.shape[rhs[0]]
    for i, axis in enumerate(out[2:]):
        reach = rhs_dilation[i] * (kernel.shape[rhs[2 + i]] - 1) + 1
        lengths[axis] = (x.shape[lhs[2 + i]] + sum(padding[i]) - reach) // window_strides[i] + 1
    order = tuple(int(i) for i in np.argsort(out))
    return dataclasses.replace(to.made(name, lengths), order=order)


@rule("dot_general")
def _dot_general(to: Converter, x: Value, y: Value, *, dimension_numbers: Any, **_: Any) -> Value:
    (x_sum, y_sum), (x_batch, y_batch) = dimension_numbers
    if x.dtype.kind != "f" or x.dtype != y.dtype:
        raise Unsupported(f"a product of {x.dtype} and {y.dtype}")
    x_free = [a for a in range(len(x.shape)) if a not in (*x_sum, *x_batch)]
    y_free = [a for a in range(len(y.shape)) if a not in (*y_sum, *y_batch)]
    batch = [x.shape[a] for a in x_batch]
    rows, columns = [x.shape[a] for a in x_free], [y.shape[a] for a in y_free]
    inner = math.prod(x.shape[a] for a in x_sum)
    # Without batch axes the rows of x may have any number of axes.
    keep_rows = bool(not batch and rows) or len(rows) == 1
    left = to.name(x, [*x_batch, *x_free, *x_sum])
    if not keep_rows or len(x_sum) != 1:
        shape = [*batch, *(rows if keep_rows else [_product(rows)]), inner]
        left = to.graph.add("Reshape", left, to.graph.integers(sizes(shape)))
    width = _product(columns)
    if y.array is not None:
        right = to.graph.array(
            np.transpose(np.broadcast_to(y.array, y.shape), [*y_batch, *y_sum, *y_free]).reshape(
                [*batch, inner, width]
            )
        )
    else:
        right = to.name(y, [*y_batch, *y_sum, *y_free])
        if len(y_sum) != 1 or len(columns) != 1:
            shape = [*batch, inner, width]
            right = to.graph.add("Reshape", right, to.graph.integers(sizes(shape)))
    made_rows = rows if keep_rows else [_product(rows)]
    name = to.graph.add("MatMul", left, right, rank=len(batch) + len(made_rows) + 1)
    lengths = [*batch, *rows, *columns]
    if not keep_rows or len(columns) != 1:
        name = to.graph.add("Reshape", name, to.graph.integers(sizes(lengths)))
    return to.made(name, lengths)


def _product(shape: Sequence[Any]) -> Any:
    result: Any = 1
    for size in shape:
        result = size if isinstance(result, int) and result == 1 else result * size
    return result


# The fixed activation


@rule("fixed_activation")
def _fixed_activation(to: Converter, x: Value, choices: Value, *, pool: Any) -> Value:
    table = to.constant(choices)
    axes = [a for a, size in enumerate(table.shape) if size != 1]
    used = np.unique(table)
    if len(used) == 1:
        return _apply(to, pool.functions[used[0]], x)
    if len(axes) != 1:
        raise Unsupported("choices that differ along more than one axis")
    (axis,) = axes
    parts = groups(pool, table.reshape(-1))
    neurons = np.concatenate([part.neurons for part in parts])
    rank, place = len(x.shape), x.order[axis]
    together = _permuted(to, x, neurons, rank, place)
    names = to.graph.split(
        "Split", together, to.graph.integers([len(part.neurons) for part in parts]),
        outputs=len(parts), axis=place,
    )  # fmt: skip
    results = []
    for part, name in zip(parts, names, strict=True):
        lengths = tuple(len(part.neurons) if a == axis else s for a, s in enumerate(x.lengths))
        value = dataclasses.replace(x, name=name, shape=lengths, lengths=lengths)
        results.append(to.name(_apply(to, part.function, value), np.argsort(x.order)))
    joined = to.graph.add("Concat", *results, axis=place)
    back = dataclasses.replace(x, name=joined)
    return dataclasses.replace(x, name=_permuted(to, back, np.argsort(neurons), rank, place))


def _permuted(to: Converter, x: Value, order: np.ndarray, rank: int, place: int) -> str:
    """The channels in another order, which weights may take over."""
    if (order == np.arange(len(order))).all():
        return x.name
    index = to.graph.integers(order)
    return to.graph.add("Gather", x.name, index, axis=place, permutes=True, rank=rank)


def _apply(to: Converter, function: Any, x: Value) -> Value:
    """function(x), elementwise: one node if ONNX has it, else what its jaxpr becomes."""
    if (form := written(function)) is not None and x.array is None:

        def add(operator: str, *operands: str | float, **attributes: Any) -> str:
            names = [
                v if isinstance(v, str) else to.graph.array(np.asarray(v, x.dtype))
                for v in operands
            ]
            return to.graph.add(operator, *names, **attributes)

        return dataclasses.replace(x, name=form(add, x.name))
    closed = jax.make_jaxpr(function)(jax.ShapeDtypeStruct(x.shape, x.dtype))
    (result,) = to.run(closed.jaxpr, closed.consts, [x])
    if result.array is not None:  # such as zero
        result = to.elementwise("Add", to.elementwise("Mul", x, _like(0, x)), result)
    return result
