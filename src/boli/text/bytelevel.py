"""Byte-level byte-pair encoding, as GPT-2 brought it and most open models use it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from boli.errors import TextError
from boli.text.merging import merge_pairs
from boli.text.nfc import nfc, nfc_with_origins

if TYPE_CHECKING:
    from boli.text.pretokenizers import PreTokenizer

_CACHED_WORDS = 1 << 15
_LONGEST_CACHED_WORD = 64


def _byte_alphabet() -> list[str]:
    """The character that stands for each byte: itself where it is printable Latin-1, else one from U+0100 on."""
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
    """The bytes that a vocabulary entry spells; one with a character outside the alphabet stands for itself."""
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
        unknown_id: Stands for a byte that the vocabulary lacks.
    """

    def __init__(
        self,
        ids: Mapping[str, int],
        ranks: Mapping[str, int],
        pre_tokenizer: PreTokenizer,
        unknown_id: int | None = None,
    ) -> None:
        self._ids = ids
        self._ranks = ranks
        self._pre_tokenizer = pre_tokenizer
        self._unknown_id = unknown_id
        self._cache: dict[str, tuple[list[int], list[int]]] = {}

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
        origin: list[tuple[int, int]] | None = None
        if self._pre_tokenizer.nfc and nfc(text) != text:
            text, origin = nfc_with_origins(text)
        spans = []
        for word, word_start in self._pre_tokenizer.words(text):
            ids, lengths = self._word(word)
            owner = [index for index, character in enumerate(word) for _ in character.encode()]
            position = 0
            for token, length in zip(ids, lengths, strict=True):
                start = word_start + owner[position]
                position += length
                end = word_start + owner[position - 1] + 1
                if origin is not None:
                    start, end = origin[start][0], origin[end - 1][1]
                spans.append((token, start, end))
        return spans

    def _word(self, word: str) -> tuple[list[int], list[int]]:
        """Ids of one word, and the bytes that each id covers."""
        known = self._cache.get(word)
        if known is not None:
            return known
        spelt = spell(word)
        if self._pre_tokenizer.whole_words and spelt in self._ids:
            parts = [spelt]
        else:
            parts = merge_pairs(spelt, self._rank)
        result = [self._id(part) for part in parts], [len(part) for part in parts]
        if len(word) <= _LONGEST_CACHED_WORD:
            if len(self._cache) >= _CACHED_WORDS:
                self._cache.clear()
            self._cache[word] = result
        return result

    def _rank(self, left: str, right: str) -> int | None:
        rank = self._ranks.get(f"{left} {right}")
        # A merge whose result is no token would leave a symbol without an id.
        return rank if rank is not None and left + right in self._ids else None

    def _id(self, part: str) -> int:
        found = self._ids.get(part, self._unknown_id)
        if found is None:
            raise TextError(
                f"the vocabulary has no token for the byte 0x{CHARACTER_TO_BYTE[part]:02X}",
                cause="a byte-level vocabulary needs all 256 bytes, or a token for unknown ones",
                remedy="leave the character out, or convert the model again",
            )
        return found

