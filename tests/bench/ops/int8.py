"""Int8Conv and Int8Gemm on the CPU against onnxruntime's QLinearConv, QLinearMatMul and float32.

``python -m tests.bench.ops.int8``. Figures are the fastest tenth of the runs, in microseconds. The CPU kernels are
there so that a model for the GPU also runs elsewhere; on a CPU graphopt writes QDQ, which onnxruntime fuses into its
own. What the kernels do on a GPU is measured by ``make gpu-check``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from graphopt import runtime_ops
from tests.bench.ops.timing import bound, interleaved
from tests.runtime_ops.running import ops_model

LAYERS = [
    (64, 56, 64, 3, 1),
    (128, 28, 128, 3, 1),
    (256, 14, 256, 3, 1),
    (512, 7, 512, 3, 1),
    (256, 56, 64, 1, 1),
    (1024, 14, 256, 1, 1),
    (3, 224, 64, 7, 2),
]
"""Of ResNet-50: channels, size of the image, filters, window, stride."""

GEMMS = [(128, 768, 768), (128, 768, 3072), (1, 4096, 4096), (512, 1024, 1024)]
"""M, K, N."""

SCALE = np.float32(0.02)


def model(op: str, given: list[np.ndarray], out: type, **attributes: Any) -> onnx.ModelProto:
    """Return a model of one of onnxruntime's own operators; all inputs but the first are constants."""
    names = [f"c{index}" for index in range(len(given))]
    graph = helper.make_graph(
        [helper.make_node(op, names, ["y"], **attributes)],
        "one",
        [helper.make_tensor_value_info("c0", helper.np_dtype_to_tensor_dtype(given[0].dtype), given[0].shape)],
        [helper.make_tensor_value_info("y", helper.np_dtype_to_tensor_dtype(np.dtype(out)), None)],
        [numpy_helper.from_array(array, name) for name, array in zip(names[1:], given[1:], strict=True)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def ways(
    op: str, x: np.ndarray, w: np.ndarray, columns: int, threads: int, **window: Any
) -> dict[str, Callable[[], object]]:
    """Return the kernel in its layouts, onnxruntime's quantized operator, and float32, each bound to its input."""
    operator = runtime_ops.operators()[op]
    attributes = {**operator.attributes, **window}
    constants = {"w": w, "scale": np.full(columns, 1e-3, np.float32), "bias": np.zeros(columns, np.int32)}
    found: dict[str, Callable[[], object]] = {}
    orders = {"kernel": ([0, 1, 2, 3], [0, 1, 2, 3], x)} if op == "Int8Conv" else {"kernel": (None, None, x)}
    if op == "Int8Conv":
        orders["kernel, NHWC"] = ([0, 3, 1, 2], [0, 2, 3, 1], np.ascontiguousarray(np.moveaxis(x, 1, -1)))
    for name, (taken, written, image) in orders.items():
        how = attributes if taken is None else {**attributes, "input_perm": taken, "output_perm": written}
        found[name] = bound(
            ops_model(op, {"x": image, **constants}, how, constants=list(constants)), {"x": image}, threads=threads
        )
    unsigned, zero = (x.astype(np.int16) + 128).astype(np.uint8), np.array(128, np.uint8)
    steps = [np.array(SCALE), zero, w, np.array(SCALE), np.array(0, np.int8), np.array(SCALE), zero]
    if op == "Int8Conv":
        plain = {name: value for name, value in window.items() if name in ("pads", "strides")}
        found["QLinearConv"] = bound(
            model("QLinearConv", [unsigned, *steps], np.uint8, **plain), {"c0": unsigned}, threads=threads
        )
        real = model("Conv", [x.astype(np.float32), w.astype(np.float32)], np.float32, **plain)
    else:
        found["QLinearMatMul"] = bound(
            model("QLinearMatMul", [unsigned, *steps], np.uint8), {"c0": unsigned}, threads=threads
        )
        real = model("MatMul", [x.astype(np.float32), w.astype(np.float32)], np.float32)
    found["float32"] = bound(real, {"c0": x.astype(np.float32)}, threads=threads)
    return found


def row(label: str, timed: dict[str, Callable[[], object]]) -> None:
    """Measure, and print a row."""
    times = interleaved(timed, seconds=1)
    figures = [f"{times[name].microseconds:.0f}" for name in timed]
    stock = next(name for name in timed if name.startswith("QLinear"))
    ratios = [times["kernel"].times_faster(times[stock]), times["kernel"].times_faster(times["float32"])]
    print("| " + " | ".join([label, *figures, *(f"{ratio:.2f}" for ratio in ratios)]) + " |", flush=True)


def main() -> None:
    """Print a table of convolutions and one of products, for one thread and for two."""
    rng = np.random.default_rng(0)
    for threads in (1, 2):
        print(f"\nInt8Conv, batch 1, {threads} thread(s), µs\n")
        print(
            "| C, image, filters, window, stride | NCHW | NHWC | QLinearConv | float32 | QLinearConv / NCHW | float32 |"
        )
        print("|---|---|---|---|---|---|---|")
        for channels, image, filters, size, stride in LAYERS:
            x = rng.integers(-128, 128, (1, channels, image, image)).astype(np.int8)
            w = rng.integers(-128, 128, (filters, channels, size, size)).astype(np.int8)
            window = {"pads": [size // 2] * 4, "strides": [stride] * 2}
            row(f"{channels}, {image}, {filters}, {size}, {stride}", ways("Int8Conv", x, w, filters, threads, **window))
        print(f"\nInt8Gemm, {threads} thread(s), µs\n")
        print("| M, K, N | kernel | QLinearMatMul | float32 | against QLinearMatMul | float32 |")
        print("|---|---|---|---|---|---|")
        for m, k, n in GEMMS:
            x = rng.integers(-128, 128, (m, k)).astype(np.int8)
            w = rng.integers(-128, 128, (k, n)).astype(np.int8)
            row(f"{m}, {k}, {n}", ways("Int8Gemm", x, w, n, threads))


if __name__ == "__main__":
    main()
