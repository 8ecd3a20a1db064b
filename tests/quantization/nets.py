"""A small convolutional net that a CPU gains from in integers, and data for it."""

from __future__ import annotations

import numpy as np
import onnx

from tests.ops.net import Net, dead

SHAPE = (3, 8, 8)


def cnn(seed: int = 0, masked: tuple[int, ...] = (), width: int = 16, opset: int = 18) -> onnx.ModelProto:
    """A stem, a residual block, a classifier; the inner layer of the block has these channels masked."""
    net = Net(opset=opset, seed=seed)
    ones = np.ones((width, 1, 1, 1), np.float32)

    def conv(x: str, inputs: int, mask: tuple[int, ...] = ()) -> str:
        weight = net.normal(width, inputs, 3, 3) * np.float32(0.5 / inputs)
        kept = net("Mul", weight, dead(ones, 0, mask)) if mask else weight
        offset = dead(net.normal(width), 0, mask)
        return net("Conv", x, kept, offset, pads=[1] * 4)

    x = net("Relu", conv(net.input("x", "N", *SHAPE), 3))
    y = conv(net("Relu", conv(x, width, masked)), width)
    y = net("Flatten", net("GlobalAveragePool", net("Relu", net("Add", x, y))))
    return net.model(net("Gemm", y, net.normal(width, 5), net.normal(5)))


def batches(*sizes: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    """Batches of these sizes; the samples of one seed are the same however they are cut."""
    rng = np.random.default_rng(seed)
    every = rng.standard_normal((sum(sizes), *SHAPE)).astype(np.float32)
    ends = np.cumsum(sizes)
    return [{"x": every[end - size : end]} for size, end in zip(sizes, ends, strict=True)]
