"""Integers and scales that another pass than rounding to nearest chooses: GPTQ with data, HQQ without."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import graphopt
from graphopt import model as models
from graphopt import runtime
from graphopt.calibrate.grid import Grid, grid
from graphopt.calibrate.solve import FREE, Constraint
from graphopt.passes.quantize.hqq import Hqq
from graphopt.quantization.weight_only import gptq, hqq, solve
from graphopt.quantization.weight_only.layout import blocked, restored
from tests.ops.net import Net
from tests.quantization.blocks import array, exact, nearest, weight_of


def correlated(count: int, size: int, seed: int = 0) -> np.ndarray:
    """Rows of which some directions are much longer than others, ``[count, size]``."""
    numbers = np.random.default_rng(seed)
    mixed = numbers.standard_normal((size, size)) * np.exp(-np.arange(size) / (size / 6))
    return (numbers.standard_normal((count, size)) @ mixed.T).astype(np.float32)


def problem(name: str, size: int, rows: int = 23) -> tuple[Grid, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Weights, the second moments of what they are multiplied with, and scales and zero points."""
    kind = grid(name)
    w = np.random.default_rng(1).standard_normal((rows, size)).astype(np.float32)
    x = correlated(500, size).astype(np.float64)
    constraint = Constraint(zero_point=0) if kind.signed else FREE
    scale, zero = solve.of_rows(w, 32, kind, constraint, "mse", turned=kind.signed)
    return kind, w, x.T @ x / len(x), scale, zero


def loss(w: np.ndarray, hessian: np.ndarray, codes: np.ndarray, scale: np.ndarray, zero: np.ndarray) -> np.ndarray:
    error = restored(codes, scale, zero, 32).astype(np.float64) - w
    return np.einsum("rk,kl,rl->r", error, hessian, error)


@pytest.mark.parametrize("name", ["int2", "int4", "uint4", "int8"])
@pytest.mark.parametrize("size", [32, 67, 1])
def test_gptq_is_never_worse_and_mostly_much_better(name: str, size: int) -> None:
    kind, w, hessian, scale, zero = problem(name, size)
    before = loss(w, hessian, nearest(w, scale, zero, 32, kind), scale, zero)
    first = before
    for rounds in (0, 1, 3):
        found = gptq.rounded(w, hessian, scale, zero, 32, kind, rounds=rounds)
        assert found.codes.min() >= kind.low and found.codes.max() <= kind.high
        after = loss(w, hessian, found.codes, found.scale, zero)
        np.testing.assert_allclose(after, found.loss, rtol=1e-3, atol=1e-9)
        assert (after <= before * (1 + 1e-4) + 1e-9).all()
        before = after
    if size > 1:
        assert before.sum() < 0.4 * first.sum()


def test_scales_by_block_are_the_best_for_their_integers() -> None:
    kind, w, hessian, scale, zero = problem("int4", 96)
    codes = nearest(w, scale, zero, 32, kind).astype(np.float64)
    for _ in range(200):
        scale = gptq.rescaled(w.astype(np.float64), hessian, codes, scale, 32)
    # The joint minimum: (C^T H C) S = C^T H w for each row.
    for row in range(len(w)):
        c = np.zeros((96, 3))
        for block in range(3):
            c[32 * block : 32 * block + 32, block] = codes[row, 32 * block : 32 * block + 32]
        wanted = np.linalg.solve(c.T @ hessian @ c, c.T @ hessian @ w[row])
        if (np.sign(wanted) == np.sign(scale[row])).all():
            np.testing.assert_allclose(scale[row], wanted, rtol=1e-4)


@pytest.mark.parametrize("name", ["int2", "int4", "uint4", "uint8"])
def test_hqq_never_has_a_larger_norm(name: str) -> None:
    kind = grid(name)
    w = np.random.default_rng(2).standard_t(3, (200, 32)).astype(np.float32)
    w[3] = 0
    scale, zero = solve.of_rows(w, 32, kind, Constraint(zero_point=0) if kind.signed else FREE, "minmax")
    flat = blocked(w, 32).reshape(-1, 32)
    other, point = hqq.refined(flat, scale.reshape(-1), zero.reshape(-1), kind, symmetric=kind.signed)
    norm = {}
    for key, s, z in (("before", scale, zero), ("after", other.reshape(-1, 1), point.reshape(-1, 1))):
        back = restored(nearest(w, s, z, 32, kind), s, z, 32)
        norm[key] = (np.abs(back - w) ** 0.7).sum(axis=1)
    assert (norm["after"] <= norm["before"] * (1 + 1e-4)).all() and (point >= kind.low).all()
    assert norm["after"].sum() < norm["before"].sum() * 0.9999
    if kind.signed:
        assert not point.any()


@pytest.mark.parametrize("options", [{"norm": 0.0}, {"norm": 1.5}, {"rounds": 0}])
def test_options_that_make_no_sense(options: dict) -> None:
    with pytest.raises(ValueError, match="cannot be"):
        Hqq(**options)


# --- the whole way ----------------------------------------------------------------------------------------------------


def network() -> onnx.ModelProto:
    net = Net()
    h = net("Relu", net("Gemm", net.input("x", "m", 96), net.normal(67, 96), net.normal(67), transB=1))
    return net.model(net("MatMul", h, net.normal(67, 41)))


def output_error(model: ir.Model, proto: onnx.ModelProto, x: np.ndarray) -> float:
    one, other = (runtime.run(runtime.session(each), {"x": x})[0] for each in (model, models.load(proto)))
    return float(np.mean((one.astype(np.float64) - other) ** 2))


@pytest.mark.parametrize("weights", ["int4", "uint4"])
@pytest.mark.parametrize("target", ["cpu", "portable"])
def test_gptq_is_written_as_it_was_chosen(weights: str, target: str) -> None:
    proto, x = network(), correlated(600, 96)
    options = {"activations": "none", "weights": weights, "target": target, "measure": False}
    plain = graphopt.quantize(proto, **options)
    better = graphopt.quantize(proto, [{"x": x[:400]}], recover="gptq", **options)
    held_out = x[400:]
    if target == "portable":  # onnxruntime rounds activations, which is more than what is left of the error of some
        assert output_error(better.model, proto, held_out) < 0.8 * output_error(plain.model, proto, held_out)
    else:
        assert output_error(exact(better.model), proto, held_out) < 0.5 * output_error(
            exact(plain.model), proto, held_out
        )
        scales = {str(array(n.inputs[2]).shape) for n in better.model.graph if n.op_type == "MatMulNBits"}
        assert scales == {"(67, 3)", "(41, 3)"}
    assert plain.report.after.initializer_bytes == better.report.after.initializer_bytes
    assert better.report.quantize is not None
    assert [row.method for row in better.report.quantize.tensors] == ["gptq", "gptq"]


def test_gptq_needs_data() -> None:
    with pytest.raises(graphopt.errors.GraphoptError):
        graphopt.quantize(network(), activations="none", weights="int4", recover="gptq", measure=False)


def test_hqq_needs_no_data() -> None:
    proto = network()
    result = graphopt.quantize(proto, activations="none", weights="int4", recover="hqq", measure=False)
    w = weight_of(next(node for node in result.model.graph if node.op_type == "MatMulNBits"))
    before = array(models.load(proto).graph.initializers["const1"])
    assert 10 * np.log10(np.mean(before**2) / np.mean((w - before) ** 2)) > 18
