"""Half of the channels masked, then int8: ``python -m tests.bench.both [NET ...] [--image N] [--seconds S]``.

Four models take turns on one thread at batch 1: the net with its masks multiplied in ("float"), what
``graphopt optimize`` makes of the masked net ("narrow"), the float net in integers ("int8"), and
``graphopt optimize --quantize`` ("both").
Times are processor time, medians, the models taking turns: a busy machine stretches the clock, not that. The last
column is the gain of both over the product of the two gains: 1 where they multiply, below where one hinders
the other.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import sys
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import onnx_ir as ir

import graphopt
from graphopt import runtime
from tests.bench.table import head, row
from tests.nets.catalogue import FULL
from tests.nets.exporting import masked_model, plainly_exported
from tests.nets.masking import remove_masks
from tests.nets.net import Net

NETS = ("resnet18-agree", "resnet18", "vgg")
SAMPLES = 16


def main(arguments: list[str]) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.both", description=__doc__)
    parser.add_argument("nets", nargs="*", help=f"of {', '.join(FULL)}; default: {', '.join(NETS)}")
    parser.add_argument("--seconds", type=float, default=4.0, help="measuring time per model")
    parser.add_argument("--image", type=int, default=112, help="height and width of the images")
    parser.add_argument("--passes", help="narrow with these passes instead of the default ones")
    chosen = parser.parse_args(arguments)
    if unknown := set(chosen.nets) - set(FULL):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(FULL)}")
    import torch

    torch.set_num_threads(1)
    names = ["float ms", "narrow ms", "int8 ms", "both ms", "narrow", "int8", "both", "both / (narrow x int8)", "dB"]
    print(head(["net", *names]))
    for name in chosen.nets or NETS:
        print(row([name, *gains(sized(FULL[name], chosen.image), chosen.seconds, chosen.passes)]), flush=True)


def sized(net: Net, image: int) -> Net:
    """The net for images of another size; small ones measure what a node costs, not what a channel costs."""
    return dataclasses.replace(net, shape=(net.shape[0], image, image)) if len(net.shape) == 3 else net


def gains(net: Net, seconds: float, passes: str | None) -> list[float]:
    """Milliseconds of the four models, three gains, how they combine, and the SQNR of the last."""
    masked = masked_model(net, "masks")
    plain: ir.Model = plainly_exported(remove_masks(net.masked()), net)
    data = [net.feeds(8, seed=seed) for seed in range(SAMPLES // 8)]
    narrow = graphopt.optimize(masked, passes=passes, verify=False, measure=passes is None).model
    integers = graphopt.quantize(plain, data, measure=False).model
    both = graphopt.optimize(masked, passes=passes, quantize={}, data=data, measure=False)
    check = both.report.quantize
    times = processor_ms([plain, narrow, integers, both.model], net, seconds)
    speedups = [times[0] / one for one in times[1:]]
    decibels = check.output_sqnr_db if check is not None and check.output_sqnr_db is not None else float("nan")
    return [*times, *speedups, speedups[2] / (speedups[0] * speedups[1]), decibels]


def processor_ms(models: list[ir.Model], net: Net, seconds: float) -> list[float]:
    """Median processor time of a run of each model, in milliseconds; they take turns on one thread."""
    feeds = net.feeds(1)
    bound = [runtime.Bound(runtime.session(model, lean=False), feeds) for model in models]
    times: list[list[int]] = [[] for _ in bound]
    start = time.perf_counter()
    while len(times[0]) < 20 or time.perf_counter() - start < seconds * len(bound):
        for one, runs in zip(bound, times, strict=True):
            before = time.process_time_ns()
            one.run()
            runs.append(time.process_time_ns() - before)
    return [statistics.median(runs[3:]) / 1e6 for runs in times]


if __name__ == "__main__":
    main(sys.argv[1:])
