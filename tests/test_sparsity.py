"""Zeros that stay: what pattern they are in, and that a pattern that nearly holds is not reported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from graphopt import inspection
from graphopt import model as models
from graphopt.facts.constants import Constants
from graphopt.facts.sparsity import SparsityRow, sparse_weights
from tests.nets.large import write_matrices
from tests.ops.net import Net


def rows(net: Net, output: str) -> list[SparsityRow]:
    return list(sparse_weights(models.load(net.model(output)), Constants()))


def of_matrix(weight: np.ndarray) -> SparsityRow:
    """The row of a matrix [inputs, outputs] that is multiplied from the right."""
    net = Net()
    (found,) = rows(net, net("MatMul", net.input("x", "N", weight.shape[0]), weight.astype(np.float32)))
    return found


def scattered(shape: tuple[int, int], keep: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape) < keep


def of_groups(few: int, many: int, shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    """[inputs, outputs]: of every ``many`` inputs ``few`` live, other ones for each output."""
    inputs, outputs = shape
    order = np.random.default_rng(seed).random((inputs // many, many, outputs)).argsort(axis=1)
    return (order < few).reshape(inputs, outputs)


@pytest.mark.parametrize(("few", "many"), [(1, 4), (2, 4), (4, 8)])
def test_n_of_m_along_the_inputs(few: int, many: int) -> None:
    weight = of_groups(few, many, (64, 37))
    found = of_matrix(weight)
    assert found.pattern == f"{few}:{many}"
    assert found.density == few / many and found.zeros == weight.size * (1 - few / many)
    assert f"{few / many:.0%}" in found.use
    # One element more, and it is something else (4:8 does not follow from 2:4 that nearly holds).
    free = np.argwhere(~weight)[0]
    weight[tuple(free)] = True
    assert of_matrix(weight).pattern != f"{few}:{many}"


def test_n_of_m_along_the_outputs_is_of_no_use() -> None:
    assert of_matrix(of_groups(2, 4, (64, 36)).T).pattern == "none"


def test_n_of_m_is_along_the_contracted_axis_of_every_operator() -> None:
    weight = of_groups(2, 4, (8, 5)).astype(np.float32)
    for build in (
        lambda net: net("Gemm", net.input("x", "N", 8), weight),
        lambda net: net("Gemm", net.input("x", "N", 8), weight.T, transB=1),
        lambda net: net("MatMul", weight.T, net.input("x", 8, "N")),
        lambda net: net("Conv", net.input("x", "N", 8, 3, 3), weight.T.reshape(5, 8, 1, 1)),
        lambda net: net("ConvTranspose", net.input("x", "N", 8, 3, 3), weight.reshape(8, 5, 1, 1)),
    ):
        net = Net()
        (found,) = rows(net, build(net))
        assert found.pattern == "2:4", found


def test_taps_of_a_convolution_have_groups_of_their_own() -> None:
    net = Net()
    weight = np.stack([of_groups(2, 4, (8, 5), seed).T for seed in range(9)], axis=2).reshape(5, 8, 3, 3)
    (found,) = rows(net, net("Conv", net.input("x", "N", 8, 5, 5), weight.astype(np.float32)))
    assert found.pattern == "2:4"


def test_the_last_group_may_be_short() -> None:
    weight = np.vstack([of_groups(2, 4, (64, 37)), scattered((3, 37), 0.5)])
    weight[64:] = [[True], [False], [True]]
    assert of_matrix(weight).pattern == "2:4"
    weight[64:, 5] = True
    assert of_matrix(weight).pattern == "4:8"


def in_blocks(high: int, wide: int, grid: tuple[int, int], keep: float) -> np.ndarray:
    """[inputs, outputs] of blocks of ``wide`` inputs and ``high`` outputs; each row and column of blocks lives."""
    chosen = scattered(grid, keep)
    chosen[0] = True
    chosen[:, 0] = True
    return np.repeat(np.repeat(chosen, wide, 0), high, 1)


@pytest.mark.parametrize(("high", "wide"), [(4, 4), (16, 16), (32, 1)])
def test_blocks(high: int, wide: int) -> None:
    weight = in_blocks(high, wide, (11, 7) if wide > 1 else (67, 5), 0.3)
    found = of_matrix(weight)
    assert found.pattern == f"blocks {high}x{wide}", found
    # The near miss: as many elements, anywhere.
    assert not of_matrix(scattered(weight.shape, float(weight.mean()))).pattern.startswith("blocks")


def test_blocks_off_the_grid_are_none() -> None:
    weight = np.zeros((64, 64), bool)
    weight[:, :2] = weight[:2] = True
    for start in range(2, 62, 8):
        weight[start : start + 4, start : start + 4] = True
    assert not of_matrix(weight).pattern.startswith("blocks 16x16")


@pytest.mark.parametrize("parts", [2, 3, 7])
def test_parts_that_have_nothing_to_do_with_each_other(parts: int) -> None:
    rng = np.random.default_rng(parts)
    weight = np.kron(np.eye(parts), np.ones((5, 6)))[rng.permutation(5 * parts)][:, rng.permutation(6 * parts)]
    found = of_matrix(weight)
    assert found.pattern == f"block-diagonal, {parts} parts"
    assert f"{1 / parts:.0%}" in found.use
    # One weight between two parts makes one of them.
    weight[tuple(np.argwhere(weight == 0)[0])] = 1
    joined = of_matrix(weight).patterns
    assert f"block-diagonal, {parts} parts" not in joined
    assert (f"block-diagonal, {parts - 1} parts" in joined) == (parts > 2)


@pytest.mark.parametrize(("keep", "pattern"), [(0.1, "unstructured"), (0.3, "none"), (0.97, "none")])
def test_unstructured_zeros(keep: float, pattern: str) -> None:
    found = of_matrix(scattered((128, 96), keep))
    assert found.pattern == pattern
    assert found.density == pytest.approx(keep, abs=0.02)


def test_a_weight_without_zeros_and_one_that_is_looked_up_have_no_row() -> None:
    net = Net()
    y = net("Gather", net.normal(11, 7) * scattered((11, 7), 0.5), net.input("ids", "N", dtype="i"))
    assert rows(net, net("MatMul", y, net.normal(7, 5))) == []


@pytest.mark.parametrize("size", [0, 1])
def test_degenerate_weights(size: int) -> None:
    net = Net()
    found = rows(net, net("MatMul", net.input("x", "N", size), np.zeros((size, 3), np.float32)))
    assert [row.size for row in found] == [3] * size


def test_zero_of_a_quantized_weight_is_its_zero_point() -> None:
    alive = of_groups(2, 4, (8, 5)).T
    points = np.arange(5, dtype=np.uint8) + 3
    weight = np.where(alive, 200, points[:, None]).astype(np.uint8).reshape(5, 8, 1, 1)
    net = Net()
    scale = np.full(5, 0.1, np.float32)
    w = net("DequantizeLinear", weight, scale, points, axis=0)
    (found,) = rows(net, net("Conv", net.input("x", "N", 8, 3, 3), w))
    assert (found.pattern, found.zeros) == ("2:4", 20)


def test_recurrent_weights() -> None:
    net = Net()
    w = np.stack([scattered((20, 64), 0.1)]).astype(np.float32)
    x = net.input("x", 3, "N", 64)
    (found,) = rows(net, net.many("LSTM", x, w, net.normal(1, 20, 5), outputs=2, hidden_size=5)[0])
    assert (found.pattern, found.node.split()[0]) == ("unstructured", "LSTM")


def test_inspect_shows_what_is_left_after_masks_are_folded() -> None:
    """A mask of 2:4 over weights of which two rows are dead as well: rows go, the pattern stays."""
    alive = of_groups(2, 4, (16, 9)).T
    alive[[2, 5]] = False
    net = Net()
    y = net("Gemm", net.input("x", "N", 16), net("Mul", net.normal(9, 16), alive.astype(np.float32)), transB=1)
    model = net.model(net("Gemm", net("Relu", y), net.normal(9, 4)))
    found = inspection.inspect(model)
    (row,) = found.sparsity
    assert (row.pattern, row.shape, row.density) == ("2:4", [7, 16], 0.5)
    assert [mask.action for mask in found.masks] == ["folded"]


def test_large_weights_are_looked_at_in_slabs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_matrices(tmp_path, 3, 67)
    whole = list(sparse_weights(models.load(path), Constants()))
    monkeypatch.setattr("graphopt.facts.sparsity.SLAB", 1)
    assert list(sparse_weights(models.load(path), Constants())) == whole
    assert [row.shape for row in whole] == [[67, 67]] * 2  # the third is masked by a node
    assert all(row.zeros == 67 * 33 for row in whole)


def test_a_row_reads_one_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are made when they are asked for."""
    read: list[str] = []
    original: Callable = Constants.array

    def array(self: Constants, value: object) -> object:
        read.append(getattr(value, "name", ""))
        return original(self, value)

    monkeypatch.setattr(Constants, "array", array)
    net = Net()
    y = net.input("x", "N", 8)
    for _ in range(3):
        y = net("MatMul", y, net.normal(8, 8) * scattered((8, 8), 0.5))
    found = sparse_weights(models.load(net.model(y)), Constants())
    next(found)
    assert len(read) == 1


def test_bodies_are_looked_at() -> None:
    inner = onnx.helper.make_node("MatMul", ["x", "w"], ["y"], name="inner")
    weight = onnx.numpy_helper.from_array(scattered((64, 64), 0.1).astype(np.float32), "w")
    output = onnx.helper.make_tensor_value_info("y", 1, ["N", 64])
    body = onnx.helper.make_graph([inner], "body", [], [output], [weight])
    other = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["x"], ["z"])], "other", [],
        [onnx.helper.make_tensor_value_info("z", 1, ["N", 64])],
    )  # fmt: skip
    net = Net()
    net.input("x", "N", 64)
    (found,) = rows(net, net("If", net.input("gate", dtype="b"), then_branch=body, else_branch=other))
    assert (found.node, found.pattern) == ("MatMul inner", "unstructured")
