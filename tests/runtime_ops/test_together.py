"""A residual network, pruned, optimized and quantized with runtime operators, runs with and without their library."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import graphopt
from graphopt import runtime, runtime_ops
from graphopt.pipeline import Result
from tests.ops.net import Net, dead
from tests.runtime_ops.running import need_library

WIDTH = 8
OFF = (1, 2, 6)


@cache
def resnet(join: bool = False) -> onnx.ModelProto:
    """A stem with a pool, a block whose shortcut is the identity, one with a convolution there, a mean, ten classes.

    Filters inside of the first block are zero; with ``join`` also some whose output is added to the shortcut, so that
    the narrow branch is scattered into the wide stream.
    """
    net = Net(18)
    x = net.input("x", "N", 3, 9, 9)

    def conv(x: str, to: int, of: int, size: int = 3, stride: int = 1, off: tuple[int, ...] = ()) -> str:
        weight = dead(net.normal(to, of, size, size) / np.float32(np.sqrt(of) * size), 0, list(off))
        bias = dead(net.normal(to) * np.float32(0.2), 0, list(off))
        return net("Conv", x, weight, bias, strides=[stride] * 2, pads=[size // 2] * 4)

    y = net("Relu", conv(x, WIDTH, 3))
    y = net("MaxPool", y, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    inner = net("Relu", conv(y, WIDTH, WIDTH, off=OFF))
    y = net("Relu", net("Add", conv(inner, WIDTH, WIDTH, off=OFF if join else ()), y))
    inner = net("Relu", conv(y, 2 * WIDTH, WIDTH, stride=2))
    y = net("Relu", net("Add", conv(y, 2 * WIDTH, WIDTH, 1, 2), conv(inner, 2 * WIDTH, 2 * WIDTH)))
    y = net("Flatten", net("GlobalAveragePool", y))
    return net.model(net("Gemm", y, net.normal(10, 2 * WIDTH), net.normal(10), transB=1))


def images(count: int = 24, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 3, 9, 9)).astype(np.float32)


@cache
def result(target: str = "cuda", operators: bool | None = None, join: bool = False) -> Result:
    data = [{"x": images(8, seed)} for seed in range(3)]
    options = {"activations": "int8" if target == "cuda" else "uint8", "everything": True}
    return graphopt.optimize(
        resnet(join), target=target, plan="smallest", operators=operators, quantize=options, data=data, measure=False
    )


def run(model: Any, feeds: Mapping[str, np.ndarray], **options: Any) -> np.ndarray:
    return runtime.run(runtime.session(model, **options), feeds)[0]


def called(model: ir.Model) -> set[str]:
    return {node.op_type for node in model.graph if node.domain == runtime_ops.DOMAIN}


def decibels(right: np.ndarray, wrong: np.ndarray) -> float:
    noise = np.mean(np.square(right.astype(np.float64) - wrong))
    return float(10 * np.log10(np.mean(np.square(right.astype(np.float64))) / noise)) if noise else np.inf


def test_every_layer_becomes_an_operator() -> None:
    """Six convolutions, two of them with a residual, and the classes; nothing multiplies in float."""
    found = result()
    types = [node.op_type for node in found.model.graph]
    assert not {"Conv", "Gemm", "MatMul", "Add"} & set(types)
    calls = found.report.operators.calls if found.report.operators is not None else {}
    assert {name: calls.get(name) for name in ("Int8Conv", "Int8ConvAdd", "Int8Gemm")} == {
        "Int8Conv": 4, "Int8ConvAdd": 2, "Int8Gemm": 1,
    }  # fmt: skip
    assert found.report.quantize is not None and found.report.quantize.float_nodes == 0


def test_a_join_that_is_scattered_keeps_its_layers() -> None:
    """The branch is narrower than the stream: its convolution is on integers, the addition in float or an operator."""
    found = result(join=True)
    assert not {"Conv", "Gemm", "MatMul"} & {node.op_type for node in found.model.graph}
    assert {"Int8Conv", "Int8ConvAdd", "Int8Gemm"} <= called(found.model)
    x = {"x": images(16, 8)}
    assert decibels(run(graphopt.load(resnet(True)), x), run(found.model, x)) > 25


def test_masks_are_gone_before() -> None:
    found = result()
    assert found.report.after.parameters < found.report.before.parameters
    assert found.report.verify is not None and found.report.verify.passed


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_the_same_with_the_library_and_without(rows: int) -> None:
    """Kernels and definitions are bit for bit the same: the numbers between them are integers."""
    need_library()
    x = {"x": images(rows, 7)}
    model = result().model
    np.testing.assert_array_equal(run(model, x), run(model, x, operators=False))


def test_as_near_to_the_float_model_as_the_integers_of_the_cpu() -> None:
    """The plain result, quantized for the CPU with onnxruntime's own kernels, and this one are the same network."""
    x = {"x": images(16, 8)}
    plain = run(graphopt.load(resnet()), x)
    here, there = run(result().model, x), run(result("cpu").model, x)
    assert decibels(plain, here) > 25
    assert decibels(plain, here) > decibels(plain, there) - 3


def test_the_model_with_calls_is_the_model_with_q_and_dq() -> None:
    """Inlined again, and optimized by onnxruntime, it rounds as it is written."""
    plain = graphopt.optimize(result().model, target="cpu", operators=False, measure=False, verify=False)
    assert not called(plain.model) and not plain.model.functions
    x = {"x": images(4, 9)}
    np.testing.assert_array_equal(run(result().model, x), run(plain.model, x))


def test_it_is_optimized_again_and_stays() -> None:
    before = result().model
    again = graphopt.optimize(before, target="cuda", measure=False)
    assert again.report.verify is not None and again.report.verify.passed
    assert called(again.model) == called(before) and len(again.model.graph) == len(before.graph)


@pytest.mark.parametrize(
    ("target", "operators", "stays"), [("cpu", None, True), ("cpu", False, False), ("portable", None, False)]
)
def test_what_is_lowered_is_quantized_around(target: str, operators: bool | None, stays: bool) -> None:
    """A join that was written as ScatterAdd before: convolutions around it are quantized, the call stays."""
    before = graphopt.optimize(resnet(True), plan="smallest", operators=True, measure=False).model
    data = [{"x": images(8, seed)} for seed in range(2)]
    again = graphopt.quantize(before, data, target=target, operators=operators, everything=True, measure=False)
    assert called(before) and called(again.model) == (called(before) if stays else set())
    assert again.report.quantize is not None and again.report.quantize.integer_nodes >= 6
    x = {"x": images(8, 8)}
    assert decibels(run(before, x), run(again.model, x)) > 25


def test_files_are_verified_and_measured(tmp_path: Any) -> None:
    path = tmp_path / "lowered.onnx"
    result().save(path)
    assert graphopt.verify(path, path, samples=1).passed
    report = graphopt.bench(path, seconds=0.01, shapes={"x": (1, 3, 9, 9)})
    assert report.rows[0].median_ms > 0


def test_on_the_cpu_nothing_is_inserted_unless_asked_for() -> None:
    assert not called(result("cpu").model) and result("cpu").report.operators is None
