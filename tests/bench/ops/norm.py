"""A LayerNorm that lost positions: MaskedLayerNorm against the forms that stock onnxruntime can run.

``python -m tests.bench.ops.norm [--seconds S] [--threads N]...``: ``N`` positions of which ``K`` are left and the
others zero. ``whole`` is the LayerNormalization of all ``N``; ``corrected`` and ``as_rms`` are what graphopt writes
without runtime operators (decision 0013). Ratios are those of the fastest tenth: above 1, MaskedLayerNorm is faster.
"""

from __future__ import annotations

import argparse

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx_ir import serde

from graphopt.runtime_ops import operators
from graphopt.runtime_ops.operator import DOMAIN
from tests.bench.norms import EPSILON, Forms
from tests.bench.ops.timing import bound, interleaved
from tests.bench.table import head, row

CASES = ((128, 768, 384), (128, 768, 704), (128, 384, 192), (1, 768, 384), (1, 4096, 2048), (1024, 1024, 512))
OTHERS = ("whole", "corrected", "as_rms", "padded", "primitive")
OPSET = 23


def masked(form: Forms) -> onnx.ModelProto:
    """A model of one MaskedLayerNorm; it takes the inputs that the forms take."""
    node = helper.make_node(
        "MaskedLayerNorm",
        ["x", "scale", "shift"],
        ["y"],
        domain=DOMAIN,
        missing=form.size - form.kept,
        fill=0.0,
        spread=0.0,
        epsilon=EPSILON,
    )
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [form.rows, form.kept])
    constants = [
        numpy_helper.from_array(np.ascontiguousarray(array[: form.kept]), name)
        for name, array in (("scale", form.scale), ("shift", form.shift))
    ]
    graph = helper.make_graph([node], "masked", [x], [helper.make_empty_tensor_value_info("y")], constants)
    imports = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=10)
    model.functions.append(serde.serialize_function(operators()["MaskedLayerNorm"].function(OPSET)))
    return model


def main() -> None:
    """Print a table for each number of threads."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=2.0, help="a row")
    parser.add_argument("--threads", type=int, action="append")
    options = parser.parse_args()
    for threads in options.threads or (1, 2):
        print(f"\n{threads} thread{'s' * (threads > 1)}; µs, and how many times longer the others take\n")
        print(head(["rows", "N", "K", "µs", *OTHERS]))
        for rows, size, kept in CASES:
            form = Forms(rows, size, kept)
            feeds = {
                name: np.random.default_rng(0).normal(size=(rows, width)).astype(np.float32)
                for name, width in (("x", kept), (f"x{kept}", kept), (f"x{size}", size))
            }
            ways = {"masked": bound(masked(form), feeds, threads=threads)}
            ways |= {name: bound(getattr(form, name)(), feeds, threads=threads) for name in OTHERS}
            times = interleaved(ways, seconds=options.seconds)
            first = times["masked"]
            ratios = [f"{first.times_faster(times[name]):.2f}" for name in OTHERS]
            print(row([rows, size, kept, f"{first.microseconds:.1f}", *ratios]), flush=True)


if __name__ == "__main__":
    main()
