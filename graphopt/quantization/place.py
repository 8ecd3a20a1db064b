"""Where: which nodes run on integers on a target, and which of their tensors are quantized for that.

The target's table (``tables/``) says what each operator can do (``place_candidates.py``); a minimum cut says where it
pays: nodes that compute gain, borders between float and integers cost, and nodes between decide by their neighbours
(``place_costs.py``, ``place_cut.py``).
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator

import onnx_ir as ir

from graphopt.calibrate.solve import Constraint
from graphopt.context import Context
from graphopt.errors import ModelError, UsageError, nearest
from graphopt.quantization.place_candidates import STANDARD, SUMS, Candidates
from graphopt.quantization.place_costs import cheapest
from graphopt.quantization.placement import Activation, Bias, Kept, Placement, Weight
from graphopt.quantization.request import Request
from graphopt.quantization.tables.rows import Row
from graphopt.quantization.types import activation_grid, opset, weight_grid
from graphopt.subgraphs import subgraphs

EXCLUDED, RETURNED = "excluded by the user", "returned to float"


def placed(context: Context, request: Request) -> Placement:
    """Return which nodes of the main graph run on integers, and what is quantized for them.

    Nodes of ``State.floats`` stay in float.

    Raises:
        UsageError: A type that the target cannot load; a name in ``exclude`` that no node has.
        ModelError: The model's operator set is older than the types.
    """
    kind, weight_kind = activation_grid(request), weight_grid(request)
    excluded = dict.fromkeys(_excluded(context.model.graph, request), EXCLUDED)
    if context.quantization is not None:
        excluded = {**dict.fromkeys(context.quantization.floats, RETURNED), **excluded}
    if kind is None:
        return Placement()
    if context.opset < opset(request):
        raise ModelError(
            f"operator set {context.opset} has no quantization to {kind.name} with {weight_kind.name} weights",
            help=f"export the model with operator set {opset(request)} or later",
        )
    found = Candidates(context, request, request.table, kind, weight_kind, excluded)
    found.look()
    return _carry_out(found, cheapest(found))


def _carry_out(candidates: Candidates, chosen: set[ir.Node]) -> Placement:
    """Return the placement in which the chosen nodes run on integers."""
    found = Placement()
    shares = _Shares()
    wanted: dict[ir.Value, list[tuple[ir.Node, int]]] = {}
    for node, row in candidates.rows.items():
        if node not in chosen:
            continue
        found.nodes[node] = row.role if row.role == "move" else candidates.table.kernels.get(node.op_type, node.op_type)
        for position in candidates.positions(node, row):
            value = node.inputs[position]
            assert value is not None
            if not candidates.constants.known(value):
                wanted.setdefault(value, []).append((node, position))
                continue
            grid, axis = candidates.stored[value]
            centred = position == row.weight or candidates.table.symmetric
            constraint = Constraint(zero_point=0) if centred else Constraint()
            weight = found.weights.setdefault(value, Weight(value, grid, axis, constraint=constraint))
            weight.readers.append((node, position))
        _bias(node, row, candidates, found)
        written = [candidates.written[out] for out in node.outputs]
        if candidates.writes_integers(node):
            for value in written:
                wanted.setdefault(value, [])
        if row.direct:
            found.direct.append(node)
        if row.role == "move":
            for value in written:
                shares.join(node.inputs[0], value)
    for value, readers in wanted.items():
        made = candidates.owner.get(value) in chosen
        constraint = _constraint(candidates, value)
        found.activations[value] = Activation(value, candidates.kind, constraint, readers=None if made else readers)
    _share(candidates, found, shares)
    _keep(candidates, found, chosen)
    _guard(candidates, found)
    return found


def _bias(node: ir.Node, row: Row, candidates: Candidates, found: Placement) -> None:
    bias = node.inputs[row.bias] if row.bias is not None and len(node.inputs) > row.bias else None
    if bias is None or row.bias is None or row.weight is None or candidates.table.bias == "float":
        return
    data, weight = node.inputs[row.data[0]], node.inputs[row.weight]
    assert data is not None and weight is not None
    found.biases.append(Bias(bias, node, row.bias, data, weight))


def _constraint(candidates: Candidates, value: ir.Value) -> Constraint:
    if candidates.table.symmetric:
        return Constraint(zero_point=0)
    return candidates.clipped(value.producer()) or Constraint()


def _share(candidates: Candidates, found: Placement, shares: _Shares) -> None:
    """Give values on both sides of a mover one name, and the constraint of the value that all come from."""
    for root, members in shares.groups():
        own = [_constraint(candidates, value) for value in members]
        constraint = next((one for one in own if one.zero_point is not None), own[0])
        for value in members:
            if value in found.activations:
                found.activations[value].share = str(root.name)
                found.activations[value].constraint = constraint


def _keep(candidates: Candidates, found: Placement, chosen: set[ir.Node]) -> None:
    """Say of every node that multiplies, and of those that the user named, why it stays in float."""
    for node, reason in candidates.why.items():
        row = candidates.table.rows.get(node.op_type)
        named = reason == EXCLUDED or (node in candidates.excluded and row is not None and row.role != "move")
        if named or row is None or row.role == "compute":
            found.kept.append(Kept(node, reason))
    for node, row in candidates.rows.items():
        if node not in chosen and row.role == "compute":
            found.kept.append(Kept(node, "too small: quantizing what it reads costs more than integers save"))
    for node in candidates.context.model.graph:
        for inner in _inside(node):
            if inner.op_type in SUMS:
                found.kept.append(Kept(inner, f"it lies in a body of {node.op_type}, which stays in float"))


def _guard(candidates: Candidates, found: Placement) -> None:
    """Find nodes in float that the runtime would quantize by itself: between DQ and Q, or in front of any Q."""
    rows = candidates.table.rows

    def passed(node: ir.Node | None) -> bool:
        row = None if node is None or node.domain not in STANDARD else rows.get(node.op_type)
        return row is not None and row.role in ("move", "absorb") and node not in found.nodes

    def dequantized(node: ir.Node) -> bool:
        while True:
            value = node.inputs[0]
            row = None if value is None else found.activations.get(value)
            if row is not None:
                return row.readers is None or (node, 0) in row.readers
            before = None if value is None else value.producer()
            if before is None or not passed(before):
                return False
            node = before

    def quantized(out: ir.Value) -> bool:
        waiting, seen = [out], {out}
        while waiting:
            value = waiting.pop()
            if value in found.activations:
                return True
            behind = [each for use in value.uses() if passed(use.node) for each in use.node.outputs]
            waiting += [each for each in behind if each not in seen]
            seen.update(behind)
        return False

    for node in candidates.context.model.graph:
        if node.domain not in STANDARD or node in found.nodes:
            continue
        taken = node.op_type in candidates.table.takes and dequantized(node)
        if (taken or node.op_type in candidates.table.pulled) and quantized(node.outputs[0]):
            found.guarded.append(node)


class _Shares:
    """Values that must have equal parameters: sets that grow together."""

    def __init__(self) -> None:
        self._above: dict[ir.Value, ir.Value] = {}

    def join(self, first: ir.Value | None, second: ir.Value) -> None:
        assert first is not None
        self._above[second] = self.root(first)

    def root(self, value: ir.Value) -> ir.Value:
        while value in self._above:
            value = self._above[value]
        return value

    def groups(self) -> Iterator[tuple[ir.Value, list[ir.Value]]]:
        """Yield the value that moves from place to place, and all that it becomes, itself included."""
        members: dict[ir.Value, list[ir.Value]] = {}
        for value in self._above:
            root = self.root(value)
            members.setdefault(root, [root]).append(value)
        yield from members.items()


def _inside(node: ir.Node) -> Iterator[ir.Node]:
    for body in subgraphs(node):
        for inner in body:
            yield inner
            yield from _inside(inner)


def _excluded(graph: ir.Graph, request: Request) -> set[ir.Node]:
    """Return the nodes that the user excluded.

    Raises:
        UsageError: A name or glob that no node has.
    """
    found: set[ir.Node] = set()
    names = {str(node.name or node.outputs[0].name): node for node in graph.all_nodes() if node.outputs}
    for pattern in request.exclude:
        hits = (
            {names[pattern]} if pattern in names else {n for s, n in names.items() if fnmatch.fnmatchcase(s, pattern)}
        )
        if not hits:
            close = nearest(pattern, names)
            raise UsageError(
                f"no node is called {pattern!r}",
                where="exclude",
                help=f"did you mean {close!r}?" if close else "`graphopt quantize MODEL --dry-run` lists the nodes",
            )
        found |= hits
    return found
