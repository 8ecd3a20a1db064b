"""What `quantize` and `optimize --quantize` look at before any work is done."""

from __future__ import annotations

from pathlib import Path

from graphopt.errors import UsageError

WEIGHTS_ONLY = ("cuda",)  # targets that have no integer kernels: their tables say "none" first

_ONE = "give one of the two"

NO_DATA = "no calibration data: scales depend on what the model meets"
WHAT_DATA = (
    "give --data with a few hundred real samples: a .npz with one array per input (samples first), "
    "a folder of such files (one batch each), or PKG.MODULE:ITERABLE"
)


def needs_data(target: str, activations: str | None) -> bool:
    """Whether activations will be quantized, whose scales depend on data."""
    return (activations or ("none" if target in WEIGHTS_ONLY else "")) != "none"


def complete(
    output: Path | None, data: str | None, random_data: bool, activations: str | None, target: str, dry_run: bool
) -> None:
    """Raises UsageError when what has to be given is missing."""
    if dry_run:
        return
    if output is None:
        raise UsageError(
            "nowhere to write the result",
            where="graphopt quantize",
            help="give -o OUT, or --dry-run to see what it would do",
        )
    if data is None and not random_data and needs_data(target, activations):
        raise UsageError(
            NO_DATA,
            where="graphopt quantize",
            help=f"{WHAT_DATA}; --activations none needs no data, --random-data takes noise for it",
        )


def pairs(
    workers: int, ray: str | None, target_accuracy: float | None, evaluate: str | None, data: str | None,
    random_data: bool,
) -> None:  # fmt: skip
    """Raises UsageError for options that exclude each other, or that need another one."""
    for wrong, what, where, advice in (
        (data is not None and random_data, "--data and --random-data exclude each other", "--random-data", _ONE),
        (workers > 1 and ray is not None, "--workers and --ray exclude each other", "--ray", _ONE),
        (
            target_accuracy is not None and evaluate is None,
            "--target-accuracy needs something that measures accuracy",
            "--target-accuracy",
            "give --evaluate PKG.MODULE:FUNCTION, or --target-sqnr DB, which needs nothing else",
        ),
        (
            evaluate is not None and target_accuracy is None,
            "--evaluate is used for --target-accuracy only",
            "--evaluate",
            "say how much accuracy is wanted: --target-accuracy X",
        ),
    ):  # fmt: skip
        if wrong:
            raise UsageError(what, where=where, help=advice)
