"""One part of ``make gpu-check`` in a process of its own: ``python -m tests.bench.ops.gpu_step PART RECORDS ...``.

A kernel that reads where it must not ends every CUDA call of its process: what comes after it needs a new one. So the
parts append what they find to a file at once, leave out what stands there, and end where the device no longer answers;
``gpu.py`` starts them again. The exit status is then ``AGAIN``.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

try:  # it loads cuBLAS, cuDNN, cuSPARSELt and the CUDA runtime, which onnxruntime needs and may not find by itself
    import torch
except ImportError:
    torch = None

import numpy as np
import onnx_ir as ir
from onnx import helper

from graphopt import runtime_ops
from tests.bench.ops import gpu_network, gpu_run, gpu_verdict
from tests.bench.ops.gpu_case import Case, stock
from tests.bench.ops.gpu_cases import cases
from tests.bench.ops.gpu_records import Record, Records, short
from tests.runtime_ops.running import ops_model

AGAIN = 75

TILES = ("64x64", "128x128", "wgmma 128x64", "wgmma 128x128", "wgmma 128x256", "pairs 128x256")
"""``TileShape`` of int8_cuda.h: what GRAPHOPT_INT8_TILE chooses."""


class Part:
    """A part that is being run."""

    def __init__(self, part: str, records: Records, provider: str) -> None:
        self.part, self.records, self.provider = part, records, provider
        self.known = records.known(part) | set(records.open(part))  # what was begun and never ended is not tried twice

    def tries(self, name: str, work: Callable[[], tuple[dict[str, Any], str, str]]) -> None:
        """Do something unless it was done, and note numbers, words, and what failed.

        Where the device does not answer afterwards, the process ends.
        """
        if name in self.known:
            return
        self.known.add(name)
        self.records.add(Record(self.part, name, begun=True))
        try:
            numbers, note, failed = work()
        except Exception as error:
            numbers, note, failed = {}, "", short(error)
        lost = self.provider == "cuda" and lost_device()
        failed = "; ".join(filter(None, [failed, lost]))
        self.records.add(Record(self.part, name, numbers=numbers, note=note, failed=failed))
        gc.collect()
        if lost:
            leave(AGAIN)


def lost_device() -> str:
    """What the device says where it no longer works; nothing where it does."""
    if torch is None or not torch.cuda.is_available():
        return ""
    try:
        torch.cuda.synchronize()
        torch.zeros(1, device="cuda").add_(1).item()
    except RuntimeError as error:
        return f"the device is lost: {short(str(error).splitlines()[0])}"
    return ""


def leave(status: int) -> None:
    """End at once: destructors of a lost device raise, or wait for it."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


# --- start -----------------------------------------------------------------------------------------------------------


def start(part: Part) -> None:
    """What is here; then standard operators on the device against the CPU's."""
    for line in gpu_run.about():
        part.tries(f"about {line.split(':')[0].split(' ')[0]}", lambda line=line: ({}, line, ""))
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
    for name, (made, x, weights) in table.items():
        for kind in (np.int8,) if x.dtype == np.int8 else (np.float32, np.float16):
            cast = {one: array.astype(kind) if array.dtype == np.float32 else array for one, array in weights.items()}
            part.tries(
                f"{name}, {np.dtype(kind).name}",
                lambda made=made, x=x, kind=kind, cast=cast: standard(part, made, x.astype(kind), cast),
            )


def standard(part: Part, node: Any, x: np.ndarray, weights: dict[str, np.ndarray]) -> tuple[dict[str, Any], str, str]:
    """Compare one standard operator."""
    feeds = {"x": x}
    model = stock([node], feeds, weights)[0].SerializeToString()
    found = gpu_run.Session(model, feeds, part.provider).run()
    truth = gpu_run.Session(model, feeds, "cpu").run()
    text, close = gpu_verdict.said(gpu_verdict.apart(found, truth), 3e-2 if x.dtype == np.float16 else 1e-3)
    return {}, text, "" if close else text


# --- equal -----------------------------------------------------------------------------------------------------------


def built(case: Case) -> tuple[bytes, dict[str, np.ndarray]]:
    """The model of one node, serialized, and what it is fed."""
    arrays = case.make(np.random.default_rng(7))
    model = ops_model(case.op, arrays, case.settings(), constants=case.constants, outputs=case.outputs)
    return ir.to_proto(model).SerializeToString(), arrays


def equal(part: Part, chosen: list[Case]) -> None:
    """Every operator on the device against its CPU kernel; what is small first."""
    for case in sorted(chosen, key=lambda one: not one.small):
        part.tries(f"{case.op} {case.label}", lambda case=case: compared(part, case))


def compared(part: Part, case: Case) -> tuple[dict[str, Any], str, str]:
    """Compare a case, plain and, in the CUDA provider, as a CUDA graph."""
    model, arrays = built(case)
    truth = gpu_run.Session(model, arrays, "cpu").run()
    session = gpu_run.Session(model, arrays, part.provider)
    text, close = gpu_verdict.said(gpu_verdict.apart(session.run(), truth), case.rtol)
    failed, captured = "" if close else text, "-"
    if part.provider == "cuda":
        del session
        try:
            captured, close = gpu_verdict.said(replayed(model, arrays, truth), case.rtol)
            if not close:
                failed = f"{failed} captured: {captured}".strip()
        except Exception as error:
            captured = "FAILS"
            failed = f"{failed} captured: {short(error)}".strip()
    numbers = {"op": case.op, "label": case.label, "captured": captured}
    if case.op == "SparseGemm24" and part.provider == "cuda":
        numbers["by"] = runtime_ops.sparse24()
    return numbers, text, failed


def replayed(model: bytes, arrays: dict[str, np.ndarray], truth: list[np.ndarray]) -> float:
    """The second and third run replay what the first one captured; their outputs begin as garbage."""
    session = gpu_run.Session(model, arrays, captured=truth)
    session.run()
    session.spoil()
    session.run()
    session.spoil()
    return gpu_verdict.apart(session.run(), truth)


# --- network ---------------------------------------------------------------------------------------------------------


def network(part: Part, bundle: Path | None) -> None:
    """Optimized, quantized residual networks on the device against the CPU."""
    for name in gpu_network.NAMES:
        part.tries(name, lambda name=name: gpu_network.compare(name, part.provider, bundle))


# --- times -----------------------------------------------------------------------------------------------------------


def targets(part: Part, chosen: list[Case]) -> None:
    """The peaks of this device, and what the targets are about; every shape of an int8 tile."""
    if part.provider == "cuda":
        for name, measure in gpu_run.PEAKS.items():
            part.tries(f"peak {name}", lambda name=name, measure=measure: ({name: measure()}, "", ""))
    for case in chosen:
        if not case.target:
            continue
        kept: dict[str, float] = {}
        part.tries(f"{case.op} {case.label}", lambda case=case, kept=kept: timed(case, part.provider, kept))
        if case.op.startswith("Int8") and part.provider == "cuda":
            for tile, shape in enumerate(TILES):
                part.tries(
                    f"tile {tile}: {case.op} {case.label}",
                    lambda case=case, tile=tile, of=shape: varied(case, {"GRAPHOPT_INT8_TILE": str(tile)}, of),
                )
        if case.op == "SparseGemm24" and part.provider == "cuda":
            part.tries(
                f"search: {case.op} {case.label}",
                lambda case=case: varied(
                    case, {"GRAPHOPT_SPARSE24_SEARCH": "1"}, "the fastest of cuSPARSELt's kernels"
                ),
            )


def varied(case: Case, environment: dict[str, str], shape: str) -> tuple[dict[str, Any], str, str]:
    """One case with one shape of a tile, say: right, and how fast."""
    model, arrays = built(case)
    truth = gpu_run.Session(model, arrays, "cpu").run()
    os.environ.update(environment)
    try:
        session = gpu_run.Session(model, arrays, "cuda")
        text, close = gpu_verdict.said(gpu_verdict.apart(session.run(), truth), case.rtol)
        seconds = session.seconds()
    finally:
        for name in environment:
            del os.environ[name]
    numbers = {"op": case.op, "label": case.label, "tile": shape, "seconds": seconds, "operations": case.operations}
    return numbers, text, "" if close else text


def times(part: Part, chosen: list[Case]) -> None:
    """Time every case beside stock onnxruntime; one shape of each operator before the second of any."""
    x = np.ones(1, np.float32)
    nothing = stock([helper.make_node("Relu", ["x"], ["y"])], {"x": x}, {})[0].SerializeToString()
    part.tries(
        "a Relu of one number",
        lambda: ({"seconds": gpu_run.Session(nothing, {"x": x}, part.provider).seconds()}, "", ""),
    )
    kept: dict[str, float] = {}
    for case in in_turns(chosen):
        part.tries(f"{case.op} {case.label}", lambda case=case: timed(case, part.provider, kept))


def in_turns(chosen: list[Case]) -> Iterator[Case]:
    """The first case of every operator, the second, and so on."""
    by_operator: dict[str, list[Case]] = {}
    for case in chosen:
        by_operator.setdefault(case.op, []).append(case)
    for turn in itertools.zip_longest(*by_operator.values()):
        yield from (case for case in turn if case is not None)


def timed(case: Case, provider: str, kept: dict[str, float]) -> tuple[dict[str, Any], str, str]:
    """Time a case, and stock onnxruntime on the same shape; stock's times are kept for cases of one shape."""
    model, arrays = built(case)
    seconds = gpu_run.Session(model, arrays, provider, exact=False).seconds()
    numbers: dict[str, Any] = {
        "op": case.op, "label": case.label, "seconds": seconds, "operations": case.operations, "moved": case.moved,
        "peak": case.peak, "target": case.target,
    }  # fmt: skip
    notes = []
    for kind in (np.float16, np.float32):
        if case.stock is None:
            continue
        key = f"{case.stock} {kind}"
        if key not in kept:
            try:
                kept[key] = stock_seconds(case, kind, provider)
            except Exception as error:
                kept[key] = math.nan
                notes.append(f"stock onnxruntime in {np.dtype(kind).name}: {short(error)}")
        if not math.isnan(kept[key]):
            numbers[np.dtype(kind).name] = kept[key]
    return numbers, "; ".join(notes), ""


def stock_seconds(case: Case, kind: type, provider: str) -> float:
    """Seconds of standard operators on the same shape, in the layout that is faster here."""
    assert case.stock is not None
    model, feeds = case.stock(kind)
    found = []
    for channels_last in (False, True) if provider == "cuda" and "Conv" in case.op else (False,):
        try:
            session = gpu_run.Session(
                model.SerializeToString(), feeds, provider, exact=False, channels_last=channels_last
            )
            found.append(session.seconds())
        except Exception:
            if not channels_last:  # the other layout is an extra that not every build has
                raise
    return min(found)


# --- all -------------------------------------------------------------------------------------------------------------


def main(arguments: list[str]) -> None:
    """Run one part."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.ops.gpu_step")
    parser.add_argument("part", choices=("start", "equal", "network", "targets", "times"))
    parser.add_argument("records", type=Path)
    parser.add_argument("--provider", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--operator", default="", help="this one alone")
    parser.add_argument("--only", default="", help="cases whose operator and shape contain this")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--bundle", type=Path)
    asked = parser.parse_args(arguments)
    begun = time.perf_counter()
    part = Part(asked.part, Records(asked.records), asked.provider)
    there = {name for name, provider, _ in runtime_ops.kernels() if provider == asked.provider}
    chosen = [case for case in cases(asked.small) if asked.only in f"{case.op} {case.label}" and case.op in there]
    if asked.operator:
        chosen = [case for case in chosen if case.op == asked.operator]
    if asked.part == "start":
        start(part)
    elif asked.part == "equal":
        equal(part, chosen)
    elif asked.part == "network":
        network(part, asked.bundle)
    elif asked.part == "targets":
        targets(part, chosen)
    else:
        times(part, [case for case in chosen if not case.small or asked.small])
    print(f"{asked.part} {asked.operator}: {time.perf_counter() - begun:.1f} s", flush=True)
    leave(0)


if __name__ == "__main__":
    main(sys.argv[1:])
