"""Unicode normalization form C, with the way back to the characters that were written."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator


def nfc(text: str) -> str:
    """Compose a text to NFC.

    The Rust implementation is taken because it sorts combining marks in O(n log n): that of the standard
    library is quadratic, so that a prompt of a few hundred thousand marks would hang it.
    """
    if text.isascii():
        return text
    from tokenizers.normalizers import NFC  # noqa: PLC0415 (0.04 s)

    composed: str = NFC().normalize_str(text)
    return composed


def nfc_with_origins(text: str) -> tuple[str, list[tuple[int, int]]]:
    """Compose a text to NFC and say where each character came from.

    Returns:
        The composed text, and for each of its characters the span (start, end) of the text it stands for.
        Characters that were composed together share one span.
    """
    pieces: list[str] = []
    origins: list[tuple[int, int]] = []
    for start, end in _runs(text):
        composed = nfc(text[start:end])
        pieces.append(composed)
        origins += [(start, end)] * len(composed)
    return "".join(pieces), origins


def _runs(text: str) -> Iterator[tuple[int, int]]:
    """Cut a text wherever nothing after the cut combines with anything before it."""
    start = 0
    for index, character in enumerate(text):
        if index == start or unicodedata.combining(character):
            continue
        # Even a character that is no mark may compose with the one before it: Hangul vowels, Indic signs.
        if nfc(text[start : index + 1]) == nfc(text[start:index]) + nfc(character):
            yield start, index
            start = index
    if start < len(text):
        yield start, len(text)
