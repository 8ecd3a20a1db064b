"""What each pass leaves can be seen: masked output, dense tensor, scatter, combined scatters, narrowed weights."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import graphopt
from graphopt.rewrite.moves import ROLE
from tests.passes.models import before, chain, conv, model, ops, reader, residual, run, sizes, weight

LAYOUT = ("demask", "propagate", "coalesce", "narrow")


def test_demask_leaves_gather_dense_operator_scatter() -> None:
    result = run(chain(), "demask")
    second = reader(result, "Conv", 1)
    assert before(second) == "Gather"  # of what the first one scattered
    assert before(second, 1) == "Gather"  # of the weight, both ways
    first = reader(result, "Conv", 0)
    (use,) = first.outputs[0].uses()  # the dense tensor goes nowhere but into its scatter
    after = {(reading.node.op_type, reading.idx) for reading in use.node.outputs[0].uses()}
    assert use.node.op_type == "Transpose" and after == {("ScatterND", 2), ("Shape", 0)}
    assert ops(result).count("ScatterND") == 2
    assert list(first.outputs[0].shape or ())[1] == 3  # the dense tensor
    relu = reader(result, "Relu", 0)
    assert list(relu.outputs[0].shape or ())[1] == 7  # the original dimensionality
    # Weights are whole as initializers, gathered in the graph.
    assert sizes(result)["w2"] == [5, 7, 1, 1]


def test_demask_alone_does_nothing_without_a_mask() -> None:
    dense = model([conv("x", "w", "y")], [weight("w", 4, 3, 3, 3)])
    assert ops(run(dense, "demask")) == ["Conv"]


def test_propagate_runs_operators_on_the_dense_tensor() -> None:
    result = run(chain(), "demask,propagate")
    assert list(reader(result, "Relu", 0).outputs[0].shape or ())[1] == 3
    assert before(reader(result, "Conv", 1)) == "Gather"  # the scatter stands in front of it
    assert "ScatterND" in ops(result)


def test_propagate_stops_at_a_join() -> None:
    result = run(residual(), "demask,propagate")
    assert list(reader(result, "Add").outputs[0].shape or ())[1] == 7
    assert ops(result).count("ScatterND") >= 2


def test_propagate_needs_scatters() -> None:
    assert ops(run(chain(), "propagate")) == ops(run(chain(), "tidy"))


def test_coalesce_cancels_scatter_and_gather() -> None:
    result = run(chain(), "demask,propagate,coalesce,tidy")
    assert "ScatterND" not in ops(result)
    assert before(reader(result, "Conv", 1)) == "Relu"


def test_coalesce_combines_at_an_add() -> None:
    result = run(residual(), "demask,propagate,coalesce,tidy")
    assert list(reader(result, "Add").outputs[0].shape or ())[1] == 4  # the union of {1, 4, 6} and {0, 4}
    roles = [node.metadata_props.get(ROLE) for node in result.graph]
    assert roles.count("scatter") <= 2


def test_narrow_cuts_the_weights() -> None:
    result = run(chain(), "demask,propagate,coalesce,narrow,tidy")
    assert sorted(sizes(result).values()) == [[2, 3, 1, 1], [3, 3, 3, 3], [4, 2, 3, 3]]
    assert ops(result) == ["Conv", "Relu", "Conv", "Relu", "Conv"]


@pytest.mark.parametrize("plan", ["smallest", "fastest"])
@pytest.mark.parametrize("build", [chain, residual])
def test_narrow_alone_does_what_all_do_and_so_does_the_default(build, plan: str) -> None:
    default = run(build(), None, plan=plan)
    alone = run(build(), "narrow,lower-scatters,tidy,permute", plan=plan)
    stepwise = run(
        build(), "demask,propagate,coalesce,narrow,lower-scatters,tidy,narrow,lower-scatters,tidy,permute", plan=plan
    )
    assert ops(default) == ops(alone)
    assert sorted(sizes(default).values()) == sorted(sizes(alone).values())
    total = {name: sum(np.prod(shape) for shape in sizes(r).values()) for name, r in
             {"default": default, "stepwise": stepwise}.items()}  # fmt: skip
    assert total["stepwise"] <= total["default"] or plan == "fastest"


def test_align_keeps_dead_positions() -> None:
    assert sorted(sizes(run(chain(), "narrow{align=4},tidy")).values())[1:] == [[4, 4, 3, 3], [5, 3, 3, 3]] or (
        [4, 3, 3, 3] in sizes(run(chain(), "narrow{align=4},tidy")).values()
    )
    assert [3, 3, 3, 3] in sizes(run(chain(), "narrow{align=1},tidy")).values()


def test_constants_that_are_not_zero_become_a_bias_and_before_zero_padding_a_map() -> None:
    # w2 is 1x1 without padding: the constants relu(b1) of the dead rows go into its bias.
    result = run(chain(biased=True), None)
    assert [2, 3, 1, 1] in sizes(result).values()
    padded = model(
        [conv("x", "w1", "a", "b1"), helper.make_node("Relu", ["a"], ["ra"]), conv("ra", "w2", "y")],
        [
            weight("w1", 7, 3, 3, 3, rows=[1, 4, 6]),
            weight("w2", 4, 7, 3, 3),
            numpy_helper.from_array(np.array([1, 1, -1, 1, 1, -1, 1], np.float32), "b1"),
        ],
    )
    kept = run(padded, None)
    # Rows 0 and 3 are the constant 1, which adds what the kind of window lets it: 3 x 3 kinds. Rows 2 and 5 are 0.
    assert sorted(sizes(kept).values()) == [[1, 4, 3, 3], [3, 3, 3, 3], [4, 3, 3, 3]]


def test_an_output_is_scattered_and_nothing_else() -> None:
    result = run(model([conv("x", "w", "y")], [weight("w", 7, 3, 3, 3, rows=[0, 5])], outputs=(("y", 7),)), None)
    assert sizes(result)["w_cut"] == [2, 3, 3, 3]
    assert result.graph.outputs[0].name == "y"
    report = graphopt.optimize(chain(), verify=False, measure=False).report
    assert report.scatters.remaining == []


def test_fold_dead_replaces_a_dead_branch() -> None:
    dead = model(
        [
            conv("x", "w1", "a", "b1"),
            conv("a", "w2", "b"),
            conv("x", "w3", "c"),
            helper.make_node("Add", ["b", "c"], ["y"]),
        ],
        [
            weight("w1", 7, 3, 3, 3, rows=[]),
            numpy_helper.from_array(np.zeros(7, np.float32), "b1"),
            weight("w2", 4, 7, 3, 3),
            weight("w3", 4, 3, 3, 3),
        ],
    )
    assert ops(run(dead, None)) == ["Conv"]
    alive = model(
        [conv("x", "w1", "a"), conv("a", "w2", "b"), conv("x", "w3", "c"), helper.make_node("Add", ["b", "c"], ["y"])],
        [weight("w1", 7, 3, 3, 3, rows=[2]), weight("w2", 4, 7, 3, 3), weight("w3", 4, 3, 3, 3)],
    )
    assert ops(run(alive, None)).count("Conv") == 3


def test_fold_batch_norm() -> None:
    def norm(readers: int) -> list:
        nodes = [
            conv("x", "w", "a"),
            helper.make_node("BatchNormalization", ["a", "s", "b", "m", "v"], ["y" if readers == 1 else "n"]),
        ]
        return nodes if readers == 1 else [*nodes, helper.make_node("Add", ["a", "n"], ["y"])]

    values = {
        "s": [1.0, 0.0, -2.0, 0.5],
        "b": [0.0, 1.0, 2.0, 3.0],
        "m": [0.1, 0.2, 0.3, 0.4],
        "v": [1.0, 2.0, 3.0, 4.0],
    }
    weights = [
        weight("w", 4, 3, 3, 3),
        *(numpy_helper.from_array(np.array(v, np.float32), k) for k, v in values.items()),
    ]
    assert ops(run(model(norm(1), weights), "fold-batch-norm,tidy")) == ["Conv"]
    # Near miss: the convolution is read by somebody else.
    assert "BatchNormalization" in ops(run(model(norm(2), weights), "fold-batch-norm,tidy"))


def test_lower_scatters() -> None:
    two = model([conv("x", "w", "a"), helper.make_node("Softmax", ["a"], ["y"], axis=1)],
                [weight("w", 7, 3, 3, 3, rows=[0, 5])], outputs=(("y", 7),))  # fmt: skip
    assert "ScatterND" in ops(run(two, "narrow,tidy"))
    lowered = run(two, "narrow,lower-scatters,tidy")
    assert "ScatterND" not in ops(lowered) and ops(lowered) == ["Conv", "Pad", "Gather", "Softmax"]


def test_tidy_leaves_what_changes_a_shape() -> None:
    ones = numpy_helper.from_array(np.ones((1, 1, 1, 1), np.float32), "ones")
    wide = numpy_helper.from_array(np.ones((3, 1, 1, 1, 1), np.float32), "wide")
    same = model([helper.make_node("Mul", ["x", "ones"], ["a"]), helper.make_node("Relu", ["a"], ["y"])], [ones],
                 outputs=(("y", 3),))  # fmt: skip
    assert ops(run(same, "tidy")) == ["Relu"]
    grown = model([helper.make_node("Mul", ["x", "wide"], ["a"]), helper.make_node("Relu", ["a"], ["y"])], [wide])
    del grown.graph.output[0].type.tensor_type.shape.dim[:]
    grown.graph.output[0].type.tensor_type.ClearField("shape")
    assert ops(run(grown, "tidy")) == ["Mul", "Relu"]


@pytest.mark.parametrize("name", LAYOUT)
@pytest.mark.parametrize("build", [chain, residual, lambda: chain(biased=True)])
def test_every_pass_alone_leaves_a_valid_model(build, name: str) -> None:
    run(build(), name)


@pytest.mark.parametrize("plan", ["smallest", "fastest"])
def test_a_second_run_changes_nothing(plan: str) -> None:
    first = graphopt.optimize(residual(), plan=plan, verify=False, measure=False)
    second = graphopt.optimize(first.model, plan=plan, verify=False, measure=False)
    assert not any(row.changed for row in second.report.passes)


@pytest.mark.parametrize("plan", ["smallest", "fastest"])
@pytest.mark.parametrize("between", [None, "Relu", "Sigmoid"])
def test_a_mask_on_a_graph_input_is_absorbed_by_the_weights_that_read_it(between: str | None, plan: str) -> None:
    mask = np.zeros((1, 7, 1, 1), np.float32)
    mask[0, [1, 4, 6]] = 1

    def build(pad: int, *, function: str | None = between, extra: bool = False) -> onnx.ModelProto:
        nodes = [helper.make_node("Mul", ["x", "m"], ["a"])]
        nodes += [helper.make_node(function, ["a"], ["b"])] if function else []
        nodes += [conv("b" if function else "a", "w", "y", pad=pad)]
        nodes += [helper.make_node("Neg", ["a"], ["z"])] if extra else []
        shape = (4, 7, 3, 3) if pad else (4, 7, 1, 1)
        outputs = (("y", 4), ("z", 7)) if extra else (("y", 4),)
        return model(nodes, [numpy_helper.from_array(mask, "m"), weight("w", *shape)], channels=7, outputs=outputs)

    assert "Mul" not in ops(run(build(0), None, plan=plan))
    # Near misses: the constant sigmoid(0) meets zero padding; a reader shows the masked value; log(0) is not finite.
    assert ("Mul" in ops(run(build(1), None, plan=plan))) == (between == "Sigmoid")
    assert "Mul" in ops(run(build(0, extra=True), None, plan=plan))
    assert "Mul" in ops(run(build(0, function="Log"), "narrow,tidy", plan=plan))


@pytest.mark.parametrize("name", ["demask", "narrow"])
def test_passes_that_need_folded_masks_fold_them(name: str) -> None:
    masked = chain()
    mask = np.zeros((5, 1, 1, 1), np.float32)
    mask[0] = 1
    masked.graph.initializer.append(numpy_helper.from_array(mask, "m"))
    masked.graph.node.insert(0, helper.make_node("Mul", ["w2", "m"], ["masked"], name="mask"))
    masked.graph.node[3].input[1] = "masked"
    result = run(masked, name)
    assert "Mul" not in ops(result)
    assert 1 in list(reader(result, "Conv", 1).outputs[0].shape or ())


def test_a_mask_of_ones_goes_although_sizes_are_unknown() -> None:
    """``[7, 1, 1]`` stretches to whatever the value's other sizes are; ``[2, 1, 1, 1]`` may stretch the value."""

    def build(shape: tuple[int, ...]) -> onnx.ModelProto:
        nodes = [helper.make_node("Mul", ["x", "m"], ["a"]), helper.make_node("Relu", ["a"], ["y"])]
        proto = model(nodes, [numpy_helper.from_array(np.ones(shape, np.float32), "m")], channels=7)
        for value in (*proto.graph.input, *proto.graph.output):
            for dim in [value.type.tensor_type.shape.dim[axis] for axis in (0, 2, 3)]:
                dim.Clear()
        del proto.graph.output[0].type.tensor_type.shape.dim[:]
        proto.graph.output[0].type.tensor_type.ClearField("shape")
        return proto

    assert ops(graphopt.optimize(build((7, 1, 1)), passes="tidy", verify=False, measure=False).model) == ["Relu"]
    assert ops(graphopt.optimize(build((2, 1, 1, 1)), passes="tidy", verify=False, measure=False).model) == [
        "Mul",
        "Relu",
    ]
