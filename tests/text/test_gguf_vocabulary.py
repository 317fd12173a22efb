"""GGUF vocabularies: what the keys mean, and what becomes of wrong ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from boli.errors import CorruptFile, ModelNotFound, UnsupportedModel
from boli.text import load_tokenizer
from text.vocabularies import Metadata, byte_level_metadata, sentencepiece_pair


def bpe(**changes: object) -> Metadata:
    return Metadata(byte_level_metadata(**changes))  # type: ignore[arg-type]


def spm(**changes: object) -> Metadata:
    changed = {f"tokenizer.ggml.{name}": value for name, value in changes.items()}
    return Metadata({**sentencepiece_pair().metadata, **changed})


def test_added_tokens_follow_the_file_and_else_the_kind() -> None:
    assert load_tokenizer(bpe()).encode("", add_special_tokens=True) == []
    assert load_tokenizer(bpe(pre="llama-bpe")).encode("") == [1]
    assert load_tokenizer(bpe(pre="llama-bpe", add_bos_token=False)).encode("") == []
    assert load_tokenizer(bpe(add_eos_token=True)).encode("") == [2]
    assert load_tokenizer(spm()).encode("") == [1]
    assert load_tokenizer(spm(add_bos_token=False)).encode("") == []
    without = spm()
    del without.metadata["tokenizer.ggml.bos_token_id"]  # type: ignore[attr-defined]
    assert load_tokenizer(without).bos_token_id == 1  # where SentencePiece puts it


def test_all_tokens_that_end_a_generation() -> None:
    tokenizer = load_tokenizer(bpe(eot_token_id=7, eom_token_id=8))
    # 0 and 2 are control tokens with a telling name; 2 is also the file's own; 7 and 8 are named by their
    # keys.
    assert tokenizer.eos_token_ids == {0, 2, 7, 8}
    assert load_tokenizer(spm()).eos_token_ids == {2}


def test_a_name_alone_ends_nothing_if_the_token_is_ordinary() -> None:
    metadata = byte_level_metadata()
    kinds = metadata["tokenizer.ggml.token_type"]
    assert isinstance(kinds, list)
    kinds[0] = 1
    assert load_tokenizer(Metadata(metadata)).eos_token_ids == {2}


def test_the_template_knows_the_special_tokens() -> None:
    metadata = byte_level_metadata(padding_token_id=0)
    metadata["tokenizer.chat_template"] = "{{ bos_token }}|{{ eos_token }}|{{ pad_token }}|{{ unk_token }}"
    template = load_tokenizer(Metadata(metadata)).require_chat_template()
    message = {"role": "user", "content": "x"}
    assert template.render([message]) == "<|im_start|>|<|im_end|>|<|endoftext|>|"
    metadata["tokenizer.chat_template.tool_use"] = "tools"
    template = load_tokenizer(Metadata(metadata)).require_chat_template()
    assert template.render([message], tools=[{"type": "function"}]) == "tools"


def test_spaces_of_user_defined_tokens_in_either_spelling() -> None:
    metadata = sentencepiece_pair(add_space_prefix=False).metadata
    tokens: Any = metadata["tokenizer.ggml.tokens"]
    spaces = ("▁▁", "▁▁▁")
    assert set(spaces) < set(tokens)
    spaced = [token.replace("▁", " ") if token in spaces else token for token in tokens]
    old = load_tokenizer(Metadata(metadata))
    new = load_tokenizer(Metadata({**metadata, "tokenizer.ggml.tokens": spaced}))
    for text in ("a  b   c    d", "   ", " x"):
        assert old.encode(text) == new.encode(text)
        assert old.decode(old.encode(text), skip_special_tokens=True) == text
        assert new.decode(new.encode(text), skip_special_tokens=True) == text


@pytest.mark.parametrize("model", ["t5", "bert", "rwkv", "plamo2", "something", None])
def test_other_kinds_are_refused_by_name(model: str | None) -> None:
    with pytest.raises(UnsupportedModel, match=repr(model)):
        load_tokenizer(
            spm(model=model) if model else Metadata({**spm().metadata, "tokenizer.ggml.model": None})
        )


def drop(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda metadata: metadata.pop(f"tokenizer.ggml.{name}")


def put(name: str, value: object) -> Callable[[dict[str, Any]], None]:
    return lambda metadata: metadata.__setitem__(f"tokenizer.ggml.{name}", value)


def edit(name: str, index: int, value: object) -> Callable[[dict[str, Any]], None]:
    return lambda metadata: metadata[f"tokenizer.ggml.{name}"].__setitem__(index, value)


@pytest.mark.parametrize(
    "damage",
    [
        drop("tokens"),
        put("tokens", "not an array"),
        put("tokens", [1, 2, 3]),
        edit("tokens", 300, "a"),
        put("token_type", [1, 1]),
        put("token_type", ["x"]),
        drop("merges"),
        put("merges", [1]),
        put("bos_token_id", 1 << 20),
        put("bos_token_id", -1),
        put("eos_token_id", "two"),
        put("add_bos_token", 3),
        put("pre", 7),
        edit("token_type", 5, 6),
    ],
)
def test_damaged_byte_level_vocabularies(damage: Callable[[dict[str, Any]], None]) -> None:
    metadata = byte_level_metadata()
    damage(metadata)
    with pytest.raises(CorruptFile, match=r"tokenizer\.ggml|entries of the vocabulary|byte token"):
        load_tokenizer(Metadata(metadata))


@pytest.mark.parametrize(
    "damage",
    [
        drop("scores"),
        put("scores", [0.0]),
        edit("scores", 400, float("nan")),
        edit("scores", 400, float("inf")),
        edit("tokens", 10, "<0xZZ>"),
        put("unknown_token_id", 10_000_000),
    ],
)
def test_damaged_sentencepiece_vocabularies(damage: Callable[[dict[str, Any]], None]) -> None:
    metadata: dict[str, Any] = {
        key: list(value) if isinstance(value, list) else value
        for key, value in sentencepiece_pair().metadata.items()
    }
    damage(metadata)
    with pytest.raises(CorruptFile):
        load_tokenizer(Metadata(metadata))


def test_tables_and_spaces_that_boli_does_not_know_are_refused() -> None:
    with pytest.raises(UnsupportedModel, match="table"):
        load_tokenizer(spm(precompiled_charsmap=[1, 2]))
    with pytest.raises(UnsupportedModel, match="space"):
        load_tokenizer(bpe(add_space_prefix=True))


def test_none_is_spelt_as_the_largest_number() -> None:
    assert load_tokenizer(bpe(bos_token_id=0xFFFFFFFF)).bos_token_id is None


def test_padding_entries_may_be_empty() -> None:
    metadata = byte_level_metadata()
    for name, filler in (("tokens", ""), ("token_type", 1)):
        array = metadata[f"tokenizer.ggml.{name}"]
        assert isinstance(array, list)
        array += [filler] * 3
    tokenizer = load_tokenizer(Metadata(metadata))
    assert tokenizer.token_bytes(tokenizer.vocab_size - 1) == b""
    assert tokenizer.decode(tokenizer.encode("Hello there")) == "Hello there"


def test_hostile_merges_and_whole_words_do_no_harm() -> None:
    metadata = byte_level_metadata("llama-bpe", add_bos_token=False)
    metadata["tokenizer.ggml.merges"] = ["", " ", "a", "a b c", "x  y", "q q", "Ġ Ġ"]
    tokenizer = load_tokenizer(Metadata(metadata))
    assert tokenizer.decode(tokenizer.encode("a b c qq x  y Hello")) == "a b c qq x  y Hello"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="nothing"):
        load_tokenizer(tmp_path / "nothing.gguf")
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    with pytest.raises(CorruptFile):
        load_tokenizer(tmp_path / "x.gguf")
