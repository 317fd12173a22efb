"""What training keeps of the forward pass for the backward pass, tensor by tensor.

A layer's weights tell it: a matrix needs its input to get its gradient, a norm its input, attention
its queries, keys and values, an activation what went in. For GPT's block this gives
`s·b·h·(34 + 5·a·s/h)` bytes, as in Korthikanti et al. 2022, https://arxiv.org/abs/2205.05198; for
Llama's block `2·s·b·(4·d + 2·H·e + 2·K·e + 4·f)`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from boli.blueprint.weights import Role, Weight
from boli.weigh.amount import Amount, amount, total
from boli.weigh.model import LayerFacts, Model, ModelFacts

Attention = Literal["flash", "eager"]
Norms = Literal["fused", "eager"]
Recompute = Literal["none", "selective", "full"]

# Matrices that read one and the same tensor, which is kept once for all of them.
_READERS: Mapping[str, tuple[Role, ...]] = {
    "attention input": ("q", "k", "v", "qkv", "q_a", "kv_a", "linear_in", "linear_gates"),
    "latent of the queries": ("q_b",),
    "latent of keys and values": ("kv_b",),
    "cross-attention input": ("cross_q",),
    "MLP input": ("gate", "up", "gate_up", "router", "shared_gate", "shared_up"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One forward pass of training.

    Attributes:
        micro_batch: Sequences that go through the model at once.
        sequence_length: Tokens in each of them.
        bytes: Of one number of an activation: 2 in 16-bit training, 4 in fp32.
        attention: "flash" never stores the scores; "eager" keeps them, `sequence_length²` a head.
        norms: "fused" keeps a norm's input; "eager", as in transformers, also the normalized
            numbers, and the input as fp32.
        dropout: One byte for each number that dropout may drop.
        recompute: "selective" computes the scores again, "full" each layer from its input.
        trained: Roles of the matrices that have a gradient or an adapter; None for all.
        adapter_numbers: Numbers a token between the two matrices of all adapters.
    """

    micro_batch: int
    sequence_length: int
    bytes: int = 2
    attention: Attention = "flash"
    norms: Norms = "fused"
    dropout: bool = False
    recompute: Recompute = "none"
    trained: frozenset[Role] | None = None
    adapter_numbers: int = 0

    def trains(self, roles: Iterable[Role]) -> bool:
        """Whether any matrix of these roles needs its input."""
        return self.trained is None or not self.trained.isdisjoint(roles)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptByLayers:
    """What each of some equal layers keeps.

    Attributes:
        layers: Their numbers.
        tensors: Bytes of every tensor that one of them keeps.
        layer: Bytes that one of them keeps.
        whole: Bytes of one of them without full recomputation, which has one at a time.
    """

    layers: tuple[int, ...]
    tensors: Mapping[str, Amount]
    layer: Amount
    whole: Amount


@dataclass(frozen=True, slots=True, kw_only=True)
class Activations:
    """All that is kept of a forward pass, the loss not included.

    Attributes:
        groups: The layers, equal ones together.
        layers: What they keep together.
        outside: What the final norm, the head and adapters keep.
        recomputed: What the largest layer keeps, which full recomputation brings back one at a
            time; it comes on top. None where layers are not computed again.
        bytes: Layers and outside.
        not_modelled: What is missing from it.
    """

    groups: tuple[KeptByLayers, ...]
    layers: Amount
    outside: Amount
    recomputed: Amount | None
    bytes: Amount
    not_modelled: tuple[str, ...]


def activations(model: Model, facts: ModelFacts, run: Pass) -> Activations:
    """What a forward pass keeps for the backward pass.

    Args:
        model: The model.
        facts: Its facts, which must be known.
        run: The forward pass.
    """
    roles: dict[int, dict[Role, Weight]] = {}
    for weight in model.blueprint:
        if weight.layer is not None:
            roles.setdefault(weight.layer, {})[weight.role] = weight
    groups = tuple(_groups(facts, roles, run))
    layers = total({f"layers_from_{group.layers[0]}": _times(group) for group in groups})
    outside = _outside(facts, run)
    full = run.recompute == "full" and groups
    return Activations(
        groups=groups,
        layers=layers,
        outside=outside,
        recomputed=max((group.whole for group in groups), key=lambda whole: whole.value) if full else None,
        bytes=total({"layers": layers, "outside": outside}),
        not_modelled=tuple(_not_modelled(facts)),
    )


def _groups(
    facts: ModelFacts, roles: Mapping[int, Mapping[Role, Weight]], run: Pass
) -> Iterator[KeptByLayers]:
    """Layers that keep the same, together."""
    alike: dict[object, list[int]] = {}
    for layer in facts.layers:
        shapes = tuple((role, weight.shape) for role, weight in roles.get(layer.index, {}).items())
        kind = "linear" if layer.attention == "linear" else "softmax"
        alike.setdefault((shapes, kind, layer.cross_attention, layer.experts), []).append(layer.index)
    for indices in alike.values():
        first = facts.layers[indices[0]]
        tensors = dict(_layer(facts, first, roles.get(first.index, {}), run))
        whole = total(tensors)
        if run.recompute == "full":
            tensors = {"layer input": _of(run, "hidden_size", hidden_size=facts.hidden_size)}
        yield KeptByLayers(layers=tuple(indices), tensors=tensors, layer=total(tensors), whole=whole)


def _times(group: KeptByLayers) -> Amount:
    return amount(
        "bytes",
        "layers · bytes_of_one",
        certainty="calibrated",
        note="within 10 % of what PyTorch keeps, as boli's tests measure",
        layers=len(group.layers),
        bytes_of_one=group.layer.value,
    )


def _layer(
    facts: ModelFacts, layer: LayerFacts, weights: Mapping[Role, Weight], run: Pass
) -> Iterator[tuple[str, Amount]]:
    """The tensors that one layer keeps, each with its bytes."""
    for role, weight in weights.items():
        if role.endswith("_norm"):
            yield from _norm(facts, layer, weight, run)
    for name, readers in _READERS.items():
        found = [role for role in readers if role in weights]
        same_input = name == "MLP input" and facts.parallel and "mlp_norm" not in weights
        if found and run.trains(found) and not same_input:
            yield name, _of(run, "in_features", in_features=weights[found[0]].shape[-1])
    if layer.attention != "linear":
        yield from _attention(layer, run)
    if layer.cross_attention:
        for name, kept in _attention(layer, run):
            yield f"cross-attention {name}", kept
    yield from _mlp(facts, layer, weights, run)
    if run.dropout:
        masks = 3 if layer.cross_attention else 2
        yield (
            "masks of dropout",
            _of(run, "masks · hidden_size", 1, masks=masks, hidden_size=facts.hidden_size),
        )


def _norm(facts: ModelFacts, layer: LayerFacts, weight: Weight, run: Pass) -> Iterator[tuple[str, Amount]]:
    """A norm's input and, if it is computed in pieces, the normalized numbers."""
    width, role = weight.shape[-1], weight.role
    heads = {"q_norm": layer.num_attention_heads, "k_norm": layer.num_key_value_heads}.get(role, 1)
    if width not in (layer.key_head_dim, layer.value_head_dim):
        heads = 1  # one norm over all heads together
    name, row = role.replace("_", " "), {"heads": heads, "numbers": width}
    pieces = run.norms == "eager" and facts.norm == "rms"
    yield f"{name} input", _of(run, "heads · numbers", 4 if pieces else run.bytes, **row)
    if pieces and run.trained is None:  # only the norm's own gradient needs them
        # Gemma multiplies by 1 + w, and does so in fp32.
        size = 4 if weight.safetensors.transform == "plus_one" else run.bytes
        yield f"{name} normalized", _of(run, "heads · numbers", size, **row)


def _attention(layer: LayerFacts, run: Pass) -> Iterator[tuple[str, Amount]]:
    """What softmax(QKᵀ)V keeps."""
    heads, kv_heads = layer.num_attention_heads, layer.num_key_value_heads
    if run.attention == "eager":
        kv_heads = heads  # keys and values are repeated for each head of queries
    key, value = layer.key_head_dim, layer.value_head_dim
    yield "Q", _of(run, "num_attention_heads · head_dim", num_attention_heads=heads, head_dim=key)
    yield "K", _of(run, "num_key_value_heads · head_dim", num_key_value_heads=kv_heads, head_dim=key)
    yield "V", _of(run, "num_key_value_heads · head_dim", num_key_value_heads=kv_heads, head_dim=value)
    out = _of(run, "num_attention_heads · head_dim", num_attention_heads=heads, head_dim=value)
    yield "attention output", out
    if run.attention == "flash":
        logarithms = _of(run, "num_attention_heads", 4, num_attention_heads=heads)
        yield "logarithms of the softmax's sums", logarithms
    elif run.recompute == "none":
        scores = "num_attention_heads · sequence_length"
        soft = 4 + 2 if run.norms == "eager" and run.bytes == 2 else run.bytes
        yield "softmax", _of(run, scores, soft, num_attention_heads=heads)
        if run.dropout:
            yield "mask of the softmax", _of(run, scores, 1, num_attention_heads=heads)
            yield "softmax after dropout", _of(run, scores, num_attention_heads=heads)


def _mlp(
    facts: ModelFacts, layer: LayerFacts, weights: Mapping[Role, Weight], run: Pass
) -> Iterator[tuple[str, Amount]]:
    """What the MLP, or the experts that a token goes through, keep."""
    if "down" in weights:
        width = weights["down"].shape[-1]
        yield from _inner(facts, run, "MLP", "intermediate_size", ("down",), intermediate_size=width)
    if "shared_down" in weights:
        width = weights["shared_down"].shape[-1]
        name = "shared_intermediate_size"
        yield from _inner(facts, run, "shared expert", name, ("shared_down",), shared_intermediate_size=width)
    if layer.experts and facts.experts is not None:
        chosen, width = facts.experts.num_experts_per_tok, facts.experts.moe_intermediate_size
        routed = "num_experts_per_tok · "
        if run.trains(("expert_gate", "expert_up", "expert_gate_up")):
            yield (
                "experts' inputs",
                _of(run, routed + "hidden_size", num_experts_per_tok=chosen, hidden_size=facts.hidden_size),
            )
        yield from _inner(
            facts,
            run,
            "experts'",
            routed + "moe_intermediate_size",
            ("expert_down",),
            num_experts_per_tok=chosen,
            moe_intermediate_size=width,
        )
        yield (
            "experts' outputs",
            _of(run, routed + "hidden_size", num_experts_per_tok=chosen, hidden_size=facts.hidden_size),
        )


def _inner(
    facts: ModelFacts, run: Pass, whose: str, width: str, down: tuple[Role, ...], **inputs: int
) -> Iterator[tuple[str, Amount]]:
    """What lies between the first matrices of an MLP and its last."""
    if facts.gated_mlp:
        names: tuple[str, ...] = ("gate", "activated gate", "up")
    else:
        # ReLU's derivative can be read off its result, which the last matrix keeps anyway.
        names = ("before the activation",) if facts.activation != "relu" else ()
    for name in names:
        yield f"{whose} {name}", _of(run, width, **inputs)
    if run.trains(down) or facts.activation == "relu":
        yield f"{whose} last input", _of(run, width, **inputs)


def _outside(facts: ModelFacts, run: Pass) -> Amount:
    """What the final norm and the head keep; an encoder has both only where it predicts words."""
    norm = run.bytes
    if run.norms == "eager" and facts.norm == "rms":
        norm = 4 + (run.bytes if run.trained is None else 0)
    return amount(
        "bytes",
        "micro_batch · sequence_length · (hidden_size · (norm + head) + adapter_numbers · bytes)",
        certainty="calibrated",
        micro_batch=run.micro_batch,
        sequence_length=run.sequence_length,
        hidden_size=facts.hidden_size,
        norm=norm,
        head=run.bytes if run.trains(("head",)) else 0,
        adapter_numbers=run.adapter_numbers,
        bytes=run.bytes,
    )


def _of(run: Pass, row: str, size: int | None = None, **inputs: int) -> Amount:
    """Bytes of one tensor with a row of numbers for each token."""
    if "sequence_length" in row:
        formula = f"micro_batch · {row} · sequence_length · bytes"
    else:
        formula = f"micro_batch · sequence_length · {row} · bytes"
    size = run.bytes if size is None else size
    shared = {"micro_batch": run.micro_batch, "sequence_length": run.sequence_length, "bytes": size}
    return amount("bytes", formula, {**inputs, **shared})


def _not_modelled(facts: ModelFacts) -> Iterator[str]:
    yield "gradients of activations while the backward pass is in a layer"
    yield "statistics of norms, 4 or 8 bytes a token each"
    yield "tensor, sequence and pipeline parallelism"
    if facts.experts is not None:
        yield "probabilities and indices of the router; experts that get more tokens than others"
    linear = sum(layer.attention == "linear" for layer in facts.layers)
    if linear:
        yield f"what the state of linear attention keeps, in {linear} layers"
    if facts.layout == "encoder-decoder":
        yield "a source that is not as long as the target"
