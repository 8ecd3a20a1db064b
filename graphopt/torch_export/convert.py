"""The two exporters of torch, and light clean-ups that fold no mask."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
import torch
from onnx_ir import tensor_adapters
from onnx_ir.passes import common

from graphopt import model as models
from graphopt.errors import GraphoptError, UsageError
from graphopt.torch_export.arguments import Arguments, Leaf, bind
from graphopt.torch_export.proof import prove
from graphopt.torch_export.untouched import restored, visible_masks

STACK_TRACE = "pkg.torch.onnx.stack_trace"
_FOLD_EVERYTHING = sys.maxsize


@dataclass(frozen=True)
class Request:
    """How to export; the fields are the options of :func:`graphopt.export`."""

    exporter: str = "dynamo"
    opset: int | None = None
    input_names: tuple[str, ...] = ()
    output_names: tuple[str, ...] = ()
    fold: bool = False
    verify: bool = True
    rtol: float | None = None
    atol: float | None = None


def export_module(
    module: torch.nn.Module | torch.export.ExportedProgram,
    args: Any,
    kwargs: dict[str, Any],
    dynamic_shapes: Mapping[str, Any] | Sequence[Any] | None,
    request: Request,
) -> ir.Model:
    """See :func:`graphopt.export`."""
    if isinstance(module, torch.export.ExportedProgram):
        if request.exporter != "dynamo":
            raise UsageError("an ExportedProgram is exported by dynamo only", help='leave exporter="dynamo"')
        if dynamic_shapes:
            raise UsageError(
                "the dynamic axes of an ExportedProgram are its own",
                help="give dynamic_shapes to torch.export.export instead",
            )
        if not args and not kwargs:
            args, kwargs = module.example_inputs or ((), {})
        callee = module.module()
        arguments = bind(callee, args, dict(kwargs), None, request.input_names)
    elif isinstance(module, torch.nn.Module) and not isinstance(module, torch.jit.ScriptModule):
        callee = module
        arguments = bind(callee, args, kwargs, dynamic_shapes, request.input_names)
    else:
        raise UsageError(
            f"a {type(module).__name__} cannot be exported", help="give a torch.nn.Module or an ExportedProgram"
        )

    # Torch treats sizes 0 and 1 as special cases and would fix an axis that has one of them in the example.
    example = arguments.resized({symbol: max(size, 2) for symbol, size in arguments.sizes().items()})
    try:
        with _quiet(), torch.no_grad():
            if isinstance(module, torch.export.ExportedProgram):
                model = _dynamo(module, example, request)
            else:
                with restored(module):
                    visible_masks(module)
                    convert = _dynamo if request.exporter == "dynamo" else _torchscript
                    model = convert(module, example, request)
    except GraphoptError:
        raise
    except Exception as error:
        raise _failure(error, type(module).__name__, request.exporter) from error
    _clean(model, request)
    if request.opset is not None and model.opset_imports.get("") != request.opset:
        raise GraphoptError(
            f"the {request.exporter} exporter cannot write opset {request.opset}",
            help=f"it wrote opset {model.opset_imports.get('')}; leave opset out, or choose 18 or newer",
        )
    if request.verify:
        prove(model, callee, arguments, rtol=request.rtol, atol=request.atol)
    return model


def _dynamo(module: Any, arguments: Arguments, request: Request) -> ir.Model:
    program = torch.onnx.export(
        module,
        arguments.args,
        kwargs=arguments.kwargs,
        dynamo=True,
        optimize=request.fold,
        verbose=False,
        dynamic_shapes=arguments.shapes,
        input_names=list(request.input_names) or None,
        output_names=list(request.output_names) or None,
        opset_version=request.opset,
    )
    assert program is not None
    return program.model


def _torchscript(module: torch.nn.Module, arguments: Arguments, request: Request) -> ir.Model:
    """Weights stay out of the graph while it is traced and written, so no size limit applies, and nothing is fused."""
    names = [leaf.name for leaf in arguments.leaves]
    axes = {
        leaf.name: {axis: dim if isinstance(dim, str) else dim.__name__ for axis, dim in leaf.axes.items()}
        for leaf in arguments.leaves
        if leaf.axes
    }
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    with tempfile.TemporaryDirectory() as folder, _python_lines():
        path = os.path.join(folder, "model.onnx")
        torch.onnx.export(
            module,
            arguments.args,
            path,
            kwargs=arguments.kwargs or None,
            dynamo=False,
            verbose=True,
            export_params=False,
            # What folding would do (and the fusion of convolution and batch-norm that comes with it) needs the weights
            # in the graph; `fold` is therefore done afterwards, for both exporters alike.
            do_constant_folding=False,
            # Else initializers of equal value become one, under the name of the first.
            keep_initializers_as_inputs=True,
            input_names=names,
            output_names=list(request.output_names) or None,
            dynamic_axes=axes,
            opset_version=request.opset,
        )
        model = models.load(path)
        ir.external_data.load_to_model(model)
    _attach(model, names, tensors)
    for node in model.graph.all_nodes():
        trace = _trace_of(node.doc_string)
        if trace:
            node.metadata_props[STACK_TRACE] = trace
        node.doc_string = None
    return model


def _attach(model: ir.Model, names: Sequence[str], tensors: Mapping[str, torch.Tensor]) -> None:
    """Turn the graph inputs that stand for parameters and buffers into initializers."""
    kept: list[ir.Value] = []
    for value in model.graph.inputs:
        name = value.name or ""
        if name in names or name not in tensors:
            kept.append(value)
    inputs = list(model.graph.inputs)
    model.graph.inputs.clear()
    model.graph.inputs.extend(kept)
    for value in inputs:
        name = value.name or ""
        if name in tensors and name not in names:
            value.const_value = tensor_adapters.TorchTensor(tensors[name].detach(), name=name)
            model.graph.initializers.add(value)


def _clean(model: ir.Model, request: Request) -> None:
    """Identities, unused nodes and Constant nodes go; nothing is computed, unless folding was asked for."""
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common.IdentityEliminationPass()(model)
    if request.fold:
        from onnxscript.optimizer import fold_constants

        fold_constants(model, input_size_limit=_FOLD_EVERYTHING, output_size_limit=_FOLD_EVERYTHING)
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common.RemoveUnusedNodesPass()(model)
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if isinstance(tensor, ir.Tensor) and isinstance(tensor.raw, torch.Tensor):
            # The exporters hand out the module's own storage: without a copy, training on would change the model.
            value.const_value = tensor_adapters.TorchTensor(tensor.raw.detach().cpu().clone(), name=value.name)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Torch's remarks about itself are not the user's concern; what it says about the module (TracerWarning) is."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for category in (UserWarning, DeprecationWarning, FutureWarning):
                warnings.simplefilter("ignore", category)
            warnings.simplefilter("default", torch.jit.TracerWarning)
            yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def _python_lines() -> Iterator[None]:
    """Let the TorchScript exporter keep the Python lines of each node.

    It does so only when verbose, and then prints the whole graph: that one switch is taken out meanwhile.
    """
    enable = torch._C._jit_set_onnx_log_enabled
    torch._C._jit_set_onnx_log_enabled = lambda enabled: None  # type: ignore[assignment]
    try:
        yield
    finally:
        torch._C._jit_set_onnx_log_enabled = enable


_FRAME = re.compile(r"^(?P<file>.+)\((?P<line>\d+)\): (?P<function>.+)$")


def _trace_of(doc_string: str | None) -> str:
    """TorchScript's frames (innermost first, the machinery included) in the form dynamo has (outermost first)."""
    frames = []
    for text in (doc_string or "").splitlines():
        match = _FRAME.match(text)
        if match is None:
            continue
        if match["file"].replace("\\", "/").endswith(("torch/jit/_trace.py",)):
            break
        if not match["file"].replace("\\", "/").endswith("torch/nn/modules/module.py"):
            frames.append(f'  File "{match["file"]}", line {match["line"]}, in {match["function"]}')
    return "\n".join(reversed(frames)).lstrip()


def _failure(error: Exception, module: str, exporter: str) -> GraphoptError:
    """What the exporter says, at the user's own line."""
    root: BaseException = error
    where: str | None = None
    seen: BaseException | None = error
    while seen is not None:
        root = seen
        where = _user_line(seen) or where
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    said = re.sub(r"\x1b\[[0-9;]*m", "", str(root)).strip()
    first = said.splitlines()[0] if said else type(root).__name__
    branch = "data-dependent" in said or "GuardOnDataDependent" in type(root).__name__
    advice = "control flow that depends on values needs torch.cond or torch.where" if branch else None
    other = "torchscript" if exporter == "dynamo" else "dynamo"
    return GraphoptError(
        f"the {exporter} exporter cannot export {module}: {type(root).__name__}: {first}",
        where,
        advice or f'change that line, or try exporter="{other}"',
    )


def _user_line(error: BaseException) -> str | None:
    """The innermost frame of a traceback that is neither torch's nor ours."""
    ours = os.path.dirname(os.path.abspath(__file__))
    torchs = os.path.dirname(os.path.abspath(torch.__file__))
    found = None
    for frame in traceback.extract_tb(error.__traceback__):
        path = os.path.abspath(frame.filename)
        if not path.startswith((ours, torchs)) and "site-packages" not in path and not frame.filename.startswith("<"):
            found = f"{frame.filename}:{frame.lineno} in {frame.name}"
            if frame.line:
                found += f": {frame.line}"
    return found


__all__ = ["Leaf", "Request", "export_module"]
