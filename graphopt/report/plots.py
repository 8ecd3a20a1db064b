"""`--plots DIR`: one picture for each quantized tensor."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
from collections.abc import Iterable
from pathlib import Path

from graphopt.report import files
from graphopt.report.drawing import frame, svg, title
from graphopt.report.quantized import Drawing

MISSING = 'note: only .svg files were drawn; .png files need matplotlib: pip install "graphopt[plots]"'
"""What to tell who has no matplotlib."""


def write(drawings: Iterable[Drawing], folder: str | os.PathLike[str]) -> list[Path]:
    """Write `NNN_NAME.svg` for each drawing, and `.png` beside it where matplotlib is installed; return the paths.

    Raises GraphoptError when the folder cannot be made or written to. Who is interrupted leaves no pictures.
    """
    made = not Path(folder).exists()
    home = files.folder(folder)
    png = with_png()
    written: list[Path] = []
    try:
        for number, drawing in enumerate(drawings):
            path = home / f"{number:03d}_{_plain(drawing.name)}.svg"
            files.write(path, svg(drawing, alone=True) + "\n")
            written.append(path)
            if png:
                picture = path.with_suffix(".png")
                files.write_bytes(picture, _png(drawing))
                written.append(picture)
    except BaseException:
        for path in written:
            path.unlink(missing_ok=True)
        if made:
            with contextlib.suppress(OSError):  # somebody else has put something there
                home.rmdir()
        raise
    return written


def with_png() -> bool:
    """Whether the library that draws `.png` files is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def _plain(name: str) -> str:
    """A name that every file system takes; the number in front keeps two that differ in nothing else apart."""
    return re.sub(r"[^\w.-]+", "_", name)[:80].strip(".") or "tensor"


def _png(drawing: Drawing) -> bytes:
    import io
    import math

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3))
    FigureCanvasAgg(figure)  # no window, whatever the user's settings
    axes = figure.add_axes((0.09, 0.17, 0.89, 0.7))
    width = (drawing.high - drawing.low) / max(len(drawing.counts), 1)
    edges = [drawing.low + index * width for index in range(len(drawing.counts) + 1)]
    heights = [math.log10(1 + count) for count in drawing.counts]
    inside = [drawing.clip_low <= edge + width / 2 <= drawing.clip_high for edge in edges[:-1]]
    for kept, colour in ((True, "#1f7a5c"), (False, "#b3261e")):
        of_this = [height if one is kept else 0.0 for height, one in zip(heights, inside, strict=True)]
        axes.stairs(of_this, edges, fill=True, color=colour)
    for end in (drawing.clip_low, drawing.clip_high):
        axes.axvline(end, color="#1c2430", linewidth=1)
    powers = range(1, 2 + math.ceil(max(heights, default=0.0)))
    axes.set_yticks([math.log10(1 + 10**power) for power in powers], [f"{10**power:,}" for power in powers])
    axes.set_ylim(0, 1.05 * max(heights, default=0.0) or 1.0)
    axes.set_xlim(*frame(drawing))
    axes.set_title(f"{drawing.name}: {title(drawing)}", fontsize=9, parse_math=False)
    axes.set_xlabel("value" if drawing.unit == "value" else "steps of the channel's scale", fontsize=9)
    axes.set_ylabel("count", fontsize=9)
    axes.tick_params(labelsize=8)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    return stream.getvalue()
