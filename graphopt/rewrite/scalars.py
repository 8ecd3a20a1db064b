"""Where an operator wants a scalar and reads a list of one number."""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

from graphopt.facts.constants import Constants, is_constant
from graphopt.rewrite.initializers import register


def make_scalars(node: ir.Node, graph: ir.Graph, constants: Constants, taken: Collection[str]) -> int:
    """Let a ``Range`` read scalars in the place of constants that hold one number in a list; return how many.

    onnxruntime computes with either, but refuses to load a list that it sees to be a constant. A branch of an ``If``
    hides it, until the branch has become all there is.
    """
    if node.op_type != "Range" or node.domain not in ("", "ai.onnx"):
        return 0
    made = 0
    for position, value in enumerate(node.inputs):
        array = constants.array(value) if value is not None and is_constant(value) else None
        if value is None or array is None or array.ndim == 0 or array.size != 1:
            continue
        scalar = register(graph, array.reshape(()), value.dtype, f"{value.name}_scalar", taken)
        node.replace_input_with(position, scalar)
        made += 1
    return made
