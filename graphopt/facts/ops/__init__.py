"""Operator rules, one family a file. Importing this package fills the table in ``facts.rules``."""

from graphopt.facts.ops import (  # noqa: F401
    contraction,
    elementwise,
    movement,
    normalization,
    pooling,
    reduction,
    shaping,
)
