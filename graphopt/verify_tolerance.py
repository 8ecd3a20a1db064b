"""How far outputs may be off: the constant of their type, or what the original itself makes of a last bit.

Part of the family ``graphopt/verify*.py``; use it through `graphopt.verify`.

A float output passes where ``|a - b| <= atol + rtol * |a|``, ``a`` being the original. Integers, booleans and strings
are compared exactly, NaN and infinities must stand at the same places (signed zeros may differ). By default ``rtol``
and ``atol / max|a|`` are constants of the narrowest floating-point type on the way to that output: see
``TOLERANCES``. A network may amplify rounding beyond them, and then it does so by itself: where the *original*, given
its inputs moved by one unit in the last place, answers with more than the constant, ``atol`` is four times that
answer, at most ten times the constant. This is a property of the original, the candidate has no say in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt import runtime
from graphopt.difference import Difference, difference, last_bit, leaves
from graphopt.errors import ModelError
from graphopt.precision import TOLERANCES
from graphopt.samples import Feeds
from graphopt.verify_cases import Cases


class Tolerance:
    """Compares outputs with the original's."""

    def __init__(
        self,
        source: Any,
        cases: Cases,
        outputs: Sequence[str],
        narrowest: Mapping[str, ir.DataType],
        *,
        rtol: float | None = None,
        atol: float | None = None,
    ):
        """Prepare to compare.

        Args:
            source: The original, as ``runtime.session`` takes it.
            cases: The inputs, and what the original makes of them.
            outputs: The names of its outputs.
            narrowest: By output the narrowest floating-point type on the way to it.
            rtol: Allowed difference relative to the element; default by type.
            atol: Allowed absolute difference; default by type, and by what the original makes of a last bit.
        """
        self._source, self._cases, self._outputs, self._narrowest = source, cases, outputs, narrowest
        self._rtol, self._atol = rtol, atol
        self._noise: dict[int, dict[str, float]] = {}

    def against(
        self, expected: list[Any], session: Any, inputs: Feeds, number: int
    ) -> tuple[list[Difference], str | None]:
        """Differences per output, and the first reason to fail."""
        try:
            outputs = runtime.run(session, inputs)
        except ModelError as error:
            return [], f"the candidate does not run: {error.what}"
        found = self.differences(expected, outputs)
        if self._atol is None and any(d.ratio > 1 and not d.problem for d in found):
            found = self.differences(expected, outputs, self._amplified(number))
        failed = [d for d in found if d.problem or d.ratio > 1]
        return found, failed[0].reason() if failed else None

    def differences(
        self, expected: list[Any], outputs: list[Any], noise: Mapping[str, float] | None = None
    ) -> list[Difference]:
        """Differences per output, given by how much the original itself moves; the default: not at all."""
        found = []
        for name, reference, output in zip(self._outputs, expected, outputs, strict=True):
            default = TOLERANCES[self._narrowest.get(name, ir.DataType.FLOAT)]
            for label, one, other in leaves(name, reference, output):
                moved = noise.get(label, 0.0) if noise else 0.0
                found.append(difference(label, one, other, default, self._rtol, self._atol, moved))
        return found

    def _amplified(self, number: int) -> dict[str, float]:
        """What the original makes of the last bits of its inputs in this sample: largest difference per output.

        Only asked for where a candidate exceeds the constant, because it costs a run; it would be the same before.
        """
        if number not in self._noise:
            case = self._cases[number]
            rng = np.random.default_rng(number)
            moved = {name: last_bit(array, rng) for name, array in case.feeds.items()}
            try:
                outputs = runtime.run(runtime.session(self._source, optimize=False), moved)
            except ModelError:
                outputs = case.outputs
            self._noise[number] = {d.name: d.max_abs for d in self.differences(case.outputs, outputs)}
        return self._noise[number]
