"""What the training commands need to know: ``graphopt prune resnet_digits`` and the like."""

from __future__ import annotations

from graphopt.models.classifier import classifier
from graphopt.models.data import digits
from graphopt.models.resnet_digits.module import new

FAMILY = classifier("resnet_digits", new, digits.load)
