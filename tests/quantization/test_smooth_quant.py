"""Outlying channels of activations: handed to the weights where something can take the division up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest

import graphopt
from graphopt import model as models
from graphopt import registry, runtime
from graphopt.calibrate.channels import channels, measure
from graphopt.errors import UsageError
from graphopt.passes.quantize.smooth_quant import SmoothQuant
from tests.ops.net import Net
from tests.quantization.smooth import Batch, context_of, evened

WIDTH = 11
OUTLIER = 4
Normed = Callable[[Net, str, np.ndarray, np.ndarray], str]


def layer_norm(net: Net, x: str, scale: np.ndarray, shift: np.ndarray) -> str:
    return net("LayerNormalization", x, scale, shift)


def decomposed(net: Net, x: str, scale: np.ndarray, shift: np.ndarray) -> str:
    """RMSNorm in its parts, as torch exports it, and a shift behind it."""
    mean = net("ReduceMean", net("Mul", x, x), [-1])
    return net("Add", net("Mul", net("Div", x, net("Sqrt", net("Add", mean, np.float32(1e-5)))), scale), shift)


def linear(net: Net, x: str, scale: np.ndarray, shift: np.ndarray) -> str:
    """A layer in front, with nothing between that minds."""
    return net("Relu", net("Add", net("MatMul", x, net.normal(WIDTH, WIDTH) / 3 * scale), shift))


def attention(normed: Normed, *, factor: float = 100.0) -> onnx.ModelProto:
    """Queries and keys of a norm in which one channel is ``factor`` times as large as the others."""
    net = Net(seed=2)
    scale, shift = np.ones(WIDTH, np.float32), 0.1 * net.normal(WIDTH)
    scale[OUTLIER] *= factor
    shift[OUTLIER] *= factor
    y = normed(net, net.input("x", "N", 5, WIDTH), scale, shift)
    undo = np.ones((WIDTH, 1), np.float32)
    undo[OUTLIER] /= factor
    out = [net("MatMul", y, net.rng.standard_normal((WIDTH, 6)).astype(np.float32) * undo) for _ in range(2)]
    return net.model(net("MatMul", net("Relu", out[0]), net("Transpose", out[1], perm=[0, 2, 1])))


def batches(count: int = 2, size: int = 8) -> list[Batch]:
    rng = np.random.default_rng(0)
    return [{"x": rng.standard_normal((size, 5, WIDTH)).astype(np.float32)} for _ in range(count)]


def smoothed(proto: onnx.ModelProto, item: SmoothQuant | None = None, **request: Any) -> bool:
    context = context_of(proto, batches(), everything=True, **request)
    return evened(proto, item or SmoothQuant(), context, sizes=(0, 1, 3))


@pytest.mark.parametrize("normed", [layer_norm, decomposed, linear])
def test_an_outlier_moves(normed: Normed) -> None:
    assert smoothed(attention(normed))


@pytest.mark.parametrize("normed", [layer_norm, decomposed, linear])
def test_even_channels_stay(normed: Normed) -> None:
    assert not smoothed(attention(normed, factor=1.0))


def another_reader(net: Net, x: str, scale: np.ndarray, shift: np.ndarray) -> str:
    y = layer_norm(net, x, scale, shift)
    return net("Add", y, net("Tanh", y))


def gelu(net: Net, x: str, scale: np.ndarray, shift: np.ndarray) -> str:
    y = layer_norm(net, x, scale, shift)
    return net("Mul", y, net("Sigmoid", net("Mul", y, np.float32(1.702))))


def computed_scale(net: Net, x: str, scale: np.ndarray, shift: np.ndarray) -> str:
    return net("LayerNormalization", x, net("Mul", net.input("w", WIDTH), scale), shift)


def two_axes(net: Net, x: str, scale: np.ndarray, shift: np.ndarray) -> str:
    """Scale and shift belong to positions, too."""
    wide = [np.broadcast_to(part, (5, WIDTH)).copy() for part in (scale, shift)]
    return net("LayerNormalization", x, *wide, axis=-2)


@pytest.mark.parametrize("normed", [another_reader, gelu, two_axes])
def test_an_outlier_stays(normed: Normed) -> None:
    assert not smoothed(attention(normed))


def test_a_scale_that_is_computed_stays() -> None:
    proto = attention(computed_scale)
    data = [{**batch, "w": np.ones(WIDTH, np.float32)} for batch in batches()]
    assert not SmoothQuant().run(context_of(proto, data, everything=True))


def test_a_norm_that_is_an_output_stays() -> None:
    proto = attention(layer_norm)
    name = proto.graph.node[0].output[0]
    proto.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", 5, WIDTH]))
    assert not smoothed(proto)


def test_nothing_happens_without_a_quantization() -> None:
    assert not SmoothQuant().run(context_of(attention(layer_norm)))


def test_nothing_happens_where_activations_stay_in_float() -> None:
    context = context_of(attention(layer_norm), batches(), activations="none", weights="int8")
    assert not SmoothQuant().run(context)


def test_one_strength_for_all() -> None:
    assert smoothed(attention(layer_norm), SmoothQuant(alpha="0.5"))


def test_options() -> None:
    assert registry.parse("smooth-quant{alpha=0.5}") == [SmoothQuant(alpha="0.5")]
    for text in ("smooth-quant{alpha=2}", "smooth-quant{alpha=some}", "smooth-quant{gain=-1}"):
        with pytest.raises(UsageError):
            registry.parse(text)


def test_a_transformer_with_an_outlier_gains() -> None:
    model = attention(layer_norm)
    data = batches(3, 64)

    def sqnr(recover: str) -> float:
        result = graphopt.quantize(model, data[:2], recover=recover, everything=True, measure=False, verify=False)
        exact, found = (runtime.run(runtime.session(m), data[2])[0] for m in (models.load(model), result.model))
        return float(10 * np.log10((exact**2).sum() / ((exact - found) ** 2).sum()))

    without, with_it = sqnr(""), sqnr("smooth-quant")
    assert without < 15 and with_it > 30, (without, with_it)


# The statistics.


def test_statistics_of_channels() -> None:
    rng = np.random.default_rng(0)
    array = rng.standard_normal((4, 3, 5)).astype(np.float32)
    for axis in (0, 1, 2, -1):
        found = channels(array, axis)
        rows = np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1).astype(np.float64)
        assert found.count == rows.shape[1]
        np.testing.assert_allclose(found.mean, rows.mean(1), rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(found.power, (rows**2).mean(1), rtol=1e-12)
        np.testing.assert_array_equal([found.low, found.high], [rows.min(1), rows.max(1)])


def test_statistics_add_up_and_may_be_empty() -> None:
    array = np.arange(12, dtype=np.float32).reshape(4, 3)
    whole, parts = channels(array, 1), channels(array[:1], 1) + channels(array[1:], 1)
    empty = channels(array[:0], 1)
    for found in (parts, whole + empty, empty + whole):
        assert found.count == whole.count
        for name in ("total", "squares", "low", "high"):
            np.testing.assert_array_equal(getattr(found, name), getattr(whole, name))
    assert empty.count == 0 and (empty.mean == 0).all() and np.isinf(empty.low).all()


@pytest.mark.parametrize("size", [1, 3, 16])
def test_statistics_do_not_depend_on_batches(size: int) -> None:
    model = models.load(attention(layer_norm))
    name = next(node.outputs[0].name for node in model.graph)
    assert name is not None
    x = np.concatenate([batch["x"] for batch in batches()])
    cut = [{"x": x[start : start + size]} for start in range(0, len(x), size)]
    whole, found = (measure(model, {name: 2}, data)[name] for data in ([{"x": x}], cut))
    assert whole.count == found.count
    np.testing.assert_allclose(found.total, whole.total, rtol=1e-12)
    np.testing.assert_array_equal([found.low, found.high], [whole.low, whole.high])
