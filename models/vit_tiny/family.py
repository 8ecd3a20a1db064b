"""What the training commands need to know: ``graphopt prune vit_tiny``."""

from __future__ import annotations

from graphopt.models.classifier import classifier
from graphopt.models.data import digits, images
from graphopt.models.vit_tiny.module import new
from graphopt.train.data import Data


def data(
    name: str = "digits",
    *,
    train: int | None = None,
    test: int | None = None,
    size: int | None = None,
    channels: int = 1,
    augment: bool = True,
) -> Data:
    """Return images for nets that take ``[n, channels, size, size]``; ten classes in either case.

    Args:
        name: ``digits``, which needs nothing, or ``cifar10``.
        train: How many images to train on, the first ones; None: all.
        test: How many to test on; None: all.
        size: Height and width; None: as they are, 8 or 32.
        channels: Of digits: 3 repeats the grey value. CIFAR-10 has 3.
        augment: Random crops and mirror images of CIFAR-10. Digits are never changed.

    Raises:
        UsageError: There is no such data.
        GraphoptError: As ``cifar10.load`` and ``digits.load``.
    """
    if name == "digits":
        return digits.load(train=train, test=test, size=8 if size is None else size, channels=channels)
    return images.load(name, train=train, test=test, size=32 if size is None else size, augment=augment)


FAMILY = classifier("vit_tiny", new, data)
