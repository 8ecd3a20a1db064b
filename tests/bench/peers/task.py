"""What every tool is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import onnx

Feeds = dict[str, Any]


@dataclass
class Task:
    """One model, the inputs on which a result is compared, and the torch module it came from, if it came from one.

    Attributes:
        model: the original.
        feeds: inputs, one set per batch size.
        timed: whether the result will be measured.
        module: the masked module in eval mode, anew at every task; None for graphs written as ONNX.
    """

    model: onnx.ModelProto
    feeds: list[Feeds]
    module: Any = None
    timed: bool = False
