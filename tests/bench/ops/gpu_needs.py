"""What ``make gpu-check`` needs, looked at in a second and before anything is compiled. Standard library alone.

``python -m tests.bench.ops.gpu_needs [--tests] [--library FILE]`` says it for the Python that runs it; exit status 1
where something is missing.
"""

from __future__ import annotations

import ctypes
import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]

MODULES = {
    "torch": "torch",
    "numpy": "numpy",
    "onnx": "onnx",
    "onnx_ir": "onnx_ir",
    "onnx_shape_inference": "onnx-shape-inference",
    "ml_dtypes": "ml_dtypes",
    "onnxruntime": "onnxruntime-gpu",
}
"""What is imported, and what one installs for it. torch comes first: it brings the CUDA libraries of onnxruntime."""

FOR_TESTS = {"pytest": "pytest", "hypothesis": "hypothesis"}
"""Beside these for ``--parts suite``."""


def missing(*, tests: bool = False, cuda: bool = True) -> list[str]:
    """Return what this Python lacks, a line each: what, and what to do."""
    least = lower_bounds()
    found = []
    for module, package in {**MODULES, **(FOR_TESTS if tests else {})}.items():
        wanted = least.get("onnxruntime" if package == "onnxruntime-gpu" else package.replace("-", "_"), "")
        try:
            loaded = importlib.import_module(module)
        except Exception as error:  # whatever a broken installation raises
            found.append(f"{module} cannot be imported ({error}): pip install '{package}{wanted and '>=' + wanted}'")
            continue
        version = str(getattr(loaded, "__version__", ""))
        if wanted and version and numbers(version) < numbers(wanted):
            found.append(f"{module} is {version} ({loaded.__file__}): pip install '{package}>={wanted}'")
        elif cuda and module == "onnxruntime" and "CUDAExecutionProvider" not in loaded.get_available_providers():
            found.append(
                f"onnxruntime {version} ({loaded.__file__}) has no CUDA provider: onnxruntime-gpu has; "
                "GPU_PYTHONPATH names the folder where it was unpacked"
            )
    return found


def lower_bounds() -> dict[str, str]:
    """The lowest version of each package that pyproject.toml asks for; names with underscores."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found = {}
    for wanted in project["dependencies"]:
        match = re.match(r"([\w.-]+)\s*>=\s*([\d.]+)", wanted)
        if match is not None:
            found[match[1].replace("-", "_")] = match[2]
    return found


def numbers(version: str) -> tuple[int, ...]:
    """``1.31.1+cu130`` as (1, 31, 1)."""
    return tuple(int(part) for part in re.findall(r"\d+", version.split("+")[0])[:3])


def device() -> str:
    """Return why there is no CUDA device; nothing where there is one. Asks the driver, and nothing else."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "there is no CUDA device: the driver (libcuda.so.1) is not on this machine"
    status = driver.cuInit(0)
    count = ctypes.c_int(0)
    if status == 0:
        status = driver.cuDeviceGetCount(ctypes.byref(count))
    if status != 0:
        text = ctypes.c_char_p()
        named = driver.cuGetErrorString(status, ctypes.byref(text)) == 0 and text.value is not None
        return f"there is no CUDA device: the driver says {text.value.decode() if named else f'error {status}'}"
    return "" if count.value else "there is no CUDA device: the driver counts none"


def library(path: str, provider: str = "cuda") -> str:
    """Return why a library of runtime operators cannot be used for a provider; nothing where it can."""
    if not path:
        return "no library of runtime operators was named: GRAPHOPT_OPS_LIBRARY does (make gpu-check builds one)"
    try:
        loaded = ctypes.CDLL(path)
        kernels = loaded.graphopt_kernels
    except (OSError, AttributeError) as error:
        return f"the library of runtime operators does not load: {error}"
    kernels.restype = ctypes.c_char_p
    if f" {provider} " not in (kernels() or b"").decode():
        return f"{path} holds no kernels for {provider}: build it with nvcc (make gpu-check does)"
    return ""


def ask(*, tests: bool, cuda: bool) -> list[str]:
    """The same as :func:`missing`, found by a process of its own, with the environment as it is now."""
    more = [flag for flag, wanted in (("--tests", tests), ("--cpu", not cuda)) if wanted]
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.ops.gpu_needs", "--quiet", *more],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    found = [line for line in done.stdout.splitlines() if line.strip()]
    if done.returncode not in (0, 1) or (done.returncode and not found):
        return [f"{sys.executable} fails: {(done.stderr.strip().splitlines() or ['nothing was said'])[-1]}"]
    return found if done.returncode else []


def main(arguments: list[str]) -> int:
    """Print what is missing; 1 if anything is."""
    found = missing(tests="--tests" in arguments, cuda="--cpu" not in arguments)
    quiet = "--quiet" in arguments
    if not quiet and (why := device()):
        found.append(why)
    if not quiet and "--library" in arguments:
        found += filter(None, [library(arguments[arguments.index("--library") + 1])])
    for line in found:
        print(line if quiet else f"gpu-check cannot run here: {line}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
