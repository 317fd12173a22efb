"""The commands, and the frame that each runs in."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, TextIO

import typer

from boli import __version__
from boli.cli.group import LazyGroup
from boli.cli.report import INTERRUPTED, READER_GONE, report
from boli.cli.terminal import prepare_streams, width

_HELP = """boli (玻璃, glass): an engine for large language models that you can see through.

\b
Examples:
  boli generate "The capital of France is"
  boli chat
  boli tokenize "我爱北京天安门"
  boli models
  boli doctor
"""


class _Commands(LazyGroup):
    summaries: ClassVar = {
        "generate": "Continue a text.",
        "chat": "Talk with a model.",
        "serve": "Serve a model to OpenAI's clients, and show what happens.",
        "tokenize": "Show how a text becomes tokens.",
        "trace": "Show what happened in a run: every step, every layer, every choice.",
        "models": "List, fetch, show and remove models.",
        "bench": "Measure how fast a model runs here, and what holds it back.",
        "weigh": "Weigh a model before it is downloaded: its bytes, what fits, how fast.",
        "doctor": "Say what this machine has and what is missing.",
    }


# Plain help: drawing it with rich would take longer than all the rest.
_application = typer.Typer(
    cls=_Commands,
    help=_HELP,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"boli {__version__}")
        raise typer.Exit


@_application.callback(invoke_without_command=True)
def _boli(
    ctx: typer.Context,
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help(), err=True)
        raise typer.Exit(2)


def run(arguments: Sequence[str]) -> int:
    """Runs one command line.

    Args:
        arguments: What follows the program's name.

    Returns:
        The exit code: 0 done, 1 failed, 2 wrong command line, 130 interrupted, 141 nobody reads.
    """
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    json_output = "--json" in options
    prepare_streams(json_output=json_output)
    try:
        code = _guarded(arguments, json_output=json_output)
    except BrokenPipeError:
        _discard(sys.stdout)
        _discard(sys.stderr)
        code = READER_GONE
    return code


def _guarded(arguments: Sequence[str], *, json_output: bool) -> int:
    """Runs a command line; whatever happens becomes an exit code and one clear message."""
    try:
        code = _run(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        raise
    except Exception as error:
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            raise
        except OSError:  # the disk is full: what is still buffered cannot be written
            _discard(sys.stdout)
        return report(error, json_output=json_output)
    return code


def _run(arguments: Sequence[str]) -> int:
    command = typer.main.get_command(_application)
    columns = width(sys.stdout)
    # Typer's help is never narrower than 50 cells unless it is told to be.
    settings: dict[str, Any] = {}
    if columns is not None and columns < 52:
        settings["terminal_width"] = columns - 2
    try:
        result = command.main(list(arguments), prog_name="boli", standalone_mode=False, **settings)
    except SystemExit as end:
        # Typer turns a broken pipe into an exit with code 1.
        if isinstance(end.__context__, BrokenPipeError):
            raise end.__context__ from None
        raise
    except typer.Abort:  # the end of the input where an answer was expected
        return 1
    return result if isinstance(result, int) else 0


def _discard(stream: TextIO) -> None:
    """Sends what is still buffered nowhere; else Python would try, fail and complain at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
