"""The GPU that is played ends runs that a real one would spoil: one kernel breaks no rule, others break one each."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from graphopt import runtime_ops

HERE = Path(__file__).parent / "emulator"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile the kernels."""
    target = tmp_path_factory.mktemp("rules") / "rules"
    include = [f"-I{Path(runtime_ops.__file__).parent / 'core'}", f"-I{HERE}"]
    command = ["g++", "-std=c++17", "-O1", "-DGRAPHOPT_EMULATED", *include, str(HERE / "rules.cc"), "-o", str(target)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no g++")
    assert done.returncode == 0, done.stderr
    return target


def said(program: Path, rule: str) -> tuple[int, str]:
    done = subprocess.run([program, rule], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_a_kernel_that_breaks_no_rule_passes(program: Path) -> None:
    assert said(program, "") == (0, "passed\n")


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("publish", "not published"),
        ("publish late", "not published"),
        ("fence", "wgmma.fence is missing"),
        ("global alignment", "not aligned in global memory"),
        ("shared alignment", "not aligned in shared memory"),
        ("outside", "outside of shared memory"),
        ("grid", "the grid is too large"),
        ("shared memory", "the block is too large"),
        ("threads", "the block is too large"),
    ],
)
def test_what_breaks_a_rule_ends(program: Path, rule: str, words: str) -> None:
    status, text = said(program, rule)
    assert status < 0 and words in text


def test_sums_that_are_not_waited_for_are_not_there(program: Path) -> None:
    status, text = said(program, "wait")
    assert status != 0 and "passed" not in text
