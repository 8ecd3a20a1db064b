"""What the training commands need to know: ``graphopt prune resnet_cifar`` and the like."""

from __future__ import annotations

from graphopt.models.classifier import classifier
from graphopt.models.data import images
from graphopt.models.resnet_cifar.module import new

FAMILY = classifier("resnet_cifar", new, images.load)
