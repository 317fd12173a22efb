"""Reads tool calls out of a text while it comes.

A call is told when its name and the beginning of its arguments are known; the arguments follow in pieces, as
they were written, and joined they are the JSON text of one object. What turns out not to be a call is text.
Space beside calls is dropped.

The reader is written as one that reads a file: a generator that is sent one character after the other, and
an empty string at the end.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Collection, Generator
from dataclasses import dataclass
from typing import TypeVar

from boli.text.tools.formats import CLOSING, OPENING, ToolFormat

_SPACES = " \n\t\r"
_ARGUMENTS = frozenset({"arguments", "parameters"})
_IDLE = frozenset({"type", "id"})  # some models write them, and they say nothing new
_T = TypeVar("_T")
_Reading = Generator[None, str, _T]


@dataclass(frozen=True, slots=True)
class Text:
    """Text that belongs to no call."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStart:
    """A call begins: of which function, and under which identifier."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """A piece of the arguments of a call."""

    index: int
    text: str


Event = Text | CallStart | CallArguments


class ToolReader:
    """Reads one answer.

    Args:
        shape: How the model writes calls.
        names: The functions that exist; what calls others is text.

    Attributes:
        calls: How many calls have begun.
    """

    def __init__(self, shape: ToolFormat, names: Collection[str]) -> None:
        self._names = frozenset(names)
        self._events: list[Event] = []
        self._spaces = ""  # behind text: dropped if a call follows
        self._beside = False  # nothing has been said since the last call
        self._raw: list[str] = []  # of what may be a call
        self._over = False
        self._reading = self._tagged() if shape.tagged else self._bare()
        self.calls = 0
        next(self._reading)

    def feed(self, text: str) -> list[Event]:
        """What is new after a piece of text."""
        for character in text:
            self._reading.send(character)
        return self._take()

    def finish(self) -> list[Event]:
        """What was held back in case more came."""
        self._reading.send("")
        if not self.calls:
            self._events.append(Text(self._spaces))
        self._spaces = ""
        return self._take()

    def _take(self) -> list[Event]:
        """The events so far, pieces of the same thing joined."""
        events: list[Event] = []
        for event in self._events:
            last = events[-1] if events else None
            if isinstance(event, Text) and isinstance(last, Text):
                events[-1] = Text(last.text + event.text)
            elif isinstance(event, CallArguments) and isinstance(last, CallArguments):
                events[-1] = CallArguments(last.index, last.text + event.text)
            else:
                events.append(event)
        self._events = []
        return [event for event in events if not isinstance(event, Text) or event.text]

    def _say(self, text: str) -> None:
        text = self._spaces + text
        if self._beside:
            text = text.lstrip(_SPACES)
        shown = text.rstrip(_SPACES)
        self._spaces = text[len(shown) :]
        if shown:
            self._beside = False
            self._events.append(Text(shown))

    def _start(self, name: str) -> None:
        self._spaces, self._beside = "", True
        self._events.append(CallStart(self.calls, f"call_{secrets.token_hex(12)}", name))
        self.calls += 1

    # --- forms of answers -------------------------------------------------------------------------

    def _tagged(self) -> _Reading[None]:
        """Text, and calls between tags."""
        held = ""
        while True:
            character = yield
            # Only the first character of the tag is a `<`.
            if character and character == OPENING[len(held)]:
                held += character
                if held == OPENING:
                    yield from self._block()
                    held = ""
                continue
            self._say(held)
            held = character if character == OPENING[0] else ""
            if not held:
                self._say(character)

    def _block(self) -> _Reading[None]:
        """What is between two tags: a call, or a list of calls."""
        self._raw = list(OPENING)
        character = yield from self._after_spaces()
        listed = character == "["
        if listed:
            character = yield from self._after_spaces()
        while True:
            if character != "{":
                self._say("".join(self._raw))
                return
            if not (yield from self._call()):
                return
            character = yield from self._after_spaces()
            if not listed or character != ",":
                break
            character = yield from self._after_spaces()
        if listed and character == "]":
            character = yield from self._after_spaces()
        end = ""
        while character == CLOSING[len(end)]:
            end += character
            if end == CLOSING:
                return
            character = yield
        if character:  # the tag is missing
            self._say(end + character)

    def _bare(self) -> _Reading[None]:
        """A call from the first character on, or text."""
        self._raw = []
        character = yield from self._after_spaces()
        while character == "{" and (yield from self._call()):
            character = yield from self._after_spaces()
            if character == ";":
                character = yield from self._after_spaces()
        self._say("".join(self._raw))
        while True:
            self._say((yield))

    def _call(self) -> _Reading[bool]:
        """A call whose brace has come. What is none is said; of one that has been told nothing more is."""
        before = self.calls
        whole = yield from self._object()
        if not whole and self.calls == before:
            self._say("".join(self._raw))
        self._raw = []
        return whole

    # --- JSON, a character at a time --------------------------------------------------------------

    def _next(self) -> _Reading[str]:
        """One more character of what may be a call; at the end an empty string, as often as asked."""
        if self._over:
            return ""
        character = yield
        self._over = not character
        self._raw.append(character)
        return character

    def _after_spaces(self) -> _Reading[str]:
        character = yield from self._next()
        while character and character in _SPACES:
            character = yield from self._next()
        return character

    def _object(self) -> _Reading[bool]:
        """Reads a call whose brace has come; False if it is none, or not whole."""
        name: str | None = None
        early: list[str] = []  # arguments before the name
        started = seen = False

        def tell(piece: str) -> None:
            nonlocal started
            if name is None:
                early.append(piece)
                return
            if not started:
                started = True
                self._start(name)
                self._events.append(CallArguments(self.calls - 1, "".join(early)))
            self._events.append(CallArguments(self.calls - 1, piece))

        character = yield from self._after_spaces()
        while character == '"':
            key = yield from self._string()
            if (yield from self._after_spaces()) != ":":
                return False
            character = yield from self._after_spaces()
            if key in _ARGUMENTS and not seen and character == "{":
                seen = True
                if not (yield from self._braces(tell)):
                    return False
            elif character != '"':
                return False
            else:
                value = yield from self._string()
                if key == "name" and name is None and value in self._names:
                    name = value
                    if seen:
                        tell("")
                elif key in _ARGUMENTS and not seen and _is_object(value):
                    seen = True
                    tell(value or "")
                elif key not in _IDLE:
                    return False
            character = yield from self._after_spaces()
            if character == ",":
                character = yield from self._after_spaces()
            elif character != "}":
                return False
            else:
                if name is not None and not seen:
                    tell("{}")
                return started
        return False

    def _string(self) -> _Reading[str | None]:
        """A string whose first quote has come; None if it does not end or is none."""
        written = ['"']
        escaped = False
        while True:
            character = yield from self._next()
            if not character:
                return None
            written.append(character)
            if character == '"' and not escaped:
                break
            escaped = character == "\\" and not escaped
        try:
            text: str = json.loads("".join(written))
        except ValueError:
            return None
        return text

    def _braces(self, tell: Callable[[str], None]) -> _Reading[bool]:
        """An object whose brace has come, told character by character; False if it does not end."""
        tell("{")
        depth, quoted, escaped = 1, False, False
        while depth:
            character = yield from self._next()
            if not character:
                return False
            tell(character)
            if quoted:
                quoted = escaped or character != '"'
                escaped = character == "\\" and not escaped
            elif character == '"':
                quoted = True
            elif character in "{[":
                depth += 1
            elif character in "}]":
                depth -= 1
        return True


def _is_object(text: str | None) -> bool:
    try:
        return isinstance(json.loads(text or ""), dict)
    except (ValueError, RecursionError):
        return False
