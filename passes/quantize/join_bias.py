"""A product and the addition behind it are one operator with a bias."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.context import Context
from graphopt.facts.constants import Constants, is_constant
from graphopt.rewrite.edit import Cursor, Edit
from graphopt.rewrite.unused import remove_unused


@dataclass(frozen=True)
class JoinBias:
    """Make a ``Gemm`` of a ``MatMul`` with a constant matrix and the ``Add`` of a constant row behind it.

    An integer product adds its bias in 32 bits before anything is rounded. Apart, the two cost a pass over memory, and
    where onnxruntime joins them by itself it does so in float, and dequantizes the weights at each run.

    1. ``MatMul(x: [M, K], W) + b`` becomes ``Gemm(x, W, b)``.
    2. With more axes in front, they are merged before and taken apart behind: the same product.

    *Never* where the product has another reader, where the row is no constant of one number for each column, or where
    more than one of the sizes in front is not known.

    *Needs* shapes.

    ``Add(MatMul(x: [N, 7, 8], W: [8, 5]), b: [5])`` -> ``Reshape(Gemm(Reshape(x, [-1, 8]), W, b), [-1, 7, 5])``
    """

    name: ClassVar[str] = "join-bias"
    stage: ClassVar[str] = "prepare"

    def run(self, context: Context) -> bool:
        """Run on every graph, where activations are quantized for a runtime that joins them otherwise."""
        state = context.quantization
        if state is not None and (state.request.weight_only or state.request.target not in ("cpu", "portable")):
            return False
        return context.everywhere(lambda: self._run(context))

    def _run(self, context: Context) -> bool:
        if not {"MatMul", "Add"} <= context.operators():
            return False
        edit = Edit(context.bare(), "composed", cut_weights=True)
        merged: dict[ir.Value, ir.Value] = {}
        joined = 0
        for node in list(context.graph):
            if (
                node.op_type == "Add"
                and node.domain in ("", "ai.onnx")
                and _join(node, edit, context.constants, merged)
            ):
                joined += 1
        if joined:
            remove_unused(context.graph)
        return context.record({"joined biases": joined})


def _join(add: ir.Node, edit: Edit, constants: Constants, merged: dict[ir.Value, ir.Value]) -> bool:
    for product, row in (tuple(add.inputs), tuple(add.inputs)[::-1]):
        node = None if product is None else product.producer()
        if product is None or node is None or node.op_type != "MatMul" or node.domain not in ("", "ai.onnx"):
            continue
        bias = _row(row, node, constants)
        if bias is None or len(product.uses()) != 1 or product.is_graph_output() or node.graph is not edit.graph:
            continue
        return _rewrite(add, node, bias, edit, merged)
    return False


def _row(row: ir.Value | None, node: ir.Node, constants: Constants) -> np.ndarray | None:
    """Return a constant operand as ``[N]``, if it is one number for each column of the constant matrix ``[K, N]``."""
    weight = node.inputs[1]
    known = dims.static(weight) if weight is not None and is_constant(weight) else None
    if known is None or len(known) != 2 or None in known or 0 in known or row is None or not is_constant(row):
        return None
    if row.dtype != ir.DataType.FLOAT or weight is None or weight.dtype != ir.DataType.FLOAT:
        return None
    array = constants.array(row)
    if array is None or (array.size != 1 and (array.size != known[1] or array.shape[-1] != known[1])):
        return None
    if array.ndim > (dims.rank(node.outputs[0]) or 0):
        return None  # a row of more axes than the product adds axes to it
    return np.broadcast_to(array.reshape(-1), (known[1] or 0,)).astype(np.float32)


def _rewrite(add: ir.Node, node: ir.Node, bias: np.ndarray, edit: Edit, merged: dict[ir.Value, ir.Value]) -> bool:
    x, weight, out = node.inputs[0], node.inputs[1], add.outputs[0]
    sizes, depth = dims.sizes(x), (dims.static(weight) or (None,))[0]
    if x is None or weight is None or sizes is None or len(sizes) < 2 or is_constant(x):
        return False
    front = sizes[:-1]
    if 0 in front or (len(front) > 1 and sum(not isinstance(size, int) for size in front) > 1):
        return False
    place = Cursor(edit.graph, before=add)
    known = [size for size in front if isinstance(size, int)]
    rows = front[0] if len(front) == 1 else int(np.prod(known)) if len(known) == len(front) else None
    if len(front) > 1 and x not in merged:
        shape = edit.constant(np.array([-1, depth]), f"{x.name}_shape")
        merged[x] = edit.node("Reshape", [x, shape], edit.behind(x), f"{x.name}_rows", [rows, depth], x)
    flat = merged[x] if len(front) > 1 else x
    row = edit.constant(bias, f"{out.name}_bias")
    result = edit.node("Gemm", [flat, weight, row], place, f"{out.name}_product", [rows, bias.size], out)
    gemm = result.producer()
    assert gemm is not None
    if len(front) > 1:
        sizes = [*[size if isinstance(size, int) else -1 for size in front], bias.size]
        shape = edit.constant(np.array(sizes), f"{out.name}_shape")
        result = edit.node("Reshape", [result, shape], place, str(out.name), [*front, bias.size], out)
    edit.stand_in(out, result, list(out.uses()))
    edit.graph.remove(add, safe=True)
    edit.graph.remove(node, safe=True)
    gemm.name = node.name  # who names the product in an option means this one
    return True
