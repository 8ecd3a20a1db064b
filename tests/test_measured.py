"""A result that measures slower than the input is not kept: other plans are tried, at last the input is returned."""

from __future__ import annotations

from typing import Any

import onnx
import pytest

import graphopt
from graphopt import measured, verify
from graphopt.facts.stats import stats
from graphopt.report.schema import Measure
from tests.ops.net import Net, dead

OFF = [0, 3, 4, 5, 9, 11, 17, 18, 22, 23, 30, 31, 33, 36, 38, 39]


def model() -> onnx.ModelProto:
    """A stream of 40 channels with a branch of which 16 are dead, and a mask that only folding removes."""
    net = Net()
    x = net("Relu", net("Conv", net.input("x", "N", 3, 8, 8), net.normal(40, 3, 3, 3), net.normal(40)))
    y = net("Relu", net("Conv", x, net.normal(40, 40, 3, 3), net.normal(40), pads=[1] * 4))
    y = net(
        "Conv", y, net("Mul", net.normal(40, 40, 3, 3), dead(net.normal(40, 1, 1, 1) * 0 + 1, 0, OFF)), pads=[1] * 4
    )
    return net.model(net("Conv", net("Add", x, y), net.normal(2, 40, 1, 1)))


def measuring(monkeypatch: pytest.MonkeyPatch, ratios: list[float]) -> None:
    """Lets one measurement after the other find these ratios, of an input that takes a second."""
    found = iter(ratios)

    def measure(original: Any, candidate: Any, **options: Any) -> Measure:
        ratio = next(found)
        return Measure(1000.0, 1000.0 * ratio, ratio, "")

    monkeypatch.setattr(measured, "measure", measure)


@pytest.mark.parametrize(("ratios", "way"), [([0.5], "fastest"), ([1.02], "fastest"), ([1.03, 0.9], "still"),
                                             ([1.5, 1.5, 1.0], "folded")])  # fmt: skip
def test_the_first_plan_that_is_not_slower(monkeypatch: pytest.MonkeyPatch, ratios: list[float], way: str) -> None:
    measuring(monkeypatch, ratios)
    result = graphopt.optimize(model())
    assert result.report.measure is not None
    assert (result.report.measure.way, result.report.measure.ratio) == (way, ratios[-1])
    assert verify(model(), result.model).passed
    ops = result.report.after.ops
    assert "Mul" not in ops and (way == "fastest" or not {"Pad", "Gather", "ScatterND"} & set(ops))
    assert stats(result.model) == result.report.after


def test_the_input_where_nothing_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    measuring(monkeypatch, [1.5, 1.5, 1.5])
    result = graphopt.optimize(model())
    assert result.report.measure is None and "nothing-faster" in [row.code for row in result.report.warnings]
    assert result.report.after == result.report.before and "Mul" in result.report.after.ops
    assert [row.action for row in result.report.masks] == ["kept"]


@pytest.mark.parametrize("options", [{"measure": False}, {"plan": "smallest"}, {"target": "portable"},
                                     {"passes": "narrow"}])  # fmt: skip
def test_what_is_not_measured(monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]) -> None:
    measuring(monkeypatch, [])
    assert graphopt.optimize(model(), **options).report.measure is None


def test_a_model_in_which_nothing_changed_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    measuring(monkeypatch, [])
    net = Net()
    assert graphopt.optimize(net.model(net("Sin", net.input("x", 3)))).report.measure is None


def test_a_microsecond_more_is_not_slower() -> None:
    assert not measured.slower(Measure(0.010, 0.015, 1.5, ""))
    assert not measured.slower(Measure(10.0, 10.1, 1.01, ""))
    assert measured.slower(Measure(10.0, 10.5, 1.05, ""))


def test_real_models_are_measured() -> None:
    found = measured.measure(graphopt.load(model()), graphopt.load(model()))
    assert 0 < found.input_ms < 1000 and 0.5 < found.ratio < 2
