"""A graph of ONNX nodes that is made smaller before it is written."""

import dataclasses
from collections import Counter
from typing import Any

import numpy as np

OPSET = 18
"""Of the standard domain: what the nodes are written for."""


@dataclasses.dataclass
class Node:
    """One operation: names of its inputs ("" where one is left out) and outputs."""

    op: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any]


class Graph:
    """Nodes in the order of evaluation, and arrays by name.

    Attributes:
        nodes: each uses outputs of those before it.
        arrays: what is known when the graph is made, by name.
    """

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.arrays: dict[str, np.ndarray] = {}
        self._known: dict[Any, str] = {}
        self._count = 0

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Appends a node with one output and returns its name."""
        return self.split(op, *inputs, outputs=1, **attributes)[0]

    def split(self, op: str, *inputs: str, outputs: int, **attributes: Any) -> list[str]:
        """Appends a node with several outputs and returns their names."""
        names = [self._name(op) for _ in range(outputs)]
        self.nodes.append(Node(op, list(inputs), names, attributes))
        return names

    def array(self, value: np.ndarray) -> str:
        """The name of an array; equal ones have one name."""
        value = np.ascontiguousarray(value).reshape(np.shape(value))
        key = (value.dtype.str, value.shape, value.tobytes())
        if key not in self._known:
            self._known[key] = self._name("c")
            self.arrays[self._known[key]] = value
        return self._known[key]

    def integers(self, values: Any) -> str:
        """The name of an int64 array [...], such as axes."""
        return self.array(np.asarray(values, np.int64))

    def _name(self, op: str) -> str:
        self._count += 1
        return f"{op.lower()}_{self._count}"

    def finish(self, result: str, name: str) -> None:
        """Calls a result `name`; what is no node's own result is copied."""
        producers = _producers(self)
        users = [node for node in self.nodes if result in node.inputs]
        if result in producers and not users:
            node = producers[result]
            node.outputs = [name if output == result else output for output in node.outputs]
        else:
            self.nodes.append(Node("Identity", [result], [name], {}))

    # Passes

    def simplify(self, outputs: list[str]) -> None:
        """Fewer nodes with the same results, up to the order of sums and products."""
        for change in (_fold_scalars, _fold_affine, _absorb_gathers, _fold_affine, _gemm):
            self.nodes = change(self, outputs)
            self._drop_unused(outputs)

    def _drop_unused(self, outputs: list[str]) -> None:
        needed, kept = set(outputs), []
        for node in reversed(self.nodes):
            if needed.intersection(node.outputs):
                kept.append(node)
                needed.update(node.inputs)
        self.nodes = kept[::-1]
        self.arrays = {name: array for name, array in self.arrays.items() if name in needed}
        self._known = {key: name for key, name in self._known.items() if name in self.arrays}

    def uses(self, outputs: list[str]) -> Counter[str]:
        """How often each value is used; an output of the graph counts as a use."""
        return Counter([*outputs, *(name for node in self.nodes for name in node.inputs)])

    def replace(self, old: str, new: str, outputs: list[str]) -> None:
        """Uses `new` wherever `old` was used."""
        for node in self.nodes:
            node.inputs = [new if name == old else name for name in node.inputs]
        outputs[:] = [new if name == old else name for name in outputs]

    def bypass(self, node: Node, source: str, outputs: list[str]) -> None:
        """Uses `source` instead of the node's result; the node is dropped later."""
        node.inputs = []
        self.replace(node.outputs[0], source, outputs)


def _producers(graph: Graph) -> dict[str, Node]:
    return {name: node for node in graph.nodes for name in node.outputs}


def _constant_side(graph: Graph, node: Node) -> tuple[str, np.ndarray, bool] | None:
    """Of a binary node with one known array: the other input, the array, whether it is the left."""
    known = [name in graph.arrays for name in node.inputs]
    if len(known) != 2 or sum(known) != 1:
        return None
    left = known[0]
    name, other = (node.inputs[0], node.inputs[1]) if left else (node.inputs[1], node.inputs[0])
    return other, graph.arrays[name], left


def _fold_scalars(graph: Graph, outputs: list[str]) -> list[Node]:
    """x · a / b → x · (a/b), and nothing for a factor 1."""
    uses, producers = graph.uses(outputs), _producers(graph)

    def factor(node: Node | None) -> tuple[str, float] | None:
        side = (
            None if node is None or node.op not in ("Mul", "Div") else _constant_side(graph, node)
        )
        if side is None or side[1].size != 1 or side[1].ndim or side[1].dtype.kind != "f":
            return None
        if node is not None and node.op == "Div":
            return None if side[2] else (side[0], 1 / float(side[1]))
        return side[0], float(side[1])

    for node in graph.nodes:
        if (outer := factor(node)) is None:
            continue
        before = producers.get(outer[0])
        inner = factor(before)
        if inner is None or uses[outer[0]] != 1:
            continue
        product = outer[1] * inner[1]
        dtype = next(graph.arrays[name].dtype for name in node.inputs if name in graph.arrays)
        node.op, node.inputs = "Mul", [inner[0], graph.array(np.asarray(product, dtype))]
    for node in list(graph.nodes):
        found = factor(node)
        if found is not None and abs(found[1] - 1) < 1e-15:
            graph.bypass(node, found[0], outputs)
    return graph.nodes


# Affine maps per channel, such as a batch normalisation, become part of the weights before them


def _channels(graph: Graph, node: Node | None) -> tuple[int, int, int] | None:
    """(rank of the output, its channel axis, channels) of a node with known weights, else None."""
    if node is None or len(node.inputs) < 2 or node.inputs[1] not in graph.arrays:
        return None
    weights = graph.arrays[node.inputs[1]]
    if node.op == "Conv":
        return weights.ndim, 1, weights.shape[0]
    if node.op == "MatMul" and weights.ndim == 2 and "rank" in node.attributes:
        rank = node.attributes["rank"]
        return rank, rank - 1, weights.shape[1]
    return None


def _per_channel(array: np.ndarray, place: tuple[int, int, int]) -> np.ndarray | None:
    """The array as one number per channel; None if it differs along another axis."""
    rank, axis, channels = place
    if array.ndim > rank:
        return None
    shape = (1,) * (rank - array.ndim) + array.shape
    if any(size != 1 for at, size in enumerate(shape) if at != axis):
        return None
    return np.broadcast_to(array.reshape(-1), (channels,)) if array.size in (1, channels) else None


def _fold_affine(graph: Graph, outputs: list[str]) -> list[Node]:
    """Products, and sums after a convolution, per channel, into its weights and bias."""
    uses, producers = graph.uses(outputs), _producers(graph)
    for node in graph.nodes:
        side = None
        if node.op in ("Add", "Sub", "Mul", "Div"):
            side = _constant_side(graph, node)
        if side is None:
            continue
        source, array, left = side
        before = producers.get(source)
        place = _channels(graph, before)
        if place is None or before is None or uses[source] != 1 or array.dtype.kind != "f":
            continue
        numbers = _per_channel(array, place)
        if numbers is None or (left and node.op == "Div"):
            continue
        if before.op == "MatMul" and node.op in ("Add", "Sub"):
            continue
        scale, shift = np.ones(place[2]), np.zeros(place[2])
        wide = numbers.astype(np.float64)
        if node.op == "Mul":
            scale = wide
        elif node.op == "Div":
            scale = 1 / wide
        elif node.op == "Add":
            shift = wide
        else:
            scale, shift = (-scale, wide) if left else (scale, -wide)
        _scale_weights(graph, before, scale, shift)
        graph.bypass(node, source, outputs)
        uses = graph.uses(outputs)
    return graph.nodes


def _scale_weights(graph: Graph, node: Node, scale: np.ndarray, shift: np.ndarray) -> None:
    weights = graph.arrays[node.inputs[1]]
    shape = (-1, *(1,) * (weights.ndim - 1)) if node.op == "Conv" else (1, -1)
    node.inputs[1] = graph.array((weights * scale.reshape(shape)).astype(weights.dtype))
    if node.op == "Conv":
        bias = np.zeros(len(scale))
        if len(node.inputs) > 2:
            bias = graph.arrays[node.inputs[2]].astype(np.float64)
        node.inputs[2:] = [graph.array((bias * scale + shift).astype(weights.dtype))]


# An order of neurons, so that those with one function are neighbours, becomes part of the weights

ELEMENTWISE = {"Add", "Sub", "Mul", "Div", "Max", "Min"}
POOLING = {"AveragePool", "MaxPool"}
UNARY = {"Relu", "LeakyRelu", "Sigmoid", "Tanh", "Elu", "Selu", "Exp", "Neg", "Softplus", "Sin"}


def _absorb_gathers(graph: Graph, outputs: list[str]) -> list[Node]:
    """Permutations of channels that weights before or after them can take."""
    for node in list(graph.nodes):
        if node.op == "Gather" and node.attributes.pop("permutes", False):
            rank, axis = node.attributes.pop("rank"), node.attributes["axis"]
            order = graph.arrays[node.inputs[1]]
            where = (rank, axis, order, outputs)
            taken = _permute_before(graph, node.inputs[0], *where)
            if taken or _permute_after(graph, node.outputs[0], *where):
                graph.bypass(node, node.inputs[0], outputs)
    return graph.nodes


def _permuted(array: np.ndarray, rank: int, axis: int, order: np.ndarray) -> np.ndarray:
    """An operand of an elementwise node in the order of the channels."""
    at = axis - (rank - array.ndim)
    if at < 0 or array.shape[at] == 1:
        return array
    return np.take(array, order, at)


def _permute_before(
    graph: Graph, name: str, rank: int, axis: int, order: np.ndarray, outputs: list[str]
) -> bool:
    """Lets the node that makes `name` make it in another order of channels, if it can."""
    if graph.uses(outputs)[name] != 1:
        return False
    node = _producers(graph).get(name)
    place = _channels(graph, node)
    if node is None:
        return False
    if place is not None and place[:2] == (rank, axis) and node.attributes.get("group", 1) == 1:
        weights = graph.arrays[node.inputs[1]]
        node.inputs[1] = graph.array(np.take(weights, order, 0 if node.op == "Conv" else 1))
        if len(node.inputs) > 2:
            node.inputs[2] = graph.array(graph.arrays[node.inputs[2]][order])
        return True
    side = _constant_side(graph, node) if node.op in ELEMENTWISE else None
    if side is None or side[1].ndim > rank:
        return False
    if not _permute_before(graph, side[0], rank, axis, order, outputs):
        return False
    changed = graph.array(_permuted(side[1], rank, axis, order))
    node.inputs[0 if side[2] else 1] = changed
    return True


def _permute_after(
    graph: Graph, name: str, rank: int, axis: int, order: np.ndarray, outputs: list[str]
) -> bool:
    """Lets all nodes that use `name` take its channels in the order before the Gather."""
    changes: list[tuple[Node, int, np.ndarray]] = []
    if not _takers(graph, name, rank, axis, order, outputs, changes):
        return False
    for node, place, array in changes:
        node.inputs[place] = graph.array(array)
    return True


def _takers(
    graph: Graph,
    name: str,
    rank: int,
    axis: int,
    order: np.ndarray,
    outputs: list[str],
    changes: list[tuple[Node, int, np.ndarray]],
) -> bool:
    if name in outputs:
        return False
    inverse = np.argsort(order)
    for node in graph.nodes:
        if name not in node.inputs:
            continue
        if node.inputs.count(name) > 1:
            return False
        weights = graph.arrays.get(node.inputs[1]) if len(node.inputs) > 1 else None
        if node.op == "Conv" and node.inputs[0] == name and weights is not None:
            if axis != 1 or node.attributes.get("group", 1) != 1:
                return False
            changes.append((node, 1, np.take(weights, inverse, 1)))
        elif node.op == "MatMul" and node.inputs[0] == name and weights is not None:
            if axis != rank - 1 or weights.ndim != 2:
                return False
            changes.append((node, 1, np.take(weights, inverse, 0)))
        elif node.op in ELEMENTWISE and (side := _constant_side(graph, node)) is not None:
            if side[1].ndim > rank:
                return False
            changed = _permuted(side[1], rank, axis, inverse)
            changes.append((node, 0 if side[2] else 1, changed))
            if not _takers(graph, node.outputs[0], rank, axis, order, outputs, changes):
                return False
        elif node.op in UNARY or (node.op in POOLING and axis == 1):
            if not _takers(graph, node.outputs[0], rank, axis, order, outputs, changes):
                return False
        else:
            return False
    return True


def _gemm(graph: Graph, outputs: list[str]) -> list[Node]:
    """x @ W + b of matrices as one Gemm."""
    uses, producers = graph.uses(outputs), _producers(graph)
    for node in graph.nodes:
        side = _constant_side(graph, node) if node.op == "Add" else None
        before = None if side is None else producers.get(side[0])
        if side is None or before is None or uses[side[0]] != 1:
            continue
        place = _channels(graph, before)
        if before.op != "MatMul" or place is None or place[0] != 2:
            continue
        bias = _per_channel(side[1], place)
        if bias is not None:
            node.op, node.inputs = "Gemm", [*before.inputs, graph.array(np.array(bias))]
    for node in graph.nodes:
        node.attributes.pop("rank", None)
    return graph.nodes


# Writing


def to_model(
    graph: Graph,
    source: tuple[str, np.dtype, tuple[Any, ...]],
    result: tuple[str, np.dtype, tuple[Any, ...]],
    metadata: dict[str, str],
) -> Any:
    """The graph as a checked onnx.ModelProto.

    Args:
        graph: simplified.
        source: name, dtype and shape of the input; a dimension is an int or a name.
        result: the same of the output.
        metadata: text by key.
    """
    import onnx
    from onnx import helper, numpy_helper

    def value(name: str, dtype: np.dtype, shape: tuple[Any, ...]) -> Any:
        return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(dtype), shape)

    model = helper.make_model(
        helper.make_graph(
            [
                helper.make_node(node.op, node.inputs, node.outputs, **node.attributes)
                for node in graph.nodes
            ],
            "model",
            [value(*source)],
            [value(*result)],
            [numpy_helper.from_array(array, name) for name, array in graph.arrays.items()],
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        producer_name="smartmixed-jax",
        ir_version=8,
    )
    helper.set_model_props(model, metadata)
    onnx.checker.check_model(model, full_check=True)
    return model
