"""A weight of equal blocks along the diagonal: one dense product, several, one batched, one grouped convolution?

``python -m tests.bench.blocks [--seconds S]``: written by hand in each way, interleaved in onnxruntime on one thread; a
tenth of the runs are faster than what is printed. ``moved`` gathers the positions of the blocks together before, and
where they belong behind. ``graphopt/plan/blocks.py`` holds the rule that follows from the tables.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper, numpy_helper

import graphopt
from tests.bench.table import head, row

PRODUCTS = ((1, 4, 512), (16, 4, 512), (64, 4, 512), (1, 4, 64), (64, 4, 64), (64, 16, 32), (1, 64, 16), (64, 2, 256))
"""Rows of data, blocks, positions of a block on both sides."""
CONVS = ((28, 4, 16), (28, 2, 32), (28, 4, 32), (28, 8, 8), (28, 4, 12), (14, 4, 64), (14, 32, 4))
"""Size of the image, blocks, channels of a block on both sides."""


class _Writer:
    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, array: np.ndarray) -> str:
        self.constants.append(numpy_helper.from_array(array, f"c{len(self.constants)}"))
        return self.constants[-1].name

    def weight(self, *shape: int) -> str:
        return self.constant((self.rng.normal(size=shape) * 0.05).astype(np.float32))

    def ints(self, *numbers: int) -> str:
        return self.constant(np.array(numbers, np.int64))

    def __call__(self, op: str, *inputs: str, outputs: int = 1, **attributes: Any) -> list[str]:
        names = [f"v{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, **attributes))
        return names

    def moved(self, x: str, count: int, axis: int) -> str:
        return self("Gather", x, self.constant(self.rng.permutation(count).astype(np.int64)), axis=axis)[0]

    def model(self, result: str, shape: list[int | str]) -> ir.Model:
        given = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)
        out = helper.make_tensor_value_info(result, onnx.TensorProto.FLOAT, shape)
        graph = helper.make_graph(self.nodes, "blocks", [given], [out], self.constants)
        return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9))


def product(rows: int, blocks: int, size: int, way: str, moved: bool) -> ir.Model:
    """``x W``, x ``[rows, blocks * size]``."""
    write, total = _Writer(size), blocks * size
    x = write("Relu", "x")[0]
    if moved:
        x = write.moved(x, total, 1)
    if way == "dense":
        x = write("MatMul", x, write.weight(total, total))[0]
    elif way == "several":
        parts = write("Split", x, write.ints(*[size] * blocks), outputs=blocks, axis=1)
        x = write("Concat", *[write("MatMul", part, write.weight(size, size))[0] for part in parts], axis=1)[0]
    elif way == "batched":
        x = write("Reshape", x, write.ints(0, blocks, size))[0]
        x = write("MatMul", write("Transpose", x, perm=[1, 0, 2])[0], write.weight(blocks, size, size))[0]
        x = write("Reshape", write("Transpose", x, perm=[1, 0, 2])[0], write.ints(0, total))[0]
    else:
        x = write("Conv", write("Unsqueeze", x, write.ints(2))[0], write.weight(total, size, 1), group=blocks)[0]
        x = write("Squeeze", x, write.ints(2))[0]
    if moved:
        x = write.moved(x, total, 1)
    return write.model(write("Relu", x)[0], [rows, total])


def convolution(image: int, blocks: int, size: int, way: str, moved: bool) -> ir.Model:
    """A 3x3 convolution between two others of 1x1."""
    write, total = _Writer(size), blocks * size
    x = write("Relu", write("Conv", "x", write.weight(total, total, 1, 1))[0])[0]
    if moved:
        x = write.moved(x, total, 1)
    pads = [1] * 4
    if way == "dense":
        x = write("Conv", x, write.weight(total, total, 3, 3), pads=pads)[0]
    elif way == "several":
        parts = write("Split", x, write.ints(*[size] * blocks), outputs=blocks, axis=1)
        parts = [write("Conv", part, write.weight(size, size, 3, 3), pads=pads)[0] for part in parts]
        x = write("Concat", *parts, axis=1)[0]
    else:
        x = write("Conv", x, write.weight(total, size, 3, 3), group=blocks, pads=pads)[0]
    if moved:
        x = write.moved(x, total, 1)
    x = write("Conv", write("Relu", x)[0], write.weight(total, total, 1, 1))[0]
    return write.model(x, ["N", total, image, image])


def _table(title: str, cases: Any, ways: tuple[str, ...], build: Any, seconds: float) -> None:
    print(head([title, "blocks", "each", *(f"ms {way}" for way in ways), *(f"ms {way}, moved" for way in ways[1:])]))
    for case in cases:
        models = [build(*case, way, False) for way in ways] + [build(*case, way, True) for way in ways[1:]]
        rows = graphopt.bench(*models, threads=1, seconds=seconds).rows
        print(row([*case, *(line.p10_ms for line in rows)]), flush=True)


def main(arguments: list[str]) -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.blocks", description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.0, help="measuring time of each model")
    chosen = parser.parse_args(arguments)
    _table("rows", PRODUCTS, ("dense", "several", "batched", "grouped"), product, chosen.seconds)
    print()
    _table("image", CONVS, ("dense", "several", "grouped"), convolution, chosen.seconds)


if __name__ == "__main__":
    main(sys.argv[1:])
