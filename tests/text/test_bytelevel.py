"""Byte-level vocabularies against the `tokenizers` package, set up as the models' own files do it."""

from __future__ import annotations

import functools
import itertools
import time
import unicodedata
from typing import Any

import pytest
from hypothesis import given, settings
from tokenizers import Regex, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from boli.errors import UnsupportedModel
from boli.text import Tokenizer, load_tokenizer
from boli.text.bytelevel import BYTE_TO_CHARACTER, spell, unspell
from boli.text.pretokenizers import PRE_TOKENIZERS, PreTokenizer, pre_tokenizer
from text.samples import TEXTS, mixed_texts, texts
from text.vocabularies import (
    CONTROL,
    USER_DEFINED,
    Metadata,
    byte_level,
    byte_level_metadata,
    byte_level_reference,
)


def sequence(*parts: Any) -> Any:
    return pre_tokenizers.Sequence(
        [*parts, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )


def gpt2_words() -> Any:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def reference(name: str) -> Any:
    """The reference for a name, from built-in parts of `tokenizers` and from classes of transformers."""
    if name in ("gpt-2", "phi-2"):
        return byte_level_reference(gpt2_words())
    if name in ("smollm", "starcoder", "refact"):
        return byte_level_reference(
            pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), gpt2_words()])
        )
    if name in ("llama3", "dbrx"):
        split = sequence(pre_tokenizers.Split(Regex(LLAMA3), "isolated"))
        return byte_level_reference(split, ignore_merges=name == "llama3")
    if name == "tekken":
        return byte_level_reference(
            sequence(pre_tokenizers.Split(Regex(TEKKEN), "isolated")), ignore_merges=True
        )
    import transformers

    model: Any = {
        "qwen2": transformers.Qwen2Tokenizer,
        "command-r": transformers.CohereTokenizer,
        "olmo": transformers.GPTNeoXTokenizer,
    }[name]
    vocabulary, merges = byte_level()
    backend = model(vocab=vocabulary, merges=merges).backend_tokenizer
    return byte_level_reference(backend.pre_tokenizer, normalizer=backend.normalizer)


NAMES = [
    "gpt-2", "phi-2", "smollm", "starcoder", "refact", "llama3", "dbrx", "tekken", "qwen2", "command-r",
    "olmo",
]  # fmt: skip


@functools.cache
def ours(name: str) -> Tokenizer:
    return load_tokenizer(Metadata(byte_level_metadata(name, add_bos_token=False)))


@pytest.mark.parametrize("name", NAMES)
def test_ids_and_text_equal_the_reference(name: str) -> None:
    tokenizer, backend = ours(name), reference(name)
    for text in [*TEXTS, *mixed_texts(400, seed=1)]:
        encoding = backend.encode(text, add_special_tokens=False)
        assert tokenizer.encode(text) == encoding.ids, text
        assert tokenizer.decode(encoding.ids) == backend.decode(encoding.ids, skip_special_tokens=False)


@settings(max_examples=300, deadline=None)
@given(texts())
def test_any_text_equals_the_reference(text: str) -> None:
    for name in ("smollm", "qwen2"):
        assert ours(name).encode(text) == cached_reference(name).encode(text, add_special_tokens=False).ids


cached_reference = functools.cache(reference)


@pytest.mark.parametrize("name", ["smollm", "llama3"])
def test_spans_equal_the_reference(name: str) -> None:
    backend = reference(name)
    for text in [*TEXTS, *mixed_texts(200, seed=2)]:
        spans = [(piece.start, piece.end) for piece in ours(name).pieces(text)]
        assert spans == backend.encode(text, add_special_tokens=False).offsets, text


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        (
            "llama3",
            "I'LL pay 12345  now\n\n ok",
            ["I", "'LL", " pay", " ", "123", "45", " ", " now", "\n\n", " ok"],
        ),
        ("qwen2", "in 2024!\n\nyes", ["in", " ", "2", "0", "2", "4", "!\n\n", "yes"]),
        ("tekken", "camelCase HTTPServer 12/\n", ["camel", "Case", " HTTPServer", " ", "1", "2", "/\n"]),
        ("default", "a=b 1234", ["a", "=", "b", " ", "123", "4"]),
        ("falcon", "x`y` 1234", ["x", "`", "y", "`", " ", "123", "4"]),
        ("deepseek-llm", "Ab 12。中文 x\n", ["Ab", " ", "1", "2", "。", "中文", " x", "\n"]),
        ("deepseek-coder", "Hi, ab12\n", ["Hi", ",", " ab", "1", "2", "\n"]),
        ("deepseek-v3", "中文ab 1234 #def", ["中文", "ab", " ", "123", "4", " #", "def"]),
        ("stablelm2", "it's 42", ["it", "'s", " ", "4", "2"]),
        ("mpt", "it's 42", ["it", "'s", " 42"]),
    ],
)
def test_words_by_name(name: str, text: str, words: list[str]) -> None:
    found = pre_tokenizer(name).words(text)
    assert [word for word, _ in found] == words
    assert [text[start:end] for _, (start, end) in found] == words


def test_letters_of_deepseek_are_the_letters_with_case() -> None:
    letters = PreTokenizer((pre_tokenizer("deepseek-llm").patterns[1],))
    blocks = [range(0x20, 0x560), range(0x1E00, 0x2200), range(0xFF00, 0xFF60), range(0x10400, 0x10450)]
    for point in itertools.chain(*blocks):
        character = chr(point)
        joined = len(letters.words(f"a{character}b")) == 1
        assert joined == (unicodedata.category(character) in ("Lu", "Ll", "Lt")), hex(point)


def test_unknown_names_are_refused_by_name() -> None:
    with pytest.raises(UnsupportedModel, match="'new-cut'"):
        load_tokenizer(Metadata(byte_level_metadata("new-cut")))
    assert "smollm" in PRE_TOKENIZERS


def test_a_file_without_a_name_is_cut_in_the_default_way() -> None:
    metadata = byte_level_metadata()
    del metadata["tokenizer.ggml.pre"]
    assert load_tokenizer(Metadata(metadata)).encode("a=b 1234") == ours("default").encode("a=b 1234")


def test_the_byte_alphabet_is_a_bijection() -> None:
    assert sorted(BYTE_TO_CHARACTER) == sorted(pre_tokenizers.ByteLevel.alphabet())
    everything = bytes(range(256))
    assert unspell("".join(BYTE_TO_CHARACTER)) == everything
    assert spell("é ") == BYTE_TO_CHARACTER[0xC3] + BYTE_TO_CHARACTER[0xA9] + "Ġ"
    assert unspell("中") == "中".encode()  # no entry of the alphabet: stands for itself


def test_bytes_that_the_vocabulary_lacks_are_dropped_before_merging() -> None:
    metadata = byte_level_metadata("gpt-2")
    tokens = metadata["tokenizer.ggml.tokens"]
    assert isinstance(tokens, list)
    gone = tokens.index(BYTE_TO_CHARACTER[6])
    tokens[gone] = "another entry"
    merges = [merge for merge in byte_level()[1] if BYTE_TO_CHARACTER[6] not in "".join(merge)]
    metadata["tokenizer.ggml.merges"] = [" ".join(merge) for merge in merges]
    tokenizer = load_tokenizer(Metadata(metadata))
    backend = Backend(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    backend.pre_tokenizer = gpt2_words()
    for text in ["  \x06  \x06(\x06)", *(text.replace(".", "\x06") for text in mixed_texts(300, seed=7))]:
        if not any(special in text for special in (*CONTROL, *USER_DEFINED)):
            assert tokenizer.encode(text) == backend.encode(text).ids, text
            assert sum(piece.end - piece.start for piece in tokenizer.pieces(text)) >= len(text.strip("\x06"))


def test_long_words_take_linearithmic_time() -> None:
    tokenizer = ours("gpt-2")
    start = time.process_time()
    tokenizer.encode("ab" * 20_000)
    tokenizer.encode(" " * 40_000 + "x")
    tokenizer.pieces("e" + "\u0301\u0316" * 20_000)
    assert time.process_time() - start < 5


def test_many_combining_marks_do_not_hang_composition() -> None:
    # The standard library's normalization takes minutes for this: it sorts the marks quadratically.
    text = "e" + "\u0301\u0316" * 100_000
    start = time.process_time()
    assert ours("qwen2").encode(text) == cached_reference("qwen2").encode(text, add_special_tokens=False).ids
    assert time.process_time() - start < 10


def test_composed_characters_have_the_span_of_what_was_written() -> None:
    tokenizer = ours("qwen2")
    text = "xe\u0301 \u1100\u1161\u11a8y"
    assert tokenizer.decode(tokenizer.encode(text)) == "xé 각y"
    spans = {(piece.start, piece.end) for piece in tokenizer.pieces(text)}
    assert (1, 3) in spans or (0, 3) in spans  # é, alone or with x
    assert all(start not in (2, 5, 6) for start, _ in spans)  # nothing begins within é or within 각
    assert normalizers.NFC().normalize_str(text) == "xé 각y"
