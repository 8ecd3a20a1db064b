"""The model under construction: values with their shapes and sizes, constants, nodes, inputs, functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.strategies.recipe import Choices, InapplicableError

BATCH = "N"
Dim = int | str
Shape = tuple[Dim, ...]
ONNX_TYPE = {"f": TensorProto.FLOAT, "i": TensorProto.INT64, "b": TensorProto.BOOL}
NUMPY_TYPE = {"f": np.float32, "i": np.int64, "b": np.bool_}
MAX_ELEMENTS = 1500
"""Elements of a value for one sample; keeps a run in the milliseconds."""


@dataclass(frozen=True)
class Value:
    """A value of the graph.

    `amp` is about how large its entries are. `grain` is not None when every entry is certainly a multiple of
    `2 ** -grain` and at most `amp`: only such values may meet an operator that jumps (Floor, Sign, comparisons, Cast to
    integers), because there a difference in rounding would become a difference of 1.
    """

    name: str
    shape: Shape
    dtype: str = "f"
    amp: float = 1.0
    grain: int | None = None

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def exact(self) -> bool:
        return self.grain is not None


def static_size(shape: Sequence[Dim]) -> int:
    """Elements, the batch counted as one."""
    return math.prod(d for d in shape if isinstance(d, int))


def exact_grain(amp: float, grain: int | None) -> int | None:
    """The grain, or None when float32 sums could no longer hold such numbers exactly."""
    return grain if grain is not None and 0 <= grain <= 10 and amp * 2.0**grain < 2**19 else None


def broadcast(*shapes: Shape) -> Shape | None:
    """The numpy broadcast of the shapes, None when there is none."""
    rank = max(len(s) for s in shapes)
    result: list[Dim] = []
    for dims in zip(*((1,) * (rank - len(s)) + s for s in shapes), strict=True):
        wide = {d for d in dims if d != 1}
        if len(wide) > 1:
            return None
        result.append(wide.pop() if wide else 1)
    return tuple(result)


@dataclass
class Builder:
    """Collects the parts of one model; steps call its methods."""

    opset: int
    dynamic: bool
    constant_nodes: bool
    value_info: bool
    zero: bool = False
    """Whether to keep to what onnxruntime also runs for an empty batch."""
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: dict[str, onnx.TensorProto] = field(default_factory=dict)
    inputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    functions: dict[str, onnx.FunctionProto] = field(default_factory=dict)
    pool: list[Value] = field(default_factory=list)
    shared: dict[tuple[object, ...], list[str]] = field(default_factory=dict)
    infos: list[Value] = field(default_factory=list)
    _names: int = 0
    _used: set[str] = field(default_factory=set)

    # -- names and constants

    def fresh(self, prefix: str) -> str:
        """A name nothing else has."""
        self._names += 1
        return f"{prefix}_{self._names}"

    def const(self, array: object, *, prefix: str = "c", node: bool | None = None) -> str:
        """A constant, as an initializer or as a Constant node; numbers become float32 unless they have a dtype."""
        data = np.asarray(array)
        if data.dtype == np.float64:
            data = data.astype(np.float32)
        name = self.fresh(prefix)
        if self.constant_nodes if node is None else node:
            tensor = numpy_helper.from_array(data, name)
            self.nodes.append(helper.make_node("Constant", [], [name], name=f"Constant_{name}", value=tensor))
        else:
            self.initializers[name] = numpy_helper.from_array(data, name)
        return name

    def ints(self, values: Sequence[int]) -> str:
        """A constant vector of int64, as axes, shapes and pads need it."""
        return self.const(np.array(values, np.int64), prefix="ints")

    # -- nodes

    def raw(
        self, op: str, inputs: Sequence[str], *, outputs: int = 1, domain: str = "", **attributes: Any
    ) -> list[str]:
        """Adds a node and returns the names of its outputs; nothing enters the pool."""
        names = [self.fresh(op.lower()) for _ in range(outputs)]
        attributes = {k: v for k, v in attributes.items() if v is not None}
        self.nodes.append(
            helper.make_node(op, list(inputs), names, name=f"{op}_{names[0]}", domain=domain, **attributes)
        )
        self._used.update(inputs)
        return names

    def use(self, name: str) -> None:
        """Says that a name is read where `raw` does not see it (inside a subgraph)."""
        self._used.add(name)

    def is_used(self, value: Value) -> bool:
        """Whether a node reads the value."""
        return value.name in self._used

    def op(
        self,
        op: str,
        inputs: Sequence[Value | str],
        shape: Shape,
        *,
        dtype: str = "f",
        amp: float | None = None,
        grain: int | None = None,
        domain: str = "",
        **attributes: Any,
    ) -> Value:
        """Adds a node of one output; `amp` defaults to the first value's."""
        if not 1 <= len(shape) <= 5 or any(d == 0 for d in shape) or static_size(shape) > MAX_ELEMENTS:
            raise InapplicableError(f"{op} to {shape}")
        first = next((v for v in inputs if isinstance(v, Value)), None)
        size = amp if amp is not None else first.amp if first is not None else 1.0
        names = [v.name if isinstance(v, Value) else v for v in inputs]
        (name,) = self.raw(op, names, domain=domain, **attributes)
        value = Value(name, tuple(shape), dtype, size, exact_grain(size, grain))
        self.infos.append(value)
        return value

    def multi(self, op: str, inputs: Sequence[Value | str], shapes: Sequence[Shape], **attributes: Any) -> list[Value]:
        """Adds a node of several outputs that are all sized like the first input."""
        if any(0 in s or static_size(s) > MAX_ELEMENTS for s in shapes):
            raise InapplicableError(f"{op} to {shapes}")
        first = next(v for v in inputs if isinstance(v, Value))
        names = [v.name if isinstance(v, Value) else v for v in inputs]
        outputs = self.raw(op, names, outputs=len(shapes), **attributes)
        values = [Value(n, s, first.dtype, first.amp, first.grain) for n, s in zip(outputs, shapes, strict=True)]
        self.infos.extend(values)
        return values

    def push(self, *values: Value) -> None:
        """Offers values to later steps."""
        self.pool.extend(values)

    # -- inputs

    def input(self, name: str, shape: Shape, dtype: str = "f", *, amp: float = 1.0, grain: int | None = None) -> Value:
        """A graph input; what it may hold follows from its name (see `feeds`)."""
        self.inputs.append(helper.make_tensor_value_info(name, ONNX_TYPE[dtype], shape))
        return Value(name, shape, dtype, amp, grain)

    def input_once(self, name: str, shape: Shape, dtype: str) -> str:
        """The input of that name, made when it is first asked for."""
        if all(i.name != name for i in self.inputs):
            self.input(name, shape, dtype)
        return name

    def function(self, name: str, make: Callable[[], onnx.FunctionProto]) -> None:
        """Adds a model-local function of the domain `local`, once."""
        if name not in self.functions:
            self.functions[name] = make()

    def not_at_zero(self, why: str) -> None:
        """Refuses what onnxruntime does not run for an empty batch, where this model is to run there."""
        if self.zero:
            raise InapplicableError(why)

    # -- choosing

    def candidates(self, test: Callable[[Value], bool]) -> list[Value]:
        """Values of the pool that pass the test, the latest first."""
        return [v for v in reversed(self.pool) if test(v)]

    def another(self, c: Choices, test: Callable[[Value], bool]) -> Value:
        """One value of the pool that passes the test."""
        found = self.candidates(test)
        if not found:
            raise InapplicableError("no such value")
        return c.pick(found)

    # -- the result

    def model(self, outputs: Sequence[Value]) -> onnx.ModelProto:
        """The finished model."""
        names = {v.name for v in outputs}
        infos = [
            helper.make_tensor_value_info(v.name, ONNX_TYPE[v.dtype], v.shape)
            for v in self.infos
            if v.name not in names and self.value_info
        ]
        graph = helper.make_graph(
            self.nodes,
            "random",
            self.inputs,
            [helper.make_tensor_value_info(v.name, ONNX_TYPE[v.dtype], v.shape) for v in outputs],
            list(self.initializers.values()),
            value_info=infos,
        )
        imports = [helper.make_opsetid("", self.opset)]
        if self.functions:
            imports.append(helper.make_opsetid("local", 1))
        if any(_is_of(node, "com.microsoft") for node in self.nodes):
            imports.append(helper.make_opsetid("com.microsoft", 1))
        return helper.make_model(
            graph, opset_imports=imports, functions=list(self.functions.values()), ir_version=10, producer_name="random"
        )


def _is_of(node: onnx.NodeProto, domain: str) -> bool:
    """Whether a node, or one inside of its subgraphs, is of a domain."""
    return node.domain == domain or any(_is_of(n, domain) for a in node.attribute for n in a.g.node)
