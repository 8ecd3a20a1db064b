"""Is a model well-formed? One walk, linear, on onnx_ir's own objects.

Part of the family ``graphopt/model*.py``; use it through `graphopt.model`.

What is checked is what makes a model mean nothing, or mean something else after it is written: names that occur twice
or not at all, values that nobody defines, nodes before their inputs, operator sets that are missing or from the future.
Operators and domains that graphopt does not know are fine.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import onnx
import onnx_ir as ir

from graphopt.errors import ModelError
from graphopt.subgraphs import subgraphs

STACK_TRACE = "pkg.torch.onnx.stack_trace"


class UnsortedError(ModelError):
    """A node stands before one that it needs. `graphopt.model.load` sorts such a model; a cycle cannot be sorted."""


def node_place(node: ir.Node) -> str:
    """Where a node is, for a message: its name and operator, and the line of the user's source when it is known."""
    kind = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
    place = f"node {node.name!r} ({kind})" if node.name else f"unnamed node ({kind}) that makes {_outputs(node)}"
    line = source_line(node)
    return f"{place}, {line}" if line else place


def source_line(node: ir.Node) -> str | None:
    """The user's innermost line that torch's exporter recorded, like ``File "net.py", line 12, in forward``.

    Lines inside of installed packages count only where there is no other.
    """
    lines = [line.strip() for line in node.metadata_props.get(STACK_TRACE, "").splitlines()]
    files = [line for line in lines if line.startswith("File ")]
    own = [line for line in files if "site-packages" not in line and "dist-packages" not in line]
    return (own or files or [None])[-1]


def _outputs(node: ir.Node) -> str:
    return ", ".join(repr(value.name) for value in node.outputs) or "nothing"


def check(model: ir.Model) -> None:
    """Refuse a model that is not well-formed.

    Raises:
        ModelError: No graph output; no operator set for a domain in use, or a newer one than the installed onnx knows;
            a name that is missing or given twice; an input that nothing defines; a cycle, or a node before its inputs;
            an initializer without data or of another shape or type than declared; functions that call each other in
            a circle.
    """
    if not model.graph.outputs:
        raise ModelError("the model has no outputs", f"graph {model.graph.name!r}", "declare at least one graph output")
    _check_opsets(model.opset_imports, None)
    _Scope(model.graph, model.opset_imports, None).check()
    for function in model.functions.values():
        where = f"function {function.domain}::{function.name}"
        _check_opsets(function.opset_imports, where)
        _Scope(function.graph, function.opset_imports, where).check()
    _check_calls(model)


def known_opsets() -> Mapping[str, int]:
    """The newest version of each operator set that the installed onnx knows."""
    return _known_opsets()


@functools.cache
def _known_opsets() -> dict[str, int]:
    newest: dict[str, int] = {}
    for schema in onnx.defs.get_all_schemas():
        newest[schema.domain] = max(newest.get(schema.domain, 0), schema.since_version)
    for _, _, *versions in onnx.helper.VERSION_TABLE:
        for domain, version in zip(("", "ai.onnx.ml", "ai.onnx.training"), versions, strict=False):
            newest[domain] = max(newest.get(domain, 0), version)
    newest[""] = max(newest.get("", 0), onnx.defs.onnx_opset_version())
    return newest


def _check_opsets(imports: Mapping[str, int], where: str | None) -> None:
    for domain, version in imports.items():
        newest = known_opsets().get(domain)
        name = domain or "ai.onnx"
        if version < 1:
            raise ModelError(f"version {version} of operator set {name!r} does not exist", where)
        if newest is not None and version > newest:
            raise ModelError(
                f"operator set {name!r} version {version} is unknown; the installed onnx {onnx.__version__} knows"
                f" versions up to {newest}",
                where,
                "export with an older opset, or install a newer onnx",
            )


class _Scope:
    """One graph, inside the graphs around it."""

    def __init__(
        self, graph: ir.Graph, opsets: Mapping[str, int], place: str | None, outer: _Scope | None = None
    ) -> None:
        self.graph = graph
        self.opsets = opsets
        self.place = place
        self.outer = outer
        self.defined: set[ir.Value] = set()
        self.names: dict[str, str] = {}

    def check(self) -> None:
        graph = self.graph
        for value in graph.inputs:
            self._define(value, "a graph input")
        for key, value in graph.initializers.items():
            if key != value.name:
                raise ModelError(f"the initializer {value.name!r} is listed under another name, {key!r}", self.place)
            if value not in self.defined:
                self._define(value, "an initializer")
            self._check_initializer(value)
        for node in graph:
            self._check_node(node)
        seen: set[str | None] = set()
        for value in graph.outputs:
            if value not in self.defined:
                raise ModelError(
                    f"the graph output {value.name!r} is not made by any node of its graph",
                    self._where(None),
                    "every output must be a node's output, a graph input or an initializer of the same graph",
                )
            if value.name in seen:
                raise ModelError(f"the graph output {value.name!r} is listed twice", self._where(None))
            seen.add(value.name)

    def _where(self, node: ir.Node | None) -> str:
        places = [node_place(node) if node is not None else f"graph {self.graph.name!r}"]
        if self.place:
            places.append(f"in {self.place}")
        return " ".join(places)

    def _define(self, value: ir.Value, what: str, node: ir.Node | None = None) -> None:
        name = value.name
        if not name:
            if node is not None and not value.uses() and name == "":
                return  # an optional output that is left out
            raise ModelError(f"{what} has no name", self._where(node))
        if name in self.names:
            raise ModelError(
                f"the name {name!r} is given twice: to {self.names[name]} and to {what}",
                self._where(node),
                "every value of a graph needs a name of its own",
            )
        self.names[name] = what
        self.defined.add(value)

    def _check_initializer(self, value: ir.Value) -> None:
        tensor = value.const_value
        where = f"initializer {value.name!r}" + (f" in {self.place}" if self.place else "")
        if tensor is None:
            raise ModelError("an initializer has no data", where)
        if isinstance(tensor, ir.serde.TensorProtoTensor):
            # Its `shape` and `dtype` build new objects each time; this walk must stay fast.
            actual, kind = tuple(tensor.raw.dims), tensor.raw.data_type
        else:
            actual, kind = tensor.shape.dims, tensor.dtype
        if value.dtype is not None and value.dtype != kind:
            raise ModelError(f"an initializer of type {tensor.dtype} is declared {value.dtype}", where)
        if value.shape is None:
            return
        declared = value.shape.dims
        if declared == actual:
            return
        if len(declared) != len(actual) or any(
            isinstance(size, int) and size != real for size, real in zip(declared, actual, strict=True)
        ):
            raise ModelError(f"an initializer of shape {tensor.shape} is declared {value.shape}", where)

    def _check_node(self, node: ir.Node) -> None:
        if node.domain not in self.opsets:
            name = node.domain or "ai.onnx"
            raise ModelError(
                f"the model imports no operator set {name!r}",
                self._where(node),
                f"add an opset_import for {name!r}; without it the version of the operator is unknown",
            )
        for value in node.inputs:
            if value is not None and value not in self.defined:
                self._check_outer(value, node)
        for attribute in node.attributes.data.values():  # UserDict's own dictionary: four times faster
            if attribute.type in _GRAPHS and not attribute.is_ref():
                for graph in subgraphs(node):
                    _Scope(graph, self.opsets, f"subgraph of {self._where(node)}", self).check()
                break
        for value in node.outputs:
            self._define(value, f"an output of {node_place(node)}" if value.name in self.names else "a node", node)

    def _check_outer(self, value: ir.Value, node: ir.Node) -> None:
        """An input that this graph has not defined: one of the graphs around it must have, and no name may hide it."""
        hidden = value.name in self.names
        scope = self.outer
        while scope is not None:
            if value in scope.defined:
                if hidden:
                    raise ModelError(
                        f"the input {value.name!r} comes from an outer graph, but a nearer value has the same name",
                        self._where(node),
                        "rename one of the two",
                    )
                return
            hidden = hidden or value.name in scope.names
            scope = scope.outer
        producer = value.producer()
        if producer is None or producer.graph is None:
            raise ModelError(
                f"the input {value.name!r} is not defined",
                self._where(node),
                "it must be a graph input, an initializer or the output of an earlier node",
            )
        raise UnsortedError(
            f"the input {value.name!r} is used before {node_place(producer)} makes it", self._where(node)
        )


_GRAPHS = frozenset({ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS})


def _check_calls(model: ir.Model) -> None:
    """Functions may call functions, but not in a circle."""
    if not model.functions:
        return
    calls = {
        key: {node.op_identifier() for node in ir.traversal.RecursiveGraphIterator(function.graph)}
        & model.functions.keys()
        for key, function in model.functions.items()
    }
    while ready := [key for key, called in calls.items() if not called]:
        for key in ready:
            del calls[key]
        for called in calls.values():
            called.difference_update(ready)
    if calls:
        names = ", ".join(sorted(f"{domain}::{name}" for domain, name, _ in calls))
        raise ModelError("model-local functions call each other in a circle", f"functions {names}")
