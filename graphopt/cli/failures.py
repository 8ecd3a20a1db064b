"""From an exception to a message and an exit status. The only place where a command's errors are printed."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import typer

from graphopt.errors import GraphoptError, nearest

INTERRUPTED = 130


def guarded(app: typer.Typer, arguments: Sequence[str] | None) -> int:
    """Runs the application and returns its exit status; prints every error, raises none."""
    command = typer.main.get_command(app)
    try:
        status = command.main(
            args=list(arguments) if arguments is not None else None, prog_name="graphopt", standalone_mode=False
        )
        sys.stdout.flush()
        if status == INTERRUPTED:  # typer has made a status of the exception
            _print("interrupted")
        return status if isinstance(status, int) else 0
    except GraphoptError as error:
        _trace()
        _print(_message(error.what, error.where, error.help))
        return error.exit_status
    except KeyboardInterrupt:
        _print("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has gone (`| head`). Python would complain once more while it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        _trace()
        _print(_message(error.strerror or str(error), error.filename, "check permissions and free space"))
        return 1
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    except MemoryError:
        _print(_message("out of memory", None, "close other programs, or use a machine with more memory"))
        return 1
    except Exception as error:
        if _is_usage_error(error):
            _print(_usage_message(error))
            return 2
        _trace()
        _print(_internal_message(error))
        return 1


def _trace() -> None:
    if os.environ.get("GRAPHOPT_DEBUG") == "1":
        traceback.print_exc()


def _print(message: str) -> None:
    sys.stderr.write(message + "\n")
    sys.stderr.flush()


def _message(what: str, where: object | None, help_: str | None) -> str:
    lines = [f"error: {what}"]
    if where:
        lines.append(f"  --> {where}")
    if help_:
        lines.append(f"  help: {help_}")
    return "\n".join(lines)


def _internal_message(error: Exception) -> str:
    said = " ".join(str(error).split()) or "no message"
    return _message(
        f"internal error: {type(error).__name__}: {said}",
        None,
        "this is a bug in graphopt, please report it; GRAPHOPT_DEBUG=1 in the environment shows the traceback",
    )


# typer's own usage errors are recognised by what they carry: their class lives in a private module of typer.
def _is_usage_error(error: Exception) -> bool:
    return hasattr(error, "format_message") and getattr(error, "exit_code", None) == 2


def _usage_message(error: Any) -> str:
    context = getattr(error, "ctx", None)
    where = context.command_path if context is not None else "graphopt"
    what = str(error.format_message()).strip().rstrip(".")
    known: list[str] = []
    mistyped = ""
    option = getattr(error, "option_name", None)
    if option and context is not None and what.startswith("No such option"):
        what = f"no such option: {option}"
        mistyped = option
        known = [name for parameter in context.command.params for name in parameter.opts if name.startswith("--")]
    elif what.startswith("No such command") and context is not None:
        mistyped = what.split("'")[1] if "'" in what else ""
        what = f"no such command: {mistyped}"
        known = list(getattr(context.command, "commands", {}))
    suggestion = nearest(mistyped, known) if mistyped else None
    advice = f"did you mean {suggestion}? " if suggestion else ""
    return _message(what[:1].lower() + what[1:], where, f"{advice}see `{where} --help`")
