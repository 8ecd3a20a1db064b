"""The report: one record, three forms that say the same, files that are there whole or not at all."""

from __future__ import annotations

import dataclasses
import html as html_words
import io
import json
import math
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from graphopt.errors import GraphoptError
from graphopt.report import files, html, table, words
from graphopt.report import json as report_json
from graphopt.report.schema import (
    AxisRow,
    FileInfo,
    ForcedRow,
    MaskRow,
    Moves,
    PassRow,
    Report,
    Stats,
    WarningRow,
    plain,
)
from graphopt.verify import OutputRow, VerifyReport

# The promise to scripts, written down a second time on purpose.
PROMISED = {
    "": {
        *("schema", "graphopt_version", "input", "output", "target", "plan", "seconds", "before", "after", "masks"),
        *("axes", "scatters", "gathers", "passes", "verify", "measure", "quantize", "warnings"),
    },
    "input": {"path", "bytes", "sha256"},
    "output": {"path", "bytes", "sha256"},
    "before": {"parameters", "macs", "nodes", "initializer_bytes", "ops"},
    "after": {"parameters", "macs", "nodes", "initializer_bytes", "ops"},
    "masks": {"value", "kind", "nodes", "zeros", "size", "action", "reason"},
    "axes": {"value", "axis", "size", "kept", "fill", "decided_by", "reason"},
    "scatters": {"inserted", "remaining"},
    "gathers": {"inserted", "remaining"},
    "passes": {"name", "seconds", "changed", "nodes_before", "nodes_after", "parameters_after"},
    "verify": {"passed", "samples", "shapes", "outputs"},
    "warnings": {"code", "message", "node", "source_line"},
}


def full() -> Report:
    """A report in which every field holds something that must be seen again, and names that try to break the HTML."""
    return Report(
        graphopt_version="1.2.3",
        input=FileInfo("in<&>.onnx", 54321, "aa" * 32),
        output=FileInfo("out.onnx", 12345, "bb" * 32),
        target="portable",
        plan="smallest",
        seconds=2.5,
        before=Stats(1000003, 2000029, 31, 4000037, {"Conv": 7, "Mul": 11}),
        after=Stats(250007, 500009, 17, 1000003, {"Conv": 7, "Pad": 1}),
        masks=[MaskRow("m</script>", "weight", ["mul_1", "mul_2"], 307, 701, "removed", "folded into W")],
        axes=[AxisRow("stem[0]", 1, 641, 331, "mixed", "bn_5", "dead rows")],
        scatters=Moves(3, [ForcedRow("y_9", "the graph output y")]),
        gathers=Moves(5, [ForcedRow("z_9", "Softmax sm")]),
        passes=[PassRow("fold-masks", 0.125, True, 31, 23, 900007), PassRow("tidy", 0.001, False, 23, 17, 250007)],
        verify=VerifyReport(
            True,
            4,
            [{"x": [1, 3, 8, 8]}],
            [OutputRow("logits", 3.5e-6, 2.5e-7, 1e-4, "sample 2, [0, 3]", "a note")],
            skipped=["batch 0: refused by Conv"],
        ),
        warnings=[WarningRow("nan-under-mask", "W holds NaN", "conv_3", "net.py:12")],
    )


def test_json_has_the_promised_names() -> None:
    record = json.loads(report_json.dumps(full()))
    for part, names in PROMISED.items():
        found = record if part == "" else record[part]
        found = found[0] if isinstance(found, list) else found
        assert names <= found.keys(), part
    assert set(record["scatters"]["remaining"][0]) == {"value", "forced_by"}
    assert {"name", "max_abs", "max_rel", "tolerance"} <= set(record["verify"]["outputs"][0])
    assert record["before"]["ops"] == {"Conv": 7, "Mul": 11}
    assert record["masks"][0]["nodes"] == ["mul_1", "mul_2"]


def test_json_of_an_empty_report_is_complete_too() -> None:
    record = Report().to_json()
    assert set(record) == PROMISED[""]
    assert record["output"] is None and record["verify"] is None and record["masks"] == []


def test_json_survives_what_json_has_no_word_for() -> None:
    record = plain(
        {"a": [math.nan, math.inf, 1.5], "b": np.float32(0.5), "c": np.int64(3), "d": (1, True), 4: Path("p")}
    )
    assert record == {"a": [None, None, 1.5], "b": 0.5, "c": 3, "d": [1, True], "4": "p"}
    assert json.loads(report_json.dumps(record)) == record


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.text: list[str] = []
        self.json = ""
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [f"{name}={value}" for name, value in attrs if name in ("src", "href", "srcset", "data")]
        if tag not in ("meta", "rect"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag != "rect":
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.json += data
        else:
            self.text.append(data)


def page(report: Report) -> _Page:
    parsed = _Page()
    parsed.feed(html.render(report))
    assert parsed.open == []
    return parsed


def test_html_shows_every_value_of_the_json() -> None:
    report = full()
    text = " ".join(page(report).text)

    def leaves(value: object) -> list[object]:
        if isinstance(value, dict):
            return [leaf for key, item in value.items() for leaf in leaves(item)]
        return [leaf for item in value for leaf in leaves(item)] if isinstance(value, list) else [value]

    for leaf in leaves(report.to_json()):
        if leaf is None:
            continue
        if isinstance(leaf, bool):
            written = ("yes", "no", "Passed")
        elif isinstance(leaf, int):
            written = (f"{leaf:,}", words.size(leaf), str(leaf))
        elif isinstance(leaf, float):
            written = (f"{leaf:.3f}", words.error(leaf), words.seconds(leaf))
        else:
            written = (str(leaf),)
        assert any(form in text for form in written), leaf
    for kind in ("Conv", "Mul", "Pad"):
        assert kind in text


def test_html_needs_nothing_from_anywhere() -> None:
    rendered = html.render(full())
    assert page(full()).links == []
    assert not re.search(r"https?:|url\(|@import|<link|<img|<iframe", rendered)
    assert rendered.count("<script") == rendered.count('<script type="application/json"') == 1


def test_html_carries_the_same_json_whatever_the_names() -> None:
    parsed = page(full())
    assert json.loads(parsed.json) == full().to_json()
    assert "m</script>" in html_words.unescape(" ".join(parsed.text))


def test_html_draws_before_and_after_on_one_scale() -> None:
    rendered = html.render(full())
    size = rendered.index("<h2>Size</h2>")
    old, new = (
        float(re.findall(rf'class="{kind}"[^>]*? width="([\d.]+)"', rendered[size:])[0]) for kind in ("old", "new")
    )
    assert old == 180 and new == pytest.approx(180 * 250007 / 1000003, abs=0.06)


def test_html_of_an_empty_report() -> None:
    parsed = page(Report())
    assert "a model in memory" in " ".join(parsed.text)
    assert "Masks" not in parsed.text


def shown(report: Report) -> str:
    console = Console(file=io.StringIO(), width=200, markup=False, highlight=False)
    table.show(report, console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_table_names_what_stays_and_who_forces_it() -> None:
    text = shown(full())
    for expected in ("1,000,003", "250,007", "-75.0 %", "m</script>", "y_9", "the graph output y", "nan-under-mask"):
        assert expected in text
    assert "net.py:12" in text and "verified" in text and "3.5e-06" in text


def test_table_says_it_when_verification_failed() -> None:
    report = full()
    report.verify = dataclasses.replace(report.verify, passed=False, reason="logits differ")  # type: ignore[type-var]
    assert "NOT the same function: logits differ" in shown(report)
    assert "verified" not in shown(report)


@pytest.mark.parametrize("rows", [table.ROWS, table.ROWS + 1])
def test_table_is_cut_for_a_terminal_and_says_so(rows: int) -> None:
    report = Report(masks=[MaskRow(f"m{i}", "soft", [], 0, 1, "kept", "soft") for i in range(rows)])
    text = shown(report)
    assert (f"m{rows - 1}" in text) == (rows == table.ROWS)
    assert ("… and 1 more" in text) == (rows > table.ROWS)


def test_masks_that_stay_come_first() -> None:
    gone = MaskRow("first", "weight", [], 1, 2, "folded", "")
    kept = MaskRow("stays", "dynamic", [], 1, 2, "kept", "")
    text = shown(Report(masks=[gone, kept]))
    assert text.index("stays") < text.index("first")


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (4, 1, "-75.0 %"),
        (1, 1, "="),
        (0, 0, "="),
        (0, 3, "new"),
        (1, 3, "+200.0 %"),
        (None, 1, "–"),
        (3, 0, "-100.0 %"),
    ],
)
def test_change(before: int | None, after: int | None, said: str) -> None:
    assert words.change(before, after) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (123456, "123 kB"), (5_000_000_000_000, "5000 GB")],
)
def test_size(value: int, said: str) -> None:
    assert words.size(value) == said


def test_a_written_file_is_whole_or_not_there(tmp_path: Path) -> None:
    target = tmp_path / "r.json"
    files.write(target, "new")
    assert target.read_text() == "new"
    with pytest.raises(UnicodeEncodeError):
        files.write(target, "half \udc80")
    assert target.read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


def test_a_written_file_keeps_the_permissions_of_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "r.html"
    files.write(target, "a")
    fresh = tmp_path / "plain"
    fresh.write_text("a")
    assert target.stat().st_mode == fresh.stat().st_mode
    os.chmod(target, 0o640)
    files.write(target, "b")
    assert target.stat().st_mode & 0o777 == 0o640


def test_a_missing_folder_is_an_error_with_a_message(tmp_path: Path) -> None:
    with pytest.raises(GraphoptError, match=r"cannot write r\.html"):
        files.write(tmp_path / "missing" / "r.html", "x")
