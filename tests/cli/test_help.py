"""Help teaches, and answers at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Run

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = (
    "demo",
    "inspect",
    "optimize",
    "quantize",
    "export",
    "verify",
    "bench",
    "explain",
    "passes",
    "ops",
    "targets",
    "prune",
    "quantize-train",
    "binarize",
)

_LIST_IMPORTS = """
import sys
from graphopt.cli import main
status = main({arguments!r})
heavy = sorted({{"onnx", "onnx_ir", "onnxruntime", "torch", "numpy", "onnxscript", "sklearn"}} & set(sys.modules))
print("HEAVY", heavy, status)
"""


@pytest.mark.parametrize(
    ("arguments", "heavy"),
    [
        (["--help"], "[] 0"),
        (["optimize", "--help"], "[] 0"),
        (["quantize", "--help"], "[] 0"),
        (["prune", "--help"], "[] 0"),
        (["binarize"], "[] 2"),
        (["--version"], "[] 0"),
        (["optimise"], "[] 2"),
        (["targets"], "['numpy', 'onnx', 'onnx_ir', 'onnxruntime'] 0"),  # near miss: a command that works does import
    ],
)
def test_help_imports_nothing_heavy(arguments: list[str], heavy: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", _LIST_IMPORTS.format(arguments=arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.splitlines()[-1] == f"HEAVY {heavy}"


def test_help_lists_every_command(run: Run) -> None:
    ran = run("--help")
    assert ran.status == 0 and ran.err == ""
    for command in COMMANDS:
        assert command in ran.out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_an_example(run: Run, command: str) -> None:
    ran = run(command, "--help")
    assert ran.status == 0
    assert f"Example: graphopt {command}" in ran.out
    assert "\x1b" not in ran.out


TRAINING = ["-o", "--folder", "--set", "--restart", "--seed", "--json", "--report"]

PROMISED = {
    "inspect": ["--json"],
    "optimize": [
        *("-o", "--target", "--plan", "-p", "--recipe", "--no-assume-finite", "--no-verify", "--samples", "--rtol"),
        *("--atol", "--seed", "--shape", "--report", "--json", "--save-external", "--keep-failed"),
    ],
    "quantize": [
        *("-o", "--data", "--target", "--weights", "--activations", "--method", "--levels", "--exclude", "--workers"),
        *("--per-channel", "--per-tensor", "--ray", "--recover", "--target-sqnr", "--target-accuracy", "--evaluate"),
        *(
            "--dry-run",
            "--everything",
            "--plots",
            "--report",
            "--json",
            "--resume",
            "--random-data",
            "--block",
            "--samples",
            "--seed",
        ),
    ],
    "export": ["-o", "--input", "--dynamic"],
    "prune": TRAINING,
    "quantize-train": TRAINING,
    "binarize": TRAINING,
    "verify": ["--data", "--samples"],
    "bench": ["--provider", "--threads", "--shape"],
}


@pytest.mark.parametrize("command", PROMISED)
def test_the_promised_options_are_there(run: Run, command: str) -> None:
    words = run(command, "--help").out.split()
    for option in PROMISED[command]:
        assert option in words


def test_version(run: Run) -> None:
    import graphopt

    ran = run("--version")
    assert (ran.status, ran.out) == (0, f"graphopt {graphopt.__version__}\n")


def test_python_m() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "graphopt", "ops"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "Gather" in ran.stdout and "library" in ran.stdout
