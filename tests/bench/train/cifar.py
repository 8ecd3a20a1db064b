"""ResNet-20 on CIFAR-10, pruned: ``python -m tests.bench.train.cifar [--train N] [--epochs N] [--amounts A ...]``.

Starts from the published weights where they are (``cifar10_resnet20.safetensors``), fine-tuned on the images at hand;
from random ones otherwise, which want more epochs. Then, for each amount, that share of the filters is pruned by
importance (``graphopt.train.prune``) in rounds with re-training, exported with its masks, and optimized. Accuracy,
parameters, file and latency are those of the ONNX files in onnxruntime, before and after ``optimize``; sizes of the run
are printed with the table. With ``--seeds`` above 1 everything is done so often, and accuracies get their spread.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import tempfile
from pathlib import Path

from graphopt import pipeline
from graphopt.errors import GraphoptError
from graphopt.models.data import cifar10, files
from graphopt.report.training import StageRow
from graphopt.train.data import Data
from graphopt.train.family import family
from graphopt.train.prune import PruneSettings, prune
from graphopt.train.settings import Settings
from graphopt.train.trainer import Trainer
from tests.bench.train.stages import Clock, Line, dead, machine, table

WEIGHTS = "cifar10_resnet20.safetensors"


def main(arguments: list[str]) -> int:
    """Print the tables; 1 where the images or weights cannot be had."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.train.cifar",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--amounts", type=float, nargs="*", default=[0.5, 0.7], help="shares of the filters")
    parser.add_argument("--score", default="taylor", help="importance, or several to compare: taylor,magnitude")
    parser.add_argument("--stream", action="store_true", help="prune residual streams, too, each as one")
    parser.add_argument("--train", type=int, default=10_000, help="training images")
    parser.add_argument("--test", type=int, default=2_000, help="test images")
    parser.add_argument("--size", type=int, default=32, help="height and width of the images")
    parser.add_argument("--epochs", type=int, default=2, help="of fine-tuning the float net")
    parser.add_argument("--rounds", type=int, default=2, help="of pruning")
    parser.add_argument("--retrain", type=int, default=3, help="epochs of re-training in each round")
    parser.add_argument("--samples", type=int, default=1024, help="training images that scores are computed from")
    parser.add_argument("--seeds", type=int, default=1, help="how often, each with another seed")
    parser.add_argument("--seconds", type=float, default=2.0, help="measuring time per model")
    chosen = parser.parse_args(arguments)
    try:
        data = cifar10.load(train=chosen.train, test=chosen.test, size=chosen.size)
        weights = WEIGHTS if files.present(WEIGHTS) is not None else None
        images = "JPEG" if files.present(cifar10.JPEG) is not None else "original"
        print(
            f"ResNet-20 from {'published' if weights else 'random'} weights; CIFAR-10, {images} images, {chosen.size}x"
            f"{chosen.size}: {len(data.train):,} to train on, {len(data.test):,} to test on; {chosen.epochs} epochs of "
            f"fine-tuning; {chosen.rounds} rounds, {chosen.retrain} epochs each; streams are "
            f"{'' if chosen.stream else 'not '}pruned\n{machine()}",
            flush=True,
        )
        runs = [_run(chosen, data, weights, seed) for seed in range(chosen.seeds)]
    except GraphoptError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"\n{table(runs[0], 'accuracy')}")
    if len(runs) > 1:
        print(f"\nAccuracies of {len(runs)} seeds, mean and standard deviation; the table is of the first:")
        for rows in zip(*runs, strict=True):
            figures = [100 * one.figure for one in rows]
            print(f"  {rows[0].name}: {statistics.mean(figures):.2f} % ± {statistics.stdev(figures):.2f}")
    return 0


def _run(chosen: argparse.Namespace, data: Data, weights: str | None, seed: int) -> list[StageRow]:
    """Train and prune with one seed, and measure all files."""
    said, resnet = Clock(), family("resnet_cifar")
    net = resnet.new(seed, weights=weights, size=chosen.size)
    with tempfile.TemporaryDirectory() as folder:
        line = Line(resnet, net, data, Path(folder))
        trainer = Trainer(net, data, resnet.task, seed=seed)
        rate = 0.01 if weights else 0.1
        trainer.fit(_settings(chosen.epochs, rate))
        line.add("float", resnet.export(net.cpu()))
        said(f"seed {seed}: float, {trainer.evaluate():.2%}")
        for score in chosen.score.split(","):
            for amount in chosen.amounts:
                pruned = copy.deepcopy(net)
                settings = PruneSettings(
                    score=score,
                    structure="filter",
                    amount=amount,
                    rounds=chosen.rounds,
                    samples=chosen.samples,
                    retrain=_settings(chosen.retrain, 0.02),
                    stream=chosen.stream,
                )
                found = prune(Trainer(pruned, data, resnet.task, seed=seed), settings, resnet)
                name = f"{amount:.0%} of the filters, {score}"
                model = line.add(f"{name}, masks in", line.masked(pruned, dict(found.masks)))
                after = pipeline.optimize(model, seed=seed)
                line.add(f"{name}, optimized", after.model)
                said(
                    f"{name}: {found.figure:.2%} ({found.history[-1].zeroed:.2%} before the last re-training), "
                    f"{found.sparsity:.1%} of the weights and {dead(pruned)} filters are zero"
                )
        return line.measured(chosen.seconds)


def _settings(epochs: int, rate: float) -> Settings:
    return Settings(
        epochs=epochs, batch=128, optimizer="sgd", rate=rate, weight_decay=1e-4, schedule="cosine", warmup=0.05
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
