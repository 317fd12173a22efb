"""What holds for every kind of vocabulary: spans, special tokens, added tokens, ids out of range."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings

from boli.errors import PromptError, TemplateError
from boli.text import Tokenizer, load_tokenizer
from boli.text.special import MAX_SPECIAL_CHARACTERS, SpecialTokens
from boli.text.tokenizer import MAX_TEXT_CHARACTERS
from text.samples import TEXTS, texts
from text.vocabularies import Metadata, byte_level_metadata, sentencepiece_pair

BPE = load_tokenizer(Metadata(byte_level_metadata("smollm", add_bos_token=True, add_eos_token=True)))
SPM = load_tokenizer(Metadata(sentencepiece_pair().metadata))
BOTH = pytest.mark.parametrize("tokenizer", [BPE, SPM], ids=["bpe", "spm"])


def check_spans(tokenizer: Tokenizer, text: str, *, parse_special: bool) -> None:
    pieces = tokenizer.pieces(text, parse_special=parse_special)
    assert [piece.id for piece in pieces] == tokenizer.encode(text, parse_special=parse_special)
    assert all(0 <= piece.start <= piece.end <= len(text) for piece in pieces)
    for a, b in itertools.pairwise(pieces):
        assert a.start <= b.start <= a.end <= b.end  # never back, and nothing left out between two
    if any(piece.end > piece.start for piece in pieces):
        assert pieces[0].start == 0
        assert pieces[-1].end == len(text)
    for piece in pieces:
        source = text[piece.start : piece.end]
        source = source if tokenizer.kind == "bpe" else source.replace("▁", " ")
        shown = tokenizer.token_bytes(piece.id).decode("utf-8", "replace")
        # A token of whole characters shows what it came from, but for the space that SentencePiece adds.
        assert "\ufffd" in shown or piece.start == piece.end or shown in (source, f" {source}")


@BOTH
def test_spans_cover_the_samples(tokenizer: Tokenizer) -> None:
    for text in TEXTS:
        check_spans(tokenizer, text, parse_special=False)
        check_spans(tokenizer, f"{text}<|im_end|></s>{text}", parse_special=True)


@settings(max_examples=300, deadline=None)
@given(texts())
def test_spans_cover_any_text(text: str) -> None:
    for tokenizer in (BPE, SPM):
        check_spans(tokenizer, text, parse_special=True)


@BOTH
def test_added_tokens_have_empty_spans(tokenizer: Tokenizer) -> None:
    first, *rest = tokenizer.pieces("Hello")
    assert (first.id, first.start, first.end, first.special) == (tokenizer.bos_token_id, 0, 0, True)
    assert tokenizer.add_bos
    assert [piece.id for piece in rest if not piece.special] == tokenizer.encode(
        "Hello", add_special_tokens=False
    )
    if tokenizer is BPE:
        assert (rest[-1].id, rest[-1].start, rest[-1].end) == (2, 5, 5)


def test_an_empty_text_gives_only_added_tokens() -> None:
    assert BPE.encode("") == [1, 2]
    assert SPM.encode("") == [1]
    assert BPE.encode("", add_special_tokens=False) == SPM.encode("", add_special_tokens=False) == []


@pytest.mark.parametrize(
    ("tokenizer", "text", "token"), [(BPE, "<|im_end|>", 2), (SPM, "</s>", 2), (SPM, "<unk>", 0)]
)
def test_control_tokens_in_text_are_tokens_only_if_asked(tokenizer: Tokenizer, text: str, token: int) -> None:
    written = f"say {text} now"
    assert token in tokenizer.encode(written, add_special_tokens=False)
    plain = tokenizer.encode(written, add_special_tokens=False, parse_special=False)
    assert not any(tokenizer.is_special(found) for found in plain)
    assert tokenizer.decode(plain) == written
    typed = tokenizer.typed_special_tokens(written)
    assert [(piece.id, written[piece.start : piece.end]) for piece in typed] == [(token, text)]
    assert tokenizer.typed_special_tokens("say nothing") == []


def test_bytes_and_entries_of_control_kind_are_not_reached_by_spelling_them() -> None:
    ids = SPM.encode("<0x41>", add_special_tokens=False)
    assert SPM.encode("A", add_special_tokens=False) != ids
    assert SPM.decode(ids) == "<0x41>"


@BOTH
def test_user_defined_tokens_are_ordinary_text(tokenizer: Tokenizer) -> None:
    for parse_special in (True, False):
        ids = tokenizer.encode("a<tool>b", add_special_tokens=False, parse_special=parse_special)
        (tool,) = (token for token in ids if tokenizer.piece(token) == "<tool>")
        assert not tokenizer.is_special(tool)
        assert tokenizer.token_bytes(tool) == b"<tool>"
    assert tokenizer.typed_special_tokens("a<tool>b") == []


def test_decoding_shows_or_skips_control_tokens() -> None:
    ids = BPE.encode("Hello")
    assert BPE.decode(ids) == "<|im_start|>Hello<|im_end|>"
    assert BPE.decode(ids, skip_special_tokens=True) == "Hello"
    assert SPM.decode(SPM.encode("Hello"), skip_special_tokens=True) == "Hello"
    assert (
        SPM.decode(SPM.encode("Hello")) == "<s> Hello"
    )  # the added space is only left out where the text starts


def test_a_chat_gets_no_second_beginning() -> None:
    assert BPE.encode_chat("<|im_start|>user") == BPE.encode("<|im_start|>user", add_special_tokens=False)
    assert not BPE.doubled_bos(BPE.encode_chat("<|im_start|>user"))
    assert BPE.doubled_bos(BPE.encode("<|im_start|>user"))
    assert not BPE.doubled_bos([1])
    assert not BPE.doubled_bos([])


@BOTH
def test_ids_outside_the_vocabulary(tokenizer: Tokenizer) -> None:
    beyond = tokenizer.vocab_size
    assert tokenizer.piece(beyond - 1)
    with pytest.raises(PromptError, match=str(beyond)):
        tokenizer.piece(beyond)
    # Output layers are padded: a model can produce such an id, and it stands for nothing.
    assert tokenizer.token_bytes(beyond) == b""
    assert tokenizer.decode([beyond, *tokenizer.encode("a", add_special_tokens=False)]) == "a"
    for call in (tokenizer.piece, tokenizer.token_bytes, tokenizer.is_special):
        with pytest.raises(PromptError, match="-1"):
            call(-1)


@BOTH
def test_text_that_is_not_unicode_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(PromptError, match="not valid Unicode") as error:
        tokenizer.encode("ab\ud800")
    assert "character 2" in str(error.value)
    with pytest.raises(PromptError):
        tokenizer.pieces("\udfff")


def test_text_without_end_is_refused() -> None:
    with pytest.raises(PromptError, match="characters"):
        BPE.encode("a" * (MAX_TEXT_CHARACTERS + 1))


def test_no_chat_template_is_an_error_that_says_what_to_do() -> None:
    assert BPE.chat_template is None
    with pytest.raises(TemplateError, match="no chat template") as error:
        BPE.require_chat_template()
    assert "boli generate" in error.value.remedy


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("plain", [("plain", None)]),
        ("<a>", [("<a>", 0)]),
        ("x<a><ab>y", [("x", None), ("<a>", 0), ("<ab>", 1), ("y", None)]),
        ("\n\n\n\n\n", [("\n\n\n", 3), ("\n\n", 2)]),  # the longest first
        ("<<a>", [("<", None), ("<a>", 0)]),  # a start that leads to nothing does not hide the next
        ("<a<ab", [("<a<ab", None)]),
        ("a é", [("a ", None), ("é", 4)]),
    ],
)
def test_special_tokens_are_found_leftmost_and_longest(
    text: str, expected: list[tuple[str, int | None]]
) -> None:
    special = SpecialTokens({"<a>": 0, "<ab>": 1, "\n\n": 2, "\n\n\n": 3, "é": 4, "": 5})
    assert [(text[start:end], token) for start, end, token in special.split(text)] == expected


def test_absurdly_long_special_tokens_are_not_matched() -> None:
    long = "<" * (MAX_SPECIAL_CHARACTERS + 1)
    assert [token for _, _, token in SpecialTokens({long: 1}).split(long)] == [None]
    assert [token for _, _, token in SpecialTokens({}).split("x")] == [None]
