"""`graphopt binarize RECIPE.yaml -o OUT`."""

from __future__ import annotations

from graphopt.cli import options, training

EXAMPLE = "Example: `graphopt binarize resnet_digits -o bits.onnx --set binarize.method=reste`"


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
    """Train a net with weights and activations of one bit.

    Ends in an ONNX model whose weights are packed into bits; batch-norms are thresholds.

    An interrupted run goes on with the same command. Needs torch: pip install "graphopt[train]".
    """
    training.run("binarize", recipe, output, folder, set_, restart, seed, json, report)
