"""The tools that cut torch modules. Their results are exported by torch to be counted, and run by torch."""

from __future__ import annotations

import copy
import io
import sys
import types
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

from tests.bench.peers.candidate import Candidate, Feeds, floats
from tests.bench.peers.task import Task


def torch_pruning(task: Task) -> list[Candidate]:
    """torch-pruning's dependency graph, given every channel whose weights are zero.

    Three results: all of them cut; only those cut whose bias is zero as well; and of these only such groups as leave
    the output what it was.
    """
    import torch_pruning as tp

    example = _example(task)
    found = []
    for careful in (0, 1, 2):
        module = _permanent(task)
        with torch.no_grad():
            expected = module(*example)
        for name in [name for name, _ in module.named_modules()]:
            layer = module.get_submodule(name)
            indices = _dead(layer, bias=careful > 0)
            if not indices or len(indices) == getattr(layer, "weight").shape[0]:  # noqa: B009
                continue
            before = copy.deepcopy(module) if careful == 2 else module
            graph = tp.DependencyGraph().build_dependency(module, example_inputs=example)
            cut = tp.prune_conv_out_channels if isinstance(layer, nn.Conv2d) else tp.prune_linear_out_channels
            group = graph.get_pruning_group(layer, cut, idxs=indices)
            if graph.check_pruning_group(group):
                group.prune()
            if careful == 2 and not _same(module, example, expected):
                module = before
        found.append(_candidate(module, example, list(task.feeds[-1])))
    return found


def torch_simplify(task: Task) -> list[Candidate]:
    """torch-simplify's `simplify`: fuse batch norms, propagate biases, remove zero rows."""
    _without_torchvision()
    from simplify import simplify

    example = _example(task)
    return [_candidate(simplify(_permanent(task), torch.zeros_like(example[0][:1])), example, list(task.feeds[-1]))]


def _without_torchvision() -> None:
    """torch-simplify looks at three classes of torchvision to recognise its nets; here are none of them."""
    try:
        import torchvision.models  # noqa: F401  # pyright: ignore[reportMissingImports]
    except Exception:
        names = {"torchvision": (), "torchvision.models": ("MobileNetV3", "ShuffleNetV2"),
                 "torchvision.models.densenet": ("_DenseLayer",)}  # fmt: skip
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        for name, classes in names.items():
            module: Any = types.ModuleType(name)
            for cls in classes:
                setattr(module, cls, type(cls, (), {}))
            sys.modules[name] = module


def _permanent(task: Task) -> nn.Module:
    """A copy of the module with its masks multiplied into the weights."""
    from torch.nn.utils import prune

    module = task.module()
    for layer in module.modules():
        for name in [key.removesuffix("_mask") for key, _ in layer.named_buffers(recurse=False)]:
            if hasattr(layer, f"{name}_orig"):
                prune.remove(layer, name)
    return module.eval()


def _example(task: Task) -> tuple[torch.Tensor, ...]:
    return tuple(torch.from_numpy(array) for array in task.feeds[-1].values())


def _dead(layer: nn.Module, *, bias: bool) -> list[int]:
    if not isinstance(layer, nn.Conv2d | nn.Linear):
        return []
    zero = layer.weight.detach().flatten(1).abs().amax(1) == 0
    if bias and layer.bias is not None:
        zero &= layer.bias.detach() == 0
    return [int(index) for index in zero.nonzero().flatten()]


def _same(module: nn.Module, example: tuple[torch.Tensor, ...], expected: torch.Tensor) -> bool:
    try:
        with torch.no_grad():
            given = module(*example)
    except RuntimeError:
        return False
    scale = float(expected.abs().max())
    return given.shape == expected.shape and float((given - expected).abs().max()) <= 1e-5 * max(scale, 1e-2)


def _candidate(module: nn.Module, example: tuple[torch.Tensor, ...], names: list[str]) -> Candidate:
    module.eval()
    try:
        exported = _exported(module, example, names)
    except Exception:
        exported = None
    eager = sum(each.numel() for each in module.state_dict().values() if each.is_floating_point())

    def run(feeds: Feeds) -> list[np.ndarray]:
        with torch.no_grad():
            return [module(*(torch.from_numpy(array) for array in feeds.values())).numpy()]

    def save(folder: Path) -> Path:
        assert exported is not None
        path = folder / "model.onnx"
        onnx.save(exported, path)
        return path

    count = eager if exported is None else floats(exported)
    return Candidate(count, run, save=None if exported is None else save)


def _exported(module: nn.Module, example: tuple[torch.Tensor, ...], names: list[str]) -> onnx.ModelProto:
    file = io.BytesIO()
    axes = {name: {0: "batch"} for name in (*names, "y")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, example, file, dynamo=False, input_names=names, output_names=["y"], dynamic_axes=axes,
        )  # fmt: skip
    return onnx.load_from_string(file.getvalue())
