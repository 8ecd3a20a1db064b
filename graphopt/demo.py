"""The whole story on a small net: train, prune, fine-tune, export, optimize, quantize, verify, measure.

Torch is imported by `graphopt.models` only, and only when the story is told.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from graphopt import model as model_io
from graphopt import pipeline, runtime
from graphopt.bench import bench
from graphopt.errors import DependencyError
from graphopt.facts.stats import stats
from graphopt.quantization.pipeline import quantize
from graphopt.report import html, words
from graphopt.report import json as report_json
from graphopt.report.schema import Report
from graphopt.verify import verify

if TYPE_CHECKING:
    from graphopt.models.resnet_digits.module import ResNetDigits
    from graphopt.train.data import Data

_PRUNED = 0.5
_CALIBRATION = 512
"""Training images that the quantizer sees."""

_NEEDED = {"torch": "torch", "onnxscript": "onnxscript", "sklearn": "scikit-learn"}
_EXAMPLE = {"image": (1, 1, 8, 8)}


@dataclasses.dataclass
class Stage:
    """One ONNX file of the story, everything measured on the file itself in onnxruntime."""

    name: str
    path: str
    parameters: int
    macs: int
    bytes: int
    latency_ms: float
    """Median of one image, one thread."""
    accuracy: float
    """Share of the test images that it gets right."""


@dataclasses.dataclass
class Story:
    """What the demo did. `stages` are trained, pruned, optimized, quantized, in this order."""

    folder: str
    stages: list[Stage]
    speedup: float
    """Latency of the pruned model by that of the optimized one, measured in turns."""
    quantized_speedup: float
    """Latency of the optimized model by that of the quantized one."""
    worst_difference: float
    """Largest difference between the logits of pruned and optimized on all test images."""
    different_predictions: int
    quantized_differently: int
    """How many test images the quantized model answers otherwise than the optimized one."""
    test_images: int
    seconds: float
    report: Report
    """Of the optimization."""
    quantization: Report


def tell(
    folder: Path,
    *,
    seed: int = 0,
    epochs: int = 4,
    bench_seconds: float = 1.0,
    say: Callable[[str], None] = lambda line: None,
    progress: Callable[[str, int, int], None] = lambda label, done, total: None,
) -> Story:
    """Tells the story and leaves its files in `folder`, which is made if it is missing (its parent must exist).

    `say` gets a line at the end of each step, `progress` what is under way. The files are `trained.onnx`,
    `pruned.onnx`, `optimized.onnx`, `quantized.onnx`, `report.html` and `.json` of the optimization, `quantized.html`
    and `.json` of the quantization, `calibration_images.npz` and `test_images.npz`. The same seed gives the same
    models. Raises DependencyError when torch or scikit-learn is missing, VerificationError if the optimized model
    should differ from the pruned one.
    """
    require()
    from graphopt.models.resnet_digits import train
    from graphopt.models.resnet_digits.family import FAMILY
    from graphopt.models.resnet_digits.module import new

    start = time.perf_counter()
    digits = FAMILY.data()
    train_images, test_images = digits.train.inputs.numpy(), digits.test.inputs.numpy()
    test_labels = digits.test.targets.numpy()
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{name}.onnx" for name in ("trained", "pruned", "optimized", "quantized")]
    trained, pruned, optimized, quantized = paths

    net = new(seed)
    fit = _Fit(digits, seed, progress)
    seconds = fit(net, "training", epochs, 2e-3)
    accuracy = FAMILY.task.evaluate(net, digits)
    say(f"trained a residual CNN on {len(train_images):,} digits: {accuracy:.1%} right, {seconds:.0f} s")
    progress("exporting", 0, 0)
    model_io.save(FAMILY.export(net), trained)

    train.prune_filters(net, _PRUNED)
    accuracy = FAMILY.task.evaluate(net, digits)
    say(f"pruned {_PRUNED:.0%} of the filters of every convolution (torch.nn.utils.prune): {accuracy:.1%} right")
    seconds = fit(net, "fine-tuning, masks held", epochs, 1e-3)
    accuracy = FAMILY.task.evaluate(net, digits)
    say(f"fine-tuned with the masks held: {accuracy:.1%} right, {seconds:.0f} s")

    progress("exporting", 0, 0)
    model_io.save(FAMILY.export(net), pruned)
    say("exported to ONNX, the masks in place, the batch size left open")

    result = pipeline.optimize(pruned, seed=seed, progress=progress)
    result.save(optimized)
    html.write(result.report, folder / "report.html")
    report_json.write(result.report, folder / "report.json")
    say(f"optimized with graphopt: {result.report.seconds:.1f} s")

    samples = folder / "calibration_images.npz"
    np.savez(samples, image=train_images[:_CALIBRATION])
    integers = quantize(optimized, samples, shapes=_EXAMPLE, seed=seed, progress=progress)
    integers.save(quantized)
    html.write(integers.report, folder / "quantized.html")
    report_json.write(integers.report, folder / "quantized.json")
    assert integers.report.quantize is not None
    say(f"quantized on {_CALIBRATION} training images: {words.integer_operators(integers.report.quantize)}")

    progress("verifying on all test images", 0, 0)
    images = {"image": test_images}
    np.savez(folder / "test_images.npz", image=test_images)
    verdict = verify(pruned, optimized, data=[images])
    logits = {path: runtime.run(runtime.session(path), images)[0] for path in paths}
    before, after = logits[pruned], logits[optimized]
    answers = {path: found.argmax(axis=1) for path, found in logits.items()}
    worst = float(np.abs(before - after).max())
    if not verdict.passed:
        from graphopt.errors import VerificationError

        raise VerificationError(
            f"the optimized model differs from the pruned one by up to {worst:.2g}",
            where=str(optimized),
            help="this is a bug in graphopt, please report it",
            report=verdict,
        )
    say(f"verified on {len(before)} test images: worst difference of a logit {worst:.1e}")

    progress("measuring", 0, 0)
    measured = bench(*paths, threads=1, shapes=_EXAMPLE, seconds=bench_seconds, seed=seed)
    latency = [row.median_ms for row in measured.rows]
    stages = [
        _stage(path, milliseconds, float((answers[path] == test_labels).mean()))
        for path, milliseconds in zip(paths, latency, strict=True)
    ]
    say("measured in onnxruntime, in turns, one thread, one image")
    return Story(
        folder=str(folder),
        stages=stages,
        speedup=measured.rows[1].paired_ratio / measured.rows[2].paired_ratio,
        quantized_speedup=measured.rows[2].paired_ratio / measured.rows[3].paired_ratio,
        worst_difference=worst,
        different_predictions=int((answers[pruned] != answers[optimized]).sum()),
        quantized_differently=int((answers[optimized] != answers[quantized]).sum()),
        test_images=len(before),
        seconds=time.perf_counter() - start,
        report=result.report,
        quantization=integers.report,
    )


def require() -> None:
    """Raises DependencyError that says what to install when something the story needs is missing."""
    missing = [package for name, package in _NEEDED.items() if importlib.util.find_spec(name) is None]
    if missing:
        raise DependencyError(
            f"the demo trains a net, and needs {' and '.join(missing)}",
            where="graphopt demo",
            help='pip install "graphopt[train]"; the optimizer itself works without',
        )


class _Fit:
    """Trains, and takes the time."""

    def __init__(self, digits: Data, seed: int, progress: Callable[[str, int, int], None]) -> None:
        self._digits = digits
        self._seed = seed
        self._progress = progress

    def __call__(self, net: ResNetDigits, label: str, epochs: int, rate: float) -> float:
        """Returns the seconds it took."""
        from graphopt.models.resnet_digits.train import train

        start = time.perf_counter()
        train(net, self._digits, epochs=epochs, rate=rate, seed=self._seed, progress=self._progress, label=label)
        return time.perf_counter() - start


def _stage(path: Path, milliseconds: float, accuracy: float) -> Stage:
    counted = stats(model_io.load(path))
    return Stage(
        name=path.stem,
        path=str(path),
        parameters=counted.parameters,
        macs=counted.macs,
        bytes=model_io.file_info(path)["bytes"],
        latency_ms=milliseconds,
        accuracy=accuracy,
    )
