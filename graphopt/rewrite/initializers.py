"""New initializers, under names that nobody has."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_ir as ir


def register(
    graph: ir.Graph, array: np.ndarray, dtype: ir.DataType | None, base: str, taken: Collection[str]
) -> ir.Value:
    """Add a constant to a graph.

    Args:
        graph: The main graph or a body.
        array: Its numbers.
        dtype: Their type where numpy has none of that name.
        base: Its name, which gets a number behind it where it is taken.
        taken: Names in use; where it is a set, the new one joins.
    """
    name, number = base, 0
    while name in taken:
        number += 1
        name = f"{base}_{number}"
    if isinstance(taken, set):
        taken.add(name)
    tensor = ir.Tensor(np.asarray(array), dtype=dtype, name=name)
    value = ir.Value(
        name=name, shape=ir.Shape(list(np.shape(array))), type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    graph.register_initializer(value)
    return value
