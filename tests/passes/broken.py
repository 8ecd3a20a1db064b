"""A pass that is wrong on purpose: what is a proof worth that was never seen to fail?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.context import Context


@dataclass(frozen=True)
class Broken:
    """Add a thousandth to one weight."""

    name: ClassVar[str] = "broken"

    def run(self, context: Context) -> bool:
        """Run on the main graph."""
        for value in context.model.graph.initializers.values():
            tensor = value.const_value
            if tensor is not None and tensor.dtype == ir.DataType.FLOAT and len(tensor.shape) > 1:
                array = np.array(tensor.numpy())
                array.reshape(-1)[np.abs(array).argmax()] *= 1.001
                value.const_value = ir.Tensor(array, name=value.name)
                break
        return context.record({"broken": 1})
