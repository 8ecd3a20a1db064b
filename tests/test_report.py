"""The report: one record, three forms that say the same, files that are there whole or not at all."""

from __future__ import annotations

import dataclasses
import html as html_words
import io
import json
import math
import os
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from rich.console import Console

from graphopt.errors import GraphoptError
from graphopt.report import drawing, files, html, plots, table, table_quantized, words
from graphopt.report import json as report_json
from graphopt.report.quantized import Drawing, FidelityRow, NodeRow, QuantizeReport, TensorRow, worst
from graphopt.report.schema import (
    AxisRow,
    FileInfo,
    ForcedRow,
    MaskRow,
    Measure,
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
        *("axes", "scatters", "gathers", "operators", "passes", "verify", "measure", "quantize", "warnings"),
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
    "quantize": {"tensors", "integer_nodes", "float_nodes", "output_sqnr_db"},
    "warnings": {"code", "message", "node", "source_line"},
}


def quantization() -> QuantizeReport:
    """Everything that can be said about a quantization, at least once."""
    return QuantizeReport(
        tensors=[
            TensorRow(
                "x<0>", "uint8", 0.0125, 131, 3.75e-5, 41.25, "mse", "activation", "Conv c<1>",
                low=-1.6375, high=1.55, minimum=-1.875, maximum=1.625,
            ),
            TensorRow(
                "w", "int4", [0.25, 0.5], [0, 3], 0.000625, 19.5, "minmax", "weight", "MatMul m", axis=1, block=32,
                low=-2.125, high=3.5, minimum=-2.0625, maximum=3.375,
            ),
            TensorRow("bytes", "uint8", 0.00390625, 0, 0.0, None, "mse", "activation", "graph input", high=0.99609375),
        ],
        integer_nodes=19,
        float_nodes=23,
        output_sqnr_db=27.75,
        held_out_sqnr_db=26.25,
        outputs=[FidelityRow("logits", 27.75, 0.015625), FidelityRow("classes", None, 0.984375, 3)],
        method="mse",
        weights="int4, int8",
        activations="uint8",
        batches=43,
        measured_kernels=True,
        nodes=[
            NodeRow("conv_7", "Conv", "QLinearConv", "uint8 x int8 -> uint8", "", "net.py:31"),
            NodeRow("tanh_8", "Tanh", None, "", "no integer kernel <here>", None),
        ],
        recovery=["bias-correction: 17 biases"],
        worst=[
            Drawing("w", "weight", "int4", 19.5, -9.5, 8.25, [3, 0, 1013, 2], -8.0, 7.0, "steps"),
            Drawing("x<0>", "activation", "uint8", 41.25, -1.875, 1.625, [0, 5, 2027], -1.6375, 1.55),
        ],
    )  # fmt: skip


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
        measure=Measure(3.5, 1.25, 0.375, "quantized"),
        quantize=quantization(),
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
            written = (f"{leaf:.3f}", words.error(leaf), words.seconds(leaf), f"{leaf:.4g}", f"{leaf:.3e}")
            written = (*written, words.decibels(leaf))
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


def quantized(report: Report, width: int = 200) -> str:
    console = Console(file=io.StringIO(), width=width, markup=False, highlight=False)
    table_quantized.show(report, console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_table_of_a_quantization() -> None:
    assert quantized(dataclasses.replace(full(), warnings=[])).splitlines() == [
        "                     float  quantized                    ",
        "constants           4.0 MB     1.0 MB  -75.0 %           ",
        "file               54.3 kB    12.3 kB  -77.3 %           ",
        "latency             3.5 ms    1.25 ms  2.67 times as fast",
        "integer operators        0   19 of 42                    ",
        "output SQNR                   27.8 dB  the worst of all  ",
        "on held-out data              26.2 dB                    ",
        "",
        "To win accuracy back: bias-correction: 17 biases",
        "",
        "The tensors that lose most",
        "tensor  of         type                             SQNR  range          seen          ",
        "w       MatMul m   int4, axis 1 in blocks of 32  19.5 dB  -2.125 … 3.5   -2.062 … 3.375",
        "x<0>    Conv c<1>  uint8                         41.2 dB  -1.637 … 1.55  -1.875 … 1.625",
        "",
        "In float: 1 of 2",
        "operators  for example  why                     ",
        "        1  tanh_8       no integer kernel <here>",
    ]


def test_table_of_a_quantization_that_was_declined() -> None:
    report = Report(quantize=QuantizeReport(declined="whatever was tried is slower than float"))
    text = quantized(report)
    assert "not quantized: whatever was tried is slower than float" in text
    assert "lose most" not in text and "In float" not in text and "output SQNR" not in text
    assert "not quantized" not in quantized(full())


def test_table_says_where_figures_are_planned_only() -> None:
    assert "as placed" not in quantized(full())
    assert "as placed" in quantized(Report(quantize=dataclasses.replace(quantization(), measured_kernels=False)))


def test_weights_alone_are_no_integer_operators() -> None:
    weights = [row for row in quantization().tensors if row.kind == "weight"]
    text = quantized(Report(quantize=QuantizeReport(tensors=weights, integer_nodes=3)))
    assert "weights in few bits" in text and "as placed" not in text and "integer operators" not in text
    assert "integer operators" in quantized(Report(quantize=QuantizeReport(integer_nodes=3)))


def test_reasons_are_counted_and_cut() -> None:
    many = [NodeRow(f"n{i}_{j}", "Tanh", None, "", f"reason {i}") for i in range(9) for j in range(i + 1)]
    text = quantized(Report(quantize=QuantizeReport(nodes=many)))
    assert "reason 8" in text and "n8_0" in text and "reason 0" not in text and "… and 1 more" in text
    assert text.index("reason 8") < text.index("reason 1")
    assert "more" not in quantized(Report(quantize=QuantizeReport(nodes=many[1:])))


def test_outputs_that_do_not_differ_are_said_to_be_equal() -> None:
    found = QuantizeReport(outputs=[FidelityRow("y", None, 1.0)])
    assert words.output_error(found) == "the outputs are those of the float model"
    assert "not compared" in words.output_error(QuantizeReport())
    assert "27.8 dB, 26.2 dB on data not" in words.output_error(quantization())


def test_worst_are_those_with_the_least_signal_to_noise() -> None:
    rows = quantization().tensors
    assert [row.name for row in worst(rows)] == ["w", "x<0>"]  # bytes are exact, and never the worst
    assert [row.name for row in worst(rows, 1)] == ["w"]
    moved = dataclasses.replace(rows[0], name="x moved")
    assert [row.name for row in worst([*rows, moved])] == ["w", "x<0>"]
    other = dataclasses.replace(moved, scale=0.25)  # near miss: a scale of its own
    assert [row.name for row in worst([*rows, other])] == ["w", "x<0>", "x moved"]
    weight = dataclasses.replace(rows[1], name="v")  # weights are not moved: equal ones are two
    assert [row.name for row in worst([*rows, weight])] == ["w", "v", "x<0>"]
    assert worst([]) == []


@pytest.mark.parametrize("counts", [[], [0], [1], [0, 0, 7], list(range(97))])
def test_a_histogram_is_drawn(counts: list[int]) -> None:
    one = Drawing("a<b", "activation", "uint8", 30.0, -1.0, 3.0, counts, -0.5, 2.0)
    picture = drawing.svg(one, alone=True)
    root = ElementTree.fromstring(picture)
    space = "{http://www.w3.org/2000/svg}"
    bars = root.findall(f"{space}rect")
    assert len(bars) == sum(count > 0 for count in counts)
    assert "a&lt;b" in picture and "from -0.5" in picture and "to 2" in picture
    lines = [float(line.attrib["x1"]) for line in root.findall(f"{space}line") if "class" not in line.attrib]
    left, right = 10, drawing.WIDTH - 10
    assert lines == pytest.approx([left + 0.5 / 4 * (right - left), left + 3 / 4 * (right - left)], abs=0.06)
    for bar in bars:  # inside of the frame, and coloured by which side of the range its middle is on
        start, width = float(bar.attrib["x"]), float(bar.attrib["width"])
        assert left - 0.1 <= start and start + width <= right + 0.6
        inside = lines[0] <= start + width / 2 + 0.3 <= lines[1] + 0.6
        if abs(start + width / 2 - lines[0]) > 4 and abs(start + width / 2 - lines[1]) > 4:
            assert bar.attrib["class"] == ("kept" if inside else "clipped")


def test_heights_are_logarithmic() -> None:
    picture = drawing.svg(Drawing("a", "weight", "int8", None, 0.0, 2.0, [99, 9999], 0.0, 2.0))
    low, high = (float(found) for found in re.findall(r'<rect [^>]*? height="([\d.]+)"', picture))
    assert high / low == pytest.approx(math.log(10000) / math.log(100), abs=0.01)


def test_a_range_that_is_wider_than_the_numbers_is_in_the_picture() -> None:
    one = Drawing("a", "weight", "int8", None, 0.0, 1.0, [1, 1], -2.0, 2.0)
    assert drawing.frame(one) == (-2.0, 2.0)
    assert drawing.frame(dataclasses.replace(one, clip_low=0.25, clip_high=0.5)) == (0.0, 1.0)
    assert "no error" in drawing.title(one)


def test_pictures_have_names_that_every_file_system_takes(tmp_path: Path) -> None:
    names = ["/a/b", "/a:b", "..", "é" * 300]
    one = Drawing("", "weight", "int8", None, 0.0, 1.0, [1], 0.0, 1.0)
    written = plots.write([dataclasses.replace(one, name=name) for name in names], tmp_path / "pictures")
    svgs = [path for path in written if path.suffix == ".svg"]
    assert len(svgs) == len(set(svgs)) == 4
    assert all(path.parent == tmp_path / "pictures" and path.is_file() for path in written)
    with pytest.raises(GraphoptError, match="cannot make the folder"):
        plots.write([one], tmp_path / "missing" / "pictures")


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (0.5, "5.000e-01"),
        ([0.5, 0.25], "2 scales, 2.500e-01 … 5.000e-01"),
        ([0.5, 0.5], "2 scales, 5.000e-01"),
        ([], "none"),
        (None, "one a block"),
        ([[0.5, 0.25], [0.125, 0.5]], "4 scales, 1.250e-01 … 5.000e-01"),
        (7, "7"),
    ],
)
def test_spread(found: float | list[float] | None, said: str) -> None:
    assert words.spread(found, "scales") == said


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


@pytest.mark.parametrize("existed", [False, True])
def test_interrupted_pictures_leave_nothing(existed: bool, tmp_path: Path) -> None:
    drawn = Drawing("a", "weight", "int8", None, 0.0, 2.0, [99, 9999], 0.0, 2.0)

    def interrupted() -> Iterator[Drawing]:
        yield drawn
        raise KeyboardInterrupt

    folder = tmp_path / "plots"
    if existed:
        folder.mkdir()
        (folder / "notes.txt").write_text("mine")
    with pytest.raises(KeyboardInterrupt):
        plots.write(interrupted(), folder)
    assert [path.name for path in folder.glob("*")] == (["notes.txt"] if existed else [])
    assert folder.exists() is existed
    assert plots.write([drawn], folder)[0].exists()
