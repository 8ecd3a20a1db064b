"""Cut, masked and folded constants, computed when they are written rather than held in memory.

Small results are computed at once. Large ones are ``LazyTensor`` objects that read the tensor they are made from,
compute, and release it; saving a model evaluates them one at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from graphopt.facts.constants import SMALL, release


def derived(
    source: ir.TensorProtocol,
    compute: Callable[[np.ndarray], np.ndarray],
    shape: Sequence[int],
    *,
    dtype: ir.DataType | None = None,
    name: str | None = None,
) -> ir.TensorProtocol:
    """Return a tensor ``compute(source)`` of the given shape; lazy when source and result are large."""
    dtype = source.dtype if dtype is None else dtype
    size = int(np.prod(shape, dtype=np.int64))

    def evaluate() -> ir.TensorProtocol:
        # A copy: a view would keep the whole source alive, or die with its memory map.
        array = np.array(compute(source.numpy()), order="C")
        assert array.shape == tuple(shape), (array.shape, shape)
        if source.size > SMALL:
            release(source)
        return ir.Tensor(array, dtype=dtype, shape=ir.Shape(list(shape)), name=name)

    if size <= SMALL:
        return evaluate()
    return ir.LazyTensor(evaluate, dtype=dtype, shape=ir.Shape(list(shape)), name=name)


def take(source: ir.TensorProtocol, axis: int, index: np.ndarray, name: str | None = None) -> ir.TensorProtocol:
    """Return the positions ``index`` of one axis of a tensor."""
    shape = list(source.shape.numpy())
    shape[axis] = int(index.size)
    return derived(source, lambda array: np.take(array, index, axis=axis), shape, name=name)
