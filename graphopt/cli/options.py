"""Options that several commands share, and how their text is read."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from graphopt.errors import GraphoptError, UsageError, nearest

PLANS = ("fastest", "smallest")
PROVIDERS = ("cpu", "cuda")

VERIFICATION = "Verification"
FILES = "Files"

Model = Annotated[Path, typer.Argument(metavar="MODEL", help="An ONNX file.", show_default=False)]
Samples = Annotated[
    int,
    typer.Option(
        "--samples", metavar="N", help="How many input sets to compare on.", min=1, rich_help_panel=VERIFICATION
    ),
]
Rtol = Annotated[
    float | None,
    typer.Option("--rtol", metavar="X", help="Relative tolerance (default: by type).", rich_help_panel=VERIFICATION),
]
Atol = Annotated[
    float | None,
    typer.Option("--atol", metavar="X", help="Absolute tolerance (default: by type).", rich_help_panel=VERIFICATION),
]
Seed = Annotated[int, typer.Option("--seed", metavar="N", help="Seed of the random numbers.", min=0)]
Shapes = Annotated[
    list[str] | None,
    typer.Option(
        "--shape",
        metavar="NAME=1,3,224,224",
        help="Sizes of one input whose axes are symbolic; repeat it for more inputs.",
        show_default=False,
    ),
]
Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="DIR|FILE.npz|PKG.MODULE:ITERABLE",
        help="Your own inputs: a .npz with one array per input (samples first), a folder of such files (one batch "
        "each), or an iterable of dictionaries of arrays.",
        show_default=False,
    ),
]
JsonFile = Annotated[
    Path | None,
    typer.Option(
        "--json",
        metavar="FILE.json",
        help="Write the same as JSON; - prints it and nothing else.",
        show_default=False,
        rich_help_panel=FILES,
    ),
]
SaveExternal = Annotated[
    bool,
    typer.Option("--save-external", help="Keep the weights in a file of their own beside OUT.", rich_help_panel=FILES),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Operators = Annotated[
    bool | None,
    typer.Option(
        "--operators/--no-operators",
        help="Insert runtime operators, which are fast where graphopt's library is loaded (`graphopt ops`) and run "
        "as functions elsewhere (default: for cuda only).",
        show_default=False,
    ),
]
NoAssumeFinite = Annotated[
    bool,
    typer.Option(
        "--no-assume-finite",
        help="Leave masks on activations alone unless the activation is provably finite (0 * inf is not 0).",
    ),
]


@contextmanager
def by_option() -> Iterator[None]:
    """Errors about an argument of a Python function are about the option of that name."""
    try:
        yield
    except UsageError as error:
        if error.where is not None and error.where.isidentifier():
            error.where = f"--{error.where.replace('_', '-')}"
        raise


def one_of(value: str, known: Sequence[str], option: str) -> str:
    """`value` if it is a known one. Raises UsageError that names the nearest."""
    if value in known:
        return value
    close = nearest(value, known)
    advice = f"did you mean {close}? " if close else ""
    raise UsageError(
        f"{option} has no choice {value!r}", where=option, help=f"{advice}choose one of: {', '.join(known)}"
    )


def read_shapes(texts: Iterable[str] | None) -> dict[str, tuple[int, ...]] | None:
    """Reads `NAME=1,3,224,224` texts; `NAME=` is a scalar, a size of -1 is left open. None if there are no texts.

    A name may hold `=` and `:`: the sizes are what follows the last `=`. Raises UsageError for anything else.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for text in texts or ():
        name, equals, sizes = text.rpartition("=")
        try:
            shape = tuple(int(size) for size in sizes.split(",")) if sizes.strip() else ()
        except ValueError:
            shape = (-2,)
        if not equals or not name or any(not -1 <= size < 1 << 31 for size in shape):
            raise UsageError(
                f"cannot read the shape {text!r}",
                where="--shape",
                help="write the input's name and its sizes, for example --shape images=1,3,224,224",
            )
        if name in shapes:
            raise UsageError(f"the shape of {name!r} is given twice", where="--shape", help="give it once")
        shapes[name] = shape
    return shapes or None


def writable(path: Path, option: str) -> Path:
    """`path` if a file can be put there. Raises GraphoptError before any work is done, instead of after it."""
    folder = path.parent
    if not folder.is_dir():
        raise GraphoptError(
            f"the folder {folder} does not exist", where=f"{option} {path}", help=f"create it: mkdir -p {folder}"
        )
    if path.is_dir():
        raise GraphoptError(
            f"{path} is a folder", where=option, help=f"name a file, for example {path / ('out' + _suffix(option))}"
        )
    if not os.access(folder, os.W_OK):
        raise GraphoptError(
            f"no permission to write in {folder}", where=f"{option} {path}", help="choose another folder"
        )
    return path


def folder(path: Path, option: str) -> Path:
    """`path` if it is a folder, or one can be made there. Raises GraphoptError before any work is done."""
    if path.exists() and not path.is_dir():
        raise GraphoptError(f"{path} is a file", where=option, help="name a folder, it is made if it is missing")
    if not path.exists() and not path.absolute().parent.is_dir():
        raise GraphoptError(
            f"the folder {path.parent} does not exist", where=f"{option} {path}", help=f"create it: mkdir -p {path}"
        )
    if not os.access(path if path.exists() else path.absolute().parent, os.W_OK):
        raise GraphoptError(f"no permission to write in {path}", where=f"{option} {path}", help="choose another folder")
    return path


def _suffix(option: str) -> str:
    return {"--report": ".html", "--json": ".json"}.get(option, ".onnx")


STANDARD_OUTPUT = Path("-")


def results(
    model: Path,
    output: Path | None,
    report: Path | None,
    json: Path | None,
    *,
    data: str | None = None,
    recipe: Path | None = None,
) -> Path | None:
    """The file for JSON, None where it is printed. Results that would overwrite each other or what is read are refused.

    Only ``-o`` may name MODEL.
    """
    file = None if json == STANDARD_OUTPUT else json
    for read in ({}, {"--data": None if data is None else Path(data)}, {"--recipe": recipe}):
        distinct({**read, "-o": output, "--report": report, "--json": file})
    distinct({"MODEL": model, "--report": report, "--json": file})
    for option, path in (("-o", output), ("--report", report), ("--json", file)):
        if path is not None:
            writable(path, option)
    return file


def distinct(paths: dict[str, Path | None]) -> None:
    """Raises UsageError when two options (or arguments) name the same file."""
    seen: dict[Path, str] = {}
    for option, path in paths.items():
        if path is None:
            continue
        real = path.resolve()
        if real in seen:
            raise UsageError(
                f"{seen[real]} and {option} name the same file", where=str(path), help="give them different names"
            )
        seen[real] = option
