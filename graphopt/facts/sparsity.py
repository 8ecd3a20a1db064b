"""Zeros that stay in weights after everything dead has gone: how many, and in which pattern.

What is dead along an axis is cut. Zeros that are left lie inside of rows and columns that live; a dense operator
multiplies by them, an operator for sparse weights need not. Such an operator wants to know the pattern:

* ``n:m``: of every ``m`` neighbours along the contracted axis at most ``n`` are not zero (1:4, 2:4, 4:8);
* ``blocks``: the zeros fill whole blocks (outputs x inputs) of a fixed size, on a grid;
* ``block-diagonal``: outputs and inputs fall into parts that have nothing to do with each other, in any order;
* ``unstructured``: at least ``UNSTRUCTURED`` of all elements are zero, wherever they are.

Each weight is read once, in slabs, and nothing but counters is kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.facts.constants import Constants, is_constant
from graphopt.model_check import source_line
from graphopt.subgraphs import nesting

UNSTRUCTURED = 0.85
"""From this share of zeros on, rows of (index, value) are shorter and faster than a dense matrix."""

GROUPS = ((1, 4), (2, 4), (4, 8))
"""(n, m), the sparsest first."""

BLOCKS = ((16, 16), (32, 1), (4, 4))
"""(outputs, inputs) of a block; of two that hold as much, the first is named."""

FULL_BLOCKS = 0.9
"""A block pattern explains the zeros if at least this share of the blocks that hold anything is not zero."""

EMPTY = 0.25
"""... and at least this share of them is empty; parts must leave as much out."""

SLAB = 1 << 20
"""Elements that are looked at in one step, at most (or 32 rows)."""


@dataclass(frozen=True)
class SparsityRow:
    """One weight that holds zeros.

    Attributes:
        value: its name.
        node: the operator that reads it, and that node's name.
        shape: its sizes.
        zeros: how many elements are zero.
        size: how many elements there are.
        density: share of elements that are not zero.
        pattern: what an operator for sparse weights could use best: ``block-diagonal, N parts``, ``blocks RxC``,
            ``N:M``, ``unstructured``, or ``none``.
        patterns: every such pattern that the weight has.
        use: what that operator would be, and how much it would multiply.
        source_line: the user's own line, where the exporter left it.
    """

    value: str
    node: str
    shape: list[int]
    zeros: int
    size: int
    density: float
    pattern: str
    patterns: list[str]
    use: str
    source_line: str | None = None


@dataclass(frozen=True, slots=True)
class Weight:
    """A constant operand that is multiplied and summed: where its outputs and its inputs lie."""

    value: ir.Value
    node: ir.Node
    outputs: int
    inputs: int
    zero: np.ndarray
    """The number that means zero (the zero point of a quantized weight), in a shape that broadcasts to the weight."""


def sparse_weights(model: ir.Model, constants: Constants) -> Iterator[SparsityRow]:
    """Yield a row for every weight that holds a zero, bodies included; each weight is read when its row is asked for.

    Args:
        model: masks are folded and dead positions gone; otherwise they are found again here.
        constants: reads the weights.
    """
    seen: set[ir.Value] = set()
    for graph in [*nesting(model.graph), model.graph]:
        for node in graph:
            for weight in weights_of(node, constants):
                if weight.value in seen:
                    continue
                seen.add(weight.value)
                found = _look(weight, constants)
                if found is not None and found.zeros:
                    yield _row(weight, found)


# -- which operands are weights ---------------------------------------------------------------------------------------


def weights_of(node: ir.Node, constants: Constants) -> Iterator[Weight]:
    """Yield the constant operands of a node that are multiplied and summed, with their axes."""
    if node.domain not in ("", "ai.onnx", "com.microsoft"):
        return
    for position, outputs, inputs in _axes(node):
        value = node.inputs[position] if position < len(node.inputs) else None
        zero = _operand(node, _ZERO_POINTS.get(node.op_type))
        producer = None if value is None else value.producer()
        dequantized = producer is not None and producer.op_type == "DequantizeLinear"
        if dequantized and not is_constant(value):
            assert producer is not None
            value, zero = producer.inputs[0], _operand(producer, 2)
        if value is None or not is_constant(value) or not constants.known(value) or (dims.rank(value) or 0) < 2:
            continue
        rank = dims.rank(value) or 0
        outputs, inputs = outputs % rank, inputs % rank
        along = producer.attributes.get_int("axis", 1) % rank if dequantized and producer is not None else outputs
        points = _points(zero, along, rank, constants)
        if points is not None:
            yield Weight(value, node, outputs, inputs, points)


_ZERO_POINTS = {"QLinearConv": 5, "QLinearMatMul": 5, "ConvInteger": 3, "MatMulInteger": 3}


def _axes(node: ir.Node) -> list[tuple[int, int, int]]:
    """Return (operand, axis of the outputs, axis that is summed over) of what may be a weight."""
    kind = node.op_type
    if kind in ("Conv", "ConvInteger", "FusedConv"):
        return [(1, 0, 1)]
    if kind == "QLinearConv":
        return [(3, 0, 1)]
    if kind == "ConvTranspose":
        return [(1, 1, 0)]
    if kind in ("MatMul", "MatMulInteger"):
        return [(0, -2, -1), (1, -1, -2)]
    if kind == "QLinearMatMul":
        return [(3, -1, -2)]
    if kind in ("Gemm", "FusedGemm", "FusedMatMul"):
        left, right = node.attributes.get_int("transA", 0), node.attributes.get_int("transB", 0)
        return [(0, -1, -2) if left else (0, -2, -1), (1, -2, -1) if right else (1, -1, -2)]
    if kind in ("LSTM", "GRU", "RNN"):
        return [(1, 1, 2), (2, 1, 2)]
    return [(1, 1, 0)] if kind == "Attention" and node.domain == "com.microsoft" else []


def _operand(node: ir.Node, position: int | None) -> ir.Value | None:
    return None if position is None or position >= len(node.inputs) else node.inputs[position]


def _points(zero: ir.Value | None, axis: int, rank: int, constants: Constants) -> np.ndarray | None:
    """Return the zero points, one or one a position of an axis; ``None`` where they are not known or come in blocks."""
    if zero is None:
        return np.zeros((1,) * rank, np.int8)
    array = constants.array(zero)
    if array is None or array.ndim > 1:
        return None
    shape = [1] * rank
    if array.size > 1:
        shape[axis] = array.size
    return array.reshape(shape)


# -- what is in them --------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Counts:
    """What one walk over a weight counts."""

    size: int
    zeros: int = 0
    most: dict[int, int] = field(default_factory=dict)
    """m → the most elements that are not zero in any ``m`` neighbours."""
    blocks: dict[tuple[int, int], tuple[int, int]] = field(default_factory=dict)
    """Size of a block → (blocks that hold anything, blocks)."""
    parts: int = 1
    """Parts that share neither outputs nor inputs."""
    inside: int = 0
    """Pairs of an output and an input that belong to one part."""
    pairs: int = 0
    """Pairs of an output and an input."""


def _look(weight: Weight, constants: Constants) -> _Counts | None:
    array = constants.array(weight.value)
    if array is None or not array.size:
        return None
    view = np.moveaxis(array, (weight.outputs, weight.inputs), (0, 1))
    zero = np.moveaxis(weight.zero, (weight.outputs, weight.inputs), (0, 1))
    rows, columns = view.shape[:2]
    counts = _Counts(int(array.size), pairs=rows * columns)
    parts = _Parts(columns)
    step = max(SLAB // (array.size // rows), 1) // 32 * 32 or 32
    for start in range(0, rows, step):
        points = zero[start : start + step] if zero.shape[0] > 1 else zero
        live = (view[start : start + step] != points).reshape(min(step, rows - start), columns, -1)
        missing = int(live.size) - int(np.count_nonzero(live))
        counts.zeros += missing
        _count_groups(live, counts)
        _count_blocks(live, counts)
        parts.add(live.any(axis=2))
    constants.release(weight.value)
    counts.parts, counts.inside = parts.result()
    return counts


def _count_groups(live: np.ndarray, counts: _Counts) -> None:
    """``live`` is ``[rows, inputs, taps]``; a last group that is not full is one with zeros."""
    columns = live.shape[1]
    for size in {m for _, m in GROUPS if m <= columns}:
        if counts.most.get(size) == size:
            continue  # a full group has been seen
        whole = columns // size * size
        most = int(live[:, :whole].reshape(live.shape[0], -1, size, live.shape[2]).sum(2, np.uint8).max(initial=0))
        if whole < columns:
            most = max(most, int(live[:, whole:].sum(1, np.uint8).max(initial=0)))
        counts.most[size] = max(most, counts.most.get(size, 0))


def _count_blocks(live: np.ndarray, counts: _Counts) -> None:
    rows, columns, taps = live.shape
    for high, wide in BLOCKS:
        padded = np.pad(live, ((0, -rows % high), (0, -columns % wide), (0, 0)))
        grid = padded.reshape(padded.shape[0] // high, high, padded.shape[1] // wide, wide, taps).any(axis=(1, 3))
        filled, total = counts.blocks.get((high, wide), (0, 0))
        counts.blocks[high, wide] = filled + int(np.count_nonzero(grid)), total + int(grid.size)


class _Parts:
    """Connected parts of outputs and inputs, row by row; linear in the elements, and done where one part is left."""

    def __init__(self, columns: int) -> None:
        self.labels = np.arange(columns)
        self.used = np.zeros(columns, bool)
        self.owner: list[int] = []
        """A column of each row that is not empty: its label is the row's part."""
        self.joined = False

    def add(self, live: np.ndarray) -> None:
        """Take more rows, ``[rows, columns]`` (bool)."""
        if self.joined:
            return
        for row in live:
            columns = np.flatnonzero(row)
            if not columns.size:
                continue
            self.owner.append(int(columns[0]))
            self.used[columns] = True
            labels = np.unique(self.labels[columns])
            if labels.size > 1:
                self.labels[np.isin(self.labels, labels)] = labels[0]
                if labels[0] == 0 and not self.labels.any():
                    self.joined = True  # nothing that follows can take it apart
                    return

    def result(self) -> tuple[int, int]:
        """Return (parts, sum of outputs x inputs of each)."""
        if self.joined or not self.owner:
            return 1, 0
        rows = np.bincount(self.labels[self.owner], minlength=self.labels.size)
        columns = np.bincount(self.labels[self.used], minlength=self.labels.size)
        return int(np.count_nonzero(columns)), int((rows * columns).sum())


# -- in words ---------------------------------------------------------------------------------------------------------


def _row(weight: Weight, counts: _Counts) -> SparsityRow:
    density = 1 - counts.zeros / counts.size
    found = _patterns(counts, density)
    pattern, use = found[0] if found else ("none", "nothing: a dense product is as fast")
    node = weight.node
    shape = [int(size or 0) for size in dims.static(weight.value) or ()]
    return SparsityRow(
        str(weight.value.name), f"{node.op_type} {node.name or ''}".strip(), shape, counts.zeros, counts.size, density,
        pattern, [name for name, _ in found], use, source_line(node),
    )  # fmt: skip


def _patterns(counts: _Counts, density: float) -> list[tuple[str, str]]:
    """Return (pattern, what can be done with it), what multiplies least first."""
    found: list[tuple[float, str, str]] = []
    if counts.parts > 1 and counts.inside <= (1 - EMPTY) * counts.pairs:
        share = counts.inside / counts.pairs
        found.append((share, f"block-diagonal, {counts.parts} parts", f"{counts.parts} dense products"))
    for (high, wide), (filled, total) in counts.blocks.items():
        held = filled / total
        if held <= 1 - EMPTY and filled and density / held >= FULL_BLOCKS:
            found.append((held, f"blocks {high}x{wide}", "a product of blocks"))
    groups = [(few, many) for few, many in GROUPS if counts.most.get(many, many) <= few]
    for few, many in groups[:1]:
        found.append((few / many, f"{few}:{many}", f"a {few}:{many} product"))
    if density <= 1 - UNSTRUCTURED:
        # Single elements cost an index each.
        found.append((2 * density, "unstructured", "a product of compressed rows"))
    found.sort(key=lambda each: each[0])  # stable: of blocks that hold as much, the larger ones
    return [
        (name, f"{use}, {density if name == 'unstructured' else share:.0%} of the multiply-adds")
        for share, name, use in found
    ]
