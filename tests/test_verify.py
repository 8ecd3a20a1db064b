"""onnxruntime decides whether two models are one function; tolerances are tight, and exact where nothing may differ."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest

import graphopt
from graphopt import runtime, runtime_ops
from graphopt.errors import ModelError, UsageError
from graphopt.model import load
from graphopt.verify import Reference, verify
from tests.ops.net import Net

RNG = np.random.default_rng(0)
WEIGHT = RNG.standard_normal((8, 3, 3, 3)).astype(np.float32)
CONV = "g (float[N,3,H,W] x) => (float[N,8,A,B] y) { c = Conv<strides=[2,2]>(x, w) y = Relu(c) }"


def model(text: str, /, **initializers: Any) -> ir.Model:
    proto = onnx.parser.parse_model('<ir_version: 10, opset_import: ["": 21, "local": 1, "nowhere": 1]>\n' + text)
    for name, array in initializers.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    return load(proto)


def unary(expression: str, kind: str = "float", out: str | None = None, **initializers: Any) -> ir.Model:
    return model(f"g ({kind}[N,4] x) => ({out or kind}[N,4] y) {{ {expression} }}", **initializers)


def test_a_model_is_itself_and_the_report_says_on_what() -> None:
    report = verify(model(CONV, w=WEIGHT), model(CONV, w=WEIGHT))
    assert report.passed and report.reason is None
    assert report.samples == len(report.shapes) == 4
    batches = [shapes["x"][0] for shapes in report.shapes]
    assert batches == [2, 1, 0, 7]
    assert [row.name for row in report.outputs] == ["y"]
    # The 3x3 kernel does not fit an image of 1 or 0 pixels: reported, and only the batch is 1 and 0.
    assert len(report.skipped) == 2 and "H=1" in report.skipped[0] and "H=0" in report.skipped[1]
    json.loads(json.dumps(asdict(report), allow_nan=False))


def test_a_weight_off_by_a_thousandth_is_found_and_re_association_is_not() -> None:
    broken = WEIGHT.copy()
    broken[5] *= 1 + 1e-3
    report = verify(model(CONV, w=WEIGHT), model(CONV, w=broken))
    assert not report.passed
    assert "'y' is off by" in str(report.reason)
    row = report.outputs[0]
    assert row.max_abs > row.tolerance > 0 and 1e-4 < row.max_rel < 2e-3
    assert row.where is not None and ", 5, " in row.where, "the channel that was changed"


def test_the_same_sum_in_another_order_passes_and_an_empty_batch_in_nchwc_is_not_held_against_it() -> None:
    # The same sum, in another order: split into two convolutions over parts of the input channels.
    split = """g (float[N,3,H,W] x) => (float[N,8,A,B] y) { p, q = Split<axis=1>(x, parts)
        a = Conv<strides=[2,2]>(p, v) b = Conv<strides=[2,2]>(q, w) c = Add(a, b) y = Relu(c) }"""
    again = model(split, v=WEIGHT[:, :2], w=WEIGHT[:, 2:], parts=np.array([2, 1]))
    report = verify(model(CONV, w=WEIGHT), again)
    assert report.passed
    assert 0 < report.outputs[0].max_rel < 2e-6
    # onnxruntime 1.31's blocked layout cannot reshape what has no element: it fails, and only at batch 0.
    note = report.outputs[0].note
    assert note is None or "[0, 3, 16, 24]" in note


def test_rtol_and_atol_are_what_the_caller_says() -> None:
    one, other = unary("y = Identity(x)"), unary("y = Mul(x, k)", k=np.float32(1 + 1e-3))
    assert not verify(one, other).passed
    assert verify(one, other, rtol=1.1e-3, atol=0).passed
    assert not verify(one, other, rtol=0.9e-3, atol=0).passed
    shifted = unary("y = Add(x, k)", k=np.float32(0.01))
    assert verify(one, shifted, rtol=0, atol=0.011).passed
    assert not verify(one, shifted, rtol=0, atol=0.009).passed
    wrong: dict[str, Any]
    for wrong in ({"rtol": -1.0}, {"atol": float("nan")}, {"samples": 0}):
        with pytest.raises(UsageError):
            Reference(one, **wrong)


@pytest.mark.parametrize("kind", ["int64", "int32", "uint8", "bool", "string"])
def test_what_is_not_a_float_must_be_equal(kind: str) -> None:
    assert verify(unary("y = Identity(x)", kind), unary("y = Identity(x)", kind)).passed
    change = {"bool": "y = Not(x)", "string": "y = StringConcat(x, k)"}.get(kind, "y = Add(x, k)")
    value = np.array("s", dtype=object) if kind == "string" else np.array(1, None if kind == "bool" else kind)
    report = verify(unary("y = Identity(x)", kind), unary(change, kind, k=value))
    assert not report.passed and "must be equal" in str(report.reason)
    assert report.outputs[0].tolerance == 0 and report.outputs[0].max_abs == 1


def test_large_integers_are_not_rounded_before_they_are_compared() -> None:
    big = 1 << 60
    one = unary("z = Mul(x, o) y = Add(z, k)", "int64", o=np.int64(0), k=np.int64(big))
    other = unary("z = Mul(x, o) y = Add(z, k)", "int64", o=np.int64(0), k=np.int64(big + 1))
    assert not verify(one, other).passed


@pytest.mark.parametrize(
    ("one", "other", "passed"),
    [
        ([np.nan, 1, np.inf, -np.inf], [np.nan, 1, np.inf, -np.inf], True),
        ([np.nan, 1, 1, 1], [0, 1, 1, 1], False),
        ([0, 1, 1, 1], [np.nan, 1, 1, 1], False),
        ([np.inf, 1, 1, 1], [-np.inf, 1, 1, 1], False),
        ([np.inf, 1, 1, 1], [3e38, 1, 1, 1], False),
        ([np.inf, 1, 1, 1], [np.nan, 1, 1, 1], False),
        ([0.0, 0, 0, 0], [-0.0, 0, 0, 0], True),
        ([0.0, 0, 0, 0], [1e-30, 0, 0, 0], False),
        ([np.inf, 1, 1, 1], [np.inf, 1.001, 1, 1], False),
    ],
)
def test_nan_and_infinity_stand_where_they_stood(one: list[float], other: list[float], passed: bool) -> None:
    text = "s = Shape<start=0, end=1>(x) f = Concat<axis=0>(s, four) y = Expand(k, f)"
    models = [unary(text, four=np.array([4]), k=np.array(v, np.float32)) for v in (one, other)]
    report = verify(*models)
    assert report.passed is passed
    json.dumps(asdict(report), allow_nan=False)


@pytest.mark.parametrize(
    ("candidate", "reason"),
    [
        ("g (float[N,4] x) => (float[N,4] z) { z = Relu(x) }", "outputs are (z"),
        ("g (float[N,4] z) => (float[N,4] y) { y = Relu(z) }", "inputs are (z"),
        ("g (float[N,4] x) => (float[N,4] y, float[N,4] z) { y = Relu(x) z = Abs(x) }", "outputs are"),
        ("g (float[N,4] x) => (double[N,4] y) { r = Relu(x) y = Cast<to=11>(r) }", "tensor(double)"),
        ("g (float[N,4] x) => (float[A,B] y) { r = Relu(x) y = Transpose(r) }", "has shape [4, 2] instead of [2, 4]"),
        ("g (float[N,4] x) => (float[N,4] y) { y = nowhere.Relu(x) }", "does not load"),
        (
            "g (float[N,4] x) => (float[A,4] y) { k = Constant<value_ints=[2,4]>() r = Relu(x) y = Reshape(r, k) }",
            "run",
        ),
    ],
)
def test_another_interface_or_no_run_fails_with_a_reason(candidate: str, reason: str) -> None:
    report = verify(unary("y = Relu(x)"), model(candidate))
    assert not report.passed
    assert reason in str(report.reason)


def test_a_candidate_that_fails_only_at_size_zero_fails() -> None:
    original = unary("y = Relu(x)")
    candidate = unary("r = Relu(x) f = Gather(r, i) d = Sub(f, f) y = Add(r, d)", i=np.array(0))
    report = verify(original, candidate)
    assert not report.passed and "[0, 4]" in str(report.reason)
    # And where the original itself cannot run at size zero, it is skipped.
    report = verify(candidate, candidate)
    assert report.passed and report.samples == 4
    assert any("N=0" in line for line in report.skipped)


def test_sizes_are_found_for_nets_that_need_room() -> None:
    wide = model(
        "g (float[N,1,H,W] x) => (float[N,1,A,B] y) { y = Conv<strides=[8,8]>(x, w) }", w=np.ones((1, 1, 40, 40), "f")
    )
    assert Reference(wide).shapes[0]["x"][2] >= 40
    square = model("g (float[N,A] x, float[N,B] z) => (float[N,A] y) { y = Add(x, z) }")
    for shapes in Reference(square).shapes:
        assert shapes["x"][1] == shapes["z"][1] or 1 in (shapes["x"][1], shapes["z"][1])
    with pytest.raises(ModelError, match="--shape x="):
        Reference(model("g (float[N] x) => (float[5000,2] y) { y = Reshape(x, s) }", s=np.array([5000, 2])))
    given = Reference(
        model("g (float[N] x) => (float[5000,2] y) { y = Reshape(x, s) }", s=np.array([5000, 2])), shapes={"x": [10000]}
    )
    assert given.compare(
        model("g (float[N] x) => (float[5000,2] y) { y = Reshape(x, s) }", s=np.array([5000, 2]))
    ).passed


def test_a_model_that_is_nan_on_negative_numbers_is_drawn_positive_ones() -> None:
    always = Reference(unary("a = Abs(x) b = Neg(a) c = Sub(b, k) y = Log(c)", k=np.float32(1)))
    assert all(np.isnan(case.outputs[0]).all() for case in always._cases if case.outputs[0].size)
    reference = Reference(
        model("g (float[1] x) => (float[1] y) { a = Add(x, z) y = Sqrt(a) }", z=np.float32(0)), samples=16
    )
    assert not any(np.isnan(case.outputs[0]).any() for case in reference._cases)


def test_a_half_precision_inside_sets_the_tolerance() -> None:
    half = "h = Cast<to=10>(x) m = MatMul(h, w) y = Cast<to=1>(m)"
    weight = RNG.standard_normal((4, 4)).astype(np.float16)
    order = [2, 0, 3, 1]
    other = "h0 = Gather<axis=1>(x, i) h = Cast<to=10>(h0) m = MatMul(h, w) y = Cast<to=1>(m)"
    report = verify(unary(half, w=weight), unary(other, w=weight[order], i=np.array(order)))
    assert report.passed and report.outputs[0].tolerance > 1e-4
    broken = verify(unary(half, w=weight), unary(half, w=(weight * np.float16(1.05)).astype(np.float16)))
    assert not broken.passed
    full = unary("m = MatMul(x, w) y = Identity(m)", w=weight.astype(np.float32))
    assert verify(full, full).outputs[0].tolerance < 1e-3


def test_last_bits_amplified_by_the_original_itself_are_allowed_up_to_a_limit() -> None:
    # sin(200 x): the last bit of x moves the result by 200 last bits.
    one = unary("a = Mul(x, k) y = Sin(a)", k=np.float32(200))
    near = verify(one, unary("a = Mul(x, k) b = Mul(a, l) y = Sin(b)", k=np.float32(7), l=np.float32(200 / 7)))
    assert near.passed and 1e-5 < near.outputs[0].max_rel < 1e-4
    assert not verify(one, unary("a = Mul(x, k) y = Sin(a)", k=np.float32(200.002))).passed
    # At 20000 the limit of ten times the constant is passed: the tolerance stays there.
    one = unary("a = Mul(x, k) y = Sin(a)", k=np.float32(2e4))
    far = verify(one, unary("a = Mul(x, k) b = Mul(a, l) y = Sin(b)", k=np.float32(7), l=np.float32(2e4 / 7)))
    assert not far.passed and far.outputs[0].tolerance < 1.2e-4


CANCELLING = """g (float[N,1,6,6] x) => (float[N,4,A,B] y) {
    p = Abs(x) q = Add(p, big) c = Conv(q, w) y = BatchNormalization(c, g, b, m, v) }"""


def cancelling(**changed: Any) -> ir.Model:
    """Rounding errors of sums near 10,000 are all that is left behind the batch-norm, unless it is fused."""
    w = np.random.default_rng(3).uniform(0.5, 1, (4, 1, 3, 3)).astype(np.float32)
    one = np.ones(4, np.float32)
    mean = (1e4 * w.sum((1, 2, 3))).astype(np.float32)
    constants = {"big": np.float32(1e4), "w": w, "g": one, "b": 0 * one, "m": mean, "v": one}
    return model(CANCELLING, **constants | changed)


def test_what_onnxruntime_does_to_the_original_too_is_not_blamed_on_the_candidate() -> None:
    original = cancelling()
    reference = Reference(original, samples=1)
    (feeds,) = (case.feeds for case in reference._cases)
    plain, optimized = (runtime.run(runtime.session(original, optimize=o), feeds)[0] for o in (False, True))
    assert np.abs(plain - optimized).max() > 1e-4 * np.abs(plain).max(), "the optimizer changes this model"
    report = reference.compare(original)
    assert report.passed
    assert "changes the original too" in str(report.outputs[0].note)
    assert report.outputs[0].max_rel < 1e-6, "the row shows what was compared: like with like"


def test_like_with_like_has_the_same_tolerance() -> None:
    shifted = cancelling(b=np.full(4, 0.01, np.float32))
    assert not verify(cancelling(), shifted).passed
    # A model that the optimizer leaves alone gets no note.
    assert verify(unary("y = Relu(x)"), unary("y = Relu(x)")).outputs[0].note is None


def test_data_replaces_drawn_inputs(tmp_path) -> None:
    one, other = unary("y = Relu(x)"), unary("y = Identity(x)")
    positive = np.abs(RNG.standard_normal((40, 4))).astype(np.float32)
    np.savez(tmp_path / "d.npz", x=positive)
    report = verify(one, other, data=tmp_path / "d.npz")
    assert report.passed and report.shapes == [{"x": [32, 4]}, {"x": [8, 4]}]
    assert not verify(one, other, data=[{"x": -positive}]).passed
    late = [{"x": positive[:2]}] * 6 + [{"x": -positive}]
    assert not verify(one, other, data=late).passed  # all of it is compared
    assert verify(one, other, data=late, samples=6).passed
    assert not verify(one, other).passed


def test_one_reference_serves_many_candidates_and_ignores_later_edits(tmp_path) -> None:
    original = unary("y = Mul(x, k)", k=np.float32(2))
    reference = Reference(original)
    original.graph.initializers["k"].const_value = ir.tensor(np.float32(3), name="k")
    assert reference.compare(unary("y = Add(x, x)")).passed
    assert not reference.compare(original).passed
    onnx.save(ir.to_proto(unary("y = Add(x, x)")), tmp_path / "m.onnx")
    assert reference.compare(tmp_path / "m.onnx").passed
    assert reference.compare(ir.to_proto(unary("y = Add(x, x)"))).passed


def test_sequences_functions_and_no_outputs_at_all() -> None:
    split = "g (float[N,4] x) => (seq(float[N,2]) y) { y = SplitToSequence<axis=1>(x, k) }"
    one = model(split, k=np.array([2, 2]))
    report = verify(one, one)
    assert report.passed and "y[1]" in [row.name for row in report.outputs]
    assert not verify(one, model(split, k=np.array([3, 1]))).passed
    text = """g (float[N,4] x) => (float[N,4] y) { y = local.twice(x) }
        <domain: "local", opset_import: ["": 21]> twice (a) => (b) { b = Add(a, a) }"""
    assert verify(model(text), unary("y = Add(x, x)")).passed
    assert not verify(model(text), unary("y = Identity(x)")).passed


def test_a_model_without_inputs_is_compared_too() -> None:
    text = "g () => (float[2] y) { y = Identity(k) }"
    assert verify(model(text, k=np.ones(2, "f")), model(text, k=np.ones(2, "f"))).passed
    assert not verify(model(text, k=np.ones(2, "f")), model(text, k=np.zeros(2, "f"))).passed


def test_large_models_go_through_a_folder_that_is_gone_afterwards(tmp_path, monkeypatch) -> None:
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(runtime, "_IN_MEMORY_LIMIT", 100)
    weight = RNG.standard_normal((4, 400)).astype(np.float32)
    m = model("g (float[N,4] x) => (float[N,400] y) { y = MatMul(x, w) }", w=weight)
    (out,) = runtime.run(runtime.session(m), {"x": np.eye(4, dtype=np.float32)})
    assert np.array_equal(out, weight)
    assert list(tmp_path.iterdir()) == []

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(runtime, "_create", interrupted)
    with pytest.raises(KeyboardInterrupt):
        runtime.session(m)
    assert list(tmp_path.iterdir()) == []


def test_refusals_of_onnxruntime_are_short_and_quiet(tmp_path, capfd) -> None:
    with pytest.raises(ModelError, match="nowhere:Relu") as refused:
        runtime.session(model("g (float[N] x) => (float[N] y) { y = nowhere.Relu(x) }"))
    assert "ONNXRuntimeError" not in str(refused.value)
    session = runtime.session(model("g (float[N] x) => (float[2] y) { [split] y = Reshape(x, s) }", s=np.array([2])))
    with pytest.raises(ModelError) as failed:
        runtime.run(session, {"x": np.zeros(3, np.float32)})
    assert failed.value.where == "node split" and "/onnxruntime/" not in str(failed.value)
    with pytest.raises(ModelError, match="no such model file"):
        runtime.session(tmp_path / "none.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"not a model")
    with pytest.raises(ModelError):
        runtime.session(tmp_path / "bad.onnx")
    assert capfd.readouterr() == ("", "")


def test_the_name_is_the_function_and_the_module() -> None:
    import importlib

    module: Any = importlib.import_module("graphopt.verify")
    assert module(unary("y = Relu(x)"), unary("y = Relu(x)")).passed
    assert module.verify is verify


@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
def test_operators_that_end_the_process_on_empty_inputs_get_none(op: str) -> None:
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[op]
    net = Net()
    hidden, _, *_ = net.many(op, net.input("x", 5, "N", 3), net.normal(1, gates * 4, 3), net.normal(1, gates * 4, 4),
                             outputs=2, hidden_size=4)  # fmt: skip
    recurrent = net.model(hidden)
    report = verify(recurrent, recurrent)
    assert report.passed and any(op in line for line in report.skipped)
    with pytest.raises(ModelError, match="empty"):
        verify(recurrent, recurrent, data=iter([{"x": np.zeros((5, 0, 3), np.float32)}]))


def _stored(scale: float, extra: float = 0.0) -> ir.Model:
    """A product with weights stored as bytes, which onnxruntime's optimizer computes with rounded activations."""
    net = Net(21, seed=3)
    weight = net("DequantizeLinear", net.rng.integers(1, 9, (13, 2)).astype(np.uint8), np.float32(scale))
    return load(net.model(net("Add", net("MatMul", net.input("x", "N", 4, 13), weight), np.float32(extra))))


def test_an_approximate_kernel_is_no_difference_but_a_difference_is() -> None:
    report = verify(_stored(0.1), _stored(0.1))
    assert report.passed
    # A change as large as the kernel's own error is still found: as written the two do not agree.
    assert not verify(_stored(0.1), _stored(0.1, 1e-3)).passed
    assert not verify(_stored(0.1), _stored(0.1001)).passed


def _staircase(turned: bool = False, more: int = 0, offset: float = 0.0, joined: bool = False) -> ir.Model:
    """A quantized convolution, most of whose sums lie in the middle between two steps; its channels in two orders."""
    net = Net(21, seed=5)
    order = np.arange(13)[::-1] if turned else np.arange(13)
    weights = net.rng.integers(-9, 10, (6, 13, 3, 3)).astype(np.int8)
    weights[0, 0, 1, 1] += more
    zero = np.int8(0)

    def steps(x: str, scale: float) -> str:
        return net("DequantizeLinear", net("QuantizeLinear", x, np.float32(scale), zero), np.float32(scale), zero)

    x = net("Gather", net.input("x", "N", 13, 8, 8), order, axis=1)
    w = net("DequantizeLinear", weights[:, order].copy(), np.float32(0.1), zero)
    y = net("Conv", steps(x, 0.1), w, net("DequantizeLinear", np.zeros(6, np.int32), np.float32(0.1 * 0.1)))
    y = steps(y, 0.02)
    if joined:  # no runtime operator, and half of its sums lie between two steps as well
        y = steps(net("Add", y, steps(net("MaxPool", y, kernel_shape=[3, 3], pads=[1] * 4), 0.03)), 0.1)
    return load(net.model(net("Add", y, np.float32(offset))))


def test_sums_between_two_steps_are_compared_as_integers() -> None:
    """As written, floats are rounded: the order of a sum decides. Optimized, both add integers."""
    original, turned = _staircase(), _staircase(turned=True)
    feeds = {"x": np.random.default_rng(0).normal(size=(1, 13, 8, 8)).astype(np.float32)}
    plain = [runtime.run(runtime.session(one, optimize=False), feeds)[0] for one in (original, turned)]
    assert np.mean(plain[0] != plain[1]) > 0.01, "most sums are in the middle"
    report = verify(original, turned)
    assert report.passed and "between two steps" in str(report.outputs[0].note)
    assert report.outputs[0].max_abs == 0, "like with like: integers are exact"


@pytest.mark.parametrize("change", [{"more": 1}, {"offset": 1e-3}, {"offset": 0.05}])
def test_a_staircase_that_is_another_one_is_found(change: dict[str, Any]) -> None:
    assert not verify(_staircase(), _staircase(turned=True, **change)).passed
    assert not verify(_staircase(), _staircase(**change)).passed


@pytest.mark.parametrize("joined", [False, True])
def test_sums_between_two_steps_with_and_without_the_library(joined: bool) -> None:
    if runtime_ops.library() is None:
        pytest.skip("the native library was not built here: make ops")
    lowered = graphopt.optimize(_staircase(joined=joined), target="cuda", verify=False, measure=False).model
    assert runtime.takes_kernels(lowered)
    assert verify(_staircase(joined=joined), lowered).passed
    assert not verify(_staircase(more=1, joined=joined), lowered).passed


@pytest.mark.parametrize("op", ["ReduceSum", "ReduceL2", "ReduceProd"])
def test_a_reduction_of_nothing_that_the_runtime_gets_wrong_is_no_evidence(op: str) -> None:
    """Of a negative axis onnxruntime makes [0, 7] where [0] is meant, and [0, 4] where three positions are gone."""

    def of(width: int) -> onnx.ModelProto:
        net = Net()
        y = net("Abs", net("Gather", net.input("x", "N", 7), list(range(width)), axis=1))
        return net.model(net(op, y, [-1], keepdims=0))

    original = of(7)
    report = verify(original, original)
    assert report.passed
    assert any("axes instead of 1" in line for line in report.skipped)
    assert not verify(original, of(4)).passed  # it is another function at every other size


def test_empty_results_of_the_right_rank_are_compared() -> None:
    """The near miss: an axis counted from the front, which onnxruntime reduces as it should."""
    net = Net()
    original = net.model(net("ReduceSum", net.input("x", "N", 7), [1], keepdims=0))
    report = verify(original, original)
    assert report.passed
    assert not report.skipped
    assert {"x": [0, 7]} in report.shapes


def test_dead_channels_in_front_of_a_negative_axis_go() -> None:
    net = Net()
    w = net.normal(7, 3)
    w[[1, 4, 6]] = 0
    y = net("Relu", net("Gemm", net.input("x", "N", 3), w, transB=1))
    model = net.model(net("ReduceL2", y, [-1], keepdims=0))
    assert graphopt.optimize(model, plan="smallest").report.after.parameters == 4 * 3
