"""The pipeline as a whole: inputs stay as they are, wrong passes are found and named, recipes, functions, subgraphs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

import graphopt
from graphopt import registry
from graphopt.cli import main
from graphopt.errors import UsageError, VerificationError
from graphopt.facts.stats import stats
from graphopt.verify import Reference
from tests.passes.models import chain, conv, model, residual, run, sizes, weight


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry with a pass that is wrong."""
    monkeypatch.setattr(registry, "BUILT_IN", (*registry.BUILT_IN, "tests.passes.broken:Broken"))


def test_the_result_is_verified_and_reported() -> None:
    result = graphopt.optimize(chain())
    report = result.report
    assert report.verify is not None and report.verify.passed and report.verify.outputs[0].name == "y"
    batches = {shape["x"][0] for shape in report.verify.shapes}
    assert {0, 1} <= batches and len(batches) > 2
    assert report.after.parameters < report.before.parameters and report.after.macs < report.before.macs
    assert {row.name for row in report.passes} >= {"fold-masks", "demask", "propagate", "coalesce", "narrow", "tidy"}
    assert [row.kept for row in report.axes if row.value == "a"] == [3]
    masked = chain()
    masked.graph.initializer.append(numpy_helper.from_array(np.eye(5, dtype=np.float32)[[0]].reshape(5, 1, 1, 1), "m"))
    masked.graph.node.insert(0, helper.make_node("Mul", ["w2", "m"], ["masked"]))
    masked.graph.node[3].input[1] = "masked"
    axes = graphopt.optimize(masked).report.axes  # seen behind the mask, too
    assert [row.kept for row in axes if row.value == "b"] == [1]


@pytest.mark.parametrize("where", ["broken", "tidy,broken", "demask,propagate,broken,narrow,tidy"])
def test_a_wrong_pass_is_named(broken: None, where: str) -> None:
    with pytest.raises(VerificationError) as caught:
        graphopt.optimize(chain(), passes=where)
    assert caught.value.pass_name == "broken" and "'broken'" in str(caught.value)
    assert caught.value.exit_status == 3
    kept = graphopt.optimize(chain(), passes=where, keep_failed=True)
    assert kept.report.verify is not None and not kept.report.verify.passed


def test_a_wrong_pass_of_the_default_pipeline_is_named_and_nothing_is_written(
    broken: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = tmp_path / "in.onnx", tmp_path / "out.onnx"
    onnx.save(chain(), source)
    before = source.read_bytes()
    status = main(["optimize", str(source), "-o", str(target)])
    assert status == 3
    assert "broken" in capsys.readouterr().err
    assert not target.exists() and source.read_bytes() == before and sorted(tmp_path.iterdir()) == [source]
    assert main(["optimize", str(source), "-o", str(target), "--keep-failed"]) in (0, 3)
    assert target.exists()


def test_the_input_is_never_changed() -> None:
    proto = residual()
    before = proto.SerializeToString()
    graphopt.optimize(proto, verify=False)
    assert proto.SerializeToString() == before
    loaded = ir.from_proto(proto)
    graphopt.optimize(loaded, verify=False)
    assert ir.to_proto(loaded).SerializeToString(deterministic=True) == ir.to_proto(
        ir.from_proto(proto)
    ).SerializeToString(deterministic=True)


def test_recipes(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("passes:\n  - fold-masks\n  - narrow: {align: 4}\n  - tidy\n")
    result = graphopt.optimize(chain(), recipe=recipe)
    assert [row.name for row in result.report.passes] == ["fold-masks", "narrow", "tidy"]
    assert [4, 3, 3, 3] in sizes(result.model).values()
    recipe.write_text("passes: [fold-mask]")
    with pytest.raises(UsageError, match="fold-masks") as caught:
        graphopt.optimize(chain(), recipe=recipe)
    assert caught.value.where == str(recipe)
    recipe.write_text("passes: [{narrow: 4}]")
    with pytest.raises(UsageError, match=r"cannot read \{'narrow': 4\}"):
        graphopt.optimize(chain(), recipe=recipe)
    recipe.write_text("passes: {")
    with pytest.raises(UsageError, match="YAML"):
        graphopt.optimize(chain(), recipe=recipe)


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ({"passes": "narow"}, "narrow"),
        ({"passes": "narrow{alin=4}"}, "align"),
        ({"passes": "narrow{align=x}"}, "int"),
        ({"passes": "narrow{align=0}"}, "at least 1"),
        ({"passes": ""}, "passes"),
        ({"plan": "smalest"}, "smallest"),
        ({"target": "cpuu"}, "cpu"),
        ({"passes": "tidy", "recipe": "x.yaml"}, "one of them"),
    ],
)
def test_what_is_misspelt_is_an_error_with_the_nearest_name(options: dict[str, str], hint: str) -> None:
    with pytest.raises(UsageError, match=hint):
        graphopt.optimize(chain(), **options)  # type: ignore[arg-type]


def test_masks_inside_functions_are_seen() -> None:
    body = [helper.make_node("Mul", ["w", "m"], ["wm"]), helper.make_node("Conv", ["v", "wm"], ["o"], pads=[1] * 4)]
    function = helper.make_function("local", "MaskedConv", ["v", "w", "m"], ["o"], body, [helper.make_opsetid("", 18)])
    mask = np.zeros((7, 1, 1, 1), np.float32)
    mask[[1, 4, 6]] = 1
    proto = model(
        [helper.make_node("MaskedConv", ["x", "w", "m"], ["a"], domain="local"), conv("a", "w2", "y")],
        [weight("w", 7, 3, 3, 3), numpy_helper.from_array(mask, "m"), weight("w2", 4, 7, 3, 3)],
    )
    proto.functions.append(function)
    proto.opset_import.append(helper.make_opsetid("local", 1))
    result = graphopt.optimize(proto)
    assert sorted(sizes(result.model).values()) == [[3, 3, 3, 3], [4, 3, 3, 3]]
    # Near miss: with nothing to gain the call and its function stay.
    del function.node[0]
    function.node[0].input[1] = "w"
    proto.functions[0].CopyFrom(function)
    del proto.graph.initializer[1]
    del proto.graph.node[0].input[2], proto.functions[0].input[2]
    same = graphopt.optimize(proto)
    assert [node.op_type for node in same.model.graph] == ["MaskedConv", "Conv"] and len(same.model.functions) == 1


def test_what_branches_read_is_narrowed_with_them() -> None:
    then = helper.make_graph(
        [helper.make_node("Neg", ["a"], ["t"])], "then", [], [helper.make_tensor_value_info("t", 1, None)]
    )
    other = helper.make_graph(
        [helper.make_node("Abs", ["a"], ["e"])], "else", [], [helper.make_tensor_value_info("e", 1, None)]
    )
    nodes = [
        conv("x", "w", "a"),
        helper.make_node("ReduceSum", ["x"], ["s"], keepdims=0),
        helper.make_node("Cast", ["s"], ["c"], to=onnx.TensorProto.BOOL),
        helper.make_node("If", ["c"], ["i"], then_branch=then, else_branch=other),
        helper.make_node("Relu", ["i"], ["y"]),
    ]
    proto = model(nodes, [weight("w", 7, 3, 3, 3, rows=[0, 5])], outputs=(("y", 7),))
    result = graphopt.optimize(proto, plan="smallest")
    assert Reference(proto).compare(result.model).passed
    assert stats(result.model).parameters == 2 * 27


def test_a_mask_that_a_caller_decides_is_left_alone() -> None:
    nodes = [conv("x", "w", "a"), helper.make_node("Mul", ["a", "m"], ["b"]), conv("b", "w2", "y")]
    proto = model(nodes, [weight("w", 7, 3, 3, 3), weight("w2", 4, 7, 3, 3)])
    proto.graph.input.append(helper.make_tensor_value_info("m", 1, [1, 7, 1, 1]))
    report = graphopt.optimize(proto).report
    assert [(row.kind, row.action) for row in report.masks] == [("dynamic", "kept")]
    # An initializer that is also an input has a default that the caller may override.
    proto.graph.initializer.append(numpy_helper.from_array(np.zeros((1, 7, 1, 1), np.float32), "m"))
    assert stats(graphopt.optimize(proto).model).parameters >= 7 * 27 + 4 * 63


def test_progress_is_told_and_unknown_operators_are_carried() -> None:
    seen: list[str] = []
    proto = chain()
    proto.graph.node[1].op_type = "Wonder"
    proto.graph.node[1].domain = "elsewhere"
    proto.opset_import.append(helper.make_opsetid("elsewhere", 1))
    result = graphopt.optimize(proto, verify=False, progress=lambda name, done, total: seen.append(name))
    assert {"load", "narrow"} <= set(seen)
    wonder = next(node for node in result.model.graph if node.op_type == "Wonder")
    assert list(wonder.inputs[0].shape or ())[1] == 7  # type: ignore[union-attr]


@pytest.mark.parametrize("opset", [7, 8, 9, 10, 11, 12, 13, 15, 18, 21, 23])
@pytest.mark.parametrize("passes", [None, "demask", "demask,propagate", "narrow,lower-scatters,tidy"])
def test_every_opset_from_seven_on(opset: int, passes: str | None) -> None:
    """Operators that came later (Where, ScatterND) and attributes that became inputs (Slice, Pad) have older forms."""
    joined = residual()
    joined.opset_import[0].version = opset
    run(joined, passes)
    nodes = [
        conv("x", "w1", "a"),
        helper.make_node("Shape", ["a"], ["s"]),  # of a value that is narrowed
        helper.make_node("Reshape", ["a", "flat"], ["f"]),
        helper.make_node("Shape", ["x"], ["sx"]),
        helper.make_node("Gather", ["sx", "zero"], ["n"]),
        helper.make_node("Concat", ["n", "rest"], ["t"], axis=0),
        helper.make_node("Reshape", ["f", "t"], ["g"]),  # to a shape that is computed
        conv("g", "w2", "y"),
        helper.make_node("Cast", ["s"], ["z"], to=onnx.TensorProto.FLOAT),
    ]
    weights = [
        weight("w1", 7, 3, 3, 3, rows=[1, 4, 6]),
        weight("w2", 4, 7, 3, 3),
        numpy_helper.from_array(np.array([0, 7, 25]), "flat"),
        numpy_helper.from_array(np.array([0]), "zero"),
        numpy_helper.from_array(np.array([7, 5, 5]), "rest"),
    ]
    proto = model(nodes, weights, opset=opset)
    proto.graph.output.append(helper.make_tensor_value_info("z", 1, [4]))
    result = run(proto, passes)
    if passes is None:
        assert sorted(sizes(result).values()) == [[3, 3, 3, 3], [4, 3, 3, 3]]


def test_a_dead_start_folds_a_whole_chain_at_once() -> None:
    """Each layer behind a dead one is a constant, also where finite values must be proved."""
    depth = 11
    nodes = [conv("x", "dead", "a0", pad=0)]
    nodes += [conv(f"a{i}", f"w{i}", f"a{i + 1}", pad=0) for i in range(depth - 1)]
    nodes.append(conv(f"a{depth - 1}", "last", "y", pad=0))
    weights = [weight("dead", 4, 3, 1, 1, rows=[]), weight("last", 4, 4, 1, 1)]
    weights += [weight(f"w{i}", 4, 4, 1, 1) for i in range(depth - 1)]
    for finite in (True, False):
        result = graphopt.optimize(model(nodes, weights), assume_finite=finite)
        assert "Conv" not in [node.op_type for node in result.model.graph]
        assert len({id(row) for row in result.report.passes}) <= 4 * 9  # in a few rounds, whatever the depth
