"""Weights that are block-diagonal in some order: several products, one batched product, groups."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from graphopt.facts.blocks import find_blocks
from graphopt.facts.stats import stats
from tests.ops.net import Case, Net, dead, examine
from tests.strategies import check


def blocks(net: Net, shapes: list[tuple[int, int]], *rest: int, shuffled: bool = True) -> np.ndarray:
    """A weight [o, i, *rest] of blocks of those shapes, rows and columns in any order."""
    weight = np.zeros((sum(r for r, _ in shapes), sum(c for _, c in shapes), *rest), np.float32)
    row = column = 0
    for rows, columns in shapes:
        weight[row : row + rows, column : column + columns] = net.normal(rows, columns, *rest)
        row, column = row + rows, column + columns
    if shuffled:
        weight = weight[net.rng.permutation(row)][:, net.rng.permutation(column)]
    return weight


def held(shapes: list[tuple[int, int]]) -> int:
    return sum(rows * columns for rows, columns in shapes)


EQUAL = [(16, 20)] * 4
UNEQUAL = [(32, 8), (8, 40), (20, 20)]
MANY = [(3, 5)] * 16
SMALL = [(20, 16), (16, 24), *[(3, 5)] * 6]
CASES = {"equal": EQUAL, "unequal": UNEQUAL, "small ones": SMALL}
HELD = {"equal": held(EQUAL), "unequal": held(UNEQUAL), "small ones": held(SMALL[:2]) + 18 * 30}
"""Blocks that are too small for a product of their own stay one."""


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("lead", [(), (5,), (2, 3)], ids=str)
def test_matmul(name: str, lead: tuple[int, ...], shuffled: bool) -> None:
    shapes = CASES[name]

    def build() -> onnx.ModelProto:
        net = Net()
        w = blocks(net, shapes, shuffled=shuffled)
        return net.model(net("MatMul", net.input("x", "N", *lead, w.shape[1]), np.ascontiguousarray(w.T)))

    examine(Case("", build, most=HELD[name]))


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("form", ["plain", "transposed", "bias", "row", "one"])
def test_gemm(name: str, form: str, shuffled: bool) -> None:
    shapes = CASES[name]
    outputs = sum(rows for rows, _ in shapes)

    def build() -> onnx.ModelProto:
        net = Net()
        w = blocks(net, shapes, shuffled=shuffled)
        x = net.input("x", "N", w.shape[1])
        sizes = {"bias": (outputs,), "row": (1, outputs), "one": (1,)}
        extra = [net.normal(*sizes[form])] if form in sizes else []
        if form == "transposed":
            return net.model(net("Gemm", x, np.ascontiguousarray(w.T)))
        return net.model(net("Gemm", x, w, *extra, transB=1, alpha=0.5, beta=2.0))

    examine(Case("", build, most=HELD[name] + (outputs if form in ("bias", "row") else 1)))


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_conv(name: str, op: str, shuffled: bool) -> None:
    shapes = CASES[name]

    def build() -> onnx.ModelProto:
        net = Net()
        w = blocks(net, shapes, 3, 3, shuffled=shuffled)
        w = w if op == "Conv" else np.ascontiguousarray(w.swapaxes(0, 1))
        x = net.input("x", "N", sum(columns for _, columns in shapes), 6, 5)
        return net.model(net(op, x, w, net.normal(sum(rows for rows, _ in shapes)), pads=[1] * 4, strides=[2, 2]))

    most = held(shapes) if name != "small ones" else HELD[name]  # 3 x 5 blocks of nine taps are too small as well
    examine(Case("", build, most=9 * most + sum(rows for rows, _ in shapes)))


@pytest.mark.parametrize("op", ["Conv", "MatMul"])
def test_many_small_equal_blocks_are_one_node(op: str) -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        if op == "MatMul":
            return net.model(net(op, net.input("x", "N", 80), np.ascontiguousarray(blocks(net, MANY).T)))
        return net.model(net(op, net.input("x", "N", 80, 6), blocks(net, MANY, 3)))

    examine(Case("", build, most=held(MANY) * (3 if op == "Conv" else 1)))
    assert stats(check.optimized(build(), "optimize", plan="smallest").model).ops[op] == 1


def test_many_small_blocks_that_no_node_takes_together_stay() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        return net.model(net("Gemm", net.input("x", "N", 80), blocks(net, MANY), transB=1))

    examine(Case("", build, least=80 * 48))


def test_the_order_is_made_by_the_weights_around() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = net("Relu", net("Conv", net.input("x", "N", 3, 6, 5), net.normal(80, 3, 1, 1), net.normal(80)))
        y = net("Mul", y, net.normal(80, 1, 1))
        y = net("MaxPool", net("Conv", y, blocks(net, EQUAL, 3, 3)), kernel_shape=[2, 2])
        return net.model(net("Conv", net("Relu", y), net.normal(2, 64, 1, 1)))

    result = check.optimized(build(), "optimize", plan="smallest").model
    assert "Gather" not in stats(result).ops
    examine(Case("", build, most=80 * 3 + 80 + 80 + held(EQUAL) * 9 + 2 * 64))


def test_blocks_behind_blocks_need_no_order_between() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        first, second = blocks(net, EQUAL, shuffled=False), blocks(net, EQUAL, shuffled=False)
        order = net.rng.permutation(64)
        y = net("Relu", net("MatMul", net.input("x", "N", 80), np.ascontiguousarray(first[order].T)))
        w = np.ascontiguousarray(second.T)[:, order]
        return net.model(net("MatMul", y, np.ascontiguousarray(w.T)))

    result = check.optimized(build(), "optimize", plan="smallest").model
    assert "Gather" not in stats(result).ops, stats(result).ops
    examine(Case("", build, most=2 * held(EQUAL)))


def test_an_order_that_somebody_else_sees_is_gathered() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = net("Conv", net.input("x", "N", 3, 6, 5), net.normal(80, 3, 1, 1))
        z = net("Conv", y, blocks(net, EQUAL, 3, 3))
        return net.model(y, z)

    examine(Case("", build, most=80 * 3 + held(EQUAL) * 9, stays=("Gather",)))


def test_outputs_with_the_same_inputs_are_a_block_although_inputs_are_shared() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        w = np.zeros((60, 64), np.float32)
        for first, last, columns in ((0, 20, slice(0, 24)), (20, 40, slice(16, 40)), (40, 60, slice(36, 64))):
            w[first:last, columns] = net.normal(20, len(range(64)[columns]))
        w = w[net.rng.permutation(60)][:, net.rng.permutation(64)]
        return net.model(net("MatMul", net.input("x", "N", 64), np.ascontiguousarray(w.T)))

    examine(Case("", build, most=20 * (24 + 24 + 28)))


def test_dead_positions_do_not_hide_blocks() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        w = dead(dead(blocks(net, UNEQUAL), 0, [1, 7, 40]), 1, [0, 9])
        return net.model(net("MatMul", net.input("x", "N", 68), np.ascontiguousarray(w.T)))

    examine(Case("", build, most=held(UNEQUAL)))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_noise_is_not_split(share: float) -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        w = net.normal(48, 64) * (net.rng.random((48, 64)) < share)
        return net.model(net("Gemm", net.input("x", "N", 64), w.astype(np.float32), transB=1))

    examine(Case("", build, least=48 * 64 - 64, stays=("Gemm",)))


def test_one_weight_that_joins_the_blocks_keeps_them_together() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        w = blocks(net, [(24, 24), (24, 24)], shuffled=False)
        w[net.rng.permutation(24), 24 + net.rng.permutation(24)] = 0.5
        return net.model(net("Gemm", net.input("x", "N", 48), w, transB=1))

    examine(Case("", build, least=48 * 48))


def test_small_weights_and_small_savings_stay() -> None:
    for shapes in ([(4, 4)] * 4, [(60, 60), (4, 4)]):

        def build(shapes: list[tuple[int, int]] = shapes) -> onnx.ModelProto:
            net = Net()
            w = blocks(net, shapes)
            return net.model(net("Gemm", net.input("x", "N", w.shape[1]), w, transB=1))

        rows, columns = (sum(side) for side in zip(*shapes, strict=True))
        examine(Case("", build, least=rows * columns))


def test_a_weight_that_is_read_twice_is_not_doubled() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        w = net.constant(np.ascontiguousarray(blocks(net, EQUAL).T))
        y = net("MatMul", net.input("x", "N", 80), w)
        return net.model(net("Concat", y, net("MatMul", net.input("z", "N", 80), w), axis=1))

    examine(Case("", build, least=80 * 64))


@pytest.mark.parametrize("plan", ["smallest", "fastest"])
@pytest.mark.parametrize("name", CASES)
def test_a_second_run_changes_nothing(name: str, plan: str) -> None:
    net = Net()
    y = net("Relu", net("MatMul", net.input("x", "N", 5, 12), net.normal(12, sum(c for _, c in CASES[name]))))
    model = net.model(net("MatMul", y, np.ascontiguousarray(blocks(net, CASES[name]).T)))
    once = check.optimized(model, "optimize", plan=plan).model
    again = check.optimized(once, "optimize", plan=plan).model
    assert stats(again) == stats(once)
    assert [node.op_type for node in again.graph] == [node.op_type for node in once.graph]


def test_blocks_of_any_pattern_hold_every_weight_and_every_output_once() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        pattern = rng.random(rng.integers(1, 12, 2)) < rng.choice([0.05, 0.15, 0.3])
        found = find_blocks(pattern)
        if not found:
            continue
        covered = np.zeros_like(pattern)
        for block in found:
            covered[np.ix_(block.rows, block.columns)] = True
        assert not (pattern & ~covered).any()
        assert sorted(np.concatenate([block.rows for block in found])) == list(range(len(pattern)))
