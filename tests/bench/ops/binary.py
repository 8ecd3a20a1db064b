"""Binary products and convolutions against onnxruntime's float32 and int8, the packing of activations included.

``python -m tests.bench.ops.binary``. Figures are the fastest tenth of the runs, in microseconds, and so are the ratios;
those in brackets are of the processor's time, which other processes disturb least (with one thread; two wait for each
other, and waiting counts).
A model holds four copies of the node, each with weights of its own, so that what it costs to start a run (30 to 40 µs
from Python) does not hide what is measured; the last column is without it, for a network starts once. All ways compute
products of the same numbers: float32 and int8 get the same signs. ``BinaryConv`` reads float32 NCHW and writes float32
NCHW, as ``Conv`` does; ``signs`` is the form between two binary layers, int8 in and int8 out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper, numpy_helper

from graphopt import runtime_ops
from graphopt.runtime_ops.binary_gemm import bits
from tests.bench.ops.timing import Timing, bound, interleaved, started
from tests.runtime_ops.running import ops_model

COPIES = 4

GEMMS = [(196, 512, 4608), (1, 512, 4608), (64, 64, 64), (784, 128, 1152), (128, 1024, 1024)]
"""M, N, K; the first one is the target."""

LAYERS = [
    (64, 56, 64, 3, 1),
    (64, 56, 128, 3, 2),
    (128, 28, 128, 3, 1),
    (128, 28, 256, 3, 2),
    (256, 14, 256, 3, 1),
    (256, 14, 512, 3, 2),
    (512, 7, 512, 3, 1),
    (64, 56, 128, 1, 2),
    (128, 28, 256, 1, 2),
    (256, 14, 512, 1, 2),
]
"""Of ResNet-18: channels, size of the image, filters, window, stride."""


def _model(
    op: str, x: np.ndarray, weights: Sequence[np.ndarray], out: tuple[type, Sequence[int]], **attributes: Any
) -> onnx.ModelProto:
    """One of onnxruntime's own operators, its weights constants."""
    names = ["x", *(f"w{index}" for index in range(len(weights)))]
    graph = helper.make_graph(
        [helper.make_node(op, names, ["y"], **attributes)],
        "one",
        [helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)],
        [helper.make_tensor_value_info("y", helper.np_dtype_to_tensor_dtype(np.dtype(out[0])), out[1])],
        [numpy_helper.from_array(array, name) for name, array in zip(names[1:], weights, strict=True)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def _bound(model: onnx.ModelProto | ir.Model, x: np.ndarray, threads: int) -> Callable[[], object]:
    """Run COPIES of a model's only node at once: of one input, as a layer finds it in the cache; weights of its own."""
    proto = model if isinstance(model, onnx.ModelProto) else ir.to_proto(model)
    graph = proto.graph
    copied = onnx.ModelProto()
    copied.CopyFrom(proto)
    for part in (copied.graph.node, copied.graph.output, copied.graph.initializer):
        del part[:]
    for index in range(COPIES):
        for weight in graph.initializer:
            own = copied.graph.initializer.add()
            own.CopyFrom(weight)
            own.name = f"{weight.name}_{index}"
        new, out = copied.graph.node.add(), copied.graph.output.add()
        new.CopyFrom(graph.node[0])
        new.name, new.output[0] = f"n{index}", f"y{index}"
        new.input[1:] = [f"{name}_{index}" for name in graph.node[0].input[1:]]
        out.CopyFrom(graph.output[0])
        out.name = f"y{index}"
    return bound(copied, {graph.node[0].input[0]: x}, threads=threads)


def _binary(op: str, inputs: dict[str, np.ndarray], attributes: dict[str, Any], threads: int) -> Callable[[], object]:
    return _bound(ops_model(op, inputs, attributes, constants=list(inputs)[1:]), inputs["x"], threads)


def _row(cells: list[str]) -> None:
    print("| " + " | ".join(cells) + " |", flush=True)


def _heads(cells: list[str]) -> None:
    _row(cells)
    _row(["---", *["---:"] * (len(cells) - 1)])


def _times(all_of_them: dict[str, Timing]) -> list[str]:
    return [f"{timing.microseconds / COPIES:.0f}" for timing in all_of_them.values()]


def _ratio(mine: Timing, other: Timing) -> str:
    return f"{mine.times_faster(other):.1f} ({other.processor / mine.processor:.1f})"


def gemms(threads: int) -> None:
    """Print BinaryGemm against MatMul in float32 and MatMulInteger of uint8 by int8."""
    print(f"\nBinaryGemm, {threads} thread(s), µs\n")
    _heads(["M, N, K", "float32", "u8s8", "BinaryGemm", "signs", "times float32", "times u8s8"])
    for m, n, k in GEMMS:
        rng = np.random.default_rng(0)
        x, weights = rng.choice([-1.0, 1.0], (m, k)).astype(np.float32), rng.choice([-1, 1], (k, n)).astype(np.int8)
        packed = bits.pack(weights.T)
        scaled = {"x": x, "weights": packed, "scale": np.ones(n, np.float32), "bias": np.zeros(n, np.float32)}
        signs = {"x": x.astype(np.int8), "weights": packed, "threshold": np.zeros(n, np.float32)}
        unsigned = (x + 1).astype(np.uint8)
        float32 = _model("MatMul", x, [weights.astype(np.float32)], (np.float32, (m, n)))
        int8 = _model("MatMulInteger", unsigned, [weights, np.array(1, np.uint8)], (np.int32, (m, n)))
        times = interleaved(
            {
                "float32": _bound(float32, x, threads),
                "u8s8": _bound(int8, unsigned, threads),
                "BinaryGemm": _bound(ops_model("BinaryGemm", scaled, {"k": k}, constants=list(scaled)[1:]), x, threads),
                "signs": _bound(
                    ops_model("BinaryGemmSign", signs, {"k": k}, constants=list(signs)[1:]), signs["x"], threads
                ),
            }
        )
        mine = times["BinaryGemm"]
        ratios = [_ratio(mine, times[other]) for other in ("float32", "u8s8")]
        _row([f"{m}, {n}, {k}", *_times(times), *ratios])


def layers(threads: int) -> None:
    """Print BinaryConv against Conv in float32."""
    print(f"\nBinaryConv, layers of ResNet-18, {threads} thread(s), µs\n")
    _heads(
        ["channels, size, filters, window, stride", "float32", "BinaryConv", "signs", "times float32", "without start"]
    )
    defaults = runtime_ops.operators()["BinaryConv"].attributes
    for channels, size, filters, window, stride in LAYERS:
        rng = np.random.default_rng(0)
        pad, out = window // 2, -(-size // stride)
        x = rng.choice([-1.0, 1.0], (1, channels, size, size)).astype(np.float32)
        weights = rng.choice([-1.0, 1.0], (filters, channels, window, window)).astype(np.float32)
        packed = bits.pack_filters(weights)
        scaled = {
            "x": x,
            "weights": packed,
            "scale": np.ones(filters, np.float32),
            "bias": np.zeros(filters, np.float32),
        }
        signs = {"x": x.astype(np.int8), "weights": packed, "threshold": np.zeros(filters, np.float32)}
        attributes = {**defaults, "channels": channels, "pads": [pad] * 4, "strides": [stride] * 2}
        float32 = _model(
            "Conv",
            x,
            [weights, np.zeros(filters, np.float32)],
            (np.float32, (1, filters, out, out)),
            pads=[pad] * 4,
            strides=[stride] * 2,
        )
        times = interleaved(
            {
                "start": started(COPIES, threads=threads),
                "float32": _bound(float32, x, threads),
                "BinaryConv": _bound(
                    ops_model("BinaryConv", scaled, attributes, constants=list(scaled)[1:]), x, threads
                ),
                "signs": _bound(
                    ops_model("BinaryConvSign", signs, attributes, constants=list(signs)[1:]), signs["x"], threads
                ),
            }
        )
        start = times.pop("start")
        _row(
            [
                f"{channels}, {size}, {filters}, {window}, {stride}",
                *_times(times),
                _ratio(times["BinaryConv"], times["float32"]),
                _ratio(times["BinaryConv"].without(start), times["float32"].without(start)),
            ]
        )


if __name__ == "__main__":
    for count in (1, 2):
        gemms(count)
        layers(count)
