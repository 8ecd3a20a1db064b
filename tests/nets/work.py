"""How much work something is, counted rather than timed, so that a busy machine does not matter."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any


def calls(function: Callable[[], Any]) -> int:
    """Run a function and return how many calls it made, of Python's functions and of C's.

    Loops over nodes, values and positions call something for each; what numpy does inside of one call is not seen.
    """
    count = 0

    def hook(_frame: FrameType, event: str, _argument: Any) -> None:
        nonlocal count
        if event in ("call", "c_call"):
            count += 1

    before, enabled = sys.getprofile(), gc.isenabled()
    gc.disable()
    sys.setprofile(hook)
    try:
        function()
    finally:
        sys.setprofile(before)
        if enabled:
            gc.enable()
    return count
