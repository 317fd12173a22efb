"""The two models of the project: ids, spans, chats and start-up time, against independent references."""

from __future__ import annotations

import functools
import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from boli.errors import SourceError
from boli.formats.gguf import GGUFFile
from boli.sources import resolve
from boli.text import Tokenizer, load_tokenizer
from text.samples import TEXTS, mixed_texts, texts
from text.templates import CONVERSATIONS
from text.vocabularies import processor_of

pytestmark = pytest.mark.model


@functools.cache
def path_of(name: str) -> Path:
    try:
        return resolve(name).path
    except SourceError as error:
        pytest.skip(f"{name} cannot be had here: {error.message}")


@functools.cache
def ours(name: str) -> Tokenizer:
    return load_tokenizer(path_of(name))


@functools.cache
def smollm2_reference() -> Backend:
    """SmolLM2's own tokenizer.json, rebuilt: single digits, GPT-2's words, control tokens."""
    with GGUFFile(path_of("smollm2")) as file:
        metadata: Any = file.metadata
        tokens = list(metadata["tokenizer.ggml.tokens"])
        merges = [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]]
        control = [
            t for t, kind in zip(tokens, metadata["tokenizer.ggml.token_type"], strict=True) if kind == 3
        ]
    backend = Backend(models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    return backend


@functools.cache
def gemma_reference() -> Any:
    with GGUFFile(path_of("gemma3-270m")) as file:
        return processor_of(file.metadata)


def compare_smollm2(text: str) -> None:
    tokenizer = ours("smollm2")
    encoding = smollm2_reference().encode(text, add_special_tokens=False)
    assert tokenizer.encode(text) == encoding.ids, text
    shown = smollm2_reference().decode(encoding.ids, skip_special_tokens=False)
    assert tokenizer.decode(encoding.ids) == shown


def compare_gemma(text: str) -> None:
    tokenizer = ours("gemma3-270m")
    ids = gemma_reference().encode(text)
    assert tokenizer.encode(text, add_special_tokens=False, parse_special=False) == ids, text
    assert tokenizer.decode(ids) == text.replace("▁", " ")


def test_smollm2_equals_the_reference() -> None:
    for text in [*TEXTS, *mixed_texts(3000, seed=10), "<|im_start|>user\nHi<|im_end|>\n", "a<|endoftext|>b"]:
        compare_smollm2(text)


def test_gemma_equals_the_reference() -> None:
    for text in [
        *TEXTS,
        *mixed_texts(3000, seed=11),
        "<start_of_turn>user\nHi<end_of_turn>\n",
        "<h1><unused1>",
    ]:
        compare_gemma(text)


@settings(max_examples=400, deadline=None)
@given(texts())
def test_any_text_equals_the_references(text: str) -> None:
    compare_smollm2(text)
    compare_gemma(text)


def test_texts_and_code_of_this_project_equal_the_references() -> None:
    for file in sorted((Path(__file__).resolve().parents[2] / "src" / "boli" / "text").glob("*.py")):
        compare_smollm2(file.read_text(encoding="utf-8"))
        compare_gemma(file.read_text(encoding="utf-8"))


def test_gemma_equals_known_ids() -> None:
    tokenizer = ours("gemma3-270m")
    assert tokenizer.encode("我爱中华人民共和")[0] == tokenizer.bos_token_id == 2
    ids = tokenizer.encode("a  b\n\n\nc", add_special_tokens=False)
    assert [tokenizer.piece(token) for token in ids] == ["a", "  ", "b", "\n\n\n", "c"]
    assert tokenizer.eos_token_ids == {1, 106}  # <eos> and <end_of_turn>


def test_smollm2_ends_and_beginnings() -> None:
    tokenizer = ours("smollm2")
    assert tokenizer.eos_token_ids == {0, 2}
    assert not tokenizer.add_bos
    assert tokenizer.encode("The capital of France is") == [504, 3575, 282, 4649, 314]


@pytest.mark.parametrize("name", ["smollm2", "gemma3-270m"])
def test_spans_cover_the_text(name: str) -> None:
    tokenizer = ours(name)
    for text in [*TEXTS, *mixed_texts(300, seed=12)]:
        pieces = tokenizer.pieces(text, add_special_tokens=False)
        assert [piece.id for piece in pieces] == tokenizer.encode(text, add_special_tokens=False)
        for before, after in itertools.pairwise(pieces):
            assert before.start <= after.start <= before.end <= after.end
        if pieces:
            assert (pieces[0].start, pieces[-1].end) == (0, len(text))


@pytest.mark.parametrize("conversation", ["one", "system", "turns", "thoughts"])
def test_smollm2_chats_are_those_of_transformers(conversation: str) -> None:
    import transformers

    tokenizer = ours("smollm2")
    template = tokenizer.require_chat_template()
    reference = transformers.PreTrainedTokenizerFast(
        tokenizer_object=smollm2_reference(), bos_token="<|im_start|>", eos_token="<|im_end|>"
    )
    messages = CONVERSATIONS[conversation]
    for prompt in (True, False):
        arguments: Any = {"chat_template": template.source, "add_generation_prompt": prompt}
        text = template.render(messages, add_generation_prompt=prompt)
        assert text == reference.apply_chat_template(messages, tokenize=False, **arguments)
        ids = reference.apply_chat_template(messages, return_dict=False, **arguments)
        assert tokenizer.encode_chat(text) == ids
        rendered = template.render_with_spans(messages, add_generation_prompt=prompt)
        shown = {
            span.message_index: text[span.start : span.end]
            for span in rendered.spans
            if span.message_index is not None
        }
        assert shown == {index: message["content"] for index, message in enumerate(messages)}


@pytest.mark.parametrize(("name", "seconds"), [("smollm2", 0.25), ("gemma3-270m", 1.0)])
def test_loading_is_quick(name: str, seconds: float) -> None:
    code = (
        "import sys, time; from pathlib import Path; from boli.formats.gguf import GGUFFile;"
        "from boli.text import load_tokenizer; file = GGUFFile(Path(sys.argv[1]));"
        "start = time.process_time(); load_tokenizer(file).encode('The first text');"
        "print(time.process_time() - start)"
    )
    # Processor time, because other tests may run beside this one; the best of three for the same reason.
    command = [sys.executable, "-c", code, str(path_of(name))]
    times = [float(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout) for _ in range(3)]
    assert min(times) < seconds
