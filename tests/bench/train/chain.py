"""One net all the way: ``python -m tests.bench.train.chain [--family NAME] [--set KEY=VALUE ...] [--full]``.

Trained; pruned by importance, filter by filter, and re-trained; quantized neuron by neuron while it is trained (pruned
weights stay zero: zero is a level); exported; demasked by ``graphopt optimize``, which proves the file equal; run by
onnxruntime. One table: accuracy, parameters, file, latency at every stage.

``resnet_digits`` works anywhere; ``--family resnet_cifar`` takes CIFAR-10, at a reduced size unless ``--full``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from graphopt import pipeline
from graphopt.errors import GraphoptError
from graphopt.models.data import files
from graphopt.report.training import StageRow
from graphopt.train import recipe
from graphopt.train.prune import prune
from graphopt.train.quantize import quantize
from graphopt.train.recipe import Recipe
from graphopt.train.trainer import Trainer
from tests.bench.train.stages import Clock, Line, dead, machine, table

_CIFAR = [
    *("data.train=8000", "data.test=2000"),
    *("train.epochs=2", "train.rate=0.01"),
    *("prune.rounds=2", "prune.samples=1024", "prune.retrain.epochs=2", "prune.retrain.rate=0.02"),
    *("quantize-train.samples=512", "quantize-train.retrain.epochs=2", "quantize-train.final.epochs=1"),
]
REDUCED = {
    "resnet_digits": [],
    "resnet_cifar": [*_CIFAR, "model.weights=cifar10_resnet20.safetensors"],
    "vgg_small": [*_CIFAR, "model.width=16", "train.epochs=5"],
    "mobilenet": [*_CIFAR, "model.width=8", "train.epochs=5"],
}
"""What a recipe is changed to, to take minutes on a processor."""


def main(arguments: list[str]) -> int:
    """Print the table; 1 if something is not as it should be."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.train.chain", description=__doc__)
    parser.add_argument("--family", default="resnet_digits", help="name of a family, or a recipe's file")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change the recipe")
    parser.add_argument("--full", action="store_true", help="the recipe at its full length")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=2.0, help="measuring time per model")
    parser.add_argument("--out", type=Path, help="leave files and checkpoints here, and go on from them")
    chosen = parser.parse_args(arguments)
    reduced = [] if chosen.full else REDUCED.get(chosen.family, [])
    if any("weights" in change for change in reduced) and files.present("cifar10_resnet20.safetensors") is None:
        reduced = [change for change in reduced if "weights" not in change]
        print("The published weights are not here: training starts from random ones.")
    changes = [*reduced, *chosen.set]
    try:
        found = recipe.load(chosen.family, changes, chosen.seed)
        print(
            f"{found.family.name}, seed {found.seed}, recipe "
            + (f"with {' '.join(changes)}" if changes else "as it is")
        )
        print(machine())
        if chosen.out is not None:
            chosen.out.mkdir(parents=True, exist_ok=True)
            stages = chain(found, chosen.out, chosen.seconds, resume=True)
        else:
            with tempfile.TemporaryDirectory() as folder:
                stages = chain(found, Path(folder), chosen.seconds)
    except GraphoptError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"\n{table(stages, found.family.task.figure)}")
    return 0


def chain(found: Recipe, folder: Path, seconds: float, *, resume: bool = False, measure: bool = True) -> list[StageRow]:
    """Carry out all stages.

    Args:
        found: The recipe.
        folder: Where the files go.
        seconds: Measuring time per model.
        resume: Go on from checkpoints in the folder, and write them.
        measure: ``optimize`` keeps only what measures as not slower.

    Raises:
        GraphoptError: The recipe says nothing of a stage, or the demasked file is not equal to the quantized one.
    """
    assert found.prune is not None and found.quantize is not None
    said, family, data = Clock(), found.family, found.load_data()
    net = found.new_net()

    def trainer(name: str) -> Trainer:
        return Trainer(net, data, family.task, seed=found.seed, folder=folder / name if resume else None)

    said(f"{len(data.train):,} samples to train on, {len(data.test):,} to test on")
    line = Line(family, net, data, folder)
    training = trainer("float")
    training.fit(found.train)
    line.add("trained", family.export(net.cpu()))
    said(f"trained: {training.evaluate():.2%}")

    pruning = prune(trainer("pruned"), replace(found.prune, structure="filter"), family)
    line.add("pruned by filters, masks in", line.masked(net, dict(pruning.masks)))
    zeros = dead(net)
    said(f"pruned: {pruning.figure:.2%}, {pruning.sparsity:.1%} of the weights are zero, {zeros} filters")

    result = quantize(
        net, data, family, found.quantize, seed=found.seed, folder=folder / "quantized" if resume else None
    )
    masked = line.add("quantized neuron by neuron", result.model)
    kept = dead(result.net)
    said(f"quantized: {result.figure:.2%} in torch, {kept} filters are zero")
    if kept < zeros:
        raise GraphoptError(f"quantization brought {zeros - kept} pruned filters back", "quantize-train")

    demasked = pipeline.optimize(masked, measure=measure, seed=found.seed)
    line.add("demasked", demasked.model)
    said("demasked, and proved equal")
    return line.measured(seconds)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
