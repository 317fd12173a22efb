"""What one step of a model reads from memory and computes, decoding or reading a prompt.

Decoding reads all weights for each step, whatever the batch, except the input embedding, of which
it looks up a few rows; a tied table is read whole, as the head. Of experts it reads those that some
token chose. Of an encoder-decoder model, the prompt goes through the encoder and the answer through
the decoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any, Literal

from boli.blueprint.weights import Weight
from boli.weigh.amount import Amount, amount, total
from boli.weigh.flops import positions_seen
from boli.weigh.model import LayerFacts, Model, ModelFacts
from boli.weigh.weights import LOOKED_UP, OF_EXPERTS

Phase = Literal["decode", "prefill"]


def streamed(model: Model, bytes_of: Mapping[str, int], tokens: int, phase: Phase) -> Amount:
    """Bytes of weights that a step reads.

    Args:
        model: The model.
        bytes_of: Bytes of each weight, by the blueprint's name; of a tied one, of what it is tied to.
        tokens: How many go through the experts.
        phase: Which.
    """
    dense = experts = 0
    for weight in model.blueprint:
        if _works(weight, model, phase):
            size = bytes_of[weight.tied_to or weight.name]
            if weight.role in OF_EXPERTS:
                experts += size
            else:
                dense += size
    config = model.blueprint.config.experts
    if not experts or config is None:
        return amount("bytes", "weights_without_embedding", weights_without_embedding=dense)
    inputs: dict[str, Any] = {
        "rest": dense,
        "experts": experts,
        "chosen": config.num_experts_per_tok,
        "num_experts": config.num_experts,
    }
    if tokens == 1:
        return amount("bytes", "rest + experts · chosen / num_experts", **inputs)
    return amount(
        "bytes",
        "rest + experts · (1 - (1 - chosen / num_experts) ** tokens)",
        certainty="assumed",
        note="as if each token drew its experts by lot",
        tokens=tokens,
        **inputs,
    )


def products(model: Model, phase: Phase) -> tuple[int, int]:
    """How many weights one token is multiplied with: in the layers, and in the head."""
    layers = head = 0
    for weight in model.blueprint:
        if len(weight.shape) > 1 and weight.role != "relative_position_bias" and _works(weight, model, phase):
            numbers = prod(weight.shape)
            experts = model.blueprint.config.experts
            if weight.role in OF_EXPERTS and experts is not None:
                numbers = numbers // experts.num_experts * experts.num_experts_per_tok
            if weight.role == "head":
                head += numbers
            else:
                layers += numbers
    return layers, head


def decode_flop(model: Model, facts: ModelFacts, context: int) -> Amount:
    """Operations of one decoded token that looks back on `context` positions."""
    layers, head = products(model, "decode")
    parts: dict[str, Amount] = {"matrices": amount("FLOP", "2 · (layers + head)", layers=layers, head=head)}
    for layer in facts.layers:
        if layer.attention not in ("linear", "bidirectional"):
            _add(parts, layer, _decoded_width(layer, facts), min(context, layer.window or context))
        if layer.cross_attention:
            _add(parts, layer, layer.key_head_dim + layer.value_head_dim, context)
    return total(parts, unit="FLOP")


def prefill_flop(model: Model, facts: ModelFacts, requests: int, prompt: int) -> Amount:
    """Operations of reading prompts; the head is computed for the last token of each."""
    layers, head = products(model, "prefill")
    parts: dict[str, Amount] = {}
    for layer in facts.layers:
        if layer.attention != "linear" and _reads_prompts(layer, facts):
            _add(parts, layer, layer.key_head_dim + layer.value_head_dim, positions_seen(layer, prompt))
    attention = total(parts, unit="FLOP")
    return amount(
        "FLOP",
        "requests · (prompt · (2 · layers + attention) + 2 · head)",
        requests=requests,
        prompt=prompt,
        layers=layers,
        attention=attention.value,
        head=head,
        note=f"attention of a token on average: {attention.explain()}" if parts else "",
    )


def _decoded_width(layer: LayerFacts, facts: ModelFacts) -> int:
    """Numbers of each position that one head multiplies with."""
    if layer.attention == "mla" and facts.mla is not None:
        # Queries are taken into the latent space, so that the cache is read as it is.
        return 2 * facts.mla.kv_lora_rank + facts.mla.qk_rope_head_dim
    return layer.key_head_dim + layer.value_head_dim


def _add(parts: dict[str, Amount], layer: LayerFacts, width: int, positions: float) -> None:
    """Counts a layer with those that attend alike."""
    name = f"attention_{layer.num_attention_heads}_{width}_{positions:g}"
    before = parts.get(name)
    parts[name] = amount(
        "FLOP",
        "2 · layers · num_attention_heads · numbers_of_a_position · positions",
        layers=1 if before is None else int(before.inputs["layers"]) + 1,
        num_attention_heads=layer.num_attention_heads,
        numbers_of_a_position=width,
        positions=positions,
    )


def _reads_prompts(layer: LayerFacts, facts: ModelFacts) -> bool:
    return facts.layout != "encoder-decoder" or layer.attention == "bidirectional"


def _works(weight: Weight, model: Model, phase: Phase) -> bool:
    """Whether a weight is read in a phase."""
    if weight.role in LOOKED_UP:
        return False
    config = model.blueprint.config
    if config.layout != "encoder-decoder":
        return True
    encoder = weight.layer is not None and weight.layer < config.num_encoder_layers
    # What cross-attention keeps of the source is computed once, when the source was read.
    for_prompt = encoder or weight.role in ("cross_k", "cross_v")
    return for_prompt if phase == "prefill" else not for_prompt
