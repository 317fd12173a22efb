"""The parameters of transformers' own classes, made without memory, and what boli calls them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import prod
from typing import Any

import torch
import transformers

from boli.blueprint import Blueprint
from boli.blueprint.described.reading import MODEL_TYPES

Shapes = dict[str, tuple[int, ...]]

# No class of transformers: the code came with the model, or before there was any.
WITHOUT_A_CLASS = {"ChatGLMModel", "ChatGLMForConditionalGeneration", "Transformer"}
# The name of a checkpoint is not always that of the class which reads it.
_CLASSES = {"PhiMoEForCausalLM": "PhimoeForCausalLM"}
_MODEL_TYPES = {"kimi_k2": "deepseek_v3"}
# Gate and up of all experts in one tensor, whatever the checkpoint has; where it has them in one too, the
# class keeps them as (in, out).
_TRANSPOSED = {"gpt_oss", "llama4"}
_RENAMED: Mapping[str, tuple[tuple[str, str], ...]] = {
    "mixtral": ((r"\.block_sparse_moe\.", ".mlp."),),
    "minimax_m2": ((r"\.block_sparse_moe\.", ".mlp."),),
    "phimoe": ((r"\.block_sparse_moe\.gate", ".mlp.router"), (r"\.block_sparse_moe\.", ".mlp.")),
    "gpt_neox": ((r"^embed_out", "lm_head"),),
}


def model_class(architecture: str) -> Any:
    """The class in transformers."""
    return getattr(transformers, _CLASSES.get(architecture, architecture))


def of_transformers(config: Mapping[str, Any]) -> Shapes:
    """Names and shapes of a model's parameters, and of what else its checkpoint must hold."""
    fields = {
        key: value for key, value in config.items() if key not in ("torch_dtype", "quantization_config")
    }
    architecture = fields["architectures"][0]
    kind = fields.pop("model_type")
    if kind == "exaone4" and fields.get("sliding_window") is None:  # the class would divide by zero
        fields["layer_types"] = ["full_attention"] * fields["num_hidden_layers"]
    settings = transformers.CONFIG_MAPPING[_MODEL_TYPES.get(kind, kind)](**fields)
    with torch.device("meta"):
        model = model_class(architecture)(settings)
    shapes = {name: tuple(each.shape) for name, each in model.named_parameters()}
    kept = model.state_dict().keys()
    return shapes | {name: tuple(each.shape) for name, each in model.named_buffers() if name in kept}


def of_boli(blueprint: Blueprint) -> Shapes:
    """The same of a blueprint, under the names that transformers 5 has for them."""
    family = blueprint.config.family
    shapes: Shapes = {}
    for weight in blueprint:
        if weight.tied_to:
            continue
        name, shape = weight.name, weight.shape
        for pattern, replacement in _RENAMED.get(family, ()):
            name = re.sub(pattern, replacement, name)
        if weight.role in ("expert_gate", "expert_up"):
            name = re.sub(r"(gate_proj|up_proj|w1|w3)\.weight$", "gate_up_proj", name)
            shape = (shape[0], 2 * shape[1], shape[2])
            assert shapes.get(name, shape) == shape, "gate and up are alike"
        elif weight.role == "expert_down":
            name = re.sub(r"(down_proj|w2)(\.weight)?$", "down_proj", name)
        if family in _TRANSPOSED and weight.role in ("expert_gate_up", "expert_down"):
            shape = (shape[0], shape[2], shape[1])
        if family == "gpt2" and len(shape) == 2 and weight.layer is not None:
            shape = shape[::-1]
        shapes[name] = shape
    return shapes


def count(shapes: Shapes) -> int:
    """How many numbers they hold."""
    return sum(prod(shape) for shape in shapes.values())


def architecture_of(config: Mapping[str, Any]) -> str:
    """The architecture that a configuration names."""
    named = config.get("architectures")
    return str(named[0]) if named else MODEL_TYPES[str(config["model_type"])]
