"""What the tests of the operators that move positions draw: types, shapes, indices, numbers."""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np
from hypothesis import strategies as st

TYPES = ("float32", "float64", "float16", "bfloat16", "int8", "uint8", "int32", "int64")

SIZES = st.sampled_from((0, 1, 2, 3, 5, 16, 17, 31))


def dtype(name: str) -> np.dtype:
    """Return a type of numpy's or of ml_dtypes'."""
    return np.dtype(getattr(ml_dtypes, name) if name == "bfloat16" else name)


def numbers(rng: np.random.Generator, shape: tuple[int, ...] | int, name: str) -> np.ndarray:
    """Return numbers of a type, from all over its range but for 64 bits; no zeros among floats."""
    kind = dtype(name)
    if kind.kind in "iu":
        about = np.iinfo(kind)
        return rng.integers(about.min, about.max, shape, dtype=kind, endpoint=True)
    drawn = rng.normal(size=shape) * 10.0 ** rng.integers(-3, 3, shape)
    return np.where(np.abs(drawn) < 1e-3, 1.0, drawn).astype(kind)


@dataclass(frozen=True)
class Drawn:
    """A tensor's shape around an axis of ``size`` positions, and ``count`` distinct ones of them in any order."""

    shape: tuple[int, ...]
    axis: int
    indices: np.ndarray
    rng: np.random.Generator

    @property
    def size(self) -> int:
        """Positions along the axis."""
        return self.shape[self.axis]

    def narrowed(self, size: int | None = None) -> tuple[int, ...]:
        """Return the shape with another size along the axis: that of the indices."""
        shape = list(self.shape)
        shape[self.axis] = self.indices.size if size is None else size
        return tuple(shape)


@st.composite
def drawn(draw: st.DrawFn) -> Drawn:
    """Shapes of one to four axes, sizes from 0 on; the axis may be counted from the end."""
    shape = tuple(draw(st.lists(SIZES, min_size=1, max_size=4)))
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    count = draw(st.integers(0, shape[axis]))
    indices = rng.permutation(shape[axis])[:count]
    if draw(st.booleans()):
        indices = np.sort(indices)  # as graphopt writes them
    return Drawn(shape, axis, indices.astype(np.int64), rng)
