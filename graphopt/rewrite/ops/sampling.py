"""Resizing with fewer channels."""

from __future__ import annotations

import onnx_ir as ir

from graphopt import dims
from graphopt.facts.store import Spec
from graphopt.rewrite.edit import Edit
from graphopt.rewrite.rules import by_links, patch_shape, rewrites


@rewrites("Resize", "Upsample")
def resize(node: ir.Node, spec: Spec, edit: Edit) -> None:
    """A ``sizes`` operand names the narrowed sizes."""
    by_links(node, spec, edit)
    layout = edit.planned(node.outputs[0])
    if not layout or len(node.inputs) < 4 or node.inputs[3] is None:
        return
    rank = dims.rank(node.outputs[0]) or 0
    axes = [axis + rank if axis < 0 else axis for axis in node.attributes.get_ints("axes", tuple(range(rank)))]
    patch_shape(node, 3, edit, {axes.index(axis): int(kept.size) for axis, kept in layout.items() if axis in axes})
