"""`graphopt prune RECIPE.yaml -o OUT`."""

from __future__ import annotations

from graphopt.cli import options, training

EXAMPLE = "Example: `graphopt prune mlp_digits -o small.onnx --set prune.amount=0.8`"


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
    """Train a net, remove what matters least in rounds with re-training, and make it fast.

    Ends in a smaller ONNX model that is the same function as the pruned net: masks are gone, dead channels too.

    An interrupted run goes on with the same command. Needs torch: pip install "graphopt[train]".
    """
    training.run("prune", recipe, output, folder, set_, restart, seed, json, report)
