"""The check of the runtime operators on a machine with a GPU: ``make gpu-check``.

usage: python -m tests.bench.ops.gpu [--write FILE] [--provider cpu] [--only TEXT] [--small] [--equal] [--suite]
                                     [--sanitize]

1. Does onnxruntime's CUDA provider run at all? A few standard operators against the CPU.
2. Every runtime operator in the CUDA provider against its CPU kernel, bit by bit or within its tolerance, plain and as
   a CUDA graph that is captured and replayed.
3. A residual network, optimized and quantized with these operators, against the CPU.
4. A table: time, bandwidth or operations a second, share of what this device was measured to do at most, and stock
   onnxruntime's CUDA provider in float16 and float32 on the same shapes.

``--only`` takes operators and shapes whose names contain a text, ``--small`` only small shapes; ``--equal`` leaves the
table out. ``--suite`` runs the operators' tests too, with every model that has kernels in the CUDA provider;
``--sanitize`` runs the small shapes under compute-sanitizer's memcheck, racecheck and synccheck. ``--provider cpu``
tries this script where there is no GPU.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

try:  # it loads cuBLAS, cuDNN and the CUDA runtime, which onnxruntime needs and may not find by itself
    import torch  # noqa: F401
except ImportError:
    print("torch is not here: onnxruntime has to find the CUDA libraries by itself")

import numpy as np
import onnx_ir as ir
from onnx import helper

from graphopt import runtime_ops
from tests.bench.ops import gpu_run
from tests.bench.ops.gpu_case import Case, stock
from tests.bench.ops.gpu_cases import cases
from tests.bench.table import head, row
from tests.runtime_ops.running import ops_model

TOOLS = ("memcheck", "racecheck", "synccheck")


class Report:
    """Prints, and keeps what was printed."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.failed: list[str] = []

    def __call__(self, line: str = "") -> None:
        print(line, flush=True)
        self.lines.append(line)

    def fails(self, what: str, error: BaseException | str) -> str:
        """Note a failure, and return it in one short line."""
        self.failed.append(what)
        return " ".join(str(error).split())[:160].replace("|", "/") or type(error).__name__


# --- 1: stock --------------------------------------------------------------------------------------------------------


def provider_runs(report: Report, provider: str) -> bool:
    """Compare standard operators on the device with the CPU's; return whether any ran."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, np.float32)

    image, bytes_ = normal(2, 64, 28, 28), rng.integers(-9, 9, (64, 64)).astype(np.int8)
    node = helper.make_node
    kept = np.sort(rng.permutation(64)[:16])
    table: dict[str, tuple[Any, ...]] = {
        "Conv": (node("Conv", ["x", "w"], ["y"], pads=[1] * 4), image, {"w": normal(64, 64, 3, 3) * np.float32(0.05)}),
        "MatMul": (node("MatMul", ["x", "w"], ["y"]), image[0, 0], {"w": normal(28, 32)}),
        "Gather": (node("Gather", ["x", "i"], ["y"], axis=1), image, {"i": kept}),
        "ScatterND": (node("ScatterND", ["x", "i", "u"], ["y"]), image, {"i": np.array([[0]]), "u": image[1:2]}),
        "Softmax": (node("Softmax", ["x"], ["y"]), image, {}),
        "LayerNormalization": (
            node("LayerNormalization", ["x", "s", "b"], ["y"]), image, {"s": normal(28), "b": normal(28)}
        ),
        "MatMulInteger": (node("MatMulInteger", ["x", "w"], ["y"]), bytes_, {"w": bytes_.T.copy()}),
    }  # fmt: skip
    report(head(["standard operator", "type", "CUDA against CPU"]))
    ran = False
    for name, (made, x, weights) in table.items():
        kinds = (np.int8,) if x.dtype == np.int8 else (np.float32, np.float16)
        for kind in kinds:
            cast = {one: array.astype(kind) if array.dtype == np.float32 else array for one, array in weights.items()}
            feeds = {"x": x.astype(kind)}
            model = stock([made], feeds, cast)[0].SerializeToString()
            try:
                found = gpu_run.Session(model, feeds, provider).run()[0].astype(np.float64)
                truth = gpu_run.Session(model, feeds, "cpu").run()[0].astype(np.float64)
                worst = float(np.abs(found - truth).max())
                close = worst <= (3e-2 if kind is np.float16 else 1e-3) * max(1.0, float(np.abs(truth).max()))
                said, ran = f"{'ok' if close else 'DIFFERS'}, at most {worst:.2g}", True
                if not close:
                    report.fails(f"standard {name}", said)
            except Exception as error:
                said = "FAILS: " + report.fails(f"standard {name}", error)
            report(row([name, np.dtype(kind).name, said]))
    return ran


# --- 2: equal --------------------------------------------------------------------------------------------------------


def built(case: Case) -> tuple[bytes, dict[str, np.ndarray]]:
    """The model of one node, serialized, and what it is fed."""
    arrays = case.make(np.random.default_rng(7))
    model = ops_model(case.op, arrays, case.settings(), constants=case.constants, outputs=case.outputs)
    return ir.to_proto(model).SerializeToString(), arrays


def equal(report: Report, chosen: list[Case], provider: str) -> None:
    """Every operator on the device against its CPU kernel."""
    report(head(["operator", "shape", "against the CPU kernel", "captured as a CUDA graph"]))
    for case in chosen:
        said, graph = "", "-"
        try:
            model, arrays = built(case)
            truth = gpu_run.Session(model, arrays, "cpu").run()
            said = verdict(report, case, gpu_run.Session(model, arrays, provider).run(), truth)
            if provider == "cuda":
                graph = captured(report, case, model, arrays, truth)
        except Exception as error:
            said = "FAILS: " + report.fails(f"{case.op} {case.label}", error)
        report(row([case.op, case.label, said, graph]))
        gc.collect()


def captured(report: Report, case: Case, model: bytes, arrays: dict[str, np.ndarray], truth: list[np.ndarray]) -> str:
    """The second and third run replay what the first one captured."""
    try:
        session = gpu_run.Session(model, arrays, captured=truth)
        session.run()
        session.run()
        return verdict(report, case, session.run(), truth)
    except Exception as error:
        return "FAILS: " + report.fails(f"{case.op} {case.label}, captured", error)


def verdict(report: Report, case: Case, found: list[np.ndarray], truth: list[np.ndarray]) -> str:
    """``equal``, or how far apart."""
    worst = 0.0
    for one, other in zip(found, truth, strict=True):
        if one.shape != other.shape or one.dtype != other.dtype:
            what = f"{one.dtype}{list(one.shape)} is not {other.dtype}{list(other.shape)}"
            return "DIFFERS: " + report.fails(f"{case.op} {case.label}", what)
        if np.array_equal(one, other, equal_nan=one.dtype.kind == "f"):
            continue
        wide, right = one.astype(np.float64), other.astype(np.float64)
        worst = max(worst, float(np.abs(wide - right).max()) / max(float(np.abs(right).max()), 1e-30))
    if worst == 0:
        return "equal"
    said = f"{worst:.2g} of the largest"
    return said if worst <= case.rtol else "DIFFERS: " + report.fails(f"{case.op} {case.label}", said)


# --- 3: together -----------------------------------------------------------------------------------------------------


def network(report: Report, provider: str) -> None:
    """A residual network, pruned, optimized and quantized with runtime operators: the device against the CPU."""
    from graphopt import runtime
    from tests.runtime_ops.test_together import called, images, result

    model = result().model
    report(f"* calls {', '.join(sorted(called(model)))}")
    sessions = [runtime.session(model, provider=one, threads=4) for one in ("cpu", provider)]
    for rows in (1, 5, 32):
        right, found = (np.asarray(runtime.run(one, {"x": images(rows, 7)})[0]) for one in sessions)
        worst = float(np.abs(right.astype(np.float64) - found).max())
        close = worst <= 1e-4 * max(1.0, float(np.abs(right).max()))
        said = "equal" if worst == 0 else f"at most {worst:.2g} apart"
        report(f"* batch {rows}: {said if close else 'DIFFERS, ' + report.fails(f'network, batch {rows}', said)}")


# --- 4: fast ---------------------------------------------------------------------------------------------------------


def fast(report: Report, chosen: list[Case], provider: str, most: dict[str, float]) -> None:
    """Time every case, and stock onnxruntime on the same shape."""
    for name, unit in (("copy", "GB/s"), ("float16", "TFLOP/s"), ("int8", "TOP/s")):
        if name in most:
            report(f"* measured peak, {name}: {most[name] / (1e9 if name == 'copy' else 1e12):,.0f} {unit}")
    x = np.ones(1, np.float32)
    nothing = stock([helper.make_node("Relu", ["x"], ["y"])], {"x": x}, {})[0].SerializeToString()
    least = gpu_run.Session(nothing, {"x": x}, provider).seconds()
    report(
        f"* a model with a Relu of one number: {least * 1e6:.1f} µs; so much of every time below is onnxruntime's call"
    )
    report()
    report(head(["operator", "shape", "µs", "TOP/s", "GB/s", "of the peak", "stock float16 µs", "stock float32 µs",
                 "faster than float16"]))  # fmt: skip
    kept: dict[str, float] = {}
    for case in chosen:
        try:
            model, arrays = built(case)
            seconds = gpu_run.Session(model, arrays, provider, exact=False).seconds()
        except Exception as error:
            report(row([case.op, case.label, "FAILS: " + report.fails(f"time of {case.op} {case.label}", error)]))
            continue
        others = [stock_seconds(case, kind, provider, kept) for kind in (np.float16, np.float32)]
        rate = (case.operations if case.peak != "copy" else case.moved) / seconds
        report(row([
            case.op, case.label, seconds * 1e6,
            case.operations / seconds / 1e12 if case.operations else "",
            case.moved / seconds / 1e9 if case.moved else "",
            f"{100 * rate / most[case.peak]:.0f} %" if case.peak in most else "",
            *(other * 1e6 if not math.isnan(other) else "" for other in others),
            "" if math.isnan(others[0]) else f"{others[0] / seconds:.2f}x",
        ]))  # fmt: skip
        gc.collect()


def stock_seconds(case: Case, kind: type, provider: str, kept: dict[str, float]) -> float:
    """Seconds of standard operators on the same shape; the same for cases of one shape."""
    if case.stock is None:
        return math.nan
    key = f"{case.stock} {kind}"
    if key not in kept:
        try:
            model, feeds = case.stock(kind)
            kept[key] = gpu_run.Session(model.SerializeToString(), feeds, provider, exact=False).seconds()
        except Exception as error:
            print(f"stock onnxruntime fails: {error}")
            kept[key] = math.nan
    return kept[key]


def sanitized(report: Report) -> None:
    """Run the small shapes under every tool of compute-sanitizer."""
    program = shutil.which("compute-sanitizer")
    report(head(["compute-sanitizer", "verdict"]))
    for tool in TOOLS:
        if program is None:
            report(row([tool, "compute-sanitizer is not on the PATH"]))
            continue
        command = [program, "--tool", tool, "--error-exitcode", "9"]
        if tool == "memcheck":  # of what other libraries probe for, nothing is to be heard
            command += ["--report-api-errors", "no"]
        done = subprocess.run(
            [*command, sys.executable, "-m", __spec__.name, "--equal", "--small", "--no-stock"],
            capture_output=True, text=True, check=False, env=dict(os.environ),
        )  # fmt: skip
        lines = [line for line in done.stdout.splitlines() + done.stderr.splitlines() if line.startswith("=========")]
        clean = done.returncode == 0
        said = "clean" if clean else report.fails(tool, lines[0] if lines else f"exit {done.returncode}")
        report(row([tool, f"{said}; {lines[-1].strip('= ') if lines else ''}"]))
        if not clean:
            print("\n".join(lines[:60]) or done.stderr[-3000:])


def suite(report: Report) -> None:
    """Run the operators' tests with sessions in the CUDA provider."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/runtime_ops"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "GRAPHOPT_TEST_PROVIDER": "cuda"}
    )
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    for line in (*failed, (done.stdout.splitlines() or ["nothing was said"])[-1]):
        report(f"* {line[:200]}")
    if done.returncode:
        report.fails("the test suite in the CUDA provider", f"exit {done.returncode}")
        print(done.stdout[-20000:], done.stderr[-3000:])


# --- all -------------------------------------------------------------------------------------------------------------


def main(arguments: list[str]) -> int:
    """Run what was asked for; return how many failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.ops.gpu")
    parser.add_argument("--write", type=Path)
    parser.add_argument("--provider", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--only", default="")
    for flag in ("--equal", "--small", "--sanitize", "--suite", "--no-stock"):
        parser.add_argument(flag, action="store_true")
    asked = parser.parse_args(arguments)
    report = Report()
    report("# Runtime operators on a GPU\n")
    report(f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC, `make gpu-check`\n")
    for line in gpu_run.about():
        report(f"* {line}")
    if runtime_ops.library() is None:
        report("\nThe native library is not here: GRAPHOPT_OPS_LIBRARY names it.")
        return 1
    kernels = sorted({name for name, provider, _ in runtime_ops.kernels() if provider == asked.provider})
    report(f"* kernels for {asked.provider}: {', '.join(kernels) or 'none'}\n")
    chosen = [case for case in cases(asked.small) if asked.only in f"{case.op} {case.label}"]
    chosen = [case for case in chosen if case.op in kernels]

    def part(title: str, work: Callable[[], object]) -> object:
        report(f"## {title}\n")
        try:
            return work()
        except Exception as error:
            report("FAILS: " + report.fails(title, error))
            return None
        finally:
            report()

    if not asked.no_stock and not part("Does onnxruntime run here?", lambda: provider_runs(report, asked.provider)):
        report("onnxruntime's CUDA provider does not run here; nothing else was tried.")
    else:
        part("Equal to the CPU", lambda: equal(report, chosen, asked.provider))
        if not asked.only and not asked.no_stock:
            part("A whole network", lambda: network(report, asked.provider))
        if asked.suite:
            part("The tests, in the CUDA provider", lambda: suite(report))
        if asked.sanitize:
            part("compute-sanitizer", lambda: sanitized(report))
        if not asked.equal:
            most = gpu_run.peaks() if asked.provider == "cuda" else {}
            large = [case for case in chosen if not case.small or asked.small]
            part("Times", lambda: fast(report, large, asked.provider, most))
    report(f"{len(report.failed)} failed" + "".join(f"\n* {one}" for one in report.failed))
    if asked.write is not None:
        asked.write.parent.mkdir(parents=True, exist_ok=True)
        asked.write.write_text("\n".join(report.lines) + "\n", encoding="utf-8")
    return min(len(report.failed), 100)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
