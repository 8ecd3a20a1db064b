"""QuantizeLinear and DequantizeLinear: one position in, the same position out; scales are cut with their channels.

Behind a ``DequantizeLinear`` of constants nothing is analysed: it is a constant itself (``facts.constants``).
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.facts.constants import MICROSOFT
from graphopt.facts.quantization import axis_of, dequantized, quantized
from graphopt.facts.rules import Rule, identity_links, rule
from graphopt.facts.store import Facts, Link, Mask, Spec

MANY = 1 << 20
"""Fills times scales that are tried out where an axis is not the one that the scales lie along."""


UNMOVED = frozenset(
    kind for kind in ir.DataType if (kind.is_integer() and kind.bitwidth < 8) or kind.name.startswith("FLOAT8")
) | {ir.DataType.FLOAT4E2M1, ir.DataType.FLOAT6E2M3, ir.DataType.FLOAT6E3M2}
"""Types that onnxruntime neither gathers nor scatters: values of them stay whole. (Constants of them are cut.)"""

SCATTERS = 11
"""From this opset on, all other types are scattered."""


class Quantization(Rule):
    """``f' = g(f, scale, zero)`` at every position; a vector of scales lies along ``axis``, or repeats in blocks."""

    def spec(self, node: ir.Node, facts: Facts) -> Spec | None:
        x, scale = node.inputs[0], node.inputs[1]
        if any(value is None or value.dtype in UNMOVED for value in (x, node.outputs[0])) or facts.opset < SCATTERS:
            return None
        sizes, own = dims.sizes(x), dims.sizes(scale)
        if sizes is None or own is None or dims.rank(node.outputs[0]) != len(sizes):
            return None
        rank, axis = len(sizes), axis_of(node, len(sizes))
        if node.attributes.get_int("block_size", 0):
            if axis is None or len(own) != rank:
                return None
            free = [i for i in range(rank) if i != axis]
            links = [link for operand in self._parameters(node) for link in identity_links(rank, free, operand=operand)]
            return Spec(identity_links(rank, free) + links, reason="one scale holds for a block of this axis")
        if len(own) == 0 or own == (1,):
            return Spec(identity_links(rank))
        if axis is None or len(own) != 1:
            return None
        if not dims.provably_equal(own[0], sizes[axis]):
            free = [i for i in range(rank) if i != axis]
            return Spec(identity_links(rank, free), reason="its scales lie along an axis of unknown size")
        return Spec(identity_links(rank) + [Link(operand, 0, 0, axis) for operand in self._parameters(node)])

    def forward(self, node: ir.Node, spec: Spec, facts: Facts) -> None:
        x, out = node.inputs[0], node.outputs[0]
        known = dims.static(x)
        if x is None or known is None or out.dtype is None:
            return
        for axis, dead in facts.dead_axes(x).items():
            if any(link.operand == 0 and link.axis == axis for link in spec.links):
                found = self._fills(node, axis, dead.mask, dead.fill, known, facts)
                if found is not None:
                    facts.set_dead(out, axis, *found)

    def finite(self, node: ir.Node, facts: Facts) -> bool:
        return True

    def apply(
        self, node: ir.Node, fill: np.ndarray, scale: np.ndarray | None, zero: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return (result, sure) for fills, scales and zero points that broadcast; no scale: any finite one."""
        raise NotImplementedError

    def _parameters(self, node: ir.Node) -> list[int]:
        """Return the positions of scale and zero point."""
        return [i for i in (1, 2) if len(node.inputs) > i and node.inputs[i] is not None]

    def _fills(
        self, node: ir.Node, axis: int, mask: Mask, fill: np.ndarray, known: tuple[int | None, ...], facts: Facts
    ) -> tuple[Mask, np.ndarray] | None:
        """Return (mask, fill) of the output: dead where every scale makes the same of the fill."""
        block, along = node.attributes.get_int("block_size", 0), axis_of(node, len(known))
        arrays = [facts.constants.array(node.inputs[i]) for i in self._parameters(node)]
        if any(array is None for array in arrays[1:]):
            return None
        scale, zero = arrays[0], arrays[1] if len(arrays) > 1 else None
        vector = [p for p in (scale, zero) if p is not None and p.size > 1]
        if not vector:
            flat = [None if p is None else p.reshape(()) for p in (scale, zero)]
            result, sure = self.apply(node, fill, *flat)
            return mask & sure, result
        if along is None or block:
            # A scale depends on every axis: only zeros are certain to become the same everywhere.
            return self._at_zero(node, mask, fill, zero)
        if axis == along:
            result, sure = self.apply(node, fill, *(None if p is None else p.reshape(-1) for p in (scale, zero)))
            return mask & sure, result
        if fill.size * (known[along] or MANY) > MANY:
            return self._at_zero(node, mask, fill, zero)
        rows = [None if p is None else np.atleast_2d(p) for p in (scale, zero)]
        result, sure = self.apply(node, fill[:, None], *rows)
        if result.shape[1] == 0:
            return None
        same = (result == result[:, :1]).all(axis=1) & sure.all(axis=1)
        return mask & same, result[:, 0]

    def _at_zero(
        self, node: ir.Node, mask: Mask, fill: np.ndarray, zero: np.ndarray | None
    ) -> tuple[Mask, np.ndarray] | None:
        if zero is not None and (not zero.size or bool((zero != zero.reshape(-1)[0]).any())):
            return None
        result, sure = self.apply(node, fill, None, None if zero is None else zero.reshape(-1)[0])
        return mask & sure, result


@rule("QuantizeLinear")
@rule("QuantizeLinear", domain=MICROSOFT)
class QuantizeLinear(Quantization):
    """``f' = saturate(round(f / scale) + zero)``, where rounding leaves no doubt.

    With a scale that is computed, only for ``f = 0``.
    """

    def apply(
        self, node: ir.Node, fill: np.ndarray, scale: np.ndarray | None, zero: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        dtype = node.outputs[0].dtype
        assert dtype is not None
        with np.errstate(all="ignore"):
            steps = np.asarray(fill.astype(np.float64) / (1 if scale is None else scale.astype(np.float64)))
        saturate = bool(node.attributes.get_int("saturate", 1))
        result, sure = quantized(steps, zero, dtype.numpy(), saturate=saturate)
        return result, sure if scale is not None else sure & (steps == 0)


@rule("DequantizeLinear")
@rule("DequantizeLinear", domain=MICROSOFT)
class DequantizeLinear(Quantization):
    """``f' = (f - zero) * scale``; a scale that is computed: only at the zero point."""

    def apply(
        self, node: ir.Node, fill: np.ndarray, scale: np.ndarray | None, zero: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        dtype = node.outputs[0].dtype
        assert dtype is not None
        result = np.asarray(dequantized(fill, np.ones((), dtype.numpy()) if scale is None else scale, zero))
        return result, np.ones(result.shape, bool) if scale is not None else result == 0
