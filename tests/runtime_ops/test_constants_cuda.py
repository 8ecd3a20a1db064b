"""Kernels of the CUDA provider are made from initializers that lie on the device: onnxruntime brings them there first.

Without a GPU: memory of the "device" is what the host may not touch (``emulator/constants.cc``).
"""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from graphopt import runtime_ops

HOME = Path(runtime_ops.__file__).parent
HERE = Path(__file__).parent
LINKED = ("-Wl,-z,lazy", "-Wl,--unresolved-symbols=ignore-all", "-no-pie", "-ldl", "-lpthread")  # no launcher is called


def program(folder: Path) -> Path:
    """Compile what the CUDA provider's kernels do on the host."""
    core = [HOME / "core" / name for name in ("registry.cc", "int8_product.cc")]
    sources = [HERE / "emulator" / "constants.cc", *core, *sorted(HOME.glob("*/cuda.cc"))]

    def compiled(source: Path) -> Path:
        target = folder / f"{source.parent.name}-{source.stem}.o"
        include = [f"-I{HOME / 'core'}", f"-I{source.parent}"]
        command = [
            "g++",
            "-std=c++17",
            "-O0",
            "-w",
            "-DGRAPHOPT_CUDA=1",
            *include,
            "-c",
            str(source),
            "-o",
            str(target),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return target

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compiled, sources))
    target = folder / "constants"
    done = subprocess.run(
        ["g++", *map(str, objects), *LINKED, "-o", str(target)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return target


def test_no_kernel_reads_the_device_from_the_host(tmp_path: Path) -> None:
    try:
        made = program(tmp_path)
    except FileNotFoundError:
        pytest.skip("there is no g++")
    done = subprocess.run([made], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"the last kernel: {done.stdout[-200:]}"
    *kernels, last = done.stdout.splitlines()
    assert last == f"made {len(kernels)}"
    folders = {path.parent.name for path in HOME.glob("*/cuda.cc")}
    names = {line.split()[0] for line in kernels}
    assert {one.replace("_", "") for one in folders} <= {one.lower() for one in names}
