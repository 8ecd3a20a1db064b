"""Calls of runtime operators: the node, the function that says what it computes, and the import of its domain.

A lowering pass asks ``ready`` first, makes its ``Edit``, and inserts with ``call``::

    if not found or not ready(context, "ScatterAdd"):
        return False
    edit = Edit(context.bare(), "composed", cut_weights=True)
    new = call(context, edit, "ScatterAdd", [x, index, y], edit.before(node), "sum", dims.sizes(x), x, {"axis": 1})

What no node calls any more is taken out at the end, with the import of the domain (``remove_unused_functions``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from graphopt import dims
from graphopt.rewrite.edit import Cursor, Edit
from graphopt.rewrite.opsets import raise_opset
from graphopt.runtime_ops import operators
from graphopt.runtime_ops.operator import DOMAIN, VERSION

if TYPE_CHECKING:
    from graphopt.context import Context

FUNCTIONS_SINCE = 8
"""The IR version that has functions in a model."""


def ready(context: Context, name: str) -> bool:
    """Tell whether a runtime operator may be inserted: it was asked for, it exists, and the model can say what it is.

    A model whose operator set is too old for the definition is written in a later one, here and now: ask only when
    there is something to lower, and before an ``Edit`` is made (the upgrade adds constants). Where it cannot be, the
    user is told once, and nothing is changed.
    """
    operator = operators().get(name) if context.runtime_operators else None
    if operator is None:
        return False
    reason = raise_opset(context, operator.since)
    if reason is not None:
        context.warn(
            "opset-stays",
            f"runtime operators need operator set {operator.since}, the model stays at {context.opset}: {reason}",
        )
    return reason is None


def call(
    context: Context,
    edit: Edit,
    name: str,
    inputs: Sequence[ir.Value | None],
    place: Cursor,
    base: str,
    shape: Sequence[dims.Size] | None,
    like: ir.Value,
    attributes: Mapping[str, Any] | None = None,
    dtype: ir.DataType | None = None,
) -> ir.Value:
    """Insert a call of a runtime operator, in the graph of the edit (a body too), and return its output.

    Args:
        context: What the pass was given; ``ready(context, name)`` is true.
        edit: The edit of the graph that gets the node; it keeps names unique.
        name: The operator.
        inputs: In the order of the definition; None where an optional one is absent.
        place: Where the node goes.
        base: The name of the output, if nothing is called so.
        shape: Sizes of the output, None where they are not known.
        like: The value that the output stands for: it has its type unless ``dtype`` is given, and its source line.
        attributes: Those that differ from the operator's defaults; the others are written down, too: a function has
            no defaults.
        dtype: Type of the elements of the output.

    Raises:
        KeyError: There is no such operator.
        ValueError: An attribute that the operator does not have; an operator set that is too old.
    """
    operator = operators()[name]
    given = {**operator.attributes, **(attributes or {})}
    unknown = given.keys() - operator.attributes.keys()
    if unknown:
        raise ValueError(f"{name} has no attribute {sorted(unknown)[0]!r}; it has {', '.join(operator.attributes)}")
    define(context.model, name)
    written = ir.convenience.convert_attributes(given) if given else []
    result = edit.node(
        name, list(inputs), place, base, None if shape is None else list(shape), like, list(written), dtype, DOMAIN
    )
    node = result.producer()
    assert node is not None
    node.version = VERSION
    return result


def define(model: ir.Model, name: str) -> None:
    """Give a model the definition of a runtime operator, those that it calls itself, and the imports for them.

    Raises:
        ValueError: The model's operator set is too old.
    """
    key = (DOMAIN, name, "")
    model.opset_imports.setdefault(DOMAIN, VERSION)
    if key in model.functions:
        return
    opset = model.opset_imports.get("", model.opset_imports.get("ai.onnx", 1))
    function = operators()[name].function(opset)
    model.functions[key] = function
    model.ir_version = max(model.ir_version or 0, FUNCTIONS_SINCE)
    for domain, version in function.opset_imports.items():
        model.opset_imports.setdefault(domain, version)
    for node in function:
        if node.domain == DOMAIN:
            define(model, node.op_type)


def calls(model: ir.Model) -> dict[str, int]:
    """Return how often a model calls each runtime operator, bodies included, by name."""
    found = Counter(node.op_type for node in model.graph.all_nodes() if node.domain == DOMAIN)
    return dict(sorted(found.items()))


def remove_unused_functions(model: ir.Model) -> int:
    """Remove definitions of runtime operators that nothing calls, and the import of their domain; return their number.

    Functions of other domains are the user's and stay.
    """
    called: set[ir.OperatorIdentifier] = set()
    foreign = [function.graph for key, function in model.functions.items() if key[0] != DOMAIN]
    pending: list[ir.Graph] = [model.graph, *foreign]
    while pending:
        for node in pending.pop().all_nodes():
            key = node.op_identifier()
            if node.domain == DOMAIN and key not in called:
                called.add(key)
                if key in model.functions:
                    pending.append(model.functions[key].graph)
    unused = [key for key in model.functions if key[0] == DOMAIN and key not in called]
    for key in unused:
        del model.functions[key]
    if not called:
        model.opset_imports.pop(DOMAIN, None)
    return len(unused)
