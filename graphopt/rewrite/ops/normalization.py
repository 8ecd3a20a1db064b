"""Groups of channels that are normalized together."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt.facts.ops.normalization import Channels
from graphopt.facts.store import Spec
from graphopt.rewrite.edit import Edit
from graphopt.rewrite.rules import by_links, outputs_narrowed, rewrites, wanted_by_links


@rewrites("GroupNormalization")
def group_normalization(node: ir.Node, spec: Spec, edit: Edit) -> None:
    """Whole groups leave, with their scales and shifts; those that stay get all of their channels."""
    form, kept = spec.extra, edit.planned(node.outputs[0]).get(1)
    if not isinstance(form, Channels) or kept is None:
        by_links(node, spec, edit)
        return
    groups = np.unique(form.numbers[kept])
    edit.operand(node, 0, {**wanted_by_links(node, 0, spec, edit), 1: kept})
    for operand in (1, 2):
        edit.operand(node, operand, {0: groups if form.per_group else kept})
    node.attributes["num_groups"] = ir.AttrInt64("num_groups", int(groups.size))
    outputs_narrowed(node, edit)
