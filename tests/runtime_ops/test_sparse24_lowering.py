"""2:4 weights become runtime operators: when, and when not."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from graphopt import runtime
from graphopt.context import Context
from graphopt.facts.constants import Constants
from graphopt.passes.lower.lower_semi_structured import LowerSemiStructured
from tests.runtime_ops.test_sparse_gemm24 import weight24


def model(weight: np.ndarray, kind: str = "MatMul", bias: bool = False, **attributes: Any) -> ir.Model:
    """``x weight (+ bias)``."""
    dtype = ir.DataType.from_numpy(weight.dtype)
    depth, columns = weight.shape[::-1] if attributes.get("transB") else weight.shape
    x = ir.Value(name="x", type=ir.TensorType(dtype), shape=ir.Shape(["N", depth]))
    arrays = {"w": weight, **({"b": np.arange(columns).astype(weight.dtype)} if bias else {})}
    held = [
        ir.Value(
            name=name, type=ir.TensorType(dtype), shape=ir.Shape(array.shape), const_value=ir.tensor(array, name=name)
        )
        for name, array in arrays.items()
    ]
    y = ir.Value(name="y", type=ir.TensorType(dtype), shape=ir.Shape(["N", columns]))
    written = ir.convenience.convert_attributes(attributes) if attributes else []
    node = ir.Node("", kind, [x, *held], list(written), outputs=[y])
    graph = ir.Graph([x], [y], nodes=[node], initializers=held, opset_imports={"": 18}, name="g")
    return ir.Model(graph, ir_version=10)


def lowered(given: ir.Model, **options: Any) -> Context:
    """Run the pass, twice."""
    context = Context(given, Constants(), **{"runtime_operators": True, "target": "cuda", **options})
    changed = LowerSemiStructured(least=64).run(context)
    assert changed == ("SparseGemm24" in [node.op_type for node in context.model.graph])
    assert not LowerSemiStructured(least=64).run(context)
    return context


HALF = weight24(np.random.default_rng(0), 32, 48, np.float16)


@pytest.mark.parametrize("kind", ["MatMul", "Gemm", "Gemm, bias", "Gemm, turned"])
def test_it_computes_the_same(kind: str) -> None:
    turned, bias = "turned" in kind, "bias" in kind
    weight = np.ascontiguousarray(HALF.T) if turned else HALF
    attributes = {"transB": 1} if turned else {}
    context = lowered(model(weight, kind.split(",")[0], bias, **attributes))
    assert [node.op_type for node in context.model.graph] == ["SparseGemm24", *["Add"] * bias]
    for rows in (0, 1, 7):
        x = np.random.default_rng(1).standard_normal((rows, 32)).astype(np.float16)
        (found,) = runtime.run(runtime.session(context.model, operators=False), {"x": x})
        expected = x.astype(np.float64) @ HALF.astype(np.float64) + np.arange(48) * bias
        assert found.shape == expected.shape and found.dtype == np.float16
        np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-2)
    stored = sum(value.const_value.nbytes for value in context.model.graph.initializers.values() if value.const_value)
    assert stored - 96 * bias == HALF.nbytes * 9 // 16


def test_bfloat16_too() -> None:
    assert lowered(model(HALF.astype(ml_dtypes.bfloat16))).model.graph[0].op_type == "SparseGemm24"


def third(weight: np.ndarray) -> np.ndarray:
    """One number more, in the last four of the last column."""
    changed = weight.copy()
    changed[-4:-1, -1] = 1
    return changed


@pytest.mark.parametrize(
    ("given", "options"),
    [
        (model(third(HALF)), {}),
        (model(HALF.astype(np.float32)), {}),
        (model(HALF[:, :40]), {}),
        (model(np.where(HALF.max() == HALF, np.inf, HALF).astype(np.float16)), {}),
        (model(HALF, "Gemm", True, beta=0.5), {}),
        (model(HALF), {"target": "cpu"}),
        (model(HALF), {"runtime_operators": False}),
        (model(HALF), {"assume_finite": False}),
    ],
    ids=["three of four", "float32", "40 columns", "infinite", "beta", "cpu", "not asked for", "not finite"],
)
def test_when_not(given: ir.Model, options: dict[str, Any]) -> None:
    assert lowered(given, **options).model.graph[0].op_type in ("MatMul", "Gemm")
