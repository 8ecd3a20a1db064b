"""The version of the operator set that a quantized type needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphopt.context import Context
from graphopt.quantization.types import opset
from graphopt.rewrite.opsets import raise_opset


@dataclass(frozen=True)
class UpgradeOpset:
    """Write the model in a later version of the standard operator set, where quantized types need one.

    1. Scales for each channel need version 13; types of 4 and 16 bits, and scales for each block, need 21.
    2. Operators that did not change stay as they are; those that are written otherwise are, exactly: axes become
       inputs, ``Softmax`` over its last axis says so, ``Split`` counts its outputs.

    *Options*: ``version``, what to come to; 0: what the types need that are being quantized to (13 otherwise).

    *Never* where an operator means something else in the later version and no node writes the old meaning; the warning
    names it. Never to an earlier version.

    *Needs* ranks.

    ``Squeeze(x){axes=[2]}`` -> ``Squeeze(x, [2])``
    """

    name: ClassVar[str] = "upgrade-opset"
    stage: ClassVar[str] = "prepare"

    version: int = 0

    def __post_init__(self) -> None:
        if self.version < 0:
            raise ValueError("version cannot be negative")

    def run(self, context: Context) -> bool:
        """Run on every graph at once: they share a version."""
        old, new = context.opset, self.version or _wanted(context)
        if old >= new:
            return False
        reason = raise_opset(context, new)
        if reason is not None:
            context.warn("opset-stays", f"the model stays at operator set {old}, {new} was wanted: {reason}")
            return False
        return context.record({"opset": new - old})


def _wanted(context: Context) -> int:
    return 13 if context.quantization is None else opset(context.quantization.request)
