"""The report as one HTML file that needs nothing else: no scripts, no fonts, no pictures from anywhere.

It shows every field of the JSON report, and carries that JSON, so that the file alone is enough to compare two runs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import Any

from graphopt.report import html_quantized, words
from graphopt.report.files import write as write_text
from graphopt.report.schema import FileInfo, Measure, Moves, PassRow, Report, Stats


def write(report: Report, path: str | os.PathLike[str]) -> None:
    """Writes `render(report)` to a file, whole or not at all. Raises GraphoptError when it cannot be written."""
    write_text(path, render(report))


def render(report: Report) -> str:
    """The whole page as text. Every name that came from a model is escaped."""
    title = f"graphopt: {report.input.path or 'a model in memory'}"
    sections = (
        _summary(report),
        section("Size", _sizes(report)),
        section("Operators", _operators(report.before, report.after)),
        section("Passes", _pass_bars(report.before, report.passes) + _passes(report.passes)),
        section("Masks", _masks(report)),
        section("Axes with dead positions", _axes(report)),
        section("Scatters", _moves(report.scatters)),
        section("Gathers", _moves(report.gathers)),
        section("Runtime operators", _called(report)),
        section("Verification", _verification(report)),
        section("Latency", _latency(report.measure)),
        section("Quantization", html_quantized.summary(report.quantize)),
        section("Outputs beside the float model", html_quantized.outputs(report.quantize, table)),
        section("Quantized operators", html_quantized.operators(report.quantize, table)),
        section("Quantized tensors", html_quantized.tensors(report.quantize, table)),
        section("Warnings", _warnings(report)),
        section("Files", _files(report)),
    )
    # "</" would end the script element early; JSON may write a slash as "\/".
    data = json.dumps(report.to_json(), ensure_ascii=False, allow_nan=False).replace("</", "<\\/")
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{STYLE}{html_quantized.STYLE}</style></head>\n<body><main>\n"
        + "\n".join(section for section in sections if section)
        + f'\n</main>\n<script type="application/json" id="report">{data}</script>\n</body></html>\n'
    )


STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #66707f; --line: #d9dee5; --paper: #fff; --old: #aab4c2;
  --new: #1f7a5c; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e3e7ed; --soft: #98a2b1; --line: #333b47; --paper: #14181e;
  --old: #56616f; --new: #4cc29a; --bad: #ff8a80; } }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 2rem 1rem 4rem; }
h1 { font-size: 1.5rem; margin: 0; overflow-wrap: anywhere; } h2 { font-size: 1.1rem; margin: 2.2rem 0 .6rem; }
p.soft, td.soft { color: var(--soft); } .good { color: var(--new); } .bad { color: var(--bad); }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .3rem .9rem .3rem 0; border-bottom: 1px solid var(--line);
  overflow-wrap: anywhere; min-width: 4.5rem; }
td.n { min-width: 0; } td:first-child:not(.n) { min-width: 8rem; } td:last-child:not(.n) { min-width: 12rem; }
th { font-weight: 600; white-space: nowrap; } .n { text-align: right; font-variant-numeric: tabular-nums;
  white-space: nowrap; }
svg { display: block; } svg.columns { margin-bottom: .8rem; max-width: 100%; }
svg .old { fill: var(--old); } svg .new { fill: var(--new); }
th .old::before, th .new::before { content: ""; display: inline-block; width: .6em; height: .6em; margin-right: .4em;
  background: var(--old); } th .new::before { background: var(--new); }
code { font: 13px/1.4 ui-monospace, monospace; } h3 { font-size: 1rem; margin: 1.4rem 0 .3rem; }
figure { margin: 1rem 0; } figcaption { overflow-wrap: anywhere; }
"""


def _summary(report: Report) -> str:
    verify = report.verify
    if verify is None and report.quantize is not None:
        verdict = f"<p>Quantized: {words.output_error(report.quantize)}.</p>"
    elif verify is None:
        verdict = '<p class="soft">Not verified.</p>'
    elif verify.passed:
        verdict = f'<p class="good">Verified: the same function on {verify.samples} sets of inputs in onnxruntime.</p>'
    else:
        verdict = '<p class="bad">Verification failed: not the same function.</p>'
    return (
        f"<h1>{escape(report.input.path or 'a model in memory')}</h1>"
        f'<p class="soft">graphopt {escape(report.graphopt_version)} · target {escape(report.target)} · '
        f"plan {escape(report.plan)} · {words.seconds(report.seconds)} · {escape(report.schema)}</p>{verdict}"
    )


def section(title: str, body: str) -> str:
    """A part of a page; nothing at all if its body is empty."""
    return f"<section><h2>{escape(title)}</h2>{body}</section>" if body else ""


_BEFORE, _AFTER = '<span class="old">before</span>', '<span class="new">after</span>'
"""Titles with the colour that their bars have."""


def _sizes(report: Report) -> str:
    before, after = report.before, report.after
    rows: list[tuple[str, Any, Any, Callable[[Any], str]]] = [
        ("parameters", before.parameters, after.parameters, words.count),
        ("multiply-adds", before.macs, after.macs, words.count),
        ("nodes", before.nodes, after.nodes, words.count),
        ("constants", before.initializer_bytes, after.initializer_bytes, words.size),
    ]
    if report.input.bytes is not None and report.output is not None and report.output.bytes is not None:
        rows.append(("file", report.input.bytes, report.output.bytes, words.size))
    if report.measure is not None:
        rows.append(("latency", report.measure.input_ms, report.measure.output_ms, words.milliseconds))
    return table(
        ("", "", _BEFORE, _AFTER, "change"),
        (
            (escape(name), _bars(old, new), write_number(old), write_number(new), words.change(old, new))
            for name, old, new, write_number in rows
        ),
        numbers=(2, 3, 4),
    )


def _operators(before: Stats, after: Stats) -> str:
    kinds = sorted({*before.ops, *after.ops}, key=lambda kind: (-before.ops.get(kind, 0), kind))
    largest = max((*before.ops.values(), *after.ops.values()), default=0)
    return table(
        ("type", "", _BEFORE, _AFTER),
        (
            (
                f"<code>{escape(kind)}</code>",
                _bars(before.ops.get(kind, 0), after.ops.get(kind, 0), largest),
                words.count(before.ops.get(kind, 0)),
                words.count(after.ops.get(kind, 0)),
            )
            for kind in kinds
        ),
        numbers=(2, 3),
    )


def _bars(before: float, after: float, largest: float | None = None) -> str:
    """Two bars, one above the other, on one scale."""
    width, height = 180, 8
    full = max(before, after) if largest is None else largest
    scale = width / full if full else 0.0
    return (
        f'<svg width="{width}" height="{2 * height + 2}" role="img" '
        f'aria-label="before {before:g}, after {after:g}">'
        f'<rect class="old" width="{before * scale:.1f}" height="{height}"/>'
        f'<rect class="new" y="{height + 2}" width="{after * scale:.1f}" height="{height}"/></svg>'
    )


def _pass_bars(before: Stats, rows: Sequence[PassRow]) -> str:
    """One column for the input and one for each execution of a pass: how the parameters went down."""
    if not rows:
        return ""
    values = [before.parameters, *(row.parameters_after for row in rows)]
    names = ["input", *(row.name for row in rows)]
    height, step = 80, max(2.0, min(24.0, 720 / len(values)))
    full = max(values) or 1
    columns = "".join(
        f'<rect class="{"old" if index == 0 else "new"}" x="{index * step:.1f}" '
        f'y="{height - value / full * height:.1f}" '
        f'width="{step * 0.8:.1f}" height="{value / full * height:.1f}">'
        f"<title>{escape(name)}: {value:,} parameters</title></rect>"
        for index, (name, value) in enumerate(zip(names, values, strict=True))
    )
    return (
        f'<svg class="columns" width="{len(values) * step:.0f}" height="{height}" '
        f'viewBox="0 0 {len(values) * step:.0f} {height}" preserveAspectRatio="none" role="img" '
        f'aria-label="parameters after each pass">{columns}</svg>'
    )


def _passes(rows: Iterable[PassRow]) -> str:
    return table(
        ("pass", "changed", "seconds", "nodes before", "nodes after", "parameters after"),
        (
            (
                f"<code>{escape(row.name)}</code>",
                words.yes(row.changed),
                f"{row.seconds:.3f}",
                words.count(row.nodes_before),
                words.count(row.nodes_after),
                words.count(row.parameters_after),
            )
            for row in rows
        ),
        numbers=(2, 3, 4, 5),
    )


def _masks(report: Report) -> str:
    return table(
        ("value", "kind", "zeros", "size", "action", "reason", "nodes"),
        (
            (
                f"<code>{escape(row.value)}</code>",
                escape(row.kind),
                words.count(row.zeros),
                words.count(row.size),
                escape(row.action),
                escape(row.reason),
                f"<code>{escape(', '.join(row.nodes))}</code>",
            )
            for row in report.masks
        ),
        numbers=(2, 3),
    )


def _axes(report: Report) -> str:
    return table(
        ("value", "axis", "size", "kept", "", "fill", "decided by", "reason"),
        (
            (
                f"<code>{escape(row.value)}</code>",
                str(row.axis),
                words.count(row.size),
                words.count(row.kept),
                _bars(row.size, row.kept),
                escape(row.fill),
                escape(row.decided_by),
                escape(row.reason),
            )
            for row in report.axes
        ),
        numbers=(1, 2, 3),
    )


def _called(report: Report) -> str:
    return "" if report.operators is None else f"<p>{escape(words.operator_calls(report.operators))}.</p>"


def _moves(moves: Moves) -> str:
    if not moves.inserted and not moves.remaining:
        return ""
    line = f"<p>{moves.inserted} inserted on the way, {len(moves.remaining)} left.</p>"
    return line + table(
        ("value", "forced by"),
        ((f"<code>{escape(row.value)}</code>", escape(row.forced_by)) for row in moves.remaining),
    )


def _verification(report: Report) -> str:
    verify = report.verify
    if verify is None:
        return "" if report.quantize is not None else '<p class="soft">Switched off.</p>'
    shapes = "; ".join(
        ", ".join(f"{name} [{','.join(str(size) for size in sizes)}]" for name, sizes in sample.items())
        for sample in verify.shapes
    )
    reason = f'<p class="bad">{escape(verify.reason)}</p>' if verify.reason else ""
    skipped = "".join(f'<p class="soft">Not compared: {escape(text)}</p>' for text in verify.skipped)
    return (
        f"<p>{'Passed' if verify.passed else 'Failed'} on {verify.samples} samples. "
        f"Shapes: <code>{escape(shapes) or '–'}</code></p>{reason}{skipped}"
    ) + table(
        ("output", "worst absolute", "worst relative", "tolerance", "where", "note"),
        (
            (
                f"<code>{escape(row.name)}</code>",
                words.error(row.max_abs),
                words.error(row.max_rel),
                words.error(row.tolerance),
                escape(row.where or ""),
                escape(row.note or ""),
            )
            for row in verify.outputs
        ),
        numbers=(1, 2, 3),
    )


def _latency(measure: Measure | None) -> str:
    if measure is None:
        return ""
    return (
        f"<p>Medians of runs in turn on one thread: {words.milliseconds(measure.input_ms)} → "
        f"{words.milliseconds(measure.output_ms)}, {measure.ratio:.3f} times the input's latency "
        f"(kept: {escape(measure.way)}).</p>"
    )


def _warnings(report: Report) -> str:
    return table(
        ("code", "message", "node", "source line"),
        (
            (
                escape(row.code),
                escape(row.message),
                f"<code>{escape(row.node or '')}</code>",
                f"<code>{escape(row.source_line or '')}</code>",
            )
            for row in report.warnings
        ),
    )


def _files(report: Report) -> str:
    def row(label: str, file: FileInfo | None) -> tuple[str, ...]:
        file = file or FileInfo()
        return (
            label,
            f"<code>{escape(file.path or '–')}</code>",
            words.count(file.bytes),
            f"<code>{escape(file.sha256 or '–')}</code>",
        )

    rows = (row("input", report.input), row("output", report.output))
    return table(("", "path", "bytes", "sha256"), rows, numbers=(2,))


def table(titles: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """A table of cells that are HTML already; nothing at all if there are no rows."""

    def cells(tag: str, row: Sequence[str]) -> str:
        return "".join(
            f'<{tag} class="n">{cell}</{tag}>' if index in numbers else f"<{tag}>{cell}</{tag}>"
            for index, cell in enumerate(row)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{cells("th", titles)}</tr>{body}</table></div>' if body else ""
