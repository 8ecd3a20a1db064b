"""Counting a tensor: the operator beside numpy, which calibration does without the library.

``python -m tests.bench.ops.histogram [--seconds S] [--threads N]... [--only TEXT]``: nanoseconds a number, the fastest
tenth, and of all processors; a run of the session, about 20 microseconds, is in it. What a calibration gains as a whole
is in ``tests.bench.calibration``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np

from graphopt import runtime
from graphopt.calibrate.accumulator import Accumulator
from graphopt.runtime_ops.histogram.handle import Statistics
from tests.bench.ops.timing import interleaved
from tests.bench.table import head, row
from tests.runtime_ops import running

SIZES = {"4 million": 1 << 22, "200,704": 200_704, "4,096": 4096}


def tensors(rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
    """What layers hand on, and the pixels of images, of which all different numbers are kept."""
    normal = rng.standard_normal(count, np.float32)
    return {
        "both signs": normal,
        "behind a Relu": np.maximum(normal, 0),
        "float16": normal.astype(np.float16),
        "pixels": rng.integers(0, 256, count).astype(np.float32),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.ops.histogram", description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.5, help="for each row")
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--only", default="", help="rows whose name holds this")
    chosen = parser.parse_args(arguments)
    for threads in chosen.threads:
        names = ["numpy, ns", "operator, ns", "times faster", "processors: numpy, ns", "operator, ns"]
        print(head([f"{threads} thread{'s' * (threads > 1)}", "numbers", *names]))
        for size, count in SIZES.items():
            for what, x in tensors(np.random.default_rng(0), count).items():
                if chosen.only in what:
                    print(row([what, size, *_measured(x, threads, chosen.seconds)]), flush=True)
        print()


def _measured(x: np.ndarray, threads: int, seconds: float) -> list[float]:
    statistics, accumulator = Statistics(), Accumulator()
    model = running.ops_model("Histogram", [x], {"handle": statistics.handle}, outputs=2)
    model.graph.outputs.pop(0).name = ""  # nobody needs the input handed on
    session = runtime.session(model, threads=threads, lean=False)
    bound = runtime.Bound(session, {"x": x})
    found = interleaved({"numpy": lambda: accumulator.add(x), "operator": bound.run}, seconds=seconds)
    ours, numpys = found["operator"], found["numpy"]
    each = 1e9 / x.size
    ratio = ours.times_faster(numpys)
    return [numpys.fastest * each, ours.fastest * each, ratio, numpys.processor * each, ours.processor * each]


if __name__ == "__main__":
    main()
