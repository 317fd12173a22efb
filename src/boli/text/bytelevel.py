"""Byte-level byte-pair encoding, as GPT-2 brought it and most open models use it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from boli.text.merging import merge_pairs
from boli.text.nfc import nfc, nfc_with_origins

if TYPE_CHECKING:
    from boli.text.pretokenizers import PreTokenizer

_CACHED_WORDS = 1 << 15
_LONGEST_CACHED_WORD = 64


def _byte_alphabet() -> list[str]:
    """The character that stands for each byte: itself if it is printable Latin-1, else one from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


BYTE_TO_CHARACTER = _byte_alphabet()
"""How byte-level vocabularies spell the 256 bytes (Radford et al. 2019): a space is "Ġ", a newline "Ċ"."""
CHARACTER_TO_BYTE = {character: byte for byte, character in enumerate(BYTE_TO_CHARACTER)}
_SPELLING = dict(enumerate(BYTE_TO_CHARACTER))


def spell(text: str) -> str:
    """Spell the UTF-8 bytes of a text in the byte alphabet: one character per byte."""
    return text.encode("utf-8").decode("latin-1").translate(_SPELLING)


def unspell(piece: str) -> bytes:
    """The bytes that an entry spells; one with a character outside the alphabet stands for itself."""
    try:
        return bytes(map(CHARACTER_TO_BYTE.__getitem__, piece))
    except KeyError:
        return piece.encode("utf-8", "replace")


class ByteLevelBPE:
    """Encodes ordinary text (no special tokens) with a byte-level BPE vocabulary.

    Args:
        ids: The id of each entry, spelt in the byte alphabet.
        ranks: The rank of each merge, keyed by the two parts with one space between, as GGUF stores them.
        pre_tokenizer: Cuts the text into the words inside which merges happen.

    A byte that the vocabulary lacks is dropped before merging, as `tokenizers` does. SmolLM2 lacks six
    control characters, among others; its unknown token is its end of text, and must not stand for them.
    """

    def __init__(
        self,
        ids: Mapping[str, int],
        ranks: Mapping[str, int],
        pre_tokenizer: PreTokenizer,
    ) -> None:
        self._ids = ids
        self._ranks = ranks
        self._pre_tokenizer = pre_tokenizer
        self._cache: dict[str, tuple[list[int], list[tuple[int, int]]]] = {}

    def ids(self, text: str) -> list[int]:
        """Token ids of a text."""
        if self._pre_tokenizer.nfc:
            text = nfc(text)
        ids: list[int] = []
        for word, _ in self._pre_tokenizer.words(text):
            ids += self._word(word)[0]
        return ids

    def spans(self, text: str) -> list[tuple[int, int, int]]:
        """`(id, start, end)` of each token; bytes inside one character share that character's span."""
        origins: list[tuple[int, int]] | None = None
        if self._pre_tokenizer.nfc and nfc(text) != text:
            text, origins = nfc_with_origins(text)
        spans: list[tuple[int, int, int]] = []
        for word, (word_start, _) in self._pre_tokenizer.words(text):
            # Which character of the text each byte belongs to.
            owner = [word_start + index for index, character in enumerate(word) for _ in character.encode()]
            for token, (first, last) in zip(*self._word(word), strict=True):
                start, end = owner[first], owner[last] + 1
                if origins is not None:
                    start, end = origins[start][0], origins[end - 1][1]
                spans.append((token, start, end))
        return spans

    def _word(self, word: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids of one word, and the first and the last byte of each."""
        known = self._cache.get(word)
        if known is not None:
            return known
        spelt = spell(word)
        if self._pre_tokenizer.whole_words and spelt in self._ids:
            kept = list(range(len(spelt)))
            parts = [spelt]
        else:
            kept = [index for index, character in enumerate(spelt) if character in self._ids]
            parts = merge_pairs([spelt[index] for index in kept], self._rank)
        borders = []
        position = 0
        for part in parts:
            borders.append((kept[position], kept[position + len(part) - 1]))
            position += len(part)
        result = [self._ids[part] for part in parts], borders
        if len(word) <= _LONGEST_CACHED_WORD:
            if len(self._cache) >= _CACHED_WORDS:
                self._cache.clear()
            self._cache[word] = result
        return result

    def _rank(self, left: str, right: str) -> int | None:
        rank = self._ranks.get(f"{left} {right}")
        # A merge whose result is no token would leave a symbol without an id.
        return rank if rank is not None and left + right in self._ids else None
