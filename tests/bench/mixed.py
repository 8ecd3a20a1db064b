"""Few bits and mixed precision: ``python -m tests.bench.mixed [rounding|targets] [--images N] [--nets NAME ...]``.

``rounding``: weights of 4 and 3 bits (in 8-bit storage, so that they run on integers), rounded to nearest, by ``gptq``,
and by ``gptq`` with ``bias-correction`` behind it: accuracy in points of 100, SQNR of the outputs in dB.

``targets``: what ``--target-sqnr`` returns to float, or to 8-bit weights, and what that costs: latencies are
onnxruntime's on one thread at batch 1, all models of a net taking turns; ratios to float.

Trained ResNets on CIFAR-10 test images, calibrated on the first 256 and judged on others, where they are beside the
repository; a MobileNetV2-like net with random weights on random inputs, which has an SQNR but no accuracy.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import onnx_ir as ir

import graphopt
from graphopt import runtime
from graphopt.errors import GraphoptError
from tests.bench.table import head, row
from tests.nets import cifar, resnet
from tests.nets.catalogue import DATA, FULL, trained
from tests.nets.exporting import plainly_exported, twin_model

NETS = ("resnet20", "resnet56", "mobilenet")
CALIBRATION = 256
TARGETS = {"int8": (25.0, 30.0, 35.0, 40.0), "levels16": (15.0, 20.0, 25.0, 30.0)}

_RECOVERY = {"nearest": "none", "gptq": "gptq", "gptq + bias": "gptq,bias-correction"}


@dataclass
class Subject:
    """A net with data to calibrate with and data to judge it by."""

    name: str
    model: ir.Model
    calibration: list[dict[str, np.ndarray]]
    judged: list[tuple[dict[str, np.ndarray], np.ndarray | None]]

    def judge(self, model: ir.Model) -> tuple[float | None, float]:
        """Return the accuracy in points, None where there are no labels, and the SQNR of the output in dB."""
        session, exact = runtime.session(model), runtime.session(self.model)
        hits = count = 0
        signal = noise = 0.0
        for feeds, labels in self.judged:
            (found,), (expected,) = runtime.run(session, feeds), runtime.run(exact, feeds)
            signal += float((expected.astype(np.float64) ** 2).sum())
            noise += float(((found.astype(np.float64) - expected) ** 2).sum())
            if labels is not None:
                hits += int((found.argmax(axis=1) == labels).sum())
                count += len(labels)
        return 100 * hits / count if count else None, 10 * np.log10(signal / noise) if noise else np.inf


def subjects(names: list[str], images: int) -> Iterator[Subject]:
    """Yield the nets that can be had here."""
    for name in names:
        net = FULL[name]
        depth = int(name[6:]) if name.startswith("resnet") else 0
        if not depth:
            feeds = [net.feeds(16, seed=seed) for seed in range(8)]
            yield Subject(name, twin_model(net), feeds[:4], [(one, None) for one in feeds[4:]])
        elif trained(depth) and cifar.present():
            module = resnet.ResNet((16, 32, 64), (depth - 2) // 6, projection=False)
            resnet.load_cifar(module, DATA / f"cifar10_resnet{depth}.safetensors")
            batches = list(cifar.batches(128, CALIBRATION + images))
            first = CALIBRATION // 128
            judged: list[Any] = [({"x": x}, labels) for x, labels in batches[first:]]
            calibration = [{"x": x} for x, _ in batches[:first]]
            yield Subject(name, plainly_exported(module.eval(), net), calibration, judged)
        else:
            print(f"{name}: needs its trained weights and the CIFAR-10 images beside the repository", file=sys.stderr)


def quantized(subject: Subject, **options: Any) -> tuple[graphopt.Result, float]:
    """Return the result and the seconds it took."""
    start = time.perf_counter()
    result = graphopt.quantize(subject.model, subject.calibration, measure=False, **options)
    return result, time.perf_counter() - start


def rounding(chosen: list[Subject], sizes: list[int]) -> None:
    """How much of what few bits lose comes back."""
    print(head(["net", "bits", "weights", "accuracy", "lost", "SQNR dB", "seconds"]))
    for subject in chosen:
        best, _ = subject.judge(subject.model)
        print(row([subject.name, 32, "float", _points(best), "", "", ""]), flush=True)
        for bits in sizes:
            for name, recover in _RECOVERY.items():
                weights = "int8" if bits == 8 else f"levels{2**bits}"
                result, seconds = quantized(subject, weights=weights, recover=recover)
                accuracy, decibels = subject.judge(result.model)
                lost = "" if accuracy is None or best is None else f"{best - accuracy:.2f}"
                print(row([subject.name, bits, name, _points(accuracy), lost, decibels, seconds]), flush=True)


def targets(chosen: list[Subject], seconds: float) -> None:
    """What a target costs."""
    columns = ["net", "weights", "target dB", "SQNR dB", "held out dB", "accuracy", "on integers", "in float", "wider"]
    print(head([*columns, "latency / float", "seconds"]))
    for subject in chosen:
        for weights, goals in TARGETS.items():
            recover = "none" if weights == "int8" else "gptq"
            rows: list[list[object]] = []
            models = [subject.model]
            for goal in (None, *goals):
                try:
                    result, took = quantized(subject, weights=weights, recover=recover, target_sqnr=goal)
                except GraphoptError as error:
                    print(f"{subject.name} {weights} {goal}: {error}", file=sys.stderr, flush=True)
                    continue
                found = result.report.quantize
                assert found is not None
                accuracy, decibels = subject.judge(result.model)
                wider = sum(one.kind == "weight" and one.dtype == "int8" for one in found.tensors)
                counts = [found.integer_nodes, found.float_nodes, 0 if weights == "int8" else wider]
                rows.append(
                    [goal or "none", found.output_sqnr_db or np.inf, decibels, _points(accuracy), *counts, took]
                )
                models.append(result.model)
            ratios = [one.ratio for one in graphopt.bench(*models, seconds=seconds).rows[1:]]
            for cells, ratio in zip(rows, ratios, strict=True):
                print(row([subject.name, weights, *cells[:-1], ratio, cells[-1]]), flush=True)


def _points(accuracy: float | None) -> str:
    return "" if accuracy is None else f"{accuracy:.2f}"


def main(arguments: list[str] | None = None) -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.mixed", description="Few bits and mixed precision.")
    parser.add_argument("what", nargs="?", choices=("rounding", "targets"), help="one of the tables; default: both")
    parser.add_argument("--images", type=int, default=9744, help="how many images the nets are judged by")
    parser.add_argument("--nets", nargs="*", choices=NETS, default=list(NETS))
    parser.add_argument("--bits", nargs="*", type=int, default=[8, 4, 3], help="of weights")
    parser.add_argument("--seconds", type=float, default=2.0, help="measuring time per model")
    chosen = parser.parse_args(arguments)
    nets = list(subjects(chosen.nets, chosen.images))
    if chosen.what != "targets":
        rounding(nets, chosen.bits)
    if chosen.what is None:
        print()
    if chosen.what != "rounding":
        targets(nets, chosen.seconds)


if __name__ == "__main__":
    main(sys.argv[1:])
