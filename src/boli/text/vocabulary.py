"""A vocabulary with kinds of tokens: special ones are found first, the text between them is merged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum
from typing import Protocol

from boli.text.bytelevel import unspell
from boli.text.sentencepiece import SPACE, collapse_spaces
from boli.text.special import SpecialTokens


class TokenKind(IntEnum):
    """What an entry is for, as `tokenizer.ggml.token_type` numbers it."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


class Encoder(Protocol):
    """Encodes ordinary text."""

    def ids(self, text: str) -> list[int]:
        """Token ids of a text."""

    def spans(self, text: str) -> list[tuple[int, int, int]]:
        """`(id, start, end)` of each token."""


class Vocabulary:
    """A vocabulary as GGUF files list it.

    Args:
        tokens: The entries.
        kinds: The kinds of those that are not normal, by id.
        encoder: Encodes what lies between special tokens.
        spells_bytes: Entries are spelt in the byte alphabet (byte-level BPE), else with ▁ for a space.
        strips_leading_space: Decoding drops one space where a sequence starts.
        collapses_spaces: Runs of spaces count as one, and those at the ends not at all.
    """

    def __init__(
        self,
        tokens: Sequence[str],
        kinds: Mapping[int, int],
        encoder: Encoder,
        *,
        spells_bytes: bool,
        strips_leading_space: bool,
        collapses_spaces: bool = False,
    ) -> None:
        self.vocab_size = len(tokens)
        self.strips_leading_space = strips_leading_space
        self._tokens = tokens
        self._kinds = kinds
        self._encoder = encoder
        self._spells_bytes = spells_bytes
        self._collapses_spaces = collapses_spaces
        self._special = frozenset(
            token for token, kind in kinds.items() if kind in (TokenKind.CONTROL, TokenKind.UNKNOWN)
        )
        user_defined = {
            self._written(tokens[t]): t for t, kind in kinds.items() if kind == TokenKind.USER_DEFINED
        }
        control = {self._written(tokens[token]): token for token in self._special}
        self._always_found = SpecialTokens(user_defined)
        self._found = SpecialTokens(user_defined | control)

    def ids(self, text: str, *, parse_special: bool) -> list[int]:
        """Token ids of a text."""
        text = self._written(collapse_spaces(text)[0] if self._collapses_spaces else text)
        ids: list[int] = []
        for start, end, token in self._split(text, parse_special):
            if token is None:
                ids += self._encoder.ids(text[start:end])
            else:
                ids.append(token)
        return ids

    def spans(self, text: str, *, parse_special: bool) -> list[tuple[int, int, int]]:
        """`(id, start, end)` of each token, in characters."""
        if self._collapses_spaces:
            text, origins = collapse_spaces(text)
            return [
                (token, origins[start], origins[end])
                for token, start, end in self._spans(text, parse_special)
            ]
        return self._spans(text, parse_special)

    def _spans(self, text: str, parse_special: bool) -> list[tuple[int, int, int]]:
        text = self._written(text)
        spans: list[tuple[int, int, int]] = []
        for start, end, token in self._split(text, parse_special):
            if token is None:
                spans += [(t, start + a, start + b) for t, a, b in self._encoder.spans(text[start:end])]
            else:
                spans.append((token, start, end))
        return spans

    def piece(self, token: int) -> str | None:
        """The entry of an id."""
        return self._tokens[token] if token < self.vocab_size else None

    def token_bytes(self, token: int) -> bytes:
        """The bytes that an id stands for."""
        if token >= self.vocab_size:
            return b""
        kind = self._kinds.get(token, TokenKind.NORMAL)
        entry = self._tokens[token]
        if kind == TokenKind.BYTE:
            return bytes((byte_of(entry),))
        if self._spells_bytes and token not in self._special and kind != TokenKind.USER_DEFINED:
            return unspell(entry)
        return (entry if self._spells_bytes or token in self._special else entry.replace(SPACE, " ")).encode()

    def is_special(self, token: int) -> bool:
        """Whether an id is a control token, or the one for the unknown."""
        return token in self._special

    def _split(self, text: str, parse_special: bool) -> Iterable[tuple[int, int, int | None]]:
        return (self._found if parse_special else self._always_found).split(text)

    def _written(self, text: str) -> str:
        """A text in the vocabulary's spelling of spaces, as long as before.

        Converters of different age write the spaces of user-defined entries in either way, so the entries go
        through here as well.
        """
        return text if self._spells_bytes else text.replace(" ", SPACE)


def byte_of(entry: str) -> int:
    """The byte that `<0xHH>` stands for.

    Raises:
        ValueError: It is spelt otherwise.
    """
    if len(entry) != 6 or not entry.startswith("<0x") or not entry.endswith(">"):
        raise ValueError(entry)
    return int(entry[3:5], 16)
