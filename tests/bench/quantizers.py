"""Other tools that quantize ONNX models, each where it is installed: columns of ``tests.bench.accuracy``.

Never a dependency: install one beside the project (``pip install nncf``, ``pip install 'nvidia-modelopt[onnx]'``) and
it is measured. Settings are those that the tool's own documentation gives for int8 on a CPU, with weights per channel.
neural-compressor 3 has no part for ONNX any more.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx

Quantizer = Callable[[Path, str, list[np.ndarray], Path], Path]
"""Takes the float model, the name of its input, batches to calibrate with and a folder; returns the quantized model."""


def nncf(model: Path, name: str, batches: list[np.ndarray], folder: Path) -> Path:
    """NNCF's post-training quantization."""
    import nncf as tool  # type: ignore[import-not-found]

    after = folder / "nncf.onnx"
    # It reads one batch at a time and counts batches.
    data = tool.Dataset([{name: batch} for batch in batches])
    onnx.save(tool.quantize(onnx.load(model), data, subset_size=len(batches)), after)
    return after


def modelopt(model: Path, name: str, batches: list[np.ndarray], folder: Path) -> Path:
    """ModelOpt's int8 quantization of ONNX models: symmetric, meant for TensorRT."""
    from modelopt.onnx.quantization import quantize  # type: ignore[import-not-found]

    after = folder / "modelopt.onnx"
    quantize(
        str(model),
        quantize_mode="int8",
        calibration_data={name: np.concatenate(batches)},
        calibration_method="max",
        calibration_eps=["cpu"],
        output_path=str(after),
    )
    return after


KNOWN: dict[str, tuple[str, Quantizer]] = {"NNCF": ("nncf", nncf), "ModelOpt": ("modelopt", modelopt)}


def installed() -> dict[str, Quantizer]:
    """Return those that are here, silenced."""

    def silent(tool: Quantizer) -> Quantizer:
        def run(model: Path, name: str, batches: list[np.ndarray], folder: Path) -> Path:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                return tool(model, name, batches, folder)

        return run

    return {title: silent(tool) for title, (package, tool) in KNOWN.items() if importlib.util.find_spec(package)}
