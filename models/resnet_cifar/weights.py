"""Published weights: a safetensors file, by its path or by its name."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from graphopt.errors import DependencyError, GraphoptError, UsageError
from graphopt.models.data import files


def load(net: nn.Module, weights: str | Path) -> None:
    """Load a file into a net, and leave the net in eval mode.

    Raises:
        DependencyError: safetensors is not installed.
        UsageError: The file holds the weights of another net; the net is then as it was.
        GraphoptError: The file is not there or cannot be read.
    """
    path = Path(weights).expanduser()
    if not path.is_file():
        found = files.present(str(weights))
        if found is None:
            raise GraphoptError(
                f"there are no weights '{weights}'",
                "model.weights",
                f"name a safetensors file, put one into {files.cache()} or into a folder that GRAPHOPT_DATA names, "
                "or leave the option out to train from random weights",
            )
        path = found
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as missing:
        raise DependencyError("weights come as safetensors", str(path), "pip install safetensors") from missing
    try:
        read = load_file(path)
    except (OSError, SafetensorError) as problem:
        raise GraphoptError(f"cannot read the weights: {problem}", str(path)) from problem
    ours = net.state_dict()
    counters = {name for name in ours if name.endswith("num_batches_tracked")}
    other = sorted(set(read) ^ (set(ours) - counters) - counters)
    other = other or sorted(name for name in read if name in ours and read[name].shape != ours[name].shape)
    if other:
        raise UsageError(
            f"the weights are those of another net: {other[0]} and {len(other) - 1} more do not fit",
            str(path),
            "depth, width and shortcut have to be those of the published net",
        )
    net.load_state_dict(read, strict=False)
    net.eval()
