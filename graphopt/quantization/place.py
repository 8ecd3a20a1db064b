"""Where: which nodes run on integers on a target, and which of their tensors are quantized for that.

The target's table (``tables/``) says what each operator can do; a minimum cut says where it pays: nodes that compute
gain, borders between float and integers cost, and nodes between decide by their neighbours (``place_cut.py``).
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.calibrate.grid import Grid
from graphopt.calibrate.solve import Constraint
from graphopt.context import Context
from graphopt.errors import ModelError, UsageError, nearest
from graphopt.facts.constants import Constants
from graphopt.quantization import place_costs as costs
from graphopt.quantization.place_cut import NEVER, Cut
from graphopt.quantization.placement import Activation, Bias, Kept, Placement, Weight
from graphopt.quantization.request import Request
from graphopt.quantization.tables import TABLES
from graphopt.quantization.tables.rows import Row, Table
from graphopt.quantization.types import activation_grid, opset, weight_grid
from graphopt.subgraphs import subgraphs

EXCLUDED, RETURNED = "excluded by the user", "returned to float"

_STANDARD = ("", "ai.onnx")
_SUMS = frozenset("Conv ConvTranspose MatMul Gemm Einsum LSTM GRU RNN Attention".split())
"""Operators whose staying in float is reported, also where a target's table has no row for them."""


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
    found = _Finder(context, request, TABLES[request.target], kind, weight_kind, excluded)
    found.look()
    return found.place(found.cut())


@dataclass
class _Finder:
    """One graph while it is placed."""

    context: Context
    request: Request
    table: Table
    kind: Grid
    weight_kind: Grid
    excluded: Mapping[ir.Node, str]
    rows: dict[ir.Node, Row] = field(default_factory=dict)
    """Nodes that can run on integers; absorbed ones belong to the node in front of them and are not here."""
    why: dict[ir.Node, str] = field(default_factory=dict)
    """Why a node that computes stays in float."""
    written: dict[ir.Value, ir.Value] = field(default_factory=dict)
    """What a node's output is behind the Relu that it absorbs, for outputs of ``rows``."""
    owner: dict[ir.Value, ir.Node] = field(default_factory=dict)
    """The node that writes a value, absorbed ones passed over."""
    stored: dict[ir.Value, tuple[Grid, int | None]] = field(default_factory=dict)
    """Type and axis of constants that would be stored as integers."""

    # -- what can be ---------------------------------------------------------------------------------------------------

    @property
    def constants(self) -> Constants:
        return self.context.constants

    def look(self) -> None:
        """Find the nodes that can run on integers."""
        for node in self.context.model.graph:
            if node.domain not in _STANDARD:
                continue
            row = self.table.rows.get(node.op_type)
            if row is None:
                if node.op_type in _SUMS:
                    self.why[node] = f"the target has no integer {node.op_type}"
                continue
            if row.role == "absorb":
                continue
            reason = self._reason(node, row)
            if reason is not None:
                self.why[node] = reason
                continue
            self.rows[node] = row
            for out in node.outputs:
                self.written[out] = behind = self._behind(out)
                self.owner[behind] = node

    def _reason(self, node: ir.Node, row: Row) -> str | None:
        """Return why a node cannot run on integers; remembers the types of its constants if it can."""
        if node in self.excluded:
            return self.excluded[node]
        if row.output != "other" and any(out.dtype != ir.DataType.FLOAT for out in node.outputs if out.name):
            return "its output is not of type float"
        for condition in row.when:
            reason = condition(node)
            if reason is not None:
                return reason
        wanted: dict[ir.Value, tuple[Grid, int | None]] = {}
        computed = 0
        for position in _positions(node, row):
            value = node.inputs[position] if position < len(node.inputs) else None
            if value is None or value.dtype != ir.DataType.FLOAT:
                return "an input is missing or not of type float"
            if not self.constants.known(value):
                computed += 1
                if row.weight == position and position not in row.data:
                    return "its weight is not a constant"
            elif self.constants.array(value) is None or not np.isfinite(self.constants.array(value)).all():  # type: ignore[arg-type]
                return "a constant is not finite"
            elif position == row.weight:
                axis = row.channels(node) if row.channels is not None and self.request.per_channel else None
                wanted[value] = (self.weight_kind, axis)
            elif row.constants or not row.data:
                wanted[value] = (self.kind, None)
            else:
                return "what it reads is a constant"
        if not computed:
            return "it computes with constants only"
        reason = self._bias_reason(node, row)
        if reason is not None:
            return reason
        for value, (kind, axis) in wanted.items():
            before = self.stored.get(value, (kind, axis))
            if before[0] is not kind:
                return "its constant is an operand of another kind elsewhere"
            self.stored[value] = (kind, axis if before[1] == axis else None)
        return None

    def _bias_reason(self, node: ir.Node, row: Row) -> str | None:
        bias = node.inputs[row.bias] if row.bias is not None and len(node.inputs) > row.bias else None
        if bias is None or row.weight is None or self.table.bias == "float":
            return None
        if not self.constants.known(bias):
            return "its bias is not a constant"
        if not self.constants.known(node.inputs[row.weight]):
            return "it has a bias but no constant weight"
        channels = row.channels(node) if row.channels is not None else None
        sizes = dims.static(node.inputs[row.weight])
        if channels is None or sizes is None or dims.static(bias) != (sizes[channels],):
            return "its bias is not one number for each output channel"
        return None

    def _writes_integers(self, node: ir.Node) -> bool:
        """Tell whether a Q must follow a node that runs on integers."""
        row = self.rows[node]
        if row.output != "either":
            return row.output == "quantized"
        uses = list(node.outputs[0].uses())
        alone = len(uses) == 1 and not node.outputs[0].is_graph_output()
        return alone and row.joined is not None and row.joined(node, uses[0].node)

    def _behind(self, out: ir.Value) -> ir.Value:
        """Return the value behind a Relu or Clip that the node in front absorbs, else the value itself."""
        while self.table.absorbs:
            uses = list(out.uses())
            if len(uses) != 1 or out.is_graph_output() or uses[0].node.graph is not self.context.model.graph:
                return out
            node = uses[0].node
            if self._clipped(node) is None or uses[0].idx != 0 or node in self.excluded:
                return out
            out = node.outputs[0]
        return out

    def _clipped(self, node: ir.Node | None) -> Constraint | None:
        """Return what makes a Relu, or a Clip from zero up, redundant in front of a Q; None for any other node."""
        if node is None or node.domain not in _STANDARD:
            return None
        row = self.table.rows.get(node.op_type)
        if row is None or row.role != "absorb":
            return None
        low = int(self.kind.low)
        if node.op_type == "Relu":
            return Constraint(zero_point=low)
        ends = [self._number(node, position, name) for position, name in ((1, "min"), (2, "max"))]
        if ends[0] != 0 or (ends[1] is not None and not ends[1] > 0):
            return None
        return Constraint(zero_point=low, upper=ends[1] if ends[1] != np.inf else None)

    def _number(self, node: ir.Node, position: int, name: str) -> float | None:
        """Return an end of a Clip: None if it is not there, NaN if it is not known."""
        if name in node.attributes:
            return node.attributes.get_float(name)
        value = node.inputs[position] if len(node.inputs) > position else None
        if value is None:
            return None
        array = self.constants.array(value)
        return float(array) if array is not None and array.size == 1 else np.nan

    # -- what pays -----------------------------------------------------------------------------------------------------

    def cut(self) -> set[ir.Node]:
        """Return the nodes that run on integers at the least cost."""
        net = Cut()
        figures = self.table.costs
        read: dict[ir.Value, list[ir.Node]] = {}
        for node, row in self.rows.items():
            slow, fast = costs.of_node(node, row, figures)
            net.side(node, first=fast, second=slow)
            for value in self._activations(node, row):
                read.setdefault(value, []).append(node)
        for value, readers in read.items():
            q, dq = costs.of_borders(value, figures)
            owner = self.owner.get(value)
            for reader in readers:
                net.border(reader, ("read", value), NEVER)
            net.border(("read", value), owner, q)
            if owner is not None and self._writes_integers(owner):
                if self._read_in_float(value, readers):
                    net.border(owner, None, dq)
                else:
                    net.border(owner, ("whole", value), dq)
                    for reader in readers:
                        net.border(("whole", value), reader, NEVER)
        for node in self.rows:
            if self._writes_integers(node):
                for out in node.outputs:
                    value = self.written[out]
                    if value not in read:
                        net.border(node, None, costs.of_borders(value, figures)[1])
        return {what for what in net.solve() if isinstance(what, ir.Node)}

    def _activations(self, node: ir.Node, row: Row) -> list[ir.Value]:
        """Return what a node reads as activations, each once."""
        values = [node.inputs[position] for position in _positions(node, row)]
        return list(dict.fromkeys(value for value in values if value is not None and not self.constants.known(value)))

    def _read_in_float(self, value: ir.Value, readers: list[ir.Node]) -> bool:
        known = set(readers)
        return value.is_graph_output() or any(use.node not in known for use in value.uses())

    # -- what follows --------------------------------------------------------------------------------------------------

    def place(self, chosen: set[ir.Node]) -> Placement:
        """Return the placement in which the chosen nodes run on integers."""
        found = Placement()
        shares = _Shares()
        wanted: dict[ir.Value, list[tuple[ir.Node, int]]] = {}
        for node, row in self.rows.items():
            if node not in chosen:
                continue
            found.nodes[node] = row.role if row.role == "move" else node.op_type
            for position in _positions(node, row):
                value = node.inputs[position]
                assert value is not None
                if not self.constants.known(value):
                    wanted.setdefault(value, []).append((node, position))
                    continue
                grid, axis = self.stored[value]
                free = Constraint(zero_point=0) if position == row.weight or self.table.symmetric else Constraint()
                weight = found.weights.setdefault(value, Weight(value, grid, axis, constraint=free))
                weight.readers.append((node, position))
            self._bias(node, row, found)
            written = [self.written[out] for out in node.outputs]
            if self._writes_integers(node):
                for value in written:
                    wanted.setdefault(value, [])
            if row.role == "move":
                for value in written:
                    shares.join(node.inputs[0], value)
        for value in wanted:
            owner = self.owner.get(value)
            inside = owner in chosen
            readers = None if inside else wanted[value]
            found.activations[value] = Activation(value, self.kind, self._constraint(value), readers=readers)
        self._share(found, shares)
        self._keep(found, chosen)
        return found

    def _bias(self, node: ir.Node, row: Row, found: Placement) -> None:
        bias = node.inputs[row.bias] if row.bias is not None and len(node.inputs) > row.bias else None
        if bias is None or row.bias is None or row.weight is None or self.table.bias == "float":
            return
        data, weight = node.inputs[row.data[0]], node.inputs[row.weight]
        assert data is not None and weight is not None
        found.biases.append(Bias(bias, node, row.bias, data, weight))

    def _constraint(self, value: ir.Value) -> Constraint:
        if self.table.symmetric:
            return Constraint(zero_point=0)
        return self._clipped(value.producer()) or Constraint()

    def _share(self, found: Placement, shares: _Shares) -> None:
        """Give values on both sides of a mover one name, and the constraint of the value that all come from."""
        for root, members in shares.groups():
            constraint = self._constraint(root)
            for value in members:
                own = self._constraint(value)
                if own.zero_point is not None and constraint.zero_point is None:
                    constraint = own
            for value in members:
                if value in found.activations:
                    found.activations[value].share = str(root.name)
                    found.activations[value].constraint = constraint

    def _keep(self, found: Placement, chosen: set[ir.Node]) -> None:
        for node, reason in self.why.items():
            row = self.table.rows.get(node.op_type)
            if reason in ("excluded by the user", "returned to float") or row is None or row.role == "compute":
                found.kept.append(Kept(node, reason))
        for node, row in self.rows.items():
            if node not in chosen and row.role == "compute":
                found.kept.append(Kept(node, "too small: quantizing what it reads costs more than integers save"))
        for node in self.context.model.graph:
            for inner in _inside(node):
                if inner.op_type in _SUMS:
                    found.kept.append(Kept(inner, f"it lies in a body of {node.op_type}, which stays in float"))


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


def _positions(node: ir.Node, row: Row) -> tuple[int, ...]:
    """Return the inputs that are quantized, the bias apart."""
    if not row.data:
        return tuple(range(len(node.inputs)))
    return row.data if row.weight is None or row.weight in row.data else (*row.data, row.weight)


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
    names = {node.name: node for node in graph if node.name}
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
