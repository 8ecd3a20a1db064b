"""Weights in few bits: what is written computes what numpy says, in every form, and what cannot be written stays."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphopt
from graphopt import model as models
from graphopt import runtime
from graphopt.errors import ModelError, UsageError
from tests.ops.net import Net
from tests.quantization.blocks import array, exact, only, quantized, rounded, weight_of

NEAR = 5e-6
"""Sums of some hundred products in another order, relative to the largest result."""


def product(k: int, n: int, *, batch: tuple[int | str, ...] = ("m",), opset: int = 18) -> onnx.ModelProto:
    net = Net(opset)
    return net.model(net("MatMul", net.input("x", *batch, k), net.normal(k, n)))


def gemm(
    k: int, n: int, *, turned: bool, c: np.ndarray | None, alpha: float = 1.0, beta: float = 1.0
) -> onnx.ModelProto:
    net = Net()
    w = net.normal(n, k) if turned else net.normal(k, n)
    operands = [net.input("x", "m", k), w] + ([] if c is None else [c])
    return net.model(net("Gemm", *operands, transB=int(turned), alpha=alpha, beta=beta))


def inputs(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def compute(model: ir.Model | onnx.ModelProto, x: np.ndarray, *, optimize: bool = True) -> np.ndarray:
    loaded = models.load(model)
    return runtime.run(runtime.session(loaded, optimize=optimize), {loaded.graph.inputs[0].name or "": x})[0]


def check(result: np.ndarray, wanted: np.ndarray, near: float = NEAR) -> None:
    assert result.shape == wanted.shape
    assert np.abs(result - wanted).max(initial=0) <= near * np.abs(wanted).max(initial=1)


# --- MatMulNBits is what numpy says -----------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", ["int2", "uint2", "ternary", "int4", "uint4", "int8", "uint8", "levels11"])
@pytest.mark.parametrize(("k", "block"), [(64, 16), (67, 32), (128, 64), (257, 256), (40, 128)])
def test_a_product_is_that_of_the_stored_weight(weights: str, k: int, block: int) -> None:
    proto, x = product(k, 53), inputs(7, k)
    model, _, _ = quantized(proto, weights=weights, block=block)
    w = weight_of(only(model, "MatMulNBits"))
    check(compute(exact(model), x), x @ w.T)


@pytest.mark.parametrize("weights", ["int4", "uint4", "int8", "uint8"])
@pytest.mark.parametrize(("k", "block"), [(64, 32), (67, 32), (257, 128)])
def test_the_accuracy_level_rounds_activations_and_nothing_else(weights: str, k: int, block: int) -> None:
    model, _, _ = quantized(product(k, 53), weights=weights, block=block)
    node, x = only(model, "MatMulNBits"), inputs(7, k)
    assert node.attributes.get_int("accuracy_level", 0) == 4
    check(compute(model, x), rounded(x, block).astype(np.float64) @ weight_of(node).T)


@pytest.mark.parametrize("batch", [(0,), (1,), (13,), (2, 3), (0, 3), (2, 0, 5), (1, 1, 7)])
def test_any_batch(batch: tuple[int, ...]) -> None:
    proto = product(48, 31, batch=tuple(f"d{i}" for i in range(len(batch))))
    model, _, _ = quantized(proto, weights="uint4")
    x = inputs(*batch, 48)
    check(compute(exact(model), x), x.astype(np.float64) @ weight_of(only(model, "MatMulNBits")).T)


@pytest.mark.parametrize("n", [1, 2, 31, 64])
@pytest.mark.parametrize("weights", ["int4", "uint4", "uint8"])
def test_any_number_of_outputs(n: int, weights: str) -> None:
    k = 1030
    model, _, _ = quantized(product(k, n), weights=weights)
    x = inputs(3, k)
    check(compute(exact(model), x), x.astype(np.float64) @ weight_of(only(model, "MatMulNBits")).T)


def test_a_vector_is_multiplied() -> None:
    net = Net()
    model, _, _ = quantized(net.model(net("MatMul", net.input("x", 64), net.normal(64, 32))), weights="int4")
    x = inputs(64)
    check(compute(exact(model), x), x.astype(np.float64) @ weight_of(only(model, "MatMulNBits")).T)


BIASES = {
    "none": None,
    "a row": inputs(53, seed=2),
    "a matrix of one row": inputs(1, 53, seed=2),
    "a number": inputs(1, seed=2),
    "rows": inputs(7, 53, seed=2),
    "a column": inputs(7, 1, seed=2),
}


@pytest.mark.parametrize("c", BIASES.values(), ids=BIASES.keys())
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("target", ["cpu", "cuda", "portable"])
def test_a_gemm_keeps_what_it_adds(c: np.ndarray | None, turned: bool, target: str) -> None:
    proto = gemm(67, 53, turned=turned, c=c, alpha=0.7, beta=-1.3)
    model, _, found = quantized(proto, weights="uint4", target=target)
    x = inputs(7, 67)
    (parameters,) = found.values()
    wanted = compute(proto, x)
    # Quantized weights are off by their own error, and nothing else is.
    noise = 0.7 * np.sqrt(float(parameters.mse) * 67)
    result = compute(exact(model), x, optimize=False)
    assert np.sqrt(np.mean((result - wanted) ** 2)) < 1.3 * noise
    if target == "cpu":
        w = weight_of(only(model, "MatMulNBits"))  # with alpha in it
        check(result, x.astype(np.float64) @ w.T + (0 if c is None else -1.3 * c.astype(np.float64)))
        assert ("Add" in [node.op_type for node in model.graph]) == (c is not None and c.size not in (1, 53))


def test_a_gemm_adds_what_is_computed() -> None:
    net = Net()
    x, c = net.input("x", "m", 64), net.input("c", 53)
    model, _, _ = quantized(net.model(net("Gemm", x, net.normal(64, 53), c, beta=2.0)), weights="int8")
    a, b = inputs(5, 64), inputs(53, seed=3)
    result = runtime.run(runtime.session(exact(model)), {"x": a, "c": b})[0]
    check(result, a.astype(np.float64) @ weight_of(only(model, "MatMulNBits")).T + 2.0 * b)


def test_a_weight_behind_a_transpose() -> None:
    net = Net()
    turned = net("Transpose", net.normal(53, 64), perm=[1, 0])
    model, _, _ = quantized(net.model(net("MatMul", net.input("x", "m", 64), turned)), weights="int4")
    x = inputs(5, 64)
    assert [node.op_type for node in model.graph] == ["MatMulNBits"]
    check(compute(exact(model), x), x.astype(np.float64) @ weight_of(only(model, "MatMulNBits")).T)


def test_half_precision() -> None:
    net = Net()
    w = net.normal(64, 53).astype(np.float16)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT16, ["m", 64])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT16, None)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [x], [y], [numpy_helper.from_array(w, "w")]
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    model, _, _ = quantized(proto, weights="uint4")
    node = only(model, "MatMulNBits")
    assert array(node.inputs[2]).dtype == np.float16
    a = inputs(5, 64).astype(np.float16)
    check(compute(exact(model), a).astype(np.float64), a.astype(np.float64) @ weight_of(node).T, 2e-3)


# --- gathered rows ----------------------------------------------------------------------------------------------------


def table(rows: int, width: int, index: str = "i") -> tuple[Net, str, np.ndarray]:
    net = Net()
    data = net.normal(rows, width)
    return net, net("Gather", data, net.input(index, "b", "t", dtype="i")), data


@pytest.mark.parametrize("weights", ["int2", "uint2", "int4", "uint4", "int8", "uint8"])
@pytest.mark.parametrize(("width", "block"), [(64, 32), (72, 32), (256, 256)])
def test_rows_are_those_of_the_stored_table(weights: str, width: int, block: int) -> None:
    net, y, data = table(67, width)
    model, placement, found = quantized(net.model(y), weights=weights, block=block)
    assert list(placement.nodes.values()) == ["GatherBlockQuantized"]
    (parameters,) = found.values()
    index = np.array([[0, 66, -1], [5, 5, 31]])
    rows = runtime.run(runtime.session(model), {"i": index})[0]
    assert rows.shape == (2, 3, width)
    every = runtime.run(runtime.session(model), {"i": np.arange(67)[None]})[0][0]
    assert np.isclose(np.mean((every.astype(np.float64) - data) ** 2), float(parameters.mse), rtol=1e-3, atol=1e-12)
    np.testing.assert_array_equal(rows, every[index])
    assert runtime.run(runtime.session(model), {"i": index[:, :0]})[0].shape == (2, 0, width)


@pytest.mark.parametrize("weights", ["int4", "uint8"])
def test_shapes_behind_gathered_rows_are_known(weights: str) -> None:
    net, y, _ = table(67, 72)
    proto = net.model(net("Relu", y))
    model, _, _ = quantized(proto, weights=weights)
    only(model, "GatherBlockQuantized").outputs[0].shape = None
    model.graph.outputs[0].shape = None
    models.infer_shapes(model)
    shape = only(model, "GatherBlockQuantized").outputs[0].shape
    assert shape is not None and len(shape) == 3 and shape[2] == 72


@pytest.mark.parametrize("width", [64, 72])
def test_a_table_that_is_also_a_weight_is_stored_once_where_it_ends_with_a_block(width: int) -> None:
    net, y, data = table(67, width)
    name = net._nodes[0].input[0]
    logits = net("MatMul", y, net("Transpose", name, perm=[1, 0]))
    model, _, found = quantized(net.model(logits), weights="uint4")
    assert len(found) == 1
    sizes = [array(value).nbytes for value in model.graph.initializers.values() if value.dtype == ir.DataType.UINT8]
    stored = [size for size in sizes if size > 500]
    assert len(stored) == (1 if width % 32 == 0 else 2)
    index = np.array([[0, 66, 3]])
    result = runtime.run(runtime.session(exact(model)), {"i": index})[0]
    rows = runtime.run(runtime.session(quantized(gathering(data), weights="uint4")[0]), {"i": np.arange(67)[None]})[0][
        0
    ]
    check(result, rows[index].astype(np.float64) @ rows.T.astype(np.float64))


def gathering(data: np.ndarray) -> onnx.ModelProto:
    net = Net()
    return net.model(net("Gather", data, net.input("i", "b", "t", dtype="i")))


# --- blocked DequantizeLinear -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", ["int4", "uint4", "int8", "uint8", "ternary", "levels11"])
@pytest.mark.parametrize(("k", "block"), [(64, 16), (67, 32), (300, 256)])
@pytest.mark.parametrize("form", ["product", "gemm", "turned gemm"])
def test_the_portable_form_is_the_same_weight(weights: str, k: int, block: int, form: str) -> None:
    proto = product(k, 53) if form == "product" else gemm(k, 53, turned=form != "gemm", c=None)
    model, placement, found = quantized(proto, weights=weights, block=block, target="portable")
    assert list(placement.nodes.values()) == ["DequantizeLinear"]
    assert [node.op_type for node in model.graph] == ["DequantizeLinear", "MatMul" if form == "product" else "Gemm"]
    assert model.opset_imports[""] == 21 and not model.opset_imports.get("com.microsoft")
    onnx.checker.check_model(models.serialize(model), full_check=True)
    back = compute(model, np.eye(k, dtype=np.float32), optimize=False)
    w = numpy_helper.to_array(proto.graph.initializer[0])
    w = w.T if form == "turned gemm" else w
    (parameters,) = found.values()
    assert np.isclose(np.mean((back.astype(np.float64) - w) ** 2), float(parameters.mse), rtol=1e-3)
    # onnxruntime makes MatMulNBits of the two, and rounds.
    x = inputs(5, k)
    check(compute(model, x), rounded(x, block).astype(np.float64) @ back)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_in_the_portable_form(dtype: type) -> None:
    onnx_type = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    w = Net().normal(64, 53).astype(dtype)
    tensor = helper.make_tensor("w", onnx_type, w.shape, w.tobytes(), raw=True)
    x = helper.make_tensor_value_info("x", onnx_type, ["m", 64])
    y = helper.make_tensor_value_info("y", onnx_type, ["m", 53])
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [x], [y], [tensor])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    model, _, found = quantized(proto, weights="int4", target="portable")
    onnx.checker.check_model(models.serialize(model), full_check=True)
    (parameters,) = found.values()
    assert parameters.sqnr_db > 20
    node = only(model, "DequantizeLinear")
    back = array(node.inputs[0]).astype(np.float64) * np.repeat(array(node.inputs[1]).astype(np.float64), 32, 0)
    assert np.isclose(np.mean((back - w.astype(np.float64)) ** 2), float(parameters.mse), rtol=1e-3)
    _, placement, _ = quantized(proto, weights="int4")
    assert bool(placement.nodes) == (dtype is np.float16), "onnxruntime's CPU has no MatMulNBits for bfloat16"


@pytest.mark.parametrize(("weights", "channels"), [("int8", 3), ("int4", 32), ("uint4", 37), ("uint8", 5)])
def test_a_convolution_reads_a_dequantized_weight(weights: str, channels: int) -> None:
    net = Net()
    w = net.normal(41, channels, 3, 3)
    proto = net.model(net("Conv", net.input("x", "m", channels, 8, 8), w, net.normal(41)))
    model, placement, found = quantized(proto, weights=weights)
    assert list(placement.nodes.values()) == ["DequantizeLinear"]
    x = inputs(2, channels, 8, 8)
    result, wanted = compute(model, x), compute(proto, x)
    (parameters,) = found.values()
    noise = float(np.mean(parameters.mse)) * channels * 9
    assert np.mean((result - wanted) ** 2) < 1.5 * noise


# --- what stays -------------------------------------------------------------------------------------------------------


def stays(proto: onnx.ModelProto, reason: str, **options: Any) -> None:
    model, placement, found = quantized(proto, **{"weights": "int4", **options})
    assert not placement.nodes and not found
    assert [reason in kept.reason for kept in placement.kept] == [True] * len(placement.kept) and placement.kept, [
        kept.reason for kept in placement.kept
    ]
    assert [n.op_type for n in model.graph] == [n.op_type for n in proto.graph.node]


def test_a_weight_that_a_caller_may_override_stays() -> None:
    net = Net()
    stays(net.model(net("MatMul", net.input("x", "m", 64), net.default("w", net.normal(64, 32)))), "not a constant")


def test_a_weight_that_is_computed_stays() -> None:
    net = Net()
    stays(net.model(net("MatMul", net.input("x", "m", 64), net.input("w", 64, 32))), "not a constant")


def test_a_constant_on_the_left_stays() -> None:
    net = Net()
    stays(net.model(net("MatMul", net.normal(32, 64), net.input("x", 64, "n"))), "on the left")


def test_short_sums_stay() -> None:
    stays(product(15, 100), "too few to share a scale")
    _, placement, _ = quantized(product(16, 100), weights="int4")
    assert placement.nodes


def test_small_weights_stay() -> None:
    stays(product(33, 31), "too few to gain")
    _, placement, _ = quantized(product(32, 32), weights="int4")
    assert placement.nodes


def test_double_precision_stays() -> None:
    net = Net()
    w, x = net.normal(64, 32).astype(np.float64), helper.make_tensor_value_info("x", TensorProto.DOUBLE, ["m", 64])
    y = helper.make_tensor_value_info("y", TensorProto.DOUBLE, None)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [x], [y], [numpy_helper.from_array(w, "w")]
    )
    stays(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), "double")


def test_batches_of_matrices_stay() -> None:
    net = Net()
    stays(net.model(net("MatMul", net.input("x", 3, "m", 64), net.normal(3, 64, 32))), "rank 3")


def test_a_transposed_input_stays() -> None:
    net = Net()
    stays(net.model(net("Gemm", net.input("x", 64, "m"), net.normal(64, 32), transA=1)), "transA")


def test_a_weight_that_is_read_in_float_too_stays() -> None:
    net = Net()
    name = net.constant(net.normal(64, 32))
    y = net("MatMul", net.input("x", "m", 64), name)
    stays(net.model(y, net("Neg", name)), "needs it in float")


def test_a_weight_that_is_read_along_both_axes_stays() -> None:
    net = Net()
    name, x = net.constant(net.normal(64, 64)), net.input("x", "m", 64)
    stays(net.model(net("Gemm", x, name), net("Gemm", x, name, transB=1)), "both axes")


def test_a_weight_that_several_read_is_stored_once() -> None:
    net = Net()
    name, x = net.constant(net.normal(64, 64)), net.input("x", "m", 64)
    y = net("MatMul", net("Relu", net("MatMul", x, name)), name)
    model, _, found = quantized(net.model(y), weights="uint4")
    assert len(found) == 1 and len(model.graph.initializers) == 3


def test_a_weight_with_nan_stays() -> None:
    net = Net()
    w = net.normal(64, 32)
    w[3, 5] = np.nan
    stays(net.model(net("MatMul", net.input("x", "m", 64), w)), "NaN")


def test_excluded_nodes_stay() -> None:
    stays(product(64, 32), "excluded", exclude=("MatMul*",))
    _, placement, _ = quantized(product(64, 32), weights="int4", exclude=("Gemm*",))
    assert placement.nodes


def test_two_bits_are_not_written_where_onnxruntime_reads_them_wrong() -> None:
    model, _, _ = quantized(product(64, 32), weights="int2", target="portable")
    assert array(only(model, "DequantizeLinear").inputs[0]).dtype == ml_dtypes.int4


def test_tensorrt_has_no_zero_points_and_its_own_blocks() -> None:
    stays(product(64, 32), "no form", weights="uint4", target="tensorrt", block=64)
    stays(product(64, 32), "takes blocks of", target="tensorrt", block=32)
    model, placement, found = quantized(product(64, 32), weights="int4", target="tensorrt", block=64)
    assert placement.nodes and all((p.scale > 0).all() for p in found.values())
    assert len(only(model, "DequantizeLinear").inputs) == 2


def test_rows_that_end_within_a_byte_stay() -> None:
    net, y, _ = table(67, 65)
    stays(net.model(y), "do not end with a byte")


@pytest.mark.parametrize("options", [{"weights": "float8e4m3fn"}, {"weights": "int16"}, {"block": 24}, {"block": 8}])
def test_types_and_blocks_that_there_are_not(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        quantized(product(64, 32), **options)


def test_an_operator_that_is_written_otherwise_in_the_next_set_is_written_so() -> None:
    net = Net(13)
    proto = net.model(net("ReduceMean", net("MatMul", net.input("x", "m", 64), net.normal(64, 32)), axes=[1]))
    model, _, _ = quantized(proto, weights="int8", target="portable")
    assert model.opset_imports[""] == 21
    onnx.checker.check_model(models.serialize(model), full_check=True)
    x = inputs(5, 64)
    check(compute(model, x, optimize=False), compute(proto, x), 0.02)
    model, _, _ = quantized(proto, weights="int4")
    assert model.opset_imports[""] == 13, "MatMulNBits needs no other one"


def test_an_operator_that_has_no_equal_in_the_next_set_is_an_error() -> None:
    net = Net(15)
    rois, batch = np.array([[0, 0, 2, 2]], np.float32), np.array([0])
    image = net("Reshape", net.input("x", 4, 64), np.array([1, 4, 8, 8]))
    y = net("RoiAlign", image, rois, batch, output_height=2, output_width=2)
    proto = net.model(y, net("MatMul", "x", net.normal(64, 32)))
    found, _, _ = quantized(proto, weights="int8")
    assert found.opset_imports[""] == 15
    try:
        quantized(proto, weights="int8", target="portable")
    except ModelError as error:
        assert "RoiAlign" in error.what


# --- within bodies, and the whole way ---------------------------------------------------------------------------------


def test_a_body_reads_a_weight_from_outside() -> None:
    net = Net()
    name = net.constant(net.normal(64, 64))
    net.input("x", "m", 64)
    flag = net.input("flag", dtype="b")
    branches = {}
    for key, op in (("then_branch", "Relu"), ("else_branch", "Neg")):
        nodes = [
            helper.make_node("MatMul", ["x", name], [f"{key}_m"]),
            helper.make_node(op, [f"{key}_m"], [f"{key}_y"]),
        ]
        branches[key] = helper.make_graph(nodes, key, [], [helper.make_tensor_value_info(f"{key}_y", 1, ["m", 64])])
    proto = net.model(net("If", flag, **branches))
    for target in ("cpu", "portable"):
        model, _, found = quantized(proto, weights="int8", target=target)
        assert len(found) == 1
        a = inputs(5, 64)
        for value in (True, False):
            feeds = {"x": a, "flag": np.array(value)}
            before = runtime.run(runtime.session(models.load(proto)), feeds)[0]
            after = runtime.run(runtime.session(exact(model)), feeds)[0]
            assert 0 < np.abs(after - before).max() < 0.02 * np.abs(before).max()


@pytest.mark.parametrize("target", ["cpu", "portable"])
def test_no_data_is_needed(target: str) -> None:
    proto = gemm(128, 53, turned=True, c=inputs(53))
    result = graphopt.quantize(proto, activations="none", weights="int4", target=target, measure=False)
    report = result.report.quantize
    assert report is not None and [row.dtype for row in report.tensors] == ["int4"]
    assert result.report.after.initializer_bytes < 0.2 * result.report.before.initializer_bytes
    x = inputs(5, 128)
    before, after = compute(proto, x), compute(result.model, x)
    assert 0 < np.abs(after - before).max() < 0.3 * np.abs(before).max()
