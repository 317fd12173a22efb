"""Stop strings, found across the borders of tokens."""

from __future__ import annotations

from collections.abc import Sequence

from boli.errors import SamplingError

MAX_STOPS = 16
MAX_STOP_CHARACTERS = 256


class StopMatcher:
    """Lets text pass until a stop string is complete.

    The match that is complete first wins, and of those that end at the same character the longest: what one
        would
    see who reads character by character, so that it does not matter how the text is cut into pieces. Held
    back is exactly the longest end of the text that may still become a stop string. Each character costs
    constant time (Aho and Corasick 1975).

    Args:
        stops: Up to 16 strings of 1 to 256 characters; none is fine.

    Attributes:
        matched: The stop string that was found.

    Raises:
        SamplingError: Too many, too long, or empty ones.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        _check(stops)
        self.matched: str | None = None
        self._held = ""
        self._state = 0
        # State 0 is "nothing matches"; every other is a prefix of some stop, reached by its characters.
        self._next: list[dict[str, int]] = [{}]
        self._depth = [0]
        self._found: list[str | None] = [None]
        for stop in stops:
            self._add(stop)
        self._fallback = self._fallbacks()

    def push(self, text: str) -> str:
        """Add text; returns what can be shown now. After a match nothing more is shown."""
        if self.matched is not None:
            return ""
        buffer = self._held + text
        state = self._state
        for index in range(len(self._held), len(buffer)):
            character = buffer[index]
            while state and character not in self._next[state]:
                state = self._fallback[state]
            state = self._next[state].get(character, 0)
            stop = self._found[state]
            if stop is not None:
                self.matched = stop
                self._held = ""
                return buffer[: index + 1 - len(stop)]
        self._state = state
        shown = len(buffer) - self._depth[state]
        self._held = buffer[shown:]
        return buffer[:shown]

    def finish(self) -> str:
        """The text was held back and, as nothing follows it, is no stop string."""
        held, self._held, self._state = self._held, "", 0
        return held

    def _add(self, stop: str) -> None:
        state = 0
        for character in stop:
            following = self._next[state].get(character)
            if following is None:
                following = len(self._next)
                self._next[state][character] = following
                self._next.append({})
                self._depth.append(self._depth[state] + 1)
                self._found.append(None)
            state = following
        self._found[state] = stop

    def _fallbacks(self) -> list[int]:
        """For each state the longest shorter one that ends alike; completes `_found` on the way."""
        fallback = [0] * len(self._next)
        level = list(self._next[0].values())
        while level:
            deeper = []
            for state in level:
                for character, following in self._next[state].items():
                    other = fallback[state]
                    while other and character not in self._next[other]:
                        other = fallback[other]
                    fallback[following] = self._next[other].get(character, 0)
                    if self._found[following] is None:
                        self._found[following] = self._found[fallback[following]]
                    deeper.append(following)
            level = deeper
        return fallback


def _check(stops: Sequence[str]) -> None:
    if isinstance(stops, str):
        raise SamplingError("stop is one string", cause="it is a list of strings", remedy=f"pass [{stops!r}]")
    if len(stops) > MAX_STOPS:
        raise SamplingError(f"there are {len(stops)} stop strings", cause=f"at most {MAX_STOPS} are allowed")
    for stop in stops:
        if not stop:
            raise SamplingError(
                "a stop string is empty", cause="it would stop everything", remedy="leave it out"
            )
        if len(stop) > MAX_STOP_CHARACTERS:
            raise SamplingError(
                f"a stop string has {len(stop)} characters",
                cause=f"at most {MAX_STOP_CHARACTERS} are allowed",
            )
