"""What can only be removed together, operator by operator: proved in onnxruntime with zeros and with other numbers."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from graphopt import runtime
from graphopt.facts.constants import Constants
from graphopt.facts.walk import analyse
from graphopt.pipeline import prepared
from graphopt.plan.couplings import Couplings, couplings
from graphopt.plan.walk import walk
from tests.ops.net import Net

RNG = np.random.default_rng(5)


def _w(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def _found(proto: onnx.ModelProto, fixed: tuple[str, ...] = ()) -> Couplings:
    """The couplings of a model of which all other constants of floats are parameters; each one proved."""
    model = prepared(proto, plan="smallest").model
    names = {one.name for one in proto.graph.initializer if one.data_type == onnx.TensorProto.FLOAT} - {*fixed}
    found = couplings(model, names)
    feeds = {
        one.name: RNG.normal(size=[d.dim_value or 2 for d in one.type.tensor_type.shape.dim]).astype(np.float32)
        for one in proto.graph.input
    }
    before = _run(proto, feeds)
    for coupling in found.found:
        # Zeros in what writes a unit; then anything at all in what is said to be dead with it.
        zero, other, stays = onnx.ModelProto(), onnx.ModelProto(), onnx.ModelProto()
        zero.CopyFrom(proto)
        for member in coupling.members:
            if member.writes:
                _set(zero, member.parameter, member.axis, member.index[0], False)
        other.CopyFrom(zero)
        stays.CopyFrom(zero)
        for member in coupling.members:
            if not member.writes:
                _set(other, member.parameter, member.axis, member.index[0], True)
                _set(stays, member.parameter, member.axis, member.index[-1], True)
        removed = _run(zero, feeds)
        assert not _equal(removed, before)
        assert _equal(_run(other, feeds), removed)
        if coupling.units > 1 and any(not member.writes for member in coupling.members):
            assert not _equal(_run(stays, feeds), removed)
    return found


def _set(proto: onnx.ModelProto, name: str, axis: int, index: np.ndarray, random: bool) -> None:
    tensor = next(one for one in proto.graph.initializer if one.name == name)
    array = numpy_helper.to_array(tensor).copy()
    part = np.moveaxis(array, axis, 0)
    part[index] = 3 * _w(*part[index].shape) if random else 0
    tensor.CopyFrom(numpy_helper.from_array(array, name))


def _run(proto: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    return runtime.run(runtime.session(ir.from_proto(proto)), feeds)


def _equal(a: list[np.ndarray], b: list[np.ndarray]) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def _forms(found: Couplings) -> list[tuple[int, list[tuple[int, int, bool]]]]:
    """Units, and (axis of a parameter, positions a unit, writes) of each coupling."""
    return [(one.units, [(each.axis, each.index.shape[1], each.writes) for each in one.members]) for one in found.found]


def _conv(net: Net, x: str, inputs: int, outputs: int) -> str:
    return net("Conv", x, _w(outputs, inputs, 1, 1), _w(outputs))


@pytest.mark.parametrize("units", [1, 2, 7])
@pytest.mark.parametrize("function", ["Relu", "Sigmoid", "Softplus", "HardSwish", "Tanh"])
def test_behind_what_makes_a_constant_of_zero_the_reader_is_zeroed(units: int, function: str) -> None:
    net = Net()
    x = _conv(net, net.input("x", 1, 3, 4, 4), 3, units)
    found = _found(net.model(_conv(net, net(function, x), units, 2)))
    shown = function in ("Sigmoid", "Softplus")
    expected = [(0, 1, not shown), (0, 1, not shown), (1, 1, shown)]
    assert _forms(found) == [(units, expected)]


def test_a_parameter_that_happens_to_be_zero_is_no_constant() -> None:
    """Biases begin at zero and norms at one: what they are today says nothing of tomorrow."""
    net = Net()
    x = net("MatMul", net.input("x", 2, 3), _w(3, 5))
    x = net("LeakyRelu", net("Add", x, np.zeros(5, np.float32)))
    found = _found(net.model(net("MatMul", x, _w(5, 2))))
    assert _forms(found) == [(5, [(1, 1, True), (0, 1, True), (0, 1, False)])]


def test_the_same_is_found_whatever_was_zeroed_before() -> None:
    net = Net()
    x = net.input("x", 1, 3, 4, 4)
    for inputs, outputs in ((3, 6), (6, 5), (5, 2)):
        x = net("LeakyRelu", _conv(net, x, inputs, outputs))
    proto = net.model(x)
    before = _forms(_found(proto))
    for place, index in ((0, [0, 4]), (1, [0, 4]), (2, [1, 2, 3])):
        _set(proto, proto.graph.initializer[place].name, 0, np.array(index), False)
    model = prepared(proto, plan="smallest").model
    assert _forms(couplings(model, {one.name for one in proto.graph.initializer})) == before


def test_concatenation_and_split_couple_parts() -> None:
    net = Net()
    x = net.input("x", 1, 3, 4, 4)
    a, b = _conv(net, x, 3, 4), _conv(net, x, 3, 6)
    first, second = net.many("Split", net("Concat", a, b, axis=1), [5, 5], outputs=2, axis=1)
    found = _found(net.model(_conv(net, net("Mul", first, second), 5, 2)))
    # Channel 0 of a is multiplied with channel 1 of b (5 = 4 + 1), and so on; the last of the first half with b's.
    # Channel i of the concatenation is multiplied with channel i + 5: four of a with one of b each, two of b.
    assert sorted((one.units, len(one.members)) for one in found.found) == [(1, 3), (4, 5)]


@pytest.mark.parametrize(("groups", "inputs", "outputs", "units"), [(2, 6, 4, 3), (3, 3, 6, 3), (5, 5, 5, 5)])
def test_groups_of_a_convolution_stay_alike(groups: int, inputs: int, outputs: int, units: int) -> None:
    """In front: equal ranks of all groups, or each group by itself where it has one input."""
    net = Net()
    x = net("LeakyRelu", _conv(net, net.input("x", 1, 3, 4, 4), 3, inputs))
    y = net("Conv", x, _w(outputs, inputs // groups, 3, 3), _w(outputs), group=groups, pads=[1, 1, 1, 1])
    found = _found(net.model(_conv(net, net("LeakyRelu", y), outputs, 2)))
    assert found.found[0].units == units
    assert found.found[0].members[0].index.shape == (units, inputs // units)


def test_a_padded_shortcut_couples_what_it_carries() -> None:
    net = Net()
    x = net("LeakyRelu", _conv(net, net.input("x", 1, 3, 4, 4), 3, 5))
    wide = net("Pad", x, [0, 1, 0, 0, 0, 2, 0, 0])
    found = _found(net.model(_conv(net, net("Add", wide, _conv(net, x, 5, 8)), 8, 2)))
    assert [(one.units, one.joined) for one in found.found] == [(5, True), (3, True)]


def test_a_padding_that_is_not_zero_is_seen_by_the_reader() -> None:
    net = Net()
    x = _conv(net, net.input("x", 1, 3, 4, 4), 3, 4)
    x = net("Pad", x, [0, 0, 1, 1, 0, 0, 1, 1], np.array(2, np.float32))
    found = _found(net.model(_conv(net, x, 4, 2)))
    assert [each.writes for each in found.found[0].members] == [False, False, True]


def test_pixel_shuffle_joins_channels() -> None:
    net = Net()
    x = net("DepthToSpace", _conv(net, net.input("x", 1, 3, 4, 4), 3, 12), blocksize=2, mode="CRD")
    found = _found(net.model(_conv(net, net("LeakyRelu", x), 3, 2)))
    assert _forms(found) == [(3, [(0, 4, True), (0, 4, True), (1, 1, False)])]


@pytest.mark.parametrize("centred", [True, False])
def test_norms_of_a_stream(centred: bool) -> None:
    """What is taken off the mean is no zero where no scale and shift make it one: then the reader is zeroed."""
    net = Net(opset=23)
    x = net("MatMul", net.input("x", 2, 3), _w(3, 6))
    ones = net.constant(np.ones(6, np.float32))
    y = net("LayerNormalization" if centred else "RMSNormalization", x, ones)
    found = _found(net.model(net("MatMul", y, _w(6, 2))), fixed=(ones,))
    assert [each.writes for each in found.found[0].members] == [True, centred]
    net = Net(opset=23)
    x = net("MatMul", net.input("x", 2, 3), _w(3, 6))
    y = net("LayerNormalization", x, _w(6), _w(6)) if centred else net("RMSNormalization", x, _w(6))
    found = _found(net.model(net("MatMul", y, _w(6, 2))))
    assert [each.writes for each in found.found[0].members] == [True] * (3 if centred else 2) + [False]


def _attention(keys: int, heads: int, cached: bool) -> onnx.ModelProto:
    net = Net(opset=23)
    x = net.input("x", 1, 5, 6)

    def split(count: int) -> str:
        return net("Transpose", net("Reshape", net("MatMul", x, _w(6, count * 2)), [0, 0, count, 2]), perm=[0, 2, 1, 3])

    q, k, v = split(heads), split(keys), split(keys)
    wide = [k, v]
    if keys != heads:
        wide = [
            net("Reshape", net("Expand", net("Unsqueeze", one, [2]), [1, keys, heads // keys, 5, 2]), [0, heads, 5, 2])
            for one in wide
        ]
    scores = net("Softmax", net("MatMul", q, net("Transpose", wide[0], perm=[0, 1, 3, 2])), axis=-1)
    y = net("Transpose", net("MatMul", scores, wide[1]), perm=[0, 2, 1, 3])
    y = net("MatMul", net("Reshape", y, [0, 0, heads * 2]), _w(heads * 2, 4))
    return net.model(*((y, k, v) if cached else (y,)))


def test_heads() -> None:
    found = _found(_attention(3, 3, cached=False))
    (one,) = found.found
    assert one.attends and one.units == 3
    assert [(each.index.shape[1], each.writes) for each in one.members] == [
        (2, False),
        (2, False),
        (2, True),
        (2, False),
    ]


def test_heads_that_share_their_keys() -> None:
    """Whole groups where keys may leave; where they are shown, single query heads by the columns that read them."""
    (one,) = _found(_attention(2, 6, cached=False)).found
    assert one.units == 2 and [each.index.shape[1] for each in one.members] == [6, 2, 2, 6]
    (one,) = _found(_attention(2, 6, cached=True)).found
    assert one.units == 6
    assert [(each.axis, each.index.shape[1], each.writes) for each in one.members] == [(1, 2, False), (0, 2, True)]
    assert _found(_attention(2, 2, cached=True)).found == ()  # no copies: the keys are the heads'


def test_attention_as_one_operator() -> None:
    net = Net(opset=23)
    x = net.input("x", 1, 5, 6)
    q, k, v = (net("MatMul", x, _w(6, width)) for width in (8, 4, 4))
    y = net("Attention", q, k, v, q_num_heads=4, kv_num_heads=2)
    (one,) = _found(net.model(net("MatMul", y, _w(8, 3)))).found
    assert one.attends and one.units == 2
    assert [(each.index.shape[1], each.writes) for each in one.members] == [
        (4, False),
        (2, False),
        (2, True),
        (4, False),
    ]


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda net, x: net("Softmax", x, axis=1), "Softmax normalizes over this axis"),
        (lambda net, x: net("CumSum", x, np.array(1)), "CumSum"),
        (lambda net, x: net.many("TopK", x, [5], outputs=2, axis=1)[0], "TopK"),
        (lambda net, x: net("Exp", net("ReduceSum", net("Sigmoid", x), [1])), "a constant that is not zero"),
    ],
)
def test_what_needs_the_whole_axis_keeps_it(build, reason: str) -> None:
    net = Net()
    x = _conv(net, net.input("x", 1, 3, 4, 4), 3, 5)
    found = _found(net.model(build(net, x)))
    assert not found.found and reason in found.pinned["const1"]


def test_recurrent_states_and_branches_keep_what_they_read() -> None:
    net = Net()
    x = net("MatMul", net.input("x", 4, 2, 3), _w(3, 5))
    y = net.many("LSTM", x, _w(1, 12, 5), _w(1, 12, 3), outputs=3, hidden_size=3)[0]
    found = _found(net.model(y))
    assert not found.found and "LSTM ties its states" in found.pinned["const1"]


def test_size_zero() -> None:
    net = Net()
    x = net("MatMul", net.input("x", 2, 3), _w(3, 0))
    assert _forms(_found(net.model(net("MatMul", x, _w(0, 2))))) == []


def test_linear_in_the_size_of_the_graph() -> None:
    """Eight times the layers: eight times the cells and the ties, exactly, but for the first and the last."""

    def cells(layers: int) -> tuple[int, int, int]:
        net = Net()
        x = net("LeakyRelu", _conv(net, net.input("x", 1, 3, 4, 4), 3, 7))
        for _ in range(layers):
            x = net("LeakyRelu", net("Add", x, _conv(net, net("LeakyRelu", _conv(net, x, 7, 7)), 7, 7)))
        proto = net.model(_conv(net, x, 7, 2))
        model = prepared(proto, plan="smallest").model
        names = {one.name for one in proto.graph.initializer}
        walked = walk(analyse(model, Constants()), names)
        assert len(couplings(model, names).found) == layers + 1
        return walked.count, sum(a.size for a, _ in walked.ties), len(walked.travels)

    few, more, many = (np.array(cells(layers)) for layers in (1, 6, 41))
    assert ((many - more) == 7 * (more - few)).all()
