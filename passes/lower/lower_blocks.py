"""Products with the blocks of a weight, and the gathers around them, become one operator."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.context import Context
from graphopt.facts.constants import is_constant
from graphopt.readers import only_reader
from graphopt.rewrite.edit import Edit
from graphopt.rewrite.operators import call, ready
from graphopt.rewrite.unused import remove_unused

TARGETS = ("cpu", "cuda")
TYPES = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
"""Types that the operator has kernels for everywhere: a library that had one for CUDA alone would let no session on the
CPU load that type, not even as a function."""


@dataclass(frozen=True)
class LowerBlocks:
    """Write products with the blocks of a weight, gathered before and moved behind, as ``GatherGemmScatter``.

    1. Read are several products of parts of one value, whose results are concatenated, and one batched product between
       reshapes and transposes: what ``split-blocks`` writes.
    2. A gather of the last axis before them, and one behind, go into the operator, as do a bias that is added and a
       ``Relu`` behind it.

    *Options*: ``moved``, whether only products with a gather around them are written so: without one, several products
    are as fast (``tests/bench/ops/moves.py``).

    *Never* unless runtime operators were asked for; where something else reads what lies between; for blocks so unequal
    that a quarter would be padding.

    *Needs* ``split-blocks``.

    ``Gather(Concat(MatMul(Gather(x, C), A), MatMul(Gather(x, D), B)), order)`` -> ``GatherGemmScatter``
    """

    name: ClassVar[str] = "lower-blocks"
    stage: ClassVar[str] = "lower"

    moved: bool = True

    def run(self, context: Context) -> bool:
        """Run on every graph."""
        return context.everywhere(lambda: self._run(context))

    def _run(self, context: Context) -> bool:
        if not context.runtime_operators or not {"MatMul", "Gemm"} & context.operators():
            return False
        found = [blocks for node in context.graph if (blocks := _read(node, context)) is not None]
        found = [blocks for blocks in found if (blocks.gathered or not self.moved) and _worth_it(blocks)]
        if not found or not ready(context, "GatherGemmScatter"):
            return False
        edit = Edit(context.bare(), "composed", cut_weights=True)
        for blocks in found:
            _write(blocks, edit, context)
        remove_unused(context.graph)
        return context.record({"products of blocks": len(found)})


@dataclass(frozen=True)
class _Blocks:
    """``last`` computes ``x[..., columns[b]] weights[b]``, at ``rows[b]`` (-1: nowhere) of ``size`` positions."""

    last: ir.Node
    x: ir.Value
    columns: list[np.ndarray]
    rows: list[np.ndarray]
    weights: list[np.ndarray]
    size: int
    bias: np.ndarray
    gathered: bool
    """Whether a gather moves positions before or behind."""
    relu: bool = False


def _read(node: ir.Node, context: Context) -> _Blocks | None:
    out = node.outputs[0] if node.outputs else None
    sizes = None if out is None else dims.sizes(out)
    if out is None or sizes is None or len(sizes) < 2 or out.dtype not in TYPES or context.target not in TARGETS:
        return None
    if node.domain not in ("", "ai.onnx"):
        return None
    blocks = _several(node, context) if node.op_type == "Concat" else None
    blocks = _batched(node, context) if node.op_type == "Reshape" else blocks
    if blocks is None or dims.sizes(blocks.x) is None:
        return None
    return _behind(_before(blocks, context), context)


def _several(node: ir.Node, context: Context) -> _Blocks | None:
    """Read ``Concat`` of products along the last axis."""
    known = dims.sizes(node.outputs[0]) or ()
    if node.attributes.get_int("axis", 0) % len(known) != len(known) - 1 or len(node.inputs) < 2:
        return None
    source: ir.Value | None = None
    columns, rows, weights, biases = [], [], [], []
    at, gathered = 0, False
    for value in node.inputs:
        product = None if value is None or only_reader(value) is not node else value.producer()
        read = None if product is None else _product(product, context)
        part = None if read is None else _part(read[0], context)
        if read is None or part is None or (source is not None and part[0] is not source):
            return None
        source, positions, moved = part
        gathered |= moved
        weight, bias = read[1:]
        if weight.shape[0] != positions.size:
            return None
        columns.append(positions)
        rows.append(np.arange(at, at + weight.shape[1]))
        weights.append(weight)
        biases.append(bias)
        at += weight.shape[1]
    if source is None or (dims.sizes(node.outputs[0]) or (None,))[-1] != at:
        return None
    return _Blocks(node, source, columns, rows, weights, at, np.concatenate(biases), gathered)


def _product(node: ir.Node, context: Context) -> tuple[ir.Value, np.ndarray, np.ndarray] | None:
    """Return what a product multiplies, its weight ``[c, r]`` and its bias ``[r]``."""
    if node.op_type not in ("MatMul", "Gemm") or node.domain not in ("", "ai.onnx"):
        return None
    x, weight = node.inputs[0], _constant(node.inputs[1], context)
    if x is None or weight is None or weight.ndim != 2 or is_constant(x):
        return None
    bias: np.ndarray | None = np.zeros(1, weight.dtype)
    if node.op_type == "Gemm":
        plain = node.attributes.get_float("alpha", 1.0) == 1 and node.attributes.get_float("beta", 1.0) == 1
        if not plain or node.attributes.get_int("transA", 0):
            return None
        weight = weight.T if node.attributes.get_int("transB", 0) else weight
        if len(node.inputs) > 2 and node.inputs[2] is not None:
            bias = _constant(node.inputs[2], context)
    if bias is None or bias.size not in (1, weight.shape[1]) or bias.size != (bias.shape or (1,))[-1]:
        return None
    return x, weight, np.broadcast_to(bias.reshape(-1), weight.shape[1:])


def _part(value: ir.Value, context: Context) -> tuple[ir.Value, np.ndarray, bool] | None:
    """Return of what a value is a part, the positions of the last axis, and whether they are gathered."""
    node, known = value.producer(), dims.sizes(value)
    source = None if node is None or not node.inputs else node.inputs[0]
    if node is None or known is None or source is None or node.domain not in ("", "ai.onnx"):
        return None
    last = len(known) - 1
    if node.op_type == "Gather":
        index = _last_gather(node, context)
        return None if index is None else (source, index, True)
    if node.op_type != "Split" or node.attributes.get_int("axis", 0) % len(known) != last:
        return None
    sizes = [(dims.sizes(part) or (None,))[-1] for part in node.outputs]
    if not all(isinstance(size, int) for size in sizes):
        return None
    starts = np.cumsum([0, *(size for size in sizes if isinstance(size, int))])
    number = list(node.outputs).index(value)
    return source, np.arange(starts[number], starts[number + 1]), False


def _batched(node: ir.Node, context: Context) -> _Blocks | None:
    """Read ``Reshape(Transpose(MatMul(Transpose(Reshape(x)), W)))``, ``W`` ``[blocks, c, r]``."""
    swapped = _made(node, "Transpose")
    product = _made(swapped, "MatMul")
    turned = _made(product, "Transpose")
    parted = _made(turned, "Reshape")
    if swapped is None or product is None or turned is None or parted is None:
        return None
    weight = _constant(product.inputs[1], context)
    swaps = all(tuple(one.attributes.get_ints("perm", ())) == (1, 0, 2) for one in (swapped, turned))
    x, parts = parted.inputs[0], dims.sizes(parted.outputs[0])
    known, wide = None if x is None else dims.sizes(x), dims.sizes(node.outputs[0])
    if weight is None or weight.ndim != 3 or not swaps or x is None or known is None or wide is None or parts is None:
        return None
    count, depth, width = weight.shape
    if parts[1:] != (count, depth) or known[-1] != count * depth or wide[-1] != count * width:
        return None
    if len(wide) != len(known) or not all(
        a == b or dims.provably_equal(a, b) for a, b in zip(wide[:-1], known[:-1], strict=True)
    ):
        return None
    columns = list(np.arange(count * depth).reshape(count, depth))
    rows = list(np.arange(count * width).reshape(count, width))
    bias = np.zeros(count * width, weight.dtype)
    return _Blocks(node, x, columns, rows, list(weight), count * width, bias, False)


def _before(blocks: _Blocks, context: Context) -> _Blocks:
    """Take a gather in front of all parts into the blocks."""
    node = blocks.x.producer()
    index = None if node is None or node.op_type != "Gather" else _last_gather(node, context)
    source = None if node is None or index is None else node.inputs[0]
    if index is None or source is None or dims.sizes(source) is None or blocks.x.is_graph_output():
        return blocks
    readers = {use.node for use in blocks.x.uses()}
    if len(readers) != 1:
        return blocks  # it is gathered anyway
    columns = [index[positions] for positions in blocks.columns]
    if any(np.unique(positions).size != positions.size for positions in columns):
        return blocks
    return replace(blocks, x=source, columns=columns, gathered=True)


def _behind(blocks: _Blocks, context: Context) -> _Blocks:
    """Take what lies behind into the blocks: a gather, a bias, a Relu."""
    reader = only_reader(blocks.last.outputs[0])
    index = None if reader is None or reader.op_type != "Gather" else _last_gather(reader, context)
    if reader is not None and index is not None and np.unique(index).size == index.size:
        places = np.full(blocks.size, -1)
        places[index] = np.arange(index.size)
        rows = [places[positions] for positions in blocks.rows]
        blocks = replace(blocks, last=reader, rows=rows, size=index.size, bias=blocks.bias[index], gathered=True)
        reader = only_reader(reader.outputs[0])
    if reader is not None and reader.op_type == "Add" and reader.domain in ("", "ai.onnx"):
        other = reader.inputs[0] if reader.inputs[1] is blocks.last.outputs[0] else reader.inputs[1]
        bias = _constant(other, context)
        if bias is not None and bias.shape == (blocks.size,):
            blocks = replace(blocks, last=reader, bias=blocks.bias + bias)
            reader = only_reader(reader.outputs[0])
    if reader is not None and reader.op_type == "Relu" and reader.domain in ("", "ai.onnx"):
        blocks = replace(blocks, last=reader, relu=True)
    return blocks


def _worth_it(blocks: _Blocks) -> bool:
    used = sum(weight.size for weight in blocks.weights)
    depth = max((weight.shape[0] for weight in blocks.weights), default=0)
    width = max((weight.shape[1] for weight in blocks.weights), default=0)
    return 0 < len(blocks.weights) * depth * width <= used / 0.75


def _write(blocks: _Blocks, edit: Edit, context: Context) -> None:
    out = blocks.last.outputs[0]
    base, dtype, count = out.name or "blocks", out.dtype, len(blocks.weights)
    depth, width = (max(weight.shape[axis] for weight in blocks.weights) for axis in (0, 1))
    columns, rows = np.full((count, depth), -1), np.full((count, width), -1)
    weights = np.zeros((count, depth, width), blocks.weights[0].dtype)
    for number, weight in enumerate(blocks.weights):
        columns[number, : weight.shape[0]] = blocks.columns[number]
        rows[number, : weight.shape[1]] = blocks.rows[number]
        weights[number, : weight.shape[0], : weight.shape[1]] = weight
    inputs: list[ir.Value | None] = [
        edit.constant(blocks.bias, f"{base}_bias", dtype),
        blocks.x,
        edit.constant(columns, f"{base}_columns"),
        edit.constant(rows, f"{base}_rows"),
        edit.constant(weights, f"{base}_weights", dtype),
    ]
    if blocks.relu:
        inputs.append(edit.constant(np.zeros((), blocks.bias.dtype), f"{base}_floor", dtype))
    users = list(out.uses())
    new = call(context, edit, "GatherGemmScatter", inputs, edit.before(blocks.last), base, dims.sizes(out), out)
    edit.stand_in(out, new, users)


def _last_gather(node: ir.Node, context: Context) -> np.ndarray | None:
    """Return the constant positions of the last axis that a Gather selects, from 0 on."""
    source, index = node.inputs[0], _constant(node.inputs[1], context)
    known = None if source is None else dims.sizes(source)
    if known is None or index is None or index.ndim != 1 or node.domain not in ("", "ai.onnx"):
        return None
    size = known[-1]
    if node.attributes.get_int("axis", 0) % len(known) != len(known) - 1 or not isinstance(size, int) or not size:
        return None
    return index % size if index.size == 0 or (-size <= index.min() and index.max() < size) else None


def _made(node: ir.Node | None, op_type: str) -> ir.Node | None:
    """Return the producer of a node's first input, if it is such an operator and nothing else reads it."""
    value = None if node is None or not node.inputs else node.inputs[0]
    producer = None if value is None or only_reader(value) is not node else value.producer()
    found = producer is not None and producer.op_type == op_type and producer.domain in ("", "ai.onnx")
    return producer if found else None


def _constant(value: ir.Value | None, context: Context) -> np.ndarray | None:
    return context.constants.array(value) if value is not None and is_constant(value) else None
