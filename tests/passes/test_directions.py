"""Bidirectional layers with different dead units, and selections from concatenated states."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import pytest

from graphopt import model as models
from tests.ops.net import Case, Net, dead, examine
from tests.ops.test_recurrent import BATCHES, GATES, HIDDEN, INPUTS, candidate, count, rows, weights
from tests.strategies import check

DEAD = ([1], [2, 3])
ALIVE = tuple(HIDDEN - len(units) for units in DEAD)


def operators(proto: onnx.ModelProto, name: str, batches: Sequence[int] = BATCHES) -> list[str]:
    """Run the pass alone, twice, prove the result equal, and return the operators that are left."""
    result = check.optimized(proto, name, passes=name)
    check.Expected.of(proto, batches).compare(models.serialize(result.model), name)
    ops = [node.op_type for node in result.model.graph]
    again = check.optimized(result.model, name, passes=name)
    assert ops == [node.op_type for node in again.model.graph]
    return ops


def silent(net: Net, op: str, units: Sequence[Sequence[int]] = DEAD, inputs: int = INPUTS) -> list[np.ndarray]:
    """W, R and B of two directions, in each of which other units have no candidate."""
    parts = weights(net, op, 2, inputs)
    for direction, chosen in enumerate(units):
        at = candidate(op, chosen)
        for part in parts:
            part[direction, at] = 0
        parts[2][direction, [GATES[op] * HIDDEN + row for row in at]] = 0
    return parts


def both(
    op: str, units: Sequence[Sequence[int]] = DEAD, first: bool = False, **flags: Any
) -> Callable[[], onnx.ModelProto]:
    """A bidirectional layer as torch exports it, and a head."""

    def build() -> onnx.ModelProto:
        net = Net(22)
        x = net.input("x", 4, "N", INPUTS)
        y = net(op, x, *silent(net, op, units), hidden_size=HIDDEN, direction="bidirectional", **flags)
        y = net("Transpose", y, perm=[2, 0, 1, 3] if first else [0, 2, 1, 3])
        y = net("Reshape", y, [0, 0, 2 * HIDDEN])
        return net.model(net("MatMul", y, net.normal(2 * HIDDEN, 2)))

    return build


@pytest.mark.parametrize("op", GATES)
def test_each_direction_loses_its_own_units(op: str) -> None:
    most = sum(count(op, alive) + alive * 2 for alive in ALIVE)
    examine(Case("time first", both(op), most=most, batches=BATCHES))
    examine(Case("batch first", both(op, first=True), most=most, batches=BATCHES))
    assert operators(both(op)(), "split-directions").count(op) == 2


def test_activations_go_with_their_direction() -> None:
    names = ["Sigmoid", "Tanh", "Tanh", "HardSigmoid", "Softsign", "Relu"]
    most = sum(count("LSTM", alive) + alive * 2 for alive in ALIVE)
    examine(Case("", both("LSTM", activations=names), most=most, batches=BATCHES))


def test_equal_units_leave_together() -> None:
    assert operators(both("GRU", ([1, 2], [1, 2]))(), "split-directions") == ["GRU", "Transpose", "Reshape", "MatMul"]


def test_parameters_of_activations_are_not_taken_apart() -> None:
    flags = {"activations": ["LeakyRelu", "LeakyRelu"], "activation_alpha": [0.1, 0.2]}
    assert operators(both("RNN", **flags)(), "split-directions") == ["RNN", "Transpose", "Reshape", "MatMul"]


def _final(index: Callable[[Net, str], list[str]], layers: int = 1) -> Callable[[], onnx.ModelProto]:
    """The last states, of two directions and one or two layers."""

    def build() -> onnx.ModelProto:
        net = Net(22)
        y = net.input("x", 4, "N", INPUTS)
        states = []
        for layer in range(layers):
            parts = silent(net, "GRU", DEAD[::-1] if layer else DEAD, 2 * HIDDEN if layer else INPUTS)
            out = net.many("GRU", y, *parts, outputs=2, hidden_size=HIDDEN, direction="bidirectional")
            y = net("Reshape", net("Transpose", out[0], perm=[0, 2, 1, 3]), [0, 0, 2 * HIDDEN])
            states.append(out[1])
        h = net("Concat", *states, axis=0) if layers > 1 else states[0]
        return net.model(net("MatMul", net("Concat", *index(net, h), axis=1), net.normal(2 * HIDDEN, 2)))

    return build


def test_last_states() -> None:
    head = sum(ALIVE) * 2
    first = count("GRU", ALIVE[0]) + count("GRU", ALIVE[1])
    second = count("GRU", ALIVE[1], sum(ALIVE)) + count("GRU", ALIVE[0], sum(ALIVE))
    taken = lambda n, h: [n("Gather", h, np.array(-2)), n("Gather", h, np.array(-1))]  # noqa: E731
    examine(Case("one layer", _final(taken), most=first + head, batches=BATCHES))
    examine(Case("two layers", _final(taken, 2), most=first + second + head, batches=BATCHES))


def test_both_last_states_at_once_are_not_taken_apart() -> None:
    split = lambda n, h: [n("Squeeze", part, [0]) for part in n.many("Split", h, outputs=2, axis=0, num_outputs=2)]  # noqa: E731
    ops = operators(_final(split)(), "split-directions")
    assert ops.count("GRU") == 1


def test_an_output_shows_both_directions_alike() -> None:
    net = Net(22)
    y = net("GRU", net.input("x", 4, "N", INPUTS), *silent(net, "GRU"), hidden_size=HIDDEN, direction="bidirectional")
    assert operators(net.model(y), "split-directions") == ["GRU"]


def test_states_from_outside_are_divided() -> None:
    def build() -> onnx.ModelProto:
        net = Net(22)
        h = net(
            "Mul",
            net.input("h", 2, "N", HIDDEN),
            np.stack([dead(np.ones((1, HIDDEN), np.float32), 1, d) for d in DEAD]),
        )
        operands: list[Any] = [net.input("x", 4, "N", INPUTS), *silent(net, "RNN"), "", h]
        y = net("RNN", *operands, hidden_size=HIDDEN, direction="bidirectional")
        y = net("Reshape", net("Transpose", y, perm=[0, 2, 1, 3]), [0, 0, 2 * HIDDEN])
        # Every second unit of the reverse direction, and what it reads, is all that is read.
        return net.model(net("MatMul", y, dead(net.normal(2 * HIDDEN, 2), 0, range(5, 10))))

    examine(Case("", build, batches=BATCHES))


def test_units_that_only_one_direction_needs() -> None:
    def build(op: str) -> onnx.ModelProto:
        net = Net(22)
        w, r, b = weights(net, op, 2)
        for direction, units in enumerate(DEAD):
            r[direction][:, units] = 0
        y = net(op, net.input("x", 4, "N", INPUTS), w, r, b, hidden_size=HIDDEN, direction="bidirectional")
        y = net("Reshape", net("Transpose", y, perm=[0, 2, 1, 3]), [0, 0, 2 * HIDDEN])
        unread = [*DEAD[0], *(HIDDEN + unit for unit in DEAD[1])]
        return net.model(net("MatMul", y, dead(net.normal(2 * HIDDEN, 2), 0, unread)))

    for op in GATES:
        most = sum(count(op, alive) + alive * 2 for alive in ALIVE)
        examine(Case(op, lambda op=op: build(op), most=most, batches=BATCHES))
        assert rows(op, [0])[0] == 0


def test_a_state_of_zeros_goes() -> None:
    net = Net(22)
    x = net.input("x", 4, "N", INPUTS)
    size = net("Concat", [1], net("Slice", net("Shape", x), [1], [2]), [HIDDEN], axis=0)
    y = net("GRU", x, *weights(net, "GRU"), "", net("ConstantOfShape", size), hidden_size=HIDDEN)
    assert operators(net.model(y), "split-directions") == ["GRU"]


def _gathered(index: Any, axis: int = 1) -> onnx.ModelProto:
    net = Net()
    parts = [net("Neg", net.input("a", "N", 2, 3)), net("Abs", net.input("b", "N", 4, 3))]
    y = net("Concat", *parts, axis=1)
    return net.model(net("Gather", y, np.array(index), axis=axis))


def test_a_selection_from_one_operand_reads_it() -> None:
    assert operators(_gathered(4), "read-through", (0, 1, 5)) == ["Abs", "Gather"]
    assert operators(_gathered([-1, 2]), "read-through", (0, 1, 5)) == ["Abs", "Gather"]
    assert operators(_gathered([[0, 1], [1, 1]]), "read-through", (0, 1, 5)) == ["Neg", "Gather"]


def test_a_selection_from_both_operands_stays() -> None:
    assert operators(_gathered([1, 2]), "read-through", (0, 1, 5)) == ["Neg", "Abs", "Concat", "Gather"]
    assert operators(_gathered(0, axis=2), "read-through", (0, 1, 5)) == ["Neg", "Abs", "Concat", "Gather"]
