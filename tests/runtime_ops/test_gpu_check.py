"""The check for a machine with a GPU, as far as it goes without one: whatever ends a process, its findings stay."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from tests.bench.ops import gpu_bundle, gpu_children, gpu_needs, gpu_report, gpu_verdict
from tests.bench.ops.gpu_records import CUT, Record, Records
from tests.bench.ops.gpu_targets import TARGETS, judged

ROOT = Path(__file__).resolve().parents[2]

DIES = """
import os, signal, sys, time
from pathlib import Path
from tests.bench.ops.gpu_records import Record, Records
records = Records(Path(sys.argv[1]))
known = records.known("equal") | set(records.open("equal"))
for name in ("A one", "A two", "A three"):
    if name in known:
        continue
    records.add(Record("equal", name, begun=True))
    if name == "A two":
        print("CUDA error: an illegal memory access", flush=True)
        exec(sys.argv[2])
    records.add(Record("equal", name, note="equal"))
"""


def child(path: Path, dies: str, patience: float = 30) -> gpu_children.Child:
    command = [sys.executable, "-c", DIES, str(path / "r.jsonl"), dies]
    return gpu_children.Child("equal", command, lambda name: name.startswith("A "), patience, path / "log")


def run(
    path: Path, children: list[gpu_children.Child], seconds: float = 60
) -> tuple[Records, list[gpu_children.Child]]:
    records = Records(path / "r.jsonl")
    until = time.monotonic() + seconds
    left = gpu_children.run(records, children, at_once=2, until=until, told=lambda: None)
    return records, left


@pytest.mark.parametrize(
    ("dies", "said"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV; CUDA error: an illegal memory access"),
        ("os._exit(3)", "exit status 3; CUDA error: an illegal memory access"),
        ("os._exit(0)", "exit status 0"),
    ],
)
def test_a_process_that_dies_is_begun_again_behind_what_it_died_of(tmp_path: Path, dies: str, said: str) -> None:
    records, left = run(tmp_path, [child(tmp_path, dies)])
    assert not left
    found = {one.name: one for one in records.ended("equal")}
    assert list(found) == ["A one", "A two", "A three"]
    assert said in found["A two"].failed
    assert not found["A one"].failed and not found["A three"].failed


def test_what_hangs_is_ended_and_the_rest_runs(tmp_path: Path) -> None:
    records, left = run(tmp_path, [child(tmp_path, "time.sleep(600)", patience=2)])
    assert not left
    found = {one.name: one.failed for one in records.ended("equal")}
    assert "hangs" in found["A two"] and found["A three"] == ""


def test_when_time_is_up_what_was_found_stays_and_the_rest_is_told(tmp_path: Path) -> None:
    records, left = run(tmp_path, [child(tmp_path, "time.sleep(600)")], seconds=3)
    assert len(left) == 1
    found = {one.name: one.failed for one in records.ended("equal")}
    assert found == {"A one": "", "A two": CUT}
    records, left = run(tmp_path, [child(tmp_path, "time.sleep(600)", patience=2)])
    assert "hangs" in {one.name: one.failed for one in records.ended("equal")}["A two"], "so does what is tried again"
    records.path.unlink()
    records, left = run(tmp_path, [child(tmp_path, "time.sleep(600)")], seconds=3)
    records, left = run(tmp_path, [child(tmp_path, "pass")])
    found = {one.name: one.failed for one in records.ended("equal")}
    assert not left and found == {"A one": "", "A two": "", "A three": ""}, "going on tries it again"


def test_a_process_that_cannot_start_is_not_begun_for_ever(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise ImportError('no such thing')", "it"]
    broken = gpu_children.Child("equal", command, lambda name: name.endswith(" it"), 30, tmp_path / "log")
    records, left = run(tmp_path, [broken])
    assert not left and broken.starts == 1
    assert ["no such thing" in one.failed for one in records.ended("equal")] == [True]


def test_commands_are_judged_and_ended(tmp_path: Path) -> None:
    def verdict(status: int, printed: str) -> tuple[str, str]:
        return printed.strip(), "" if status == 0 else f"status {status}"

    records = Records(tmp_path / "r.jsonl")
    commands = [
        gpu_children.Command("good", [sys.executable, "-c", "print('fine')"], verdict),
        gpu_children.Command("bad", [sys.executable, "-c", "import os; os.abort()"], verdict),
        gpu_children.Command("slow", [sys.executable, "-c", "import time; time.sleep(600)"], verdict, limit=1),
    ]
    log = tmp_path / "it.log"
    again = gpu_children.run_commands(
        records, "suite", commands, log=log, at_once=3, until=time.monotonic() + 60, told=lambda: None
    )
    assert [one.name for one in again] == ["slow"]
    found = {one.name: one for one in records.ended("suite")}
    assert found["good"].note == "fine" and not found["good"].failed
    assert "SIGABRT" in found["bad"].failed and "ended after" in found["slow"].failed


def test_a_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    records = Records(tmp_path / "r.jsonl")
    records.add(Record("equal", "A", note="equal"))
    with records.path.open("a") as file:
        file.write('{"part": "equal", "na')
    assert [one.name for one in records.all()] == ["A"]


@pytest.mark.parametrize(
    ("found", "truth", "expected"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0),
        ([1.0, np.nan], [1.0, 2.0], np.inf),
        ([1.0, 2.0], [1.0, np.nan], np.inf),
        ([np.nan, 2.0], [np.nan, 4.0], 0.5),
        ([np.inf, 2.0], [1.0, 2.0], np.inf),
        ([np.inf, 2.0], [np.inf, 2.0], 0.0),
        ([], [], 0.0),
    ],
)
def test_no_number_passes_for_one(found: list[float], truth: list[float], expected: float) -> None:
    """NaN's compare as neither larger nor smaller: whoever takes the largest difference must not lose them."""
    assert gpu_verdict.apart([np.array(found, np.float32)], [np.array(truth, np.float32)]) == expected


def test_other_shapes_are_no_verdict() -> None:
    with pytest.raises(ValueError, match=r"float32\[2\] is not float32\[1\]"):
        gpu_verdict.apart([np.zeros(2, np.float32)], [np.zeros(1, np.float32)])


def test_targets_need_every_case_and_a_measured_peak() -> None:
    peaks = {"int8": 1e15, "copy": 4e12}
    one = {"target": "Int8Gemm", "label": "4096³", "operations": 6.1e11, "seconds": 1e-3}
    assert judged("Int8Gemm", [one], peaks)[1] is True
    assert judged("Int8Gemm", [{**one, "operations": 5.9e11}], peaks)[1] is False
    assert judged("Int8Gemm", [one], {})[1] is None
    assert judged("Int8Gemm", [], peaks)[1] is None
    layers = [{"target": "Int8Conv", "label": str(at), "float16": at, "seconds": 1.0} for at in (1.6, 1.4)]
    assert judged("Int8Conv", layers[:1], {})[1] is True
    assert judged("Int8Conv", layers, {})[1] is False
    assert judged("Int8Conv", [layers[0], {"target": "Int8Conv", "label": "x", "seconds": 1.0}], {})[1] is None


def test_cases_name_every_target_and_no_other() -> None:
    from tests.bench.ops.gpu_cases import cases

    every = cases(False)
    assert {case.target for case in every} == {"", *TARGETS}
    names = [f"{case.op} {case.label}" for case in every]
    assert len(names) == len(set(names)), "a name is what a case goes by in the records"
    assert sum(case.target == "Int8Conv" for case in every) == 5


def test_the_page_says_what_is_not_met_and_what_was_skipped(tmp_path: Path) -> None:
    records = Records(tmp_path / "r.jsonl")
    records.add(Record("start", "Conv, float32", note="equal"))
    records.add(Record("equal", "Int8Gemm 4096³", failed="DIFFERS: 1 of the largest", numbers={"op": "Int8Gemm"}))
    records.add(Record("targets", "peak int8", numbers={"int8": 1e15}))
    numbers = {"op": "Int8Gemm", "label": "4096³", "seconds": 1e-3, "operations": 1e11, "moved": 1e6, "peak": "int8"}
    records.add(Record("targets", "Int8Gemm 4096³", numbers={**numbers, "target": "Int8Gemm"}))
    text = gpu_report.page(records, [], {"suite": "12 s were left"})
    assert "| Int8Gemm at 4096³: 60 % of the int8 peak or more | **not met** | 0.10 (4096³), but not all" in text
    assert "| Equal to the CPU | 1 FAILED | 0 of 1 |" in text
    assert "**Not all was run: 12 s were left.**" in text
    assert text.count("**met**") == 0 and text.count("| not measured |") == 3
    assert "1 failed\n* equal: Int8Gemm 4096³: DIFFERS" in text


def test_without_a_device_it_says_so_at_once_and_writes_nothing(tmp_path: Path) -> None:
    if not gpu_needs.device():
        pytest.skip("there is a CUDA device")
    page = tmp_path / "page.md"
    command = [sys.executable, "-m", "tests.bench.ops.gpu", "--write", str(page)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "there is no CUDA device" in done.stderr
    assert not page.exists()


def test_what_it_needs_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    bounds = gpu_needs.lower_bounds()
    assert {"onnx_ir", "onnx_shape_inference", "numpy", "onnxruntime"} <= set(bounds)
    monkeypatch.setattr(gpu_needs, "MODULES", {"graphopt_no_such": "no-such-package", "onnx_ir": "onnx_ir"})
    monkeypatch.setattr(gpu_needs, "lower_bounds", lambda: {"onnx_ir": "99.0"})
    first, second = gpu_needs.missing(cuda=False)
    assert "pip install 'no-such-package'" in first and "pip install 'onnx_ir>=99.0'" in second


def test_a_bundle_of_other_sources_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    about = tmp_path / "about.json"
    assert "is no bundle" in gpu_bundle.enter(tmp_path)[0]
    about.write_text(json.dumps({"sources": "other"}))
    assert "older than the sources" in gpu_bundle.enter(tmp_path)[0]
    monkeypatch.setenv("PYTHONPATH", "before")
    monkeypatch.setenv("GRAPHOPT_OPS_LIBRARY", "before")
    about.write_text(json.dumps({"sources": gpu_bundle.sources()}))
    assert gpu_bundle.enter(tmp_path) == []
    assert (ROOT / "runtime_ops").is_dir() and gpu_bundle.travels(tmp_path) > 1_000_000


def test_only_the_standard_library_is_needed_to_say_what_is_missing() -> None:
    program = "import sys; import tests.bench.ops.gpu; print(sorted({'numpy', 'onnx', 'graphopt'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-S", "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )  # fmt: skip
    assert done.stdout.strip() == "[]"


def test_what_is_behind_a_sum_of_floats_is_not_asked_to_be_equal_bit_by_bit() -> None:
    """Integers in front of the mean are, those behind it and the result are not; weights count as exact."""
    from tests.bench.ops import gpu_network

    text = """<ir_version: 10, opset_import: ["": 18, "graphopt": 1]>
    it (float[2,1] x) => (float[2,1] y)
    <float s = {0.5}, float t = {0.25}, int8 z = {0}, int8[1,1] w = {3}, float[1] scale = {0.5}, int32[1] bias = {4}> {
        a = QuantizeLinear (x, s, z)
        b = graphopt.Int8Gemm (a, w, scale, bias)
        f = DequantizeLinear (b, s, z)
        c = QuantizeLinear (f, t, z)
        n = ReduceMean (f)
        d = QuantizeLinear (n, s, z)
        y = DequantizeLinear (d, t, z)
    }"""
    graph = ir.from_onnx_text(text)
    for node in graph.graph:
        if node.op_type in ("QuantizeLinear", "Int8Gemm"):
            node.outputs[0].dtype = ir.DataType.INT8
    assert [value.name for value in gpu_network.exact_values(graph)] == ["a", "b", "c"]
    assert gpu_network.final_step(graph) == 0.25
