"""The table of operators' rewrites, and the rewrite that follows from links alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.facts.rules import domain_of
from graphopt.facts.store import Spec
from graphopt.plan.classes import Layout
from graphopt.rewrite.edit import Cursor, Edit

Rewrite = Callable[[ir.Node, Spec, Edit], None]

_REWRITES: dict[tuple[str, str], Rewrite] = {}


def rewrites(*op_types: str, domain: str = "") -> Callable[[Rewrite], Rewrite]:
    """Register a rewrite for operators of a domain (default: the standard one)."""

    def register(function: Rewrite) -> Rewrite:
        for op_type in op_types:
            _REWRITES[domain, op_type] = function
        return function

    return register


def find(node: ir.Node) -> Rewrite:
    """Return the rewrite of a node's operator; the one by links alone where it has none of its own."""
    return _REWRITES.get((domain_of(node), node.op_type), by_links)


def wanted_by_links(node: ir.Node, operand: int, spec: Spec, edit: Edit) -> Layout:
    """Return the layout an input must have: the outputs' layouts along identity links, its own along moved ones."""
    wanted: Layout = {}
    value = node.inputs[operand]
    assert value is not None
    for link in spec.of_operand(operand):
        if link.index is not None:
            own = edit.layout(value).get(link.axis)
            if own is not None:
                wanted[link.axis] = own
            continue
        planned = edit.planned(node.outputs[link.out]).get(link.out_axis)
        if planned is not None:
            wanted[link.axis] = planned
    return wanted


def outputs_narrowed(node: ir.Node, edit: Edit) -> None:
    """Record that the node's outputs now have their planned layouts."""
    for out in node.outputs:
        edit.narrow_value(out, edit.planned(out))


def by_links(node: ir.Node, spec: Spec, edit: Edit) -> None:
    """Cut constants and move values so that every linked axis has the outputs' layout; the node itself stays."""
    for operand, value in enumerate(node.inputs):
        if value is not None and operand not in spec.unread:
            edit.operand(node, operand, wanted_by_links(node, operand, spec, edit))
    outputs_narrowed(node, edit)


def whole(node: ir.Node, edit: Edit) -> None:
    """Give a node without a rule every input whole."""
    for operand, value in enumerate(node.inputs):
        if value is not None and edit.layout(value):
            edit.operand(node, operand, {})


def set_ints(node: ir.Node, operand: int, attribute: str, values: list[int] | np.ndarray, edit: Edit) -> None:
    """Set an integer list that is an input of newer and an attribute of older opsets."""
    if attribute in node.attributes:
        node.attributes[attribute] = ir.AttrInt64s(attribute, [int(v) for v in values])
        return
    if len(node.inputs) <= operand:
        node.resize_inputs(operand + 1)
    constant = edit.constant(np.asarray(values, np.int64), f"{node.outputs[0].name}_{attribute}")
    node.replace_input_with(operand, constant)


def patch_shape(node: ir.Node, operand: int, edit: Edit, narrowed: dict[int, int]) -> None:
    """Overwrite entries of a shape operand (entry → new size), whether it is a constant or computed at run time."""
    if not narrowed:
        return
    shape = node.inputs[operand]
    assert shape is not None
    array = edit.facts.constants.array(shape) if edit.facts.constants.known(shape) else None
    if array is not None:
        patched = array.astype(np.int64).copy()
        for entry, size in narrowed.items():
            patched[entry] = size
        node.replace_input_with(operand, edit.constant(patched, f"{node.outputs[0].name}_shape"))
        return
    length = (dims.static(shape) or (None,))[0] or dims.rank(node.outputs[0])
    assert length is not None
    place = Cursor(edit.graph, before=node)
    base = f"{node.outputs[0].name}_shape"
    node.replace_input_with(operand, overwritten(shape, length, narrowed, place, base, edit))


def overwritten(
    shape: ir.Value, length: int, entries: dict[int, int], place: Cursor, base: str, edit: Edit
) -> ir.Value:
    """Return a shape (``[length]``, known at run time) with some entries replaced by constants.

    Where it is put together from pieces, other pieces are taken: runtimes fuse ``Shape``, ``Gather`` and ``Concat`` in
    front of a ``Reshape``, but nothing that selects.
    """
    pieces = _pieces(shape, length, entries, base, edit)
    if pieces is not None:
        axis = ir.AttrInt64("axis", 0)
        return edit.node("Concat", pieces, place, base, [length], shape, [axis], dtype=ir.DataType.INT64)
    mask, sizes = np.zeros(length, bool), np.zeros(length, np.int64)
    for entry, size in entries.items():
        mask[entry], sizes[entry] = True, size
    numbers = edit.constant(sizes, f"{base}_sizes")
    int64 = ir.DataType.INT64
    if edit.facts.opset >= 9:
        inputs: list[ir.Value | None] = [edit.constant(mask, f"{base}_known"), numbers, shape]
        return edit.node("Where", inputs, place, base, [length], shape, dtype=int64)
    kept = edit.constant((~mask).astype(np.int64), f"{base}_kept")
    product = edit.node("Mul", [shape, kept], place, f"{base}_rest", [length], shape, dtype=int64)
    return edit.node("Add", [product, numbers], place, base, [length], shape, dtype=int64)


def _pieces(
    shape: ir.Value, length: int, entries: dict[int, int], base: str, edit: Edit
) -> list[ir.Value | None] | None:
    """Return the operands of the Concat that makes a shape, with some entries replaced; ``None`` if that cannot be."""
    producer = shape.producer()
    if producer is None or producer.op_type != "Concat" or domain_of(producer) or producer.graph is not edit.graph:
        return None
    pieces: list[ir.Value | None] = []
    start = 0
    for piece in producer.inputs:
        size = (dims.static(piece) or (None,))[0]
        if piece is None or size is None or edit.layout(piece):
            return None
        here = {entry - start: number for entry, number in entries.items() if start <= entry < start + size}
        if here:
            array = edit.facts.constants.array(piece) if edit.facts.constants.known(piece) else None
            if array is None and len(here) < size:
                return None
            numbers = np.zeros(size, np.int64) if array is None else array.astype(np.int64)
            for entry, number in here.items():
                numbers[entry] = number
            piece = edit.constant(numbers, f"{base}_piece")
        pieces.append(piece)
        start += size
    return pieces if start == length else None
