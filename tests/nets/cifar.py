"""The CIFAR-10 test images, where the shared data folder is beside the repository."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np

from tests.nets.catalogue import DATA

_ARCHIVE = DATA / "cifar10_jpeg.npz"
_MEAN = np.array([0.485, 0.456, 0.406], np.float32).reshape(3, 1, 1)
_DEVIATION = np.array([0.229, 0.224, 0.225], np.float32).reshape(3, 1, 1)


def present() -> bool:
    """True when the images are there."""
    return _ARCHIVE.exists()


def batches(size: int = 500, limit: int = 10_000, *, part: str = "test") -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Normalised images (size, 3, 32, 32) in float32 and labels (size,), in order, until ``limit`` images.

    ``part`` is ``test`` or ``train``.
    """
    from PIL import Image

    with np.load(_ARCHIVE) as archive:
        data, offsets, labels = (archive[f"{part}_{what}"] for what in ("jpeg", "offset", "label"))
    limit = min(limit, len(labels))
    for start in range(0, limit, size):
        stop = min(start + size, limit)
        images = np.stack(
            [
                np.asarray(Image.open(io.BytesIO(data[offsets[i] : offsets[i + 1]].tobytes())).convert("RGB"))
                for i in range(start, stop)
            ]
        )
        pixels = images.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
        yield (pixels - _MEAN) / _DEVIATION, labels[start:stop]
