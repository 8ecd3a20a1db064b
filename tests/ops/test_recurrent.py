"""Recurrent layers: hidden units that stay at zero, units that nobody reads, inputs that nobody reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import pytest

from tests.ops.net import Case, Net, dead, examine

BATCHES = (1, 5)
"""onnxruntime 1.31 ends the process at an empty batch."""
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
CANDIDATE = {"LSTM": 3, "GRU": 2, "RNN": 0}
INPUTS, HIDDEN = 3, 5
DEAD = [1, 3]
ALIVE = HIDDEN - len(DEAD)


def rows(op: str, units: Sequence[int], gates: Sequence[int] | None = None, hidden: int = HIDDEN) -> list[int]:
    """Rows of units in W, R and half a bias: of all gates, or of some."""
    return [g * hidden + u for g in (range(GATES[op]) if gates is None else gates) for u in units]


def candidate(op: str, units: Sequence[int] = DEAD, hidden: int = HIDDEN) -> list[int]:
    """Rows of the candidate gate."""
    return rows(op, units, [CANDIDATE[op]], hidden)


def weights(net: Net, op: str, directions: int = 1, inputs: int = INPUTS, hidden: int = HIDDEN) -> list[np.ndarray]:
    """W, R and B, none of which has a zero."""
    count = GATES[op] * hidden
    return [net.normal(directions, count, k) * np.float32(0.4) for k in (inputs, hidden)] + [
        net.normal(directions, 2 * count) * np.float32(0.4)
    ]


def silence(op: str, parts: list[np.ndarray], units: Sequence[int] = DEAD, hidden: int = HIDDEN) -> list[np.ndarray]:
    """The candidates of the units are zero, in every direction."""
    w, r, b = parts
    at = candidate(op, units, hidden)
    return [dead(w, 1, at), dead(r, 1, at), dead(dead(b, 1, at), 1, [GATES[op] * hidden + p for p in at])]


def count(op: str, units: int, inputs: int = INPUTS, directions: int = 1, bias: bool = True) -> int:
    """Parameters of a layer."""
    return directions * GATES[op] * units * (inputs + units + 2 * bias)


def head(net: Net, y: str, directions: int = 1, hidden: int = HIDDEN) -> str:
    """Y [T, D, N, H] as torch hands it on, and a product of two columns."""
    if directions == 1:
        return net("MatMul", net("Squeeze", y, [1]), net.normal(hidden, 2))
    y = net("Reshape", net("Transpose", y, perm=[0, 2, 1, 3]), [0, 0, directions * hidden])
    return net("MatMul", y, net.normal(directions * hidden, 2))


Change = Callable[[Net, str, list[np.ndarray]], list[np.ndarray]]


def layer(
    op: str, change: Change | None = None, before: Callable[[Net, str], str] = lambda net, x: x, **attributes: Any
) -> Callable[[], onnx.ModelProto]:
    """A layer with silent units behind a graph input, and a head that reads every unit."""

    def build() -> onnx.ModelProto:
        net = Net(22)
        directions = 2 if attributes.get("direction") == "bidirectional" else 1
        parts = silence(op, weights(net, op, directions))
        if change is not None:
            parts = change(net, op, parts)
        x = before(net, net.input("x", 4, "N", INPUTS))
        y = net.many(op, x, *parts, outputs=1, hidden_size=HIDDEN, **attributes)[0]
        return net.model(head(net, y, directions))

    return build


@pytest.mark.parametrize("op", GATES)
def test_units_without_a_candidate_leave(op: str) -> None:
    examine(Case("", layer(op), most=count(op, ALIVE) + ALIVE * 2, batches=BATCHES))
    examine(Case("", layer(op, direction="reverse"), most=count(op, ALIVE) + ALIVE * 2, batches=BATCHES))
    both = layer(op, direction="bidirectional")
    examine(Case("", both, most=count(op, ALIVE, directions=2) + 2 * ALIVE * 2, batches=BATCHES))


def test_behind_the_reset_gate() -> None:
    case = layer("GRU", linear_before_reset=1)
    examine(Case("", case, most=count("GRU", ALIVE) + ALIVE * 2, batches=BATCHES))


def _one_bias(net: Net, op: str, parts: list[np.ndarray]) -> list[np.ndarray]:
    w, r, b = parts
    return [w, r, dead(b, 1, candidate(op)[:1], 0.25)]


def _opposite_biases(net: Net, op: str, parts: list[np.ndarray]) -> list[np.ndarray]:
    w, r, b = parts
    at = candidate(op)
    return [w, r, dead(dead(b, 1, at, 0.25), 1, [GATES[op] * HIDDEN + p for p in at], -0.25)]


def _reads_a_live_unit(net: Net, op: str, parts: list[np.ndarray]) -> list[np.ndarray]:
    w, r, b = parts
    r = r.copy()
    r[0, candidate(op)[0], 0] = 0.5
    return [w, r, b]


def _reads_a_silent_unit(net: Net, op: str, parts: list[np.ndarray]) -> list[np.ndarray]:
    w, r, b = parts
    r = r.copy()
    r[0, candidate(op), DEAD[::-1]] = 0.5
    return [w, r, b]


def _tiny(net: Net, op: str, parts: list[np.ndarray]) -> list[np.ndarray]:
    w, r, b = parts
    return [dead(w, 1, candidate(op)[:1], 1e-20), r, b]


@pytest.mark.parametrize("op", GATES)
@pytest.mark.parametrize("change", [_one_bias, _reads_a_live_unit, _tiny])
def test_a_unit_that_wakes_up_stays(op: str, change: Change) -> None:
    # Unit 1 is awake; unit 3 is not.
    fewest = count(op, ALIVE + 1) + (ALIVE + 1) * 2
    examine(Case("", layer(op, change), most=fewest, least=fewest, batches=BATCHES))


@pytest.mark.parametrize("op", GATES)
def test_units_that_only_read_one_another_leave(op: str) -> None:
    examine(Case("", layer(op, _reads_a_silent_unit), most=count(op, ALIVE) + ALIVE * 2, batches=BATCHES))


def test_biases_that_cancel() -> None:
    for op in ("LSTM", "RNN"):
        examine(Case(op, layer(op, _opposite_biases), most=count(op, ALIVE) + ALIVE * 2, batches=BATCHES))
    # The reset gate scales one of the two.
    least = count("GRU", HIDDEN) + HIDDEN * 2
    examine(Case("GRU", layer("GRU", _opposite_biases, linear_before_reset=1), least=least, batches=BATCHES))


@pytest.mark.parametrize("op", GATES)
def test_an_activation_that_moves_zero(op: str) -> None:
    names = {"LSTM": ["Sigmoid", "Sigmoid", "Tanh"], "GRU": ["Sigmoid", "Sigmoid"], "RNN": ["Sigmoid"]}
    least = count(op, HIDDEN) + HIDDEN * 2
    examine(Case("", layer(op, activations=names[op]), least=least, batches=BATCHES))
    keeps = {"LSTM": ["Sigmoid", "Relu", "Softsign"], "GRU": ["Tanh", "Relu"], "RNN": ["Relu"]}
    most = count(op, ALIVE) + ALIVE * 2
    examine(Case("", layer(op, activations=keeps[op]), most=most, batches=BATCHES))


def test_cells_with_a_clip_and_a_coupled_forget_gate() -> None:
    most = count("LSTM", ALIVE) + ALIVE * 2
    examine(Case("clip", layer("LSTM", clip=0.5), most=most, batches=BATCHES))
    examine(Case("input_forget", layer("LSTM", input_forget=1), most=most, batches=BATCHES))


def _with_state(op: str, start: np.ndarray | str, peepholes: bool = False) -> Callable[[], onnx.ModelProto]:
    def build() -> onnx.ModelProto:
        net = Net(22)
        w, r, b = silence(op, weights(net, op))
        x = net.input("x", 4, 1 if isinstance(start, np.ndarray) else "N", INPUTS)
        h = start if isinstance(start, np.ndarray) else net.input("h", 1, "N", HIDDEN)
        operands: list[Any] = [x, w, r, b, "", h]
        if op == "LSTM":
            operands.append(h)
        if peepholes:
            operands.append(net.normal(1, 3 * HIDDEN))
        y = net(op, *operands, hidden_size=HIDDEN)
        return net.model(head(net, y))

    return build


@pytest.mark.parametrize("op", GATES)
def test_a_state_that_starts_at_zero(op: str) -> None:
    start = Net().normal(1, 1, HIDDEN)
    most = count(op, ALIVE) + ALIVE * 2
    examine(Case("zero", _with_state(op, start * 0), most=most, batches=(1,)))
    states = ALIVE * (2 if op == "LSTM" else 1)
    examine(Case("zero where it matters", _with_state(op, dead(start, 2, DEAD)), most=most + states, batches=(1,)))
    awake = count(op, ALIVE + 1) + (ALIVE + 1) * 2
    examine(Case("not zero for one", _with_state(op, dead(start, 2, DEAD[:1])), least=awake, batches=(1,)))
    whole = count(op, HIDDEN) + HIDDEN * 2
    examine(Case("from outside", _with_state(op, "h"), least=whole, batches=BATCHES))


def test_peepholes() -> None:
    start = dead(Net().normal(1, 1, HIDDEN), 2, DEAD)
    most = count("LSTM", ALIVE) + ALIVE * 2 + 2 * ALIVE + 3 * ALIVE
    examine(Case("", _with_state("LSTM", start, peepholes=True), most=most, batches=(1,)))


def _lengths(op: str, reads: Sequence[int] = ()) -> Callable[[], onnx.ModelProto]:
    def build() -> onnx.ModelProto:
        net = Net(22)
        x = net.input("x", 4, 3, INPUTS)
        y = net.many(
            op, x, *silence(op, weights(net, op)), np.array([4, 2, 1], np.int32), outputs=2, hidden_size=HIDDEN
        )
        return net.model(head(net, y[0]), net("MatMul", y[1], dead(net.normal(HIDDEN, 2), 0, reads)))

    return build


@pytest.mark.parametrize("op", GATES)
def test_sequences_of_different_lengths(op: str) -> None:
    examine(Case("", _lengths(op), most=count(op, ALIVE) + 2 * ALIVE * 2, batches=(3,)))


def _unread(op: str, reads: Sequence[tuple[int, int]] = (), state: bool = False) -> Callable[[], onnx.ModelProto]:
    """Nobody reads units 1 and 3 of the output; `reads` lists (unit, unit that it reads in turn)."""

    def build() -> onnx.ModelProto:
        net = Net(22)
        w, r, b = weights(net, op)
        r = dead(r, 2, DEAD)
        for unit, other in reads:
            r[0, rows(op, [unit]), other] = 0.5
        operands: list[Any] = [net.input("x", 4, "N", INPUTS), w, r, b]
        if state:
            operands += ["", net.input("h", 1, "N", HIDDEN)]
        y = net("Squeeze", net(op, *operands, hidden_size=HIDDEN), [1])
        return net.model(net("MatMul", y, dead(net.normal(HIDDEN, 2), 0, DEAD)))

    return build


@pytest.mark.parametrize("op", GATES)
def test_units_that_nobody_reads_leave(op: str) -> None:
    most = count(op, ALIVE) + ALIVE * 2
    examine(Case("", _unread(op), most=most, batches=BATCHES))
    examine(Case("a state from outside is gathered", _unread(op, state=True), most=most, batches=BATCHES))
    examine(Case("each other", _unread(op, [(1, 3), (3, 1), (3, 3)]), most=most, batches=BATCHES))


@pytest.mark.parametrize("op", GATES)
def test_units_that_a_read_unit_reads_stay(op: str) -> None:
    one = count(op, ALIVE + 1) + ALIVE * 2
    examine(Case("", _unread(op, [(0, 1)]), least=one, batches=BATCHES))
    examine(Case("one after the other", _unread(op, [(0, 1), (1, 3)]), least=count(op, HIDDEN), batches=BATCHES))


def _inputs(op: str, behind: Callable[[Net, str], str], **attributes: Any) -> Callable[[], onnx.ModelProto]:
    """A layer behind another one of which rows 1 and 4 of 6 are dead."""

    def build() -> onnx.ModelProto:
        net = Net(22)
        x = net("MatMul", net.input("x", 4, "N", 2), dead(net.normal(2, 6), 1, [1, 4]))
        w, r, b = weights(net, op, inputs=6)
        y = net(op, behind(net, x), w, r, b, hidden_size=HIDDEN, **attributes)
        return net.model(head(net, y))

    return build


@pytest.mark.parametrize("op", GATES)
def test_dead_inputs_leave_and_constants_go_into_the_bias(op: str) -> None:
    most = 2 * 4 + count(op, HIDDEN, 4) + HIDDEN * 2
    examine(Case("zeros", _inputs(op, lambda n, y: n("Relu", y)), most=most, batches=BATCHES))
    examine(Case("halves", _inputs(op, lambda n, y: n("Sigmoid", y)), most=most, batches=BATCHES))
    examine(Case("ones, clipped", _inputs(op, lambda n, y: n("Cos", y), clip=0.4), batches=BATCHES))
    if op == "GRU":
        case = _inputs(op, lambda n, y: n("Sigmoid", y), linear_before_reset=1)
        examine(Case("halves", case, most=most, batches=BATCHES))


@pytest.mark.parametrize("op", GATES)
def test_inputs_that_nobody_reads(op: str) -> None:
    def build() -> onnx.ModelProto:
        net = Net(22)
        x = net("Tanh", net("MatMul", net.input("x", 4, "N", 2), net.normal(2, 6)))
        w, r, _ = weights(net, op, inputs=6)
        return net.model(head(net, net(op, x, dead(w, 2, [0, 5]), r, hidden_size=HIDDEN)))

    examine(Case("", build, most=2 * 4 + count(op, HIDDEN, 4, bias=False) + HIDDEN * 2, batches=BATCHES))


def test_a_layer_without_living_units_is_a_constant() -> None:
    def build() -> onnx.ModelProto:
        net = Net(22)
        w, r, b = silence("LSTM", weights(net, "LSTM"), range(HIDDEN))
        y = net("LSTM", net.input("x", 4, "N", INPUTS), w, r, b, hidden_size=HIDDEN)
        return net.model(net("Add", head(net, y), net.normal(2)))

    examine(Case("", build, most=3, gone=("LSTM",), batches=BATCHES))


def test_states_that_are_outputs() -> None:
    def build() -> onnx.ModelProto:
        net = Net(22)
        w, r, b = silence("LSTM", weights(net, "LSTM"))
        y = net.many("LSTM", net.input("x", 4, "N", INPUTS), w, r, b, outputs=3, hidden_size=HIDDEN)
        return net.model(*y)

    # A scatter per output: as many zeros as it fills in.
    examine(Case("", build, most=count("LSTM", ALIVE) + HIDDEN, batches=BATCHES))


def test_two_layers() -> None:
    def build() -> onnx.ModelProto:
        net = Net(22)
        x = net.input("x", 4, "N", INPUTS)
        y = net("LSTM", x, *silence("LSTM", weights(net, "LSTM", 2)), hidden_size=HIDDEN, direction="bidirectional")
        y = net("Reshape", net("Transpose", y, perm=[0, 2, 1, 3]), [0, 0, 2 * HIDDEN])
        parts = silence("LSTM", weights(net, "LSTM", 2, inputs=2 * HIDDEN), [0])
        y = net("LSTM", y, *parts, hidden_size=HIDDEN, direction="bidirectional")
        return net.model(head(net, y, 2))

    most = count("LSTM", ALIVE, directions=2) + count("LSTM", 4, 2 * ALIVE, directions=2) + 2 * 4 * 2
    examine(Case("", build, most=most, batches=BATCHES))


@pytest.mark.parametrize("op", GATES)
def test_under_doubt_about_infinity(op: str) -> None:
    examine(
        Case("inputs are finite", layer(op), most=count(op, ALIVE) + ALIVE * 2, batches=BATCHES, assume_finite=False)
    )
    # exp(x) may be infinite: 0 * exp(x) is no zero.
    for finite, least in ((True, count(op, ALIVE)), (False, count(op, HIDDEN))):
        case = layer(op, before=lambda n, x: n("Exp", x))
        examine(Case("", case, least=least, most=least + 2 * HIDDEN, batches=BATCHES, assume_finite=finite))
