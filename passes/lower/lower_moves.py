"""Scatters that stay, and the joins behind them, become one operator each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.context import Context
from graphopt.facts.constants import is_constant
from graphopt.readers import only_reader
from graphopt.rewrite.edit import Edit
from graphopt.rewrite.operators import call, ready
from graphopt.rewrite.scatters import Scatter, read_scatter
from graphopt.rewrite.unused import remove_unused

SMALL = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.INT8, ir.DataType.UINT8})
TYPES = {"cpu": SMALL | {ir.DataType.DOUBLE, ir.DataType.INT32, ir.DataType.INT64}, "cuda": SMALL}
"""Types that the operators' kernels have, by target."""


@dataclass(frozen=True)
class LowerMoves:
    """Write the join of a narrowed branch into a full stream as ``ScatterAdd``, and other scatters as ``Scatter``.

    1. A scatter is ``Pad``, ``Gather`` behind ``Pad``, or ``ScatterND`` between transposes, with constant positions;
       fills that are added behind it belong to it.
    2. ``Add`` of a scatter and a value of the same shape is a join; a ``Relu`` that is its only reader belongs to it.
       Only the positions that are written are read and written, where the stream may be overwritten.
    3. Scatters that nothing joins become ``Scatter``; ``Gather`` behind ``Pad`` that repeats a position or leaves one
       out becomes ``Gather``, which has fills, too.
    4. ``Gather`` of constant positions of the last axis becomes ours: onnxruntime copies those number by number.
       Gathers of rows stay: they are as fast.

    *Options*: ``joins``, ``scatters`` and ``gathers``, whether these are written.

    *Never* unless runtime operators were asked for; where the join stretches one of its sides; where something else
    reads what lies between.

    *Needs* nothing; comes last, for facts do not see through the calls.

    ``Relu(Add(x, Gather(Pad(y), map)))`` -> ``ScatterAdd(x, indices, y, fill, 0)``
    """

    name: ClassVar[str] = "lower-moves"
    stage: ClassVar[str] = "lower"

    joins: bool = True
    scatters: bool = True
    gathers: bool = True

    def run(self, context: Context) -> bool:
        """Run on every graph."""
        return context.everywhere(lambda: self._run(context))

    def _run(self, context: Context) -> bool:
        if not context.runtime_operators or not {"Pad", "ScatterND", "Gather"} & context.operators():
            return False
        if not any(self._reads(node, context) for node in context.graph):
            return False
        if not all(ready(context, name) for name in ("ScatterAdd", "Scatter", "Gather")):
            return False
        edit = Edit(context.bare(), "composed", cut_weights=True)
        counts = {"joins": 0, "scatters": 0, "gathers": 0}
        if self.joins:
            counts["joins"] = sum(self._join(node, edit, context) for node in list(context.graph))
            remove_unused(context.graph)
        if self.scatters:
            # From behind, so that the fills that are added are seen before what they are added to.
            counts["scatters"] = sum(_scatter(node, edit, context) for node in reversed(list(context.graph)))
        if self.gathers:
            remove_unused(context.graph)
            counts["gathers"] = sum(_gather(node, edit, context) for node in list(context.graph))
        if any(counts.values()):
            remove_unused(context.graph)
        return context.record(counts)

    def _reads(self, node: ir.Node, context: Context) -> bool:
        """Tell whether there may be something to do: the opset of a model is not raised for nothing."""
        return (node.op_type in ("Pad", "ScatterND") and node.domain in ("", "ai.onnx")) or (
            self.gathers and _picked(node, context) is not None
        )

    def _join(self, node: ir.Node, edit: Edit, context: Context) -> bool:
        out = node.outputs[0] if node.outputs else None
        if node.op_type != "Add" or node.domain not in ("", "ai.onnx") or out is None or not _known(out, context):
            return False
        for position in (1, 0):
            branch, stream = node.inputs[position], node.inputs[1 - position]
            scatter = None if branch is None or stream is branch else read_scatter(branch, context)
            if scatter is None or stream is None or branch is None or is_constant(stream):
                continue
            alone = only_reader(branch) is node and scatter.once
            if not alone or not _same_shape(stream, out) or not _same_shape(branch, out):
                continue
            _write_join(node, stream, scatter, edit, context)
            return True
        return False


def _write_join(node: ir.Node, stream: ir.Value, scatter: Scatter, edit: Edit, context: Context) -> None:
    reader = only_reader(node.outputs[0])
    relu = reader is not None and reader.op_type == "Relu" and reader.domain in ("", "ai.onnx")
    last = reader if relu and reader is not None else node
    out, dtype = last.outputs[0], node.outputs[0].dtype
    inputs: list[ir.Value | None] = [
        stream,
        edit.constant(scatter.indices(), f"{out.name}_indices"),
        scatter.updates,
        edit.constant(_added(scatter), f"{out.name}_fill", dtype),
    ]
    if relu:
        inputs.append(edit.constant(np.zeros((), scatter.fill.dtype), f"{out.name}_floor", dtype))
    base, users = out.name or "joined", list(out.uses())
    attributes = {"axis": scatter.axis}
    new = call(context, edit, "ScatterAdd", inputs, edit.before(last), base, dims.sizes(out), out, attributes)
    edit.stand_in(out, new, users)


def _added(scatter: Scatter) -> np.ndarray:
    """Return what the other positions get: nothing is -0.0, which leaves them alone, where it would be zero."""
    fill = np.where(scatter.places >= 0, np.zeros(1, scatter.fill.dtype), scatter.fill)
    if not np.any(fill != 0):
        fill = fill[:1] if fill.size else np.zeros(1, fill.dtype)
    return fill if fill.dtype.kind in "iu" else np.where(fill == 0, -np.zeros(1, fill.dtype), fill)


def _scatter(node: ir.Node, edit: Edit, context: Context) -> bool:
    out = node.outputs[0] if node.outputs else None
    if out is None or node.op_type not in ("Pad", "Gather", "Add", "Transpose", "ScatterND"):
        return False
    if not (out.uses() or out.is_graph_output()):
        return False  # what is left of one that was written already
    scatter = read_scatter(out, context) if _known(out, context) else None
    if scatter is None or node.op_type == "Pad":
        return False  # which alone is one operator already
    users, base = list(out.uses()), out.name or "scattered"
    fill = edit.constant(scatter.fill, f"{base}_fill", out.dtype)
    attributes = {"axis": scatter.axis}
    if scatter.once:
        name, index = "Scatter", edit.constant(scatter.indices(), f"{base}_indices")
    else:
        name, index = "Gather", edit.constant(scatter.places, f"{base}_places")
    inputs: list[ir.Value | None] = [scatter.updates, index, fill]
    new = call(context, edit, name, inputs, edit.before(node), base, dims.sizes(out), out, attributes)
    edit.stand_in(out, new, users)
    return True


def _picked(node: ir.Node, context: Context) -> np.ndarray | None:
    """Return the constant positions of the last axis that a Gather of something computed selects."""
    if node.op_type != "Gather" or node.domain not in ("", "ai.onnx") or not _known(node.outputs[0], context):
        return None
    x, index = node.inputs[:2]
    known = None if x is None else dims.sizes(x)
    if x is None or index is None or known is None or len(known) < 2 or is_constant(x) or not is_constant(index):
        return None
    array, size = context.constants.array(index), known[-1]
    if node.attributes.get_int("axis", 0) % len(known) != len(known) - 1 or not isinstance(size, int) or not size:
        return None
    fits = array is not None and array.ndim == 1 and array.size and -size <= array.min() and array.max() < size
    return array % size if fits and array is not None else None


def _gather(node: ir.Node, edit: Edit, context: Context) -> bool:
    index = _picked(node, context)
    if index is None:
        return False
    x, out = node.inputs[0], node.outputs[0]
    base, rank = out.name or "gathered", len(dims.sizes(out) or ())
    assert out.dtype is not None
    inputs: list[ir.Value | None] = [
        x,
        edit.constant(index.astype(np.int64), f"{base}_index"),
        edit.constant(np.zeros((), out.dtype.numpy()), f"{base}_fill", out.dtype),
    ]
    users = list(out.uses())
    new = call(context, edit, "Gather", inputs, edit.before(node), base, dims.sizes(out), out, {"axis": rank - 1})
    edit.stand_in(out, new, users)
    return True


def _known(value: ir.Value, context: Context) -> bool:
    return value.dtype in TYPES.get(context.target, frozenset()) and dims.sizes(value) is not None


def _same_shape(value: ir.Value, out: ir.Value) -> bool:
    one, other = dims.sizes(value), dims.sizes(out)
    return (
        one is not None
        and other is not None
        and len(one) == len(other)
        and all(a == b or dims.provably_equal(a, b) for a, b in zip(one, other, strict=True))
    )
