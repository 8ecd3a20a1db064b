"""Model-local functions are inlined, so that masks inside them can be seen."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from graphopt.errors import ModelError
from graphopt.runtime_ops.operator import DOMAIN
from graphopt.subgraphs import made, subgraphs


def inline_functions(model: ir.Model, *, calls: bool = False) -> ir.Model:
    """Inline calls of model-local functions, in bodies and in each other; names inside hide none outside.

    Functions of the domain ``graphopt`` stay calls, unless ``calls`` says otherwise, and so do those that cannot be
    inlined: written for another version of an operator set than the model, called by such a one, or called with a graph
    as an attribute.

    Raises:
        ModelError: a malformed function.
    """
    kept = _not_inlined(model, None if calls else DOMAIN)
    if len(kept) == len(model.functions):
        return model
    try:
        result = InlinePass(criteria=lambda function: function.identifier() not in kept)(model).model
    except Exception as error:  # leave a malformed function to whoever wrote it
        raise ModelError(f"its functions cannot be inlined: {error}", help="check the model-local functions") from error
    _unhide(result.graph)
    return result


def _not_inlined(model: ir.Model, whole: str | None) -> set[ir.OperatorIdentifier]:
    imports = dict(model.opset_imports)
    kept: set[ir.OperatorIdentifier] = set()
    foreign: list[ir.OperatorIdentifier] = []
    calls: dict[ir.OperatorIdentifier, set[ir.OperatorIdentifier]] = {}
    for key, function in model.functions.items():
        calls[key] = {node.op_identifier() for node in function.graph.all_nodes()} & model.functions.keys()
        if any(imports.setdefault(domain, version) != version for domain, version in function.opset_imports.items()):
            foreign.append(key)
        if function.domain == whole or any(_holds_graph(attribute) for attribute in function.attributes.values()):
            kept.add(key)
    while foreign:  # what they call would be inlined into them, and there is another operator set
        key = foreign.pop()
        if key not in kept or model.functions[key].domain == whole:
            kept.add(key)
            foreign += calls.pop(key, set())
    bodies = [model.graph, *(function.graph for function in model.functions.values())]
    for node in (node for body in bodies for node in body.all_nodes()):
        if node.op_identifier() in model.functions and any(True for _ in subgraphs(node)):
            kept.add(node.op_identifier())
    return kept


def _holds_graph(attribute: ir.Attr) -> bool:
    return attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


def _unhide(graph: ir.Graph) -> None:
    """Rename what a body calls like something around it; its own names stay where they can."""
    taken = {value.name or "" for value in made(graph)}
    pending = [(body, taken) for node in graph for body in subgraphs(node)]
    while pending:
        body, around = pending.pop()
        own: set[str] = set()
        for value in made(body):
            name, number = value.name or "", 1
            while (name in around or name in own) and value.name:
                name, number = f"{value.name}_{number}", number + 1
            if name != value.name:
                value.name = name
            own.add(name)
        inside = around | own
        pending += [(deeper, inside) for node in body for deeper in subgraphs(node)]
