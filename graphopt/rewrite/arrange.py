"""A rearrangement written with as few nodes as it takes: Reshape (cut axes), Transpose, Reshape (join axes)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt.facts.arrangements import UNKNOWN, Arrangement, digits
from graphopt.facts.factors import ONE, Axes, Factor, total
from graphopt.rewrite.edit import Cursor, Edit

ALLOWZERO = 14
"""The opset from which a size of zero in a shape may mean zero."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """The steps from a root to a value; a step that is ``None`` is not needed."""

    cut: tuple[Axes, ...]
    """The value behind the first Reshape (one entry), or nothing."""
    perm: tuple[int, ...] | None
    joined: bool
    """A Reshape comes last."""

    @property
    def nodes(self) -> int:
        """How many nodes that makes."""
        return len(self.cut) + (self.perm is not None) + self.joined


def recipe(found: Arrangement) -> Recipe:
    """Return the fewest steps that arrange the root like this."""
    plain = tuple(factor for axis in found.axes for factor in axis)
    digit_axes = digits(found)
    ordered = [factor for axis in digit_axes for factor in axis]
    original = tuple(() if size == ONE else (Factor(axis, ONE, size, ONE),) for axis, size in enumerate(found.sizes))
    if list(plain) == ordered:
        return Recipe((), None, found.axes != original)
    whole_root = all(len(axis) <= 1 for axis in digit_axes)
    whole_out = all(len(axis) <= 1 for axis in found.axes)
    ones_in, ones_out = original.count(()), found.axes.count(())
    if whole_root and whole_out and ones_in == ones_out:
        return Recipe((), _perm(original, found.axes), False)
    if whole_out and not (whole_root and ones_in == 0):
        # Axes of size one may be made or dropped by the first Reshape: put where the Transpose finds them.
        cut = tuple((factor,) for factor in ordered) + ((),) * ones_out
        return Recipe((cut,), _perm(cut, found.axes), False)
    if whole_root:
        apart = tuple((factor,) for factor in plain) + ((),) * ones_in
        return Recipe((), _perm(original, apart), True)
    cut = tuple((factor,) for factor in ordered)
    return Recipe((cut,), _perm(cut, tuple((factor,) for factor in plain)), True)


def _perm(before: Axes, after: Axes) -> tuple[int, ...]:
    """Return where each axis comes from; axes of size one in their order."""
    places: dict[tuple[Factor, ...], list[int]] = {}
    for place, axis in enumerate(before):
        places.setdefault(axis, []).append(place)
    return tuple(places[axis].pop(0) for axis in after)


def arrange(
    found: Arrangement,
    steps: Recipe,
    like: ir.Value,
    place: Cursor,
    edit: Edit,
    made: Mapping[tuple[object, ...], ir.Value],
) -> ir.Value | None:
    """Write the steps; ``None`` (and nothing written) where a size cannot be computed from the root's.

    ``made`` maps (root, axes) to values that stand before ``place`` already.
    """
    root = found.root
    base = str(like.name)
    if not writable(found, steps, edit):
        return None
    original, turned = _between(found, steps)
    middle = steps.cut[0] if steps.cut else None
    current = root
    if middle is not None and (root, middle) in made:
        current = made[root, middle]
    elif middle is not None:
        current = _reshape(current, original, middle, found, like, place, f"{base}_cut", edit)
    if steps.perm is not None:
        perm = ir.AttrInt64s("perm", list(steps.perm))
        current = edit.node("Transpose", [current], place, f"{base}_turned", _sizes(turned), like, [perm])
    if steps.joined:
        current = _reshape(current, turned, found.axes, found, like, place, f"{base}_joined", edit)
    return current


def _between(found: Arrangement, steps: Recipe) -> tuple[Axes, Axes]:
    """Return the root's axes, and those in front of the last step."""
    original = tuple(() if size == ONE else (Factor(axis, ONE, size, ONE),) for axis, size in enumerate(found.sizes))
    turned = steps.cut[0] if steps.cut else original
    if steps.perm is not None:
        turned = tuple(turned[axis] for axis in steps.perm)
    return original, turned


def writable(found: Arrangement, steps: Recipe, edit: Edit) -> bool:
    """Tell whether every shape that the steps need can be computed from the root's."""
    original, turned = _between(found, steps)
    shapes = [(original, cut) for cut in steps.cut] + ([(turned, found.axes)] if steps.joined else [])
    return all(_writable(before, after, found, edit) for before, after in shapes)


def in_numbers(found: Arrangement, steps: Recipe) -> bool:
    """Tell whether the shape of the last step can be written without computing anything."""
    _, turned = _between(found, steps)
    entries = [_entry(position, axis, turned) for position, axis in enumerate(found.axes)]
    return None not in entries or _rest_will_do(entries)


def _sizes(axes: Axes) -> list[int | str | None]:
    return [None if UNKNOWN in str(size.size) else size.size for size in map(total, axes)]


def _entry(position: int, axis: Sequence[Factor], before: Axes) -> int | None:
    """Return the constant entry of a shape: a size, 0 for "the same as before", ``None`` where neither will do."""
    size = total(axis)
    if size.static is not None:
        return size.static
    return 0 if position < len(before) and before[position] == tuple(axis) else None


def _writable(before: Axes, after: Axes, found: Arrangement, edit: Edit) -> bool:
    entries = [_entry(position, axis, before) for position, axis in enumerate(after)]
    open_entries = [axis for entry, axis in zip(entries, after, strict=True) if entry is None]
    if not open_entries or _rest_will_do(entries):
        return True
    return edit.facts.opset >= ALLOWZERO and all(
        _is_whole(f, found) for axis in open_entries for f in axis if f.size.symbols
    )


def _is_whole(factor: Factor, found: Arrangement) -> bool:
    return factor.size == found.sizes[factor.axis]


def _rest_will_do(entries: Sequence[int | None]) -> bool:
    """Tell whether one -1 says it: the other entries are numbers, so that it is known even where it is zero."""
    return sum(entry is None for entry in entries) == 1 and 0 not in entries


def _reshape(
    value: ir.Value, before: Axes, after: Axes, found: Arrangement, like: ir.Value, place: Cursor, base: str, edit: Edit
) -> ir.Value:
    entries = [_entry(position, axis, before) for position, axis in enumerate(after)]
    if _rest_will_do(entries):
        entries = [-1 if entry is None else entry for entry in entries]
    attributes: list[ir.Attr] = []
    if None not in entries:
        numbers = np.array([0 if entry is None else entry for entry in entries], np.int64)
        shape: ir.Value = edit.constant(numbers, f"{base}_shape")
    else:
        shape = _computed(after, found, place, base, edit)
        attributes.append(ir.AttrInt64("allowzero", 1))
    if edit.facts.opset < 5:
        numbers = [entry or 0 for entry in entries]
        return edit.node("Reshape", [value], place, base, _sizes(after), like, [ir.AttrInt64s("shape", numbers)])
    return edit.node("Reshape", [value, shape], place, base, _sizes(after), like, attributes)


def _computed(after: Axes, found: Arrangement, place: Cursor, base: str, edit: Edit) -> ir.Value:
    """Concatenate the sizes of a shape, those that are not numbers taken from the root's shape."""
    int64 = ir.DataType.INT64
    root = found.root
    rank = len(found.sizes)
    whole = edit.node("Shape", [root], place, f"{base}_shape", [rank], root, dtype=int64)
    parts: list[ir.Value | None] = []
    for axis in after:
        number = ONE
        part: ir.Value | None = None
        for factor in axis:
            if factor.size.symbols:
                index = edit.constant(np.array([factor.axis], np.int64), f"axis_{factor.axis}")
                size = edit.node("Gather", [whole, index], place, f"{base}_size", [1], root, dtype=int64)
                part = (
                    size
                    if part is None
                    else edit.node("Mul", [part, size], place, f"{base}_size", [1], root, dtype=int64)
                )
            else:
                number = number * factor.size
        if part is None or number != ONE:
            constant = edit.constant(np.array([number.number], np.int64), f"size_{number.number}")
            part = (
                constant
                if part is None
                else edit.node("Mul", [part, constant], place, f"{base}_size", [1], root, dtype=int64)
            )
        parts.append(part)
    return edit.node("Concat", parts, place, f"{base}_shape", [len(parts)], root, [ir.AttrInt64("axis", 0)], int64)
