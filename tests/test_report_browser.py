"""The HTML report in a real browser: everything that the JSON says can be seen, and the page is not blank."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import graphopt
from graphopt.report import html, words
from graphopt.report.schema import Report
from tests.cli.test_quantize import images, two_convolutions
from tests.passes.models import chain, model, weight
from tests.passes.models import conv as convolution
from tests.test_report import full

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge")
BROWSER = next((found for found in map(shutil.which, NAMES) if found), None)

pytestmark = pytest.mark.skipif(BROWSER is None, reason=f"needs a browser to look with: one of {', '.join(NAMES)}")

OPTIONS = (
    "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars --enable-logging=stderr"
).split()
WIDTH, HEIGHT = 1100, 2000


def browse(page: Path, *what: str) -> subprocess.CompletedProcess[str]:
    assert BROWSER is not None
    profile = f"--user-data-dir={page.parent / 'profile'}"
    command = [BROWSER, *OPTIONS, profile, f"--window-size={WIDTH},{HEIGHT}", *what, page.as_uri()]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=100, cwd=page.parent)
    assert ran.returncode == 0, ran.stderr
    assert "CONSOLE" not in ran.stderr, ran.stderr  # what the page itself complains about
    return ran


class Seen(HTMLParser):
    """The text of the page as the browser has it, the tables, and how many bars are drawn."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.words = ""
        self.data = ""
        self.bars = 0
        self._title = ""
        self._inside: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside.append(tag)
        self.bars += tag == "rect"
        if tag == "h2":
            self._title = ""
        elif tag == "tr":
            self.tables.setdefault(self._title, []).append([])
        elif tag in ("td", "th"):
            self.tables[self._title][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        while self._inside and self._inside.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if "script" in self._inside:
            self.data += data
        elif "style" not in self._inside and "title" not in self._inside:
            self.words += data + " "
            if "h2" in self._inside:
                self._title += data
            elif "td" in self._inside or "th" in self._inside:
                self.tables[self._title][-1][-1] += data

    def rows(self, title: str) -> list[list[str]]:
        return self.tables.get(title, [[]])[1:]


def optimized() -> Report:
    """A report of a real run: a chain of convolutions with a mask in place, a scatter at its end."""
    proto = chain(biased=True)
    report = graphopt.optimize(proto).report
    assert report.axes and report.verify is not None
    return report


def scattered() -> Report:
    """A report of a real run that leaves a scatter at its output."""
    report = graphopt.optimize(
        model([convolution("x", "w", "y")], [weight("w", 7, 3, 3, 3, rows=[0, 5])], outputs=(("y", 7),))
    ).report
    assert report.scatters.remaining
    return report


def quantized() -> Report:
    """A report of a real quantization, with its histograms."""
    report = graphopt.quantize(two_convolutions(), [{"x": images(8)}], measure=False).report
    assert report.quantize is not None and len(report.quantize.worst) > 1
    return report


REPORTS = {"chain": optimized, "scatter": scattered, "quantized": quantized, "every field": full}


@pytest.mark.parametrize("case", REPORTS)
def test_every_figure_of_the_json_is_seen(case: str, tmp_path: Path) -> None:
    report, page = REPORTS[case](), tmp_path / "report.html"
    html.write(report, page)
    seen = Seen(browse(page, "--dump-dom").stdout)
    record = report.to_json()
    assert json.loads(seen.data) == record

    sizes = {row[0]: row for row in seen.rows("Size")}
    for name, label in (("parameters", "parameters"), ("macs", "multiply-adds"), ("nodes", "nodes")):
        assert sizes[label][2:4] == [f"{record[when][name]:,}" for when in ("before", "after")]
    operators = {row[0]: row[2:4] for row in seen.rows("Operators")}
    kinds = {*record["before"]["ops"], *record["after"]["ops"]}
    assert operators == {
        kind: [f"{record[when]['ops'].get(kind, 0):,}" for when in ("before", "after")] for kind in kinds
    }
    for title, part, columns in (
        ("Passes", "passes", ("name", "nodes_before", "nodes_after", "parameters_after")),
        ("Masks", "masks", ("value", "kind", "zeros", "size", "action", "reason")),
        ("Axes with dead positions", "axes", ("value", "axis", "size", "kept", "fill", "decided_by", "reason")),
        ("Warnings", "warnings", ("code", "message", "node", "source_line")),
    ):
        rows = seen.rows(title)
        assert len(rows) == len(record[part]), title
        for row, entry in zip(rows, record[part], strict=True):
            assert {_shown(entry[column]) for column in columns} <= set(row), title
    for title, part in (("Scatters", "scatters"), ("Gathers", "gathers")):
        assert seen.rows(title) == [[row["value"], row["forced_by"]] for row in record[part]["remaining"]]
    outputs = seen.rows("Verification")
    for row, entry in zip(outputs, (record["verify"] or {"outputs": []})["outputs"], strict=True):
        assert row[:4] == [entry["name"], *(words.error(entry[key]) for key in ("max_abs", "max_rel", "tolerance"))]
    for text in _texts(record):
        assert text in seen.words, text
    quantize = record["quantize"] or {"tensors": [], "nodes": [], "worst": []}
    tensors = seen.rows("Quantized tensors")
    assert [row[0] for row in tensors] == [row["name"] for row in quantize["tensors"]]
    for row, entry in zip(tensors, quantize["tensors"], strict=True):
        assert {entry["kind"], entry["node"], entry["method"], words.error(entry["mse"])} <= set(row)
        assert words.decibels(entry["sqnr_db"]) in row and row[3].startswith(entry["dtype"])
    operators_of = seen.rows("Quantized operators")
    assert [row[:2] for row in operators_of] == [[row["name"], row["op_type"]] for row in quantize["nodes"]]
    drawn = sum(count > 0 for one in quantize["worst"] for count in one["counts"])
    # One pair of bars a size, an operator, an axis; one column a pass and one for the input; bars of histograms.
    pairs = len(sizes) + len(kinds) + len(record["axes"])
    assert seen.bars == 2 * pairs + len(record["passes"]) + 1 + drawn


def _shown(value: object) -> str:
    return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


def picture(page: Path) -> np.ndarray:
    shot = page.with_suffix(".png")
    browse(page, f"--screenshot={shot}")
    with Image.open(shot) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def test_the_page_is_drawn(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    html.write(full(), page)
    pixels = picture(page)
    assert pixels.shape == (HEIGHT, WIDTH, 3)
    paper = pixels[2, 2]
    ink = np.abs(pixels - paper).sum(axis=2) > 60
    assert 0.01 < ink.mean() < 0.5
    # Text and bars from top to bottom, both colours of the bars, and nothing that sticks out at the sides.
    assert all(band.any() for band in np.array_split(ink, 20))
    for name in ("old", "new"):
        colour = [int(part, 16) for part in re.findall("..", _light(name))]
        assert (np.abs(pixels - colour).sum(axis=2) < 12).sum() > 500, name
    assert not ink[:, :20].any() and not ink[:, -20:].any()


MEASURED = """<script>
const cells = [...document.querySelectorAll("td:first-child")];
document.body.dataset.narrowest = Math.min(...cells.map(cell => cell.getBoundingClientRect().width));
document.body.dataset.wide = document.documentElement.scrollWidth - innerWidth;
</script>"""


def test_a_telephone_shows_words_and_not_letters(tmp_path: Path) -> None:
    """Names are not broken letter by letter, and tables scroll inside of a page that does not."""
    page = tmp_path / "report.html"
    report = optimized()
    page.write_text(html.render(report) + MEASURED, encoding="utf-8")
    seen = browse(page, "--dump-dom", "--window-size=400,2000").stdout
    narrowest, wide = (re.search(rf'data-{name}="([-\d.]+)"', seen) for name in ("narrowest", "wide"))
    assert narrowest is not None and wide is not None
    assert float(narrowest[1]) > 100 and float(wide[1]) <= 0


def test_a_blank_page_would_be_noticed(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text("<!DOCTYPE html><title>nothing</title><style>body { background: #fff }</style>")
    assert np.ptp(picture(page)) == 0
    assert Seen(browse(page, "--dump-dom").stdout).tables == {}


def _light(name: str) -> str:
    found = re.search(rf"--{name}: #(\w{{6}})", html.render(full()))
    assert found is not None
    return found[1]
