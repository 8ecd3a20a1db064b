"""Rotary embeddings lose whole heads; the angles are the same for all of them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt.facts.ops.rotary import Rotary, X
from graphopt.facts.rules import MICROSOFT
from graphopt.facts.store import Spec
from graphopt.rewrite.edit import Edit
from graphopt.rewrite.rules import by_links, outputs_narrowed, rewrites


@rewrites("RotaryEmbedding")
@rewrites("RotaryEmbedding", domain=MICROSOFT)
def rotary(node: ir.Node, spec: Spec, edit: Edit) -> None:
    """Give the input the heads that the output keeps, and say how many they are."""
    kept = edit.planned(node.outputs[0]).get(2 if isinstance(spec.extra, Rotary) else 1)
    count = None if kept is None else int(kept.size)
    if not isinstance(spec.extra, Rotary):
        by_links(node, spec, edit)
    else:
        for position, value in enumerate(node.inputs):
            if value is not None:
                edit.operand(node, position, {2: kept} if position == X and kept is not None else {})
        outputs_narrowed(node, edit)
        count = None if kept is None else int(np.unique(spec.extra.numbers[kept]).size)
    if count is not None and node.attributes.get_int("num_heads", 0):
        node.attributes["num_heads"] = ir.AttrInt64("num_heads", count)
