"""Interrupted and gone on with, a training ends at the same weights, to the last bit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from graphopt.errors import GraphoptError
from graphopt.train import checkpoint
from graphopt.train.hooks import Held
from graphopt.train.settings import Settings
from graphopt.train.trainer import Trainer
from tests.train.nets import Diary, data, net, same, short, trainer, weights

ROOT = Path(__file__).resolve().parents[2]


class StoppedError(Exception):
    """What interrupts a training here."""


def program(folder: Path | None, optimizer: str = "adam", stop: int | None = None, stages: int = 3) -> Trainer:
    """Trains, then twice holds the smaller half of what is free and trains on; ``stop`` steps on, an error ends it."""
    steps = 0

    def count(label: str, done: int, total: int) -> None:
        nonlocal steps
        steps += 1
        if steps == stop:
            raise StoppedError

    plain = data()
    changed = type(plain)(plain.train, plain.test, augment=lambda x, g: x + 0.1 * torch.randn(x.shape, generator=g))
    one = trainer(net=net(dropout=0.2, norm=True), data=changed, folder=folder, progress=count)
    held = Held(one.net)
    one.add("held", held)
    one.add("diary", Diary())
    settings = short(epochs=3, optimizer=optimizer, weight_decay=0.01)
    one.fit(settings, label="float")
    for number in range(1, stages):

        def prune(fresh: bool) -> None:
            torch.rand(3)  # what a body draws when it goes on has no say in what the rest of its fit draws
            if fresh:
                for name, parameter in one.net.named_parameters():
                    free = parameter[parameter != 0].abs()
                    held.hold(name, parameter.abs() <= free.median(), 0)
            one.fit(settings, label="pruned")

        one.stage(f"round {number}", prune)
    return one


@pytest.mark.parametrize(
    ("optimizer", "stops"),
    [("sgd", (9, 33)), ("adam", (1, 8, 9, 24, 25, 31, 33, 49, 71, 72)), ("adamw", (33, 71))],
    ids=["sgd", "adam", "adamw"],
)
def test_wherever_it_stops_it_goes_on_to_the_same_weights(
    tmp_path: Path, optimizer: str, stops: tuple[int, ...]
) -> None:
    whole = program(None, optimizer)
    steps = 3 * 3 * 8
    for number, stop in enumerate(stops):
        folder = tmp_path / str(number)
        with pytest.raises(StoppedError):
            program(folder, optimizer, stop)
        again = program(folder, optimizer)
        assert same(weights(again.net), weights(whole.net)), f"stopped at step {stop} of {steps}"
        assert again.history == whole.history
        assert sorted(path.name for path in folder.iterdir()) == [checkpoint.NAME]
        if stop == 49:
            short_of_it = program(tmp_path / "none", optimizer, stages=2)
            assert not same(weights(short_of_it.net), weights(whole.net))


def test_stopped_again_and_again_it_arrives(tmp_path: Path) -> None:
    whole = program(None)
    for _ in range(20):
        try:
            again = program(tmp_path / "run", stop=11)  # a bit more than an epoch each time
        except StoppedError:
            continue
        assert same(weights(again.net), weights(whole.net))
        return
    pytest.fail("it never arrived")


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    first = program(tmp_path / "run")
    written = (tmp_path / "run" / checkpoint.NAME).read_bytes()
    again = program(tmp_path / "run", stop=1)  # not a single step
    assert same(weights(first.net), weights(again.net))
    assert written == (tmp_path / "run" / checkpoint.NAME).read_bytes()


def test_a_stage_is_told_whether_it_is_fresh(tmp_path: Path) -> None:
    told: list[tuple[str, bool]] = []

    def run(stop: bool) -> None:
        one = trainer(folder=tmp_path / "run")
        for name in "ab":

            def body(fresh: bool, name: str = name) -> None:
                told.append((name, fresh))
                one.fit(short())
                if stop and name == "b":
                    raise StoppedError

            one.stage(name, body)

    with pytest.raises(StoppedError):
        run(True)
    run(False)
    run(False)
    assert told == [("a", True), ("b", True), ("b", False)]


def test_a_stage_without_a_fit_is_remembered(tmp_path: Path) -> None:
    def run() -> tuple[int, dict[str, Tensor]]:
        one = trainer(folder=tmp_path / "run")
        ran = 0

        def body(fresh: bool) -> None:
            nonlocal ran
            ran += 1
            with torch.no_grad():
                for parameter in one.net.parameters():
                    parameter += torch.rand(parameter.shape)  # drawn from the training's own seed

        one.stage("a", body)
        return ran, weights(one.net)

    (ran, first), (none, again) = run(), run()
    assert (ran, none) == (1, 0) and same(first, again)


# --- killed for real --------------------------------------------------------------------------------------------------

CHILD = """
import signal, sys, time
from pathlib import Path
from tests.train import nets, test_checkpoint
real = nets.Trainer.__init__
def slowed(self, *given, progress, **named):  # so that there is time to be killed in the midst
    def wait(*told):
        progress(*told)
        time.sleep(0.02)
    real(self, *given, progress=wait, **named)
nets.Trainer.__init__ = slowed
signal.signal(signal.SIGINT, signal.default_int_handler)  # where tests run in the background, shells let it be ignored
test_checkpoint.program(Path(sys.argv[1]))
print("done", flush=True)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["killed", "interrupted"])
def test_a_process_that_is_ended_leaves_a_whole_checkpoint(tmp_path: Path, how: signal.Signals) -> None:
    folder = tmp_path / "run"
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    written = folder / checkpoint.NAME
    try:
        deadline = time.monotonic() + 60
        while child.poll() is None and time.monotonic() < deadline:
            state = checkpoint.read(folder)
            if state is not None and len(state["history"]) >= 4:
                break
            time.sleep(0.005)
        child.send_signal(how)
        said, complaint = child.communicate(timeout=60)
    finally:
        child.kill()
    assert child.returncode not in (0, None) and b"done" not in said, complaint.decode()
    state = checkpoint.read(folder)
    assert state is not None and 4 <= len(state["history"]) < 9, "in the midst of the second stage, or behind it"
    resumed = program(folder)
    assert same(weights(resumed.net), weights(program(None).net))
    assert written.is_file()


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run"
    with pytest.raises(StoppedError):
        program(folder, stop=9)
    before = (folder / checkpoint.NAME).read_bytes()
    replace = os.replace

    def full(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(GraphoptError, match="No space left"):
        program(folder)
    monkeypatch.setattr(os, "replace", replace)
    assert (folder / checkpoint.NAME).read_bytes() == before
    assert [path.name for path in folder.iterdir()] == [checkpoint.NAME]


# --- refused ----------------------------------------------------------------------------------------------------------


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    def run(settings: Settings | None = None, stage: str = "a", stop: bool = False, **more: Any) -> None:
        one = trainer(folder=tmp_path / "run", **more)
        one.add("diary", Diary())

        def body(fresh: bool) -> None:
            one.fit(settings or short())
            if stop:
                raise StoppedError

        one.stage(stage, body)

    with pytest.raises(StoppedError):
        run(stop=True)
    others: list[tuple[dict[str, Any], str]] = [
        ({"net": net(hidden=12)}, r"net: 0.weight is \['torch.float32', 13, 7\] there and"),
        ({"net": net(norm=True)}, "net: .* is missing there|net: 1.weight is missing there"),
        ({"seed": 1}, "seed is 0 there and 1 here"),
        ({"data": data(train=60)}, "samples is 61 there and 60 here"),
        ({"settings": short(epochs=3)}, "settings: epochs is 2 there and 3 here"),
        ({"stage": "b"}, "stands in the stage 'a', which does not come after the start"),
    ]
    for options, said in others:
        with pytest.raises(GraphoptError, match=said) as caught:
            run(**options)
        assert "--restart" in (caught.value.help or "") and checkpoint.NAME in (caught.value.where or "")
    one = trainer(folder=tmp_path / "run")
    with pytest.raises(GraphoptError, match="hooks is"):
        one.fit(short())
    run()  # near miss: the same one goes on


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04"], ids=["empty", "text", "torn"])
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / checkpoint.NAME).write_bytes(content)
    with pytest.raises(GraphoptError, match="not a checkpoint"):
        trainer(folder=tmp_path).fit(short())
    assert (tmp_path / checkpoint.NAME).read_bytes() == content


def test_reading_runs_no_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"of": {}, "evil": Evil()}, tmp_path / checkpoint.NAME)
    with pytest.raises(GraphoptError, match="not a checkpoint"):
        checkpoint.read(tmp_path)
    assert not (tmp_path / "ran").exists()
    parts = {"net": {}, "hooks": {}, "history": [], "finished": {}, "halfway": None, "drawn": []}
    torch.save({"of": {"processes": 0}, **parts, "fine": [1, torch.ones(2)]}, tmp_path / checkpoint.NAME)
    assert checkpoint.read(tmp_path) is not None
    torch.save([1], tmp_path / checkpoint.NAME)
    with pytest.raises(GraphoptError, match="not a checkpoint of a training"):
        checkpoint.read(tmp_path)


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(GraphoptError, match="cannot make the folder"):
        trainer(folder=tmp_path / "a" / "b").fit(short())


def test_what_a_disk_damaged_is_refused(tmp_path: Path) -> None:
    program(tmp_path, stages=1)
    path = tmp_path / checkpoint.NAME
    whole = path.read_bytes()
    net = checkpoint.read(tmp_path)["net"]  # type: ignore[index]
    weight = next(one for one in net.values() if one.numel() > 7).numpy().tobytes()
    for content in (
        whole[: len(whole) // 2],
        whole.replace(weight, bytes([weight[0] ^ 1]) + weight[1:], 1),  # the last bit of a weight
    ):
        assert content != whole
        path.write_bytes(content)
        with pytest.raises(GraphoptError, match="not a checkpoint"):
            program(tmp_path, stages=1)
        assert path.read_bytes() == content
    path.write_bytes(whole)
    state = checkpoint.read(tmp_path)
    assert state is not None
    del state["hooks"]
    torch.save(state, path)
    with pytest.raises(GraphoptError, match="not a checkpoint of a training"):
        program(tmp_path, stages=1)


def _nan(state: dict[str, Any]) -> None:
    next(iter(state["net"].values())).view(-1)[3] = float("nan")


WRONG: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "weights": (_nan, "not finite: 0.weight"),
    "hook": (lambda state: state["hooks"].update(diary={"said": 1}), "says of 'diary' what cannot be"),
    "hooks": (lambda state: state.update(hooks=[1]), "not a checkpoint of a training"),
    "lost hook": (lambda state: state["hooks"].clear(), "says of 'diary' what cannot be"),
    "history": (lambda state: state["history"].append("what?"), "not a checkpoint of a training"),
    "row": (lambda state: state["history"].append({"epoch": 1}), "not a checkpoint of a training"),
    "drawn": (lambda state: state.update(drawn=[]), "not a checkpoint of a training"),
    "order": (lambda state: state["drawn"][0].update(order=torch.ones(3)), "says of random numbers what cannot be"),
    "halfway": (lambda state: state.update(halfway={"stage": "a"}), "not a checkpoint of a training"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_whole_file_that_says_what_cannot_be_is_refused(tmp_path: Path, name: str) -> None:
    def run() -> None:
        one = trainer(folder=tmp_path)
        one.add("diary", Diary())
        one.fit(short())

    run()
    state = checkpoint.read(tmp_path)
    assert state is not None
    run()  # near miss: as it was written it is taken
    change, said = WRONG[name]
    change(state)
    torch.save(state, tmp_path / checkpoint.NAME)
    with pytest.raises(GraphoptError, match=said) as caught:
        run()
    assert "--restart" in (caught.value.help or "")
