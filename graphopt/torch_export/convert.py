"""The two exporters of torch, and light clean-ups that fold no mask."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
import torch
from onnx_ir import tensor_adapters
from onnx_ir.passes import common
from torch.jit._trace import TracerWarning

from graphopt import model as models
from graphopt.errors import GraphoptError, UsageError
from graphopt.torch_export.arguments import Arguments, bind, symbol_of
from graphopt.torch_export.blame import failure
from graphopt.torch_export.proof import prove
from graphopt.torch_export.sequences import split_plainly
from graphopt.torch_export.untouched import restored, visible_masks
from graphopt.user_code import is_users

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
        if isinstance(args, tuple) and not args and not kwargs:
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
        raise failure(error, type(module).__name__, request.exporter) from error
    _name_axes(model, example)
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
    args = arguments.args
    if args and isinstance(args[-1], dict) and not arguments.kwargs:
        args = (*args, {})  # a dictionary at the end would be taken for the keyword arguments
    program = torch.onnx.export(
        module,
        args,
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
    axes = {leaf.name: {axis: symbol_of(dim) for axis, dim in leaf.axes.items()} for leaf in arguments.leaves}
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    # Tracing knows tensors by position only, in and out: dictionaries, lists, numbers and keywords stay outside.
    # `restored` takes this forward away again.
    module.__dict__["forward"] = arguments.by_tensors(module.forward)
    with tempfile.TemporaryDirectory() as folder, _python_lines():
        path = os.path.join(folder, "model.onnx")
        torch.onnx.export(
            module,
            tuple(leaf.tensor for leaf in arguments.leaves),
            path,
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
    _attach(model, arguments, tensors)
    for node in model.graph.all_nodes():
        trace = _trace_of(node.doc_string)
        if trace:
            node.metadata_props[STACK_TRACE] = trace
        node.doc_string = None
    return model


def _attach(model: ir.Model, arguments: Arguments, tensors: Mapping[str, torch.Tensor]) -> None:
    """Turn the graph inputs that stand for parameters and buffers into initializers; bring unused inputs back."""
    traced = {value.name or "": value for value in model.graph.inputs}
    model.graph.inputs.clear()
    for leaf in arguments.leaves:
        value = traced.pop(leaf.name, None)
        if value is None:
            dtype = tensor_adapters.from_torch_dtype(leaf.tensor.dtype)
            shape = [symbol_of(leaf.axes[axis]) if axis in leaf.axes else n for axis, n in enumerate(leaf.tensor.shape)]
            value = ir.Value(name=leaf.name, type=ir.TensorType(dtype), shape=ir.Shape(shape))
        model.graph.inputs.append(value)
    for name, value in traced.items():
        value.const_value = tensor_adapters.TorchTensor(tensors[name].detach(), name=name)
        model.graph.initializers.add(value)


def _name_axes(model: ir.Model, arguments: Arguments) -> None:
    """Give the dynamic axes the names that were asked for, wherever the exporter kept its own (``s17``)."""
    asked: dict[str, str] = {}
    for leaf, value in zip(arguments.leaves, model.graph.inputs, strict=False):
        for axis, dim in leaf.axes.items():
            own = value.shape[axis] if value.shape is not None and value.name == leaf.name else None
            if isinstance(own, ir.SymbolicDim) and own.value and own.value.isidentifier():
                asked[own.value] = symbol_of(dim)
    if all(own == name for own, name in asked.items()):
        return
    values = [*model.graph.inputs, *(value for node in model.graph.all_nodes() for value in node.outputs)]
    for value in values:
        for axis, dim in enumerate(value.shape or ()):
            if isinstance(dim, ir.SymbolicDim) and dim.value:
                renamed = re.sub(r"[A-Za-z_]\w*", lambda found: asked.get(found[0], found[0]), dim.value)
                if renamed != dim.value and value.shape is not None:
                    value.shape[axis] = renamed


def _clean(model: ir.Model, request: Request) -> None:
    """Identities, unused nodes, Constant nodes and sequences of parts go; nothing is computed unless `fold` says so."""
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    split_plainly(model)
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
    """Torch's remarks about itself are not the user's concern; a TracerWarning at a line of theirs is."""
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    silence = io.StringIO()
    try:
        with (
            warnings.catch_warnings(record=True) as caught,
            contextlib.redirect_stdout(silence),
            contextlib.redirect_stderr(silence),
        ):
            warnings.simplefilter("always")
            yield
    finally:
        logging.disable(disabled)
    for each in caught:
        if issubclass(each.category, TracerWarning) and is_users(each.filename):
            warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)


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
        file = match["file"].replace("\\", "/")
        if file.endswith("torch/jit/_trace.py"):
            break
        if not file.endswith(("torch/nn/modules/module.py", "graphopt/torch_export/arguments.py")):
            frames.append(f'  File "{match["file"]}", line {match["line"]}, in {match["function"]}')
    return "\n".join(reversed(frames)).lstrip()
