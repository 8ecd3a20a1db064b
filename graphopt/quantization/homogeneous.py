"""What operators do to classes of scales (``scaling.py``): one function for each kind of operator.

``f(s x) = s f(x)`` for every ``s > 0``, exactly so in floating point where s is a power of two.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.facts.constants import MICROSOFT, is_constant
from graphopt.quantization.scaled_products import Visit, along, conv, gemm, matmul, norm
from graphopt.quantization.scaling import Scaling

_NONE = np.zeros(1, np.int64)


# -- elementwise -------------------------------------------------------------------------------------------------------


def same(node: ir.Node, found: Scaling) -> None:
    """``f(s x) = s f(x)``; other operands are conditions, slopes, sizes: not multiplied."""
    for value in node.inputs[1:]:
        found.pin(found.of(value))
    found.give(node.outputs[0], found.of(node.inputs[0]))


def dropout(node: ir.Node, found: Scaling) -> None:
    """The identity, unless it trains."""
    training = node.inputs[2] if len(node.inputs) > 2 else None
    array = found.constants.array(training) if training is not None else np.zeros(1)
    (found.pin_inputs if array is None or array.any() else lambda n: same(n, found))(node)


def clip(node: ir.Node, found: Scaling) -> None:
    """``max(x, 0)``; any other bound would have to be multiplied, too, and is one number for all channels."""
    bounds = [node.inputs[i] if len(node.inputs) > i else None for i in (1, 2)]
    low = found.array(bounds[0])
    if low is not None and not low.any() and bounds[1] is None and "max" not in node.attributes:
        same(node, found)
    else:
        found.pin_inputs(node)


def join(operands: slice = slice(None)) -> Visit:
    """``s a + s b = s (a + b)``: all that is added has the same classes; constants are multiplied, but for zeros."""

    def visit(node: ir.Node, found: Scaling) -> None:
        places = [i for i in range(len(node.inputs))[operands] if node.inputs[i] is not None]
        for i, value in enumerate(node.inputs):
            if i not in places:
                found.pin(found.of(value))
        if any(dims.rank(node.inputs[i]) is None for i in places):
            found.pin_inputs(node)
            return
        live = [found.of(node.inputs[i]) for i in places if not is_constant(node.inputs[i])]
        if not any(ids.any() for ids in live):
            return
        shape = np.broadcast_shapes(*(ids.shape for ids in live))
        result = np.broadcast_to(next(ids for ids in live if ids.any()), shape)
        for ids in live:
            found.equal(ids, result)
        for i in places:
            if is_constant(node.inputs[i]) and not _zeros(node.inputs[i], found) and not found.takes(node, i, result):
                found.pin(result)
        found.give(node.outputs[0], result)

    return visit


def _zeros(value: ir.Value | None, found: Scaling) -> bool:
    array = found.array(value)
    return array is not None and not array.any()


def product(node: ir.Node, found: Scaling) -> None:
    """``s (a c) = (s a) c``; behind what cannot be multiplied, a constant with a number for each channel is."""
    a, b = node.inputs
    if is_constant(a) and node.op_type == "Mul":
        x, c = 1, 0
    elif is_constant(b):
        x, c = 0, 1
    else:
        left, right = found.of(a), found.of(b)
        if (left.any() and right.any()) or (right.any() and node.op_type == "Div"):
            found.pin_inputs(node)
        else:
            found.give(node.outputs[0], left if left.any() else right)
        return
    ids, rank = found.of(node.inputs[x]), dims.rank(node.outputs[0])
    known = dims.static(node.inputs[c]) or ()
    wide = [axis for axis, size in enumerate(known) if size != 1]
    free = not ids.any() and node.op_type == "Mul" and len(wide) == 1 and rank is not None
    if not free or rank is None or not found.changeable(node.inputs[c]):
        found.give(node.outputs[0], ids)
        return
    fresh = found.fresh(known[wide[0]] or 0, wide[0] + rank - len(known), rank)
    if found.takes(node, c, fresh):
        found.give(node.outputs[0], fresh)


# -- pooling, reducing, moving -----------------------------------------------------------------------------------------


def pool(node: ir.Node, found: Scaling) -> None:
    """Windows of one channel."""
    ids = found.of(node.inputs[0])
    if ids.ndim > 1 and along(ids, 1):
        found.give(node.outputs[0], ids)
    else:
        found.pin(ids)


def reduce(node: ir.Node, found: Scaling) -> None:
    """Over axes along which the class is the same."""
    ids = found.of(node.inputs[0])
    axes: Sequence[int] | None = node.attributes.get_ints("axes", None)
    if axes is None and len(node.inputs) > 1 and node.inputs[1] is not None:
        array = found.constants.array(node.inputs[1])
        axes = None if array is None else array.ravel().tolist()
    if not axes or not ids.any():
        found.pin(ids)
        return
    over = tuple(axis % ids.ndim for axis in axes)
    if any(ids.shape[axis] != 1 for axis in over):
        found.pin(ids)
        return
    keep = node.attributes.get_int("keepdims", 1)
    found.give(node.outputs[0], ids if keep else ids.squeeze(over))


def transpose(node: ir.Node, found: Scaling) -> None:
    """Axes change places."""
    ids = found.of(node.inputs[0])
    perm = node.attributes.get_ints("perm", tuple(reversed(range(ids.ndim))))
    found.give(node.outputs[0], ids.transpose(perm))


def reshape(node: ir.Node, found: Scaling) -> None:
    """Axes that are cut or joined take their classes along (the facts say which)."""
    ids, out = found.of(node.inputs[0]), node.outputs[0]
    spec = found.facts.specs.get(node)
    rank = dims.rank(out)
    if not ids.any():
        return
    if spec is None or rank is None:
        found.pin(ids)
        return
    shape, wide, reached = [1] * rank, list(ids.shape), set()
    for link in spec.links:
        shape[link.out_axis] = ids.shape[link.axis]
        reached.add(link.axis)
    for block in spec.blocks:
        if all(ids.shape[axis] == 1 for axis in block.ins):
            continue
        sizes = block.sizes if block.merges else (int(np.prod(block.sizes)),)
        for axis, size in zip(block.ins, sizes, strict=True):
            wide[axis] = size
        for axis, size in zip(block.outs, (int(np.prod(sizes)),) if block.merges else block.sizes, strict=True):
            shape[axis] = size
        reached.update(block.ins)
    if any(size != 1 and axis not in reached for axis, size in enumerate(ids.shape)):
        found.pin(ids)
        return
    found.give(out, np.broadcast_to(ids, wide).reshape(shape))


def select(node: ir.Node, found: Scaling) -> None:
    """Slice, Split, Gather: positions come from where the facts say."""
    ids = found.of(node.inputs[0])
    spec = found.facts.specs.get(node)
    wide = [axis for axis, size in enumerate(ids.shape) if size != 1]
    for number, out in enumerate(node.outputs):
        rank = dims.rank(out)
        links = {link.axis: link for link in (spec.of_operand(0) if spec else []) if link.out == number}
        indices = [links[axis].index for axis in wide if axis in links]
        if rank is None or len(indices) < len(wide) or any(i is not None and (i < 0).any() for i in indices):
            found.pin(ids)
            continue
        shape, taken = [1] * rank, ids
        for axis, index in zip(wide, indices, strict=True):
            taken = taken if index is None else taken.take(index, axis)
            shape[links[axis].out_axis] = taken.shape[axis]
        found.give(out, taken.reshape(shape))


def concat(node: ir.Node, found: Scaling) -> None:
    """Side by side along the axis of the classes; along any other axis, all operands have the same classes."""
    ids = [found.of(value) for value in node.inputs]
    rank = dims.rank(node.outputs[0])
    if rank is None or any(each.ndim != rank for each in ids):
        found.pin_inputs(node)
        return
    axis = node.attributes.get_int("axis", 0) % rank
    if all(each.shape[axis] == 1 for each in ids):
        join()(node, found)
        return
    sizes = [(dims.static(value) or ())[axis] for value in node.inputs]
    if None in sizes:
        found.pin_inputs(node)
        return
    other = np.broadcast_shapes(*((*each.shape[:axis], 1, *each.shape[axis + 1 :]) for each in ids))
    parts = [
        np.broadcast_to(each, (*other[:axis], size or 0, *other[axis + 1 :]))
        for each, size in zip(ids, sizes, strict=True)
    ]
    found.give(node.outputs[0], np.concatenate(parts, axis))


def expand(node: ir.Node, found: Scaling) -> None:
    """Axes of one position are repeated."""
    found.give(node.outputs[0], found.of(node.inputs[0]))


def resize(node: ir.Node, found: Scaling) -> None:
    """Neighbours along other axes are mixed linearly."""
    ids = found.of(node.inputs[0])
    before, after = dims.static(node.inputs[0]), dims.static(node.outputs[0])
    crops = node.attributes.get_string("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize"
    wide = [axis for axis, size in enumerate(ids.shape) if size != 1]
    if crops or before is None or after is None or any(before[i] is None or before[i] != after[i] for i in wide):
        found.pin(ids)
    else:
        found.give(node.outputs[0], ids)


def pad(node: ir.Node, found: Scaling) -> None:
    """Zeros may be multiplied by anything: positions that are added have classes of their own."""
    ids, out = found.of(node.inputs[0]), node.outputs[0]
    fill = node.inputs[2] if len(node.inputs) > 2 else None
    zero = node.attributes.get_float("value", 0.0) == 0 if fill is None else _zeros(fill, found)
    constant = node.attributes.get_string("mode", "constant") == "constant"
    spec = found.facts.specs.get(node)
    links = {link.axis: link for link in (spec.of_operand(0) if spec else [])}
    for axis in [axis for axis, size in enumerate(ids.shape) if size != 1]:
        index = links[axis].index if axis in links else _NONE
        if index is None:
            continue
        added = index < 0
        if not constant or axis not in links or ids.size != ids.shape[axis]:
            found.pin(ids)
            return
        ids = ids.take(np.maximum(index, 0), axis)
        np.moveaxis(ids, axis, 0).reshape(-1)[added] = found.fresh(int(added.sum()), 0, 1)
    if constant and not zero:
        found.pin(ids)
    found.give(out, ids)


_TABLE: dict[str, Visit] = {
    **dict.fromkeys(("Conv", "ConvTranspose"), conv),
    "Gemm": gemm,
    "MatMul": matmul,
    **dict.fromkeys(("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"), norm(1, 2, last=True)),
    **dict.fromkeys(("InstanceNormalization", "GroupNormalization", "BatchNormalization"), norm(1, 2)),
    **dict.fromkeys(("Relu", "LeakyRelu", "PRelu", "Abs", "Neg", "Identity"), same),
    "Dropout": dropout,
    "Clip": clip,
    **dict.fromkeys(("Add", "Sub", "Sum", "Max", "Min", "Mean"), join()),
    "Where": join(slice(1, 3)),
    **dict.fromkeys(("Mul", "Div"), product),
    **dict.fromkeys(("MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool"), pool),
    **dict.fromkeys(("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2"), reduce),
    "Transpose": transpose,
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), reshape),
    **dict.fromkeys(("Slice", "Split", "Gather"), select),
    "Concat": concat,
    "Expand": expand,
    **dict.fromkeys(("Resize", "Upsample"), resize),
    "Pad": pad,
}

RULES: dict[tuple[str, str], Visit] = {
    **{("", op_type): visit for op_type, visit in _TABLE.items()},
    (MICROSOFT, "SkipLayerNormalization"): norm(2, 3, last=True),
    (MICROSOFT, "SkipSimplifiedLayerNormalization"): norm(2, last=True),
}
"""Operators that are not listed leave what they read as it is, and their results have no classes."""
