"""Placement for onnxruntime's CPU provider. First form: convolutions and products with constant weights."""

from __future__ import annotations

import fnmatch

import onnx_ir as ir

from graphopt import dims
from graphopt.calibrate.grid import Grid, grid
from graphopt.calibrate.solve import FREE, Constraint
from graphopt.facts.constants import is_constant
from graphopt.quantization.placement import Activation, Bias, Kept, Placement, Weight
from graphopt.quantization.request import Request

_CONTRACTIONS = {"Conv": (0, 1, 2), "Gemm": (0, 1, 2), "MatMul": (0, 1, None)}


def place(model: ir.Model, request: Request) -> Placement:
    """Return which nodes run on integers."""
    found = Placement()
    kind = grid(request.activations or "uint8")
    weight_kind = grid(request.weights or "int8")
    for node in model.graph:
        if node.domain or node.op_type not in _CONTRACTIONS:
            continue
        name = node.name or ""
        if any(name == pattern or fnmatch.fnmatchcase(name, pattern) for pattern in request.exclude):
            found.kept.append(Kept(node, "excluded by the user"))
            continue
        data, weight, bias = _CONTRACTIONS[node.op_type]
        x, w = node.inputs[data], node.inputs[weight]
        if x is None or w is None or not is_constant(w) or is_constant(x):
            found.kept.append(Kept(node, "its weight is not a constant"))
            continue
        found.nodes[node] = node.op_type
        _activate(found, x, kind)
        axis = _channel_axis(node, dims.rank(w) or 0) if request.per_channel else None
        row = found.weights.setdefault(w, Weight(w, weight_kind, axis, constraint=Constraint(zero_point=0)))
        row.readers.append((node, weight))
        b = node.inputs[bias] if bias is not None and len(node.inputs) > bias else None
        if b is not None and bias is not None and is_constant(b):
            found.biases.append(Bias(b, node, bias, x, w))
        _activate(found, _written(node), kind)
    return found


def _activate(found: Placement, value: ir.Value, kind: Grid) -> None:
    producer = value.producer()
    behind_relu = producer is not None and producer.op_type == "Relu"
    constraint = Constraint(zero_point=int(kind.low)) if behind_relu else FREE
    found.activations.setdefault(value, Activation(value, kind, constraint))


def _written(node: ir.Node) -> ir.Value:
    """Return the value behind the Relu that follows alone, which onnxruntime drops, else the node's output."""
    out = node.outputs[0]
    uses = list(out.uses())
    if len(uses) == 1 and not out.is_graph_output() and uses[0].node.op_type == "Relu":
        return uses[0].node.outputs[0]
    return out


def _channel_axis(node: ir.Node, rank: int) -> int:
    if node.op_type == "Conv":
        return 0
    if node.op_type == "Gemm":
        return 0 if node.attributes.get_int("transB", 0) else 1
    return rank - 1
