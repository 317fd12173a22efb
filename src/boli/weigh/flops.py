"""Floating-point operations of a token: counted matrix by matrix, and as two conventions have them.

A multiplication and an addition are two. A matrix of `parameters` numbers costs a token
`2 · parameters`; a lookup in an embedding table costs nothing; a head costs as much whether or not
it shares the numbers of the table; of experts only those that are chosen count.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from boli.weigh.amount import Amount, amount, total
from boli.weigh.model import LayerFacts, ModelFacts
from boli.weigh.weights import LOOKED_UP, WeightsAccount

_NOT_MODELLED = (
    "norms, activations, softmax, lookups and the sampler",
    "recomputation: HFU counts it, MFU does not",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Flops:
    """Operations that one token costs.

    Attributes:
        matrices: Products with weights, forward.
        attention: Q·K and the mixing of values, forward, on average over the sequence.
        forward: Both.
        training: Forward and backward, without recomputation.
        conventions: The same by the field's rules of thumb, by name.
        not_modelled: What is missing.
    """

    matrices: Amount
    attention: Amount
    forward: Amount
    training: Amount
    conventions: Mapping[str, Amount]
    not_modelled: tuple[str, ...] = _NOT_MODELLED


def flops(weights: WeightsAccount, facts: ModelFacts, sequence_length: int) -> Flops:
    """Operations that a token costs in a sequence of that length.

    Args:
        weights: The model's weights.
        facts: The model's facts.
        sequence_length: Tokens of a sequence; attention is averaged over its positions.
    """
    multiplied = sum(
        row.active_parameters
        for row in weights.model_rows
        if len(row.shape) > 1 and row.role not in LOOKED_UP and row.role != "relative_position_bias"
    )
    matrices = amount("FLOP", "2 · multiplied_parameters", multiplied_parameters=multiplied)
    attention = _attention(facts, sequence_length)
    forward = total({"matrices": matrices, "attention": attention}, unit="FLOP")
    return Flops(
        matrices=matrices,
        attention=attention,
        forward=forward,
        training=amount("FLOP", "3 · forward", forward=forward.value, note="backward costs twice forward"),
        conventions=_conventions(weights, facts, sequence_length),
    )


def _attention(facts: ModelFacts, sequence_length: int) -> Amount:
    """Operations between a token and the positions that it sees, summed over layers that see alike."""
    alike: dict[tuple[int, int, int, float], int] = {}
    for layer in facts.layers:
        sizes = layer.num_attention_heads, layer.key_head_dim, layer.value_head_dim
        if layer.attention != "linear":
            seen = (*sizes, positions_seen(layer, sequence_length))
            alike[seen] = alike.get(seen, 0) + 1
        if layer.cross_attention:
            whole = (*sizes, float(sequence_length))
            alike[whole] = alike.get(whole, 0) + 1
    parts: dict[str, Amount] = {}
    for (heads, key, value, positions), layers in alike.items():
        parts[f"layers_{layers}_seeing_{positions:g}"] = amount(
            "FLOP",
            "2 · layers · num_attention_heads · (key_head_dim + value_head_dim) · positions",
            layers=layers,
            num_attention_heads=heads,
            key_head_dim=key,
            value_head_dim=value,
            positions=positions,
            note="positions: the mean over the sequence",
        )
    if len(parts) == 1:
        return next(iter(parts.values()))
    note = "; ".join(f"{name}: {part.explain()}" for name, part in parts.items())
    return total(parts, unit="FLOP", note=note)


def positions_seen(layer: LayerFacts, sequence_length: int) -> float:
    """Positions that a token of a sequence sees in a layer, itself included, on average."""
    if layer.attention == "bidirectional":
        return float(sequence_length)
    if layer.attention == "chunked" and layer.window is not None:
        chunks, rest = divmod(sequence_length, layer.window)
        whole = layer.window * (layer.window + 1) // 2
        return (chunks * whole + rest * (rest + 1) // 2) / sequence_length
    return seen(sequence_length, layer.window)


def seen(sequence_length: int, window: int | None) -> float:
    """Positions that a token of a sequence sees on average when it looks back.

    Args:
        sequence_length: Tokens in the sequence.
        window: The most that one sees, itself included, or None.
    """
    width = min(window or sequence_length, sequence_length)
    # The first tokens see 1, 2, …, width positions, all others the full width.
    return (width * (width + 1) // 2 + (sequence_length - width) * width) / sequence_length


def _conventions(weights: WeightsAccount, facts: ModelFacts, sequence_length: int) -> dict[str, Amount]:
    parameters = weights.active_parameters_with_embedding.value
    return {
        "6N": amount(
            "FLOP",
            "6 · parameters",
            parameters=parameters,
            note="Kaplan et al. 2020, Hoffmann et al. 2022: the embedding counts, attention does not",
        ),
        "6N + 12LHeT": amount(
            "FLOP",
            "6 · parameters + 12 · layers · num_attention_heads · head_dim · sequence_length",
            parameters=parameters,
            layers=len(facts.layers),
            num_attention_heads=facts.num_attention_heads,
            head_dim=facts.head_dim,
            sequence_length=sequence_length,
            note="Chowdhery et al. 2022 (PaLM), nanoGPT: every token attends to all positions",
        ),
    }
