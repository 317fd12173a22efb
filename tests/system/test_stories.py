"""A real small model in another program's format: llama2.c's stories260K writes the same story."""

from __future__ import annotations

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

import boli

DATA = Path(__file__).parents[3] / "shared" / "data"

pytestmark = pytest.mark.skipif(
    not (DATA / "stories260K.bin").exists(), reason="needs stories260K in ../shared/data, beside the checkout"
)


def convert(checkpoint: bytes, vocabulary: bytes, path: Path) -> None:
    """llama2.c's checkpoint and tokenizer as one GGUF file.

    The checkpoint is seven int32 and then float32 matrices, each kind for all layers at once; the
    tokenizer is the longest token's length, then score, length and bytes of each token.
    """
    dim, hidden, layers, heads, kv_heads, vocab, context = struct.unpack_from("<7i", checkpoint)
    assert vocab > 0, "a tied head"
    at = 28

    def take(*shape: int) -> NDArray[np.float32]:
        nonlocal at
        values = np.frombuffer(checkpoint, np.float32, int(np.prod(shape)), at).reshape(shape)
        at += values.nbytes
        return values

    kv = dim // heads * kv_heads
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("token_embd.weight", take(vocab, dim))
    parts = {
        "attn_norm": take(layers, dim), "attn_q": take(layers, dim, dim), "attn_k": take(layers, kv, dim),
        "attn_v": take(layers, kv, dim), "attn_output": take(layers, dim, dim), "ffn_norm": take(layers, dim),
        "ffn_gate": take(layers, hidden, dim), "ffn_down": take(layers, dim, hidden),
        "ffn_up": take(layers, hidden, dim),
    }  # fmt: skip
    for name, values in parts.items():
        for layer in range(layers):
            writer.add_tensor(f"blk.{layer}.{name}.weight", np.ascontiguousarray(values[layer]))
    writer.add_tensor("output_norm.weight", take(dim))

    tokens, scores, at = [], [], 4
    for _ in range(vocab):
        score, length = struct.unpack_from("<fi", vocabulary, at)
        tokens.append(vocabulary[at + 8 : at + 8 + length].replace(b" ", "▁".encode()))
        scores.append(score)
        at += 8 + length
    tokens[:3] = [b"<unk>", b"<s>", b"</s>"]
    kinds = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL]
    kinds += [gguf.TokenType.BYTE] * 256 + [gguf.TokenType.NORMAL] * (vocab - 259)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_block_count(layers)
    writer.add_context_length(context)
    writer.add_embedding_length(dim)
    writer.add_feed_forward_length(hidden)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(dim // heads)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_the_greedy_story_is_llama2cs(tmp_path: Path) -> None:
    path = tmp_path / "stories260K.gguf"
    convert((DATA / "stories260K.bin").read_bytes(), (DATA / "tok512.bin").read_bytes(), path)
    expected = (DATA / "stories260K.txt").read_text().strip()
    with boli.load(str(path)) as llm:
        story = llm.generate([1], max_tokens=256, ignore_eos=True)
    assert story.text.strip() == expected
