"""The proof at the end: the result against the original in onnxruntime, and who broke it if it differs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import onnx_ir as ir

from graphopt import model as models
from graphopt.context import Context
from graphopt.errors import VerificationError
from graphopt.registry import Pass
from graphopt.rounds import ROUNDS, Settings, fingerprint, prepare

if TYPE_CHECKING:
    from graphopt.verify import Reference, VerifyReport


@dataclasses.dataclass(frozen=True, slots=True)
class Comparison:
    """How to compare: see ``graphopt.verify``."""

    samples: int = 4
    rtol: float | None = None
    atol: float | None = None
    seed: int = 0
    shapes: Mapping[str, Sequence[int]] | None = None

    def reference(self, original: ir.Model) -> Reference:
        """Run the original once and keep what it said.

        Raises:
            ModelError: it cannot be run.
        """
        from graphopt.verify import Reference

        return Reference(original, **dataclasses.asdict(self))


def prove(
    original: ir.Model, result: ir.Model, reference: Reference, settings: Settings, context: Context, keep_failed: bool
) -> VerifyReport:
    """Compare the result with the original.

    Raises:
        VerificationError: they differ and ``keep_failed`` is not set; names the pass that broke it.
    """
    verdict = reference.compare(result)
    if verdict.passed or keep_failed:
        return verdict
    culprit = _culprit(original, reference, settings, context)
    raise VerificationError(
        f"the optimized model differs from the original after pass {culprit!r}: {_worst(verdict)}",
        where=culprit,
        help="nothing was written; run with -p without this pass, and report the model",
        report=verdict,
        pass_name=culprit,
    )


def _culprit(original: ir.Model, reference: Reference, settings: Settings, context: Context) -> str:
    """Run the passes again, comparing after each, and return the name of the first that broke the model."""
    again = prepare(models.clone(original), settings)
    again.may_grow = context.may_grow
    selected: list[Pass] = list(settings.passes)
    for _ in range(ROUNDS if settings.repeat else 1):
        before = fingerprint(again.model)
        for item in selected:
            item.run(again)
            if not reference.compare(again.model).passed:
                return item.name
        if fingerprint(again.model) == before:
            break
    for item in settings.lowerings:
        item.run(again)
        if not reference.compare(again.model).passed:
            return item.name
    return selected[-1].name


def _worst(verdict: VerifyReport) -> str:
    if verdict.reason:
        return verdict.reason
    rows = [row for row in verdict.outputs if row.where]
    worst = max(rows or verdict.outputs, key=lambda row: row.max_abs)
    return f"output {worst.name!r} by {worst.max_abs:.3g} (allowed {worst.tolerance:.3g}) {worst.where or ''}"
