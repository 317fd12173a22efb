"""Finds the tokens that are matched as whole strings before any merging: control and user-defined tokens."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

MAX_SPECIAL_CHARACTERS = 512
"""Longest special token that is matched. It bounds the work per character of text."""


class SpecialTokens:
    """A set of strings, found in a text leftmost first and, where several start together, longest first.

    This is the rule of both SentencePiece's user-defined symbols and Hugging Face's added tokens.

    Args:
        ids: The token id of each string. Empty strings and strings of more than
            `MAX_SPECIAL_CHARACTERS` characters are never matched.
    """

    def __init__(self, ids: Mapping[str, int]) -> None:
        self._ids = {text: token for text, token in ids.items() if 0 < len(text) <= MAX_SPECIAL_CHARACTERS}
        lengths: dict[str, set[int]] = {}
        for text in self._ids:
            lengths.setdefault(text[:2], set()).add(len(text))
        # Two characters tell apart nearly all places where a token could start ("<|", "  ", "\n\n") from
        # those where none can, so a lone space or bracket costs one failed lookup and not one per token
        # length.
        self._lengths = {start: sorted(found, reverse=True) for start, found in lengths.items()}
        firsts = sorted({text[0] for text in self._ids})
        self._first = re.compile("[" + "".join(map(re.escape, firsts)) + "]") if firsts else None

    def split(self, text: str) -> Iterator[tuple[int, int, int | None]]:
        """Cut a text at its special tokens.

        Yields:
            `(start, end, id)` in order and without gaps; `id` is None for the ordinary text between.
        """
        done = position = 0
        while self._first is not None and (found := self._first.search(text, position)):
            start = found.start()
            end = self._longest(text, start)
            if end == start:
                position = start + 1
                continue
            if start > done:
                yield done, start, None
            yield start, end, self._ids[text[start:end]]
            done = position = end
        if done < len(text):
            yield done, len(text), None

    def _longest(self, text: str, start: int) -> int:
        for prefix in (text[start : start + 2], text[start]):
            for length in self._lengths.get(prefix, ()):
                if text[start : start + length] in self._ids:
                    return start + length
        return start
