"""With `fastest`, a LayerNorm loses dead positions only where its stream saves more than the correction costs."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from graphopt import pipeline
from tests.ops.net import Net, dead


def stream(width: int, inputs: int, lost: int, norms: int = 1) -> onnx.ModelProto:
    """Products, norms and products over a width of which some positions are dead, norms included."""
    net = Net(17)
    positions = range(width - lost, width)
    y = net("MatMul", net.input("x", "N", 32, inputs), dead(net.normal(inputs, width), 1, positions))
    for _ in range(norms):
        scale, shift = (dead(net.normal(width), 0, positions) for _ in range(2))
        y = net("LayerNormalization", y, scale, shift)
    return net.model(net("MatMul", y, net.normal(width, inputs)))


@pytest.mark.parametrize(
    ("width", "inputs", "lost", "norms", "narrow"),
    [(256, 256, 128, 1, True), (256, 256, 1, 1, False), (256, 256, 32, 1, True), (256, 2, 32, 4, False)],
)
def test_a_layer_norm_is_corrected_where_it_pays(width: int, inputs: int, lost: int, norms: int, narrow: bool) -> None:
    model = stream(width, inputs, lost, norms)
    fast = pipeline.optimize(model, plan="fastest", measure=False)
    assert fast.report.after.ops["LayerNormalization"] == norms
    assert (sum(fast.report.after.ops.values()) > norms + 2) == narrow
    small = pipeline.optimize(model, plan="smallest", measure=False)
    assert small.report.after.parameters < fast.report.before.parameters
    assert sum(small.report.after.ops.values()) > norms + 2


def test_what_is_kept_is_kept_the_second_time() -> None:
    first = pipeline.optimize(stream(256, 256, 1), plan="fastest", measure=False)
    second = pipeline.optimize(first.model, plan="fastest", measure=False)
    assert second.report.after == first.report.after
    assert np.isclose(second.report.after.parameters, first.report.before.parameters)
