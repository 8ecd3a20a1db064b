"""Quantized layers get the mean outputs of the float ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest

from graphopt import model as models
from graphopt import registry, runtime
from graphopt.calibrate.channels import measure
from graphopt.context import Context
from graphopt.errors import UsageError
from graphopt.passes.quantize import bias_correction
from graphopt.passes.quantize.bias_correction import BiasCorrection, _last
from graphopt.quantization import steps
from graphopt.quantization.corrections import Site, sites
from graphopt.quantization.kernels import kernels
from tests.ops.net import Net
from tests.quantization.smooth import Batch, context_of

WIDTH = 13


def data(shape: Sequence[int], count: int = 3) -> list[Batch]:
    """Inputs whose mean is not zero, so that rounding a weight moves the mean of what it is multiplied with."""
    rng = np.random.default_rng(0)
    return [{"x": (rng.standard_normal((16, *shape)) + 1).astype(np.float32)} for _ in range(count)]


def calibrated(proto: onnx.ModelProto, batches: Sequence[Batch], **request: Any) -> Context:
    """A context as passes of the stage "repair" find it."""
    context = context_of(proto, batches, **{"everything": True, "weights": "int4", **request})
    steps.settle(context)
    return context


def chain(*, bias: bool = True, op: str = "Conv", layers: int = 3) -> onnx.ModelProto:
    net = Net(opset=21, seed=5)
    shape = (3, 6, 6) if op == "Conv" else (3,) if op == "Gemm" else (5, 3)
    y, before = net.input("x", "N", *shape), 3
    for number in range(layers):
        width = WIDTH if number + 1 < layers else 4
        if op == "Conv":
            y = net("Conv", y, net.normal(width, before, 3, 3), *[net.normal(width)][: int(bias)], pads=[1, 1, 1, 1])
        elif op == "Gemm":
            y = net("Gemm", y, net.normal(width, before), *[net.normal(width)][: int(bias)], transB=1)
        else:
            y = net("MatMul", y, net.normal(before, width))
            y = net("Add", y, net.normal(width)) if bias else y
        y = net("Relu", y) if number + 1 < layers else y
        before = width
    return net.model(y)


SHAPES = {"Conv": (3, 6, 6), "Gemm": (3,), "MatMul": (5, 3)}


def mean_errors(context: Context, batches: Sequence[Batch], axis: int) -> np.ndarray:
    """Mean error of each channel of the output over the calibration data."""
    exact, found = models.clone(context.model), steps.inserted(context)
    name = str(exact.graph.outputs[0].name)
    a, b = (measure(m, {name: axis}, iter(batches))[name] for m in (exact, found))
    return np.abs(a.mean - b.mean) / np.sqrt(a.power)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("op", ["Conv", "Gemm", "MatMul"])
def test_means_are_those_of_the_float_model(op: str, bias: bool) -> None:
    proto, batches = chain(op=op, bias=bias), data(SHAPES[op])
    context = calibrated(proto, batches)
    before = models.serialize(context.model)
    axis = -1 if op == "MatMul" else 1
    wrong = mean_errors(context, batches, axis)
    changed = BiasCorrection().run(context)
    assert models.serialize(context.model) == before, "the float model is not to change"
    if op == "MatMul" and not bias:
        assert not changed and not context.quantization.corrections  # type: ignore[union-attr]
        return
    assert changed and not BiasCorrection().run(context)
    right = mean_errors(context, batches, axis)
    assert right.max() < 0.05 and right.max() < 0.3 * wrong.max(), (wrong, right)


def test_each_layer_has_the_mean_of_the_float_one() -> None:
    proto, batches = chain(layers=4), data(SHAPES["Conv"])
    context = calibrated(proto, batches)
    assert BiasCorrection(passes=4).run(context)
    names = [str(site.node.outputs[0].name) for site in sites(context, context.quantization.placement)]  # type: ignore[union-attr]
    assert len(names) == 4
    inner = dict.fromkeys(names[:-1], 1)
    exact, found = (measure(m, inner, iter(batches)) for m in (context.model, steps.inserted(context)))
    for name in inner:
        # What is left is the rounding of the bias to int32 and of the calibration's float sums.
        difference = np.abs(exact[name].mean - found[name].mean)
        assert difference.max() < 2e-3 * np.sqrt(exact[name].power.mean()), name


def test_the_integer_kernels_stay() -> None:
    context = calibrated(chain(bias=False), data(SHAPES["Conv"]), weights="int8")
    before = kernels(steps.inserted(context)).counts["QLinearConv"]
    assert BiasCorrection().run(context)
    assert before == kernels(steps.inserted(context)).counts["QLinearConv"] == 3


def test_a_node_that_returns_to_float_loses_its_correction() -> None:
    batches = data(SHAPES["Conv"])
    context = calibrated(chain(), batches)
    assert BiasCorrection().run(context)
    state = context.quantization
    assert state is not None
    state.floats.update(node for node in context.model.graph if node.op_type == "Conv")
    found = steps.rebuilt(context)
    exact, other = (runtime.run(runtime.session(m), batches[0])[0] for m in (context.model, found))
    np.testing.assert_array_equal(exact, other)


def test_a_bias_that_is_shared_is_corrected_for_each() -> None:
    net = Net(opset=21, seed=5)
    x, bias = net.input("x", "N", 3, 6, 6), net.constant(net.normal(WIDTH))
    y = net("Concat", *(net("Relu", net("Conv", x, net.normal(WIDTH, 3, 3, 3), bias)) for _ in range(2)), axis=1)
    proto, batches = net.model(net("Conv", y, net.normal(4, 2 * WIDTH, 1, 1))), data(SHAPES["Conv"])
    context = calibrated(proto, batches)
    assert BiasCorrection().run(context)
    corrections = list(context.quantization.corrections.values())  # type: ignore[union-attr]
    assert len(corrections) == 3 and not np.allclose(corrections[0], corrections[1])
    assert mean_errors(context, batches, 1).max() < 0.02


def test_nothing_to_correct() -> None:
    net = Net(opset=21)
    weight = np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1)
    proto = net.model(net("Conv", net.input("x", "N", 3, 2, 2), weight))
    images = [{"x": np.random.default_rng(0).integers(0, 256, (4, 3, 2, 2)).astype(np.float32)}]
    context = calibrated(proto, images, weights="int8")
    assert not BiasCorrection().run(context)


def test_a_bias_that_is_computed_stays() -> None:
    net = Net(opset=21)
    x = net.input("x", "N", 3, 2, 2)
    proto = net.model(net("Conv", x, net.normal(5, 3, 1, 1), net("Abs", net.input("b", 5))))
    batches = [{**batch, "b": np.ones(5, np.float32)} for batch in data((3, 2, 2))]
    context = calibrated(proto, batches)
    assert not sites(context, context.quantization.placement)  # type: ignore[union-attr]
    assert not BiasCorrection().run(context)


def test_nothing_happens_without_a_quantization() -> None:
    assert not BiasCorrection().run(context_of(chain()))


def test_options() -> None:
    assert registry.parse("bias-correction{passes=3}") == [BiasCorrection(3)]
    with pytest.raises(UsageError):
        registry.parse("bias-correction{passes=0}")


@pytest.mark.parametrize(("layers", "last"), [(1, [0]), (2, [1]), (5, [4])])
def test_the_last_layers_have_no_other_behind_them(layers: int, last: list[int]) -> None:
    context = calibrated(chain(layers=layers), data(SHAPES["Conv"]))
    found = sites(context, context.quantization.placement)  # type: ignore[union-attr]
    assert _last(context.model, found) == [found[at] for at in last]


def test_two_heads_are_both_last_and_what_they_share_is_not() -> None:
    net = Net(opset=21, seed=5)
    shared = net("Relu", net("Conv", net.input("x", "N", 3, 6, 6), net.normal(WIDTH, 3, 3, 3), net.normal(WIDTH)))
    heads = [net("Sigmoid", net("Conv", shared, net.normal(4, WIDTH, 1, 1), net.normal(4))) for _ in range(2)]
    context = calibrated(net.model(*heads), data(SHAPES["Conv"]))
    found = sites(context, context.quantization.placement)  # type: ignore[union-attr]
    assert len(found) == 3 and _last(context.model, found) == found[1:]


def test_the_last_layer_alone_where_corrections_of_all_do_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = data(SHAPES["Conv"])
    context = calibrated(chain(), batches)
    state = context.quantization
    assert state is not None
    real, wrong = bias_correction._correct, mean_errors(context, batches, 1)

    def harmful(context: Context, chosen: Sequence[Site], whole: Sequence[Site], means: Any) -> None:
        real(context, chosen, whole, means)
        if len(chosen) == 1 and list(whole) == list(chosen) and len(state.corrections) == 1:
            return  # the last one alone
        state.corrections = {node: added + 100 for node, added in state.corrections.items()}

    monkeypatch.setattr(bias_correction, "_correct", harmful)
    assert BiasCorrection(passes=1).run(context)
    found = sites(context, state.placement)
    assert list(state.corrections) == [found[-1].node]
    assert mean_errors(context, batches, 1).max() < 0.05 * wrong.max()  # what is left: the steps of the output itself
