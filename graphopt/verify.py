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
"""

from __future__ import annotations

import math
import os
import sys
import types
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt import model as _model
from graphopt import runtime
from graphopt.difference import Difference, all_nan, difference, last_bit, leaves
from graphopt.errors import ModelError, UsageError
from graphopt.kept import Kept
from graphopt.precision import TOLERANCES, narrowest, quantizes
from graphopt.samples import Feeds, Inputs, Shapes, Sizes, Style, feeds

Source = Any  # path, onnx.ModelProto or ir.Model: what graphopt.model.load takes

_APPROXIMATE = "onnxruntime's optimizer computes both in fewer bits, the original as far off; as written they agree"

_STEPS = "sums between two steps are rounded as they are added up, the original's as well: both compared in integers"

DRAWN = 4
"""Sets of inputs that are drawn where nobody says how many."""

_FURTHER = 2.0
"""How many times as far as the original the optimizer may move a candidate that agrees as it is written."""

_EMPTY = "onnxruntime's optimizer makes the candidate fail on empty inputs ({}); as written it agrees"


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
        self._model = _model.load(model)
        self._source = os.fspath(model) if isinstance(model, str | os.PathLike) else self._model
        self._rtol, self._atol, self._seed = rtol, atol, seed
        self._inputs = Inputs(self._model, shapes)
        self._optimized: Any = None
        self._style: Style = "any"
        self._noise: dict[int, dict[str, float]] = {}
        self._own: dict[str, float] | None = None
        self._integers: Any = None
        self._quantized = quantizes(self._model)
        self._plain = runtime.session(self._source, optimize=False)
        self._interface = _interface(self._plain)
        self._ranks = [len(value.shape or ()) for value in self._plain.get_outputs()]
        self._narrowest = narrowest(self._model)
        self._fatal = runtime.fatal_on_empty(self._model)
        self.skipped: list[str] = []
        self._kept = Kept()
        self._cases = (
            self._given(data, samples) if data is not None else self._drawn(DRAWN if samples is None else samples)
        )
        del self._plain  # its outputs are all that is needed from here on

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
                fast = runtime.session(source, optimize=self._optimizable())
            except ModelError:
                return self._report([], f"the candidate does not load: {error.what}")
        problem = _interface_problem(self._interface, _interface(fast))
        if problem:
            return self._report([], problem)
        plain: Any = None
        exact: Any = None
        rows = _Rows(name for name, _ in self._interface[1])
        reasons: list[str] = []
        for number, case in enumerate(self._cases):
            inputs = self._feeds(case)
            found, problem = self._against(case.outputs, fast, inputs, number)
            note = None
            if problem:
                # onnxruntime's optimizer, or we? See the rule at the top of this module.
                if plain is None:
                    plain = runtime.session(source, optimize=False)
                as_written, wrong = self._against(case.outputs, plain, inputs, number)
                if not wrong and not found and any(0 in shape for shape in case.shapes.values()):
                    found, note = as_written, _EMPTY.format(_describe(case.shapes))
                    problem = None
                elif not wrong:
                    like, like_problem = self._like_with_like(fast, inputs, number)
                    if not like_problem:
                        found, problem = like, None
                        note = "onnxruntime's optimizer changes the original too: both were compared optimized"
                    elif self._no_further(case, fast, inputs):
                        found, problem = as_written, None
                        note = _APPROXIMATE
                if problem and self._between_steps(as_written):
                    exact = exact or _integers(source) or plain
                    like, like_problem = self._in_integers(exact, inputs, number)
                    if not like_problem:
                        found, problem, note = like, None, _STEPS
            for one in found:
                rows.add(one, number, note)
            if problem:
                reasons.append(f"sample {number} ({_describe(case.shapes)}): {problem}")
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
            inputs = self._feeds(case)
            found, problem = self._against(case.outputs, session, inputs, number)
            if problem and self._between_steps(found):
                exact = exact or _integers(source, operators=False) or session
                _, problem = self._in_integers(exact, inputs, number)
            if problem:
                return [f"without the native library, sample {number} ({_describe(case.shapes)}): {problem}"]
        return []

    def _report(self, rows: list[OutputRow], reason: str | None) -> VerifyReport:
        return VerifyReport(reason is None, len(self._cases), self.shapes, rows, reason, list(self.skipped))

    def _feeds(self, case: _Case) -> Feeds:
        given = case.feeds
        if given is not None:
            return given
        return self._inputs.draw(case.sizes, seed=case.seed, style=case.style)

    def _against(
        self, expected: list[Any], session: Any, inputs: Feeds, number: int
    ) -> tuple[list[Difference], str | None]:
        """Differences per output, and the first reason to fail."""
        try:
            outputs = runtime.run(session, inputs)
        except ModelError as error:
            return [], f"the candidate does not run: {error.what}"
        found = self._differences(expected, outputs, {})
        if self._atol is None and any(d.ratio > 1 and not d.problem for d in found):
            found = self._differences(expected, outputs, self._amplified(number))
        failed = [d for d in found if d.problem or d.ratio > 1]
        return found, failed[0].reason() if failed else None

    def _differences(self, expected: list[Any], outputs: list[Any], noise: dict[str, float]) -> list[Difference]:
        found = []
        for (name, _), reference, output in zip(self._interface[1], expected, outputs, strict=True):
            default = TOLERANCES[self._narrowest.get(name, ir.DataType.FLOAT)]
            for label, one, other in leaves(name, reference, output):
                found.append(difference(label, one, other, default, self._rtol, self._atol, noise.get(label, 0.0)))
        return found

    def _amplified(self, number: int) -> dict[str, float]:
        """What the original makes of the last bits of its inputs in this sample: largest difference per output.

        Only asked for where a candidate exceeds the constant, because it costs a run; it would be the same before.
        """
        if number not in self._noise:
            case = self._cases[number]
            rng = np.random.default_rng(number)
            moved = {name: last_bit(array, rng) for name, array in self._feeds(case).items()}
            try:
                outputs = runtime.run(runtime.session(self._source, optimize=False), moved)
            except ModelError:
                outputs = case.outputs
            self._noise[number] = {d.name: d.max_abs for d in self._differences(case.outputs, outputs, {})}
        return self._noise[number]

    def _optimizable(self) -> bool:
        try:
            self._optimized = self._optimized or runtime.session(self._source)
        except ModelError:
            return False
        return True

    def _like_with_like(self, fast: Any, inputs: Feeds, number: int) -> tuple[list[Difference], str | None]:
        try:
            if self._optimized is None:
                self._optimized = runtime.session(self._source)
            expected = runtime.run(self._optimized, inputs)
        except ModelError as error:
            try:
                runtime.run(fast, inputs)
            except ModelError:
                return [], None  # optimized, the original fails like the candidate does
            return [], f"with optimizations the original does not run: {error.what}"
        return self._against(expected, fast, inputs, number)

    def _no_further(self, case: _Case, fast: Any, inputs: Feeds) -> bool:
        """Tell whether the optimizer moves the candidate about as far from what the original says as the original.

        Only asked where the candidate as written agrees: some fused operators compute in fewer bits.
        """
        try:
            moved = [runtime.run(session, inputs) for session in (self._optimized, fast)]
        except ModelError:
            return False
        own, other = (self._differences(case.outputs, outputs, {}) for outputs in moved)
        return all(
            not theirs.problem and (theirs.ratio <= 1 or theirs.max_abs <= _FURTHER * mine.max_abs)
            for mine, theirs in zip(own, other, strict=True)
        )

    def _between_steps(self, found: list[Difference]) -> bool:
        """Tell whether a quantized original, as written and in integers, is half as far from itself as a candidate.

        Args:
            found: The candidate against the original, both as they are written.
        """
        if not self._quantized or not found or any(one.problem for one in found):
            return False
        if self._own is None:
            self._own = {}
            for case in self._cases:
                outputs = self._exact(self._feeds(case))
                for one in [] if outputs is None else self._differences(case.outputs, outputs, {}):
                    self._own[one.name] = max(self._own.get(one.name, 0.0), one.max_abs)
        own = self._own
        return all(one.ratio <= 1 or one.max_abs <= _FURTHER * own.get(one.name, 0.0) for one in found)

    def _exact(self, inputs: Feeds) -> list[Any] | None:
        """What the original says where onnxruntime computes with integers; None where it does not run so."""
        self._integers = self._integers or _integers(self._source) or runtime.session(self._source, optimize=False)
        try:
            return runtime.run(self._integers, inputs)
        except ModelError:
            return None

    def _in_integers(self, session: Any, inputs: Feeds, number: int) -> tuple[list[Difference], str | None]:
        expected = self._exact(inputs)
        if expected is None:
            return [], "the original does not run in integers"
        return self._against(expected, session, inputs, number)

    def _given(self, data: Any, samples: int | None) -> list[_Case]:
        cases = []
        for batch in feeds(data, self._model, samples=samples):
            if self._fatal is not None and any(np.asarray(array).size == 0 for array in batch.values()):
                raise ModelError(
                    f"onnxruntime's {self._fatal} ends the process on empty inputs", help="leave empty batches out"
                )
            kept = self._kept.put((runtime.run(self._plain, batch), batch))
            cases.append(_Case({}, (), _shapes(batch), kept))
        return cases

    def _drawn(self, samples: int) -> list[_Case]:
        cases: list[_Case] = []
        for case in self._runnable():
            cases.append(case)
            if len(cases) == samples:
                return cases
        cycle = [case.sizes for case in cases]
        for number in range(len(cases), samples):
            sizes = cycle[number % len(cycle)]
            case = self._try(sizes, number)
            if isinstance(case, ModelError):
                self.skipped.append(f"{_describe(self._inputs.shapes(sizes))}: {case.what}")
            else:
                cases.append(case)
        return cases

    def _runnable(self) -> Iterator[_Case]:
        """Typical sizes at which the original runs, then its edges."""
        sizes, self._style = self._inputs.settle(lambda inputs: runtime.run(self._plain, inputs), seed=(self._seed, 0))
        found = self._try(sizes, 0)
        if isinstance(found, ModelError):
            raise found
        yield found
        number = 1
        for variants in self._inputs.edges(found.sizes):
            case = self._try(variants[0], number)
            if isinstance(case, ModelError):
                self.skipped.append(f"{_describe(variants[0])}: {case.what}")
                alone = [sizes for sizes in variants[1:] if isinstance(self._try(sizes, number), _Case)]
                if len(alone) > 1:
                    joint = dict(found.sizes)
                    for sizes in alone:
                        joint |= {k: v for k, v in sizes.items() if v != found.sizes[k]}
                    case = self._try(joint, number)
                if isinstance(case, ModelError) and alone:
                    case = self._try(alone[0], number)
            if isinstance(case, _Case):
                yield case
                number += 1

    def _try(self, sizes: Sizes, number: int) -> _Case | ModelError:
        """Run the original at these sizes; with positive inputs where others tell nothing (roots, logarithms)."""
        seed = (self._seed, number)
        try:
            style = self._style
            inputs = self._inputs.draw(sizes, seed=seed, style=style)
            if self._fatal is not None and any(array.size == 0 for array in inputs.values()):
                return ModelError(f"onnxruntime's {self._fatal} ends the process on empty inputs")
            outputs = runtime.run(self._plain, inputs)
            if any(array.size == 0 for array in inputs.values()):
                self._require_ranks(outputs)
            if any(all_nan(output) for output in outputs):
                style = "positive"
                inputs = self._inputs.draw(sizes, seed=seed, style=style)
                outputs = runtime.run(self._plain, inputs)
            return _Case(sizes, seed, _shapes(inputs), self._kept.put((outputs, None)), style=style)
        except ModelError as error:
            return error

    def _require_ranks(self, outputs: list[Any]) -> None:
        """Refuse what no operator of the original means: onnxruntime's reductions of nothing forget a negative axis.

        ``ReduceSum(x[0, 16], axes=[-1], keepdims=0)`` is ``[0, 16]`` there, and so would the same of fewer positions be
        ``[0, 8]``. The model itself says how many axes its outputs have.
        """
        for (name, _), rank, output in zip(self._interface[1], self._ranks, outputs, strict=True):
            if rank and isinstance(output, np.ndarray) and output.ndim != rank:
                raise ModelError(
                    f"onnxruntime returns '{name}' with {output.ndim} axes instead of {rank} on empty inputs", name
                )


@dataclass(frozen=True)
class _Case:
    """One set of inputs and what the original makes of it."""

    sizes: Sizes
    seed: tuple[int, ...]
    shapes: dict[str, list[int]]
    kept: Callable[[], tuple[list[Any], Feeds | None]]
    style: Style = "any"

    @property
    def outputs(self) -> list[Any]:
        """What the original makes of the inputs."""
        return self.kept()[0]

    @property
    def feeds(self) -> Feeds | None:
        """The inputs; None where they are drawn anew."""
        return self.kept()[1]


class _Rows:
    """The rows of a report: per output the sample that came nearest to its tolerance, or went farthest beyond."""

    def __init__(self, names: Iterable[str]):
        self._rows = {name: (-1.0, OutputRow(name, 0.0, 0.0, 0.0)) for name in names}

    def add(self, found: Difference, sample: int, note: str | None) -> None:
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
        return [row for _, row in self._rows.values()]


def _interface(session: Any) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    return (
        [(value.name, value.type) for value in session.get_inputs()],
        [(value.name, value.type) for value in session.get_outputs()],
    )


def _interface_problem(
    one: tuple[list[tuple[str, str]], list[tuple[str, str]]], other: tuple[list[tuple[str, str]], list[tuple[str, str]]]
) -> str | None:
    for kind, left, right in zip(("input", "output"), one, other, strict=True):
        if left != right:
            said = ", ".join(f"{name} {dtype}" for name, dtype in right) or "none"
            wanted = ", ".join(f"{name} {dtype}" for name, dtype in left) or "none"
            return f"the {kind}s are ({said}) instead of ({wanted})"
    return None


def _integers(source: Source, operators: bool = True) -> Any:
    """A session that computes with integers wherever it can; None where onnxruntime does not get that far."""
    try:
        return runtime.session(source, integers=True, operators=operators)
    except ModelError:
        return None


def _shapes(inputs: Feeds) -> dict[str, list[int]]:
    return {name: list(np.shape(array)) if isinstance(array, np.ndarray) else [] for name, array in inputs.items()}


def _describe(shapes: dict[str, Any]) -> str:
    return ", ".join(f"{name}={size}" for name, size in shapes.items()) or "no inputs"


class _Callable(types.ModuleType):
    """``graphopt.verify(…)`` works whether the name is bound to the function or, by an import, to this module."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        return verify(*args, **options)


sys.modules[__name__].__class__ = _Callable
