"""Turns ids into text as they come, without ever showing half a character."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Protocol

_MOST_PENDING_BYTES = 3
"""An incomplete UTF-8 character has at most three bytes."""


class TokenBytes(Protocol):
    """What a detokenizer needs to know of a vocabulary."""

    strips_leading_space: bool
    """The text of a sequence loses one space at its start: the one that encoding had added."""

    def token_bytes(self, token: int, /) -> bytes:
        """The bytes that a token stands for."""

    def is_special(self, token: int, /) -> bool:
        """Whether a token is left out of plain text."""


class Detokenizer:
    """Decodes a sequence token by token.

    What `push` and `finish` return, joined, is `decode(prompt + generated)` without `decode(prompt)` at its
    front: a leading space is dropped only where the whole sequence starts, and a character that the prompt
    left incomplete is completed by what follows it. Bytes that can no longer become a character are U+FFFD,
    one for each maximal invalid part, as in `bytes.decode(errors="replace")`. The cost of a token does not
    depend on how many came before.

    Args:
        vocabulary: Usually a `Tokenizer`.
        prompt_ids: What came before; its text is not returned.
        skip_special_tokens: Leave special tokens out of the text.
    """

    def __init__(
        self, vocabulary: TokenBytes, *, prompt_ids: Sequence[int] = (), skip_special_tokens: bool = True
    ) -> None:
        self._vocabulary = vocabulary
        self._skip_special_tokens = skip_special_tokens
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._at_start = vocabulary.strips_leading_space
        self._read_prompt(prompt_ids)

    def push(self, token: int) -> str:
        """Add a token; returns the characters that it completed, often none or several."""
        return self._utf8.decode(self._bytes(token))

    def finish(self) -> str:
        """Flush what is left: U+FFFD if the sequence stopped within a character, else nothing."""
        return self._utf8.decode(b"", final=True)

    def _bytes(self, token: int) -> bytes:
        if self._skip_special_tokens and self._vocabulary.is_special(token):
            return b""
        data = self._vocabulary.token_bytes(token)
        if self._at_start and data:
            self._at_start = False
            data = data.removeprefix(b" ")
        return data

    def _read_prompt(self, prompt_ids: Sequence[int]) -> None:
        # Only two things about a prompt matter, and neither needs all of it: whether it has any text, and the
        # last bytes of that text, which may begin a character. UTF-8 tells where a character begins, so the
        # bytes before those cannot change the answer.
        for token in prompt_ids:
            if not self._at_start:
                break
            self._bytes(token)
        tail = b""
        for token in reversed(prompt_ids):
            if len(tail) >= _MOST_PENDING_BYTES:
                break
            tail = self._bytes(token) + tail
        self._utf8.decode(tail)
