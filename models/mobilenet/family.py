"""What the training commands need to know: ``graphopt prune mobilenet`` and the like."""

from __future__ import annotations

from graphopt.models.classifier import classifier
from graphopt.models.data import images
from graphopt.models.mobilenet.module import new

FAMILY = classifier("mobilenet", new, images.load)
