"""Is the optimized model the same function, no larger, and finished? The oracle is onnxruntime, not optimizing."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort

from graphopt import model as models
from graphopt import runtime, runtime_ops
from graphopt.facts.stats import stats
from graphopt.model_shapes import infer_shapes
from graphopt.report.schema import Stats
from graphopt.rewrite.functions import inline_functions
from graphopt.rewrite.operators import calls
from tests.strategies.graphs import Graph, feeds

if TYPE_CHECKING:
    from graphopt.pipeline import Result

TOLERANCE = 3e-5
"""Of the largest entry of an output. Twice what onnxruntime's own optimizations change in these models."""
FLOOR = 1e-2
"""Outputs smaller than this are compared as if they were as large."""
ULPS = 8 * float(np.finfo(np.float32).eps)
"""Rounding noise, of the largest number inside the original: what an output may hold where everything cancels."""


class DifferentError(AssertionError):
    """The optimized model broke a promise; `cause` says which, in words that similar failures share."""

    def __init__(self, cause: str, detail: str) -> None:
        super().__init__(f"{cause}: {detail}")
        self.cause = cause


class NotUsableError(Exception):
    """The original model itself does not run or is not finite: nothing can be said."""


def session(model: onnx.ModelProto | bytes, *, native: bool = False) -> ort.InferenceSession:
    """A session without optimizations, on one thread, that only speaks up when it fails."""
    options = ort.SessionOptions()
    if native:
        runtime_ops.register(options)
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    data = model if isinstance(model, bytes) else model.SerializeToString()
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])


@dataclass
class Expected:
    """What the original computes, per batch size."""

    model: onnx.ModelProto
    names: list[str]
    runs: list[tuple[int, dict[str, np.ndarray], list[np.ndarray]]]

    @classmethod
    def of(cls, model: onnx.ModelProto, batches: Sequence[int], *, finite: bool = True) -> Expected:
        """Runs the original; a batch of 0 that it refuses is left away. Raises NotUsableError."""
        try:
            original = session(model)
        except Exception as error:
            raise NotUsableError(f"not accepted: {error}") from error
        runs = []
        for batch in batches:
            values = feeds(model, batch)
            try:
                outputs = [np.asarray(o) for o in original.run(None, values)]
            except Exception as error:
                if batch == 0:
                    continue
                raise NotUsableError(f"does not run: {error}") from error
            if finite and not all(np.isfinite(o).all() for o in outputs if o.dtype.kind == "f"):
                raise NotUsableError("not finite")
            runs.append((batch, values, outputs))
        return cls(model, [o.name for o in model.graph.output], runs)

    def compare(self, data: bytes, what: str, *, native: bool = False) -> None:
        """Raises DifferentError unless the model computes the same; ``native``: with the library of the operators."""
        try:
            candidate = session(data, native=native)
        except Exception as error:
            raise DifferentError(f"{what}: not accepted by onnxruntime", str(error)) from error
        if [o.name for o in candidate.get_outputs()] != self.names:
            raise DifferentError(
                f"{what}: other outputs", f"{[o.name for o in candidate.get_outputs()]} for {self.names}"
            )
        for batch, values, outputs in self.runs:
            try:
                got = candidate.run(None, values)
            except Exception as error:
                found = re.search(r"while running (\w+) node", str(error))
                node = found.group(1) if found else "?"
                raise DifferentError(f"{what}: {node} does not run", f"batch {batch}: {error}") from error
            for name, a, b in zip(self.names, outputs, got, strict=True):
                where = f"batch {batch}, output {name}"
                try:
                    _same(f"{what}: ", where, a, np.asarray(b))
                except DifferentError as error:
                    if error.cause != f"{what}: other values":
                        raise
                    _same(f"{what}: ", where, a, np.asarray(b), noise=ULPS * self._largest(values))

    def _largest(self, values: dict[str, np.ndarray]) -> float:
        """The largest finite number that the original computes on the way: x - mean(x) is noise of the size of x."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        known = {out.name for out in model.graph.output}
        inside = [name for node in model.graph.node for name in node.output if name and name not in known]
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inside)
        found = [np.asarray(out) for out in session(model).run(None, values)]
        floats = [np.abs(out[np.isfinite(out)]) for out in found if out.dtype == np.float32]
        return max((float(out.max(initial=0)) for out in floats), default=0.0)


def _same(what: str, where: str, a: np.ndarray, b: np.ndarray, noise: float = 0.0) -> None:
    if a.shape != b.shape or a.dtype != b.dtype:
        raise DifferentError(f"{what}another shape or type", f"{where}: {b.dtype}{b.shape} for {a.dtype}{a.shape}")
    if not a.size:
        return
    if a.dtype.kind != "f":
        if not np.array_equal(a, b):
            raise DifferentError(f"{what}other integers", f"{where}: {b} for {a}")
        return
    finite = np.isfinite(a)
    if not np.array_equal(finite, np.isfinite(b)) or not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        raise DifferentError(f"{what}NaN or infinity", where)
    error = np.abs(a - b, where=finite, out=np.zeros_like(a))
    allowed = max(TOLERANCE * max(float(np.abs(a[finite]).max(initial=0)), FLOOR), noise)
    if float(error.max()) > allowed:
        at = tuple(int(i) for i in np.unravel_index(int(error.argmax()), a.shape))
        raise DifferentError(
            f"{what}other values",
            f"{where}: {b[at]!r} for {a[at]!r} at {at}, {int((error > allowed).sum())} of {a.size} are wrong",
        )


def optimized(model: onnx.ModelProto | ir.Model, what: str, **options: Any) -> Result:
    """Runs the pipeline without its own verification; an exception is a difference too."""
    from graphopt import pipeline

    try:
        return pipeline.optimize(model, verify=False, measure=False, **options)
    except Exception as error:
        kind = f"{type(error).__name__} {_place(error)}"
        raise DifferentError(f"{what}: {kind}", str(error)) from error


def _sizes(model: ir.Model) -> Stats:
    """What a result consists of; loading it anew checks it and its recorded shapes."""
    try:
        return stats(models.load(onnx.load_from_string(models.serialize(model))))
    except Exception as error:
        raise DifferentError("optimize: the result is refused by load", str(error)) from error


def _numbers_that_become_floats(model: onnx.ModelProto) -> int:
    """Numbers that are no parameters yet: of integer and bool masks, of ConstantOfShape, of what is cast to a float."""
    nodes = [*model.graph.node, *(n for f in model.functions for n in f.node)]
    made = sum(n.op_type in ("Cast", "ConstantOfShape") for n in nodes)
    if not made:
        return 0
    tensors = [*model.graph.initializer]
    tensors += [a.t for n in nodes if n.op_type == "Constant" for a in n.attribute if a.name == "value"]
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE)
    return made + sum(math.prod(t.dims) for t in tensors if t.data_type not in floats)


def _place(error: BaseException) -> str:
    """File and function of graphopt where the error came up."""
    place, trace = "", error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if "graphopt" in code.co_filename or "/passes/" in code.co_filename:
            place = f"in {code.co_filename.rsplit('/', 1)[-1]}:{code.co_name}"
        trace = trace.tb_next
    return place


def _batches(graph: Graph) -> list[int]:
    """The sizes to try; none of 0 where an operator would end the process."""
    fatal = runtime.fatal_on_empty(models.load(graph.model)) is not None
    return [batch for batch in graph.batches() if batch or not fatal]


def _multiply_adds(model: ir.Model) -> int:
    """Multiply-adds at a batch of 3, in a model whose functions are inlined."""
    found = inline_functions(models.clone(model))
    for value in found.graph.inputs:
        if value.shape is not None:
            value.shape = ir.Shape([size if isinstance(size, int) else 3 for size in value.shape])
    for graph in (found.graph, *found.graph.subgraphs()):
        for node in graph:
            for out in node.outputs:
                out.shape = None
    infer_shapes(found)
    return stats(found).macs


def whole(graph: Graph, *, plan: str = "smallest", assume_finite: bool = True, again: bool = True) -> None:
    """The default pipeline: same function, no larger, and a second run changes nothing.

    Raises DifferentError, NotUsableError.
    """
    expected = Expected.of(graph.model, _batches(graph))
    before_bytes = graph.model.SerializeToString()
    what = "optimize"
    result = optimized(graph.model, what, plan=plan, assume_finite=assume_finite)
    if graph.model.SerializeToString() != before_bytes:
        raise DifferentError(f"{what}: the input model was changed", "")
    expected.compare(models.serialize(result.model), what)
    after = _sizes(result.model)
    before = result.report.before.parameters
    if after.parameters > before + _numbers_that_become_floats(graph.model):
        raise DifferentError(f"{what}: more parameters", f"{before} -> {after.parameters}")
    macs = result.report.before.macs, result.report.after.macs
    if macs[1] > macs[0]:  # symbolic sizes count 1, also where a reshape has merged them with known ones: look closer
        macs = _multiply_adds(models.load(graph.model)), _multiply_adds(result.model)
    if macs[1] > macs[0]:
        raise DifferentError(f"{what}: more multiply-adds", f"{macs[0]} -> {macs[1]}")
    if again:
        second = optimized(result.model, "second optimize", plan=plan, assume_finite=assume_finite)
        last = _sizes(second.model)
        if last.parameters != after.parameters or dict(last.ops) != dict(after.ops):
            changed = {
                op: (after.ops.get(op, 0), last.ops.get(op, 0))
                for op in {*after.ops, *last.ops}
                if after.ops.get(op, 0) != last.ops.get(op, 0)
            }
            raise DifferentError(
                "second optimize: not finished", f"parameters {after.parameters} -> {last.parameters}, {changed}"
            )


def with_operators(graph: Graph, target: str, *, plan: str = "fastest") -> dict[str, int]:
    """With runtime operators: the same as functions and in kernels, after a second run, and without any again.

    A second run keeps the calls; it may find more to do, since it does not see through them.

    Returns how often each is called. Raises DifferentError, NotUsableError.
    """
    expected = Expected.of(graph.model, _batches(graph))
    what = f"--operators, {target}"
    result = optimized(graph.model, what, target=target, plan=plan, operators=True).model
    found = calls(result)
    expected.compare(models.serialize(result), f"{what}, as functions")
    if not found:
        return found
    if runtime_ops.library() is not None:
        expected.compare(models.serialize(result), f"{what}, in kernels", native=True)
    again = optimized(result, f"{what}, again", target=target, plan=plan, operators=True).model
    expected.compare(models.serialize(again), f"{what}, again")
    if any(calls(again).get(name, 0) < number for name, number in found.items()):
        raise DifferentError(f"{what}, again: calls are lost", f"{found} -> {calls(again)}")
    plain = optimized(result, f"{what}, then portable", target="portable", plan=plan).model
    if calls(plain) or "graphopt" in plain.opset_imports:
        raise DifferentError(f"{what}, then portable: calls are left", str(calls(plain)))
    expected.compare(models.serialize(plain), f"{what}, then portable")
    return found


def one_pass(graph: Graph, name: str) -> None:
    """A pass alone leaves a valid model that computes the same. Raises DifferentError, NotUsableError."""
    expected = Expected.of(graph.model, _batches(graph))
    result = optimized(graph.model, f"-p {name}", passes=name)
    expected.compare(models.serialize(result.model), f"-p {name}")
