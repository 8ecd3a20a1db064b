"""Sequences of tensors that are taken apart again at known places."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.context import Context
from graphopt.rewrite.edit import Cursor, Edit
from graphopt.rewrite.unused import remove_unused

STANDARD = ("", "ai.onnx")


@dataclass(frozen=True)
class UnpackSequences:
    """Read the tensors themselves where a sequence is only read at constant places.

    1. ``SplitToSequence`` whose readers are all ``SequenceAt`` with constant positions is a ``Split``.
    2. ``SequenceAt`` with a constant position of a ``SequenceConstruct`` is the tensor that was put there.

    Exporters write ``chunk`` and ``split`` like this when they do not optimize; a sequence hides which positions of its
    tensors are dead.

    *Never* where the size along the axis is not known, where a piece is empty, where a position is out of range (that
    is the caller's error, and stays one), or where pieces lose their axis (``keepdims=0`` without sizes).

    *Needs* nothing.

    ``SequenceAt(SplitToSequence(x: [N, 8], 4), 1)`` -> second output of ``Split(x, [4, 4])``
    """

    name: ClassVar[str] = "unpack-sequences"

    def run(self, context: Context) -> bool:
        """Run on every graph."""
        return context.everywhere(lambda: self._run(context))

    def _run(self, context: Context) -> bool:
        if "SequenceAt" not in context.operators():
            return False
        edit = Edit(context.bare(), "composed", cut_weights=True)
        unpacked = sum(_unpack(node, edit, context) for node in list(context.graph) if node.domain in STANDARD)
        if unpacked:
            remove_unused(context.graph)
        return context.record({"unpacked": unpacked})


def _unpack(node: ir.Node, edit: Edit, context: Context) -> bool:
    if node.op_type not in ("SplitToSequence", "SequenceConstruct") or node.outputs[0].is_graph_output():
        return False
    uses = list(node.outputs[0].uses())
    pieces = _sizes(node, context) if node.op_type == "SplitToSequence" else None
    number = len(node.inputs) if pieces is None else len(pieces)
    if not uses or (node.op_type == "SplitToSequence" and pieces is None):
        return False
    readers: list[tuple[ir.Node, int]] = []
    for use in uses:
        place = _place(use.node, number, context)
        # A reader inside a body would need the tensors there under names of their own: left alone.
        if place is None or use.node.graph is not node.graph:
            if pieces is not None:
                return False
            continue
        readers.append((use.node, place))
    tensors = list(node.inputs) if pieces is None else _split(node, pieces, edit)
    readers = [(reader, place) for reader, place in readers if tensors[place] is not None]
    for reader, place in readers:
        tensor, out = tensors[place], reader.outputs[0]
        assert tensor is not None
        if out.is_graph_output():
            tensor = edit.node("Identity", [tensor], Cursor(edit.graph, after=reader), str(out.name), None, tensor)
        edit.stand_in(out, tensor, list(out.uses()))
        edit.graph.remove(reader, safe=True)
    return bool(readers)


def _place(reader: ir.Node, number: int, context: Context) -> int | None:
    """Return the place that a ``SequenceAt`` reads, if it is known and there is one."""
    if reader.op_type != "SequenceAt" or reader.domain not in STANDARD:
        return None
    index = context.constants.array(reader.inputs[1])
    if index is None or index.size != 1 or not -number <= int(index.reshape(())) < number:
        return None
    return int(index.reshape(())) % number


def _sizes(node: ir.Node, context: Context) -> list[int] | None:
    """Return the sizes of the pieces of a ``SplitToSequence``."""
    data, given = node.inputs[0], node.inputs[1] if len(node.inputs) > 1 else None
    known = dims.static(data)
    axis = node.attributes.get_int("axis", 0)
    if data is None or known is None or not -len(known) <= axis < len(known) or data.dtype == ir.DataType.STRING:
        return None
    size = known[axis]
    if not size or context.opset < 13:
        return None
    if given is None:
        return [1] * size if node.attributes.get_int("keepdims", 1) else None
    split = context.constants.array(given)
    if split is None or split.size == 0 or (split < 1).any():
        return None
    if split.ndim == 1:
        return split.astype(np.int64).tolist() if int(split.sum()) == size else None
    step = int(split)
    return [min(step, size - start) for start in range(0, size, step)]


def _split(node: ir.Node, sizes: list[int], edit: Edit) -> list[ir.Value | None]:
    data = node.inputs[0]
    assert data is not None and data.shape is not None
    axis = node.attributes.get_int("axis", 0) % len(data.shape)
    outputs = []
    for number, size in enumerate(sizes):
        shape = [size if i == axis else dim for i, dim in enumerate(data.shape)]
        name = edit.name(f"{node.outputs[0].name}_{number}")
        outputs.append(ir.Value(name=name, shape=ir.Shape(shape), type=data.type))
    split = edit.constant(np.array(sizes, np.int64), f"{node.outputs[0].name}_sizes")
    made = ir.Node(
        "", "Split", [data, split], [ir.AttrInt64("axis", axis)], outputs=outputs, name=edit.name(f"{node.name}_split")
    )
    made.metadata_props.update(node.metadata_props)
    Cursor(edit.graph, after=node).insert(made)
    return outputs
