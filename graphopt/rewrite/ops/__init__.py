"""How each operator is rewritten when its axes are narrowed. One family a file, named like ``facts/ops``."""

from graphopt.rewrite.ops import (  # noqa: F401
    attention,
    attention_contrib,
    channel_blocks,
    contraction,
    control,
    einsum,
    elementwise,
    gathering,
    layer_norm,
    loops,
    movement,
    normalization,
    packed,
    quantized,
    recurrent,
    reduction,
    rotary,
    sampling,
    shaping,
)
