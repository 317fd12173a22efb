"""Tiny models that can be traced: weights of `tiny_models`, and a vocabulary of bytes beside them."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boli.engine.llm import LLM
from boli.engine.loading import load
from boli.trace import Trace
from boli.weigh.devices import Device
from engine.toy_llm import write_tokenizer
from tiny_models import TINY, Tiny, Zoo

#: A machine whose limits need not be measured.
DEVICE = Device(name="this", kind="cpu", memory=1 << 30, bandwidth=10**9, flops={"fp32": 10**10}, source="")

FAMILIES = ("llama", "llama-bias", "mistral", "qwen2", "qwen3", "gemma3", "gpt2")


def tiny_llm(zoo: Zoo, model: str | Tiny = "llama", **settings: Any) -> LLM:
    """A tiny model with two threads and an exact cache, unless told otherwise; close it."""
    folder = zoo.folder(TINY[model] if isinstance(model, str) else model)
    if not (folder / "tokenizer.json").exists():
        write_tokenizer(folder)
    chosen: dict[str, Any] = {"threads": 2, "kv_cache_type": "f32"} | settings
    return load(folder, **chosen)


def whole(trace: Trace, name: str) -> NDArray[np.float32]:
    """A probe of all tokens, in `full` detail: `[layers, tokens, size]` or `[tokens, size]`."""
    assert trace._live is not None
    evidence = trace._live.evidence
    rows = np.stack([seen.values[name] for seen in evidence.decisions], axis=-2)
    return np.concatenate([evidence.prompt_values[name], rows], axis=-2)


def attention_of(trace: Trace, layer: int) -> NDArray[np.float32]:
    """All weights of one layer in `full` detail: `[heads, tokens, tokens]`."""
    attention = trace.layers[layer].attention
    before = attention.prompt_weights
    assert before is not None
    heads, rows, length = attention.weights.shape
    every = np.zeros((heads, length, length), np.float32)
    every[:, : length - rows, : before.shape[1]] = before
    every[:, length - rows :] = attention.weights
    return every


def lasting(document: Mapping[str, Any]) -> dict[str, Any]:
    """A document without what changes from one replay to the next: times, and which pages were lent."""
    kept = {
        key: value
        for key, value in document.items()
        if key not in ("created", "digest", "price", "prompt_steps")
    }
    kept["run"] = {
        key: value for key, value in kept["run"].items() if key not in ("created", "timings", "reused_tokens")
    }
    kept["decisions"] = [
        {key: value for key, value in decision.items() if key not in ("time", "kv")}
        for decision in kept["decisions"]
    ]
    return kept


@functools.cache
def module_of(kind: str) -> str:
    """Where a family of transformers keeps its layers."""
    return "transformer.h" if kind == "GPT2" else "model.layers"


def in_transformers(
    folder: Path, ids: list[int]
) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.float32]]:
    """Every intermediate as transformers computes it, in float32, and the attention.

    Returns:
        By probe `[layers, tokens, size]`, as far as a module has it as its input or output; and the
        attention `[layers, heads, tokens, tokens]`.
    """
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    seen: dict[str, list[Any]] = {}
    layers = model.get_submodule(module_of("GPT2" if model.config.model_type == "gpt2" else ""))
    for layer in layers:
        for path, output, given in _places(model.config.model_type):
            layer.get_submodule(path).register_forward_hook(_noting(seen, output, given)) if path else (
                layer.register_forward_hook(_noting(seen, output, given))
            )
    with torch.no_grad():
        result = model(torch.tensor([ids]), output_attentions=True, output_hidden_states=True)
    values = {name: np.stack([each.numpy() for each in found]) for name, found in seen.items()}
    if "qkv" in values:
        values["q"], values["k"], values["v"] = np.split(values.pop("qkv"), 3, axis=-1)
    values["embedding"] = result.hidden_states[0][0].numpy()
    return values, np.stack([each[0].numpy() for each in result.attentions])


def _places(kind: str) -> list[tuple[str, str, str]]:
    """Modules of a layer, what their output is, and what their input is."""
    if kind == "gpt2":
        return [
            ("ln_1", "attention_norm", ""), ("attn.c_attn", "qkv", ""),
            ("attn.c_proj", "attention_branch", "heads"), ("ln_2", "mlp_norm", "after_attention"),
            ("mlp.c_fc", "up", ""), ("mlp.c_proj", "mlp_branch", "inner"), ("", "residual", ""),
        ]  # fmt: skip
    places = [
        ("input_layernorm", "attention_norm", ""), ("self_attn.q_proj", "q", ""),
        ("self_attn.k_proj", "k", ""), ("self_attn.v_proj", "v", ""), ("mlp.gate_proj", "gate", ""),
        ("mlp.up_proj", "up", ""), ("", "residual", ""),
    ]  # fmt: skip
    if kind == "gemma3_text":
        return [
            *places, ("self_attn.o_proj", "", "heads"), ("post_attention_layernorm", "attention_branch", ""),
            ("pre_feedforward_layernorm", "mlp_norm", "after_attention"), ("mlp.down_proj", "", "inner"),
            ("post_feedforward_layernorm", "mlp_branch", ""),
        ]  # fmt: skip
    return [
        *places, ("self_attn.o_proj", "attention_branch", "heads"),
        ("post_attention_layernorm", "mlp_norm", "after_attention"),
        ("mlp.down_proj", "mlp_branch", "inner"),
    ]  # fmt: skip


def _noting(seen: dict[str, list[Any]], output: str, given: str) -> Any:
    def note(_module: Any, arguments: Any, result: Any) -> None:
        if output:
            seen.setdefault(output, []).append(
                (result[0] if isinstance(result, tuple) else result).detach()[0]
            )
        if given:
            seen.setdefault(given, []).append(arguments[0].detach()[0])

    return note
