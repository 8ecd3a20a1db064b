"""Every measurement of runtime operators on the CPU, one after the other; ``make bench-ops``.

usage: python -m tests.bench.ops [FAMILY ...]
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from graphopt import runtime, runtime_ops

NO_FAMILY = {"__init__", "__main__", "timing", "gpu"}


def families() -> list[str]:
    """The files of this folder that measure something."""
    found = sorted(path.stem for path in Path(__file__).parent.glob("*.py"))
    return [name for name in found if name not in NO_FAMILY and not name.startswith(("_", "gpu_"))]


def main(wanted: list[str]) -> int:
    """Run the families, each in a process of its own; return how many failed."""
    library = runtime_ops.library()
    if library is None:
        print("the native library was not built: make ops")
        return 1
    print(f"onnxruntime {runtime.version()}, kernels for {runtime_ops.cpu_features()}, {_processor()}\n", flush=True)
    failed = []
    for family in wanted or families():
        print(f"## {family}\n", flush=True)
        if subprocess.run([sys.executable, "-m", f"tests.bench.ops.{family}"], check=False).returncode:
            failed.append(family)
        print(flush=True)
    if failed:
        print("failed:", *failed)
    return len(failed)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "unknown processor"
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown processor"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
