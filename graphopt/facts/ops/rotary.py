"""Rotary embeddings: pairs of positions of a head are turned by an angle that depends on the token.

A head whose positions are zero stays zero, and nobody's head reaches another one; the positions of a head are mixed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.facts.ops.qlinear import operand
from graphopt.facts.rules import MICROSOFT, Rule, rule, through_links
from graphopt.facts.store import Facts, Group, Link, Spec

X = 0
CACHES = {"": (1, 2), MICROSOFT: (2, 3)}
"""Where an operator's cosines and sines are."""


@dataclass(frozen=True, slots=True)
class Rotary:
    """The heads of ``[batch, sequence, heads * size]``."""

    heads: int
    size: int

    @property
    def numbers(self) -> np.ndarray:
        """For each position of the last axis the head that it belongs to."""
        return np.repeat(np.arange(self.heads), self.size)


@rule("RotaryEmbedding")
@rule("RotaryEmbedding", domain=MICROSOFT)
class RotaryEmbedding(Rule):
    """``y[h, t] = R(t) x[h, t]`` for every head ``h``; heads have an axis of their own (1 of four), or blocks."""

    def spec(self, node: ir.Node, facts: Facts) -> Spec | None:
        known, result = dims.static(node.inputs[X]), dims.static(node.outputs[0])
        if known is None or result is None or len(known) != len(result):
            return None
        reason = "a rotary embedding mixes the positions of a head"
        if len(known) == 4:
            return Spec([Link(X, 1, 0, 1)], reason=reason)
        heads = self._heads(node, known[2]) if len(known) == 3 and known[2] == result[2] else 0
        if not heads or not known[2] or known[2] % heads:
            return None
        found = Rotary(heads, known[2] // heads)
        group = Group(heads, ((X, 2, found.numbers),), ((0, 2, found.numbers),))
        return Spec([], ((X, 2),), groups=(group,), reason=reason, extra=found)

    @staticmethod
    def _heads(node: ir.Node, width: int | None) -> int:
        """Return how many heads there are, which onnxruntime's own operator may leave to the caches."""
        count = node.attributes.get_int("num_heads", 0)
        if count or node.domain != MICROSOFT or width is None:
            return count
        half = (dims.static(operand(node, CACHES[MICROSOFT][0])) or (None,))[-1]
        return 0 if not half or width % (2 * half) else width // (2 * half)

    def forward(self, node: ir.Node, spec: Spec, facts: Facts) -> None:
        out = node.outputs[0]
        caches = CACHES[MICROSOFT if node.domain == MICROSOFT else ""]
        if not all(facts.is_finite(operand(node, place)) for place in caches):
            return
        axis = 1 if spec.extra is None else 2
        dead = facts.dead_axes(node.inputs[X]).get(axis)
        if dead is None:
            return
        zero = dead.mask & (dead.fill == 0)
        if isinstance(spec.extra, Rotary):
            zero = np.repeat(zero.reshape(spec.extra.heads, -1).all(axis=1), spec.extra.size)
        facts.set_dead(out, axis, zero, np.zeros(zero.size, dead.fill.dtype))

    def backward(self, node: ir.Node, spec: Spec, facts: Facts) -> None:
        found, value, out = spec.extra, node.inputs[X], node.outputs[0]
        if not isinstance(found, Rotary) or facts.demand.get(out) is None:
            through_links(node, spec, facts)
            return
        wanted = facts.demanded(out, 2, found.heads * found.size)
        heads = np.asarray(wanted.reshape(found.heads, -1).any(axis=1))
        through_links(node, spec, facts, {X: {} if heads.all() else {2: heads[found.numbers]}})
        dead = facts.dead_axes(value).get(2)
        if dead is not None and value is not None:
            facts.need_physically(value, 2, dead.mask & (dead.fill != 0))
