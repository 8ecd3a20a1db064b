"""Figures over rounds as SVG lines: text only, as everything in the report that is drawn."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

WIDTH, HEIGHT = 640, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 14, 30, 24

STYLE = """
svg.curves { max-width: 100%; height: auto; margin: .4rem 0 1rem; }
svg.curves text { font: 12px system-ui, sans-serif; fill: var(--soft); }
svg.curves polyline { stroke-width: 2; } svg.curves .new { stroke: var(--new); fill: var(--new); }
svg.curves .old { stroke: var(--old); fill: var(--old); }
svg.curves polyline.new, svg.curves polyline.old { fill: none; }
svg.curves text.new, svg.curves text.old { stroke: none; } svg.curves line { stroke: var(--line); stroke-width: 1; }
"""


@dataclass(frozen=True)
class Curve:
    """One line.

    Attributes:
        name: What it is, as the legend says it.
        values: One for each place along the axis below; what is not finite is left out.
        kind: Its colour: ``old`` is what was, ``new`` what came of it.
    """

    name: str
    values: Sequence[float]
    kind: Literal["old", "new"] = "new"


def svg(curves: Sequence[Curve], places: Sequence[str], shown: Callable[[float], str]) -> str:
    """Return the picture of curves over the same places; nothing where there is no finite number.

    Args:
        curves: At most one of each kind, so that colours tell them apart.
        places: What each value belongs to: ``round 1``, ``epoch 3``. The first and the last are written below.
        shown: How a value is written.
    """
    found = [
        (one, [(place, value) for place, value in enumerate(one.values) if math.isfinite(value)]) for one in curves
    ]
    found = [(one, points) for one, points in found if points]
    if not found:
        return ""
    numbers = [value for _, points in found for _, value in points]
    low, high = min(numbers), max(numbers)
    span, floor = (high - low) or 1.0, HEIGHT - _BOTTOM

    def x(place: int) -> float:
        return _LEFT + place / max(len(places) - 1, 1) * (WIDTH - _LEFT - _RIGHT)

    def y(value: float) -> float:
        return floor - (value - low) / span * (floor - _TOP)

    drawn, at = [], float(_LEFT)
    for one, points in found:
        way = " ".join(f"{x(place):.1f},{y(value):.1f}" for place, value in points)
        drawn.append(f'<polyline class="{one.kind}" points="{way}"/>')
        drawn += [
            f'<circle class="{one.kind}" cx="{x(place):.1f}" cy="{y(value):.1f}" r="2.5">'
            f"<title>{escape(places[place])}, {escape(one.name)}: {escape(shown(value))}</title></circle>"
            for place, value in points
        ]
        drawn.append(f'<text class="{one.kind}" x="{at:.0f}" y="14">{escape(one.name)}</text>')
        at += 24 + 7 * len(one.name)
    ends = {low: floor, high: y(high)}
    scale = "".join(
        f'<line x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{height:.1f}" y2="{height:.1f}"/>'
        f'<text x="{_LEFT - 6}" y="{height + 4:.1f}" text-anchor="end">{escape(shown(value))}</text>'
        for value, height in ends.items()
    )
    below = f'<text x="{_LEFT}" y="{HEIGHT - 6}">{escape(places[0])}</text>'
    if len(places) > 1:
        below += f'<text x="{WIDTH - _RIGHT}" y="{HEIGHT - 6}" text-anchor="end">{escape(places[-1])}</text>'
    label = "; ".join(f"{one.name}: {shown(points[0][1])} to {shown(points[-1][1])}" for one, points in found)
    return (
        f'<svg class="curves" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(label)}">{scale}{"".join(drawn)}{below}</svg>'
    )
