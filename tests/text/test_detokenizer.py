"""Streaming: the pieces joined are the whole, nothing is half, nothing waits without need."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boli.text import Tokenizer, load_tokenizer
from text.samples import TEXTS
from text.vocabularies import Metadata, byte_level_metadata, sentencepiece_pair

BPE = load_tokenizer(Metadata(byte_level_metadata("smollm")))
SPM = load_tokenizer(Metadata(sentencepiece_pair().metadata))
SPM_WITHOUT_PREFIX = load_tokenizer(Metadata(sentencepiece_pair(add_space_prefix=False).metadata))
ALL = {"bpe": BPE, "spm": SPM, "spm without prefix": SPM_WITHOUT_PREFIX}
EACH = pytest.mark.parametrize("tokenizer", ALL.values(), ids=ALL.keys())


def stream(tokenizer: Tokenizer, ids: list[int], prompt: list[int], *, skip: bool) -> list[str]:
    detokenizer = tokenizer.detokenizer(prompt_ids=prompt, skip_special_tokens=skip)
    return [*map(detokenizer.push, ids), detokenizer.finish()]


def whole(tokenizer: Tokenizer, ids: list[int], *, skip: bool) -> str:
    """The definition, without any stream: all bytes at once, less one leading space."""
    data = b"".join(tokenizer.token_bytes(i) for i in ids if not (skip and tokenizer.is_special(i)))
    return (data.removeprefix(b" ") if tokenizer.strips_leading_space else data).decode("utf-8", "replace")


ids = st.lists(st.integers(0, 1 << 20), max_size=30)


@settings(max_examples=600, deadline=None)
@given(st.sampled_from(list(ALL.values())), ids, st.booleans())
def test_pieces_joined_are_the_whole(tokenizer: Tokenizer, numbers: list[int], skip: bool) -> None:
    tokens = [number % tokenizer.vocab_size for number in numbers]
    expected = whole(tokenizer, tokens, skip=skip)
    assert "".join(stream(tokenizer, tokens, [], skip=skip)) == expected
    assert tokenizer.decode(tokens, skip_special_tokens=skip) == expected


@settings(max_examples=600, deadline=None)
@given(st.sampled_from(list(ALL.values())), st.sampled_from(TEXTS), st.integers(0, 99), st.booleans())
def test_a_text_cut_anywhere_goes_on_where_the_prompt_stopped(
    tokenizer: Tokenizer, text: str, cut: int, skip: bool
) -> None:
    tokens = tokenizer.encode(text)
    prompt, rest = tokens[: cut % (len(tokens) + 1)], tokens[cut % (len(tokens) + 1) :]
    before = whole(tokenizer, prompt, skip=skip)
    shown = "".join(stream(tokenizer, rest, prompt, skip=skip))
    complete = whole(tokenizer, tokens, skip=skip)
    # Where the prompt ends within a character, its own decoding ends with a U+FFFD that the whole does not
    # have.
    assert complete in (before + shown, before.removesuffix("\ufffd") + shown)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(list(ALL.values())), ids, ids)
def test_after_any_prompt(tokenizer: Tokenizer, numbers: list[int], before: list[int]) -> None:
    tokens = [number % tokenizer.vocab_size for number in numbers]
    prompt = [number % tokenizer.vocab_size for number in before]
    # Feeding the prompt through is what the constructor avoids; it must come to the same.
    slow = tokenizer.detokenizer()
    for token in prompt:
        slow.push(token)
    assert stream(tokenizer, tokens, prompt, skip=True) == [*map(slow.push, tokens), slow.finish()]


@EACH
def test_no_half_characters_and_no_needless_waiting(tokenizer: Tokenizer) -> None:
    for text in TEXTS:
        if tokenizer.decode(tokenizer.encode(text, parse_special=False), skip_special_tokens=True) != text:
            continue  # bytes that the vocabulary lacks, literal ▁
        detokenizer = tokenizer.detokenizer()
        shown = ""
        sent = b""
        for token in tokenizer.encode(text, parse_special=False, add_special_tokens=False):
            sent += tokenizer.token_bytes(token)
            shown += detokenizer.push(token)
            so_far = sent.removeprefix(b" ") if tokenizer.strips_leading_space else sent
            # All characters that are complete, and no others: U+FFFD only where the text has it.
            assert "\ufffd" in text or shown == so_far.decode("utf-8", "ignore")
        assert shown == text
        assert detokenizer.finish() == ""


def byte_tokens(tokenizer: Tokenizer, data: bytes) -> list[int]:
    by_bytes = {tokenizer.token_bytes(token): token for token in range(tokenizer.vocab_size - 1, 2, -1)}
    return [by_bytes[bytes((byte,))] for byte in data]


@EACH
def test_a_character_appears_with_its_last_byte(tokenizer: Tokenizer) -> None:
    pieces = stream(tokenizer, byte_tokens(tokenizer, "a🧿é".encode()), [5], skip=True)
    assert pieces == ["a", "", "", "", "🧿", "", "é", ""]


@EACH
def test_stopped_within_a_character(tokenizer: Tokenizer) -> None:
    tokens = byte_tokens(tokenizer, "🧿".encode()[:3])
    assert stream(tokenizer, tokens, [], skip=True) == ["", "", "", "\ufffd"]
    assert tokenizer.decode(tokens) == "\ufffd"


@EACH
def test_a_prompt_that_ends_within_a_character(tokenizer: Tokenizer) -> None:
    first, second = (byte_tokens(tokenizer, part) for part in ("中".encode()[:2], "中文".encode()[2:]))
    assert "".join(stream(tokenizer, second, [*byte_tokens(tokenizer, b"abc"), *first], skip=True)) == "中文"


@EACH
def test_an_invalid_byte_spoils_only_itself(tokenizer: Tokenizer) -> None:
    data = b"ok\xff\xe4\xb8ok"
    tokens = [t for byte in data for t in byte_tokens(tokenizer, bytes((byte,)))]
    assert tokenizer.decode(tokens) == "ok\ufffd\ufffdok"


def test_leading_space_only_where_the_sequence_starts() -> None:
    hello = SPM.encode("the", add_special_tokens=False)
    assert SPM.token_bytes(hello[0]).startswith(b" ")
    assert "".join(stream(SPM, hello, [], skip=True)) == "the"
    assert "".join(stream(SPM, hello, [1], skip=True)) == "the"  # the prompt was only the control token
    assert "".join(stream(SPM, hello, [1], skip=False)) == " the"  # here its name is text
    assert "".join(stream(SPM, hello, [1, *hello], skip=True)) == " the"
    assert "".join(stream(SPM_WITHOUT_PREFIX, hello, [], skip=True)) == " the"


def test_special_tokens_are_skipped_or_shown() -> None:
    tokens = [1, *BPE.encode("hi"), 2]
    assert "".join(stream(BPE, tokens, [], skip=True)) == "hi"
    assert "".join(stream(BPE, tokens, [], skip=False)) == "<|im_start|>hi<|im_end|>"


def test_the_cost_of_a_token_does_not_grow() -> None:
    tokens = BPE.encode("The quick 中文 🧿 ") * 2000
    detokenizer = BPE.detokenizer(prompt_ids=tokens)
    marks = []
    for _ in range(8):
        start = time.process_time()
        for token in tokens:
            detokenizer.push(token)
        marks.append(time.process_time() - start)
    assert min(marks[4:]) < 3 * min(marks[:4]) + 0.01


def test_a_long_prompt_is_not_decoded() -> None:
    class Counting:
        strips_leading_space = True

        def __init__(self) -> None:
            self.asked = 0

        def token_bytes(self, token: int) -> bytes:
            self.asked += 1
            return BPE.token_bytes(token)

        def is_special(self, token: int) -> bool:
            return BPE.is_special(token)

    from boli.text import Detokenizer

    counting = Counting()
    Detokenizer(counting, prompt_ids=BPE.encode("word " * 5000))
    assert counting.asked < 10
