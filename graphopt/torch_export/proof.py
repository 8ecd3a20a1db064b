"""The exported model computes what the module computes: both are run, at several sizes of the dynamic axes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from onnx_ir import tensor_adapters
from torch.utils import _pytree as pytree

from graphopt import runtime
from graphopt.errors import GraphoptError, ModelError, UsageError, VerificationError
from graphopt.torch_export.arguments import Arguments, Leaf
from graphopt.torch_export.untouched import restored

# Relative, and absolute relative to the largest value: re-association of sums in deep nets, no more.
_TOLERANCE = {"bfloat16": (5e-2, 2e-2), "float16": (1e-2, 5e-3), "float32": (1e-4, 1e-5), "float64": (1e-9, 1e-10)}

_FIXED_SIZE = "the exporter may have fixed a size; try the other exporter, or leave that axis out of the dynamic ones"


def prove(
    model: ir.Model,
    module: torch.nn.Module,
    arguments: Arguments,
    *,
    rtol: float | None = None,
    atol: float | None = None,
) -> None:
    """Compare at the example inputs, at the same sizes with other values, and at other sizes of every dynamic axis.

    Sizes where the module itself does not run (a multiple of 32 may be needed) are passed over.

    Raises:
        ModelError: onnxruntime refuses the model.
        UsageError: The module runs at no other size, although axes are said to be dynamic.
        VerificationError: An output differs, or the model does not run where the module does.
    """
    _name_axes(model, arguments)
    try:
        session = runtime.session(model, optimize=False)
    except ModelError as error:
        raise ModelError(error.what, error.where, "verify=False exports without running the model") from error
    generator = torch.Generator().manual_seed(0)
    example = arguments.sizes()
    if not _compare_at(arguments, example, model, module, session, rtol, atol):
        raise GraphoptError("the module does not run on its example inputs", type(module).__name__)
    elsewhere = False
    for sizes in _other_sizes(arguments):
        trial = arguments.resized(sizes, generator=generator)
        elsewhere |= _compare_at(trial, sizes, model, module, session, rtol, atol) and sizes != example
    if example and not elsewhere and not isinstance(module, torch.fx.GraphModule):
        names = ", ".join(f"{symbol}={size}" for symbol, size in example.items())
        raise UsageError(
            f"the module runs only at {names}, so that is not dynamic",
            type(module).__name__,
            "leave the axis out of the dynamic ones, or give a torch.export.Dim with its bounds",
        )


def _compare_at(
    trial: Arguments,
    sizes: Mapping[str, int],
    model: ir.Model,
    module: torch.nn.Module,
    session: Any,
    rtol: float | None,
    atol: float | None,
) -> bool:
    """Compare once; False where the module itself does not run."""
    expected = _run(module, trial)
    if isinstance(expected, Exception):
        return False
    at = ", ".join(f"{symbol}={size}" for symbol, size in sizes.items()) or "the example inputs"
    try:
        actual = runtime.run(session, _feeds(model, trial))
    except ModelError as error:
        raise VerificationError(
            f"onnxruntime cannot run the exported model at {at}: {error.what}", error.where, _FIXED_SIZE
        ) from error
    _compare(model, expected, actual, at, rtol, atol)
    return True


def _other_sizes(arguments: Arguments) -> Iterator[dict[str, int]]:
    """Sizes of the symbols that are within their bounds: the example's, ones, different primes, doubled."""
    example = arguments.sizes()
    bounds = arguments.bounds()
    primes: dict[str, int] = {}
    for symbol, size in example.items():
        primes[symbol] = _prime_above(max([size, *primes.values()]))
    yield example
    for sizes in (dict.fromkeys(example, 1), primes, {symbol: 2 * size for symbol, size in example.items()}):
        inside = all(low <= sizes.get(symbol, low) <= high for symbol, (low, high) in bounds.items())
        if inside and sizes != example:
            yield sizes


def _prime_above(number: int) -> int:
    candidate = max(number, 1) + 1
    while any(candidate % divisor == 0 for divisor in range(2, int(candidate**0.5) + 1)):
        candidate += 1
    return candidate


def _name_axes(model: ir.Model, arguments: Arguments) -> None:
    """Where the module brings its own dynamic axes (an ExportedProgram), take their names from the graph inputs."""
    if any(leaf.axes for leaf in arguments.leaves):
        return
    for leaf, value in zip(arguments.leaves, model.graph.inputs, strict=False):
        for axis, dim in enumerate(value.shape or ()):
            name = dim.value if isinstance(dim, ir.SymbolicDim) else None
            if name is not None and name.isidentifier():
                leaf.axes[axis] = name


def _run(module: torch.nn.Module, arguments: Arguments) -> list[np.ndarray] | Exception:
    try:
        # An exported program has no mode and no hooks, and refuses to be asked.
        keep = contextlib.nullcontext() if isinstance(module, torch.fx.GraphModule) else restored(module)
        with torch.no_grad(), keep:
            result = module(*arguments.args, **arguments.kwargs)
    except Exception as error:
        return error
    return [_numpy(each) for each in pytree.tree_leaves(result) if isinstance(each, torch.Tensor)]


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor_adapters.TorchTensor(tensor.detach().cpu()).numpy()


def _feeds(model: ir.Model, arguments: Arguments) -> dict[str, np.ndarray]:
    by_name: Mapping[str, Leaf] = {leaf.name: leaf for leaf in arguments.leaves}
    names = [value.name or "" for value in model.graph.inputs]
    if len(names) == len(arguments.leaves):
        return {name: _numpy(leaf.tensor) for name, leaf in zip(names, arguments.leaves, strict=True)}
    return {name: _numpy(by_name[name].tensor) for name in names if name in by_name}


def _compare(
    model: ir.Model, expected: list[np.ndarray], actual: list[Any], at: str, rtol: float | None, atol: float | None
) -> None:
    names = [value.name or "" for value in model.graph.outputs]
    if len(expected) != len(actual):
        raise VerificationError(f"the module has {len(expected)} outputs, the exported model {len(actual)}")
    for name, want, got in zip(names, expected, actual, strict=True):
        if want.shape != got.shape or want.dtype != got.dtype:
            raise VerificationError(
                f"output '{name}' is {got.dtype}{list(got.shape)} at {at}, the module's {want.dtype}{list(want.shape)}",
                f"output '{name}'",
                _FIXED_SIZE,
            )
        worst = _excess(want, got, rtol, atol)
        if worst is not None:
            raise VerificationError(
                f"the exported model differs from the module by {worst:.3g} at {at}",
                f"output '{name}'",
                "a branch that depends on the inputs may have been fixed while exporting; try the other exporter",
            )


def _excess(want: np.ndarray, got: np.ndarray, rtol: float | None, atol: float | None) -> float | None:
    """The largest difference when it is too large, else None.  NaN equals NaN, an infinity only itself."""
    if want.size == 0:
        return None
    name = want.dtype.name
    if name not in _TOLERANCE:
        return None if np.array_equal(want, got) else float(np.abs(want.astype(float) - got.astype(float)).max())
    relative, absolute = _TOLERANCE[name]
    want, got = want.astype(np.float64), got.astype(np.float64)
    finite = np.abs(want[np.isfinite(want)])
    scale = max(1.0, float(finite.max())) if finite.size else 1.0
    relative = relative if rtol is None else rtol
    absolute = (absolute if atol is None else atol) * scale
    if np.allclose(got, want, rtol=relative, atol=absolute, equal_nan=True):
        return None
    with np.errstate(invalid="ignore"):
        return float(np.nanmax(np.abs(got - want), initial=0.0))
