"""Is a width on a step faster than one beside it? Does the choice by predicted time hold on this machine?

``python -m tests.bench.train.latency [--seconds S]``: a row of 3x3 convolutions of 64 filters at 28x28. First all of
them at odd widths and at the steps next to these; then the widths that remain when a third and a half of the units go
by score alone, and those that ``latency.choose`` takes for the same amount. Each two interleaved in onnxruntime on one
thread (decision 0035).
"""

from __future__ import annotations

import argparse
import sys

import numpy as np
import torch

import graphopt
from graphopt.train.prune.groups import find
from graphopt.train.prune.latency import choose, predicted
from tests.bench.table import head, row
from tests.train.prune.group_nets import Plain

LAYERS, WIDTH, SIZE = 4, 64, 28


def _model(widths: tuple[int, ...]):
    return graphopt.export(
        Plain(*widths).eval(), (torch.randn(1, 3, SIZE, SIZE),), exporter="torchscript", verify=False
    )


def _row(name: str, first: tuple[int, ...], second: tuple[int, ...], times: tuple[float, float], seconds: float) -> str:
    """Measured milliseconds of both, the ratio run by run, the ratio as predicted."""
    rows = graphopt.bench(_model(first), _model(second), seconds=seconds).rows
    milli = [one.median_ms for one in rows]
    return row([name, _text(first), _text(second), *milli, rows[1].paired_ratio, times[1] / times[0]])


def _text(widths: tuple[int, ...]) -> str:
    return "-".join(str(width) for width in widths)


def main(arguments: list[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="per net and pair")
    seconds = parser.parse_args(arguments).seconds
    torch.manual_seed(0)
    found = find(Plain(*(WIDTH,) * LAYERS).eval(), (torch.randn(1, 3, SIZE, SIZE),))

    def time(widths: tuple[int, ...]) -> float:
        stay = {group.name: width for group, width in zip(found.groups, widths, strict=True)}
        return predicted(found.groups, found.model, stay)

    print(head(["", "widths", "beside", "ms", "ms beside", "measured ratio", "predicted ratio"]))
    for odd, step in ((47, 48), (33, 32), (33, 48), (60, 64)):
        pair = ((step,) * LAYERS, (odd,) * LAYERS)
        print(_row(f"all {step} and {odd}", *pair, (time(pair[0]), time(pair[1])), seconds), flush=True)
    numbers = np.random.default_rng(0)
    scores = {group.name: numbers.gamma(1.0, 1.0 + i / 2, group.units) for i, group in enumerate(found.groups)}
    for amount in (1 / 3, 1 / 2):
        worth = np.sort(np.concatenate(list(scores.values())))[int(amount * WIDTH * LAYERS)]
        plain = tuple(int((one >= worth).sum()) for one in scores.values())
        kept = choose(found.groups, scores, found.model, amount)
        chosen = tuple(int(mask.sum()) for mask in kept.values())
        lost = [sum(np.sort(one)[: WIDTH - n].sum() for one, n in zip(scores.values(), widths, strict=True))
                for widths in (plain, chosen)]  # fmt: skip
        name = f"{amount:.0%} of the units, scores lost {lost[1]:.1f} for {lost[0]:.1f}"
        print(_row(name, chosen, plain, (time(chosen), time(plain)), seconds), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
