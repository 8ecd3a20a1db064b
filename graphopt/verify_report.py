"""What a verification found: per output how far it is off, and why it failed.

Part of the family ``graphopt/verify*.py``; use it through `graphopt.verify`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from graphopt.difference import Difference


@dataclass(frozen=True)
class OutputRow:
    """How far an output is off, over all samples.

    Attributes:
        name: The output (``name[0]``, ``name[1]`` … for the elements of a sequence).
        max_abs: Largest absolute difference of finite elements.
        max_rel: ``max_abs`` relative to the largest magnitude of the output in that sample.
        tolerance: The absolute difference that was allowed at the worst element; 0 for exact types.
        where: The worst element, its sample, index and both values; None where all are equal.
        note: What else there is to know, e.g. that onnxruntime's own optimizer changes the original; else None.
    """

    name: str
    max_abs: float
    max_rel: float
    tolerance: float
    where: str | None = None
    note: str | None = None


@dataclass(frozen=True)
class VerifyReport:
    """The outcome of a verification.

    Attributes:
        passed: Whether the two models are the same function on every sample.
        samples: How many sets of inputs were compared.
        shapes: Per sample the shape of every input.
        outputs: One row per output.
        reason: Why it failed, for a person; None when it passed.
        skipped: Sizes that were not compared, with the reason why the original does not run there.
    """

    passed: bool
    samples: int
    shapes: list[dict[str, list[int]]]
    outputs: list[OutputRow]
    reason: str | None = None
    skipped: list[str] = field(default_factory=list)


class Rows:
    """The rows of a report: per output the sample that came nearest to its tolerance, or went farthest beyond."""

    def __init__(self, names: Iterable[str]):
        self._rows = {name: (-1.0, OutputRow(name, 0.0, 0.0, 0.0)) for name in names}

    def add(self, found: Difference, sample: int, note: str | None) -> None:
        """Take what was found of one output in one sample."""
        ratio, row = self._rows.get(found.name, (-1.0, None))
        note = note or (row.note if row else None)
        new = math.inf if found.problem else found.ratio
        if row is None or new > ratio:
            where = f"sample {sample}: {found.where}" if found.where else None
            row = OutputRow(found.name, found.max_abs, found.max_rel, found.tolerance, where, note)
        elif note != row.note:
            row = replace(row, note=note)
        self._rows[found.name] = (max(new, ratio), row)

    def rows(self) -> list[OutputRow]:
        """Return one row per output."""
        return [row for _, row in self._rows.values()]
