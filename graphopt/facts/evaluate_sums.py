"""Values of constant expressions that add up: norms of filters, thresholds, products of small matrices.

Floats are added in float64 and rounded once. A runtime adds them in an order of its own, so the last bits may differ:
``graphopt.facts.steady`` sees to it that no decision hangs on them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from graphopt import dims

Arrays = Sequence[np.ndarray | None]


def _wide(array: np.ndarray | None) -> np.ndarray:
    assert array is not None
    return array if array.dtype.kind in "iub" else array.astype(np.float64)


def _log_sum_exp(x: np.ndarray, axes: tuple[int, ...], keep: bool) -> np.ndarray:
    top = np.max(x, axis=axes, keepdims=True)
    top = np.where(np.isfinite(top), top, 0.0)
    found = np.log(np.sum(np.exp(x - top), axis=axes, keepdims=True)) + top
    return found if keep else np.squeeze(found, axes)


_REDUCTIONS: dict[str, Callable[[np.ndarray, tuple[int, ...], bool], np.ndarray]] = {
    "ReduceL1": lambda x, axes, keep: np.sum(np.abs(x), axis=axes, keepdims=keep),
    "ReduceL2": lambda x, axes, keep: np.sqrt(np.sum(np.square(x), axis=axes, keepdims=keep)),
    "ReduceLogSum": lambda x, axes, keep: np.log(np.sum(x, axis=axes, keepdims=keep)),
    "ReduceLogSumExp": _log_sum_exp,
    "ReduceMax": lambda x, axes, keep: np.max(x, axis=axes, keepdims=keep),
    "ReduceMean": lambda x, axes, keep: np.mean(x, axis=axes, keepdims=keep),
    "ReduceMin": lambda x, axes, keep: np.min(x, axis=axes, keepdims=keep),
    "ReduceProd": lambda x, axes, keep: np.prod(x, axis=axes, keepdims=keep),
    "ReduceSum": lambda x, axes, keep: np.sum(x, axis=axes, keepdims=keep),
    "ReduceSumSquare": lambda x, axes, keep: np.sum(np.square(x), axis=axes, keepdims=keep),
}


def _reduce(node: ir.Node, arrays: Arrays) -> np.ndarray:
    data = _wide(arrays[0])
    given = arrays[1] if len(arrays) > 1 else None
    axes = node.attributes.get_ints("axes", ()) if given is None else [int(axis) for axis in given]
    if not axes and node.attributes.get_int("noop_with_empty_axes", 0):
        return data
    chosen = tuple(int(axis) for axis in axes) or tuple(range(data.ndim))
    return _REDUCTIONS[node.op_type](data, chosen, bool(node.attributes.get_int("keepdims", 1)))


def _cumulated(node: ir.Node, arrays: Arrays) -> np.ndarray:
    data, place = _wide(arrays[0]), arrays[1]
    assert place is not None
    axis, reverse = int(place.reshape(-1)[0]), bool(node.attributes.get_int("reverse", 0))
    data = np.flip(data, axis) if reverse else data
    sums = np.cumsum(data, axis=axis, dtype=data.dtype)
    sums = sums - data if node.attributes.get_int("exclusive", 0) else sums
    return np.flip(sums, axis) if reverse else sums


def _product(node: ir.Node, arrays: Arrays) -> np.ndarray:
    return np.matmul(_wide(arrays[0]), _wide(arrays[1]))


def _gemm(node: ir.Node, arrays: Arrays) -> np.ndarray:
    a, b = _wide(arrays[0]), _wide(arrays[1])
    a = a.T if node.attributes.get_int("transA", 0) else a
    b = b.T if node.attributes.get_int("transB", 0) else b
    product = node.attributes.get_float("alpha", 1.0) * (a @ b)
    if len(arrays) > 2 and arrays[2] is not None:
        product = product + node.attributes.get_float("beta", 1.0) * _wide(arrays[2])
    return product


def _einsum(node: ir.Node, arrays: Arrays) -> np.ndarray:
    return np.einsum(node.attributes.get_string("equation", ""), *(_wide(array) for array in arrays))


def _softmax(node: ir.Node, arrays: Arrays) -> np.ndarray:
    x, axis = _wide(arrays[0]), node.attributes.get_int("axis", -1)
    logarithm = x - _log_sum_exp(x, (axis,), True)
    return np.exp(logarithm) if node.op_type == "Softmax" else logarithm


def evaluable(node: ir.Node) -> bool:
    """Tell whether the operator means here what it is computed as, and its operands are more than nothing."""
    first = node.inputs[0] if node.inputs else None
    known = None if first is None else dims.static(first)
    if node.op_type in ("Softmax", "LogSoftmax"):  # before version 13 the axes behind the axis were one with it
        return bool(known) and node.attributes.get_int("axis", 0) in (-1, len(known or ()) - 1) and all(known or ())
    if node.op_type in ("ReduceMax", "ReduceMin", "ReduceLogSumExp"):
        return known is not None and all(known)
    return True


SUMS: dict[str, Callable[[ir.Node, Arrays], np.ndarray]] = {
    **dict.fromkeys(_REDUCTIONS, _reduce),
    "CumSum": _cumulated,
    "Einsum": _einsum,
    "Gemm": _gemm,
    "LogSoftmax": _softmax,
    "MatMul": _product,
    "Softmax": _softmax,
}
"""Operators by name."""
