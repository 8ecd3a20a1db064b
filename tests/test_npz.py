"""Files of samples are read row by row, whatever numpy wrote them as."""

from __future__ import annotations

import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from graphopt import datafiles, npz
from graphopt.errors import ModelError

ARRAYS = {
    "plain": np.arange(7 * 3 * 2, dtype=np.float32).reshape(7, 3, 2),
    "turned": np.asfortranarray(np.arange(7 * 3).reshape(7, 3)),
    "small": np.arange(7, dtype=np.int8),
    "empty rows": np.zeros((7, 0), np.float64),
    "truth": np.arange(7) % 2 == 0,
    "swapped": np.arange(7, dtype=">f8"),
}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_rows_are_those_of_numpy(tmp_path: Path, save: Callable[..., None]) -> None:
    save(tmp_path / "x.npz", **ARRAYS, scalar=np.float32(3), none=np.zeros((0, 4)))
    with npz.opened(tmp_path / "x.npz") as rows:
        assert rows["scalar"].whole() == 3 and rows["scalar"].ndim == 0
        assert rows["none"].take(5).shape == (0, 4)
        for name, array in ARRAYS.items():
            taken = [rows[name].take(count) for count in (1, 0, 4, 5, 5)]
            assert [len(one) for one in taken] == [1, 0, 4, 2, 0]
            assert {one.dtype for one in taken} == {array.dtype}
            assert np.array_equal(np.concatenate(taken), array)


def test_a_file_of_many_samples_takes_the_memory_of_a_batch(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.ones((3000, 1000), np.float32))
    tracemalloc.start()
    try:
        batches = sum(1 for _ in datafiles.from_file(tmp_path / "x.npz", {"x": (2, None)}))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert batches == 94  # of 32
    assert peak < 3_000_000


@pytest.mark.parametrize(("bytes_", "sizes"), [(4000, [32, 3]), (1 << 19, [4] * 8 + [3]), (5 << 20, [1] * 35)])
def test_large_samples_come_in_small_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bytes_: int, sizes: list[int]
) -> None:
    monkeypatch.setattr(datafiles, "BATCH_BYTES", datafiles.BATCH_BYTES // 1000)
    np.savez(tmp_path / "x.npz", x=np.zeros((35, bytes_ // 1000), np.int8))
    assert [len(batch["x"]) for batch in datafiles.from_file(tmp_path / "x.npz", {"x": (2, None)})] == sizes
    assert datafiles.number(tmp_path / "x.npz", {"x": (2, None)}) == len(sizes)


@pytest.mark.parametrize("damage", ["cut", "flipped", "object", "none"])
def test_damage_is_an_error(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, x=np.random.default_rng(0).normal(size=(64, 100)))
    data = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "flipped":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif damage == "object":
        np.savez(path, x=np.array([None, 3]))
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x.npy", b"no array")
    with pytest.raises(ModelError, match=r"not a readable \.npz file"):
        list(datafiles.from_file(path, {"x": (2, None)}))


def test_the_number_of_batches_is_known_before_they_are_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.zeros((7, 3), np.float32), y=np.zeros(7, np.int64))
    for ranks in ({"x": (2, 2)}, {"x": (2, 7)}, {"x": (1, None)}, {"x": (2, None), "y": (1, None)}):
        batches = list(datafiles.from_file(tmp_path / "x.npz", ranks))
        assert datafiles.number(tmp_path / "x.npz", ranks) == len(batches)
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in "ab":
        np.savez(folder / f"{name}.npz", x=np.zeros((2, 3)))
    assert datafiles.number(folder, {"x": (2, None)}) == 2
    # What will be refused has no number of batches, and is refused when it is read.
    (tmp_path / "text.npz").write_text("no archive")
    for path, ranks in (("text.npz", {"x": (2, None)}), ("gone.npz", {"x": (2, None)}), ("x.npz", {"z": (2, None)}),
                        ("x.npz", {"x": (2, 9)})):  # fmt: skip
        assert datafiles.number(tmp_path / path, ranks) == 0
