"""The page that ``make gpu-check`` writes, of what its processes have noted so far. Standard library alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.bench.ops.gpu_records import PARTS, Record, Records
from tests.bench.ops.gpu_targets import TARGETS, judged
from tests.bench.table import head, row


def page(records: Records, about: list[str], skipped: dict[str, str]) -> str:
    """The whole page in Markdown.

    Args:
        records: What was noted.
        about: Lines in front.
        skipped: Why a part, or the rest of it, was not run.
    """
    ended = records.ended()
    failures = [one for one in ended if one.failed]
    lines = ["# Runtime operators on a GPU", "", *about, ""]
    lines += [f"* {one.note}" for one in ended if one.part == "start" and one.name.startswith("about")]
    lines += ["", "## In short", "", *summary(records, ended, skipped), ""]
    for part, title in PARTS.items():
        found = [one for one in ended if one.part == part]
        if not found and part not in skipped:
            continue
        lines += [f"## {title}", ""]
        lines += _WRITERS[part](found, ended) if found else []
        if records.open(part):
            lines += ["", f"Begun, and not ended so far: {', '.join(records.open(part))}"]
        if part in skipped:
            lines += ["", f"**Not all was run: {skipped[part]}.**"]
        lines.append("")
    lines.append(f"{len(failures)} failed")
    lines += [f"* {one.part}: {one.name}: {one.failed}" for one in failures]
    return "\n".join(lines) + "\n"


def summary(records: Records, ended: list[Record], skipped: dict[str, str]) -> Iterator[str]:
    """A line for each part, then each target: met, or not."""
    yield head(["", "verdict", ""])
    for part, title in PARTS.items():
        if part == "targets":
            continue
        mine = [one for one in ended if one.part == part and not one.name.startswith("about")]
        bad = sum(bool(one.failed) for one in mine)
        verdict = "not run" if not mine else f"{bad} FAILED" if bad else "ok"
        if mine and (part in skipped or records.open(part)):
            verdict += ", not complete"
        yield row([title, verdict, f"{len(mine) - bad} of {len(mine)}" if mine else skipped.get(part, "")])
    times, peaks = measured(ended)
    wrong = {one.numbers.get("op") for one in ended if one.part == "equal" and one.failed}
    for name, target in TARGETS.items():
        words, met = judged(name, times, peaks)
        verdict = "not measured" if met is None else "**met**" if met else "**not met**"
        yield row([target.said, verdict, words + (", but not all of its results are right" if name in wrong else "")])


def measured(ended: list[Record]) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Times of cases with a target, and peaks."""
    found = [one for one in ended if one.part == "targets" and not one.failed]
    peaks: dict[str, float] = {}
    for one in found:
        if one.name.startswith("peak "):
            peaks.update(one.numbers)
    return [one.numbers for one in found if one.numbers.get("target")], peaks


def _start(found: list[Record], _: list[Record]) -> Iterator[str]:
    yield head(["standard operator", "CUDA against CPU"])
    for one in found:
        if not one.name.startswith("about"):
            yield row([one.name, f"FAILS: {one.failed}" if one.failed else one.note])


def _equal(found: list[Record], _: list[Record]) -> Iterator[str]:
    yield head(["operator and shape", "against the CPU kernel", "captured as a CUDA graph"])
    for one in sorted(found, key=lambda one: one.name.split(" ")[0]):
        by = f" ({one.numbers['by']})" if one.numbers.get("by") else ""
        said = f"FAILS: {one.failed}" if one.failed else one.note + by
        yield row([one.name, said, one.numbers.get("captured", "-")])


def _network(found: list[Record], _: list[Record]) -> Iterator[str]:
    for one in found:
        yield f"* {one.name}: {'FAILS: ' + one.failed if one.failed else 'the same as on the CPU; ' + one.note}"


def _targets(found: list[Record], ended: list[Record]) -> Iterator[str]:
    peaks = measured(ended)[1]
    for name, peak in peaks.items():
        unit = "GB/s" if name == "copy" else "TFLOP/s" if name.startswith("float") else "TOP/s"
        yield f"* measured peak, {name}: {peak / (1e9 if name == 'copy' else 1e12):,.0f} {unit}"
    yield ""
    yield from _table([one for one in found if one.numbers.get("target")], peaks)
    tiles = [one for one in found if one.numbers.get("tile")]
    if tiles:
        yield ""
        yield "What can be chosen: GRAPHOPT_INT8_TILE (the operators take one by the sizes), GRAPHOPT_SPARSE24_SEARCH."
        yield ""
        yield head(["operator", "shape", "tile", "µs", "TOP/s", "against the CPU"])
    for one in tiles:
        n = one.numbers
        rate = n["operations"] / n["seconds"] / 1e12
        said = f"FAILS: {one.failed}" if one.failed else one.note
        yield row([n["op"], n["label"], n["tile"], n["seconds"] * 1e6, rate, said])
    for one in found:
        if one.failed and not one.numbers:
            yield f"* {one.name} FAILS: {one.failed}"


def _times(found: list[Record], ended: list[Record]) -> Iterator[str]:
    for one in found:
        if not one.numbers.get("op") and one.numbers.get("seconds"):
            yield f"* {one.name}: {one.numbers['seconds'] * 1e6:.1f} µs; so much of every time is onnxruntime's call"
    yield ""
    yield from _table([one for one in found if one.numbers.get("op")], measured(ended)[1])
    yield ""
    for one in found:
        if one.failed or one.note:
            yield f"* {one.name}: {'FAILS: ' + one.failed if one.failed else one.note}"


def _table(found: list[Record], peaks: dict[str, float]) -> Iterator[str]:
    yield head(
        ["operator", "shape", "µs", "TOP/s", "GB/s", "of the peak", "stock float16 µs", "stock float32 µs",
         "faster than float16"]
    )  # fmt: skip
    for one in sorted(found, key=lambda one: one.numbers["op"]):
        n = one.numbers
        seconds = n["seconds"]
        rate = (n["moved"] if n["peak"] == "copy" else n["operations"]) / seconds
        yield row([
            n["op"], n["label"], seconds * 1e6,
            n["operations"] / seconds / 1e12 if n["operations"] else "",
            n["moved"] / seconds / 1e9 if n["moved"] else "",
            f"{100 * rate / peaks[n['peak']]:.0f} %" if n["peak"] in peaks else "",
            *(n[kind] * 1e6 if kind in n else "" for kind in ("float16", "float32")),
            f"{n['float16'] / seconds:.2f}x" if "float16" in n else "",
        ])  # fmt: skip


def _suite(found: list[Record], _: list[Record]) -> Iterator[str]:
    for one in found:
        yield f"* {one.name}: {'FAILS: ' + one.failed if one.failed else one.note}"


_WRITERS = {
    "start": _start,
    "equal": _equal,
    "network": _network,
    "targets": _targets,
    "times": _times,
    "suite": _suite,
    "sanitize": _suite,
}
