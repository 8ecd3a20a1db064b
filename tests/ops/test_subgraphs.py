"""Bodies of If, Loop and Scan, and model-local functions: narrowed like the main graph, near misses left alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from graphopt import model as models
from graphopt import optimize
from graphopt.inspection import explain, inspect
from tests.ops.net import TYPES, Case, Net, Operand, dead, examine

DEAD = [1, 4, 6]
Typed = tuple[str, str, Sequence[int | str]]


class Body(Net):
    """A graph inside a node: its constants are its own unless they are given by name."""

    def __init__(self, net: Net, prefix: str) -> None:
        super().__init__(net.opset)
        self.rng = net.rng
        self._prefix = prefix

    def constant(self, data: Operand) -> str:
        """An initializer of this body."""
        return data if isinstance(data, str) else self._renamed(super().constant(data))

    def _renamed(self, name: str) -> str:
        self._constants[-1].name = f"{self._prefix}_{name}"
        return self._constants[-1].name

    def many(self, op: str, *inputs: Operand, outputs: int, domain: str = "", **attributes: object) -> list[str]:
        """Adds a node of which the names are the body's own."""
        super().many(op, *inputs, outputs=outputs, domain=domain, **attributes)
        node = self._nodes[-1]
        node.name = f"{self._prefix}_{node.name}"
        for place, name in enumerate(node.output):
            node.output[place] = f"{self._prefix}_{name}"
        return list(node.output)

    def graph(self, *outputs: Typed, inputs: Sequence[Typed] = ()) -> onnx.GraphProto:
        """The finished body; outputs and inputs are (name, type, shape)."""
        info = [helper.make_tensor_value_info(name, TYPES[kind], shape) for name, kind, shape in outputs]
        given = [helper.make_tensor_value_info(name, TYPES[kind], shape) for name, kind, shape in inputs]
        return helper.make_graph(self._nodes, self._prefix, given, info, self._constants)


# -- inside ----------------------------------------------------------------------------------------------------------

INNER = 4 * 3 + 4 * 2 + 2
"""Four of seven hidden units, three inputs, two outputs, a bias."""


def layers(body: Net, x: str, *, opaque: bool = False) -> str:
    """Two layers of which the first has dead rows, behind an explicit mask."""
    w = body("Mul", body.normal(7, 3), dead(np.ones((7, 1), np.float32), 0, DEAD))
    y = body("Relu", body("Gemm", x, w, transB=1))
    if opaque:
        y = body("CumSum", y, np.array(1))
    return body("Gemm", y, body.normal(7, 2), body.normal(2))


def conditional(make: Callable[[Body, str], str], other: Callable[[Body, str], str] | None = None) -> onnx.ModelProto:
    net = Net()
    x = net.input("x", "N", 3)
    flag = net.input("flag", dtype="b")
    yes, no = Body(net, "yes"), Body(net, "no")
    a, b = make(yes, x), (other or (lambda body, v: body("Gemm", v, body.normal(3, 2))))(no, x)
    out = ("f", ["N", 2])
    z = net("If", flag, then_branch=yes.graph((a, *out)), else_branch=no.graph((b, *out)))
    return net.model(net("Neg", z))


def looped(make: Callable[[Body, str], str], trips: int = 3) -> onnx.ModelProto:
    """A Loop over a state (N, 3); `make` gives (N, 2), which is widened to a state again."""
    net = Net()
    x = net.input("x", "N", 3)
    body = Body(net, "body")
    y = body("Tanh", make(body, "state"))
    y = body("Concat", y, body("Slice", "state", [0], [1], [1]), axis=1)
    on = body("Identity", "go")
    graph = body.graph(
        (on, "b", []), (y, "f", ["N", 3]), inputs=[("i", "i", []), ("go", "b", []), ("state", "f", ["N", 3])]
    )
    return net.model(net("Loop", np.array(trips), np.array(True), x, body=graph))


def scanned(make: Callable[[Body, str], str]) -> onnx.ModelProto:
    """A Scan over the first axis of (5, N, 3) that keeps the sum of what `make` gives."""
    net = Net()
    x = net.input("x", 5, "N", 3)
    start = net("Mul", net("Slice", net("Squeeze", net("Slice", x, [0], [1], [0]), [0]), [0], [2], [1]), np.float32(0))
    body = Body(net, "body")
    y = make(body, "row")
    total = body("Add", "sum", y)
    copy = body("Relu", total)
    out = ("f", ["N", 2])
    graph = body.graph((total, *out), (copy, *out), inputs=[("sum", *out), ("row", "f", ["N", 3])])
    return net.model(*net.many("Scan", start, x, outputs=2, num_scan_inputs=1, body=graph))


@pytest.mark.parametrize(
    "case",
    [
        Case("both branches of an If", lambda: conditional(layers, layers), most=2 * INNER),
        Case("one branch of an If", lambda: conditional(layers), most=INNER + 6),
        Case("the body of a Loop", lambda: looped(layers), most=INNER),
        Case("a Loop that never runs", lambda: looped(layers, trips=0), most=INNER),
        Case("the body of a Scan", lambda: scanned(layers), most=INNER + 1),
    ],
    ids=lambda case: case.id,
)
def test_bodies_are_narrowed(case: Case) -> None:
    examine(case)


@pytest.mark.parametrize(
    "case",
    [
        Case("If", lambda: conditional(lambda b, x: layers(b, x, opaque=True)), least=7 * 2 + 6, stays=("CumSum",)),
        Case("Loop", lambda: looped(lambda b, x: layers(b, x, opaque=True)), least=7 * 2, stays=("CumSum",)),
        Case("Scan", lambda: scanned(lambda b, x: layers(b, x, opaque=True)), least=7 * 2, stays=("CumSum",)),
    ],
    ids=lambda case: case.id,
)
def test_an_operator_that_needs_the_axis_gets_it_whole_inside_too(case: Case) -> None:
    examine(case)


def nested(depth: int) -> onnx.ModelProto:
    """An If in an If in an If, with the layers innermost."""
    net = Net()
    x = net.input("x", "N", 3)
    flag = net.input("flag", dtype="b")
    out = ("f", ["N", 2])

    def inside(level: int) -> tuple[Body, str]:
        body = Body(net, f"level{level}")
        if level == depth:
            return body, layers(body, x)
        inner, name = inside(level + 1)
        plain = Body(net, f"other{level}")
        value = plain("Slice", x, [0], [2], [1])
        result = body("If", flag, then_branch=inner.graph((name, *out)), else_branch=plain.graph((value, *out)))
        return body, result

    body, name = inside(1)
    other = Body(net, "other")
    value = other("Slice", x, [1], [3], [1])
    z = net("If", flag, then_branch=body.graph((name, *out)), else_branch=other.graph((value, *out)))
    return net.model(net("Neg", z))


def test_bodies_in_bodies() -> None:
    examine(Case("", lambda: nested(3), most=INNER))


# -- weights of the graph around -------------------------------------------------------------------------------------


def shared(*, whole: bool = False, hidden: int = 7) -> onnx.ModelProto:
    """Both branches read the same two weights of the main graph; `whole`: one of them reads all of the first."""
    net = Net()
    x = net.input("x", "N", 3)
    flag = net.input("flag", dtype="b")
    first, second = net.constant(dead(net.normal(hidden, 3), 0, DEAD)), net.constant(net.normal(hidden, 2))
    out = ("f", ["N", 2])

    def branch(prefix: str, activation: str, *, opaque: bool) -> onnx.GraphProto:
        body = Body(net, prefix)
        y = body(activation, body("Gemm", x, first, transB=1))
        if opaque:
            y = body("Mul", y, body("ReduceMean", body("Abs", first), [1], keepdims=0))
            y = body("CumSum", y, np.array(1))
        return body.graph((body("Gemm", y, second), *out))

    yes, no = branch("yes", "Relu", opaque=False), branch("no", "Tanh", opaque=whole)
    return net.model(net("If", flag, then_branch=yes, else_branch=no))


def test_a_weight_that_two_branches_share_is_cut_once() -> None:
    examine(Case("", shared, most=4 * 3 + 4 * 2))
    # Two copies, each smaller than the weight, would be larger than the weight.
    examine(Case("wide", lambda: shared(hidden=29), most=26 * 3 + 26 * 2))


def test_a_weight_that_one_branch_reads_whole_does_not_grow_the_model() -> None:
    examine(Case("", lambda: shared(whole=True), least=7 * 3 + 7 * 2, stays=("CumSum",)))


def test_names_inside_do_not_hide_names_outside() -> None:
    """The cut weights of the branches and of the main graph would all be called alike."""

    def build() -> onnx.ModelProto:
        net = Net()
        x = net.input("x", "N", 3)
        flag = net.input("flag", dtype="b")
        graphs = {}
        for name in ("then_branch", "else_branch"):
            body = Body(net, "same")
            y = layers(body, x)
            graphs[name] = body.graph((y, "f", ["N", 2]))
        y = net("If", flag, **graphs)
        w = net.constant(dead(net.normal(7, 2), 0, DEAD))
        y = net("Relu", net("Gemm", y, w, transB=1))
        return net.model(net("Gemm", y, net.normal(7, 2)))

    examine(Case("", build, most=2 * INNER + 4 * 2 + 4 * 2))


# -- results of an If ------------------------------------------------------------------------------------------------


def results(
    yes: Callable[[Body, str], str],
    no: Callable[[Body, str], str],
    reader: Callable[[Net, str], str] | None = None,
    *,
    width: int = 7,
    condition: bool | None = None,
) -> onnx.ModelProto:
    """An If of (N, width) from (N, 3), and a layer of (width, 2) behind it."""
    net = Net()
    x = net.input("x", "N", 3)
    flag = net.input("flag", dtype="b") if condition is None else net.constant(np.array(condition))
    first, second = Body(net, "yes"), Body(net, "no")
    out = ("f", ["N", width])
    z = net(
        "If",
        flag,
        then_branch=first.graph((yes(first, x), *out)),
        else_branch=second.graph((no(second, x), *out)),
    )
    return net.model(reader(net, z) if reader else net("Gemm", z, net.normal(width, 2)))


def rows(positions: Sequence[int], fill: float = 0.0, activation: str = "Relu") -> Callable[[Body, str], str]:
    """A layer with dead rows, which hold `fill`."""

    def make(body: Body, x: str) -> str:
        bias = dead(body.normal(7), 0, positions, fill)
        return body(activation, body("Gemm", x, dead(body.normal(7, 3), 0, positions), bias, transB=1))

    return make


def unread(net: Net, z: str) -> str:
    return net("Gemm", z, dead(net.normal(7, 2), 0, DEAD))


@pytest.mark.parametrize(
    "case",
    [
        Case("dead in both branches", lambda: results(rows(DEAD), rows(DEAD)), most=2 * 4 * 4 + 4 * 2),
        Case(
            "the same constants in both",
            lambda: results(rows(DEAD, 0.5), rows(DEAD, 0.5)),
            most=2 * 4 * 4 + 4 * 2 + 2,
        ),
        Case("dead in both somewhere", lambda: results(rows([1, 4, 6]), rows([0, 1, 4])), most=2 * 5 * 4 + 5 * 2 + 4),
        Case("nobody reads them", lambda: results(rows([]), rows([]), unread), most=2 * 4 * 4 + 4 * 2),
        Case(
            "an output of the graph",
            lambda: results(rows(DEAD), rows(DEAD), lambda net, z: net("Identity", z)),
            most=2 * 4 * 4 + 7,
        ),
    ],
    ids=lambda case: case.id,
)
def test_results_of_an_if_are_narrowed_in_both_branches(case: Case) -> None:
    examine(case)


@pytest.mark.parametrize(
    "case",
    [
        Case("dead in one branch", lambda: results(rows(DEAD), rows([])), least=4 * 4 + 7 * 4 + 7 * 2),
        Case("other constants", lambda: results(rows(DEAD, 0.5), rows(DEAD, 0.25)), least=2 * 4 * 4 + 7 * 2),
        Case(
            "another activation of the same constant",
            lambda: results(rows(DEAD, 0.5), rows(DEAD, 0.5, "Sigmoid")),
            least=2 * 4 * 4 + 7 * 2,
        ),
        Case(
            "somebody reads them whole",
            lambda: results(
                rows([]),
                rows([]),
                lambda n, z: n("Add", unread(n, z), n("CumSum", n("Slice", z, [0], [2], [1]), np.array(1))),
            ),
            least=2 * 4 * 4,
        ),
    ],
    ids=lambda case: case.id,
)
def test_near_misses_of_an_if(case: Case) -> None:
    examine(case)


# -- the report ------------------------------------------------------------------------------------------------------


def test_masks_inside_are_listed_and_explained() -> None:
    proto = conditional(layers, lambda body, x: layers(body, x, opaque=True))
    rows = inspect(proto).masks
    assert [(row.kind, row.zeros, row.action) for row in rows] == [("weight", 3, "folded")] * 2
    named = next(node.output[0] for node in proto.graph.node[0].attribute[1].g.node if node.op_type == "Relu")
    assert "3 dead" in " ".join(explain(proto, named).facts)


def test_a_mask_that_stays_inside_is_said_to_stay() -> None:
    def opaque(body: Body, x: str) -> str:
        y = body("Mul", body("Gemm", x, body.normal(3, 7)), dead(np.ones((1, 7), np.float32), 1, DEAD))
        return body("Gemm", body("CumSum", y, np.array(1)), body.normal(7, 2))

    (row,) = inspect(conditional(opaque)).masks
    assert (row.kind, row.zeros) == ("activation", 3)


# -- an If that always takes the same branch -------------------------------------------------------------------------


def settled(condition: bool, *, alike: bool = False) -> onnx.ModelProto:
    """Masked layers in one branch, others in the other; `alike`: an If in a branch, and values of the same name."""
    net = Net()
    x = net.input("x", "N", 3)
    out = ("f", ["N", 2])
    truth = net("Not", np.array(not condition))

    def choose(prefix: str) -> str:
        yes, no = Body(net, prefix), Body(net, prefix)
        graphs: dict[str, Any] = {
            "then_branch": yes.graph((layers(yes, x), *out)),
            "else_branch": no.graph((no("Gemm", x, no.normal(3, 2)), *out)),
        }
        return net("If", truth, **graphs)

    y = net("Add", choose("one"), choose("one" if alike else "two"))
    return net.model(net("Neg", y), choose("three"))


@pytest.mark.parametrize(
    "case",
    [
        Case("the first", lambda: settled(True), most=3 * INNER, gone=("If",)),
        Case("the second", lambda: settled(False), most=18, gone=("If",)),
        Case("names that occur twice", lambda: settled(True, alike=True), most=3 * INNER, gone=("If",)),
        Case(
            "dead results of the only branch",
            lambda: results(rows(DEAD), rows([]), condition=True),
            most=4 * 4 + 4 * 2,
            gone=("If",),
        ),
    ],
    ids=lambda case: case.id,
)
def test_a_branch_that_is_always_taken_takes_the_place_of_its_if(case: Case) -> None:
    examine(case)
    models.check(optimize(case.build(), plan="smallest", verify=False).model)


def test_a_condition_that_a_user_may_override_is_no_constant() -> None:
    def build() -> onnx.ModelProto:
        proto = results(rows(DEAD), rows(DEAD))
        proto.graph.initializer.append(numpy_helper.from_array(np.array(True), "flag"))
        return proto

    examine(Case("", build, stays=("If",)))


# -- values that branches read from outside --------------------------------------------------------------------------


def captured(
    read: Callable[[Body, str], str],
    reader: Callable[[Net, str], str] | None = None,
    *,
    fill: float = 0.0,
    deep: bool = False,
) -> onnx.ModelProto:
    """A layer with dead rows outside, read by both branches; and by somebody outside, too."""
    net = Net()
    x = net.input("x", "N", 3)
    flag = net.input("flag", dtype="b")
    y = net("Relu", net("Gemm", x, dead(net.normal(7, 3), 0, DEAD), dead(net.normal(7), 0, DEAD, fill), transB=1))
    out = ("f", ["N", 2])
    yes, no = Body(net, "yes"), Body(net, "no")
    if deep:
        first, second = Body(net, "first"), Body(net, "second")
        a = yes(
            "If",
            flag,
            then_branch=first.graph((read(first, y), *out)),
            else_branch=second.graph((read(second, y), *out)),
        )
    else:
        a = read(yes, y)
    z = net("If", flag, then_branch=yes.graph((a, *out)), else_branch=no.graph((linear(no, y), *out)))
    return net.model(z, reader(net, y)) if reader else net.model(z)


def linear(body: Net, y: str) -> str:
    return body("Gemm", body("Tanh", y), body.normal(7, 2), body.normal(2))


def opaque(body: Net, y: str) -> str:
    return body("Gemm", body("CumSum", y, np.array(1)), body.normal(7, 2))


OUTER, LINEAR = 4 * 4, 4 * 2 + 2


@pytest.mark.parametrize(
    "case",
    [
        Case("read by both branches", lambda: captured(linear), most=OUTER + 2 * LINEAR),
        Case("that are not zero", lambda: captured(linear, fill=0.5), most=OUTER + 2 * LINEAR),
        Case("read outside as well", lambda: captured(linear, linear), most=OUTER + 3 * LINEAR),
        Case("read in branches of branches", lambda: captured(linear, deep=True), most=OUTER + 3 * LINEAR),
        Case("needed whole in one", lambda: captured(opaque), most=OUTER + 7 * 2 + LINEAR + 7, stays=("CumSum",)),
        Case(
            "of the graph's output",
            lambda: captured(linear, lambda net, y: net("Identity", y), fill=0.5),
            most=OUTER + 2 * LINEAR + 7,
        ),
    ],
    ids=lambda case: case.id,
)
def test_outer_values_are_narrowed_where_branches_read_them(case: Case) -> None:
    examine(case)


@pytest.mark.parametrize("read", [linear, opaque], ids=["linear", "opaque"])
def test_a_loop_reads_outer_values_whole(read: Callable[[Net, str], str]) -> None:
    """A scatter inside would run in every iteration; what is dead is known inside all the same."""

    def build() -> onnx.ModelProto:
        net = Net()
        y = net("Relu", net("Gemm", net.input("x", "N", 3), dead(net.normal(7, 3), 0, DEAD), transB=1))
        body = Body(net, "body")
        new = body("Add", "state", read(body, y))
        graph = body.graph(
            (body("Identity", "go"), "b", []),
            (new, "f", ["N", 2]),
            inputs=[("i", "i", []), ("go", "b", []), ("state", "f", ["N", 2])],
        )
        start = net("Slice", "x", [0], [2], [1])
        return net.model(net("Loop", np.array(2), np.array(True), start, body=graph))

    examine(Case("", build, least=4 * 3 + 4 * 2 if read is linear else 4 * 3 + 7 * 2))


def test_graphs_of_operators_that_nobody_knows_are_left_as_they_are() -> None:
    """They may want certain inputs, outputs or initializers, as BeamSearch does; what they read stays whole."""
    net = Net()
    y = net("Gemm", net.input("x", "N", 3), dead(net.normal(7, 3), 0, DEAD), transB=1)
    body = Body(net, "body")
    out = ("f", ["N", 2])
    graph = body.graph((linear(body, body("Identity", y)), *out), (layers(body, "x"), *out))
    z = net("Wonder", net("Relu", y), domain="elsewhere", body=graph)
    inner = net("If", net.input("flag", dtype="b"), then_branch=nothing(net, "yes"), else_branch=nothing(net, "no"))
    proto = net.model(z, net("Neg", inner))
    proto.opset_import.append(helper.make_opsetid("elsewhere", 1))
    result = onnx.ModelProto.FromString(models.serialize(optimize(proto, verify=False, plan="smallest").model))
    (after,) = [node for node in result.graph.node if node.op_type == "Wonder"]
    left = next(attribute.g for attribute in after.attribute if attribute.name == "body")
    same = [[(node.op_type, node.input, node.output) for node in each.node] for each in (left, graph)]
    assert same[0] == same[1]
    assert [tensor.name for tensor in left.initializer] == [tensor.name for tensor in graph.initializer]


def nothing(net: Net, prefix: str) -> onnx.GraphProto:
    body = Body(net, prefix)
    return body.graph((body("Neg", "x"), "f", ["N", 3]))


def test_two_casts_in_a_row_are_not_read_by_a_branch() -> None:
    """onnxruntime removes both and forgets who reads the value; found by random graph 500631."""

    def build() -> onnx.ModelProto:
        net = Net()
        x = net.input("x", "N", 3)
        double = net("Mul", net("Cast", x, to=onnx.TensorProto.DOUBLE), np.array(1.0))
        y = net("Cast", double, to=onnx.TensorProto.FLOAT)
        yes, no = Body(net, "yes"), Body(net, "no")
        out = ("f", ["N", 3])
        graphs = {"then_branch": yes.graph((yes("Cos", y), *out)), "else_branch": no.graph((no("Sin", y), *out))}
        return net.model(net.many("If", net.input("flag", dtype="b"), outputs=1, **graphs)[0])  # type: ignore[arg-type]

    examine(Case("", build, stays=("If",)))
