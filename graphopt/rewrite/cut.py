"""Gathers of constants become smaller constants."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.facts.constants import is_constant, tensor_of
from graphopt.rewrite.edit import Edit


def fold_gathered_constants(edit: Edit) -> int:
    """Replace every ``Gather`` of an initializer by constant indices with the cut initializer; return their number.

    A gather that selects more than it reads (repeated indices) stays: folding it would grow the model.
    """
    folded = 0
    for node in list(edit.graph):
        if node.op_type != "Gather" or node.domain != "" or len(node.inputs) != 2:
            continue
        data, index = node.inputs
        if data is None or index is None or not is_constant(data) or not is_constant(index):
            continue
        source, chosen = tensor_of(data), edit.facts.constants.array(index)
        rank = dims.rank(data)
        if source is None or chosen is None or chosen.ndim != 1 or rank is None or node.outputs[0].is_graph_output():
            continue
        if not edit.facts.constants.reaches(data, node):
            continue
        axis = node.attributes.get_int("axis", 0) % rank
        if chosen.size > source.shape.numpy()[axis] or source.dtype == ir.DataType.STRING:
            continue
        ir.convenience.replace_all_uses_with(node.outputs[0], edit.cut(data, {axis: chosen.astype(np.int64)}))
        edit.graph.remove(node, safe=True)
        folded += 1
    return folded
