"""What a quantization did, and where it would be placed, as tables for a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table

from graphopt.report import table, words
from graphopt.report.quantized import WORST, NodeRow, QuantizeReport, worst
from graphopt.report.schema import Report

REASONS = 8
"""How many reasons why operators stay in float a terminal gets."""


def show(report: Report, console: Console) -> None:
    """Prints size, latency, integer operators, error of the outputs; the worst tensors; what stays in float."""
    found = report.quantize
    assert found is not None
    console.print(_comparison([*_sizes(report), *_figures(report, found)]))
    _show_rest(found, console)
    table.show_operators(report.operators, console)
    table.show_warnings(report.warnings, console)


def show_part(report: Report, console: Console) -> None:
    """Prints the same without sizes and warnings, where something else prints these."""
    found = report.quantize
    assert found is not None
    console.print("\nQuantized")
    console.print(_comparison(_figures(report, found)))
    _show_rest(found, console)


def _show_rest(found: QuantizeReport, console: Console) -> None:
    if found.declined is not None:
        console.print(f"\nnot quantized: {found.declined}", style="yellow")
    if found.recovery and found.declined is None:
        console.print(f"\nTo win accuracy back: {'; '.join(found.recovery)}")
    _show_worst(found, console)
    show_float(found.nodes, console)


def show_placement(found: QuantizeReport, console: Console) -> None:
    """Prints every operator that could run on integers, its kernel and types, or why it stays in float."""
    console.print(
        table.listing(
            ("operator", "kernel", "types", "why not"),
            ((words.operator(row), row.kernel or "float", row.types, row.reason) for row in found.nodes),
        )
    )
    if not found.nodes:
        console.print("nothing in this model could run on integers")
    console.print(f"\n{words.integer_operators(found)}; nothing was calibrated or written")


def show_float(rows: Sequence[NodeRow], console: Console) -> None:
    """Prints why operators stay in float: one row a reason, with how many there are and the first of them."""
    kept = [row for row in rows if row.kernel is None]
    if not kept:
        return
    number = Counter(row.reason for row in kept)
    first = {row.reason: row for row in reversed(kept)}
    console.print(f"\nIn float: {len(kept)} of {len(rows)}")
    shown = number.most_common(REASONS)
    console.print(
        table.listing(
            ("operators", "for example", "why"),
            ((words.count(count), words.operator(first[reason]), reason) for reason, count in shown),
            numbers=(0,),
        )
    )
    table.show_rest(len(number), console, REASONS)


def _comparison(rows: Iterable[Sequence[str]]) -> Table:
    return table.listing(("", "float", "quantized", ""), rows, numbers=(1, 2))


def _sizes(report: Report) -> list[tuple[str, str, str, str]]:
    """Before against after: constants, files."""
    rows = []
    before, after = report.before.initializer_bytes, report.after.initializer_bytes
    rows.append(("constants", words.size(before), words.size(after), words.change(before, after)))
    old, new = report.input.bytes, None if report.output is None else report.output.bytes
    if old is not None or new is not None:
        rows.append(("file", words.size(old), words.size(new), words.change(old, new)))
    return rows


def _figures(report: Report, found: QuantizeReport) -> list[tuple[str, str, str, str]]:
    """Before against after: latency, integer operators, error of the outputs."""
    rows = []
    measure = report.measure
    if measure is not None:
        faster = (
            f"{1 / measure.ratio:.2f} times as fast" if 0 < measure.ratio <= 1 else f"{measure.ratio:.2f} times as long"
        )
        rows.append(("latency", words.milliseconds(measure.input_ms), words.milliseconds(measure.output_ms), faster))
    total = found.integer_nodes + found.float_nodes
    note = "" if found.measured_kernels or found.weights_only else "as placed"
    name = "weights in few bits" if found.weights_only else "integer operators"
    rows.append((name, "0", f"{found.integer_nodes:,} of {total:,}", note))
    if found.output_sqnr_db is not None:
        note = "the worst of all" if len(found.outputs) > 1 else ""
        rows.append(("output SQNR", "", words.decibels(found.output_sqnr_db), note))
    if found.held_out_sqnr_db is not None:
        rows.append(("on held-out data", "", words.decibels(found.held_out_sqnr_db), ""))
    return rows


def _show_worst(found: QuantizeReport, console: Console) -> None:
    rows = worst(found.tensors)
    if not rows:
        return
    console.print(f"\nThe {WORST} tensors that lose most" if len(rows) == WORST else "\nThe tensors that lose most")
    console.print(
        table.listing(
            ("tensor", "of", "type", "SQNR", "range", "seen"),
            (
                (
                    row.name,
                    row.node,
                    row.dtype + words.axis(row),
                    words.decibels(row.sqnr_db),
                    words.interval(row.low, row.high),
                    words.interval(row.minimum, row.maximum),
                )
                for row in rows
            ),
            numbers=(3,),
        )
    )
