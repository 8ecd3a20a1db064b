"""The numbers of each quantized type."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.calibrate.grid import GRIDS, grid
from graphopt.errors import UsageError


@pytest.mark.parametrize("name", GRIDS)
def test_numbers_are_ascending_and_hold_zero(name: str) -> None:
    numbers = grid(name).numbers()
    assert numbers.size == grid(name).levels and 0 in numbers and (np.diff(numbers) > 0).all()
    assert (numbers[0], numbers[-1]) == (grid(name).low, grid(name).high)


def test_known_sizes() -> None:
    sizes = {name: grid(name).levels for name in ("uint8", "int4", "ternary", "uint16", "int3", "uint12")}
    assert sizes == {"uint8": 256, "int4": 16, "ternary": 3, "uint16": 65536, "int3": 8, "uint12": 4096}
    assert grid("float8e4m3fn").levels == 253 and grid("float8e5m2").levels == 247


@pytest.mark.parametrize("number", [2, 3, 4, 8, 16, 23, 255, 256, 257, 65536])
def test_any_number_of_levels(number: int) -> None:
    for signed in (False, True):
        kind = grid(f"levels{number}", signed=signed)
        assert kind.levels == number and kind.signed == signed and kind.low <= 0 <= kind.high
        assert kind.storage.endswith("8" if number <= 256 else "16")
        assert kind.clipped == (number not in (256, 65536))


def test_whole_types_need_no_clip() -> None:
    assert not any(grid(name).clipped for name in ("uint8", "int4", "uint16", "float8e4m3fn"))
    assert all(grid(name).clipped for name in ("int3", "uint7", "ternary", "int12"))


@pytest.mark.parametrize("name", ["levels1", "levels0", "levels65537", "int9", "uint", "levels-3", ""])
def test_no_such_type(name: str) -> None:
    with pytest.raises(UsageError, match="no quantized type"):
        grid(name)


def test_the_nearest_name_is_given() -> None:
    with pytest.raises(UsageError) as caught:
        grid("unit8")
    assert "uint8" in str(caught.value.help)
