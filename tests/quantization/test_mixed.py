"""Mixed precision: what spoils the outputs goes back to float, and nothing else; targets are met or refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from graphopt import model as models
from graphopt import rounds, runtime
from graphopt.context import Context
from graphopt.errors import ModelError, UsageError
from graphopt.passes.quantize.gptq import Gptq
from graphopt.quantization import mixed, place, steps
from graphopt.quantization.fidelity import Fidelity, worst
from graphopt.quantization.placement import Placement
from graphopt.quantization.ranking import order, ranked
from graphopt.quantization.reduce import Source, sources
from graphopt.quantization.request import Request
from graphopt.quantization.state import State
from graphopt.rounds import Settings
from tests.ops.net import Net

WIDTH = 23


@pytest.fixture(autouse=True)
def _whatever_it_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """These nets are so small that nothing of them is worth integers; here all that can be is quantized."""
    monkeypatch.setattr(place, "cheapest", lambda found: set(found.rows))


def chain(layers: int = 5, outlier: int | None = 2) -> onnx.ModelProto:
    """Layers of which one has a weight so large that, with one scale for all, nothing is left of the others."""
    net = Net(21)
    y = net.input("x", "N", WIDTH)
    for number in range(layers):
        weight = net.normal(WIDTH, WIDTH) / 4
        if number == outlier:
            weight[:, 0] = 0  # the output of the outlier is cut off again: only the scale feels it
            weight[0, 0] = 60
        y = net("Relu", net("Gemm", y, weight.astype(np.float32), net.normal(WIDTH)))
        if number == outlier:
            y = net("Mul", y, np.concatenate([[0], np.ones(WIDTH - 1)]).astype(np.float32))
    return net.model(y)


def fed(count: int = 60, seed: int = 0) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [{"x": rng.normal(size=(size, WIDTH)).astype(np.float32)} for size in (count, 1, 7)]


def prepared(proto: onnx.ModelProto, **options: Any) -> Context:
    """A context with everything that can be quantized placed, calibrated and solved."""
    context = rounds.prepare(models.load(proto), Settings(()))
    batches = fed()
    request = Request(**{"per_channel": False, **options})
    context.quantization = State(request, lambda: iter(batches), original=models.load(proto))
    steps.place(context)
    steps.calibrate(context)
    steps.find_parameters(context)
    return context


def sqnr(context: Context) -> float:
    original = steps.state_of(context).original
    assert original is not None
    found = worst(Fidelity(original, fed()).of(steps.inserted(context)))
    return math.inf if found is None else found


def test_the_layer_that_spoils_the_outputs_is_the_one_that_goes() -> None:
    context = prepared(chain())
    before = sqnr(context)
    assert before < 20
    outcome = mixed.meet(context, target_sqnr=25)
    state = steps.state_of(context)
    gemms = [node for node in context.model.graph if node.op_type == "Gemm"]
    assert state.floats == {gemms[2]} and not state.grids
    assert gemms[2] not in state.placement.nodes and gemms[1] in state.placement.nodes
    assert [kept.node for kept in state.placement.kept] == [gemms[2]]
    assert "of the noise" in state.placement.kept[0].reason
    assert sqnr(context) == outcome.after["SQNR in dB"] >= 25
    assert outcome.before["SQNR in dB"] == before
    assert "1 operators to float" in outcome.lines[0]


def test_near_miss_a_target_that_is_met_changes_nothing() -> None:
    context = prepared(chain())
    state = steps.state_of(context)
    placement, before = state.placement, sqnr(context)
    outcome = mixed.meet(context, target_sqnr=before)
    assert outcome.moves == [] and outcome.before == outcome.after
    assert state.placement is placement and not state.floats and not state.grids
    assert "met as it was" in outcome.lines[0]


def test_near_miss_no_layer_is_worse_than_the_others() -> None:
    context = prepared(chain(outlier=None))
    before = sqnr(context)
    assert before > 25
    mixed.meet(context, target_sqnr=before + 2)
    state = steps.state_of(context)
    assert before + 2 <= sqnr(context)
    assert 0 < len(state.floats) < len(sources(state.placement)) + len(state.floats)


def test_the_same_again() -> None:
    first, second = prepared(chain(outlier=None)), prepared(chain(outlier=None))
    for context in (first, second):
        mixed.meet(context, target_sqnr=36)
    names = [sorted(str(node.name) for node in steps.state_of(context).floats) for context in (first, second)]
    assert names[0] == names[1]
    assert models.serialize(steps.inserted(first)) == models.serialize(steps.inserted(second))


def test_more_is_returned_for_a_higher_target() -> None:
    counts = []
    for target in (25, 34, 40):
        context = prepared(chain())
        mixed.meet(context, target_sqnr=target)
        counts.append(len(steps.state_of(context).floats))
        assert sqnr(context) >= target
    assert counts == sorted(counts) and counts[0] < counts[-1]


def test_a_target_out_of_reach_is_an_error_that_says_what_the_best_was() -> None:
    context = prepared(chain())
    with pytest.raises(ModelError, match=r"200 was asked for, the best was \d\d"):
        mixed.meet(context, target_sqnr=200)
    with pytest.raises(ModelError, match="the best was"):
        mixed.meet(prepared(chain(1, None)), target_sqnr=200)


def test_that_the_last_operators_are_not_worth_it_alone_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, "cheapest", lambda found: set(found.rows) if len(found.rows) > 2 else set())
    context = prepared(chain())
    mixed.meet(context, target_sqnr=34)
    assert steps.state_of(context).placement.nodes and sqnr(context) >= 34
    with pytest.raises(ModelError, match=r"the best was \d\d\.\d"):
        mixed.meet(prepared(chain()), target_sqnr=100)


# --- accuracy -----------------------------------------------------------------------------------------------------


def likeness(session: Any) -> float:
    """A stand-in for an accuracy: how often the largest output is that of the float model."""
    feeds = fed(300, seed=5)[0]
    (found,) = session.run(None, feeds)
    (exact,) = runtime.run(runtime.session(models.load(chain())), feeds)
    return float((found.argmax(1) == exact.argmax(1)).mean())


def test_an_accuracy_is_met() -> None:
    context = prepared(chain())
    outcome = mixed.meet(context, target_accuracy=0.9, evaluate=likeness)
    assert outcome.before["accuracy"] < 0.9 <= outcome.after["accuracy"]
    assert likeness(runtime.session(steps.inserted(context))) == outcome.after["accuracy"]
    assert len(steps.state_of(context).floats) == 1


def test_both_targets_are_met() -> None:
    context = prepared(chain())
    outcome = mixed.meet(context, target_sqnr=38, target_accuracy=0.9, evaluate=likeness)
    assert outcome.after["SQNR in dB"] >= 38 and outcome.after["accuracy"] >= 0.9


def test_an_accuracy_that_the_float_model_does_not_have() -> None:
    with pytest.raises(ModelError, match=r"the float model itself has an accuracy of 0\.5; 0\.9 was asked for"):
        mixed.meet(prepared(chain()), target_accuracy=0.9, evaluate=lambda session: 0.5)


def test_a_bad_evaluation_is_an_error() -> None:
    def broken(session: Any) -> float:
        raise KeyError("labels")

    for evaluate, message in ((broken, "KeyError: 'labels'"), (lambda session: math.nan, "NaN"), (None, "nothing")):
        with pytest.raises(UsageError, match=message):
            mixed.meet(prepared(chain()), target_accuracy=0.9, evaluate=evaluate)


# --- few bits -----------------------------------------------------------------------------------------------------


def test_small_weights_get_eight_bits_before_float_is_tried() -> None:
    context = prepared(chain(outlier=None), weights="int3", per_channel=True)
    before = sqnr(context)
    outcome = mixed.meet(context, target_sqnr=before + 6)
    state = steps.state_of(context)
    assert state.grids and not state.floats
    kinds = {row.grid.name for row in state.placement.weights.values()}
    assert kinds >= {"int3"} and len(kinds) > 1
    assert sqnr(context) == outcome.after["SQNR in dB"] >= before + 6
    assert "weights to more bits" in outcome.lines[0]


def test_integers_of_gptq_stay_where_nothing_is_returned() -> None:
    context = prepared(chain(outlier=None), weights="int3", per_channel=True)
    Gptq().run(context)
    state = steps.state_of(context)
    codes, parameters = dict(state.codes), dict(state.parameters)
    mixed.meet(context, target_sqnr=sqnr(context) + 3)
    assert 0 < len(state.grids) < len(codes)
    assert all(value not in state.codes for value in state.grids)
    for value in codes.keys() - state.grids.keys():
        assert state.codes[value] is codes[value] and state.parameters[value] is parameters[value]


def test_weights_alone() -> None:
    net = Net(21)
    y = net.input("x", "N", 64)
    for _ in range(4):
        y = net("Relu", net("MatMul", y, net.normal(64, 64) / 4))
    proto = net.model(y)
    batches = [{"x": np.random.default_rng(0).normal(size=(40, 64)).astype(np.float32)}]
    context = rounds.prepare(models.load(proto), Settings(()))
    request = Request(activations="none", weights="int4", block=32)
    context.quantization = state = State(request, lambda: iter(batches), original=models.load(proto))
    steps.place(context)
    assert len(state.placement.weights) == 4
    before = mixed.meet(context, target_sqnr=0).before["SQNR in dB"]
    outcome = mixed.meet(context, target_sqnr=before + 3)
    assert 0 < len(state.floats) < 4 and len(state.placement.weights) == 4 - len(state.floats)
    found = worst(Fidelity(context.model, batches).of(steps.inserted(context)))
    assert found is not None and found == outcome.after["SQNR in dB"] >= before + 3
    assert {kept.node for kept in state.placement.kept} >= state.floats


# --- what adds noise ----------------------------------------------------------------------------------------------


def test_sources_are_all_tensors_once_with_all_who_need_them() -> None:
    context = prepared(chain())
    placement = steps.state_of(context).placement
    found = sources(placement)
    constants = [row.value for source in found for row in source.weights]
    values = [value for source in found for value in source.part.activations]
    assert sorted(map(id, constants)) == sorted(map(id, placement.weights))
    assert sorted(map(id, values)) == sorted(map(id, placement.activations))
    gemms = [node for node in context.model.graph if node.op_type == "Gemm"]
    between = next(
        source for source in found if gemms[0].outputs[0].consumers()[0].outputs[0] in source.part.activations
    )
    assert between.nodes == (gemms[0], gemms[1])  # the Relu between them is absorbed
    first = next(source for source in found if context.model.graph.inputs[0] in source.part.activations)
    assert first.nodes == (gemms[0],)


def test_the_whole_noise_is_nearly_the_sum_of_its_parts() -> None:
    context = prepared(chain(outlier=None))
    total = sum(move.gain for move in ranked(context, lambda what, done, total: None))
    assert abs(10 * math.log10(1 / total) - sqnr(context)) < 1.5


def nodes(count: int) -> list[ir.Node]:
    return [ir.Node("", "Relu", [ir.Value(name=f"v{i}")], name=f"n{i}") for i in range(count)]


def test_what_two_operators_share_is_offered_together() -> None:
    a, b, c = nodes(3)
    found = [Source(Placement(), (a,)), Source(Placement(), (a, b)), Source(Placement(), (c,))]
    moves = order(found, [0.1, 10.0, 1.0], dict.fromkeys((a, b, c), 1.0), [{}, {}, {}])
    assert [move.nodes for move in moves] == [(a, b), (c,)]
    assert [move.gain for move in moves] == [10.1, 1.0]


def test_cost_decides_between_equal_noises() -> None:
    a, b = nodes(2)
    found = [Source(Placement(), (a,)), Source(Placement(), (b,))]
    assert [m.nodes for m in order(found, [1.0, 1.0], {a: 2.0, b: 1.0}, [{}, {}])] == [(b,), (a,)]
    assert [m.nodes for m in order(found, [1.0, 1.0], {a: 1.0, b: 1.0}, [{}, {}])] == [(a,), (b,)]
    assert [m.nodes for m in order(found, [0.0, 0.0], {a: 1.0, b: 1.0}, [{}, {}])] == [(a,), (b,)]
    assert order([], [], {}, []) == []
