"""Which weights are worth storing in few bits, and by what operator they are read then."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from graphopt import dims
from graphopt.calibrate.grid import Grid, grid, levels
from graphopt.calibrate.solve import FREE, Constraint
from graphopt.context import Context
from graphopt.errors import UsageError
from graphopt.facts.constants import is_constant, stored, tensor_of
from graphopt.quantization.placement import Kept, Placement, Weight
from graphopt.quantization.request import Request
from graphopt.quantization.weight_only.table import POWERS, Choice, choose

SMALLEST = 1024
"""Weights with fewer elements stay: names, shapes and attributes of another operator cost as much as they save."""

SHORTEST = 16
"""Sums of fewer terms stay: a scale would be shared by too few."""

DEFAULT = "int4"


def asked(request: Request) -> Grid:
    """Return the type of the weights.

    Raises:
        UsageError: It is no integer type of at most 8 bits, or the block is none.
    """
    kind = grid(request.weights or DEFAULT) if request.levels is None else levels(request.levels, signed=True)
    if kind.floating or kind.levels > 256:
        raise UsageError(
            f"weights alone are stored as integers of 2 to 8 bits, not {kind.name}", help="int4, uint4, int8 or uint8"
        )
    if request.block not in POWERS:
        raise UsageError(f"blocks of {request.block} weights", where="block", help=f"one of {POWERS}")
    return kind


@dataclass(frozen=True)
class Operand:
    """The weight of a node: a constant, or the Transpose of one.

    Attributes:
        base: The constant.
        axis: Its axis that is summed over; for a Gather the one that is copied.
        position: Which input of the node it is.
    """

    base: ir.Value
    axis: int
    position: int


@dataclass(frozen=True)
class Candidate:
    """A node whose weight can be quantized, if all who read the weight agree."""

    node: ir.Node
    operand: Operand
    choice: Choice


def place(context: Context, request: Request) -> Placement:
    """Return which weights are stored as integers, in every graph of the model; activations are left alone.

    A Conv, MatMul, Gemm or Gather that stays as it is gets a reason, if it has a weight at all. A weight is quantized
    once for all of its readers, and only if no reader needs it in float: it would have to be stored twice.

    Raises:
        UsageError: The type or the block is none that weights can have.
    """
    kind = asked(request)
    found = Placement()
    candidates: dict[ir.Value, list[Candidate]] = {}
    for graph in context.graphs():
        for node in graph:
            seen = _candidate(context, node, kind, request)
            if isinstance(seen, Candidate):
                candidates.setdefault(seen.operand.base, []).append(seen)
            elif seen:
                found.kept.append(Kept(node, seen))
    for base, group in candidates.items():
        reason = _disagreement(base, group)
        if reason:
            found.kept += [Kept(one.node, reason) for one in group]
            continue
        first = group[0]
        block = first.choice.block
        axis = first.operand.axis if block else 0
        weight = Weight(base, kind, axis, block, Constraint(zero_point=0) if kind.signed else FREE)
        weight.readers += [(one.node, one.operand.position) for one in group]
        found.weights[base] = weight
        found.nodes.update({one.node: one.choice.form.operator for one in group})
    return found


def choice_of(context: Context, node: ir.Node, weight: Weight, request: Request) -> tuple[Operand, Choice]:
    """Return how a node of the placement reads its weight."""
    operand = operand_of(node)
    assert isinstance(operand, Operand) and operand.base.dtype is not None
    size = (dims.static(operand.base) or [])[operand.axis] or 0
    choice = choose(request.target, node.op_type, weight.grid, operand.base.dtype, size, request.block)
    assert isinstance(choice, Choice)
    return operand, choice


def _candidate(context: Context, node: ir.Node, kind: Grid, request: Request) -> Candidate | str:
    operand = operand_of(node)
    if isinstance(operand, str):
        return operand
    name = node.name or ""
    if any(name == pattern or fnmatch.fnmatchcase(name, pattern) for pattern in request.exclude):
        return "excluded by the user"
    tensor = tensor_of(operand.base)
    sizes = dims.static(operand.base)
    if tensor is None or operand.base.dtype is None or sizes is None or None in sizes:
        return "its weight is not a tensor of numbers"
    if operand.base.dtype not in (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16):
        kind_name = operand.base.dtype.name.lower()
        return "" if node.op_type == "Gather" else f"its weight is {kind_name}"
    size = sizes[operand.axis] or 0
    if tensor.size < SMALLEST:
        return "" if node.op_type == "Gather" else f"its weight has {tensor.size} elements, too few to gain from"
    if size < SHORTEST and node.op_type != "Conv":
        return f"{size} weights in a sum are too few to share a scale"
    choice = choose(request.target, node.op_type, kind, operand.base.dtype, size, request.block)
    if isinstance(choice, str):
        return choice
    if choice.form.operator == "GatherBlockQuantized" and size * choice.bits % 8:
        return f"rows of {size} numbers of {choice.bits} bits do not end with a byte"
    if choice.block and size < SHORTEST:
        return f"{size} channels are too few to share a scale"
    if not context.constants.finite(operand.base):
        return "its weight holds NaN or infinity"
    return Candidate(node, operand, choice)


def operand_of(node: ir.Node) -> Operand | str:
    """Return the weight of a node, or why it has none that could be quantized; no reason for what is never one."""
    if node.domain not in ("", "ai.onnx") or node.op_type not in ("MatMul", "Gemm", "Gather", "Conv"):
        return ""
    position = 0 if node.op_type == "Gather" else 1
    value = node.inputs[position] if len(node.inputs) > position else None
    base, turned = _through_transpose(value)
    rank = dims.rank(base)
    if base is None or not is_constant(base):
        if node.op_type == "Gather":
            return ""
        if stored(base) is not None:
            return "its weight is quantized already"
        other = node.inputs[0]
        on_left = node.op_type == "MatMul" and is_constant(_through_transpose(other)[0])
        return "its constant is on the left" if on_left else "its weight is not a constant"
    if node.op_type == "Gather":
        index = node.inputs[1]
        if rank != 2 or turned or node.attributes.get_int("axis", 0) not in (0, -2) or is_constant(index):
            return ""
        return Operand(base, 1, 0)
    if is_constant(node.inputs[0]):
        return "it computes a constant"
    if node.op_type == "Conv":
        return Operand(base, 1, 1) if rank is not None and rank > 2 and not turned else "its weight has no known rank"
    if rank != 2:
        return f"its weight has rank {rank}"
    if node.op_type == "Gemm":
        if node.attributes.get_int("transA", 0):
            return "it reads its input transposed (transA)"
        turned ^= bool(node.attributes.get_int("transB", 0))
    return Operand(base, 1 if turned else 0, 1)


def _through_transpose(value: ir.Value | None) -> tuple[ir.Value | None, bool]:
    """Return the matrix that a value is the transpose of, and whether it is one."""
    turned = False
    while value is not None and not is_constant(value):
        node = value.producer()
        if node is None or node.op_type != "Transpose" or node.domain or dims.rank(node.inputs[0]) != 2:
            break
        perm = node.attributes.get_ints("perm", [1, 0])
        value, turned = node.inputs[0], turned ^ (list(perm) == [1, 0])
    return value, turned


def _disagreement(base: ir.Value, group: list[Candidate]) -> str:
    """Return why a weight cannot be quantized for all of its readers, or nothing."""
    if base.is_graph_output():
        return "its weight is an output of the model"
    axes = {one.operand.axis for one in group}
    if len(axes) > 1:
        return "its weight is read along both axes"
    if len({(one.choice.block, one.choice.bits) for one in group}) > 1:
        return "those who read its weight store it differently"
    placed = {(one.node, one.operand.position) for one in group}
    for node, position in _final_uses(base):
        if (node, position) not in placed:
            name = "the graph's output" if node is None else f"{node.op_type} {node.name!r}"
            return f"{name} reads its weight, too, and needs it in float"
    return ""


def _final_uses(value: ir.Value) -> Iterator[tuple[ir.Node | None, int]]:
    """Yield who reads a matrix, directly or transposed."""
    for use in value.uses():
        node = use.node
        if node.op_type == "Transpose" and not node.domain and dims.rank(value) == 2:
            if node.outputs[0].is_graph_output():
                yield None, 0
            yield from _final_uses(node.outputs[0])
        else:
            yield node, use.idx
