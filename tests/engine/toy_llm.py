"""A language model of a toy runner and a real byte-level vocabulary, written to a folder and loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import pre_tokenizers

from boli.engine.batch import Batch, Float32
from boli.engine.engine import Engine
from boli.engine.ledger import Ledger
from boli.engine.llm import LLM
from boli.formats.requantize import Choice
from boli.text import load_tokenizer
from engine.toy_engine import bold
from engine.toy_runner import ToyRunner

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
END_OF_TEXT, IM_START, IM_END = 256, 257, 258
MERGED = 259  # "th"
VOCAB = 260
TEXT = "the thing is 你好 🙂, it said"
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_id(character: str) -> int:
    """The token of a byte, which `write_tokenizer` numbers in the order of the byte-level alphabet."""
    return sorted(pre_tokenizers.ByteLevel.alphabet()).index(character)


def write_tokenizer(folder: Path, *, chat_template: str | None = CHATML) -> None:
    """A vocabulary of 256 bytes, three special tokens and one merge."""
    vocabulary = {
        character: index for index, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))
    }
    vocabulary |= {text: 256 + index for index, text in enumerate(SPECIAL)} | {"th": MERGED}
    byte_level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    document = {
        "version": "1.0",
        "added_tokens": [
            {
                "id": vocabulary[text], "content": text, "special": True, "normalized": False,
                "single_word": False, "lstrip": False, "rstrip": False,
            }
            for text in SPECIAL
        ],
        "normalizer": None,
        "pre_tokenizer": byte_level | {"add_prefix_space": False},
        "post_processor": None,
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocabulary, "merges": [["t", "h"]]},
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(document))
    config: dict[str, Any] = {"eos_token": "<|im_end|>"}
    if chat_template is not None:
        config["chat_template"] = chat_template
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def toy_llm(
    folder: Path,
    *,
    context: int = 512,
    chat_template: str | None = CHATML,
    depth: int | None = None,
    **runner: Any,
) -> LLM:
    """A model whose answers `toy_runner.expected_tokens` knows; with a depth it guesses that many tokens."""
    write_tokenizer(folder, chat_template=chat_template)
    settings = {"vocab_size": VOCAB, "num_pages": 64, "page_size": 16, "max_rows": 64} | runner
    return LLM(
        name="toy",
        path=folder,
        format="safetensors",
        weights=Choice("stored", "a toy has none"),
        number_formats={},
        threads=1,
        kv_cache_type="bf16",
        tokenizer=load_tokenizer(folder),
        engine=Engine(ToyRunner(**settings), context=context, speculation=bold(depth)),
        ledger=Ledger(),
        load_seconds=0.25,
    )


def scripted(tmp_path: Path, script: list[int], **settings: Any) -> LLM:
    """A model that answers a prompt of one token with these, again and again."""

    def hook(batch: Batch, logits: Float32) -> None:
        logits[:] = -5.0
        for index, row in enumerate(batch.logits_rows):
            logits[index, script[batch.positions[row] % len(script)]] = 5.0

    return toy_llm(tmp_path, hook=hook, **settings)
