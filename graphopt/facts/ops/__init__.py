"""Operator rules, one family a file. Importing this package fills the table in ``facts.rules``."""

from graphopt.facts.ops import (  # noqa: F401
    channel_blocks,
    contraction,
    convolution,
    elementwise,
    gathering,
    movement,
    normalization,
    pooling,
    recurrent,
    reduction,
    sampling,
    scans,
    shaping,
)
