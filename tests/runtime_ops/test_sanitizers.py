"""What ``make test-ops-sanitized`` rests on: the sanitizers see faults in kernels, and are silent where there is none.

Skipped but for libraries that are built with one; those have an operator ``Canary`` that commits faults on request.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from graphopt import runtime_ops

ROOT = Path(__file__).resolve().parents[2]

SCRIPT = """
import sys
import numpy as np
import onnxruntime as ort
from onnx import parser
options = ort.SessionOptions()
options.intra_op_num_threads = 2
options.enable_cpu_mem_arena = False
options.register_custom_ops_library(sys.argv[1])
model = parser.parse_model('''
<ir_version: 10, opset_import: ["": 18, "graphopt": 1]>
one (int32[N] x) => (int32[N] y) { y = graphopt.Canary <fault: string = "FAULT"> (x) }
'''.replace("FAULT", sys.argv[2]))
session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
session.run(None, {"x": np.arange(1, 8, dtype=np.int32)})
print("survived")
"""

ADDRESS = {
    "read": "heap-buffer-overflow",
    "write": "heap-buffer-overflow",
    "overflow": "signed integer overflow",
    "misaligned": "misaligned address",
}


def sanitizer() -> str:
    """Which one the library was built with."""
    library = runtime_ops.library()
    data = library.read_bytes() if library is not None else b""
    return "address" if b"__asan_init" in data else "thread" if b"__tsan_init" in data else ""


def _to_standard_error(name: str, value: str) -> str:
    """The options of a sanitizer without the file that its reports go to."""
    return re.sub(r":?log_path=[^:]*", "", value) if name.endswith("SAN_OPTIONS") else value


def commit(fault: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, str(runtime_ops.library()), fault],
        cwd=ROOT,
        env={name: _to_standard_error(name, value) for name, value in os.environ.items()},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("fault", sorted(ADDRESS))
@pytest.mark.skipif(sanitizer() != "address", reason="the library is not built with AddressSanitizer")
def test_memory_faults_are_seen(fault: str) -> None:
    done = commit(fault)
    assert done.returncode and ADDRESS[fault] in done.stderr


@pytest.mark.skipif(sanitizer() != "thread", reason="the library is not built with ThreadSanitizer")
def test_races_are_seen() -> None:
    done = commit("race")
    assert done.returncode and "data race" in done.stderr


@pytest.mark.skipif(not sanitizer(), reason="the library is built without a sanitizer")
def test_nothing_is_seen_where_there_is_none() -> None:
    done = commit("none")
    assert done.returncode == 0, done.stderr
    assert "survived" in done.stdout
