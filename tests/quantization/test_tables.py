"""Every row of the table of onnxruntime's CPU provider, against the graph that onnxruntime makes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import pytest

from graphopt.quantization.tables import TABLES
from graphopt.quantization.tables.onnxruntime_cpu import ROWS
from tests.ops.net import Net
from tests.quantization.placing import noise, placement, ran

FEED = noise(2, 4, 6, 6)
Build = Callable[[Net, str], str]

IMAGES: dict[str, Build] = {
    "Add": lambda n, y: n("Add", y, n("Abs", y)),
    "Mul": lambda n, y: n("Mul", y, n.normal(4, 1, 1)),
    "Concat": lambda n, y: n("Concat", y, n("Abs", y), axis=1),
    "Where": lambda n, y: n("Where", np.eye(6, dtype=bool), y, np.float32(0.5)),
    "AveragePool": lambda n, y: n("AveragePool", y, kernel_shape=[2, 2]),
    "GlobalAveragePool": lambda n, y: n("GlobalAveragePool", y),
    "Sigmoid": lambda n, y: n("Sigmoid", y),
    "LeakyRelu": lambda n, y: n("LeakyRelu", y, alpha=0.2),
    "MaxPool": lambda n, y: n("MaxPool", y, kernel_shape=[2, 2]),
    "ReduceMax": lambda n, y: n("ReduceMax", y, np.array([2]), keepdims=1),
    "ReduceMin": lambda n, y: n("ReduceMin", y, np.array([2]), keepdims=1),
    "Reshape": lambda n, y: n("Reshape", y, np.array([0, 4, 9, 4])),
    "Squeeze": lambda n, y: n("Unsqueeze", n("Squeeze", n("GlobalAveragePool", y), np.array([3])), np.array([3])),
    "Unsqueeze": lambda n, y: n("Squeeze", n("Unsqueeze", y, np.array([0])), np.array([0])),
    "Flatten": lambda n, y: n("Reshape", n("Flatten", y), np.array([0, 4, 6, 6])),
    "Transpose": lambda n, y: n("Transpose", y, perm=[0, 2, 1, 3]),
    "Slice": lambda n, y: n("Slice", y, np.array([1]), np.array([5]), np.array([2])),
    "Split": lambda n, y: n("Concat", *n.many("Split", y, np.array([1, 3]), outputs=2, axis=1), axis=1),
    "Gather": lambda n, y: n("Gather", y, np.array([3, 1, 1]), axis=2),
    "GatherElements": lambda n, y: n("GatherElements", y, np.zeros((1, 4, 6, 6), np.int64), axis=1),
    "Expand": lambda n, y: n("Expand", n("GlobalAveragePool", y), np.array([1, 4, 3, 3])),
    "Tile": lambda n, y: n("Tile", y, np.array([1, 1, 2, 1])),
    "DepthToSpace": lambda n, y: n("DepthToSpace", y, blocksize=2),
    "SpaceToDepth": lambda n, y: n("SpaceToDepth", y, blocksize=2),
    "Resize": lambda n, y: n("Resize", y, "", np.array([1, 1, 2, 2], np.float32), mode="nearest"),
    "Pad": lambda n, y: n("Pad", y, np.array([0, 0, 1, 0, 0, 0, 0, 2])),
}
"""What stands between two convolutions; the first is of the operator that the row is about."""

FLOAT: dict[str, Build] = {
    "Sub": lambda n, y: n("Sub", y, n.normal(4, 1, 1)),
    "Softmax": lambda n, y: n("Softmax", y, axis=1),
    "Tanh": lambda n, y: n("Tanh", y),
    "HardSwish": lambda n, y: n("HardSwish", y),
    "ReduceMean": lambda n, y: n("ReduceMean", y, np.array([3]), keepdims=1),
    "Resize": lambda n, y: n("Resize", y, "", np.array([1, 1, 2, 2], np.float32), mode="linear"),
    "TopK": lambda n, y: n.many("TopK", y, np.array([3]), outputs=2)[0],
}


def between(build: Build) -> tuple[onnx.ModelProto, str]:
    """Conv, what is built, a 1x1 convolution of as many channels as there are; the name of what is built first."""
    net = Net()
    y = net(
        "Relu",
        net(
            "Conv",
            net.input("x", "N" if build is not IMAGES["GatherElements"] else 1, 4, 6, 6),
            net.normal(4, 4, 1, 1),
            net.normal(4),
        ),
    )
    before = len(net.model(y).graph.node)
    z = build(net, y)
    proto = net.model(z)
    shape = proto.graph.output[0].type.tensor_type.shape.dim
    channels = shape[1].dim_value
    proto = net.model(net("Conv", z, net.normal(4, channels, 1, 1), net.normal(4)))
    return proto, proto.graph.node[before].name


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing costs anything on integers."""
    rows = {name: replace(row, cost=(1e6, 0.0)) for name, row in ROWS.items()}
    monkeypatch.setitem(TABLES, "cpu", replace(TABLES["cpu"], rows=rows))  # type: ignore[arg-type]


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("name", IMAGES)
def test_rows_have_integer_kernels(name: str) -> None:
    proto, _ = between(IMAGES[name])
    feed = FEED if name != "GatherElements" else noise(1, 4, 6, 6)
    found = ran(proto, feed)
    runs = {"QLinear" + name, name, "Nhwc" + name} & set(found.counts)
    assert runs or name in ("Squeeze", "Unsqueeze", "Flatten", "Reshape"), f"{dict(found.counts)}"
    dequantized = {"Add": 2, "Concat": 2}.get(name, 1)  # Abs is one more reader in float
    assert found.counts["DequantizeLinear"] <= dequantized, dict(found.counts)
    assert not found.floating


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("name", FLOAT)
def test_others_stay_in_float(name: str) -> None:
    proto, node = between(FLOAT[name])
    assert node not in {one.name for one in placement(proto).nodes}
    counts = ran(proto, FEED).counts
    assert counts[name] == 1 or name == "HardSwish", "HardSwish is taken apart"
    assert counts["DequantizeLinear"] >= 1


def test_every_row_is_tried() -> None:
    elsewhere = {"Conv", "MatMul", "Gemm", "ArgMax", "Relu", "Clip"}
    assert set(ROWS) == set(IMAGES) | elsewhere


@pytest.mark.usefixtures("eager")
def test_the_largest_is_found_on_integers() -> None:
    net = Net()
    y = net("Relu", net("Conv", net.input("x", *("N", 4, 6, 6)), net.normal(4, 4, 1, 1)))
    counts = ran(net.model(net("ArgMax", y, axis=1)), FEED).counts
    assert counts["ArgMax"] == 1 and "DequantizeLinear" not in counts


@pytest.mark.parametrize(
    ("weight", "attributes"),
    [((4, 1, 3, 3), {"group": 4}), ((6, 2, 3, 3), {"group": 2}), ((4, 4, 3, 3), {"dilations": [2, 2]}),
     ((4, 4, 1, 1), {"strides": [2, 2]}), ((4, 4, 3, 3), {"auto_pad": "SAME_UPPER"})],
)  # fmt: skip
def test_convolutions_of_all_kinds(weight: tuple[int, ...], attributes: dict[str, object]) -> None:
    net = Net()
    y = net("Conv", net.input("x", "N", 4, 6, 6), net.normal(*weight), net.normal(weight[0]), **attributes)  # type: ignore[arg-type]
    assert ran(net.model(net("Tanh", y)), FEED).counts["QLinearConv"] == 1


@pytest.mark.parametrize("axes", [1, 3])
def test_convolutions_of_lines_and_volumes(axes: int) -> None:
    net = Net()
    y = net("Conv", net.input("x", "N", 4, *[5] * axes), net.normal(3, 4, *[3] * axes), net.normal(3))
    assert ran(net.model(net("Tanh", y)), noise(2, 4, *[5] * axes)).counts["QLinearConv"] == 1


def test_a_product_of_two_activations() -> None:
    net = Net()
    x = net.input("x", "N", 3, 5)
    proto = net.model(net("MatMul", x, net("Transpose", x, perm=[0, 2, 1])))
    assert ran(proto, noise(2, 3, 5)).counts["MatMulIntegerToFloat"] == 1


@pytest.mark.parametrize("front", [(), (3,)])
def test_a_product_with_a_constant_on_either_side(front: tuple[int, ...]) -> None:
    net = Net()
    x = net.input("x", "N", 3, 5)
    proto = net.model(net("MatMul", net.normal(4, 3), net("MatMul", x, net.normal(*front, 5, 5))))
    found = ran(proto, noise(3, 3, 5))
    assert found.counts["MatMulIntegerToFloat"] + found.counts["QLinearMatMul"] == 2 and not found.floating
