"""What a pass is given: the model it edits, how it shall decide, and where it writes down what it did."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx_ir as ir

from graphopt.facts.constants import Constants
from graphopt.facts.store import Facts
from graphopt.facts.walk import analyse
from graphopt.model_check import source_line
from graphopt.plan.classes import Kind, Plan, make_plan
from graphopt.report.schema import WarningRow


@dataclass(slots=True)
class Context:
    """The model under optimization and the journal of what happens to it."""

    model: ir.Model
    constants: Constants
    kind: Kind = "fastest"
    target: str = "cpu"
    assume_finite: bool = True
    may_grow: bool = True
    """Whether folding a mask may make the model larger for the moment."""
    counts: Counter[str] = field(default_factory=Counter)
    warnings: list[WarningRow] = field(default_factory=list)
    sizes: dict[int, tuple[object, int]] = field(default_factory=dict)
    """What ``facts.stats.parameters`` knows of tensors it has counted."""
    _facts: Facts | None = None
    _plans: dict[tuple[bool, int], Plan] = field(default_factory=dict)

    def facts(self) -> Facts:
        """Return the facts of the model as it is now; kept until a pass changes something."""
        if self._facts is None:
            self._facts = analyse(self.model, self.constants, assume_finite=self.assume_finite)
        return self._facts

    def plan(self, *, joins: bool = True, align: int = 1) -> Plan:
        """Return the plan for the model as it is now; kept like the facts."""
        key = (joins, align)
        if key not in self._plans:
            self._plans[key] = make_plan(self.facts(), self.kind, joins=joins, align=align)
        return self._plans[key]

    def bare(self) -> Plan:
        """Return a plan that knows and changes nothing, for edits that find by themselves what to do."""
        graph = self.model.graph
        return Plan(Facts(graph, graph.opset_imports.get("", 1), self.constants), self.kind)

    def changed(self) -> None:
        """Forget the facts: the graph is another one now."""
        self._facts = None
        self._plans.clear()

    def record(self, counts: Mapping[str, int]) -> bool:
        """Add what an edit did to the journal; return whether it did anything."""
        did = {what: number for what, number in counts.items() if number}
        self.counts.update(did)
        if did:
            self.changed()
        return bool(did)

    def warn(self, code: str, message: str, node: ir.Node | None = None) -> None:
        """Tell the user something, once."""
        row = WarningRow(
            code, message, None if node is None else node.name, None if node is None else source_line(node)
        )
        if row not in self.warnings:
            self.warnings.append(row)
