"""scikit-learn's digits: 1797 images of 8x8 that come with the package, so that nothing is downloaded."""

from __future__ import annotations

import dataclasses

import numpy as np

from graphopt.errors import DependencyError


@dataclasses.dataclass
class Digits:
    """Images are float32 [N, 1, 8, 8] with values 0 to 1, labels int64 [N]."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def load() -> Digits:
    """Every fifth image is a test image: 1438 to train on, 359 to test on, always the same ones.

    Raises DependencyError when scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as missing:
        raise DependencyError(
            "the digits data set needs scikit-learn", where="demo", help="pip install scikit-learn"
        ) from missing
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    labels = labels.astype(np.int64)
    test = np.arange(len(labels)) % 5 == 4
    return Digits(images[~test], labels[~test], images[test], labels[test])
