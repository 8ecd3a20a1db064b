"""Whether what a constant expression decides would be decided alike by every runtime.

``Greater(Sigmoid(gate), 0.5)`` and ``GreaterOrEqual(norm, threshold)`` make masks of numbers whose last bits differ
from runtime to runtime: sums are added up in another order, functions are approximated. A mask is known only where it
does not hang on these bits. That is tried out: the results of operators that round are shaken by the error of a
runtime, and all that is computed from them is computed again. ``norm >= max(norm)`` passes, though the two are equal,
because both move together; shares that add up to one, compared with one, do not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

Arrays = Sequence[np.ndarray | None]
Function = Callable[[Arrays], np.ndarray]

ROUNDING = 64
"""Error of a runtime's approximations and sums, in units of the last place of the largest number involved."""

DRAWS = 32
"""How often: all up, all down, then each up or down by chance. Of two equal numbers that round apart, one in four of
the latter finds the order that a runtime may see."""

_LINEAR = frozenset("CumSum Einsum Gemm MatMul ReduceL1 ReduceMean ReduceSum Mean Sum".split())
"""Sums: their error is in proportion to the sum of the absolute values. In integers they are exact, but for means."""

_APPROXIMATE = frozenset(
    "Acos Acosh Asin Asinh Atan Atanh Celu Cos Cosh Elu Erf Exp Gelu HardSigmoid HardSwish Log LogSoftmax Mish Pow "
    "ReduceL2 ReduceLogSum ReduceLogSumExp ReduceProd ReduceSumSquare Selu Sigmoid Sin Sinh Softmax Softplus Softsign "
    "Swish Tan Tanh".split()
)

_STEPS = frozenset("Ceil Floor Hardmax Mod Round Shrink Sign ThresholdedRelu TopK".split())
"""Operators on floats that jump; of those that return integers or bools all do."""


ORDERS = frozenset("ArgMax ArgMin TopK".split())
"""Operators that put numbers in order: where one of them is NaN, each runtime has an order of its own."""


def rounds(node: ir.Node) -> bool:
    """Tell whether a runtime's result may differ in its last bits from the one that is computed here."""
    return node.op_type in _LINEAR or node.op_type in _APPROXIMATE


def decides(node: ir.Node) -> bool:
    """Tell whether a small difference in an operand may become a large one in a result."""
    kinds = [out.dtype for out in node.outputs]
    return node.op_type in _STEPS or any(kind is None or not kind.is_floating_point() for kind in kinds)


def directions(draw: int, shape: Sequence[int], numbers: np.random.Generator) -> np.ndarray:
    """Return where the numbers of one result go in a draw: 1.0 up, -1.0 down."""
    if draw <= 2:
        return np.full(shape, 1.0 if draw == 1 else -1.0)
    return numbers.choice((-1.0, 1.0), shape)


def shaken(node: ir.Node, function: Function, operands: Arrays, draw: int, numbers: np.random.Generator) -> np.ndarray:
    """Return what a runtime might make of the operands of a node that rounds (draws count from 1)."""
    result = function(operands)
    if result.dtype.kind in "iub":
        return result
    unit = float(np.finfo(result.dtype).eps) if result.dtype.kind == "f" else 2.0**-7  # bfloat16 is no kind of numpy's
    unit *= ROUNDING if unit < 1e-4 else 4  # halves are computed in single precision and rounded
    with np.errstate(all="ignore"):
        size = np.abs(result.astype(np.float64))
        if node.op_type in _LINEAR:
            if node.op_type != "ReduceMean" and node.op_type != "Mean" and _integers(operands):
                return result
            size = np.abs(function([_absolute(array) for array in operands]).astype(np.float64))
        elif len(operands) == 1 and operands[0] is not None and operands[0].shape == result.shape:
            size = np.where(operands[0] == 0, 0.0, size)  # exp(0), sigmoid(0), tanh(0) are what they are
        noise = unit * directions(draw, result.shape, numbers) * size
        return np.where(np.isfinite(noise), result + noise, result).astype(result.dtype)


def _absolute(array: np.ndarray | None) -> np.ndarray | None:
    return np.abs(array) if array is not None and array.dtype.kind == "f" else array


def _integers(operands: Arrays) -> bool:
    """Tell whether sums of products of these floats are exact: whole numbers, and few or small enough."""
    total = 1.0
    for array in operands:
        if array is None or array.dtype.kind in "iub":
            continue
        if not bool(np.isfinite(array).all()) or bool((array != np.rint(array)).any()):
            return False
        total *= max(float(np.abs(array.astype(np.float64)).sum()), 1.0)
    return total < 2.0**11  # exact in half precision, too
