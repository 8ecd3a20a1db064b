"""Elementwise rewrites that links alone do not give."""

from __future__ import annotations

import onnx_ir as ir

from graphopt import dims
from graphopt.facts.store import Spec
from graphopt.rewrite.edit import Edit
from graphopt.rewrite.rules import patch_shape, rewrites, wanted_by_links


@rewrites("Expand")
def expand(node: ir.Node, spec: Spec, edit: Edit) -> None:
    """Narrow the input; the shape operand asks for one (= "as the input") where the axis was cut."""
    out = node.outputs[0]
    edit.operand(node, 0, wanted_by_links(node, 0, spec, edit))
    layout = edit.planned(out)
    rank = dims.rank(out) or 0
    if layout:
        # The shape operand may be shorter than the rank of the output; entries align at the right.
        length = (dims.static(node.inputs[1]) or (rank,))[0] or rank
        entries = {axis - (rank - length): int(kept.size) for axis, kept in layout.items() if axis >= rank - length}
        patch_shape(node, 1, edit, entries)
    edit.narrow_value(out, layout)
