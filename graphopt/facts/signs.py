"""Which values are certainly positive: what may be divided by.

A few steps back from the divisor suffice: ``x / sqrt(mean(x²) + eps)``, ``x / max(|x|, eps)``. What might underflow to
zero is not positive.
"""

from __future__ import annotations

import onnx_ir as ir

from graphopt.facts.constants import Constants

DEPTH = 8

_SAME_SIGN = frozenset("Identity Expand Reshape Unsqueeze Squeeze Transpose Flatten Sqrt".split())
_NEVER_NEGATIVE = frozenset("Abs Relu Exp Sigmoid Softmax ReduceL1 ReduceL2 ReduceSumSquare".split())
_MEANS = frozenset("ReduceMean ReduceSum ReduceMax ReduceMin GlobalAveragePool AveragePool MaxPool".split())


def is_positive(value: ir.Value | None, constants: Constants, depth: int = DEPTH) -> bool:
    """Tell whether every element is a float greater than zero (or NaN)."""
    if not _is_float(value):
        return False
    assert value is not None
    array = constants.array(value)
    if array is not None:
        return bool((array > 0).all())
    node = value.producer()
    if node is None or depth == 0 or node.domain not in ("", "ai.onnx"):
        return False
    if node.op_type in _SAME_SIGN or (node.op_type == "Cast" and _widens(node)):
        return is_positive(node.inputs[0], constants, depth - 1)
    if node.op_type == "Clip":
        low = node.inputs[1] if len(node.inputs) > 1 else None
        return node.attributes.get_float("min", 0.0) > 0 or is_positive(low, constants, depth - 1)
    if node.op_type == "Max":
        return any(is_positive(v, constants, depth - 1) for v in node.inputs)
    if node.op_type == "Add":
        a, b = node.inputs
        return any(
            is_positive(x, constants, depth - 1) and is_not_negative(y, constants, depth - 1)
            for x, y in ((a, b), (b, a))
        )
    return False


def is_not_negative(value: ir.Value | None, constants: Constants, depth: int = DEPTH) -> bool:
    """Tell whether every element is a float of at least zero (or NaN)."""
    if not _is_float(value):
        return False
    assert value is not None
    array = constants.array(value)
    if array is not None:
        return bool((array >= 0).all())
    node = value.producer()
    if node is None or depth == 0 or node.domain not in ("", "ai.onnx"):
        return False
    if node.op_type in _NEVER_NEGATIVE:
        return True
    if node.op_type in _SAME_SIGN or node.op_type in _MEANS or node.op_type == "Cast":
        return is_not_negative(node.inputs[0], constants, depth - 1)
    if node.op_type == "Pow":
        exponent = constants.single(node.inputs[1]) if constants.known(node.inputs[1]) else None  # type: ignore[arg-type]
        return exponent is not None and float(exponent) % 2 == 0
    if node.op_type == "Mul" and node.inputs[0] is node.inputs[1]:
        return True
    if node.op_type in ("Add", "Mul"):
        return all(is_not_negative(v, constants, depth - 1) for v in node.inputs)
    return is_positive(value, constants, depth)


def _is_float(value: ir.Value | None) -> bool:
    return value is not None and value.dtype is not None and value.dtype.is_floating_point()


def _widens(node: ir.Node) -> bool:
    """Tell whether a cast keeps what is smallest: not all of float32 is different from zero in float16."""
    value = node.inputs[0]
    return (
        _is_float(value)
        and node.outputs[0].dtype in (ir.DataType.FLOAT, ir.DataType.DOUBLE)
        and (value is not None and value.dtype != ir.DataType.DOUBLE)
    )
