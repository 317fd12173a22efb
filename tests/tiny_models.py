"""Tiny random models of every family, as transformers makes them, in safetensors and GGUF.

The weights' spread is raised, norms and biases are random too, so that logits are well apart and
no part of the arithmetic can go missing unnoticed. Everything is seeded.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from tiny_table import TINY, VOCAB, Tiny, wide

transformers.utils.logging.disable_progress_bar()
torch.set_num_threads(1)  # these models are too small to share

__all__ = [
    "TINY", "VOCAB", "Tiny", "Zoo", "make", "prompt", "read_config", "save_gguf", "save_safetensors",
    "transformers_greedy", "transformers_logits", "wide",
]  # fmt: skip


def make(tiny: Tiny) -> Any:
    """The model in transformers, float32, with random weights."""
    return _with_random_weights(_config(tiny), f"{tiny.kind}{_HEADS[tiny.kind]}", tiny.seed)


_HEADS = {"GPT2": "LMHeadModel"} | dict.fromkeys(
    ("Llama", "Mistral", "Qwen2", "Qwen3", "Gemma3"), "ForCausalLM"
)


def _config(tiny: Tiny) -> Any:
    settings = dict(tiny.settings)
    if tiny.kind == "GPT2":
        for key in ("intermediate_size", "num_key_value_heads", "head_dim"):
            settings.pop(key, None)
    name = "Gemma3TextConfig" if tiny.kind == "Gemma3" else f"{tiny.kind}Config"
    return getattr(transformers, name)(**settings)


def _with_random_weights(config: Any, kind: str, seed: int) -> Any:
    model = getattr(transformers, kind)(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            center, spread = _spread(name, parameter.shape, gemma="Gemma3" in kind)
            parameter.normal_(center, spread, generator=generator)
    return model


def _spread(name: str, shape: Sequence[int], *, gemma: bool) -> tuple[float, float]:
    """Mean and standard deviation of a weight's random numbers.

    Chosen so that greedy text neither repeats itself soon (attention that looks back counts, and a
    tied head does not just echo the last token) nor hangs on the last bits of a sum.
    """
    special = {
        "transformer.wte.weight": (0.0, 0.15),
        "transformer.wpe.weight": (0.0, 0.4),
        "transformer.ln_f.weight": (2.0, 0.3),
    }
    if gemma:
        special = {"model.embed_tokens.weight": (0.0, 0.03), "model.norm.weight": (10.0, 1.0)}
        if "post_attention" in name:
            return 1.5, 0.3
        if "post_feedforward" in name:
            return -0.5, 0.2
        if "q_norm" in name or "k_norm" in name:
            return 0.6, 0.2
    if name in special:
        return special[name]
    if "embed_tokens" in name:
        return 0.0, 0.3
    if len(shape) == 2:
        inputs = shape[0] if "c_" in name else shape[1]
        return 0.0, (3.0 if "o_proj" in name or "attn.c_proj" in name else 1.7) / inputs**0.5
    if name.endswith("bias"):
        return 0.0, 0.3
    return (0.0 if gemma else 1.0), 0.2


def save_safetensors(tiny: Tiny, folder: Path, *, shard_bytes: int | None = None) -> Path:
    """Writes the model as transformers does; with `shard_bytes` in several files and an index."""
    size: dict[str, Any] = {} if shard_bytes is None else {"max_shard_size": shard_bytes}
    make(tiny).save_pretrained(folder, **size)
    return folder


def save_gguf(tiny: Tiny, path: Path, quantization: str = "F32", *, pad_vocab: int = 0) -> Path:
    """Writes the same weights as GGUF, laid out as llama.cpp's converter does.

    Args:
        tiny: The model.
        path: The file to write.
        quantization: Type of the matrices, as far as their rows fit into its blocks (others are F16).
        pad_vocab: Rows of zeros added to the embedding.
    """
    if tiny.gguf_architecture is None:
        raise ValueError(f"GGUF cannot hold {tiny.name}")
    model = make(tiny)
    config = model.config
    writer = gguf.GGUFWriter(path, tiny.gguf_architecture)
    _write_metadata(writer, tiny, config)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        _write_tensor(writer, tiny, config, (name, tensor.numpy()), quantization, pad_vocab=pad_vocab)
    if _scaling(config).get("rope_type") == "llama3":
        frequencies = model.model.rotary_emb.inv_freq.double().numpy()
        plain = config.rope_parameters["rope_theta"] ** (-np.arange(0, 1, 1 / len(frequencies)))
        writer.add_tensor("rope_freqs.weight", (plain / frequencies).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _scaling(config: Any) -> dict[str, Any]:
    parameters = getattr(config, "rope_parameters", None) or {}
    return dict(parameters.get("full_attention", parameters))


def _write_metadata(writer: gguf.GGUFWriter, tiny: Tiny, config: Any) -> None:
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_bos_token_id(config.bos_token_id)
    writer.add_eos_token_id(config.eos_token_id)
    writer.add_token_list([f"t{i}" for i in range(config.vocab_size)])
    if tiny.kind == "GPT2":
        writer.add_feed_forward_length(config.n_inner)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
        return
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    scaling = _scaling(config)
    writer.add_rope_freq_base(scaling["rope_theta"])
    if scaling["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(scaling["factor"])
    # llama.cpp's converter leaves Mistral's window out; without it the model would be another one.
    if tiny.kind in ("Gemma3", "Mistral"):
        writer.add_sliding_window(config.sliding_window)


_MAP_KEYS = {"llama": gguf.MODEL_ARCH.LLAMA, "qwen2": gguf.MODEL_ARCH.QWEN2, "qwen3": gguf.MODEL_ARCH.QWEN3}
_MAP_KEYS |= {"gemma3": gguf.MODEL_ARCH.GEMMA3, "gpt2": gguf.MODEL_ARCH.GPT2}


def _write_tensor(
    writer: gguf.GGUFWriter,
    tiny: Tiny,
    config: Any,
    tensor: tuple[str, NDArray[np.float32]],
    quantization: str,
    *,
    pad_vocab: int,
) -> None:
    name, values = tensor
    assert tiny.gguf_architecture is not None
    names = gguf.get_tensor_name_map(_MAP_KEYS[tiny.gguf_architecture], config.num_hidden_layers)
    stored = names.get_name(name, try_suffixes=(".weight", ".bias"))
    assert stored is not None, name
    if tiny.kind == "GPT2" and values.ndim == 2 and ".h." in name:
        values = values.T
    if tiny.gguf_architecture == "llama" and (".q_proj." in name or ".k_proj." in name):
        heads = config.num_attention_heads if ".q_proj." in name else config.num_key_value_heads
        pairs = values.reshape(heads, 2, -1, *values.shape[1:])
        values = pairs.swapaxes(1, 2).reshape(values.shape)
    if tiny.kind == "Gemma3" and name.endswith("norm.weight"):
        values = values + 1
    if name in ("model.embed_tokens.weight", "transformer.wte.weight") and pad_vocab:
        values = np.concatenate([values, np.zeros((pad_vocab, values.shape[1]), np.float32)])
    values = np.ascontiguousarray(values)
    if values.ndim < 2 or quantization == "F32" or name == "transformer.wpe.weight":
        writer.add_tensor(stored, values)
        return
    kind = gguf.GGMLQuantizationType[quantization]
    if values.shape[1] % gguf.GGML_QUANT_SIZES[kind][0]:
        kind = gguf.GGMLQuantizationType.F16
    writer.add_tensor(stored, gguf.quantize(values, kind), raw_dtype=kind)


class Zoo:
    """Tiny models in files, each written once when it is first asked for.

    Args:
        root: The folder to write to, such as `tmp_path_factory.mktemp("zoo")`.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, tiny: Tiny) -> Path:
        """The model as a folder with safetensors."""
        path = self.root / tiny.name
        return path if path.exists() else save_safetensors(tiny, path)

    def gguf(self, tiny: Tiny, quantization: str = "F32") -> Path:
        """The model as a GGUF file."""
        path = self.root / f"{tiny.name}.{quantization}.gguf"
        return path if path.exists() else save_gguf(tiny, path, quantization)


def prompt(count: int, seed: int = 0) -> list[int]:
    """Random token ids."""
    return [int(token) for token in np.random.default_rng(seed).integers(3, VOCAB, count)]


@functools.lru_cache(maxsize=4)
def _load(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()


def transformers_logits(folder: Path, token_ids: Sequence[int]) -> NDArray[np.float32]:
    """What transformers computes in float32: `[len, vocab]`."""
    with torch.no_grad():
        logits: NDArray[np.float32] = _load(folder)(torch.tensor([list(token_ids)])).logits[0].numpy()
    return logits


def transformers_greedy(folder: Path, token_ids: Sequence[int], count: int) -> list[int]:
    """The `count` tokens that transformers continues with when it always takes the likeliest."""
    with torch.no_grad():
        ids = _load(folder).generate(
            torch.tensor([list(token_ids)]),
            attention_mask=torch.ones(1, len(token_ids), dtype=torch.long),
            do_sample=False,
            min_new_tokens=count,
            max_new_tokens=count,
            eos_token_id=None,
        )
    return [int(token) for token in ids[0, len(token_ids) :]]


def read_config(folder: Path) -> dict[str, Any]:
    """The parsed `config.json` of a folder."""
    parsed: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return parsed
