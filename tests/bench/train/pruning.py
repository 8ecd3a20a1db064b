"""Accuracy against sparsity for all scores, on digits: ``python -m tests.bench.train.pruning [--seeds 3]``.

One-shot: the trained net with the least important weights at zero. Re-trained: ``graphopt.train.prune.prune`` in rounds
on the cubic ramp, as many epochs for every score (surgery has no rounds: the same epochs in one stage). All layers
together; scores in units of a layer's output (covariance, diagonal) are divided by their mean over the layer. Mean and
standard deviation over seeds, in percent of 359 test images; a seed is that of weights and order.

``exact`` runs the net once for each weight: one-shot, on the MLP.

Last, how well each score ranks weights as ``exact`` does (Spearman's correlation): on the MLP above, and on a small net
that has converged, where the Hessian's diagonal can be had.
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from graphopt.models.data import digits
from graphopt.models.mlp_digits.module import new as mlp
from graphopt.train.data import Data
from graphopt.train.prune import PruneSettings, prune
from graphopt.train.prune.layers import layers
from graphopt.train.prune.rounds import drawn
from graphopt.train.prune.scores import SCORES, Scores, score
from graphopt.train.prune.selection import select
from graphopt.train.prune.structures import Single
from graphopt.train.settings import Settings
from graphopt.train.task import CLASSIFICATION
from graphopt.train.trainer import Trainer
from tests.bench.table import head, row
from tests.train.prune.converged import converged

AMOUNTS = (0.5, 0.8, 0.9, 0.95, 0.98)
FIRST = Settings(epochs=20, rate=2e-3, weight_decay=1e-4)
RETRAIN = Settings(epochs=6, rate=2e-3, weight_decay=1e-4)
ROUNDS = 3
SAMPLES = 256
BY_OUTPUT = ("covariance", "diagonal")
ALL = ("exact", "taylor", "obd", "covariance", "diagonal", "magnitude", "surgery")

Accuracies = dict[tuple[str, float], list[float]]
"""By score and amount, one for each seed."""


def cnn(seed: int) -> nn.Module:
    """Three convolutions with batch norm and a linear layer: 14 thousand weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
            nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
        )  # fmt: skip


NETS: dict[str, tuple[Callable[[int], nn.Module], Callable[[], Data]]] = {
    "mlp": (mlp, lambda: digits.load(flat=True)),
    "cnn": (cnn, digits.load),
}


def loss(net: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """What is learnt."""
    return cross_entropy(net(inputs), targets)


def scored(name: str, net: nn.Module, data: Data, seed: int, samples: int = SAMPLES) -> Scores:
    """Scores from training samples."""
    some = drawn(data.train, samples, seed)
    return score(name, net, [(data.prepare(some.inputs), some.targets)], loss)  # type: ignore[attr-defined]


def one_shot(found: Scores, net: nn.Module, data: Data, amount: float, normalise: bool) -> float:
    """Return the accuracy with the least important weights at zero, and no training."""
    pools = [Single(name, value.shape) for name, value in found.items()]
    changed = copy.deepcopy(net)
    with torch.no_grad():
        for name, mask in select(pools, found, {}, amount, "global", normalise=normalise).items():
            changed.get_parameter(name)[mask] = 0
    return CLASSIFICATION.evaluate(changed, data)


def retrained(name: str, net: nn.Module, data: Data, amount: float, seed: int) -> float:
    """Return the accuracy after rounds of pruning and re-training."""
    settings = PruneSettings(
        score=name, amount=amount, scope="global", normalise=name in BY_OUTPUT, rounds=ROUNDS, samples=SAMPLES,
        retrain=RETRAIN,
    )  # fmt: skip
    return prune(Trainer(copy.deepcopy(net), data, CLASSIFICATION, seed=seed, device="cpu"), settings).figure


def trained(kind: str, seed: int) -> tuple[nn.Module, Data]:
    """A net that is trained, and its data."""
    new, load = NETS[kind]
    data = load()
    trainer = Trainer(new(seed), data, CLASSIFICATION, seed=seed, device="cpu")
    trainer.fit(FIRST)
    return trainer.net, data


def measure(
    kind: str, scores: Sequence[str], amounts: Sequence[float], seeds: int
) -> tuple[list[float], Accuracies, Accuracies, dict[str, list[float]]]:
    """Return accuracies of the nets as trained, one-shot and re-trained, and correlations with ``exact``."""
    before: list[float] = []
    at_once: Accuracies = {}
    after: Accuracies = {}
    ranks: dict[str, list[float]] = {}
    for seed in range(seeds):
        net, data = trained(kind, seed)
        before.append(CLASSIFICATION.evaluate(net, data))
        began = time.monotonic()
        truth = scored("exact", net, data, seed, 128) if kind == "mlp" and "exact" in scores else None
        for name in scores:
            found = truth if name == "exact" else None if name == "surgery" else scored(name, net, data, seed)
            if found is not None:
                for amount in amounts:
                    figure = one_shot(found, net, data, amount, name in BY_OUTPUT)
                    at_once.setdefault((name, amount), []).append(figure)
                if truth is not None:
                    ranks.setdefault(name, []).append(float(spearmanr(flat(truth), flat(found)).statistic))
            if name != "exact":
                for amount in amounts:
                    figure = retrained(name, net, data, amount, seed)
                    after.setdefault((name, amount), []).append(figure)
            print(f"<!-- {kind}, seed {seed}, {name}: {time.monotonic() - began:.1f} s -->", flush=True)
            began = time.monotonic()
    return before, at_once, after, ranks


def flat(scores: Scores) -> Tensor:
    """All scores in one vector."""
    return torch.cat([one.flatten() for one in scores.values()])


def table(title: str, found: Accuracies, scores: Iterable[str], amounts: Sequence[float]) -> None:
    """Print accuracies in percent, the best mean of each column in bold."""
    print(f"\n{title}\n\n" + head(["score", *(f"{amount:.0%}" for amount in amounts)]))
    best = {
        amount: max((statistics.fmean(values) for (_, one), values in found.items() if one == amount), default=0.0)
        for amount in amounts
    }
    for name in scores:
        if any(key[0] == name for key in found):
            cells = []
            for amount in amounts:
                values = found[name, amount]
                text = spread([100 * value for value in values], 1)
                cells.append(f"**{text}**" if statistics.fmean(values) == best[amount] else text)
            print(row([name, *cells]))


def spread(values: Sequence[float], digits_: int) -> str:
    """Mean and standard deviation."""
    mean, deviation = statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{mean:.{digits_}f} ± {deviation:.{digits_}f}"


def rankings(seed: int, decay: float) -> dict[str, float]:
    """Return correlations with ``exact`` on a small net that has converged."""
    small = converged(seed, decay)
    net, batches = small.net, [small.batch]
    found = {name: flat(score(name, net, batches, small.loss)) for name in SCORES}
    found["obd, exact Hessian"] = flat(score("obd", net, batches, small.loss, curvature="hessian"))
    return {name: float(spearmanr(found["exact"], one).statistic) for name, one in found.items() if name != "exact"}


def correlations(ranks: dict[str, list[float]], seeds: int) -> None:
    """Print how well scores rank weights as ``exact`` does."""
    print("\nSpearman's correlation with `exact`\n")
    columns = {"MLP 300-100, trained": ranks} if ranks else {}
    for decay, title in ((1e-3, "small net, converged with weight decay"), (0.0, "small net, fits its data")):
        columns[title] = {}
        for seed in range(seeds):
            for name, value in rankings(seed, decay).items():
                columns[title].setdefault(name, []).append(value)
    print(head(["score", *columns]))
    for name in ("taylor", "obd", "obd, exact Hessian", "covariance", "diagonal", "magnitude"):
        print(row([name, *(spread(column[name], 2) if name in column else "" for column in columns.values())]))


def draw(path: Path, found: dict[str, Accuracies], before: dict[str, list[float]], amounts: Sequence[float]) -> None:
    """Draw accuracy after re-training against sparsity."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(found), figsize=(5 * len(found), 4), squeeze=False, layout="constrained")
    for axis, (kind, accuracies) in zip(axes[0], found.items(), strict=True):
        places = range(len(amounts))
        axis.axhline(100 * statistics.fmean(before[kind]), color="grey", linestyle=":", label="not pruned")
        for name in dict.fromkeys(name for name, _ in accuracies):
            values = [[100 * one for one in accuracies[name, amount]] for amount in amounts]
            means = [statistics.fmean(one) for one in values]
            deviations = [statistics.stdev(one) if len(one) > 1 else 0.0 for one in values]
            axis.errorbar(places, means, deviations, marker="o", markersize=3, capsize=2, linewidth=1, label=name)
        axis.set_xticks(list(places), [f"{amount:.0%}" for amount in amounts])
        axis.set(title=kind.upper(), xlabel="weights that are zero", ylabel="accuracy, %")
        axis.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--nets", nargs="*", choices=list(NETS), default=list(NETS))
    parser.add_argument("--scores", nargs="+", choices=ALL, default=ALL)
    parser.add_argument("--amounts", nargs="+", type=float, default=AMOUNTS)
    parser.add_argument("--png", type=Path, help="draw the re-trained accuracies, too")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    began = time.monotonic()
    after: dict[str, Accuracies] = {}
    before: dict[str, list[float]] = {}
    ranks: dict[str, list[float]] = {}
    for kind in chosen.nets:
        before[kind], at_once, after[kind], found = measure(kind, chosen.scores, chosen.amounts, chosen.seeds)
        ranks |= found
        whole = spread([100 * value for value in before[kind]], 1)
        weights = sum(users[0].weight.numel() for users in layers(NETS[kind][0](0)).values())
        print(f"\n### {kind.upper()}, {weights:,} weights, {whole} % before pruning")
        table("One-shot", at_once, chosen.scores, chosen.amounts)
        epochs = f"{ROUNDS} rounds of {RETRAIN.epochs} epochs"
        table(f"Re-trained ({epochs})", after[kind], chosen.scores, chosen.amounts)
    correlations(ranks, chosen.seeds)
    if chosen.png and after:
        draw(chosen.png, after, before, chosen.amounts)
    print(f"\n{chosen.seeds} seeds, one core, {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
