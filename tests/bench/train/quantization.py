"""Strategies of quantization while training: ``python -m tests.bench.train.quantization [--net NAME ...] [--seeds 3]``.

Accuracy of the same float nets once they are quantized directly, layer by layer, filter by filter and neuron by neuron,
with 3 to 256 levels of weights and activations (256 for the first and the last layer). All strategies train for the
same number of steps with the same settings; mean and standard deviation over seeds. The last column is neuron less
direct, seed by seed.

By default the digits (an MLP and a residual CNN): minutes on one core. ``--net cifar`` is a reduced form of the
published comparison: a small CNN without a residual, 8 levels (3 bits), CIFAR-10; ``--net resnet20`` the same of
ResNet-20 with 4, 8 and 16 levels. ``--train --test --size --width --epochs`` say how reduced, and are printed.
Published (Mathematics 2023, 11(9) 2112): neuron 73.2 %, direct 71.4 %, layer 67.2 %. ``--longer N`` gives every
strategy N times the steps. Each subset has the schedule for itself: a constant rate suits many short ones,
``--schedule one-cycle`` suits direct.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from torch import nn

from graphopt.errors import GraphoptError
from graphopt.train.data import Data
from graphopt.train.family import Family, family
from graphopt.train.quantize import QuantizeSettings
from graphopt.train.quantize.fold import folded
from graphopt.train.quantize.layers import quantizable
from graphopt.train.quantize.process import Process
from graphopt.train.quantize.settings import ORDERS, STRATEGIES
from graphopt.train.settings import Settings
from graphopt.train.trainer import Trainer
from tests.bench.table import head, row
from tests.bench.train.stages import Clock, machine

LEVELS = (3, 4, 8, 16, 23, 256)


@dataclass(frozen=True)
class Subject:
    """A net, how it is trained in float and while it is quantized."""

    family: str
    model: Mapping[str, Any]
    train: Settings
    retrain: Settings
    levels: Sequence[int] = LEVELS
    data: Mapping[str, Any] = field(default_factory=dict)


_RETRAIN = Settings(epochs=20, rate=5e-3, schedule="constant")

SUBJECTS = {
    "mlp": Subject(
        "mlp_digits", {"hidden": [64, 32]}, Settings(epochs=15, rate=5e-3), _RETRAIN
    ),
    "cnn": Subject("resnet_digits", {"width": 8}, Settings(epochs=15, rate=5e-3), _RETRAIN),
    "cifar": Subject(
        "vgg_small",
        {"width": 16},
        Settings(epochs=12, rate=5e-3),
        replace(_RETRAIN, epochs=8, rate=2e-3),
        (8,),
        {"name": "cifar10", "train": 8000, "test": 2000, "size": 16},
    ),
    "resnet20": Subject(
        "resnet_cifar",
        {"depth": 20},
        Settings(epochs=12, rate=5e-3),
        replace(_RETRAIN, epochs=5, rate=2e-3),
        (4, 8, 16),
        {"name": "cifar10", "train": 8000, "test": 2000, "size": 16},
    ),
}  # fmt: skip


def main(arguments: list[str]) -> int:
    """Print the tables; 1 where something is missing."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.train.quantization", description=__doc__)
    parser.add_argument("--net", nargs="+", choices=SUBJECTS, default=["mlp", "cnn"])
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=list(STRATEGIES))
    parser.add_argument("--levels", nargs="+", type=int)
    parser.add_argument("--activations", type=int, help="levels of what layers read; as those of the weights")
    parser.add_argument("--order", choices=ORDERS, default="index")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--longer", type=float, default=1, help="times the steps of re-training")
    parser.add_argument("--epochs", type=int, help="of training in float")
    parser.add_argument("--rate", type=float, help="of re-training")
    parser.add_argument("--schedule", choices=("one-cycle", "cosine", "linear", "constant"), help="of re-training")
    parser.add_argument("--width", type=int, help="channels of the first layers")
    parser.add_argument("--train", type=int, help="training images")
    parser.add_argument("--test", type=int, help="test images")
    parser.add_argument("--size", type=int, help="height and width of CIFAR-10 images")
    parser.add_argument("--device", default="auto")
    chosen = parser.parse_args(arguments)
    print(machine())
    try:
        for name in chosen.net:
            _one(name, _changed(SUBJECTS[name], chosen), chosen)
    except GraphoptError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _changed(subject: Subject, chosen: argparse.Namespace) -> Subject:
    """Return the subject as the command line wants it."""
    data = {key: value for key in ("train", "test", "size") if (value := getattr(chosen, key)) is not None}
    data = {**subject.data, **data}
    model = dict(subject.model) if chosen.width is None else {**subject.model, "width": chosen.width}
    if "size" in data:
        model["size"] = data["size"]
    train = subject.train if chosen.epochs is None else replace(subject.train, epochs=chosen.epochs)
    retrain = replace(subject.retrain, epochs=max(1, round(subject.retrain.epochs * chosen.longer)))
    changed = {key: value for key in ("rate", "schedule") if (value := getattr(chosen, key)) is not None}
    retrain = replace(retrain, **changed)
    return replace(
        subject, model=model, data=data, train=train, retrain=retrain, levels=chosen.levels or subject.levels
    )


def _one(name: str, subject: Subject, chosen: argparse.Namespace) -> None:
    """Print the table of one net."""
    kind, said = family(subject.family), Clock()
    data = kind.data(**subject.data)
    retrain = subject.retrain
    print(
        f"\n{name}: {subject.family} {_text(subject.model)}; {len(data.train):,} training and {len(data.test):,} test "
        f"samples of {list(kind.example(kind.new(**subject.model))[0].shape[1:])}; in float {subject.train.epochs} "
        f"epochs, rate {subject.train.rate}; re-training {retrain.epochs} epochs of batches of {retrain.batch} in all, "
        f"{retrain.optimizer}, rate {retrain.rate}, {retrain.schedule}; order by {chosen.order}; seeds 0 to "
        f"{chosen.seeds - 1}\n"
    )
    floats: list[tuple[nn.Module, float]] = []
    for seed in range(chosen.seeds):
        trainer = Trainer(kind.new(seed=seed, **subject.model), data, kind.task, seed=seed, device=chosen.device)
        trainer.fit(subject.train)
        floats.append((trainer.net, 100 * trainer.evaluate()))
    said(f"float: {_figures([figure for _, figure in floats])}")
    both = {"direct", "neuron"} <= set(chosen.strategies)
    lines = [head(["levels", *chosen.strategies, *(["neuron - direct"] if both else [])])]
    for levels in subject.levels:
        found: dict[str, list[float]] = {}
        for strategy in chosen.strategies:
            settings = QuantizeSettings(
                strategy, levels, chosen.activations, order=chosen.order, retrain=retrain, final=Settings(epochs=0)
            )
            found[strategy] = [
                100 * _quantized(net, data, kind, settings, seed, chosen.device) for seed, (net, _) in enumerate(floats)
            ]
        cells = [_figures(figures) for figures in found.values()]
        if both:
            cells.append(_figures([a - b for a, b in zip(found["neuron"], found["direct"], strict=True)], sign="+"))
        lines.append(row([levels, *cells]))
        said(lines[-1])
    blank = [""] * (len(chosen.strategies) - 1 + both)
    lines.append(row(["float", _figures([figure for _, figure in floats]), *blank]))
    print("\n" + "\n".join(lines), flush=True)


def _quantized(net: nn.Module, data: Data, kind: Family, settings: QuantizeSettings, seed: int, device: str) -> float:
    """Return the figure of the quantized net; what is exported equals it, which tests see to."""
    example = kind.example(net)
    found = quantizable(folded(net, example), settings, example)
    trainer = Trainer(found.net, data, kind.task, seed=seed, device=device)
    Process(found, trainer, settings).run()
    return trainer.evaluate()


def _figures(figures: Sequence[float], sign: str = "") -> str:
    spread = f" ± {statistics.stdev(figures):.2f}" if len(figures) > 1 else ""
    return f"{statistics.mean(figures):{sign}.2f}{spread}"


def _text(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in options.items())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
