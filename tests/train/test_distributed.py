"""Two processes under torchrun train one net: what one process with batches twice as large would have made of it."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from torch import nn

from graphopt.train import distributed
from graphopt.train.data import Data
from graphopt.train.hooks import Held
from graphopt.train.trainer import Trainer
from tests.train.nets import data, net, same, short, trainer, weights

ROOT = Path(__file__).resolve().parents[2]


class StoppedError(Exception):
    """What interrupts a training here."""


def precise(processes: int, samples: int = 64) -> Trainer:
    """In float64, where sums that are made in another order differ by 1e-16; no dropout, no norm."""
    plain = data(train=samples)
    one = trainer(net=net().double(), data=Data(plain.train, plain.test, prepare=lambda x: x.double()))
    one.fit(short(epochs=3, batch=16 // processes, optimizer="sgd", weight_decay=0.01, clip=0.5))
    return one


def pruned(folder: Path | None, stop: int | None = None) -> Trainer:
    """Norms, dropout, noise, and a decision that comes out otherwise in every process."""
    steps = 0

    def noisy(inputs: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        nonlocal steps
        steps += 1
        if steps == stop:
            raise StoppedError
        return inputs + 0.1 * torch.randn(inputs.shape, generator=generator)

    plain = data()  # 61 samples: the two processes do not divide them
    one = trainer(net=net(dropout=0.2, norm=True), data=Data(plain.train, plain.test, augment=noisy), folder=folder)
    held = Held(one.net)
    one.add("held", held)
    one.fit(short())

    def body(fresh: bool) -> None:
        if fresh:
            weight = one.net.get_parameter("0.weight")
            torch.manual_seed(distributed.rank())
            held.hold("0.weight", torch.rand(weight.shape) < 0.5, 0)
        one.fit(short(optimizer="adamw", weight_decay=0.01))

    one.stage("prune", body)
    return one


def child(folder: Path) -> None:
    """What each of the processes does."""
    whole = pruned(None)
    rank = distributed.rank()
    for stop in (11, 29):  # in the midst of either stage
        with suppress(StoppedError):
            pruned(folder / f"stopped {stop}", stop)
        again = pruned(folder / f"stopped {stop}")
        assert same(weights(again.net), weights(whole.net)), f"stopped at step {stop}"
    told: list[int] = []
    exact = precise(2)
    quiet = trainer(progress=lambda label, done, total: told.append(done))
    quiet.fit(short())
    torch.save(
        {
            "precise": weights(exact.net),
            "history": [row["loss"] for row in exact.history],
            "pruned": weights(whole.net),
            "evaluated": whole.evaluate(),
            "told": len(told),
            "size": distributed.size(),
            "first": distributed.is_first(),
            "gathered": distributed.gathered(rank),
            "from first": distributed.told(f"rank {rank}"),
        },
        folder / f"{rank}.pt",
    )


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """What the two processes found."""
    folder = tmp_path_factory.mktemp("torchrun")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"),
            *("-m", "tests.train.test_distributed", str(folder)),
        ],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def test_both_have_the_same_weights(ranks: list[dict]) -> None:
    for what in ("precise", "pruned"):
        assert same(ranks[0][what], ranks[1][what]), what
    assert ranks[0]["evaluated"] == ranks[1]["evaluated"]


def test_they_are_those_of_one_process_with_batches_twice_as_large(ranks: list[dict]) -> None:
    """Both take the mean over the same 16 samples in each step, one as the mean of two means of 8.

    So they differ by the order of sums only, which in float64 is parts in 1e16 a step; 12 steps of a smooth net do not
    make 1e-12 of it. A wrong share of samples or a gradient that was summed instead of averaged makes parts in ten.
    """
    alone = precise(1)
    for name, value in weights(alone.net).items():
        torch.testing.assert_close(ranks[0]["precise"][name], value, rtol=1e-12, atol=1e-13)
    # The loss itself is computed in float32, each process's own mean of it.
    assert ranks[0]["history"] == pytest.approx([row["loss"] for row in alone.history], rel=1e-6)
    other = precise(2)  # near miss: one process with batches that are as small as those of each
    assert not torch.allclose(ranks[0]["precise"]["0.weight"], weights(other.net)["0.weight"], rtol=1e-3)


def test_what_was_decided_is_held_by_both(ranks: list[dict]) -> None:
    torch.manual_seed(0)
    first = torch.rand(13, 7) < 0.5
    torch.manual_seed(1)
    second = torch.rand(13, 7) < 0.5
    for rank in ranks:
        zeros = rank["pruned"]["0.weight"] == 0
        assert torch.equal(zeros, first) and not torch.equal(zeros, second)


def test_only_the_first_one_speaks(ranks: list[dict]) -> None:
    assert [rank["told"] for rank in ranks] == [8, 0]
    assert [rank["first"] for rank in ranks] == [True, False]
    assert [rank["size"] for rank in ranks] == [2, 2]
    assert [rank["gathered"] for rank in ranks] == [[0, 1], [0, 1]]
    assert [rank["from first"] for rank in ranks] == ["rank 0", "rank 0"]


def test_alone_nothing_is_told_to_anybody() -> None:
    assert (distributed.size(), distributed.rank(), distributed.is_first()) == (1, 0, True)
    assert distributed.told("a") == "a" and distributed.gathered(3) == [3]
    one = torch.ones(3)
    distributed.copied([one])
    assert distributed.total(one) is one
    assert isinstance(trainer()._wrapped(), nn.Sequential)
    assert str(distributed.join("cpu")) == "cpu"


if __name__ == "__main__":
    child(Path(sys.argv[1]))
