"""Which layers and values of a net are quantized, in the order in which the net runs; and the quantizers put there.

::

    conv -> relu -> Q(16) -> conv        what a layer reads has its levels
    conv -> relu -> Q(256) -> add        other values have 256 where a runtime would leave its integers else
                 -> Q(16) -> conv        a value that both read has both: the residual stream is not cut short

A value is quantized where it is computed, in front of whatever only copies numbers (a pool of maxima, a flattening):
there its channels are the neurons of the layer that made it.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from graphopt.calibrate.grid import levels
from graphopt.calibrate.solve import FREE, Constraint
from graphopt.errors import GraphoptError
from graphopt.train.quantize.fold import LAYERS, NORMS, shapes
from graphopt.train.quantize.quantizers import ValueQuantizer, WeightQuantizer
from graphopt.train.quantize.settings import EIGHT_BITS, QuantizeSettings

Kind = Literal["layer", "move", "relu", "sum", "average", "apart", "quantizer", "other"]
"""``move`` copies numbers, ``apart`` computes each channel by itself; of ``other`` nothing is known."""

_MODULES: tuple[tuple[tuple[type[nn.Module], ...], Kind], ...] = (
    (LAYERS, "layer"),
    ((nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.Flatten, nn.Identity, nn.modules.dropout._DropoutNd), "move"),
    ((nn.ReLU, nn.ReLU6), "relu"),
    ((nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d), "average"),
    ((nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, *NORMS), "apart"),
    ((nn.GELU, nn.Hardsigmoid, nn.Hardswish, nn.LeakyReLU, nn.SiLU, nn.Sigmoid, nn.Tanh), "apart"),
    ((ValueQuantizer,), "quantizer"),
)
_CALLS: dict[Any, Kind] = {
    **dict.fromkeys((torch.relu, torch.relu_, functional.relu, functional.relu6, "relu", "relu_"), "relu"),
    **dict.fromkeys((operator.add, operator.iadd, torch.add, "add", "add_"), "sum"),
    **dict.fromkeys((torch.flatten, torch.reshape, "flatten", "reshape", "view", "contiguous"), "move"),
    **dict.fromkeys((functional.max_pool1d, functional.max_pool2d, functional.max_pool3d), "move"),
    **dict.fromkeys((torch.max_pool1d, torch.max_pool2d, torch.max_pool3d), "move"),
    **dict.fromkeys((functional.dropout, functional.dropout1d, functional.dropout2d), "move"),
    **dict.fromkeys((torch.mean, "mean", functional.adaptive_avg_pool1d, functional.adaptive_avg_pool2d), "average"),
    **dict.fromkeys((functional.avg_pool1d, functional.avg_pool2d, functional.gelu, functional.silu), "apart"),
    **dict.fromkeys((torch.sigmoid, torch.tanh, "sigmoid", "tanh"), "apart"),
}


@dataclass(eq=False)
class Layer:
    """A layer whose weight is quantized.

    Attributes:
        name: Of its module.
        module: A convolution or a linear layer; its weight has a quantizer.
        quantizer: That of its weight.
        per_filter: Whether each filter has a scale of its own.
        inputs: Names of the quantizers of what it reads; several where it is called several times.
        made: Names of the quantizers whose channels are its filters: the last layer that a value comes from owns it.
    """

    name: str
    module: nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear
    quantizer: WeightQuantizer
    per_filter: bool = True
    inputs: list[str] = field(default_factory=list)
    made: list[str] = field(default_factory=list)

    @property
    def components(self) -> int:
        """How many filters it has."""
        return len(self.quantizer.scale)

    @property
    def latent(self) -> nn.Parameter:
        """What is trained: the weight in front of its quantizer."""
        return self.module.get_parameter("parametrizations.weight.original")

    @property
    def parameter(self) -> str:
        """Name of ``latent`` in the net."""
        return f"{self.name}.parametrizations.weight.original"


@dataclass(eq=False)
class Quantizable:
    """A net with quantizers that leave everything as it is until they are told otherwise.

    Attributes:
        net: A graph of the modules; those of layers keep their names.
        layers: In the order in which the net runs.
        values: Quantizers of values by name, in that order.
        readers: By name of a value's quantizer: the first layer that reads it; None: none does.
    """

    net: fx.GraphModule
    layers: list[Layer]
    values: dict[str, ValueQuantizer]
    readers: dict[str, Layer | None]


def quantizable(net: fx.GraphModule, settings: QuantizeSettings, example: tuple[Tensor, ...]) -> Quantizable:
    """Put quantizers into a folded net, in place. What several layers share is each one's own from then on.

    Raises:
        GraphoptError: It has no layer to quantize.
    """
    device = next((one.device for one in net.parameters()), torch.device("cpu"))
    shapes(net, tuple(one.to(device) for one in example))
    calls = [node for node in net.graph.nodes if kind(node, net) == "layer"]
    names = list(dict.fromkeys(str(node.target) for node in calls))
    if not names:
        raise GraphoptError("the net has no convolution and no linear layer", type(net).__name__)
    ends = {names[0], names[-1]}
    work = _Work(net, settings, {name: settings.of_inputs(name in ends) for name in names})
    for name in names:
        _untie(net, net.get_submodule(name))
    layers = {name: _layer(net, name, settings.of_weights(name in ends), settings.per_filter) for name in names}
    found = Quantizable(net, list(layers.values()), {}, {})
    for node in list(net.graph.nodes):
        _put(node, work, layers, found)
    for node in net.graph.nodes:
        if work.kind(node) == "quantizer":
            reading = [layers[str(one.target)] for one in _readers(node, work)]
            found.readers[str(node.target)] = min(reading, key=found.layers.index, default=None)
            for layer in dict.fromkeys(reading):
                layer.inputs.append(str(node.target))
    net.recompile()
    return found


def kind(node: fx.Node, net: fx.GraphModule) -> Kind:
    """Return what a node of the graph means to quantization."""
    if node.op == "call_module":
        module = net.get_submodule(str(node.target))
        for types, found in _MODULES:
            if isinstance(module, types):
                return found
        return "other"
    if node.op not in ("call_function", "call_method"):
        return "other"
    word: Kind = _CALLS.get(node.target, "other")
    tensors = [one for one in node.args if isinstance(one, fx.Node) and _shape(one) is not None]
    if word == "sum" and (len(tensors) != 2 or _shape(tensors[0]) != _shape(tensors[1]) or node.kwargs):
        return "other"
    if word == "average" and not _over_pixels(node):
        return "other"
    if (node.target is operator.getitem and _cut(node.args[1])) or (node.target is functional.pad and _zeros(node)):
        return "move"
    return word


def _cut(index: Any) -> bool:
    """Tell whether an index is of slices only, so that every axis stays where it is."""
    return all(isinstance(one, slice) for one in (index if isinstance(index, tuple) else (index,)))


def _zeros(node: fx.Node) -> bool:
    """Tell whether padding is with zero, which every quantizer has a level for."""
    mode, value = (
        node.kwargs.get(name, node.args[at] if len(node.args) > at else usual)
        for at, name, usual in ((2, "mode", "constant"), (3, "value", None))
    )
    return mode == "constant" and value in (None, 0)


def _over_pixels(node: fx.Node) -> bool:
    """Tell whether a mean is over all axes behind the channels, as a global pool is."""
    before, after = node.args[0] if node.args else None, _shape(node)
    shape = _shape(before) if isinstance(before, fx.Node) else None
    return shape is not None and after is not None and len(shape) > 2 and after[:2] == shape[:2] and _ones(after[2:])


def _ones(sizes: Iterable[int]) -> bool:
    return all(size == 1 for size in sizes)


def _shape(node: fx.Node) -> tuple[int, ...] | None:
    shape = getattr(node.meta.get("tensor_meta"), "shape", None)
    return None if shape is None else tuple(shape)


@dataclass
class _Work:
    """What is asked again and again while the quantizers are put in."""

    net: fx.GraphModule
    settings: QuantizeSettings
    levels: dict[str, int]
    names: set[str] = field(default_factory=set)
    owners: dict[fx.Node, fx.Node | None] = field(default_factory=dict)
    convolved: dict[fx.Node, bool] = field(default_factory=dict)
    order: dict[fx.Node, int] = field(init=False)
    """Of the nodes that are there before quantizers are put in: every layer is."""

    def __post_init__(self) -> None:
        self.order = {node: number for number, node in enumerate(self.net.graph.nodes)}

    def kind(self, node: fx.Node) -> Kind:
        return kind(node, self.net)

    def wanted(self, reader: fx.Node, value: fx.Node) -> int:
        """Return with how many levels a reader wants a value; 0: in float, or as it comes."""
        word = self.kind(reader)
        if word == "layer":
            return self.levels[str(reader.target)]
        if word == "move":
            return max((self.wanted(one, reader) for one in reader.users), default=0)
        if word in ("sum", "average") and self.settings.activations != 0:
            return EIGHT_BITS if self.integer(reader) else 0
        return 0

    def integer(self, node: fx.Node) -> bool:
        """Tell whether an addition or a mean lies among convolutions, where runtimes have integer kernels for it."""
        return any(isinstance(one, fx.Node) and self.from_convolution(one) for one in node.args)

    def from_convolution(self, node: fx.Node) -> bool:
        """Tell whether what a node computes comes from a convolution through nothing but cheap operators.

        As for the owner, each node is asked once: many ways may lead to it.
        """
        if node not in self.convolved:
            self.convolved[node] = self._from_convolution(node)
        return self.convolved[node]

    def _from_convolution(self, node: fx.Node) -> bool:
        word = self.kind(node)
        if word == "layer":
            return not isinstance(self.net.get_submodule(str(node.target)), nn.Linear)
        if word in ("relu", "move", "sum", "quantizer"):
            return any(isinstance(one, fx.Node) and self.from_convolution(one) for one in node.args)
        return False

    def ends_in_integers(self, node: fx.Node) -> bool:
        """Tell whether an integer kernel writes this value, so that whoever reads it gets levels."""
        if any(user.op == "output" for user in node.users):
            return False
        if self.kind(node) == "relu":
            before = node.args[0]
            return isinstance(before, fx.Node) and len(before.users) == 1 and self._writes(before)
        cut = len(node.users) == 1 and self.kind(next(iter(node.users))) == "relu"
        return self._writes(node) and not cut

    def _writes(self, node: fx.Node) -> bool:
        word = self.kind(node)
        if word == "layer":
            return not isinstance(self.net.get_submodule(str(node.target)), nn.Linear)
        return word in ("sum", "average") and self.integer(node)

    def owner(self, node: fx.Node) -> fx.Node | None:
        """Return the last layer whose filters are the channels of a value: through what keeps channels apart.

        It stays the same when quantizers are put in, so that each node is asked once.
        """
        if node not in self.owners:
            self.owners[node] = self._owner(node)
        return self.owners[node]

    def _owner(self, node: fx.Node) -> fx.Node | None:
        word = self.kind(node)
        if word == "layer":
            return node
        if word in ("relu", "sum", "average", "apart", "quantizer"):
            found = [self.owner(one) for one in node.args if isinstance(one, fx.Node)]
            return max((one for one in found if one is not None), key=self.order.__getitem__, default=None)
        if word == "move" and isinstance(node.args[0], fx.Node):
            same = len(_shape(node) or ()) == len(_shape(node.args[0]) or ())
            return self.owner(node.args[0]) if same else None
        return None

    def constraint(self, node: fx.Node) -> Constraint:
        """Return what makes a ReLU redundant in front of a quantizer."""
        if self.kind(node) != "relu":
            return FREE
        module = self.net.get_submodule(str(node.target)) if node.op == "call_module" else None
        six = isinstance(module, nn.ReLU6) or node.target is functional.relu6
        return Constraint(zero_point=0, upper=6.0 if six else None)

    def name(self, node: fx.Node, number: int) -> str:
        """Return a new name for a quantizer of a value."""
        owner = self.owner(node)
        base = "input" if owner is None else str(owner.target).replace(".", "_")
        found = base = f"{base}_{node.name if owner is None else 'out'}_{number}"
        count = 1
        while found in self.names or hasattr(self.net, found):
            count += 1
            found = f"{base}_{count}"
        self.names.add(found)
        return found


def _untie(net: fx.GraphModule, layer: nn.Module) -> None:
    """Give a layer a weight and a bias of its own: levels, steps and what is frozen go by layer."""
    for name, mine in list(layer.named_parameters(recurse=False)):
        users = sum(one is mine for module in net.modules() for one in module._parameters.values())
        if users > 1:
            setattr(layer, name, nn.Parameter(mine.detach().clone(), mine.requires_grad))


def _layer(net: fx.GraphModule, name: str, number: int, per_filter: bool) -> Layer:
    module = net.get_submodule(name)
    assert isinstance(module, LAYERS)
    quantizer = WeightQuantizer(module.get_parameter("weight"), levels(number, signed=True))
    parametrize.register_parametrization(module, "weight", quantizer)
    return Layer(name, module, quantizer, per_filter)


def _put(node: fx.Node, work: _Work, layers: dict[str, Layer], found: Quantizable) -> None:
    """Put the quantizers of one value behind the node that computes it."""
    shape = _shape(node)
    if work.settings.activations == 0 or shape is None or len(shape) < 2 or work.kind(node) == "move":
        return
    if node.op not in ("placeholder", "call_module", "call_function", "call_method"):
        return
    # Who asks for a size only is no reader.
    wishes = {user: work.wanted(user, node) for user in node.users if user.op == "output" or _shape(user) is not None}
    must = work.ends_in_integers(node)
    numbers = {number for number in wishes.values() if number}
    if must and not all(wishes.values()):
        numbers.add(EIGHT_BITS)
    value, waiting = node, [user for user, wish in wishes.items() if wish or must]
    for number in sorted(numbers, reverse=True):
        value = _quantizer(value, node, number, waiting, work, layers, found)
        waiting = [user for user in waiting if 0 < wishes[user] < number]


def _quantizer(
    value: fx.Node,
    node: fx.Node,
    number: int,
    takers: list[fx.Node],
    work: _Work,
    layers: dict[str, Layer],
    found: Quantizable,
) -> fx.Node:
    shape = _shape(node)
    assert shape is not None
    owner = work.owner(node)
    linear = owner is not None and isinstance(work.net.get_submodule(str(owner.target)), nn.Linear)
    axis = -1 if linear else 1
    name = work.name(node, number)
    one = ValueQuantizer(levels(number, signed=False), shape[axis], axis, work.constraint(node))
    work.net.add_submodule(name, one.to(layers[next(iter(layers))].quantizer.scale.device))
    with work.net.graph.inserting_after(value):
        made = work.net.graph.call_module(name, (value,))
    made.meta["tensor_meta"] = node.meta["tensor_meta"]
    for user in takers:
        user.replace_input_with(value, made)
    found.values[name] = one
    if owner is not None and layers[str(owner.target)].components == shape[axis]:
        layers[str(owner.target)].made.append(name)
    return made


def _readers(node: fx.Node, work: _Work) -> list[fx.Node]:
    """Return the layers that read a value, also through what copies it."""
    found: list[fx.Node] = []
    for user in node.users:
        word = work.kind(user)
        if word == "layer":
            found.append(user)
        elif word == "move":
            found += _readers(user, work)
    return found
