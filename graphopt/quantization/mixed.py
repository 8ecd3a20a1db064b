"""Mixed precision: operators go back to more bits or to float until the outputs are as good as the user wants them.

Each tensor is quantized alone, and the noise that this makes at the outputs is measured (``ranking.py``). Noises add
up, nearly, so that operators are returned by falling noise per nanosecond that their integer kernels save, and how many
of them are needed is found by bisection. What counts is measured on the model that comes out, not predicted.

The cost: ``ranking.RANKED`` samples for each tensor, then about ``log2(operators) + TRIES`` times what tells the score:
``fidelity.SAMPLES`` samples, or the user's ``evaluate``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir

from graphopt import runtime
from graphopt.context import Context
from graphopt.errors import ModelError, UsageError
from graphopt.quantization import steps, weight_only
from graphopt.quantization.fidelity import Fidelity, worst
from graphopt.quantization.place import RETURNED
from graphopt.quantization.ranking import Move, ranked
from graphopt.quantization.state import State

Progress = Callable[[str, int, int], None]

TRIES = 6
"""How many moves that were made are tried without."""


@dataclass(frozen=True)
class Outcome:
    """What it took to meet the target.

    Attributes:
        before: Scores of the model with everything quantized, by name of the target.
        after: Scores of the model that meets it.
        moves: What was returned.
        lines: The same for the report.
    """

    before: dict[str, float]
    after: dict[str, float]
    moves: list[Move] = field(default_factory=list)

    @property
    def lines(self) -> list[str]:
        """Return one line for a person: how far it was, how far it is, and what it took."""
        scores = ", ".join(f"{name} {_shown(self.before[name])} -> {_shown(self.after[name])}" for name in self.after)
        floats = sum(len(move.nodes) for move in self.moves)
        wider = sum(len(move.grids) for move in self.moves)
        what = [f"{floats} operators to float"] * bool(floats) + [f"{wider} weights to more bits"] * bool(wider)
        return [f"mixed precision: {scores} ({' and '.join(what) or 'met as it was'})"]


@dataclass
class _Goal:
    name: str
    target: float
    score: Callable[[ir.Model], float]


def meet(
    context: Context,
    *,
    target_sqnr: float | None = None,
    target_accuracy: float | None = None,
    evaluate: Callable[[Any], float] | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Return operators to more bits or to float until all targets are met, at the least cost in latency.

    Sets ``State.floats``, ``State.grids``, ``State.why``, and with them the placement and its parameters.

    Args:
        context: Everything placed, calibrated and solved.
        target_sqnr: Decibels that the worst output shall have, on the calibration data and on what is held out.
        target_accuracy: What ``evaluate`` shall return at least.
        evaluate: Called with an ``onnxruntime.InferenceSession`` of a model; larger is better.
        progress: Called with (what, done, total).

    Raises:
        ModelError: A target is not reached as long as anything is quantized; says what the best was.
        UsageError: ``evaluate`` fails, or returns no number.
    """
    step = progress or (lambda what, done, total: None)
    state = steps.state_of(context)
    goals = _goals(context, state, target_sqnr, target_accuracy, evaluate)
    if state.request.weight_only:  # else each choice on the way would solve them again
        state.parameters.update(weight_only.solved(context, state.placement, state.request, known=state.parameters))
    search = _Search(context, state, goals, step)
    before = search.scores([])
    if search.met(before):
        return Outcome(before, before)
    search.moves = ranked(context, step)
    chosen = search.shortest()
    chosen = search.trimmed(chosen)
    after = search.scores(chosen)
    return Outcome(before, after, chosen)


def _goals(
    context: Context,
    state: State,
    target_sqnr: float | None,
    target_accuracy: float | None,
    evaluate: Callable[[Any], float] | None,
) -> list[_Goal]:
    original = context.model if state.original is None else state.original
    goals: list[_Goal] = []
    if target_sqnr is not None:
        parts = [Fidelity(original, state.batches())]
        held_out = Fidelity(original, state.held_out())
        parts += [held_out] if held_out.samples else []
        goals.append(_Goal("SQNR in dB", target_sqnr, lambda model: min(_sqnr(part, model) for part in parts)))
    if target_accuracy is not None:
        if evaluate is None:
            raise UsageError("an accuracy to reach, but nothing that tells it", where="evaluate", help="give evaluate")
        goal = _Goal("accuracy", target_accuracy, lambda model: _evaluated(evaluate, model))
        best = goal.score(original)
        if best < target_accuracy:
            raise ModelError(
                f"the float model itself has an accuracy of {_shown(best)}; {_shown(target_accuracy)} was asked for",
                help="ask for less",
            )
        goals.append(goal)
    return goals


def _sqnr(reference: Fidelity, model: ir.Model) -> float:
    rows = reference.of(model)
    if any(row.spoiled for row in rows):
        return -math.inf
    found = worst(rows)
    return math.inf if found is None else found


def _evaluated(evaluate: Callable[[Any], float], model: ir.Model) -> float:
    session = runtime.session(model)
    try:
        found = float(evaluate(session))
    except Exception as error:
        message = f"evaluate fails: {type(error).__name__}: {error}"
        raise UsageError(message, where="evaluate", help="it is called with an onnxruntime.InferenceSession") from error
    if math.isnan(found):
        raise UsageError("evaluate returned NaN", where="evaluate", help="it must return a number, larger is better")
    return found


class _Search:
    """Which of the moves are made; every choice is built and scored once."""

    def __init__(self, context: Context, state: State, goals: list[_Goal], step: Progress) -> None:
        self.context, self.state, self.goals, self.step = context, state, goals, step
        self.moves: list[Move] = []
        self._floats, self._grids, self._why = set(state.floats), dict(state.grids), dict(state.why)
        self._corrections = dict(state.corrections)
        self._parameters, self._asked, self._codes = dict(state.parameters), dict(state.asked), dict(state.codes)
        self._known: dict[frozenset[int], dict[str, float]] = {}
        self._left: dict[frozenset[int], bool] = {}
        self._made: frozenset[int] | None = None

    def scores(self, chosen: Sequence[Move]) -> dict[str, float]:
        """Make these moves, and return the score of each goal."""
        key = frozenset(id(move) for move in chosen)
        if key == self._made:
            return self._known[key]
        self.step("meeting the target", len(self._known), 0)
        model = self._build(chosen)
        self._made = key
        if key not in self._known:
            self._known[key] = {goal.name: goal.score(model) for goal in self.goals}
            self._left[key] = bool(self.state.placement.nodes)
        return self._known[key]

    def met(self, scores: dict[str, float]) -> bool:
        return all(scores[goal.name] >= goal.target for goal in self.goals)

    def _build(self, chosen: Sequence[Move]) -> ir.Model:
        state = self.state
        state.floats, state.grids, state.why = set(self._floats), dict(self._grids), dict(self._why)
        # What was found for other types on the way is dropped: weights get back the integers they had.
        state.parameters, state.asked, state.codes = dict(self._parameters), dict(self._asked), dict(self._codes)
        for move in chosen:
            state.floats.update(move.nodes)
            state.why.update(dict.fromkeys(move.nodes, f"{RETURNED}: {move.share:.1%} of the noise goes with it"))
            state.grids.update(move.grids)
        widened = {node for move in chosen for value in move.grids for node in value.consumers()}
        state.corrections = {node: one for node, one in self._corrections.items() if node not in widened}
        return steps.rebuilt(self.context) if chosen else steps.inserted(self.context)

    def shortest(self) -> list[Move]:
        """Return the shortest start of the list of moves that meets the targets, by bisection.

        Raises:
            ModelError: None does that leaves anything quantized.
        """
        low, high = 0, len(self.moves)  # ``low`` moves do not meet them; all moves do, which leaves nothing quantized
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.met(self.scores(self.moves[:middle])) else (middle, high)
        chosen = self.moves[:high]
        if high == len(self.moves) or not self._leaves(chosen):
            self._unreachable()
        return chosen

    def _leaves(self, chosen: Sequence[Move]) -> bool:
        """Tell whether anything is quantized after these moves."""
        self.scores(chosen)
        return self._left[frozenset(id(move) for move in chosen)]

    def trimmed(self, chosen: list[Move]) -> list[Move]:
        """Take back moves that turn out not to be needed, the most expensive first."""
        for move in sorted(chosen[:-1], key=lambda move: -move.cost)[:TRIES]:
            rest = [other for other in chosen if other is not move]
            if self.met(self.scores(rest)):
                chosen = rest
        return chosen

    def _unreachable(self) -> None:
        known = [scores for key, scores in self._known.items() if self._left[key]]
        reached = "; ".join(
            f"{goal.name}: {_shown(goal.target)} was asked for, the best was "
            f"{_shown(max(scores[goal.name] for scores in known))}"
            for goal in self.goals
        )
        raise ModelError(
            f"the target is not met as long as anything is quantized ({reached})",
            help='ask for less, or recover accuracy first: --recover "equalize,bias-correction", more bits',
        )


def _shown(score: float) -> str:
    return f"{score:.4g}"
