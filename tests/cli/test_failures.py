"""Every failure becomes a message and a status; never a traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer

from graphopt.cli.failures import guarded
from graphopt.errors import DependencyError, GraphoptError, ModelError, UsageError, VerificationError
from tests.cli.conftest import Run, listing

ROOT = Path(__file__).resolve().parents[2]


def raising(error: BaseException) -> typer.Typer:
    """An application whose only command fails."""
    app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)

    @app.command()
    def fail() -> None:
        raise error

    return app


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (ModelError("bad", "node n", "mend it"), 1, "error: bad\n  --> node n\n  help: mend it\n"),
        (GraphoptError("bad"), 1, "error: bad\n"),
        (DependencyError("no torch", help="pip install torch"), 1, "error: no torch\n  help: pip install torch\n"),
        (UsageError("what?", "-p"), 2, "error: what?\n  --> -p\n"),
        (VerificationError("differs", "logits", pass_name="narrow"), 3, "error: differs\n  --> logits\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (typer.Exit(3), 3, ""),
        (PermissionError(13, "Permission denied", "/x"), 1, "error: Permission denied\n  --> /x\n"),
    ],
)
def test_status_and_message(capsys: pytest.CaptureFixture[str], error: BaseException, status: int, said: str) -> None:
    assert guarded(raising(error), []) == status
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith(said)


def test_a_bug_is_one_line_and_asks_to_report(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GRAPHOPT_DEBUG", raising=False)
    assert guarded(raising(ValueError("two\nlines")), []) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert first == "error: internal error: ValueError: two lines"
    assert "report" in second and "GRAPHOPT_DEBUG=1" in second


def test_the_traceback_is_there_for_those_who_ask(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAPHOPT_DEBUG", "1")
    assert guarded(raising(ValueError("deep")), []) == 1
    assert "Traceback" in capsys.readouterr().err


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def test_ctrl_c(masked: Path, tmp_path: Path) -> None:
    before = listing(tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-m", "graphopt", "bench", str(masked), "--seconds", "60"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        cwd=tmp_path,
    )
    try:
        time.sleep(4)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130
    assert out == "" and err == "interrupted\n"
    assert listing(tmp_path) == before


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    shell = f"{sys.executable} -m graphopt targets --json | head -c 1; echo ${{PIPESTATUS[0]}}"
    ran = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, env=environment(), cwd=tmp_path)
    assert ran.stderr == ""


@pytest.mark.parametrize("command", ["inspect", "verify", "bench", "optimize", "explain"])
@pytest.mark.parametrize("content", [None, b"", b"\x08\x07no model", b"PK\x03\x04"])
def test_a_file_that_is_no_model(run: Run, masked: Path, tmp_path: Path, command: str, content: bytes | None) -> None:
    bad = tmp_path / "bad.onnx"
    if content is not None:
        bad.write_bytes(content)
    before = listing(tmp_path)
    rest = {"verify": [masked], "optimize": ["-o", tmp_path / "out.onnx"], "explain": ["y"]}.get(command, [])
    ran = run(command, bad, *rest)
    assert ran.status == 1
    assert ran.out == ""
    assert ran.err.startswith("error: ") and "internal error" not in ran.err
    assert "bad.onnx" in ran.err and "  help: " in ran.err
    assert listing(tmp_path) == before
