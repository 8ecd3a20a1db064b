"""Attention operators: ``softmax(scale * Q K' + mask) V`` head by head.

A head whose values are zero gives zero; a head that nobody reads needs neither queries nor keys nor values. Query heads
that share a key/value head live and die with it, and with each other. Of the last axis of queries and keys (where heads
have an axis of their own) a position that is zero in either adds nothing to any score; the scale stays that of the
original size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.facts.rules import MICROSOFT, Rule, rule, through_links
from graphopt.facts.store import Facts, Group, Link, Mask, Partial, Spec

Q, K, V = range(3)


@dataclass(frozen=True, slots=True)
class Heads:
    """The heads of an attention operator."""

    queries: int
    shared: int
    """How many heads of keys and values there are."""
    axis: int
    """Of heads: 1 of four axes; 2 of three, where it holds ``heads * size`` positions."""
    sizes: tuple[int, int, int]
    """Positions of one head on that axis: of queries, keys and values. The result's are those of the values."""
    mask: int
    """Operand that is added to the scores."""
    bias: int | None = None
    """Operand ``[queries + keys + values]`` that is added to the three."""

    @property
    def together(self) -> int:
        """How many query heads share a key/value head."""
        return self.queries // self.shared

    def numbers(self, operand: int) -> np.ndarray:
        """Return for each position of an operand's head axis the key/value head that it belongs to."""
        if operand == Q:
            return np.repeat(np.arange(self.queries) // self.together, self.sizes[Q])
        return np.repeat(np.arange(self.shared), self.sizes[operand])

    def result(self) -> np.ndarray:
        """Return the same for the result."""
        return np.repeat(np.arange(self.queries) // self.together, self.sizes[V])

    def source(self) -> np.ndarray:
        """Return for each position of the result's head axis the position of the values that it is made of."""
        head, place = np.divmod(np.arange(self.queries * self.sizes[V]), self.sizes[V])
        return head // self.together * self.sizes[V] + place


def heads_of(spec: Spec) -> Heads | None:
    """Return what an attention operator's rule found, or ``None`` for other nodes."""
    return spec.extra if isinstance(spec.extra, Heads) else None


def _optional(node: ir.Node, position: int) -> ir.Value | None:
    return node.inputs[position] if len(node.inputs) > position else None


def _plain(node: ir.Node, mask: int) -> bool:
    """Tell whether a node has queries, keys, values and perhaps a mask, and nothing that carries over."""
    if len(node.inputs) < 3 or any(node.inputs[position] is None for position in (Q, K, V)):
        return False
    if any(out.uses() or out.is_graph_output() for out in node.outputs[1:]):
        return False
    return all(value is None for value in node.inputs[mask + 1 :])


@rule("Attention")
class Attention(Rule):
    """``Y[h] = softmax(scale * Q[h] K[h//g]' + mask[h]) V[h//g]``, heads on an axis of their own or not."""

    def spec(self, node: ir.Node, facts: Facts) -> Spec | None:
        found = self._heads(node)
        if found is None or not self._mask_fits(node, found, facts):
            return None
        axis = found.axis
        rows = 1 if axis == 2 else 2
        links = [Link(Q, rows, 0, rows)] if _same_for_rows(node, found) else []
        contracted = tuple((operand, axis) for operand in (Q, K, V))
        products: tuple[tuple[tuple[int, int], tuple[int, int]], ...] = ()
        if axis == 1:
            links.append(Link(V, 3, 0, 3))
            products = (((Q, 3), (K, 3)),)
            contracted += products[0]
        inputs = tuple((operand, axis, found.numbers(operand)) for operand in (Q, K, V))
        group = Group(found.shared, inputs, ((0, axis, found.result()),))
        return Spec(
            links, contracted, products=products, groups=(group,), reason="attention reads this axis whole", extra=found
        )

    def _heads(self, node: ir.Node) -> Heads | None:
        if not _plain(node, 3):
            return None
        known = [dims.static(value) for value in (*node.inputs[:3], node.outputs[0])]
        ranks = {None if sizes is None else len(sizes) for sizes in known}
        queries, shared = node.attributes.get_int("q_num_heads", 0), node.attributes.get_int("kv_num_heads", 0)
        if ranks == {4}:
            queries, shared = known[Q][1] or 0, known[K][1] or 0  # type: ignore[index]
            return _checked(Heads(queries, shared, 1, (1, 1, 1), 3), node)
        if ranks != {3} or not queries or not shared:
            return None
        return _checked(_flat(known, queries, shared, 3), node)  # type: ignore[arg-type]

    @staticmethod
    def _mask_fits(node: ir.Node, found: Heads, facts: Facts) -> bool:
        """A mask that differs from head to head is cut with them: it must be a constant."""
        mask = _optional(node, found.mask)
        known = dims.sizes(mask)
        if mask is None:
            return True
        if known is None or len(known) > 4:
            return False
        return len(known) < 3 or known[-3] == 1 or (known[-3] == found.queries and facts.constants.known(mask))

    def forward(self, node: ir.Node, spec: Spec, facts: Facts) -> None:
        found, out = heads_of(spec), node.outputs[0]
        if found is None or not all(facts.is_finite(node.inputs[operand]) for operand in (Q, K)):
            return
        mask = _optional(node, found.mask)
        if mask is not None and not _leaves_something(mask, facts):
            return
        zero = _zeros(node, found, facts)
        if zero is not None:
            chosen = zero[found.source()]
            dtype = np.float32 if out.dtype is None else out.dtype.numpy()
            facts.set_dead(out, found.axis, chosen, np.zeros(chosen.size, dtype))
        dead = facts.dead_axes(node.inputs[V]).get(3)
        if found.axis == 1 and dead is not None:
            facts.set_dead(out, 3, dead.mask & (dead.fill == 0), np.zeros(dead.mask.size, dead.fill.dtype))

    def backward(self, node: ir.Node, spec: Spec, facts: Facts) -> None:
        found, out = heads_of(spec), node.outputs[0]
        if found is None or facts.demand.get(out) is None:
            through_links(node, spec, facts)
            return
        source = found.source()
        wanted = facts.demanded(out, found.axis, source.size)
        dead = facts.dead_axes(out).get(found.axis)
        live = wanted if dead is None else wanted & ~dead.mask
        heads = np.zeros(found.shared, bool)
        heads[found.result()[live]] = True
        more: dict[int, Partial] = {}
        if found.together == 1:
            for operand in (Q, K):
                more[operand] = {found.axis: heads[found.numbers(operand)]}
        else:
            alone = live.reshape(found.queries, -1).any(axis=1)
            more[Q] = {found.axis: np.repeat(alone, found.sizes[Q])}
            more[K] = {found.axis: heads[found.numbers(K)]}
        zero = _zeros(node, found, facts)
        read = wanted if dead is None or zero is None else wanted & (~dead.mask | zero[source])
        values = np.zeros(found.shared * found.sizes[V], bool)
        values[source[read]] = True
        more[V] = {found.axis: values}
        if found.axis == 1:
            self._score_positions(node, more, facts)
        through_links(
            node, spec, facts, {k: {a: m for a, m in part.items() if not m.all()} for k, part in more.items()}
        )
        for operand in (Q, K, V):
            for axis in more[operand]:
                self._planes(node.inputs[operand], axis, facts)

    @staticmethod
    def _score_positions(node: ir.Node, more: dict[int, Partial], facts: Facts) -> None:
        """A position of queries is not read where keys are zero, and the other way round."""
        zeros: list[Mask | None] = []
        for operand in (Q, K):
            value = node.inputs[operand]
            known = dims.static(value)
            size = None if known is None else known[3]
            along = None if value is None or size is None else facts.along(value, 3, size)
            zeros.append(None if along is None else along[0] & (along[1] == 0))
        for operand in (Q, K):
            own, other = zeros[operand], zeros[1 - operand]
            if other is not None and other.any():
                more[operand][3] = ~other if own is None else ~other | own

    @staticmethod
    def _planes(value: ir.Value | None, axis: int, facts: Facts) -> None:
        dead = facts.dead_axes(value).get(axis)
        if dead is not None and value is not None:
            facts.need_physically(value, axis, dead.mask & (dead.fill != 0))


@rule("MultiHeadAttention", domain=MICROSOFT)
class MultiHeadAttention(Attention):
    """The same with ``[batch, sequence, heads * size]``, as many heads of keys and values, and a bias on all three."""

    def _heads(self, node: ir.Node) -> Heads | None:
        count = node.attributes.get_int("num_heads", 0)
        if not count or not _plain(node, 5) or _optional(node, 4) is not None:
            return None
        known = [dims.static(value) for value in (*node.inputs[:3], node.outputs[0])]
        if any(sizes is None or len(sizes) != 3 for sizes in known):
            return None
        bias = None if _optional(node, 3) is None else 3
        return _checked(_flat(known, count, count, 5, bias), node)  # type: ignore[arg-type]

    def spec(self, node: ir.Node, facts: Facts) -> Spec | None:
        found = self._heads(node)
        if found is not None and found.bias is not None and not facts.constants.known(node.inputs[found.bias]):
            return None
        return super().spec(node, facts)


def _same_for_rows(node: ir.Node, found: Heads) -> bool:
    """Tell whether every query sees the same keys: where one does not, its place in the sequence counts."""
    if node.attributes.get_int("is_causal", 0) or node.attributes.get_int("unidirectional", 0):
        return False
    known = dims.sizes(_optional(node, found.mask))
    return known is None or len(known) < 2 or known[-2] == 1


def _flat(
    known: list[tuple[int | None, ...]], queries: int, shared: int, mask: int, bias: int | None = None
) -> Heads | None:
    widths = [sizes[2] or 0 for sizes in known[:3]]
    counts = (queries, shared, shared)
    if any(width == 0 or width % count for width, count in zip(widths, counts, strict=True)):
        return None
    q, k, v = (width // count for width, count in zip(widths, counts, strict=True))
    return Heads(queries, shared, 2, (q, k, v), mask, bias)


def _checked(found: Heads | None, node: ir.Node) -> Heads | None:
    """Return heads that every operand and the result agree on."""
    if found is None or not found.queries or not found.shared or found.queries % found.shared:
        return None
    ends = [(node.inputs[operand], found.numbers(operand).size) for operand in (Q, K, V)]
    for value, size in [*ends, (node.outputs[0], found.result().size)]:
        if (dims.static(value) or (None,) * 4)[found.axis] != size:
            return None
    return found


def _zeros(node: ir.Node, found: Heads, facts: Facts) -> Mask | None:
    """Return the positions of the values' head axis that are zero, bias included."""
    value = node.inputs[V]
    size = found.shared * found.sizes[V]
    along = None if value is None else facts.along(value, found.axis, size)
    if along is None:
        return None
    zero = along[0] & (along[1] == 0)
    if found.bias is not None:
        bias = facts.constants.array(node.inputs[found.bias])
        if bias is None or bias.ndim != 1:
            return None
        zero &= bias[-size:] == 0
    return zero


def _leaves_something(mask: ir.Value, facts: Facts) -> bool:
    """Tell whether a mask lets every query see something: where it does not, the result is no number."""
    if not facts.constants.known(mask):
        return facts.is_finite(mask)
    array = facts.constants.array(mask)
    if array is None or not array.size:
        return False
    seen = array if array.dtype == bool else np.isfinite(array.astype(np.float64))
    return bool(seen.any(axis=-1).all())
