"""Contractions: Gemm and MatMul, and what convolutions (``convolution.py``) share with them.

``Conv: n i *s, o i *k, o -> n o *t``. Output position ``o`` is dead if for every input position ``i`` the weight is
zero, or ``x_i`` is a zero, or ``x_i`` is another constant that contributes the same to every output pixel; the
fill is the bias plus those contributions. Backward, ``i`` is demanded where a demanded live ``o`` has a weight for it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.facts.constants import is_constant, stored
from graphopt.facts.ops.elementwise import own_axis
from graphopt.facts.rules import Rule, rule, through_links
from graphopt.facts.store import Dead, Facts, Link, Mask, Partial, Spec


@dataclass(frozen=True, slots=True)
class Geometry:
    """Which axes of which operands a contraction with constant weights multiplies.

    ``x``/``w``/``bias`` are input positions; ``w_in``/``w_out`` axes of the weight; ``position_dependent`` tells that
    a nonzero constant channel does not contribute the same to every output element (zero padding, batched weights).
    Of quantized operands, zero is the zero point: ``x_zero``, and ``w_zero`` shaped to broadcast against the weight.
    """

    x: int
    x_axis: int
    w: int
    w_in: int
    w_out: int
    out_axis: int
    bias: int | None = None
    groups: int = 1
    position_dependent: bool = False
    alpha: float = 1.0
    beta: float = 1.0
    x_zero: int = 0
    w_zero: np.ndarray | None = None
    silent: Mask | None = None
    """``[i]`` (bool): inputs that are at a zero point which is not known before the model runs."""
    ranged: bool = False
    """The operator reads every input that is not zero, whatever its weights: it looks for the largest."""


@dataclass(frozen=True, slots=True)
class Depthwise:
    """A convolution of every channel with filters of its own."""

    padded: bool
    """Zeros may reach the border of its input."""
    x_zero: int = 0
    w_zero: np.ndarray | None = None
    silent: Mask | None = None


def geometry(spec: Spec) -> Geometry | None:
    """Return the geometry a contraction's rule found, or ``None`` for other nodes."""
    return spec.extra if isinstance(spec.extra, Geometry) else None


def input_channels(node: ir.Node, geo: Geometry) -> int | None:
    """Return the static size of the contracted axis of the data operand."""
    known = dims.static(node.inputs[geo.x])
    return None if known is None else known[geo.x_axis]


def weights_nonzero(node: ir.Node, geo: Geometry, facts: Facts) -> Mask | None:
    """Return ``[groups, o, i]`` (bool): is there a weight between output o and input i of a group?

    For ``ConvTranspose`` with groups the weight is ``[i, o/g]`` with the groups along ``i``.
    """
    value = node.inputs[geo.w]
    assert value is not None
    found = facts.constants.nonzero(value, geo.w_out, geo.w_in, geo.w_zero)
    if found is None:
        return None
    if geo.groups == 1:
        return found[None]
    if geo.w_out < geo.w_in:
        return found.reshape(geo.groups, -1, found.shape[1])
    return found.reshape(found.shape[0], geo.groups, -1).transpose(1, 0, 2)


def canonical(weight: np.ndarray, geo: Geometry) -> np.ndarray:
    """Return a view or copy ``[groups, o, i, ...]`` of a weight: outputs and inputs of every group, then the rest."""
    if geo.groups == 1:
        return np.moveaxis(weight, (geo.w_out, geo.w_in), (0, 1))[None]
    grouped = weight.reshape(geo.groups, -1, *weight.shape[1:])
    return grouped if geo.w_out < geo.w_in else grouped.swapaxes(1, 2)


def original(weight: np.ndarray, geo: Geometry) -> np.ndarray:
    """Return what ``canonical`` was given."""
    if geo.groups == 1:
        return np.moveaxis(weight[0], (0, 1), (geo.w_out, geo.w_in))
    turned = weight if geo.w_out < geo.w_in else weight.swapaxes(1, 2)
    return turned.reshape(-1, *turned.shape[2:])


def spread_sums(node: ir.Node, geo: Geometry, fill: np.ndarray, facts: Facts) -> np.ndarray:
    """Return ``[o, ...]`` (float64): ``sum_i fill[i] * W[o, i, ...]``, for ``fill`` ``[i]`` (zero where not asked for).

    The outputs of all groups in a row; behind them the axes of the weight that are neither input nor output.
    """
    value = node.inputs[geo.w]
    assert value is not None
    weight = facts.constants.array(value)
    assert weight is not None
    if geo.w_zero is not None:
        weight = weight.astype(np.float64) - geo.w_zero
    fills = fill.astype(np.float64).reshape(geo.groups, -1)
    columns = np.flatnonzero(fills.any(axis=0))
    taken = canonical(weight, geo)[:, :, columns].astype(np.float64)
    facts.constants.release(value)
    summed = np.einsum("goi...,gi->go...", taken, fills[:, columns])
    return geo.alpha * summed.reshape(-1, *summed.shape[2:])


def contribution(node: ir.Node, geo: Geometry, fill: np.ndarray, facts: Facts) -> np.ndarray:
    """Return ``[o]`` (float64): what constant inputs of values ``fill`` (``[i]``, zero for others) add to the outputs.

    Only meaningful where the geometry is not position dependent.
    """
    sums = spread_sums(node, geo, fill, facts)
    return sums.sum(axis=tuple(range(1, sums.ndim)))


def relative_fills(dead: Dead, geo: Geometry) -> np.ndarray:
    """Return ``[i]`` (float64): how far the constants are from the zero point; zero where there is none."""
    return np.where(dead.mask, dead.fill.astype(np.float64) - geo.x_zero, 0)


def live_inputs(x: ir.Value, size: int, geo: Geometry, facts: Facts) -> tuple[Mask, np.ndarray]:
    """Return (live, fill), each ``[size]``: inputs that must be multiplied, and the constants of the others.

    Constants are relative to the operand's zero point.

    Where the geometry is position dependent, constants that are not zero count as live.
    """
    dead = facts.dead_axes(x).get(geo.x_axis)
    if dead is None:
        return np.ones(size, bool) if geo.silent is None else ~geo.silent, np.zeros(size)
    live = ~dead.mask
    fill = relative_fills(dead, geo)
    if geo.position_dependent:
        live = live | (fill != 0)
    return live, np.where(live, 0, fill)


def constants_at_border(x: ir.Value, size: int, geo: Geometry, facts: Facts) -> np.ndarray | None:
    """Return ``[size]`` (float64): constants that do not contribute the same everywhere, zero for all other inputs.

    ``None`` where there are none.
    """
    dead = facts.dead_axes(x).get(geo.x_axis)
    if dead is None or not geo.position_dependent:
        return None
    fill = relative_fills(dead, geo)
    return fill if fill.any() else None


def merged_inputs(columns: Mask, constants: np.ndarray, chosen: np.ndarray, geo: Geometry) -> Mask:
    """Return ``[i]`` (bool): which of the inputs read are constants that ``Facts.borders`` takes out of their group."""
    merged = columns & (constants != 0)
    if chosen.size:
        merged &= np.isin(
            np.arange(columns.size) // (columns.size // geo.groups), chosen // (columns.size // geo.groups)
        )
    return merged


def standing(merged: Mask, chosen: np.ndarray, geo: Geometry) -> np.ndarray:
    """Return the chosen planes of those groups that have something merged."""
    width = merged.size // geo.groups
    return chosen[np.any(merged.reshape(geo.groups, -1), axis=1)[chosen // width]]


def read_inputs(nonzero: Mask, rows: Mask, geo: Geometry) -> Mask:
    """Return ``[i]`` (bool): inputs, of all groups, with a weight (``[groups, o, i]``) to one of ``rows`` (``[o]``)."""
    if geo.ranged:
        return np.ones(nonzero.shape[0] * nonzero.shape[2], bool)
    if nonzero.shape[0] == 1:
        return (nonzero[0] if rows.all() else nonzero[0][rows]).any(axis=0)
    return (nonzero & rows.reshape(nonzero.shape[0], -1, 1)).any(axis=1).ravel()


class Contraction(Rule):
    """Facts of every contraction whose weight is a constant."""

    def forward(self, node: ir.Node, spec: Spec, facts: Facts) -> None:
        geo = geometry(spec)
        if geo is None:
            return
        known = dims.static(node.outputs[0])
        x = node.inputs[geo.x]
        channels = input_channels(node, geo)
        if known is None or channels is None or x is None:
            return
        live, fill = live_inputs(x, channels, geo, facts)
        nonzero = weights_nonzero(node, geo, facts)
        if nonzero is None:
            return
        if live.all():
            rows = nonzero.any(axis=2).ravel()
        else:
            rows = (nonzero & live.reshape(geo.groups, 1, -1)).any(axis=2).ravel()
        if rows.all() or not facts.is_finite(x):
            return
        size = int(rows.size)
        if known[geo.out_axis] != size:
            return
        mask = ~rows
        value = np.zeros(size)
        if fill.any():
            value += contribution(node, geo, fill, facts)
        bias = node.inputs[geo.bias] if geo.bias is not None and geo.bias < len(node.inputs) else None
        if bias is not None:
            aligned = own_axis(bias, geo.out_axis, len(known)) if isinstance(self, Gemm) else 0
            along = facts.along(bias, aligned, size)
            if along is None:
                return
            mask &= along[0]
            value += geo.beta * np.where(along[0], along[1], 0).astype(np.float64)
        self.settle(node, geo.out_axis, mask, value, facts)

    def settle(self, node: ir.Node, axis: int, mask: Mask, sums: np.ndarray, facts: Facts) -> None:
        """Record that the outputs of ``mask`` (``[o]``) hold the constants ``sums`` (float64), bias included."""
        out = node.outputs[0]
        facts.set_dead(out, axis, mask, sums.astype(out.dtype.numpy()) if out.dtype is not None else sums)

    def backward(self, node: ir.Node, spec: Spec, facts: Facts) -> None:
        geo = geometry(spec)
        out = node.outputs[0]
        if geo is None or facts.demand.get(out) is None:
            through_links(node, spec, facts)
            return
        x = node.inputs[geo.x]
        size = input_channels(node, geo)
        known = dims.static(out)
        nonzero = weights_nonzero(node, geo, facts)
        if x is None or size is None or known is None or known[geo.out_axis] is None or nonzero is None:
            through_links(node, spec, facts)
            return
        live, _ = live_inputs(x, size, geo, facts)
        columns = read_inputs(nonzero, live_rows(node, geo, nonzero, facts), geo) & live
        constants = constants_at_border(x, size, geo, facts)
        chosen = facts.borders.get(node)
        if constants is not None and chosen is not None:
            merged = merged_inputs(columns, constants, chosen, geo)
            columns &= ~merged
            columns[standing(merged, chosen, geo)] = True
        partial: Partial = {}
        if not columns.all():
            partial[geo.x_axis] = columns
            if geo.groups == 1:
                facts.skips.add(node)
        through_links(node, spec, facts, {geo.x: partial})
        dead_in = facts.dead_axes(x).get(geo.x_axis)
        if dead_in is not None:
            facts.need_physically(x, geo.x_axis, columns & dead_in.mask)


def live_rows(node: ir.Node, geo: Geometry, nonzero: Mask, facts: Facts) -> Mask:
    """Return ``[o]`` (bool): outputs, of all groups, that are demanded and no constants."""
    out = node.outputs[0]
    rows = facts.demanded(out, geo.out_axis, nonzero.shape[0] * nonzero.shape[1])
    dead = facts.dead_axes(out).get(geo.out_axis)
    return rows if dead is None else rows & ~dead.mask


def fused_with_integers(node: ir.Node, x: int, w: int, bias: int | None, facts: Facts) -> bool:
    """Tell whether a runtime computes this in integers, and has no place for what constants would add.

    Both operands come out of ``DequantizeLinear``; a bias, if there may be one, would need a scale for each output.
    """
    weight, data = stored(node.inputs[w]), stored(node.inputs[x])
    if weight is None or data is None or weight.inputs[1] is None:
        return False
    if node.op_type == "MatMul":
        return True
    return bias is None and facts.constants.size(weight.inputs[1]) != 1


def bias_operand(node: ir.Node, position: int) -> int | None:
    """Return the position of a bias that is there."""
    return position if len(node.inputs) > position and node.inputs[position] is not None else None


@rule("Gemm")
class Gemm(Contraction):
    """``alpha * A' @ B' + beta * C`` with one of A, B a constant."""

    def spec(self, node: ir.Node, facts: Facts) -> Spec | None:
        a, b = node.inputs[0], node.inputs[1]
        if dims.rank(a) != 2 or dims.rank(b) != 2 or dims.rank(node.outputs[0]) != 2:
            return None
        if node.attributes.get_int("broadcast", 0) or "axis" in node.attributes:
            return None
        a_in = 0 if node.attributes.get_int("transA", 0) else 1
        b_in = 1 if node.attributes.get_int("transB", 0) else 0
        alpha, beta = node.attributes.get_float("alpha", 1.0), node.attributes.get_float("beta", 1.0)
        bias = bias_operand(node, 2)
        links = [Link(0, 1 - a_in, 0, 0), Link(1, 1 - b_in, 0, 1)]
        pinned: set[tuple[int, int]] = set()
        if bias is not None:
            c, out_sizes = node.inputs[2], dims.sizes(node.outputs[0])
            c_sizes = dims.sizes(c)
            if c_sizes is None or out_sizes is None:
                return None
            for axis, size in enumerate(c_sizes):
                target = axis + 2 - len(c_sizes)
                if size != 1 and dims.provably_equal(size, out_sizes[target]):
                    links.append(Link(2, axis, 0, target))
                elif size != 1:
                    pinned.add((0, target))
        if facts.constants.known(b):
            fixed = fused_with_integers(node, 0, 1, bias, facts)
            geo = Geometry(0, a_in, 1, b_in, 1 - b_in, 1, bias, position_dependent=fixed, alpha=alpha, beta=beta)
        elif facts.constants.known(a):
            geo = Geometry(1, b_in, 0, a_in, 1 - a_in, 0, bias, alpha=alpha, beta=beta)
        else:
            pair = ((0, a_in), (1, b_in))
            return Spec(links, pair, pinned=frozenset(pinned), products=(pair,), at_source=True)
        return Spec(links, ((geo.x, geo.x_axis),), pinned=frozenset(pinned), at_source=True, extra=geo)

    def backward(self, node: ir.Node, spec: Spec, facts: Facts) -> None:
        backward_product(self, node, spec, facts)


@rule("MatMul")
class MatMul(Contraction):
    """``... m k, ... k n -> ... m n``; a constant on either side, or two live operands."""

    def spec(self, node: ir.Node, facts: Facts) -> Spec | None:
        a, b = node.inputs[0], node.inputs[1]
        rank_a, rank_b, rank = dims.rank(a), dims.rank(b), dims.rank(node.outputs[0])
        if rank_a is None or rank_b is None or rank is None or a is None or b is None or not rank_a or not rank_b:
            return None
        links: list[Link] = []
        pinned: set[tuple[int, int]] = set()
        tail = (rank_a > 1) + (rank_b > 1)
        if rank_a > 1:
            links.append(Link(0, rank_a - 2, 0, rank - tail))
        if rank_b > 1:
            links.append(Link(1, rank_b - 1, 0, rank - 1))
        out_sizes = dims.sizes(node.outputs[0])
        assert out_sizes is not None
        for operand, value, own in ((0, a, rank_a), (1, b, rank_b)):
            value_sizes = dims.sizes(value)
            assert value_sizes is not None
            for axis in range(own - 2):
                target = axis + (rank - tail) - (own - 2)
                if dims.provably_equal(value_sizes[axis], out_sizes[target]):
                    links.append(Link(operand, axis, 0, target))
                elif value_sizes[axis] != 1:
                    pinned.add((0, target))
        frozen = frozenset(pinned)
        if facts.constants.known(b) and rank_b > 1:
            fixed = rank_b > 2 or fused_with_integers(node, 0, 1, None, facts)
            geo = Geometry(0, rank_a - 1, 1, rank_b - 2, rank_b - 1, rank - 1, position_dependent=fixed)
        elif facts.constants.known(a) and rank_a > 1 and rank_b > 1:
            geo = Geometry(1, rank_b - 2, 0, rank_a - 1, rank_a - 2, rank - 2, position_dependent=rank_a > 2)
        else:
            pair = ((0, rank_a - 1), (1, max(rank_b - 2, 0)))
            return Spec(links, pair, pinned=frozen, products=(pair,), at_source=True)
        return Spec(links, ((geo.x, geo.x_axis),), pinned=frozen, at_source=True, extra=geo)

    def forward(self, node: ir.Node, spec: Spec, facts: Facts) -> None:
        super().forward(node, spec, facts)
        # Zeros of an outer or batch axis of either operand are zeros of the product.
        out = node.outputs[0]
        for link in spec.links:
            value = node.inputs[link.operand]
            other = node.inputs[1 - link.operand]
            if value is None or is_constant(value) or not facts.is_finite(other):
                continue
            dead = facts.dead_axes(value).get(link.axis)
            if dead is None:
                continue
            zero = dead.mask & (dead.fill == 0)
            have = facts.dead_axes(out).get(link.out_axis)
            fill = np.zeros(zero.size, dead.fill.dtype)
            if have is not None:
                zero, fill = zero | have.mask, np.where(have.mask, have.fill, fill).astype(have.fill.dtype)
            facts.set_dead(out, link.out_axis, zero, fill)

    def backward(self, node: ir.Node, spec: Spec, facts: Facts) -> None:
        backward_product(self, node, spec, facts)


def backward_product(contraction: Contraction, node: ir.Node, spec: Spec, facts: Facts) -> None:
    """Demands of a product: as a contraction with constant weights, or of two live operands."""
    if not spec.products:
        Contraction.backward(contraction, node, spec, facts)
        return
    zeros: list[Mask | None] = []
    sizes: list[int | None] = []
    for operand, axis in spec.products[0]:
        value = node.inputs[operand]
        known = dims.static(value)
        size = None if known is None else known[axis]
        along = None if value is None or size is None else facts.along(value, axis, size)
        sizes.append(size)
        zeros.append(None if along is None else along[0] & (along[1] == 0))
    more: dict[int, Partial] = {}
    if sizes[0] is not None and sizes[0] == sizes[1]:
        for mine, (operand, axis) in enumerate(spec.products[0]):
            value, other, own = node.inputs[operand], zeros[1 - mine], zeros[mine]
            dead = facts.dead_axes(value).get(axis)
            if dead is not None and value is not None and facts.demand.get(node.outputs[0]) is not None:
                # Constants of both operands may meet: they stay as planes.
                planes = dead.mask & (dead.fill != 0)
                facts.need_physically(value, axis, planes if other is None else planes & ~other)
            if other is None or not other.any():
                continue
            wanted = ~other if own is None else ~other | own
            if not wanted.all():
                more[operand] = {axis: wanted}
    through_links(node, spec, facts, more)
