"""Channels that become pixels: the input keeps the channels of every output channel that is kept."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt.facts.store import Spec
from graphopt.rewrite.edit import Edit
from graphopt.rewrite.rules import outputs_narrowed, rewrites, wanted_by_links


@rewrites("DepthToSpace", "Col2Im")
def joining(node: ir.Node, spec: Spec, edit: Edit) -> None:
    """The blocks lie behind one another as before, each with fewer channels (or: fewer blocks)."""
    ((_, _, numbers),) = spec.groups[0].inputs
    wanted = wanted_by_links(node, 0, spec, edit)
    kept = edit.planned(node.outputs[0]).get(1)
    if kept is not None:
        wanted[1] = np.flatnonzero(np.isin(numbers, kept))
    edit.operand(node, 0, wanted)
    outputs_narrowed(node, edit)
