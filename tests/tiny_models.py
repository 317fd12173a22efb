"""Tiny random models of every family, as transformers makes them, in safetensors and GGUF.

The weights' spread is raised, norms and biases are random too, so that logits are well apart and
no part of the arithmetic can go missing unnoticed. Everything is seeded.
"""

from __future__ import annotations

import dataclasses
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

transformers.utils.logging.disable_progress_bar()
torch.set_num_threads(1)  # these models are too small to share

VOCAB = 300
COMMON: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 96,
    "intermediate_size": 172,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "attn_implementation": "eager",
}


@dataclasses.dataclass(frozen=True)
class Tiny:
    """A tiny model: its transformers configuration class and what to set in it."""

    name: str
    kind: str  # prefix of the classes in transformers
    settings: dict[str, Any]
    gguf_architecture: str | None  # None: GGUF cannot say all that the model is
    seed: int = 0

    def __str__(self) -> str:
        return self.name


def _tiny(name: str, kind: str, gguf_architecture: str | None, **settings: Any) -> Tiny:
    return Tiny(name, kind, {**COMMON, **settings}, gguf_architecture)


def _rope(theta: float = 10000.0, **scaling: Any) -> dict[str, Any]:
    return {"rope_theta": theta, "rope_type": "default", **scaling}


LLAMA3_SCALING = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}

TINY: dict[str, Tiny] = {
    tiny.name: tiny
    for tiny in (
        # grouped-query, multi-query and plain multi-head attention; tied and untied heads
        _tiny("llama", "Llama", "llama", rope_parameters=_rope()),
        _tiny("llama-mha-tied", "Llama", "llama", num_key_value_heads=6, tie_word_embeddings=True),
        _tiny("llama-mqa", "Llama", "llama", num_attention_heads=3, num_key_value_heads=1),
        _tiny("llama-bias", "Llama", "llama", attention_bias=True, mlp_bias=True),
        _tiny("llama-linear", "Llama", "llama", rope_parameters=_rope(rope_type="linear", factor=4.0)),
        _tiny("llama31", "Llama", "llama", rope_parameters=_rope(500000.0, **LLAMA3_SCALING)),
        _tiny("mistral", "Mistral", "llama", sliding_window=8, head_dim=32),
        _tiny("qwen2", "Qwen2", "qwen2", tie_word_embeddings=True, rope_parameters=_rope(1000000.0)),
        _tiny(
            "qwen2-window",
            "Qwen2",
            None,
            num_hidden_layers=3,
            use_sliding_window=True,
            sliding_window=8,
            max_window_layers=1,
        ),
        _tiny("qwen3", "Qwen3", "qwen3", head_dim=32, rope_parameters=_rope(1000000.0)),
        _tiny(
            "gemma3",
            "Gemma3",
            "gemma3",
            num_hidden_layers=7,
            num_attention_heads=4,
            num_key_value_heads=1,
            head_dim=32,
            query_pre_attn_scalar=32,
            sliding_window=8,
            rope_parameters={
                "full_attention": _rope(1000000.0),
                "sliding_attention": _rope(10000.0),
            },
        ),
        _tiny(
            "gemma3-scaled",
            "Gemma3",
            "gemma3",
            num_hidden_layers=8,
            num_attention_heads=6,
            num_key_value_heads=2,
            head_dim=16,
            query_pre_attn_scalar=16,
            sliding_window=8,
            rope_parameters={
                "full_attention": _rope(1000000.0, rope_type="linear", factor=8.0),
                "sliding_attention": _rope(10000.0),
            },
        ),
        _tiny("gpt2", "GPT2", "gpt2", n_inner=172),
    )
}

# Rows of 32 and of 256 numbers, so that every block format of GGUF fits all matrices.
WIDE = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 8, "head_dim": 32}


def wide(name: str) -> Tiny:
    """The same family with sizes that fit the blocks of quantized formats."""
    tiny = TINY[name]
    kv_heads = 8 if name == "gpt2" else tiny.settings["num_key_value_heads"]
    sizes = {**WIDE, "num_key_value_heads": kv_heads, "n_inner": 512}
    if tiny.kind != "GPT2":
        del sizes["n_inner"]
    return dataclasses.replace(tiny, name=f"{name}-wide", settings={**tiny.settings, **sizes})


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
            return 0.4, 0.2
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
