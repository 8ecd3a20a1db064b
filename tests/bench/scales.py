"""Scales beside a dense grid, for every activation and weight channel: ``python -m tests.bench.scales [NET ...]``.

Trained ResNet-20 and -56 (random where their weights are not beside the repository), a MobileNetV2-like and a small
ViT. Ratios are of squared errors on the numbers themselves, not on histograms: graphopt's scale and zero point over the
best of a dense grid, and over min-max's. For activations the grid is 64 zero points with 150 scales each, then all
between them around the best with 500, then the five around the best of these with 2,000; for a channel of a weight,
2,000 scales. Times are processor
time, best of three. The exit status is 1 if a bound is violated: 1.01 of the grid, 1 of min-max, 5 ms for the median
tensor, 0 for what is discrete.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt.calibrate.collect import collect
from graphopt.calibrate.density import density
from graphopt.calibrate.grid import Grid, grid
from graphopt.calibrate.histogram import Histogram, histogram
from graphopt.calibrate.parameters import covering
from graphopt.calibrate.solve import FREE, Constraint, Parameters, solve, solve_rows
from graphopt.calibrate.watch import watch
from graphopt.facts.constants import Constants
from tests.bench.table import head, row
from tests.nets import cifar, resnet
from tests.nets.catalogue import DATA, FULL, trained
from tests.nets.exporting import plainly_exported, twin_model

NETS = ("resnet20", "resnet56", "mobilenet", "vit")
SYMMETRIC = Constraint(zero_point=0)
ACTIVATIONS = (("uint8", FREE), ("int8", SYMMETRIC), ("uint4", FREE))
WEIGHTS = (("int8", SYMMETRIC), ("int4", SYMMETRIC))
BOUND, MILLISECONDS = 1.01, 5.0

Feeds = list[dict[str, Any]]


@dataclass
class Ratios:
    """What one kind of tensor gave."""

    grid: list[float]
    plain: list[float]
    tensors: int
    seconds: list[float]

    def cells(self) -> list[object]:
        """The row of the table behind its name."""
        gains = [1 / r for r in self.plain if r > 0]
        return [
            self.tensors,
            len(self.grid),
            f"{max(self.grid):.4f}",
            f"{statistics.median(self.grid):.4f}",
            f"{max(self.plain):.4f}",
            f"{statistics.median(gains):.3f}",
            f"{1e3 * statistics.median(self.seconds):.2f}",
        ]

    def bad(self) -> list[str]:
        """What violates a bound, but for the time."""
        found = [f"{max(self.grid):.4f} of the grid"] if max(self.grid) > BOUND else []
        return found + ([f"{max(self.plain):.4f} of min-max"] if max(self.plain) > 1 else [])


def main(arguments: list[str]) -> int:
    """Prints the tables and a verdict."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.scales", description=__doc__)
    parser.add_argument("nets", nargs="*", default=list(NETS), metavar="NET", help=", ".join(NETS))
    parser.add_argument("--images", type=int, default=64, help="images to calibrate with")
    chosen = parser.parse_args(arguments)
    bad: list[str] = []
    times: list[float] = []
    print(head(["tensors", "number", "scales", "worst", "median", "of min-max", "gain", "ms"]))
    for name in chosen.nets:
        model, feeds = subject(name, chosen.images)
        for title, found in (*activations(model, feeds), *weights(model)):
            print(row([f"{name} {title}", *found.cells()]), flush=True)
            bad += [f"{name} {title}: {what}" for what in found.bad()]
            times += found.seconds
    middle = 1e3 * statistics.median(times)
    print(f"\nmedian of {len(times)} times: {middle:.2f} ms")
    if middle > MILLISECONDS:
        bad.append(f"{middle:.2f} ms for the median tensor")
    bad += discrete()
    print("\n" + ("every bound holds" if not bad else "violated: " + "; ".join(bad)))
    return bool(bad)


def subject(name: str, images: int) -> tuple[ir.Model, Feeds]:
    """Return a float model and what to calibrate it with."""
    net = FULL[name]
    if not name.startswith("resnet"):
        return twin_model(net), [net.feeds(8, seed=seed) for seed in range(images // 8)]
    depth = int(name[6:])
    if not (trained(depth) and cifar.present()):
        print(f"{name}: random, for want of its trained weights and the CIFAR-10 images", file=sys.stderr)
        return twin_model(net), [net.feeds(8, seed=seed) for seed in range(images // 8)]
    module = resnet.ResNet((16, 32, 64), (depth - 2) // 6, projection=False)
    resnet.load_cifar(module, DATA / f"cifar10_resnet{depth}.safetensors")
    return plainly_exported(module.eval(), net), [{"x": x} for x, _ in cifar.batches(8, images)]


def timed(work: Callable[[], Parameters]) -> tuple[Parameters, float]:
    """Return the result and the processor time of the fastest of three runs."""
    best = np.inf
    for _ in range(3):
        start = time.process_time()
        found = work()
        best = min(best, time.process_time() - start)
    return found, best


# --- activations -----------------------------------------------------------------------------------------------------


def activations(model: ir.Model, feeds: Feeds) -> Iterator[tuple[str, Ratios]]:
    """Every float value that is computed, and every input."""
    values = [*model.graph.inputs, *(out for node in model.graph for out in node.outputs)]
    names = [str(v.name) for v in values if v.dtype == ir.DataType.FLOAT and v.name]
    histograms = {n: h for n, h in collect(model, names, feeds).items() if h.minimum < h.maximum}
    choices: dict[tuple[str, str], list[tuple[float, int]]] = {}
    seconds: dict[tuple[str, str], float] = {}
    for kind, constraint in ACTIVATIONS:
        for name, h in histograms.items():
            found, seconds[kind, name] = timed(partial(solve, h, grid(kind), constraint))
            plain = solve(h, grid(kind), constraint, method="minmax")
            pairs = [(float(p.scale), int(p.zero_point)) for p in (found, plain)]
            choices[kind, name] = [*pairs, dense(h, grid(kind), constraint)]
    errors = true_errors(model, feeds, choices)
    for kind, _ in ACTIVATIONS:
        ours, plain, best = np.array([errors[kind, name] for name in histograms]).T
        some = best > 0
        yield (
            f"activations {kind}",
            Ratios(
                (ours[some] / best[some]).tolist(),
                (ours[plain > 0] / plain[plain > 0]).tolist(),
                len(histograms),
                [seconds[kind, name] for name in histograms],
            ),
        )


def dense(h: Histogram, kind: Grid, constraint: Constraint) -> tuple[float, int]:
    """Return the best scale and zero point of the grid."""
    if h.distinct is not None:
        return _dense_points(h, kind, constraint)
    d = density(h)
    zeros = constraint.zeros(kind, d.low, d.high)

    def least(some: np.ndarray, shares: np.ndarray) -> tuple[float, int]:
        ends = np.full(some.shape, min(d.low, 0.0)), np.full(some.shape, max(d.high, 0.0))
        scale = np.outer(covering(*ends, some, kind), shares).ravel().astype(np.float32).astype(np.float64)
        zero = np.repeat(some, shares.size)
        at = int(np.argmin(d.error(scale, zero, kind)))
        return float(scale[at]), int(zero[at])

    step = max(1, zeros.size // 64)
    _, zero = least(zeros[::step], np.geomspace(0.01, 1.3, 150))
    _, zero = least(zeros[np.abs(zeros - zero) <= step], np.geomspace(0.01, 1.3, 500))
    scale, zero = least(zeros[np.abs(zeros - zero) <= 2], np.geomspace(0.01, 1.3, 2000))
    return float(np.ldexp(scale, d.exponent)), zero


def _dense_points(h: Histogram, kind: Grid, constraint: Constraint) -> tuple[float, int]:
    assert h.distinct is not None and h.frequencies is not None
    low, high = min(h.minimum, 0.0), max(h.maximum, 0.0)
    best = (np.inf, 1.0, 0)
    for zero in constraint.zeros(kind, h.minimum, h.maximum):
        whole = float(covering(np.array(low), np.array(high), np.array(zero), kind))
        scales = (whole * np.linspace(0.02, 1.3, 2000)).astype(np.float32)[:, None]
        q = np.clip(np.rint(h.distinct.astype(np.float32) / scales), kind.low - zero, kind.high - zero)
        errors = np.square(q * scales - h.distinct) @ h.frequencies
        at = int(np.argmin(errors))
        best = min(best, (float(errors[at]), float(scales[at, 0]), int(zero)))
    return best[1], best[2]


def true_errors(
    model: ir.Model, feeds: Feeds, choices: dict[tuple[str, str], list[tuple[float, int]]]
) -> dict[tuple[str, str], np.ndarray]:
    """Return the sum of squared errors that each choice makes of the numbers themselves."""
    found = {key: np.zeros(len(pairs)) for key, pairs in choices.items()}
    names = list(dict.fromkeys(name for _, name in choices))
    for batch in watch(model, names, feeds, ahead=False):
        for (kind, name), pairs in choices.items():
            x, k = np.asarray(batch[name], np.float32).ravel(), grid(kind)
            for i, (scale, zero) in enumerate(pairs):
                q = np.clip(np.rint(x / np.float32(scale)), k.low - zero, k.high - zero)
                error = q * np.float32(scale) - x
                found[kind, name][i] += float(np.sum(np.square(error, dtype=np.float64)))
    return found


# --- weights ---------------------------------------------------------------------------------------------------------


def weights(model: ir.Model) -> Iterator[tuple[str, Ratios]]:
    """Every channel of every weight of Conv, Gemm and MatMul."""
    tensors = [rows for node in model.graph for rows in channels(node)]
    for kind, constraint in WEIGHTS:
        ratios, plain, seconds = [], [], []
        for x in tensors:
            found, cost = timed(partial(solve_rows, x, grid(kind), constraint))
            seconds.append(cost)
            least = solve_rows(x, grid(kind), constraint, method="minmax").mse
            best = dense_rows(x, grid(kind))
            ratios += (found.mse[best > 0] / best[best > 0]).tolist()
            plain += (found.mse[least > 0] / least[least > 0]).tolist()
        yield f"weights {kind}", Ratios(ratios, plain, len(tensors), seconds)


def channels(node: ir.Node) -> Iterator[np.ndarray]:
    """The weight of a node as ``[channels, K]``, if it has one."""
    axes = {"Conv": 0, "Gemm": 0 if node.attributes.get_int("transB", 0) else 1, "MatMul": -1}
    if node.op_type not in axes or node.inputs[1] is None:
        return
    array = Constants().array(node.inputs[1])
    if array is not None and array.ndim >= 2:
        moved = np.moveaxis(array, axes[node.op_type], 0)
        yield np.ascontiguousarray(moved.reshape(moved.shape[0], -1), np.float32)


def dense_rows(x: np.ndarray, kind: Grid) -> np.ndarray:
    """Return ``[rows]``: the least mean squared error over 2,000 scales, zero point 0."""
    whole = covering(np.minimum(x.min(1), 0.0), np.maximum(x.max(1), 0.0), np.zeros(len(x)), kind)
    best = np.full(len(x), np.inf)
    some = max(1, 2**15 // x.shape[1])  # stays in the cache
    for start in range(0, len(x), some):
        part, least = x[start : start + some], best[start : start + some]
        for share in np.linspace(0.02, 1.3, 2000):
            scale = (whole[start : start + some] * share).astype(np.float32)[:, None]
            error = part / scale
            error -= np.clip(np.rint(error), kind.low, kind.high)
            np.minimum(least, np.vecdot(error, error) * scale[:, 0].astype(np.float64) ** 2 / x.shape[1], out=least)
    return best


# --- discrete tensors ------------------------------------------------------------------------------------------------


def discrete() -> list[str]:
    """Return which discrete tensors do not come out exact."""
    pixels = np.arange(256, dtype=np.float32)
    cases: Sequence[tuple[str, np.ndarray, str]] = (
        ("image bytes", pixels, "uint8"),
        ("image bytes", pixels, "int8"),
        ("image bytes / 255", pixels / np.float32(255), "uint8"),
        ("image bytes / 255", pixels / np.float32(255), "int8"),
        ("bytes / 127.5 - 1", pixels / np.float32(127.5) - 1, "uint16"),
        ("(bytes / 255 - 0.485) / 0.229", (pixels / np.float32(255) - np.float32(0.485)) / np.float32(0.229), "uint16"),
        ("one-hot", np.array([0, 1], np.float32), "uint8"),
        ("one-hot", np.array([0, 1], np.float32), "int4"),
        ("digits / 16", np.arange(17, dtype=np.float32) / 16, "uint8"),
        ("signs", np.array([-1, 0, 1], np.float32), "ternary"),
        ("all equal", np.array([3.7], np.float32), "uint8"),
    )
    print("\n" + head(["discrete tensor", "type", "scale", "zero point", "largest error / spacing of float32"]))
    bad = []
    for title, x, kind in cases:
        found = solve(histogram(x), grid(kind))
        scale, zero = np.float32(found.scale), int(found.zero_point)
        q = np.clip(np.rint(x / scale), grid(kind).low - zero, grid(kind).high - zero)
        off = float((np.abs((q * scale).astype(np.float64) - x) / np.spacing(np.abs(x).max())).max())
        print(row([title, kind, f"{scale:.9g}", zero, off]))
        if off > 1:
            bad.append(f"{title} as {kind} is off by {off:.3g} spacings")
    return bad


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
