"""From a net of the catalogue to ONNX: the masked model in three forms, and the twin."""

from __future__ import annotations

import inspect
import io
import warnings
from typing import Any

import onnx
import onnx_ir as ir
import torch
from torch import nn

from graphopt.torch_export import export
from tests.nets.net import Net


def masked_model(net: Net, form: str) -> ir.Model:
    """The masked net in one form, batch dynamic, input ``x``.

    Args:
        net: a net of the catalogue.
        form: ``masks`` (in place), ``zeros`` (made permanent), ``torchscript`` and ``torchscript-zeros`` (the same by
            the tracing exporter).
    """
    module = net.module(form)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return export(
            module,
            net.inputs(2),
            dynamic_shapes=_as_taken(module, net),
            exporter="torchscript" if form.startswith("torchscript") else "dynamo",
            input_names=net.names,
            output_names=net.outputs,
            verify=False,
        )


def twin_model(net: Net, *, traced: bool = False, **options: bool) -> ir.Model:
    """The hand-narrowed twin, exported by torch alone with all of its own optimizations.

    Args:
        net: a net of the catalogue.
        traced: use the tracing exporter.
        options: for the net's ``twin``.
    """
    return plainly_exported(net.twin(net.masked(), **options), net, traced=traced)


def plainly_exported(module: nn.Module, net: Net, *, traced: bool = False) -> ir.Model:
    """What a user without graphopt exports; inputs, names and dynamic axes are those of the net."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if traced:
            torch.onnx.export(
                module,
                net.inputs(2),
                file,
                dynamo=False,
                input_names=net.names,
                output_names=net.outputs,
                dynamic_axes={name: dict(axes) for name, axes in zip(net.names, net.axes, strict=True)},
            )
            return ir.serde.deserialize_model(onnx.load_from_string(file.getvalue()))
        program = torch.onnx.export(
            module,
            net.inputs(2),
            dynamo=True,
            optimize=True,
            dynamic_shapes=_as_taken(module, net),
            input_names=net.names,
            output_names=net.outputs,
            verbose=False,
        )
    assert program is not None
    return program.model


def _as_taken(module: nn.Module, net: Net) -> tuple[Any, ...]:
    """Dynamic axes in the nesting of ``forward``: those of ``*args`` are one tuple."""
    axes: list[Any] = [dict(axes) for axes in net.axes]
    kinds = [parameter.kind for parameter in inspect.signature(module.forward).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL not in kinds:
        return tuple(axes)
    first = kinds.index(inspect.Parameter.VAR_POSITIONAL)
    return (*axes[:first], tuple(axes[first:]))
