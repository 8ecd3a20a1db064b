"""What costs least before a zero-padded convolution: all constant channels, one plane for them, or a border map?

``python -m tests.bench.planes [--seconds S]``: four 3x3 convolutions in a row, half of whose channels are nonzero
constants, written by hand in each way, interleaved in onnxruntime on one thread; a tenth of the runs are faster than
what is printed. ``zero`` is the same chain if the constants were zeros. ``graphopt/plan/planes.py`` holds the rule.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper, numpy_helper

import graphopt
from tests.bench.table import head, row

CASES = ((16, 28), (24, 28), (32, 28), (33, 28), (48, 28), (64, 28), (128, 14), (256, 7), (32, 56))
DEPTH = 4


def net(live: int, size: int, way: str) -> ir.Model:
    """A stem and ``DEPTH`` convolutions of ``live`` channels with a ReLU behind each, and what ``way`` adds to them."""
    rng = np.random.default_rng(live)
    extra = {"zero": 0, "map": 0, "plane": 1, "plane of 4": -live % 4 or 4, "planes": live}[way]
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []

    def constant(name: str, *shape: int) -> str:
        weights.append(numpy_helper.from_array((rng.normal(size=shape) * 0.05).astype(np.float32), name))
        return name

    x, channels = "x", 3
    for layer in range(DEPTH + 1):
        w = constant(f"w{layer}", live + extra, channels, 3, 3)
        y = f"conv{layer}"
        nodes.append(helper.make_node("Conv", [x, w, constant(f"b{layer}", live + extra)], [y], pads=[1] * 4))
        if way == "map" and layer:
            nodes.append(helper.make_node("Add", [y, constant(f"map{layer}", 1, live, size, size)], [f"mapped{layer}"]))
            y = f"mapped{layer}"
        x, channels = f"relu{layer}", live + extra
        nodes.append(helper.make_node("Relu", [y], [x]))
    given = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 3, size, size])
    result = helper.make_tensor_value_info(x, onnx.TensorProto.FLOAT, ["N", channels, size, size])
    graph = helper.make_graph(nodes, "planes", [given], [result], weights)
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9))


WAYS = ("zero", "planes", "plane", "plane of 4", "map")


def main(arguments: list[str]) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.planes", description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.0, help="measuring time of each model")
    chosen = parser.parse_args(arguments)
    print(head(["live channels", "size", *(f"ms {way}" for way in WAYS)]))
    for live, size in CASES:
        models = [net(live, size, way) for way in WAYS]
        rows = graphopt.bench(*models, threads=1, seconds=chosen.seconds).rows
        print(row([live, size, *(line.p10_ms for line in rows)]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
