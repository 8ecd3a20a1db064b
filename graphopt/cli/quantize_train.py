"""`graphopt quantize-train RECIPE.yaml -o OUT`."""

from __future__ import annotations

from graphopt.cli import options, training

EXAMPLE = "Example: `graphopt quantize-train resnet_digits -o int8.onnx --set quantize-train.levels=8`"


def command(
    recipe: training.Recipe,
    output: training.Output,
    folder: training.Folder = None,
    set_: training.Changes = None,
    restart: training.Restart = False,
    seed: training.Seed = None,
    json: options.Json = False,
    report: training.Report = None,
) -> None:
    """Train a net, and quantize it neuron by neuron while it is trained on.

    Ends in an ONNX model with QuantizeLinear and DequantizeLinear, whose scales are those of the training.

    An interrupted run goes on with the same command. Needs torch: pip install "graphopt[train]".
    """
    training.run("quantize-train", recipe, output, folder, set_, restart, seed, json, report)
