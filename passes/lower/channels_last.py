"""Chains of int8 convolutions keep their images in the order in which the GPU multiplies them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import onnx_ir as ir

from graphopt import dims
from graphopt.context import Context
from graphopt.rewrite.edit import Edit
from graphopt.runtime_ops.operator import DOMAIN

FIRST, LAST = (0, 1, 2, 3), (0, 2, 3, 1)
BACK = (0, 3, 1, 2)
X, RESIDUAL = 0, 4


@dataclass(frozen=True)
class ChannelsLast:
    """Let ``Int8Conv`` hand NHWC to ``Int8Conv``; tensor cores read channels that lie together.

    1. A convolution that another reads, as its image or its residual, writes NHWC, and who reads it takes it so.
    2. Everything else that reads it gets NCHW from one Transpose.
    3. What no convolution writes and several read, or one adds to an NHWC result, is transposed once. One reader alone
       rearranges its image itself.

    *Never* graph outputs, or convolutions along one axis.

    *Needs* ``lower-int8`` before it.

    ``Int8Conv -> Int8Conv`` -> ``Int8Conv{output NHWC} -> Int8Conv{input NHWC}``
    """

    name: ClassVar[str] = "channels-last"
    stage: ClassVar[str] = "lower"

    def run(self, context: Context) -> bool:
        """Run on every graph."""
        return context.everywhere(lambda: self._run(context))

    def _run(self, context: Context) -> bool:
        nodes = [node for node in context.graph if _convolution(node)]
        writers = [node for node in nodes if _reads_first(node, "output_perm") and _read_by_one(node.outputs[0])]
        if not writers:
            return False
        work = _Work(Edit(context.bare(), "composed", cut_weights=True), set(), {})
        for node in writers:
            work.write_last(node)
        for node in nodes:
            work.read(node)
        return context.record({"channels_last": len(writers)})


@dataclass
class _Work:
    edit: Edit
    last: set[ir.Value]
    """Values that lie in NHWC."""
    copies: dict[ir.Value, ir.Value] = field(default_factory=dict)
    """Of values: the same numbers in the other order."""

    def write_last(self, node: ir.Node) -> None:
        """Let a node write NHWC; those that cannot read it so read a copy."""
        value = node.outputs[0]
        others = [use for use in value.uses() if not (_convolution(use.node) and use.idx in (X, RESIDUAL))]
        before = dims.sizes(value)
        node.attributes["output_perm"] = ir.AttrInt64s("output_perm", LAST)
        value.shape = None if before is None else ir.Shape([before[axis] for axis in LAST])
        self.last.add(value)
        if others:
            copy = self.copy(value)
            for user, position in others:
                user.replace_input_with(position, copy)

    def read(self, node: ir.Node) -> None:
        """Let a node read NHWC where its image lies so, and its residual in the order of its result."""
        image = node.inputs[X]
        if image is not None and _reads_first(node, "input_perm"):
            if image not in self.last and (image in self.copies or _images(image) > 1):
                image = self.copy(image)
                node.replace_input_with(X, image)
            if image in self.last:
                node.attributes["input_perm"] = ir.AttrInt64s("input_perm", BACK)
        residual = node.inputs[RESIDUAL] if len(node.inputs) > RESIDUAL else None
        if residual is not None and (residual in self.last) != (node.outputs[0] in self.last):
            node.replace_input_with(RESIDUAL, self.copy(residual))

    def copy(self, value: ir.Value) -> ir.Value:
        """Return a value's numbers in the other order, transposed once."""
        if value not in self.copies:
            order = BACK if value in self.last else LAST
            sizes = dims.sizes(value)
            shape = None if sizes is None else [sizes[axis] for axis in order]
            perm = [ir.AttrInt64s("perm", order)]
            name = f"{value.name}_{'first' if value in self.last else 'last'}"
            made = self.edit.node("Transpose", [value], self.edit.behind(value), name, shape, value, perm)
            self.copies[value], self.copies[made] = made, value
            if value not in self.last:
                self.last.add(made)
        return self.copies[value]


def _convolution(node: ir.Node) -> bool:
    return node.domain == DOMAIN and node.op_type in ("Int8Conv", "Int8ConvAdd") and len(_order(node)) == 4


def _order(node: ir.Node) -> tuple[int, ...]:
    return tuple(node.attributes.get_ints("input_perm") or ())


def _reads_first(node: ir.Node, name: str) -> bool:
    return tuple(node.attributes.get_ints(name) or ()) == FIRST


def _read_by_one(value: ir.Value) -> bool:
    """Tell whether a convolution reads a value, which is no output of the graph."""
    read = any(_convolution(node) and position in (X, RESIDUAL) for node, position in value.uses())
    return read and not value.is_graph_output()


def _images(value: ir.Value) -> int:
    """Count the convolutions whose image a value is."""
    return sum(_convolution(node) and position == X for node, position in value.uses())
