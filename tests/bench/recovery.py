"""What equalisation, SmoothQuant and bias correction win: ``python -m tests.bench.recovery [NET ...]``.

Output SQNR and accuracy, or agreement with the float model where there are no labels, on data that was not calibrated
with: with nothing, with each pass, with all three; one scale for a weight and one for each channel, 8 and 4 bits.

``-uneven``: the same function, to the bit, with channels that were multiplied by random powers of two wherever later
layers can make up for it (``quantization/scaling.py``), as training with batch norms leaves them in depthwise nets;
``-outliers``: a few channels by 64, as they are in large transformers.
"""

from __future__ import annotations

import argparse
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import onnx_ir as ir
import torch

import graphopt
from graphopt import model as models
from graphopt import rounds, runtime
from graphopt.quantization.rescale import rescale
from graphopt.quantization.scaling import scaling
from graphopt.rounds import Settings
from tests.bench.table import head, row
from tests.nets import cifar, mobilenet, resnet
from tests.nets.catalogue import DATA, FULL, trained
from tests.nets.exporting import plainly_exported, twin_model
from tests.nets.masking import randomise

PASSES = ("", "equalize", "smooth-quant", "bias-correction", "equalize,smooth-quant,bias-correction")
WAYS = (("int8", False), ("int8", True), ("int4", False), ("int4", True))
CALIBRATED, JUDGED, BATCH = 128, 1024, 64


@dataclass
class Subject:
    """A float model with its data; ``labels`` where there are any."""

    model: ir.Model
    calibration: list[dict[str, np.ndarray]]
    judged: list[dict[str, np.ndarray]]
    labels: np.ndarray | None = None


class Plain(mobilenet.Inverted):
    """A block with Relu instead of Relu6, across which factors move."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x + project(filter(expand(x)))."""
        y = torch.relu(self.bn1(self.expand(x)))
        y = self.bn3(self.project(torch.relu(self.bn2(self.filter(y)))))
        return x + y if self.residual else y


def _images() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    if cifar.present():
        yield from cifar.batches(BATCH, CALIBRATED + JUDGED)
        return
    rng = np.random.default_rng(0)
    for _ in range((CALIBRATED + JUDGED) // BATCH):
        yield rng.standard_normal((BATCH, 3, 32, 32)).astype(np.float32), np.zeros(0)


def _with_images(model: ir.Model, labelled: bool) -> Subject:
    batches = list(_images())
    feeds = [{"x": images} for images, _ in batches]
    first = CALIBRATED // BATCH
    labels = np.concatenate([label for _, label in batches[first:]]) if labelled and cifar.present() else None
    return Subject(model, feeds[:first], feeds[first:], labels)


def _resnet(depth: int) -> Subject:
    net = FULL[f"resnet{depth}"]
    module = resnet.ResNet((16, 32, 64), (depth - 2) // 6, projection=False)
    if trained(depth):
        resnet.load_cifar(module, DATA / f"cifar10_resnet{depth}.safetensors")
    else:
        randomise(module, depth)
    return _with_images(plainly_exported(module.eval(), net), trained(depth))


def _mobilenet(kind: type[mobilenet.Inverted] | None) -> Subject:
    plan = ((16, 1, 1), (24, 2, 2), (32, 3, 2), (64, 2, 2))
    module = randomise(mobilenet.MobileNet(16, plan, 4, 128), 3)
    for block in module.blocks if kind is not None else ():
        block.__class__ = kind
    return _with_images(plainly_exported(module.eval(), FULL["resnet20"]), False)


def _of_catalogue(name: str) -> Subject:
    net = FULL[name]
    feeds = [net.feeds(16, seed=seed) for seed in range(6)]
    return Subject(twin_model(net), feeds[:3], feeds[3:])


def _uneven(build: Callable[[], Subject], octaves: float, share: float = 1.0) -> Subject:
    """The same function with channels apart: normal exponents, or all of them +-6 for a share of the channels."""
    subject = build()
    context = rounds.prepare(models.clone(subject.model), Settings((), target="portable"))
    found = scaling(context.facts())
    rng = np.random.default_rng(1)
    exponents = np.rint(octaves * rng.standard_normal(found.classes))
    if share < 1:
        exponents = np.where(rng.random(found.classes) < share, octaves, 0.0)
    rescale(context, found, exponents)
    subject.model = context.model
    return subject


NETS: dict[str, Callable[[], Subject]] = {
    "resnet20": partial(_resnet, 20),
    "resnet56": partial(_resnet, 56),
    "resnet20-uneven": partial(_uneven, partial(_resnet, 20), 2.0),
    "mobilenet": partial(_mobilenet, None),
    "mobilenet-relu": partial(_mobilenet, Plain),
    "mobilenet-relu-uneven": partial(_uneven, partial(_mobilenet, Plain), 2.0),
    "vit": partial(_of_catalogue, "vit"),
    "vit-outliers": partial(_uneven, partial(_of_catalogue, "vit"), 6.0, 0.02),
    "bert": partial(_of_catalogue, "bert"),
}


def judged(subject: Subject, model: ir.Model) -> tuple[float, float]:
    """SQNR of the first output in decibels, and accuracy or agreement in per cent."""
    sessions = [runtime.session(each) for each in (subject.model, model)]
    signal = noise = 0.0
    right, start, count = 0, 0, 0
    for feeds in subject.judged:
        exact, found = (runtime.run(session, feeds)[0].astype(np.float64) for session in sessions)
        signal, noise = signal + float((exact**2).sum()), noise + float(((exact - found) ** 2).sum())
        best = found.argmax(-1)
        wanted = exact.argmax(-1) if subject.labels is None else subject.labels[start : start + len(best)]
        start, count = start + len(best), count + best.size
        right += int((best == wanted).sum())
    return 10 * np.log10(signal / noise) if noise else np.inf, 100 * right / count


def main() -> None:
    """Print a table for each net."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("nets", nargs="*", choices=[*NETS, []], default=list(NETS))
    parser.add_argument("--judged", type=int, default=JUDGED, help="images or samples to compare, at most")
    parser.add_argument("--weights", choices=("int8", "int4"), help="only this type")
    options = parser.parse_args()
    for name in options.nets:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            subject = NETS[name]()
        first = next(iter(subject.judged[0].values()))
        subject.judged = subject.judged[: max(1, options.judged // len(first))]
        exact = judged(subject, subject.model)[1]
        what = "accuracy" if subject.labels is not None else "agreement"
        print(f"\n{name}: {what} of the float model {exact:.2f} %\n")
        print(head(["weights, scales", *(text.replace(",", ", ") or "none" for text in PASSES)]))
        for weights, per_channel in WAYS:
            if options.weights in (None, weights):
                cells = []
                for recover in PASSES:
                    found = graphopt.quantize(
                        subject.model, subject.calibration, recover=recover, weights=weights, per_channel=per_channel,
                        everything=True, measure=False, verify=False,
                    )  # fmt: skip
                    sqnr, percent = judged(subject, found.model)
                    cells.append(f"{sqnr:.1f} dB, {percent:.2f} %")
                print(row([f"{weights}, {'channel' if per_channel else 'tensor'}", *cells]), flush=True)


if __name__ == "__main__":
    main()
