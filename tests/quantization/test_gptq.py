"""The pass ``gptq``: outputs come nearer than with nearest rounding, in every operator, whatever the batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest

from graphopt import model as models
from graphopt import rounds, runtime
from graphopt.context import Context
from graphopt.errors import UsageError
from graphopt.passes.quantize.gptq import Gptq
from graphopt.quantization import place, steps
from graphopt.quantization.request import Request
from graphopt.quantization.state import State
from graphopt.registry import parse
from graphopt.rounds import Settings
from tests.ops.net import Net


@pytest.fixture(autouse=True)
def _whatever_it_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """These nets are so small that nothing of them is worth integers; here all that can be is quantized."""
    monkeypatch.setattr(place, "cheapest", lambda found: set(found.rows))


Batches = list[dict[str, np.ndarray]]


def correlated(count: int, *shape: int, seed: int = 0) -> np.ndarray:
    """Inputs whose positions and channels have much in common, as after layers of a net."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(count, *([1] * len(shape))))
    return (common + 0.4 * rng.normal(size=(count, *shape)) + 0.5).astype(np.float32)


def gemm(turned: int = 1) -> onnx.ModelProto:
    net = Net(21)
    weight = net.normal(11, 24) if turned else net.normal(24, 11)
    return net.model(net("Relu", net("Gemm", net.input("x", "N", 24), weight, net.normal(11), transB=turned)))


def matmul() -> onnx.ModelProto:
    net = Net(21)
    return net.model(net("Relu", net("MatMul", net.input("x", "N", 5, 24), net.normal(24, 11))))


def conv(groups: int = 1) -> onnx.ModelProto:
    net = Net(21)
    x = net.input("x", "N", 12, 9, 9)
    y = net("Conv", x, net.normal(12, 12 // groups, 3, 3), net.normal(12), group=groups, pads=[1, 1, 1, 1])
    return net.model(net("Relu", y))


def shared() -> onnx.ModelProto:
    net = Net(21)
    x, weight = net.input("x", "N", 24), net.constant(net.normal(24, 24))
    return net.model(net("Relu", net("MatMul", net("Relu", net("MatMul", x, weight)), weight)))


CASES: dict[str, tuple[Callable[[], onnx.ModelProto], tuple[int, ...]]] = {
    "gemm": (gemm, (24,)),
    "gemm, weight as it is": (lambda: gemm(0), (24,)),
    "matmul": (matmul, (5, 24)),
    "conv": (conv, (12, 9, 9)),
    "groups": (lambda: conv(3), (12, 9, 9)),
    "depthwise": (lambda: conv(12), (12, 9, 9)),
    "shared": (shared, (24,)),
}


def prepared(proto: onnx.ModelProto, batches: Batches, **options: Any) -> Context:
    """A context that is ready for the repair passes, every layer on integers."""
    context = rounds.prepare(models.load(proto), Settings(()))
    request = Request(**{"weights": "int4", **options})
    context.quantization = State(request, lambda: iter(batches))
    steps.place(context)
    assert context.quantization.placement.weights
    steps.calibrate(context)
    steps.find_parameters(context)
    return context


def noise(context: Context, feeds: dict[str, np.ndarray]) -> float:
    (a,) = runtime.run(runtime.session(context.model), feeds)
    (b,) = runtime.run(runtime.session(steps.inserted(context)), feeds)
    return float(((a - b) ** 2).sum())


@pytest.mark.parametrize("name", CASES)
def test_outputs_come_nearer(name: str) -> None:
    build, shape = CASES[name]
    batches = [{"x": correlated(40, *shape, seed=seed)} for seed in range(3)]
    context = prepared(build(), batches)
    fresh = {"x": correlated(97, *shape, seed=9)}
    before = noise(context, fresh)
    assert Gptq(positions=0).run(context)
    state = steps.state_of(context)
    for value, codes in state.codes.items():
        row = state.placement.weights[value]
        assert codes.dtype == np.int64 and codes.shape == tuple(value.shape or ())
        assert codes.min() >= row.grid.low and codes.max() <= row.grid.high
        assert state.parameters[value].scale.dtype == np.float32 and state.parameters[value].method == "gptq"
    assert noise(context, fresh) < 0.7 * before


@pytest.mark.parametrize("name", ["conv", "gemm", "shared"])
def test_batches_and_their_order_do_not_matter(name: str) -> None:
    build, shape = CASES[name]
    x = correlated(60, *shape)
    found = []
    for cuts in ([], [1, 8, 59], [30]):
        parts = [{"x": part} for part in np.split(x, cuts)]
        context = prepared(build(), parts[::-1])
        Gptq().run(context)
        state = steps.state_of(context)
        found.append([(state.codes[v].tobytes(), state.parameters[v].scale.tobytes()) for v in state.codes])
    assert found[0] == found[1] == found[2]


def test_memory_bounds_what_is_done_in_one_pass_over_the_data() -> None:
    net = Net(21)
    y = net.input("x", "N", 384)
    for _ in range(3):  # 1.2 MB of second moments each
        y = net("Relu", net("MatMul", y, net.normal(384, 384)))
    proto = net.model(y)
    batches = [{"x": correlated(20, 384)}]
    reads: list[int] = []
    found = []
    for memory in (2, 512):
        context = prepared(proto, batches)
        state = steps.state_of(context)
        reads.append(0)

        def counting() -> Any:
            reads[-1] += 1
            return iter(batches)

        state.batches = counting
        Gptq(memory=memory).run(context)
        found.append([state.codes[v] for v in state.codes])
    assert reads == [3, 1]
    assert all(np.array_equal(a, b) for a, b in zip(*found, strict=True))


def test_no_more_batches_are_read_than_asked_for() -> None:
    batches = [{"x": correlated(size, 24, seed=size)} for size in (8, 5, 40)]
    found = []
    for use, samples in ((batches, 13), (batches, 9), (batches[:2], 0), (batches, 14)):
        context = prepared(gemm(), batches)
        state = steps.state_of(context)
        state.batches = lambda use=use: iter(use)
        Gptq(samples=samples).run(context)
        found.append(next(iter(state.codes.values())))
    assert np.array_equal(found[0], found[2]) and np.array_equal(found[1], found[2])
    assert not np.array_equal(found[3], found[2])


def test_near_miss_a_weight_with_too_many_inputs_is_rounded_to_nearest() -> None:
    net = Net(21)
    proto = net.model(net("Relu", net("MatMul", net.input("x", "N", 384), net.normal(384, 5))))
    context = prepared(proto, [{"x": correlated(20, 384)}])
    assert not Gptq(memory=1).run(context)
    assert not steps.state_of(context).codes
    assert "384 inputs" in context.warnings[0].message


def test_near_miss_operands_that_are_no_weights() -> None:
    net = Net(21)
    x = net.input("x", "N", 24)
    y = net("Add", net("Relu", net("MatMul", x, net.normal(24, 11))), net.normal(11))
    context = prepared(net.model(net("Relu", net("MatMul", y, net.normal(11, 11)))), [{"x": correlated(20, 24)}])
    Gptq().run(context)
    state = steps.state_of(context)
    products = {node.inputs[1] for node in context.model.graph if node.op_type in ("MatMul", "Gemm")}
    assert set(state.codes) <= products and not context.warnings


def test_one_scale_for_all_stays() -> None:
    context = prepared(gemm(), [{"x": correlated(40, 24)}], per_channel=False)
    state = steps.state_of(context)
    before = {value: state.parameters[value] for value in state.placement.weights}
    assert Gptq().run(context)
    assert all(state.parameters[value] is one for value, one in before.items())


def test_samples_without_elements() -> None:
    context = prepared(gemm(), [{"x": correlated(40, 24)}])
    steps.state_of(context).batches = lambda: iter([{"x": np.zeros((0, 24), np.float32)}])
    assert not Gptq().run(context)


@pytest.mark.parametrize("name", ["damping", "memory", "rescale", "samples", "positions"])
def test_bad_options(name: str) -> None:
    assert parse(f"gptq{{{name}=1}}")
    with pytest.raises(UsageError, match=name):
        parse(f"gptq{{{name}=-1}}")
    with pytest.raises(ValueError, match="damping"):
        Gptq(damping=np.nan)
