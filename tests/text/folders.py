"""Small model folders in the Hugging Face layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from text.vocabularies import byte_level_reference, sentencepiece_pair

CHATML = (
    "{% for message in messages %}"
    "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write(folder: Path, name: str, content: object) -> None:
    (folder / name).write_text(json.dumps(content), encoding="utf-8")


def begins_with(backend: Tokenizer, text: str) -> None:
    token = backend.token_to_id(text)
    backend.post_processor = processors.TemplateProcessing(
        single=f"{text} $A", pair=f"{text} $A $B", special_tokens=[(text, token)]
    )


def byte_level_folder(folder: Path, **config: Any) -> Path:
    """As Llama 3 and SmolLM2 have it; truncation and padding are set, and must not matter."""
    split = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{N}{1,3}| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=False),
        ]
    )
    backend = byte_level_reference(split)
    begins_with(backend, "<|im_start|>")
    backend.enable_truncation(5)
    backend.enable_padding(length=64, pad_id=0, pad_token="<|endoftext|>")
    folder.mkdir(parents=True, exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    write(
        folder,
        "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<|im_start|>",
            "eos_token": {"content": "<|im_end|>", "__type": "AddedToken"},
            "chat_template": CHATML,
            **config,
        },
    )
    return folder


def sentencepiece_folder(folder: Path, *, style: str = "legacy") -> Path:
    """As Llama 2 (`legacy` or `metaspace`) or Gemma (`gemma`) have it, with merges made from scores."""
    metadata: dict[str, Any] = sentencepiece_pair().metadata
    tokens = metadata["tokenizer.ggml.tokens"]
    scores = metadata["tokenizer.ggml.scores"]
    kinds = metadata["tokenizer.ggml.token_type"]
    ids = {token: index for index, token in enumerate(tokens)}
    merges = [
        (-scores[ids[token]], (token[:cut], token[cut:]))
        for token in tokens
        for cut in range(1, len(token))
        if token[:cut] in ids and token[cut:] in ids and kinds[ids[token]] == 1
    ]
    backend = Tokenizer(
        models.BPE(
            vocab=ids,
            merges=[pair for _, pair in sorted(merges, key=lambda merge: merge[0])],
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if style == "legacy":
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    elif style == "metaspace":
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    else:
        backend.normalizer = normalizers.Replace(" ", "▁")
    backend.decoder = decoders.Sequence(steps if style == "gemma" else [*steps, decoders.Strip(" ", 1, 0)])
    backend.add_special_tokens(
        [AddedToken(text, special=True, normalized=False) for text in ("<unk>", "<s>", "</s>")]
    )
    begins_with(backend, "<s>")
    folder.mkdir(parents=True, exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    write(
        folder,
        "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<s>",
            "eos_token": "</s>",
            "unk_token": "<unk>",
        },
    )
    return folder
