"""torch → ONNX with the masks left visible.

::

    target.py       PKG.MODULE:FACTORY → module and example inputs
    arguments.py    example inputs and their dynamic axes, flattened; the same at other sizes
    untouched.py    a module is put into eval mode, its masks made visible, and afterwards everything is as it was
    convert.py      the two exporters of torch, and light clean-ups that fold no mask
    sequences.py    parts read from a sequence become a Split
    blame.py        what an exporter complains of, at the user's line
    proof.py        the exported model computes what the module computes

This file imports no torch, so that a missing torch is a message and not a traceback.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from graphopt.errors import DependencyError, UsageError, nearest

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

__all__ = ["EXPORTERS", "export", "export_target"]

EXPORTERS = ("dynamo", "torchscript")


def export(
    module: torch.nn.Module | torch.export.ExportedProgram,
    args: tuple[Any, ...] | Any = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic_shapes: Mapping[str, Any] | Sequence[Any] | None = None,
    exporter: Literal["dynamo", "torchscript"] = "dynamo",
    opset: int | None = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    fold: bool = False,
    verify: bool = True,
    rtol: float | None = None,
    atol: float | None = None,
) -> ir.Model:
    """A torch module as an ONNX model whose masks are still there to be seen, proved equal in onnxruntime.

    A mask is visible when the product with it is a node and the mask itself an initializer: pruning by
    ``torch.nn.utils.prune``, parametrizations and masks held as buffers all are, unless ``fold`` is asked for.
    The module is exported in eval mode and is afterwards exactly as it was, also when the export fails. The weights
    of the model are copies: training on does not change it.

    Args:
        module: An eager module, or an ``ExportedProgram`` (whose dynamic axes are its own).
        args: Example inputs by position; one tensor alone will do. Empty for an ``ExportedProgram`` that has its own.
        kwargs: Example inputs by name.
        dynamic_shapes: ``{"x": {0: "batch"}}``, by the names of ``forward`` or of ``input_names``; or a sequence in
            the order of the inputs. An axis is a name, a ``torch.export.Dim``, ``Dim.DYNAMIC`` or None (fixed).
        exporter: ``"dynamo"`` (torch.export) or ``"torchscript"`` (tracing).
        opset: The operator set version; None: the exporter's own default.
        input_names: Names of the graph inputs, in order; None: the names of ``forward``.
        output_names: Names of the graph outputs, in order; None: the exporter's choice.
        fold: Let constants be folded, masks into their weights included.
        verify: Compare module and model in onnxruntime, at a second size of every dynamic axis too.
        rtol: Relative tolerance of that comparison; None: by element type (1e-4 for float32).
        atol: Absolute tolerance, relative to the largest value of the output when that exceeds 1; None: by type.

    Returns:
        The model. Every node of dynamo, and every node of TorchScript that comes from a line of Python, has the
        metadata ``pkg.torch.onnx.stack_trace``.

    Raises:
        DependencyError: torch or onnxscript is not installed.
        UsageError: An argument does not fit the module, or an axis or name is not there.
        GraphoptError: The exporter cannot express the module; the message names the line of Python.
        VerificationError: The exported model does not compute what the module computes.
    """
    _require_torch()
    _check_exporter(exporter)
    from graphopt.torch_export.convert import Request, export_module

    request = Request(exporter, opset, tuple(input_names or ()), tuple(output_names or ()), fold, verify, rtol, atol)
    return export_module(module, args, dict(kwargs or {}), dynamic_shapes, request)


def export_target(
    target: str,
    inputs: Sequence[str] = (),
    dynamic: Sequence[str] = (),
    *,
    exporter: Literal["dynamo", "torchscript"] = "dynamo",
    opset: int | None = None,
    output_names: Sequence[str] | None = None,
    fold: bool = False,
    verify: bool = True,
    seed: int = 0,
) -> ir.Model:
    """What ``graphopt export PKG.MODULE:FACTORY --input ... --dynamic ...`` exports.

    Args:
        target: ``PKG.MODULE:NAME``: a module, an ``ExportedProgram``, or something that, called without arguments,
            returns one of these, or ``(module, args)``, or ``(module, args, kwargs)``.
        inputs: ``NAME=float32[1,3,32,32]``, see :mod:`graphopt.inputspec`. Names of ``forward`` are bound by name when
            all of them are such, otherwise the inputs are given in order. They replace the factory's own.
        dynamic: ``NAME=0:batch``.
        exporter: As for :func:`export`; so are the other options.
        opset: The operator set version.
        output_names: Names of the graph outputs.
        fold: Let constants be folded.
        verify: Compare in onnxruntime.
        seed: Of the example values: floats are normal, integers and bools are 0 or 1.

    Raises:
        UsageError: The target, an input or an axis is not there or cannot be read.
        GraphoptError: As :func:`export`; also when importing or calling the target fails.
    """
    from graphopt.inputspec import parse_dynamic, parse_inputs

    specs = parse_inputs(inputs)
    axes = parse_dynamic(dynamic, specs or None)
    _require_torch()
    _check_exporter(exporter)
    from graphopt.torch_export.target import example_inputs, load_target, parameters

    found = load_target(target)
    args, kwargs, names = found.args, found.kwargs, None
    if specs:
        args, kwargs, names = example_inputs(found.module, specs, seed)
    elif not args and not kwargs and not hasattr(found.module, "example_inputs"):
        wanted = parameters(found.module)
        raise UsageError(
            f"'{target}' comes without example inputs",
            target,
            f"describe them, for example --input {wanted[0] if wanted else 'x'}=float32[1,3,32,32]"
            + (f"; forward takes {', '.join(wanted)}" if wanted else ""),
        )
    return export(
        found.module,
        args,
        kwargs,
        dynamic_shapes=axes or None,
        exporter=exporter,
        opset=opset,
        input_names=names,
        output_names=output_names,
        fold=fold,
        verify=verify,
    )


def _require_torch() -> None:
    for package in ("torch", "onnxscript"):
        if importlib.util.find_spec(package) is None:
            raise DependencyError(
                f"exporting needs {package}, which is not installed",
                help='pip install "graphopt[export]", or: pip install torch onnxscript',
            )


def _check_exporter(exporter: str) -> None:
    if exporter not in EXPORTERS:
        meant = nearest(exporter, EXPORTERS)
        hint = f"did you mean {meant}? " if meant else ""
        raise UsageError(f"unknown exporter '{exporter}'", help=f"{hint}known: {', '.join(EXPORTERS)}")
