"""The turns of `boli chat`: lines become questions or commands, answers are streamed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from boli.cli.answer import keep, print_summary, write_answer
from boli.cli.arguments import STDIN_LIMIT, decode
from boli.cli.report import nearest, show
from boli.cli.terminal import note, quoted
from boli.errors import BoliError, PromptError, UsageError

if TYPE_CHECKING:
    from boli.engine.conversation import Conversation
    from boli.engine.llm import LLM
    from boli.engine.params import SamplingOptions

_PROMPT = "> "
_MORE = ". "


@dataclass(frozen=True, slots=True)
class _Command:
    """What a line that begins with `/` can ask for."""

    usage: str
    summary: str
    run: Callable[[str], None]


class ChatSession:
    """A conversation between a model and whoever writes to stdin.

    At a terminal an error ends the turn and the conversation goes on. Elsewhere it ends the
    program, so that a script notices.

    Args:
        llm: The model.
        conversation: What was said.
        options: How to sample the answers.
    """

    def __init__(self, llm: LLM, conversation: Conversation, options: SamplingOptions) -> None:
        self._llm = llm
        self._conversation = conversation
        self._options = options
        self._interactive = sys.stdin is not None and sys.stdin.isatty()
        self._saved_as: Path | None = None
        self._leaving = False
        self._commands = {
            "/undo": _Command("/undo", "take back the last question and its answer", self._undo),
            "/system": _Command(
                "/system TEXT", "say how the model should behave; without TEXT: take that back", self._system
            ),
            "/save": _Command("/save FILE", "write the conversation as JSON", self._save),
            "/help": _Command("/help", "show this list", self._help),
            "/quit": _Command("/quit", "leave", self._quit),
        }

    def run(self) -> None:
        """Takes turns until the input ends or `/quit`."""
        if self._interactive:
            import readline  # noqa: F401, PLC0415  gives input() history and editing

            context = f"context of {self._llm.context:,} tokens"
            note(f"{self._llm.name}, {context}. /help lists commands, Ctrl-D leaves.", "dim")
        while not self._leaving:
            try:
                turn = self._read_turn()
                if turn is None:
                    return
                self._take(turn)
            except BoliError as error:
                if not self._interactive:
                    raise
                show(error)

    def _read_turn(self) -> str | None:
        """What is said next; a line that ends with a backslash goes on in the next. None at the end."""
        lines: list[str] = []
        while True:
            line = self._type_line(_MORE if lines else _PROMPT) if self._interactive else _next_line()
            if line is None:
                return "\n".join(lines) if lines else None
            lines.append(line.removesuffix("\\"))
            if not line.endswith("\\"):
                return "\n".join(lines)

    def _type_line(self, prompt: str) -> str | None:
        try:
            return input(prompt)
        except EOFError:
            note("")
            return None
        except KeyboardInterrupt:
            note("")
            raise
        except UnicodeDecodeError as error:
            raise PromptError("the line is not UTF-8", cause=str(error)) from error

    def _take(self, turn: str) -> None:
        """Answers a question or obeys a command."""
        if turn.startswith("/"):
            name, _, rest = turn.partition(" ")
            command = self._commands.get(name)
            if command is None:
                raise UsageError(
                    f"there is no command {name}",
                    remedy=f"did you mean {nearest(name, list(self._commands))}? "
                    "To say something that begins with /, put a space before it",
                )
            command.run(rest.strip())
        elif turn.strip():
            self._answer(turn)

    def _answer(self, question: str) -> None:
        try:
            with self._conversation.send(question, **self._options) as stream:
                write_answer(stream)
        except KeyboardInterrupt:
            if not self._interactive:
                raise
            note("stopped; what has been said stays", "dim")
        else:
            keep(stream.completion)
            print_summary(stream.completion, sampled=False, loaded=False)

    def _undo(self, _rest: str) -> None:
        question = self._conversation.undo()
        note("there is nothing to take back" if question is None else f"took back {quoted(question)}", "dim")

    def _system(self, text: str) -> None:
        self._conversation.set_system(text or None)
        note(f"system message: {quoted(text)}" if text else "no system message", "dim")

    def _save(self, name: str) -> None:
        if not name:
            raise UsageError("/save needs a file name", remedy="such as: /save chat.json")
        path = Path(name).expanduser()
        if path.exists() and path != self._saved_as:
            raise UsageError(f"{path} exists already", remedy="choose another name, or remove it first")
        self._conversation.save(path)
        self._saved_as = path
        note(f"saved {len(self._conversation.messages)} messages in {path}", "dim")

    def _help(self, _rest: str) -> None:
        width = max(len(command.usage) for command in self._commands.values())
        for command in self._commands.values():
            note(f"{command.usage:{width}}  {command.summary}")

    def _quit(self, _rest: str) -> None:
        self._leaving = True


def _next_line() -> str | None:
    """The next line of stdin without its end; None behind the last.

    Raises:
        PromptError: It is not UTF-8, or longer than any context.
    """
    if sys.stdin is None:
        return None
    data = sys.stdin.buffer.readline(STDIN_LIMIT + 1)
    if len(data) > STDIN_LIMIT:
        raise PromptError("a line of stdin is too long", cause=f"it has more than {STDIN_LIMIT:,} bytes")
    return decode(data, "a line of stdin").rstrip("\r\n") if data else None
