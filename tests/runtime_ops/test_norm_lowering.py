"""A LayerNorm that was narrowed becomes MaskedLayerNorm, and only such a one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import graphopt
from graphopt import model as models
from graphopt.context import Context
from graphopt.facts.constants import Constants
from graphopt.passes.lower.lower_norms import LowerNorms
from tests.ops.net import Net, dead
from tests.runtime_ops import running

DEAD = [0, 3, 4, 5, 6, 7, 9, 11, 12]
SIZE, KEPT = 23, 23 - len(DEAD)


def filled(array: np.ndarray, numbers: float | list[float]) -> np.ndarray:
    array[DEAD] = numbers
    return array


def net(opset: int, fill: float | list[float] = 0.0, kind: str = "float32", shift: bool = True) -> onnx.ModelProto:
    """A LayerNorm of ``SIZE`` positions of which some are constant and read by nobody behind it."""
    made = Net(opset)
    y = made("MatMul", made.input("x", "N", 7), dead(made.normal(7, SIZE), 1, DEAD))
    y = made("Add", y, filled(made.normal(SIZE), fill))
    y = made("Cast", y, to=int(ir.DataType[{"float32": "FLOAT", "float16": "FLOAT16"}[kind]]))
    parameters = [made.normal(SIZE).astype(kind) for _ in range(2 if shift else 1)]
    y = made("LayerNormalization", y, *parameters, epsilon=1e-3)
    y = made("Cast", y, to=int(ir.DataType.FLOAT))
    return made.model(made("MatMul", y, dead(made.normal(SIZE, 5), 0, DEAD)))


def narrowed(proto: onnx.ModelProto) -> Context:
    """The model with its norms narrowed, in standard operators."""
    model = graphopt.optimize(proto, plan="smallest", operators=False).model
    return Context(model, Constants(), runtime_operators=True)


def norms(context: Context) -> list[ir.Node]:
    return [node for node in context.model.graph if node.op_type == "MaskedLayerNorm"]


@pytest.mark.parametrize("opset", [17, 20, 23])
@pytest.mark.parametrize("fill", [0.0, 0.75, list(np.linspace(-1, 3, len(DEAD)))])
@pytest.mark.parametrize("shift", [True, False])
def test_the_forms_that_graphopt_writes(opset: int, fill: float | list[float], shift: bool) -> None:
    proto = net(opset, fill, shift=shift)
    context = narrowed(proto)
    assert LowerNorms().run(context)
    assert not LowerNorms().run(context)
    (node,) = norms(context)
    assert node.attributes.get_int("missing", 0) == len(DEAD)
    assert node.attributes.get_float("fill", 9) == pytest.approx(float(np.mean(fill)), abs=1e-6)
    left = {each.op_type for each in context.model.graph}
    assert not left & {"LayerNormalization", "RMSNormalization", "ReduceMean", "Sqrt", "Concat", "Slice", "Reciprocal"}
    feeds = {"x": np.random.default_rng(0).normal(size=(6, 7)).astype(np.float32)}
    (wanted,) = running.run(proto, feeds, library=False)
    for library in (False, True):
        (found,) = running.run(context.model, feeds, library=library)
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("opset", [18, 23])
def test_halves_need_no_casts(opset: int) -> None:
    proto = net(opset, kind="float16")
    context = narrowed(proto)
    assert LowerNorms().run(context)
    (node,) = norms(context)
    assert node.inputs[0] is not None and node.inputs[0].dtype == ir.DataType.FLOAT16
    assert [each.op_type for each in context.model.graph].count("Cast") == 2  # those of the model itself
    feeds = {"x": np.random.default_rng(0).normal(size=(6, 7)).astype(np.float32)}
    (wanted,) = running.run(proto, feeds, library=False)
    (found,) = running.run(context.model, feeds)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-2)


def test_a_norm_at_the_end_keeps_its_name() -> None:
    made = Net(20)
    y = made("MatMul", made.input("x", "N", 7), dead(made.normal(7, SIZE), 1, DEAD))
    scale, shift = dead(made.normal(SIZE), 0, DEAD), dead(made.normal(SIZE), 0, DEAD)
    proto = made.model(made("LayerNormalization", y, scale, shift))
    context = narrowed(proto)
    LowerNorms().run(context)
    feeds = {"x": np.random.default_rng(0).normal(size=(6, 7)).astype(np.float32)}
    (wanted,) = running.run(proto, feeds, library=False)
    (found,) = running.run(context.model, feeds)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=2e-5)
    assert [value.name for value in context.model.graph.outputs] == [value.name for value in proto.graph.output]


def one_more_reader(model: ir.Model) -> None:
    """Somebody looks at what lies between."""
    inner = next(
        v for n in model.graph for v in n.outputs[:1] if n.op_type in ("LayerNormalization", "RMSNormalization")
    )
    model.graph.outputs.append(inner)


def another_number(model: ir.Model) -> None:
    """The constants say nothing of a number of positions."""
    for node in model.graph:
        value = node.inputs[1] if node.op_type == "Mul" else None
        if value is not None and value.const_value is not None and value.const_value.size == 1:
            value.const_value = ir.tensor(np.array(0.123, np.float32), name=value.name)


@pytest.mark.parametrize("opset", [20, 23])
@pytest.mark.parametrize("change", [one_more_reader, another_number])
def test_near_misses_stay(opset: int, change: Callable[[ir.Model], None]) -> None:
    context = narrowed(net(opset))
    change(context.model)
    assert not LowerNorms().run(context)
    assert not norms(context)


def test_it_is_not_written_unless_asked_for() -> None:
    context = narrowed(net(20))
    context.runtime_operators = False
    assert not LowerNorms().run(context)


def test_a_whole_norm_stays() -> None:
    made = Net(20)
    y = made("LayerNormalization", made.input("x", "N", 7), made.normal(7), made.normal(7))
    model = models.load(made.model(made("MatMul", y, made.normal(7, 2))))
    models.infer_shapes(model)
    assert not LowerNorms().run(Context(model, Constants(), runtime_operators=True))


def test_optimize_writes_it() -> None:
    proto = net(20)
    model = graphopt.optimize(proto, plan="smallest", operators=True).model
    assert [node.op_type for node in model.graph].count("MaskedLayerNorm") == 1
    model = graphopt.optimize(proto, plan="smallest").model
    assert [node.op_type for node in model.graph].count("MaskedLayerNorm") == 0


def test_the_fastest_plan_knows_what_a_norm_will_cost() -> None:
    proto = net(20)
    found = {
        asked: graphopt.optimize(proto, plan="fastest", operators=asked, measure=False).model for asked in (True, False)
    }
    assert [node.op_type for node in found[True].graph].count("MaskedLayerNorm") == 1
    assert [node.op_type for node in found[False].graph].count("LayerNormalization") == 1  # whole: it is cheaper
    feeds = {"x": np.random.default_rng(0).normal(size=(6, 7)).astype(np.float32)}
    (wanted,) = running.run(proto, feeds, library=False)
    (result,) = running.run(found[True], feeds)
    np.testing.assert_allclose(result, wanted, rtol=1e-4, atol=2e-5)
