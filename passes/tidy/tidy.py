"""What does nothing goes."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.context import Context
from graphopt.facts.constants import Constants, is_constant
from graphopt.rewrite.branches import inline_taken
from graphopt.rewrite.initializers import register
from graphopt.rewrite.scalars import make_scalars
from graphopt.rewrite.unused import remove_unused


@dataclass(frozen=True)
class Tidy:
    """Remove identities, multiplications by one, additions of zero, constant additions in a row, and what nobody reads.

    1. ``Identity``; ``Mul`` or ``Div`` by ones, ``Add`` or ``Sub`` of zeros, ``Where`` with a condition that always
       chooses the same side, a ``Transpose`` that undoes the one before it: if the shape stays the same.
    2. ``Add(Add(x, a), b)`` with constants becomes one ``Add``, if the first is read by nobody else.
    3. ``Expand`` in front of an operator that broadcasts to that shape anyway.
    4. A bias of zeros (Gemm: where it may be left out, opset 11).
    5. Nodes and initializers that reach no graph output.
    6. ``If`` of which the condition is a constant: its branch takes its place. A ``Range`` that thereby reads a
       constant list of one number gets a scalar, as onnxruntime demands.

    *Never* renames a graph input or output, never touches a node that has side effects.

    *Needs* nothing.

    ``Mul(x, [1, 1])`` -> ``x``
    """

    name: ClassVar[str] = "tidy"

    def run(self, context: Context) -> bool:
        """Run on every graph."""
        return context.everywhere(lambda: self._run(context))

    def _run(self, context: Context) -> bool:
        graph = context.graph
        removed = inline_taken(graph, context.model.graph, context.constants)
        for node in list(graph):
            removed += _unexpand(node)
            removed += make_scalars(node, graph, context.constants, context.taken)
            removed += _zero_bias(node, context.constants, context.opset)
            if _merge_additions(node, graph, context.constants, context.taken):
                removed += 1
            same = _same_as(node, context.constants)
            if same is not None and _bypass(node, same, graph):
                removed += 1
        removed += remove_unused(graph)
        return context.record({"removed": removed})


def _same_as(node: ir.Node, constants: Constants) -> ir.Value | None:
    """Return the input that a node's only output is equal to, or ``None``."""
    if node.domain not in ("", "ai.onnx") or len(node.outputs) != 1:
        return None
    inputs = node.inputs
    candidate: ir.Value | None = None
    if node.op_type == "Identity":
        return inputs[0]
    if node.op_type in ("Mul", "Div", "Add", "Sub"):
        neutral = 1 if node.op_type in ("Mul", "Div") else 0
        for position in (1, 0) if node.op_type in ("Mul", "Add") else (1,):
            value = inputs[position]
            if value is not None and is_constant(value) and _all(value, neutral, constants):
                candidate = inputs[1 - position]
                break
    elif node.op_type == "Where" and inputs[0] is not None and is_constant(inputs[0]):
        single = constants.single(inputs[0]) if inputs[0].dtype == ir.DataType.BOOL else None
        if single is not None:
            candidate = inputs[1] if bool(single) else inputs[2]
    elif node.op_type == "Transpose":
        before = inputs[0].producer() if inputs[0] is not None else None
        perm = node.attributes.get_ints("perm", None)
        if perm is not None and list(perm) == sorted(perm):
            candidate = inputs[0]
        elif before is not None and before.op_type == "Transpose" and perm is not None:
            first = before.attributes.get_ints("perm", None)
            if first is not None and [first[axis] for axis in perm] == sorted(first):
                candidate = before.inputs[0]
    if candidate is None or candidate.dtype != node.outputs[0].dtype:
        return None
    others = [value for value in inputs if value is not None and value is not candidate]
    if node.op_type != "Transpose" and others and all(dims.absorbs(candidate, value) for value in others):
        return candidate
    return candidate if _same_shape(candidate, node.outputs[0]) else None


def _all(value: ir.Value, number: int, constants: Constants) -> bool:
    single = constants.single(value)
    return single is not None and bool(single == number)


def _same_shape(a: ir.Value, b: ir.Value) -> bool:
    first, second = dims.sizes(a), dims.sizes(b)
    if first is None or second is None or len(first) != len(second) or a.dtype != b.dtype:
        return False
    return all(dims.provably_equal(x, y) for x, y in zip(first, second, strict=True))


def _bypass(node: ir.Node, value: ir.Value, graph: ir.Graph) -> bool:
    """Let ``value`` take the place of the node's output, keeping the names of graph outputs."""
    out = node.outputs[0]
    if _joins_casts(value, out):
        return False
    if not out.is_graph_output():
        if value.type is None:
            value.type = out.type
        ir.convenience.replace_all_uses_with(out, value)
        graph.remove(node, safe=True)
        return True
    producer = value.producer()
    if producer is None or value.is_graph_output() or producer.graph is not graph or graph.outputs.count(out) != 1:
        return False
    name = out.name
    for use in list(out.uses()):
        use.node.replace_input_with(use.idx, value)
    position = next(i for i, output in enumerate(graph.outputs) if output is out)
    graph.outputs[position] = value
    if value.shape is None or out.shape is not None:
        value.shape = out.shape
    value.type = out.type or value.type
    value.doc_string = value.doc_string or out.doc_string
    value.metadata_props.update(out.metadata_props)
    graph.remove(node, safe=True)
    value.name = name
    return True


def _joins_casts(value: ir.Value, out: ir.Value) -> bool:
    """Tell whether a Cast would follow a Cast and be read in a body: onnxruntime 1.31 loses the value there."""
    before = value.producer()
    if before is None or before.op_type != "Cast":
        return False
    casts = [use.node for use in out.uses() if use.node.op_type == "Cast"]
    return any(use.node.graph is not cast.graph for cast in casts for use in cast.outputs[0].uses())


def _zero_bias(node: ir.Node, constants: Constants, opset: int) -> int:
    """A bias of zeros adds nothing."""
    if node.op_type not in ("Conv", "ConvTranspose", "Gemm") or node.domain != "" or len(node.inputs) != 3:
        return 0
    bias = node.inputs[2]
    if bias is None or not is_constant(bias) or not _all(bias, 0, constants):
        return 0
    if node.op_type == "Gemm" and opset < 11:
        return 0
    node.resize_inputs(2)
    return 1


BROADCASTING = frozenset("Add Sub Mul Div Max Min Pow Where And Or Xor Equal Greater Less".split())


def _unexpand(node: ir.Node) -> int:
    """``Mul(x, Expand(c, shape))`` -> ``Mul(x, c)`` where another operand already has the result's shape."""
    if node.op_type not in BROADCASTING or node.domain != "":
        return 0
    done = 0
    for position, value in enumerate(node.inputs):
        before = value.producer() if value is not None else None
        if before is None or before.op_type != "Expand" or before.domain != "" or before.inputs[0] is None:
            continue
        others = [other for i, other in enumerate(node.inputs) if i != position and other is not None]
        if before.inputs[0].dtype == value.dtype and any(_wide(other, node.outputs[0]) for other in others):  # type: ignore[union-attr]
            node.replace_input_with(position, before.inputs[0])
            done += 1
    return done


def _wide(a: ir.Value, out: ir.Value) -> bool:
    first, second = dims.sizes(a), dims.sizes(out)
    return (
        first is not None
        and second is not None
        and len(first) == len(second)
        and all(dims.provably_equal(x, y) for x, y in zip(first, second, strict=True))
    )


def _merge_additions(node: ir.Node, graph: ir.Graph, constants: Constants, taken: Collection[str]) -> bool:
    """``Add(Add(x, a), b)`` -> ``Add(x, a + b)``; sums of floats may be re-associated, integers wrap either way."""
    if node.op_type != "Add" or node.domain != "" or len(node.inputs) != 2:
        return False
    for position in (0, 1):
        inner, outer = node.inputs[position], node.inputs[1 - position]
        before = inner.producer() if inner is not None else None
        if outer is None or before is None or inner is None or before.op_type != "Add" or not is_constant(outer):
            continue
        if inner.is_graph_output() or len(inner.uses()) != 1 or before.domain != "" or before.graph is not graph:
            continue
        for place in (0, 1):
            constant, rest = before.inputs[place], before.inputs[1 - place]
            if constant is None or rest is None or not is_constant(constant):
                continue
            a, b = constants.array(constant), constants.array(outer)
            if a is None or b is None or a.dtype != b.dtype:
                continue
            total = np.broadcast_shapes(a.shape, b.shape)
            if int(np.prod(total)) > max(a.size, b.size):
                continue
            value = register(graph, np.asarray(a + b), outer.dtype, f"{node.outputs[0].name}_sum", taken)
            node.replace_input_with(position, rest)
            node.replace_input_with(1 - position, value)
            graph.remove(before, safe=True)
            return True
    return False
