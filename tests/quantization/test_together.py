"""Masks and integers: dead positions leave before anything is calibrated, and quantized models lose them too."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import graphopt
from graphopt import model as models
from graphopt.errors import ModelError, UsageError
from tests.ops.net import Net, dead
from tests.quantization.edits import Quantizer, ops, run
from tests.quantization.nets import batches, cnn
from tests.quantization.test_pipeline import measuring, sqnr

DATA = batches(4, 4, 3)
OFF = (0, 3, 4, 5, 9, 11, 14, 15)
QUIET: dict[str, Any] = {"measure": False}


def channels(model: ir.Model) -> list[int]:
    """How many channels each convolution writes."""
    found = []
    for node in model.graph:
        if node.op_type == "Conv":
            weight = node.inputs[1]
            assert weight is not None and weight.shape is not None
            found.append(int(weight.shape[0]))  # type: ignore[arg-type]
    return found


# -- one command -------------------------------------------------------------------------------------------------------


def test_masks_go_before_calibration() -> None:
    """One call, one report: narrowed, then in integers, and every step is said."""
    proto = cnn(masked=OFF)
    result = graphopt.optimize(proto, quantize={"everything": True}, data=DATA, **QUIET)
    assert sorted(channels(result.model)) == [8, 16, 16]
    report = result.report
    assert report.quantize is not None and report.verify is not None and report.verify.passed
    assert [row.action for row in report.masks] == ["folded"] and report.axes
    names = [row.name for row in report.passes]
    assert names.index("narrow") < names.index("upgrade-opset")
    assert report.quantize.output_sqnr_db == pytest.approx(
        sqnr(proto, result.model, {"x": np.concatenate([batch["x"] for batch in DATA])}), abs=0.01
    )
    assert (report.quantize.output_sqnr_db or 0) > 35
    assert report.after.initializer_bytes < 0.25 * report.before.initializer_bytes


def test_dead_positions_bend_no_histogram() -> None:
    """Masked channels with a large constant: gone before calibration, its constant is in no range."""
    net = Net()
    weight, offset = net.normal(16, 16, 3, 3) * np.float32(0.05), np.full(16, 0.1, np.float32)
    offset[list(OFF)] = 30.0
    y = net("Relu", net("Conv", net.input("x", "N", 16, 8, 8), dead(weight, 0, OFF), offset))
    proto = net.model(net("Conv", y, net.normal(16, 16, 3, 3) * np.float32(0.05)))
    data = [{"x": np.random.default_rng(0).standard_normal((4, 16, 8, 8)).astype(np.float32)}]
    together = graphopt.optimize(proto, quantize={"everything": True}, data=data, **QUIET)
    alone = graphopt.quantize(proto, data, everything=True, **QUIET)
    assert together.report.quantize is not None and alone.report.quantize is not None
    largest = []
    for report in (together.report.quantize, alone.report.quantize):
        largest.append(
            max(row.maximum for row in report.tensors if row.kind == "activation" and row.name.startswith("relu"))
        )
    assert largest[1] >= 30 > 15 > largest[0]
    assert sqnr(proto, together.model, data[0]) > 35


def test_both_measurements_make_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Narrowed against the input, then integers against the narrowed: the report multiplies them."""
    measuring(monkeypatch, [0.5, 0.4])
    result = graphopt.optimize(cnn(masked=OFF), quantize={}, data=DATA)
    assert result.report.measure is not None
    assert result.report.measure.ratio == pytest.approx(0.2) and result.report.measure.way == "quantized"


def test_integers_that_are_slower_leave_the_narrowed_model(monkeypatch: pytest.MonkeyPatch) -> None:
    measuring(monkeypatch, [0.5, 1.5, 1.5])
    result = graphopt.optimize(cnn(masked=OFF), quantize={}, data=DATA)
    assert result.report.quantize is not None and result.report.quantize.declined
    assert sorted(channels(result.model)) == [8, 16, 16] and "QuantizeLinear" not in ops(result.model)
    assert result.report.measure is not None and result.report.measure.ratio == 0.5


@pytest.mark.parametrize(
    ("options", "data", "error"),
    [({"wieghts": "int8"}, DATA, UsageError), ({"weights": "int9"}, DATA, UsageError), ({}, None, ModelError)],
)
def test_what_is_wrong_is_said_before_any_work(options: dict[str, Any], data: Any, error: type[Exception]) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("no step is taken")

    with pytest.raises(error):
        graphopt.optimize(cnn(), quantize=options, data=data, progress=never)


# -- the other order ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 7])
def test_a_quantized_model_is_narrowed_bit_for_bit(size: int) -> None:
    """Quantized with its dead channels in it: they leave afterwards, and not a bit of the output changes."""
    quantized = graphopt.quantize(cnn(masked=OFF), DATA, everything=True, **QUIET)
    assert sorted(channels(quantized.model)) == [16, 16, 16]
    narrowed = graphopt.optimize(quantized.model, plan="smallest", **QUIET)
    assert sorted(channels(narrowed.model)) == [8, 16, 16]
    feeds = {"x": np.random.default_rng(size).standard_normal((size, 3, 8, 8)).astype(np.float32)}
    assert np.array_equal(run(quantized.model, feeds)[0], run(narrowed.model, feeds)[0])
    assert ops(narrowed.model).count("QuantizeLinear") == ops(quantized.model).count("QuantizeLinear")
    assert not {"ScatterND", "Gather"} & set(ops(narrowed.model))


def test_both_orders_give_working_models() -> None:
    proto = cnn(masked=OFF)
    first = graphopt.optimize(proto, quantize={"everything": True}, data=DATA, **QUIET).model
    second = graphopt.optimize(graphopt.quantize(proto, DATA, everything=True, **QUIET).model, **QUIET).model
    for model in (first, second):
        assert sqnr(proto, model, DATA[0]) > 35
        for size in (0, 1, 7):
            assert run(model, {"x": np.zeros((size, 3, 8, 8), np.float32)})[0].shape == (size, 5)


def test_without_dead_channels_nothing_is_narrowed() -> None:
    quantized = graphopt.quantize(cnn(), DATA, everything=True, **QUIET)
    narrowed = graphopt.optimize(quantized.model, plan="smallest", **QUIET)
    assert sorted(channels(narrowed.model)) == [16, 16, 16]


# -- a scatter and a Q -------------------------------------------------------------------------------------------------


def constant_channels(fill: float) -> onnx.ModelProto:
    """A layer of which three channels are one constant, a Q behind it, a layer that reads it."""
    net = Net()
    weight, offset = dead(net.normal(7, 5), 0, [1, 4, 6]), dead(net.normal(7), 0, [1, 4, 6], fill)
    y = net("Gemm", net.input("x", "N", 5), weight, offset, transB=1)
    return net.model(net("Gemm", y, net.normal(2, 7), net.normal(2), transB=1))


def narrowed(fill: float, scale: float) -> tuple[ir.Model, ir.Model]:
    proto = constant_channels(fill)
    quantizer = Quantizer(proto)
    quantizer.activation("gemm3", scale, 128)
    quantizer.weight("const4", 0.02)
    model = quantizer.done()
    return model, graphopt.optimize(model, plan="smallest", **QUIET).model


def test_a_fill_that_is_a_level_passes_the_q() -> None:
    """Dead channels behind the Q are known exactly: both layers lose them, and the result is bit for bit the same."""
    for fill in (0.0, 0.5, -1.25):
        whole, small = narrowed(fill, 0.25)
        weights = [value.shape for value in small.graph.initializers.values() if value.shape is not None]
        assert sorted(int(np.prod(shape.numpy())) for shape in weights)[-2:] == [8, 20], fill
        x = {"x": np.random.default_rng(0).standard_normal((7, 5)).astype(np.float32)}
        assert np.array_equal(run(whole, x, optimized=False)[0], run(small, x, optimized=False)[0]) or np.allclose(
            run(whole, x, optimized=False)[0], run(small, x, optimized=False)[0], rtol=1e-6, atol=1e-6
        )


def test_a_fill_between_two_levels_stays() -> None:
    """Where rounding could go either way nothing is known: the channels stay in front of the Q and behind it."""
    whole, small = narrowed(0.375, 0.25)  # 1.5 steps
    weights = [value.shape for value in small.graph.initializers.values() if value.shape is not None]
    assert sorted(int(np.prod(shape.numpy())) for shape in weights)[-2:] == [14, 35]
    x = {"x": np.random.default_rng(0).standard_normal((7, 5)).astype(np.float32)}
    assert np.array_equal(run(whole, x, optimized=False)[0], run(small, x, optimized=False)[0])


def test_models_that_were_loaded_from_a_file_go_through_both(tmp_path: Any) -> None:
    models.save(models.load(cnn(masked=OFF)), tmp_path / "in.onnx")
    result = graphopt.optimize(tmp_path / "in.onnx", quantize={"everything": True}, data=DATA, **QUIET)
    result.save(tmp_path / "out.onnx")
    again = graphopt.load(tmp_path / "out.onnx")
    assert np.array_equal(run(result.model, DATA[0])[0], run(again, DATA[0])[0])
