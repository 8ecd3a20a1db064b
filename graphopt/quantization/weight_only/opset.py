"""Brings a model to an operator set that has what is to be inserted."""

from __future__ import annotations

from graphopt import registry
from graphopt.context import Context
from graphopt.errors import ModelError

IR_VERSIONS = {21: 10, 23: 11, 24: 12, 25: 13}
"""The version of the file format from which on there is an operator set."""


def require(context: Context, version: int) -> None:
    """Bring the model to at least a version of the standard operator set.

    Raises:
        ModelError: An operator of the model means something else there.
    """
    if context.opset < version:
        registry.make("upgrade-opset", {"version": version}).run(context)
    if context.opset < version:
        reason = next((row.message for row in context.warnings if row.code == "opset-stays"), "")
        raise ModelError(
            f"weights in blocks need operator set {version}" + (f": {reason}" if reason else ""),
            help="export the model with a later operator set; or --target cpu, whose operators need none",
        )
    model = context.model
    needed = max((ir for opset, ir in IR_VERSIONS.items() if opset <= context.opset), default=0)
    model.ir_version = max(model.ir_version or 0, needed)
