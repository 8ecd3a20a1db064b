"""What can run on integers: nodes that a target's table has a row for, and whose surroundings are as it says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.calibrate.grid import Grid
from graphopt.calibrate.solve import Constraint
from graphopt.context import Context
from graphopt.facts.constants import Constants, stored
from graphopt.quantization.request import Request
from graphopt.quantization.tables import conditions as on
from graphopt.quantization.tables.rows import Row, Table

STANDARD = ("", "ai.onnx")
SUMS = frozenset("Conv ConvTranspose MatMul Gemm Einsum LSTM GRU RNN Attention".split())
"""Operators whose staying in float is reported, also where a target's table has no row for them."""


@dataclass
class Candidates:
    """The nodes of one graph that can run on integers, and why others cannot."""

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
    taken: dict[ir.Node, ir.Node] = field(default_factory=dict)
    """Additions whose residual a kernel adds, with the node in front that does (``Row.adds``)."""
    alone: set[ir.Value] = field(default_factory=set)
    """Values that must stay in float."""

    @property
    def constants(self) -> Constants:
        """What is known of constants."""
        return self.context.constants

    def look(self) -> None:
        """Find the nodes that can run on integers."""
        self._leave_alone()
        for node in self.context.model.graph:
            if node.domain not in STANDARD:
                continue
            row = self.table.rows.get(node.op_type)
            if row is None:
                if node.op_type in SUMS:
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

    def _leave_alone(self) -> None:
        """Find what is read beside weights that are stored as integers already, in whatever way.

        onnxruntime would make one integer product of both, and has no kernel for every way of storing (rows with
        scales of their own: it loads, and fails when it runs).
        """
        for node in self.context.model.graph:
            if node.op_type not in SUMS or not any(v is not None and stored(v) is not None for v in node.inputs):
                continue
            for value in node.inputs:
                while value is not None and value not in self.alone:
                    self.alone.add(value)
                    before = value.producer()
                    row = None if before is None else self.table.rows.get(before.op_type)
                    moved = before is not None and row is not None and row.role in ("move", "absorb")
                    value = before.inputs[0] if before is not None and moved else None

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
        if row.direct and self.kind.storage not in ("int8", "uint8"):
            return "the runtime copies integers of 8 bits only"
        wanted: dict[ir.Value, tuple[Grid, int | None]] = {}
        computed = 0
        summed = self._summed(node)
        for position in positions(node, row):
            if summed is not None and node.inputs[position] is summed.outputs[0]:
                continue
            value = node.inputs[position] if position < len(node.inputs) else None
            if value is None or value.dtype != ir.DataType.FLOAT:
                return "an input is missing or not of type float"
            if stored(value) is not None:
                return "it is quantized already"
            if not self.constants.known(value):
                computed += 1
                if row.weight == position and position not in row.data:
                    return "its weight is not a constant"
            elif self.constants.finite(value) is not True:
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
        if any(self._behind(out) in self.alone for out in node.outputs):
            return "what reads it has weights that are stored as integers already"
        for value, (kind, axis) in wanted.items():
            before = self.stored.get(value, (kind, axis))
            if before[0] is not kind:
                return "its constant is an operand of another kind elsewhere"
            self.stored[value] = (kind, axis if before[1] == axis else None)
        if summed is not None:
            self.taken[node] = summed
        return None

    def _summed(self, node: ir.Node) -> ir.Node | None:
        """Return the node in front of an addition that adds the other operand by itself; the later one of two."""
        if node.op_type != "Add" or node.domain not in STANDARD:
            return None
        before = [value.producer() for value in node.inputs if value is not None]
        found = [one for one in before if one in self.rows and self.rows[one].adds and on.feeds(one, node)]
        order = {one: number for number, one in enumerate(self.rows)}
        return max(found, key=order.__getitem__, default=None)

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

    def writes_integers(self, node: ir.Node) -> bool:
        """Tell whether a Q must follow a node that runs on integers."""
        row = self.rows[node]
        if row.output != "either":
            return row.output == "quantized" and not self.added(node)
        uses = list(node.outputs[0].uses())
        alone = len(uses) == 1 and not node.outputs[0].is_graph_output()
        return alone and row.joined is not None and row.joined(node, uses[0].node)

    def added(self, node: ir.Node) -> bool:
        """Tell whether the only reader of a node is an addition that it carries out itself."""
        uses = list(node.outputs[0].uses())
        return len(uses) == 1 and self.taken.get(uses[0].node) is node

    def _behind(self, out: ir.Value) -> ir.Value:
        """Return the value behind a Relu or Clip that the node in front absorbs, else the value itself."""
        while self.table.absorbs:
            uses = list(out.uses())
            if len(uses) != 1 or out.is_graph_output() or uses[0].node.graph is not self.context.model.graph:
                return out
            node = uses[0].node
            if self.clipped(node) is None or uses[0].idx != 0 or node in self.excluded:
                return out
            out = node.outputs[0]
        return out

    def clipped(self, node: ir.Node | None) -> Constraint | None:
        """Return what makes a Relu, or a Clip from zero up, redundant in front of a Q; None for any other node."""
        if node is None or node.domain not in STANDARD:
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

    def activations(self, node: ir.Node, row: Row) -> list[ir.Value]:
        """Return what a node reads as activations, each once."""
        values = [node.inputs[position] for position in self.positions(node, row)]
        return list(dict.fromkeys(value for value in values if value is not None and not self.constants.known(value)))

    def positions(self, node: ir.Node, row: Row) -> tuple[int, ...]:
        """Return the inputs that are quantized, the bias apart, and the sum that an addition takes over in float."""
        front = self.taken.get(node)
        return tuple(p for p in positions(node, row) if front is None or node.inputs[p] is not front.outputs[0])


def positions(node: ir.Node, row: Row) -> tuple[int, ...]:
    """Return the inputs that are quantized, the bias apart."""
    if not row.data:
        return tuple(range(len(node.inputs)))
    return row.data if row.weight is None or row.weight in row.data else (*row.data, row.weight)
