"""SentencePiece vocabularies against the sentencepiece package."""

from __future__ import annotations

import functools
import itertools
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boli.text import Tokenizer, load_tokenizer
from boli.text.merging import merge_pairs
from text.samples import SHARED_VOCABULARIES, TEXTS, mixed_texts, texts
from text.vocabularies import Metadata, processor_of, sentencepiece_pair

OPTIONS: list[dict[str, bool | int]] = [
    {},
    {"add_space_prefix": False},
    {"byte_fallback": False},
    {"unused": 40},
    {"remove_extra_whitespaces": True},
    {"remove_extra_whitespaces": True, "add_space_prefix": False},
]


@functools.cache
def tokenizer_of(**options: int) -> Tokenizer:
    return load_tokenizer(Metadata(sentencepiece_pair(**options).metadata))


def comparable(text: str, options: dict[str, bool | int]) -> bool:
    # After a user-defined symbol llama.cpp and Hugging Face put a space where the sentencepiece package puts
    # none, and literal ▁ among spaces that are removed is a case that no model has.
    if options.get("remove_extra_whitespaces"):
        return "▁" not in text and "<tool>" not in text
    return not options.get("add_space_prefix", True) or not re.search("<tool>|  |▁|^ |ab ", text)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_ids_equal_the_reference(options: dict[str, bool | int]) -> None:
    tokenizer, reference = tokenizer_of(**options), sentencepiece_pair(**options).processor
    compared = 0
    for text in [*TEXTS, *mixed_texts(1500, seed=3)]:
        if comparable(text, options):
            compared += 1
            ids = tokenizer.encode(text, add_special_tokens=False, parse_special=False)
            assert ids == reference.encode(text), text
    assert compared > 300


@settings(max_examples=500, deadline=None)
@given(texts())
def test_any_text_equals_the_reference(text: str) -> None:
    reference = sentencepiece_pair(add_space_prefix=False).processor
    ids = tokenizer_of(add_space_prefix=False).encode(text, add_special_tokens=False, parse_special=False)
    assert ids == reference.encode(text)


@settings(max_examples=200, deadline=None)
@given(texts())
def test_text_survives(text: str) -> None:
    for prefix in (True, False):
        tokenizer = tokenizer_of(add_space_prefix=prefix)
        ids = tokenizer.encode(text)
        # A literal ▁ is a space to SentencePiece; and where a text begins with a symbol made of spaces, no
        # space is added, yet one is taken away.
        if "▁" not in text and not (prefix and text.startswith("  ")):
            assert tokenizer.decode(ids, skip_special_tokens=True) == text


@pytest.mark.skipif(
    not SHARED_VOCABULARIES.is_dir(), reason="the shared vocabularies are not on this machine"
)
def test_the_vocabulary_of_llama_2_equals_the_reference() -> None:
    from boli.formats.gguf import GGUFFile

    with GGUFFile(SHARED_VOCABULARIES / "llama-spm.gguf") as file:
        reference, tokenizer = processor_of(file.metadata), load_tokenizer(file)
    for text in [*TEXTS, *mixed_texts(2000, seed=4)]:
        assert tokenizer.encode(text, add_special_tokens=False, parse_special=False) == reference.encode(text)


def test_the_added_space_has_no_span_and_bytes_share_theirs() -> None:
    tokenizer = tokenizer_of()
    pieces = tokenizer.pieces("🧿的", add_special_tokens=False)
    assert [(p.piece, p.start, p.end) for p in pieces] == [
        ("▁", 0, 0),
        ("<0xF0>", 0, 1),
        ("<0x9F>", 0, 1),
        ("<0xA7>", 0, 1),
        ("<0xBF>", 0, 1),
        ("的", 1, 2),
    ]


def test_spaces_that_are_removed_go_with_a_neighbour() -> None:
    tokenizer = tokenizer_of(remove_extra_whitespaces=True)
    pieces = tokenizer.pieces("  the   cat  ", add_special_tokens=False)
    assert tokenizer.decode([piece.id for piece in pieces]) == "the cat"
    assert (pieces[0].start, pieces[-1].end) == (0, 13)
    assert all(a.end == b.start for a, b in itertools.pairwise(pieces))


def test_unknown_characters_in_a_row_are_one_token() -> None:
    tokenizer = tokenizer_of(byte_fallback=False)
    pieces = tokenizer.pieces("a🧿🧿 🧿b", add_special_tokens=False)
    assert next((p.start, p.end) for p in pieces if p.id == 0) == (1, 3)


def test_long_texts_without_spaces_take_linearithmic_time() -> None:
    tokenizer = tokenizer_of()
    start = time.process_time()
    tokenizer.encode("ab" * 20_000)
    tokenizer.encode("的" * 20_000)
    tokenizer.encode(" " * 50_000)
    assert time.process_time() - start < 5


def slowest_merge(symbols: str, ranks: dict[str, int]) -> list[str]:
    """The definition of the merge, word for word: look at all pairs, merge the best, begin again."""
    parts = list(symbols)
    while True:
        known = [(ranks[a + b], i) for i, (a, b) in enumerate(itertools.pairwise(parts)) if a + b in ranks]
        if not known:
            return parts
        best = min(known)[1]
        parts[best : best + 2] = [parts[best] + parts[best + 1]]


@settings(max_examples=500, deadline=None)
@given(
    st.text("abc", max_size=30),
    st.dictionaries(st.text("abc", min_size=2, max_size=5), st.integers(0, 5), max_size=25),
)
def test_merging_does_what_the_definition_says(text: str, ranks: dict[str, int]) -> None:
    assert merge_pairs(text, lambda left, right: ranks.get(left + right)) == slowest_merge(text, ranks)
