"""A histogram with its clipping range as SVG: text only, so that the HTML report needs no library to be drawn."""

from __future__ import annotations

import math
from html import escape

from graphopt.report.quantized import Drawing

WIDTH, HEIGHT = 640, 170
_LEFT, _RIGHT, _TOP, _BOTTOM = 10, 10, 26, 22

STYLE = """
svg.histogram { max-width: 100%; height: auto; } svg.histogram text { font: 12px system-ui, sans-serif; fill: var(--soft); }
svg.histogram .kept { fill: var(--new); } svg.histogram .clipped { fill: var(--bad); }
svg.histogram line { stroke: var(--ink); stroke-width: 1; } svg.histogram line.axis { stroke: var(--line); }
"""  # noqa: E501
"""How it looks inside the report, in the colours of the page."""

_ALONE = STYLE.replace("svg.histogram ", "") + (
    ":root { --ink: #1c2430; --soft: #66707f; --line: #d9dee5; --new: #1f7a5c; --bad: #b3261e; }"
)


def svg(drawing: Drawing, *, alone: bool = False) -> str:
    """Return the picture: one bar for each bin, its height logarithmic; what is cut off is in another colour.

    Args:
        drawing: The histogram and the range.
        alone: A file of its own, with its colours inside, instead of a part of the report.
    """
    left, right = frame(drawing)
    span = (right - left) or 1.0
    inner = WIDTH - _LEFT - _RIGHT

    def x(number: float) -> float:
        return _LEFT + (number - left) / span * inner

    floor, full = HEIGHT - _BOTTOM, HEIGHT - _BOTTOM - _TOP
    largest = math.log1p(max(drawing.counts, default=0)) or 1.0
    width = (drawing.high - drawing.low) / max(len(drawing.counts), 1)
    bars = []
    for index, count in enumerate(drawing.counts):
        if not count:
            continue
        start = drawing.low + index * width
        middle, height = start + width / 2, max(1.0, math.log1p(count) / largest * full)
        kind = "kept" if drawing.clip_low <= middle <= drawing.clip_high else "clipped"
        bars.append(
            f'<rect class="{kind}" x="{x(start):.1f}" y="{floor - height:.1f}" '
            f'width="{max(width / span * inner - 0.5, 0.5):.1f}" height="{height:.1f}">'
            f"<title>{_number(start)} to {_number(start + width)}: {count:,}</title></rect>"
        )
    ends = []
    for end, anchor, words in ((drawing.clip_low, "start", "from"), (drawing.clip_high, "end", "to")):
        ends.append(f'<line x1="{x(end):.1f}" x2="{x(end):.1f}" y1="{_TOP - 8}" y2="{floor}"/>')
        ends.append(f'<text x="{x(end):.1f}" y="{_TOP - 12}" text-anchor="{anchor}">{words} {_number(end)}</text>')
    unit = "" if drawing.unit == "value" else " steps of its channel's scale"
    numbers = [
        f'<text x="{x(at):.1f}" y="{HEIGHT - 6}" text-anchor="{anchor}">{_number(at)}{said}</text>'
        for at, anchor, said in ((drawing.low, "start", ""), (drawing.high, "end", unit))
    ]
    label = f"{drawing.name}: {title(drawing)}"
    head = ' xmlns="http://www.w3.org/2000/svg"' if alone else ""
    style = f"<style>{_ALONE}</style><title>{escape(label)}</title>" if alone else ""
    return (
        f'<svg{head} class="histogram" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(label)}">{style}'
        f'<line class="axis" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{floor}" y2="{floor}"/>'
        + "".join([*bars, *ends, *numbers])
        + "</svg>"
    )


def title(drawing: Drawing) -> str:
    """Say what the range is, and what it costs: `uint8, 41.2 dB, range 0 to 3.1`."""
    noise = "no error" if drawing.sqnr_db is None else f"{drawing.sqnr_db:.1f} dB"
    unit = "" if drawing.unit == "value" else " steps"
    return f"{drawing.dtype}, {noise}, range {_number(drawing.clip_low)} to {_number(drawing.clip_high)}{unit}"


def frame(drawing: Drawing) -> tuple[float, float]:
    """Return both ends of the picture: all numbers, and the range."""
    return min(drawing.low, drawing.clip_low), max(drawing.high, drawing.clip_high)


def _number(value: float) -> str:
    return f"{value:.4g}"
