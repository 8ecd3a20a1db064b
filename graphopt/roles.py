"""What a model does with an input, as far as it says which values are legal there.

Random numbers are legal input for almost every operator. The exceptions are few and listed here: an index must lie
inside the axis it indexes, a shape must be a shape, a length must not exceed its axis, a mask must leave something
over, a variance must be positive. The walk starts at the input and follows it through whatever only moves or converts
it (and through the addition of a constant, as in ``position_ids + 2``), into subgraphs and local functions, up to the
operators that say something.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import onnx_ir as ir

Size = int | ir.SymbolicDim

# Operators whose output holds the very numbers of these inputs: the walk goes on behind them.
_MOVES: dict[str, tuple[int, ...] | None] = {
    "Identity": (0,),
    "Cast": (0,),
    "CastLike": (0,),
    "Reshape": (0,),
    "Flatten": (0,),
    "Squeeze": (0,),
    "Unsqueeze": (0,),
    "Transpose": (0,),
    "Expand": (0,),
    "Tile": (0,),
    "Slice": (0,),
    "Split": (0,),
    "Pad": (0,),
    "Gather": (0,),
    "GatherElements": (0,),
    "GatherND": (0,),
    "Dropout": (0,),
    "Concat": None,  # every input
    "Where": (1, 2),
    "Max": None,
    "Min": None,
    "Clip": (0,),
}

# (operator, input) that wants a particular kind of value. What each kind means is said where it is drawn (samples.py).
_KINDS: dict[tuple[str, int], str] = {
    ("Reshape", 1): "shape",
    ("Expand", 1): "ones",
    ("Tile", 1): "ones",
    ("TopK", 1): "ones",
    ("ConstantOfShape", 0): "small",
    ("Slice", 1): "zeros",
    ("Slice", 2): "small",
    ("Slice", 3): "axes",
    ("Slice", 4): "ones",
    ("Pad", 1): "bit",
    ("Pad", 3): "axes",
    ("Range", 0): "zeros",
    ("Range", 1): "small",
    ("Range", 2): "ones",
    ("Unsqueeze", 1): "axes",
    ("Squeeze", 1): "axes",
    ("ReduceSum", 1): "axes",
    ("ReduceMean", 1): "axes",
    ("ReduceMax", 1): "axes",
    ("ReduceMin", 1): "axes",
    ("ReduceProd", 1): "axes",
    ("ReduceL1", 1): "axes",
    ("ReduceL2", 1): "axes",
    ("CumSum", 1): "zeros",
    ("CumProd", 1): "zeros",
    ("DFT", 2): "zeros",
    ("TensorScatter", 2): "zeros",
    ("ConvInteger", 3): "zeros",
    ("Upsample", 1): "ones",
    ("NonMaxSuppression", 2): "small",
    ("NonMaxSuppression", 3): "fraction",
    ("Trilu", 1): "bit",
    ("Loop", 0): "small",
    ("Resize", 2): "ones",
    ("Resize", 3): "small",
    ("Dropout", 1): "fraction",
    ("Dropout", 2): "zeros",  # training mode would make the model random
    ("BatchNormalization", 4): "positive",
    ("QuantizeLinear", 1): "positive",
    ("DequantizeLinear", 1): "positive",
    ("Div", 1): "positive",  # integers divided by zero are an error
    ("Mod", 1): "positive",
    ("Sqrt", 0): "positive",
    ("Log", 0): "positive",
    ("Where", 0): "mask",
    ("And", 0): "mask",
    ("And", 1): "mask",
    ("Not", 0): "mask",
    ("Attention", 3): "mask",
}

# (operator, input) that counts along an axis of another input: (that input, the axis).
_LENGTHS: dict[tuple[str, int], tuple[int, int]] = {
    ("LSTM", 4): (0, 0),
    ("GRU", 4): (0, 0),
    ("RNN", 4): (0, 0),
}

# (operator, input) that indexes an axis of another input: (that input, the axis).
_TABLES: dict[tuple[str, int], tuple[int, int]] = {
    ("EmbedLayerNormalization", 0): (2, 0),
    ("EmbedLayerNormalization", 1): (4, 0),
    ("RotaryEmbedding", 3): (1, 0),
    ("ArrayFeatureExtractor", 1): (0, -1),
    ("NegativeLogLikelihoodLoss", 1): (0, 1),
    ("SoftmaxCrossEntropyLoss", 1): (0, 1),
}


@dataclass
class Role:
    """What is known about the legal values of one input.

    Attributes:
        below: ``(size, offset)`` pairs: the value plus the offset must lie in ``[0, size)``.
        at_most: Sizes of axes of which the value is a length: it must lie in ``[1, size]``.
        kinds: Kinds of values wanted, see ``_KINDS``; ``mask`` also for an integer that is converted to bool or float.
        numeric: The value enters arithmetic (or something unknown), not only the uses above.
    """

    below: list[tuple[Size | None, int]] = field(default_factory=list)
    at_most: list[Size | None] = field(default_factory=list)
    kinds: set[str] = field(default_factory=set)
    numeric: bool = False


def role(model: ir.Model, value: ir.Value) -> Role:
    """Say how a graph input is used.

    Args:
        model: The model, for its local functions.
        value: The graph input.

    Returns:
        The role; empty when nothing reads the input.
    """
    found = Role()
    integral = value.dtype is not None and value.dtype.is_integer()
    outer: dict[ir.Value, ir.Value] = {}  # input of a function or subgraph -> what is passed there
    seen: set[tuple[ir.Value, int]] = set()
    todo = [(value, 0)]
    while todo:
        current, offset = todo.pop()
        if (current, offset) in seen:
            continue
        seen.add((current, offset))
        for node, position in current.uses():
            _note(found, node, position, offset, outer)
            if integral and node.op_type == "Cast" and _to_float_or_bool(node):
                found.kinds.add("mask")
            todo += _behind(model, node, position, offset, outer)
    if found.below or found.at_most:
        found.kinds.discard("mask")  # ids that are also converted (to compare or to embed) are ids
    return found


def _note(found: Role, node: ir.Node, position: int, offset: int, outer: dict[ir.Value, ir.Value]) -> None:
    use = (node.op_type, position)
    if use in (("Gather", 1), ("GatherElements", 1), ("ScatterElements", 1), ("Scatter", 1)):
        axis = node.attributes.get_int("axis", 0)
        found.below.append((_size(node.inputs[0], axis, outer), offset))
    elif use in (("GatherND", 1), ("ScatterND", 1)):
        data, indices = node.inputs[0], node.inputs[1]
        batch = node.attributes.get_int("batch_dims", 0)
        depth = _size(indices, -1, outer)
        for axis in range(batch, batch + (depth if isinstance(depth, int) else 1)):
            found.below.append((_size(data, axis, outer), offset))
    elif use == ("OneHot", 0):
        depth = node.inputs[1]
        table = ir.convenience.get_const_tensor(depth) if depth is not None else None
        found.below.append((int(table.numpy().reshape(-1)[0]) if table is not None else None, offset))
    elif use in _TABLES:
        source, axis = _TABLES[use]
        found.below.append((_size(node.inputs[source], axis, outer), offset))
    elif use == ("ReverseSequence", 1):
        found.at_most.append(_size(node.inputs[0], node.attributes.get_int("time_axis", 0), outer))
    elif use in _LENGTHS:
        source, axis = _LENGTHS[use]
        found.at_most.append(_size(node.inputs[source], axis, outer))
    elif use in _KINDS:
        found.kinds.add(_KINDS[use])
    elif node.op_type not in _MOVES:
        found.numeric = True


def _behind(
    model: ir.Model, node: ir.Node, position: int, offset: int, outer: dict[ir.Value, ir.Value]
) -> Iterator[tuple[ir.Value, int]]:
    """The values that hold the same numbers (up to the offset) as this input of this node."""
    function = model.functions.get(node.op_identifier())
    if function is not None:
        for inner, passed in zip(function.inputs, node.inputs, strict=False):
            if passed is not None:
                outer.setdefault(inner, passed)
        if position < len(function.inputs):
            yield function.inputs[position], offset
        return
    if node.op_type in ("Loop", "Scan"):
        body = node.attributes.get("body")
        skip = 0
        if body is not None and position >= skip and position < len(body.as_graph().inputs):
            yield body.as_graph().inputs[position], offset
        return
    if node.op_type in ("Add", "Sub") and node.domain in ("", "ai.onnx"):
        other = node.inputs[1 - position]
        constant = ir.convenience.get_const_tensor(other) if other is not None else None
        if constant is not None and constant.size == 1 and constant.dtype.is_integer():
            amount = int(constant.numpy().reshape(-1)[0])
            if node.op_type == "Add":
                yield node.outputs[0], offset + amount
            elif position == 0:
                yield node.outputs[0], offset - amount
        return
    moved = _MOVES.get(node.op_type, ())
    if moved is None or position in moved:
        for output in node.outputs if node.op_type == "Split" else node.outputs[:1]:
            yield output, offset


def _to_float_or_bool(node: ir.Node) -> bool:
    to = ir.DataType(node.attributes.get_int("to", 0))
    return to == ir.DataType.BOOL or to.is_floating_point()


def _size(value: ir.Value | None, axis: int, outer: dict[ir.Value, ir.Value]) -> Size | None:
    """The size of an axis: a number, a symbol, or None when nothing says it."""
    for _ in range(64):  # a chain of conversions, not a search
        if value is None:
            return None
        tensor = ir.convenience.get_const_tensor(value)
        shape = tensor.shape if tensor is not None else value.shape
        if shape is not None:
            if not -len(shape) <= axis < len(shape):
                return None
            size = shape[axis]
            if isinstance(size, int) or (isinstance(size, ir.SymbolicDim) and size.value is not None):
                return size
        if value in outer:
            value = outer[value]
            continue
        node = value.producer()
        if node is None:
            return None
        if node.op_type == "Transpose" and axis >= 0 and "perm" in node.attributes:
            axis = node.attributes["perm"].as_ints()[axis]
        elif node.op_type not in ("Identity", "Cast", "Dropout", "DequantizeLinear", "QuantizeLinear", "Relu", "Mul"):
            return None
        value = node.inputs[0]
    return None
