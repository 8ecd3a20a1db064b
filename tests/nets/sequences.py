"""The nets over tokens and patches: how each of them is built, fed and exported."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from torch import nn

from tests.nets import bert, decoder, stream, tagger, transformer, vit
from tests.nets.masking import randomise
from tests.nets.net import FORMS, Net


def _encoder(time: int, width: int, heads: int, hidden: int, layers: int, norm_first: bool, seed: int) -> nn.Module:
    model = transformer.Encoder(97, time, width, heads, hidden, layers, norm_first)
    randomise(model, seed)
    return transformer.mask_heads(model, seed).eval()


def _encoders(time: int, width: int, heads: int, hidden: int, layers: int) -> Iterator[Net]:
    for name, norm_first, seed in (("encoder", True, 6), ("encoder-post", False, 7)):
        build = partial(_encoder, time, width, heads, hidden, layers, norm_first, seed)
        yield Net(name, build, transformer.twin, (time,), 2 * layers, 97, transformer.zeros_only)


def _bert(shape: bert.Shape, time: int) -> Net:
    return Net(
        "bert",
        partial(bert.masked, shape, 30),
        bert.twin,
        residuals=2 * shape.layers,
        zeros=bert.zeros_only,
        draw=lambda numbers, batch, time: bert.draw(numbers, batch, time, shape.tokens),
        sizes=({"time": time}, {"time": 1}),
        names=("ids", "real"),
        axes=({0: "batch", 1: "time"}, {0: "batch", 1: "time"}),
        outputs=("states", "pooled"),
        forms=FORMS,
    )


def _decoder(shape: decoder.Shape, pattern: str, time: int, past: int) -> Net:
    return Net(
        f"decoder-{pattern}",
        partial(decoder.masked, shape, pattern, 31),
        decoder.twin,
        residuals=2 * shape.layers,
        zeros=decoder.zeros_only,
        draw=lambda numbers, batch, time, past: decoder.draw(numbers, batch, time, past, shape),
        # Exported with sizes that are no special ones; then a filling and an extending step.
        sizes=({"time": time, "past": past}, {"time": time, "past": 0}, {"time": 1, "past": time}),
        names=("ids", "positions", *decoder.names(shape, "past")),
        axes=tuple(decoder.axes(shape)),
        outputs=("logits", *decoder.names(shape, "present")),
        forms=FORMS,
    )


def _streams(tokens: int, width: int, hidden: int, layers: int, time: int) -> Iterator[Net]:
    for kind in ("rms", "layer"):
        build = partial(stream.masked, tokens, width, hidden, layers, kind, 45)
        yield Net(f"stream-{kind}", build, stream.twin, (time,), layers, tokens)


def _tagger(tokens: int, width: int, units: int, time: int) -> Net:
    build = partial(tagger.masked, tokens, width, units, 44)
    return Net("tagger", build, tagger.twin, (time,), 0, tokens, tagger.zeros_only)


def _vit(side: int, patch: int, width: int, heads: int, hidden: int, layers: int) -> Net:
    build = partial(vit.masked, side, patch, width, heads, hidden, layers, 46)
    return Net("vit", build, vit.twin, (3, side, side), 2 * layers, zeros=vit.zeros_only)


def full() -> Iterator[Net]:
    """Those that are measured."""
    yield from _encoders(64, 256, 8, 1024, 4)
    yield _bert(bert.Shape(30522, 512, 768, 12, 3072, 12), 128)
    for pattern in decoder.PATTERNS:
        yield _decoder(decoder.Shape(8192, 1024, 16, 4, 2816, 8), pattern, 128, 16)
    yield from _streams(4096, 512, 1024, 6, 64)
    yield _tagger(4096, 128, 256, 40)
    yield _vit(64, 8, 384, 6, 1536, 6)


def small() -> Iterator[Net]:
    """Those that are tested."""
    yield from _encoders(5, 16, 4, 24, 2)
    yield _bert(bert.Shape(53, 11, 24, 4, 20, 2), 5)
    yield _decoder(decoder.Shape(37, 32, 8, 4, 22, 2), "groups", 5, 3)
    for pattern in decoder.PATTERNS[1:]:
        yield _decoder(decoder.Shape(37, 32, 8, 2, 22, 2), pattern, 5, 3)
    yield from _streams(37, 14, 22, 2, 5)
    yield _tagger(37, 10, 12, 7)
    yield _vit(8, 4, 24, 4, 20, 2)
