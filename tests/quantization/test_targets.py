"""Every type that a target offers loads in its runtime; what is refused would not, or has no integer kernel there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import graphopt
from graphopt.errors import ModelError, UsageError
from graphopt.quantization import processor, types
from graphopt.quantization.kernels import kernels
from graphopt.quantization.request import Request
from graphopt.quantization.tables import TABLES, onnxruntime_cpu
from graphopt.quantization.types import activation_grid, opset, weight_grid
from tests.ops.net import Net
from tests.quantization.placing import noise, placement, run

FEED = noise(4, 3, 8, 8)
LEVELS = ("levels2", "levels3", "levels23", "levels256")


def net(opset: int = 18) -> onnx.ModelProto:
    """Conv, a residual, a mover, MatMul and Gemm."""
    net = Net(opset)
    y = net("Relu", net("Conv", net.input("x", "N", 3, 8, 8), net.normal(8, 3, 3, 3), net.normal(8), pads=[1] * 4))
    z = net("Add", y, net("Conv", y, net.normal(8, 8, 3, 3), net.normal(8), pads=[1] * 4))
    z = net("MatMul", net("Flatten", net("GlobalAveragePool", z)), net.normal(8, 7))
    return net.model(net("Gemm", z, net.normal(5, 7), net.normal(5), transB=1))


def _types(offered: tuple[str, ...]) -> Iterator[str]:
    for name in offered:
        if name != "none":
            yield from LEVELS if name == "levels" else (name,)


def pairs(target: str) -> Iterator[tuple[str, str]]:
    """Every type of activations with the default one of weights, and the other way round."""
    table = TABLES[target]
    yield from ((name, table.weights[0]) for name in _types(table.activations))
    yield from ((table.activations[0], name) for name in list(_types(table.weights))[1:])


def quantized(target: str, activations: str, weights: str, proto: onnx.ModelProto | None = None) -> ir.Model:
    return graphopt.quantize(
        proto or net(), FEED, target=target, activations=activations, weights=weights, method="minmax", recover="",
        measure=False, verify=False, everything=True,
    ).model  # fmt: skip


@pytest.mark.parametrize(("activations", "weights"), list(pairs("cpu")))
def test_the_cpu_provider_runs_every_pair_on_integers(activations: str, weights: str) -> None:
    model = quantized("cpu", activations, weights)
    assert run(model, FEED[0]).shape == (4, 5)
    found = kernels(model)
    assert not found.floating and found.counts["QLinearConv"] == 2 and found.counts["QGemm"] == 1


@pytest.mark.parametrize(("activations", "weights"), list(pairs("portable")))
def test_every_portable_pair_loads(activations: str, weights: str) -> None:
    model = quantized("portable", activations, weights)
    assert np.isfinite(run(model, FEED[0])).all()


def test_tensorrt_gets_its_form() -> None:
    """Symmetric int8, float biases, Q on both addends, none between Conv and Relu."""
    model = quantized("tensorrt", "int8", "int8")
    assert run(model, FEED[0]).shape == (4, 5)
    for node in model.graph:
        if node.op_type == "DequantizeLinear":
            zero = node.inputs[2]
            assert zero is not None and zero.const_value is not None and zero.dtype == ir.DataType.INT8
            assert not zero.const_value.numpy().any()
        if node.op_type == "Relu":
            assert node.inputs[0] is not None and node.inputs[0].producer().op_type == "Conv"  # type: ignore[union-attr]
        if node.op_type in ("Add", "Conv", "MatMul"):
            before = [value.producer() for value in node.inputs[:2] if value is not None]
            assert [one.op_type for one in before if one is not None] == ["DequantizeLinear"] * 2
        if node.op_type == "Conv":
            assert node.inputs[2] is not None and node.inputs[2].dtype == ir.DataType.FLOAT
            assert node.inputs[2].const_value is not None


# -- refusals, and whether they are right ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "options", "reason"),
    [
        ("cuda", {"activations": "uint8"}, "no integer convolution"),
        ("cpu", {"activations": "int8"}, "two operators read"),
        ("cpu", {"activations": "uint16"}, "no integer kernel"),
        ("cpu", {"activations": "float8e4m3fn"}, "not load"),
        ("cpu", {"activations": "levels257"}, "more than 256"),
        ("cpu", {"weights": "int16"}, "no integer kernel"),
        ("tensorrt", {"activations": "uint8"}, "zero point 0"),
        ("portable", {"activations": "uint4"}, "does not load"),
    ],
)
def test_what_a_target_does_not_take_is_refused(target: str, options: dict[str, str], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        graphopt.quantize(net(), FEED, target=target, measure=False, **options)  # type: ignore[arg-type]


def test_a_misspelt_type_gets_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'int8'"):
        activation_grid(Request(activations="uint8", target="tensorrt"))
    with pytest.raises(UsageError, match="did you mean 'uint8'"):
        Request(activations="unit8")


def _forced(monkeypatch: pytest.MonkeyPatch, **changed: object) -> None:
    table = replace(onnxruntime_cpu.TABLE, **changed)  # type: ignore[arg-type]
    monkeypatch.setitem(TABLES, "cpu", table)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["uint4", "int4", "float8e4m3fn", "float8e5m2"])
def test_refused_activations_do_not_load(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _forced(monkeypatch, activations=(name,), bytes=False)
    with pytest.raises(ModelError, match="onnxruntime refuses the model"):
        quantized("cpu", name, "int8")


@pytest.mark.parametrize("name", ["uint16", "int16"])
def test_refused_activations_have_no_kernel(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _forced(monkeypatch, activations=(name,))
    assert kernels(quantized("cpu", name, "int8")).integer_nodes == 0


def test_signed_activations_lose_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    _forced(monkeypatch, activations=("int8",))
    assert kernels(quantized("cpu", "int8", "int8")).floating


@pytest.mark.parametrize("name", ["int4", "int16"])
def test_weights_that_are_not_bytes_have_no_kernel(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _forced(monkeypatch, weights=(name,), bytes=False)
    assert kernels(quantized("cpu", "uint8", name)).floating


# -- choices -----------------------------------------------------------------------------------------------------------


def test_four_bits_lie_in_eight_where_kernels_read_those() -> None:
    request = Request(weights="int4", activations="uint4")
    kind = activation_grid(request)
    assert kind is not None and (kind.storage, kind.low, kind.high, kind.clipped) == ("uint8", 0, 15, True)
    assert (weight_grid(request).storage, weight_grid(request).low) == ("int8", -8)
    assert opset(request) == 13 and opset(replace(request, target="portable", activations="uint8")) == 21


def test_seven_bits_where_products_saturate(monkeypatch: pytest.MonkeyPatch) -> None:
    for saturating, name in ((True, "int7"), (False, "int8")):
        monkeypatch.setattr(types, "saturates", lambda saturating=saturating: saturating)
        assert weight_grid(Request()).name == name
        assert weight_grid(Request(weights="int8")).name == "int8", "who asks for it gets it"
        assert weight_grid(Request(target="portable")).name == "int8"


def test_vnni_is_read_from_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    for machine, found, expected in (
        ("x86_64", {"avx2", "avx512f"}, True),
        ("x86_64", {"avx2", "avx_vnni"}, False),
        ("AMD64", set(), True),
        ("aarch64", set(), False),
    ):
        monkeypatch.setattr(processor.platform, "machine", lambda machine=machine: machine)
        monkeypatch.setattr(processor, "flags", lambda found=found: frozenset(found))
        assert processor.saturates.__wrapped__() == expected


def test_each_target_places_without_an_error() -> None:
    for target in ("cpu", "portable", "tensorrt"):
        assert placement(net(), target=target).nodes
