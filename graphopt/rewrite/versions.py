"""What changed between versions of the standard operator set, and how a node is written in a later one.

A node whose schema did not change stays as it is, and so does one that was only given more types. ``GROWN`` lists
operators that were given attributes or inputs whose absence means what it meant before; ``CHANGES`` has a function for
those that are written in another way. Whatever is in neither is not upgraded.

Source: the operators' histories in the ONNX specification (``onnx.defs``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import onnx_ir as ir
from onnx import defs

from graphopt import dims
from graphopt.rewrite.edit import Edit

Change = Callable[[ir.Node, Edit | None], str | None]
"""Rewrites a node in place; returns why it cannot be, and has changed nothing then. Without an edit it only looks."""

GROWN: frozenset[tuple[str, int]] = frozenset(
    (name, version)
    for version, names in {
        10: "AveragePool MaxPool",
        11: "Constant DepthToSpace Gemm TopK",
        12: "ArgMax ArgMin Constant GatherND",
        13: "DequantizeLinear QuantizeLinear Resize",
        14: "GRU LSTM RNN Reshape",
        15: "Shape",
        16: "ScatterElements ScatterND",
        18: "LpPool OptionalHasElement Pad Resize",
        19: "Cast CastLike QuantizeLinear",
        21: "DequantizeLinear QuantizeLinear",
        23: "DequantizeLinear QuantizeLinear",
        24: "Attention Cast CastLike",
        25: "Attention",
    }.items()
    for name in names.split()
)
"""(operator, version): what is new there means the old thing where it is absent."""


def upgrade(nodes: Iterable[ir.Node], old: int, new: int, edit: Edit | None) -> str | None:
    """Write nodes in a later version; with no edit only say what would prevent it.

    Returns:
        Why a node cannot be written in the new version, or None.
    """
    for node in nodes:
        if node.domain not in ("", "ai.onnx"):
            continue
        for version in _versions(node.op_type, old, new):
            change = CHANGES.get((node.op_type, version))
            if change is not None:
                reason = change(node, edit)
            else:
                reason = None if _harmless(node.op_type, version) else f"{node.op_type} is another one since {version}"
            if reason is not None:
                return f"{reason} (node {node.name or node.outputs[0].name!r})"
    return None


def _versions(op_type: str, old: int, new: int) -> list[int]:
    """Return the versions after ``old`` up to ``new`` in which an operator changed, ascending."""
    found: list[int] = []
    version = new
    while version > old:
        try:
            since = defs.get_schema(op_type, version, "").since_version
        except defs.SchemaError:
            return [new]  # there is no such operator any more: nothing says that it is harmless
        if since > old:
            found.append(since)
        version = since - 1
        if version < 1:
            break
    return found[::-1]


def _harmless(op_type: str, version: int) -> bool:
    if (op_type, version) in GROWN:
        return True
    try:
        after, before = defs.get_schema(op_type, version, ""), defs.get_schema(op_type, version - 1, "")
    except defs.SchemaError:
        return False
    return not after.deprecated and _signature(before) == _signature(after)


def _signature(schema: defs.OpSchema) -> tuple[object, ...]:
    attributes = {name: (str(a.type), a.required, str(a.default_value)) for name, a in schema.attributes.items()}
    operands = [[(one.name, str(one.option)) for one in side] for side in (schema.inputs, schema.outputs)]
    return attributes, operands


# -- changes -----------------------------------------------------------------------------------------------------------


def _attribute_to_input(name: str, position: int) -> Change:
    """Return the change that makes an input of an attribute of numbers."""

    def change(node: ir.Node, edit: Edit | None) -> str | None:
        if edit is None or name not in node.attributes:
            return None
        given = node.attributes[name]
        single = given.type in (ir.AttributeType.INT, ir.AttributeType.FLOAT)
        integers = given.type in (ir.AttributeType.INT, ir.AttributeType.INTS)
        like = node.inputs[0].dtype if node.inputs[0] is not None else None
        kind = np.int64 if integers else like.numpy() if like is not None else np.float32
        array = np.array(given.value, kind) if single else np.array(list(given.value), kind)
        del node.attributes[name]
        if len(node.inputs) <= position:
            node.resize_inputs(position + 1)
        base = f"{node.outputs[0].name}_{name}"
        node.replace_input_with(position, edit.constant(array, base))
        return None

    return change


def _both(*changes: Change) -> Change:
    def change(node: ir.Node, edit: Edit | None) -> str | None:
        return next((reason for one in changes if (reason := one(node, edit)) is not None), None)

    return change


def _over_one_axis(node: ir.Node, edit: Edit | None) -> str | None:
    """Softmax ran over all axes from ``axis`` (by default 1) on, and runs over that one alone since 13."""
    sizes = dims.sizes(node.inputs[0])
    if sizes is None:
        return f"{node.op_type} runs over several axes before version 13, and the rank of its input is not known"
    axis = node.attributes.get_int("axis", 1) % max(len(sizes), 1)
    if any(size != 1 for size in sizes[axis + 1 :]):
        return f"{node.op_type} runs over several axes"
    if edit is not None:
        node.attributes["axis"] = ir.AttrInt64("axis", axis)
    return None


def _evaluating(node: ir.Node, edit: Edit | None) -> str | None:
    """BatchNormalization told training by its number of outputs before 14."""
    return "BatchNormalization has the outputs of training" if len(node.outputs) > 1 else None


def _rounded_up(node: ir.Node, edit: Edit | None) -> str | None:
    """AveragePool counts the last window of ``ceil_mode`` in another way since 19."""
    return "AveragePool with ceil_mode counts in another way" if node.attributes.get_int("ceil_mode", 0) else None


def _count_outputs(node: ir.Node, edit: Edit | None) -> str | None:
    """Split wants ``num_outputs`` where no sizes are given since 18."""
    if edit is not None and (len(node.inputs) < 2 or node.inputs[1] is None):
        node.attributes["num_outputs"] = ir.AttrInt64("num_outputs", len(node.outputs))
    return None


def _old_pixels(node: ir.Node, edit: Edit | None) -> str | None:
    """RoiAlign did not shift by half a pixel before 16."""
    if edit is not None:
        name = "coordinate_transformation_mode"
        node.attributes[name] = ir.AttrString(name, "output_half_pixel")
    return None


def _linear(node: ir.Node, edit: Edit | None) -> str | None:
    """GridSample calls its modes otherwise since 20."""
    if edit is not None:
        mode = node.attributes.get_string("mode", "bilinear")
        node.attributes["mode"] = ir.AttrString("mode", {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode))
    return None


def _no_ratio(node: ir.Node, edit: Edit | None) -> str | None:
    """Dropout does nothing in evaluation, whatever its ratio; a mask is of another type since 12 (10)."""
    if len(node.outputs) > 1 and (node.outputs[1].uses() or node.outputs[1].is_graph_output()):
        return "Dropout writes a mask"
    if edit is not None and "ratio" in node.attributes:
        del node.attributes["ratio"]
    return None


_REDUCTIONS = "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSumSquare"

CHANGES: dict[tuple[str, int], Change] = {
    ("Clip", 11): _both(_attribute_to_input("min", 1), _attribute_to_input("max", 2)),
    ("Pad", 11): _both(_attribute_to_input("pads", 1), _attribute_to_input("value", 2)),
    ("Dropout", 12): _no_ratio,
    ("Squeeze", 13): _attribute_to_input("axes", 1),
    ("Unsqueeze", 13): _attribute_to_input("axes", 1),
    ("ReduceSum", 13): _attribute_to_input("axes", 1),
    ("Split", 13): _attribute_to_input("split", 1),
    ("Split", 18): _count_outputs,
    **{(name, 13): _over_one_axis for name in ("Softmax", "LogSoftmax", "Hardmax")},
    ("BatchNormalization", 14): _evaluating,
    ("RoiAlign", 16): _old_pixels,
    **{(name, 18): _attribute_to_input("axes", 1) for name in _REDUCTIONS.split()},
    ("AveragePool", 19): _rounded_up,
    ("GridSample", 20): _linear,
    ("GroupNormalization", 21): lambda node, edit: "GroupNormalization takes its scale for each channel",
}
"""(operator, version) -> what must be done to a node when it comes to that version."""
