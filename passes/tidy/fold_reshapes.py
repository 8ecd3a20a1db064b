"""Chains of reshapes and transposes are written shortly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.context import Context
from graphopt.facts.arrangements import MOVES, Arrangement, Arrangements, once
from graphopt.facts.constants import is_constant
from graphopt.facts.factors import Product
from graphopt.rewrite.arrange import Recipe, arrange, in_numbers, recipe
from graphopt.rewrite.edit import Cursor, Edit
from graphopt.rewrite.moves import ROLE
from graphopt.rewrite.unused import remove_unused


@dataclass(frozen=True)
class FoldReshapes:
    """Write chains of Reshape, Transpose, Flatten, Squeeze, Unsqueeze and slices of everything as what they amount to.

    1. A chain that exchanges whole axes is one ``Transpose``; one that changes nothing is nothing.
    2. Any other chain is ``Reshape`` (cuts axes), ``Transpose``, ``Reshape`` (joins axes), as many of them as it takes,
       if these are fewer, or if an axis that joined several (batch and heads) is gone from between.
    3. Two equal chains are one.
    4. A chain that repeats positions (``Expand`` and ``Reshape`` of the keys of grouped queries) is one ``Gather``.
    5. The shape of a transposed value that nobody else reads is taken from the value before.

    *Never* where a size is not known by name or number well enough to follow it.

    *Needs* shapes folded: the sizes of torch's attention are computed from one another.

    ``Reshape(Transpose(Reshape(x: [N, 4, S, 8] -> [4*N, S, 8]))) -> [N, 4, 8, S]`` -> ``Transpose(x)``
    """

    name: ClassVar[str] = "fold-reshapes"

    def run(self, context: Context) -> bool:
        """Run on every graph."""
        return context.everywhere(lambda: self._run(context))

    def _run(self, context: Context) -> bool:
        graph = context.graph
        if MOVES.isdisjoint(context.operators()):
            return False
        arrangements = Arrangements(context.constants)
        found = {node: arrangement for node in graph if (arrangement := arrangements.visit(node)) is not None}
        _record(found, arrangements)
        edit = Edit(context.bare(), "composed", cut_weights=True)
        made: dict[tuple[object, ...], ir.Value] = {}
        folded = 0
        for node, arrangement in found.items():
            out = node.outputs[0]
            key = (arrangement.root, arrangement.axes)
            if not arrangements.certain(out):
                continue
            if _goes_on(out, found) or _is_scatter(node):
                made.setdefault(key, out)
            elif key in made and not out.is_graph_output():
                ir.convenience.replace_all_uses_with(out, made[key])
                folded += 1
            elif _fold(node, arrangement, made, edit):
                folded += 1
            else:
                made.setdefault(key, out)
        if folded:
            remove_unused(graph)
        shapes = _shapes_before(graph, edit)
        return context.record({"chains": folded, "shapes": shapes})


def _record(found: dict[ir.Node, Arrangement], arrangements: Arrangements) -> None:
    """Name sizes that nothing else has named: those behind the Expand of grouped queries' keys, for one."""
    for node, arrangement in found.items():
        out = node.outputs[0]
        if out.shape is None:
            continue
        entries = arrangements.entries.of(node.inputs[1]) if node.op_type == "Expand" else None
        asked: list[int | None] = [None] * len(arrangement.axes) + [
            entry.static if isinstance(entry, Product) else None for entry in entries or ()
        ]
        known: list[ir.SymbolicDim | dims.Size] = []
        for dim, size, entry in zip(out.shape.dims, arrangement.shape(), asked[-len(arrangement.axes) :], strict=True):
            # A number is a promise for empty values, too: an Expand keeps it where it is asked for one above 1.
            trusted = isinstance(size, str) or size == entry or arrangements.certain(out)
            known.append(size if not isinstance(dim, int) and dim.value is None and trusted else dim)
        out.shape = ir.Shape(known)


def _shapes_before(graph: ir.Graph, edit: Edit) -> int:
    """Take the shape of a transposed value from the value before, where nobody else wants it transposed."""
    taken = 0
    for node in list(graph):
        if node.op_type != "Transpose" or node.domain or node.outputs[0].is_graph_output() or node.inputs[0] is None:
            continue
        users = [use.node for use in node.outputs[0].uses()]
        rank = dims.rank(node.inputs[0])
        if rank is None or not users or any(user.op_type != "Shape" or user.graph is not graph for user in users):
            continue
        perm = np.array(node.attributes.get_ints("perm", tuple(reversed(range(rank)))), np.int64)
        for user in users:
            start, end = user.attributes.get_int("start", 0), user.attributes.get_int("end", rank)
            out, chosen = user.outputs[0], perm[start:end]
            place = Cursor(graph, before=user)
            whole = edit.node("Shape", [node.inputs[0]], place, f"{out.name}_before", [rank], out)
            index = edit.constant(chosen, f"{out.name}_index")
            result = edit.node("Gather", [whole, index], place, f"{out.name}_order", [int(chosen.size)], out)
            edit.stand_in(out, result, list(out.uses()))
            taken += 1
    if taken:
        remove_unused(graph)
    return taken


def _fold(node: ir.Node, found: Arrangement, made: dict[tuple[object, ...], ir.Value], edit: Edit) -> bool:
    """Write the value of a chain's last node anew, where that is shorter."""
    out = node.outputs[0]
    if found.repeats:
        return _gather(node, found, made, edit)
    steps = recipe(found)
    shared = [made[found.root, cut] for cut in steps.cut if (found.root, cut) in made]
    if steps.nodes == found.alone and shared and _as_written(node, shared[0], found, steps):
        return False
    nodes = steps.nodes - len(shared)
    if steps.nodes and (nodes > found.alone or (nodes == found.alone and not found.merged)):
        return False
    if steps.nodes == 0:
        return out.dtype == found.root.dtype and _bypass(out, found.root, edit)
    result = arrange(found, steps, out, Cursor(edit.graph, before=node), edit, made)
    if result is None:
        return False
    made[found.root, found.axes] = result
    _stand_in(out, result, edit)
    return True


def _as_written(node: ir.Node, cut: ir.Value, found: Arrangement, steps: Recipe) -> bool:
    """Tell whether a chain of as many nodes as its recipe, ``cut`` among them, would only be written again.

    A shape at its end that is computed may become numbers, though.
    """
    last = node
    for _ in range(found.alone - 1):
        source = node.inputs[0]
        producer = None if source is None else source.producer()
        if source is cut:
            computed = last.op_type == "Reshape" and len(last.inputs) > 1 and not is_constant(last.inputs[1])
            return not (computed and steps.joined and in_numbers(found, steps))
        if producer is None:
            return False
        node = producer
    return False


def _bypass(out: ir.Value, root: ir.Value, edit: Edit) -> bool:
    """Let a root take the place of a value that is equal to it, with its name where that is a promise."""
    if not out.is_graph_output():
        ir.convenience.replace_all_uses_with(out, root)
        return True
    producer = root.producer()
    if producer is None or producer.graph is not edit.graph or root.is_graph_output():
        return False
    if sum(value is out for value in edit.graph.outputs) != 1 or is_constant(root):
        return False
    edit.stand_in(out, root, list(out.uses()))
    return True


def _gather(node: ir.Node, found: Arrangement, made: dict[tuple[object, ...], ir.Value], edit: Edit) -> bool:
    """Write a chain that repeats positions as what it repeats and one ``Gather``."""
    out = node.outputs[0]
    apart = once(found)
    if apart is None or node.op_type in ("Expand", "Tile"):
        return False
    plain, axis, index = apart
    place = Cursor(edit.graph, before=node)
    steps = recipe(plain)
    source = made.get((plain.root, plain.axes), plain.root if not steps.nodes else None)
    if source is None:
        source = arrange(plain, steps, out, place, edit, made)
    if source is None:
        return False
    made[plain.root, plain.axes] = source
    indices = edit.constant(index.astype(np.int64), f"{out.name}_index")
    attributes = [ir.AttrInt64("axis", axis)]
    result = edit.node("Gather", [source, indices], place, f"{out.name}_repeated", found.shape(), out, attributes)
    made[found.root, found.axes] = result
    _stand_in(out, result, edit)
    return True


def _stand_in(out: ir.Value, result: ir.Value, edit: Edit) -> None:
    """Let a new value take the place and the name of the last one of a chain."""
    name = out.name
    edit.stand_in(out, result, list(out.uses()))
    if result.name != name:
        out.name = edit.name(f"{name}_long")
        result.name = name


def _goes_on(value: ir.Value, found: dict[ir.Node, Arrangement]) -> bool:
    """Tell whether all that reads a value rearranges it further: then only the end is written."""
    uses = value.uses()
    return bool(uses) and not value.is_graph_output() and all(use.node in found and use.idx == 0 for use in uses)


def _is_scatter(node: ir.Node) -> bool:
    """Tell whether a Transpose belongs to a scatter that the passes wrote and will read again."""
    source = node.inputs[0].producer() if node.inputs[0] is not None else None
    around = [use.node for use in node.outputs[0].uses()] + ([] if source is None else [source])
    return any(ROLE in other.metadata_props for other in around)
