"""A fixed network as one file that needs neither this library nor Flax: StableHLO, or plain ONNX.

    to_stablehlo(model, example, path="net.zip")     runs wherever JAX does
    to_onnx(model, example, path="net.onnx")         runs wherever ONNX does, without JAX

Both take any number of examples, and hold which neuron has which function. What ONNX takes: the
primitives in `PRIMITIVES`, in float32 and integers; others are refused by name.
"""

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx

from smartmixed_jax import _checks, _onnx_graph, _onnx_rules
from smartmixed_jax._fixed_primitive import kept_whole
from smartmixed_jax.linen import fixed_choices
from smartmixed_jax.nnx import MixedActivation, SelectiveActivation
from smartmixed_jax.table import FunctionTable

FORMAT = 1
"""Version of the file that `to_stablehlo` writes, and of the metadata that `to_onnx` adds."""

OPSET = _onnx_graph.OPSET
"""Of the ONNX files, all of whose operators are of the standard domain."""

PLATFORMS = ("cpu", "cuda", "tpu")
"""What a StableHLO file runs on."""

PRIMITIVES = tuple(sorted(_onnx_rules.RULES.keys() - {"fixed_activation"}))
"""What `to_onnx` takes, beside calls (jit, remat, custom derivatives) and loops of known length."""

METADATA = "smartmixed_jax"
"""Key of the metadata in an ONNX file, JSON: what `Exported.header` is for the other."""

_HEADER, _PROGRAM = "header.json", "program.bin"

Tables = Mapping[str, Mapping[str, list[Any]]]
"""Path of the layer → `pool`, K names, and `choices`, N indices into them."""

_checks.KINDS.update(
    path=("a str, a path or None", lambda value: isinstance(value, str | os.PathLike | None)),
    example=("an array [B, ...]", lambda value: getattr(value, "shape", ()) != ()),
)


def to_stablehlo(
    model: Any,
    example: Any,
    *,
    variables: Any = None,
    tables: Mapping[str, FunctionTable] | None = None,
    path: str | os.PathLike[str] | None = None,
) -> bytes:
    """The network as a StableHLO program for any batch, with its tables and its signature.

    A ZIP file of `header.json` and what `jax.export` serializes, which newer versions of JAX read
    for six months. `load_stablehlo` reads it.

    Args:
        model: an nnx.Module with fixed choices, or without any; it is exported in evaluation mode.
            A Linen module with `variables`; or a function of x that holds its arrays.
        example: [B, ...], an array or a jax.ShapeDtypeStruct; only shape and dtype count, and B
            does not.
        variables: of a Linen module.
        tables: of a function, by the path of the layer; those of a module are found.
        path: where the file is written, whole or not at all.

    Returns:
        What the file holds.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: choices are not fixed; the model does not run on the example, or needs a batch
            that is a number.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from smartmixed_jax import MLP, fix_choices
        >>> from smartmixed_jax.export import load_stablehlo, to_stablehlo
        >>> fixed = fix_choices(MLP(4, (8,), 2, rngs=nnx.Rngs(0)))
        >>> loaded = load_stablehlo(to_stablehlo(fixed, jnp.ones((1, 4))))
        >>> loaded(jnp.ones((5, 4))).shape, loaded.tables["activations.0"]["pool"][0]
        ((5, 2), 'relu')
    """
    function, found, aval = _prepare("to_stablehlo", model, example, variables, tables, path)
    with _failing("to_stablehlo"):
        exported = jax.export.export(jax.jit(function), platforms=PLATFORMS)(aval)
    outputs = jax.tree.leaves(exported.out_avals)
    _require_one("to_stablehlo", outputs)
    program = bytes(exported.serialize())
    header = _header(found, aval, outputs[0])
    header["program_sha256"] = hashlib.sha256(program).hexdigest()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in ((_HEADER, json.dumps(header, indent=1)), (_PROGRAM, program)):
            file.writestr(name, content)
    return _write_whole(path, buffer.getvalue())


class Exported:
    """A network that `load_stablehlo` read; called on x [B, ...] of any B.

    Attributes:
        header: what the file says of itself: `format`, the versions of library and JAX, `input` and
            `output` (shape and dtype), `tables`.
        tables: by the path of the layer: `pool`, the names of its functions, and `choices`, an
            index of them for each neuron.
    """

    def __init__(self, header: dict[str, Any], program: Any) -> None:
        self.header = header
        self.tables: Tables = header["tables"]
        self._call = jax.jit(program.call)

    def __call__(self, x: Any) -> jax.Array:
        """x [B, ...] → what the network gives; ValueError for another shape or dtype."""
        shape, dtype = self.header["input"]["shape"], self.header["input"]["dtype"]
        x = jnp.asarray(x)
        if x.ndim != len(shape) or list(x.shape[1:]) != shape[1:] or str(x.dtype) != dtype:
            expected = f"{dtype}[batch, {', '.join(map(str, shape[1:]))}]"
            raise ValueError(f"the exported network takes {expected}, got {_checks.shown(x)}")
        result: jax.Array = self._call(x)
        return result


def load_stablehlo(source: str | os.PathLike[str] | bytes) -> Exported:
    """The network of a file that `to_stablehlo` wrote, or of its bytes.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no such file, damaged, of a newer format, or made by a version of JAX
            that this one cannot read.
    """
    content = source if isinstance(source, bytes) else Path(source).read_bytes()
    where = "load_stablehlo" if isinstance(source, bytes) else f"load_stablehlo: {source}"
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as file:
            header, program = json.loads(file.read(_HEADER)), file.read(_PROGRAM)
        version, digest = header["format"], header["program_sha256"]
        complete = all(key in header for key in ("tables", "input", "output"))
    except Exception as error:  # zipfile, zlib and json raise kinds of their own
        raise ValueError(f"{where}: no file of to_stablehlo, or damaged ({error})") from None
    if version != FORMAT:
        raise ValueError(f"{where}: format {version}, this version reads format {FORMAT}")
    if not complete or hashlib.sha256(program).hexdigest() != digest:
        raise ValueError(f"{where}: damaged (the program is not the one that was written)")
    try:
        return Exported(header, jax.export.deserialize(bytearray(program)))
    except Exception as error:
        made = f"made by jax {header.get('jax')}, this is {jax.__version__}"
        raise ValueError(f"{where}: {made}: {_line(error)}") from None


def to_onnx(
    model: Any,
    example: Any,
    *,
    variables: Any = None,
    tables: Mapping[str, FunctionTable] | None = None,
    path: str | os.PathLike[str] | None = None,
) -> Any:
    """The network in plain ONNX operators, for any batch; needs the package onnx.

    One input `input` and one output `output`, their first axis called `batch`. A fixed layer is
    one operator for the neurons of each function, or a few, and their order is part of the
    weights. The tables are in the file's metadata, JSON under `METADATA`.

    Args:
        model: as for `to_stablehlo`, and so are the others.

    Returns:
        onnx.ModelProto, as onnx.checker takes it.

    Raises:
        ImportError: there is no onnx.
        TypeError, ValueError: as `to_stablehlo`; and ValueError for a primitive that is not in
            `PRIMITIVES` or has no such form, which it names.
    """
    try:
        import onnx  # noqa: F401
    except ImportError:
        raise ImportError("to_onnx needs the package onnx: pip install onnx onnxruntime") from None
    function, found, aval = _prepare("to_onnx", model, example, variables, tables, path)
    graph = _onnx_graph.Graph()
    with _failing("to_onnx"), kept_whole():
        closed = jax.make_jaxpr(function)(aval)
        _require_one("to_onnx", closed.out_avals)
        order = tuple(range(len(aval.shape)))
        dtype = np.dtype(aval.dtype)
        source = _onnx_rules.Value(aval.shape, dtype, "input", None, order, aval.shape)
        converter = _onnx_rules.Converter(graph)
        (result,) = converter.run(closed.jaxpr, closed.consts, [source])
        outputs = [converter.name(result)]
    graph.simplify(outputs)
    graph.finish(outputs[0], "output")
    header = _header(found, aval, closed.out_avals[0])
    source_end, result_end = (
        (name, np.dtype(header[name]["dtype"]), tuple(header[name]["shape"]))
        for name in ("input", "output")
    )
    metadata = {METADATA: json.dumps(header)}
    made = _onnx_graph.to_model(graph, source_end, result_end, metadata)
    if path is not None:
        _write_whole(path, made.SerializeToString())
    return made


# What is exported


def _prepare(
    where: str, model: Any, example: Any, variables: Any, tables: Any, path: Any
) -> tuple[Callable[[jax.Array], Any], dict[str, Any], jax.ShapeDtypeStruct]:
    """A function of x alone, its tables, and x with a symbolic batch."""
    _checks.check(where, path=path, example=example)
    (batch,) = jax.export.symbolic_shape("batch")
    aval = jax.ShapeDtypeStruct((batch, *example.shape[1:]), example.dtype)
    if isinstance(model, nn.Module):
        _checks.check(where, variables=variables)
        choices, selective = fixed_choices(model, variables)
        if selective:
            raise ValueError(_not_fixed(where, selective[0]))
        return lambda x: model.apply(variables, x), choices, aval
    if variables is not None:
        raise TypeError(f"{where}: variables are of a Linen module, got {_checks.shown(model)}")
    if not isinstance(model, nnx.Module):
        _checks.check(where, function=model)
        return model, _records(tables or {}), aval
    found: dict[str, FunctionTable] = {}
    for parts, module in nnx.iter_modules(model):
        place = ".".join(map(str, parts))
        if isinstance(module, SelectiveActivation):
            raise ValueError(_not_fixed(where, place))
        if isinstance(module, MixedActivation):
            found |= {place + name: table for name, table in module.tables().items()}
    quiet = nnx.view(model, deterministic=True, use_running_average=True, raise_if_not_found=False)
    graphdef, state = nnx.split(quiet)
    return lambda x: nnx.merge(graphdef, state, copy=True)(x), _records(found), aval


def _records(tables: Mapping[str, FunctionTable]) -> dict[str, Any]:
    return {path: json.loads(table.to_json()) for path, table in tables.items()}


def _not_fixed(where: str, path: str) -> str:
    return f"{where}: the layer {path or 'the model'} still selects: expected fix_choices(model)"


class _failing:
    """What a model raises while it is traced, as one line."""

    def __init__(self, where: str) -> None:
        self.where = where

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if isinstance(error, _onnx_rules.Unsupported):
            raise ValueError(f"{self.where}: {error}") from None
        if error is not None and "_DimExpr" in str(error):
            needs = "the model needs the batch as a number, as len(x) does: x.shape[0] is a name"
            raise ValueError(f"{self.where}: {needs} here ({_line(error)})") from error
        if isinstance(error, Exception):
            raise ValueError(
                f"{self.where}: the model fails on the example: {_line(error)}"
            ) from error


def _line(error: BaseException) -> str:
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= 300 else f"{text[:297]}..."


def _require_one(where: str, outputs: Any) -> None:
    if len(outputs) != 1:
        raise ValueError(f"{where}: the model returns {len(outputs)} arrays, expected one")


def _header(tables: Tables, *ends: Any) -> dict[str, Any]:
    from smartmixed_jax import __version__

    signature = [
        {
            "shape": [size if isinstance(size, int) else str(size) for size in end.shape],
            "dtype": str(end.dtype),
        }
        for end in ends
    ]
    return {
        "format": FORMAT,
        "smartmixed_jax": __version__,
        "jax": jax.__version__,
        "input": signature[0],
        "output": signature[1],
        "tables": dict(tables),
    }


def _write_whole(path: Any, content: bytes) -> bytes:
    """Writes the file, if there is a path: beside it first, so that it is whole or not there."""
    if path is not None:
        path = Path(path)
        partial = path.with_name(f"{path.name}.{os.getpid()}.part")
        try:
            partial.write_bytes(content)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    return content
