"""The exception tree: three-part messages, exit statuses, suggestions."""

from __future__ import annotations

import pickle

import pytest

from graphopt.errors import DependencyError, GraphoptError, ModelError, UsageError, VerificationError, nearest


def test_message_has_what_where_and_help() -> None:
    error = ModelError("the graph has a cycle", "node 'a' (Add)", "remove it")
    assert str(error) == "the graph has a cycle\n  --> node 'a' (Add)\n  help: remove it"


def test_message_without_parts_has_no_empty_lines() -> None:
    assert str(ModelError("what")) == "what"
    assert str(ModelError("what", help="help")) == "what\n  help: help"


@pytest.mark.parametrize(
    ("kind", "status"),
    [(GraphoptError, 1), (ModelError, 1), (DependencyError, 1), (UsageError, 2), (VerificationError, 3)],
)
def test_exit_status(kind: type[GraphoptError], status: int) -> None:
    assert kind("x").exit_status == status
    assert issubclass(kind, GraphoptError)


def test_a_verification_error_crosses_processes_whole() -> None:
    error = VerificationError("differs", "output 'y'", report={"passed": False}, pass_name="narrow")
    copied = pickle.loads(pickle.dumps(error))
    assert (copied.report, copied.pass_name, str(copied)) == ({"passed": False}, "narrow", str(error))


@pytest.mark.parametrize(
    ("name", "expected"),
    [("fold_masks", "fold-masks"), ("Narow", "narrow"), ("fold-mask", "fold-masks"), ("zebra", None), ("", None)],
)
def test_nearest(name: str, expected: str | None) -> None:
    assert nearest(name, ["fold-masks", "narrow", "coalesce", "fold-dead"]) == expected


def test_nearest_of_nothing() -> None:
    assert nearest("narrow", []) is None
