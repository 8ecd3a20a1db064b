"""Conv, ConvTranspose, Gemm, MatMul, Einsum: dead rows and columns of every layout."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from graphopt import model as models
from graphopt.facts.stats import stats
from tests.ops.net import Case, Net, dead, examine
from tests.strategies import check

SIZES = {1: [9], 2: [6, 5], 3: [4, 3, 5]}

CONVS: list[dict[str, Any]] = [
    {},
    {"strides": 2},
    {"dilations": 2},
    {"pads": 1},
    {"auto_pad": "SAME_UPPER"},
    {"auto_pad": "SAME_LOWER", "strides": 2},
    {"auto_pad": "VALID"},
    {"pads": "uneven"},
]


def _attributes(row: dict[str, Any], rank: int) -> dict[str, Any]:
    result = dict(row)
    for name in ("strides", "dilations"):
        if name in row:
            result[name] = [row[name]] * rank
    if row.get("pads") == 1:
        result["pads"] = [1] * (2 * rank)
    elif row.get("pads") == "uneven":
        result["pads"] = [1] * rank + [0] * rank
    return result


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("row", CONVS, ids=str)
@pytest.mark.parametrize("bias", [False, True])
def test_conv(rank: int, row: dict[str, Any], bias: bool) -> None:
    k = 2 if rank == 3 else 3
    taps = k**rank

    def build() -> onnx.ModelProto:
        net = Net()
        w = dead(net.normal(7, 3, *[k] * rank), 0, [1, 4, 6])
        extra = [dead(net.normal(7), 0, [1, 4, 6])] if bias else []
        y = net("Conv", net.input("x", "N", 3, *SIZES[rank]), w, *extra, **_attributes(row, rank))
        y = net("Conv", net("Relu", y), dead(net.normal(5, 7, *[1] * rank), 1, [2]))
        return net.model(y)

    # 1, 4, 6 are dead, and nobody reads 2.
    examine(Case("", build, most=3 * (3 * taps + bias) + 3 * 5))


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("row", CONVS, ids=str)
def test_dead_channels_before_any_conv(rank: int, row: dict[str, Any]) -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = net("Conv", net.input("x", "N", 3, *SIZES[rank]), dead(net.normal(7, 3, *[1] * rank), 0, [1, 4, 6]))
        return net.model(
            net("Conv", net("Relu", y), net.normal(5, 7, *[3] * rank), net.normal(5), **_attributes(row, rank))
        )

    examine(Case("", build, most=4 * 3 + 4 * 5 * 3**rank + 5))


@pytest.mark.parametrize("row", CONVS, ids=str)
def test_depthwise(row: dict[str, Any]) -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = net("Conv", net.input("x", "N", 3, 6, 5), dead(net.normal(7, 3, 1, 1), 0, [1, 4]))
        y = net("Conv", y, dead(net.normal(7, 1, 3, 3), 0, [6]), group=7, **_attributes(row, 2))
        return net.model(net("Conv", net("Relu", y), net.normal(2, 7, 1, 1)))

    examine(Case("", build, most=4 * 3 + 4 * 9 + 4 * 2))


def test_depthwise_with_two_outputs_a_channel() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = net("Conv", net.input("x", "N", 3, 6, 5), dead(net.normal(4, 3, 1, 1), 0, [1, 2]))
        y = net("Conv", y, net.normal(8, 1, 3, 3), group=4)
        return net.model(net("Conv", net("Relu", y), net.normal(2, 8, 1, 1)))

    examine(Case("", build, most=2 * 3 + 4 * 9 + 4 * 2))


def test_grouped_conv_loses_a_whole_group() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = net("Conv", net.input("x", "N", 3, 6, 5), dead(net.normal(6, 3, 1, 1), 0, [2, 3]))
        y = net("Conv", y, net.normal(9, 2, 3, 3), group=3)
        return net.model(net("Conv", net("Relu", y), net.normal(2, 9, 1, 1)))

    examine(Case("", build, most=4 * 3 + 6 * 2 * 9 + 6 * 2))


def test_grouped_conv_with_as_many_survivors_in_each_group() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = net("Conv", net.input("x", "N", 3, 6, 5), dead(net.normal(6, 3, 1, 1), 0, [0, 2, 5]))
        y = net("Conv", y, dead(net.normal(9, 2, 3, 3), 0, [1, 3, 8]), group=3)
        return net.model(net("Conv", net("Relu", y), net.normal(2, 9, 1, 1)))

    examine(Case("", build, most=3 * 3 + 6 * 1 * 9 + 6 * 2))


def test_grouped_conv_with_unequal_survivors_is_exact() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = net("Conv", net.input("x", "N", 3, 6, 5), dead(net.normal(6, 3, 1, 1), 0, [0, 1, 3]))
        y = net("Conv", y, dead(net.normal(9, 2, 3, 3), 0, [4]), group=3)
        return net.model(net("Conv", net("Relu", y), net.normal(2, 9, 1, 1)))

    examine(Case("", build, most=4 * 3 + 6 * 2 * 9 + 6 * 2))  # the first group goes at least


def test_a_dead_input_of_one_group_alone_kills_no_other() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = net("Conv", net.input("x", "N", 6, 6, 5), net.normal(6, 6, 1, 1))
        w = net.normal(4, 3, 1, 1)
        w[:2, 1] = 0  # channel 1 is read by nobody, channel 4 by the other group
        y = net("Conv", y, w, group=2)
        return net.model(y)

    examine(Case("", build, least=5 * 6))


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(
    "row", [{}, {"strides": 2}, {"strides": 2, "output_padding": 1}, {"pads": 1}, {"dilations": 2}], ids=str
)
@pytest.mark.parametrize("bias", [False, True])
def test_conv_transpose(rank: int, row: dict[str, Any], bias: bool) -> None:
    attributes = _attributes(row, rank)
    if "output_padding" in row:
        attributes["output_padding"] = [1] * rank

    def build() -> onnx.ModelProto:
        net = Net()
        y = net("Conv", net.input("x", "N", 3, *SIZES[rank]), dead(net.normal(5, 3, *[1] * rank), 0, [1, 2]))
        w = dead(net.normal(5, 7, *[3] * rank), 1, [0, 3])
        extra = [net.normal(7)] if bias else []
        y = net("Relu", net("ConvTranspose", y, w, *extra, **attributes))
        return net.model(net("Conv", y, net.normal(2, 7, *[1] * rank), net.normal(2)))

    examine(Case("", build, most=3 * 3 + 3 * 5 * 3**rank + 5 * bias + 5 * 2 + 2))


def test_conv_transpose_in_groups() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = net("Conv", net.input("x", "N", 3, 6, 5), dead(net.normal(6, 3, 1, 1), 0, [2, 3]))
        y = net("ConvTranspose", y, net.normal(6, 2, 2, 2), group=3, strides=[2, 2])
        return net.model(net("Conv", y, net.normal(2, 6, 1, 1)))

    examine(Case("", build, most=4 * 3 + 4 * 2 * 4 + 4 * 2))


def test_a_constant_before_a_conv_transpose_is_no_bias() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = net("Sigmoid", net("Conv", net.input("x", "N", 3, 4, 4), dead(net.normal(5, 3, 1, 1), 0, [1, 2])))
        y = net("ConvTranspose", y, net.normal(5, 4, 3, 3), strides=[2, 2])  # its windows overlap unevenly
        return net.model(net("Conv", y, net.normal(2, 4, 1, 1)))

    examine(Case("", build, least=3 * 3 + 3 * 4 * 9 + 4 * 2 + 1))


GEMMS = [
    dict(transB=tb, alpha=alpha, beta=beta, bias=bias)
    for tb in (0, 1)
    for alpha, beta in ((1.0, 1.0), (0.5, 2.0), (1.5, 0.0))
    for bias in ((), (7,), (1, 7), (1,), (1, 1), None)
]


@pytest.mark.parametrize("row", GEMMS, ids=str)
def test_gemm(row: dict[str, Any]) -> None:
    bias = row["bias"]

    def build() -> onnx.ModelProto:
        net = Net()
        w = dead(net.normal(7, 3), 0, [1, 4, 6])
        extra = [] if bias is None else [net.normal(*bias)]
        w = w if row["transB"] else w.T.copy()
        y = net("Gemm", net.input("x", "N", 3), w, *extra, transB=row["transB"], alpha=row["alpha"], beta=row["beta"])
        y = net("Relu", y)
        return net.model(net("Gemm", y, net.normal(2, 7), net.normal(2), transB=1))

    numbers = 0 if bias is None else 4 if 7 in bias else 1
    examine(Case("", build, most=4 * 3 + numbers + 4 * 2 + 2))


def test_gemm_with_the_constant_on_the_left_and_trans_a() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        x = net.input("x", "N", 3)
        y = net("Gemm", dead(net.normal(3, 7), 1, [1, 4, 6]), x, transA=1, transB=1)  # (7, N)
        return net.model(net("Gemm", net("Relu", y), net.normal(7, 2), transA=1))  # (N, 2)

    examine(Case("", build, most=4 * 3 + 4 * 2))


@pytest.mark.parametrize("lead", [(), (1,), (4,)])
def test_matmul_with_the_constant_on_the_right(lead: tuple[int, ...]) -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = net("MatMul", net.input("x", "N", 4, 5, 3), dead(net.normal(*lead, 3, 7), -1, [1, 4, 6]))
        return net.model(net("MatMul", net("Relu", y), net.normal(*lead, 7, 2)))

    batches = 4 if lead == (4,) else 1
    examine(Case("", build, most=batches * (4 * 3 + 4 * 2), batches=(1, 5)))


def test_matmul_with_the_constant_on_the_left() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = net("MatMul", dead(net.normal(7, 3), 0, [1, 4, 6]), net.input("x", "N", 3, 5))
        return net.model(net("MatMul", net.normal(2, 7), net("Relu", y)))

    examine(Case("", build, most=4 * 3 + 4 * 2, batches=(1, 5)))


def test_matmul_with_a_vector() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = net("MatMul", net.input("x", "N", 4, 3), dead(net.normal(3, 7), 1, [1, 4, 6]))
        return net.model(net("MatMul", net("Relu", y), net.normal(7)))

    examine(Case("", build, most=4 * 3 + 4, batches=(1, 5)))


def test_matmul_of_two_values_contracts_what_lives_on_both_sides() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        x = net.input("x", "N", 4, 3)
        q = net("MatMul", x, dead(net.normal(3, 7), 1, [1, 4]))
        k = net("MatMul", x, dead(net.normal(3, 7), 1, [4, 6]))
        return net.model(net("MatMul", q, net("Transpose", k, perm=[0, 2, 1])))

    examine(Case("", build, most=2 * 3 * 4))  # 0, 2, 3, 5 live on both


def test_a_linear_layer_through_a_transposed_weight() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        w = net("Transpose", dead(net.normal(7, 3), 0, [1, 4, 6]), perm=[1, 0])
        y = net("Add", net("MatMul", net.input("x", "N", 4, 3), w), net.normal(7))
        return net.model(net("MatMul", net("Relu", y), net("Transpose", net.normal(2, 7), perm=[1, 0])))

    # Relu of the bias of a dead feature is a constant: two numbers of a bias for the next layer at most.
    examine(Case("", build, most=4 * 3 + 4 + 4 * 2 + 2, gone=("Transpose",)))


def test_rows_of_a_constant_are_absorbed_into_the_next_bias() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = net("Gemm", net.input("x", "N", 3), dead(net.normal(7, 3), 0, [1, 4, 6]), net.normal(7), transB=1)
        return net.model(net("Gemm", net("Sigmoid", y), net.normal(2, 7), transB=1))  # no bias yet

    examine(Case("", build, most=4 * 3 + 4 + 4 * 2 + 2))


def test_a_dead_network_is_a_constant() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = net("Gemm", net.input("x", "N", 3), np.zeros((7, 3), np.float32), net.normal(7), transB=1)
        return net.model(net("Gemm", net("Sigmoid", y), net.normal(2, 7), net.normal(2), transB=1))

    examine(Case("", build, most=2, gone=("Gemm", "Sigmoid")))


def test_channels_that_nobody_reads_die() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = net("Conv", net.input("x", "N", 3, 6, 5), net.normal(7, 3, 3, 3), net.normal(7))
        y = net("Conv", net("Sigmoid", y), dead(net.normal(2, 7, 3, 3), 1, [0, 5]), pads=[1, 1, 1, 1])
        return net.model(y)

    examine(Case("", build, most=5 * 28 + 5 * 18))


def test_what_a_dead_output_reads_is_not_read() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = net("Gemm", net.input("x", "N", 3), net.normal(7, 3), transB=1)
        w = np.zeros((4, 7), np.float32)
        w[0, :3], w[1, 3:5], w[2, 5:] = net.normal(3), net.normal(2), net.normal(2)
        y = net("Gemm", net("Relu", y), w, net.normal(4), transB=1)
        return net.model(net("Gemm", net("Relu", y), dead(net.normal(2, 4), 1, [1, 3]), net.normal(2), transB=1))

    # Output 1 is not read, so features 3 and 4 are not either; 3 is dead.
    examine(Case("", build, most=5 * 3 + 2 * 5 + 2 + 2 * 2 + 2))


def test_einsum_is_carried_through() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = net("MatMul", net.input("x", "N", 4, 3), dead(net.normal(3, 7), 1, [1, 4, 6]))
        return net.model(net("Einsum", y, net.normal(7, 2), equation="abk,ko->abo"))

    examine(Case("", build, stays=("Einsum",)))


# -- constants in front of zero padding -------------------------------------------------------------------------------

BORDERS: list[dict[str, Any]] = [
    row for row in CONVS if "pads" in row or str(row.get("auto_pad", "")).startswith("SAME")
]


def _constants(net: Net, x: str, rank: int, channels: int = 7) -> str:
    """Channels of which 1, 4 and 6 are Sigmoid of a bias."""
    w = dead(net.normal(channels, 3, *[1] * rank), 0, [1, 4, 6])
    return net("Sigmoid", net("Conv", x, w, net.normal(channels)))


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("row", BORDERS, ids=str)
@pytest.mark.parametrize("bias", [False, True])
def test_constants_before_zero_padding_become_a_map(rank: int, row: dict[str, Any], bias: bool) -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = _constants(net, net.input("x", "N", 3, *SIZES[rank]), rank)
        extra = [net.normal(5)] if bias else []
        y = net("Conv", y, net.normal(5, 7, *[3] * rank), *extra, **_attributes(row, rank))
        return net.model(net("Conv", y, net.normal(2, 5, *[1] * rank)))

    # At most as many kinds of windows as taps.
    examine(Case("", build, most=4 * 3 + 4 + 4 * 5 * 3**rank + 5 * 3**rank + 2 * 5, stays=("Add",)))


@pytest.mark.parametrize("row", BORDERS, ids=str)
def test_constants_before_zero_padding_become_one_plane_where_the_image_has_any_size(row: dict[str, Any]) -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = _constants(net, net.input("x", "N", 3, "H", "W"), 2)
        y = net("Conv", y, net.normal(5, 7, 3, 3), **_attributes(row, 2))
        return net.model(net("Conv", y, net.normal(2, 5, 1, 1)))

    planes = 4 + 1
    examine(Case("", build, most=planes * 3 + planes + planes * 5 * 9 + 2 * 5, least=planes * 5 * 9, batches=(2, 5)))


def test_one_plane_serves_every_reader() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = _constants(net, net.input("x", "N", 3, "H", "W"), 2)
        one = net("Conv", y, dead(net.normal(5, 7, 3, 3), 1, [1]), pads=[1] * 4)
        other = net("Conv", net("Relu", y), dead(net.normal(5, 7, 3, 3), 1, [6]), pads=[1] * 4)
        return net.model(net("Conv", net("Concat", one, other, axis=1), net.normal(2, 10, 1, 1)))

    examine(Case("", build, most=5 * 3 + 5 + 2 * 5 * 5 * 9 + 2 * 10, batches=(1, 5)))


def test_a_plane_that_stays_anyway_stands_for_the_others() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = _constants(net, net.input("x", "N", 3, 6, 5), 2)
        kept = net("Conv", y, net.normal(7, 1, 3, 3), group=7, pads=[1] * 4)  # a border in every channel
        kept = net("Gather", kept, np.array([0, 4]), axis=1)
        y = net("Conv", y, net.normal(5, 7, 3, 3), pads=[1] * 4)
        return net.model(net("Conv", net("Concat", y, kept, axis=1), net.normal(2, 7, 1, 1)))

    examine(Case("", build, most=5 * 3 + 5 + 2 * 9 + 5 * 5 * 9 + 2 * 7))


def test_constants_before_zero_padding_that_is_not_read_need_neither() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = _constants(net, net.input("x", "N", 3, 6, 5), 2)
        w = net.normal(5, 7, 3, 3)
        w[:, :, [0, 2]], w[:, :, :, [0, 2]] = 0, 0  # only the middle tap, which is never on the padding
        return net.model(net("Conv", net("Conv", y, w, pads=[1] * 4), net.normal(2, 5, 1, 1)))

    examine(Case("", build, least=4 * 3 + 4 + 4 * 5 * 9 + 2 * 5, stays=("Conv",)))


def test_tiny_constants_do_not_stand_for_large_ones() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        bias = np.array([0.3, 1e-30, 0.1, -0.2, 2.0, 0.7, 3.0], np.float32)
        y = net("Conv", net.input("x", "N", 3, "H", "W"), dead(net.normal(7, 3, 1, 1), 0, [1, 4, 6]), bias)
        y = net("Conv", y, net.normal(5, 7, 3, 3), pads=[1] * 4)
        return net.model(net("Conv", y, net.normal(2, 5, 1, 1)))

    examine(Case("", build, most=5 * 3 + 5 + 5 * 5 * 9 + 2 * 5, batches=(1, 5)))


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize(
    "row",
    [{}, {"strides": 2}, {"strides": 2, "output_padding": 1}, {"pads": 1}, {"dilations": 2}, {"strides": 2, "pads": 1}],
    ids=str,
)
def test_constants_before_a_conv_transpose_become_a_map(rank: int, row: dict[str, Any]) -> None:
    attributes = _attributes(row, rank)
    if "output_padding" in row:
        attributes["output_padding"] = [1] * rank

    def build() -> onnx.ModelProto:
        net = Net()
        y = _constants(net, net.input("x", "N", 3, *SIZES[rank]), rank)
        y = net("ConvTranspose", y, net.normal(7, 5, *[4] * rank), net.normal(5), **attributes)
        return net.model(net("Conv", y, net.normal(2, 5, *[1] * rank)))

    # More kinds of windows than taps where dilation leaves holes: one plane then.
    examine(Case("", build, most=5 * 3 + 5 + 5 * 5 * 4**rank + 5 * 4**rank + 2 * 5, least=4 * 5 * 4**rank))


@pytest.mark.parametrize("sizes", [(6, 5), ("H", "W")], ids=str)
@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_constants_before_a_padded_convolution_in_groups(op: str, sizes: tuple[int | str, ...]) -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        w = dead(net.normal(12, 3, 1, 1), 0, [0, 1, 4, 5, 8])
        y = net("Sigmoid", net("Conv", net.input("x", "N", 3, *sizes), w, net.normal(12)))
        shape = (9, 4, 3, 3) if op == "Conv" else (12, 3, 3, 3)
        y = net(op, y, net.normal(*shape), group=3, pads=[1] * 4)
        return net.model(net("Conv", y, net.normal(2, 9, 1, 1)))

    # Two, two and three of four live; with one plane a group three, three and four, but the last has three alive.
    width = 3 if sizes == (6, 5) else 4
    most = 3 * width * 3 + 3 * width + 9 * width * 9 + 9 * 9 + 2 * 9
    examine(Case("", build, most=most, batches=(1, 5)))


def test_a_batched_product_merges_its_constants() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = net("MatMul", net.input("x", "N", 4, 5, 3), dead(net.normal(3, 7), 1, [1, 4, 6]))
        y = net("Sigmoid", net("Add", y, net.normal(7)))
        return net.model(net("MatMul", net("MatMul", y, net.normal(4, 7, 5)), net.normal(5, 2)))

    examine(Case("", build, most=5 * 3 + 5 + 4 * 5 * 5 + 5 * 2, batches=(1, 5)))


# -- groups that keep equally many ------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
@pytest.mark.parametrize(
    "lost", [[], [5], [4, 5], [3, 4, 5], [0, 3, 6], [0, 1, 3, 6, 7], [0, 1, 2, 3, 4, 6, 8]], ids=str
)
@pytest.mark.parametrize("idle", [[], [0], [0, 1], [0, 2, 5], [0, 1, 3, 4, 5]], ids=str)
def test_groups_of_any_survivors(op: str, lost: list[int], idle: list[int]) -> None:
    """Inputs and outputs are filled up to the group that has most; groups without any are gone."""
    ins, outs = 2, 3
    live_in = np.isin(np.arange(6), idle, invert=True).reshape(3, ins)
    live_out = np.isin(np.arange(9), lost, invert=True).reshape(3, outs) & np.any(live_in, axis=1)[:, None]
    groups = live_out.any(axis=1) & live_in.any(axis=1)
    wide, high = (int(live.sum(axis=1).max(initial=0)) for live in (live_in[groups], live_out))
    count = int(groups.sum())

    def build() -> onnx.ModelProto:
        net = Net()
        y = net("Conv", net.input("x", "N", 3, 6, 5), dead(net.normal(6, 3, 1, 1), 0, idle))
        w = net.normal(9, ins, 3, 3) if op == "Conv" else net.normal(6, outs, 3, 3)
        y = net(op, y, w, net.normal(9), group=3, pads=[1] * 4)
        return net.model(net("Conv", net("Relu", y), dead(net.normal(2, 9, 1, 1), 1, lost), net.normal(2)))

    most = count * wide * 3 + count * high * wide * 9 + count * high + count * high * 2 + 2
    examine(Case("", build, most=most))


def test_filters_of_depthwise_channels_go_where_every_channel_loses_as_many() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = net("Conv", net.input("x", "N", 4, 6, 5), net.normal(8, 1, 3, 3), group=4)
        return net.model(net("Conv", net("Relu", y), dead(net.normal(2, 8, 1, 1), 1, [1, 2, 4, 7])))

    examine(Case("", build, most=4 * 9 + 4 * 2))


def test_filters_of_depthwise_channels_stay_where_one_channel_needs_both() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = net("Conv", net.input("x", "N", 4, 6, 5), net.normal(8, 1, 3, 3), group=4)
        return net.model(net("Conv", net("Relu", y), dead(net.normal(2, 8, 1, 1), 1, [1, 2, 4])))

    examine(Case("", build, least=8 * 9))


def test_constants_without_padding_go_into_the_bias_of_groups() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = net("Conv", net.input("x", "N", 3, 6, 5), dead(net.normal(6, 3, 1, 1), 0, [0, 3, 4]), net.normal(6))
        y = net("Conv", net("Sigmoid", y), net.normal(9, 2, 3, 3), group=3)
        return net.model(net("Conv", y, net.normal(2, 9, 1, 1)))

    examine(Case("", build, most=3 * 3 + 3 + 9 * 9 + 9 + 2 * 9))


def test_a_group_is_read_from_a_stream_that_keeps_more() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = net("Conv", net.input("x", "N", 3, 6, 5), net.normal(6, 3, 1, 1))
        w = net.normal(6, 2, 3, 3)
        w[:2], w[2:4, 0], w[4:, 1] = 0, 0, 0
        z = net("Conv", y, w, group=3)
        return net.model(net("Conv", z, net.normal(2, 6, 1, 1)), y)

    examine(Case("", build, most=6 * 3 + 4 * 9 + 2 * 4))


@pytest.mark.parametrize("number", [np.nan, np.inf], ids=str)
def test_constants_stay_where_a_weight_is_not_finite(number: float) -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = _constants(net, net.input("x", "N", 3, 6, 5), 2)
        w = net.normal(5, 7, 3, 3)
        w[2, 4, 0, 0] = number
        return net.model(net("Conv", y, w, pads=[1] * 4))

    examine(Case("", build, least=7 * 45, finite=False))


@pytest.mark.parametrize("plan", ["smallest", "fastest"])
@pytest.mark.parametrize("sizes", [(6, 5), ("H", "W")], ids=str)
@pytest.mark.parametrize("group", [1, 2])
def test_maps_planes_and_groups_are_finished_at_once(plan: str, sizes: tuple[int | str, ...], group: int) -> None:
    net = Net()
    w = dead(net.normal(12, 3, 1, 1), 0, [0, 1, 4, 5, 8, 9, 10])
    y = net("Sigmoid", net("Conv", net.input("x", "N", 3, *sizes), w, net.normal(12)))
    z = net("Relu", net("Conv", y, net.normal(8, 12 // group, 3, 3), group=group, pads=[1] * 4))
    z = net("Conv", z, dead(net.normal(6, 8, 3, 3), 0, [2, 3]), net.normal(6), pads=[1] * 4)
    model = net.model(net("Conv", net("Tanh", z), net.normal(2, 6, 3, 3), pads=[1] * 4))
    expected = check.Expected.of(model, (1, 5))
    once = check.optimized(model, "optimize", plan=plan).model
    expected.compare(models.serialize(once), "optimize")
    again = check.optimized(once, "optimize", plan=plan).model
    assert stats(again) == stats(once)
    assert [node.op_type for node in again.graph] == [node.op_type for node in once.graph]
