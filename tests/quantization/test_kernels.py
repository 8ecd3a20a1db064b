"""What really runs on integers, as onnxruntime's own graph says."""

from __future__ import annotations

import numpy as np
import onnx

from graphopt import model as models
from graphopt.quantization.kernels import confirmed, kernels
from graphopt.quantization.placement import Placement
from tests.ops.net import Net
from tests.quantization.placing import noise, quantized


def net() -> onnx.ModelProto:
    net = Net()
    y = net("Conv", net.input("x", "N", 4, 5, 5), net.normal(4, 4, 3, 3), net.normal(4))
    y = net("Flatten", net("MaxPool", net("Relu", y), kernel_shape=[3, 3]))
    return net.model(net("Gemm", y, net.normal(4, 3), net.normal(3)))


def test_a_float_model_has_no_integers() -> None:
    found = kernels(models.load(net()))
    assert found.integer_nodes == 0 and found.float_nodes == 2 and not found.integer


def test_names_are_those_of_the_model() -> None:
    proto = net()
    found = kernels(quantized(proto, noise(2, 4, 5, 5)))
    assert found.integer_nodes == 2 and found.float_nodes == 0
    conv, _, pool, _, gemm = (node.name for node in proto.graph.node)
    assert found.integer[conv] == "QLinearConv" and found.integer[gemm] == "QGemm"
    assert found.integer[pool] == "NhwcMaxPool"


def test_one_in_float_among_integers() -> None:
    proto = net()
    conv, *_, gemm = (node.name for node in proto.graph.node)
    found = kernels(quantized(proto, noise(2, 4, 5, 5), exclude=(gemm,)))
    assert found.floating == [(gemm, "Gemm")] and gemm not in found.integer and conv in found.integer


def test_what_was_planned_in_vain_is_said() -> None:
    """A convolution without Q behind it: the plan says integers, the runtime does not."""
    proto = net()
    model = models.load(proto)
    conv, gemm = (node for node in model.graph if node.op_type in ("Conv", "Gemm"))
    planned = Placement(nodes={conv: "Conv", gemm: "Gemm"})
    found = kernels(quantized(proto, noise(2, 4, 5, 5), exclude=(str(conv.name),)))
    after = confirmed(planned, found)
    assert after.nodes == {gemm: "QGemm"}
    assert [kept.node for kept in after.kept] == [conv] and planned.nodes[conv] == "Conv"


def test_an_empty_weight_free_model() -> None:
    net = Net()
    found = kernels(models.load(net.model(net("Relu", net.input("x", 0)))))
    assert not found.integer and not found.floating and isinstance(found.counts["Relu"], int)
    assert np.sum(list(found.counts.values())) == 1
