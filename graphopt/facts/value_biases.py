"""Biases of values in attention that keep dead heads alive, and where behind attention they belong.

Rows of a softmax add up to one, so that ``P (V + 1 b^T) = P V + 1 b^T``: what a bias adds to every value, it adds to
every result of attention, and ``(P V + 1 b^T) W + c = (P V) W + (c + b W)``. A head whose weights are zero holds its
bias, another number at each of its places: it could not be left out. With the bias behind attention the head is zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.facts.arrangements import MOVES, Arrangement, Arrangements
from graphopt.facts.constants import Constants, is_constant, tensor_of
from graphopt.facts.factors import whole
from graphopt.facts.store import Facts

FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16})
QUANTIZERS = frozenset({"QuantizeLinear", "DequantizeLinear"})


@dataclass(frozen=True, slots=True)
class Bias:
    """A constant row that a node adds: the node, and at which of its inputs the row is."""

    node: ir.Node
    position: int


@dataclass(frozen=True, slots=True)
class Move:
    """What is to be taken from the bias of values, and given to the output projection of their attention.

    Attributes:
        bias: The bias of the values.
        moved: ``[n]``: the positions of it that become zero.
        product: The MatMul or Gemm that reads the result of attention.
        places: ``[m]``: for each row of that product's weight the position of ``bias`` that it multiplies.
        behind: The product's own bias; None where it has none.
    """

    bias: Bias
    moved: np.ndarray
    product: ir.Node
    places: np.ndarray
    behind: Bias | None


@dataclass(frozen=True, slots=True)
class Stays:
    """A product of attention whose dead value heads keep their bias, and why."""

    product: ir.Node
    reason: str


@dataclass(slots=True)
class _Source:
    """How values come from the sum with their bias; ``places``: which position of the bias a value's element holds."""

    bias: Bias
    row: np.ndarray
    places: dict[ir.Value, np.ndarray] = field(default_factory=dict)
    """The values between, the sum first; each array has size one along axes on which the position does not depend."""
    quantized: bool = False


def value_biases(graph: ir.Graph, opset: int, constants: Constants, facts: Callable[[], Facts]) -> list[Move | Stays]:
    """Return what can be done about the dead value heads of a graph that hold a bias, attention by attention.

    Args:
        graph: Of a model whose shapes are known.
        opset: Of the standard operators.
        constants: What is known of constants.
        facts: Gives the graph's facts; called where there is a bias on values at all.
    """
    if not any(node.op_type == "MatMul" for node in graph):
        return []
    arrangements = Arrangements(constants)
    for node in graph:
        arrangements.visit(node)
    search = _Search(graph, opset, constants, arrangements)
    found: list[Move | Stays] = []
    for node in graph:
        if node.op_type != "MatMul" or not _standard(node) or node.inputs[0] is None or node.inputs[1] is None:
            continue
        source = search.source(node.inputs[1])
        freed = None if source is None else _freed(source, node.inputs[1], facts())
        if source is not None and freed is not None:
            result = search.move(node, source, freed)
            found.append(Stays(node, result) if isinstance(result, str) else result)
    return found


def _freed(source: _Source, values: ir.Value, facts: Facts) -> np.ndarray | None:
    """Return ``[n]``: positions of the bias without which whole heads or channels are zero that are not dead now."""
    total = next(iter(source.places))
    dead = facts.dead_axes(total).get((dims.rank(total) or 0) - 1)
    if dead is None:
        return None
    zero = dead.mask & (dead.fill == source.row)  # without the bias
    places = source.places[values]
    freed = np.zeros(source.row.size, bool)
    for axis in range(places.ndim):
        others = tuple(other for other in range(places.ndim) if other != axis)
        freed[np.compress(zero[places].all(axis=others), places, axis=axis).ravel()] = True
    freed &= source.row != 0
    return freed if freed.any() else None


@dataclass(slots=True)
class _Search:
    graph: ir.Graph
    opset: int
    constants: Constants
    arrangements: Arrangements

    # -- in front of attention ----------------------------------------------------------------------------------------

    def source(self, values: ir.Value) -> _Source | None:
        """Follow values back to the sum with a bias, through operators that only move them."""
        path: list[ir.Value] = []
        value, quantized = values, False
        while True:
            node = value.producer()
            if node is None or node.graph is not self.graph or not _standard(node):
                return None
            path.append(value)
            if (bias := self._bias(node)) is not None:
                break
            moves = node.op_type in ("Split", "Slice", "Gather") or self._rearranged(value) is not None
            quantized |= node.op_type in QUANTIZERS
            before = node.inputs[0] if moves or node.op_type in QUANTIZERS else None
            if before is None:
                return None
            value = before
        known, row = dims.sizes(value), self._row(bias)
        if not known or row is None or known[-1] != row.size or row.size == 0:
            return None
        source = _Source(bias, row, {value: np.arange(row.size).reshape([1] * (len(known) - 1) + [-1])}, quantized)
        for value in reversed(path[:-1]):
            places = self._follow(value, source.places)
            if places is None:
                return None
            source.places[value] = places
        places = source.places[values]
        return source if places.ndim > 1 and places.shape[-2] == 1 else None  # else it is no row: keys, for example

    def _bias(self, node: ir.Node) -> Bias | None:
        """Return the constant row that a node adds."""
        if node.op_type == "Add":
            rows = [position for position, value in enumerate(node.inputs) if self._constant(value)]
            return Bias(node, rows[0]) if len(rows) == 1 else None
        if node.op_type == "Gemm" and len(node.inputs) > 2 and node.attributes.get_float("beta", 1.0) == 1.0:
            return Bias(node, 2) if self._constant(node.inputs[2]) else None
        return None

    def _constant(self, value: ir.Value | None) -> bool:
        tensor = tensor_of(value) if value is not None and is_constant(value) else None
        return tensor is not None and tensor.dtype in FLOATS

    def _row(self, bias: Bias) -> np.ndarray | None:
        """Return ``[n]``: a bias that has one number for each position of the last axis, all of them finite."""
        array = self.constants.array(bias.node.inputs[bias.position])
        if array is None or array.ndim == 0 or array.shape[-1] != array.size:
            return None
        return array.ravel() if np.isfinite(array.astype(np.float64)).all() else None

    def _rearranged(self, value: ir.Value) -> Arrangement | None:
        found = self.arrangements.of(value)
        return None if found is None or not found.nodes else found

    def _follow(self, value: ir.Value, places: dict[ir.Value, np.ndarray]) -> np.ndarray | None:
        """Return the places of a value whose producer's input has some."""
        found, node = self._rearranged(value), value.producer()
        assert node is not None and node.inputs[0] is not None
        if found is not None:
            before = places.get(found.root)
            return None if before is None else _through(found, before)
        if node.op_type in QUANTIZERS:
            return places[node.inputs[0]]
        return self._selected(node, places[node.inputs[0]]).get(value)

    def _selected(self, node: ir.Node, places: np.ndarray) -> dict[ir.Value, np.ndarray]:
        """Return the places that a Split, Slice or Gather hands on, of the outputs where they are known."""
        rank = places.ndim
        if node.op_type == "Split":
            axis, first = node.attributes.get_int("axis", 0) % rank, 0
            if places.shape[axis] == 1:
                return dict.fromkeys(node.outputs, places)
            parts: dict[ir.Value, np.ndarray] = {}
            for out in node.outputs:
                size = (dims.static(out) or (None,) * rank)[axis]
                if size is None:
                    return {}
                parts[out] = places.take(np.arange(first, first + size), axis)
                first += size
            return parts
        if node.op_type == "Gather":
            axis, index = node.attributes.get_int("axis", 0) % rank, self.constants.array(node.inputs[1])
            if index is None:
                return {}
            if places.shape[axis] == 1:
                index = np.zeros((1,) * index.ndim, np.int64)
            return {node.outputs[0]: places.take(index, axis)}
        given = [self.constants.ints(operand) for operand in node.inputs[1:]]
        if node.op_type != "Slice" or len(given) < 2 or given[0] is None or given[1] is None:
            return {}
        count = len(given[0])
        axes = list(range(count)) if len(node.inputs) < 4 or node.inputs[3] is None else given[2]
        steps = [1] * count if len(node.inputs) < 5 or node.inputs[4] is None else given[3]
        if axes is None or steps is None or min(steps, default=1) < 1:
            return {}
        for first, last, axis, step in zip(given[0], given[1], axes, steps, strict=True):
            if places.shape[axis] > 1:
                places = places.take(np.arange(places.shape[axis])[first:last:step], axis)
        return {node.outputs[0]: places}

    def _shown(self, source: _Source, values: ir.Value, product: ir.Node, freed: np.ndarray) -> str | None:
        """Return who else sees what the bias adds to positions that are to lose it."""
        on_path = {value.producer() for value in source.places}
        for value, places in source.places.items():
            if not freed[places].any():
                continue
            if value.is_graph_output():
                return f"{value.name} is an output, too"
            for node, position in value.uses():
                if node.op_type == "Shape" and _standard(node) and node.graph is self.graph:
                    continue
                if value is values:
                    if node is not product or position != 1:
                        return f"{node.op_type} reads {value.name}, too"
                    continue
                selects = node.op_type in ("Split", "Slice", "Gather") and _standard(node) and position == 0
                if not selects and node in on_path and node.graph is self.graph and position == 0:
                    continue
                parts = self._selected(node, places) if selects and node.graph is self.graph else {}
                for out in node.outputs:
                    other = out not in source.places and (bool(out.uses()) or out.is_graph_output())
                    if other and (out not in parts or freed[parts[out]].any()):
                        return f"{node.op_type} reads {value.name}, too"
        return None

    # -- attention and what is behind it ------------------------------------------------------------------------------

    def move(self, product: ir.Node, source: _Source, freed: np.ndarray) -> Move | str:
        """Return the move of a bias behind the product of scores and values, or why there is none."""
        scores, values = product.inputs
        assert scores is not None and values is not None
        if source.quantized:
            return "the values are quantized"
        shown = self._shown(source, values, product, freed)
        if shown is not None:
            return shown
        result = product.outputs[0]
        reason = self._not_normalised(scores) or self._perhaps_empty(values, result)
        return reason or self._behind(result, source, values, freed)

    def _not_normalised(self, scores: ir.Value) -> str | None:
        """Return why the rows of scores may not add up to one."""
        value = scores
        while (node := value.producer()) is not None and _standard(node):
            found = self._rearranged(value)
            if found is not None:
                rank = dims.rank(found.root) or 0
                if not rank or not found.axes or not self.arrangements.certain(value):
                    return "scores are rearranged in a way that is not understood"
                if found.axes[-1] != whole(found.sizes[:rank])[-1]:
                    return "scores are rearranged between softmax and product"
                value = found.root
            elif node.op_type == "Dropout" and self._idle(node) and node.inputs[0] is not None:
                if value is not node.outputs[0]:
                    return "the mask of a Dropout is no softmax"
                value = node.inputs[0]
            else:
                break
        if node is None or not _standard(node) or node.op_type != "Softmax":
            return f"scores come from {'outside' if node is None else node.op_type} and not from Softmax"
        rank = dims.rank(value)
        axis = node.attributes.get_int("axis", -1 if self.opset >= 13 else 1)
        if axis != -1 and (rank is None or axis != rank - 1):
            return "softmax is over another axis"
        return None

    def _idle(self, node: ir.Node) -> bool:
        """Tell whether a Dropout hands on what it reads."""
        training = node.inputs[2] if len(node.inputs) > 2 else None
        return self.opset >= 7 and (training is None or self.constants.single(training) == 0)

    def _perhaps_empty(self, values: ir.Value, result: ir.Value) -> str | None:
        """Return that there may be no values at all and results all the same: their sum is zero, not the bias."""
        sizes, results = dims.sizes(values), dims.sizes(result)
        count = None if sizes is None else sizes[-2]
        if not self.arrangements.certain(values):
            return "where a size is zero, the values may have another shape"
        if count is None or results is None or count == 0:
            return "the number of values is not known"
        return None if isinstance(count, int) or count in results else "there may be no values to sum over"

    def _behind(self, result: ir.Value, source: _Source, values: ir.Value, freed: np.ndarray) -> Move | str:
        rank, before = dims.rank(result), source.places[values]
        if rank is None or rank < before.ndim:
            return "the rank of the result is not known"
        places = {result: before.reshape((1,) * (rank - before.ndim) + before.shape)}
        value = result
        while True:
            readers = [use for use in value.uses() if use.node.op_type != "Shape"]
            if value.is_graph_output():
                return f"{value.name} is an output"
            if len(readers) != 1 or readers[0].node.graph is not self.graph or readers[0].idx != 0:
                return f"{value.name} is not read by one output projection alone"
            node = readers[0].node
            if not _standard(node) or node.op_type not in MOVES:
                break
            after = node.outputs[0]
            found = self._rearranged(after)
            followed = None if found is None or found.root is not result else _through(found, places[result])
            if followed is None or not self.arrangements.certain(after):
                return f"{after.name} is rearranged in a way that is not understood"
            places[after], value = followed, after
        if not _standard(node) or node.op_type not in ("MatMul", "Gemm"):
            return f"{node.op_type} reads {value.name}"
        if not self._constant(node.inputs[1]):
            return "the weight of the output projection is not constant"
        return self._into(node, places[value], source, freed)

    def _into(self, node: ir.Node, places: np.ndarray, source: _Source, freed: np.ndarray) -> Move | str:
        weight = node.inputs[1]
        assert weight is not None
        known = dims.static(weight)
        if known is None or len(known) != 2 or None in known or self.constants.finite(weight) is not True:
            return "the weight of the output projection is no finite matrix"
        turned = node.op_type == "Gemm" and node.attributes.get_int("transB", 0)
        rows, columns = reversed(known) if turned else known
        transposed = node.op_type == "Gemm" and node.attributes.get_int("transA", 0)
        if transposed or places.size != rows or places.shape[-1] != rows:
            return "the output projection does not sum over the positions of heads"
        behind = None
        if node.op_type == "Gemm":
            given = node.inputs[2] if len(node.inputs) > 2 else None
            behind = self._bias(node) if given is not None else None
            if node.attributes.get_float("beta", 1.0) != 1.0 or (given is not None and behind is None):
                return "the bias of the output projection is not constant"
        else:
            uses = list(node.outputs[0].uses())
            reader = uses[0].node if len(uses) == 1 and not node.outputs[0].is_graph_output() else None
            if reader is not None and reader.op_type == "Add" and _standard(reader) and reader.graph is self.graph:
                behind = self._bias(reader)
        row = None if behind is None else self._row(behind)
        if behind is not None and (row is None or row.size != columns):
            if node.op_type == "Gemm":
                return "the bias of the output projection is no finite row"
            behind = None  # an Add of its own
        if behind is not None and behind.node is source.bias.node:
            return "the output projection has the bias of the values"
        return Move(source.bias, freed, node, places.ravel(), behind)


def _standard(node: ir.Node) -> bool:
    return node.domain in ("", "ai.onnx")


def _through(found: Arrangement, places: np.ndarray) -> np.ndarray | None:
    """Return the places of a rearranged value from those of its root; None where a size would have to be known."""
    depends = [axis for axis in range(places.ndim) if places.shape[axis] > 1]
    coordinates: dict[int, np.ndarray] = {axis: np.zeros((1,) * len(found.axes), np.int64) for axis in depends}
    seen = dict.fromkeys(depends, 1)
    for position, factors in enumerate(found.axes):
        if not any(factor.axis in coordinates for factor in factors):
            continue
        sizes = [factor.size.static for factor in factors]
        inner = [factor.inner.static for factor in factors]
        if None in sizes or any(n is None for n, f in zip(inner, factors, strict=True) if f.axis in coordinates):
            return None
        shape = [1] * len(found.axes)
        shape[position] = -1
        digits = np.arange(math.prod(size or 1 for size in sizes)).reshape(shape)
        for factor, size, step in reversed(list(zip(factors, sizes, inner, strict=True))):
            assert size is not None
            if factor.axis in coordinates:
                coordinates[factor.axis] = coordinates[factor.axis] + digits % size * (step or 1)
                seen[factor.axis] *= size
            digits = digits // size
    if any(seen[axis] != places.shape[axis] for axis in depends):
        return None
    index = tuple(coordinates.get(axis, np.zeros((1,) * len(found.axes), np.int64)) for axis in range(places.ndim))
    return places[index]
