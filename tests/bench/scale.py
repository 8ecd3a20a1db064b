"""Time over many nodes, for each pass, and memory over many bytes: ``python -m tests.bench.scale [--nodes N] …``."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

import graphopt
from graphopt import rounds
from graphopt.model import load
from graphopt.registry import passes
from tests.bench.table import head, row
from tests.nets.growing import GROWING
from tests.nets.large import MEASURE, chain, write_matrices

ROOT = Path(__file__).resolve().parents[2]
WIDTH = 4096


def main(arguments: list[str]) -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.scale", description=__doc__)
    parser.add_argument("--nodes", type=int, default=20_000, help="Conv and Relu nodes of the chain")
    parser.add_argument("--gigabytes", type=float, default=3.0, help="size of the external data")
    parser.add_argument("--only", choices=["nodes", "quantize", "passes", "bytes", "decoder"])
    chosen = parser.parse_args(arguments)
    if chosen.only in (None, "nodes"):
        nodes(chosen.nodes)
    if chosen.only in (None, "quantize"):
        quantized(chosen.nodes // 10)
    if chosen.only in (None, "passes"):
        each_pass(chosen.nodes // 10)
    if chosen.only in (None, "bytes"):
        weights(chosen.gigabytes)
    if chosen.only in (None, "decoder"):
        decoder()


def seconds(blocks: int, masked: bool) -> float:
    """Time of one optimize without verification."""
    model = chain(blocks, masked=masked)
    start = time.perf_counter()
    graphopt.optimize(model, plan="smallest", verify=False)
    return time.perf_counter() - start


def nodes(count: int) -> None:
    """A chain of ``count`` nodes, half and twice of it."""
    seconds(50, True)  # imports
    print(head(["chain", "nodes", "seconds", "time(2n) / time(n)"]))
    for masked in (False, True):
        before = None
        for number in (count // 4, count // 2, count, 2 * count):
            took = seconds(number // 2, masked)
            growth = "" if before is None else took / before
            print(row(["masked" if masked else "unmasked", number, took, growth]), flush=True)
            before = took
    print()


def quantized(count: int) -> None:
    """A chain of ``count`` nodes in integers, half and twice of it; without and with the corrected biases."""
    data = [{"x": np.random.default_rng(0).standard_normal((4, 6, 8, 8)).astype(np.float32)}]
    print(head(["quantize", "nodes", "seconds", "time(2n) / time(n)"]))
    for recover in ("none", "bias-correction"):
        before = None
        for number in (count // 4, count // 2, count):
            model = chain(number // 2, masked=False)
            start = time.process_time()
            graphopt.quantize(model, data, everything=True, measure=False, recover=recover)
            took = time.process_time() - start
            print(row([recover, number, took, "" if before is None else took / before]), flush=True)
            before = took
    print()


def each_pass(count: int) -> None:
    """Seconds of each pass on graphs of ``count`` nodes and twice as many, each on what the passes before it left."""
    print(head(["graph", "pass", f"seconds, {count:,} nodes", f"{2 * count:,} nodes", "ratio"]))
    for kind, build in GROWING.items():
        took: dict[str, list[float]] = {}
        for number in (count, 2 * count):
            context = rounds.prepare(load(build(number)), rounds.Settings((), plan="smallest"))
            with rounds.quiet_collector():
                for name, cls in passes().items():
                    start = time.perf_counter()
                    cls().run(context)
                    took.setdefault(name, []).append(time.perf_counter() - start)
        for name, (small, large) in took.items():
            print(row([kind, name, small, large, large / small]), flush=True)
    print()


def weights(gigabytes: float) -> None:
    """Peak resident memory of a fresh process that optimizes a model with external data."""
    print(head(["weights", "bytes", "peak bytes", "seconds", "parameters left"]))
    for layers in (3, max(3, round(gigabytes * 1e9 / (4 * WIDTH**2) + 0.5))):
        with tempfile.TemporaryDirectory() as folder:
            path = write_matrices(Path(folder), layers, WIDTH)
            size = path.with_name("model.onnx.data").stat().st_size
            done = subprocess.run(
                [sys.executable, "-c", MEASURE, str(path), str(Path(folder, "out.onnx"))],
                cwd=ROOT,
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                sys.exit(done.stderr)
            found = json.loads(done.stdout)
        cells = [f"{layers} layers", size, found["peak_bytes"], found["seconds"], found["parameters"]]
        print(row(cells), flush=True)
    print()


def decoder() -> None:
    """A decoder of 1.6 billion parameters: needs 11 GB of disk for a while, and the memory to run it in onnxruntime."""
    from tests.nets import billions

    with tempfile.TemporaryDirectory() as folder:
        found = billions.optimized(Path(folder))
    largest = billions.largest_tensor(billions.SHAPE)
    names = ["bytes", "largest tensor", "peak bytes", "allowed", "seconds", "parameters left", "twin", "worst relative"]
    print(head(["decoder", *names]))
    print(
        row(
            [
                f"{billions.SHAPE.layers} layers",
                found["bytes"],
                largest,
                found["peak_bytes"],
                billions.allowed_bytes(billions.SHAPE),
                found["seconds"],
                found["parameters"],
                billions.twin_parameters(billions.SHAPE),
                found["difference"],
            ]
        )
    )


if __name__ == "__main__":
    main(sys.argv[1:])
