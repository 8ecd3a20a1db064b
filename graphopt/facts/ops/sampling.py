"""Operators that sample images: channels pass through, pixels are mixed."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.facts.ops.movement import Mover, normal
from graphopt.facts.rules import Rule, identity_links, rule
from graphopt.facts.store import Facts, Link, Spec


@rule("Resize", "Upsample")
class Resize(Mover):
    """Axes of scale one are left as they are."""

    def spec(self, node: ir.Node, facts: Facts) -> Spec | None:
        known, out = dims.static(node.inputs[0]), dims.static(node.outputs[0])
        if known is None or out is None or len(known) != len(out):
            return None
        if node.attributes.get_string("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
            return None
        unchanged = set(range(len(known)))
        axes = node.attributes.get_ints("axes", tuple(range(len(known))))
        named = [normal(axis, len(known)) for axis in axes]
        operand = 2 if len(node.inputs) > 2 or (node.op_type == "Resize" and node.version not in (None, 10)) else 1
        scales = None
        if node.op_type == "Upsample" and "scales" in node.attributes:
            scales = list(node.attributes.get_floats("scales", ()))
        elif len(node.inputs) > operand and node.inputs[operand] is not None:
            array = facts.constants.array(node.inputs[operand])
            scales = None if array is None or array.size == 0 else [float(x) for x in array.ravel()]
        elif len(node.inputs) == 2:
            array = facts.constants.array(node.inputs[1])
            scales = None if array is None or array.size == 0 else [float(x) for x in array.ravel()]
        if scales is not None:
            if len(scales) != len(named):
                return None
            unchanged -= {axis for axis, scale in zip(named, scales, strict=True) if scale != 1.0}
        else:
            if node.attributes.get_string("keep_aspect_ratio_policy", "stretch") != "stretch":
                return None
            unchanged -= {axis for axis in named if known[axis] is None or known[axis] != out[axis]}
        return Spec(identity_links(len(known), sorted(unchanged)), reason="Resize mixes this axis")

    def forward(self, node: ir.Node, spec: Spec, facts: Facts) -> None:
        # Interpolation of a constant is that constant; extrapolation is not.
        if node.attributes.get_float("extrapolation_value", 0.0) == 0.0:
            super().forward(node, spec, facts)


@rule("GridSample", "RoiAlign", "MaxRoiPool")
class Sample(Rule):
    """``f' = f`` for ``f = 0``: what lies outside the image may be zero."""

    def spec(self, node: ir.Node, facts: Facts) -> Spec | None:
        rank = dims.rank(node.inputs[0])
        if rank is None or rank < 3 or dims.rank(node.outputs[0]) != rank:
            return None
        return Spec([Link(0, 1, 0, 1)], reason=f"{node.op_type} mixes this axis")

    def forward(self, node: ir.Node, spec: Spec, facts: Facts) -> None:
        dead = facts.dead_axes(node.inputs[0]).get(1)
        if dead is not None:
            mask = dead.mask & (dead.fill == 0)
            facts.set_dead(node.outputs[0], 1, mask, np.zeros_like(dead.fill))
