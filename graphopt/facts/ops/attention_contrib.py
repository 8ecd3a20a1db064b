"""Attention with a cache of keys and values, and attention that multiplies by weights of its own.

``GroupQueryAttention`` and ``Attention`` with past and present: each of ``shared`` heads of keys and values serves
``queries / shared`` heads of queries, the same number each. What a cache holds is read and written by name, so that
its heads stay; heads of queries go as many from each. Without a cache a head of keys and values goes when all that it
serves go.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.facts.ops.attention import Attention, heads_of
from graphopt.facts.ops.qlinear import operand
from graphopt.facts.rules import MICROSOFT, Rule, rule, through_links
from graphopt.facts.store import Facts, Group, Mask, Partial, Spec

Q, K, V = range(3)


@dataclass(frozen=True, slots=True)
class Served:
    """Heads of queries, and the heads of keys and values that serve them."""

    queries: int
    shared: int
    axis: int
    """Of heads in queries and in the result: 1 of four axes; 2 of three, where it holds ``heads * size`` positions."""
    sizes: tuple[int, int, int]
    """Positions of one head on that axis: of queries, keys and values. The result's are those of the values."""
    packed: bool
    """All three come in one operand, one behind the other."""
    cached: bool
    """Keys and values are written to a cache, whose heads are a promise."""
    past: bool
    """Keys and values are read from a cache."""
    per_head: tuple[tuple[int, int], ...] = ()
    """Constants (operand, axis) of which every head of queries has its own."""

    @property
    def together(self) -> int:
        """How many heads of queries one head of keys and values serves."""
        return self.queries // self.shared

    def positions(self, queries: np.ndarray, shared: np.ndarray) -> dict[int, np.ndarray]:
        """Return for each operand what belongs to every position of its heads, given what belongs to the heads."""
        found = [np.repeat(each, size) for each, size in zip((queries, shared, shared), self.sizes, strict=True)]
        return {Q: np.concatenate(found)} if self.packed else dict(enumerate(found))

    def result(self, queries: np.ndarray) -> np.ndarray:
        """Return the same for the result."""
        return np.repeat(queries, self.sizes[V])

    def read(self, out: ir.Value, facts: Facts) -> Mask:
        """Return ``[queries]`` (bool): the heads of which the result is read, zeros left out."""
        wanted = facts.demanded(out, self.axis, self.queries * self.sizes[V])
        dead = facts.dead_axes(out).get(self.axis)
        live = wanted if dead is None else wanted & ~dead.mask
        return np.asarray(live.reshape(self.queries, -1).any(axis=1))

    def group(self, live: Mask | None = None) -> Group:
        """Return which positions go together, given which heads of queries (bool ``[queries]``) are read.

        What is kept must go on serving equal numbers. So either whole heads of keys and values go with all that they
        serve; or, where each that is read serves some heads that nobody reads, as many of those from each, all at once.
        """
        served, apart = np.arange(self.queries) // self.together, self.shared
        by_shared = np.ones((self.shared, self.together), bool) if live is None else live.reshape(self.shared, -1)
        read = np.asarray(by_shared.any(axis=1) | self.cached)
        spare = min(int((~by_shared[read]).sum(axis=1).min(initial=self.together)), self.together - 1)
        spared = ~by_shared & (np.cumsum(~by_shared, axis=1) <= spare)
        if read.all() and (spare or self.cached):  # keys and values stay as they are
            numbers, shared = np.where(spared.ravel(), apart, 0), np.full(self.shared, -1)
        elif spare and read.any():
            numbers = np.where((spared | ~read[:, None]).ravel(), apart, served)
            shared = np.where(read, np.arange(self.shared), apart)
        else:
            numbers, shared = served, np.arange(self.shared)
        ends = [(place, self.axis, each) for place, each in self.positions(numbers, shared).items()]
        ends = [end for end in ends if (end[2] >= 0).any()]
        return Group(self.shared + 1, tuple(ends), ((0, self.axis, self.result(numbers)),))


def _used(node: ir.Node, position: int) -> bool:
    return position < len(node.outputs) and (
        bool(node.outputs[position].uses()) or node.outputs[position].is_graph_output()
    )


def _checked(found: Served, node: ir.Node) -> Served | None:
    """Return heads that every operand and the result agree on."""
    if not found.queries or not found.shared or found.queries % found.shared or not all(found.sizes):
        return None
    sizes = found.positions(np.arange(found.queries), np.arange(found.shared))
    ends = [(node.inputs[place], 1 if found.axis == 1 else 2, each.size) for place, each in sizes.items()]
    ends.append((node.outputs[0], found.axis, found.queries * found.sizes[V]))
    for value, axis, size in ends:
        known = dims.static(value)
        if known is None or len(known) != (4 if found.axis == 1 else 3) or known[axis] != size:
            return None
    return found


def _of_heads(node: ir.Node, place: int, axis: int, queries: int, facts: Facts) -> tuple[tuple[int, int], ...] | None:
    """Return the end of a per-head operand: none where heads share it, ``None`` where it cannot be cut."""
    value = operand(node, place)
    known = dims.sizes(value)
    if value is None:
        return ()
    if known is None or len(known) < -axis:
        return () if known is not None else None
    if known[axis] == 1 and len(known) > 1:
        return ()
    return ((place, axis % len(known)),) if known[axis] == queries and facts.constants.known(value) else None


class ServedAttention(Rule):
    """``Y[h] = softmax(scale * Q[h] K[h//g]' + bias[h]) V[h//g]``, keys and values from a cache or not."""

    def find(self, node: ir.Node, facts: Facts) -> Served | None:
        """Return the heads, or ``None`` for a form that is left alone."""
        raise NotImplementedError

    def spec(self, node: ir.Node, facts: Facts) -> Spec | None:
        found = self.find(node, facts)
        return None if found is None else self.described(found)

    @staticmethod
    def described(found: Served) -> Spec:
        """Return the spec that follows from the heads."""
        group = found.group()
        contracted = tuple((place, axis) for place, axis, _ in group.inputs)
        reason = "attention reads this axis whole, and a cache keeps its heads"
        return Spec([], contracted, groups=(group,), reason=reason, extra=found)

    def forward(self, node: ir.Node, spec: Spec, facts: Facts) -> None:
        found, out = spec.extra, node.outputs[0]
        assert isinstance(found, Served)
        if found.past or not all(facts.is_finite(value) for value in node.inputs):
            return
        place = Q if found.packed else V
        sizes = found.positions(np.arange(found.queries), np.arange(found.shared))[place].size
        value = node.inputs[place]
        along = None if value is None else facts.along(value, found.axis, sizes)
        if along is None:
            return
        zero = (along[0] & (along[1] == 0))[-found.shared * found.sizes[V] :].reshape(found.shared, -1)
        chosen = np.repeat(zero, found.together, axis=0).ravel()
        dtype = np.float32 if out.dtype is None else out.dtype.numpy()
        facts.set_dead(out, found.axis, chosen, np.zeros(chosen.size, dtype))

    def backward(self, node: ir.Node, spec: Spec, facts: Facts) -> None:
        found, out = spec.extra, node.outputs[0]
        assert isinstance(found, Served)
        more: dict[int, Partial] = {}
        if facts.demand.get(out) is not None:
            wanted = facts.demanded(out, found.axis, found.queries * found.sizes[V])
            heads = found.read(out, facts)
            # Which heads go together is settled here: forward, nobody knows yet which of them are read.
            spec.groups = (found.group(heads),)
            whole = np.full(found.shared, found.cached)
            served = np.asarray(whole | heads.reshape(found.shared, -1).any(axis=1))
            read = np.asarray(whole | wanted.reshape(found.shared, -1).any(axis=1))
            masks = found.positions(heads, served)
            values = found.positions(heads, read)
            if found.packed:
                end = found.shared * found.sizes[V]
                masks[Q] = np.concatenate([masks[Q][:-end], values[Q][-end:]])
            else:
                masks[V] = values[V]
            more = {place: {found.axis: mask} for place, mask in masks.items() if not mask.all()}
        through_links(node, spec, facts, more)
        for place in more:
            value = node.inputs[place]
            dead = facts.dead_axes(value).get(found.axis)
            if dead is not None and value is not None:
                facts.need_physically(value, found.axis, dead.mask & (dead.fill != 0))


@rule("GroupQueryAttention", domain=MICROSOFT)
class GroupQueryAttention(ServedAttention):
    """Inputs: query, key, value, past key, past value, lengths, total length, cosines, sines, positions, bias, sink."""

    BIAS, SINK, LAST = 10, 11, 11

    def find(self, node: ir.Node, facts: Facts) -> Served | None:
        queries, shared = (node.attributes.get_int(name, 0) for name in ("num_heads", "kv_num_heads"))
        if not queries or not shared or _used(node, 3) or any(value is not None for value in node.inputs[12:]):
            return None
        if node.attributes.get_int("kv_cache_bit_width", 0):
            return None
        packed, past = operand(node, K) is None, operand(node, 3) is not None
        width = (dims.static(node.inputs[Q]) or (None,))[-1]
        heads = queries + 2 * shared if packed else queries
        cached = past or _used(node, 1) or _used(node, 2)
        if not width or width % heads or packed != (operand(node, V) is None):
            return None
        bias = _of_heads(node, self.BIAS, -3, queries, facts)
        sink = _of_heads(node, self.SINK, -1, queries, facts)
        if bias is None or sink is None:
            return None
        size = width // heads
        return _checked(Served(queries, shared, 2, (size, size, size), packed, cached, past, bias + sink), node)


class WithCache(ServedAttention):
    """The standard operator with past or present keys and values.

    Inputs: query, key, value, mask, past key, past value, lengths.
    """

    MASK, PAST = 3, 4

    def find(self, node: ir.Node, facts: Facts) -> Served | None:
        if any(operand(node, place) is None for place in (Q, K, V)) or _used(node, 3):
            return None
        known = [dims.static(node.inputs[place]) for place in (Q, K, V)]
        queries, shared = (node.attributes.get_int(name, 0) for name in ("q_num_heads", "kv_num_heads"))
        axis = 2
        if all(sizes is not None and len(sizes) == 4 for sizes in known):
            axis, queries, shared = 1, known[Q][1] or 0, known[K][1] or 0  # type: ignore[index]
        elif not queries or not shared or any(sizes is None or len(sizes) != 3 for sizes in known):
            return None
        widths = [sizes[axis] or 0 for sizes in known if sizes is not None]
        counts = (queries, shared, shared)
        if not all(counts) or any(width % count for width, count in zip(widths, counts, strict=True)):
            return None
        mask = _of_heads(node, self.MASK, -3, queries, facts)
        q, k, v = (width // count for width, count in zip(widths, counts, strict=True))
        past = operand(node, self.PAST) is not None
        return (
            None if mask is None else _checked(Served(queries, shared, axis, (q, k, v), False, True, past, mask), node)
        )

    def forward(self, node: ir.Node, spec: Spec, facts: Facts) -> None:
        mask = operand(node, self.MASK)
        if mask is None or mask.dtype != ir.DataType.BOOL:  # one that lets nothing through makes no number
            super().forward(node, spec, facts)


@rule("Attention")
class StandardAttention(Attention):
    """As its parent says; where keys and values come from a cache or go to one, as for grouped queries."""

    with_cache = WithCache()

    def spec(self, node: ir.Node, facts: Facts) -> Spec | None:
        if _used(node, 1) or _used(node, 2) or any(operand(node, place) is not None for place in (4, 5)):
            return self.with_cache.spec(node, facts)
        return super().spec(node, facts)

    def forward(self, node: ir.Node, spec: Spec, facts: Facts) -> None:
        if isinstance(spec.extra, Served):
            self.with_cache.forward(node, spec, facts)
        else:
            super().forward(node, spec, facts)

    def backward(self, node: ir.Node, spec: Spec, facts: Facts) -> None:
        if isinstance(spec.extra, Served):
            self.with_cache.backward(node, spec, facts)
            return
        super().backward(node, spec, facts)
        found, out = heads_of(spec), node.outputs[0]
        if found is not None and found.together > 1 and facts.demand.get(out) is not None:
            heads = Served(found.queries, found.shared, found.axis, found.sizes, packed=False, cached=False, past=False)
            spec.groups = (heads.group(heads.read(out, facts)),)


@dataclass(frozen=True, slots=True)
class Projected:
    """Attention that makes queries, keys and values of its input: weight ``[input, queries + keys + values]``."""

    heads: int
    sizes: tuple[int, int, int]
    """Positions of one head of queries, keys and values."""
    per_head: tuple[tuple[int, int], ...]

    def numbers(self) -> np.ndarray:
        """Return for each column of the weight the head that it belongs to."""
        return np.concatenate([np.repeat(np.arange(self.heads), size) for size in self.sizes])

    def result(self) -> np.ndarray:
        """Return the same for the result."""
        return np.repeat(np.arange(self.heads), self.sizes[V])


X, WEIGHT, BIAS, MASK, PAST, ADDED = range(6)


@rule("Attention", domain=MICROSOFT)
class ProjectedAttention(Rule):
    """``Y[h] = softmax(scale * (x Wq[h] + bq[h]) (x Wk[h] + bk[h])' + mask) (x Wv[h] + bv[h])``.

    A head whose values are zero gives zero. An input is read where a head that is read has a weight for it; constant
    inputs go into the bias.
    """

    def spec(self, node: ir.Node, facts: Facts) -> Spec | None:
        if operand(node, PAST) is not None or _used(node, 1) or any(v is not None for v in node.inputs[6:]):
            return None
        weight, bias = operand(node, WEIGHT), operand(node, BIAS)
        if bias is None or not facts.constants.known(weight) or not facts.constants.known(bias):
            return None
        x, known, result = (dims.static(value) for value in (node.inputs[X], weight, node.outputs[0]))
        heads = node.attributes.get_int("num_heads", 0)
        if x is None or known is None or result is None or len(x) != 3 or len(known) != 2 or not heads:
            return None
        columns = known[1] or 0
        widths = list(node.attributes.get_ints("qkv_hidden_sizes", ())) or [columns // 3] * 3
        if len(widths) != 3 or sum(widths) != columns or not all(widths) or any(width % heads for width in widths):
            return None
        added = _of_heads(node, ADDED, -3, heads, facts)
        if added is None or x[2] != known[0] or dims.static(bias) != (columns,) or result != (*result[:2], widths[V]):
            return None
        q, k, v = (width // heads for width in widths)
        found = Projected(heads, (q, k, v), added)
        group = Group(heads, (), ((0, 2, found.result()),))
        return Spec([], ((X, 2),), groups=(group,), reason="attention reads this axis whole", extra=found)

    def forward(self, node: ir.Node, spec: Spec, facts: Facts) -> None:
        found, out = spec.extra, node.outputs[0]
        assert isinstance(found, Projected)
        if not all(facts.is_finite(value) for value in node.inputs):
            return
        weight, bias = facts.constants.array(node.inputs[WEIGHT]), facts.constants.array(node.inputs[BIAS])
        assert weight is not None and bias is not None
        start, dead = -found.heads * found.sizes[V], facts.dead_axes(node.inputs[X]).get(2)
        live = np.ones(weight.shape[0], bool) if dead is None else ~(dead.mask & (dead.fill == 0))
        silent = ~(weight[:, start:][live] != 0).any(axis=0) & (bias[start:] == 0)
        _let_go(node, facts)
        facts.set_dead(out, 2, silent, np.zeros(silent.size, bias.dtype))

    def backward(self, node: ir.Node, spec: Spec, facts: Facts) -> None:
        found, x, out = spec.extra, node.inputs[X], node.outputs[0]
        assert isinstance(found, Projected) and x is not None
        if facts.demand.get(out) is None:
            return
        wanted = facts.demanded(out, 2, found.heads * found.sizes[V])
        dead = facts.dead_axes(out).get(2)
        live = wanted if dead is None else wanted & ~dead.mask
        heads = live.reshape(found.heads, -1).any(axis=1)
        rows = read_rows(node, found, np.flatnonzero(heads), facts)
        through_links(node, spec, facts, {} if rows.all() else {X: {2: rows}})


def read_rows(node: ir.Node, found: Projected, heads: np.ndarray, facts: Facts) -> Mask:
    """Return ``[input]`` (bool): is there a weight between an input and one of the heads?"""
    weight = facts.constants.array(node.inputs[WEIGHT])
    assert weight is not None
    read = np.asarray((weight[:, np.isin(found.numbers(), heads)] != 0).any(axis=1))
    _let_go(node, facts)
    return read


def _let_go(node: ir.Node, facts: Facts) -> None:
    weight = node.inputs[WEIGHT]
    if weight is not None:
        facts.constants.release(weight)
