"""onnxruntime's own optimizer: how far it moves the original, next to how far it moves a candidate.

Part of the family ``graphopt/verify*.py``; use it through `graphopt.verify`, where the rule stands.
"""

from __future__ import annotations

from typing import Any

from graphopt import runtime
from graphopt.difference import Difference
from graphopt.errors import ModelError
from graphopt.samples import Feeds
from graphopt.verify_cases import Case
from graphopt.verify_tolerance import Tolerance

_FURTHER = 2.0
"""How many times as far as the original the optimizer may move a candidate that agrees as it is written."""


class Optimized:
    """The original with onnxruntime's optimizations, made when it is first asked for."""

    def __init__(self, source: Any, tolerance: Tolerance):
        """Take the original, as ``runtime.session`` takes it, and what compares outputs with its."""
        self._source, self._tolerance = source, tolerance
        self._session: Any = None

    def possible(self) -> bool:
        """Tell whether onnxruntime can optimize the original."""
        try:
            self._session = self._session or runtime.session(self._source)
        except ModelError:
            return False
        return True

    def like_with_like(self, fast: Any, inputs: Feeds, number: int) -> tuple[list[Difference], str | None]:
        """Compare a candidate, in the session of its user, with the original optimized: differences, reason to fail."""
        try:
            if self._session is None:
                self._session = runtime.session(self._source)
            expected = runtime.run(self._session, inputs)
        except ModelError as error:
            try:
                runtime.run(fast, inputs)
            except ModelError:
                return [], None  # optimized, the original fails like the candidate does
            return [], f"with optimizations the original does not run: {error.what}"
        return self._tolerance.against(expected, fast, inputs, number)

    def no_further(self, case: Case, fast: Any, inputs: Feeds) -> bool:
        """Tell whether the optimizer moves the candidate about as far from what the original says as the original.

        Only asked where the candidate as written agrees: some fused operators compute in fewer bits.
        """
        if not self.possible():
            return False
        try:
            moved = [runtime.run(session, inputs) for session in (self._session, fast)]
        except ModelError:
            return False
        own, other = (self._tolerance.differences(case.outputs, outputs) for outputs in moved)
        return all(
            not theirs.problem and (theirs.ratio <= 1 or theirs.max_abs <= _FURTHER * mine.max_abs)
            for mine, theirs in zip(own, other, strict=True)
        )
