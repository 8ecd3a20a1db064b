"""How each operator is rewritten when its axes are narrowed. One family a file, named like ``facts/ops``."""

from graphopt.rewrite.ops import contraction, elementwise, movement, recurrent, reduction, shaping  # noqa: F401
