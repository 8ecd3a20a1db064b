"""Where the positions of an axis come from, through any number of reshapes and transposes: factors of axes.

The positions of an axis of size ``outer * size * inner`` are numbers of three digits; a ``Factor`` is the middle digit.
A value that is a rearrangement of another one, its *root*, is for each of its axes a list of factors of the root's
axes, outermost first: ``[B, T, 24] -> [B*4, T, 6]`` is ``[[B, 24/6], [T], [24%6]]``. Sizes may be products of symbols.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from graphopt.dims import Size


@dataclass(frozen=True, slots=True)
class Product:
    """A size: an integer times symbols (sorted, repeated for powers). Never zero as an integer."""

    number: int = 1
    symbols: tuple[str, ...] = ()

    def __mul__(self, other: Product) -> Product:
        return Product(self.number * other.number, tuple(sorted(self.symbols + other.symbols)))

    def over(self, other: Product) -> Product | None:
        """Return the quotient, or ``None`` where it is not known to be whole."""
        rest = list(self.symbols)
        for symbol in other.symbols:
            if symbol not in rest:
                return None
            rest.remove(symbol)
        return None if self.number % other.number else Product(self.number // other.number, tuple(rest))

    @property
    def static(self) -> int | None:
        """The size as a number, if it is one."""
        return None if self.symbols else self.number

    @property
    def size(self) -> Size:
        """The size as it is recorded in shapes."""
        if not self.symbols:
            return self.number
        return "*".join([*([str(self.number)] if self.number != 1 else []), *self.symbols])


ONE = Product()
_TERM = re.compile(r"[A-Za-z_]\w*|[1-9][0-9]*")


def product_of(size: Size) -> Product | None:
    """Read a recorded size; ``4*batch`` is a product, ``batch + 1`` a symbol of its own; unknown and zero: ``None``."""
    if size is None or size == 0:
        return None
    if isinstance(size, int):
        return Product(size) if size > 0 else None
    terms = [term.strip() for term in size.split("*")]
    if not all(_TERM.fullmatch(term) for term in terms):
        return Product(1, (size,))
    numbers = [int(term) for term in terms if term[0].isdigit()]
    return Product(math.prod(numbers), tuple(sorted(term for term in terms if not term[0].isdigit())))


@dataclass(frozen=True, slots=True)
class Factor:
    """The digit of ``size`` between ``outer`` and ``inner`` of an axis of the root."""

    axis: int
    outer: Product
    size: Product
    inner: Product

    def split(self, first: Product) -> tuple[Factor, Factor] | None:
        """Cut the digit in two, the outer one of size ``first``."""
        rest = self.size.over(first)
        if rest is None:
            return None
        return (
            Factor(self.axis, self.outer, first, rest * self.inner),
            Factor(self.axis, self.outer * first, rest, self.inner),
        )

    def joined(self, following: Factor) -> Factor | None:
        """Return the digit of which this is the outer and ``following`` the inner part."""
        if (
            self.axis != following.axis
            or self.inner != following.size * following.inner
            or following.outer != self.outer * self.size
        ):
            return None
        return Factor(self.axis, self.outer, self.size * following.size, following.inner)


Factors = tuple[Factor, ...]
Axes = tuple[Factors, ...]


def whole(sizes: Sequence[Product]) -> Axes:
    """Return the root itself; an axis of size one has no factor."""
    return tuple(() if size == ONE else (Factor(axis, ONE, size, ONE),) for axis, size in enumerate(sizes))


def simplified(factors: Sequence[Factor]) -> Factors:
    """Join neighbours that are one digit of the root."""
    result: list[Factor] = []
    for factor in factors:
        joined = result[-1].joined(factor) if result else None
        if joined is None:
            result.append(factor)
        else:
            result[-1] = joined
    return tuple(result)


def regrouped(factors: Sequence[Factor], targets: Sequence[Product | None]) -> Axes | None:
    """Hand out factors, in order, to axes of the given sizes; a size that is ``None`` is all that the others leave.

    ``None`` where the sizes do not fall between factors, or where that is not known.
    """
    rest = list(simplified(factors))
    head: list[Factors] = []
    low, high = 0, len(targets)
    while low < high:
        taken = _take(rest, targets[low])
        if taken is None:
            break
        head.append(taken)
        low += 1
    tail: list[Factors] = []
    backwards = [_mirrored(factor) for factor in reversed(rest)]
    while low < high:
        taken = _take(backwards, targets[high - 1])
        if taken is None:
            break
        tail.append(tuple(_mirrored(factor) for factor in reversed(taken)))
        high -= 1
    rest = [_mirrored(factor) for factor in reversed(backwards)]
    if high - low == 1 and targets[low] is None:
        head.append(tuple(rest))
    elif high > low or rest:
        return None
    return tuple(simplified(axis) for axis in (*head, *reversed(tail)))


def _take(rest: list[Factor], target: Product | None) -> Factors | None:
    """Take leading factors of a total size off a list; the list stays as it is where that fails."""
    if target is None:
        return None
    taken: list[Factor] = []
    used, left = 0, target
    cut: Factor | None = None
    while left != ONE:
        if used == len(rest):
            return None
        factor = rest[used]
        quotient = left.over(factor.size)
        if quotient is not None:
            taken.append(factor)
            left = quotient
            used += 1
            continue
        parts = factor.split(left)
        if parts is None:
            return None
        taken.append(parts[0])
        cut, left = parts[1], ONE
        used += 1
    rest[:used] = [] if cut is None else [cut]
    return tuple(taken)


def _mirrored(factor: Factor) -> Factor:
    """Exchange outer and inner, so that factors can be taken from the end."""
    return Factor(factor.axis, factor.inner, factor.size, factor.outer)


def total(factors: Sequence[Factor]) -> Product:
    """Return the size of an axis."""
    result = ONE
    for factor in factors:
        result = result * factor.size
    return result
