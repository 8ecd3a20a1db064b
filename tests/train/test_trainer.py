"""The loop: what is called when, what the seed decides, what stays."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from graphopt.errors import GraphoptError
from graphopt.train.data import Data, Split, take
from graphopt.train.optimizer import optimizer
from graphopt.train.order import Order
from graphopt.train.settings import Settings
from graphopt.train.task import CLASSIFICATION
from graphopt.train.trainer import Trainer
from tests.train.nets import CLASSES, FEATURES, Diary, data, net, same, short, trainer, weights


def test_it_learns() -> None:
    one = trainer()
    before = one.evaluate(one.data.train)
    loss = one.fit(short(epochs=12))
    assert one.evaluate(one.data.train) > max(0.9, before)
    assert loss < one.history[0]["loss"] == pytest.approx(math.log(CLASSES), rel=0.5)
    assert [row["epoch"] for row in one.history] == list(range(1, 13))
    assert not one.net.training


def test_steps_are_those_of_a_loop_written_out() -> None:
    """One epoch in a known order equals plain torch, bit by bit."""
    one = trainer(net=net(norm=True))
    one.fit(Settings(epochs=1, batch=8, optimizer="sgd", rate=0.1, schedule="constant", weight_decay=0.01))

    from graphopt.train.trainer import _seeds

    other, samples = net(norm=True), data().train
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    order = torch.randperm(61, generator=torch.Generator().manual_seed(_seeds(0, 0)[0]))
    other.train()
    for chosen in order.split(8):
        optimizer.zero_grad()
        nn.functional.cross_entropy(other(samples.inputs[chosen]), samples.targets[chosen]).backward()
        optimizer.step()
    assert same(weights(one.net), weights(other))


def test_the_seed_decides_and_nothing_else() -> None:
    def made(seed: int, disturbed: bool = False) -> dict[str, Tensor]:
        if disturbed:
            torch.rand(5)
        one = trainer(net=net(dropout=0.3), seed=seed)
        one.fit(short())
        return weights(one.net)

    assert same(made(0), made(0, disturbed=True))
    assert not same(made(0), made(1))
    state = torch.get_rng_state()
    made(0)
    assert torch.equal(state, torch.get_rng_state()), "torch's own random numbers go on undisturbed"


def test_augmentation_draws_from_a_generator_of_its_own() -> None:
    seen: list[Tensor] = []

    def noisy(inputs: Tensor, generator: torch.Generator) -> Tensor:
        seen.append(torch.rand(1, generator=generator))
        return inputs + seen[-1]

    plain = data()
    changed = Data(plain.train, plain.test, augment=noisy)
    for _ in range(2):
        trainer(data=changed).fit(short())
    half = len(seen) // 2
    assert half == 16 and seen[:half] == seen[half:] and len({float(one) for one in seen[:half]}) == 16
    clean = trainer()
    clean.fit(short())
    noised = trainer(data=changed)
    noised.fit(short())
    assert not same(weights(clean.net), weights(noised.net))
    assert noised.evaluate() == noised.task.evaluate(noised.net, plain), "nothing is augmented where it is judged"


def test_hooks_are_called_in_order() -> None:
    one = trainer()
    diary = Diary(one.net)
    late = Diary()
    one.add("diary", diary)
    one.add("late", late)
    one.fit(short(clip=0.01))
    names = [name for name, _ in diary.calls]
    assert names == ["at", "backward", "step"] * 16 and len(late.calls) == 48
    shares = [value for name, value in diary.calls if name == "at"]
    assert shares == [step / 16 for step in range(16)]
    gradients = [value for name, value in diary.calls if name == "backward"]
    assert max(gradients) <= 0.01 * (1 + 1e-5), "the gradient is clipped before hooks see it"
    free = trainer()
    diary = Diary(free.net)
    free.add("diary", diary)
    free.fit(short())
    assert max(value for name, value in diary.calls if name == "backward") > 0.01


@pytest.mark.parametrize(
    ("epochs", "limit", "samples", "steps", "rows"),
    [
        *((2, 0, 61, 16, 2), (2, 11, 61, 11, 2), (2, 8, 61, 8, 1), (3, 1, 61, 1, 1), (1, 99, 61, 8, 1)),
        *((0, 0, 61, 0, 0), (2, 0, 0, 0, 0), (2, 0, 1, 2, 2), (1, 0, 8, 1, 1)),
    ],
)
def test_how_many_steps(epochs: int, limit: int, samples: int, steps: int, rows: int) -> None:
    one = trainer(data=data(train=samples))
    diary = Diary()
    one.add("diary", diary)
    loss = one.fit(short(epochs=epochs, steps=limit))
    assert diary.count == steps and len(one.history) == rows
    assert math.isnan(loss) == (steps == 0) and not one.net.training


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_vectors_decay_unless_they_shall_not(optimizer: str) -> None:
    """With a loss that is always zero, only the decay moves weights."""

    def moved(vectors: bool) -> dict[str, bool]:
        start = net()
        before = weights(start)
        one = trainer(net=start)
        options = short(optimizer=optimizer, weight_decay=0.1, decay_vectors=vectors, schedule="constant")
        one.fit(options, loss=lambda net, x, y: 0 * net(x).sum())
        return {name: not torch.equal(before[name], now) for name, now in weights(one.net).items()}

    assert all(moved(True).values())
    assert {name for name, found in moved(False).items() if not found} == {"0.bias", "3.bias"}


def test_another_loss_takes_the_place_of_the_tasks() -> None:
    one, other = trainer(), trainer()
    one.fit(short(), loss=lambda net, x, y: nn.functional.cross_entropy(net(x), y))
    other.fit(short())
    assert same(weights(one.net), weights(other.net))
    third = trainer()
    third.fit(short(), loss=lambda net, x, y: 2 * nn.functional.cross_entropy(net(x), y))
    assert not same(weights(one.net), weights(third.net))


def test_bf16_autocast() -> None:
    """Products are computed in bfloat16, weights and their gradients stay float32, and it still learns."""
    kinds: set[torch.dtype] = set()

    class Looking(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            out = super().forward(input)
            kinds.add(out.dtype)
            return out

    def made(autocast: str) -> tuple[Trainer, dict[str, Tensor]]:
        kinds.clear()
        torch.manual_seed(0)
        one = trainer(net=nn.Sequential(Looking(FEATURES, 13), nn.ReLU(), nn.Linear(13, CLASSES)))
        one.fit(short(epochs=12, autocast=autocast))
        return one, weights(one.net)

    _, plain = made("none")
    assert kinds == {torch.float32}
    one, mixed = made("bfloat16")
    assert kinds == {torch.bfloat16}
    assert {value.dtype for value in mixed.values()} == {torch.float32} and not same(plain, mixed)
    assert one.evaluate(one.data.train) > 0.9


def test_progress_says_the_loss() -> None:
    said: list[tuple[str, int, int]] = []
    one = trainer(progress=lambda *told: said.append(told))
    one.fit(short(), label="re-training")
    assert [done for _, done, _ in said] == list(range(1, 17)) and {total for *_, total in said} == {16}
    label, _, figure = said[0][0].rpartition(" ")
    assert label == "re-training, loss" and 0 < float(figure) < 10


def test_a_loss_that_is_no_number_ends_it() -> None:
    one = trainer()
    with pytest.raises(GraphoptError, match="the loss is nan") as caught:
        one.fit(short(), label="mine", loss=lambda net, x, y: net(x).sum() * math.nan)
    assert caught.value.where == "mine" and "lower rate" in (caught.value.help or "")


def test_a_batch_of_one_sample_that_is_to_be_normed() -> None:
    one = trainer(net=net(norm=True), data=data(train=17))
    with pytest.raises(GraphoptError, match="one sample") as caught:
        one.fit(short(batch=8))
    assert "another batch size" in (caught.value.help or "")
    one = trainer(net=net(norm=True), data=data(train=17))
    assert math.isfinite(one.fit(short(batch=6)))

    def failing(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        trainer(data=data(train=1)).fit(short(), loss=failing)


def test_nothing_to_train_is_said() -> None:
    one = trainer()
    one.net.requires_grad_(False)
    with pytest.raises(GraphoptError, match="no parameter of the net is trained"):
        one.fit(short())


def test_stages_run_once_and_one_at_a_time() -> None:
    one = trainer()
    ran: list[tuple[str, bool]] = []
    one.stage("a", lambda fresh: ran.append(("a", fresh)))
    one.stage("b", lambda fresh: ran.append(("b", fresh)))
    assert ran == [("a", True), ("b", True)]
    with pytest.raises(ValueError, match="done before"):
        one.stage("a", lambda fresh: None)
    with pytest.raises(ValueError, match="a stage has begun"):
        one.add("late", Diary())

    def nested(fresh: bool) -> None:
        one.stage("inner", lambda fresh: None)

    with pytest.raises(ValueError, match="inside another"):
        one.stage("outer", nested)

    def twice(fresh: bool) -> None:
        one.fit(short())
        one.fit(short())

    with pytest.raises(ValueError, match="one fit"):
        one.stage("twice", twice)


def test_a_name_belongs_to_one_hook() -> None:
    one = trainer()
    one.add("a", Diary())
    with pytest.raises(ValueError, match="taken"):
        one.add("a", Diary())


def test_batches_are_in_order_and_prepared() -> None:
    plain = data()
    one = trainer(data=Data(plain.train, plain.test, prepare=lambda x: 2 * x, augment=lambda x, g: x * 0))
    found = list(one.batches(plain.train, size=8, limit=19))
    assert [len(y) for _, y in found] == [8, 8, 3]
    assert torch.equal(torch.cat([x for x, _ in found]), 2 * plain.train.inputs[:19])
    assert torch.equal(torch.cat([y for _, y in found]), plain.train.targets[:19])
    assert sum(len(y) for _, y in one.batches(plain.train, size=8)) == 61
    assert list(one.batches(plain.train, size=8, limit=0)) == []


class Rows(Dataset):
    """A data set as users write them: no batches, targets as plain numbers."""

    def __init__(self, split: Split) -> None:
        self.split = split

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        inputs, target = self.split[index]
        return inputs, int(target)


def test_any_map_style_dataset_works() -> None:
    plain = data()
    rows = Data(Rows(plain.train), Rows(plain.test))  # type: ignore[arg-type]
    one, other = trainer(data=rows), trainer()
    one.fit(short())
    other.fit(short())
    assert same(weights(one.net), weights(other.net)) and one.evaluate() == other.evaluate()
    for got, want in zip(take(Rows(plain.train), [4, 1]), take(plain.train, [4, 1]), strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize("samples", [0, 1, 7, 12])
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_processes_share_one_order(samples: int, processes: int) -> None:
    def order(rank: int) -> list[int]:
        one = Order(samples, torch.Generator().manual_seed(3), rank, processes)
        found = list(one)
        assert len(found) == len(one)
        return found

    alone = list(Order(samples, torch.Generator().manual_seed(3)))
    assert sorted(alone) == list(range(samples))
    together = [index for turn in zip(*map(order, range(processes)), strict=True) for index in turn]
    assert together == (alone + alone * processes)[: len(together)] and len(together) - samples in range(processes)


def test_evaluate_leaves_the_net_as_it_was() -> None:
    one = trainer(net=net(norm=True, dropout=0.5))
    before = weights(one.net)
    one.net.train()
    assert one.evaluate() == one.evaluate() == CLASSIFICATION.evaluate(one.net, one.data)
    assert one.net.training and same(before, weights(one.net))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"epochs": -1}, "epochs is -1"),
        ({"batch": 0}, "batch is 0"),
        ({"rate": 0.0}, "rate is 0.0"),
        ({"rate": math.nan}, "rate is nan"),
        ({"momentum": 1.0}, "momentum is 1.0"),
        ({"warmup": -0.1}, "warmup is -0.1"),
        ({"optimizer": "adamm"}, "not one of sgd, adam, adamw"),
    ],
)
def test_settings_are_checked(wrong: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Settings(**wrong)
    Settings(epochs=0, batch=1, rate=1e-9, momentum=0.0, warmup=0.0)


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_a_net_of_float16_is_not_trained_by_adam(name: str) -> None:
    net = nn.Linear(3, 2, dtype=torch.float16)
    with pytest.raises(GraphoptError, match=f"float16 cannot be trained by {name}"):
        optimizer(net, Settings(optimizer=name))  # type: ignore[arg-type]
    optimizer(net, Settings(optimizer="sgd"))
    optimizer(net.bfloat16(), Settings(optimizer=name))  # type: ignore[arg-type]
