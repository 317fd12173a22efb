"""Small real vocabularies, trained in the test, and the reference tokenizers for them."""

from __future__ import annotations

import functools
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from text.samples import TEXTS, mixed_texts

CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
USER_DEFINED = ("<tool>", "\n\n", "    ")
KINDS = {"normal": 1, "unknown": 2, "control": 3, "user": 4, "unused": 5, "byte": 6}


@dataclass(frozen=True)
class Metadata:
    """What the tokenizer needs of an open GGUF file."""

    metadata: Mapping[str, object]
    path: Path = Path("model.gguf")


def corpus() -> list[str]:
    return [*TEXTS, *mixed_texts(300, seed=5), *(["the cat sat on the mat, and 我爱中国 " * 4] * 5)]


@functools.cache
def byte_level() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Entries and merges of a byte-level vocabulary: control tokens come first, user-defined ones last."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=list(CONTROL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(corpus(), trainer)
    path = io.StringIO(backend.to_str())
    import json

    model = json.load(path)["model"]
    vocabulary = {**model["vocab"]}
    for text in USER_DEFINED:
        vocabulary[text] = len(vocabulary)
    return vocabulary, [tuple(merge) for merge in model["merges"]]


def byte_level_metadata(pre: str = "smollm", **more: object) -> dict[str, object]:
    vocabulary, merges = byte_level()
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    kinds = [
        KINDS["control"] if t in CONTROL else KINDS["user"] if t in USER_DEFINED else KINDS["normal"]
        for t in tokens
    ]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.merges": [" ".join(merge) for merge in merges],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        **{f"tokenizer.ggml.{name}": value for name, value in more.items()},
    }


def byte_level_reference(splitter: Any, *, normalizer: Any = None, ignore_merges: bool = False) -> Tokenizer:
    """The `tokenizers` package set up as the models' own tokenizer.json does it."""
    vocabulary, merges = byte_level()
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=ignore_merges))
    backend.pre_tokenizer = splitter
    if normalizer is not None:
        backend.normalizer = normalizer
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in CONTROL])
    backend.add_tokens([AddedToken(text, special=False, normalized=False) for text in USER_DEFINED])
    return backend


@functools.cache
def sentencepiece_model(byte_fallback: bool = True) -> bytes:
    """A SentencePiece BPE model, trained on a few lines."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(line for text in corpus() for line in text.splitlines() if "\0" not in line),
        model_writer=model,
        model_type="bpe",
        vocab_size=900,
        byte_fallback=byte_fallback,
        character_coverage=0.98,
        user_defined_symbols=["<tool>", "▁▁", "▁▁▁", "ab▁"],
        normalization_rule_name="identity",
        allow_whitespace_only_pieces=True,
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


@dataclass(frozen=True)
class SentencePiecePair:
    """A reference processor and the same vocabulary as GGUF metadata."""

    processor: sentencepiece.SentencePieceProcessor
    metadata: dict[str, object]


@functools.cache
def sentencepiece_pair(
    *,
    byte_fallback: bool = True,
    add_space_prefix: bool = True,
    remove_extra_whitespaces: bool = False,
    unused: int = 0,
) -> SentencePiecePair:
    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString(sentencepiece_model(byte_fallback))
    model.normalizer_spec.add_dummy_prefix = add_space_prefix
    model.normalizer_spec.remove_extra_whitespaces = remove_extra_whitespaces
    ordinary = [p for p in model.pieces if p.type == KINDS["normal"] and len(p.piece) > 1]
    for piece in ordinary[::7][:unused]:
        piece.type = KINDS["unused"]
    return SentencePiecePair(
        sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString()),
        {
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.tokens": [p.piece for p in model.pieces],
            "tokenizer.ggml.scores": [p.score for p in model.pieces],
            "tokenizer.ggml.token_type": [p.type for p in model.pieces],
            "tokenizer.ggml.unknown_token_id": 0,
            "tokenizer.ggml.bos_token_id": 1,
            "tokenizer.ggml.eos_token_id": 2,
            "tokenizer.ggml.add_space_prefix": add_space_prefix,
            "tokenizer.ggml.remove_extra_whitespaces": remove_extra_whitespaces,
        },
    )


def processor_of(metadata: Mapping[str, Any]) -> sentencepiece.SentencePieceProcessor:
    """A real SentencePiece processor with the entries, scores and kinds of a GGUF vocabulary."""
    model = sentencepiece_model_pb2.ModelProto()
    for text, score, kind in zip(
        metadata["tokenizer.ggml.tokens"],
        metadata["tokenizer.ggml.scores"],
        metadata["tokenizer.ggml.token_type"],
        strict=True,
    ):
        model.pieces.add(piece=text.replace(" ", "▁"), score=score, type=kind)
    trainer, normalizer = model.trainer_spec, model.normalizer_spec
    trainer.model_type = sentencepiece_model_pb2.TrainerSpec.BPE
    trainer.byte_fallback = True
    trainer.pad_id = -1
    for name in ("unk", "bos", "eos"):
        token = metadata[f"tokenizer.ggml.{'unknown' if name == 'unk' else name}_token_id"]
        setattr(trainer, f"{name}_id", token)
        setattr(trainer, f"{name}_piece", model.pieces[token].piece)
    normalizer.name = "identity"
    normalizer.escape_whitespaces = True
    normalizer.remove_extra_whitespaces = False
    normalizer.add_dummy_prefix = metadata.get("tokenizer.ggml.add_space_prefix", True)
    return sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())
