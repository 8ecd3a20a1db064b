"""What `watch` hands out: the right arrays, in the caller's order, one batch at a time."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from graphopt import model as models
from graphopt import runtime
from graphopt.calibrate.watch import Tap, extract, watch
from graphopt.errors import ModelError, UsageError
from tests.ops.net import Net


def conv_net() -> Net:
    net = Net()
    x = net.input("x", "N", 3, 9, 7)
    y = net("Relu", net("Conv", x, net.normal(5, 3, 3, 3), net.normal(5)))
    net("Conv", net("Add", y, y), net.normal(2, 5, 1, 1))
    return net


def images(*sizes: int) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [{"x": rng.normal(size=(size, 3, 9, 7)).astype(np.float32)} for size in sizes]


@pytest.mark.parametrize("ahead", [True, False])
def test_every_value_as_the_runtime_computes_it(ahead: bool) -> None:
    net = conv_net()
    model = models.load(net.model("conv7"))
    names = ["conv7", "x", "relu4", "conv3", "x"]
    found = list(watch(model, names, images(1, 5, 0, 2), ahead=ahead))
    plain = runtime.session(models.load(net.model("conv7", "x", "relu4", "conv3")), optimize=False)
    assert len(found) == 4
    for feeds, arrays in zip(images(1, 5, 0, 2), found, strict=True):
        assert list(arrays) == ["conv7", "x", "relu4", "conv3"]
        for array, wanted in zip(arrays.values(), runtime.run(plain, feeds), strict=True):
            np.testing.assert_allclose(array, wanted, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(found[1]["x"], images(1, 5)[1]["x"])


def test_the_model_stays_as_it_is() -> None:
    model = models.load(conv_net().model("conv7"))
    before = models.serialize(model)
    list(watch(model, ["relu4"], images(1)))
    assert models.serialize(model) == before


def test_a_large_model_goes_through_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.onnx"
    models.save(models.load(conv_net().model("conv7")), path, external=True)
    model = models.load(path)
    small = list(watch(model, ["conv3", "conv7"], images(2, 1)))
    saved: list[bool] = []
    save = models.save
    monkeypatch.setattr(runtime, "_IN_MEMORY_LIMIT", 100)
    monkeypatch.setattr(models, "save", lambda *given, **options: saved.append(True) or save(*given, **options))
    large = list(watch(model, ["conv3", "conv7"], images(2, 1)))
    assert saved == [True]
    for a, b in zip(small, large, strict=True):
        assert all(np.array_equal(a[name], b[name]) for name in a)


def test_only_what_is_needed_is_computed() -> None:
    part = extract(models.load(conv_net().model("conv7")), ["relu4", "x", "conv3", "x"])
    assert isinstance(part.model, ir.Model)
    assert [node.op_type for node in part.model.graph] == ["Conv", "Relu"]
    assert part.names == ("relu4", "x", "conv3")
    assert part.order == ("x", "conv3", "relu4")
    assert part.outputs == ("conv3", "relu4")
    assert part.writers["x"] == "an input of the model" and "Relu" in part.writers["relu4"]


def test_a_stored_part_gives_the_same_bits(tmp_path: Path) -> None:
    part = extract(models.load(conv_net().model("conv7")), ["conv3", "x", "conv7"])
    stored = pickle.loads(pickle.dumps(part.stored(tmp_path)))
    for feeds in images(2, 3):
        here, there = Tap(part)(feeds), Tap(stored)(feeds)
        assert list(here) == list(there)
        assert all(np.array_equal(here[name], there[name]) for name in here)


def test_data_is_read_one_batch_ahead_and_not_more() -> None:
    read: list[int] = []

    def batches() -> Iterator[dict[str, np.ndarray]]:
        for number, feeds in enumerate(images(1, 1, 1, 1)):
            read.append(number)
            yield feeds

    walk = watch(models.load(conv_net().model("conv7")), ["relu4"], batches())
    next(walk)
    assert read == [0, 1]
    walk.close()
    assert read == [0, 1]


def test_batches_before_a_broken_one_are_handed_out() -> None:
    walk = watch(models.load(conv_net().model("conv7")), ["relu4"], [*images(1), {"x": np.zeros((1, 4, 9, 7), "f4")}])
    assert next(walk)["relu4"].shape == (1, 5, 7, 5)
    with pytest.raises(ModelError, match="fails to run"):
        next(walk)


def test_inputs_alone_need_no_run() -> None:
    model = models.load(conv_net().model("conv7"))
    assert [feeds["x"].shape[0] for feeds in watch(model, ["x"], images(2, 3))] == [2, 3]
    assert list(watch(model, [], images(2, 3))) == [{}, {}]


def test_an_unknown_value_gets_the_nearest_name() -> None:
    model = models.load(conv_net().model("conv7"))
    with pytest.raises(UsageError, match="no value 'relu5'") as caught:
        list(watch(model, ["relu5"], images(1)))
    assert caught.value.help == "did you mean 'relu4'?"
    with pytest.raises(UsageError, match="no value 'const1'"):  # a weight does not depend on the data
        list(watch(model, ["const1"], images(1)))


def test_a_sequence_is_refused() -> None:
    net = Net()
    net("SequenceAt", net("SplitToSequence", net.input("x", "N", 4), 2, axis=1), 0)
    model = models.load(net.model("sequenceat4"))
    with pytest.raises(UsageError, match="'splittosequence2' is no tensor"):
        list(watch(model, ["splittosequence2"], [{"x": np.zeros((1, 4), "f4")}]))


def test_an_input_with_a_default_is_a_constant() -> None:
    net = Net()
    net("Mul", net.input("x", "N", 3), net.default("scale", np.full((1, 3), 2, "f4")))
    model = models.load(net.model("mul1"))
    assert next(watch(model, ["mul1"], [{"x": np.ones((2, 3), "f4")}]))["mul1"].tolist() == [[2, 2, 2]] * 2
    with pytest.raises(UsageError, match="no value 'scale'"):
        list(watch(model, ["scale"], [{"x": np.ones((2, 3), "f4")}]))


def test_an_empty_batch_that_would_end_the_process_is_refused() -> None:
    net = Net()
    x = net.input("x", "N", 4)
    net("Relu", net("Einsum", x, net.normal(4, 3), equation="ij,jk->ik"))
    model = models.load(net.model("relu3"))
    assert next(watch(model, ["relu3"], [{"x": np.ones((1, 4), "f4")}]))["relu3"].shape == (1, 3)
    with pytest.raises(ModelError, match="'x' has no elements"):
        list(watch(model, ["relu3"], [{"x": np.zeros((0, 4), "f4")}]))
    assert next(watch(model, ["x"], [{"x": np.zeros((0, 4), "f4")}]))["x"].size == 0


def test_half_precision_comes_as_it_is() -> None:
    net = Net()
    net("Cast", net("Cast", net.input("x", "N"), to=16), to=1)
    arrays = next(watch(models.load(net.model("cast2")), ["cast1", "cast2"], [{"x": np.array([1.0, 257.0], "f4")}]))
    assert str(arrays["cast1"].dtype) == "bfloat16"
    assert arrays["cast2"].tolist() == [1.0, 256.0]
