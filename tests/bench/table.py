"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Sequence


def row(cells: Sequence[object]) -> str:
    """One line; floats with three significant digits, large integers with separators."""

    def text(cell: object) -> str:
        if isinstance(cell, float):
            return f"{cell:.3g}"
        return f"{cell:,}" if isinstance(cell, int) else str(cell)

    return "| " + " | ".join(text(cell) for cell in cells) + " |"


def head(names: Sequence[str]) -> str:
    """The two lines above the rows: the first column to the left, the others to the right."""
    return row(names) + "\n|" + " --- |" + " ---: |" * (len(names) - 1)
