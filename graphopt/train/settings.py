"""How a stage of training goes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args, get_type_hints


@dataclass(frozen=True)
class Settings:
    """The ``train`` part of a recipe; a method has more of these for its re-training.

    Attributes:
        epochs: How often each training sample is seen.
        batch: Samples a step (on each process).
        optimizer: ``sgd`` (with ``momentum``), ``adam`` or ``adamw``.
        rate: The highest learning rate.
        momentum: Of ``sgd``.
        weight_decay: Of vectors, too, unless ``decay_vectors`` is false.
        decay_vectors: Whether biases and norms decay.
        schedule: ``one-cycle``, ``cosine`` (to zero), ``linear`` (to zero) or ``constant``.
        warmup: Share of the steps in which ``cosine`` and ``linear`` first rise from zero.
        clip: Largest norm of the gradient; 0: no limit.
        steps: At most so many steps, whatever the epochs; 0: no limit.
        autocast: ``bfloat16``: forward pass in mixed precision.

    Raises:
        ValueError: A number is out of its range, or a word is none of those above.
    """

    epochs: int = 10
    batch: int = 64
    optimizer: Literal["sgd", "adam", "adamw"] = "adam"
    rate: float = 2e-3
    momentum: float = 0.9
    weight_decay: float = 0.0
    decay_vectors: bool = True
    schedule: Literal["one-cycle", "cosine", "linear", "constant"] = "one-cycle"
    warmup: float = 0.0
    clip: float = 0.0
    steps: int = 0
    autocast: Literal["none", "bfloat16"] = "none"

    def __post_init__(self) -> None:
        for name in ("optimizer", "schedule", "autocast"):
            known = get_args(get_type_hints(Settings)[name])
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}, not one of {', '.join(known)}")
        for name in ("epochs", "steps", "weight_decay", "clip"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}, which is not 0 or more")
        for name in ("batch", "rate"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}, which is not positive")
        for name in ("momentum", "warmup"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, which is not in [0, 1)")
