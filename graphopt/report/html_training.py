"""What a training command did, as one HTML file that needs nothing else."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from html import escape
from typing import Any

from graphopt.report import curves, words
from graphopt.report.curves import Curve
from graphopt.report.files import write as write_text
from graphopt.report.html import STYLE, section, table
from graphopt.report.schema import plain
from graphopt.report.training import TrainingReport


def write(report: TrainingReport, path: str | os.PathLike[str]) -> None:
    """Writes `render(report)` to a file, whole or not at all. Raises GraphoptError when it cannot be written."""
    write_text(path, render(report))


def render(report: TrainingReport) -> str:
    """The whole page as text; it carries the JSON report. Every name that came from a recipe is escaped."""
    title = f"graphopt {report.method}: {report.family}"
    data = json.dumps(plain(report), ensure_ascii=False, allow_nan=False).replace("</", "<\\/")
    sections = (
        _summary(report, title),
        section("Stages", _stages(report)),
        section("Rounds of the method", _curves(report) + _history(report.history)),
        section("Loss of the float training", _losses(report.epochs)),
        section("Recipe", f"<pre><code>{escape(json.dumps(plain(report.recipe), indent=2))}</code></pre>"),
    )
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{STYLE}{curves.STYLE}</style></head>\n<body><main>\n"
        + "\n".join(one for one in sections if one)
        + f'\n</main>\n<script type="application/json" id="report">{data}</script>\n</body></html>\n'
    )


def _summary(report: TrainingReport, title: str) -> str:
    apart = ""
    if report.worst_difference is not None:
        worst = words.error(report.worst_difference)
        apart = f" Before and after <code>optimize</code>, outputs are at most {worst} apart."
    return (
        f"<h1>{escape(title)}</h1>"
        f'<p class="soft">graphopt {escape(report.graphopt_version)} · {escape(report.device)} · '
        f"{report.processes} {'process' if report.processes == 1 else 'processes'} · {words.seconds(report.seconds)} · "
        f"{escape(report.schema)}</p>"
        f'<p class="good">onnxruntime gives {report.same_answers:,} of {report.answers:,} answers on '
        f"{report.test_samples:,} test samples as torch does.{apart}</p>"
    )


def _stages(report: TrainingReport) -> str:
    return table(
        ("", "parameters", "multiply-adds", "file", "latency", escape(report.figure), "path"),
        (
            (
                escape(row.name),
                words.count(row.parameters),
                words.count(row.macs),
                words.size(row.bytes),
                words.milliseconds(row.latency_ms),
                words.figure(report.figure, row.figure),
                f"<code>{escape(row.path)}</code>",
            )
            for row in report.stages
        ),
        numbers=(1, 2, 3, 4, 5),
    )


def _curves(report: TrainingReport) -> str:
    """The figure after zeroing and after training again, where a method measures it, and the loss, over the rounds."""
    rows = report.history
    places = [_place(row) for row in rows]
    figures = [Curve(f"{report.figure} after zeroing", _column(rows, "zeroed"), "old")]
    figures.append(Curve(f"{report.figure} after training again", _column(rows, "retrained")))
    loss = [Curve("mean loss of the last epoch", _column(rows, "loss"))]
    return curves.svg(figures, places, lambda value: words.figure(report.figure, value)) + curves.svg(
        loss, places, lambda value: f"{value:.4g}"
    )


def _place(row: dict[str, Any]) -> str:
    """What a row of the history is about: a subset by its name, a round or an epoch by its number."""
    if "step" in row:
        return str(row["step"])
    return f"epoch {row['epoch']}" if "epoch" in row else f"round {row.get('number', '')}"


def _column(rows: Sequence[dict[str, Any]], key: str) -> list[float]:
    """One number for each row; nan where there is none."""
    found = [row.get(key) for row in rows]
    return [float("nan") if one is None else float(one) for one in found]


def _history(rows: Sequence[dict[str, Any]]) -> str:
    titles = list(rows[0]) if rows else []
    cells = ([escape(_cell(row.get(title))) for title in titles] for row in rows)
    numbers = [place for place, title in enumerate(titles) if not isinstance(rows[0][title], str)]
    return table([escape(title) for title in titles], cells, numbers=numbers)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "–" if value != value else f"{value:.4g}"
    return str(value)


def _losses(rows: Sequence[dict[str, Any]]) -> str:
    """One column for each epoch."""
    if not rows:
        return ""
    height, step = 80, max(2.0, min(24.0, 720 / len(rows)))
    full = max(row["loss"] for row in rows) or 1
    columns = "".join(
        f'<rect class="new" x="{index * step:.1f}" y="{height - row["loss"] / full * height:.1f}" '
        f'width="{step * 0.8:.1f}" height="{row["loss"] / full * height:.1f}">'
        f"<title>epoch {row['epoch']}: {row['loss']:.4g}</title></rect>"
        for index, row in enumerate(rows)
        if row["loss"] >= 0
    )
    return (
        f'<svg class="columns" width="{len(rows) * step:.0f}" height="{height}" role="img" '
        f'aria-label="mean loss of each epoch, the last {rows[-1]["loss"]:.4g}">{columns}</svg>'
    )
