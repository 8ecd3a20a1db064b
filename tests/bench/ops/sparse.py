"""From how many zeros on is a sparse product faster than onnxruntime's dense one?

``python -m tests.bench.ops.sparse [--seconds S] [--threads N]... [--zeros Z]... [--only TEXT]``: chains of equal
convolutions (ResNet-18's, ResNet-50's) and products (transformer, MLP) with Relu behind each, float32, the same weights
dense and sparse. A chain, because onnxruntime turns images into blocks in front of its convolutions and back behind
them, once for a chain. Above 1 the sparse one is faster. With one thread the processor's time is compared, which other
processes do not stretch; with more the fastest tenth, for threads that wait use the processor, too. In brackets without
what it takes to start a run, which a network pays once: for the smallest chains it is a third of the time.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from graphopt.runtime_ops import operators
from graphopt.runtime_ops.compact import compact
from graphopt.runtime_ops.operator import DOMAIN
from tests.bench.ops.timing import bound, interleaved, started
from tests.bench.table import head, row

OPSET = 18
ZEROS = (0.7, 0.8, 0.85, 0.9, 0.95)


@dataclass(frozen=True)
class Conv:
    """A chain of convolutions over square images; channels from one to the next."""

    name: str
    channels: tuple[int, ...]
    size: int
    kernel: int = 3
    stride: int = 1
    batch: int = 1


@dataclass(frozen=True)
class Gemm:
    """A chain of products over rows."""

    name: str
    widths: tuple[int, ...]
    rows: int


CASES: tuple[Conv | Gemm, ...] = (
    Conv("3x3, 64, 56x56", (64,) * 5, 56),
    Conv("3x3, 128, 28x28", (128,) * 5, 28),
    Conv("3x3, 256, 14x14", (256,) * 5, 14),
    Conv("3x3, 512, 7x7", (512,) * 5, 7),
    Conv("3x3, 64-128, 56x56 / 2", (64, 128), 56, stride=2),
    Conv("3x3, 256-512, 14x14 / 2", (256, 512), 14, stride=2),
    Conv("1x1, 64-256-64, 56x56", (64, 256, 64, 256, 64), 56, 1),
    Conv("1x1, 128-512-128, 28x28", (128, 512, 128, 512, 128), 28, 1),
    Conv("1x1, 256-1024-256, 14x14", (256, 1024, 256, 1024, 256), 14, 1),
    Conv("1x1, 512-2048-512, 7x7", (512, 2048, 512, 2048, 512), 7, 1),
    Conv("3x3, 256, 14x14, batch 8", (256,) * 3, 14, batch=8),
    Gemm("768-3072-768, 128 rows", (768, 3072, 768), 128),
    Gemm("768-768, 197 rows", (768, 768, 768, 768), 197),
    Gemm("1024-4096-1024, 512 rows", (1024, 4096, 1024), 512),
    Gemm("1024-1024, 16 rows", (1024,) * 4, 16),
    Gemm("1024-1024, 4 rows", (1024,) * 4, 4),
    Gemm("1024-1024, 1 row", (1024,) * 4, 1),
    Gemm("768-3072-768, 1 row", (768, 3072, 768), 1),
    Gemm("256-256, 64 rows", (256,) * 5, 64),
)


def weights(case: Conv | Gemm, zeros: float) -> list[np.ndarray]:
    """Random weights that keep the size of what goes through."""
    rng = np.random.default_rng(0)
    widths = case.channels if isinstance(case, Conv) else case.widths
    found = []
    for before, after in itertools.pairwise(widths):
        square = (case.kernel, case.kernel) if isinstance(case, Conv) else ()
        shape = (after, before, *square) if isinstance(case, Conv) else (before, after)
        kept = rng.random(shape) >= zeros
        fan = before * int(np.prod(square, dtype=int)) * (1 - zeros)
        found.append((rng.normal(size=shape) * kept * np.sqrt(2 / fan)).astype(np.float32))
    return found


def net(case: Conv | Gemm, arrays: Sequence[np.ndarray], *, sparse: bool) -> onnx.ModelProto:
    """The chain, dense or sparse."""
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []

    def constant(array: np.ndarray, name: str) -> str:
        constants.append(numpy_helper.from_array(array, name))
        return name

    x = "x"
    conv = isinstance(case, Conv)
    name = "SparseConv" if conv else "SparseGemm"
    for i, w in enumerate(arrays):
        bias = constant(np.full(w.shape[0 if conv else 1], 0.01, np.float32), f"b{i}")
        attributes = {}
        if isinstance(case, Conv):
            attributes = {"strides": [case.stride] * 2, "pads": [case.kernel // 2] * 4}
        if sparse:
            values, gaps = compact(w)
            given = [x, constant(values, f"v{i}"), constant(gaps, f"g{i}"), bias]
            every = {**operators()[name].attributes, **attributes, "shape": list(w.shape), "relu": 1}
            nodes.append(helper.make_node(name, given, [f"y{i}"], domain=DOMAIN, **every))
        else:
            nodes.append(
                helper.make_node("Conv" if conv else "Gemm", [x, constant(w, f"w{i}"), bias], [f"s{i}"], **attributes)
            )
            nodes.append(helper.make_node("Relu", [f"s{i}"], [f"y{i}"]))
        x = f"y{i}"
    given = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, example(case).shape)
    imports = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)]
    graph = helper.make_graph(nodes, "chain", [given], [helper.make_empty_tensor_value_info(x)], constants)
    model = helper.make_model(graph, opset_imports=imports, ir_version=10)
    if sparse:
        from onnx_ir import serde

        model.functions.append(serde.serialize_function(operators()[name].function(OPSET)))
    return model


def example(case: Conv | Gemm) -> np.ndarray:
    """An input: half of it zeros, like what is behind a Relu."""
    if isinstance(case, Conv):
        shape: tuple[int, ...] = (case.batch, case.channels[0], case.size, case.size)
    else:
        shape = (case.rows, case.widths[0])
    return np.maximum(np.random.default_rng(1).normal(size=shape), 0).astype(np.float32)


def main() -> None:
    """Print a table for each number of threads."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=1.5, help="a row")
    parser.add_argument("--threads", type=int, action="append")
    parser.add_argument("--zeros", type=float, action="append")
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    options = parser.parse_args()
    shares = options.zeros or ZEROS
    for threads in options.threads or (1, 2):
        print(f"\n{threads} thread{'s' * (threads > 1)}; dense time, and how many times faster at a share of zeros\n")
        print(head(["layers", "dense ms", *(f"{zeros:.0%}" for zeros in shares)]))
        for case in CASES:
            if options.only not in case.name:
                continue
            feeds = {"x": example(case)}
            ways = {
                zeros: bound(net(case, weights(case, zeros), sparse=True), feeds, threads=threads) for zeros in shares
            }
            dense = bound(net(case, weights(case, 0.9), sparse=False), feeds, threads=threads)
            start = started(len(weights(case, 0.9)), threads=threads)
            times = interleaved(
                {"dense": dense, "start": start, **{str(zeros): way for zeros, way in ways.items()}},
                seconds=options.seconds,
            )
            taken = {name: time.processor if threads == 1 else time.fastest for name, time in times.items()}
            lone = {name: time - taken["start"] for name, time in taken.items()}
            ratios = [
                f"{taken['dense'] / taken[zeros]:.2f} ({lone['dense'] / lone[zeros]:.2f})" for zeros in map(str, shares)
            ]
            print(row([case.name, f"{taken['dense'] * 1e3:.3f}", *ratios]), flush=True)


if __name__ == "__main__":
    main()
