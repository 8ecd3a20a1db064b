"""Sizes of axes, as far as they can be trusted in a proof.

onnx_ir's ``SymbolicDim`` treats every symbol as positive and lets an unknown size equal another unknown size, which is
fine for display and wrong for proofs. Here a size is an ``int`` (known), a ``str`` (a named symbol, equal to itself
wherever the name appears) or ``None`` (nothing known, equal to nothing, not even to itself).
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

Size = int | str | None
Sizes = tuple[Size, ...]


def sizes(value: ir.Value | None) -> Sizes | None:
    """Return the sizes of a value's axes, or ``None`` when not even its rank is known."""
    if value is None or value.shape is None:
        return None
    return tuple([dim if isinstance(dim, int) else dim.value for dim in value.shape.dims])


def static(value: ir.Value | None) -> tuple[int | None, ...] | None:
    """Return the sizes of a value's axes with every symbol as ``None``; ``None`` for an unknown rank."""
    if value is None or value.shape is None:
        return None
    return tuple([dim if isinstance(dim, int) else None for dim in value.shape.dims])


def rank(value: ir.Value | None) -> int | None:
    """Return the number of axes, or ``None`` when unknown."""
    return None if value is None or value.shape is None else len(value.shape)


def provably_equal(a: Size, b: Size) -> bool:
    """Tell whether two sizes are the same in every run: equal integers or the same named symbol."""
    return a is not None and a == b


def absorbs(value: ir.Value, other: ir.Value) -> bool:
    """Tell whether broadcasting ``other`` against ``value`` provably leaves ``value``'s shape as it is.

    True for ``[N, 8, H, W]`` and ``[8, 1, 1]`` although nothing is known about N, H and W: a size of one stretches.
    """
    return stretches(sizes(other), sizes(value))


def stretches(narrow: Sizes | None, wide: Sizes | None) -> bool:
    """``absorbs`` for sizes: does every size of ``narrow`` equal one or the aligned size of ``wide``?"""
    if wide is None or narrow is None or len(narrow) > len(wide):
        return False
    aligned = wide[len(wide) - len(narrow) :]
    return all(size == 1 or provably_equal(size, own) for size, own in zip(narrow, aligned, strict=True))


def resize(value: ir.Value, axis: int, size: int) -> None:
    """Give one axis of a value's recorded shape a new static size."""
    assert value.shape is not None
    value.shape = ir.Shape([size if i == axis else dim for i, dim in enumerate(value.shape)])


def shape_of(dims: Sequence[Size]) -> ir.Shape:
    """Build an onnx_ir shape from sizes."""
    return ir.Shape(list(dims))
