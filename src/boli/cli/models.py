"""`boli models`: what is installed and what can be fetched; `pull`, `rm`, `show`."""

from __future__ import annotations

import sys

import typer

from boli.cli.arguments import Json, ModelName
from boli.cli.group import Group
from boli.cli.models_show import SHOW_HELP, show
from boli.cli.progress import TerminalProgress
from boli.cli.table import Column, print_table
from boli.cli.terminal import human_bytes, note, print_json

_HELP = """List, fetch, show and remove models.

Without a command: the models on this machine, and those that have a short name.

\b
Examples:
  boli models
  boli models pull gemma3-270m
  boli models show smollm2
  boli models rm gemma3-270m
"""

_LIST_HELP = """List what is here, and what can be fetched.

The same as 'boli models'.

\b
Examples:
  boli models list
  boli models list --json
"""

_PULL_HELP = """Fetch a model, to have it offline too.

Nothing half-fetched is ever used. Where its source can, an interrupted
download continues where it stopped.

\b
Examples:
  boli models pull smollm2
  boli models pull hf:Qwen/Qwen3-0.6B
"""

_RM_HELP = """Remove a fetched model from the disk.

A folder or a file of your own is never touched. The caches of Hugging Face and ModelScope are
shared with other programs: what is removed there is gone for them too.

\b
Examples:
  boli models rm gemma3-270m
"""

application = typer.Typer(cls=Group, help=_HELP, add_completion=False, rich_markup_mode=None)


@application.callback(invoke_without_command=True)
def _models(ctx: typer.Context, json: Json = False) -> None:
    if ctx.invoked_subcommand is None:
        list_models(json=json)
    elif json:
        raise typer.BadParameter("--json belongs behind the command: boli models COMMAND --json")


@application.command("list", help=_LIST_HELP)
def list_models(json: Json = False) -> None:
    """Prints the models that are here and the aliases that could be."""
    from boli.sources import ALIASES, installed  # noqa: PLC0415

    here = installed()
    names = {model.name for model in here}
    available = [alias for alias in ALIASES.values() if alias.name not in names]
    if json:
        print_json(
            {
                "installed": [
                    {"name": m.name, "source": m.source, "bytes": m.nbytes, "path": str(m.path)} for m in here
                ],
                "available": [
                    {
                        "name": a.name,
                        "bytes": a.model.nbytes,
                        "licence": a.licence,
                        "description": a.description,
                    }
                    for a in available
                ],
            }
        )
        return
    if here:
        columns = [Column("installed"), Column("size", numeric=True), Column("from"), Column("path")]
        print_table(columns, [[m.name, human_bytes(m.nbytes), m.source, str(m.path)] for m in here])
    else:
        sys.stdout.write("No model is installed yet.\n")
    if available:
        sys.stdout.write("\n")
        columns = [Column("to fetch"), Column("size", numeric=True), Column("licence"), Column("what it is")]
        rows = [[a.name, human_bytes(a.model.nbytes or 0), a.licence, a.description] for a in available]
        print_table(columns, rows)
        sys.stdout.write("\nFetch one with: boli models pull NAME\n")


@application.command(help=_PULL_HELP)
def pull(model: ModelName, json: Json = False) -> None:
    """Fetches a model."""
    from boli.sources import resolve  # noqa: PLC0415

    with TerminalProgress() as progress:
        local = resolve(model, progress=progress)
    if json:
        print_json({"name": local.name, "source": local.source, "path": str(local.path)})
    else:
        note(f"{local.name} is here")
        sys.stdout.write(f"{local.path}\n")


@application.command(help=_RM_HELP)
def rm(model: ModelName, json: Json = False) -> None:
    """Removes a fetched model."""
    from boli.sources import remove  # noqa: PLC0415

    freed = remove(model)
    if json:
        print_json({"name": model, "freed_bytes": freed})
    else:
        sys.stdout.write(f"removed {model}, {human_bytes(freed)} are free again\n")


application.command("show", help=SHOW_HELP)(show)
