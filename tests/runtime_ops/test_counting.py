"""What calls of runtime operators hold and compute, as the report counts it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.facts.stats import stats
from tests.runtime_ops.running import ops_model

X = np.zeros((2, 8), np.float32)
ONES = np.ones(6, np.float32)
IMAGE = np.zeros((1, 16, 4, 4), np.int8)


@pytest.mark.parametrize(("name", "inputs", "attributes", "parameters", "macs"), [
    ("Int8Gemm", {"x": X.astype(np.int8), "w": np.zeros((8, 6), np.int8), "scale": ONES, "bias": np.zeros(6, np.int32)},
     {}, 48 + 6 + 6, 2 * 8 * 6),
    ("BinaryGemm", {"x": X, "weights": np.zeros((6, 1), np.uint8), "scale": ONES, "bias": ONES},
     {"k": 8}, 48 + 6 + 6, 2 * 8 * 6),
    ("Gather", {"data": X, "indices": np.array([1, -1]), "fill": np.float32(0)}, {"axis": 1}, 1, 0),
])  # fmt: skip
def test_calls_are_counted(
    name: str, inputs: dict[str, Any], attributes: dict[str, Any], parameters: int, macs: int
) -> None:
    """Bits are numbers, definitions are neither nodes nor weights."""
    weights = [key for key in inputs if key not in ("x", "data")]
    model = ops_model(name, inputs, attributes, constants=weights)
    out = model.graph.outputs[0]
    if macs:
        out.shape = ir.Shape([2, 6])
    found = stats(model)
    assert (found.parameters, found.macs, found.nodes) == (parameters, macs, 1)
    assert found.ops == {f"graphopt.{name}": 1}
