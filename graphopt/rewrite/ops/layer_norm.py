"""RMSNorm and LayerNorm of the positions that are left, with the statistics of all.

Let ``K`` of ``N`` elements be left, the others hold constants of mean ``f`` and variance ``v``, and ``p = 1 - K/N``.

RMSNorm stays what it is: ``mean(x²) + eps = K/N (mean_K(x²) + eps')`` with ``eps' = (eps + p (f² + v)) N/K``, and
``scale' = scale sqrt(N/K)``.

LayerNorm does not: no LayerNorm of ``K`` elements divides by the deviation of ``N``. Two exact forms that use fused
operators (decision 0013 has the measurements):

* from opset 23, ``RMSNorm([x - mean, sqrt(N-K) (mean - f)])``: centred values, and one more that stands for the
  constants; their mean of squares is the variance.
* before, the mean ``m`` and the inverse deviation ``r`` that LayerNormalization gives of the ``K``: with
  ``q = (m-f) r`` the deviation is ``sqrt(K/N (1 + p q²)) / r``, and the centre is off by ``p (m-f)``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir._core import Usage

from graphopt import dims
from graphopt.facts.ops.layer_norm import FUSED_RMS, Norm, first_axis, norm_of
from graphopt.facts.rules import MICROSOFT
from graphopt.facts.store import Spec
from graphopt.plan.classes import Layout
from graphopt.rewrite.edit import Cursor, Edit
from graphopt.rewrite.rules import by_links, rewrites
from graphopt.rewrite.scales import scaled


@dataclass(frozen=True, slots=True)
class Left:
    """What is known about the elements that are left out."""

    share: float
    """``K/N``: how many of the elements are still there."""
    count: int
    """``N-K`` along the narrowed axis."""
    mean: float
    spread: float
    """``v (N-K)/N``: their squared deviations from their mean, divided by ``N``."""


def _left_out(norm: Norm, planned: Layout, sizes: tuple[dims.Size, ...]) -> Left | None:
    share, mean, spread, count = 1.0, 0.0, 0.0, 0
    for axis in norm.axes:
        kept, size, found = planned.get(axis), sizes[axis], norm.dead.get(axis)
        if kept is None or found is None or not isinstance(size, int):
            continue
        missing = np.ones(size, bool)
        missing[kept] = False
        fills = np.where(found[0], found[1], 0)[missing]  # what is missing and not dead is read by nobody
        share *= kept.size / size
        count = int(missing.sum())
        if fills.any():
            mean, spread = float(fills.mean()), float(fills.var()) * count / size
    return None if share == 1.0 else Left(share, count, mean, spread)


@rewrites("RMSNormalization", "SimplifiedLayerNormalization", "LayerNormalization")
@rewrites("SimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization", "SkipLayerNormalization",
          domain=MICROSOFT)  # fmt: skip
def last_axes(node: ir.Node, spec: Spec, edit: Edit) -> None:
    """Normalize what is left; nothing but links where the normalized axes stay whole."""
    norm, out = norm_of(spec), node.outputs[0]
    sizes = edit.sizes(out)
    assert norm is not None and sizes is not None
    left = _left_out(norm, edit.planned(out), sizes)
    if left is None:
        by_links(node, spec, edit)
        return
    edit.counts["normalized"] += 1
    if not norm.centred:
        by_links(node, spec, edit)
        squares = (1 - left.share) * left.mean**2 + left.spread
        node.attributes["epsilon"] = ir.AttrFloat32("epsilon", (norm.epsilon + squares) / left.share)
        scale = _parameter(node, norm.scale, edit, factor=left.share**-0.5)
        node.replace_input_with(norm.scale, scale)
        return
    by_links(node, spec, edit)
    _Centred(node, norm, left, edit).write()


def _parameter(
    node: ir.Node,
    operand: int,
    edit: Edit,
    *,
    factor: float = 1.0,
    dtype: ir.DataType | None = None,
    zeros: int = 0,
) -> ir.Value:
    """Return a constant operand multiplied by ``factor``; the rule has made sure that it stays finite."""
    value = node.inputs[operand]
    assert value is not None
    result = scaled(value, factor, edit, dtype=dtype, zeros=zeros)
    assert result is not None
    return result


class _Centred:
    """Writes a narrowed LayerNormalization behind the node it replaces."""

    def __init__(self, node: ir.Node, norm: Norm, left: Left, edit: Edit) -> None:
        self.node, self.norm, self.left, self.edit = node, norm, left, edit
        self.out = node.outputs[0]
        self.type = self.out.dtype or ir.DataType.FLOAT
        half = self.type in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
        self.work = ir.DataType.FLOAT if half else self.type
        """What is computed in: statistics of halves are floats, and so is what is made of them."""
        self.sizes = list(dims.sizes(self.out) or ())
        self.first = first_axis(node, len(self.sizes))
        self.rows: list[dims.Size] = [1 if axis >= self.first else s for axis, s in enumerate(self.sizes)]
        self.place = Cursor(edit.graph, after=node)

    def write(self) -> None:
        """Write the form that is fastest where it can be written, and let it take the node's place."""
        node, norm, edit = self.node, self.norm, self.edit
        users = [list(value.uses()) for value in node.outputs]
        x = self._sum()
        if norm.total is not None:
            edit.stand_in(node.outputs[norm.total], x, users[norm.total])
        if self.work != self.type:
            x = self._node("Cast", [x], "wide", self.sizes, [ir.AttrInt64("to", int(self.work))])
        last = self.first == len(self.sizes) - 1
        if edit.facts.opset >= FUSED_RMS and last and not self._shown:
            y = self._as_rms(x)
        else:
            y = self._corrected(x, users)
        if norm.shift is not None:
            shift = _parameter(node, norm.shift, edit, dtype=self.work)
            y = self._node("Add", [y, shift], "shifted", self.sizes)
        if self.work != self.type:
            y = self._node("Cast", [y], "cast", self.sizes, [ir.AttrInt64("to", int(self.type))], self.type)
        edit.stand_in(self.out, y, users[0])

    @property
    def _shown(self) -> list[int]:
        """The outputs of statistics that somebody reads."""
        if len(self.norm.addends) > 1:
            return []
        outputs = self.node.outputs
        return [i for i in (1, 2) if i < len(outputs) and (outputs[i].uses() or outputs[i].is_graph_output())]

    def _sum(self) -> ir.Value:
        """Return the sum of the addends."""
        first, *others = (self.node.inputs[operand] for operand in self.norm.addends)
        assert first is not None
        for other in others:
            first = self._node("Add", [first, other], "sum", self.sizes, dtype=self.type)
        return first

    def _node(
        self,
        op_type: str,
        inputs: list[ir.Value | None],
        word: str,
        sizes: list[dims.Size],
        attributes: list[ir.Attr] | None = None,
        dtype: ir.DataType | None = None,
    ) -> ir.Value:
        base = f"{self.out.name}_{word}"
        return self.edit.node(op_type, inputs, self.place, base, sizes, self.out, attributes, dtype or self.work)

    def _scaled(self, op_type: str, value: ir.Value, number: float, word: str) -> ir.Value:
        """Return ``value`` (one number a row) after an operation with a scalar."""
        scalar = self.edit.constant(np.array(number, self.work.numpy()), f"{self.out.name}_number", self.work)
        return self._node(op_type, [value, scalar], word, self.rows)

    def _as_rms(self, x: ir.Value) -> ir.Value:
        """``RMSNorm([x - mean, sqrt(N-K) (mean - f)])``, without its last position."""
        left, axis, size = self.left, len(self.sizes) - 1, self.sizes[-1]
        assert isinstance(size, int)
        axes = self.edit.constant(np.array([axis], np.int64), f"{self.out.name}_axes")
        mean = self._node("ReduceMean", [x, axes], "mean", self.rows)
        mean = self._scaled("Mul", mean, left.share, "mean")
        total = size + left.count
        if left.mean:
            mean = self._scaled("Add", mean, (1 - left.share) * left.mean, "mean")
        centred = self._node("Sub", [x, mean], "centred", self.sizes)
        other = self._scaled("Sub", mean, left.mean, "rest") if left.mean else mean
        other = self._scaled("Mul", other, math.sqrt(left.count), "rest") if left.count > 1 else other
        wide = [*self.sizes[:-1], size + 1]
        joined = self._node("Concat", [centred, other], "joined", wide, [ir.AttrInt64("axis", axis)])
        epsilon = (self.norm.epsilon + left.spread) * total / (size + 1)
        scale = _parameter(
            self.node, self.norm.scale, self.edit, factor=math.sqrt(total / (size + 1)), dtype=self.work, zeros=1
        )
        attributes = [ir.AttrFloat32("epsilon", epsilon), ir.AttrInt64("axis", -1)]
        y = self._node("RMSNormalization", [joined, scale], "normalized", wide, attributes)
        ends = [np.array([number], np.int64) for number in (0, size, axis)]
        return self._node(
            "Slice", [y, *(self.edit.constant(end, f"{self.out.name}_end") for end in ends)], "live", self.sizes
        )

    def _corrected(self, x: ir.Value, users: list[list[Usage]]) -> ir.Value:
        """``(LayerNorm_K(x) + p q scale') / sqrt(1 + p q²)`` with ``scale' = scale sqrt(N/K)``."""
        left = self.left
        scale = _parameter(self.node, self.norm.scale, self.edit, factor=left.share**-0.5, dtype=self.work)
        epsilon = (self.norm.epsilon + left.spread) / left.share
        attributes = [ir.AttrFloat32("epsilon", epsilon), ir.AttrInt64("axis", self.first - len(self.sizes))]
        y = self._node("LayerNormalization", [x, scale], "normalized", self.sizes, attributes)
        mean, inverse = self._statistics(y)
        centre = self._scaled("Sub", mean, left.mean, "centre") if left.mean else mean
        ratio = self._node("Mul", [centre, inverse], "ratio", self.rows)
        off = self._scaled("Mul", ratio, 1 - left.share, "off")
        square = self._node("Mul", [ratio, off], "square", self.rows)
        root = self._node("Sqrt", [self._scaled("Add", square, 1.0, "square")], "root", self.rows)
        factor = self._node("Reciprocal", [root], "factor", self.rows)
        if 1 in self._shown:
            error = self._scaled("Mul", centre, 1 - left.share, "off")
            self._show(1, self._node("Sub", [mean, error], "mean", self.rows), users)
        if 2 in self._shown:
            deviation = self._node("Mul", [inverse, factor], "inverse", self.rows)
            self._show(2, self._scaled("Mul", deviation, left.share**-0.5, "inverse"), users)
        moved = self._node("Add", [y, self._node("Mul", [off, scale], "moved", self.sizes)], "moved", self.sizes)
        return self._node("Mul", [moved, factor], "scaled", self.sizes)

    def _statistics(self, y: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Return the mean and the inverse deviation beside a LayerNormalization's result."""
        node = y.producer()
        assert node is not None
        node.resize_outputs(3)
        for value, word in ((node.outputs[1], "mean"), (node.outputs[2], "inverse")):
            value.name, value.type = self.edit.name(f"{self.out.name}_{word}"), ir.TensorType(self.work)
            value.shape = ir.Shape(self.rows)
        return node.outputs[1], node.outputs[2]

    def _show(self, position: int, value: ir.Value, users: list[list[Usage]]) -> None:
        self.edit.stand_in(self.node.outputs[position], value, users[position])
