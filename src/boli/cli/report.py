"""How a command ends badly: one clear message, the right exit code, never a traceback.

An error is written to stderr for people. With `--json` it is also the one document on stdout:
`{"error": {"code", "message", "cause", "remedy"}}`. `BOLI_DEBUG=1` adds the traceback.
"""

from __future__ import annotations

import os
import sys
import traceback
from difflib import get_close_matches

import typer

from boli.cli.terminal import print_json, styled, visible, width
from boli.errors import BoliError, OutOfMemory, UsageError

INTERRUPTED = 130
READER_GONE = 141

_INDENT = "       "  # as wide as "error: "


def report(error: Exception, *, json_output: bool) -> int:
    """Writes what went wrong.

    Args:
        error: What was raised.
        json_output: Whether stdout is to hold a JSON document.

    Returns:
        The exit code: 2 for a wrong command line, 1 for the rest.
    """
    if os.environ.get("BOLI_DEBUG"):
        traceback.print_exception(error)
    known = explain(error)
    show(known)
    if json_output:
        try:
            print_json({"error": as_document(known)})
            sys.stdout.flush()
        except BrokenPipeError:
            raise
        except OSError:  # what cannot be written, such as on a full disk, has been said on stderr
            return known.exit_code
    return known.exit_code


def show(error: BoliError) -> None:
    """Writes an error to stderr for people: what, why, and what to do."""
    sys.stdout.flush()
    lines = [(styled("error:", "red", sys.stderr), error.message)]
    if error.cause:
        lines.append((styled("  why:", "bold", sys.stderr), error.cause))
    if error.remedy:
        lines.append((styled("   do:", "bold", sys.stderr), error.remedy))
    columns = width(sys.stderr)
    for label, text in lines:
        shown = visible(text, lines=True)
        if columns is not None and columns > 2 * len(_INDENT):
            from boli.cli.table import fold  # noqa: PLC0415  # most commands end well, and need no rich

            shown = "\n".join(
                part for line in shown.split("\n") for part in fold(line, columns - len(_INDENT))
            )
        sys.stderr.write(label + " " + shown.replace("\n", "\n" + _INDENT) + "\n")
    sys.stderr.flush()


def as_document(error: BoliError) -> dict[str, str]:
    """An error for programs."""
    return {"code": error.code, "message": error.message, "cause": error.cause, "remedy": error.remedy}


def nearest(name: str, known: list[str]) -> str:
    """The known name that is most like `name`."""
    return get_close_matches(name, known, n=1, cutoff=0.0)[0]


def explain(error: Exception) -> BoliError:
    """Any exception as an error with a cause and a remedy."""
    if isinstance(error, BoliError):
        return error
    if isinstance(error, typer.TyperException):
        return _wrong_command_line(error)
    if isinstance(error, MemoryError):
        return OutOfMemory(
            "there is not enough memory",
            cause=str(error),
            remedy="choose a smaller model or a shorter --context, or close other programs",
        )
    if isinstance(error, OSError) and error.strerror:
        where = f": {error.filename}" if error.filename else ""
        return BoliError(f"the system refused to read or write{where}", cause=error.strerror)
    return BoliError(
        "boli failed in a way that nobody expected",
        cause=f"{type(error).__name__}: {error}",
        remedy="run it again with BOLI_DEBUG=1 in the environment to see where, and report that",
    )


def _wrong_command_line(error: typer.TyperException) -> UsageError:
    """Typer's complaint about the command line, with the nearest name that would have been right."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "boli"
    help_command = f"'{path} --help' shows all that there is"
    option = getattr(error, "option_name", None)
    if context and option and hasattr(error, "possibilities"):
        known = [name for parameter in context.command.get_params(context) for name in parameter.opts]
        remedy = f"did you mean '{nearest(option, known)}'? {help_command}"
        if not option.startswith("--"):
            remedy += "; put -- before a text that starts with '-'"
        return UsageError(f"'{path}' has no option '{option}'", remedy=remedy)
    message = error.format_message().strip().rstrip(".")
    remedy = help_command
    if message.startswith("Got unexpected extra argument"):
        remedy = f"put a text of several words in quotes; {help_command}"
    return UsageError(message[:1].lower() + message[1:], remedy=remedy)
