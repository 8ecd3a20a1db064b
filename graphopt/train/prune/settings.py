"""How a net is pruned: the ``prune`` part of a recipe."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from graphopt.train.prune.scores import Curvature
from graphopt.train.prune.selection import Scope
from graphopt.train.settings import Settings

Name = Literal["exact", "taylor", "obd", "covariance", "diagonal", "magnitude", "surgery"]

Structure = Literal["unstructured", "filter", "head", "hidden", "units", "n:m", "block"]


@dataclass(frozen=True)
class PruneSettings:
    """The ``prune`` part of a recipe.

    Attributes:
        score: How important a weight is; see ``graphopt.train.prune.scores``.
        structure: What is removed together: ``unstructured`` (single weights), ``filter``, ``head``, ``hidden``,
            ``units`` (filters, heads and hidden units alike), ``n:m`` (all but ``n`` of ``m`` neighbours along the
            inputs) or ``block`` (``block`` outputs by inputs).
        amount: Share of the units that is removed in the end, 0 to below 1; ``n:m`` does not look at it.
        scope: ``layer``: this share of every layer, or group of layers that go together; ``global``: of all of them.
        normalise: With ``global``, divide scores by the mean of their layer before layers are compared: for
            ``covariance`` and ``diagonal``, which are in units of each layer's output.
        rounds: Rounds of scoring, zeroing and re-training, on the cubic ramp ``s_r = s (1 - (1 - r/R)^3)``.
        samples: Training samples that scores are computed from, drawn anew each round.
        curvature: What ``obd`` takes for the second derivative: ``fisher`` or ``hessian`` (slow).
        retrain: How each round re-trains; with ``surgery``, which has no rounds, the epochs of all rounds follow each
            other.
        n: Weights of a run that stay, for ``n:m``.
        m: Weights of a run, for ``n:m``.
        block: Outputs and inputs of a block.
        stream: Residual streams are pruned, too, each as one.
        latency: Remove as many units as make a layer faster: sizes go down to a multiple of what the target computes
            at once.
        exclude: Names or globs of parameters, modules or groups that are left alone.
    """

    score: Name = "obd"
    structure: Structure = "unstructured"
    amount: float = 0.5
    scope: Scope = "layer"
    normalise: bool = False
    rounds: int = 4
    samples: int = 512
    curvature: Curvature = "fisher"
    retrain: Settings = field(default_factory=lambda: Settings(epochs=2, rate=1e-3))
    n: int = 2
    m: int = 4
    block: tuple[int, int] = (16, 16)
    stream: bool = False
    latency: bool = False
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: One is out of range, or two contradict each other.
        """
        if not 0 <= self.amount < 1:
            raise ValueError(f"amount is a share from 0 to below 1, not {self.amount}")
        if self.rounds < 1 or self.samples < 1:
            raise ValueError(f"rounds and samples are at least 1, not {self.rounds} and {self.samples}")
        if not 0 < self.n < self.m:
            raise ValueError(f"n:m needs 0 < n < m, not {self.n}:{self.m}")
        if len(self.block) != 2 or min(self.block) < 1:
            raise ValueError(f"block is two sizes of at least 1, not {self.block}")
        if self.score == "surgery" and self.structure != "unstructured":
            raise ValueError("surgery prunes and splices single weights: it needs structure 'unstructured'")
        if (self.stream or self.latency) and not self.grouped:
            raise ValueError("stream and latency need a structure of whole units: filter, head, hidden or units")

    @property
    def grouped(self) -> bool:
        """Whether units are made up of slices of several parameters."""
        return self.structure in ("filter", "head", "hidden", "units")
