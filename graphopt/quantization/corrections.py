"""What is added to biases so that quantized layers have the mean output of the float ones.

Corrections belong to nodes and are kept in ``State.corrections``; the float model stays what it is, and a node that
goes back to float loses its correction. They are added to the constants of the quantized copy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.context import Context
from graphopt.facts.constants import is_constant
from graphopt.facts.rules import domain_of
from graphopt.quantization.placement import Bias, Placement
from graphopt.rewrite.edit import Edit

_BIAS = {"Conv": 2, "ConvTranspose": 2, "Gemm": 2}


@dataclass(frozen=True, slots=True)
class Site:
    """A node with a quantized weight, and the constant that can take a correction up.

    Attributes:
        node: Conv, ConvTranspose, Gemm or MatMul.
        weight: Position of the weight.
        axis: The axis of its output along which its channels lie.
        size: How many channels there are.
        holder: The node that adds the constant: the node itself, or the Add behind a MatMul.
        position: Of the constant among the holder's inputs; one may be added there if there is none.
    """

    node: ir.Node
    weight: int
    axis: int
    size: int
    holder: ir.Node
    position: int


def sites(context: Context, placement: Placement) -> list[Site]:
    """Return where a placement's weights can be corrected for, in the order of the graph."""
    positions = {node: position for row in placement.weights.values() for node, position in row.readers}
    found = []
    for node in context.model.graph:
        if node in positions and not domain_of(node):
            site = _site(node, positions[node], context)
            if site is not None:
                found.append(site)
    return found


def _site(node: ir.Node, weight: int, context: Context) -> Site | None:
    out = node.outputs[0]
    rank = dims.rank(out)
    shape = dims.static(node.inputs[weight])
    if rank is None or shape is None or None in shape or out.dtype != ir.DataType.FLOAT:
        return None
    if node.op_type in _BIAS and weight == 1:
        position = _BIAS[node.op_type]
        bias = node.inputs[position] if len(node.inputs) > position else None
        known = () if bias is None else dims.static(bias)
        group = node.attributes.get_int("group", 1)
        turned = node.attributes.get_int("transB", 0)
        size = shape[0] if node.op_type == "Conv" or turned else (shape[1] or 0) * group
        if bias is not None and (not is_constant(bias) or known not in ((), (1,), (size,), (1, size))):
            return None
        if node.op_type == "Gemm" and node.attributes.get_float("beta", 1.0) == 0:
            return None
        return Site(node, weight, 1, size or 0, node, position)
    users = list(out.uses())
    if node.op_type != "MatMul" or weight != 1 or len(shape) != 2 or len(users) != 1 or out.is_graph_output():
        return None
    add, other = users[0].node, 1 - users[0].idx
    if add.op_type != "Add" or domain_of(add) or add.graph is not context.model.graph:
        return None
    constant = add.inputs[other]
    known = dims.static(constant)
    if not is_constant(constant) or known is None or (known and known[-1] not in (1, shape[1])) or len(known) > rank:
        return None
    return Site(node, weight, rank - 1, shape[1] or 0, add, other)


def apply(context: Context, placement: Placement, corrections: Mapping[ir.Node, np.ndarray]) -> None:
    """Add corrections (``[channels]``, by node) to the constants of a model that is about to be quantized."""
    if not corrections:
        return
    edit = Edit(context.bare(), "composed", cut_weights=True)
    rows = {(row.node, row.position): row for row in placement.biases}
    quantized = {value for row in placement.weights.values() for value in (row.value,)}
    for site in sites(context, placement):
        if site.node not in corrections:
            continue
        by = corrections[site.node] / _beta(site)
        holder, position = site.holder, site.position
        value = holder.inputs[position] if len(holder.inputs) > position else None
        if value is not None and value in quantized:
            continue
        array = np.zeros(0) if value is None else context.constants.array(value)
        assert array is not None
        sum_ = by if value is None else array.astype(np.float64) + by
        name = f"{site.node.outputs[0].name}_bias" if value is None else f"{value.name}_corrected"
        new = edit.constant(sum_.astype(np.float32), name)
        while len(holder.inputs) <= position:
            holder.resize_inputs(position + 1)
        holder.replace_input_with(position, new)
        row = rows.get((holder, position))
        x, w = site.node.inputs[0], site.node.inputs[site.weight]
        if row is not None:
            row.value = new
        elif value is None and _integers(context, placement, x) and x is not None and w is not None:
            placement.biases.append(Bias(new, holder, position, x, w))


def _beta(site: Site) -> float:
    return site.node.attributes.get_float("beta", 1.0) if site.node.op_type == "Gemm" else 1.0


def _integers(context: Context, placement: Placement, x: ir.Value | None) -> bool:
    """Tell whether the target stores biases as int32."""
    state = context.quantization
    return state is not None and x in placement.activations and state.request.table.bias == "int32"
