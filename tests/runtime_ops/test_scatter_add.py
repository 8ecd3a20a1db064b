"""ScatterAdd: kernel = function = numpy, in place where that is safe and never in the caller's arrays."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from graphopt import runtime, runtime_ops
from graphopt.errors import GraphoptError
from tests.runtime_ops import running
from tests.runtime_ops.moving import TYPES, Drawn, drawn, dtype, numbers

NOTHING = -0.0


def inputs_of(case: Drawn, kind: str, fill: str, floor: bool) -> dict[str, np.ndarray | None]:
    rng = case.rng
    fills = {
        "nothing": np.array([NOTHING]),
        "one": np.array(numbers(rng, 1, kind)),
        "each": numbers(rng, case.size, kind),
        "some": np.where(rng.integers(0, 2, case.size), np.float64(NOTHING), 2.0),
    }
    return {
        "data": numbers(rng, case.shape, kind),
        "indices": case.indices,
        "updates": numbers(rng, case.narrowed(), kind),
        "fill": fills[fill].astype(dtype(kind)),
        "floor": np.array(3, dtype(kind)) if floor else None,
    }


@settings(max_examples=90, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    case=drawn(),
    kind=st.sampled_from(TYPES),
    fill=st.sampled_from(("nothing", "one", "each", "some")),
    floor=st.booleans(),
    constant=st.booleans(),
    symbolic=st.booleans(),
)
def test_all_three_agree(case: Drawn, kind: str, fill: str, floor: bool, constant: bool, symbolic: bool) -> None:
    inputs = inputs_of(case, kind, fill, floor)
    constants = ("indices", "fill") if constant else ()
    # onnxruntime's CPU provider has no Add for bfloat16, so that nothing that is the same can be written without it.
    function = kind != "bfloat16"
    running.agree("ScatterAdd", inputs, {"axis": case.axis}, constants=constants, function=function, symbolic=symbolic)


@pytest.mark.parametrize("kind", TYPES)
def test_every_path_of_the_processor(level: str, kind: str) -> None:
    rng = np.random.default_rng(1)
    for shape, axis in (((2, 33, 37), 1), ((5, 61), 1), ((3, 7, 4), 1), ((41, 5), 0)):
        case = Drawn(shape, axis, np.sort(rng.permutation(shape[axis])[: shape[axis] // 2]), rng)
        for fill, floor in (("nothing", False), ("each", True), ("some", False)):
            running.agree("ScatterAdd", inputs_of(case, kind, fill, floor), {"axis": axis}, function=False)


def test_all_float16_are_added_as_numpy_does(level: str) -> None:
    """Every number there is, infinities and what is none too, and three numbers that round in every way."""
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    for other in (1.0, -0.00043, 60000.0, NOTHING, np.inf):
        for name in ("float16", "bfloat16"):
            data = every.view(dtype(name))
            inputs = {
                "data": data,
                "indices": np.arange(data.size),
                "updates": np.full(data.size, other).astype(dtype(name)),
                "fill": np.full(1, NOTHING).astype(dtype(name)),
            }
            with np.errstate(all="ignore"):
                running.agree("ScatterAdd", inputs, {"axis": 0}, function=False)


@pytest.mark.parametrize("shape", [(3, 200, 100), (700, 50), (4096, 33), (2, 64, 28, 28)])
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("fill", ["nothing", "each"])
def test_large_ones_run_in_parts(shape: tuple[int, ...], axis: int, fill: str) -> None:
    rng = np.random.default_rng(0)
    case = Drawn(shape, axis, np.sort(rng.permutation(shape[axis])[: shape[axis] // 2]), rng)
    inputs = inputs_of(case, "float32", fill, fill == "each")
    running.agree("ScatterAdd", inputs, {"axis": axis}, threads=2, constants=("indices", "fill"))


def chain(first: str, readers: int) -> onnx.ModelProto:
    """``ScatterAdd(first(x), i, u)``, where ``readers`` more operators read what it adds to."""
    rng = np.random.default_rng(0)
    before = [] if first == "" else [helper.make_node(first, ["x"], ["h"])]
    stream = "h" if first else "x"
    nodes = [
        *before,
        helper.make_node("ScatterAdd", [stream, "i", "u", "fill"], ["s"], domain="graphopt", axis=1),
        helper.make_node("Abs", ["s"], ["y"]),
        *(helper.make_node("Exp", [stream], [f"z{index}"]) for index in range(readers)),
    ]
    values = [
        helper.make_tensor_value_info("x", 1, ["N", 8, 32]),
        helper.make_tensor_value_info("u", 1, ["N", 3, 32]),
    ]
    outputs = [
        helper.make_tensor_value_info(name, 1, ["N", 8, 32]) for name in ("y", *(f"z{i}" for i in range(readers)))
    ]
    weights = [
        numpy_helper.from_array(np.sort(rng.permutation(8)[:3]), "i"),
        numpy_helper.from_array(np.full(1, NOTHING, np.float32), "fill"),
    ]
    graph = helper.make_graph(nodes, "chain", values, outputs, weights)
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("graphopt", 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=10)
    model.functions.append(ir.serde.serialize_function(runtime_ops.operators()["ScatterAdd"].function(18)))
    return model


@pytest.mark.parametrize("size", [1, 15, 16, 17, 40])
def test_lines_in_place(level: str, size: int) -> None:
    """A line of numbers that dies here is added to where it lies."""
    rng = np.random.default_rng(size)
    indices = np.sort(rng.permutation(size)[: (size + 1) // 2])
    inputs = {
        "data": numbers(rng, (6, size), "float32"),
        "indices": indices,
        "updates": numbers(rng, (6, indices.size), "float32"),
        "fill": np.full(1, NOTHING, np.float32),
    }
    model = ir.to_proto(running.ops_model("ScatterAdd", inputs, {"axis": 1}, constants=("indices", "fill")))
    model.graph.node[0].input[0] = "dies"
    model.graph.node.insert(0, helper.make_node("Neg", ["data"], ["dies"]))
    (expected,) = runtime_ops.operators()["ScatterAdd"].reference(-inputs["data"], *list(inputs.values())[1:], axis=1)
    found = running.run(model, {name: inputs[name] for name in ("data", "updates")})[0]
    assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("readers", [0, 1])
@pytest.mark.parametrize("first", ["", "Neg"])
def test_nobody_elses_numbers_are_overwritten(first: str, readers: int) -> None:
    """Whether the stream is the caller's array, a value that others read later, or one that dies here."""
    running.need_library()
    model = chain(first, readers)
    rng = np.random.default_rng(0)
    for threads in (1, 2):
        native = running.open_session(model, True, threads)
        plain = running.open_session(model, False, threads)
        for batch in (1, 4, 0, 40):
            feeds = {"x": numbers(rng, (batch, 8, 32), "float32"), "u": numbers(rng, (batch, 3, 32), "float32")}
            kept = {name: array.copy() for name, array in feeds.items()}
            for session in (native, plain, native):
                found = session.run(None, feeds)
                for one, other in zip(found, plain.run(None, feeds), strict=True):
                    np.testing.assert_array_equal(one, other)
                for name, array in feeds.items():
                    np.testing.assert_array_equal(array, kept[name])


def test_a_bound_array_is_not_overwritten() -> None:
    """The caller's memory itself, without a copy by onnxruntime's Python interface."""
    running.need_library()
    session = running.open_session(chain("", 0), True, 1)
    x, u = np.ones((2, 8, 32), np.float32), np.ones((2, 3, 32), np.float32)
    binding = session.io_binding()
    bound = onnxruntime.OrtValue.ortvalue_from_numpy(x)
    binding.bind_ortvalue_input("x", bound)
    binding.bind_ortvalue_input("u", onnxruntime.OrtValue.ortvalue_from_numpy(u))
    binding.bind_output("y")
    for _ in range(2):
        session.run_with_iobinding(binding)
        np.testing.assert_array_equal(bound.numpy(), x)
        assert binding.copy_outputs_to_cpu()[0].sum() == x.sum() + u.sum()


def test_a_constant_is_not_overwritten() -> None:
    """A stream that is an initializer is there for the next run, too."""
    rng = np.random.default_rng(0)
    case = Drawn((6, 40), 0, np.array([1, 4]), rng)
    inputs = inputs_of(case, "float32", "nothing", False)
    model = running.ops_model("ScatterAdd", inputs, {"axis": 0}, constants=("data", "indices", "fill"))
    session = running.open_session(model, True)
    first = runtime.run(session, {"updates": inputs["updates"]})
    second = runtime.run(session, {"updates": inputs["updates"]})
    np.testing.assert_array_equal(first[0], second[0])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"indices": [1, 1]}, "indices holds 1 twice"),
        ({"indices": [0, 5]}, "indices[1] is 5, outside of [0, 5)"),
        ({"updates": np.ones((2, 4))}, "updates must be as large as data"),
        ({"fill": np.ones(3)}, "fill holds 3 numbers"),
        ({"floor": np.ones(2)}, "floor must hold one number"),
    ],
)
def test_refusals_say_what_is_wrong(change: dict[str, object], says: str) -> None:
    inputs = {
        "data": np.ones((5, 3), np.float32),
        "indices": np.array([0, 4]),
        "updates": np.ones((2, 3), np.float32),
        "fill": np.zeros(1, np.float32),
        "floor": np.zeros((), np.float32),
    }
    for name, array in change.items():
        inputs[name] = np.asarray(array, inputs[name].dtype)
    model = running.ops_model("ScatterAdd", inputs, {"axis": 0})
    with pytest.raises(GraphoptError) as error:
        running.run(model, inputs)
    assert says in str(error.value)
