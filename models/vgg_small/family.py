"""What the training commands need to know: ``graphopt prune vgg_small`` and the like."""

from __future__ import annotations

from graphopt.models.classifier import classifier
from graphopt.models.data import images
from graphopt.models.vgg_small.module import new

FAMILY = classifier("vgg_small", new, images.load)
