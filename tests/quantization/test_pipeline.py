"""From a model and data to a quantized model: what comes out, what is said about it, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphopt
from graphopt import measured, registry
from graphopt import model as models
from graphopt.calibrate.collect import collect
from graphopt.context import Context
from graphopt.errors import ModelError, UsageError, VerificationError
from graphopt.facts.constants import Constants
from graphopt.quantization import steps
from graphopt.quantization.request import Request, requested
from graphopt.report.schema import Measure
from tests.nets.large import write_matrices
from tests.ops.net import Net
from tests.quantization.edits import ops, run
from tests.quantization.nets import SHAPE, batches, cnn

DATA = batches(4, 4, 3)


def quantize(model: Any, data: Any = DATA, **options: Any) -> graphopt.Result:
    return graphopt.quantize(model, data, **{"measure": False, **options})


def sqnr(model: Any, other: Any, feeds: dict[str, np.ndarray]) -> float:
    a, b = run(model, feeds)[0].astype(np.float64), run(other, feeds)[0].astype(np.float64)
    return 10 * float(np.log10((a**2).sum() / ((a - b) ** 2).sum()))


# -- the result --------------------------------------------------------------------------------------------------------


def test_a_net_in_integers() -> None:
    proto = cnn()
    before = proto.SerializeToString()
    result = quantize(proto)
    assert proto.SerializeToString() == before, "the input is never changed"
    found = result.report.quantize
    assert found is not None and found.integer_nodes >= 5 and found.measured_kernels and found.declined is None
    assert found.output_sqnr_db is not None and found.output_sqnr_db > 35
    everything = {"x": np.concatenate([batch["x"] for batch in DATA])}
    assert found.output_sqnr_db == pytest.approx(sqnr(proto, result.model, everything), abs=0.01)
    for name in ("inputs", "outputs"):
        ours, theirs = getattr(result.model.graph, name), getattr(models.load(proto).graph, name)
        assert [(v.name, v.dtype, str(v.shape)) for v in ours] == [(v.name, v.dtype, str(v.shape)) for v in theirs]
    for size in (0, 1, 7):
        assert run(result.model, {"x": np.zeros((size, *SHAPE), np.float32)})[0].shape == (size, 5)
    assert not any(v.dtype == ir.DataType.FLOAT and (v.shape or [0]) == [16, 16, 3, 3]
                   for v in result.model.graph.initializers.values()), "no float weight is left"  # fmt: skip
    assert result.report.after.initializer_bytes < 0.5 * result.report.before.initializer_bytes


def test_the_file_and_the_report(tmp_path: Path) -> None:
    models.save(models.load(cnn()), tmp_path / "in.onnx")
    result = quantize(tmp_path / "in.onnx", plots=tmp_path / "plots")
    result.save(tmp_path / "out.onnx")
    assert result.report.output is not None and result.report.input.sha256 != result.report.output.sha256
    report = result.report.to_json()["quantize"]
    assert set(report) >= {"tensors", "integer_nodes", "float_nodes", "output_sqnr_db"}
    row = next(row for row in report["tensors"] if row["kind"] == "activation")
    assert set(row) >= {"name", "dtype", "scale", "zero_point", "mse", "sqnr_db", "method"}
    scale = Constants().array(result.model.graph.initializers[f"{row['name']}_scale"])
    assert scale is not None and row["scale"] == pytest.approx(float(scale))
    assert row["dtype"] == "uint8" and row["sqnr_db"] > 30
    assert list((tmp_path / "plots").glob("*.svg"))


def test_batches_are_counted() -> None:
    found = quantize(cnn()).report.quantize
    assert found is not None and found.batches == len(DATA) == 3
    assert (less := quantize(cnn(), DATA[:1]).report.quantize) is not None and less.batches == 1


def test_a_smaller_percentage_clips_more() -> None:
    def largest(percent: float) -> float:
        found = quantize(cnn(), method="percentile", percent=percent, recover="none").report.quantize
        assert found is not None
        return max(
            float(np.max(np.asarray(row.scale, np.float64))) for row in found.tensors if row.kind == "activation"
        )

    assert largest(90) < largest(99.9) <= largest(100)


def test_the_same_twice() -> None:
    first, again = quantize(cnn()), quantize(cnn())
    assert models.serialize(first.model) == models.serialize(again.model)


def test_quantized_again() -> None:
    """What is in integers already stays as it is."""
    once = quantize(cnn())
    twice = quantize(once.model)
    assert ops(twice.model).count("QuantizeLinear") == ops(once.model).count("QuantizeLinear")
    feeds = DATA[0]
    assert np.array_equal(run(once.model, feeds)[0], run(twice.model, feeds)[0])


# -- data --------------------------------------------------------------------------------------------------------------


def once(data: list[dict[str, np.ndarray]]) -> Iterator[dict[str, np.ndarray]]:
    yield from data


def test_every_form_of_data_gives_the_same_bytes(tmp_path: Path) -> None:
    """Files, lists, tuples with labels, tensors, iterators that can be read once; batches of whatever size."""
    import torch

    every = np.concatenate([batch["x"] for batch in DATA])
    np.savez(tmp_path / "all.npz", x=every)
    folder = tmp_path / "batches"
    folder.mkdir()
    for number, batch in enumerate(DATA):
        np.savez(folder / f"{number}.npz", x=batch["x"])
    tensors = torch.utils.data.TensorDataset(torch.from_numpy(every), torch.zeros(len(every)))
    forms: dict[str, Any] = {
        "list": DATA,
        "one": {"x": every},
        "other batches": batches(1, 0, 7, 3),
        "file": tmp_path / "all.npz",
        "folder": folder,
        "tuples": [(batch["x"], "label") for batch in DATA],
        "arrays": [batch["x"] for batch in DATA],
        "once": once(DATA),
        "loader": torch.utils.data.DataLoader(tensors, batch_size=4),
    }
    found = {name: models.serialize(quantize(cnn(), data).model) for name, data in forms.items()}
    assert set(found.values()) == {found["list"]}, [name for name in found if found[name] != found["list"]]
    assert models.serialize(quantize(cnn(), batches(11, seed=1)).model) != found["list"]


def test_samples_behind_the_first_ones_are_held_out() -> None:
    whole = quantize(cnn(), batches(4, 4, 3), samples=6)
    part = quantize(cnn(), [{"x": np.concatenate([b["x"] for b in DATA])[:6]}])
    assert models.serialize(whole.model) == models.serialize(part.model)
    report, other = whole.report.quantize, part.report.quantize
    assert report is not None and other is not None
    assert other.held_out_sqnr_db is None and report.output_sqnr_db == pytest.approx(other.output_sqnr_db)
    rest = {"x": np.concatenate([b["x"] for b in DATA])[6:]}
    assert report.held_out_sqnr_db == pytest.approx(sqnr(cnn(), whole.model, rest), abs=0.01)


@pytest.mark.parametrize("data", [None, [], [{"x": np.zeros((0, *SHAPE), np.float32)}]])
def test_no_data(data: Any) -> None:
    with pytest.raises(ModelError, match="data"):
        quantize(cnn(), data)


def test_random_data_is_drawn_only_when_asked_for() -> None:
    result = quantize(cnn(), None, random_data=True, samples=8)
    assert [row.code for row in result.report.warnings] == ["random-data"]
    assert result.report.quantize is not None and result.report.quantize.integer_nodes >= 5
    assert not quantize(cnn(), DATA, random_data=True).report.warnings, "data is there"


def test_a_number_that_is_none() -> None:
    bad = batches(4, 4)
    bad[1]["x"][2, 0, 0, 0] = np.nan
    with pytest.raises(ModelError, match="NaN") as caught:
        quantize(cnn(), bad)
    assert "sample 2 of batch 1" in str(caught.value)


def test_wrong_arrays() -> None:
    with pytest.raises(ModelError, match="no array for input 'x'"):
        quantize(cnn(), [{"y": DATA[0]["x"]}])
    with pytest.raises(UsageError, match="0 arrays for 1 inputs"):
        quantize(cnn(), [()])


# -- what stays in float -----------------------------------------------------------------------------------------------


def scores(mask: float) -> onnx.ModelProto:
    """Two products with a mask in between that half of the time hides a position."""
    net = Net()
    x = net.input("x", "N", 32, 64)
    q, k = (net("MatMul", x, net.normal(64, 64)) for _ in range(2))
    products = net("MatMul", q, net("Transpose", k, perm=[0, 2, 1]))
    hidden = net("Where", net("Less", x, 0.0), mask, 0.0)
    hidden = net("Slice", hidden, [0], [32], [2])
    y = net("Softmax", net("Add", net("Mul", products, 0.01), hidden))
    return net.model(net("MatMul", net("MatMul", y, x), net.normal(64, 64)))


@pytest.mark.parametrize("mask", [-np.inf, -3.4e38, -1e9])
def test_a_mask_on_scores_is_no_range(mask: float) -> None:
    data = [{"x": np.random.default_rng(0).standard_normal((3, 32, 64)).astype(np.float32)}]
    result = quantize(scores(mask), data)
    found = result.report.quantize
    assert found is not None and found.output_sqnr_db is not None and found.output_sqnr_db > 25
    assert found.integer_nodes >= 3, "the products are in integers all the same"


def test_a_small_mask_may_be_quantized() -> None:
    data = [{"x": np.random.default_rng(0).standard_normal((3, 32, 64)).astype(np.float32)}]
    result = quantize(scores(-1.0), data)
    assert result.report.quantize is not None and (result.report.quantize.output_sqnr_db or 0) > 25


def test_excluded_nodes() -> None:
    proto = cnn()
    convs = [node.name for node in proto.graph.node if node.op_type == "Conv"]
    result = quantize(proto, exclude=[convs[1]], everything=True)
    assert result.report.quantize is not None
    rows = {row.name: row for row in result.report.quantize.nodes}
    assert rows[convs[1]].kernel is None and "excluded" in rows[convs[1]].reason
    assert rows[convs[0]].kernel is not None
    with pytest.raises(UsageError, match="did you mean"):
        quantize(proto, exclude=[convs[1] + "x"])


def test_a_weight_that_the_caller_may_override_is_no_constant() -> None:
    net = Net()
    weight = net.default("w", net.normal(64, 64))
    y = net("MatMul", net.input("x", "N", 64), weight)
    result = quantize(net.model(net("MatMul", y, net.normal(64, 64))), [{"x": np.ones((9, 64), np.float32)}])
    assert "w" in result.model.graph.initializers and [v.name for v in result.model.graph.inputs] == ["w", "x"]


def test_nothing_to_quantize_is_said() -> None:
    net = Net()
    proto = net.model(net("Sin", net.input("x", "N", 5)))
    result = quantize(proto, [{"x": np.ones((2, 5), np.float32)}])
    assert [row.code for row in result.report.warnings] == ["nothing-quantized"]
    assert result.report.quantize is not None and result.report.quantize.declined
    assert ops(result.model) == ["Sin"] and result.report.quantize.integer_nodes == 0


def test_half_precision_is_left_alone_and_runs() -> None:
    proto = cnn()
    for tensor in proto.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    result = quantize(proto, [{"x": DATA[0]["x"].astype(np.float16)}])
    (y,) = run(result.model, {"x": DATA[0]["x"].astype(np.float16)})
    assert y.dtype == np.float16


def test_numbers_that_become_infinite_fail_the_verification() -> None:
    """1 / x of a sum that is quantized to zero: the float model has a number there."""
    net = Net()
    x = net("Conv", net.input("x", "N", 16, 8, 8), net.normal(16, 16, 3, 3))
    tiny = net("Relu", net("Conv", x, net.normal(16, 16, 3, 3)))
    proto = net.model(net("Reciprocal", net("Add", tiny, 1e-6)))
    data = [{"x": np.random.default_rng(0).standard_normal((2, 16, 8, 8)).astype(np.float32)}]
    result = quantize(proto, data, verify=False)
    spoiled = ~np.isfinite(run(result.model, data[0])[0])
    if spoiled.any():
        with pytest.raises(VerificationError, match="not finite"):
            quantize(proto, data)


# -- slower ------------------------------------------------------------------------------------------------------------


def measuring(monkeypatch: pytest.MonkeyPatch, ratios: list[float]) -> None:
    found = iter(ratios)

    def measure(original: Any, candidate: Any, **options: Any) -> Measure:
        ratio = next(found)
        return Measure(1000.0, 1000.0 * ratio, ratio, "")

    monkeypatch.setattr(measured, "measure", measure)


@pytest.mark.parametrize(("ratios", "way"), [([0.5], "quantized"), ([1.02], "quantized"), ([1.5, 0.9], "compute")])
def test_the_first_placement_that_is_not_slower(monkeypatch: pytest.MonkeyPatch, ratios: list[float], way: str) -> None:
    measuring(monkeypatch, ratios)
    result = quantize(cnn(width=32), measure=True)
    assert result.report.measure is not None and result.report.quantize is not None
    assert (result.report.measure.way, result.report.measure.ratio) == (way, ratios[-1])
    kinds = {row.op_type for row in result.report.quantize.nodes if row.kernel}
    assert ("Add" in kinds) == (way == "quantized") and "Conv" in kinds
    assert result.report.quantize.output_sqnr_db is not None


def test_the_input_where_nothing_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    measuring(monkeypatch, [1.5, 1.5])
    proto = cnn(width=32)
    result = quantize(proto, measure=True)
    report = result.report.quantize
    assert report is not None and report.declined and not report.tensors and report.integer_nodes == 0
    assert "nothing-faster" in [row.code for row in result.report.warnings] and result.report.measure is None
    assert models.serialize(result.model) == models.serialize(models.load(proto))


# -- passes that recover accuracy --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Louder:
    """Test: double every bias, and say what is known by then."""

    name: ClassVar[str] = "louder"
    stage: ClassVar[str] = "repair"
    seen: ClassVar[list[tuple[str, int, int]]] = []
    factor: float = 2.0

    def run(self, context: Context) -> bool:
        state = steps.state_of(context)
        self.seen.append((self.name, len(state.histograms), len(state.parameters)))
        for bias in list(state.placement.biases):
            array = context.constants.array(bias.value)
            assert array is not None
            name = f"{bias.value.name}_louder"
            tensor = ir.Tensor(np.asarray(array * self.factor, np.float32), name=name)
            value = ir.Value(name=name, shape=bias.value.shape, type=bias.value.type, const_value=tensor)
            context.graph.register_initializer(value)
            bias.node.replace_input_with(bias.position, value)
        return context.record({"biases": 1})


@dataclass(frozen=True)
class Coarser:
    """Test: multiply the scales of all activations."""

    name: ClassVar[str] = "coarser"
    stage: ClassVar[str] = "repair"
    by: float = 2.0

    def run(self, context: Context) -> bool:
        state = steps.state_of(context)
        for value in state.placement.activations:
            own = state.parameters[value]
            state.parameters[value] = replace(own, scale=np.asarray(own.scale * self.by, np.float32))
        return True


@dataclass(frozen=True)
class Still:
    """Test: change nothing, before anything is calibrated."""

    name: ClassVar[str] = "still"
    stage: ClassVar[str] = "smooth"

    def run(self, context: Context) -> bool:
        state = steps.state_of(context)
        Louder.seen.append((self.name, len(state.histograms), len(state.parameters)))
        return False


@pytest.fixture
def two_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    Louder.seen.clear()
    here = Louder.__module__
    monkeypatch.setattr(
        registry, "BUILT_IN", (*registry.BUILT_IN, f"{here}:Louder", f"{here}:Still", f"{here}:Coarser")
    )


def test_passes_run_at_their_stages(two_passes: None) -> None:
    proto = cnn()
    result = quantize(proto, recover="louder{factor=1.2},still", verify=False, everything=True)
    assert [name for name, _, _ in Louder.seen] == ["still", "louder"]
    assert Louder.seen[0][1:] == (0, 0) and min(Louder.seen[1][1:]) > 5
    before = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    offsets = {node.name: before[node.input[2]] for node in proto.graph.node if node.op_type in ("Conv", "Gemm")}
    constants = Constants()
    for node in result.model.graph:
        if node.op_type in ("Conv", "Gemm"):
            stored = constants.array(node.inputs[2])
            assert stored is not None and node.inputs[2].producer() is not None, "it is stored as integers"  # type: ignore[union-attr]
            assert np.allclose(stored, offsets[str(node.name)] * 1.2, atol=1e-4), "the new biases were quantized"
    assert result.report.quantize is not None
    still, louder = result.report.quantize.recovery
    assert still == "still" and louder.startswith("louder: ") and louder.endswith("kept: it changed the graph")
    assert [row.name for row in result.report.passes][-2:] == ["still", "louder"]


def test_a_pass_that_does_harm_is_undone(two_passes: None) -> None:
    harmed = quantize(cnn(), recover="coarser{by=3}")
    assert harmed.report.quantize is not None and harmed.report.quantize.recovery[0].endswith("undone")
    assert models.serialize(harmed.model) == models.serialize(quantize(cnn(), recover="none").model)
    useful = quantize(cnn(), recover="coarser{by=1}")
    assert useful.report.quantize is not None and not useful.report.quantize.recovery[0].endswith("undone")


def test_biases_are_corrected_unless_told_otherwise() -> None:
    usual, none = quantize(cnn()).report.quantize, quantize(cnn(), recover="none").report.quantize
    assert usual is not None and none is not None
    assert [line.split(":")[0] for line in usual.recovery] == ["widen-ranges", "bias-correction"]
    assert none.recovery == []
    assert (usual.output_sqnr_db or 0) >= (none.output_sqnr_db or 0)


@pytest.mark.parametrize(("text", "said"), [("narrow", "recovers no accuracy"), ("loudest", "no pass named")])
def test_passes_that_recover_nothing(two_passes: None, text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        quantize(cnn(), recover=text)


# -- requests ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [({"target": "gpu"}, "unknown target"), ({"method": "mean"}, "unknown method"), ({"weights": "int9"}, "int9"),
     ({"weights": "none"}, "none"), ({"levels": 1}, "levels"), ({"workers": 0}, "workers"),
     ({"samples": 0}, "samples"),
     ({"percent": 0}, "percent"), ({"percent": 100.5}, "percent"),
     ({"block": 0}, "block"), ({"target_accuracy": 0.9}, "nothing that tells it"),
     ({"target_sqnr": math.nan}, "target_sqnr cannot be nan"), ({"evaluate": "no.such:thing"}, "there is no module"),
     ({"evaluate": "graphopt:__version__"}, "must be a function"),
     ({"exlude": ()}, "did you mean 'exclude'")],
)  # fmt: skip
def test_requests_that_make_no_sense(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        requested(options)
    assert said in str(caught.value)


def test_a_request_is_a_request() -> None:
    assert requested({}) == Request() == requested(Request())
    assert requested({"exclude": "a*"}).exclude == ("a*",)
    assert requested({"evaluate": "math:sqrt"}).evaluate is not None


def test_a_dry_run_places_and_reads_nothing() -> None:
    def never() -> Iterator[Any]:
        raise AssertionError("no data is needed")
        yield

    proto = cnn()
    result = quantize(proto, never(), dry_run=True)
    report = result.report.quantize
    assert report is not None and report.integer_nodes == len([row for row in report.nodes if row.kernel]) >= 5
    assert models.serialize(result.model) == models.serialize(models.load(proto))
    assert quantize(proto, None, dry_run=True).report.quantize is not None


def test_weights_alone_need_no_data() -> None:
    net = Net()
    proto = net.model(net("MatMul", net.input("x", "N", 64), net.normal(64, 48)))
    result = quantize(proto, None, activations="none", weights="int4")
    feeds = {"x": np.random.default_rng(0).standard_normal((7, 64)).astype(np.float32)}
    assert sqnr(proto, result.model, feeds) > 15
    assert result.report.after.initializer_bytes < 0.3 * result.report.before.initializer_bytes
    assert replace(Request(), activations="none").weight_only


def test_a_model_with_a_branch() -> None:
    """What lies in a body stays in float; what it reads from outside may be quantized."""
    body = [
        helper.make_graph([helper.make_node(op, ["y"], [f"{op}_out"])], op, [],
                          [helper.make_tensor_value_info(f"{op}_out", TensorProto.FLOAT, ["N", 48, 14, 14])])
        for op in ("Neg", "Relu")
    ]  # fmt: skip
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal((48, 48, 3, 3)).astype(np.float32) * np.float32(0.05) for _ in range(2)]
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["h"], pads=[1] * 4),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Conv", ["r", "w1"], ["y"]),
        helper.make_node("If", ["c"], ["z"], then_branch=body[0], else_branch=body[1]),
    ]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 48, 16, 16]),
        helper.make_tensor_value_info("c", TensorProto.BOOL, []),
    ]
    outputs = [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N", 48, 14, 14])]
    constants = [numpy_helper.from_array(weight, f"w{i}") for i, weight in enumerate(weights)]
    graph = helper.make_graph(nodes, "net", inputs, outputs, constants)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    x = rng.standard_normal((3, 48, 16, 16)).astype(np.float32)
    result = quantize(proto, [{"x": x, "c": np.array(flag)} for flag in (True, False)])
    assert "QuantizeLinear" in ops(result.model)
    for flag in (True, False):
        assert sqnr(proto, result.model, {"x": x, "c": np.array(flag)}) > 30


def test_scales_of_weights_do_not_depend_on_who_else_is_quantized() -> None:
    whole, fewer = quantize(cnn(width=32)), quantize(cnn(width=32), exclude=["Add*"])
    assert whole.report.quantize is not None and fewer.report.quantize is not None
    first, second = ({row.name: row.scale for row in found.tensors if row.kind == "weight"}
                     for found in (whole.report.quantize, fewer.report.quantize))  # fmt: skip
    common = set(first) & set(second)
    assert common and all(first[name] == second[name] for name in common)


def test_weights_in_a_file_beside_the_model_give_the_same(tmp_path: Path) -> None:
    path = write_matrices(tmp_path, 3, 67)
    data = [{"x": np.random.default_rng(0).standard_normal((7, 67)).astype(np.float32)}]
    mapped, held = (quantize(one, data, everything=True) for one in (path, models.load(path)))
    mapped.save(tmp_path / "out.onnx", external=True)
    assert models.serialize(mapped.model) == models.serialize(held.model)
    assert np.array_equal(run(held.model, data[0])[0], run(models.load(tmp_path / "out.onnx"), data[0])[0])


@pytest.mark.long
def test_more_than_protobuf_holds(tmp_path: Path) -> None:
    """Two gigabytes of weights: read one by one, a quarter of them in memory at the end."""
    path = write_matrices(tmp_path, 34, 4096)
    assert (tmp_path / "model.onnx.data").stat().st_size > 2_200_000_000
    data = [{"x": np.random.default_rng(0).standard_normal((8, 4096)).astype(np.float32)}]
    result = quantize(path, data, recover="none")
    assert result.report.quantize is not None and (result.report.quantize.output_sqnr_db or 0) > 20
    result.save(tmp_path / "out.onnx", external=True)
    assert result.report.after.initializer_bytes < 0.3 * result.report.before.initializer_bytes
    for file in tmp_path.iterdir():
        file.unlink()


def test_collect_is_asked_once_for_each_value(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def counting(model: Any, names: Any, data: Any, **options: Any) -> Any:
        asked.append(list(names))
        return collect(model, names, data, **options)

    monkeypatch.setattr(steps, "collect", counting)
    measuring(monkeypatch, [1.5, 0.9])
    quantize(cnn(width=32), measure=True)
    every = [name for names in asked for name in names]
    assert len(every) == len(set(every))


def test_passes_that_take_long_say_how_far_they_are() -> None:
    said: dict[str, list[tuple[int, int]]] = {}
    quantize(
        cnn(), recover="widen-ranges,gptq,bias-correction",
        progress=lambda what, done, total: said.setdefault(what, []).append((done, total)),
    )  # fmt: skip
    for what in ("widen-ranges: tried", "gptq: layers", "bias-correction: measuring"):
        numbers = [done for done, _ in said[what]]
        assert numbers == list(range(1, len(numbers) + 1)), what
    assert said["gptq: layers"][-1][0] == said["gptq: layers"][-1][1] > 1
    assert said["bias-correction: measuring"][-1][0] == said["bias-correction: measuring"][-1][1]
