"""What the training commands need to know: ``graphopt prune vit_tiny``."""

from __future__ import annotations

from typing import Any

from graphopt.errors import UsageError, nearest
from graphopt.models.classifier import classifier
from graphopt.models.vit_tiny.module import new
from graphopt.train.data import Data

SETS = ("digits", "cifar10")


def data(name: str = "digits", **options: Any) -> Data:
    """Return the images of a data set, by its name; options are those of ``graphopt.models.data``.

    Raises:
        UsageError: There is no such data set.
    """
    if name not in SETS:
        meant = nearest(name, SETS)
        hint = f"did you mean {meant}? " if meant else ""
        raise UsageError(f"unknown data '{name}'", where="vit_tiny", help=f"{hint}known: {', '.join(SETS)}")
    from graphopt.models.data import cifar10, digits

    return (digits if name == "digits" else cifar10).load(**options)


FAMILY = classifier("vit_tiny", new, data)
