"""Products with weights of a few levels become TernaryGemm, and only such ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import graphopt
from graphopt import model as models
from graphopt.context import Context
from graphopt.facts.constants import Constants
from graphopt.passes.lower.lower_low_bits import LowerLowBits
from tests.ops.net import Net
from tests.runtime_ops import running

K, N = 19, 11
TERNARY = (-1, 0, 1)


def net(
    levels: Any = TERNARY,
    *,
    turned: bool = False,
    gemm: bool = False,
    added: bool = True,
    kind: str = "uint8",
    scales: int = N,
    zero: int = 0,
    axis: int | None = None,
    steps: int = 1,
) -> onnx.ModelProto:
    """``Q -> DQ -> product (-> Add)``."""
    made = Net(20)
    rng = np.random.default_rng(0)
    x = made.input("x", "M", K)
    origin = np.full(steps, 3, kind) if steps > 1 else np.array(3, kind)
    step = np.linspace(0.02, 0.03, steps).astype(np.float32) if steps > 1 else np.array(0.02, np.float32)
    x = made("DequantizeLinear", made("QuantizeLinear", x, step, origin), step, origin)
    shape = (N, K) if turned else (K, N)
    w = (rng.choice(np.array(levels), shape) + zero).astype(np.int8)
    along = (0 if turned else 1) if axis is None else axis
    scale = rng.uniform(0.01, 0.02, scales).astype(np.float32) if scales > 1 else np.array(0.01, np.float32)
    points = np.full(scale.shape, zero, np.int8)
    w = made("DequantizeLinear", w, scale, points, axis=along)
    if gemm:
        operands = [x, w, made.normal(N)] if added else [x, w]
        return made.model(made("Gemm", *operands, transB=int(turned)))
    y = made("MatMul", x, w)
    return made.model(made("Add", made.normal(N), y) if added else y)


def lower(proto: onnx.ModelProto, **options: int) -> Context:
    model = models.load(proto)
    models.infer_shapes(model)
    context = Context(model, Constants(), runtime_operators=True)
    item = LowerLowBits(**{"least": 1, **options})
    assert not item.run(context) or not item.run(context)
    return context


def calls(context: Context) -> list[int]:
    """Bits of each TernaryGemm."""
    return [node.attributes.get_int("bits", 0) for node in context.model.graph if node.op_type == "TernaryGemm"]


@pytest.mark.parametrize(
    ("options", "bits"),
    [
        ({}, 2),
        ({"added": False}, 2),
        ({"kind": "int8"}, 2),
        ({"scales": 1}, 2),
        ({"zero": 5}, 2),
        ({"gemm": True}, 2),
        ({"gemm": True, "turned": True}, 2),
        ({"gemm": True, "added": False, "turned": True, "zero": -7}, 2),
        ({"levels": (-2, -1, 1, 2)}, 2),
        ({"levels": (7,)}, 2),
        ({"levels": (-3, -2, -1, 1, 2)}, 4),
        ({"levels": range(-8, 8)}, 4),
    ],
)
def test_it_computes_the_same(options: dict[str, Any], bits: int) -> None:
    proto = net(**options)
    context = lower(proto)
    assert calls(context) == [bits]
    assert [node.op_type for node in context.model.graph] == ["QuantizeLinear", "TernaryGemm"]
    feeds = {"x": np.random.default_rng(1).normal(size=(5, K)).astype(np.float32)}
    (wanted,) = running.run(proto, feeds, library=False)
    for library in (False, True):
        (found,) = running.run(context.model, feeds, library=library)
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"levels": range(-8, 9)},  # one level too many
        {"turned": True, "gemm": True, "axis": 1, "scales": K},  # scales along what is summed over
        {"steps": K},  # a scale for each column of the activations
    ],
)
def test_near_misses_stay(options: dict[str, Any]) -> None:
    assert not calls(lower(net(**options)))


def test_options() -> None:
    assert calls(lower(net(), least=K * N)) == [2]
    assert not calls(lower(net(), least=K * N + 1))
    assert not calls(lower(net(), levels=2))
    with pytest.raises(ValueError, match="levels is from 1 to 16"):
        LowerLowBits(levels=17)
    with pytest.raises(ValueError, match="least is"):
        LowerLowBits(least=0)


def test_what_a_second_reader_needs_stays() -> None:
    model = net()
    inner = next(node for node in model.graph.node if node.op_type == "MatMul").output[0]
    model.graph.output.append(onnx.helper.make_tensor_value_info(inner, onnx.TensorProto.FLOAT, ["M", N]))
    context = lower(model)
    assert calls(context) == [2]
    assert [node.op_type for node in context.model.graph][-1] == "Add"


def test_it_is_not_written_unless_asked_for() -> None:
    model = models.load(net())
    models.infer_shapes(model)
    context = Context(model, Constants())
    assert not LowerLowBits(least=1).run(context)


def test_optimize_writes_it_where_it_is_large() -> None:
    made = Net(20)
    step, origin = np.array(0.02, np.float32), np.array(3, np.uint8)
    x = made("DequantizeLinear", made("QuantizeLinear", made.input("x", "M", 256), step, origin), step, origin)
    w = np.random.default_rng(0).integers(-1, 2, (256, 256)).astype(np.int8)
    proto = made.model(made("MatMul", x, made("DequantizeLinear", w, step)))
    for asked in (True, False):
        model = graphopt.optimize(proto, operators=asked, measure=False).model
        assert ("TernaryGemm" in [node.op_type for node in model.graph]) == asked
