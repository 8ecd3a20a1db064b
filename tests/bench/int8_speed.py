"""int8 against float: ``python -m tests.bench.int8_speed [NET ...] [--seconds S] [--everything] [--placed] …``.

Plain nets (masks multiplied in, exported by torch with all of its optimizations) and ResNet-18 and MobileNetV2 at
224 x 224, quantized with random inputs: only speed is looked at here. One thread, batch 1, both models taking turns in
onnxruntime. "integer" and "float" count operators of onnxruntime's own optimized graph: those that compute on
integers, and those that still multiply matrices in float, with the reason below the table.

``paired`` is the median of the ratios of neighbouring runs; "fastest" the ratio of the tenths of the runs that were
fastest, which is what is left of a machine that others use, too. ``--slowest`` lists the operators of the int8 model
that take longest, and ``--placed`` measures what the placement wants even where graphopt would decline it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import onnx_ir as ir
import onnxruntime

import graphopt
from graphopt import model as models
from graphopt.bench import bench
from graphopt.quantization.kernels import kernels
from graphopt.quantization.processor import flags, saturates
from tests.bench.table import head, row
from tests.nets import imagenet
from tests.nets.catalogue import FULL
from tests.nets.exporting import plainly_exported
from tests.nets.net import Net

_IMAGE = (3, 224, 224)
NETS: dict[str, Net] = {
    "resnet18-224": Net("resnet18-224", imagenet.resnet18, imagenet.resnet18, _IMAGE),
    "mobilenet-v2-224": Net("mobilenet-v2-224", imagenet.mobilenet_v2, imagenet.mobilenet_v2, _IMAGE),
    **{name: net for name, net in FULL.items() if not name.startswith(("decoder", "resnet18-", "shufflenet-"))},
}
GOALS = {"resnet18-224": 3.4, "mobilenet-v2-224": 2.2}


def main(arguments: list[str]) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.int8_speed", description=__doc__)
    parser.add_argument("nets", nargs="*", help=f"of {', '.join(NETS)}; default: all")
    parser.add_argument("--seconds", type=float, default=3.0, help="measuring time per model")
    parser.add_argument("--everything", action="store_true", help="quantize also what does not pay")
    parser.add_argument("--placed", action="store_true", help="measure the placement also where it is declined")
    parser.add_argument("--slowest", type=int, default=0, help="so many operators of the int8 model")
    chosen = parser.parse_args(arguments)
    if unknown := set(chosen.nets) - set(NETS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(NETS)}")
    import torch

    torch.set_num_threads(1)
    vnni = sorted(flags() & {"avx512_vnni", "avx_vnni", "amx_int8"})
    print(f"{'VNNI: ' + ', '.join(vnni) if vnni else 'no VNNI'}; weights of {7 if saturates() else 8} bits\n")
    print(head(("net", "integer", "float", "float ms", "int8 ms", "faster", "paired", "fastest", "goal")), flush=True)
    notes: list[str] = []
    for name in chosen.nets or NETS:
        _one(name, chosen, notes)
    print("\n" + "\n".join(notes))


def _one(name: str, chosen: argparse.Namespace, notes: list[str]) -> None:
    net = NETS[name]
    model = plainly_exported(net.module("zeros") if name in FULL else net.masked(), net)
    data = [net.feeds(2, seed=seed) for seed in range(2)]
    result = graphopt.quantize(
        model, data, method="minmax", recover="none", verify=False, measure=not chosen.placed,
        everything=chosen.everything,
    )  # fmt: skip
    found = kernels(result.model)
    first, second = bench(model, result.model, seconds=chosen.seconds).rows
    ratios = (first.median_ms / second.median_ms, 1 / second.paired_ratio, first.p10_ms / second.p10_ms)
    cells = [f"{ratio:.2f}" for ratio in ratios]
    goal = f"{GOALS.get(name, 1.0)}"
    counts = (found.integer_nodes, found.float_nodes)
    print(row((name, *counts, first.median_ms, second.median_ms, *cells, goal)), flush=True)
    report = result.report.quantize
    assert report is not None
    if report.declined:
        notes.append(f"- {name}: {report.declined}")
    reasons: dict[tuple[str, str], int] = defaultdict(int)
    for node in report.nodes:
        if node.reason:
            reasons[node.op_type, node.reason] += 1
    notes += [f"- {name}: {count} {op} in float: {reason}" for (op, reason), count in reasons.items()]
    if chosen.slowest:
        notes += [f"  - {line}" for line in slowest(result.model, net, chosen.slowest)]


def slowest(model: ir.Model, net: Net, count: int, runs: int = 30) -> list[str]:
    """The operators that take longest, by the shortest of some runs each: microseconds, operator, name."""
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(models.serialize(model), options, providers=["CPUExecutionProvider"])
        feeds = net.feeds(1)
        for _ in range(runs):
            session.run(None, feeds)
        events = json.loads(Path(session.end_profiling()).read_text())
    times: dict[tuple[str, str], list[int]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            times[event["args"]["op_name"], event["name"].removesuffix("_kernel_time")].append(event["dur"])
    by_time: Callable[[tuple[str, str]], int] = lambda key: -min(times[key])  # noqa: E731
    return [f"{min(times[key])} µs {key[0]} {key[1]}" for key in sorted(times, key=by_time)[:count]]


if __name__ == "__main__":
    main(sys.argv[1:])
