"""How far two outputs are apart: exact where nothing may differ, within a tolerance where sums may be re-associated."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

_LAST_BIT_FACTOR = 4.0
_MOST = 10.0  # times the constant, however badly the original amplifies


@dataclass(frozen=True)
class Difference:
    """How an output differs in one sample. ``ratio`` is difference over tolerance at the worst element."""

    name: str
    max_abs: float = 0.0
    max_rel: float = 0.0
    tolerance: float = 0.0
    ratio: float = 0.0
    where: str | None = None
    problem: str | None = None

    def reason(self) -> str:
        """Why it fails, for a person."""
        if self.problem:
            return f"output {self.name!r} {self.problem}"
        return (
            f"output {self.name!r} is off by {self.ratio:.3g} times the tolerance of {self.tolerance:.3g}: {self.where}"
        )


_BLOCK = 1 << 20  # elements compared at a time: the float64 copies stay small however large the output


def difference(
    name: str, one: Any, other: Any, default: float, rtol: float | None, atol: float | None, noise: float
) -> Difference:
    """Compare one output of two models.

    Args:
        name: For messages.
        one: What the original makes: an array, None for an empty optional, or a plain value of a map.
        other: What the candidate makes.
        default: Tolerance of the type, both relative to the element and to the largest magnitude of ``one``.
        rtol: The caller's tolerance relative to the element, in place of the default.
        atol: The caller's absolute tolerance, in place of the default and of ``noise``.
        noise: By how much the original itself moves with the last bits of its inputs.

    Returns:
        The difference; it has a ``problem`` where types, shapes, kinds, exact values, NaN or infinities differ.
    """
    if (one is None) != (other is None) or isinstance(one, np.ndarray) != isinstance(other, np.ndarray):
        return Difference(name, problem=f"is {_kind(other)} instead of {_kind(one)}")
    if one is None:
        return Difference(name)
    if not isinstance(one, np.ndarray):
        same = one == other or (one != one and other != other)
        return Difference(name) if same else Difference(name, problem=f"is {other!r} instead of {one!r}")
    if one.dtype != other.dtype:
        return Difference(name, problem=f"has type {other.dtype} instead of {one.dtype}")
    if one.shape != other.shape:
        return Difference(name, problem=f"has shape {list(other.shape)} instead of {list(one.shape)}")
    if one.dtype.kind in "biuOUS":
        return _exact(name, one, other)
    if one.dtype.kind == "c":
        # Real and imaginary parts side by side, as a last axis.
        parts = one.real.dtype
        one = np.ascontiguousarray(one).view(parts).reshape(*one.shape, 2)
        other = np.ascontiguousarray(other).view(parts).reshape(*other.shape, 2)
    return _floating(name, one, other, default, rtol, atol, noise)


def _exact(name: str, one: np.ndarray, other: np.ndarray) -> Difference:
    wrong = np.flatnonzero((one != other).reshape(-1))
    if not wrong.size:
        return Difference(name)
    a, b = one.reshape(-1), other.reshape(-1)
    far = 1.0
    first = int(wrong[0])
    if one.dtype.kind in "iu":
        gaps = np.abs(a[wrong].astype(np.float64) - b[wrong].astype(np.float64))
        first, far = int(wrong[int(gaps.argmax())]), max(1.0, float(gaps.max()))
    where = f"{b[first]!r} instead of {a[first]!r} at {_index(first, one.shape)}"
    share = f"{wrong.size} of {one.size} elements differ"
    scale = float(np.abs(a.astype(np.float64)).max()) if one.dtype.kind in "iu" else 1.0
    return Difference(
        name, far, far / scale if scale else 1.0, 0.0, 1.0, where, problem=f"must be equal, but {share}: {where}"
    )


def _floating(
    name: str,
    one: np.ndarray,
    other: np.ndarray,
    default: float,
    rtol: float | None,
    atol: float | None,
    noise: float,
) -> Difference:
    a, b = one.reshape(-1), other.reshape(-1)
    scale = 0.0
    for start in range(0, a.size, _BLOCK):
        part = np.abs(a[start : start + _BLOCK].astype(np.float64))
        scale = max(scale, float(np.max(part, where=np.isfinite(part), initial=0.0)))
    relative = default if rtol is None else rtol
    absolute = atol
    if absolute is None:
        absolute = max(default * scale, min(_LAST_BIT_FACTOR * noise, _MOST * default * scale))
    worst = Difference(name)
    largest = 0.0
    for start in range(0, a.size, _BLOCK):
        x = a[start : start + _BLOCK].astype(np.float64)
        y = b[start : start + _BLOCK].astype(np.float64)
        with np.errstate(invalid="ignore", over="ignore"):
            gap = np.abs(x - y)
        finite = np.isfinite(x) & np.isfinite(y)
        same = (np.isnan(x) & np.isnan(y)) | (x == y)
        odd = np.flatnonzero(~finite & ~same)
        if odd.size and worst.problem is None:
            at = int(odd[0])
            where = f"{y[at]:.9g} instead of {x[at]:.9g} at {_index(start + at, one.shape)}"
            worst = Difference(name, where=where, problem=f"is {where}")
        gap = np.where(same | ~finite, 0.0, gap)
        gap = np.minimum(gap, np.finfo(np.float64).max)
        largest = max(largest, float(gap.max()))
        allowed = absolute + relative * np.where(finite, np.abs(x), 0.0)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            ratio = np.where(gap > 0, gap / allowed, 0.0)
        at = int(ratio.argmax())
        if ratio[at] > worst.ratio and worst.problem is None:
            where = f"{y[at]:.9g} instead of {x[at]:.9g} at {_index(start + at, one.shape)}"
            worst = Difference(name, 0.0, 0.0, float(allowed[at]), float(ratio[at]), where)
    tolerance = worst.tolerance if worst.ratio else absolute
    share = largest / scale if scale else float(largest > 0)
    return Difference(name, largest, share, tolerance, worst.ratio, worst.where, worst.problem)


def last_bit(array: Any, rng: np.random.Generator) -> Any:
    """Every number moved to one of its two neighbours."""
    if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
        return array
    return np.nextafter(array, np.where(rng.random(array.shape) < 0.5, -np.inf, np.inf).astype(array.dtype))


def all_nan(output: Any) -> bool:
    """True for a non-empty float array that holds nothing but NaN: it proves little."""
    if not isinstance(output, np.ndarray) or output.dtype.kind not in "fc" or not output.size:
        return False
    return bool(np.isnan(output).all())


def leaves(name: str, one: Any, other: Any) -> Iterator[tuple[str, Any, Any]]:
    """The tensors of an output side by side; sequences and maps are taken apart where both have the same members."""
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for i, (left, right) in enumerate(zip(one, other, strict=True)):
            yield from leaves(f"{name}[{i}]", left, right)
    elif isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        for key in one:
            yield from leaves(f"{name}[{key!r}]", one[key], other[key])
    elif isinstance(one, list | dict) or isinstance(other, list | dict):
        yield name, None, _kind(other)
    else:
        yield name, one, other


def _kind(value: Any) -> str:
    if isinstance(value, list | dict):
        return f"a {'sequence' if isinstance(value, list) else 'map'} of {len(value)}"
    return "a tensor" if isinstance(value, np.ndarray) else "nothing" if value is None else str(value)


def _index(flat: int, shape: tuple[int, ...]) -> str:
    return str([int(i) for i in np.unravel_index(flat, shape)]) if shape else "[]"
