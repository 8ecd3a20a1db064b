"""Batch-norms become part of the layer in front of them, before anything is quantized.

What a layer computes at run time is ``gamma (W x + b - mean) / sqrt(var + eps) + beta``: one filter with one bias, and
this filter is what has levels. The net is traced by ``torch.fx``; its modules stay what they are.
"""

from __future__ import annotations

import copy
import inspect
import io
from collections import Counter
from contextlib import redirect_stderr
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from graphopt.errors import GraphoptError

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
"""Modules whose weights are quantized."""

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class _Tracer(fx.Tracer):
    """Looks into everything but torch's own modules and layers derived from them."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, LAYERS) or super().is_leaf_module(m, module_qualified_name)


def folded(net: nn.Module, example: tuple[Tensor, ...]) -> fx.GraphModule:
    """Return a copy in eval mode, as a graph of its modules, with each batch-norm folded into the layer in front of it.

    In eval mode it computes what the net computes, up to rounding. A batch-norm stays where the layer in front of it
    is called more than once or read by others, too; so does one with no layer in front. Attributes that are neither
    parameters, buffers nor modules are carried over. The net is left as it is.

    Args:
        net: Any module that ``torch.fx`` can trace.
        example: Inputs of ``forward``, batch first; only their shapes count.

    Raises:
        GraphoptError: The net cannot be traced: what it does depends on numbers that it computes. Or the weight of a
            layer is computed (a mask of ``torch.nn.utils.prune``, a parametrization).
    """
    for name, module in net.named_modules():
        if isinstance(module, LAYERS) and "weight" not in module._parameters:
            raise GraphoptError(
                "a weight that is computed cannot be quantized",
                f"{name}.weight",
                "make it permanent: torch.nn.utils.prune.remove, or parametrize.remove_parametrizations",
            )
        if isinstance(module, LAYERS) and module.weight.dtype != torch.float32:
            kind = str(module.weight.dtype).removeprefix("torch.")
            raise GraphoptError(
                f"a weight of {kind} cannot be quantized", f"{name}.weight", "make the net one of float32"
            )
    graph_module = _traced(copy.deepcopy(net).eval())
    shapes(graph_module, tuple(one.to(_device(net)) for one in example))
    calls = Counter(node.target for node in graph_module.graph.nodes if node.op == "call_module")
    for node in list(graph_module.graph.nodes):
        layer, norm = _pair(node, graph_module, calls)
        if layer is None or norm is None:
            continue
        _fold(layer, norm)
        node.replace_all_uses_with(node.args[0])
        graph_module.graph.erase_node(node)
    graph_module.delete_all_unused_submodules()
    graph_module.recompile()
    return graph_module


def shapes(net: fx.GraphModule, example: tuple[Tensor, ...]) -> None:
    """Write down the shape of everything that a traced net computes.

    Raises:
        GraphoptError: It does not run: an argument that ``forward`` could do without was traced as if it were there.
    """
    try:
        with torch.no_grad(), redirect_stderr(io.StringIO()):  # where torch prints a traceback of its own
            ShapeProp(net).propagate(*example)
    except Exception as error:  # whatever the net raises
        raise GraphoptError(
            f"the net as torch.fx traces it does not run: {' '.join(str(error.__cause__ or error).split())}",
            type(net).__name__,
            "its forward must not look whether an argument is None: let the example have all arguments, or leave out "
            "those that it can do without",
        ) from error


def _called(layer: nn.Module) -> fx.GraphModule:
    """Return a net that is a single layer as one that calls it: of what is traced, only what it calls is looked at."""
    outer, graph = nn.Module(), fx.Graph()
    outer.add_module("layer", layer)
    given = graph.placeholder(next(iter(inspect.signature(layer.forward).parameters)))
    graph.output(graph.call_module("layer", (given,)))
    found = fx.GraphModule(outer, graph, type(layer).__name__)
    carry(layer, found)
    return found.eval()


def _traced(net: nn.Module) -> fx.GraphModule:
    if isinstance(net, LAYERS):
        return _called(net)
    tracer = _Tracer()
    try:
        graph = tracer.trace(net)
    except Exception as error:  # whatever the user's forward raises when it meets a proxy
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise GraphoptError(
            f"torch.fx cannot trace the net: {reason}",
            type(net).__name__,
            "its forward must not branch on values or sizes; put such a part into a function with torch.fx.wrap, or "
            "quantize the exported model with graphopt.quantize",
        ) from error
    found = fx.GraphModule(net, graph, type(net).__name__)
    carry(net, found)
    return found.eval()


def carry(net: nn.Module, to: nn.Module) -> None:
    """Give one module what another has beside parameters, buffers and modules: the shape of its input, say."""
    of_class = [vars(kind) for kind in type(net).__mro__ if not issubclass(nn.Module, kind)]
    for name, value in (*vars(net).items(), *(pair for each in of_class for pair in each.items())):
        code = callable(value) or hasattr(value, "__get__")
        if not name.startswith("_") and name != "training" and not hasattr(to, name) and not code:
            setattr(to, name, value)


def _pair(
    node: fx.Node, net: fx.GraphModule, calls: Counter[Any]
) -> tuple[nn.Module | None, nn.modules.batchnorm._BatchNorm | None]:
    """Return layer and norm where ``node`` is a batch-norm that can be folded."""
    norm = _module(node, net)
    before = node.args[0] if node.op == "call_module" and node.args else None
    if not isinstance(norm, NORMS) or not isinstance(before, fx.Node) or calls[node.target] != 1:
        return None, None
    layer = _module(before, net)
    if not isinstance(layer, LAYERS) or len(before.users) != 1 or calls[before.target] != 1:
        return None, None
    if norm.running_mean is None or norm.running_var is None:
        return None, None  # it norms by the batch
    if isinstance(layer, nn.Linear) and rank(before) != 2:
        return None, None  # the norm goes along another axis
    return layer, norm


def rank(node: fx.Node) -> int:
    """Return the number of axes of what a node computes, as its shapes were propagated; 0 of what is no tensor."""
    return len(getattr(node.meta.get("tensor_meta"), "shape", ()))


def _device(net: nn.Module) -> torch.device:
    return next((one.device for one in net.parameters()), torch.device("cpu"))


def _module(node: fx.Node, net: fx.GraphModule) -> nn.Module | None:
    return net.get_submodule(str(node.target)) if node.op == "call_module" else None


@torch.no_grad()
def _fold(layer: nn.Module, norm: nn.modules.batchnorm._BatchNorm) -> None:
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None and variance is not None and isinstance(layer.weight, Tensor)
    bias = layer.bias if isinstance(layer.bias, Tensor) else torch.zeros_like(mean)
    factor = torch.rsqrt(variance + norm.eps) * (1 if norm.weight is None else norm.weight)
    shift = 0 if norm.bias is None else norm.bias
    before = (*layer.parameters(recurse=False), *norm.parameters(recurse=False))
    trained = any(one.requires_grad for one in before)  # what was frozen stays frozen
    layer.weight = nn.Parameter(layer.weight * factor.reshape(-1, *[1] * (layer.weight.ndim - 1)), trained)
    layer.bias = nn.Parameter((bias - mean) * factor + shift, trained)
