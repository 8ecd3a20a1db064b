"""The part of the HTML report that is about quantization."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from html import escape

from graphopt.report import words
from graphopt.report.drawing import STYLE, svg, title
from graphopt.report.quantized import NodeRow, QuantizeReport, TensorRow

Table = Callable[[Sequence[str], Iterable[Sequence[str]], Sequence[int]], str]

__all__ = ["STYLE", "operators", "outputs", "summary", "tensors"]


def summary(found: QuantizeReport | None) -> str:
    """In a few lines what was done, and the worst tensors with their histograms."""
    if found is None:
        return ""
    if found.declined is not None:
        return f'<p class="bad">Not quantized: {escape(found.declined)}</p>'
    lines = [
        f"<p>{words.integer_operators(found)}; {words.output_error(found)}.</p>",
        f'<p class="soft">Weights {escape(found.weights or "float")}, '
        f"activations {escape(found.activations or 'float')}, "
        f"scales by {escape(found.method)}{f' on {found.batches:,} batches' if found.batches else ''}.</p>",
    ]
    if found.recovery:
        lines.append(f"<p>To win accuracy back: {escape('; '.join(found.recovery))}.</p>")
    if found.worst:
        lines.append("<h3>The tensors that lose most</h3>")
        lines.append('<p class="soft">Heights are logarithmic; between the lines is what the type can hold.</p>')
    lines += [
        f"<figure>{svg(one)}<figcaption><code>{escape(one.name)}</code> ({one.kind}, counted by {one.unit}): "
        f"{escape(title(one))}</figcaption></figure>"
        for one in found.worst
    ]
    return "\n".join(lines)


def outputs(found: QuantizeReport | None, table: Table) -> str:
    """One row for each output: how near it is to that of the float model."""
    return table(
        ("output", "SQNR", "elements that are the same", "not finite"),
        [
            (
                f"<code>{escape(row.name)}</code>",
                words.decibels(row.sqnr_db),
                f"{row.equal:.3f}",
                words.count(row.spoiled),
            )
            for row in ([] if found is None else found.outputs)
        ],
        (1, 2, 3),
    )


def operators(found: QuantizeReport | None, table: Table) -> str:
    """One row for each operator that could run on integers."""
    rows: list[NodeRow] = [] if found is None else found.nodes
    return table(
        ("operator", "type", "integer kernel", "types", "why it stays in float", "source line"),
        [
            (
                f"<code>{escape(row.name)}</code>",
                escape(row.op_type),
                escape(row.kernel or "–"),
                escape(row.types),
                escape(row.reason),
                f"<code>{escape(row.source_line or '')}</code>",
            )
            for row in rows
        ],
        (),
    )


def tensors(found: QuantizeReport | None, table: Table) -> str:
    """One row for each quantized tensor."""
    rows: list[TensorRow] = [] if found is None else found.tensors
    return table(
        ("tensor", "kind", "of", "type", "scale", "zero point", "range", "seen", "squared error", "SQNR", "method"),
        [
            (
                f"<code>{escape(row.name)}</code>",
                row.kind,
                f"<code>{escape(row.node)}</code>",
                escape(row.dtype) + words.axis(row),
                words.spread(row.scale, "scales"),
                words.spread(row.zero_point, "zero points"),
                words.interval(row.low, row.high),
                words.interval(row.minimum, row.maximum),
                words.error(row.mse),
                words.decibels(row.sqnr_db),
                escape(row.method),
            )
            for row in rows
        ],
        (8, 9),
    )
