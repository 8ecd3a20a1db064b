"""Counting inside onnxruntime: the same histograms as of activations that are handed out, the same words about NaN."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx.parser
import onnx.shape_inference
import onnx_ir as ir
import pytest

from graphopt import model as models
from graphopt import rounds
from graphopt.calibrate.collect import collect
from graphopt.calibrate.counting import Counting
from graphopt.calibrate.histogram import Histogram
from graphopt.calibrate.watch import extract
from graphopt.errors import GraphoptError
from graphopt.runtime_ops.histogram.handle import available
from tests.nets.catalogue import SMALL
from tests.nets.exporting import masked_model
from tests.ops.net import Net

pytestmark = pytest.mark.skipif(not available(), reason="the native library was not built here: make ops")

_FAST = {"mobilenet", "encoder"}
_FORMS = {name: "torchscript" if "torchscript" in net.forms else net.forms[0] for name, net in SMALL.items()}


def both(monkeypatch: pytest.MonkeyPatch, *arguments: Any, **options: Any) -> list[Any]:
    """What ``collect`` returns, or raises, with the library and without it."""
    found: list[Any] = []
    for library in (True, False):
        with monkeypatch.context() as patch:
            if not library:
                patch.setenv("GRAPHOPT_OPS_LIBRARY", "")
            try:
                found.append(collect(*arguments, **options))
            except GraphoptError as error:
                found.append((type(error), str(error), error.where, error.help))
    return found


def assert_same(one: dict[str, Histogram], other: dict[str, Histogram]) -> None:
    """The same to the bit, in the same order."""
    assert list(one) == list(other)
    for name, h in one.items():
        assert h == other[name], name
        assert [math.copysign(1, x) for x in (h.minimum, h.maximum)] == [
            math.copysign(1, x) for x in (other[name].minimum, other[name].maximum)
        ]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in _FAST else pytest.mark.long) for name in sorted(SMALL)]
)
def test_every_value_of_a_net(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net = SMALL[name]
    model = rounds.prepare(masked_model(net, _FORMS[name]), rounds.Settings((), target="cpu")).model
    names = [str(out.name) for node in model.graph for out in node.outputs if out.name and _is_real(out)]
    names += [str(x.name) for x in model.graph.inputs]
    batches = [net.feeds(batch, seed=batch) for batch in (1, 3)]
    for watched in (names, names[:: len(names) // 5]):
        assert_same(*both(monkeypatch, model, watched, batches, nonfinite="count"))


def _is_real(value: ir.Value) -> bool:
    return value.dtype in (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.INT64) and not value.is_initializer()


def broken() -> tuple[ir.Model, dict[str, str]]:
    """``log x`` of each of the rows, and a sum that no sample has for itself; with the names of what they compute."""
    net = Net()
    log = net("Log", net.input("x", "N", 3))
    relu = net("Relu", log)
    total = net("ReduceSum", relu, keepdims=0)
    return models.load(onnx.shape_inference.infer_shapes(net.model(total))), {
        "x": "x",
        "log": log,
        "relu": relu,
        "sum": total,
    }


@pytest.mark.parametrize("nonfinite", ["refuse", "refuse nan", "count"])
@pytest.mark.parametrize("wrong", [[1.0], [-1.0], [0.0], [-1.0, 0.0]], ids=str)
@pytest.mark.parametrize("watched", ["log sum", "sum", "sum x relu"])
def test_the_same_words(nonfinite: Any, wrong: list[float], watched: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, names = broken()
    chosen = [names[what] for what in watched.split()]
    batches = [{"x": np.full((4, 3), 2.0, np.float32)} for _ in range(3)]
    for at, number in enumerate(wrong):
        batches[1]["x"][2 + at, at] = number
    one, other = both(monkeypatch, model, chosen, batches, nonfinite=nonfinite)
    assert type(one) is type(other)
    assert one == other


def test_it_is_counted_there() -> None:
    model, names = broken()
    counting = Counting(extract(model, [names["sum"]]))
    assert not counting.ahead
    assert not any(isinstance(value, np.ndarray) for value in counting.run(0, {"x": np.ones((2, 3), "f4")}).values())
    assert counting.tally().histograms[names["sum"]].count == 1


def test_what_has_no_counter_is_handed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Net()
    x = net.input("x", "N", 3)
    y = net("Cast", net("Cast", net("Relu", x), to=ir.DataType.UINT16.value), to=ir.DataType.FLOAT.value)
    model = models.load(onnx.shape_inference.infer_shapes(net.model(y)))
    names = [str(node.outputs[0].name) for node in model.graph]
    counting = Counting(extract(model, names))
    seen = counting.run(0, {"x": np.ones((2, 3), "f4")})
    assert [name for name in names if isinstance(seen[name], np.ndarray)] == [names[1]]
    assert_same(*both(monkeypatch, model, names, [{"x": np.arange(6, dtype="f4").reshape(2, 3)}]))


def test_a_value_that_a_branch_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    text = """
    <ir_version: 8, opset_import: ["": 13]>
    g (float[N, 3] x, bool c) => (float[N, 3] y)
    {
      a = Relu (x)
      y = If (c) <then_branch = t () => (float[N, 3] u) { u = Neg (a) },
                  else_branch = e () => (float[N, 3] v) { v = Exp (a) }>
    }
    """
    model = models.load(onnx.parser.parse_model(text))
    batches = [{"x": np.ones((2, 3), "f4") * n, "c": np.array(n > 1)} for n in (1, 2)]
    assert_same(*both(monkeypatch, model, ["a", "y"], batches))


def test_processes_and_resuming(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, names = broken()
    watched = [names["sum"], "x"]
    batches = [{"x": np.full((4, 3), 1.5 + n, np.float32)} for n in range(6)]
    alone = collect(model, watched, batches)
    assert_same(collect(model, watched, batches, workers=2), alone)
    collect(model, watched, batches[:3], resume=tmp_path)
    for resumed in both(monkeypatch, model, watched, batches, resume=tmp_path):
        assert_same(resumed, alone)
