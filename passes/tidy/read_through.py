"""Who selects from a Concat reads the operand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.context import Context
from graphopt.rewrite.edit import Edit
from graphopt.rewrite.unused import remove_unused


@dataclass(frozen=True)
class ReadThrough:
    """Select from the operand of a ``Concat`` rather than from the whole.

    1. A ``Gather`` with constant indices that all lie in one operand of a ``Concat`` along its axis gathers from that.

    The final state of one layer, taken out of those of all layers, no longer holds the layers' units together.

    *Never* where a size along the axis is unknown.

    *Needs* nothing.

    ``Gather(Concat(a: [2, N, H], b: [2, N, H]), 3)`` -> ``Gather(b, 1)``
    """

    name: ClassVar[str] = "read-through"

    def run(self, context: Context) -> bool:
        """Run on every graph."""
        return context.everywhere(lambda: self._run(context))

    def _run(self, context: Context) -> bool:
        graph = context.graph
        edit: Edit | None = None
        moved = 0
        for node in graph:
            found = _operand(node, context)
            if found is None:
                continue
            edit = edit or Edit(context.bare(), "composed", cut_weights=True)
            value, index = found
            node.replace_input_with(0, value)
            node.replace_input_with(1, edit.constant(index, f"{node.outputs[0].name}_index"))
            moved += 1
        if moved:
            remove_unused(graph)
        return context.record({"moved": moved})


def _operand(node: ir.Node, context: Context) -> tuple[ir.Value, np.ndarray] | None:
    """Return (operand of the Concat in front, indices into it), if a Gather reads nothing else."""
    if node.op_type != "Gather" or node.domain not in ("", "ai.onnx") or node.inputs[0] is None:
        return None
    concat, rank = node.inputs[0].producer(), dims.rank(node.inputs[0])
    if concat is None or concat.op_type != "Concat" or concat.domain not in ("", "ai.onnx") or rank is None:
        return None
    axis = node.attributes.get_int("axis", 0) % rank
    if concat.attributes.get_int("axis", 0) % rank != axis or not context.constants.known(node.inputs[1]):
        return None
    index = context.constants.array(node.inputs[1])
    sizes = [known[axis] for value in concat.inputs if (known := dims.static(value)) is not None]
    widths = [size for size in sizes if size is not None]
    if index is None or index.size == 0 or len(widths) != len(concat.inputs):
        return None
    total = sum(widths)
    places = np.where(index < 0, index.astype(np.int64) + total, index.astype(np.int64))
    start = 0
    for value, width in zip(concat.inputs, widths, strict=True):
        if value is not None and start <= places.min() and places.max() < start + width:
            return value, places - start
        start += width
    return None
