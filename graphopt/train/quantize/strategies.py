"""What is quantized when: the steps of the four strategies, none of which knows how a step is carried out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from graphopt.train.quantize import subsets
from graphopt.train.quantize.layers import Layer, Quantizable
from graphopt.train.quantize.settings import QuantizeSettings


@dataclass(frozen=True)
class Step:
    """One subset: what is quantized before the net is re-trained, and frozen behind.

    Attributes:
        name: Of the stage.
        layers: Layers some filters of which are quantized.
        subset: Of these layers' subsets this one; None: all filters.
        values: Names of quantizers of values all of whose channels are quantized.
        channels: Names of those of which only the channels of the subset are: its neurons.
    """

    name: str
    layers: tuple[Layer, ...]
    subset: int | None = None
    values: tuple[str, ...] = ()
    channels: tuple[str, ...] = field(default=())


def steps(found: Quantizable, settings: QuantizeSettings) -> list[Step]:
    """Return the steps of a strategy, in order. Together they quantize every filter and every value once.

    A value that no layer reads (the operand of an addition) is quantized when the layer that makes it is done.
    """
    if settings.strategy == "direct":
        return [Step("all", tuple(found.layers), values=tuple(found.values))]
    whole = _whole(found, settings)
    result = []
    for layer in found.layers:
        first, last = whole[layer]
        made = _made(found, layer) if settings.strategy == "neuron" else ()
        if settings.strategy == "layer":
            result.append(Step(layer.name, (layer,), values=(*first, *last)))
            continue
        number = subsets.number(layer.components, settings.iterations)
        for subset in range(number):
            values = (*(first if subset == 0 else ()), *(last if subset == number - 1 else ()))
            result.append(Step(f"{layer.name} {subset + 1}/{number}", (layer,), subset, values, made))
    return result


def _made(found: Quantizable, layer: Layer) -> tuple[str, ...]:
    return tuple(layer.made)


def _whole(found: Quantizable, settings: QuantizeSettings) -> dict[Layer, tuple[tuple[str, ...], tuple[str, ...]]]:
    """Return for each layer which values are quantized as a whole with its first subset, and which with its last."""
    by_channels = {name for layer in found.layers for name in layer.made} if settings.strategy == "neuron" else set()
    makers = {name: layer for layer in found.layers for name in layer.made}
    first: dict[Layer, list[str]] = {layer: [] for layer in found.layers}
    last: dict[Layer, list[str]] = {layer: [] for layer in found.layers}
    for name in found.values:
        reader = found.readers[name]
        if name in by_channels:
            continue
        if reader is not None:
            first[reader].append(name)
        else:
            last[makers.get(name, found.layers[-1])].append(name)
    return {layer: (tuple(first[layer]), tuple(last[layer])) for layer in found.layers}


def shared(settings: QuantizeSettings, number: int, batches: int) -> Iterator[int]:
    """Yield how many re-training steps each of ``number`` steps gets: evenly, and together the same for all strategies.

    ``batches``: batches in an epoch.
    """
    total = settings.retrain.steps or settings.retrain.epochs * batches
    yield from subsets.shares(total, number)
