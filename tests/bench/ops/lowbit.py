"""Weights of two and four bits against onnxruntime's int8 products.

``python -m tests.bench.ops.lowbit [--seconds S] [--threads N]... [--only TEXT] [--way NAME]...``: TernaryGemm on uint8
activations beside the three products of onnxruntime that compute the same from int8 weights (``QLinearMatMul``, which
gives uint8, ``MatMulInteger``, which gives int32, and ``com.microsoft.MatMulIntegerToFloat``), its 2-bit
``MatMulNBits`` and its float32 ``MatMul``. Ratios are those of the fastest tenth: above 1, TernaryGemm with two bits is
faster.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from graphopt.runtime_ops import operators
from graphopt.runtime_ops.operator import DOMAIN
from graphopt.runtime_ops.ternary_gemm.reference import pack
from tests.bench.ops.timing import bound, interleaved
from tests.bench.table import head, row

OPSET = 21
CASES = (
    (1, 4096, 4096),
    (1, 11008, 4096),
    (1, 512, 512),
    (4, 4096, 4096),
    (16, 4096, 4096),
    (128, 768, 3072),
    (128, 3072, 768),
    (128, 4096, 4096),
    (128, 1536, 1536),
    (512, 1024, 1024),
    (196, 512, 4608),
    (1024, 512, 512),
)
MICROSOFT = "com.microsoft"
LEVELS = np.array([-1, 0, 1, 0], np.int8)


def net(
    op: str,
    x: np.ndarray,
    given: Sequence[np.ndarray | None],
    domain: str = "",
    out: int = onnx.TensorProto.FLOAT,
    **attributes: int,
) -> onnx.ModelProto:
    """A model of one node; the operands behind the first one are constants."""
    names = [f"c{i}" if array is not None else "" for i, array in enumerate(given)]
    constants = [numpy_helper.from_array(array, f"c{i}") for i, array in enumerate(given) if array is not None]
    node = helper.make_node(op, ["x", *names], ["y"], domain=domain, **attributes)
    value = helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
    graph = helper.make_graph([node], op, [value], [helper.make_tensor_value_info("y", out, None)], constants)
    imports = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=10)
    if domain == DOMAIN:
        from onnx_ir import serde

        model.functions.append(serde.serialize_function(operators()[op].function(OPSET)))
    return model


def nets(rows: int, outputs: int, columns: int) -> dict[str, tuple[onnx.ModelProto, np.ndarray]]:
    """The models and their inputs, by name."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 3, (outputs, columns))
    weight = np.ascontiguousarray(LEVELS[codes].T)
    x = rng.integers(0, 256, (rows, columns)).astype(np.uint8)
    real = x.astype(np.float32)
    step, zero = np.array(0.02, np.float32), np.array(128, np.uint8)
    scale, bias = np.full(outputs, 0.1, np.float32), np.zeros(outputs, np.float32)
    one, none = np.array(0.1, np.float32), np.array(0, np.int8)
    few = rng.integers(-100, 100, 16).astype(np.int8)
    bits4 = pack(rng.integers(0, 16, codes.shape), 4)
    byte, whole = onnx.TensorProto.UINT8, onnx.TensorProto.INT32
    parts = [LEVELS, scale, bias, step, zero]
    stored = {"stored": 1}
    blocks = -(-columns // 128)
    packed = np.zeros((outputs, blocks, 32), np.uint8)
    packed.reshape(outputs, -1)[:, : columns // 4] = pack(codes, 2)
    of_blocks = np.full(outputs * blocks, 0.1, np.float32)
    nbits = {"bits": 2, "block_size": 128, "K": columns, "N": outputs, "accuracy_level": 4}
    zeros = np.full((outputs, -(-blocks // 4)), 0b01010101, np.uint8)
    return {
        "2 bits": (net("TernaryGemm", x, [pack(codes), *parts], DOMAIN, bits=2, **stored), x),
        "4 bits": (net("TernaryGemm", x, [bits4, few, *parts[1:]], DOMAIN, bits=4, **stored), x),
        "from float": (net("TernaryGemm", real, [pack(codes), *parts], DOMAIN, bits=2, stored=0), real),
        "QLinearMatMul": (net("QLinearMatMul", x, [step, zero, weight, one, none, step, zero], out=byte), x),
        "MatMulInteger": (net("MatMulInteger", x, [weight, zero], out=whole), x),
        "ToFloat": (net("MatMulIntegerToFloat", x, [weight, step, scale, zero, None, bias], MICROSOFT), x),
        "MatMulNBits": (net("MatMulNBits", real, [packed, of_blocks, zeros], MICROSOFT, **nbits), real),
        "float32": (net("MatMul", real, [weight.astype(np.float32)]), real),
    }


def main() -> None:
    """Print a table for each number of threads."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3.0, help="a row")
    parser.add_argument("--threads", type=int, action="append")
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    ways = list(nets(1, 4, 4))
    parser.add_argument(
        "--way", action="append", choices=ways, help="one to compare with (default: all; many evict each other)"
    )
    options = parser.parse_args()
    for threads in options.threads or (1, 2):
        print(f"\n{threads} thread{'s' * (threads > 1)}; ms with two bits, and how many times longer the others take\n")
        names: list[str] = []
        for case in CASES:
            name = "M{} N{} K{}".format(*case)
            if options.only not in name:
                continue
            runs = {
                way: bound(model, {"x": x}, threads=threads)
                for way, (model, x) in nets(*case).items()
                if way == "2 bits" or not options.way or way in options.way
            }
            times = interleaved(runs, seconds=options.seconds)
            first = times["2 bits"]
            if not names:
                names = [way for way in runs if way != "2 bits"]
                print(head(["shape", "ms", "GMAC/s", *names]))
            speed = case[0] * case[1] * case[2] / first.fastest / 1e9
            ratios = [f"{first.times_faster(times[way]):.2f}" for way in names]
            print(row([name, f"{first.fastest * 1e3:.3f}", f"{speed:.0f}", *ratios]), flush=True)


if __name__ == "__main__":
    main()
