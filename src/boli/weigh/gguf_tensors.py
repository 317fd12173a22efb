"""The tensors of a model in a GGUF file, as llama.cpp's converter lays them out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Final, Literal, NamedTuple

from boli.blueprint.weights import Role
from boli.weigh.model import Model

Place = Literal["head", "embedding", "q", "k", "v", "qkv", "o", "gate", "up", "down", "other"]

_PLACES: Final[Mapping[Role, Place]] = MappingProxyType({
    "head": "head", "embedding": "embedding",
    "q": "q", "cross_q": "q", "k": "k", "cross_k": "k", "v": "v", "cross_v": "v", "qkv": "qkv", "o": "o",
    "gate": "gate", "expert_gate": "gate", "shared_gate": "gate",
    "up": "up", "gate_up": "up", "expert_up": "up", "expert_gate_up": "up", "shared_up": "up",
    "down": "down", "expert_down": "down", "shared_down": "down",
})  # fmt: skip
_ALWAYS_F32: Final[frozenset[Role]] = frozenset({
    "position_embedding", "token_type_embedding", "router", "shared_router", "conv",
    "relative_position_bias",
})  # fmt: skip


class GgufTensor(NamedTuple):
    """A tensor that the GGUF file of a model has.

    Attributes:
        name: Its name in the file where the family has one, or the weight's.
        weight: Name of the blueprint's weight; two tensors may come from one.
        place: Which rule it falls under.
        layer: Its layer, or None.
        shape: The outermost dimension first.
        plain: It is never quantized: a vector, a norm, a router, a table of positions.
    """

    name: str
    weight: str
    place: Place
    layer: int | None
    shape: tuple[int, ...]
    plain: bool


def tensors_of(model: Model) -> tuple[GgufTensor, ...]:
    """The tensors of the model's weights in a GGUF file, in the blueprint's order."""
    return tuple(_tensors(model))


def extra_numbers(model: Model) -> int:
    """Float32 numbers that a GGUF file has besides the weights: divisors of stretched rotary embeddings."""
    rope = model.blueprint.config.rope
    if rope is None:
        return 0
    tables = 1 if rope.scaling.startswith("llama3") else 2 if rope.scaling.startswith("longrope") else 0
    return tables * rope.dim // 2


def _tensors(model: Model) -> Iterator[GgufTensor]:
    mla = model.blueprint.config.mla
    for weight in model.blueprint:
        if weight.tied_to:
            continue
        place = _PLACES.get(weight.role, "other")
        plain = len(weight.shape) < 2 or weight.role in _ALWAYS_F32 or "norm" in weight.role
        plain = plain or weight.role.endswith("bias")
        name = next(iter(weight.gguf.names), weight.name)
        if weight.role == "kv_b" and mla is not None:
            # One tensor a use: keys are taken into the query (transposed), values out of the sum.
            heads = weight.shape[0] // (mla.qk_nope_head_dim + mla.v_head_dim)
            keys = (heads, mla.kv_lora_rank, mla.qk_nope_head_dim)
            values = (heads, mla.v_head_dim, mla.kv_lora_rank)
            yield GgufTensor(f"{name} (k)", weight.name, place, weight.layer, keys, plain)
            yield GgufTensor(f"{name} (v)", weight.name, place, weight.layer, values, plain)
        elif weight.role == "expert_gate_up":
            experts, rows, columns = weight.shape
            for part in ("gate", "up"):
                half = (experts, rows // 2, columns)
                yield GgufTensor(f"{name} ({part})", weight.name, part, weight.layer, half, plain)
        else:
            yield GgufTensor(name, weight.name, place, weight.layer, weight.shape, plain)
