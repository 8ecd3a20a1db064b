"""Convolutions: Conv, ConvTranspose; in groups, depthwise; what zero padding does to constant channels."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.facts.constants import stored
from graphopt.facts.ops.contraction import Contraction, Depthwise, Geometry, bias_operand, fused_with_integers
from graphopt.facts.rules import rule
from graphopt.facts.store import Facts, Link, Spec


def _spatial_padding(node: ir.Node) -> bool:
    """Tell whether zeros may reach the border of a convolution's input."""
    automatic = node.attributes.get_string("auto_pad", "NOTSET")
    if automatic == "VALID":
        return False
    return automatic != "NOTSET" or any(node.attributes.get_ints("pads", ()))


@rule("Conv")
class Conv(Contraction):
    """``n i *s, o i *k, o -> n o *t``; depthwise: ``n c *s, c 1 *k, c -> n c *t`` (an elementwise link)."""

    x, w, b = 0, 1, 2
    """Positions of data, weight and bias."""

    def spec(self, node: ir.Node, facts: Facts) -> Spec | None:
        x, w = node.inputs[self.x], node.inputs[self.w]
        known, weight = dims.static(x), dims.static(w)
        zeros = self.zeros(node, facts)
        if (
            zeros is None
            or known is None
            or weight is None
            or dims.rank(node.outputs[0]) != len(known)
            or len(weight) < 2
        ):
            return None
        links = [Link(self.x, 0, 0, 0)]
        groups = node.attributes.get_int("group", 1)
        bias = bias_operand(node, self.b)
        if not facts.constants.known(w) or weight[0] is None:
            return Spec(links, reason="its weight is not a constant", at_source=True)
        links.append(Link(self.w, 0, 0, 1))
        if bias is not None:
            links.append(Link(self.b, 0, 0, 1))
        padded = _spatial_padding(node)
        if known[1] is None:
            # Rows alone can be cut where there are no groups.
            own = links if groups == 1 else links[:1]
            return Spec(own, reason="its number of input channels is unknown", at_source=True)
        if groups > 1 and weight[1] == 1 and weight[0] == groups:
            links.append(Link(self.x, 1, 0, 1, np.arange(groups)))
            return Spec(links, reason="convolution windows overlap", at_source=True, extra=Depthwise(padded, *zeros))
        if groups > 1 and not facts.constants.in_rows(w):
            return Spec(links[:1], reason="its weight's scales lie along another axis", at_source=True)
        padded |= fused_with_integers(node, self.x, self.w, bias, facts)
        x_zero, w_zero = zeros
        geo = Geometry(
            self.x, 1, self.w, 1, 0, 1, bias, groups, position_dependent=padded, x_zero=x_zero, w_zero=w_zero
        )
        return Spec(links, ((self.x, 1),), reason="convolution windows overlap", at_source=True, extra=geo)

    def zeros(self, node: ir.Node, facts: Facts) -> tuple[int, np.ndarray | None] | None:
        """Return the zero points of data and weight; ``None`` where they are not known."""
        return 0, None

    def forward(self, node: ir.Node, spec: Spec, facts: Facts) -> None:
        if not isinstance(spec.extra, Depthwise):
            super().forward(node, spec, facts)
            return
        x, w = node.inputs[self.x], node.inputs[self.w]
        known, own = dims.static(x), spec.extra
        assert x is not None and w is not None and known is not None
        nonzero = facts.constants.nonzero(w, 0, 1, own.w_zero)
        along = facts.along(x, 1, known[1] or 0)
        if along is None and own.silent is not None:
            along = own.silent, np.zeros(own.silent.size)
        if nonzero is None or (along is None and nonzero.all()):
            return
        multiplier = nonzero.shape[0] // (known[1] or 1)
        zero_weights = ~nonzero[:, 0] if facts.is_finite(x) else np.zeros(nonzero.shape[0], bool)
        mask, fill = zero_weights, np.zeros(nonzero.shape[0])
        if along is not None:
            dead, constant = (np.repeat(part, multiplier) for part in along)
            constant = constant.astype(np.float64) - own.x_zero
            uniform = dead & (constant == 0) if own.padded else dead
            weight = facts.constants.array(w)
            assert weight is not None
            weight = weight if own.w_zero is None else weight.astype(np.float64) - own.w_zero
            sums = weight.reshape(weight.shape[0], -1).astype(np.float64).sum(axis=1)
            fill = np.where(uniform & ~zero_weights, constant * sums, 0)
            mask = zero_weights | uniform
        bias = node.inputs[self.b] if len(node.inputs) > self.b else None
        if bias is not None:
            array = facts.constants.array(bias)
            if array is None:
                return
            fill = fill + array.astype(np.float64)
        self.settle(node, 1, mask, fill, facts)

    def backward(self, node: ir.Node, spec: Spec, facts: Facts) -> None:
        super().backward(node, spec, facts)
        x = node.inputs[self.x]
        out_sizes = dims.static(node.outputs[0])
        if (
            not isinstance(spec.extra, Depthwise)
            or x is None
            or out_sizes is None
            or facts.demand.get(node.outputs[0]) is None
        ):
            return
        dead_in = facts.dead_axes(x).get(1)
        if dead_in is None or out_sizes[1] is None:
            return
        # A constant that padding turns into a border needs its plane.
        needed = facts.needed(node.outputs[0], 1, out_sizes[1])
        mask = np.zeros(dead_in.mask.size, bool)
        index = spec.of_operand(self.x)[-1].index
        assert index is not None
        mask[index[needed]] = True
        facts.need_physically(x, 1, mask & dead_in.mask)


@rule("ConvTranspose")
class ConvTranspose(Contraction):
    """``n i *s, i o *k, o -> n o *t``; windows overlap unevenly, so that only zeros are uniform."""

    def spec(self, node: ir.Node, facts: Facts) -> Spec | None:
        known, weight = dims.static(node.inputs[0]), dims.static(node.inputs[1])
        if known is None or weight is None or dims.rank(node.outputs[0]) != len(known) or known[1] is None:
            return None
        links = [Link(0, 0, 0, 0)]
        groups = node.attributes.get_int("group", 1)
        bias = bias_operand(node, 2)
        if not facts.constants.known(node.inputs[1]) or weight[1] is None:
            return Spec(links, reason="its weight is not a constant", at_source=True)
        if groups > 1 and stored(node.inputs[1]) is not None:
            return Spec(links, reason="its weight is stored as integers", at_source=True)
        if groups == 1:
            links.append(Link(1, 1, 0, 1))
        else:
            # The weight holds the outputs of one group; its groups lie along its input axis.
            links.append(Link(1, 1, 0, 1, np.tile(np.arange(weight[1]), groups)))
        if bias is not None:
            links.append(Link(2, 0, 0, 1))
        geo = Geometry(0, 1, 1, 0, 1, 1, bias, groups, position_dependent=True)
        return Spec(links, ((0, 1),), reason="convolution windows overlap", at_source=True, extra=geo)
