"""The report as tables for a terminal.

The console is expected to have markup switched off: names of values may hold brackets.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from graphopt.report import words
from graphopt.report.schema import AxisRow, MaskRow, Measure, Moves, OperatorCalls, Report, Stats, WarningRow

if TYPE_CHECKING:
    from graphopt.bench import BenchReport
    from graphopt.facts.sparsity import SparsityRow
    from graphopt.inspection import Inspection
    from graphopt.verify import VerifyReport

ROWS = 20
"""How many rows a terminal gets; the HTML and JSON reports hold all."""


def show(report: Report, console: Console) -> None:
    """Prints what a run did: sizes, masks, scatters left, verification, warnings."""
    console.print(sizes(report))
    show_masks(report.masks, console)
    show_moves("Scatters", report.scatters, console)
    show_moves("Gathers", report.gathers, console)
    show_operators(report.operators, console)
    show_warnings(report.warnings, console)
    if report.verify is not None:
        show_verification(report.verify, console, "" if report.quantize is None else " before it was quantized")
    if report.measure is not None and report.quantize is None:
        show_measure(report.measure, console)


def show_inspection(found: Inspection, console: Console, rows: int | None = ROWS) -> None:
    """Prints what is masked and dead, what could be saved and what prevents the rest; `rows` None prints all."""
    table = _table("", "now", "possible", "change", numbers=(1, 2, 3))
    for key, name in (("parameters", "parameters"), ("macs", "multiply-adds"), ("nodes", "nodes")):
        now, possible = found.savings[key]["before"], found.savings[key]["after"]
        table.add_row(name, words.count(now), words.count(possible), words.change(now, possible))
    console.print(table)
    if not found.masks and not found.axes:
        console.print("\nnothing is masked, dead or constant along an axis: nothing to narrow")
    show_masks(found.masks, console, rows)
    show_axes(found.axes, console, rows)
    show_sparsity(found.sparsity, console, rows)
    if found.blockers:
        console.print(f"\nWhat prevents the rest: {len(found.blockers)}")
        for line in found.blockers[:rows]:
            console.print(f"  {line}")
        show_rest(len(found.blockers), console, rows)
    show_warnings(found.warnings, console, rows)


def sizes(report: Report) -> Table:
    """Before against after, with the sizes of the files where there are files."""
    table = comparison(report.before, report.after)
    before = report.input.bytes
    after = report.output.bytes if report.output is not None else None
    if before is not None or after is not None:
        table.add_row("file", words.size(before), words.size(after), words.change(before, after))
    return table


def comparison(before: Stats, after: Stats, titles: tuple[str, str] = ("before", "after")) -> Table:
    """Two sizes of a model side by side."""
    table = _table("", *titles, "change", numbers=(1, 2, 3))
    for name, old, new in (
        ("parameters", before.parameters, after.parameters),
        ("multiply-adds", before.macs, after.macs),
        ("nodes", before.nodes, after.nodes),
    ):
        table.add_row(name, words.count(old), words.count(new), words.change(old, new))
    old, new = before.initializer_bytes, after.initializer_bytes
    table.add_row("constants", words.size(old), words.size(new), words.change(old, new))
    return table


def show_masks(rows: Sequence[MaskRow], console: Console, limit: int | None = ROWS) -> None:
    """One row a mask: those that stay first, because they are what a user can do something about."""
    if not rows:
        return
    kept = sum(row.action == "kept" for row in rows)
    table = _table("mask", "kind", "zeros", "action", "why", numbers=(2,))
    ordered = sorted(rows, key=lambda row: row.action != "kept")
    for row in ordered[:limit]:
        table.add_row(row.value, row.kind, f"{row.zeros:,} of {row.size:,}", row.action, row.reason)
    console.print(f"\nMasks: {len(rows) - kept} gone, {kept} kept")
    console.print(table)
    show_rest(len(rows), console, limit)


def show_axes(rows: Sequence[AxisRow], console: Console, limit: int | None = ROWS) -> None:
    """One row for each axis with dead positions."""
    if not rows:
        return
    table = _table("value", "axis", "alive", "dead are", "decided by", "why", numbers=(1, 2))
    for row in rows[:limit]:
        table.add_row(row.value, str(row.axis), f"{row.kept:,} of {row.size:,}", row.fill, row.decided_by, row.reason)
    console.print(f"\nAxes with dead positions: {len(rows)}")
    console.print(table)
    show_rest(len(rows), console, limit)


def show_sparsity(rows: Sequence[SparsityRow], console: Console, limit: int | None = ROWS) -> None:
    """One row for each weight that keeps zeros, with the pattern that they are in."""
    if not rows:
        return
    table = _table("weight", "read by", "shape", "not zero", "pattern", "left for", numbers=(3,))
    for row in rows[:limit]:
        shape = "x".join(str(size) for size in row.shape)
        table.add_row(row.value, row.node, shape, f"{row.density:.1%}", row.pattern, row.use)
    console.print(f"\nZeros that stay, inside of what lives: {len(rows)} weights")
    console.print(table)
    show_rest(len(rows), console, limit)


def show_moves(title: str, moves: Moves, console: Console, limit: int | None = ROWS) -> None:
    """The scatters (or gathers) that had to stay, each with the operator that forced it."""
    if not moves.remaining:
        return
    table = _table("value", "forced by")
    for row in moves.remaining[:limit]:
        table.add_row(row.value, row.forced_by)
    console.print(f"\n{title}: {moves.inserted} inserted on the way, {len(moves.remaining)} left")
    console.print(table)
    show_rest(len(moves.remaining), console, limit)


def show_operators(found: OperatorCalls | None, console: Console) -> None:
    """The runtime operators that the result calls, and whether they were native here."""
    if found is not None:
        console.print(f"\nRuntime operators: {words.operator_calls(found)}")


def show_warnings(rows: Sequence[WarningRow], console: Console, limit: int | None = ROWS) -> None:
    """One paragraph for each warning, with the node and the user's own source line where they are known."""
    for row in rows[:limit]:
        console.print(f"\nwarning[{row.code}]: {row.message}", style="yellow")
        for place in (row.node, row.source_line):
            if place:
                console.print(f"  --> {place}", style="dim")
    show_rest(len(rows), console, limit)


def show_verification(verify: VerifyReport, console: Console, when: str = "") -> None:
    """The same function or not (`when` it was compared), how close, why not, and which sizes were left out."""
    worst = max((row.max_abs for row in verify.outputs), default=0.0)
    if verify.passed:
        console.print(
            f"\nverified{when}: the same function on {verify.samples} sets of inputs in onnxruntime, "
            f"worst difference {words.error(worst)}",
            style="green",
        )
    else:
        console.print(f"\nNOT the same function: {verify.reason or 'see above'}", style="bold red")
    for skipped in verify.skipped:
        console.print(f"not compared: {skipped}", style="dim")


def show_measure(measure: Measure, console: Console) -> None:
    """How fast the result is beside the input."""
    console.print(
        f"measured: {measure.input_ms:.3g} ms -> {measure.output_ms:.3g} ms on one thread, "
        f"{measure.ratio:.2f} times the input's latency (plan: {measure.way})"
    )


def latencies(report: BenchReport) -> Table:
    """One row a model: the median, its spread, and the ratio to the first (below 1 is faster)."""
    return listing(
        ("model", "median", "p10", "p90", "runs", "ratio", "paired ratio"),
        (
            (
                row.name,
                f"{row.median_ms:.3f} ms",
                f"{row.p10_ms:.3f} ms",
                f"{row.p90_ms:.3f} ms",
                words.count(row.runs),
                f"{row.ratio:.3f}",
                f"{row.paired_ratio:.3f}",
            )
            for row in report.rows
        ),
        numbers=range(1, 7),
    )


def outputs(report: VerifyReport) -> Table:
    """One row an output: how far off it is, how far it may be, and where the worst element is."""
    return listing(
        ("output", "worst absolute", "worst relative", "tolerance", "where"),
        (
            (
                row.name,
                words.error(row.max_abs),
                words.error(row.max_rel),
                words.error(row.tolerance),
                "; ".join(part for part in (row.where, row.note) if part),
            )
            for row in report.outputs
        ),
        numbers=(1, 2, 3),
    )


def listing(titles: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[int] = ()) -> Table:
    """A plain table; the columns in `numbers` are aligned to the right."""
    table = _table(*titles, numbers=numbers)
    for row in rows:
        table.add_row(*row)
    return table


def _table(*titles: str, numbers: Sequence[int] = ()) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for index, title in enumerate(titles):
        table.add_column(title, justify="right" if index in numbers else "left", overflow="fold")
    return table


def show_rest(rows: int, console: Console, limit: int | None) -> None:
    """Says how many rows were left out."""
    if limit is not None and rows > limit:
        console.print(f"… and {rows - limit} more: --json has every one")
