"""Numbers as people read them. Used by the table and by the HTML, so that both say the same."""

from __future__ import annotations

import math


def count(value: int | None) -> str:
    """1234567 -> '1,234,567'; nothing known -> '–'."""
    return "–" if value is None else f"{value:,}"


def size(value: int | None) -> str:
    """Bytes with a unit: 999 -> '999 B', 1536 -> '1.5 kB' (powers of 1000, as disks are sold)."""
    if value is None:
        return "–"
    scaled = float(value)
    for unit in ("B", "kB", "MB", "GB"):
        if scaled < 1000 or unit == "GB":
            return f"{value} B" if unit == "B" else f"{scaled:.1f} {unit}" if scaled < 100 else f"{scaled:.0f} {unit}"
        scaled /= 1000
    raise AssertionError("unreachable")


def change(before: float | None, after: float | None) -> str:
    """How much smaller (or larger): '-75.0 %', '=' for the same, '–' where there is nothing to compare with."""
    if before is None or after is None:
        return "–"
    if after == before:
        return "="
    if before == 0:
        return "new"
    return f"{100 * (after - before) / before:+.1f} %"


def seconds(value: float) -> str:
    """A duration: '12 ms', '3.4 s', '2 min 5 s'."""
    if value < 1:
        return f"{value * 1000:.0f} ms"
    if value < 60:
        return f"{value:.1f} s"
    return f"{int(value) // 60} min {int(value) % 60} s"


def error(value: float | None) -> str:
    """An error: 0 exactly is '0', everything else in two significant digits."""
    if value is None or math.isnan(value):
        return "NaN"
    return "0" if value == 0 else f"{value:.1e}"


def yes(value: bool) -> str:
    """'yes' or 'no'."""
    return "yes" if value else "no"
