"""Which exact form of a LayerNorm that lost positions is fastest?

``python -m tests.bench.norms [--seconds S]``: a LayerNorm of ``N`` positions of which ``K`` are left and the others
zero, in every way of writing it that divides by ``N``, interleaved in onnxruntime on one thread (decision 0013).
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir

import graphopt
from tests.bench.table import head, row
from tests.ops.net import Net

CASES = ((128, 768, 384), (128, 768, 704), (128, 384, 192), (1, 768, 384))
EPSILON = 1e-5


def _number(value: float) -> np.ndarray:
    return np.array(value, np.float32)


class Forms:
    """The forms for one size; each returns a model of ``x`` (``[rows, K]``; ``whole``: ``[rows, N]``)."""

    def __init__(self, rows: int, size: int, kept: int) -> None:
        self.rows, self.size, self.kept = rows, size, kept
        rng = np.random.default_rng(size)
        self.scale, self.shift = (rng.normal(size=size).astype(np.float32) for _ in range(2))

    def _start(self, width: int) -> tuple[Net, str]:
        net = Net(23)
        inputs = {size: net.input(f"x{size}", self.rows, size) for size in (self.size, self.kept)}  # all take the same
        return net, inputs[width]

    def _scale(self, total: int, width: int) -> np.ndarray:
        scale = np.zeros(width, np.float32)
        scale[: self.kept] = self.scale[: self.kept] * math.sqrt(total / width)
        return scale

    def _centred(self, net: Net, x: str) -> tuple[str, str]:
        mean = net("Mul", net("ReduceMean", x, [-1]), _number(self.kept / self.size))
        return mean, net("Sub", x, mean)

    def whole(self) -> onnx.ModelProto:
        """LayerNormalization of everything: what the masked model computes."""
        net, x = self._start(self.size)
        return net.model(net("LayerNormalization", x, self.scale, self.shift, epsilon=EPSILON))

    def padded(self) -> onnx.ModelProto:
        """Zeros put back, LayerNormalization of everything, Slice."""
        net, x = self._start(self.kept)
        x = net("Pad", x, [0, 0, 0, self.size - self.kept])
        x = net("LayerNormalization", x, self.scale, self.shift, epsilon=EPSILON)
        return net.model(net("Slice", x, [0], [self.kept], [1]))

    def primitive(self) -> onnx.ModelProto:
        """Only means, sums and elementwise operators."""
        net, x = self._start(self.kept)
        mean, y = self._centred(net, x)
        rest = net("Mul", net("Mul", mean, mean), _number(self.size - self.kept))
        squares = net("Add", net("Add", net("ReduceSumSquare", y, [-1]), rest), _number(self.size * EPSILON))
        y = net("Mul", y, net("Reciprocal", net("Sqrt", squares)))
        return net.model(net("Add", net("Mul", y, self._all()), self._shift()))

    def corrected(self) -> onnx.ModelProto:
        """LayerNormalization of what is left, with its mean and deviation corrected (opset 17)."""
        net, x = self._start(self.kept)
        off = 1 - self.kept / self.size
        scale = self._scale(self.size, self.kept)
        y, mean, inverse = net.many("LayerNormalization", x, scale, outputs=3, epsilon=EPSILON * self.size / self.kept)
        ratio = net("Mul", mean, inverse)
        share = net("Mul", ratio, _number(off))
        factor = net("Reciprocal", net("Sqrt", net("Add", net("Mul", ratio, share), _number(1))))
        y = net("Mul", net("Add", y, net("Mul", share, scale)), factor)
        return net.model(net("Add", y, self._shift()))

    def as_rms(self) -> onnx.ModelProto:
        """RMSNormalization of what is left, centred, and of one more position that stands for the zeros (opset 23)."""
        net, x = self._start(self.kept)
        mean, y = self._centred(net, x)
        y = net("Concat", y, net("Mul", mean, _number(math.sqrt(self.size - self.kept))), axis=-1)
        width = self.kept + 1
        y = net("RMSNormalization", y, self._scale(self.size, width), epsilon=EPSILON * self.size / width)
        return net.model(net("Add", net("Slice", y, [0], [self.kept], [1]), self._shift()))

    def _all(self) -> np.ndarray:
        return self.scale[: self.kept] * np.float32(math.sqrt(self.size))

    def _shift(self) -> np.ndarray:
        return self.shift[: self.kept]


def main(arguments: list[str] | None = None) -> None:
    """Prints a row for each size: milliseconds of the whole LayerNorm, and the other forms over it."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.norms", description="Forms of a narrowed LayerNorm.")
    parser.add_argument("--seconds", type=float, default=6.0, help="measuring time of a row")
    chosen = parser.parse_args(arguments)
    names = ("whole", "primitive", "padded", "corrected", "as_rms")
    print(head(["rows", "N", "K", "whole ms", *names[1:]]))
    for rows, size, kept in CASES:
        forms = Forms(rows, size, kept)
        builds: list[Callable[[], onnx.ModelProto]] = [getattr(forms, name) for name in names]
        models: list[ir.Model] = [graphopt.model.load(build()) for build in builds]
        first, *others = graphopt.bench(*models, threads=1, seconds=chosen.seconds).rows
        print(row([rows, size, kept, first.median_ms, *(other.ratio for other in others)]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
