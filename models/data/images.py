"""The data of families for small colour photographs: CIFAR-10, or the digits where it is absent."""

from __future__ import annotations

from graphopt.errors import UsageError, nearest
from graphopt.models.data import cifar10, digits
from graphopt.train.data import Data

_NAMES = ("cifar10", "digits")


def load(
    name: str = "digits", *, train: int | None = None, test: int | None = None, size: int = 32, augment: bool = True
) -> Data:
    """Return images for nets that take ``[n, 3, size, size]``; ten classes in either case.

    Args:
        name: ``digits``, which needs nothing, or ``cifar10``.
        train: How many images to train on, the first ones; None: all.
        test: How many to test on; None: all.
        size: Height and width.
        augment: Random crops and mirror images of CIFAR-10. Digits are never changed: mirrored, they are others.

    Raises:
        UsageError: There is no such data.
        GraphoptError: As ``cifar10.load`` and ``digits.load``.
    """
    if name == "digits":
        return digits.load(train=train, test=test, size=size, channels=3)
    if name == "cifar10":
        return cifar10.load(train=train, test=test, size=size, augment=augment)
    meant = nearest(name, _NAMES)
    hint = f"did you mean {meant}? " if meant else ""
    raise UsageError(f"unknown data '{name}'", "data.name", f"{hint}known: {', '.join(_NAMES)}")
