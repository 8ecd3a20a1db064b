"""Rows and histograms of the report, against the model that was written and the data that was seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import graphopt
from graphopt import runtime
from graphopt.calibrate.grid import grid
from graphopt.report.quantized import Drawing, QuantizeReport, TensorRow
from tests.cli.test_quantize import WIDTH, images, two_convolutions

SIZE = 5  # samples


def quantized(model: onnx.ModelProto, **more: Any) -> QuantizeReport:
    data = None if more.get("activations") == "none" else [{"x": images(SIZE)}]
    found = graphopt.quantize(model, data, measure=False, recover="none", everything=True, **more)
    assert found.report.quantize is not None
    return found.report.quantize


def initializers(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def rounded(x: np.ndarray, row: TensorRow) -> np.ndarray:
    """What is left of a tensor: the formula of ONNX, in float64."""
    kind = grid(row.dtype, signed=row.kind == "weight")
    shape = [-1 if axis == row.axis else 1 for axis in range(x.ndim)]
    scale, zero = (np.reshape(np.asarray(p, np.float64), shape if row.axis is not None else ()) for p in
                   (row.scale, row.zero_point))  # fmt: skip
    return scale * (np.clip(np.rint(x / scale) + zero, kind.low, kind.high) - zero)


@pytest.mark.parametrize("more", [{}, {"per_channel": False}, {"weights": "levels5"}, {"target": "tensorrt"}])
def test_rows_say_what_quantization_does_to_a_tensor(more: dict[str, Any]) -> None:
    model = two_convolutions()
    names = [node.output[0] for node in model.graph.node]
    extended = onnx.ModelProto.FromString(model.SerializeToString())
    extended.graph.output.extend([onnx.helper.make_empty_tensor_value_info(name) for name in names if name != "y"])
    seen: dict[str, np.ndarray] = {**initializers(model), "x": images(SIZE)}
    values = runtime.run(runtime.session(graphopt.load(extended)), {"x": images(SIZE)})
    seen.update(zip([out.name for out in extended.graph.output], values, strict=True))
    rows = {row.name: row for row in quantized(model, **more).tensors}
    checked = [name for name in rows if name in seen]
    assert {"r1", "w2"} <= set(checked)
    for name in checked:
        row, x = rows[name], seen[name].astype(np.float64)
        back = rounded(x, row)
        if name != "x":  # it shares its scale with the same image and a channel of zeros, whose errors are 0
            assert row.mse == pytest.approx(np.mean((back - x) ** 2), rel=0.02), name
        assert row.sqnr_db == pytest.approx(10 * np.log10(np.mean(x**2) / np.mean((back - x) ** 2)), abs=0.1), name
        assert (row.minimum, row.maximum) == pytest.approx((x.min(), x.max()), rel=1e-6), name
        kind = grid(row.dtype, signed=row.kind == "weight")
        scale, zero = np.asarray(row.scale, np.float64), np.asarray(row.zero_point)
        assert row.low == pytest.approx(np.min(scale * (kind.low - zero)), rel=1e-6), name
        assert row.high == pytest.approx(np.max(scale * (kind.high - zero)), rel=1e-6), name


def drawing(found: QuantizeReport, name: str) -> Drawing:
    (one,) = [each for each in found.worst if each.name == name]
    return one


def test_histograms_hold_every_number_and_show_the_range() -> None:
    found = quantized(two_convolutions())
    rows = {row.name: row for row in found.tensors}
    weight = drawing(found, "w2")
    assert sum(weight.counts) == WIDTH * WIDTH * 9 and weight.unit == "steps"
    assert (weight.clip_low, weight.clip_high) == (-128.0, 127.0)
    activations = [one for one in found.worst if one.kind == "activation"]
    assert activations
    for one in activations:
        row = rows[one.name]
        assert (one.low, one.high) == (row.minimum, row.maximum) and one.unit == "value"
        assert (one.clip_low, one.clip_high) == (row.low, row.high)
        assert one.sqnr_db == row.sqnr_db and sum(one.counts) % SIZE == 0


def test_one_scale_is_drawn_in_values() -> None:
    found = quantized(two_convolutions(), per_channel=False)
    weight = drawing(found, "w2")
    row = next(row for row in found.tensors if row.name == "w2")
    assert weight.unit == "value" and (weight.clip_low, weight.clip_high) == (row.low, row.high)


def dead(model: onnx.ModelProto, name: str, axis: int) -> onnx.ModelProto:
    """Half of the positions of a weight are zero."""
    for tensor in model.graph.initializer:
        if tensor.name == name:
            array = numpy_helper.to_array(tensor).copy()
            array[(slice(None),) * axis + (slice(0, WIDTH // 2),)] = 0
            tensor.CopyFrom(numpy_helper.from_array(array, name))
    return model


@pytest.mark.parametrize("more", [{}, {"activations": "none", "weights": "int4"}])
def test_the_scale_of_zeros_is_no_range(more: dict[str, Any]) -> None:
    """A channel (or a block) of zeros has any scale; what can be represented is said of the others."""
    axis = 1 if "activations" in more else 0
    for model in (two_convolutions(), dead(two_convolutions(), "w2", axis)):
        found = quantized(model, **more)
        row = next(row for row in found.tensors if row.name == "w2")
        largest = max(abs(row.minimum), abs(row.maximum))
        assert 0.5 * largest < row.high < 2 * largest and 0.5 * largest < -row.low < 2 * largest


def test_operators_have_a_kernel_or_a_reason(tmp_path: Path) -> None:
    found = quantized(two_convolutions(), exclude=["second"])
    rows = {row.name: row for row in found.nodes}
    assert rows["second"].kernel is None and "excluded" in rows["second"].reason and rows["second"].types == ""
    assert rows["first"].kernel and rows["first"].reason == "" and rows["first"].types == "uint8 x int8 -> uint8"
    assert found.integer_nodes == sum(row.kernel is not None for row in found.nodes)
    assert found.float_nodes == sum(row.kernel is None for row in found.nodes)
