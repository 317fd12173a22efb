"""Groups of commands: the nearest name for a wrong one, and commands that are loaded when used."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, ClassVar

import typer
from typer.core import TyperGroup

from boli.cli.report import nearest
from boli.errors import UsageError


class Group(TyperGroup):
    """A group; a command that does not exist is answered with the nearest that does."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name; None only for options and while a shell completes a word.

        Raises:
            UsageError: There is none.
        """
        command = self.find(cmd_name)
        if command is None and not ctx.resilient_parsing and not cmd_name.startswith("-"):
            raise UsageError(
                f"there is no command '{ctx.command_path} {cmd_name}'",
                remedy=f"did you mean '{nearest(cmd_name, self.list_commands(ctx))}'? "
                f"'{ctx.command_path} --help' shows all that there is",
            )
        return command

    def find(self, name: str) -> Any:
        """The command of that name, or None."""
        return self.commands.get(name)


class LazyGroup(Group):
    """A group whose commands are modules beside this one, imported when they are used.

    A module holds its command as `application`. `summaries` is all that the list of commands needs.
    """

    summaries: ClassVar[Mapping[str, str]] = {}

    def list_commands(self, ctx: Any) -> list[str]:
        """The names of all commands."""
        return list(self.summaries)

    def find(self, name: str) -> Any:
        """The command of that name, or None."""
        if name not in self.summaries:
            return None
        return typer.main.get_command(import_module(f"boli.cli.{name}").application)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Writes the list of commands into the help, without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl(list(self.summaries.items()))
