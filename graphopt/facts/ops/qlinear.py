"""Contractions of integers: QLinearConv, QLinearMatMul, MatMulInteger and their relatives.

``(x - x_zero) @ (w - w_zero)``, summed exactly: a zero point is the zero, and padding of a convolution pads with it.
The sums are int32, or are scaled and rounded to the output's own scale and zero point.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.facts.ops.contraction import Contraction, Depthwise, Geometry, geometry
from graphopt.facts.ops.convolution import Conv
from graphopt.facts.quantization import quantized
from graphopt.facts.rules import MICROSOFT, Rule, identity_links, rule, through_links
from graphopt.facts.store import Facts, Link, Mask, Spec


def operand(node: ir.Node, position: int) -> ir.Value | None:
    """Return an optional input."""
    return node.inputs[position] if position < len(node.inputs) else None


def scalar(node: ir.Node, position: int, facts: Facts) -> np.ndarray | None:
    """Return a constant of one element as a 0-d array, or ``None``."""
    value = operand(node, position)
    array = facts.constants.array(value) if value is not None and facts.constants.known(value) else None
    return array.reshape(()) if array is not None and array.size == 1 else None


def zero_of_data(node: ir.Node, position: int, facts: Facts) -> int | None:
    """Return the zero point of the data operand: 0 where there is none, ``None`` where it is not a known number."""
    if operand(node, position) is None:
        return 0
    found = scalar(node, position, facts)
    return None if found is None else int(found)


def zeros_of_weight(node: ir.Node, position: int, rank: int, axis: int, facts: Facts) -> tuple[np.ndarray | None, bool]:
    """Return (zero point that broadcasts against a weight of ``rank`` with outputs along ``axis``, is it known?)."""
    value = operand(node, position)
    if value is None:
        return None, True
    array = facts.constants.array(value) if facts.constants.known(value) else None
    if array is None or (array.size != 1 and array.ndim != 1):
        return None, False
    shape = [-1 if i == axis else 1 for i in range(rank)]
    return array.astype(np.int64).reshape(() if array.size == 1 else shape), True


def lined_up(node: ir.Node, positions: tuple[int, ...], size: int | None, out_axis: int) -> list[Link]:
    """Return the links of vectors that hold one number for each of ``size`` outputs."""
    links = []
    for position in positions:
        known = dims.static(operand(node, position))
        if known is not None and len(known) == 1 and known[0] == size and size != 1:
            links.append(Link(position, 0, 0, out_axis))
    return links


def fits(node: ir.Node, positions: tuple[int, ...], size: int | None) -> bool:
    """Tell whether every one of these optional inputs is one number, or one for each of ``size`` outputs."""
    for position in positions:
        value = operand(node, position)
        known = dims.static(value)
        if value is not None and known not in ((), (1,), (size,)):
            return False
    return True


def requantized(
    sums: np.ndarray, scales: tuple[np.ndarray | None, ...], zero: np.ndarray | None, kind: ir.DataType | None
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return (q, sure) of ``sums * x_scale * w_scale / y_scale``; only zeros are sure where a scale is not known."""
    if kind is None:
        return None
    x, w, y = scales
    if x is None or w is None or y is None:
        result, sure = quantized(sums, zero, kind.numpy())
        return result, sure & (sums == 0)
    factor = (x.astype(np.float32) * w.astype(np.float32) / y.astype(np.float32)).astype(np.float64).reshape(-1)
    with np.errstate(all="ignore"):
        return quantized(sums * factor, zero, kind.numpy())


@rule("ConvInteger")
class ConvInteger(Conv):
    """``Conv(x - x_zero, w - w_zero)`` in int32."""

    x, w, b = 0, 1, 1 << 30
    x_zero, w_zero = 2, 3
    parameters = (3,)
    """Operands that may hold one number for each output."""

    def spec(self, node: ir.Node, facts: Facts) -> Spec | None:
        weight = dims.static(operand(node, self.w))
        if weight is None or len(weight) < 3 or not fits(node, self.parameters, weight[0]):
            return None
        if node.attributes.get_int("channels_last", 0):
            return None
        spec = super().spec(node, facts)
        if spec is None or spec.extra is None:
            return spec
        spec.links += lined_up(node, self.parameters, weight[0], 1)
        if isinstance(spec.extra, Geometry | Depthwise):
            spec.extra = replace(spec.extra, silent=silent_inputs(node, self.x, 1, self.x_zero, facts))
        return spec

    def zeros(self, node: ir.Node, facts: Facts) -> tuple[int, np.ndarray | None] | None:
        """Return the zero points of data and weight."""
        x_zero = zero_of_data(node, self.x_zero, facts)
        w_zero, known = zeros_of_weight(node, self.w_zero, dims.rank(operand(node, self.w)) or 0, 0, facts)
        if not known:
            return None
        if w_zero is not None and w_zero.size > 1 and node.attributes.get_int("group", 1) > 1:
            if bool((w_zero != w_zero.reshape(-1)[0]).any()):
                return None
            w_zero = w_zero.reshape(-1)[0].reshape(())
        if x_zero is None:
            dynamic = quantizes_dynamically(node, self.x, self.x_zero)
            return (0, w_zero) if dynamic is not None else None
        return x_zero, w_zero


def quantizes_dynamically(node: ir.Node, x: int, zero: int) -> ir.Node | None:
    """Return the ``DynamicQuantizeLinear`` that makes both the data and its zero point."""
    value, point = operand(node, x), operand(node, zero)
    source = None if value is None else value.producer()
    if source is None or source.op_type != "DynamicQuantizeLinear" or point is None:
        return None
    return source if point is source.outputs[2] and value is source.outputs[0] else None


def silent_inputs(node: ir.Node, x: int, axis: int, zero: int, facts: Facts) -> Mask | None:
    """Return ``[i]`` (bool): channels of dynamically quantized data that were zero, and are at the zero point now."""
    source = quantizes_dynamically(node, x, zero)
    dead = None if source is None else facts.dead_axes(source.inputs[0]).get(axis)
    return None if dead is None else dead.mask & (dead.fill == 0)


@rule("QLinearConv")
@rule("QLinearConv", domain=MICROSOFT)
class QLinearConv(ConvInteger):
    """``saturate(round((Conv(x - x_zero, w - w_zero) + b) * x_scale * w_scale / y_scale) + y_zero)``."""

    x, w, b = 0, 3, 8
    x_zero, w_zero = 2, 5
    parameters = (4, 5)

    def zeros(self, node: ir.Node, facts: Facts) -> tuple[int, np.ndarray | None] | None:
        """Return the zero points of data and weight."""
        return None if zero_of_data(node, self.x_zero, facts) is None else super().zeros(node, facts)

    def settle(self, node: ir.Node, axis: int, mask: Mask, sums: np.ndarray, facts: Facts) -> None:
        settle_quantized(node, (1, 4, 6), 7, axis, mask, sums, facts)


def settle_quantized(
    node: ir.Node, scales: tuple[int, ...], zero: int, axis: int, mask: Mask, sums: np.ndarray, facts: Facts
) -> None:
    """Record what becomes of constant sums that are quantized to the output's scale and zero point."""
    out, point = node.outputs[0], scalar(node, zero, facts)
    if point is None and operand(node, zero) is not None:
        return
    factors = [
        facts.constants.array(v) if (v := operand(node, p)) is not None and facts.constants.known(v) else None
        for p in scales
    ]
    found = requantized(sums, tuple(factors), point, out.dtype)  # type: ignore[arg-type]
    if found is not None:
        facts.set_dead(out, axis, mask & found[1], found[0])


class IntegerProduct(Contraction):
    """``(a - a_zero) @ (b - b_zero)`` with one operand a constant."""

    a, b, bias = 0, 1, None
    a_zero, b_zero = 2, 3
    a_parameters: tuple[int, ...] = (2,)
    b_parameters: tuple[int, ...] = (3,)
    only_zeros = False
    """Constants that are not at the zero point cannot be left out: there is nothing to add them to."""

    def spec(self, node: ir.Node, facts: Facts) -> Spec | None:
        a, b = operand(node, self.a), operand(node, self.b)
        rank_a, rank_b, rank = dims.rank(a), dims.rank(b), dims.rank(node.outputs[0])
        if rank_a is None or rank_b is None or rank is None or rank_a < 2 or rank_b != 2 or rank != rank_a:
            return None
        sizes = dims.static(b)
        if b is None or sizes is None or not facts.constants.known(b) or not fits(node, self.a_parameters, 1):
            return None
        if not fits(node, self.b_parameters, sizes[1]) or (
            self.bias is not None and not fits(node, (self.bias,), sizes[1])
        ):
            return None
        x_zero = zero_of_data(node, self.a_zero, facts)
        w_zero, known = zeros_of_weight(node, self.b_zero, 2, 1, facts)
        if not known or (x_zero is None and quantizes_dynamically(node, self.a, self.a_zero) is None):
            return None
        silent = silent_inputs(node, self.a, rank_a - 1, self.a_zero, facts) if x_zero is None else None
        bias = self.bias if self.bias is not None and operand(node, self.bias) is not None else None
        links = identity_links(rank_a, range(rank_a - 1), operand=self.a)
        links.append(Link(self.b, 1, 0, rank - 1))
        links += lined_up(node, (*self.b_parameters, *(() if bias is None else (bias,))), sizes[1], rank - 1)
        geo = Geometry(
            self.a,
            rank_a - 1,
            self.b,
            0,
            1,
            rank - 1,
            bias,
            position_dependent=self.only_zeros,
            x_zero=x_zero or 0,
            w_zero=w_zero,
            silent=silent,
        )
        return Spec(links, ((self.a, rank_a - 1),), at_source=True, extra=geo)


@rule("MatMulInteger")
class MatMulInteger(IntegerProduct):
    """``(a - a_zero) @ (b - b_zero)`` in int32."""


@rule("QLinearMatMul")
class QLinearMatMul(IntegerProduct):
    """``saturate(round((a - a_zero) @ (b - b_zero) * a_scale * b_scale / y_scale) + y_zero)``."""

    a, b = 0, 3
    a_zero, b_zero = 2, 5
    a_parameters, b_parameters = (1, 2), (4, 5)
    only_zeros = True

    def settle(self, node: ir.Node, axis: int, mask: Mask, sums: np.ndarray, facts: Facts) -> None:
        settle_quantized(node, (1, 4, 6), 7, axis, mask, sums, facts)


@rule("MatMulIntegerToFloat", domain=MICROSOFT)
class MatMulIntegerToFloat(IntegerProduct):
    """``(a - a_zero) @ (b - b_zero) * a_scale * b_scale + bias`` in floats."""

    a, b, bias = 0, 1, 6
    a_zero, b_zero = 4, 5
    a_parameters, b_parameters = (2, 4), (3, 5)
    only_zeros = True


@rule("DynamicQuantizeMatMul", domain=MICROSOFT)
class DynamicQuantizeMatMul(IntegerProduct):
    """``q(a) @ (b - b_zero) * scales + bias`` with a scale that depends on the largest of ``a``."""

    a, b, bias = 0, 1, 4
    a_zero, b_zero = 1 << 30, 3
    a_parameters, b_parameters = (), (2, 3)
    only_zeros = True

    def spec(self, node: ir.Node, facts: Facts) -> Spec | None:
        spec = super().spec(node, facts)
        geo = None if spec is None else geometry(spec)
        if spec is not None and geo is not None:
            spec.extra = replace(geo, ranged=True)
        return spec

    def backward(self, node: ir.Node, spec: Spec, facts: Facts) -> None:
        super().backward(node, spec, facts)
        read_for_its_range(node, facts)


def read_for_its_range(node: ir.Node, facts: Facts) -> None:
    """Demand all of the first input, constants that are not zero as planes: smallest and largest are looked for."""
    value = node.inputs[0]
    if value is None or all(facts.demand.get(out) is None for out in node.outputs):
        return
    facts.contribute(value, {})
    for axis, dead in facts.dead_axes(value).items():
        facts.need_physically(value, axis, dead.mask & (dead.fill != 0))


@rule("DynamicQuantizeLinear")
class DynamicQuantizeLinear(Rule):
    """Scale and zero point depend on the smallest and the largest entry, and on zero: zeros may leave, nothing else."""

    def spec(self, node: ir.Node, facts: Facts) -> Spec | None:
        rank = dims.rank(node.inputs[0])
        return None if rank is None else Spec(identity_links(rank))

    def backward(self, node: ir.Node, spec: Spec, facts: Facts) -> None:
        through_links(node, spec, facts)
        read_for_its_range(node, facts)


@rule("QGemm", domain=MICROSOFT)
class QGemm(IntegerProduct):
    """``saturate(round((A' B' + C) * alpha * a_scale * b_scale / y_scale) + y_zero)``; without a scale, floats."""

    a, b, bias = 0, 3, 6
    a_zero, b_zero = 2, 5
    a_parameters, b_parameters = (1, 2), (4, 5)

    def spec(self, node: ir.Node, facts: Facts) -> Spec | None:
        a_in = 0 if node.attributes.get_int("transA", 0) else 1
        b_in = 1 if node.attributes.get_int("transB", 0) else 0
        b = operand(node, self.b)
        sizes = dims.static(b)
        if dims.rank(operand(node, self.a)) != 2 or sizes is None or len(sizes) != 2 or b is None:
            return None
        count = sizes[1 - b_in]
        if dims.rank(node.outputs[0]) != 2 or not facts.constants.known(b) or not fits(node, self.a_parameters, 1):
            return None
        if not fits(node, (*self.b_parameters, self.bias), count):
            return None
        x_zero = zero_of_data(node, self.a_zero, facts)
        w_zero, known = zeros_of_weight(node, self.b_zero, 2, 1 - b_in, facts)
        if not known or x_zero is None:
            return None
        bias = self.bias if operand(node, self.bias) is not None else None
        links = [Link(self.a, 1 - a_in, 0, 0), Link(self.b, 1 - b_in, 0, 1)]
        links += lined_up(node, (*self.b_parameters, self.bias), count, 1)
        geo = Geometry(self.a, a_in, self.b, b_in, 1 - b_in, 1, bias, x_zero=x_zero, w_zero=w_zero)
        return Spec(links, ((self.a, a_in),), at_source=True, extra=geo)

    def settle(self, node: ir.Node, axis: int, mask: Mask, sums: np.ndarray, facts: Facts) -> None:
        if operand(node, 7) is not None and node.attributes.get_float("alpha", 1.0) == 1.0:
            settle_quantized(node, (1, 4, 7), 8, axis, mask, sums, facts)
        elif operand(node, 7) is None:
            zero = mask & (sums == 0)
            facts.set_dead(node.outputs[0], axis, zero, np.zeros(sums.size, np.float32))
