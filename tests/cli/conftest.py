"""What the tests of the commands share: small models as files, and a way to run a command in this process."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path

import onnx
import onnx.parser
import pytest

from graphopt.cli import main

MASKED = """
<ir_version: 10, opset_import: ["" : 20]>
masked (float[N, 4] x) => (float[N, 2] y)
<float[4, 3] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, float[3] m = {1, 0, 1},
 float[3, 2] v = {1, 2, 3, 4, 5, 6}> {
    wm = Mul (w, m)
    h = MatMul (x, wm)
    r = Relu (h)
    y = MatMul (r, v)
}
"""
"""Two layers; a mask on the weight kills the middle one of three hidden units."""


@dataclasses.dataclass
class Ran:
    """What a command did."""

    status: int
    out: str
    err: str


Run = Callable[..., Ran]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `graphopt ARGUMENTS…` in this process."""

    def call(*arguments: object) -> Ran:
        capsys.readouterr()
        status = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return Ran(status, captured.out, captured.err)

    return call


def write(path: Path, text: str) -> Path:
    """A model in ONNX's own notation as a file."""
    onnx.save(onnx.parser.parse_model(text), path)
    return path


@pytest.fixture
def masked(tmp_path: Path) -> Path:
    return write(tmp_path / "masked.onnx", MASKED)


@pytest.fixture
def narrowed(tmp_path: Path) -> Path:
    """The same function as `masked`, made by hand."""
    return write(
        tmp_path / "narrowed.onnx",
        """
        <ir_version: 10, opset_import: ["" : 20]>
        narrowed (float[N, 4] x) => (float[N, 2] y)
        <float[4, 2] w = {1, 3, 4, 6, 7, 9, 10, 12}, float[2, 2] v = {1, 2, 5, 6}> {
            h = MatMul (x, w)
            r = Relu (h)
            y = MatMul (r, v)
        }""",
    )


@pytest.fixture
def different(tmp_path: Path) -> Path:
    """Almost the same function: the mask lets another unit through."""
    return write(tmp_path / "different.onnx", MASKED.replace("{1, 0, 1}", "{1, 1, 0}"))


def listing(folder: Path) -> dict[str, str]:
    """Every file below a folder with a digest of its bytes: what must be the same before and after."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
