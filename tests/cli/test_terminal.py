"""A terminal gets a progress bar, everything else does not; standard output holds the result and nothing else."""

from __future__ import annotations

import json
import os
import pty
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
