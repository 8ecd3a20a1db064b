"""Q and DQ as onnxruntime computes them, ties included."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest

from graphopt import model as models
from graphopt import runtime
from graphopt.calibrate.grid import grid
from graphopt.calibrate.rounding import restored, squared_error, to_grid
from tests.calibrate.brute_force import error
from tests.ops.net import Net


def test_ties_go_to_the_even_level() -> None:
    x = np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5], np.float32)
    assert to_grid(x, grid("int8")).tolist() == [-2, -2, 0, 0, 2, 2, 4]
    # Near miss: with an odd zero point the even step is an odd level; the step decides.
    back = restored(x, np.float32(1), np.int64(3), grid("uint8"))
    assert back.tolist() == [-2, -2, 0, 0, 2, 2, 4]


def test_levels_end() -> None:
    x = np.array([-1e9, -3, 0, 14.6, 1e30], np.float32)
    assert restored(x, np.float32(1), np.int64(2), grid("uint4")).tolist() == [-2, -2, 0, 13, 13]


def test_float8_ties_and_ends() -> None:
    x = np.array([1.0625, 1.1875, 500.0, -1e6, 2.0**-10], np.float32)  # two ties, two beyond, half of the least
    assert to_grid(x, grid("float8e4m3fn")).tolist() == [1.0, 1.25, 448.0, -448.0, 0.0]
    assert to_grid(x[:1], grid("float8e5m2")).tolist() == [1.0]


@pytest.mark.parametrize("name", ["uint8", "int8", "uint16", "int16", "uint4", "int4"])
@pytest.mark.parametrize("scale", [1.0, 0.1, 0.0371, 2.0**-7])
def test_onnxruntime_does_the_same(name: str, scale: float) -> None:
    kind = grid(name)
    dtype = {"uint4": ml_dtypes.uint4, "int4": ml_dtypes.int4}.get(name) or np.dtype(name)
    zero = int(kind.low + 5)
    steps = np.arange(2 * kind.low - 40, 2 * kind.high + 40, max(0.25, kind.levels / 4001))
    x = (steps * np.float32(scale)).astype(np.float32)
    net = Net(21)
    code = onnx.numpy_helper.from_array(np.array(zero).astype(dtype), "zero")
    s = net.constant(np.float32(scale))
    q = net("QuantizeLinear", net.input("x", x.size), s, "zero")
    model = _with(net, q, s, code)
    (found,) = runtime.run(runtime.session(models.load(model)), {"x": x})
    np.testing.assert_array_equal(found, restored(x, np.float32(scale), np.int64(zero), kind))


def _with(net: Net, q: str, s: str, code: onnx.TensorProto) -> onnx.ModelProto:
    model = net.model(net("DequantizeLinear", q, s, "zero"))
    model.graph.initializer.append(code)
    return model


def test_errors_are_weighted() -> None:
    x = np.array([[0.2, 0.6, 1.0]])
    plain = squared_error(x, np.ones(1), np.zeros(1), grid("int8"))
    weighted = squared_error(x, np.ones(1), np.zeros(1), grid("int8"), np.array([3, 0, 1]))
    assert plain == pytest.approx((0.04 + 0.16) / 3) and weighted == pytest.approx(0.03)
    assert plain[0] == pytest.approx(error(x[0].astype(np.float32), 1.0, 0, grid("int8")))
