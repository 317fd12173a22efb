"""llama.cpp's own test texts and ids for three vocabularies."""

from __future__ import annotations

import pytest

from boli.text import load_tokenizer
from text.samples import SHARED_VOCABULARIES

SEPARATOR = "\n__ggml_vocab_test__\n"


@pytest.mark.skipif(
    not SHARED_VOCABULARIES.is_dir(), reason="the shared vocabularies are not on this machine"
)
@pytest.mark.parametrize("name", ["falcon", "gpt-2", "llama-spm"])
def test_ids_and_spans_of_every_case(name: str) -> None:
    tokenizer = load_tokenizer(SHARED_VOCABULARIES / f"{name}.gguf")
    with (SHARED_VOCABULARIES / f"{name}.gguf.inp").open(encoding="utf-8", newline="") as file:
        texts = file.read().split(SEPARATOR)
    lines = (SHARED_VOCABULARIES / f"{name}.gguf.out").read_text().split("\n")
    assert len(texts) == len(lines) > 40
    for text, line in zip(texts, lines, strict=True):
        expected = [int(token) for token in line.split()]
        assert tokenizer.encode(text, add_special_tokens=False) == expected, text
        assert [piece.id for piece in tokenizer.pieces(text, add_special_tokens=False)] == expected, text
        assert tokenizer.decode(expected) == text
