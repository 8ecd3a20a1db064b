"""What this machine multiplies: with 8-bit dot products (VNNI, and every ARM), or with sums that saturate."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

_EXACT = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})


@cache
def saturates() -> bool:
    """Tell whether u8 x s8 products may saturate: x86 without VNNI adds two of them in 16 bits (``vpmaddubsw``).

    Weights of 7 bits avoid it: ``2 * 255 * 64 < 2^15``. Unknown processors of the x86 family are taken to saturate.
    """
    if platform.machine().lower() not in ("x86_64", "amd64", "i386", "i686"):
        return False
    return not _EXACT & flags()


@cache
def flags() -> frozenset[str]:
    """Return the instruction sets that the operating system names; empty where it does not tell."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset()
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "flags":
            return frozenset(value.split())
    return frozenset()
