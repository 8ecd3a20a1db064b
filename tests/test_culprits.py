"""Who forces dead positions to stay is named: the operator, and the line of the net's source that it comes from."""

from __future__ import annotations

import inspect as source
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from graphopt import inspection
from graphopt.report.schema import AxisRow
from graphopt.torch_export import export
from tests.ops.net import Net, dead

DEAD = [1, 4, 6]


def inspected(model: onnx.ModelProto) -> inspection.Inspection:
    return inspection.inspect(model)


def staying(found: inspection.Inspection) -> list[AxisRow]:
    return [row for row in found.axes if row.stays]


def first(net: Net, gone: list[int] = DEAD, *, bias: bool = False) -> str:
    w = dead(net.normal(7, 3, 3, 3), 0, gone)
    more = [np.abs(net.normal(7))] if bias else []
    return net("Conv", net.input("x", "N", 3, 6, 5), w, *more, pads=[1] * 4)


def last(net: Net, y: str, k: int = 1) -> onnx.ModelProto:
    return net.model(net("Conv", y, net.normal(2, 7, k, k), pads=[k // 2] * 4))


def test_nothing_stays_where_everything_lets_go() -> None:
    net = Net()
    found = inspected(last(net, net("Relu", first(net)), 3))
    assert [(row.kept, row.stays) for row in found.axes] == [(4, 0)]
    assert found.axes[0].decided_by == "Conv2"  # its weights
    assert found.blockers == []


def test_a_barrier_behind_a_chain_is_named() -> None:
    """mask → relu → add → softmax: what is scattered back is for the Softmax."""
    net = Net()
    y = net("Add", net("Relu", first(net)), net.normal(7, 1, 1))
    y = net("Softmax", y, axis=1)
    found = inspected(last(net, y))
    (blocker,) = found.blockers
    assert "Softmax" in blocker and "Relu" not in blocker


def test_an_unknown_operator_is_named() -> None:
    net = Net()
    y = net("Unheard", net("Relu", first(net)), domain="elsewhere")
    found = inspected(_with_domain(net.model(y), "elsewhere"))
    (blocker,) = found.blockers
    assert "Unheard" in blocker


def _with_domain(model: onnx.ModelProto, domain: str) -> onnx.ModelProto:
    if not any(entry.domain == domain for entry in model.opset_import):
        model.opset_import.append(onnx.helper.make_opsetid(domain, 1))
    return model


def test_a_graph_output_is_named() -> None:
    net = Net()
    found = inspected(net.model(net("Relu", first(net))))
    (blocker,) = found.blockers
    assert "graph output" in blocker


def test_a_writer_that_is_alive_is_named() -> None:
    """A stream of which one writer is dead where the other lives: the other is why the stream keeps its width."""
    net = Net()
    x = net.input("x", "N", 3, 6, 5)
    y = net("Conv", x, dead(net.normal(7, 3, 1, 1), 0, DEAD), pads=[0] * 4)
    z = net("Conv", x, dead(net.normal(7, 3, 1, 1), 0, [0]))
    found = inspected(last(net, net("Add", y, z), 3))
    lines = [row.reason for row in staying(found)] + found.blockers
    assert lines and any("Add" in line or "alive" in line for line in lines)


def test_a_body_that_reads_a_value_is_named() -> None:
    net = Net()
    y = net("Relu", first(net))

    def branch(name: str, op: str) -> onnx.GraphProto:
        node = onnx.helper.make_node(op, [y], [name], name=f"{name}_node")
        result = onnx.helper.make_tensor_value_info(name, 1, ["N", 7, 6, 5])
        return onnx.helper.make_graph([node], name, [], [result])

    z = net("If", net.input("gate", dtype="b"), then_branch=branch("a", "Neg"), else_branch=branch("b", "Softmax"))
    found = inspected(last(net, z))
    lines = [*found.blockers, *(row.reason for row in staying(found))]
    assert any("If" in line or "b_node" in line for line in lines), lines


def test_zero_padding_over_constants_is_named() -> None:
    """Constants before a padded convolution cost a plane; the convolution that pads is why."""
    net = Net()
    y = net("Sigmoid", first(net))
    found = inspected(last(net, y, 3))
    rows = staying(found)
    if not rows:  # one plane carries them all: nothing dead stays as it was
        assert found.axes[0].kept <= 5
        return
    assert all("pads with zeros" in row.reason and row.decided_by.startswith("Conv") for row in rows)


def test_a_depthwise_convolution_that_pads_is_named() -> None:
    net = Net()
    y = net("Conv", net("Softplus", first(net)), net.normal(7, 1, 3, 3), group=7, pads=[1] * 4)
    (row,) = staying(inspected(last(net, y)))
    assert "Conv5 pads with zeros" in row.reason and row.decided_by == "Conv5"


def test_groups_that_keep_equally_many_are_named() -> None:
    net = Net()
    y = net("Conv", net.input("x", "N", 3, 6, 5), dead(net.normal(6, 3, 1, 1), 0, [1, 4, 5]))
    y = net("Conv", net("Relu", y), net.normal(9, 2, 3, 3), group=3, pads=[1] * 4)
    rows = staying(inspected(net.model(net("Conv", y, net.normal(2, 9, 1, 1)))))
    assert [("3 groups" in row.reason, row.decided_by) for row in rows] == [(True, "Conv5")]


def test_a_mask_that_is_dead_along_no_axis_says_so() -> None:
    net = Net()
    mask = np.ones((1, 7, 6, 5), np.float32)
    mask[0, 2, 3, 1] = mask[0, 5, 0, 0] = 0
    y = net("Mul", first(net, []), mask)
    found = inspected(last(net, y))
    (row,) = found.masks
    assert row.action == "kept" and "no whole position" in row.reason


@pytest.mark.parametrize("kind", ["dynamic", "soft"])
def test_masks_that_are_none(kind: str) -> None:
    net = Net()
    operand = net.input("mask", 7, 1, 1) if kind == "dynamic" else np.linspace(0, 1, 7, dtype=np.float32)[:, None, None]
    found = inspected(last(net, net("Mul", first(net, []), operand)))
    (row,) = found.masks
    assert row.kind == kind
    if row.action == "kept":
        assert ("graph input" if kind == "dynamic" else "not zero") in row.reason


class Stream(nn.Module):
    """Dead channels in front of a softmax over channels, and behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 7, 3, padding=1, bias=False)
        self.out = nn.Conv2d(7, 2, 1)
        with torch.no_grad():
            self.conv.weight[DEAD] = 0

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv(x))
        x = x + 1.5
        x = torch.softmax(x, 1)  # THE CULPRIT
        return self.out(x)


class Barrier(nn.Module):
    """A mask on an activation that is sorted along the masked axis."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 7, bias=False), nn.Linear(7, 2)
        self.register_buffer("mask", torch.tensor([1.0, 0, 1, 1, 0, 1, 0]))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x) * self.mask)
        x = torch.sort(x, -1).values  # THE CULPRIT
        return self.last(x)


def exported(module: nn.Module, *shape: int) -> object:
    return export(module.eval(), (torch.zeros(2, *shape),), dynamic_shapes=({0: "batch"},), verify=False)


def line_of(cls: type) -> str:
    """``File "…", line N`` of the comment in a class's source."""
    lines, start = source.getsourcelines(cls)
    number = start + next(i for i, line in enumerate(lines) if "THE CULPRIT" in line)
    return f'{Path(__file__).name}", line {number}'


@pytest.mark.parametrize(("cls", "shape"), [(Stream, (3, 6, 5)), (Barrier, (3,))])
def test_the_line_of_the_users_source_is_named(cls: type[nn.Module], shape: tuple[int, ...]) -> None:
    found = inspection.inspect(exported(cls(), *shape))
    assert any(line_of(cls) in line for line in found.blockers), found.blockers


def test_explain_names_the_line_too() -> None:
    model = exported(Stream(), 3, 6, 5)
    found = inspection.inspect(model)
    explained = inspection.explain(model, found.axes[0].value)
    assert any(line_of(Stream) in line for line in [*explained.facts, *explained.declined]), explained
