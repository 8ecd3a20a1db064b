"""Nets of one bit: ``python -m tests.bench.train.binarization [--net NAME ...] [--methods NAME ...] [--seeds 3]``.

What stands for the derivative of sign, side by side: the three series, with and without the error module, and the
published estimators, all trained from random weights with the same settings and the same order of samples. ``float`` is
the family's own net; ``twin`` is the net that gets the binary layers, before it gets them. Mean and standard deviation
of the accuracy over seeds, and how many answers of the packed ONNX file in onnxruntime are those of torch. Then files
and latencies of the float net, of the binary one in standard operators, and of the packed one with the library.

By default the digits (an MLP and a residual CNN): minutes on one core. ``--net resnet_cifar`` and ``--net vgg_small``
take CIFAR-10 in a reduced form; ``--train --test --size --epochs --width`` say how reduced, and are printed. Published,
with full training: ResNet-20 STE 84.4, FDA-BNN (``fourier``) 86.20, ReSTE 86.75, float 92.1; VGG-small FDA-BNN 92.54.
``--speed`` trains nothing: random weights have the same size and speed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import nn

from graphopt.errors import GraphoptError
from graphopt.runtime_ops import library
from graphopt.train.agreement import agreement
from graphopt.train.binary import Binarized, BinarizeSettings, binarize, binary_net, lowered, to_onnx, without_errors
from graphopt.train.binary.form import binary_form
from graphopt.train.data import Data
from graphopt.train.family import Family, family
from graphopt.train.settings import Settings
from graphopt.train.trainer import Trainer
from tests.bench.table import head, row
from tests.bench.train.stages import Clock, Line, machine, table

FLOAT, TWIN, WITHOUT = "float", "twin", "-without-error"
ALL = (FLOAT, TWIN, "fourier", f"fourier{WITHOUT}", "haar", "dft", "ste", "dsq", "bireal", "reste")
COMPARED = (FLOAT, TWIN, "fourier", "ste", "reste")
"""On CIFAR-10: what published figures are there for."""


@dataclass(frozen=True)
class Subject:
    """A net, how long it is trained, and by which methods."""

    model: Mapping[str, Any]
    train: Settings
    data: Mapping[str, Any] = field(default_factory=dict)
    methods: Sequence[str] = ALL


_SHORT = Settings(epochs=8, rate=5e-3, schedule="cosine")
_CIFAR: Mapping[str, Any] = {"name": "cifar10", "train": 8000, "test": 2000, "size": 16}
SUBJECTS = {
    "mlp_digits": Subject({"hidden": [64, 64, 64]}, replace(_SHORT, epochs=40)),
    "resnet_digits": Subject({"width": 16}, replace(_SHORT, epochs=20)),
    "resnet_cifar": Subject({"depth": 20, "width": 16}, _SHORT, _CIFAR, COMPARED),
    "vgg_small": Subject({"width": 32}, _SHORT, _CIFAR, COMPARED),
}


def main(arguments: list[str]) -> int:
    """Print the tables; 1 where something is missing."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.train.binarization", description=__doc__)
    parser.add_argument("--net", nargs="+", choices=SUBJECTS, default=["mlp_digits", "resnet_digits"])
    parser.add_argument("--methods", nargs="+", choices=ALL)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--width", type=int, help="channels of the first stage")
    parser.add_argument("--train", type=int, help="training images")
    parser.add_argument("--test", type=int, help="test images")
    parser.add_argument("--size", type=int, help="height and width of CIFAR-10 images")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seconds", type=float, default=2.0, help="measuring time per model")
    parser.add_argument("--speed", action="store_true", help="train nothing, measure files and latencies")
    parser.add_argument("--out", type=Path, help="leave checkpoints here, and go on from them")
    chosen = parser.parse_args(arguments)
    print(machine())
    if library() is None:
        print("The operator library is not built (make ops): packed models run as ONNX functions, slowly.")
    try:
        for name in chosen.net:
            _one(name, _changed(name, chosen), chosen)
    except GraphoptError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _changed(name: str, chosen: argparse.Namespace) -> Subject:
    """Return the subject as the command line wants it."""
    subject = SUBJECTS[name]
    data = {key: value for key in ("train", "test", "size") if (value := getattr(chosen, key)) is not None}
    train = {key: value for key in ("epochs", "rate") if (value := getattr(chosen, key)) is not None}
    model = dict(subject.model) if chosen.width is None else {**subject.model, "width": chosen.width}
    data = {**subject.data, **data}
    if "size" in data:
        model["size"] = data["size"]
    return Subject(model, replace(subject.train, **train), data, chosen.methods or subject.methods)


def _one(name: str, subject: Subject, chosen: argparse.Namespace) -> None:
    """Print the tables of one net."""
    kind, said = family(name), Clock()
    data = kind.data(**subject.data)
    print(
        f"\n{name} {_text(subject.model)}; {len(data.train):,} training and {len(data.test):,} test samples of "
        f"{list(kind.example(kind.new(**subject.model))[0].shape[1:])}; {subject.train.epochs} epochs of batches of "
        f"{subject.train.batch}, {subject.train.optimizer}, rate {subject.train.rate}, {subject.train.schedule}; "
        f"seeds 0 to {chosen.seeds - 1}\n"
    )
    if not chosen.speed:
        lines = [head(["gradient", "accuracy %", "spread", "worst", "best", "answers as in torch"])]
        for method in subject.methods:
            lines.append(_trained(kind, subject, data, method, chosen))
            said(f"{method}: {lines[-1]}")
        print("\n" + "\n".join(lines))
    print(f"\n{_speed(kind, subject, data, chosen.seconds)}", flush=True)


def _trained(kind: Family, subject: Subject, data: Data, method: str, chosen: argparse.Namespace) -> str:
    """Return the row of one method."""
    figures: list[float] = []
    same = answers = 0
    for seed in range(chosen.seeds):
        folder = None if chosen.out is None else chosen.out / kind.name / f"{method}-{seed}"
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        if method in (FLOAT, TWIN):
            net = (kind.new if method == FLOAT else binary_form(kind))(seed=seed, **subject.model)
            trainer = Trainer(net, data, kind.task, seed=seed, folder=folder, device=chosen.device)
            trainer.fit(subject.train)
            figures.append(100 * trainer.evaluate())
            continue
        found = _binary(kind, subject, data, method, seed, folder, chosen.device)
        agreed = agreement(found.net, lowered(found.model), kind, data)
        figures.append(100 * found.figure)
        same, answers = same + agreed.same, answers + agreed.answers
    spread = statistics.stdev(figures) if len(figures) > 1 else float("nan")
    shown = [f"{value:.2f}" for value in (statistics.mean(figures), spread, min(figures), max(figures))]
    return row([method, *shown, f"{same:,} of {answers:,}" if answers else ""])


def _binary(
    kind: Family, subject: Subject, data: Data, method: str, seed: int, folder: Path | None, device: str
) -> Binarized:
    settings = BinarizeSettings(
        method=method.removesuffix(WITHOUT),  # type: ignore[arg-type]
        error=method in ("fourier", "haar", "dft"),  # the published estimators have none
        train=subject.train,
    )
    return binarize(kind, subject.model, data, settings, folder=folder, seed=seed, device=device)


def _speed(kind: Family, subject: Subject, data: Data, seconds: float) -> str:
    """Return the table of files and latencies, of nets with random weights and settled batch-norms."""
    float_net = _settled(kind.new(**subject.model), data)
    binary, _ = binary_net(kind, subject.model, BinarizeSettings(error=False))
    binary = _settled(binary, data)
    without_errors(binary)
    with tempfile.TemporaryDirectory() as folder:
        line = Line(kind, float_net, data, Path(folder))
        line.add("float", kind.export(float_net))
        model = to_onnx(binary, kind)
        line.add("binary, standard operators", model)
        line.add("binary, packed", lowered(model))
        return table(line.measured(seconds), kind.task.figure) + "\n\n(random weights: sizes and times, no accuracies)"


@torch.no_grad()
def _settled(net: nn.Module, data: Data) -> nn.Module:
    net.train()
    net(data.prepare(data.train.first(64).inputs))  # type: ignore[union-attr]
    return net.eval()


def _text(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in options.items())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
