"""A net that onnxruntime has quantized after the masks were made permanent, and its twin, quantized after narrowing.

Dead channels that are zero change no range, so both get the same scales and zero points and agree to the last bit but
for what floating point leaves open.
"""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from graphopt import model as models
from tests.nets.exporting import plainly_exported
from tests.nets.net import Net

FORMATS = {"qdq": QuantFormat.QDQ, "qoperator": QuantFormat.QOperator}


class _Some(CalibrationDataReader):
    """A few batches, the same at every reading."""

    def __init__(self, net: Net) -> None:
        self.rest = iter([net.feeds(4, seed) for seed in range(4)])

    def get_next(self) -> dict[str, np.ndarray] | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The next one."""
        return next(self.rest, None)


def quantized(net: Net, form: str, *, narrow: bool = False, per_channel: bool = False) -> ir.Model:
    """The masked net, or its twin, in 8 bits.

    Args:
        net: a net whose dead channels are zero.
        form: ``qdq`` or ``qoperator``.
        narrow: the twin.
        per_channel: a scale for each output channel of a weight.
    """
    module = net.twin(net.masked()) if narrow else net.module("zeros")
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before, after = Path(folder, "float.onnx"), Path(folder, "quantized.onnx")
        models.save(plainly_exported(module, net, traced=True), before)
        quantize_static(
            before,
            after,
            _Some(net),
            quant_format=FORMATS[form],
            per_channel=per_channel,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return models.load(onnx.load(after))


def numbers(model: ir.Model) -> int:
    """Weights, biases, scales and zero points of all types; sizes and axes (vectors of int64) do not count."""
    values = [value.const_value for value in model.graph.initializers.values()]
    return sum(value.size for value in values if value is not None and value.dtype != ir.DataType.INT64)
