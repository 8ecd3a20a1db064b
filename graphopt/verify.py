"""Are two models the same function? onnxruntime decides.

**The rule.** The original runs once, with onnxruntime's graph optimizations *disabled*: as it is written. The
candidate runs as its user will run it, with the default optimizations. When they differ, the candidate runs again
without optimizations. If that agrees, graphopt changed nothing and onnxruntime's optimizer did: then like is compared
with like, the original *with* optimizations against the candidate *with* optimizations, within the same tolerance,
and the report row says so. If that differs too, or the plain candidate already did, the models are different. No
tolerance is ever loosened.

A quantized original (one with ``QuantizeLinear``) is a staircase. As it is written it rounds sums of floats, and one
in the middle between two steps goes to either, as it is added up; onnxruntime's optimizer has kernels that add
integers, which are exact. So there like is also compared with like, both in integers, where the plain candidate differs
by no more than twice what the original itself does, as written and in integers.

One thing onnxruntime's optimizer may do to the candidate alone: fail on empty inputs (a size of 0), where its blocked
layouts reshape what has no element. If the candidate as written agrees there, that is noted in the row and not a
failure.

**The tolerance.** A float output passes where ``|a - b| <= atol + rtol * |a|``, ``a`` being the original. Integers,
booleans and strings are compared exactly, NaN and infinities must stand at the same places (signed zeros may differ).
By default ``rtol`` and ``atol / max|a|`` are constants of the narrowest floating-point type on the way to that
output: see ``TOLERANCES``. A network may amplify rounding beyond them, and then it does so by itself: where the
*original*, given its inputs moved by one unit in the last place, answers with more than the constant, ``atol`` is four
times that answer, at most ten times the constant. This is a property of the original, the candidate has no say in it.

**The inputs** are drawn at typical sizes, and with every symbolic size 1, 0 and a prime where the original runs there
(see ``samples``). Sizes at which the original fails are reported as skipped; a candidate that fails where the
original runs is wrong.

The parts are files of the family ``graphopt/verify*.py``: the inputs (``verify_cases``), the tolerance
(``verify_tolerance``), onnxruntime's optimizer (``verify_optimizer``), staircases (``verify_steps``), the report
(``verify_report``).
"""

from __future__ import annotations

import os
import sys
import types
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt import model as _model
from graphopt import runtime
from graphopt.errors import ModelError, UsageError
from graphopt.precision import narrowest, quantizes
from graphopt.samples import Inputs, Shapes
from graphopt.verify_cases import Cases
from graphopt.verify_optimizer import Optimized
from graphopt.verify_report import OutputRow, Rows, VerifyReport
from graphopt.verify_steps import Steps, integers
from graphopt.verify_tolerance import Tolerance

__all__ = ["OutputRow", "Reference", "VerifyReport", "verify"]

_Interface = tuple[list[tuple[str, str]], list[tuple[str, str]]]
"""Names and types of the inputs, and of the outputs."""

Source = Any  # path, onnx.ModelProto or ir.Model: what graphopt.model.load takes

_APPROXIMATE = "onnxruntime's optimizer computes both in fewer bits, the original as far off; as written they agree"

_STEPS = "sums between two steps are rounded as they are added up, the original's as well: both compared in integers"

_EMPTY = "onnxruntime's optimizer makes the candidate fail on empty inputs ({}); as written it agrees"


def verify(
    a: Source,
    b: Source,
    *,
    data: Any = None,
    samples: int | None = None,
    shapes: Shapes | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    seed: int = 0,
) -> VerifyReport:
    """Compare two models in onnxruntime.

    Args:
        a: The original: a path, ``onnx.ModelProto`` or ``onnx_ir.Model``.
        b: The candidate.
        data: Inputs to use instead of drawn ones; see ``samples.feeds``.
        samples: How many sets of inputs; None: all that ``data`` holds, or 4 that are drawn.
        shapes: Sizes for symbolic axes, by input name; -1 leaves one open.
        rtol: Allowed difference relative to the element; default by type, see ``TOLERANCES``.
        atol: Allowed absolute difference; default by type, relative to the largest magnitude of the output.
        seed: The same seed draws the same inputs.

    Raises:
        ModelError: The original cannot be loaded, or runs at no size; data does not fit.
        UsageError: ``shapes`` does not fit the model, or a number is out of range.
    """
    return Reference(a, data=data, samples=samples, shapes=shapes, rtol=rtol, atol=atol, seed=seed).compare(b)


class Reference:
    """The outputs of the original, computed once and compared with any number of candidates.

    Drawn inputs are not kept but drawn again from their seed; outputs, and inputs given as data, are: on disk where
    they are many, so that memory does not grow with the number of samples.
    """

    def __init__(
        self,
        model: Source,
        *,
        data: Any = None,
        samples: int | None = None,
        shapes: Shapes | None = None,
        rtol: float | None = None,
        atol: float | None = None,
        seed: int = 0,
    ):
        """Run the original; arguments and errors as for :func:`verify`."""
        if samples is not None and samples < 1:
            raise UsageError(f"{samples} samples prove nothing", help="at least 1")
        for name, value in (("rtol", rtol), ("atol", atol)):
            if value is not None and not (value >= 0 and np.isfinite(value)):
                raise UsageError(f"{name} {value} is not a tolerance", help="0 or a positive number")
        loaded = _model.load(model)
        source = os.fspath(model) if isinstance(model, str | os.PathLike) else loaded
        inputs = Inputs(loaded, shapes)
        plain = runtime.session(source, optimize=False)
        self._interface = _interface(plain)
        self._cases = Cases(loaded, plain, inputs, data=data, samples=samples, seed=seed)
        names = [name for name, _ in self._interface[1]]
        self._tolerance = Tolerance(source, self._cases, names, narrowest(loaded), rtol=rtol, atol=atol)
        self._optimized = Optimized(source, self._tolerance)
        self._steps = Steps(source, self._cases, self._tolerance, quantized=quantizes(loaded))

    @property
    def skipped(self) -> list[str]:
        """Sizes that are not compared, with the reason why the original does not run there."""
        return self._cases.skipped

    @property
    def shapes(self) -> list[dict[str, list[int]]]:
        """Per sample the shape of every input."""
        return [case.shapes for case in self._cases]

    def compare(self, candidate: Source) -> VerifyReport:
        """Compare a candidate with the original on every sample.

        Args:
            candidate: A path, ``onnx.ModelProto`` or ``onnx_ir.Model``.

        Returns:
            The report. A candidate that does not load or run gives a failed report, not an exception.

        Raises:
            ModelError: The candidate is a path and cannot be read.
        """
        known = isinstance(candidate, str | os.PathLike | ir.Model)
        source = candidate if known else _model.load(candidate, clone=False)
        try:
            fast = runtime.session(source)
        except ModelError as error:
            # Where onnxruntime cannot optimize the original either, both are compared as they are written.
            try:
                fast = runtime.session(source, optimize=self._optimized.possible())
            except ModelError:
                return self._report([], f"the candidate does not load: {error.what}")
        problem = _interface_problem(self._interface, _interface(fast))
        if problem:
            return self._report([], problem)
        plain: Any = None
        exact: Any = None
        rows = Rows(name for name, _ in self._interface[1])
        reasons: list[str] = []
        for number, case in enumerate(self._cases):
            inputs = case.feeds
            found, problem = self._tolerance.against(case.outputs, fast, inputs, number)
            note = None
            if problem:
                # onnxruntime's optimizer, or we? See the rule at the top of this module.
                if plain is None:
                    plain = runtime.session(source, optimize=False)
                as_written, wrong = self._tolerance.against(case.outputs, plain, inputs, number)
                if not wrong and not found and any(0 in shape for shape in case.shapes.values()):
                    found, note = as_written, _EMPTY.format(case)
                    problem = None
                elif not wrong:
                    like, like_problem = self._optimized.like_with_like(fast, inputs, number)
                    if not like_problem:
                        found, problem = like, None
                        note = "onnxruntime's optimizer changes the original too: both were compared optimized"
                    elif self._optimized.no_further(case, fast, inputs):
                        found, problem = as_written, None
                        note = _APPROXIMATE
                if problem and self._steps.between(as_written):
                    exact = exact or integers(source) or plain
                    like, like_problem = self._steps.compare(exact, inputs, number)
                    if not like_problem:
                        found, problem, note = like, None, _STEPS
            for one in found:
                rows.add(one, number, note)
            if problem:
                reasons.append(f"sample {number} ({case}): {problem}")
        if not reasons:
            reasons.extend(self._as_functions(source))
        return self._report(rows.rows(), reasons[0] if reasons else None)

    def _as_functions(self, source: Any) -> list[str]:
        """What is wrong where runtime operators run as ONNX functions, as they do for who lacks the native library.

        Nothing where they did so anyway. Both sides run as they are written (a staircase: see the rule).
        """
        if not runtime.takes_kernels(source):
            return []
        session = runtime.session(source, optimize=False, operators=False)
        exact: Any = None
        for number, case in enumerate(self._cases):
            inputs = case.feeds
            found, problem = self._tolerance.against(case.outputs, session, inputs, number)
            if problem and self._steps.between(found):
                exact = exact or integers(source, operators=False) or session
                _, problem = self._steps.compare(exact, inputs, number)
            if problem:
                return [f"without the native library, sample {number} ({case}): {problem}"]
        return []

    def _report(self, rows: list[OutputRow], reason: str | None) -> VerifyReport:
        return VerifyReport(reason is None, len(self._cases), self.shapes, rows, reason, list(self.skipped))


def _interface(session: Any) -> _Interface:
    return (
        [(value.name, value.type) for value in session.get_inputs()],
        [(value.name, value.type) for value in session.get_outputs()],
    )


def _interface_problem(one: _Interface, other: _Interface) -> str | None:
    for kind, left, right in zip(("input", "output"), one, other, strict=True):
        if left != right:
            said = ", ".join(f"{name} {dtype}" for name, dtype in right) or "none"
            wanted = ", ".join(f"{name} {dtype}" for name, dtype in left) or "none"
            return f"the {kind}s are ({said}) instead of ({wanted})"
    return None


class _Callable(types.ModuleType):
    """``graphopt.verify(…)`` works whether the name is bound to the function or, by an import, to this module."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        return verify(*args, **options)


sys.modules[__name__].__class__ = _Callable
