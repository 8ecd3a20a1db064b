"""What the training commands need to know: ``graphopt prune mlp_digits`` and the like."""

from __future__ import annotations

from functools import partial

from graphopt.models.classifier import classifier
from graphopt.models.data import digits
from graphopt.models.mlp_digits.module import new

FAMILY = classifier("mlp_digits", new, partial(digits.load, flat=True), "pixels")
