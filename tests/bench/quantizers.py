"""Other tools that quantize ONNX models, each where it is installed: rows of ``tests.bench.accuracy``.

Never a dependency: they want versions of onnx, onnxruntime and torch of their own, so they live in an environment of
their own (``pip install nncf aimet-onnx 'nvidia-modelopt[onnx]'``), and ``tests.bench.accuracy --peers
ENVIRONMENT/bin/python`` runs this file there, once for each tool and net. Settings are those that the tool's own
documentation gives for int8 with weights per channel. neural-compressor 3 has no part for ONNX any more.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Batches = list[dict[str, Any]]


def nncf(model: Path, batches: Batches, after: Path) -> None:
    """NNCF's post-training quantization."""
    import nncf as tool  # type: ignore[import-not-found]
    import onnx

    # It reads one batch at a time and counts batches.
    onnx.save(tool.quantize(onnx.load(model), tool.Dataset(batches), subset_size=len(batches)), after)


def aimet(model: Path, batches: Batches, after: Path) -> None:
    """AIMET's simulated quantization with ranges of least squared error, written as Q/DQ."""
    # Its default configuration has one scale a tensor; per-channel weights come with this one.
    import aimet_onnx.common.quantsim_config as configurations  # type: ignore[import-not-found]
    import onnx
    from aimet_onnx.common.defs import QuantScheme  # type: ignore[import-not-found]
    from aimet_onnx.quantsim import QuantizationSimModel  # type: ignore[import-not-found]

    config = Path(configurations.__file__).parent / "default_config_per_channel.json"
    sim = QuantizationSimModel(
        onnx.load(model),
        quant_scheme=QuantScheme.post_training_tf_enhanced,
        config_file=str(config),
        providers=["CPUExecutionProvider"],
    )
    sim.compute_encodings(batches)
    onnx.save(sim.to_onnx_qdq(), after)


def modelopt(model: Path, batches: Batches, after: Path) -> None:
    """ModelOpt's int8 quantization of ONNX models: symmetric, meant for TensorRT."""
    from modelopt.onnx.quantization import quantize  # type: ignore[import-not-found]

    quantize(
        str(model),
        quantize_mode="int8",
        calibration_data={name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]},
        calibration_method="max",
        calibration_eps=["cpu"],
        high_precision_dtype="fp32",
        output_path=str(after),
    )


Quantizer = Callable[[Path, Batches, Path], None]
KNOWN: dict[str, tuple[str, Quantizer]] = {
    "NNCF": ("nncf", nncf),
    "AIMET": ("aimet_onnx", aimet),
    "ModelOpt": ("modelopt", modelopt),
}


def installed(python: str) -> list[str]:
    """Return the tools that an interpreter finds."""
    done = subprocess.run([python, __file__], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def quantized(python: str, tool: str, model: Path, batches: Batches) -> Path:
    """Quantize a model file with a tool that another interpreter has; return the file that it wrote beside it.

    Raises:
        RuntimeError: It fails; with the last line of what it said.
    """
    data, after = model.with_name("data.npz"), model.with_name(f"{tool}.onnx")
    np.savez(data, **{f"{i}/{name}": x for i, batch in enumerate(batches) for name, x in batch.items()})
    done = subprocess.run(
        [python, __file__, tool, str(model), str(data), str(after)], capture_output=True, text=True, check=False
    )
    if done.returncode or not after.exists():
        raise RuntimeError((done.stderr.strip() or done.stdout.strip() or "nothing was written").splitlines()[-1])
    return after


def main(arguments: list[str]) -> None:
    """Run one tool, or print which of them are here."""
    if not arguments:
        print(json.dumps([title for title, (package, _) in KNOWN.items() if importlib.util.find_spec(package)]))
        return
    tool, model, data, after = arguments
    batches: dict[int, dict[str, Any]] = {}
    with np.load(data) as stored:
        for key in stored.files:
            number, name = key.split("/", 1)
            batches.setdefault(int(number), {})[name] = stored[key]
    KNOWN[tool][1](Path(model), [batches[number] for number in sorted(batches)], Path(after))


if __name__ == "__main__":
    main(sys.argv[1:])
