"""How large a model is: parameters, multiply-adds, nodes, bytes. Reads shapes only, never the data of a tensor."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping

import onnx_ir as ir

from graphopt.facts import stats_operators
from graphopt.facts.ops.einsum import parse
from graphopt.report.schema import Stats
from graphopt.runtime_ops.operator import DOMAIN
from graphopt.subgraphs import subgraphs


def stats(model: ir.Model) -> Stats:
    """Counts what a model consists of. Linear in the number of nodes; loads no tensor data.

    Subgraphs and model-local functions are looked into. `nodes` and `ops` count each definition once (a call of a
    function is one node, the body of the function is counted beside it); `macs` counts the body at every call. A body
    of Loop or Scan counts once, both branches of If count. Returns numbers of elements, multiply-adds and bytes.

    `parameters` are elements of floating-point constants, and of integer ones that stand for numbers: what is
    dequantized, and the weights and biases of integer operators (`STORED`; packed weights count what is packed).
    `initializer_bytes` are the bytes of constants of every type: initializers and the tensors of Constant nodes alike,
    so that turning the one into the other changes neither. A tensor that several names share counts once. A size that
    is symbolic, or not known, counts 1 in `macs`.
    """
    seen: set[int] = set()
    kept_alive: list[object] = []  # an id may be reused once its object is gone
    parameters = 0
    constant_bytes = 0

    def count(tensor: ir.TensorProtocol) -> None:
        nonlocal parameters, constant_bytes
        if id(tensor) in seen:
            return
        seen.add(id(tensor))
        kept_alive.append(tensor)
        constant_bytes += tensor.nbytes
        parameters += int(tensor.size) if tensor.dtype.is_floating_point() else weights.get(id(tensor), 0)

    graphs = list(_graphs(model))
    weights = _stored(graphs)
    ops: Counter[str] = Counter()
    for graph in graphs:
        if isinstance(graph, ir.Graph):
            for value in graph.initializers.values():
                if value.const_value is not None:
                    count(value.const_value)
        for node in graph:
            ops[_op_name(node)] += 1
            if node.op_type == "Constant" and node.domain in _DEFAULT_DOMAIN:
                for tensor in _constant_tensors(node):
                    count(tensor)

    return Stats(
        parameters=parameters,
        macs=_total_macs(model) if model.functions else sum(macs(node) for graph in graphs for node in graph),
        nodes=sum(ops.values()),
        initializer_bytes=constant_bytes,
        ops=dict(sorted(ops.items())),
    )


def parameters(model: ir.Model, known: dict[int, tuple[object, int]]) -> int:
    """`stats(model).parameters` alone, for a journal that asks after every step.

    `known` remembers between calls how many parameters a tensor holds (and keeps it alive, for ids are reused).
    """

    def held(tensor: ir.TensorProtocol) -> int:
        if id(tensor) not in known:
            known[id(tensor)] = (tensor, int(tensor.size) if tensor.dtype.is_floating_point() else 0)
        return id(tensor)

    graphs = list(_graphs(model))
    weights = _stored(graphs)
    seen: set[int] = set()
    fresh = 0
    for graph in graphs:
        if isinstance(graph, ir.Graph):
            seen.update(held(v.const_value) for v in graph.initializers.values() if v.const_value is not None)
        for node in graph:
            if node.op_type == "Constant" and node.domain in _DEFAULT_DOMAIN:
                for tensor in _constant_tensors(node):
                    if any(tensor is attribute.value for attribute in node.attributes.values()):
                        seen.add(held(tensor))
                    elif tensor.dtype.is_floating_point():
                        fresh += int(tensor.size)
    return fresh + sum(known[key][1] or weights.get(key, 0) for key in seen)


STORED: Mapping[tuple[str, str], tuple[int, ...]] = {
    ("", "DequantizeLinear"): (0,),
    ("", "ConvInteger"): (0, 1),
    ("", "MatMulInteger"): (0, 1),
    ("", "QLinearConv"): (0, 3, 8),
    ("", "QLinearMatMul"): (0, 3),
    ("com.microsoft", "DequantizeLinear"): (0,),
    ("com.microsoft", "DynamicQuantizeMatMul"): (1,),
    ("com.microsoft", "GatherBlockQuantized"): (0,),
    ("com.microsoft", "MatMulIntegerToFloat"): (0, 1),
    ("com.microsoft", "MatMulNBits"): (1,),
    ("com.microsoft", "QGemm"): (0, 3, 6),
    ("com.microsoft", "QLinearAdd"): (0, 3),
    ("com.microsoft", "QLinearConv"): (0, 3, 8),
    ("com.microsoft", "QLinearMul"): (0, 3),
    **stats_operators.STORED,
}
"""Inputs at which a constant of integers stands for numbers, by domain and operator."""


def _stored(graphs: Iterable[ir.Graph | ir.Function]) -> dict[int, int]:
    """How many numbers each tensor (by id) of integers stands for."""
    found: dict[int, int] = {}
    for graph in graphs:
        for node in graph:
            for position in STORED.get((_domain(node.domain), node.op_type), ()):
                value = node.inputs[position] if position < len(node.inputs) else None
                tensor = None if value is None else _tensor(value)
                if tensor is not None and tensor.dtype.is_integer():
                    packed = 8 // node.attributes.get_int("bits", 4) if node.op_type == "MatMulNBits" else 1
                    each = stats_operators.packed(node) if node.domain == DOMAIN else packed
                    found[id(tensor)] = int(tensor.size) * each
    return found


def _tensor(value: ir.Value) -> ir.TensorProtocol | None:
    """The tensor of an initializer or of a Constant node."""
    if value.const_value is not None:
        return value.const_value
    node = value.producer()
    if node is None or node.op_type != "Constant" or node.domain not in _DEFAULT_DOMAIN:
        return None
    return next(iter(_constant_tensors(node)), None)


def macs(node: ir.Node) -> int:
    """Multiply-adds of one node, 0 for operators that do not contract. A size that is not a known number counts 1.

    Conv: elements of the output times `C/group * prod(kernel)`. ConvTranspose: elements of the input times
    `M/group * prod(kernel)`. Gemm and MatMul: elements of the output times the contracted size. Einsum: the product of
    the sizes of all letters. Recurrent layers: elements of both weights for every step of every sample.
    """
    if node.domain == DOMAIN:
        return stats_operators.macs(node, _dims)
    rule = _MACS.get((_domain(node.domain), node.op_type))
    return rule(node) if rule is not None else 0


_DEFAULT_DOMAIN = ("", "ai.onnx")


def _domain(domain: str) -> str:
    return "" if domain in _DEFAULT_DOMAIN else domain


def _op_name(node: ir.Node) -> str:
    domain = _domain(node.domain)
    return f"{domain}.{node.op_type}" if domain else node.op_type


def _graphs(model: ir.Model) -> Iterator[ir.Graph | ir.Function]:
    """The main graph, the functions, and every graph nested in them; a runtime operator is one node, as others are."""
    functions = [function for function in model.functions.values() if function.domain != DOMAIN]
    pending: list[ir.Graph | ir.Function] = [model.graph, *functions]
    while pending:
        graph = pending.pop()
        yield graph
        for node in graph:
            pending.extend(subgraphs(node))


def _constant_tensors(node: ir.Node) -> Iterator[ir.TensorProtocol]:
    """The tensors a Constant node holds; a list of numbers is not worth sharing, so it is a tensor of its own."""
    for attribute in node.attributes.values():
        if attribute.is_ref():
            continue
        if attribute.type == ir.AttributeType.TENSOR:
            yield attribute.as_tensor()
        elif attribute.type in (ir.AttributeType.FLOAT, ir.AttributeType.FLOATS):
            yield ir.tensor(attribute.value, dtype=ir.DataType.FLOAT)
        elif attribute.type in (ir.AttributeType.INT, ir.AttributeType.INTS):
            yield ir.tensor(attribute.value, dtype=ir.DataType.INT64)


def _total_macs(model: ir.Model) -> int:
    of_function: dict[ir.OperatorIdentifier, int] = {}
    under_way: set[ir.OperatorIdentifier] = set()

    def of_call(identifier: ir.OperatorIdentifier) -> int:
        if identifier not in of_function:
            if identifier in under_way:  # recursion is not legal ONNX, but must not hang the counter
                return 0
            under_way.add(identifier)
            of_function[identifier] = of_body(model.functions[identifier])
            under_way.discard(identifier)
        return of_function[identifier]

    def of_body(body: ir.Graph | ir.Function) -> int:
        total = 0
        pending: list[ir.Graph | ir.Function] = [body]
        while pending:
            for node in pending.pop():
                if node.domain != DOMAIN and node.op_identifier() in model.functions:
                    total += of_call(node.op_identifier())
                else:
                    total += macs(node)
                pending.extend(subgraphs(node))
        return total

    return of_body(model.graph)


# --- the rules of single operators -----------------------------------------------------------------------------------


def _dims(value: ir.Value | None) -> list[int] | None:
    """Sizes of the axes, 1 for those not known; None when not even the rank is known."""
    if value is None:
        return None
    shape: Iterable[object] | None = value.shape
    if shape is None and value.const_value is not None:
        shape = value.const_value.shape
    if shape is None:
        return None
    return [size if isinstance(size, int) else 1 for size in shape]


def _input(node: ir.Node, index: int) -> list[int] | None:
    return _dims(node.inputs[index]) if index < len(node.inputs) else None


def _flag(node: ir.Node, name: str) -> bool:
    attribute = node.attributes.get(name)
    return attribute is not None and not attribute.is_ref() and bool(attribute.as_int())


def _conv(weight: int) -> Callable[[ir.Node], int]:
    def rule(node: ir.Node) -> int:
        kernel = _input(node, weight)
        if kernel is None or len(kernel) < 2:
            return 0
        output = _dims(node.outputs[0])
        if output is None:  # every pixel is unknown, hence 1
            return math.prod(kernel)
        return math.prod(output) * math.prod(kernel[1:])

    return rule


def _conv_transpose(node: ir.Node) -> int:
    kernel = _input(node, 1)
    if kernel is None or len(kernel) < 2:
        return 0
    source = _input(node, 0)
    return math.prod(source if source is not None else kernel[:1]) * math.prod(kernel[1:])


def _gemm(node: ir.Node) -> int:
    a, b = _input(node, 0), _input(node, 1)
    axis = 1 if _flag(node, "transA") else 0
    rows = (a[axis] if _known(node.inputs[0], axis) else _merged(node.inputs[0])) if a and len(a) == 2 else 1
    if b is None or len(b) != 2:
        return 0
    return rows * b[0] * b[1]


def _known(value: ir.Value | None, axis: int) -> bool:
    return value is not None and value.shape is not None and isinstance(value.shape[axis], int)


def _merged(value: ir.Value | None) -> int:
    """Return the rows of a matrix that a Reshape made of a value with more axes, some of known size; else 1."""
    while value is not None and (node := value.producer()) is not None:
        if node.op_type == "Reshape":
            whole, matrix = _dims(node.inputs[0]), _dims(node.outputs[0])
            return 1 if not whole or not matrix or 0 in matrix else max(1, math.prod(whole) // math.prod(matrix))
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear", "Clip"):
            break
        value = node.inputs[0]
    return 1


def _matmul(left: int, right: int) -> Callable[[ir.Node], int]:
    def rule(node: ir.Node) -> int:
        a, b = _input(node, left), _input(node, right)
        # A symbolic contracted size on one side may be a known number on the other.
        if a is None and b is None:
            return 0
        a_contracted = a[-1] if a else 1
        b_contracted = b[-2] if b and len(b) > 1 else (b[0] if b else 1)
        if 0 in (a_contracted, b_contracted):
            return 0
        contracted = max(a_contracted, b_contracted)
        output = _dims(node.outputs[0])
        if output is None:
            rows = math.prod(a[:-1]) if a else 1
            columns = b[-1] if b and len(b) > 1 else 1
            return rows * contracted * columns
        return math.prod(output) * contracted

    return rule


def _fused_matmul(node: ir.Node) -> int:
    a, output = _input(node, 0), _dims(node.outputs[0])
    if a is None or len(a) < 2 or output is None:
        return 0
    return math.prod(output) * a[-2 if _flag(node, "transA") else -1]


def _recurrent(node: ir.Node) -> int:
    x, w, r = _input(node, 0), _input(node, 1), _input(node, 2)
    if x is None or w is None or r is None or len(x) != 3:
        return 0
    return x[0] * x[1] * (math.prod(w) + math.prod(r))


def _einsum(node: ir.Node) -> int:
    operands = [known for position in range(len(node.inputs)) if (known := _input(node, position)) is not None]
    output = _dims(node.outputs[0])
    text = node.attributes.get_string("equation", "")
    if len(operands) < 2 or len(operands) != len(node.inputs) or output is None or text is None:
        return 0
    found = parse(text, [len(known) for known in operands], len(output))
    if found is None:
        return 0
    sizes: dict[str, int] = {}
    for letters, known in zip(found.operands, operands, strict=True):
        for letter, size in zip(letters, known, strict=True):
            sizes[letter] = size if sizes.get(letter, 1) == 1 else sizes[letter]
    return math.prod(sizes.values())


def _matmul_of_packed(node: ir.Node) -> int:
    output = _dims(node.outputs[0])
    return 0 if output is None else math.prod(output) * node.attributes.get_int("K", 1)


_MACS: Mapping[tuple[str, str], Callable[[ir.Node], int]] = {
    ("", "Conv"): _conv(1),
    ("", "ConvInteger"): _conv(1),
    ("", "QLinearConv"): _conv(3),
    ("com.microsoft", "FusedConv"): _conv(1),
    ("", "ConvTranspose"): _conv_transpose,
    ("", "Einsum"): _einsum,
    ("", "LSTM"): _recurrent,
    ("", "GRU"): _recurrent,
    ("", "RNN"): _recurrent,
    ("", "Gemm"): _gemm,
    ("com.microsoft", "FusedGemm"): _gemm,
    ("com.microsoft", "FusedMatMul"): _fused_matmul,
    ("com.microsoft", "MatMulNBits"): _matmul_of_packed,
    ("com.microsoft", "DynamicQuantizeMatMul"): _matmul(0, 1),
    ("com.microsoft", "MatMulIntegerToFloat"): _matmul(0, 1),
    ("", "MatMul"): _matmul(0, 1),
    ("", "MatMulInteger"): _matmul(0, 1),
    ("", "QLinearMatMul"): _matmul(0, 3),
}
