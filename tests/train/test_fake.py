"""Fake quantizers: the levels of ONNX's own operators, a gradient that goes straight through."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor

from graphopt.train.fake import fake_quantize

RANGES = {"int8": (TensorProto.INT8, -128, 127), "uint8": (TensorProto.UINT8, 0, 255)}


def onnx_says(x: np.ndarray, scale: np.ndarray, zero: np.ndarray, kind: int, axis: int) -> np.ndarray:
    """QuantizeLinear and DequantizeLinear in onnxruntime."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], axis=axis),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], axis=axis),
    ]
    graph = helper.make_graph(
        nodes,
        "qdq",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, x.shape)],
        [
            onnx.numpy_helper.from_array(scale.astype(np.float32), "s"),
            onnx.numpy_helper.from_array(zero.astype(helper.tensor_dtype_to_np_dtype(kind)), "z"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


@pytest.mark.parametrize("shape", [(0, 3), (1, 1), (7, 5), (101, 3)])
@pytest.mark.parametrize("kind", RANGES)
@pytest.mark.parametrize("each", [False, True], ids=["per tensor", "per axis"])
def test_it_is_what_onnxruntime_computes(kind: str, shape: tuple[int, int], each: bool) -> None:
    type_, low, high = RANGES[kind]
    rng = np.random.default_rng(0)
    x = (rng.normal(size=shape) * 9).astype(np.float32)
    n = shape[1]
    scale = rng.uniform(0.01, 0.09, n if each else ()).astype(np.float32)
    zero = rng.integers(low // 2, high // 2, n if each else ())
    got = fake_quantize(torch.from_numpy(x), torch.from_numpy(scale), torch.from_numpy(zero), low, high, 1)
    want = onnx_says(x, scale, zero, type_, 1)
    assert np.array_equal(got.numpy(), want), "bit by bit"


def test_halves_are_rounded_to_even() -> None:
    x = torch.tensor([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5])
    assert fake_quantize(x, 1.0, 0, -8, 7).tolist() == [-2, -2, 0, 0, 2, 2, 4]
    assert fake_quantize(x, 1.0, 1, -8, 7).tolist() == [-2, -2, 0, 0, 2, 2, 4], "before the zero point is added"


def test_the_gradient_goes_straight_through_inside_and_not_outside() -> None:
    x = torch.tensor([-3.0, -1.26, -1.24, 0.0, 0.3, 1.74, 1.76, 9.0], requires_grad=True)
    y = fake_quantize(x, 0.5, 0, -2, 3)  # levels -1 to 1.5
    (y * torch.arange(1.0, 9.0)).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [0, 0, 3, 4, 5, 6, 0, 0]
    assert y.detach().tolist() == [-1, -1, -1, 0, 0.5, 1.5, 1.5, 1.5]


def test_an_infinite_gradient_outside_does_no_harm() -> None:
    x = torch.tensor([0.0, 9.0], requires_grad=True)
    fake_quantize(x, 1.0, 0, -2, 3).backward(torch.tensor([1.0, float("inf")]))
    assert x.grad is not None and x.grad.tolist() == [1, 0]


def test_per_axis_goes_along_its_axis() -> None:
    x = torch.full((2, 3, 4), 0.9)
    scale = torch.tensor([1.0, 0.5, 0.25])
    want = torch.tensor([1.0, 1.0, 1.0])
    got = fake_quantize(x, scale, torch.tensor([0, 0, 0]), -8, 7, axis=1)
    assert torch.equal(got, want.reshape(1, 3, 1).expand(2, 3, 4))
    assert torch.equal(fake_quantize(x, scale, 0, -8, 7, axis=-2), got)
    one = fake_quantize(x, scale, torch.tensor([0, 0, 0]), -1, 1, axis=1)
    assert one[0, :, 0].tolist() == [1.0, 0.5, 0.25]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_types_stay(dtype: torch.dtype) -> None:
    x = torch.linspace(-1, 1, 11, dtype=dtype, requires_grad=True)
    y = fake_quantize(x, 0.25, 0, -2, 2)
    assert y.dtype == dtype and set((y.detach().float() * 4).tolist()) <= {-2, -1, 0, 1, 2}
    y.sum().backward()
    assert x.grad is not None and x.grad.dtype == dtype


@pytest.mark.parametrize(
    ("scale", "axis", "said"),
    [
        (torch.ones(3), None, "does not fit axis None"),
        (torch.ones(3), 0, "does not fit axis 0"),
        (torch.ones(3), 2, "does not fit axis 2"),
        (torch.ones(3, 1), 1, r"scale of shape \[3, 1\]"),
    ],
)
def test_what_does_not_fit_is_refused(scale: Tensor, axis: int | None, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        fake_quantize(torch.zeros(2, 3), scale, 0, -1, 1, axis)
    fake_quantize(torch.zeros(2, 3), torch.ones(3), 0, -1, 1, 1)


def test_a_range_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="above"):
        fake_quantize(torch.zeros(1), 1.0, 0, 1, 0)
    assert fake_quantize(torch.ones(1), 1.0, 0, 0, 0).tolist() == [0]
