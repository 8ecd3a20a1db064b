"""Positions of axes as numbered *cells*, and how the operators tie them: the ground that couplings stand on.

Every static axis that parameters decide has one cell a position. A reshape that splits an axis keeps one cell for each
of its positions, in a *part* over several axes: ``[heads * size]`` behind ``[heads, size]`` is still told apart, until
an operator treats all of ``size`` alike and so ties the cells of a head. An axis without cells is either *free* (made
of constants, which can be cut to any width) or as wide as it is for a reason nobody here decides: what meets it is
pinned.

The walk (``plan/walk.py``) records three things, all as arrays: which cells are tied, which are pinned and why, and how
zeros travel (``plan/zeros.py``). One look at each node; nothing is decided here.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from graphopt.facts.store import Facts
from graphopt.plan.zeros import Role


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Cells of some axes of a value, ``[size of axes[0], …]``; the outer factor of an axis that was split is first."""

    axes: tuple[int, ...]
    cells: np.ndarray


@dataclass(slots=True, eq=False)
class Travel:
    """How zeros come to the cells ``out`` (``[n]``) of a result.

    ``sources`` lists (role, ``[n, r]`` cells, -1 where another operand holds the position): one is zero where all of
    its ``r`` cells are.
    """

    out: np.ndarray
    sources: list[tuple[Role, np.ndarray]]
    possible: np.ndarray
    """``[n]`` (bool): nothing that has no cells stands against it."""


@dataclass(frozen=True, slots=True, eq=False)
class Read:
    """Cells that are multiplied one by one and summed: one of each two has to be zero.

    ``b`` is absent where a sum or a norm reads ``a`` alone.
    """

    a: np.ndarray
    a_weight: bool
    b: np.ndarray | None = None
    b_weight: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Product:
    """A contraction: the cells that it reads (if any have) and writes.

    ``kind`` is ``computed`` where none of its operands is a weight: then the cells are those of its output alone.
    """

    node: ir.Node
    kind: str
    inputs: np.ndarray | None
    outputs: np.ndarray


@dataclass(slots=True)
class Cells:
    """What the walk over one graph records, and how it is recorded."""

    facts: Facts
    """Asked for constants alone."""
    count: int = 0
    parts: dict[ir.Value, dict[int, Part]] = field(default_factory=dict)
    free: set[ir.Value] = field(default_factory=set)
    """Values computed from constants that are no parameters."""
    free_axes: set[tuple[ir.Value, int]] = field(default_factory=set)
    weights: set[ir.Value] = field(default_factory=set)
    """Values computed from parameters and constants alone."""
    owned: list[tuple[str, int, np.ndarray]] = field(default_factory=list)
    """(parameter, axis, cells)."""
    ties: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    copies: list[tuple[np.ndarray, np.ndarray, Travel]] = field(default_factory=list)
    """(cells, their copies, how zeros come to the copies): a copy may be left by what it is a copy of."""
    pins: list[tuple[np.ndarray, str]] = field(default_factory=list)
    travels: list[Travel] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    products: list[Product] = field(default_factory=list)
    tables: list[np.ndarray] = field(default_factory=list)
    """Cells that a table (an embedding) writes."""
    softmaxes: list[np.ndarray] = field(default_factory=list)
    sums: list[np.ndarray] = field(default_factory=list)
    """Cells where several computed operands are added up."""
    bare: Facts = field(init=False)
    """What operators are asked with: nothing but constants is known, so that it is the same whatever was pruned."""

    def __post_init__(self) -> None:
        self.bare = Facts(self.facts.graph, self.facts.opset, self.facts.constants)

    def fresh(self, *shape: int) -> np.ndarray:
        """Return new cells."""
        size = int(np.prod(shape))
        cells = np.arange(self.count, self.count + size).reshape(shape)
        self.count += size
        return cells

    def tie(self, a: np.ndarray, b: np.ndarray) -> None:
        """Let cells share their fate with others, one by one."""
        self.ties.append((np.ravel(a), np.ravel(b)))

    def pin(self, cells: np.ndarray, reason: str) -> None:
        """Let cells never leave."""
        self.pins.append((np.ravel(cells), reason))

    def pin_all(self, value: ir.Value, reason: str) -> None:
        """Pin all cells of a value."""
        for part in self.of(value):
            self.pin(part.cells, reason)

    def of(self, value: ir.Value | None) -> list[Part]:
        """Return the parts of a value, each once."""
        return [] if value is None else list({id(part): part for part in self.parts.get(value, {}).values()}.values())

    def give(self, value: ir.Value, part: Part) -> None:
        """Let a value have a part."""
        for axis in part.axes:
            self.parts.setdefault(value, {})[axis] = part

    def is_free(self, value: ir.Value, axis: int) -> bool:
        """Tell whether an axis can be cut to any width."""
        return value in self.free or (value, axis) in self.free_axes


__all__ = ["Cells", "Part", "Product", "Read", "Travel"]
