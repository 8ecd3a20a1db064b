"""The edit, golden: placements and numbers are given, onnxruntime must compute what integers in numpy do."""

from __future__ import annotations

import tracemalloc
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt import model as models
from graphopt.calibrate.grid import grid
from graphopt.quantization import qdq
from tests.ops.net import Net
from tests.quantization.edits import Quantizer, ops, parameters, requantized, run, stored

SIZES = (0, 1, 7)


def layer(bias: bool = True, relu: bool = True) -> tuple[onnx.ModelProto, Any, Any]:
    """A product with a weight (and bias), and perhaps a Relu."""
    net = Net()
    weight, offset = net.normal(13, 5), net.normal(5)
    y = net("Gemm", net.input("x", "N", 13), weight, *([offset] if bias else []))
    return net.model(net("Relu", y) if relu else y), weight, offset


def given(rows: int, *shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, *shape)).astype(np.float32)


def test_integers_are_written_a_part_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole of a weight in float64 would take eight times its integers."""
    array = given(2048, 1024)
    scales, zeros = np.abs(array).max(axis=1) / np.float32(127), np.arange(2048) % 5
    tracemalloc.start()
    try:
        found = qdq.stored(array, scales[:, None], zeros[:, None], grid("int8"))
        assert tracemalloc.get_traced_memory()[1] < 2 * array.nbytes
    finally:
        tracemalloc.stop()
    steps = np.rint(array.astype(np.float64) / scales.astype(np.float64)[:, None]) + zeros[:, None]
    assert np.array_equal(found, np.clip(steps, -128, 127))
    monkeypatch.setattr(qdq, "_CHUNK", 11)
    for shape in ((), (0,), (1,), (13,), (5, 7), (3, 0), (2, 3, 11)):
        array = np.asarray(given(*shape) if shape else np.float32(-1.6))
        per_row = (np.arange(shape[0]) + 1.0).reshape(-1, *[1] * (len(shape) - 1)) if shape else np.array(0.5)
        per_column = (np.arange(shape[-1]) + 1.0) if shape else np.array(0.5)
        for scale in (np.array(0.3), per_row, per_column.reshape([1] * (len(shape) - 1) + [-1]) if shape else per_row):
            got = qdq.stored(array, scale.astype(np.float32), np.array(1), grid("uint8"))
            steps = np.rint(array.astype(np.float64) / scale.astype(np.float32)) + 1
            assert got.shape == shape and got.dtype == np.uint8
            assert np.array_equal(got, np.clip(steps, 0, 255))


# -- arithmetic --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", SIZES)
@pytest.mark.parametrize("optimized", [True, False])
def test_a_layer_computes_as_integers_do(rows: int, optimized: bool) -> None:
    """A product with a scale for each channel, a bias with the product of scales, a Relu that the Q makes redundant."""
    proto, weight, offset = layer()
    scales = (np.abs(weight).max(axis=0) / 127).astype(np.float32)
    quantizer = Quantizer(proto)
    quantizer.activation("x", 0.03, 128)
    quantizer.weight("const1", scales, axis=1)
    quantizer.bias("const2", "x", "const1")
    quantizer.activation("relu4", 0.07, 0)
    x = given(rows, 13)
    (y,) = run(quantizer.done(), {"x": x}, optimized=optimized)
    sums = (stored(x, 0.03, 128) - 128) @ stored(weight, scales, kind="int8")
    unit = np.float64(np.float32(0.03)) * scales
    sums = sums + np.rint(offset / unit).astype(np.int64)
    expected = requantized(np.maximum(sums, 0), unit, 0.07)
    assert y.shape == (rows, 5)
    assert np.abs(np.rint(y / np.float32(0.07)) - expected).max(initial=0) <= 1
    assert np.array_equal(np.rint(y / np.float32(0.07)) * np.float32(0.07), y), "the output is a number of the grid"


@pytest.mark.parametrize("rows", SIZES)
def test_a_convolution_with_zero_padding(rows: int) -> None:
    """The padding is the zero point, not the integer zero."""
    net = Net()
    weight = net.normal(4, 3, 3, 3)
    y = net("Conv", net.input("x", "N", 3, 5, 5), weight, pads=[1] * 4)
    quantizer = Quantizer(net.model(y))
    scales = (np.abs(weight).max(axis=(1, 2, 3)) / 127).astype(np.float32)
    quantizer.activation("x", 0.03, 100)
    quantizer.weight("const1", scales, axis=0)
    quantizer.activation(y, 0.11, 130)
    x = given(rows, 3, 5, 5)
    (found,) = run(quantizer.done(), {"x": x})
    steps = np.pad(stored(x, 0.03, 100) - 100, ((0, 0), (0, 0), (1, 1), (1, 1)))
    kernel = stored(weight, scales.reshape(-1, 1, 1, 1), kind="int8")
    windows = np.lib.stride_tricks.sliding_window_view(steps, (3, 3), axis=(2, 3))
    sums = np.einsum("nchwij,ocij->nohw", windows, kernel)
    expected = requantized(sums, 0.03 * scales.reshape(-1, 1, 1), 0.11, 130)
    assert np.abs(np.rint(found / np.float32(0.11)) + 130 - expected).max(initial=0) <= 1


@pytest.mark.parametrize("rows", SIZES)
def test_both_operands_of_a_sum(rows: int) -> None:
    net = Net()
    x, z = net.input("x", "N", 13), net.input("z", "N", 13)
    y = net("Add", x, z)
    quantizer = Quantizer(net.model(y))
    quantizer.activation("x", 0.03, 128)
    quantizer.activation("z", 0.02, 7)
    quantizer.activation(y, 0.04, 50)
    feeds = {"x": given(rows, 13), "z": given(rows, 13, seed=2)}
    (found,) = run(quantizer.done(), feeds)
    real = (stored(feeds["x"], 0.03, 128) - 128) * 0.03 + (stored(feeds["z"], 0.02, 7) - 7) * 0.02
    assert np.abs(np.rint(found / np.float32(0.04)) + 50 - stored(real, 0.04, 50)).max(initial=0) <= 1


# -- who reads what ----------------------------------------------------------------------------------------------------


def test_one_pair_for_all_readers() -> None:
    """A node that reads a value twice, and another one: one Q, one DQ."""
    net = Net()
    x = net.input("x", "N", 7, 7)
    y = net("Add", net("MatMul", x, x), net("Abs", x))
    quantizer = Quantizer(net.model(y))
    quantizer.activation("x", 0.03, 128)
    model = quantizer.done()
    assert ops(model) == ["QuantizeLinear", "DequantizeLinear", "MatMul", "Abs", "Add"]
    x_ = given(3, 7, 7)
    steps = (stored(x_, 0.03, 128) - 128) * np.float32(0.03)
    assert np.allclose(run(model, {"x": x_}, optimized=False)[0], steps @ steps + np.abs(steps), atol=1e-5)


def test_only_the_named_readers() -> None:
    net = Net()
    x = net("Sin", net.input("x", "N", 7))
    y, z = net("Abs", x), net("Neg", x)
    quantizer = Quantizer(net.model(y, z, x))
    quantizer.activation(x, 0.5, 128, only="Abs")
    model = quantizer.done()
    given_ = given(3, 7)
    found = run(model, {"x": given_})
    assert np.array_equal(found[0], np.abs((stored(np.sin(given_), 0.5, 128) - 128) * np.float32(0.5)))
    assert np.allclose(found[1], -np.sin(given_), atol=1e-6) and np.allclose(found[2], np.sin(given_), atol=1e-6)


def test_a_weight_that_somebody_reads_in_float() -> None:
    net = Net()
    shared = net.constant(net.normal(5, 5))
    x = net.input("x", "N", 5)
    y, z = net("MatMul", x, shared), net("Mul", x, net("ReduceSum", shared, [0], keepdims=0))
    proto = net.model(y, z)
    quantizer = Quantizer(proto)
    quantizer.weight(shared, 0.5, only="MatMul")
    model = quantizer.done()
    assert shared in model.graph.initializers
    feeds = {"x": given(3, 5)}
    before, after = run(proto, feeds), run(model, feeds)
    assert np.array_equal(before[1], after[1]) and not np.allclose(before[0], after[0], atol=1e-3)
    quantizer = Quantizer(proto)
    quantizer.weight(shared, 0.5)
    assert shared not in quantizer.done().graph.initializers, "nobody reads the float one"


def test_a_weight_with_many_readers_is_stored_once() -> None:
    net = Net()
    shared = net.constant(net.normal(5, 5))
    y = net("MatMul", net("MatMul", net.input("x", "N", 5), shared), shared)
    quantizer = Quantizer(net.model(y))
    quantizer.weight(shared, [0.01, 0.02, 0.03, 0.04, 0.05], axis=1)
    model = quantizer.done()
    assert ops(model) == ["DequantizeLinear", "MatMul", "MatMul"]
    assert [v.dtype for v in model.graph.initializers.values()].count(ir.DataType.INT8) == 2  # and a zero point


def test_a_weight_in_a_constant_node() -> None:
    net = Net()
    weight = np.arange(-6, 6, dtype=np.float32).reshape(4, 3)
    y = net("MatMul", net.input("x", "N", 4), net("Constant", value=numpy_helper.from_array(weight)))
    proto = net.model(y)
    quantizer = Quantizer(proto)
    quantizer.weight("constant1", 1.0)
    model = quantizer.done()
    assert ops(model) == ["DequantizeLinear", "MatMul"]
    feeds = {"x": given(3, 4)}
    assert np.array_equal(run(model, feeds, optimized=False)[0], run(proto, feeds, optimized=False)[0])


def branching(name: str) -> onnx.ModelProto:
    """A value that a branch reads; the branch has a value of this name."""
    bodies = [
        helper.make_graph(
            [helper.make_node(op, ["y"], [name if op == "Neg" else "other"]),
             helper.make_node("Identity", [name if op == "Neg" else "other"], [f"{op}_out"])],
            op, [], [helper.make_tensor_value_info(f"{op}_out", TensorProto.FLOAT, ["N", 5])],
        )
        for op in ("Neg", "Abs")
    ]  # fmt: skip
    nodes = [
        helper.make_node("Sin", ["x"], ["y"]),
        helper.make_node("If", ["c"], ["z"], then_branch=bodies[0], else_branch=bodies[1]),
    ]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 5]),
        helper.make_tensor_value_info("c", TensorProto.BOOL, []),
    ]
    graph = helper.make_graph(
        nodes, "net", inputs, [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N", 5])]
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.mark.parametrize("name", ["y_dequantized", "y_quantized", "y_scale", "inner"])
def test_bodies_read_the_dequantized_value_and_keep_their_names(name: str) -> None:
    quantizer = Quantizer(branching(name))
    quantizer.activation("y", 0.5, 128)
    model = quantizer.done()
    x = given(3, 5)
    steps = (stored(np.sin(x), 0.5, 128) - 128) * np.float32(0.5)
    assert np.array_equal(run(model, {"x": x, "c": np.array(True)})[0], -steps)
    assert np.array_equal(run(model, {"x": x, "c": np.array(False)})[0], np.abs(steps))


# -- names -------------------------------------------------------------------------------------------------------------


def test_outputs_keep_their_names_and_what_is_said_about_them() -> None:
    net = Net()
    y = net("Relu", net.input("x", "N", 5))
    quantizer = Quantizer(net.model(y, net("Neg", y)))
    quantizer.context.model.graph.outputs[0].metadata_props["note"] = "kept"
    quantizer.activation(y, 0.5, 0)
    model = quantizer.done()
    assert [str(out.name) for out in model.graph.outputs] == [y, "neg2"]
    assert model.graph.outputs[0].metadata_props == {"note": "kept"}
    assert str(model.graph.outputs[0].shape) == "[N,5]"
    x = given(3, 5)
    found = run(model, {"x": x})
    assert np.array_equal(found[0], -found[1]) and np.array_equal(found[0], stored(np.maximum(x, 0), 0.5) * 0.5)


def test_an_input_that_is_an_output_is_handed_through() -> None:
    graph = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["y"])], "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 5])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 5]) for name in ("x", "y")],
    )  # fmt: skip
    quantizer = Quantizer(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10))
    quantizer.activation("x", 0.5, 128)
    x = given(3, 5)
    found = run(quantizer.done(), {"x": x}, optimized=False)
    assert np.array_equal(found[0], x) and np.array_equal(found[1], (128 - stored(x, 0.5, 128)) * np.float32(0.5))


def test_equal_constants_are_there_once() -> None:
    net = Net()
    y = net("Relu", net("Relu", net.input("x", "N", 5)))
    quantizer = Quantizer(net.model(y))
    for name in ("x", "relu1", y):
        quantizer.activation(name, 0.5, 0)
    model = quantizer.done()
    assert ops(model).count("QuantizeLinear") == 3 and len(model.graph.initializers) == 2
    quantizer = Quantizer(net.model(y))
    quantizer.activation("x", 0.5, 0)
    quantizer.activation(y, 0.25, 1)
    assert len(quantizer.done().graph.initializers) == 4


# -- types -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "zero", "clips"),
    [("uint8", 9, 0), ("int8", -3, 0), ("levels16", 3, 1), ("levels23", 3, 1), ("int5", -2, 1), ("uint6", 60, 1),
     ("uint16", 900, 0), ("int16", -5, 0), ("int10", 5, 1), ("uint12", 77, 1), ("levels300", 100, 1)],
)  # fmt: skip
@pytest.mark.parametrize("optimized", [True, False])
def test_activations_of_every_type(kind: str, zero: int, clips: int, optimized: bool) -> None:
    """Fewer numbers than the storage holds: a Clip, of integers where onnxruntime has it, else of floats."""
    net = Net(opset=21)
    y = net("Neg", net("Sin", net.input("x", "N", 5)))
    quantizer = Quantizer(net.model(y))
    quantizer.activation("sin1", 0.013, zero, kind)
    model = quantizer.done()
    assert ops(model).count("Clip") == clips
    x = given(7, 5)
    expected = -(stored_in(np.sin(x), 0.013, zero, kind) - zero) * np.float32(0.013)
    found = run(model, {"x": x}, optimized=optimized)[0]
    assert np.abs(found - expected).max() <= np.float32(0.013) * 1.001
    assert np.mean(found != expected.astype(np.float32)) < 0.1


def stored_in(array: np.ndarray, scale: float, zero: int, kind: str) -> np.ndarray:
    ends = grid(kind)
    return np.clip(np.rint(array / np.float32(scale)) + zero, ends.low, ends.high)


@pytest.mark.parametrize(("kind", "storage"), [("int4", ir.DataType.INT4), ("uint4", ir.DataType.UINT4),
                                               ("int8", ir.DataType.INT8), ("int16", ir.DataType.INT16),
                                               ("ternary", ir.DataType.INT8), ("levels5", ir.DataType.INT8),
                                               ("int7", ir.DataType.INT8)])  # fmt: skip
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_weights_of_every_type(kind: str, storage: ir.DataType, axis: int | None) -> None:
    """Stored (packed, where two share a byte), read back by onnxruntime as they are."""
    net = Net(opset=21)
    weight = net.normal(7, 3)
    y = net("MatMul", net.input("x", "N", 7), weight)
    quantizer = Quantizer(net.model(y))
    unsigned = kind.startswith("u")
    count = {None: (), 0: (7,), 1: (3,)}[axis]
    scale = np.linspace(0.2, 0.3, int(np.prod(count))).astype(np.float32).reshape(count)
    zero = (np.arange(int(np.prod(count))).reshape(count) % 4 + 5) if unsigned else np.zeros(count, int)
    quantizer.weight("const1", scale, zero, kind, axis)
    model = quantizer.done()
    assert [v.dtype for v in model.graph.initializers.values()].count(storage) == 2
    shape = {None: (), 0: (7, 1), 1: (1, 3)}[axis]
    spread_scale, spread_zero = scale.reshape(shape), zero.reshape(shape)
    ends = grid(kind, signed=True)
    codes = np.clip(np.rint(weight / spread_scale) + spread_zero, ends.low, ends.high)
    expected = ((codes - spread_zero) * spread_scale).astype(np.float32)
    (found,) = run(model, {"x": np.eye(7, dtype=np.float32)}, optimized=False)
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("kind", ["float8e4m3fn", "float8e5m2"])
def test_float8(kind: str) -> None:
    """As written onnxruntime runs it; large numbers saturate, there is no zero point but zero."""
    net = Net(opset=19)
    weight = np.concatenate([net.normal(6, 3) * 100, [[1e9, -1e9, 0]]]).astype(np.float32)
    y = net("MatMul", net.input("x", "N", 7), weight)
    quantizer = Quantizer(net.model(y))
    quantizer.weight("const1", [0.5, 1.0, 2.0], 0, kind, 1)
    dtype = ml_dtypes.float8_e4m3fn if kind == "float8e4m3fn" else ml_dtypes.float8_e5m2
    largest = float(ml_dtypes.finfo(dtype).max)
    scale = np.array([0.5, 1.0, 2.0], np.float32)
    expected = np.clip(weight / scale, -largest, largest).astype(dtype).astype(np.float32) * scale
    (found,) = run(quantizer.done(), {"x": np.eye(7, dtype=np.float32)}, optimized=False)
    assert np.array_equal(found, expected)


def test_integers_that_were_rounded_otherwise() -> None:
    net = Net()
    weight = net.normal(7, 3)
    quantizer = Quantizer(net.model(net("MatMul", net.input("x", "N", 7), weight)))
    quantizer.weight("const1", 0.1)
    codes = np.floor(weight / 0.1).astype(np.int64)
    codes[0, 0] = 1000  # what does not fit goes to the end of the type
    quantizer.codes[quantizer.values["const1"]] = codes
    (found,) = run(quantizer.done(), {"x": np.eye(7, dtype=np.float32)}, optimized=False)
    assert np.array_equal(found, np.clip(codes, -128, 127).astype(np.float32) * np.float32(0.1))


def halves(kind: int) -> onnx.ModelProto:
    """A small net in half precision."""
    weight = numpy_helper.from_array(given(7, 3).astype(helper.tensor_dtype_to_np_dtype(kind)), "w")
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    graph = helper.make_graph(
        nodes, "net", [helper.make_tensor_value_info("x", kind, ["N", 7])],
        [helper.make_tensor_value_info("y", kind, ["N", 3])], [weight],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.mark.parametrize(
    ("kind", "dtype"), [(TensorProto.FLOAT16, ir.DataType.FLOAT16), (TensorProto.BFLOAT16, ir.DataType.BFLOAT16)]
)
def test_scales_are_of_the_type_of_the_activation(kind: int, dtype: ir.DataType) -> None:
    quantizer = Quantizer(halves(kind))
    for name, scale, zero in (("x", 0.0301, 128), ("y", 0.0702, 99)):
        quantizer.activation(name, scale, zero)
        value = quantizer.values[name]
        quantizer.found[value] = qdq.in_type(quantizer.found[value], value)
    quantizer.weight("w", 0.0203)
    model = quantizer.done()
    scales = [node.inputs[1] for node in model.graph if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert {scale.dtype for scale in scales if scale is not None} == {dtype}
    assert all(out.dtype == dtype for node in model.graph if node.op_type == "DequantizeLinear" for out in node.outputs)
    models.check(model)
    if dtype == ir.DataType.FLOAT16:
        x = given(3, 7).astype(np.float16)
        (found,) = run(model, {"x": x}, optimized=False)
        assert found.dtype == np.float16
        assert np.abs(found - x.astype(np.float32) @ given(7, 3)).max() < 0.5


def test_a_scale_that_half_precision_does_not_have() -> None:
    """Nearest, but never zero nor infinite; and not above what a Clip allows."""
    value = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT16))
    assert qdq.in_type(parameters(1e-30), value).scale > 0
    assert np.isfinite(qdq.in_type(parameters(1e30), value).scale)
    upper = np.float32(6 / 255)
    below = qdq.in_type(parameters(upper), value, above=False).scale
    assert float(below) <= float(upper) and float(upper) - float(below) < 1e-4
    value.dtype = ir.DataType.FLOAT
    assert qdq.in_type(parameters(1e-30), value).scale == np.float32(1e-30)


# -- biases ------------------------------------------------------------------------------------------------------------


def quantized_layer(weight: np.ndarray, offset: np.ndarray, scales: np.ndarray) -> tuple[Quantizer, ir.Model]:
    net = Net()
    y = net("Gemm", net.input("x", "N", 13), weight, offset)
    quantizer = Quantizer(net.model(y))
    quantizer.activation("x", 0.03, 128)
    quantizer.weight("const1", scales, axis=1)
    quantizer.bias("const2", "x", "const1")
    quantizer.activation(y, 0.05, 128)
    power = (weight.astype(np.float64) ** 2).mean(axis=0)
    own = quantizer.found[quantizer.values["const1"]]
    quantizer.found[quantizer.values["const1"]] = type(own)(own.scale, own.zero_point, own.mse, power, "given")
    return quantizer, quantizer.done()


@pytest.mark.parametrize("optimized", [True, False])
@pytest.mark.parametrize("size", [0.0, 1e-38, 1e-12, 1e-8])
def test_the_bias_of_a_channel_that_is_nearly_dead(size: float, optimized: bool) -> None:
    """Its weights are so small that the bias would not fit into 32 bits beside them: it must not wrap round."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((13, 5)).astype(np.float32)
    weight[:, 2] *= np.float32(size)
    offset = np.array([1, -2, 5, 0.5, 0], np.float32)
    scales = np.maximum(np.abs(weight).max(axis=0) / 127, 1e-38).astype(np.float32)
    _, model = quantized_layer(weight, offset, scales if size else np.where(scales < 1e-20, 1, scales))
    x = given(7, 13)
    (found,) = run(model, {"x": x}, optimized=optimized)
    assert np.abs(found[:, 2] - 5).max() <= 0.05, "the bias alone, to a step of the output"
    alive = [0, 1, 3, 4]
    assert np.abs(found - np.clip(x @ weight + offset, -6.4, 6.35))[:, alive].max() < 0.25


def test_a_bias_that_fits_changes_no_scale() -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((13, 5)).astype(np.float32)
    scales = (np.abs(weight).max(axis=0) / 127).astype(np.float32)
    quantizer, _ = quantized_layer(weight, np.array([1, -2, 5, 0.5, 0], np.float32), scales)
    assert np.array_equal(quantizer.found[quantizer.values["const1"]].scale, scales)


def test_a_large_bias_widens_one_channel_and_its_error_is_known() -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((13, 5)).astype(np.float32)
    scales = (np.abs(weight).max(axis=0) / 127).astype(np.float32)
    offset = np.array([1, -2, 5e6, 0.5, 0], np.float32)
    quantizer, model = quantized_layer(weight, offset, scales)
    own = quantizer.found[quantizer.values["const1"]]
    assert (own.scale > scales).tolist() == [False, False, True, False, False]
    unit = own.scale[2] * np.float64(np.float32(0.03))
    assert offset[2] / unit + 13 * 255 * 128 <= 2**31 - 1
    back = np.clip(np.rint(weight[:, 2] / np.float64(own.scale[2])), -128, 127) * np.float64(own.scale[2])
    assert own.mse[2] == pytest.approx(((back - weight[:, 2]) ** 2).mean())
    (found,) = run(model, {"x": given(3, 13)}, optimized=False)
    assert np.isfinite(found).all()


def test_half_precision_keeps_its_bias() -> None:
    """A float16 scale cannot say the product of two scales that an integer kernel takes the bias to have."""
    proto = halves(TensorProto.FLOAT16)
    proto.graph.node[0].op_type = "Gemm"
    proto.graph.node[0].input.append("b")
    proto.graph.initializer.append(numpy_helper.from_array(np.array([1, 2, 3], np.float16), "b"))
    quantizer = Quantizer(proto)
    quantizer.activation("x", 0.03, 128)
    quantizer.weight("w", 0.02)
    quantizer.bias("b", "x", "w")
    model = quantizer.done()
    gemm = next(node for node in model.graph if node.op_type == "Gemm")
    assert gemm.inputs[2] is model.graph.initializers["b"]


def test_nothing_is_placed_nothing_changes() -> None:
    proto, _, _ = layer()
    quantizer = Quantizer(proto)
    assert ops(quantizer.done()) == ["Gemm", "Relu"]
    assert not quantizer.context.counts


def test_weights_in_blocks_are_not_written_here() -> None:
    proto, _, _ = layer()
    quantizer = Quantizer(proto)
    quantizer.weight("const1", [0.1] * 5, axis=1)
    quantizer.placement.weights[quantizer.values["const1"]].block = 16
    with pytest.raises(AssertionError, match="blocks"):
        quantizer.done()
