"""Is a branch of a residual stream faster scattered at the join, or computed at the stream's width?

``python -m tests.bench.joins [--seconds S]``: residual nets in which every second channel of every convolution is dead,
written by hand in both ways, interleaved in onnxruntime on one thread. The last column says
what the cost model of ``graphopt/plan/cost.py`` would choose.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper, numpy_helper

import graphopt
from graphopt.plan.cost import CostModel
from tests.bench.table import head, row

CASES = ((16, 32), (32, 32), (32, 16), (64, 16), (64, 8), (128, 8), (256, 4), (512, 4))
BLOCKS = 4


def net(channels: int, size: int, *, held: bool) -> ir.Model:
    """A stem and four residual blocks, narrowed by hand; the branches are held at the stream's width, or scattered."""
    rng = np.random.default_rng(channels)
    half = channels // 2
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []

    def constant(array: np.ndarray, name: str) -> str:
        weights.append(numpy_helper.from_array(array, name))
        return name

    def conv(x: str, inputs: int, outputs: int, name: str) -> str:
        w = constant((rng.normal(size=(outputs, inputs, 3, 3)) * 0.05).astype(np.float32), f"{name}_w")
        b = constant(rng.normal(size=outputs).astype(np.float32), f"{name}_b")
        nodes.append(helper.make_node("Conv", [x, w, b], [name], pads=[1] * 4))
        return name

    def add(op: str, inputs: list[str], name: str, **attributes: int) -> str:
        nodes.append(helper.make_node(op, inputs, [name], **attributes))
        return name

    x = add("Relu", [conv("x", 3, channels, "stem")], "stem_relu")
    for block in range(BLOCKS):
        inner = add("Relu", [conv(x, channels, half, f"first{block}")], f"inner{block}")
        y = conv(inner, half, channels if held else half, f"second{block}")
        if not held:
            places = np.full(channels, half)
            places[np.sort(rng.permutation(channels)[:half])] = np.arange(half)
            y = add("Pad", [y, constant(np.array([0, 0, 0, 0, 0, 1, 0, 0]), f"pads{block}")], f"padded{block}")
            y = add("Gather", [y, constant(places, f"places{block}")], f"spread{block}", axis=1)
            fill = constant(rng.normal(size=(1, channels, 1, 1)).astype(np.float32), f"fill{block}")
            y = add("Add", [y, fill], f"filled{block}")
        x = add("Relu", [add("Add", [x, y], f"sum{block}")], f"out{block}")
    given = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 3, size, size])
    result = helper.make_tensor_value_info(x, onnx.TensorProto.FLOAT, ["N", channels, size, size])
    graph = helper.make_graph(nodes, "joins", [given], [result], weights)
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9))


def main(arguments: list[str]) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.joins", description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.5, help="measuring time of each model")
    chosen = parser.parse_args(arguments)
    print(head(["channels", "size", "scattered ms", "held ms", "held / scattered", "the plan holds"]))
    for channels, size in CASES:
        models = [net(channels, size, held=held) for held in (False, True)]
        scattered, held = graphopt.bench(*models, threads=1, seconds=chosen.seconds).rows
        costs, pixels = CostModel(), size * size
        half = costs.convolution(channels // 2, channels // 2, 9, pixels) + costs.scatter(channels, pixels, pixels)
        rule = costs.convolution(channels // 2, channels, 9, pixels) < half
        cells = [channels, size, scattered.median_ms, held.median_ms, held.paired_ratio, "yes" if rule else "no"]
        print(row(cells), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
