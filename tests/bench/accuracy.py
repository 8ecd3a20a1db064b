"""Accuracy and output SQNR beside other calibrators, on real data: ``python -m tests.bench.accuracy [NET ...]``.

Trained ResNet-20 and -56 on CIFAR-10 (where weights and images are beside the repository) and the digits net, trained
here, dense and with half of its filters pruned. All are calibrated with the same training images and judged on the test
images, which no calibration has seen. ``graphopt`` is the default of ``graphopt.quantize``; onnxruntime's are
``quantize_static`` with per-channel weights, QDQ, uint8 activations, after its own preprocessing; other tools take part
where they are installed (``quantizers.py``).

int8 may lose 0.1 point against float, 4-bit weights 1 point, and no calibrator may have a better SQNR or accuracy than
graphopt's int8. A point of accuracy is one of 100; fewer images than make a difference of 0.1 point tell nothing about
it (360 digits: 0.28), so one image is always allowed. "by chance" is how likely two models that are equally good differ
by so many of these images (McNemar's exact test). The exit status is 1 if a bound is violated.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import math
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import torch

import graphopt
from graphopt import model as models
from graphopt import runtime
from graphopt.models.data import digits as digit_images
from graphopt.models.resnet_digits import module, train
from tests.bench import quantizers
from tests.bench.table import head, row
from tests.nets import cifar, resnet
from tests.nets.catalogue import DATA, FULL, trained
from tests.nets.exporting import plainly_exported

NETS = ("digits", "digits-pruned", "resnet20", "resnet56")
CALIBRATORS = ("MinMax", "Percentile", "Entropy", "Distribution")
INT8_LOSS, INT4_LOSS = 0.1, 1.0

Batch = tuple[np.ndarray, np.ndarray]


@dataclass
class Subject:
    """A float model with its data; ``judged`` are batches of images and labels."""

    name: str
    model: ir.Model
    calibration: list[np.ndarray]
    judged: list[Batch]
    exact: list[np.ndarray]
    """What the float model says of them."""

    @property
    def input(self) -> str:
        """The name of the input."""
        return str(self.model.graph.inputs[0].name)

    @property
    def images(self) -> int:
        """How many images are judged."""
        return sum(len(labels) for _, labels in self.judged)


@dataclass
class Line:
    """One row of the table."""

    name: str
    right: np.ndarray
    """For each image whether the answer is right."""
    decibels: float
    seconds: float

    @property
    def points(self) -> float:
        """Accuracy in points of 100."""
        return 100 * float(self.right.mean())

    def chance(self, other: Line) -> float:
        """How likely chance alone lets two that are equally good differ by so many images: McNemar's exact test."""
        more, less = int((self.right & ~other.right).sum()), int((other.right & ~self.right).sum())
        both = more + less
        tail = sum(math.comb(both, k) for k in range(min(more, less) + 1)) * 2
        return min(1.0, float(Fraction(tail, 2**both)))


Way = Callable[[Subject, Path], Any]
"""Quantizes: returns an ``ir.Model``, or the path of a model."""


def main(arguments: list[str]) -> int:
    """Prints the tables and a verdict."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.accuracy", description=__doc__)
    parser.add_argument("nets", nargs="*", default=list(NETS), metavar="NET", help=", ".join(NETS))
    parser.add_argument("--images", type=int, default=10_000, help="CIFAR-10 test images to judge by")
    parser.add_argument("--calibrate", type=int, default=256, help="training images to calibrate with")
    parser.add_argument("--more", action="store_true", help="other settings of graphopt, too")
    parser.add_argument("--peers", metavar="PYTHON", help="interpreter of an environment with other tools")
    chosen = parser.parse_args(arguments)
    bad: list[str] = []
    for subject in subjects(chosen.nets, chosen.images, chosen.calibrate):
        lines = measured(subject, ways(chosen.more, chosen.peers))
        bad += [f"{subject.name}: {what}" for what in violations(lines)]
    print("\n" + ("every bound holds" if not bad else "violated: " + "; ".join(bad)))
    return bool(bad)


def measured(subject: Subject, by: dict[str, Way]) -> list[Line]:
    """Print one table, and return its rows."""
    print(f"\n{subject.name}, {subject.images} images\n")
    print(head(["quantized by", "accuracy", "of float", "by chance", "SQNR dB", "seconds"]))
    right = np.concatenate(
        [y.argmax(1) == labels for y, (_, labels) in zip(subject.exact, subject.judged, strict=True)]
    )
    lines = [Line("float", right, np.inf, 0.0)]
    print(row(["float", f"{lines[0].points:.2f}", "", "", "", ""]), flush=True)
    for name, way in by.items():
        with tempfile.TemporaryDirectory(prefix="bench-") as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            start = time.perf_counter()
            try:
                result = way(subject, Path(folder))
                seconds = time.perf_counter() - start
                line = judged(subject, name, result, seconds)
            except Exception as error:  # a calibrator that fails is a row of the table
                print(row([name, f"{type(error).__name__}: {error}".splitlines()[0][:60], "", "", "", ""]), flush=True)
                continue
        lines.append(line)
        change = line.points - lines[0].points
        chance = f"{line.chance(lines[0]):.2f}"
        print(row([name, f"{line.points:.2f}", f"{change:+.2f}", chance, f"{line.decibels:.2f}", seconds]), flush=True)
    return lines


def judged(subject: Subject, name: str, result: Any, seconds: float) -> Line:
    """Return accuracy and output SQNR of a quantized model."""
    if isinstance(result, ir.Model):
        session = runtime.session(result)
    else:
        session = onnxruntime.InferenceSession(str(result), providers=["CPUExecutionProvider"])
    right, signal, noise = [], 0.0, 0.0
    for (images, labels), expected in zip(subject.judged, subject.exact, strict=True):
        (found,) = session.run(None, {subject.input: images})
        found = np.asarray(found, np.float64)
        right.append(found.argmax(1) == labels)
        signal += float(np.square(expected, dtype=np.float64).sum())
        noise += float(np.square(found - expected).sum())
    decibels = 10 * np.log10(signal / noise) if noise else np.inf
    return Line(name, np.concatenate(right), decibels, seconds)


def violations(lines: list[Line]) -> list[str]:
    """Return which bounds do not hold."""
    known = {line.name: line for line in lines}
    exact, ours, few = known["float"], known.get("graphopt int8"), known.get("graphopt 4-bit weights")
    bad = []
    for line, most in ((ours, INT8_LOSS), (few, INT4_LOSS)):
        if line is None:
            bad.append("graphopt fails")
        elif int(exact.right.sum()) - int(line.right.sum()) > max(1, most / 100 * exact.right.size):
            bad.append(f"{line.name} loses {exact.points - line.points:.2f} points")
    for line in lines:
        if ours is None or line.name.startswith(("graphopt", "float")):
            continue
        if line.decibels > ours.decibels:
            bad.append(f"{line.name} has {line.decibels - ours.decibels:.2f} dB more")
        if int(line.right.sum()) > int(ours.right.sum()) + 1:
            likely = f"chance does as much in {line.chance(ours):.0%} of cases"
            bad.append(f"{line.name} has {line.points - ours.points:.2f} points more ({likely})")
    return bad


# --- ways to quantize ------------------------------------------------------------------------------------------------


def ways(more: bool, peers: str | None) -> dict[str, Way]:
    """Return the ways by name; those of ``more`` are for finding out what helps."""
    found: dict[str, Way] = {
        "graphopt int8": ours(),
        "graphopt 4-bit weights": ours(weights="levels16"),
    }
    if more:
        found |= {
            "graphopt mse, no recovery": ours(recover="none"),
            "graphopt minmax, no recovery": ours(method="minmax", recover="none"),
            "graphopt minmax": ours(method="minmax"),
            "graphopt percentile": ours(method="percentile"),
            "graphopt entropy": ours(method="entropy"),
            "graphopt 4 bits, gptq": ours(weights="levels16", recover="gptq,bias-correction"),
        }
    found |= {f"onnxruntime {name}": onnxruntimes(name) for name in CALIBRATORS}
    return found | {tool: another(tool, peers) for tool in (quantizers.installed(peers) if peers else [])}


def ours(**options: Any) -> Way:
    """graphopt with options."""

    def way(subject: Subject, folder: Path) -> ir.Model:
        feeds = [{subject.input: images} for images in subject.calibration]
        return graphopt.quantize(subject.model, feeds, everything=True, measure=False, **options).model

    return way


def onnxruntimes(calibrator: str) -> Way:
    """onnxruntime with one of its calibrators."""

    def way(subject: Subject, folder: Path) -> Path:
        from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        before, ready, after = (folder / f"{name}.onnx" for name in ("float", "ready", "int8"))
        models.save(subject.model, before)
        logging.getLogger().setLevel(logging.ERROR)
        with contextlib.redirect_stdout(io.StringIO()):
            quant_pre_process(str(before), str(ready), skip_symbolic_shape=True)
            quantize_static(
                str(ready),
                str(after),
                _Reader(subject),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod[calibrator],
            )
        return after

    return way


def another(tool: str, python: str) -> Way:
    """Another tool, in an environment of its own."""

    def way(subject: Subject, folder: Path) -> Path:
        before = folder / "float.onnx"
        models.save(subject.model, before)
        return quantizers.quantized(python, tool, before, [{subject.input: images} for images in subject.calibration])

    return way


class _Reader:
    """Calibration data as onnxruntime takes it."""

    def __init__(self, subject: Subject) -> None:
        self._feeds = iter([{subject.input: images} for images in subject.calibration])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)


# --- nets and data ---------------------------------------------------------------------------------------------------


def subjects(names: list[str], images: int, calibrate: int) -> Iterator[Subject]:
    """The nets that can be had here."""
    for name in names:
        if name.startswith("digits"):
            yield digits(name, calibrate)
        elif trained(int(name[6:])) and cifar.present():
            net = FULL[name]
            built = resnet.ResNet((16, 32, 64), (int(name[6:]) - 2) // 6, projection=False)
            resnet.load_cifar(built, DATA / f"cifar10_{name}.safetensors")
            chosen = [x for x, _ in cifar.batches(32, calibrate, part="train")]
            yield complete(name, plainly_exported(built.eval(), net), chosen, list(cifar.batches(500, images)))
        else:
            print(f"{name}: needs its trained weights and CIFAR-10 beside the repository", file=sys.stderr)


def digits(name: str, calibrate: int) -> Subject:
    """Train the digits net, as ``graphopt demo`` does."""
    known = digit_images.load()
    net = module.new()
    train.train(net, known, epochs=8)
    if name == "digits-pruned":
        train.prune_filters(net)
        train.train(net, known, epochs=6)
    images = known.train.inputs.numpy()
    chosen = [images[i : i + 32] for i in range(0, calibrate, 32)]
    return complete(name, plain(net), chosen, [(known.test.inputs.numpy(), known.test.targets.numpy())])


def plain(net: torch.nn.Module) -> ir.Model:
    """Return what every user of torch exports: batch-norms folded, masks made permanent, so that all start alike."""
    for part in net.modules():
        for parameter in [
            name.removesuffix("_mask") for name, _ in part.named_buffers(recurse=False) if "_mask" in name
        ]:
            torch.nn.utils.prune.remove(part, parameter)
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            net.eval(),
            (torch.zeros(2, 1, 8, 8),),
            dynamo=True,
            verbose=False,
            input_names=["image"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )
    assert program is not None
    program.save(file)
    return ir.serde.deserialize_model(onnx.load_from_string(file.getvalue()))


def complete(name: str, model: ir.Model, calibration: list[np.ndarray], batches: list[Batch]) -> Subject:
    """Return a subject with the float model's own outputs."""
    session = runtime.session(model)
    feed = str(model.graph.inputs[0].name)
    exact = [np.asarray(session.run(None, {feed: images})[0], np.float64) for images, _ in batches]
    return Subject(name, model, calibration, batches, exact)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
