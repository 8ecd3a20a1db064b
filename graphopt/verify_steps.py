"""Quantized originals: sums of floats between two steps go to either, sums of integers are exact.

Part of the family ``graphopt/verify*.py``; use it through `graphopt.verify`, where the rule stands.
"""

from __future__ import annotations

from typing import Any

from graphopt import runtime
from graphopt.difference import Difference
from graphopt.errors import ModelError
from graphopt.samples import Feeds
from graphopt.verify_cases import Cases
from graphopt.verify_tolerance import Tolerance

_FURTHER = 2.0
"""How many times as far as the original from itself a candidate may be that is then compared in integers."""


class Steps:
    """An original that is a staircase where it has ``QuantizeLinear``, and what it says in integers."""

    def __init__(self, source: Any, cases: Cases, tolerance: Tolerance, *, quantized: bool):
        """Take the original, as ``runtime.session`` takes it, and whether it is a staircase at all."""
        self._source, self._cases, self._tolerance, self._quantized = source, cases, tolerance, quantized
        self._own: dict[str, float] | None = None
        self._integers: Any = None

    def between(self, found: list[Difference]) -> bool:
        """Tell whether a quantized original, as written and in integers, is half as far from itself as a candidate.

        Args:
            found: The candidate against the original, both as they are written.
        """
        if not self._quantized or not found or any(one.problem for one in found):
            return False
        if self._own is None:
            self._own = {}
            for case in self._cases:
                outputs = self._exact(case.feeds)
                for one in [] if outputs is None else self._tolerance.differences(case.outputs, outputs):
                    self._own[one.name] = max(self._own.get(one.name, 0.0), one.max_abs)
        own = self._own
        return all(one.ratio <= 1 or one.max_abs <= _FURTHER * own.get(one.name, 0.0) for one in found)

    def _exact(self, inputs: Feeds) -> list[Any] | None:
        """What the original says where onnxruntime computes with integers; None where it does not run so."""
        self._integers = self._integers or integers(self._source) or runtime.session(self._source, optimize=False)
        try:
            return runtime.run(self._integers, inputs)
        except ModelError:
            return None

    def compare(self, session: Any, inputs: Feeds, number: int) -> tuple[list[Difference], str | None]:
        """Compare a candidate, in a session that computes with integers, with the original in integers."""
        expected = self._exact(inputs)
        if expected is None:
            return [], "the original does not run in integers"
        return self._tolerance.against(expected, session, inputs, number)


def integers(source: Any, operators: bool = True) -> Any:
    """A session that computes with integers wherever it can; None where onnxruntime does not get that far."""
    try:
        return runtime.session(source, integers=True, operators=operators)
    except ModelError:
        return None
