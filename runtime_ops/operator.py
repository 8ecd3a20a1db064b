"""What a runtime operator is, seen from Python."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir

DOMAIN = "graphopt"
VERSION = 1


@dataclass(frozen=True)
class Operator:
    """A runtime operator: its definition, and what computes it.

    Attributes:
        name: The ``op_type``; the domain is ``graphopt``.
        summary: One line: what it computes, as a formula.
        text: The definition as an ONNX function in ONNX's textual form, with ``{opset}`` where the version of the
            default operator set goes: a function has to agree with the model that it travels in.
        since: The lowest version of the default operator set that the definition can be written in.
        reference: The same in numpy: inputs as arrays (None where absent), attributes as keywords; returns the outputs.
        providers: ``cpu``, ``cuda``: where there is a kernel.
        inputs: Names of the inputs, as in the definition.
        attributes: Defaults of the attributes.
    """

    name: str
    summary: str
    text: str
    since: int
    reference: Callable[..., Sequence[Any]]
    providers: tuple[str, ...]
    inputs: tuple[str, ...]
    attributes: dict[str, Any] = field(default_factory=dict)

    def function(self, opset: int) -> ir.Function:
        """Return the definition for a model of an opset.

        Raises:
            ValueError: The opset is older than ``since``.
        """
        if opset < self.since:
            raise ValueError(f"{self.name} needs opset {self.since}, the model has {opset}")
        # onnx_ir reads models only, so the function comes in one that is empty otherwise.
        model = f'<ir_version: 10, opset_import: ["": {opset}]>\nnothing () => () {{}}\n'
        (function,) = ir.from_onnx_text(model + self.text.replace("{opset}", str(opset))).functions.values()
        return function
