"""CIFAR-10: 50,000 training and 10,000 test photographs of 32x32, ten classes.

A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009. The images are the first of these that is
found (``files.py`` says where it is looked for):

* ``cifar10_jpeg.npz``: the images compressed again as JPEG. ``train_jpeg`` holds the bytes of all training images,
  image ``i`` is ``train_jpeg[train_offset[i]:train_offset[i + 1]]`` with the label ``train_label[i]``; ``test_...`` in
  the same way. They look alike, and a net that learnt from the originals loses ten points on them.
* ``cifar-10-binary.tar.gz``: the originals; they are downloaded if neither is there.
"""

from __future__ import annotations

import io
import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from graphopt.errors import DependencyError, GraphoptError, UsageError
from graphopt.models.data import files
from graphopt.train.data import Data, Split

SIDE = 32
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)
"""Of ImageNet's pixels (0 to 1), red, green, blue: what published weights of CIFAR nets have been trained with."""

JPEG = "cifar10_jpeg.npz"
ORIGINAL = files.Remote(
    "cifar-10-binary.tar.gz",
    "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    170_052_171,
)

_RECORD = 1 + 3 * SIDE * SIDE
"""Bytes of an image in the originals: the label, then red, green, blue, row by row."""

_UNREADABLE = (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, tarfile.TarError, zlib.error)


def present() -> bool:
    """Return whether the images are on this machine, in either form."""
    return files.present(JPEG) is not None or files.present(ORIGINAL.name) is not None


def load(*, train: int | None = None, test: int | None = None, size: int = SIDE, augment: bool = True) -> Data:
    """Return the images: uint8 ``[n, 3, size, size]``, normalised when a batch is prepared.

    Args:
        train: How many images to train on, the first ones (they are in random order); None: all.
        test: How many to test on; None: all.
        size: Height and width, a divisor of 32: 16 is the mean of 2x2 pixels, a quarter of the work.
        augment: Train on random crops (padded by an eighth with black) that are mirrored half of the time.

    Raises:
        UsageError: The size does not divide 32.
        DependencyError: There are JPEG images, and pillow is not installed.
        GraphoptError: The images are not here and cannot be downloaded, or the file is damaged.
    """
    if size < 1 or SIDE % size:
        raise UsageError(f"CIFAR-10 images cannot be had in {size}x{size}", "data.size", "32, 16, 8, 4, 2 or 1")
    compressed = files.present(JPEG)
    wanted = {"train": 50_000 if train is None else train, "test": 10_000 if test is None else test}
    if compressed is not None:
        splits = [_decoded(compressed, part, limit) for part, limit in wanted.items()]
    else:
        archive = files.fetched(ORIGINAL)
        splits = [_read(archive, part, limit) for part, limit in wanted.items()]
    train_split, test_split = (Split(_smaller(images, size), labels) for images, labels in splits)
    return Data(train_split, test_split, normalised, augmented if augment else None)


def normalised(images: Tensor) -> Tensor:
    """Return uint8 ``[n, 3, h, w]`` as float32 with zero mean and unit variance for ImageNet's pixels."""
    mean, deviation = (torch.tensor(row, device=images.device).reshape(3, 1, 1) for row in (MEAN, DEVIATION))
    return (images.float() / 255 - mean) / deviation


def augmented(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return a random crop of each padded image, half of them mirrored; ``[n, 3, h, w]`` normalised, as they came.

    The padding is an eighth of the height and width on each side (4 of 32), black before it was normalised.
    """
    n, channels, height, width = images.shape
    up, left = height // 8, width // 8
    black = normalised(torch.zeros(1, channels, 1, 1, dtype=torch.uint8, device=images.device))
    padded = black.to(images.dtype).repeat(n, 1, height + 2 * up, width + 2 * left)
    padded[:, :, up : up + height, left : left + width] = images
    down = torch.randint(2 * up + 1, (n, 1), generator=generator)
    right = torch.randint(2 * left + 1, (n, 1), generator=generator)
    mirrored = torch.randint(2, (n, 1), generator=generator).bool()
    column = torch.arange(width)
    rows = (down + torch.arange(height)).to(images.device)
    columns = (right + torch.where(mirrored, width - 1 - column, column)).to(images.device)
    every = torch.arange(n, device=images.device)[:, None, None]
    # Index tensors around a slice put their axes first: [n, h, w, channels].
    return padded[every, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


def _decoded(path: Path, part: str, limit: int) -> tuple[np.ndarray, Tensor]:
    """Return the first images of the JPEG file, uint8 ``[n, 3, 32, 32]``, and their labels."""
    try:
        from PIL import Image
    except ImportError as missing:
        raise DependencyError("CIFAR-10 as JPEG needs pillow", str(path), "pip install pillow") from missing
    try:
        with np.load(path) as archive:
            data, offsets, labels = (archive[f"{part}_{what}"] for what in ("jpeg", "offset", "label"))
        n = min(limit, len(labels))
        images = np.empty((n, SIDE, SIDE, 3), np.uint8)
        for index in range(n):
            image = Image.open(io.BytesIO(data[offsets[index] : offsets[index + 1]].tobytes()))
            images[index] = np.asarray(image.convert("RGB"))
    except _UNREADABLE as problem:
        raise _damaged(path, problem) from problem
    return images.transpose(0, 3, 1, 2), torch.from_numpy(labels[:n].astype(np.int64))


def _read(path: Path, part: str, limit: int) -> tuple[np.ndarray, Tensor]:
    """Return the first original images, uint8 ``[n, 3, 32, 32]``, and their labels."""
    names = [f"data_batch_{number}.bin" for number in range(1, 6)] if part == "train" else ["test_batch.bin"]
    found: dict[str, np.ndarray] = {}
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                name = Path(member.name).name
                content = archive.extractfile(member) if name in names else None
                if content is not None:
                    found[name] = np.frombuffer(content.read(), np.uint8).reshape(-1, _RECORD)
        records = np.concatenate([found[name] for name in names])[:limit]
    except _UNREADABLE as problem:
        raise _damaged(path, problem) from problem
    return records[:, 1:].reshape(-1, 3, SIDE, SIDE), torch.from_numpy(records[:, 0].astype(np.int64))


def _smaller(images: np.ndarray, size: int) -> Tensor:
    """Return the mean of each square of pixels, rounded, uint8 ``[n, 3, size, size]``."""
    side = SIDE // size
    if side == 1:
        return torch.from_numpy(np.ascontiguousarray(images))
    sums = images.reshape(-1, 3, size, side, size, side).sum(axis=(3, 5), dtype=np.uint32)
    return torch.from_numpy(((sums + side * side // 2) // (side * side)).astype(np.uint8))


def _damaged(path: Path, problem: Exception) -> GraphoptError:
    return GraphoptError(f"the images of CIFAR-10 cannot be read: {problem}", str(path), "delete the file, get it anew")
