"""Integers of uint8 become int8, each 128 less: the edit. What can is in ``graphopt.facts.shifted``."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt.facts.shifted import Group
from graphopt.rewrite.dequantized import signed
from graphopt.rewrite.edit import Edit
from graphopt.rewrite.weights import derived


def shift(groups: list[Group], edit: Edit) -> None:
    """Change the types of all values of some groups that can be, with the zero points and constants between them."""
    copies: dict[ir.Value, ir.Value] = {}
    for group in groups:
        assert group.reason is None
        for value in group.values:
            value.type = ir.TensorType(ir.DataType.INT8)
        for node in group.quantizers:
            _move_zero(node, edit)
        for node in group.movers:
            if node.op_type == "Pad" and node.attributes.get_string("mode", "constant") == "constant":
                _move_filling(node, edit)
        for node, position in group.constants:
            node.replace_input_with(position, _less(node.inputs[position], copies, edit))


def _move_zero(node: ir.Node, edit: Edit) -> None:
    """Give a Q or DQ a zero point of int8."""
    scale = node.inputs[1]
    given = node.inputs[2] if len(node.inputs) > 2 else None
    known = edit.facts.constants.array(scale if given is None else given)
    assert known is not None and scale is not None
    zero = signed(np.zeros(known.shape, np.uint8) if given is None else known)
    base = f"{scale.name}_zero_point" if given is None else str(given.name)
    if len(node.inputs) < 3:
        node.resize_inputs(3)
    node.replace_input_with(2, edit.constant(zero, f"{base}_signed"))
    # The zero point says the type. onnxruntime makes uint8 of int8 where the processor wants it, and forgets this.
    node.attributes.pop("output_dtype", None)


def _move_filling(node: ir.Node, edit: Edit) -> None:
    """Say what a Pad fills with that left it to be 0; a value that is given is one of the integers."""
    if len(node.inputs) < 3:
        node.resize_inputs(3)
    if node.inputs[2] is None:
        node.replace_input_with(2, edit.constant(np.array(-128, np.int8), "filling"))


def _less(value: ir.Value | None, copies: dict[ir.Value, ir.Value], edit: Edit) -> ir.Value:
    assert value is not None
    if value not in copies:
        source = edit.facts.constants.tensor(value)
        tensor = derived(source, signed, tuple(source.shape.numpy()), dtype=ir.DataType.INT8)
        copies[value] = edit.initializer(tensor, f"{value.name}_signed")
    return copies[value]
