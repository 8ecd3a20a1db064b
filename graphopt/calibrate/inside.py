"""Counts numbers where they are computed: inside onnxruntime, by the runtime operator ``Histogram``.

Activations are not handed out then, so that those of one batch at most are alive. The bits are those of
:mod:`graphopt.calibrate.accumulator`. Where there is no library, or nothing that it can count, activations are watched.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt import model as models
from graphopt import runtime
from graphopt.calibrate.watch import THREADS, Part
from graphopt.errors import ModelError
from graphopt.runtime_ops import DOMAIN, VERSION
from graphopt.runtime_ops.histogram.handle import Statistics, available

_TYPES = frozenset(
    ir.DataType[name] for name in ("FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16", "INT8", "UINT8", "INT32", "INT64", "BOOL")
)


@dataclass(frozen=True)
class Seen:
    """What is left of a tensor whose numbers were counted where they were computed.

    Attributes:
        shape: Its shape.
        nonfinite: ``[rows, 2]`` int64: NaN and infinities in each row along its first axis; a scalar is one row.
    """

    shape: tuple[int, ...]
    nonfinite: np.ndarray

    @staticmethod
    def of(array: np.ndarray) -> Seen:
        """Return the same of an array that is at hand, of a real type."""
        x = array if array.dtype.kind == "f" else array.astype(np.float64)
        rows = x.reshape(len(x) if x.ndim else 1, -1)
        return Seen(x.shape, np.stack([np.isnan(rows).sum(1), np.isinf(rows).sum(1)], 1))


class Inside:
    """A model, loaded, that counts what the watched values hold.

    Attributes:
        kept: Name to statistics, of those that it counts; the others are handed out.
    """

    def __init__(self, part: Part) -> None:
        """Load a part of a model, with counters in it.

        Raises:
            ModelError: onnxruntime refuses it.
        """
        self._part = part
        self.kept: dict[str, Statistics] = {}
        model = models.clone(models.load(part.model) if isinstance(part.model, str) else part.model)
        self._outputs = self._put_in(model)
        self._session = runtime.session(model, threads=THREADS)

    @staticmethod
    def of(part: Part) -> Inside | None:
        """Load a part, unless there is no library, or nothing to run, or onnxruntime refuses the counters."""
        if not part.outputs or not available():
            return None
        try:
            made = Inside(part)
        except ModelError:
            return None
        return made if made.kept else None

    def __call__(self, feeds: Mapping[str, Any]) -> dict[str, np.ndarray | Seen]:
        """Run one batch and count it; return what was seen, or the arrays of what is not counted here.

        Raises:
            ModelError: The model does not run, or would end the process on an input without elements.
        """
        results = runtime.run(self._session, self._part.given(feeds))
        found = dict(zip(self._outputs, results, strict=True))
        values: dict[str, np.ndarray | Seen] = {}
        for name in self._part.names:
            if name in self.kept:
                values[name] = Seen(tuple(int(n) for n in found[_shape(name)]), found[_nonfinite(name)])
            else:
                values[name] = found[name] if name in found else np.asarray(feeds[name])
        return values

    def _put_in(self, model: ir.Model) -> list[str]:
        """Put a counter behind each value that can be counted; return the names of the model's outputs."""
        graph = model.graph
        values = {str(value.name): value for value in graph.inputs}
        values.update((str(out.name), out) for node in graph for out in node.outputs if out.name)
        from_data = _from_data(graph)
        outputs: list[ir.Value] = []
        graph.outputs.clear()
        for name in self._part.order:
            value = values[name]
            if value not in from_data or value.dtype not in _TYPES or not isinstance(value.type, ir.TensorType):
                outputs += [value] if name in self._part.outputs else []
                continue
            self.kept[name] = Statistics()
            outputs += _counter(graph, value, self.kept[name].handle)
        graph.outputs.extend(outputs)
        model.opset_imports[DOMAIN] = VERSION
        return [str(out.name) for out in outputs]


def _counter(graph: ir.Graph, value: ir.Value, handle: int) -> list[ir.Value]:
    """Count a value; return what is to be known of it.

    Whoever reads the value goes on reading it, and not what the counter would hand on: what onnxruntime fuses and folds
    is then what it would if the value were an output, and so are the bits. With counters in between, they are not:
    docs/decisions/0031.
    """
    name, writer = str(value.name), value.producer()
    nonfinite = ir.Value(name=_nonfinite(name), type=ir.TensorType(ir.DataType.INT64))
    shape = ir.Value(name=_shape(name), type=ir.TensorType(ir.DataType.INT64))
    attributes = [ir.AttrInt64("handle", handle)]
    nodes = [
        ir.Node(DOMAIN, "Histogram", [value], attributes, outputs=[ir.Value(name=""), nonfinite]),
        ir.Node("", "Shape", [value], outputs=[shape]),
    ]
    if writer is None:
        graph.insert_before(graph[0], nodes)
    else:
        graph.insert_after(writer, nodes)
    return [nonfinite, shape]


def _from_data(graph: ir.Graph) -> set[ir.Value]:
    """Return what depends on the inputs: the rest, counters of it included, onnxruntime computes when it loads."""
    found = {value for value in graph.inputs if value.name not in graph.initializers}
    for node in graph:
        bodies = [a.as_graph() for a in node.attributes.values() if a.type == ir.AttributeType.GRAPH]
        inner = (x for body in bodies for one in body.all_nodes() for x in one.inputs)
        if any(x in found for x in (*node.inputs, *inner) if x is not None):
            found.update(node.outputs)
    return found


def _nonfinite(name: str) -> str:
    return f"{name}/nonfinite"


def _shape(name: str) -> str:
    return f"{name}/shape"
