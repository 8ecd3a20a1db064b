"""Collecting: any batches, the right message for broken data, memory that does not grow."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx.parser
import pytest

from graphopt import model as models
from graphopt.calibrate.collect import collect
from graphopt.calibrate.histogram import Histogram, histogram
from graphopt.calibrate.watch import watch
from graphopt.errors import ModelError, UsageError
from tests.ops.net import Net


def elementwise() -> Net:
    """Every number is computed alone: the same bits in any batch."""
    net = Net()
    x = net.input("x", "N", "L")
    net("Mul", net("Relu", x), 0.3)
    return net


def rows(*shapes: tuple[int, int], seed: int = 0) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [{"x": rng.normal(size=shape).astype(np.float32)} for shape in shapes]


def test_ragged_batches_of_any_length_and_empty_ones() -> None:
    model = models.load(elementwise().model("mul3"))
    batches = rows((3, 7), (1, 1), (0, 5), (5, 0), (2, 1009), (1, 7))
    found = collect(model, ["mul3", "x"], batches)
    x = np.concatenate([feeds["x"].reshape(-1) for feeds in batches])
    assert list(found) == ["mul3", "x"]
    assert found["x"] == histogram(x)
    assert found["mul3"] == histogram(np.maximum(x, 0) * np.float32(0.3))
    assert collect(model, ["mul3", "x"], reversed(batches)) == found
    flat = [{"x": number.reshape(1, 1)} for number in x[:50]] + [{"x": x[50:].reshape(-1, 1)}]
    assert collect(model, ["mul3", "x"], flat) == found


def test_it_counts_what_watch_shows() -> None:
    net = Net()
    x, scale = net.input("x", "N", 3, 8, 8), net.input("scale", "N", 1, 1, 1)
    y = net("Conv", net("Mul", x, scale), net.normal(4, 3, 3, 3))
    net("Relu", y)
    model = models.load(net.model("relu4"))
    rng = np.random.default_rng(1)
    batches = [
        {"x": rng.normal(size=(n, 3, 8, 8)).astype("f4"), "scale": rng.normal(size=(n, 1, 1, 1)).astype("f4")}
        for n in (4, 4, 1)
    ]
    names = ["relu4", "scale", "conv3"]
    wanted = {name: Histogram() for name in names}
    for arrays in watch(model, names, batches):
        for name, array in arrays.items():
            wanted[name] += histogram(array)
    assert collect(model, names, iter(batches)) == wanted


@pytest.mark.parametrize("batches", [[], rows((0, 5), (0, 1))])
def test_no_data_is_an_error_that_says_what_is_needed(batches: list) -> None:
    with pytest.raises(ModelError, match="holds no samples") as caught:
        collect(models.load(elementwise().model("mul3")), ["mul3"], batches)
    assert caught.value.help and ".npz" in caught.value.help


@pytest.mark.parametrize("workers", [1, 2])
def test_data_may_come_in_the_same_array_again_and_again(workers: int) -> None:
    model = models.load(elementwise().model("mul3"))
    batches = rows(*[(50, 400)] * 6)

    def refilled() -> Iterator[dict[str, np.ndarray]]:
        array = np.empty((50, 400), np.float32)
        for feeds in batches:
            array[:] = feeds["x"]
            yield {"x": array}

    assert collect(model, ["mul3", "x"], refilled(), workers=workers) == collect(model, ["mul3", "x"], batches)
    for shown, feeds in zip(watch(model, ["x"], refilled()), batches, strict=True):
        assert np.array_equal(shown["x"], feeds["x"])


def test_nothing_watched_reads_nothing() -> None:
    assert collect(models.load(elementwise().model("mul3")), [], []) == {}


@pytest.mark.parametrize(("value", "kind"), [(np.nan, "NaN"), (np.inf, "infinite"), (-np.inf, "infinite")])
def test_a_number_that_is_not_finite_names_tensor_batch_and_sample(value: float, kind: str) -> None:
    net = Net()
    net("Relu", net("Exp", net("Sqrt", net.input("x", "N", 4))))
    model = models.load(net.model("relu3"))
    batches = [{"x": np.ones((3, 4), "f4")} for _ in range(4)]
    batches[2]["x"][1, 3] = value if value > 0 or math.isnan(value) else -1.0  # the square root of -1 is NaN
    kind = "NaN" if value < 0 else kind
    with pytest.raises(ModelError) as caught:
        collect(model, ["relu3", "sqrt1", "exp2"], batches)
    writer = "the output of node 'Sqrt1' (Sqrt)"
    assert caught.value.what == f"1 of the 12 numbers of 'sqrt1', {writer}, are {kind}"
    assert caught.value.where == "sample 1 of batch 2 of the data"
    counted = collect(model, ["relu3", "sqrt1"], batches, nonfinite="count")["sqrt1"]
    assert counted.count == 47 and counted.nans + counted.infinities == 1
    if kind == "NaN":
        with pytest.raises(ModelError, match="of 'sqrt1'") as caught:
            collect(model, ["relu3", "sqrt1"], batches, nonfinite="refuse nan")
        assert caught.value.where == "sample 1 of batch 2 of the data"
    else:
        assert collect(model, ["sqrt1"], batches, nonfinite="refuse nan")["sqrt1"] == counted


def test_a_broken_input_is_named_itself() -> None:
    model = models.load(elementwise().model("mul3"))
    batches = rows((2, 3), (4, 5))
    batches[1]["x"][2:, 0] = np.nan
    with pytest.raises(ModelError, match="2 of the 20 numbers of 'x', an input of the model, are") as caught:
        collect(model, ["mul3", "x"], batches)
    assert caught.value.where == "sample 2 of batch 1 of the data and 1 more of its samples"


def test_a_nan_among_infinities_is_found() -> None:
    model = models.load(elementwise().model("mul3"))
    feeds = [{"x": np.full((4, 2), np.inf, "f4")}]
    feeds[0]["x"][2, 1] = np.nan
    with pytest.raises(ModelError, match="1 of the 8 numbers of 'x', an input of the model, are NaN") as caught:
        collect(model, ["x"], feeds, nonfinite="refuse nan")
    assert caught.value.where == "sample 2 of batch 0 of the data"
    with pytest.raises(ModelError, match="8 of the 8 numbers of 'x', an input of the model, are NaN or infinite"):
        collect(model, ["x"], feeds)


def test_a_sample_is_only_named_where_there_are_samples() -> None:
    net = Net()
    net("ReduceSum", net.input("x", "N", 4), keepdims=0)
    model = models.load(net.model("reducesum1"))
    with pytest.raises(ModelError) as caught:
        collect(model, ["reducesum1"], [{"x": np.full((3, 4), np.inf, "f4")}])
    assert caught.value.where == "batch 0 of the data"


def test_a_batch_that_does_not_run_is_named() -> None:
    net = Net()
    net("MatMul", net.input("x", "N", "K"), net.normal(4, 2))
    model = models.load(net.model("matmul2"))
    with pytest.raises(ModelError) as caught:
        collect(model, ["matmul2"], rows((2, 4), (2, 5)))
    assert caught.value.where and caught.value.where.startswith("batch 1 of the data")


def test_text_has_no_histogram() -> None:
    net = Net()
    net("Cast", net.input("x", "N"), to=8)
    with pytest.raises(UsageError, match="'cast1' has no histogram"):
        collect(models.load(net.model("cast1")), ["cast1"], [{"x": np.ones(2, "f4")}])


def test_a_sequence_may_be_fed(tmp_path: Path) -> None:
    model = models.load(
        onnx.parser.parse_model(
            """<ir_version: 10, opset_import: ["": 18]>
            g (seq(float[N]) s, float[K] x) => (float[K] y) {
                i = Constant <value = int64 {1}> ()
                a = SequenceAt(s, i)
                b = ReduceSum(a)
                y = Mul(x, b)
            }"""
        )
    )
    feeds = [{"s": [np.ones(3, "f4"), np.full(5, 2, "f4")], "x": np.array([1.0, 3.0], "f4")} for _ in range(2)]
    found = collect(model, ["y", "x"], feeds, resume=tmp_path)
    assert found["y"] == histogram(np.array([10.0, 30.0] * 2)) and found["x"] == histogram(np.array([1.0, 3.0] * 2))
    assert collect(model, ["y", "x"], feeds, resume=tmp_path) == found
    feeds[1]["s"][0][0] = 2
    with pytest.raises(ModelError, match="batch 1 of the data is not the one"):
        collect(model, ["y", "x"], feeds, resume=tmp_path)
    feeds[1]["x"][0] = np.nan
    with pytest.raises(ModelError, match="1 of the 2 numbers of 'x'"):
        collect(model, ["y", "x"], feeds)


def test_a_dead_tensor_is_counted_and_known() -> None:
    net = Net()
    net("Mul", net("Relu", net.input("x", "N", 3)), 0.0)
    found = collect(models.load(net.model("mul3")), ["mul3", "relu1"], [{"x": np.ones((2, 3), "f4")}] * 2)
    assert found["mul3"].dead and found["mul3"].count == 12 and found["mul3"].maximum == 0
    assert found["relu1"].dead and not collect(models.load(net.model("mul3")), ["x"], rows((2, 3)))["x"].dead


def test_progress_counts_batches_as_they_are_done() -> None:
    seen: list[tuple[str, int, int]] = []
    model = models.load(elementwise().model("mul3"))

    def note(what: str, done: int, total: int) -> None:
        seen.append((what, done, total))

    collect(model, ["mul3"], rows((1, 1), (0, 1), (2, 2)), progress=note)
    assert seen == [("calibrating", done, 3) for done in range(4)]
    seen.clear()
    collect(model, ["mul3"], iter(rows((1, 1), (2, 2))), progress=note)
    assert seen == [("calibrating", done, 0) for done in range(3)]
    seen.clear()
    collect(model, ["mul3"], iter(rows((1, 1))), progress=note, total=1)
    assert seen == [("calibrating", 0, 1), ("calibrating", 1, 1)]


def test_an_error_of_the_data_is_not_hidden() -> None:
    def batches() -> Iterator[dict[str, np.ndarray]]:
        yield rows((1, 1))[0]
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        collect(models.load(elementwise().model("mul3")), ["mul3"], batches())


def test_no_worker_is_no_way_to_work() -> None:
    with pytest.raises(UsageError, match="0 workers"):
        collect(models.load(elementwise().model("mul3")), ["mul3"], rows((1, 1)), workers=0)
