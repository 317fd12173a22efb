"""LoRA: two thin matrices beside a frozen one. QLoRA: the frozen one in four bits.

Hu et al. 2021, https://arxiv.org/abs/2106.09685; Dettmers et al. 2023,
https://arxiv.org/abs/2305.14314. A matrix of `(out, in)` gets `rank · (in + out)` new parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Final

from boli.blueprint.weights import Role
from boli.errors import UsageError
from boli.weigh.amount import Amount, amount, total
from boli.weigh.weights import WeightsAccount

_ALL_LINEAR: Final[tuple[Role, ...]] = (
    "q", "k", "v", "qkv", "o", "q_a", "q_b", "kv_a", "kv_b",
    "cross_q", "cross_k", "cross_v", "cross_o", "linear_in", "linear_gates", "linear_out",
    "gate", "up", "gate_up", "down", "shared_gate", "shared_up", "shared_down",
    "expert_gate", "expert_up", "expert_gate_up", "expert_down",
)  # fmt: skip

#: Which matrices get adapters. Where q and v lie in one matrix with k, that one does.
TARGETS: Final[Mapping[str, frozenset[Role]]] = {
    "q,v": frozenset({"q", "v", "qkv"}),
    "attention": frozenset({"q", "k", "v", "o", "qkv", "q_a", "q_b", "kv_a", "kv_b"}),
    "all-linear": frozenset(_ALL_LINEAR),
    "all-linear,head": frozenset((*_ALL_LINEAR, "head")),
}

LARGEST_RANK = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapters:
    """Adapters beside a model's matrices.

    Attributes:
        rank: Their inner width.
        roles: The matrices that have one.
        parameters: Of all of them.
        states: Their weights, gradients, master copies and Adam states.
        frozen: The model's weights in 16 bits.
        frozen_nf4: The same with matrices in NF4, double quantization included; embeddings, norms,
            biases and the head stay in 16 bits.
        dequantized: The largest matrix of NF4 as 16-bit numbers, while it is multiplied with.
        middles: Numbers between the two matrices of all adapters, for each token.
    """

    rank: int
    roles: frozenset[Role]
    parameters: Amount
    states: Amount
    frozen: Amount
    frozen_nf4: Amount
    dequantized: Amount
    middles: int


def adapters(weights: WeightsAccount, rank: int, targets: str) -> Adapters:
    """The account of LoRA and QLoRA.

    Args:
        weights: The model's weights.
        rank: Inner width of the adapters.
        targets: A key of `TARGETS`.

    Raises:
        UsageError: There are no such targets, or the rank is out of range.
    """
    if targets not in TARGETS:
        raise UsageError(
            f"there are no LoRA targets '{targets}'", remedy="choose one of: " + "  ".join(TARGETS)
        )
    if not 1 <= rank <= LARGEST_RANK:
        raise UsageError(f"the rank of LoRA is {rank}", remedy=f"give a number from 1 to {LARGEST_RANK}")
    roles = TARGETS[targets]
    shapes: dict[tuple[Role, tuple[int, ...]], int] = {}
    for row in weights.model_rows:
        if row.role in roles:
            shapes[row.role, row.shape] = shapes.get((row.role, row.shape), 0) + prod(row.shape[:-2])
    parts = {
        f"{role}_{out_features}x{in_features}": amount(
            "parameters",
            "matrices · rank · (in_features + out_features)",
            matrices=matrices,
            rank=rank,
            in_features=in_features,
            out_features=out_features,
        )
        for (role, (*_, out_features, in_features)), matrices in shapes.items()
    }
    parameters = total(parts, unit="parameters")
    return Adapters(
        rank=rank,
        roles=roles,
        parameters=parameters,
        states=amount(
            "bytes",
            "(2 + 2 + 12) · adapter_parameters",
            adapter_parameters=parameters.value,
            note="the same with fp32 adapters: 4 + 4 + 8",
        ),
        frozen=amount("bytes", "2 · parameters", parameters=weights.parameters.value),
        **_nf4(weights),
        middles=rank * sum(shapes.values()),
    )


def _nf4(weights: WeightsAccount) -> dict[str, Amount]:
    """The frozen weights in NF4: 4 bits, 8 for each block of 64, 32 for each 256 blocks."""
    matrices = [prod(row.shape) for row in weights.model_rows if row.role in _ALL_LINEAR]
    blocks = [-(-numbers // 64) for numbers in matrices]
    frozen = amount(
        "bytes",
        "ceil(quantized / 2) + blocks_of_64 + 4 · groups_of_256_blocks + 2 · others",
        quantized=sum(matrices),
        blocks_of_64=sum(blocks),
        groups_of_256_blocks=sum(-(-count // 256) for count in blocks),
        others=weights.parameters.value - sum(matrices),
    )
    largest = max(matrices, default=0)
    return {
        "frozen_nf4": frozen,
        "dequantized": amount("bytes", "2 · largest_matrix", largest_matrix=largest),
    }
