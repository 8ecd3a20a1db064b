"""One table for words in and words out; a small branch that weighs the channels of a large one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
import pytest

from graphopt import model as models
from graphopt import pipeline
from tests.ops.net import Case, Net, dead, examine

WORDS, WIDTH = 11, 7
DEAD = [1, 4, 6]
ALIVE = WIDTH - len(DEAD)


def _stream(net: Net, y: str, columns: Sequence[int], width: int = WIDTH) -> str:
    """A residual branch that leaves the columns alone."""
    hidden = net("Relu", net("MatMul", y, net.normal(width, 3)))
    return net("Add", y, net("MatMul", hidden, dead(net.normal(3, width), 1, columns)))


def tied(form: str, table: Sequence[int], branch: Sequence[int]) -> Callable[[], onnx.ModelProto]:
    """Words in, a residual branch, the logits of words out, all with one table."""

    def build() -> onnx.ModelProto:
        net = Net()
        words = net.constant(dead(net.normal(WORDS, WIDTH), 1, table))
        y = _stream(net, net("Gather", words, net.input("ids", "N", 3, dtype="i")), branch)
        if form == "Gemm":
            return net.model(net("Gemm", net("Reshape", y, [-1, WIDTH]), words, transB=1))
        if form == "Einsum":
            return net.model(net("Einsum", y, words, equation="ntk,vk->ntv"))
        return net.model(net("MatMul", y, net("Transpose", words, perm=[1, 0])))

    return build


FORMS = ["Gemm", "MatMul", "Einsum"]
COPIES = {"Gemm": 1, "MatMul": 2, "Einsum": 1}
"""A table that is turned by a node becomes a constant of its own, if two narrow ones are smaller than the wide one."""


@pytest.mark.parametrize("form", FORMS)
def test_the_dead_columns_of_a_tied_table_leave_once(form: str) -> None:
    batches = (1, 5) if form == "Einsum" else (0, 1, 5)
    most = COPIES[form] * WORDS * ALIVE + ALIVE * 3 + 3 * ALIVE
    build = tied(form, DEAD, DEAD)
    examine(Case("", build, most=most, batches=batches))
    tables = [v for v in pipeline.optimize(build(), plan="smallest", verify=False).model.graph.initializers.values()]
    assert sum(tuple(v.shape or ()) in ((WORDS, ALIVE), (ALIVE, WORDS)) for v in tables) == COPIES[form]


@pytest.mark.parametrize("form", FORMS)
def test_a_branch_that_wakes_a_column_keeps_the_table(form: str) -> None:
    """Column 1 is zero on the way in and not on the way out."""
    batches = (1, 5) if form == "Einsum" else (0, 1, 5)
    most = WORDS * (ALIVE + 1) * COPIES[form] + WIDTH * 3 + 3 * (ALIVE + 1) + 2
    examine(Case("", tied(form, DEAD[1:], DEAD), least=WORDS * (ALIVE + 1), batches=batches))
    # The table itself is zero there: what the branch writes is multiplied by zero.
    examine(Case("", tied(form, DEAD, DEAD[1:]), most=most, batches=batches))


@pytest.mark.parametrize("form", FORMS)
def test_a_tied_table_does_not_become_two(form: str) -> None:
    """Nobody reads columns 1 and 4 of the words that come in, but the logits are made of them."""

    def build() -> onnx.ModelProto:
        net = Net()
        words = net.constant(net.normal(WORDS, WIDTH))
        y = net("Gather", words, net.input("ids", "N", 3, dtype="i"))
        y = net("MatMul", net("Tanh", y), dead(net.normal(WIDTH, WIDTH), 0, [1, 4]))
        if form == "Gemm":
            return net.model(net("Gemm", net("Reshape", y, [-1, WIDTH]), words, transB=1))
        if form == "Einsum":
            return net.model(net("Einsum", y, words, equation="ntk,vk->ntv"))
        return net.model(net("MatMul", y, net("Transpose", words, perm=[1, 0])))

    # `examine` refuses more parameters than there were: 11 * 7 + 11 * 5 would be.
    examine(Case("", build, least=WORDS * WIDTH, batches=(1, 5)))


def excited(
    channels: Sequence[int] = (), squeezed: Sequence[int] = (), silent: Sequence[int] = (), gate: str = "Sigmoid"
) -> Callable[[], onnx.ModelProto]:
    """A layer with dead channels, weighed by a branch with dead hidden units; `silent` gates have no weights."""

    def build() -> onnx.ModelProto:
        net = Net()
        y = net("Relu", net("Conv", net.input("x", "N", 3, 5, 5), dead(net.normal(7, 3, 1, 1), 0, channels)))
        s = net("GlobalAveragePool", y)
        s = net("Conv", s, dead(net.normal(5, 7, 1, 1), 0, squeezed), dead(net.normal(5), 0, squeezed))
        s = net("Conv", net("Relu", s), dead(net.normal(7, 5, 1, 1), 0, silent), net.normal(7))
        return net.model(net("Conv", net("Mul", y, net(gate, s)), net.normal(2, 7, 3, 3), pads=[1] * 4))

    return build


def _size(channels: int, squeezed: int) -> int:
    return channels * 3 + squeezed * channels + squeezed + channels * squeezed + channels + 2 * channels * 9


@pytest.mark.parametrize("gate", ["Sigmoid", "HardSigmoid", "Relu"])
def test_dead_channels_leave_the_branch_that_weighs_them(gate: str) -> None:
    examine(Case("channels", excited(DEAD, gate=gate), most=_size(4, 5)))
    examine(Case("hidden units", excited((), [0, 3], gate=gate), most=_size(7, 3)))
    examine(Case("both", excited(DEAD, [0, 3], gate=gate), most=_size(4, 3)))


def test_a_gate_without_weights_is_not_closed() -> None:
    # sigmoid(b) of it scales the channel: five rows of weights leave with it, the channel stays.
    examine(Case("", excited((), (), DEAD), least=7 * 3 + 5 * 7 + 2 * 7 * 9 + 4 * 5 + 4))


def test_a_hidden_unit_that_is_constant() -> None:
    def build(inner: str) -> onnx.ModelProto:
        net = Net()
        y = net("Conv", net.input("x", "N", 3, 5, 5), net.normal(7, 3, 1, 1))
        s = net("Flatten", net("GlobalAveragePool", y))
        s = net(inner, net("Gemm", s, dead(net.normal(7, 5), 1, [0, 3])))
        s = net("Sigmoid", net("Gemm", s, net.normal(5, 7), net.normal(7)))
        y = net("Mul", y, net("Unsqueeze", s, [2, 3]))
        return net.model(net("Conv", y, net.normal(2, 7, 1, 1)))

    for inner in ("Relu", "Sigmoid"):  # a half goes into the bias
        examine(Case(inner, lambda inner=inner: build(inner), most=7 * 3 + 7 * 3 + 3 * 7 + 7 + 14))


def test_a_mask_on_the_gates_kills_the_channels() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = net("Relu", net("Conv", net.input("x", "N", 3, 5, 5), net.normal(7, 3, 1, 1)))
        s = net("Conv", net("GlobalAveragePool", y), net.normal(5, 7, 1, 1))
        s = net("Sigmoid", net("Conv", net("Relu", s), net.normal(7, 5, 1, 1)))
        s = net("Mul", s, dead(np.ones((1, 7, 1, 1), np.float32), 1, DEAD))
        return net.model(net("Conv", net("Mul", y, s), net.normal(2, 7, 1, 1)))

    # The squeezed mean still reads every channel; the gates of three of them go.
    examine(Case("", build, most=7 * 3 + 5 * 7 + 4 * 5 + 2 * 4))


@pytest.mark.parametrize("woken", [0, 1])
def test_a_large_table_that_a_node_turns_stays_one(woken: int) -> None:
    words, width = 301, 40

    def build() -> onnx.ModelProto:
        net = Net()
        table = net.constant(dead(net.normal(words, width), 1, range(0, 30)))
        y = net("Gather", table, net.input("ids", "N", 3, dtype="i"))
        y = _stream(net, y, range(woken, 30), width)
        return net.model(net("MatMul", y, net("Transpose", table, perm=[1, 0])))

    examine(Case("", build, most=words * 10 + 2 * 3 * (10 + woken) + woken, gone=("ScatterND",), stays=("Transpose",)))


def test_the_saved_model_has_one_table(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("tied") / "model.onnx"
    result = pipeline.optimize(tied("Gemm", DEAD, DEAD)(), plan="smallest")
    models.save(result.model, path)
    assert sum(tuple(t.dims) == (WORDS, ALIVE) for t in onnx.load(path).graph.initializer) == 1
