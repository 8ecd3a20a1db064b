"""Letters and their ids. No torch here: text is also made where only onnxruntime is."""

from __future__ import annotations

import numpy as np

from graphopt.errors import UsageError

LETTERS = "\n !$&',-.3:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
"""The 65 letters of tinyshakespeare; an id is a place in this row."""

METADATA = "graphopt.letters"
"""Under this key an ONNX file says its letters."""


def ids(text: str, letters: str = LETTERS) -> np.ndarray:
    """Return the ids of a text, int64 ``[len(text)]``.

    Raises:
        UsageError: A letter that is not among ``letters``; the message says which and where.
    """
    place = {letter: i for i, letter in enumerate(letters)}
    for at, letter in enumerate(text):
        if letter not in place:
            raise UsageError(
                f"the net does not know the letter {letter!r}",
                where=f"place {at} of the text",
                help=f"it knows {letters!r}",
            )
    return np.array([place[letter] for letter in text], np.int64)


def text(ids: np.ndarray, letters: str = LETTERS) -> str:
    """Return the text of ids ``[n]``."""
    return "".join(letters[i] for i in ids)
