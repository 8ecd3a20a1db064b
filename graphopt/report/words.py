"""Numbers as people read them. Used by the table and by the HTML, so that both say the same."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from graphopt.report.quantized import NodeRow, QuantizeReport, TensorRow
from graphopt.report.schema import OperatorCalls


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


def operator_calls(found: OperatorCalls) -> str:
    """'Int8Conv 20, Int8Gemm 1; their library is loaded', or that they ran as functions."""
    names = ", ".join(f"{name} {number}" for name, number in found.calls.items())
    without = "their library is not here, so they ran as ONNX functions (graphopt ops)"
    return f"{names}; {'their library is loaded' if found.library else without}"


def milliseconds(value: float) -> str:
    """A latency in three significant digits: '0.531 ms', '12.3 ms', '1,230 ms'."""
    return f"{value:.3g} ms" if value < 1000 else f"{value:,.0f} ms"


def figure(name: str, value: float) -> str:
    """What a net is judged by: an accuracy in per cent, anything else in four significant digits."""
    if math.isnan(value):
        return "–"
    return f"{value:.2%}" if name == "accuracy" else f"{value:.4g}"


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


def decibels(value: float | None) -> str:
    """A ratio of signal to noise: '41.2 dB'; 'exact' where nothing is lost."""
    return "exact" if value is None or math.isinf(value) else f"{value:.1f} dB"


def interval(low: float, high: float) -> str:
    """A range: '-1.5 … 3', '–' where nothing was seen."""
    return f"{low:.4g} … {high:.4g}" if low <= high else "–"


def flat(found: Sequence[Any]) -> list[Any]:
    """The numbers in lists of lists."""
    return [number for item in found for number in (flat(item) if isinstance(item, (list, tuple)) else [item])]


def spread(found: float | Sequence[Any] | None, what: str) -> str:
    """One number, or how many there are and the range they lie in."""
    if found is None:
        return "one a block"
    if isinstance(found, (int, float)):
        return _compact(found)
    found = flat(found)
    if not found:
        return "none"
    low, high = min(found), max(found)
    return f"{len(found):,} {what}, " + (_compact(low) if low == high else f"{_compact(low)} … {_compact(high)}")


def operator(row: NodeRow) -> str:
    """An operator by type and name, the type once: 'Conv conv1'."""
    return row.name if row.op_type.lower() in row.name.lower() else f"{row.op_type} {row.name}"


def axis(row: TensorRow) -> str:
    """Along what a tensor has scales of its own: '', ', axis 0', ', axis 1 in blocks of 32'."""
    if row.axis is None:
        return ""
    return f", axis {row.axis}" + (f" in blocks of {row.block}" if row.block else "")


def integer_operators(found: QuantizeReport) -> str:
    """How much of what could runs on integers: '21 of 23 quantizable operators run on integer kernels'."""
    total = found.integer_nodes + found.float_nodes
    if found.weights_only:
        how = "read weights in few bits"
    else:
        how = "run on integer kernels" if found.measured_kernels else "are placed on integer kernels"
    return f"{found.integer_nodes:,} of {total:,} quantizable operators {how}"


def output_error(found: QuantizeReport) -> str:
    """How near the outputs are to those of the float model."""
    if found.output_sqnr_db is None:
        same = "the outputs are those of the float model"
        return same if found.outputs else "the outputs were not compared with those of the float model"
    other = (
        "" if found.held_out_sqnr_db is None else f", {decibels(found.held_out_sqnr_db)} on data not calibrated with"
    )
    return f"signal to noise of the worst output, beside the float model: {decibels(found.output_sqnr_db)}{other}"


def _compact(number: float) -> str:
    return f"{number:,}" if isinstance(number, int) else f"{number:.3e}"
