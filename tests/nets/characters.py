"""A small decoder that has learnt to continue a text letter by letter: a net whose weights and activations are real."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from torch import nn
from torch.nn import functional

from tests.nets import decoder
from tests.nets.catalogue import DATA
from tests.nets.exporting import plainly_exported
from tests.nets.net import Net

TEXT = DATA / "tinyshakespeare.txt"
SHAPE = decoder.Shape(tokens=65, width=128, heads=4, keys=2, hidden=384, layers=4)
TIME = 128
"""Letters that it sees at once."""


@dataclass(frozen=True)
class Text:
    """A text in numbers.

    Attributes:
        letters: Number of different ones.
        learnt: int64, what is learnt from.
        held_out: The last tenth.
    """

    letters: int
    learnt: np.ndarray
    held_out: np.ndarray

    @classmethod
    def read(cls, path: Path = TEXT) -> Text:
        """Read a file."""
        content = path.read_text(encoding="utf-8")
        number = {letter: i for i, letter in enumerate(sorted(set(content)))}
        every = np.array([number[letter] for letter in content])
        split = len(every) * 9 // 10
        return cls(len(number), every[:split], every[split:])


def trained(text: Text, seconds: float, seed: int = 0, weights: Path | None = None) -> decoder.Decoder:
    """A decoder after so many seconds of training; from ``weights``, if the file is there, else it is written."""
    torch.manual_seed(seed)
    model = decoder.Decoder(SHAPE)
    for layer in model.layers:
        layer.attention.head_mask = layer.feed.hidden_mask = None  # type: ignore[union-attr]
    for name, weight in model.named_parameters():
        if weight.dim() > 1:
            nn.init.normal_(weight, 0.0, 0.05 if name.startswith("embedding") else weight.shape[1] ** -0.5)
    if weights is not None and weights.exists():
        model.load_state_dict(torch.load(weights))
        return model.eval()
    numbers = torch.Generator().manual_seed(seed)
    data = torch.from_numpy(text.learnt)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.1, betas=(0.9, 0.95))
    start, batch = time.perf_counter(), 8
    while (share := (time.perf_counter() - start) / seconds) < 1:
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * max(1 - share, 0.02)
        at = torch.randint(len(data) - TIME - 1, (batch,), generator=numbers)
        rows = torch.stack([data[i : i + TIME + 1] for i in at])
        logits = model(rows[:, :-1], *_positions(batch, TIME))[0]
        loss = functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    if weights is not None:
        torch.save(model.state_dict(), weights)
    return model.eval()


def _positions(batch: int, length: int) -> tuple[torch.Tensor, ...]:
    empty = [torch.zeros(batch, SHAPE.keys, 0, SHAPE.size) for _ in range(2 * SHAPE.layers)]
    return torch.arange(length).expand(batch, length), *empty


def exported(model: decoder.Decoder) -> ir.Model:
    """Batch, time and past are dynamic."""
    net = Net(
        "characters",
        lambda: model,
        lambda module: module,
        draw=lambda numbers, batch, time=5, past=3: decoder.draw(numbers, batch, time, past, SHAPE),
        names=("ids", "positions", *decoder.names(SHAPE, "past")),
        axes=tuple(decoder.axes(SHAPE)),
        outputs=("logits", *decoder.names(SHAPE, "present")),
    )
    return plainly_exported(model, net)


def feeds(rows: np.ndarray) -> dict[str, np.ndarray]:
    """What the exported model reads: ids ``[batch, time]``, nothing before them."""
    batch, length = rows.shape
    found = {"ids": rows.astype(np.int64), "positions": np.broadcast_to(np.arange(length), rows.shape).copy()}
    for name in decoder.names(SHAPE, "past"):
        found[name] = np.zeros((batch, SHAPE.keys, 0, SHAPE.size), np.float32)
    return found


def rows(part: np.ndarray, count: int, batch: int = 8) -> Iterator[np.ndarray]:
    """Yield ``count`` batches of rows ``[batch, TIME + 1]``, evenly spread over a part of the text."""
    starts = np.linspace(0, len(part) - TIME - 2, count * batch).astype(int)
    for first in range(0, len(starts), batch):
        yield np.stack([part[i : i + TIME + 1] for i in starts[first : first + batch]])
