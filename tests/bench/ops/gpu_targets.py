"""What the runtime operators are to reach on a GPU, and whether measured times do.

Peaks are those that the same run has measured on the same device; without one, nothing is met.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Times = dict[str, Any]


@dataclass(frozen=True)
class Target:
    """What is asked of every case that names it.

    Attributes:
        said: In words.
        least: The lowest ratio that meets it.
        of: The ratio of a case: of its numbers, and the peaks.
    """

    said: str
    least: float
    of: Callable[[Times, dict[str, float]], float]


TARGETS = {
    "Int8Gemm": Target(
        "Int8Gemm at 4096³: 60 % of the int8 peak or more",
        0.60,
        lambda one, peaks: one["operations"] / one["seconds"] / peaks["int8"],
    ),
    "Int8Conv": Target(
        "Int8Conv on the 3x3 layers of ResNet-50 at batch 32: 1.5 times as fast as float16 or more",
        1.5,
        lambda one, peaks: one["float16"] / one["seconds"],
    ),
    "ScatterAdd": Target(
        "ScatterAdd: 80 % of the bandwidth of a copy or more",
        0.80,
        lambda one, peaks: one["moved"] / one["seconds"] / peaks["copy"],
    ),
    "SparseGemm24": Target(
        "SparseGemm24 at 4096³: 1.3 times as fast as the dense product or more",
        1.3,
        lambda one, peaks: one["float16"] / one["seconds"],
    ),
}


def judged(name: str, times: Sequence[Times], peaks: dict[str, float]) -> tuple[str, bool | None]:
    """What a target's cases reach, and whether all of them meet it; None where it was not measured."""
    target = TARGETS[name]
    reached, lacks = [], []
    for one in times:
        if one.get("target") != name:
            continue
        try:
            reached.append((target.of(one, peaks), one["label"]))
        except (KeyError, ZeroDivisionError) as error:
            lacks.append(f"{one['label']}: no {error}")
    if lacks or not reached:
        return "not measured" + "".join(f"; {one}" for one in lacks), None
    words = "; ".join(f"{ratio:.2f} ({label})" for ratio, label in reached)
    return words, min(ratio for ratio, _ in reached) >= target.least
