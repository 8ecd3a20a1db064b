"""Cut, masked and folded constants, computed when they are written rather than held in memory.

Small results are computed at once. Large ones are ``LazyTensor`` objects that read the tensor they are made from,
compute, and release it; saving a model evaluates them one at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

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
        array = compute(source.numpy())
        array = array.copy() if array.base is not None or not array.flags.c_contiguous else array
        assert array.shape == tuple(shape), (array.shape, shape)
        if source.size > SMALL:
            release(source)
        return ir.Tensor(array, dtype=dtype, shape=ir.Shape(list(shape)), name=name)

    if size <= SMALL:
        return evaluate()
    return ir.LazyTensor(evaluate, dtype=dtype, shape=ir.Shape(list(shape)), name=name)


def take(source: ir.TensorProtocol, kept: Mapping[int, np.ndarray]) -> ir.TensorProtocol:
    """Return the kept positions of some axes of a tensor (axis → positions)."""
    shape = list(source.shape.numpy())
    for axis, index in kept.items():
        shape[axis] = int(index.size)

    def compute(array: np.ndarray) -> np.ndarray:
        for axis, index in kept.items():
            array = array.take(index, axis)
        return array

    return derived(source, compute, shape)
