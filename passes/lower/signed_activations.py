"""Activations of uint8 become int8, the type that runtime operators read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from graphopt.context import Context
from graphopt.facts.shifted import Group, group
from graphopt.rewrite.edit import Edit
from graphopt.rewrite.int8_layers import Layer, layers
from graphopt.rewrite.operators import ready
from graphopt.rewrite.shifted import shift
from graphopt.rewrite.unused import remove_unused


@dataclass(frozen=True)
class SignedActivations:
    """Quantize activations to int8 where they are uint8: the same integers, each 128 less.

    1. A QuantizeLinear of uint8 and all that read it become int8, with zero points 128 less; floats behind a
       DequantizeLinear stay what they are, bit for bit.
    2. Operators between them that move, compare or bound integers (Reshape, Concat, MaxPool, Pad, …) come with them;
       constants there become 128 less.

    *Never* integers that are an input or an output, that an operator computes with (QLinearConv), whose zero point is
    computed, or that no layer of ``lower-int8`` reads or writes.

    *Needs* runtime operators (``--operators``) and ``lower-int8`` behind it.

    ``Q{uint8, zero 130} -> DQ`` -> ``Q{int8, zero 2} -> DQ``
    """

    name: ClassVar[str] = "signed-activations"
    stage: ClassVar[str] = "lower"

    def run(self, context: Context) -> bool:
        """Run on every graph."""
        return context.everywhere(lambda: self._run(context))

    def _run(self, context: Context) -> bool:
        if not context.runtime_operators:
            return False
        found = [layer for layer in layers(context)[0] if layer.unsigned()]
        groups, kept = _groups(found, context)
        changing = [layer for layer in found if all(kept[value].reason is None for value in layer.unsigned())]
        reasons = {str(one.reason): None for one in groups if one.reason is not None}
        if reasons:
            left = len(found) - len(changing)
            stay = "1 layer stays" if left == 1 else f"{left} layers stay"
            context.warn("stays-uint8", f"{stay} in uint8, which no operator reads: {'; '.join(reasons)}")
        if not changing or not all(ready(context, name) for name in {layer.operator for layer in changing}):
            return False
        wanted = {id(kept[value]): kept[value] for layer in changing for value in layer.unsigned()}
        shift(list(wanted.values()), Edit(context.bare(), "composed", cut_weights=True))
        remove_unused(context.graph)
        return context.record({"signed": sum(len(one.values) for one in wanted.values())})


def _groups(found: list[Layer], context: Context) -> tuple[list[Group], dict[ir.Value, Group]]:
    """Return what the layers' activations are connected with, and the group of each value."""
    groups: list[Group] = []
    kept: dict[ir.Value, Group] = {}
    for value in (value for layer in found for value in layer.unsigned()):
        if value not in kept:
            groups.append(group(value, context.graph, context.constants, context.opset))
            kept |= dict.fromkeys(groups[-1].values, groups[-1])
    return groups, kept
