"""The hand-written part of onnxruntime's C interface: each slot where the official headers have it.

``ONNXRUNTIME_INCLUDE`` names the folder of ``onnxruntime_c_api.h``; without it the places are tried where packages of
Linux distributions put it. Without headers only the arithmetic of this test is tested.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEADER = ROOT / "runtime_ops" / "core" / "ort_abi.h"

POINTER = 8

ENUMERATORS = {
    "kOrtOk": "ORT_OK",
    "kOrtFail": "ORT_FAIL",
    "kOrtInvalidArgument": "ORT_INVALID_ARGUMENT",
    "kOrtRuntimeException": "ORT_RUNTIME_EXCEPTION",
    "kUndefined": "ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED",
    "kFloat": "ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT",
    "kUint8": "ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8",
    "kInt8": "ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8",
    "kUint16": "ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16",
    "kInt16": "ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16",
    "kInt32": "ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32",
    "kInt64": "ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64",
    "kString": "ONNX_TENSOR_ELEMENT_DATA_TYPE_STRING",
    "kBool": "ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL",
    "kFloat16": "ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16",
    "kDouble": "ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE",
    "kUint32": "ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT32",
    "kUint64": "ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT64",
    "kBfloat16": "ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16",
    "kRequired": "INPUT_OUTPUT_REQUIRED",
    "kOptional": "INPUT_OUTPUT_OPTIONAL",
    "kVariadic": "INPUT_OUTPUT_VARIADIC",
    "kMemCpuInput": "OrtMemTypeCPUInput",
    "kMemCpuOutput": "OrtMemTypeCPUOutput",
    "kMemDefault": "OrtMemTypeDefault",
    "kAttrInt": "ORT_OP_ATTR_INT",
    "kAttrInts": "ORT_OP_ATTR_INTS",
    "kAttrFloat": "ORT_OP_ATTR_FLOAT",
    "kAttrFloats": "ORT_OP_ATTR_FLOATS",
    "kAttrString": "ORT_OP_ATTR_STRING",
    "kDeviceAllocator": "OrtDeviceAllocator",
    "kArenaAllocator": "OrtArenaAllocator",
}


def slots(structure: str, text: str | None = None) -> dict[str, int]:
    """Name to offset in bytes of every member in use of a structure in ``ort_abi.h``; gaps are counted and left out."""
    text = HEADER.read_text(encoding="utf-8") if text is None else text
    body = re.sub(r"//[^\n]*", "", text.split(f"struct {structure} {{")[1].split("\n};")[0])
    found, offset = {}, 0
    for member in (one.strip() for one in body.split(";")):
        if gap := re.fullmatch(r"OrtSlot gap(\d+)(?:\[(\d+)\])?", member):
            assert int(gap[1]) * POINTER == offset, f"gap{gap[1]} of {structure} begins at slot {offset // POINTER}"
            offset += int(gap[2] or 1) * POINTER
        elif pointer := re.search(r"\(\*(\w+)\)\s*\(", member):
            found[pointer[1]] = offset
            offset += POINTER
        elif member:  # a number in front of pointers is as wide as one, padding included
            assert re.fullmatch(r"uint32_t \w+", member), member
            found[member.split()[-1]] = offset
            offset += POINTER
    return found


def enumerators() -> dict[str, int]:
    """Name to value of every enumerator in ``ort_abi.h``."""
    text = re.sub(r"//[^\n]*", "", HEADER.read_text(encoding="utf-8"))
    bodies = re.findall(r"enum \w+ : int32_t \{(.*?)\}", text, re.DOTALL)
    return {name: int(value) for body in bodies for name, value in re.findall(r"(k\w+) = (-?\d+)", body)}


def assertions(places: dict[str, dict[str, int]]) -> str:
    return "".join(
        f'static_assert(offsetof({structure}, {name}) == {offset}, "{structure}::{name}");\n'
        for structure, members in places.items()
        for name, offset in members.items()
    )


def compile_only(source: str, include: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    compiler = shutil.which(os.environ.get("CXX", "c++")) or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    path = folder / "offsets.cc"
    path.write_text("#include <cstddef>\n" + source, encoding="utf-8")
    command = [compiler, "-std=c++17", "-fsyntax-only", "-w", f"-I{include}", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def official() -> Path:
    """The folder of the official headers; skips where they are not at hand."""
    chosen = os.environ.get("ONNXRUNTIME_INCLUDE")
    places = [Path(chosen)] if chosen else [Path("/usr/include"), Path("/usr/local/include")]
    for place in places:
        for inner in ("", "onnxruntime", "onnxruntime/core/session", "core/session"):
            if (place / inner / "onnxruntime_c_api.h").is_file():
                return place / inner
    if chosen:
        pytest.fail(f"there is no onnxruntime_c_api.h in ONNXRUNTIME_INCLUDE={chosen}")
    pytest.skip("no onnxruntime headers here (Debian: libonnxruntime-dev): ONNXRUNTIME_INCLUDE names their folder")


OURS = {"OrtApi": slots("OrtApi"), "OrtCustomOp": slots("OrtCustomOp"), "OrtApiBase": slots("OrtApiBase")}


def test_offsets_are_read_as_a_compiler_reads_them(tmp_path: Path) -> None:
    done = compile_only('#include "ort_abi.h"\n' + assertions(OURS), HEADER.parent, tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_moved_slot_is_noticed(tmp_path: Path) -> None:
    moved = {"OrtApi": {**OURS["OrtApi"], "ReleaseStatus": OURS["OrtApi"]["ReleaseStatus"] + POINTER}}
    done = compile_only('#include "ort_abi.h"\n' + assertions(moved), HEADER.parent, tmp_path)
    assert done.returncode and "OrtApi::ReleaseStatus" in done.stderr


def test_slots_are_counted() -> None:
    text = "struct T {\n  uint32_t version;\n"
    text += "  int (*First)(int a, int b);  // 1\n  OrtSlot gap2[3];\n  void (*Last)();\n};"
    assert slots("T", text) == {"version": 0, "First": 8, "Last": 40}
    assert OURS["OrtApi"]["KernelContext_ParallelFor"] == 274 * POINTER


def test_every_enumerator_has_its_official_name() -> None:
    assert not set(enumerators()) - set(ENUMERATORS)


def test_official_headers_agree(tmp_path: Path) -> None:
    include = official()
    values = "".join(
        f'static_assert(static_cast<int>({ENUMERATORS[name]}) == {value}, "{ENUMERATORS[name]}");\n'
        for name, value in enumerators().items()
    )
    source = '#include "onnxruntime_c_api.h"\n' + assertions(OURS) + values
    done = compile_only(source, include, tmp_path)
    assert done.returncode == 0, done.stderr
    size = re.search(r"sizeof\(OrtCustomOp\) == (\d+)", HEADER.read_text(encoding="utf-8"))
    assert size and int(size[1]) * POINTER >= max(OURS["OrtCustomOp"].values()) + POINTER
