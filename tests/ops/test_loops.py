"""States and slices of Loop and Scan: dead in every iteration, or in none."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
import pytest

from tests.ops.net import Case, Net, dead, examine
from tests.ops.test_subgraphs import DEAD, Body

Step = Callable[[Body, str], str]
OUT = 4 * 2
"""Four of seven positions, read by a layer of two."""


def loop(
    step: Step,
    *,
    first: Sequence[int] = DEAD,
    activation: str = "Relu",
    trips: int = 3,
    read: Sequence[int] = (),
    start: str = "layer",
    collect: bool = False,
) -> onnx.ModelProto:
    """A state (N, 7) of which the positions `first` are dead in front of the loop; `read` are unread behind it."""
    net = Net()
    x = net.input("x", "N", 3)
    if start == "layer":
        initial = net(activation, net("Gemm", x, dead(net.normal(7, 3), 0, first), transB=1))
    elif start == "constant":
        initial = net.constant(dead(net.normal(5, 7), 1, first))
    else:
        initial = net.input("state", "N", 7)
    rows = 5 if start == "constant" else "N"
    body = Body(net, "body")
    new = step(body, "given")
    outputs = [(body("Identity", "go"), "b", []), (new, "f", [rows, 7])]
    if collect:
        outputs.append((body("Abs", new), "f", [rows, 7]))
    given = [("i", "i", []), ("go", "b", []), ("given", "f", [rows, 7])]
    graph = body.graph(*outputs, inputs=given)
    results = net.many("Loop", np.array(trips), np.array(True), initial, outputs=1 + collect, body=graph)
    ends = [net("MatMul", result, dead(net.normal(7, 2), 0, read)) for result in results]
    return net.model(*ends)


def product(columns: Sequence[int], activation: str = "Tanh", rows: Sequence[int] = ()) -> Step:
    """`activation(state @ W)` with dead columns of W."""
    return lambda body, s: body(activation, body("MatMul", s, dead(dead(body.normal(7, 7) * 0.3, 1, columns), 0, rows)))


def moved(order: Sequence[int]) -> Step:
    return lambda body, s: body("Tanh", body("Gather", s, np.array(order), axis=1))


def scaled(body: Body, s: str) -> str:
    return body("Tanh", body("Mul", s, body.normal(1, 7)))


SQUARE = 4 * 4


@pytest.mark.parametrize(
    "case",
    [
        Case("zero stays zero", lambda: loop(product(DEAD)), most=12 + SQUARE + OUT),
        Case("no iteration", lambda: loop(product(DEAD), trips=0), most=12 + SQUARE + OUT),
        Case(
            "a constant that stays the same",
            lambda: loop(product(DEAD, "Sigmoid"), activation="Sigmoid"),
            most=12 + SQUARE + 4 + OUT + 2,
        ),
        Case("elementwise", lambda: loop(scaled), most=12 + 4 + OUT),
        Case("not all of them stay", lambda: loop(product([1, 4, 5])), most=4 * 3 + 4 * 5 + 5 * 5 + 5 * 2 + 2),
        Case("they change places", lambda: loop(moved([0, 4, 2, 3, 1, 5, 6])), most=12 + OUT),
        Case("nobody reads them", lambda: loop(scaled, first=[], read=DEAD), most=12 + 4 + OUT),
        Case("an initial constant", lambda: loop(scaled, start="constant"), most=5 * 4 + 4 + OUT),
        Case("collected as well", lambda: loop(product(DEAD), collect=True), most=12 + SQUARE + 2 * OUT),
    ],
    ids=lambda case: case.id,
)
def test_states_are_narrowed(case: Case) -> None:
    examine(case)


@pytest.mark.parametrize(
    "case",
    [
        Case("alive after one iteration", lambda: loop(product([])), least=12 + 7 * 7 + 7 * 2),
        Case("alive before the first", lambda: loop(product(DEAD), first=[]), least=7 * 3 + 4 * 7 + 7 * 2),
        Case("another constant", lambda: loop(product(DEAD, "Sigmoid")), least=12 + 4 * 4 + 7 * 2),
        Case("they move", lambda: loop(moved([0, 2, 1, 3, 4, 5, 6])), least=12 + 5 * 2),
        Case(
            "read inside for others that are read",
            lambda: loop(product([]), first=[], read=DEAD),
            least=7 * 3 + 7 * 7,
        ),
        Case("an input", lambda: loop(product(DEAD), start="input"), least=4 * 7),
        Case(
            "needed whole inside",
            lambda: loop(lambda b, s: b("Tanh", b("Mul", b("CumSum", s, np.array(1)), dead(b.normal(1, 7), 1, DEAD)))),
            least=12,
            stays=("CumSum",),
        ),
    ],
    ids=lambda case: case.id,
)
def test_near_misses_of_states(case: Case) -> None:
    examine(case)


def scan(step: Step, *, first: Sequence[int] = DEAD, read: Sequence[int] = (), axis: int = 0) -> onnx.ModelProto:
    """A scan along an axis of (5, 4, 7) that collects what a step makes of each slice, and their sum."""
    net = Net()
    shape = [4, 7]
    shape.insert(axis, 5)
    x = net("Relu", net("MatMul", net.input("x", *shape[:-1], 3), dead(net.normal(3, 7), 1, first)))
    body = Body(net, "body")
    y = step(body, "row")
    total = body("Add", "sum", y)
    out = ("f", [4, 7])
    graph = body.graph((total, *out), (body("Tanh", y), *out), inputs=[("sum", *out), ("row", *out)])
    start = np.zeros((4, 7), np.float32)
    results = net.many(
        "Scan",
        start,
        x,
        outputs=2,
        num_scan_inputs=1,
        body=graph,
        scan_input_axes=[axis],
        scan_output_axes=[1],
    )
    return net.model(*(net("MatMul", result, dead(net.normal(7, 2), 0, read)) for result in results))


@pytest.mark.parametrize(
    "case",
    [
        Case("slices", lambda: scan(scaled), most=12 + 4 + 2 * OUT + 4 * 4, batches=(1,)),
        Case("another axis", lambda: scan(scaled, axis=1), most=12 + 4 + 2 * OUT + 4 * 4, batches=(1,)),
        Case("a layer", lambda: scan(product(DEAD)), most=12 + SQUARE + 2 * OUT + 4 * 4, batches=(1,)),
        Case("nobody reads them", lambda: scan(scaled, first=[], read=DEAD), most=12 + 4 + 2 * OUT + 16, batches=(1,)),
    ],
    ids=lambda case: case.id,
)
def test_slices_are_narrowed(case: Case) -> None:
    examine(case)


@pytest.mark.parametrize(
    "case",
    [
        Case("alive in the body", lambda: scan(product([])), least=12 + 4 * 7 + 2 * 14, batches=(1,)),
        Case("alive in front", lambda: scan(product(DEAD), first=[]), least=7 * 3 + 7 * 4 + 2 * OUT, batches=(1,)),
        Case(
            "needed whole",
            lambda: scan(lambda b, s: b("CumSum", s, np.array(1))),
            least=2 * 14,
            stays=("CumSum",),
            batches=(1,),
        ),
    ],
    ids=lambda case: case.id,
)
def test_near_misses_of_slices(case: Case) -> None:
    examine(case)
