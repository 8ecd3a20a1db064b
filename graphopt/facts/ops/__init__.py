"""Operator rules, one family a file. Importing this package fills the table in ``facts.rules``."""

from graphopt.facts.ops import (  # noqa: F401
    channel_blocks,
    contraction,
    contrib,
    control,
    convolution,
    einsum,
    elementwise,
    gathering,
    layer_norm,
    movement,
    normalization,
    pooling,
    qlinear,
    qlinear_elementwise,
    quantized,
    recurrent,
    reduction,
    sampling,
    scans,
    shaping,
)
