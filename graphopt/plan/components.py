"""Connected components of numbered things, vectorised."""

from __future__ import annotations

import numpy as np


def components(count: int, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return for each of ``count`` numbers the least number it is connected with (``[count]``).

    ``a`` and ``b`` are equally long: ``a[i]`` and ``b[i]`` are connected. Hooking and pointer jumping (Shiloach and
    Vishkin 1982): a logarithmic number of rounds.
    """
    parent = np.arange(count)
    while a.size:
        ra, rb = parent[a], parent[b]
        differ = ra != rb
        if not differ.any():
            break
        ra, rb = ra[differ], rb[differ]
        np.minimum.at(parent, np.maximum(ra, rb), np.minimum(ra, rb))
        while True:
            jumped = parent[parent]
            if (jumped == parent).all():
                break
            parent = jumped
    return parent
