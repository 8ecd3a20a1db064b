"""To ONNX, with QuantizeLinear and DequantizeLinear whose parameters are the trained ones.

The float net is exported with its weights on their levels, and proved equal as every export is. Where a quantizer
stands, it multiplies by one: that node tells ``graphopt.quantization.qdq`` where to put its Q and DQ, and goes.
"""

from __future__ import annotations

import copy

import numpy as np
import onnx_ir as ir
from torch import Tensor, fx, nn

from graphopt import model as models
from graphopt import rounds
from graphopt.calibrate.solve import Parameters
from graphopt.errors import GraphoptError
from graphopt.passes.quantize.global_average import GlobalAverage
from graphopt.quantization.placement import Activation, Bias, Placement, Weight
from graphopt.quantization.qdq import insert
from graphopt.quantization.tables.onnxruntime_cpu import TABLE
from graphopt.rewrite.unused import remove_unused
from graphopt.train.family import Family
from graphopt.train.quantize import biases
from graphopt.train.quantize.fold import carry
from graphopt.train.quantize.layers import Layer, Quantizable
from graphopt.train.quantize.quantizers import ValueQuantizer
from graphopt.train.quantize.solve import CENTRED

_MOVES = frozenset(name for name, row in TABLE.rows.items() if row.role == "move")
TURNED = "_turned"
_PRODUCTS = ("Conv", "Gemm", "MatMul")

_OF_THE_FAMILY = (
    "the family's export has to export the net that it is given, with graphopt.torch_export.export, whose names tell "
    "what is where; optimizing the model, renaming what is in it, or folding constants comes later"
)


def exported(found: Quantizable, family: Family) -> ir.Model:
    """Return the net as an ONNX model with Q and DQ; the net is left as it is.

    Raises:
        GraphoptError: It cannot be exported, or a layer is not to be found in the exported graph.
    """
    model = family.export(marked(found))
    context = rounds.prepare(model, rounds.Settings((), target="cpu", plan="smallest"))
    _turn(model.graph)
    places = _places(model.graph, found)
    GlobalAverage().run(context)
    placement, parameters = Placement(), {}
    for name, node in places.items():
        _value(node, found.values[name], placement, parameters)
    for layer in found.layers:
        _weight(layer, found, model.graph, placement, parameters)
    insert(context, placement, parameters, {})
    for node in places.values():
        _bypass(node, model.graph)
    remove_unused(model.graph)
    return models.clone(model)


def marked(found: Quantizable) -> fx.GraphModule:
    """Return a copy on the CPU with weights on their levels, in which quantizers of values multiply by one."""
    net = copy.deepcopy(found.net).cpu().eval()
    carry(found.net, net)
    for layer in found.layers:
        _plain(net.get_submodule(layer.name))
    for module in net.modules():
        if isinstance(module, ValueQuantizer):
            module.marking = True
            # Tracing names only what is in the state; other buffers would be nameless constants.
            module.register_buffer("marker", module.marker, persistent=True)
    return net


def _plain(module: nn.Module) -> None:
    """Make the weight on its levels a plain parameter again.

    ``parametrize.remove_parametrizations`` would change the class of the module, which the original shares.
    """
    weight = module.weight
    assert isinstance(weight, Tensor)
    module.__class__ = type(module).__mro__[1]
    del module._modules["parametrizations"]
    module.register_parameter("weight", nn.Parameter(weight.detach().clone()))


def _places(graph: ir.Graph, found: Quantizable) -> dict[str, ir.Node]:
    """Return for each quantizer of a value an Identity where it stands, in place of the product with one."""
    names = {f"{name}.marker": name for name in found.values}
    places: dict[str, ir.Node] = {}
    for node in list(graph):
        marker = next((one for one in node.inputs if one is not None and one.name in names), None)
        if node.op_type != "Mul" or marker is None:
            continue
        value = next(one for one in node.inputs if one is not marker)
        same = ir.Node("", "Identity", [value], name=f"{names[str(marker.name)]}")
        out = same.outputs[0]
        out.name, out.type, out.shape = node.outputs[0].name, node.outputs[0].type, node.outputs[0].shape
        graph.insert_before(node, same)
        ir.convenience.replace_all_uses_with(node.outputs[0], out)
        graph.remove(node, safe=True)
        places[names[str(marker.name)]] = same
    lost = [name for name in found.values if name not in places]
    if lost:
        raise GraphoptError(
            "the ONNX model that the family exports lacks the place of a quantizer"
            + (f", and of {len(lost) - 1} more" if len(lost) > 1 else ""),
            lost[0],
            _OF_THE_FAMILY,
        )
    return places


def _value(
    node: ir.Node, quantizer: ValueQuantizer, placement: Placement, parameters: dict[ir.Value, Parameters]
) -> None:
    """Quantize a value at its place, and on both sides of whatever copies it there: numbers on levels stay on them."""
    found = Parameters(
        quantizer.scale.cpu().numpy().astype(np.float32),
        quantizer.zero_point.cpu().numpy().astype(np.int64),
        np.zeros(()),
        np.zeros(()),
        "trained",
    )
    _rectify(node, quantizer)
    ahead = [node.outputs[0]]
    before = node.inputs[0]
    producer = None if before is None else before.producer()
    while producer is not None and producer.op_type in _MOVES and len(producer.outputs[0].uses()) == 1:
        before = producer.inputs[0]
        assert before is not None
        if len(before.uses()) > 1 or before in placement.activations:
            break
        ahead.append(before)
        producer = before.producer()
    waiting = [node.outputs[0]]
    while waiting:
        value = waiting.pop()
        for use in value.uses():
            if use.node.op_type in _MOVES and use.idx == 0 and not use.node.outputs[0].is_graph_output():
                ahead.append(use.node.outputs[0])
                waiting.append(use.node.outputs[0])
                if TABLE.rows[use.node.op_type].direct:
                    placement.direct.append(use.node)
    for value in ahead:
        placement.activations[value] = Activation(value, quantizer.grid, share=str(node.name))
        parameters[value] = found


def _rectify(node: ir.Node, quantizer: ValueQuantizer) -> None:
    """Make a Relu of a Clip whose upper end the levels keep to: runtimes look at the range of the storage only."""
    before = node.inputs[0]
    clip = None if before is None else before.producer()
    if clip is None or clip.op_type != "Clip" or not quantizer.grid.clipped or quantizer.constraint.upper is None:
        return
    assert before is not None
    if len(before.uses()) == 1:
        clip.op_type = "Relu"
        clip.resize_inputs(1)


def _turn(graph: ir.Graph) -> None:
    """Store constants that the exporter transposes, reshapes or casts as they are read: weights, axes, ends."""
    for node in list(graph):
        if node.op_type not in ("CastLike", "Reshape", "Transpose"):
            continue
        value, array = node.inputs[0], _turned(node)
        if value is None or array is None:
            continue
        name = _free(f"{value.name}{TURNED}", array, graph)
        if name not in graph.initializers:
            tensor = ir.tensor(array, name=name)
            kind = ir.TensorType(tensor.dtype)
            graph.register_initializer(ir.Value(name=name, shape=ir.Shape(array.shape), type=kind, const_value=tensor))
        ir.convenience.replace_all_uses_with(node.outputs[0], graph.initializers[name])
        graph.remove(node, safe=True)


def _turned(node: ir.Node) -> np.ndarray | None:
    """Return what such a node makes of a constant; None of anything else."""
    first, *others = node.inputs
    if first is None or first.const_value is None or first.is_graph_input():
        return None
    array = first.const_value.numpy()
    if node.op_type == "Transpose":
        array = np.transpose(array, node.attributes.get_ints("perm", None))
    elif node.op_type == "CastLike":
        kind = _dtype(others[0])
        if kind is None:
            return None
        array = array.astype(kind.numpy())
    else:
        shape = None if others[0] is None else others[0].const_value
        if shape is None:
            return None
        array = array.reshape([int(size) for size in shape.numpy()])
    return np.array(array, order="C")  # numpy.ascontiguousarray makes rows of numbers


def _free(name: str, array: np.ndarray, graph: ir.Graph) -> str:
    """Return a name that is free, or belongs to the same numbers."""
    found, count = name, 1
    while found in graph.initializers:
        there = graph.initializers[found].const_value
        if there is not None and there.dtype.numpy() == array.dtype and np.array_equal(there.numpy(), array):
            break
        count += 1
        found = f"{name}{count}"
    return found


def _dtype(value: ir.Value | None) -> ir.DataType | None:
    """Return the type of a value; of what the exporter left without one in a function, that of its constant."""
    if value is None or value.dtype is not None or value.const_value is None:
        return None if value is None else value.dtype
    return value.const_value.dtype


def _weight(
    layer: Layer,
    found: Quantizable,
    graph: ir.Graph,
    placement: Placement,
    parameters: dict[ir.Value, Parameters],
) -> None:
    names = {f"{layer.name}.weight", f"{layer.name}.weight{TURNED}"}
    rows = copy.deepcopy(layer.module).cpu().weight.detach().flatten(1).numpy()
    readers = [
        (node, position)
        for node in graph
        for position, value in enumerate(node.inputs)
        if value is not None
        and value.name in names
        and node.op_type in _PRODUCTS
        and position == 1
        and _by_rows(node, value, rows)
    ]
    if not readers:
        raise GraphoptError(
            "the ONNX model that the family exports lacks the weight of a layer", f"{layer.name}.weight", _OF_THE_FAMILY
        )
    scale = layer.quantizer.scale.cpu().numpy().astype(np.float32)
    zero = np.zeros(scale.shape, np.int64)
    for node, position in readers:
        value = node.inputs[position]
        assert value is not None
        axis = TABLE.rows[node.op_type].channels
        row = Weight(value, layer.quantizer.grid, 0 if axis is None else axis(node), constraint=CENTRED)
        placement.weights.setdefault(value, row).readers.append((node, position))
        nothing = np.zeros(scale.shape)
        parameters[value] = Parameters(scale, zero, nothing, nothing, "trained")
        _bias(node, value, layer, found, placement)


def _by_rows(node: ir.Node, weight: ir.Value, rows: np.ndarray) -> bool:
    """Tell whether a node's channels are the layer's filters.

    They are not where the net multiplies by the weight the other way round, as ``linear(x, layer.weight.t())`` does:
    the scale of a filter is none of a channel there. That product stays in float, with the weight on its levels.
    """
    channels, tensor = TABLE.rows[node.op_type].channels, weight.const_value
    axis = None if channels is None else channels(node)
    if axis is None or tensor is None:
        return True
    found = np.moveaxis(tensor.numpy(), axis, 0)
    return np.array_equal(found.reshape(len(found), -1), rows)


def _bias(node: ir.Node, weight: ir.Value, layer: Layer, found: Quantizable, placement: Placement) -> None:
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    data = node.inputs[0]
    if bias is None or data not in placement.activations or biases.steps_of(found, layer) is None:
        return
    assert data is not None
    placement.biases.append(Bias(bias, node, 2, data, weight))


def _bypass(node: ir.Node, graph: ir.Graph) -> None:
    value = node.inputs[0]
    assert value is not None
    ir.convenience.replace_all_uses_with(node.outputs[0], value)
    graph.remove(node, safe=True)
