"""Measuring the figures of the cost model: a few small models, interleaved in onnxruntime on one thread.

Each figure is a time per multiply-add, element or node of a chain long enough that what surrounds it does not count.
Where a figure is the difference of two chains, both run in turn in one process.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from graphopt.bench import bench
from graphopt.plan.cost import CostModel

SIZE = 28
"""Height and width of the images."""

LINKS = 4
"""Operators in a chain."""

Step = Callable[[str, int, int], None]


def measure(provider: str = "cpu", seconds: float = 0.3, step: Step | None = None) -> CostModel:
    """Return the figures of this machine.

    Args:
        provider: ``cpu`` or ``cuda``.
        seconds: measuring time of each of about fifteen models.
        step: called with (what is measured, done, total).

    Raises:
        DependencyError: the provider is not available.
    """
    return _Measurement(provider, seconds, step or (lambda label, done, total: None)).run()


class _Measurement:
    def __init__(self, provider: str, seconds: float, step: Step) -> None:
        self.provider, self.seconds, self.step = provider, seconds, step

    def run(self) -> CostModel:
        """Measure one figure after the other."""
        pixels = SIZE * SIZE
        self.step("channels", 0, 6)
        n64, n63, n48, n40, n32, n12 = (self._time(_chain(n)) for n in (64, 63, 48, 40, 32, 12))
        lanes = 16 if (n48 - n40) < 0.25 * (n48 - n32) else 8
        padded = -(-12 // lanes) * lanes
        self.step("depthwise convolution", 1, 6)
        depthwise, loose = self._time(_chain(64, groups=64)), self._time(_chain(63, groups=63))
        self.step("matrix product", 2, 6)
        many, few = self._time(_products(256, 512)), self._time(_products(1, 1024))
        self.step("gather", 3, 6)
        plain, gathered = self._times(_chain(64), _chain(64, moved=True))
        runs = self._time(_selections(256, 512))
        self.step("scatter at a join", 4, 6)
        held, scattered = self._times(_residual(held=True), _residual(held=False))
        self.step("node", 5, 6)
        short, long = self._times(_nodes(8), _nodes(136))
        self.step("done", 6, 6)
        blocked = n64 / (64 * 64 * 9 * pixels * LINKS)
        column = n63 / (63 * 63 * 9 * pixels * LINKS)
        saved = 32 * 32 * 9 * pixels * LINKS * blocked
        node = max((long - short) / 128, 1.0)
        element = max((gathered - plain) / LINKS - node, 1.0) / (64 * pixels)
        return CostModel(
            lanes=lanes,
            blocked_mac=blocked,
            direct_mac=max(n12 / (12 * padded * 9 * pixels * LINKS), blocked),
            column_mac=column,
            depthwise_mac=depthwise / (64 * 9 * pixels * LINKS),
            loose_mac=max(loose / (63 * 9 * pixels * LINKS), depthwise / (64 * 9 * pixels * LINKS)),
            product_mac=many / (256 * 512 * 512 * LINKS),
            weight=few / (1024 * 1024 * LINKS),
            element=element,
            run=max(runs / (256 * 512 * LINKS) - element, 0.1),
            join=max((scattered - held + saved) / LINKS - 2 * node, 1.0) / (64 * pixels),
            node=node,
        )

    def _time(self, model: ir.Model) -> float:
        """Return nanoseconds of a model: the tenth of its runs that nothing disturbed."""
        return self._times(model)[0]

    def _times(self, *models: ir.Model) -> list[float]:
        """Return nanoseconds of models of equal inputs, which take turns."""
        rows = bench(*models, provider=self.provider, threads=1, seconds=self.seconds).rows
        return [row.p10_ms * 1e6 for row in rows]


class _Builder:
    """A graph with one input and one output."""

    def __init__(self, shape: list[int]) -> None:
        self.rng = np.random.default_rng(0)
        self.graph_input = ir.val("x", ir.DataType.FLOAT, shape)
        self.nodes: list[ir.Node] = []
        self.constants: list[ir.Value] = []

    def constant(self, array: np.ndarray) -> ir.Value:
        value = ir.Value(name=f"c{len(self.constants)}", const_value=ir.Tensor(array))
        value.shape, value.dtype = ir.Shape(array.shape), ir.DataType.from_numpy(array.dtype)
        self.constants.append(value)
        return value

    def weight(self, *shape: int) -> ir.Value:
        return self.constant((self.rng.normal(size=shape) * 0.05).astype(np.float32))

    def node(self, op: str, *inputs: ir.Value, **attributes: int | list[int]) -> ir.Value:
        node = ir.node(op, list(inputs), attributes)
        node.outputs[0].name = f"v{len(self.nodes)}"
        self.nodes.append(node)
        return node.outputs[0]

    def conv(self, x: ir.Value, inputs: int, outputs: int, groups: int = 1) -> ir.Value:
        weight = self.weight(outputs, inputs // groups, 3, 3)
        return self.node("Conv", x, weight, self.weight(outputs), pads=[1, 1, 1, 1], group=groups)

    def model(self, result: ir.Value) -> ir.Model:
        result.type = ir.TensorType(ir.DataType.FLOAT)
        graph = ir.Graph(
            [self.graph_input], [result], nodes=self.nodes, initializers=self.constants, opset_imports={"": 18}
        )
        return ir.Model(graph, ir_version=9)


def _chain(channels: int, *, groups: int = 1, moved: bool = False) -> ir.Model:
    """Convolutions and relus; ``moved``: with the channels gathered in another order between them."""
    build = _Builder([1, channels, SIZE, SIZE])
    x: ir.Value = build.graph_input
    order = build.constant(build.rng.permutation(channels).astype(np.int64)) if moved else None
    for _ in range(LINKS):
        x = build.node("Relu", build.conv(x, channels, channels, groups))
        if order is not None:
            x = build.node("Gather", x, order, axis=1)
    return build.model(x)


def _products(rows: int, width: int) -> ir.Model:
    build = _Builder([rows, width])
    x: ir.Value = build.graph_input
    for _ in range(LINKS):
        x = build.node("MatMul", x, build.weight(width, width))
    return build.model(x)


def _selections(rows: int, width: int) -> ir.Model:
    """Selections along the last axis."""
    build = _Builder([rows, width])
    x: ir.Value = build.graph_input
    order = build.constant(build.rng.permutation(width).astype(np.int64))
    for _ in range(LINKS):
        x = build.node("Gather", x, order, axis=1)
    return build.model(x)


def _residual(*, held: bool) -> ir.Model:
    """A stream of 64 channels; the branches compute all of them, or every second and are scattered."""
    build = _Builder([1, 64, SIZE, SIZE])
    x: ir.Value = build.graph_input
    places = np.where(np.arange(64) % 2 == 0, np.arange(64) // 2, 32).astype(np.int64)
    for _ in range(LINKS):
        inner = build.node("Relu", build.conv(x, 64, 32))
        y = build.conv(inner, 32, 64 if held else 32)
        if not held:
            y = build.node("Pad", y, build.constant(np.array([0, 0, 0, 0, 0, 1, 0, 0], np.int64)))
            y = build.node("Gather", y, build.constant(places), axis=1)
        x = build.node("Relu", build.node("Add", x, y))
    return build.model(x)


def _nodes(count: int) -> ir.Model:
    build = _Builder([1, 8])
    x: ir.Value = build.graph_input
    order = build.constant(np.arange(8, dtype=np.int64)[::-1].copy())
    for _ in range(count):
        x = build.node("Gather", x, order, axis=1)
    return build.model(x)
