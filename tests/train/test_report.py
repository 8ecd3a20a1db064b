"""The page of a training command: a table of the files on the way, and the figures of the rounds as lines."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from graphopt.report import html_training
from graphopt.report.curves import Curve, svg
from graphopt.report.training import StageRow, TrainingReport

NAN = math.nan


def percent(value: float) -> str:
    return f"{value:.0%}"


def points(picture: str) -> list[list[tuple[float, float]]]:
    """The corners of each line."""
    return [
        [(float(x), float(y)) for x, y in (pair.split(",") for pair in way.split())]
        for way in re.findall(r'<polyline [^>]*points="([^"]*)"', picture)
    ]


def test_a_curve_goes_where_its_numbers_go() -> None:
    picture = svg([Curve("after", [0.5, 0.25, 1.0])], ["round 1", "round 2", "round 3"], percent)
    (((x1, y1), (x2, y2), (x3, y3)),) = points(picture)
    assert x2 - x1 == pytest.approx(x3 - x2) and x1 < x2
    assert y2 > y1 > y3 and (y2 - y1) / (y2 - y3) == pytest.approx(1 / 3, abs=0.01), "to scale, upwards"
    for text in ("round 1", "round 3", ">25%<", ">100%<", "round 2, after: 25%", "after: 50% to 100%"):
        assert text in picture, text
    assert svg([Curve("after", [0.5, 0.25, 0.9])], ["round 1", "round 2", "round 3"], percent) != picture


def test_what_is_not_a_number_is_left_out() -> None:
    assert (
        svg([Curve("a", [NAN, NAN])], ["1", "2"], percent)
        == ""
        == svg([], [], percent)
        == svg([Curve("a", [])], [], str)
    )
    one, two = points(svg([Curve("a", [NAN, 0.5, math.inf]), Curve("b", [1, 1, 1], "old")], ["1", "2", "3"], percent))
    assert len(one) == 1 and len(two) == 3
    assert len(points(svg([Curve("a", [0.0])], ["only"], percent))) == 1, "nothing is divided by zero"


def test_names_are_escaped() -> None:
    assert "<b>" not in svg([Curve("<b>", [1.0])], ["<b>"], lambda value: "<b>")


def report(method: str) -> TrainingReport:
    rows = {
        "prune": [
            {"number": 1, "aim": 0.4, "sparsity": 0.4, "zeroed": 0.5, "loss": 0.3, "retrained": 0.9},
            {"number": 2, "aim": 0.5, "sparsity": 0.5, "zeroed": 0.6, "loss": 0.2, "retrained": 0.8},
        ],
        "quantize-train": [
            {"step": "stem 1/2", "filters": 2, "frozen": 2, "steps": 0, "loss": NAN},
            {"step": "stem 2/2", "filters": 2, "frozen": 4, "steps": 3, "loss": 0.125},
        ],
        "binarize": [{"stage": "binary", "epoch": number, "loss": 1 / number} for number in (1, 2, 3)],
    }
    stage = StageRow("trained", "trained.onnx", 10, 20, 30, 0.5, 0.75)
    return TrainingReport(method=method, figure="accuracy", stages=[stage], history=rows[method])


@pytest.mark.parametrize(("method", "lines"), [("prune", [2, 2, 2]), ("quantize-train", [1]), ("binarize", [3])])
def test_the_rounds_are_drawn(method: str, lines: list[int]) -> None:
    page = html_training.render(report(method))
    assert [len(line) for line in points(page)] == lines
    if method == "prune":
        assert "round 2, accuracy after training again: 80.00%" in page and "round 1, mean loss" in page
    assert svg_free(page), "the page needs nothing from anywhere"


def svg_free(page: str) -> bool:
    return "http" not in page and "<img" not in page and "src=" not in page


BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.mark.skipif(BROWSER is None, reason="needs a browser to look with")
def test_a_browser_shows_stages_and_lines(tmp_path: Path) -> None:
    assert BROWSER is not None
    page = tmp_path / "page.html"
    html_training.write(report("prune"), page)
    options = (
        "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --enable-logging=stderr"
    )
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    ran = subprocess.run(
        [BROWSER, *options.split(), profile, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=100
    )
    assert ran.returncode == 0 and "CONSOLE" not in ran.stderr, ran.stderr
    assert "<h2>Stages</h2>" in ran.stdout and "75.00%" in ran.stdout
    assert ran.stdout.count("<polyline") == 3
