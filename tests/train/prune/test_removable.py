"""What `prune` zeroes as units is what `optimize` removes; what it would not remove is left whole, with the reason."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import graphopt
from graphopt import pipeline
from graphopt.errors import UsageError
from graphopt.facts.stats import stats
from graphopt.train.family import Family
from graphopt.train.prune import PruneSettings, attach, groups, prune
from graphopt.train.prune.leftover import Leftover, leftover
from graphopt.train.prune.removable import Removable, removable
from graphopt.train.prune.selection import merged
from graphopt.train.prune.structures import Together
from graphopt.train.settings import Settings
from graphopt.train.task import CLASSIFICATION
from tests.train.prune.nets import images, trainer

SLOWER = "the net would be slower without so many of its units than with them"
UNABLE = "optimize cannot remove its units"


class Norms(nn.Module):
    """Group norms around a transposed convolution, all that `optimize` narrows; behind them another norm."""

    def __init__(self, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.conv, self.before = nn.Conv2d(2, 16, 3, padding=1), nn.GroupNorm(4, 16)
        self.up, self.behind = nn.ConvTranspose2d(16, 12, 2, stride=2), nn.GroupNorm(3, 12)
        self.hidden, self.norm = nn.Linear(12, 16), norm(16)
        self.last = nn.Linear(16, 3)

    def forward(self, images: Tensor) -> Tensor:
        x = self.behind(self.up(self.before(self.conv(images)).relu())).relu()
        return self.last(self.norm(self.hidden(x.mean((2, 3)))).relu())


class Shared(nn.Module):
    """A weight that three layers share."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(12, 12) for _ in range(3))
        self.second.weight = self.third.weight = self.first.weight
        self.third.bias = self.first.bias
        self.last = nn.Linear(12, 3)

    def forward(self, images: Tensor) -> Tensor:
        x = self.second(self.first(images[:, 0, :2].flatten(1)).relu()).relu()
        return self.last(self.third(x).relu())


class Table(nn.Module):
    """The mean of a table is a constant, whatever rows are zero."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.table, self.last = nn.Linear(72, 10), nn.Linear(40, 7), nn.Linear(10, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.first(images.flatten(1) + self.table.weight.mean(0)[:1]).relu())


def family(build: Callable[[], nn.Module]) -> Family:
    """A net of images."""

    def exported(net: nn.Module) -> graphopt.model.ir.Model:
        return graphopt.export(net, (torch.zeros(2, 2, 6, 6),), dynamic_shapes={"images": {0: "batch"}}, verify=False)

    return Family(
        "tried", lambda seed=0: build(), lambda: None, CLASSIFICATION,  # type: ignore[arg-type, return-value]
        lambda net: (torch.zeros(2, 2, 6, 6),), exported, "images", "logits",
    )  # fmt: skip


CASES = {
    "group norms": (lambda: Norms(nn.Identity), {}),
    "a layer norm": (lambda: Norms(nn.LayerNorm), {"hidden.weight": SLOWER}),
    "a norm without a mean": (lambda: Norms(nn.RMSNorm), {}),  # as many operators as before
    "a table": (Table, {"table.weight": UNABLE}),
}


def pruned(build: Callable[[], nn.Module], **settings: object) -> tuple[nn.Module, dict[str, Tensor], dict[str, str]]:
    torch.manual_seed(0)
    net, known = build(), family(build)
    asked = PruneSettings(**{"score": "magnitude", "structure": "units", "rounds": 1, **settings})  # type: ignore[arg-type]
    asked = dataclasses.replace(asked, retrain=Settings(epochs=0))
    found = prune(trainer(net, images(8), images(4, 1)), asked, known)
    return net, dict(found.masks), dict(found.left)


@pytest.mark.parametrize("name", CASES)
def test_what_is_zeroed_is_removed(name: str) -> None:
    build, left = CASES[name]
    net, masks, why = pruned(build, amount=0.5)
    assert why == left
    known = family(build)
    before = stats(known.export(net)).parameters
    small = graphopt.optimize(known.export(attach(copy.deepcopy(net), masks)), measure=False, verify=False).model
    zeros = sum(int(mask.sum()) for mask in masks.values())
    assert zeros > 0.05 * before
    assert before - stats(small).parameters >= zeros - 4


def test_a_group_that_is_excluded_is_said_to_be() -> None:
    _, masks, why = pruned(lambda: Norms(nn.Identity), exclude=("hidden",))
    assert why == {"hidden.weight": "it is excluded"} and "up.weight" in masks and "last.weight" not in masks


def test_a_net_of_which_nothing_can_be_removed_says_why() -> None:
    with pytest.raises(UsageError, match="can be pruned") as error:
        pruned(Shared, structure="hidden")
    assert f"last.weight: {UNABLE}" in str(error.value.help)
    with pytest.raises(UsageError, match="no group of kind head is found"):
        pruned(Shared, structure="head")


def test_attention_of_torch_says_why_it_has_no_score() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.attention = nn.Linear(6, 8), nn.MultiheadAttention(8, 2, batch_first=True)
            self.last = nn.Linear(8, 3)

        def forward(self, images: Tensor) -> Tensor:
            x = self.first(images.flatten(1, 2))
            return self.last(self.attention(x, x, x, need_weights=False)[0].mean(1))

    with pytest.raises(UsageError, match="no group of kind head can be pruned") as error:
        pruned(Attention, structure="head")
    assert "attention.in_proj_weight: none of its weights is the weight of a layer" in str(error.value.help)


class Blocks(nn.Module):
    """Residual blocks with and without a LayerNorm around their hidden units, in any order."""

    def __init__(self, norms: str) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(12, 10), nn.Linear(10, 3)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Linear(10, 16), nn.LayerNorm(16) if norm == "n" else nn.Identity(), nn.ReLU(), nn.Linear(16, 10)
            )
            for norm in norms
        )

    def forward(self, images: Tensor) -> Tensor:
        x = self.first(images[:, 0, :2].flatten(1))
        for block in self.blocks:
            x = x + block(x)
        return self.last(x)


def asked(norms: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Removable, int, list[tuple[str, int, int]]]:
    """What can be removed of such blocks, how often the optimizer was asked, what was told on the way."""
    torch.manual_seed(0)
    net, runs, told = Blocks(norms), [], list[tuple[str, int, int]]()
    found = groups.find(net, (torch.zeros(1, 2, 6, 6),))
    once = pipeline.optimize
    monkeypatch.setattr(pipeline, "optimize", lambda *args, **named: (runs.append(1), once(*args, **named))[1])
    wanted = [one for one in found.groups if one.kind == "hidden"]
    shapes = {name: one.shape for name, one in net.named_parameters()}
    answer = removable(wanted, found.model, shapes, 0.5, progress=lambda *step: told.append(step))
    monkeypatch.undo()
    assert [one.name for one in answer.groups] == [one.name for one in wanted if one.name not in answer.left]
    return answer, len(runs), told


def test_many_blocks_take_no_more_questions_than_few(monkeypatch: pytest.MonkeyPatch) -> None:
    for norms, most in (("-", 4), ("n", 4), ("n-", 6), ("nnnnnnn", 4), ("-n-n-n-n-n-n", 6), ("nn-n-", 10)):
        answer, runs, told = asked(norms, monkeypatch)
        assert dict(answer.left) == {f"blocks.{i}.0.weight": SLOWER for i, norm in enumerate(norms) if norm == "n"}
        assert runs <= most, norms
        size = len(norms)
        assert [one[1:] for one in told if one[1] in (0, size)][:2] == [(0, size), (size, size)]
        assert told[-1][1:] == (size, size)


def test_zeros_that_stay_are_counted(tmp_path: Path) -> None:
    """With their reason: they could go, or they could not; batch-norms that optimize folds are no excuse."""
    torch.manual_seed(0)
    net = Norms(nn.LayerNorm).eval()
    known = family(lambda: net)
    trained, pruned = tmp_path / "trained.onnx", tmp_path / "pruned.onnx"
    graphopt.model.save(known.export(net), trained)

    def left(masks: dict[str, Tensor]) -> Leftover | None:
        model = known.export(attach(copy.deepcopy(net), masks))
        graphopt.model.save(model, pruned)
        return leftover(masks, trained, pruned, pipeline.optimize(model, verify=False, measure=False).model)

    def zero(groups_: list[str]) -> dict[str, Tensor]:
        shapes = {name: one.shape for name, one in net.named_parameters()}
        found = [one for one in groups.find(net, known.example(net)).groups if one.name in groups_]
        return merged([Together(one, shapes).masks(torch.arange(one.units) % 2 == 0) for one in found])

    assert left(zero(["up.weight"])) is None, "they are gone"
    faster = left(zero(["hidden.weight"]))  # half of 16 units with 12 inputs and 3 readers
    assert faster == Leftover(zeros=120, stay=120, needlessly=0)
    some = torch.zeros(16, 12, dtype=torch.bool)
    some[::2, ::2] = True  # no whole unit
    assert left({"hidden.weight": some}) == Leftover(zeros=48, stay=48, needlessly=48)
