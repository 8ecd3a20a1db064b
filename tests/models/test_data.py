"""Data sets: what is read is what is there, what is fetched is what was meant, what is missing is said."""

from __future__ import annotations

import hashlib
import io
import socket
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from graphopt.errors import DependencyError, GraphoptError, UsageError  # noqa: E402
from graphopt.models.data import cifar10, digits, files, images, shakespeare  # noqa: E402


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A machine without data: an empty cache, no folder beside the repository, and no connection."""

    def refuse(*args: object, **options: object) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("GRAPHOPT_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(files, "__file__", str(tmp_path / "a" / "b" / "c" / "files.py"))
    monkeypatch.setattr(socket, "create_connection", refuse)
    (tmp_path / "data").mkdir()
    yield tmp_path


# --- files ------------------------------------------------------------------------------------------------------------


def served(folder: Path, content: bytes, *, size: int | None = None, digest: str | None = None) -> files.Remote:
    """A file at an address, whose size and digest may be others than are expected."""
    (folder / "served").write_bytes(content)
    expected = digest or hashlib.sha256(content).hexdigest()
    address = (folder / "served").as_uri()
    return files.Remote("thing.bin", address, expected, len(content) if size is None else size)


def test_a_file_is_fetched_once_whole_and_found_afterwards(nowhere: Path) -> None:
    content = bytes(range(256)) * 5000
    said: list[str] = []
    remote = served(nowhere, content)
    found = files.fetched(remote, said.append)
    assert found == nowhere / "cache" / "graphopt" / "thing.bin" and found.read_bytes() == content
    assert [one.name for one in found.parent.iterdir()] == ["thing.bin"]
    assert len(said) >= 2 and all("thing.bin" in line for line in said)
    (nowhere / "served").unlink()
    assert files.fetched(remote, said.append) == found
    (nowhere / "data" / "thing.bin").write_bytes(b"")
    assert files.fetched(remote) == nowhere / "data" / "thing.bin"  # the named folder comes first


@pytest.mark.parametrize("change", ["digest", "shorter", "longer"])
def test_what_has_another_digest_or_size_is_thrown_away(nowhere: Path, change: str) -> None:
    content = b"x" * 1000
    remote = {
        "digest": served(nowhere, content, digest="0" * 64),
        "shorter": served(nowhere, content, size=1001),
        "longer": served(nowhere, content, size=999),
    }[change]
    with pytest.raises(GraphoptError, match=r"is not thing\.bin") as caught:
        files.fetched(remote, lambda line: None)
    assert caught.value.where == remote.address and "GRAPHOPT_DATA" in str(caught.value.help)
    assert list((nowhere / "cache" / "graphopt").iterdir()) == []
    assert files.present("thing.bin") is None


def test_without_a_connection_the_message_says_what_to_do(nowhere: Path) -> None:
    with pytest.raises(GraphoptError, match="Network is unreachable") as caught:
        cifar10.load()
    assert "cifar-10-binary.tar.gz is not here" in caught.value.what
    assert str(nowhere / "cache" / "graphopt") in str(caught.value.help)
    with pytest.raises(GraphoptError, match=r"tinyshakespeare\.txt is not here"):
        shakespeare.load()
    assert list((nowhere / "cache" / "graphopt").iterdir()) == []


def test_a_cache_that_cannot_be_written_to(nowhere: Path) -> None:
    (nowhere / "cache").write_text("a file")
    with pytest.raises(GraphoptError, match="cannot write into the cache"):
        files.fetched(served(nowhere, b"1"))


# --- CIFAR-10 ---------------------------------------------------------------------------------------------------------


def pictures(n: int, seed: int = 0) -> np.ndarray:
    """Smooth pictures, uint8 [n, 32, 32, 3]."""
    coarse = np.random.default_rng(seed).integers(0, 256, (n, 4, 4, 3), np.uint8)
    return coarse.repeat(8, axis=1).repeat(8, axis=2)


def compressed(path: Path, train: np.ndarray, test: np.ndarray) -> dict[str, list[bytes]]:
    """Write the JPEG form; returns the bytes of each image."""
    image = pytest.importorskip("PIL.Image")
    arrays: dict[str, np.ndarray] = {"classes": np.array(cifar10.CLASSES)}
    written = {}
    for part, pixels in (("train", train), ("test", test)):
        codes = []
        for one in pixels:
            file = io.BytesIO()
            image.fromarray(one).save(file, "JPEG", quality=90)
            codes.append(file.getvalue())
        arrays[f"{part}_jpeg"] = np.frombuffer(b"".join(codes), np.uint8)
        arrays[f"{part}_offset"] = np.cumsum([0, *map(len, codes)])
        arrays[f"{part}_label"] = (np.arange(len(codes)) % 10).astype(np.uint8)
        written[part] = codes
    np.savez(path, allow_pickle=False, **arrays)
    return written


def test_jpeg_images_are_decoded_as_pillow_decodes_them(nowhere: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    codes = compressed(nowhere / "data" / cifar10.JPEG, pictures(13), pictures(3, seed=1))
    data = cifar10.load()
    assert data.train.inputs.shape == (13, 3, 32, 32) and data.train.inputs.dtype == torch.uint8
    assert data.test.targets.tolist() == [0, 1, 2] and data.train.targets.dtype == torch.int64
    for index, code in enumerate(codes["train"]):
        expected = np.asarray(image.open(io.BytesIO(code))).transpose(2, 0, 1)
        np.testing.assert_array_equal(data.train.inputs[index].numpy(), expected)
    few = cifar10.load(train=5, test=0)
    assert len(few.train) == 5 and torch.equal(few.train.inputs, data.train.inputs[:5])
    assert few.test.inputs.shape == (0, 3, 32, 32)


@pytest.mark.skipif(files.present(cifar10.JPEG) is None, reason="the CIFAR-10 images (cifar10_jpeg.npz) are not here")
def test_the_images_that_are_here_are_decoded_as_pillow_decodes_them() -> None:
    image = pytest.importorskip("PIL.Image")
    path = files.present(cifar10.JPEG)
    assert path is not None
    data = cifar10.load(train=0, test=7)
    with np.load(path) as archive:
        codes, offsets, labels = (archive[f"test_{what}"] for what in ("jpeg", "offset", "label"))
    for index in range(7):
        one = image.open(io.BytesIO(codes[offsets[index] : offsets[index + 1]].tobytes())).convert("RGB")
        np.testing.assert_array_equal(data.test.inputs[index].numpy(), np.asarray(one).transpose(2, 0, 1))
    assert data.test.targets.tolist() == labels[:7].tolist()


def test_original_images_are_read_record_by_record(nowhere: Path) -> None:
    """A label, then red, green and blue, row by row; the five training files in their order, whatever the archive's."""
    rng = np.random.default_rng(0)
    parts = {f"data_batch_{number}.bin": rng.integers(0, 256, (3, 3073), np.uint8) for number in (3, 1, 5, 2, 4)}
    parts |= {"test_batch.bin": rng.integers(0, 256, (2, 3073), np.uint8), "readme.html": np.zeros((1, 9), np.uint8)}
    for records in parts.values():
        records[:, 0] %= 10
    with tarfile.open(nowhere / "data" / cifar10.ORIGINAL.name, "w:gz") as archive:
        for name, records in parts.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = records.nbytes
            archive.addfile(member, io.BytesIO(records.tobytes()))
    assert cifar10.present()
    data = cifar10.load()
    assert (len(data.train), len(data.test)) == (15, 2)
    for number in range(1, 6):
        record = parts[f"data_batch_{number}.bin"][1]
        place = 3 * (number - 1) + 1
        assert data.train.targets[place] == record[0]
        assert data.train.inputs[place, 1, 2, 3] == record[1 + 1024 + 2 * 32 + 3]  # green, third row, fourth column
    assert torch.equal(cifar10.load(train=4).train.inputs, data.train.inputs[:4])


@pytest.mark.parametrize("name", [cifar10.JPEG, cifar10.ORIGINAL.name])
def test_a_damaged_file_is_named(nowhere: Path, name: str) -> None:
    (nowhere / "data" / name).write_bytes(b"PK\x03\x04 but no more")
    with pytest.raises(GraphoptError, match="cannot be read") as caught:
        cifar10.load()
    assert caught.value.where == str(nowhere / "data" / name)


def test_a_damaged_image_is_named(nowhere: Path) -> None:
    path = nowhere / "data" / cifar10.JPEG
    compressed(path, pictures(3), pictures(1))
    with np.load(path) as archive:
        arrays = {name: archive[name].copy() for name in archive.files}
    arrays["train_jpeg"][arrays["train_offset"][1] :][:100] = 0
    np.savez(path, allow_pickle=False, **arrays)
    assert len(cifar10.load(train=1).train) == 1
    with pytest.raises(GraphoptError, match="cannot be read"):
        cifar10.load()


def test_without_pillow_the_message_names_it(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (nowhere / "data" / cifar10.JPEG).write_bytes(b"")
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    with pytest.raises(DependencyError, match="pillow"):
        cifar10.load()


@pytest.mark.parametrize("size", [1, 8, 16, 32])
def test_smaller_images_are_means_of_squares(nowhere: Path, size: int) -> None:
    pytest.importorskip("PIL")
    compressed(nowhere / "data" / cifar10.JPEG, pictures(2), pictures(1))
    whole, small = cifar10.load().train.inputs, cifar10.load(size=size).train.inputs
    assert small.shape == (2, 3, size, size) and small.dtype == torch.uint8
    means = torch.nn.functional.avg_pool2d(whole.double(), 32 // size)
    assert (small.double() - means).abs().max() <= 0.5


@pytest.mark.parametrize("size", [0, 7, 64])
def test_sizes_that_do_not_divide_are_refused(size: int) -> None:
    with pytest.raises(UsageError, match=f"{size}x{size}"):
        cifar10.load(size=size)


def test_pixels_are_normalised_as_for_imagenet() -> None:
    pixels = torch.tensor([[0, 255, 51]], dtype=torch.uint8).reshape(1, 3, 1, 1)
    expected = [(0 - 0.485) / 0.229, (1 - 0.456) / 0.224, (0.2 - 0.406) / 0.225]
    assert cifar10.normalised(pixels).flatten().tolist() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("n", "size"), [(50, 32), (1, 8), (0, 32), (7, 1)])
def test_every_changed_image_is_a_window_of_the_padded_one_or_of_its_mirror_image(n: int, size: int) -> None:
    stored = torch.randint(256, (n, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pad = size // 8
    padded = cifar10.normalised(torch.nn.functional.pad(stored, (pad, pad, pad, pad)))
    changed = cifar10.augmented(cifar10.normalised(stored), torch.Generator().manual_seed(1))
    assert changed.shape == stored.shape
    found = []
    for one, whole in zip(changed, padded, strict=True):
        windows = {
            (down, right, mirrored): window.flip(2) if mirrored else window
            for down in range(2 * pad + 1)
            for right in range(2 * pad + 1)
            for window in [whole[:, down : down + size, right : right + size]]
            for mirrored in (False, True)
        }
        same = [place for place, window in windows.items() if torch.equal(window, one)]
        assert same
        found.append(same[0])
    if n == 50:  # all of it happens
        assert len({place[0] for place in found}) > 5 and len({place[1] for place in found}) > 5
        assert 10 < sum(place[2] for place in found) < 40


def test_changes_come_from_the_generator() -> None:
    x = torch.randn(9, 3, 16, 16)
    ways = [cifar10.augmented(x, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(ways[0], ways[1]) and not torch.equal(ways[0], ways[2])


# --- digits, and either --------------------------------------------------------------------------------------------


def test_digits_in_every_form() -> None:
    pytest.importorskip("sklearn")
    plain, flat, large = digits.load(), digits.load(flat=True), digits.load(size=32, channels=3, train=7, test=0)
    assert torch.equal(plain.train.inputs.flatten(1), flat.train.inputs)
    prepared = large.prepare(large.train.inputs)
    assert prepared.shape == (7, 3, 32, 32) and prepared.min() >= -1 and prepared.max() <= 1
    assert len(large.test) == 0
    exact = digits.load(size=8, channels=3, train=2)
    assert torch.equal(exact.prepare(exact.train.inputs)[:, 2:], 2 * exact.train.inputs - 1)
    assert torch.equal(plain.prepare(plain.train.inputs), plain.train.inputs)


@pytest.mark.parametrize("options", [{"size": 0}, {"channels": 0}, {"flat": True, "size": 16}])
def test_digits_that_cannot_be_had(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="cannot be had"):
        digits.load(**options)


def test_images_are_digits_unless_named_otherwise() -> None:
    pytest.importorskip("sklearn")
    assert images.load(train=3).prepare(images.load(train=3).train.inputs).shape == (3, 3, 32, 32)
    assert images.load(train=3).augment is None
    with pytest.raises(UsageError, match="cifar100") as caught:
        images.load("cifar100")
    assert "did you mean cifar10?" in str(caught.value)


# --- text -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("the quick brown fox jumps over the lazy dög 🦊\n" * 5, encoding="utf-8")
    return path


def test_targets_are_inputs_one_character_later(text: Path) -> None:
    content = text.read_text(encoding="utf-8")
    data = shakespeare.load(text=text, window=7)
    assert data.characters == "".join(sorted(set(content)))
    border = len(content) - len(content) // 10
    assert data.decode(data.train.inputs[0]) == content[:7] and data.decode(data.train.targets[0]) == content[1:8]
    assert data.decode(data.train.inputs[3]) == content[21:28]
    assert data.decode(data.test.inputs[1]) == content[border + 7 : border + 14]
    assert len(data.train) == (border - 1) // 7 and len(data.test) == (len(content) - border - 1) // 7
    assert data.train.inputs.dtype == torch.int64
    x, y = data.train.__getitems__([2, 0])
    assert torch.equal(x[:, 1:], y[:, :-1])
    assert data.decode(data.encode("dög 🦊")) == "dög 🦊"


def test_windows_cost_no_memory_whatever_their_number(text: Path) -> None:
    data = shakespeare.load(text=text, window=11, stride=1)
    content = text.read_text(encoding="utf-8")
    assert len(data.train) == len(content) - len(content) // 10 - 11
    assert data.decode(data.train.inputs[5]) == content[5:16]
    assert data.train.inputs.untyped_storage().nbytes() <= 8 * len(content)
    few = shakespeare.load(text=text, window=11, train=2, test=1)
    assert (len(few.train), len(few.test)) == (2, 1)


def test_windows_as_long_as_the_text_allows(text: Path) -> None:
    tenth = len(text.read_text(encoding="utf-8")) // 10
    assert len(shakespeare.load(text=text, window=tenth - 1).test) == 1
    with pytest.raises(UsageError, match="too short"):
        shakespeare.load(text=text, window=tenth)
    for options in ({"window": 0}, {"stride": 0}):
        with pytest.raises(UsageError, match="positive"):
            shakespeare.load(text=text, **options)


def test_texts_that_cannot_be_read(tmp_path: Path, text: Path) -> None:
    with pytest.raises(GraphoptError, match="cannot read the text"):
        shakespeare.load(text=tmp_path / "none.txt")
    text.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(GraphoptError, match="UTF-8"):
        shakespeare.load(text=text)
    text.write_text("")
    with pytest.raises(UsageError, match="too short"):
        shakespeare.load(text=text)


def test_a_character_that_the_text_has_not(text: Path) -> None:
    with pytest.raises(UsageError, match="QZ"):
        shakespeare.load(text=text, window=3).encode("the ZQ")
