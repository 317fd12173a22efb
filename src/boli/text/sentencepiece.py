"""SentencePiece's BPE: merges ranked by the score of their result, bytes for what the vocabulary lacks."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from boli.text.merging import merge_pairs

SPACE = "▁"
"""U+2581, how SentencePiece spells a space."""
_CACHED_WORDS = 1 << 15
_LONGEST_CACHED_WORD = 64


class SentencePieceBPE:
    """Encodes ordinary text (no control or user-defined tokens) with a scored vocabulary.

    Args:
        ids: The id of each entry that merging may produce: normal, user-defined and unused ones.
        scores: The score of each id; the higher, the earlier it is merged.
        unused: Ids that merging passes through but that are taken apart again in the result.
        byte_ids: The ids of the 256 byte tokens, or None where the vocabulary has none.
        unknown_id: Stands for what has neither an entry nor byte tokens.
        add_space_prefix: Put a space before the text, as Llama 1 and 2 do.

    Source:
        Kudo and Richardson 2018 (arXiv:1808.06226), and the behaviour of the sentencepiece package, which the
        tests compare with.
    """

    def __init__(
        self,
        ids: Mapping[str, int],
        scores: Sequence[float],
        *,
        unused: frozenset[int],
        byte_ids: Sequence[int] | None,
        unknown_id: int,
        add_space_prefix: bool,
    ) -> None:
        self._ids = ids
        self._scores = scores
        self._unused = unused
        self._byte_ids = byte_ids
        self._unknown_id = unknown_id
        self._add_space_prefix = add_space_prefix
        self._cut = _word_boundary(ids)
        self._cache: dict[str, tuple[list[int], list[int]]] = {}

    def ids(self, text: str) -> list[int]:
        """Token ids of a text."""
        return [token for token, _ in self._tokens(self._prefixed(text))]

    def spans(self, text: str) -> list[tuple[int, int, int]]:
        """`(id, start, end)` of each token; bytes of one character share its span, an added space is none."""
        prefixed = self._prefixed(text)
        added = len(prefixed) - len(text)
        spans: list[tuple[int, int, int]] = []
        start = position = 0
        for token, length in self._tokens(prefixed):
            if length:  # else it is a further byte of the character before
                start = position
            position += length
            spans.append((token, max(0, start - added), position - added))
        return spans

    def _prefixed(self, text: str) -> str:
        text = text.replace(" ", SPACE)
        return SPACE + text if self._add_space_prefix and text else text

    def _tokens(self, normal: str) -> list[tuple[int, int]]:
        """Each token and how many characters it takes; all but the first byte of a character take none."""
        tokens: list[tuple[int, int]] = []
        for word in self._cut.split(normal):
            ids, lengths = self._word(word)
            for token, length in zip(ids, lengths, strict=True):
                if token == self._unknown_id and tokens and tokens[-1][0] == token:
                    tokens[-1] = token, tokens[-1][1] + length  # a run of unknown characters is one token
                else:
                    tokens.append((token, length))
        return tokens

    def _word(self, word: str) -> tuple[list[int], list[int]]:
        known = self._cache.get(word)
        if known is not None:
            return known
        ids: list[int] = []
        lengths: list[int] = []
        for part in self._segment(word):
            token = self._ids.get(part)
            if token is not None:
                ids.append(token)
                lengths.append(len(part))
            elif self._byte_ids is None:
                ids.append(self._unknown_id)
                lengths.append(len(part))
            else:
                encoded = part.encode()
                ids += [self._byte_ids[byte] for byte in encoded]
                lengths += [len(part)] + [0] * (len(encoded) - 1)
        if len(word) <= _LONGEST_CACHED_WORD:
            if len(self._cache) >= _CACHED_WORDS:
                self._cache.clear()
            self._cache[word] = ids, lengths
        return ids, lengths

    def _segment(self, word: str) -> list[str]:
        """Merge a word, and take unused entries apart again into the two parts they were last merged from."""
        halves: dict[str, tuple[str, str]] = {}

        def rank(left: str, right: str) -> float | None:
            whole = left + right
            token = self._ids.get(whole)
            if token is None:
                return None
            if token in self._unused:
                halves[whole] = left, right
            return -self._scores[token]

        merged = merge_pairs(word, rank)
        if not halves:
            return merged
        parts: list[str] = []
        pending = merged[::-1]
        while pending:
            part = pending.pop()
            if self._ids.get(part) in self._unused and part in halves:
                pending += reversed(halves[part])
            else:
                parts.append(part)
        return parts


def collapse_spaces(text: str) -> tuple[str, list[int]]:
    """Make one space of each run of spaces, and none of those at the ends (`remove_extra_whitespaces`).

    Returns:
        The text, and the source position of each of its borders.
    """
    kept = [index for index, c in enumerate(text) if c != " " or (index > 0 and text[index - 1] != " ")]
    if kept and text[kept[-1]] == " ":
        kept.pop()
    return "".join(text[index] for index in kept), [*kept, len(text)]


def _word_boundary(ids: Mapping[str, int]) -> re.Pattern[str]:
    """A pattern of the places where a text may be cut without changing its tokens.

    A merge across "…x▁…" would need an entry that holds "x▁". Where no entry does, the text can be cut
    between x and ▁, and the parts be merged, and remembered, on their own. Nearly all vocabularies allow it
    after nearly all characters, because they were trained on words.
    """
    joined = {pair[0] for pair in re.findall(f"[^{SPACE}\0]{SPACE}", "\0".join(ids))}
    joined |= {
        SPACE,
        "\0",
    }  # NUL separates the entries here, so nothing is known about what follows it in one
    return re.compile(f"(?<=[^{''.join(map(re.escape, sorted(joined)))}])(?={SPACE})")
