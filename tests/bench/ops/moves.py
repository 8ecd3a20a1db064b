"""Joins, scatters, gathers and blocks: the runtime operators against every form that stock onnxruntime can run.

``python -m tests.bench.ops.moves [--seconds S] [--threads N]...``: a stream and a branch that lost half of its
positions, between other operators, so that nothing is an input or an output of the graph. Ratios are those of the
fastest tenth, of what stands in front: above 1, the runtime operator is faster.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping

import numpy as np
import onnx
import onnx_ir as ir

from graphopt.runtime_ops import operators
from graphopt.runtime_ops.operator import DOMAIN
from tests.bench.blocks import _Writer, product
from tests.bench.ops.timing import bound, interleaved
from tests.bench.table import head, row

SHAPES = (
    (4, 64, 28, 28),
    (1, 256, 14, 14),
    (1, 64, 8, 8),
    (1, 512, 4, 4),
    (128, 768),
    (2048, 768),
    (1, 4096),
    (64, 31),
)
"""Channels are the second axis of images, the last one of tokens."""
PRODUCTS = (
    (1, 4, 512),
    (16, 4, 512),
    (64, 4, 512),
    (64, 4, 64),
    (64, 16, 32),
    (1, 64, 16),
    (512, 4, 128),
    (512, 2, 256),
)
"""Rows of data, blocks, positions of a block on both sides."""

Models = Mapping[str, ir.Model]


class Writer(_Writer):
    """Writes a graph, with runtime operators in it."""

    def call(self, op: str, *inputs: str, **attributes: object) -> str:
        """Add a runtime operator."""
        return self(op, *inputs, domain=DOMAIN, **attributes)[0]

    def floats(self, *numbers: float) -> str:
        """Add a constant."""
        return self.constant(np.array(numbers, np.float32))

    def finished(self, result: str, inputs: Mapping[str, tuple[int, ...]]) -> ir.Model:
        """Return the model; it carries the definitions of what it calls."""
        values = [onnx.helper.make_tensor_value_info(name, 1, ["N", *shape[1:]]) for name, shape in inputs.items()]
        outputs = [onnx.helper.make_empty_tensor_value_info(result)]
        graph = onnx.helper.make_graph(self.nodes, "moves", values, outputs, self.constants)
        imports = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid(DOMAIN, 1)]
        model = ir.from_proto(onnx.helper.make_model(graph, opset_imports=imports, ir_version=10))
        for name in {node.op_type for node in self.nodes if node.domain == DOMAIN}:
            function = operators()[name].function(18)
            model.functions[function.identifier()] = function
        return model


def chosen(size: int) -> np.ndarray:
    """Half of the positions."""
    return np.sort(np.random.default_rng(size).permutation(size)[: size // 2])


def padded(write: Writer, y: str, rank: int, axis: int, size: int) -> str:
    """``Gather(Pad(y), map)``."""
    pads = [0] * (2 * rank)
    pads[rank + axis] = 1
    places = np.full(size, size // 2)
    places[chosen(size)] = np.arange(size // 2)
    return write("Gather", write("Pad", y, write.ints(*pads))[0], write.constant(places), axis=axis)[0]


def concatenated(write: Writer, y: str, shape: tuple[int, ...], axis: int, size: int) -> str:
    """``Gather(Concat(y, a slice of zeros), map)``; the batch is constant, which favours it."""
    zeros = np.zeros([1 if at == axis else extent for at, extent in enumerate(shape)], np.float32)
    places = np.full(size, size // 2)
    places[chosen(size)] = np.arange(size // 2)
    wide = write("Concat", y, write.constant(zeros), axis=axis)[0]
    return write("Gather", wide, write.constant(places), axis=axis)[0]


def rows(write: Writer, y: str, shape: tuple[int, ...], axis: int, size: int) -> str:
    """``ScatterND`` between transposes."""
    order = [axis, *(at for at in range(len(shape)) if at != axis)]
    wide = [size, *(shape[at] for at in order[1:])]
    zeros = write.constant(np.zeros(wide, np.float32))
    index = write.constant(chosen(size)[:, None])
    scattered = write("ScatterND", zeros, index, write("Transpose", y, perm=order)[0])[0]
    return write("Transpose", scattered, perm=[order.index(at) for at in range(len(shape))])[0]


def elements(write: Writer, x: str, y: str, shape: tuple[int, ...], axis: int, size: int) -> str:
    """``ScatterElements`` with a full index, which adds."""
    part = [size // 2 if at == axis else extent for at, extent in enumerate(shape)]
    line = [size // 2 if at == axis else 1 for at in range(len(shape))]
    index = np.broadcast_to(chosen(size).reshape(line), part).copy()
    return write("ScatterElements", x, write.constant(index), y, axis=axis, reduction="add")[0]


def joins(shape: tuple[int, ...], relu: bool) -> Models:
    """``y = x + scatter(u)``, perhaps with a ReLU behind it, between two other operators."""
    axis = 1
    size = shape[axis]
    part = tuple(size // 2 if at == axis else extent for at, extent in enumerate(shape))

    def model(join: Callable[[Writer, str, str], str], inside: bool = False) -> ir.Model:
        write = Writer(0)
        x, u = write("Neg", "x")[0], write("Neg", "u")[0]
        y = join(write, x, u)
        y = write("Relu", y)[0] if relu and not inside else y
        return write.finished(write("Abs", y)[0], {"x": shape, "u": part})

    def ours(write: Writer, x: str, u: str) -> str:
        floor = [write.constant(np.zeros((), np.float32))] if relu else []
        index, nothing = write.constant(chosen(size)), write.floats(-0.0)
        return write.call("ScatterAdd", x, index, u, nothing, *floor, axis=axis)

    rank = len(shape)
    found = {
        "ours": model(ours, True),
        "Pad, Gather": model(lambda write, x, u: write("Add", x, padded(write, u, rank, axis, size))[0]),
        "Concat, Gather": model(lambda write, x, u: write("Add", x, concatenated(write, u, part, axis, size))[0]),
        "ScatterND": model(lambda write, x, u: write("Add", x, rows(write, u, part, axis, size))[0]),
    }
    if np.prod(shape) < 1 << 20:
        found["ScatterElements"] = model(lambda write, x, u: elements(write, x, u, shape, axis, size))
    return found


def scatters(shape: tuple[int, ...]) -> Models:
    """A scatter with a fill an index, and a gather, each alone between two other operators."""
    axis, rank, size = 1, len(shape), shape[1]
    part = tuple(size // 2 if at == axis else extent for at, extent in enumerate(shape))
    fills = np.random.default_rng(0).normal(size=size).astype(np.float32)
    fills[chosen(size)] = 0

    def model(scatter: Callable[[Writer, str], str]) -> ir.Model:
        write = Writer(0)
        return write.finished(write("Abs", scatter(write, write("Neg", "u")[0]))[0], {"u": part})

    def ours(write: Writer, u: str) -> str:
        return write.call("Scatter", u, write.constant(chosen(size)), write.constant(fills), axis=axis)

    def added(write: Writer, spread: str) -> str:
        line = [size if at == axis else 1 for at in range(rank)]
        return write("Add", spread, write.constant(fills.reshape(line)))[0]

    return {
        "ours": model(ours),
        "Pad, Gather": model(lambda write, u: added(write, padded(write, u, rank, axis, size))),
        "Concat, Gather": model(lambda write, u: added(write, concatenated(write, u, part, axis, size))),
        "ScatterND": model(lambda write, u: added(write, rows(write, u, part, axis, size))),
    }


def gathers(shape: tuple[int, ...]) -> Models:
    """Half of the positions of an axis."""

    def model(gather: Callable[[Writer, str], str]) -> ir.Model:
        write = Writer(0)
        return write.finished(write("Abs", gather(write, write("Neg", "x")[0]))[0], {"x": shape})

    def ours(write: Writer, x: str) -> str:
        return write.call("Gather", x, write.constant(chosen(shape[1])), write.floats(0), axis=1)

    return {
        "ours": model(ours),
        "Gather": model(lambda write, x: write("Gather", x, write.constant(chosen(shape[1])), axis=1)[0]),
    }


def blocks(count: int, number: int, size: int, moved: bool) -> Models:
    """``relu(x W)`` of equal blocks; ``moved``: their positions lie anywhere, on both sides."""
    write, total = Writer(size), number * size
    x = write("Relu", "x")[0]
    order = np.random.default_rng(0).permutation(total) if moved else np.arange(total)
    columns, places = (write.constant(order.reshape(number, size)) for _ in range(2))
    bias = write.constant(np.zeros(total, np.float32))
    floor = write.constant(np.zeros((), np.float32))
    weights = write.weight(number, size, size)
    y = write.call("GatherGemmScatter", bias, x, columns, places, weights, floor)
    ours = write.finished(y, {"x": (count, total)})
    ways = ("dense", "several", "batched")
    return {"ours": ours} | {way: product(count, number, size, way, moved and way != "dense") for way in ways}


def _table(title: str, cases: Mapping[str, Models], seconds: float, threads: int) -> None:
    print(f"\n{title}, {threads} thread{'s' * (threads > 1)}; µs, and how many times longer the others take\n")
    others = list(dict.fromkeys(name for models in cases.values() for name in models if name != "ours"))
    print(head(["", "µs", *others, "best of them"]))
    for label, models in cases.items():
        rng = np.random.default_rng(0)
        ways = {}
        for name, model in models.items():
            feeds = {}
            for value in model.graph.inputs:
                assert value.shape is not None
                batch = int(label.split(" ")[0].split("x")[0])
                sizes = [size if isinstance(size, int) else batch for size in value.shape]
                feeds[str(value.name)] = rng.normal(size=sizes).astype(np.float32)
            ways[name] = bound(model, feeds, threads=threads)
        times = interleaved(ways, seconds=seconds)
        first = times["ours"]
        ratios = {name: first.times_faster(times[name]) for name in others if name in times}
        cells = [f"{ratios[name]:.2f}" if name in ratios else "" for name in others]
        print(row([label, f"{first.microseconds:.1f}", *cells, f"{min(ratios.values()):.2f}"]), flush=True)


def _label(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=1.0, help="a row")
    parser.add_argument("--threads", type=int, action="append")
    options = parser.parse_args()
    for threads in options.threads or (1, 2):
        for title, cases in (
            ("x + scatter(u)", {_label(shape): joins(shape, False) for shape in SHAPES}),
            ("relu(x + scatter(u))", {_label(shape): joins(shape, True) for shape in SHAPES}),
            ("scatter with fills", {_label(shape): scatters(shape) for shape in SHAPES}),
            ("gather", {_label(shape): gathers(shape) for shape in SHAPES}),
            ("blocks in order", {_label(case): blocks(*case, False) for case in PRODUCTS}),
            ("blocks anywhere", {_label(case): blocks(*case, True) for case in PRODUCTS}),
        ):
            _table(title, cases, options.seconds, threads)


if __name__ == "__main__":
    main()
