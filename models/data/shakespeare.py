"""A megabyte of Shakespeare's plays, character by character: windows of text, each to be continued.

The text is A. Karpathy's ``tinyshakespeare`` (from char-rnn): some 1.1 million characters, 65 different ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from graphopt.errors import GraphoptError, UsageError
from graphopt.models.data import files
from graphopt.train.data import Data, Split

TEXT = files.Remote(
    "tinyshakespeare.txt",
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
    "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    1_115_394,
)


@dataclass(frozen=True)
class Text(Data):
    """Windows of tokens: ``inputs`` and ``targets`` are int64 ``[n, time]``, the targets one character later.

    Attributes:
        characters: A character a token, sorted: token ``i`` is ``characters[i]``.
    """

    characters: str = ""

    def encode(self, text: str) -> Tensor:
        """Return the tokens of a text, int64 ``[len(text)]``.

        Raises:
            UsageError: A character is not in the vocabulary.
        """
        strange = sorted(set(text) - set(self.characters))
        if strange:
            raise UsageError(f"the text has characters that the data has not: {''.join(strange)!r}", where="text")
        return _tokens(text, self.characters)

    def decode(self, tokens: Tensor | Sequence[int]) -> str:
        """Return the text of tokens."""
        return "".join(self.characters[int(token)] for token in tokens)


def load(
    *,
    window: int = 128,
    stride: int | None = None,
    train: int | None = None,
    test: int | None = None,
    text: str | Path | None = None,
) -> Text:
    """Return windows of the text; the last tenth of the characters is the test.

    Windows are views of one sequence of tokens, so their number costs no memory. Those of the test lie end to end, so
    that every character is predicted once (but for a rest shorter than a window).

    Args:
        window: Characters a sample.
        stride: From the start of one training window to that of the next; None: the window, end to end.
        train: How many windows to train on, the first ones; None: all.
        test: How many windows to test on; None: all.
        text: A file of UTF-8 text to use instead of Shakespeare's.

    Raises:
        UsageError: Window or stride is not positive, or the text is too short for one window in each part.
        GraphoptError: The file cannot be read, or is not here and cannot be downloaded.
    """
    if window < 1 or (stride is not None and stride < 1):
        raise UsageError(f"window {window} and stride {stride}", "data", "both are positive")
    path = files.fetched(TEXT) if text is None else Path(text).expanduser()
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise GraphoptError(f"cannot read the text: {problem}", str(path), "it has to be a file of UTF-8") from problem
    characters = "".join(sorted(set(content)))
    tokens = _tokens(content, characters)
    border = len(tokens) - len(tokens) // 10
    if min(border, len(tokens) - border) < window + 1:
        raise UsageError(
            f"a text of {len(tokens):,} characters is too short for windows of {window}",
            str(path),
            f"a tenth of it is the test, so {10 * (window + 1):,} characters are needed",
        )
    return Text(
        _windows(tokens[:border], window, stride or window, train),
        _windows(tokens[border:], window, window, test),
        characters=characters,
    )


def _tokens(text: str, characters: str) -> Tensor:
    """Return the place of each character of the text among the sorted characters."""
    codes = [np.frombuffer(one.encode("utf-32-le"), np.uint32) for one in (text, characters)]
    return torch.from_numpy(np.searchsorted(codes[1], codes[0]).astype(np.int64))


def _windows(tokens: Tensor, window: int, stride: int, limit: int | None) -> Split:
    """Return the first ``limit`` windows and the same one character later; views."""
    return Split(tokens[:-1].unfold(0, window, stride)[:limit], tokens[1:].unfold(0, window, stride)[:limit])
