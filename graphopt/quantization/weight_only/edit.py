"""Carries a placement of weights out: packs integers, and puts the operator that reads them in place of the old one.

Integers are computed when they are written (``graphopt.rewrite.weights``): of a large model only scales are held.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.calibrate.solve import Parameters
from graphopt.context import Context
from graphopt.facts.constants import MICROSOFT, is_constant
from graphopt.quantization.placement import Placement, Weight
from graphopt.quantization.request import Request
from graphopt.quantization.weight_only.layout import blocked, from_rows, packed, to_rows
from graphopt.quantization.weight_only.opset import require
from graphopt.quantization.weight_only.place import Operand, choice_of
from graphopt.quantization.weight_only.solve import Progress, codes_of, of_weight
from graphopt.quantization.weight_only.table import Choice
from graphopt.rewrite.edit import Cursor, Edit
from graphopt.rewrite.unused import remove_unused
from graphopt.rewrite.weights import derived

Arrays = Callable[[np.ndarray], np.ndarray]

BLOCKED = 21
"""The first operator set with DequantizeLinear in blocks, and with 4 bits."""


def insert(
    context: Context,
    placement: Placement,
    found: MutableMapping[ir.Value, Parameters],
    codes: Mapping[ir.Value, np.ndarray],
    request: Request,
    progress: Progress | None = None,
) -> None:
    """Store the weights of a placement as integers, one at a time.

    Weights without an entry in ``found`` get one: their parameters are solved here. ``codes`` has the integers of
    those that were not rounded to nearest, in the shape of the weight.

    Raises:
        ModelError: The model cannot be brought to an operator set that knows the operators.
    """
    if "DequantizeLinear" in placement.nodes.values():
        require(context, BLOCKED)
    if any(operator != "DequantizeLinear" for operator in placement.nodes.values()):
        context.model.opset_imports.setdefault(MICROSOFT, 1)
    work = _Work(context, request, codes)
    for number, weight in enumerate(placement.weights.values()):
        if progress is not None:
            progress("quantizing weights", number, len(placement.weights))
        if weight.value not in found:
            array = context.constants.array(weight.value)
            assert array is not None
            found[weight.value] = of_weight(array, weight, request)
            context.constants.release(weight.value)
        work.store(weight, found[weight.value])
    for graph in context.graphs():
        remove_unused(graph)
        context.changed()


@dataclass
class _Work:
    """What was written so far: edits by graph, and what several readers of one weight share."""

    context: Context
    request: Request
    codes: Mapping[ir.Value, np.ndarray]
    edits: dict[ir.Graph, Edit] = field(default_factory=dict)
    shared: dict[str, ir.Value] = field(default_factory=dict)

    def edit(self, graph: ir.Graph) -> Edit:
        """Return the edit of a graph."""
        if graph not in self.edits:
            with self.context.inside(graph):
                self.edits[graph] = Edit(self.context.bare(), "composed", cut_weights=True)
        return self.edits[graph]

    def store(self, weight: Weight, found: Parameters) -> None:
        """Let everyone who reads a weight read integers."""
        tied = {node.op_type for node, _ in weight.readers} > {"Gather"}
        self.shared.clear()
        for node, _ in weight.readers:
            assert isinstance(node.graph, ir.Graph)
            operand, choice = choice_of(self.context, node, weight, self.request)
            one = _Reader(self, self.edit(node.graph), node, weight, operand, choice, found, tied)
            {"MatMulNBits": one.product, "GatherBlockQuantized": one.rows, "DequantizeLinear": one.dequantize}[
                choice.form.operator
            ]()

    def integers(
        self, key: str, weight: Weight, compute: Arrays, shape: tuple[int, ...], dtype: ir.DataType
    ) -> ir.Value:
        """Return the initializer for a key, made of the weight when it is written."""
        if key not in self.shared:
            tensor = derived(self.context.constants.tensor(weight.value), compute, shape, dtype=dtype)
            self.shared[key] = self._stored(weight, tensor, "quantized")
        return self.shared[key]

    def parameter(self, key: str, weight: Weight, array: np.ndarray, dtype: ir.DataType, what: str) -> ir.Value:
        """Return the initializer for a key, which holds an array."""
        if key not in self.shared:
            tensor = ir.Tensor(np.ascontiguousarray(array.astype(dtype.numpy(), copy=False)), dtype=dtype)
            self.shared[key] = self._stored(weight, tensor, what)
        return self.shared[key]

    def home(self, weight: Weight) -> ir.Graph:
        """Return the graph in which a weight lies: who reads it sees what lies beside it."""
        graph = weight.value.graph
        return graph if isinstance(graph, ir.Graph) else self.context.model.graph

    def _stored(self, weight: Weight, tensor: ir.TensorProtocol, what: str) -> ir.Value:
        graph = self.home(weight)
        return self.edit(graph).initializer(tensor, f"{weight.value.name}_{what}", graph)


@dataclass
class _Reader:
    """One node that reads a weight."""

    work: _Work
    edit: Edit
    node: ir.Node
    weight: Weight
    operand: Operand
    choice: Choice
    found: Parameters
    tied: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of the weight."""
        sizes = dims.static(self.weight.value)
        assert sizes is not None
        return tuple(int(size or 0) for size in sizes)

    @property
    def name(self) -> str:
        """Return the name of the weight."""
        return str(self.weight.value.name)

    @property
    def dtype(self) -> ir.DataType:
        """Return the type of the weight."""
        assert self.weight.value.dtype is not None
        return self.weight.value.dtype

    def integers(self, array: np.ndarray) -> np.ndarray:
        """Return the rows of integers: ``[rows, K]`` of a weight in blocks."""
        given = self.work.codes.get(self.weight.value)
        if given is not None:
            return to_rows(np.asarray(given), self.operand.axis).astype(np.int16)
        return codes_of(to_rows(array, self.operand.axis), self.found, self.weight)

    # -- MatMulNBits ----------------------------------------------------------------------------------------------

    @property
    def middle(self) -> int:
        """Return what is added to signed integers: MatMulNBits has unsigned ones, by default around the middle."""
        return 2 ** (self.choice.bits - 1) if self.weight.grid.signed else 0

    def _packed(self, *, flat: bool) -> ir.Value:
        """``[rows, blocks, B * bits / 8]``, or ``[rows, K * bits / 8]``."""
        bits, block = self.choice.bits, self.choice.block
        count, size = self.found.scale.shape[0], self.shape[self.operand.axis]
        middle = self.middle

        def compute(array: np.ndarray) -> np.ndarray:
            unsigned = self.integers(array) + middle
            return packed(unsigned if flat else blocked(unsigned, block), bits)

        shape = (count, size * bits // 8) if flat else (count, self.found.scale.shape[1], block * bits // 8)
        return self.work.integers("rows" if flat else "blocks", self.weight, compute, shape, ir.DataType.UINT8)

    def _scales(self, factor: float = 1.0) -> ir.Value:
        scale = self.found.scale if factor == 1.0 else self.found.scale * np.float32(factor)
        return self.work.parameter(f"scale {factor}", self.weight, scale, self.dtype, "scale")

    def _zero_points(self) -> list[ir.Value | None]:
        if self.weight.grid.signed:
            return []
        zero = packed(self.found.zero_point, self.choice.bits)
        return [self.work.parameter("zero", self.weight, zero, ir.DataType.UINT8, "zero_point")]

    def _tied_blocks(self) -> ir.Value | None:
        """The rows that a Gather reads, in blocks: stored once, if they end with a block."""
        size, block, bits = self.shape[self.operand.axis], self.choice.block, self.choice.bits
        if not self.tied or size % block:
            return None
        shape = self.edit.constant(np.array([0, -1, block * bits // 8], np.int64), f"{self.name}_blocks_shape")
        sizes = (self.found.scale.shape[0], size // block, block * bits // 8)
        rows = self._packed(flat=True)
        place = self.edit.before(self.node)
        return self.edit.node("Reshape", [rows, shape], place, f"{self.name}_blocks", sizes, rows)

    def product(self) -> None:
        """``MatMul(A, W)`` and ``alpha A W + beta C`` become ``MatMulNBits(A, B, scales, zero points)``."""
        node, choice, edit = self.node, self.choice, self.edit
        gemm = node.op_type == "Gemm"
        alpha = node.attributes.get_float("alpha", 1.0) if gemm else 1.0
        beta = node.attributes.get_float("beta", 1.0) if gemm else 1.0
        added = node.inputs[2] if gemm and len(node.inputs) > 2 and beta else None
        count = self.found.scale.shape[0]
        weight = self._tied_blocks() or self._packed(flat=False)
        inputs: list[ir.Value | None] = [node.inputs[0], weight, self._scales(alpha), *self._zero_points()]
        bias = self._bias(added, beta, count) if choice.form.bias else None
        if bias is not None:
            inputs += [None] * (5 - len(inputs)) + [bias]
            added = None
        attributes = [
            ir.AttrInt64("K", self.shape[self.operand.axis]),
            ir.AttrInt64("N", count),
            ir.AttrInt64("bits", choice.bits),
            ir.AttrInt64("block_size", choice.block),
        ]
        level = choice.form.accuracy_level
        if level:
            attributes.append(ir.AttrInt64("accuracy_level", level))
        old, place = node.outputs[0], edit.before(node)
        sizes = dims.sizes(old)
        new = edit.node("MatMulNBits", inputs, place, f"{old.name}_product", sizes, old, attributes, domain=MICROSOFT)
        if added is not None:
            if beta != 1.0:
                factor = edit.constant(np.array(beta, self.dtype.numpy()), f"{old.name}_beta", self.dtype)
                added = edit.node("Mul", [added, factor], place, f"{old.name}_added", dims.sizes(added), old)
            new = edit.node("Add", [new, added], place, f"{old.name}_sum", sizes, old)
        self._replace(new)

    def _bias(self, added: ir.Value | None, beta: float, count: int) -> ir.Value | None:
        """Return ``beta C`` as ``[N]``, if it is a constant that is the same in every row."""
        if added is None or not is_constant(added):
            return None
        array = self.work.context.constants.array(added)
        if array is None or array.ndim > 2 or (array.ndim == 2 and array.shape[0] != 1) or array.size not in (1, count):
            return None
        row = np.broadcast_to(array.reshape(-1), (count,))
        if beta == 1.0 and array.shape == (count,):
            return added
        scaled = (row.astype(np.float32) * np.float32(beta)).astype(array.dtype)
        return self.edit.constant(scaled, f"{added.name}_row", self.dtype)

    # -- GatherBlockQuantized -------------------------------------------------------------------------------------

    def rows(self) -> None:
        """``Gather(W, indices)`` becomes ``GatherBlockQuantized(W, indices, scales, zero points)``."""
        old = self.node.outputs[0]
        inputs = [self._packed(flat=True), self.node.inputs[1], self._scales(), *self._zero_points()]
        attributes = [
            ir.AttrInt64("gather_axis", 0),
            ir.AttrInt64("quantize_axis", 1),
            ir.AttrInt64("block_size", self.choice.block),
            ir.AttrInt64("bits", self.choice.bits),
        ]
        place, sizes = self.edit.before(self.node), dims.sizes(old)
        self._replace(
            self.edit.node(
                "GatherBlockQuantized", inputs, place, f"{old.name}_rows", sizes, old, attributes, domain=MICROSOFT
            )
        )

    # -- DequantizeLinear -----------------------------------------------------------------------------------------

    def dequantize(self) -> None:
        """The operator reads ``DequantizeLinear(integers, scales, zero points)``.

        A product's weight is stored as ``[K, N]``, whatever it was: only then onnxruntime makes one operator of two.
        """
        node = self.node
        if not self.choice.block:
            node.replace_input_with(self.operand.position, self._by_channel())
            return
        if node.op_type == "Conv":
            node.replace_input_with(self.operand.position, self._by_block(self.shape, 1))
            return
        count, size = self.found.scale.shape[0], self.shape[self.operand.axis]
        node.replace_input_with(self.operand.position, self._by_block((size, count), 0))
        if node.op_type == "Gemm":
            node.attributes["transB"] = ir.AttrInt64("transB", 0)

    def _by_block(self, shape: tuple[int, ...], axis: int) -> ir.Value:
        """Return the weight of ``shape``, dequantized in blocks along an axis."""

        def ordered(rows: np.ndarray) -> np.ndarray:
            return np.ascontiguousarray(from_rows(rows, shape, axis))

        def compute(array: np.ndarray) -> np.ndarray:
            return ordered(self.integers(array)).astype(self.stored.numpy())

        scale, zero = ordered(self.found.scale), ordered(self.found.zero_point)
        return self._dequantized(compute, scale, zero, shape, axis, self.choice.block)

    def _by_channel(self) -> ir.Value:
        """Return the weight, dequantized with a scale for each position of its first axis."""
        found, grid = self.found, self.weight.grid
        given = self.work.codes.get(self.weight.value)

        def compute(array: np.ndarray) -> np.ndarray:
            if given is not None:
                return np.asarray(given).astype(self.stored.numpy())
            along = [-1] + [1] * (array.ndim - 1)
            steps = np.rint(array.astype(np.float32) / found.scale.reshape(along)) + found.zero_point.reshape(along)
            return np.clip(steps, grid.low, grid.high).astype(self.stored.numpy())

        return self._dequantized(compute, found.scale, found.zero_point, self.shape, 0, 0)

    @property
    def stored(self) -> ir.DataType:
        """Return the type of the integers that DequantizeLinear reads."""
        return ir.DataType[f"{'' if self.weight.grid.signed else 'U'}INT{self.choice.bits}"]

    def _dequantized(
        self, compute: Arrays, scale: np.ndarray, zero: np.ndarray, shape: tuple[int, ...], axis: int, block: int
    ) -> ir.Value:
        """Return the one node that dequantizes a weight for all of its readers."""
        work, weight = self.work, self.weight
        if "dequantized" not in work.shared:
            stored = work.integers("stored", weight, compute, shape, self.stored)
            inputs: list[ir.Value | None] = [stored, work.parameter("scale", weight, scale, self.dtype, "scale")]
            if not weight.grid.signed:
                inputs.append(work.parameter("zero", weight, zero, self.stored, "zero_point"))
            attributes = [ir.AttrInt64("axis", axis)] + ([ir.AttrInt64("block_size", block)] if block else [])
            graph = work.home(weight)
            base, place = f"{self.name}_dequantized", Cursor.behind(stored, graph)
            work.shared["dequantized"] = work.edit(graph).node(
                "DequantizeLinear", inputs, place, base, shape, weight.value, attributes
            )
        return work.shared["dequantized"]

    # -- both -----------------------------------------------------------------------------------------------------

    def _replace(self, new: ir.Value) -> None:
        """Let a value take the place of the node's output, with its name; the node goes."""
        node, old, graph = self.node, self.node.outputs[0], self.edit.graph
        made = new.producer()
        assert made is not None
        for use in list(old.uses()):
            use.node.replace_input_with(use.idx, new)
        for position, output in enumerate(graph.outputs):
            if output is old:
                graph.outputs[position] = new
        name, old.name = old.name, self.edit.name(f"{old.name}_float")
        new.name = name
        made.name = node.name
        made.metadata_props.update(node.metadata_props)
        node.name = None
        graph.remove(node, safe=True)
