"""From a net of the catalogue to ONNX: the masked model in three forms, and the twin."""

from __future__ import annotations

import io
import warnings

import onnx
import onnx_ir as ir
import torch
from torch import nn

from graphopt.torch_export import export
from tests.nets.catalogue import Net


def masked_model(net: Net, form: str) -> ir.Model:
    """The masked net in one form, batch dynamic, input ``x``.

    Args:
        net: a net of the catalogue.
        form: ``masks`` (in place), ``zeros`` (made permanent) or ``torchscript`` (in place, the tracing exporter).
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return export(
            net.module(form),
            (net.inputs(2),),
            dynamic_shapes=({0: "batch"},),
            exporter="torchscript" if form == "torchscript" else "dynamo",
            input_names=["x"],
            output_names=["y"],
            verify=False,
        )


def twin_model(net: Net, *, traced: bool = False, **options: bool) -> ir.Model:
    """The hand-narrowed twin, exported by torch alone with all of its own optimizations.

    Args:
        net: a net of the catalogue.
        traced: use the tracing exporter.
        options: for the net's ``twin``.
    """
    return plainly_exported(net.twin(net.masked(), **options), net.inputs(2), traced=traced)


def plainly_exported(module: nn.Module, inputs: torch.Tensor, *, traced: bool = False) -> ir.Model:
    """What a user without graphopt exports, batch dynamic."""
    if traced:
        file = io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                module,
                (inputs,),
                file,
                dynamo=False,
                input_names=["x"],
                output_names=["y"],
                dynamic_axes={"x": {0: "batch"}, "y": {0: "batch"}},
            )
        return ir.serde.deserialize_model(onnx.load_from_string(file.getvalue()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module,
            (inputs,),
            dynamo=True,
            optimize=True,
            dynamic_shapes=({0: "batch"},),
            input_names=["x"],
            output_names=["y"],
            verbose=False,
        )
    assert program is not None
    return program.model
