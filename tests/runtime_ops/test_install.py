"""Installed with pip: a wheel brings the library, an editable installation finds it, no compiler is said and survived.

Each builds the library, so these are long tests.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(shutil.which("c++") is None and shutil.which("g++") is None, reason="no C++ compiler"),
]

ASK = """
import json
from graphopt import runtime_ops as ops
print(json.dumps([str(ops.library()), ops.cpu_features(), sorted(ops.operators()), ops.__file__]))
"""


def pip(python: str, *arguments: str, **environment: str) -> str:
    """Run pip without the network: what it needs is in the environment of the tests."""
    variables = {name: value for name, value in os.environ.items() if name != "GRAPHOPT_OPS_LIBRARY"} | environment
    done = subprocess.run(
        [python, "-m", "pip", "--disable-pip-version-check", *arguments],
        cwd=ROOT, env=variables, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def python(tmp_path: Path) -> str:
    """The interpreter of an environment that sees the packages of this one, and no graphopt."""
    pytest.importorskip("scikit_build_core")
    venv.create(tmp_path / "venv", with_pip=True)
    found = str(tmp_path / "venv" / "bin" / "python")
    where = subprocess.run(
        [found, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    # A path in a .pth file brings the folder, but not what the .pth files in that folder bring (an editable graphopt).
    Path(where, "tests.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return found


def ask(python: str, folder: Path) -> tuple[str, str | None, list[str], str]:
    """What an installed graphopt says of its library."""
    variables = {
        name: value for name, value in os.environ.items() if name not in ("GRAPHOPT_OPS_LIBRARY", "PYTHONPATH")
    }
    done = subprocess.run([python, "-c", ASK], cwd=folder, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    library, cpu, operators, here = json.loads(done.stdout)
    return library, cpu, operators, here


QUICK = ("-C", "cmake.define.GRAPHOPT_CUDA=OFF", "-C", "cmake.build-type=Debug")


def test_a_wheel_brings_the_library(python: str, tmp_path: Path) -> None:
    pip(sys.executable, "wheel", ".", "--no-deps", "--no-build-isolation", "-w", str(tmp_path / "wheel"),
        "-C", f"build-dir={tmp_path / 'build'}", *QUICK)  # fmt: skip
    (wheel,) = (tmp_path / "wheel").iterdir()
    names = zipfile.ZipFile(wheel).namelist()
    assert [name for name in names if name.endswith(".so")] == ["graphopt/runtime_ops/libgraphopt_ops.so"]
    assert not [name for name in names if name.endswith((".cc", ".cu", ".h", "CMakeLists.txt"))]
    pip(python, "install", "--no-deps", str(wheel))
    library, cpu, operators, here = ask(python, tmp_path)
    assert Path(library).parent == Path(here).parent and str(tmp_path) in library
    assert cpu and "Gather" in operators


def test_an_editable_installation_finds_the_library(python: str, tmp_path: Path) -> None:
    pip(python, "install", "-e", ".", "--no-deps", "--no-build-isolation",
        "-C", f"build-dir={tmp_path / 'build'}", *QUICK)  # fmt: skip
    library, cpu, operators, here = ask(python, tmp_path)
    assert str(ROOT) in here
    built = ROOT / "runtime_ops" / "libgraphopt_ops.so"
    assert Path(library).resolve() == built.resolve() if built.exists() else str(tmp_path) in library
    assert list((tmp_path / "venv").rglob("libgraphopt_ops.so"))
    assert cpu and "Gather" in operators


def test_no_compiler_is_said_and_survived(python: str, tmp_path: Path) -> None:
    said = pip(python, "wheel", "-v", ".", "--no-deps", "--no-build-isolation", "-w", str(tmp_path / "wheel"),
               "-C", f"build-dir={tmp_path / 'build'}", CXX=str(tmp_path / "no-compiler"))  # fmt: skip
    assert "could NOT be built" in said
    (wheel,) = (tmp_path / "wheel").iterdir()
    assert wheel.name.endswith("-py3-none-any.whl")
    assert not [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".so")]
    pip(python, "install", "--no-deps", str(wheel))
    library, cpu, operators, _ = ask(python, tmp_path)
    assert (library, cpu) == ("None", None) and "Gather" in operators
