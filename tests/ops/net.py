"""Small models written as a chain of calls, and the check that every row of a table goes through."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from graphopt import model as models
from graphopt.facts.stats import stats
from tests.strategies import check

Operand = str | np.ndarray | np.generic | float | int | list
TYPES = {"f": onnx.TensorProto.FLOAT, "i": onnx.TensorProto.INT64, "b": onnx.TensorProto.BOOL}


class Net:
    """Collects nodes; a call adds one and returns the name of its output. Arrays become initializers."""

    def __init__(self, opset: int = 18, seed: int = 0) -> None:
        self.opset = opset
        self.rng = np.random.default_rng(seed)
        self._nodes: list[onnx.NodeProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._functions: list[onnx.FunctionProto] = []
        self._count = 0

    def input(self, name: str, *shape: int | str, dtype: str = "f") -> str:
        """A graph input."""
        self._inputs.append(helper.make_tensor_value_info(name, TYPES[dtype], shape))
        return name

    def default(self, name: str, data: np.ndarray) -> str:
        """A graph input with a default value: an initializer that a user may override."""
        self._constants.append(numpy_helper.from_array(data, name))
        return self.input(name, *data.shape)

    def constant(self, data: Operand) -> str:
        """An initializer; Python floats become float32, Python integers int64."""
        if isinstance(data, str):
            return data
        array = np.asarray(data)
        if array.dtype == np.float64 and not isinstance(data, np.ndarray | np.generic):
            array = array.astype(np.float32)
        self._count += 1
        name = f"const{self._count}"
        self._constants.append(numpy_helper.from_array(array, name))
        return name

    def many(self, op: str, *inputs: Operand, outputs: int, domain: str = "", **attributes: Any) -> list[str]:
        """Adds a node with several outputs."""
        names = [self.constant(i) for i in inputs]
        self._count += 1
        results = [
            f"{op.lower()}{self._count}_{k}" if outputs > 1 else f"{op.lower()}{self._count}" for k in range(outputs)
        ]
        node = helper.make_node(op, names, results, name=f"{op}{self._count}", domain=domain, **attributes)
        self._nodes.append(node)
        return results

    def __call__(self, op: str, *inputs: Operand, domain: str = "", **attributes: Any) -> str:
        return self.many(op, *inputs, outputs=1, domain=domain, **attributes)[0]

    def function(self, name: str, inputs: list[str], nodes: list[onnx.NodeProto], output: str = "y") -> None:
        """A model-local function of the domain `local`."""
        opset = [helper.make_opsetid("", self.opset)]
        self._functions.append(helper.make_function("local", name, inputs, [output], nodes, opset))

    def normal(self, *shape: int) -> np.ndarray:
        """Numbers none of which is zero."""
        data = self.rng.standard_normal(shape)
        return (data + np.sign(data) * 0.1).astype(np.float32)

    def model(self, *outputs: str) -> onnx.ModelProto:
        """The finished model; types and shapes of its outputs are inferred."""
        found = [onnx.ValueInfoProto(name=name) for name in outputs]
        graph = helper.make_graph(self._nodes, "net", self._inputs, found, self._constants)
        imports = [helper.make_opsetid("", self.opset)]
        imports += [helper.make_opsetid(domain, 1) for domain in sorted({node.domain for node in self._nodes} - {""})]
        if self._functions and not any(entry.domain == "local" for entry in imports):
            imports.append(helper.make_opsetid("local", 1))
        model = helper.make_model(graph, opset_imports=imports, functions=self._functions, ir_version=10)
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
        for output in inferred.graph.output:
            if not output.type.tensor_type.elem_type:
                output.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
        del inferred.graph.value_info[:]
        return inferred


def dead(array: np.ndarray, axis: int, positions: Collection[int], value: float = 0.0) -> np.ndarray:
    """A copy with those positions of the axis set to a value."""
    result = array.copy()
    np.moveaxis(result, axis, 0)[list(positions)] = value
    return result


@dataclass(frozen=True)
class Case:
    """A row: a model, and how many parameters the smallest plan may and must leave.

    `most` is the number that a person who narrows the model by hand would keep; `least` guards the near misses, which
    must not shrink below what is written there. `gone` and `stays` are operator types. `later` says which issue brings
    a row down to `most`: until then it is an expected failure in its count alone, and a failure once it is reached.
    """

    id: str
    build: Callable[[], onnx.ModelProto]
    most: int | None = None
    least: int = 0
    gone: tuple[str, ...] = ()
    stays: tuple[str, ...] = ()
    batches: Sequence[int] = (0, 1, 5)
    assume_finite: bool = True
    finite: bool = True
    later: str = ""


def examine(case: Case) -> None:
    """Optimizes the model of a row: same function at every size, the numbers of the row."""
    model = case.build()
    expected = check.Expected.of(model, case.batches, finite=case.finite)
    assert len(expected.runs) == len(case.batches), "onnxruntime refuses the original at some size"
    result = check.optimized(model, "optimize", plan="smallest", assume_finite=case.assume_finite)
    expected.compare(models.serialize(result.model), "optimize")
    after = stats(result.model)
    before = stats(models.load(model))
    assert after.parameters <= before.parameters
    text = f"{before.parameters} -> {after.parameters} parameters, {dict(after.ops)}"
    reached = case.most is None or after.parameters <= case.most
    assert reached or case.later, f"at most {case.most} expected: {text}"
    assert after.parameters >= case.least, f"at least {case.least} expected: {text}"
    for op in case.gone:
        assert op not in after.ops, f"{op} should be gone: {text}"
    for op in case.stays:
        assert op in after.ops, f"{op} should have stayed: {text}"
    if case.later:
        assert not reached, f"reached, so `later` can go: {text}"
        pytest.xfail(f"{case.later}: at most {case.most} expected: {text}")
