"""The plan of a small net is the cheapest of all plans that its choices allow, reckoned independently of the tables."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import onnx
import pytest

from graphopt import dims, pipeline
from graphopt.facts.constants import is_constant
from graphopt.facts.ops.contraction import geometry
from graphopt.facts.rules import ELEMENTWISE_JOINS
from graphopt.plan import classes
from graphopt.plan.classes import Plan
from graphopt.plan.cost import CostModel
from graphopt.plan.widths import Choice, Widths
from tests.ops.net import Net, dead

SIZE = 28


def residual(seed: int, width: int, blocks: int) -> onnx.ModelProto:
    """A stem and residual blocks, every convolution with other dead filters."""
    net = Net(seed=seed)
    rng = np.random.default_rng(seed)

    def weight(outputs: int, inputs: int, taps: int = 3) -> np.ndarray:
        gone = rng.permutation(outputs)[: rng.integers(0, outputs)]
        return dead(net.normal(outputs, inputs, taps, taps), 0, gone.tolist())

    x = net("Conv", net.input("x", "N", 3, SIZE, SIZE), weight(width, 3), pads=[1] * 4)
    for _ in range(blocks):
        inner = int(rng.integers(2, width + 9))
        y = net("Relu", net("Conv", x, weight(inner, width), pads=[1] * 4))
        x = net("Relu", net("Add", x, net("Conv", y, weight(width, inner), pads=[1] * 4)))
    return net.model(net("Conv", x, net.normal(3, width, 1, 1)))


def estimate(plan: Plan, costs: CostModel) -> float:
    """What the layouts of a plan cost: convolutions, gathers in front of them, scatters at joins."""
    total = 0.0
    facts = plan.facts
    for node, spec in facts.specs.items():
        out = node.outputs[0]
        sizes = dims.static(out)
        geo = geometry(spec)
        if geo is not None:
            x, w = node.inputs[0], dims.static(node.inputs[1])
            assert x is not None and w is not None
            present = plan.layout(x).get(1, np.arange(w[1] or 0))
            rows = plan.layout(out).get(1, np.arange(w[0] or 0))
            array = facts.constants.array(node.inputs[1])
            assert array is not None
            gone = facts.dead_axes(x).get(1)
            read = (array != 0).any(axis=(0, 2, 3))
            if gone is not None:
                read = read & ~gone.mask
            taps, pixels = int(np.prod([size or 1 for size in w[2:]])), SIZE * SIZE
            wide = float(costs.convolution(present.size, rows.size, taps, pixels))
            needed = int(read[present].sum())
            narrow = float(costs.convolution(needed, rows.size, taps, pixels) + costs.gather(needed, pixels, pixels))
            total += wide if needed >= present.size else min(wide, narrow)
        elif node.op_type in ELEMENTWISE_JOINS and sizes is not None:
            own = plan.layout(out).get(1, np.arange(sizes[1] or 0))
            for value in node.inputs:
                if value is None or is_constant(value):
                    continue
                have = plan.layout(value).get(1, np.arange(sizes[1] or 0))
                if not np.array_equal(have, own):
                    total += float(costs.scatter(own.size, SIZE * SIZE, SIZE * SIZE))
    return total


def _deciding(values: tuple[int, ...]) -> Callable[..., Choice]:
    return lambda *arguments: Widths(*arguments).decide(values)


@pytest.mark.parametrize("seed", range(8))
def test_the_chosen_plan_is_the_cheapest_of_all(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    costs = CostModel()
    context = pipeline.prepared(residual(seed, (7, 16, 24, 37)[seed % 4], 1 + seed % 2))
    found: list[Widths] = []

    def record(*arguments: object) -> Choice:
        found.append(Widths(*arguments))  # type: ignore[arg-type]
        return found[-1].choose()

    monkeypatch.setattr(classes, "choose", record)
    chosen = estimate(classes.make_plan(context.facts(), costs=costs), costs)
    sizes = found[0].sizes()
    everything = []
    for values in itertools.product(*(range(size) for size in sizes)):
        monkeypatch.setattr(classes, "choose", _deciding(values))
        context.changed()
        everything.append(estimate(classes.make_plan(context.facts(), costs=costs), costs))
    assert chosen <= min(everything) * (1 + 1e-9)
    assert len(everything) == np.prod([1, *sizes])


def test_the_choice_depends_on_the_costs() -> None:
    context = pipeline.prepared(residual(3, 37, 2))
    free = classes.make_plan(context.facts(), costs=CostModel(join=1e-6, element=1e-6, node=1e-6, lanes=1, multiple=1))
    context.changed()
    still = classes.make_plan(context.facts(), costs=CostModel().still())
    kept = [sum(len(axis) for layout in plan.layouts.values() for axis in layout.values()) for plan in (free, still)]
    assert kept[0] < kept[1]
