"""Whether a contraction whose weight falls into blocks is split, and into what: whatever costs least."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.facts.blocks import Block, find_blocks, is_dense
from graphopt.facts.constants import Constants
from graphopt.facts.ops.contraction import Geometry, weights_nonzero
from graphopt.facts.store import Facts
from graphopt.plan.classes import Kind
from graphopt.plan.cost import CostModel
from graphopt.plan.widths import elements_at, spread, window_taps

Form = Literal["several", "batched", "grouped"]

SPLIT = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
"""Operators that may be split."""

LEAST_SAVED = 256
"""Weights that a split must save, and that a block must hold for a product of its own: less is a node for nothing."""

LEAST_SHARE = 0.25
"""Share of the weights that a split must save."""

LEAST_GAIN = 0.9
"""The plan ``fastest`` splits if the estimated time is at most this share of the dense product's."""

BATCHED = 1.8
"""What a batched product costs for one of several: onnxruntime prepares those weights when it loads them."""

STARTS = 3.0
"""A product of its own costs so many nodes to start: its output is memory of its own, too."""


@dataclass(frozen=True, slots=True)
class Split:
    """A decision to split."""

    form: Form
    blocks: list[Block]

    def columns(self) -> np.ndarray:
        """Return the inputs that the blocks read, one block after the other."""
        return np.concatenate([block.columns for block in self.blocks])

    def rows(self) -> np.ndarray:
        """Return the outputs that the blocks write, one block after the other."""
        return np.concatenate([block.rows for block in self.blocks])


def may_split(node: ir.Node, constants: Constants) -> bool:
    """Tell, without facts of its graph, whether a node has a weight that is large and sparse enough for blocks."""
    if node.op_type not in SPLIT or node.domain not in ("", "ai.onnx"):
        return False
    for weight in node.inputs[:2]:
        rank = dims.rank(weight) or 0
        if weight is None or rank < 2 or not constants.known(weight) or (constants.size(weight) or 0) < LEAST_SAVED:
            continue
        rows, columns = (0, 1) if "Conv" in node.op_type else (rank - 2, rank - 1)
        pattern = constants.nonzero(weight, rows, columns)
        if pattern is not None and not is_dense(pattern):
            return True
    return False


def choose_split(
    node: ir.Node, geo: Geometry, facts: Facts, kind: Kind, costs: CostModel, moving: Callable[[Split], float]
) -> Split | None:
    """Return how to split a contraction of one group; ``None`` to leave it as it is.

    ``moving`` estimates what it costs to bring inputs and outputs into the order of the blocks.
    """
    weight = node.inputs[geo.w]
    if weight is None or geo.groups > 1 or (facts.constants.size(weight) or 0) < LEAST_SAVED:
        return None
    nonzero = weights_nonzero(node, geo, facts)
    blocks = [] if nonzero is None else find_blocks(nonzero[0])
    if len(blocks) < 2 or nonzero is None:
        return None
    equal = len({block.shape for block in blocks}) == 1
    dense, each = nonzero[0].size, (facts.constants.size(weight) or 0) // nonzero[0].size
    splits = [Split("several", _worthwhile(blocks, each))]
    if equal and node.op_type in ("Conv", "ConvTranspose"):
        splits.append(Split("grouped", blocks))
    if equal and node.op_type == "MatMul" and geo.w == 1 and dims.rank(weight) == 2 and _reshapes(node):
        splits.append(Split("batched", blocks))
    splits = [split for split in splits if len(split.blocks) > 1 and _saves(split, dense, each)]
    if not splits:
        return None
    times = [_time(node, geo, split, costs) + moving(split) for split in splits]
    least = min(times)
    if kind == "fastest" and least > LEAST_GAIN * _dense_time(node, geo, nonzero[0].shape, costs):
        return None
    return splits[times.index(least)]


def _reshapes(node: ir.Node) -> bool:
    """Tell whether a reshape can bring all axes of the result but the last together, and apart again."""
    lead = (dims.static(node.outputs[0]) or ())[:-1]
    return bool(lead) and lead.count(None) <= 1 and 0 not in lead


def _saves(split: Split, dense: int, each: int) -> bool:
    saved = dense - sum(block.weights for block in split.blocks)
    return saved >= LEAST_SHARE * dense and saved * each >= LEAST_SAVED


def _worthwhile(blocks: list[Block], each: int) -> list[Block]:
    """Put blocks together that are too small for a product of their own; they are not split again."""
    small = [block for block in blocks if block.weights * each < LEAST_SAVED]
    if len(small) < 2:
        return blocks
    together = Block(
        np.unique(np.concatenate([block.rows for block in small])),
        np.unique(np.concatenate([block.columns for block in small])),
    )
    large = [block for block in blocks if block.weights * each >= LEAST_SAVED]
    return sorted([*large, together], key=lambda block: (int(block.columns[0]), int(block.rows[0])))


def _dense_time(node: ir.Node, geo: Geometry, shape: tuple[int, ...], costs: CostModel) -> float:
    return _product_time(node, geo, shape[0], shape[1], costs)


def _product_time(node: ir.Node, geo: Geometry, outputs: int, inputs: int, costs: CostModel) -> float:
    count = elements_at(node.outputs[0], geo.out_axis)
    if "Conv" in node.op_type:
        return float(costs.convolution(inputs, outputs, window_taps(node, geo.w_in, geo.w_out), count))
    return float(costs.product(inputs, outputs, count))


def _time(node: ir.Node, geo: Geometry, split: Split, costs: CostModel) -> float:
    """Estimate: the products, and the copies that bring each its inputs and the results together."""
    x, out = node.inputs[geo.x], node.outputs[0]
    assert x is not None
    time = sum(_product_time(node, geo, *block.shape, costs) - costs.node for block in split.blocks)
    moved = split.columns().size * elements_at(x, geo.x_axis) + split.rows().size * elements_at(out, geo.out_axis)
    start = STARTS * costs.node
    if split.form == "grouped":
        return time + start
    if split.form == "batched":
        return BATCHED * time + moved * costs.element + 5 * start
    return time + moved * costs.element + (len(split.blocks) + 2) * start


def moving_time(value: ir.Value, axis: int, order: np.ndarray, costs: CostModel) -> float:
    """Estimate what a gather of positions along an axis of a value costs; nothing where they are in order."""
    if np.array_equal(order, np.arange(order.size)):
        return 0.0
    return float(costs.gather(order.size, *spread(value, axis)))
