"""Products over merged axes, batch times heads, are taken apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from graphopt import dims
from graphopt.context import Context
from graphopt.facts.arrangements import MOVES, UNKNOWN, Arrangement, Arrangements
from graphopt.facts.factors import Axes, Factors, Product, product_of, whole
from graphopt.facts.ops.elementwise import UNARY
from graphopt.rewrite.arrange import arrange, recipe
from graphopt.rewrite.edit import Cursor, Edit
from graphopt.rewrite.unused import remove_unused

BINARY = frozenset("Add Sub Mul Div Max Min Pow".split())


@dataclass(frozen=True)
class SplitBatches:
    """Compute with batch and heads as two axes where a reshape had made one of them.

    1. ``MatMul`` of operands whose first axis joins the same axes multiplies them as they were before.
    2. ``Softmax`` over the last axis, elementwise operators with numbers or with what only has later axes follow.

    The result is reshaped to what it was; ``fold-reshapes`` removes that where it is taken apart again.

    *Never* where the first axis is not known to join the same sizes.

    *Needs* shapes folded.

    ``MatMul(Reshape(q: [N, 4, S, 8]), Reshape(k: [N, 4, 8, S]))`` -> ``Reshape(MatMul(q, k))``
    """

    name: ClassVar[str] = "split-batches"

    def run(self, context: Context) -> bool:
        """Run on every graph."""
        return context.everywhere(lambda: self._run(context))

    def _run(self, context: Context) -> bool:
        graph = context.graph
        operators = context.operators()
        if "MatMul" not in operators or MOVES.isdisjoint(operators):
            return False
        before = Arrangements(context.constants)
        for node in graph:
            before.visit(node)
        if not any(_splittable(node, before) for node in graph):
            return False
        arrangements = Arrangements(context.constants, before.fatal)
        edit = Edit(context.bare(), "composed", cut_weights=True)
        split = 0
        for node in list(graph):
            if arrangements.visit(node) is None and _split(node, arrangements, edit):
                split += 1
        if split:
            remove_unused(graph)
        return context.record({"split": split})


def _splittable(node: ir.Node, arrangements: Arrangements) -> bool:
    if node.domain not in ("", "ai.onnx") or len(node.outputs) != 1 or node.outputs[0].is_graph_output():
        return False
    return _merged_operands(node, arrangements) is not None


def _split(node: ir.Node, arrangements: Arrangements, edit: Edit) -> bool:
    if not _splittable(node, arrangements):
        return False
    merged, sizes = _merged_operands(node, arrangements), dims.sizes(node.outputs[0])
    if merged is None or sizes is None or 0 in sizes:
        return False
    place = Cursor(edit.graph, before=node)
    lead: Factors = ()
    for position, found in merged:
        value = node.inputs[position]
        assert value is not None
        lead = found.axes[0]
        apart: Axes = (*((factor,) for factor in lead), *found.axes[1:])
        unmerged = Arrangement(found.root, found.sizes, apart)
        steps = recipe(unmerged)
        result = found.root if not steps.nodes else arrange(unmerged, steps, value, place, edit, {})
        if result is None:
            return False
        node.replace_input_with(position, result)
    out = node.outputs[0]
    users = list(out.uses())
    wide = [_recorded(factor.size) for factor in lead] + list(sizes[1:])
    out.shape = ir.Shape(wide)
    back = _joined(out, len(lead), sizes)
    result = arrange(back, recipe(back), out, Cursor(edit.graph, after=node), edit, {})
    assert result is not None
    for use in users:
        use.node.replace_input_with(use.idx, result)
    arrangements.enter(result, back)
    return True


def _merged_operands(node: ir.Node, arrangements: Arrangements) -> list[tuple[int, Arrangement]] | None:
    """Return the operands with a merged first axis, if the operator works the same on the axes apart."""
    found = [None if value is None else arrangements.of(value) for value in node.inputs]
    merged = [(i, f) for i, f in enumerate(found) if f is not None and _is_merged(f)]
    if not all(value is None or arrangements.certain(value) for value in node.inputs):
        return None
    rank = dims.rank(node.outputs[0])
    if not merged or rank is None or rank < 2 or any(len(f.axes) != rank for _, f in merged):
        return None
    sizes = [tuple(factor.size for factor in f.axes[0]) for _, f in merged]
    if any(other != sizes[0] for other in sizes) or any(UNKNOWN in str(size.size) for size in sizes[0]):
        return None
    if node.op_type == "MatMul":
        return merged if rank == 3 and len(merged) == 2 else None
    if node.op_type == "Softmax":
        axis = node.attributes.get_int("axis", -1)
        return merged if axis in (-1, rank - 1) and len(node.inputs) == 1 and _opset(node) >= 13 else None
    if node.op_type in UNARY and len(node.inputs) == 1:
        return merged
    if node.op_type in BINARY and len(node.inputs) == 2:
        others = [value for i, value in enumerate(node.inputs) if i not in [place for place, _ in merged]]
        return merged if all(_later(value, rank) for value in others) else None
    return None


def _is_merged(found: Arrangement) -> bool:
    return found.nodes > 0 and not found.repeats and len(found.axes) > 0 and len(found.axes[0]) > 1


def _opset(node: ir.Node) -> int:
    return 13 if node.version is None else node.version


def _later(value: ir.Value | None, rank: int) -> bool:
    """Tell whether a value only has axes behind the first, so that it broadcasts along however many come before."""
    known = dims.sizes(value)
    return known is not None and (len(known) < rank or (len(known) == rank and known[0] == 1))


def _recorded(size: Product) -> dims.Size:
    return size.size


def _joined(value: ir.Value, count: int, sizes: Sequence[dims.Size]) -> Arrangement:
    """Return the arrangement that joins a value's first axes again."""
    known = dims.sizes(value)
    assert known is not None
    products = tuple(product_of(size) or Product(1, (f"{UNKNOWN}{axis}",)) for axis, size in enumerate(known))
    axes = whole(products)
    first = tuple(factor for axis in axes[:count] for factor in axis)
    return Arrangement(value, products, (first, *axes[count:]), nodes=1)
