"""Values of constant expressions: what a node computes from constant inputs, in numpy.

Elementwise operators share their functions with the rules for fills. What is not listed here is not evaluated: masks
reach their weights through few operators, and an expression that is left alone is merely not folded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from graphopt.facts import evaluate_selection, evaluate_sums
from graphopt.facts.ops.elementwise import BINARY, UNARY

Arrays = Sequence[np.ndarray | None]


def evaluator(node: ir.Node, output: int = 0) -> Callable[[Arrays], np.ndarray] | None:
    """Return a function from input arrays to one output, or ``None`` for an operator that is not evaluated.

    The function raises what numpy raises (see ``expressions.UNDEFINED``) where the operator means nothing.
    """
    if node.domain not in ("", "ai.onnx"):
        return None
    selection = evaluate_selection.SELECTION.get(node.op_type)
    if selection is not None:
        if not evaluate_selection.evaluable(node):
            return None
        return lambda arrays: _typed(_one(selection(node, arrays), output), node, output)
    if len(node.outputs) != 1:
        return None
    special = _SPECIAL.get(node.op_type)
    if node.op_type in evaluate_sums.SUMS:
        special = evaluate_sums.SUMS[node.op_type] if evaluate_sums.evaluable(node) else None
        if special is None:
            return None
    if special is not None:
        return lambda arrays: _typed(special(node, arrays), node)
    table = {**UNARY, **BINARY}.get(node.op_type)
    if node.op_type == "Mul":
        return lambda arrays: _typed(np.multiply(arrays[0], arrays[1]), node)  # type: ignore[arg-type]
    if table is None or "axis" in node.attributes or "broadcast" in node.attributes:
        return None
    count = 1 if node.op_type in UNARY else None

    def elementwise(arrays: Arrays) -> np.ndarray:
        with np.errstate(all="ignore"):
            return _typed(np.asarray(table(node)(*arrays[:count])), node)

    return elementwise


def _one(found: np.ndarray | list[np.ndarray], output: int) -> np.ndarray:
    return found[output] if isinstance(found, list) else found


def _typed(array: np.ndarray, node: ir.Node, output: int = 0) -> np.ndarray:
    dtype = node.outputs[output].dtype
    return array if dtype is None else np.asarray(array).astype(dtype.numpy(), copy=False)


def _ints(arrays: Arrays, position: int) -> list[int] | None:
    if position >= len(arrays):
        return None
    array = arrays[position]
    return None if array is None else [int(x) for x in array.ravel()]


def _axes(node: ir.Node, arrays: Arrays) -> list[int] | None:
    return list(node.attributes.get_ints("axes", ())) if "axes" in node.attributes else _ints(arrays, 1)


def _reshape(node: ir.Node, arrays: Arrays) -> np.ndarray:
    array = arrays[0]
    shape = list(node.attributes.get_ints("shape", ())) if "shape" in node.attributes else _ints(arrays, 1)
    assert array is not None and shape is not None
    if not node.attributes.get_int("allowzero", 0):
        shape = [array.shape[i] if size == 0 else size for i, size in enumerate(shape)]
    return array.reshape(shape)


def _unsqueeze(node: ir.Node, arrays: Arrays) -> np.ndarray:
    axes = _axes(node, arrays)
    assert axes is not None and arrays[0] is not None
    return np.expand_dims(arrays[0], tuple(axes))


def _squeeze(node: ir.Node, arrays: Arrays) -> np.ndarray:
    axes = _axes(node, arrays)
    assert arrays[0] is not None
    return np.squeeze(arrays[0], None if axes is None else tuple(axes))


def _transpose(node: ir.Node, arrays: Arrays) -> np.ndarray:
    assert arrays[0] is not None
    return np.transpose(arrays[0], node.attributes.get_ints("perm", tuple(reversed(range(arrays[0].ndim)))))


def _expand(node: ir.Node, arrays: Arrays) -> np.ndarray:
    shape = _ints(arrays, 1)
    assert arrays[0] is not None and shape is not None
    return np.broadcast_to(arrays[0], np.broadcast_shapes(arrays[0].shape, tuple(shape)))


def _constant_of_shape(node: ir.Node, arrays: Arrays) -> np.ndarray:
    shape = _ints(arrays, 0)
    assert shape is not None
    value = node.attributes["value"].as_tensor().numpy() if "value" in node.attributes else np.zeros(1, np.float32)
    return np.full(shape, value.reshape(-1)[0], value.dtype)


def _concat(node: ir.Node, arrays: Arrays) -> np.ndarray:
    return np.concatenate([array for array in arrays if array is not None], axis=node.attributes.get_int("axis", 0))


def _gather(node: ir.Node, arrays: Arrays) -> np.ndarray:
    assert arrays[0] is not None and arrays[1] is not None
    return np.take(arrays[0], arrays[1], axis=node.attributes.get_int("axis", 0))


def _where(node: ir.Node, arrays: Arrays) -> np.ndarray:
    return np.where(arrays[0], arrays[1], arrays[2])  # type: ignore[arg-type]


def _clip(node: ir.Node, arrays: Arrays) -> np.ndarray:
    low = arrays[1] if len(arrays) > 1 else node.attributes.get_float("min", -np.inf)
    high = arrays[2] if len(arrays) > 2 else node.attributes.get_float("max", np.inf)
    assert arrays[0] is not None
    return np.minimum(np.maximum(arrays[0], -np.inf if low is None else low), np.inf if high is None else high)


def _flatten(node: ir.Node, arrays: Arrays) -> np.ndarray:
    assert arrays[0] is not None
    axis = node.attributes.get_int("axis", 1)
    axis = axis + arrays[0].ndim if axis < 0 else axis
    return arrays[0].reshape(int(np.prod(arrays[0].shape[:axis], dtype=np.int64)), -1)


def _shape(node: ir.Node, arrays: Arrays) -> np.ndarray:
    assert arrays[0] is not None
    start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", arrays[0].ndim)
    return np.array(arrays[0].shape[start:end], np.int64)


def _slice(node: ir.Node, arrays: Arrays) -> np.ndarray:
    array = arrays[0]
    assert array is not None
    if len(arrays) > 1:
        starts, ends, axes, steps = (_ints(arrays, position) for position in range(1, 5))
    else:
        starts, ends = list(node.attributes.get_ints("starts", ())), list(node.attributes.get_ints("ends", ()))
        axes, steps = list(node.attributes.get_ints("axes", range(len(starts)))), None
    assert starts is not None and ends is not None
    selection = [slice(None)] * array.ndim
    for place, axis in enumerate(range(len(starts)) if axes is None else axes):
        step = 1 if steps is None else steps[place]
        end: int | None = ends[place]
        if step < 0 and ends[place] <= -(2**30):
            end = None
        selection[axis] = slice(starts[place], end, step)
    return array[tuple(selection)]


def _tile(node: ir.Node, arrays: Arrays) -> np.ndarray:
    repeats = _ints(arrays, 1)
    assert arrays[0] is not None and repeats is not None
    return np.tile(arrays[0], repeats)


def _cast(node: ir.Node, arrays: Arrays) -> np.ndarray:
    """Convert; a float that no such integer stands for is the runtime's own to convert, and raises here."""
    array, dtype = arrays[0], node.outputs[0].dtype
    assert array is not None
    if array.dtype.kind == "f" and dtype is not None and dtype.is_integer():
        bounds = np.iinfo(dtype.numpy())
        if not bool(((array > float(bounds.min) - 1) & (array < float(bounds.max) + 1)).all()):
            raise ValueError("a float that the integer type does not hold")
    return array


def _cast_like(node: ir.Node, arrays: Arrays) -> np.ndarray:
    assert arrays[0] is not None
    return arrays[0]


def _range(node: ir.Node, arrays: Arrays) -> np.ndarray:
    start, limit, delta = (np.asarray(array).reshape(-1)[0] for array in arrays)
    if delta == 0:
        raise ZeroDivisionError("a range that does not move")
    return np.arange(start, limit, delta)


def _divide(node: ir.Node, arrays: Arrays) -> np.ndarray:
    a, b = arrays
    assert a is not None and b is not None
    if a.dtype.kind in "iu":
        if bool((b == 0).any()):
            raise ZeroDivisionError("an integer divided by zero")
        return np.trunc(a / b)
    with np.errstate(all="ignore"):
        return a / b


_SPECIAL: dict[str, Callable[[ir.Node, Arrays], np.ndarray]] = {
    "Cast": _cast,
    "CastLike": _cast_like,
    "Clip": _clip,
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "Div": _divide,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "Range": _range,
    "Reshape": _reshape,
    "Shape": _shape,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Where": _where,
}
