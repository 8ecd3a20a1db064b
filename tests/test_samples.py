"""Drawn inputs are legal where the graph says what is legal; given data is checked against the model."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest

from graphopt import runtime, samples
from graphopt.errors import GraphoptError, ModelError, UsageError
from graphopt.model import load


def model(text: str, /, **initializers: Any) -> ir.Model:
    proto = onnx.parser.parse_model('<ir_version: 10, opset_import: ["": 21, "local": 1]>\n' + text)
    for name, array in initializers.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    return load(proto)


def test_one_symbol_has_one_size_and_sizes_0_1_and_a_prime_come() -> None:
    drawn = samples.draw(model("g (float[N,S] a, int64[N,S] b, float[S] c) => (float[N,S] y) { y = Add(a, c) }"))
    for feeds in drawn:
        assert feeds["a"].shape == feeds["b"].shape == (len(feeds["a"]), len(feeds["c"]))
    shapes = [feeds["a"].shape for feeds in drawn]
    assert shapes == [(2, 5), (1, 1), (0, 0), (7, 11)]


def test_distinct_symbols_are_told_apart_by_their_sizes() -> None:
    feeds = samples.draw(model("g (float[N,A,B] x) => (float[N,A,B] y) { y = Relu(x) }"))[0]
    assert len(set(feeds["x"].shape)) == 3


def test_expressions_of_symbols_are_evaluated() -> None:
    m = model("g (float[N,S] a, float[N,T] b) => (float[N,S] y) { y = Relu(a) }")
    m.graph.inputs[1].shape = ir.Shape(["N", ir.SymbolicDim("S + 3")])
    for feeds in samples.draw(m):
        assert feeds["b"].shape[1] == feeds["a"].shape[1] + 3


def test_the_seed_decides() -> None:
    m = model("g (float[N,3] x) => (float[N,3] y) { y = Relu(x) }")
    first, again, other = (samples.draw(m, seed=seed)[0]["x"] for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    fixed = samples.draw(model("g (float[3] x) => (float[3] y) { y = Relu(x) }"), samples=2)
    assert not np.array_equal(fixed[0]["x"], fixed[1]["x"])


def test_ids_lie_inside_the_table_they_index() -> None:
    text = """g (int64[N,S] ids, int64[N,S] pos, float[N] kind) => (float y) {
        flat = Reshape(ids, minus) a = Gather(table, flat)
        shifted = Add(pos, two) b = Gather(table, shifted)
        k = Cast<to=7>(kind) c = Gather<axis=1>(table, k)
        sa = ReduceSum<keepdims=0>(a) sb = ReduceSum<keepdims=0>(b) sc = ReduceSum<keepdims=0>(c)
        y = Sum(sa, sb, sc) }"""
    table = np.ones((5, 3), np.float32)
    m = model(text, table=table, minus=np.array([-1]), two=np.array(2))
    seen: dict[str, set[float]] = {"ids": set(), "pos": set(), "kind": set()}
    for feeds in samples.draw(m, samples=40):
        for name, values in seen.items():
            values.update(np.ravel(feeds[name]).tolist())
    assert seen == {"ids": {0, 1, 2, 3, 4}, "pos": {0, 1, 2}, "kind": {0, 1, 2}}


def test_a_plain_integer_is_not_taken_for_an_id() -> None:
    drawn = samples.draw(model("g (int64[N,5] x) => (int64[N,5] y) { y = Abs(x) }"), samples=20)
    values = np.concatenate([feeds["x"].ravel() for feeds in drawn])
    assert values.min() < 0 and values.max() > 4


def test_ids_are_followed_into_local_functions() -> None:
    text = """g (int64[N] ids) => (float[N,2] y) { y = local.look(table, ids) }
        <domain: "local", opset_import: ["": 21]> look (t, i) => (o) { j = Identity(i) o = Gather(t, j) }"""
    drawn = samples.draw(model(text, table=np.ones((3, 2), np.float32)), samples=20)
    values = {int(v) for feeds in drawn for v in feeds["ids"]}
    assert values == {0, 1, 2}


@pytest.mark.parametrize("kind", ["bool", "int64"])
def test_masks_leave_something_in_every_row(kind: str) -> None:
    cast = "c = Cast<to=9>(mask)" if kind == "int64" else "c = Identity(mask)"
    m = model(f"g ({kind}[N,S] mask, float[N,S] x) => (float[N,S] y) {{ {cast} y = Where(c, x, x) }}")
    for feeds in samples.draw(m, samples=12):
        mask = feeds["mask"]
        assert set(np.unique(mask)) <= {0, 1}
        assert mask.shape[-1] == 0 or mask.any(axis=-1).all()
    assert not samples.draw(m, samples=1)[0]["mask"].all()


@pytest.mark.parametrize(
    "text",
    [
        "g (float[N,4] x, int64[2] s) => (float y) { r = Reshape(x, s) y = ReduceSum<keepdims=0>(r) }",
        "g (float[N,4] x, int64[3] s) => (float[A,B,C] y) { y = Expand(x, s) }",
        "g (float[4,5] x, int64[1] k) => (float[A,B] y, int64[A,B] i) { y, i = TopK(x, k) }",
        "g (float[4,5] x, int64[2] a, int64[2] b) => (float[A,B] y) { y = Slice(x, a, b) }",
        "g (int64 a, int64 b, int64 c) => (int64[N] y) { y = Range(a, b, c) }",
        "g (int64[N] a, int64[N] b) => (int64[N] y) { y = Div(a, b) }",
        "g (float[2,1,3] x, int64[1] axes) => (float y) { s = ReduceSum(x, axes) y = ReduceSum<keepdims=0>(s) }",
        "g (float[N,4] x, float r, bool t) => (float[N,4] y) { y = Dropout(x, r, t) }",
    ],
)
def test_operands_that_are_shapes_are_legal(text: str) -> None:
    m = model(text)
    session = runtime.session(m, optimize=False)
    for feeds in samples.draw(m):
        runtime.run(session, feeds)


def test_every_kind_of_element_can_be_drawn() -> None:
    for kind in ("float", "double", "float16", "bfloat16", "int8", "uint8", "int32", "uint64", "bool", "string"):
        m = model(f"g ({kind}[N,3] x) => ({kind}[N,3] y) {{ y = Identity(x) }}")
        session = runtime.session(m)
        for feeds in samples.draw(m):
            (out,) = runtime.run(session, feeds)
            assert out.shape == feeds["x"].shape
            assert np.array_equal(out.astype(object), feeds["x"].astype(object))


def test_given_shapes_fix_symbols_everywhere() -> None:
    m = model("g (float[N,S] a, float[S,M] b) => (float[N,M] y) { y = MatMul(a, b) }")
    for feeds in samples.draw(m, shapes={"a": [-1, 6]}):
        assert feeds["a"].shape[1] == feeds["b"].shape[0] == 6
    assert {feeds["a"].shape[0] for feeds in samples.draw(m, shapes={"a": [-1, 6]})} == {2, 1, 0, 7}


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"ab": [1, 2]}, "did you mean 'a'"),
        ({"a": [1]}, "2 axes"),
        ({"a": [1, 4]}, "is 3"),
        ({"a": [-2, 3]}, "cannot have size -2"),
    ],
)
def test_shapes_that_do_not_fit_are_wrong_usage(shapes: dict[str, list[int]], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        samples.draw(model("g (float[N,3] a) => (float[N,3] y) { y = Relu(a) }"), shapes=shapes)


def test_inputs_that_cannot_be_drawn_say_what_to_do() -> None:
    shapeless = model("g (float[N] x) => (float[N] y) { y = Relu(x) }")
    shapeless.graph.inputs[0].shape = None
    with pytest.raises(ModelError, match="--shape x="):
        samples.draw(shapeless)
    assert samples.draw(shapeless, shapes={"x": [2, 3]})[0]["x"].shape == (2, 3)
    with pytest.raises(ModelError, match="is a sequence"):
        samples.draw(model("g (seq(float[N]) x) => (int64 y) { y = SequenceLength(x) }"))


TWO = "g (float[N,3] image, int64[N] label) => (float[N,3] y) { c = Cast<to=1>(label) y = Identity(image) }"


def test_npz_is_cut_into_the_batches_the_model_wants(tmp_path) -> None:
    images = np.arange(30, dtype=np.float32).reshape(10, 3)
    np.savez(tmp_path / "d.npz", image=images, label=np.arange(10), extra=np.zeros(10))
    open_batch = list(samples.feeds(tmp_path / "d.npz", model(TWO)))
    assert [set(batch) for batch in open_batch] == [{"image", "label"}]
    assert np.array_equal(open_batch[0]["image"], images)
    fours = list(samples.feeds(tmp_path / "d.npz", model(TWO.replace("N", "4"))))
    assert [batch["image"].shape for batch in fours] == [(4, 3), (4, 3)]
    assert np.array_equal(fours[1]["label"], [4, 5, 6, 7])
    with pytest.raises(ModelError, match="10 samples, but the model wants batches of 11"):
        list(samples.feeds(tmp_path / "d.npz", model(TWO.replace("N", "11"))))


def test_samples_without_a_batch_axis_come_one_by_one(tmp_path) -> None:
    np.savez(tmp_path / "d.npz", x=np.zeros((3, 5), np.float32))
    batches = list(samples.feeds(tmp_path / "d.npz", model("g (float[5] x) => (float[5] y) { y = Relu(x) }")))
    assert [batch["x"].shape for batch in batches] == [(5,)] * 3


def test_a_directory_holds_a_batch_per_file(tmp_path) -> None:
    for i in (1, 0):
        np.savez(tmp_path / f"{i}.npz", image=np.full((i + 1, 3), i, np.float32), label=np.zeros(i + 1, np.int64))
    batches = list(samples.feeds(tmp_path, model(TWO)))
    assert [batch["image"].shape for batch in batches] == [(1, 3), (2, 3)]
    assert len(list(samples.feeds(str(tmp_path), model(TWO), samples=1))) == 1


def test_an_iterable_is_imported_by_name(tmp_path, monkeypatch) -> None:
    (tmp_path / "my_batches.py").write_text(
        "import numpy as np\n"
        "def batches():\n"
        "    yield {'x': np.zeros((2, 3), np.float32)}\n"
        "listed = list(batches())\n"
        "number = 3\n"
        "def raising():\n"
        "    yield listed[0]\n"
        "    raise KeyError('disk gone')\n"
        "def wanting(path): ...\n"
    )
    (tmp_path / "bad_batches.py").write_text("def batches(:\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "my_batches", raising=False)
    m = model("g (float[N,3] x) => (float[N,3] y) { y = Relu(x) }")
    for name in ("batches", "listed"):
        assert [b["x"].shape for b in samples.feeds(f"my_batches:{name}", m)] == [(2, 3)]
    for name, message in (("batchs", "did you mean batches"), ("number", "is a int")):
        with pytest.raises(UsageError, match=message):
            list(samples.feeds(f"my_batches:{name}", m))
    with pytest.raises(UsageError, match="there is no module"):
        list(samples.feeds("no_such_module_here:x", m))
    for name, message, where in (
        ("my_batches:raising", "KeyError: 'disk gone'", "my_batches.py:8 in raising"),
        ("my_batches:wanting", "missing 1 required positional argument", "my_batches:wanting"),
        ("bad_batches:batches", "SyntaxError", "bad_batches.py:1"),
    ):
        with pytest.raises(GraphoptError) as caught:
            list(samples.feeds(name, m))
        assert message in caught.value.what and where in (caught.value.where or ""), caught.value


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"imag": np.zeros((2, 3), np.float32), "label": np.zeros(2, np.int64)}, "rename 'imag'"),
        ({"image": np.zeros((2, 4), np.float32), "label": np.zeros(2, np.int64)}, "axis 1 of input 'image' is 3"),
        ({"image": np.zeros(3, np.float32), "label": np.zeros(2, np.int64)}, "2 axes"),
        ({"image": np.zeros((2, 3), np.float32), "label": np.zeros(2)}, "is int64, the array is float64"),
    ],
)
def test_data_that_does_not_fit_is_refused(batch: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        list(samples.feeds([batch], model(TWO)))
    assert caught.value.help


def test_harmless_conversions_of_data_are_made() -> None:
    (feeds,) = samples.feeds({"image": np.ones((2, 3)), "label": np.array([1, 2], np.uint8)}, model(TWO))
    assert feeds["image"].dtype == np.float32 and feeds["label"].dtype == np.int64


def test_broken_files_are_refused(tmp_path) -> None:
    m = model(TWO)
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 not really")
    (tmp_path / "text.npz").write_text("hello")
    (tmp_path / "nothing.npz").write_bytes(b"")
    np.save(tmp_path / "lone.npy", np.zeros((2, 3), np.float32))
    (tmp_path / "empty").mkdir()
    np.savez(tmp_path / "uneven.npz", image=np.zeros((2, 3), np.float32), label=np.zeros(3, np.int64))
    np.savez(tmp_path / "pickle.npz", image=np.array([{}]), label=np.zeros(1, np.int64))
    np.savez(tmp_path / "none.npz", image=np.zeros((0, 3), np.float32), label=np.zeros(0, np.int64))
    for name, message in (
        ("missing.npz", "no such data file"),
        ("bad.npz", "not a readable"),
        ("text.npz", "no archive, or it is truncated"),
        ("nothing.npz", "it is empty"),
        ("lone.npy", "one nameless array"),
        ("empty", "no .npz file"),
        ("uneven.npz", "differ in their number"),
        ("pickle.npz", "not a readable"),
        ("none.npz", "no batch"),
    ):
        with pytest.raises(ModelError, match=message) as caught:
            list(samples.feeds(tmp_path / name, m))
        assert caught.value.help and "pickle" not in caught.value.help
