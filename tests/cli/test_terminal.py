"""A terminal gets a progress bar, everything else does not; standard output holds the result and nothing else."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from graphopt.cli import terminal

ROOT = Path(__file__).resolve().parents[2]


def run_on_a_terminal(folder: Path, *arguments: str) -> tuple[str, str]:
    """Standard output through a pipe, standard error on a terminal; returns both."""
    master, slave = pty.openpty()
    environment = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "TERM")}
    process = subprocess.Popen(
        [sys.executable, "-m", "graphopt", *arguments],
        stdout=subprocess.PIPE,
        stderr=slave,
        cwd=folder,
        env={**environment, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "100"},
    )
    os.close(slave)
    seen = b""
    while True:
        try:
            chunk = os.read(master, 65536)
        except OSError:  # the other end has been closed
            break
        if not chunk:
            break
        seen += chunk
    os.close(master)
    out = process.communicate(timeout=60)[0].decode()
    assert process.returncode == 0, seen
    return out, seen.decode()


def test_a_terminal_gets_a_bar_and_standard_output_stays_clean(masked: Path) -> None:
    out, err = run_on_a_terminal(masked.parent, "bench", masked.name, "--seconds", "0.5", "--json")
    assert json.loads(out)["rows"]
    assert "measuring 1 model" in err and "\x1b[" in err


def test_a_table_in_a_pipe_has_no_colour_even_if_standard_error_is_a_terminal(masked: Path) -> None:
    out, _ = run_on_a_terminal(masked.parent, "bench", masked.name, "--seconds", "0.2")
    assert "median" in out and "\x1b" not in out


def test_no_terminal_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    with terminal.progress() as step:
        step("working", 1, 2)
        step.note("done [red]x[/red]")
    captured = capsys.readouterr()
    assert captured.err == ""
    assert captured.out == "done [red]x[/red]\n"


@pytest.mark.parametrize(
    ("done", "seconds", "said"),
    [(0, 1.0, ""), (1, 1.0, ""), (2, 0.0, ""), (2, 1.0, "2/s"), (100, 8.0, "12.5/s"), (2, 60.0, "2/min")],
)
def test_rate(done: int, seconds: float, said: str) -> None:
    assert terminal.rate(done, seconds) == said


_STEPS = """
import time
from graphopt.cli import terminal
with terminal.progress() as step:
    step("first", 0, 1)
    step("first", 1, 1)
    for number in range(30):
        step("second", number, 30)
        time.sleep(0.05)
    for number in range(30):
        step("third", number, 0)
        time.sleep(0.05)
"""


def test_every_step_has_its_own_total_rate_and_time_left(tmp_path: Path) -> None:
    (tmp_path / "graphopt_steps.py").write_text(_STEPS)
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "graphopt_steps.py"],
        stderr=slave,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "100"},
    )
    os.close(slave)
    seen = b""
    while True:
        try:
            chunk = os.read(master, 65536)
        except OSError:
            break
        if not chunk:
            break
        seen += chunk
    os.close(master)
    assert process.wait(60) == 0
    lines = re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode()))
    second, third = ([line for line in lines if name in line] for name in ("second", "third"))
    assert any("/30" in line and "/s" in line and "0:00:0" in line for line in second)
    assert all("/?" in line and "/30" not in line for line in third) and any("/s" in line for line in third)
