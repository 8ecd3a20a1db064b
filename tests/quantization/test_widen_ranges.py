"""Ranges go from the one of least squared error towards the whole one where the outputs gain."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from graphopt import registry
from graphopt.context import Context
from graphopt.errors import UsageError
from graphopt.passes.quantize.widen_ranges import WidenRanges
from graphopt.quantization import steps
from graphopt.quantization.fidelity import Fidelity, worst
from graphopt.quantization.state import State
from tests.ops.net import Net
from tests.quantization.smooth import Batch, context_of


def spiky(seed: int = 0, count: int = 4) -> list[Batch]:
    """Small numbers, and at every place of one channel a rare large one: what a pool reads is in the large ones."""
    rng = np.random.default_rng(seed)
    batches = []
    for _ in range(count):
        x = rng.standard_normal((16, 3, 8, 8)) * 0.1
        x[:, 0] += (rng.random((16, 8, 8)) < 0.002) * rng.uniform(6, 12, (16, 8, 8))
        batches.append({"x": x.astype(np.float32)})
    return batches


def flat(count: int = 2) -> list[Batch]:
    """Numbers that nothing would clip."""
    rng = np.random.default_rng(1)
    return [{"x": rng.uniform(-1, 1, (16, 3, 8, 8)).astype(np.float32)} for _ in range(count)]


def pooled() -> onnx.ModelProto:
    net = Net(opset=21, seed=3)
    y = net("Relu", net("Conv", net.input("x", "N", 3, 8, 8), net.normal(7, 3, 1, 1), net.normal(7)))
    y = net("Reshape", net("Flatten", y), [-1, 7, 8, 8])
    return net.model(net("Flatten", net("GlobalAveragePool", net("Conv", y, net.normal(5, 7, 1, 1)))))


def calibrated(batches: list[Batch], **request: Any) -> tuple[Context, State]:
    context = context_of(pooled(), batches, **{"everything": True, "activations": "uint8", **request})
    steps.settle(context)
    assert context.quantization is not None
    return context, context.quantization


def sqnr(context: Context, batches: list[Batch]) -> float:
    found = worst(Fidelity(context.model, iter(batches)).of(steps.inserted(context)))
    assert found is not None
    return found


def ranges(state: State) -> dict[str, tuple[float, float]]:
    found = {}
    for value, row in state.placement.activations.items():
        scale, zero = float(state.parameters[value].scale), float(state.parameters[value].zero_point)
        found[str(value.name)] = (scale * (row.grid.low - zero), scale * (row.grid.high - zero))
    return found


def test_outputs_gain_and_ranges_only_grow() -> None:
    batches = spiky()
    context, state = calibrated(batches, method="entropy")
    before, solved = sqnr(context, batches), ranges(state)
    assert WidenRanges().run(context)
    assert sqnr(context, batches) > before + 3
    wider = ranges(state)
    assert any(wider[name][1] > solved[name][1] for name in wider)
    for name, (low, high) in wider.items():
        step = (high - low) / 255
        assert low <= solved[name][0] + step and high >= solved[name][1] - step
        seen = state.histograms[name]
        assert high <= max(seen.maximum, solved[name][1]) + step and low >= min(seen.minimum, solved[name][0]) - step
    widened = [p for v, p in state.parameters.items() if v in state.placement.activations and "widened" in p.method]
    assert widened and all(p.mse > 0 for p in widened)


def test_what_is_behind_a_relu_keeps_its_zero_point_and_movers_keep_equal_parameters() -> None:
    context, state = calibrated(spiky(), method="entropy")
    WidenRanges().run(context)
    groups: dict[str, set[tuple[float, int]]] = {}
    for value, row in state.placement.activations.items():
        found = state.parameters[value]
        if row.constraint.zero_point is not None:
            assert int(found.zero_point) == row.constraint.zero_point
        groups.setdefault(row.share or str(value.name), set()).add((float(found.scale), int(found.zero_point)))
    assert any(row.share for row in state.placement.activations.values())
    assert all(len(each) == 1 for each in groups.values())


@pytest.mark.parametrize(("batches", "method"), [(flat(), "mse"), (spiky(), "minmax")], ids=["flat", "whole already"])
def test_nothing_to_gain(batches: list[Batch], method: str) -> None:
    context, state = calibrated(batches, method=method)
    before, solved = sqnr(context, batches), dict(state.parameters)
    WidenRanges().run(context)
    after = sqnr(context, batches)
    assert after >= before
    if method == "minmax":
        assert state.parameters == solved


def test_twice_is_the_same() -> None:
    one, other = calibrated(spiky()), calibrated(spiky())
    assert WidenRanges().run(one[0]) == WidenRanges().run(other[0])
    assert ranges(one[1]) == ranges(other[1])


@pytest.mark.parametrize("text", ["widen-ranges{steps=0}", "widen-ranges{depth=-1}"])
def test_options(text: str) -> None:
    with pytest.raises(UsageError, match="at least"):
        registry.parse(text)
