"""The files that `peers.py` measures with: fetched, made by llama.cpp, or made of random bits."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

# The shape of Llama 3.2 1B, with a smaller vocabulary: 32,000 instead of 128,256.
_LAYERS, _HIDDEN, _MLP, _HEADS, _KV_HEADS, _VOCABULARY = 16, 2048, 8192, 32, 8, 32_000
_GROUP = 32
# Standard deviation of uniformly random quants, less their zero.
_QUANT_SPREAD = {"q4_0": 4.61, "q8_0": 73.9}

Quantize = Callable[[Path, Path, str], None]


def source(name: str, folder: Path) -> Path:
    """The file of a model, fetched or made if it is not there yet.

    Args:
        name: An alias of boli's, or `random-1b-q4_0`, `random-1b-q8_0`.
        folder: Where made files are kept.
    """
    if not name.startswith("random-1b-"):
        from boli.sources import resolve

        return resolve(name).path
    path = folder / f"{name}.gguf"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        print(f"making {path.name}", file=sys.stderr)
        part = path.with_suffix(".part")
        _write_random(part, name.removeprefix("random-1b-"))
        part.replace(path)
    return path


def in_form(path: Path, form: str, folder: Path, quantize: Quantize) -> Path:
    """The same model in another number format, made by llama.cpp."""
    made = folder / f"{path.stem}.{form}.gguf"
    if not made.exists():
        folder.mkdir(parents=True, exist_ok=True)
        print(f"making {made.name}", file=sys.stderr)
        part = made.with_suffix(".part")
        quantize(path, part, form)
        part.replace(made)
    return made


def _write_random(path: Path, form: str) -> None:
    """A Llama whose matrices are random bits in one format, and whose head is its embedding."""
    import gguf

    kind = gguf.GGMLQuantizationType[form.upper()]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("random 1B")
    writer.add_block_count(_LAYERS)
    writer.add_context_length(8192)
    writer.add_embedding_length(_HIDDEN)
    writer.add_feed_forward_length(_MLP)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(_HIDDEN // _HEADS)
    writer.add_rope_freq_base(500_000.0)
    writer.add_vocab_size(_VOCABULARY)
    writer.add_tokenizer_model("no_vocab")
    random, ones = np.random.default_rng(1), np.ones(_HIDDEN, np.float32)
    kv = _HIDDEN * _KV_HEADS // _HEADS
    shapes = {
        "attn_q": (_HIDDEN, _HIDDEN),
        "attn_k": (kv, _HIDDEN),
        "attn_v": (kv, _HIDDEN),
        "attn_output": (_HIDDEN, _HIDDEN),
        "ffn_gate": (_MLP, _HIDDEN),
        "ffn_up": (_MLP, _HIDDEN),
        "ffn_down": (_HIDDEN, _MLP),
    }
    writer.add_tensor("token_embd.weight", _random(random, form, _VOCABULARY, _HIDDEN), raw_dtype=kind)
    writer.add_tensor("output_norm.weight", ones)
    for layer in range(_LAYERS):
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{norm}.weight", ones)
        for name, (rows, columns) in shapes.items():
            matrix = _random(random, form, rows, columns)
            writer.add_tensor(f"blk.{layer}.{name}.weight", matrix, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _random(random: np.random.Generator, form: str, rows: int, columns: int) -> Bytes:
    """Blocks of one scale and 32 random quants, so that outputs have the spread of the inputs."""
    quant_bytes = _GROUP // 2 if form == "q4_0" else _GROUP
    blocks = random.integers(0, 256, (rows, columns // _GROUP, 2 + quant_bytes), np.uint8)
    scale = np.float16(1 / (_QUANT_SPREAD[form] * columns**0.5))
    blocks[..., :2] = np.frombuffer(scale.tobytes(), np.uint8)
    return blocks.reshape(rows, -1)
