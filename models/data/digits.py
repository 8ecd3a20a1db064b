"""scikit-learn's digits: 1797 images of 8x8 that come with the package, so that nothing is downloaded."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from graphopt.errors import DependencyError, UsageError
from graphopt.train.data import Data, Split, as_stored


def load(
    *, train: int | None = None, test: int | None = None, size: int = 8, channels: int = 1, flat: bool = False
) -> Data:
    """Return the digits: float32 ``[n, 1, 8, 8]`` with values 0 to 1, labels 0 to 9.

    Every fifth image is a test image: 1438 to train on, 359 to test on, always the same ones.

    Args:
        train: How many images to train on, the first ones; None: all.
        test: How many to test on; None: all.
        size: Height and width that the net takes; others than 8 are interpolated when a batch is prepared.
        channels: 3 repeats the grey value for nets that take colours.
        flat: Samples are ``[n, 64]``, for nets without convolutions.

    Raises:
        DependencyError: scikit-learn is not installed.
        UsageError: The size or the number of channels is not positive, or flat samples are to be resized.
    """
    if size < 1 or channels < 1 or (flat and (size, channels) != (8, 1)):
        raise UsageError(
            f"digits cannot be had as size {size}, {channels} channels" + (", flat" if flat else ""),
            where="data",
            help="size and channels are positive; flat digits are 8x8 of one channel",
        )
    try:
        from sklearn.datasets import load_digits
    except ImportError as missing:
        raise DependencyError(
            "the digits data set needs scikit-learn", where="data", help="pip install scikit-learn"
        ) from missing
    pixels, numbers = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels).float().div(16).reshape(-1, 1, 8, 8)
    labels = torch.from_numpy(numbers).long()
    testing = torch.arange(len(labels)) % 5 == 4
    splits = [
        Split(images[chosen].flatten(1) if flat else images[chosen], labels[chosen]) for chosen in (~testing, testing)
    ]
    prepare = as_stored if (size, channels) == (8, 1) else partial(_resized, size=size, channels=channels)
    return Data(splits[0].first(_many(train)), splits[1].first(_many(test)), prepare)


def _resized(images: Tensor, size: int, channels: int) -> Tensor:
    """Interpolate linearly, repeat the grey value, and centre: values -1 to 1, as nets for photographs want them."""
    larger = functional.interpolate(images, size=(size, size), mode="bilinear", align_corners=False)
    return (2 * larger - 1).expand(-1, channels, -1, -1).contiguous()


def _many(number: int | None) -> int:
    """Return the number, or more than there are."""
    return 1 << 40 if number is None else number
