"""MatMulNBits: a weight of a few bits a number, packed in blocks along the contracted axis that share a scale."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.facts.ops.qlinear import operand
from graphopt.facts.rules import MICROSOFT, Rule, identity_links, rule, through_links
from graphopt.facts.store import Facts, Group, Link, Mask, Spec

B, SCALES, ZEROS, INDEX, BIAS = 1, 2, 3, 4, 5
"""Positions of the packed weight and of what belongs to it."""


@dataclass(frozen=True, slots=True)
class Packed:
    """``[n, k]`` numbers of ``bits`` bits, in blocks of ``size`` along ``k``."""

    n: int
    k: int
    bits: int
    size: int

    @property
    def blocks(self) -> int:
        """How many blocks a row has; the last one may be shorter."""
        return -(-self.k // self.size)

    def kept_blocks(self, positions: np.ndarray) -> np.ndarray:
        """Return the blocks that hold some positions of ``k``."""
        return np.unique(positions // self.size)

    def positions(self, blocks: np.ndarray) -> np.ndarray:
        """Return the positions of ``k`` in some blocks."""
        found = (blocks[:, None] * self.size + np.arange(self.size)).ravel()
        return found[found < self.k]


def packing(node: ir.Node) -> Packed | None:
    """Return how a node's weight is packed; ``None`` for what is not understood."""
    n, k = node.attributes.get_int("N", 0), node.attributes.get_int("K", 0)
    found = Packed(n, k, node.attributes.get_int("bits", 4), node.attributes.get_int("block_size", 0))
    if min(n, k, found.size) < 1 or found.bits not in (4, 8):
        return None
    known = dims.static(node.inputs[B])
    return found if known == (n, found.blocks, found.size * found.bits // 8) else None


def unpacked(array: np.ndarray, bits: int) -> np.ndarray:
    """Return the numbers (uint8) of packed bytes along the last axis: the low half of a byte comes first."""
    if bits == 8:
        return array
    return np.stack([array & 15, array >> 4], axis=-1).reshape(*array.shape[:-1], -1)


def zero_points(array: np.ndarray, packed: Packed) -> np.ndarray | None:
    """Return ``[n, blocks]`` zero points of packed bytes or of floats; ``None`` where there are not that many."""
    if array.size % packed.n:
        return None
    rows = array.reshape(packed.n, -1)
    rows = unpacked(rows, packed.bits) if array.dtype == np.uint8 else rows
    return rows[:, : packed.blocks] if rows.shape[1] >= packed.blocks else None


@rule("MatMulNBits", domain=MICROSOFT)
class MatMulNBits(Rule):
    """``... k, n k -> ... n``: outputs are cut one by one, inputs in whole blocks, for the blocks share scales."""

    def spec(self, node: ir.Node, facts: Facts) -> Spec | None:
        rank, known, packed = dims.rank(node.inputs[0]), dims.static(node.inputs[0]), packing(node)
        others = [operand(node, place) for place in (B, SCALES, ZEROS, INDEX, BIAS)]
        if rank is None or known is None or packed is None or known[-1] != packed.k:
            return None
        if dims.rank(node.outputs[0]) != rank or any(v is not None and not facts.constants.known(v) for v in others):
            return None
        links = [*identity_links(rank, range(rank - 1)), Link(B, 0, 0, rank - 1)]
        if others[INDEX - B] is not None:
            return Spec(links, at_source=True, reason="its inputs are in an order of their own", extra=packed)
        group = Group(packed.blocks, ((0, rank - 1, np.arange(packed.k) // packed.size),))
        return Spec(links, ((0, rank - 1),), groups=(group,), at_source=True, extra=packed)

    def forward(self, node: ir.Node, spec: Spec, facts: Facts) -> None:
        packed, bias = spec.extra, operand(node, BIAS)
        assert isinstance(packed, Packed)
        if not facts.is_finite(node.inputs[0]):
            return
        mask = self._dead_rows(node, packed, facts)
        fill = None if bias is None else facts.constants.array(bias)
        out = node.outputs[0]
        kind = np.dtype(np.float32) if out.dtype is None else out.dtype.numpy()
        values = np.zeros(packed.n, kind) if fill is None else fill.astype(kind)
        facts.set_dead(out, (dims.rank(out) or 1) - 1, mask, values)

    def backward(self, node: ir.Node, spec: Spec, facts: Facts) -> None:
        through_links(node, spec, facts)
        value = node.inputs[0]
        dead = None if value is None else facts.dead_axes(value).get((dims.rank(value) or 1) - 1)
        if value is not None and dead is not None and facts.demand.get(node.outputs[0]) is not None:
            facts.need_physically(value, (dims.rank(value) or 1) - 1, dead.mask & (dead.fill != 0))

    def _dead_rows(self, node: ir.Node, packed: Packed, facts: Facts) -> Mask:
        """Return ``[n]`` (bool): rows of which every number is at its zero point."""
        weight = facts.constants.array(node.inputs[B])
        assert weight is not None
        given = operand(node, ZEROS)
        array = None if given is None else facts.constants.array(given)
        points = (
            np.full((packed.n, packed.blocks), 1 << (packed.bits - 1)) if array is None else zero_points(array, packed)
        )
        if points is None:
            return np.zeros(packed.n, bool)
        numbers = unpacked(weight, packed.bits)
        away = (numbers != points[:, :, None]).reshape(packed.n, -1)[:, : packed.k]
        return ~away.any(axis=1)
