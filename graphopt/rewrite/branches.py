"""An If of which the condition is a constant is replaced by the branch that it always takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import onnx_ir as ir

from graphopt.facts.constants import Constants, is_constant
from graphopt.rewrite.unused import let_go
from graphopt.subgraphs import made, subgraphs, within

Names = Counter[tuple[type, str]]
"""How often a value, or a node, has a name."""


def inline_taken(graph: ir.Graph, root: ir.Graph, constants: Constants) -> int:
    """Replace every If of a graph that always takes the same branch; return their number.

    Args:
        graph: the main graph or a body.
        root: the main graph: a name that is used anywhere in it is not given again.
        constants: what is known of constants.
    """
    inlined = 0
    names: Names | None = None
    for node in list(graph):
        branch = _taken(node, constants)
        if branch is None:
            continue
        if names is None:
            names = Names(_names(root))
        for body in subgraphs(node):
            names.subtract(_names(body))
        _inline(node, branch, names)
        inlined += 1
    return inlined


def _taken(node: ir.Node, constants: Constants) -> ir.Graph | None:
    """Return the branch that is taken in every run, or ``None``."""
    if node.op_type != "If" or node.domain not in ("", "ai.onnx") or not node.inputs or node.inputs[0] is None:
        return None
    condition = constants.array(node.inputs[0]) if is_constant(node.inputs[0]) else None
    if condition is None or condition.size != 1:
        return None
    branch = node.attributes.get("then_branch" if bool(condition.reshape(-1)[0]) else "else_branch")
    if branch is None or len(branch.as_graph().outputs) != len(node.outputs):
        return None
    return branch.as_graph()


def _names(graph: ir.Graph) -> Iterator[tuple[type, str]]:
    """Yield the names of values and of nodes; one of each kind may be called the same."""
    for each in within(graph):
        yield from ((ir.Value, str(value.name)) for value in made(each))
        yield from ((ir.Node, str(node.name)) for node in each)


def _inline(node: ir.Node, branch: ir.Graph, names: Names) -> None:
    """Put a branch in the place of its node."""
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    results = list(branch.outputs)
    branch.outputs.clear()
    for value in list(branch.initializers.values()):
        del branch.initializers[str(value.name)]
        _rename(value, names)
        graph.register_initializer(value)
    inside = list(branch)
    branch.remove(inside)
    for each in inside:
        _rename(each, names)
        for value in each.outputs:
            _rename(value, names)
        for deeper in (deeper for body in subgraphs(each) for deeper in within(body)):
            for named in (*made(deeper), *deeper):
                _rename(named, names)
        graph.insert_before(node, each)
    for out, result in zip(list(node.outputs), results, strict=True):
        if out.is_graph_output():
            # Its name is a promise; ``tidy`` lets the result have it where that is possible.
            same = ir.Node("", "Identity", [result], name=f"{out.name}_same", num_outputs=1)
            graph.insert_before(node, same)
            result = same.outputs[0]
            result.type, result.shape = out.type, out.shape
            for position, output in enumerate(graph.outputs):
                if output is out:
                    graph.outputs[position] = result
            name, out.name = out.name, None
            result.name = name
        if result.shape is None:
            result.shape = out.shape
        for use in list(out.uses()):
            use.node.replace_input_with(use.idx, result)
    let_go(node)
    graph.remove(node, safe=True)


def _rename(named: ir.Value | ir.Node, names: Names) -> None:
    """Keep the name of a value or a node where no other has it."""
    base, kind, number = named.name, type(named), 1
    if not base:
        return
    name = base
    while names[kind, name] > 0:
        name, number = f"{base}_{number}", number + 1
    names[kind, name] += 1
    if name != base:
        named.name = name
