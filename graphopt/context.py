"""What a pass is given: the model it edits, how it shall decide, and where it writes down what it did."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import onnx_ir as ir

from graphopt.facts.constants import Constants
from graphopt.facts.store import Facts
from graphopt.facts.walk import analyse, analyse_body
from graphopt.model_check import source_line
from graphopt.plan.classes import Kind, Plan, make_plan
from graphopt.plan.cost import CostModel
from graphopt.registry import Pass
from graphopt.report.schema import WarningRow
from graphopt.rewrite.unused import remove_unused
from graphopt.subgraphs import Nesting, names, nesting

if TYPE_CHECKING:
    from graphopt.quantization.state import State


@dataclass(slots=True)
class Context:
    """The model under optimization and the journal of what happens to it."""

    model: ir.Model
    constants: Constants
    kind: Kind = "fastest"
    target: str = "cpu"
    assume_finite: bool = True
    costs: CostModel = field(default_factory=CostModel)
    may_grow: bool = True
    """Whether folding a mask may make the model larger for the moment."""
    runtime_operators: bool = False
    """Whether calls of runtime operators may be inserted: the user says that their library will be there."""
    counts: Counter[str] = field(default_factory=Counter)
    warnings: list[WarningRow] = field(default_factory=list)
    sizes: dict[int, tuple[object, int]] = field(default_factory=dict)
    """What ``facts.stats.parameters`` knows of tensors it has counted."""
    quantization: State | None = None
    """Data, placement and scales while the model is being quantized."""
    _graph: ir.Graph | None = None
    _nesting: Nesting | None = None
    _names: set[str] | None = None
    """Names that are taken anywhere in a model with bodies: a name inside must not hide one outside."""
    _facts: dict[ir.Graph, Facts] = field(default_factory=dict)
    _outside: dict[ir.Graph, Facts] = field(default_factory=dict)
    """Facts that were true before a graph's bodies were edited. An edit keeps what a body computes, so that they still
    hold of the values that the bodies read; of the nodes they may be out of date."""
    _plans: dict[tuple[ir.Graph, bool, int], Plan] = field(default_factory=dict)
    _idle: list[Pass] = field(default_factory=list)
    """Passes that found nothing to do in the model as it is."""
    _operators: dict[ir.Graph, frozenset[str]] = field(default_factory=dict)

    @property
    def graph(self) -> ir.Graph:
        """The graph a pass works on now: the main graph, or a body inside one of its nodes (see ``everywhere``)."""
        return self.model.graph if self._graph is None else self._graph

    @property
    def opset(self) -> int:
        """The version of the standard operator set, in every graph of the model."""
        return self.model.opset_imports.get("", self.model.opset_imports.get("ai.onnx", 1))

    @property
    def taken(self) -> Collection[str]:
        """Names that a new initializer of ``graph`` must not have; a set, where it is to be added to it."""
        return self.graph.initializers.keys() if self._names is None else self._names

    def graphs(self) -> Iterator[ir.Graph]:
        """Yield every graph of the model, bodies before the graphs around them; each is ``graph`` meanwhile.

        The main graph comes last, and is the only one of most models.
        """
        for body in self._nested():
            with self.inside(body):
                yield body
        yield self.model.graph

    @contextmanager
    def inside(self, graph: ir.Graph) -> Iterator[None]:
        """Let a body (or the main graph) be ``graph`` for a while: facts and plans are about it."""
        before, self._graph = self._graph, graph
        try:
            yield
        finally:
            self._graph = before

    def _nested(self) -> Nesting:
        """Look for bodies again, and for the names in them; a model that had none gets none."""
        if self._nesting is None or self._names is not None:
            self._nesting = nesting(self.model.graph)
            if self._nesting:
                self._nesting = nesting(self.model.graph, standard=True)
                self._names = set() if self._names is None else self._names
                self._names |= names(self.model.graph)  # in place: facts that are kept hold the same set
        return self._nesting

    def everywhere(self, work: Callable[[], bool]) -> bool:
        """Do a pass's work on every graph; return whether anything changed.

        What only bodies read belongs to the graphs around them: weights that a body let go of are removed there.
        """
        changed = False
        let_go: set[ir.Graph] = set()
        for graph in self.graphs():
            if graph in let_go:
                remove_unused(graph)
            did = work()
            changed |= did
            around = self._around(graph)
            if around is not None and (did or graph in let_go):
                let_go.add(around)
        self.constants.cuts.clear()
        return changed

    def facts(self) -> Facts:
        """Return the facts of the graph as it is now; kept until a pass changes something."""
        graph = self.graph
        if graph not in self._facts:
            around = self._around(graph)
            if around is None or around not in self._outside:
                if self._nesting is None:
                    self._nested()
                found = analyse(self.model, self.constants, assume_finite=self.assume_finite, names=self._names)
            else:
                found = analyse_body(graph, self._outside[around])
            self._remember(found)
        return self._facts[graph]

    def _around(self, graph: ir.Graph) -> ir.Graph | None:
        """Return the graph whose node a body belongs to."""
        return self._nesting.get(graph) if self._nesting else None

    def _remember(self, facts: Facts) -> None:
        pending = [facts]
        while pending:
            known = pending.pop()
            self._facts[known.graph] = self._outside[known.graph] = known
            pending += known.bodies.values()

    def plan(self, *, joins: bool = True, align: int = 1) -> Plan:
        """Return the plan for the graph as it is now; kept like the facts."""
        key = (self.graph, joins, align)
        if key not in self._plans:
            self._plans[key] = make_plan(
                self.facts(),
                self.kind,
                joins=joins,
                align=align,
                costs=self.costs,
                masked_norms=self.runtime_operators,
            )
        return self._plans[key]

    def operators(self) -> frozenset[str]:
        """Return the types of the operators in the graph as it is now; a pass that finds none of its own leaves."""
        graph = self.graph
        if graph not in self._operators:
            self._operators[graph] = frozenset(node.op_type for node in graph)
        return self._operators[graph]

    def run(self, item: Pass) -> bool:
        """Run a pass, unless it found nothing to do before in the model as it is; return whether anything changed."""
        if item in self._idle:
            return False
        changed = item.run(self)
        if not changed:
            self._idle.append(item)
        return changed

    def bare(self) -> Plan:
        """Return a plan that knows and changes nothing, for edits that find by themselves what to do."""
        return Plan(Facts(self.graph, self.opset, self.constants, names=self._names), self.kind)

    def changed(self) -> None:
        """Forget the facts: the graph is another one now, and so is what is around and inside it."""
        self._plans.clear()
        self._idle.clear()
        self._operators.clear()
        graph = self.graph
        if not self._nesting or graph is self.model.graph:
            self._facts.clear()
            self._outside.clear()
            return
        inside = {graph}
        for body in reversed(self._nesting):  # a graph comes before what is inside it
            if self._nesting[body] in inside:
                inside.add(body)
        for each in inside:
            self._facts.pop(each, None)
            self._outside.pop(each, None)
        around: ir.Graph | None = graph
        while around is not None:
            self._facts.pop(around, None)
            around = self._around(around)

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
