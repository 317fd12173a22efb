"""What transformers computes on the way: the numbers of each place of a step, by forward hooks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

Values = dict[str, NDArray[np.float32]]

# Of each layer: the place, the module, and whether its input or its output is meant.
LLAMA = [
    ("attention_norm", "input_layernorm", "output"),
    ("q", "self_attn.q_proj", "output"),
    ("k", "self_attn.k_proj", "output"),
    ("v", "self_attn.v_proj", "output"),
    ("heads", "self_attn.o_proj", "input"),
    ("attention_branch", "self_attn.o_proj", "output"),
    ("after_attention", "post_attention_layernorm", "input"),
    ("mlp_norm", "post_attention_layernorm", "output"),
    ("gate", "mlp.gate_proj", "output"),
    ("up", "mlp.up_proj", "output"),
    ("inner", "mlp.down_proj", "input"),
    ("mlp_branch", "mlp.down_proj", "output"),
    ("residual", "", "output"),
]
_OTHERS = {
    "attention_branch": ("post_attention_layernorm", "output"),
    "after_attention": ("pre_feedforward_layernorm", "input"),
    "mlp_norm": ("pre_feedforward_layernorm", "output"),
    "mlp_branch": ("post_feedforward_layernorm", "output"),
}
GEMMA = [(place, *_OTHERS.get(place, (module, side))) for place, module, side in LLAMA]
GPT2 = [
    ("attention_norm", "ln_1", "output"),
    ("qkv", "attn.c_attn", "output"),
    ("heads", "attn.c_proj", "input"),
    ("attention_branch", "attn.c_proj", "output"),
    ("after_attention", "ln_2", "input"),
    ("mlp_norm", "ln_2", "output"),
    ("up", "mlp.c_fc", "output"),
    ("inner", "mlp.c_proj", "input"),
    ("mlp_branch", "mlp.c_proj", "output"),
    ("residual", "", "output"),
]


def transformers_values(folder: Path, token_ids: Sequence[int]) -> Values:
    """The numbers of each place of `boli.cpu.probing.PROBES`, in its shapes, but `q_rotated`.

    transformers rotates queries inside of its attention, where no hook reaches. Rotated keys are in its
    cache; those that a sliding window has left are NaN.
    """
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    gpt2 = model.config.model_type == "gpt2"
    places = GPT2 if gpt2 else GEMMA if model.config.model_type.startswith("gemma3") else LLAMA
    body = model.transformer if gpt2 else model.model
    layers = body.h if gpt2 else body.layers
    found: dict[str, list[NDArray[np.float32]]] = {}

    def hook(place: str, side: str) -> Any:
        def note(module: Any, inputs: Any, output: Any) -> None:
            tensor = inputs[0] if side == "input" else output
            tensor = tensor[0] if isinstance(tensor, tuple) else tensor
            found.setdefault(place, []).append(tensor.detach().reshape(len(token_ids), -1).numpy().copy())

        return note

    for layer in layers:
        for place, module, side in places:
            layer.get_submodule(module).register_forward_hook(hook(place, side))
    (body.ln_f if gpt2 else body.norm).register_forward_hook(hook("final_norm", "output"))
    with torch.no_grad():
        result = model(torch.tensor([list(token_ids)]), output_hidden_states=True, use_cache=True)
    values = {place: np.stack(rows) for place, rows in found.items() if place != "final_norm"}
    values["final_norm"] = found["final_norm"][0]
    values["embedding"] = result.hidden_states[0][0].numpy()
    if gpt2:
        values["q"], values["k"], values["v"] = np.split(values.pop("qkv"), 3, axis=-1)
    keys = [
        layer.keys[0].swapaxes(0, 1).reshape(layer.keys.shape[2], -1).numpy()
        for layer in result.past_key_values.layers
    ]
    missing = [((len(token_ids) - len(rows), 0), (0, 0)) for rows in keys]
    padded = [np.pad(k, width, constant_values=np.nan) for k, width in zip(keys, missing, strict=True)]
    values["k_rotated"] = np.stack(padded)
    return values
