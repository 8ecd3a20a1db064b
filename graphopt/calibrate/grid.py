"""The numbers that a quantized type can hold.

``q(r) = saturate(round_half_even(r / S) + O)`` and ``r' = S (q - O)``: ONNX ``QuantizeLinear`` and
``DequantizeLinear``. A grid is the set of q: an interval of integers, or the finite numbers of a float8 type.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from graphopt.errors import UsageError, nearest


@dataclass(frozen=True)
class Grid:
    """One quantized type.

    Attributes:
        name: As the user writes it: ``uint8``, ``int4``, ``float8e4m3fn``, ``levels23``.
        storage: The ONNX element type it is stored in, in small letters.
        low: The smallest q.
        high: The largest q.
        floating: True for float8, whose numbers are not equally far apart and which has no zero point.
        opset: The first standard operator set whose QuantizeLinear takes the storage type.
    """

    name: str
    storage: str
    low: float
    high: float
    floating: bool = False
    opset: int = 10

    @property
    def signed(self) -> bool:
        """Whether there are negative q."""
        return self.low < 0

    @property
    def clipped(self) -> bool:
        """Whether the grid is a part of what its storage holds, so that a Clip must follow the Q."""
        return not self.floating and (self.low, self.high) != _RANGES.get(self.storage)

    @property
    def levels(self) -> int:
        """How many numbers there are."""
        return self.numbers().size if self.floating else int(self.high - self.low) + 1

    def numbers(self) -> np.ndarray:
        """Return all q, ascending, as float64."""
        if not self.floating:
            return np.arange(int(self.low), int(self.high) + 1, dtype=np.float64)
        dtype = np.dtype(getattr(ml_dtypes, _FLOATS[self.storage]))
        every = np.arange(256, dtype=np.uint8).view(dtype).astype(np.float64)
        return np.unique(every[np.isfinite(every)])


_BITS = {2: 25, 4: 21, 8: 10, 16: 21}
_RANGES: dict[str, tuple[float, float]] = {
    **{f"int{b}": (-(2.0 ** (b - 1)), 2.0 ** (b - 1) - 1) for b in _BITS},
    **{f"uint{b}": (0.0, 2.0**b - 1) for b in _BITS},
}
_FLOATS = {"float8e4m3fn": "float8_e4m3fn", "float8e5m2": "float8_e5m2"}

GRIDS: dict[str, Grid] = {
    **{name: Grid(name, name, *limits, opset=_BITS[int(name.lstrip("uint"))]) for name, limits in _RANGES.items()},
    **{f"int{b}": Grid(f"int{b}", "int8", -(2.0 ** (b - 1)), 2.0 ** (b - 1) - 1) for b in (3, 5, 6, 7)},
    **{f"uint{b}": Grid(f"uint{b}", "uint8", 0.0, 2.0**b - 1) for b in (3, 5, 6, 7)},
    **{f"int{b}": Grid(f"int{b}", "int16", -(2.0 ** (b - 1)), 2.0 ** (b - 1) - 1, opset=21) for b in (10, 12, 14)},
    **{f"uint{b}": Grid(f"uint{b}", "uint16", 0.0, 2.0**b - 1, opset=21) for b in (10, 12, 14)},
    "ternary": Grid("ternary", "int8", -1.0, 1.0),
    "float8e4m3fn": Grid("float8e4m3fn", "float8e4m3fn", -448.0, 448.0, floating=True, opset=19),
    "float8e5m2": Grid("float8e5m2", "float8e5m2", -57344.0, 57344.0, floating=True, opset=19),
}
"""The grids with names of their own; ``levelsN`` makes others."""


def grid(name: str, *, signed: bool | None = None) -> Grid:
    """Return a grid by name; ``levelsN`` has N integers around zero (``signed``) or from zero up.

    Raises:
        UsageError: there is no such type.
    """
    match = re.fullmatch(r"levels(\d+)", name)
    if match and 2 <= int(match.group(1)) <= 65536:
        return levels(int(match.group(1)), signed=bool(signed))
    if name in GRIDS:
        return GRIDS[name]
    close = nearest(name, GRIDS)
    hint = f"did you mean {close!r}? " if close else ""
    raise UsageError(f"no quantized type {name!r}", help=f"{hint}one of {', '.join(GRIDS)}, or levelsN")


def levels(number: int, *, signed: bool) -> Grid:
    """Return a grid of any number of levels, stored in 8 or 16 bits.

    Signed: ``-floor(N / 2) .. ceil(N / 2) - 1``, so 3 levels are -1, 0, 1 and 4 are -2 .. 1.
    """
    bits, opset = (8, 10) if number <= 256 else (16, 21)
    low = -(number // 2) if signed else 0
    return Grid(f"levels{number}", f"{'' if signed else 'u'}int{bits}", low, low + number - 1, opset=opset)
