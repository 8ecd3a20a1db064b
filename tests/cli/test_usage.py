"""Wrong usage: status 2, what, where and the nearest name; nothing is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from graphopt.cli.options import distinct, one_of, read_shapes
from graphopt.errors import UsageError
from tests.cli.conftest import Run, listing

WRONG = [
    (["optimise", "M"], "no such command: optimise", "graphopt", "did you mean optimize?"),
    (["frobnicate"], "no such command: frobnicate", "graphopt", "see `graphopt --help`"),
    (["optimize", "M", "-o", "O", "--tarjet", "cpu"], "no such option: --tarjet", "graphopt optimize", "--target?"),
    (["optimize", "M", "-o", "O", "--target", "cuba"], "no choice 'cuba'", "--target", "did you mean cuda?"),
    (["optimize", "M", "-o", "O", "--plan", "fast"], "no choice 'fast'", "--plan", "did you mean fastest?"),
    (["optimize", "M", "-o", "O", "--plan", "x"], "no choice 'x'", "--plan", "choose one of: fastest, smallest"),
    (["optimize", "M", "-o", "O", "-p", "tidy", "--recipe", "r.yaml"], "exclude each other", "optimize", "one of the"),
    (["optimize", "M", "-o", "O", "--shape", "x"], "cannot read the shape 'x'", "--shape", "images=1,3,224,224"),
    (["optimize", "M", "-o", "O", "--samples", "0"], "--samples", "graphopt optimize", "--help"),
    (["optimize", "M"], "missing option", "graphopt optimize", "--help"),
    (["optimize", "M", "-o", "O", "--report", "O"], "-o and --report name the same file", "O", "different names"),
    (["optimize", "M", "-o", "O", "--json", "M"], "MODEL and --json name the same file", "M", "different names"),
    (["quantize", "M", "-o", "O", "--data", "D", "--json", "D"], "--data and --json name the same", "D", "different"),
    (["quantize", "M", "-o", "D", "--data", "D"], "--data and -o name the same file", "D", "different names"),
    (["optimize", "M", "-o", "O", "--recipe", "R", "--report", "R"], "--recipe and --report name", "R", "different"),
    (["verify", "M"], "missing argument", "graphopt verify", "--help"),
    (["bench"], "missing argument", "graphopt bench", "--help"),
    (["bench", "M", "--provider", "cdua"], "no choice 'cdua'", "--provider", "did you mean cuda?"),
    (["bench", "M", "--threads", "two"], "--threads", "graphopt bench", "--help"),
    (["export", "a:b", "-o", "O", "--exporter", "dynamite"], "no choice 'dynamite'", "--exporter", "dynamo"),
    (["export", "a:b", "-o", "O", "--input", "x=float23[1]"], "float23", "--input", "did you mean float32?"),
    (["--bogus"], "no such option: --bogus", "graphopt", "see `graphopt --help`"),
]


@pytest.mark.parametrize(
    ("arguments", "what", "where", "help_"), WRONG, ids=lambda v: " ".join(v) if isinstance(v, list) else ""
)
def test_wrong_usage(
    run: Run, masked: Path, tmp_path: Path, arguments: list[str], what: str, where: str, help_: str
) -> None:
    before = listing(tmp_path)
    places = {"O": tmp_path / "out.onnx", "D": tmp_path / "data.npz", "R": tmp_path / "recipe.yaml"}
    files = {"M": str(masked)} | {name: str(path) for name, path in places.items()}
    ran = run(*(files.get(argument, argument) for argument in arguments))
    assert ran.status == 2
    assert ran.out == ""
    first, second, third = ran.err.splitlines()
    assert first.startswith("error: ") and what in first
    assert second.startswith("  --> ") and files.get(where, where) in second
    assert third.startswith("  help: ") and help_ in third
    assert listing(tmp_path) == before


def test_no_command_shows_the_help_and_is_wrong_usage(run: Run) -> None:
    ran = run()
    assert ran.status == 2 and "Usage: graphopt" in ran.out


@pytest.mark.parametrize(
    ("texts", "shapes"),
    [
        (None, None),
        ([], None),
        (["x=1,3,224,224"], {"x": (1, 3, 224, 224)}),
        (["x=0"], {"x": (0,)}),
        (["x="], {"x": ()}),
        (["x=-1,7"], {"x": (-1, 7)}),
        (["a=b:0=2", "y=1, 5"], {"a=b:0": (2,), "y": (1, 5)}),
    ],
)
def test_shapes_are_read(texts: list[str] | None, shapes: dict[str, tuple[int, ...]] | None) -> None:
    assert read_shapes(texts) == shapes


@pytest.mark.parametrize("texts", [["x"], ["=1"], ["x=1,"], ["x=1.5"], ["x=-2"], ["x=1", "x=2"], ["x=1x3"]])
def test_shapes_that_cannot_be_read(texts: list[str]) -> None:
    with pytest.raises(UsageError) as refused:
        read_shapes(texts)
    assert refused.value.where == "--shape" and refused.value.help


def test_the_same_file_under_two_names_is_found(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "a")
    with pytest.raises(UsageError):
        distinct({"-o": tmp_path / "a", "--report": tmp_path / "link"})
    distinct({"-o": tmp_path / "a", "--report": tmp_path / "b", "--json": None})


def test_one_of_takes_what_is_known_only() -> None:
    assert one_of("cpu", ("cpu", "cuda"), "--target") == "cpu"
    with pytest.raises(UsageError):
        one_of("CPU", ("cpu", "cuda"), "--target")
