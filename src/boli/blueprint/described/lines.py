"""A weight as one line of a table, and a model as a few such tables.

    ("gate", "mlp.gate_proj.weight", "ffn_gate", "f d")

reads: its role; its name in the checkpoint, inside the layer; its name in GGUF, without `.weight`; and its
shape in the symbols of a family: V vocabulary, P positions, d hidden size, f MLP, e head, H heads, K heads of
keys and values, q = H·e, k = K·e, E experts, m one expert's MLP, s the shared one's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import cast

from boli.blueprint.config import Config
from boli.blueprint.weights import Blueprint, Role, Stored, Weight

Line = tuple[Role, str, str, str]
Lines = tuple[Line, ...]
Symbols = Mapping[str, int]


def linear(role: Role, name: str, gguf: str, shape: str, *, bias: bool = False) -> Lines:
    """A matrix, and its bias if it has one."""
    weight: Line = (role, f"{name}.weight", gguf, shape)
    if not bias:
        return (weight,)
    return weight, (cast("Role", f"{role}_bias"), f"{name}.bias", gguf, shape.split(maxsplit=1)[0])


def norm(role: Role, name: str, gguf: str, size: str = "d", *, bias: bool = False) -> Lines:
    """A norm's weight, and the bias that a LayerNorm may have."""
    weight: Line = (role, f"{name}.weight", gguf, size)
    return (weight, (cast("Role", f"{role}_bias"), f"{name}.bias", gguf, size)) if bias else (weight,)


def separate_qkv(*, bias: bool = False, inside: str = "self_attn.", names: str = "{}_proj") -> Lines:
    """Three matrices for queries, keys and values."""
    lines: Lines = ()
    for x, rows in (("q", "q"), ("k", "k"), ("v", "k")):
        lines += linear(cast("Role", x), inside + names.format(x), f"attn_{x}", f"{rows} d", bias=bias)
    return lines


def gated_mlp(*, bias: bool = False, inside: str = "mlp.", width: str = "f") -> Lines:
    """Gate, up and down."""
    return (
        *linear("gate", f"{inside}gate_proj", "ffn_gate", f"{width} d", bias=bias),
        *linear("up", f"{inside}up_proj", "ffn_up", f"{width} d", bias=bias),
        *linear("down", f"{inside}down_proj", "ffn_down", f"d {width}", bias=bias),
    )


def plain_mlp(up: str, down: str, *, bias: bool = True) -> Lines:
    """Two matrices with an activation between them."""
    return *linear("up", up, "ffn_up", "f d", bias=bias), *linear("down", down, "ffn_down", "d f", bias=bias)


def experts(inside: str, gate: str = "gate_proj", up: str = "up_proj", down: str = "down_proj") -> Lines:
    """The experts' three matrices, each for all experts of the layer."""
    return (
        ("expert_gate", f"{inside}experts.{gate}.weight", "ffn_gate_exps", "E m d"),
        ("expert_up", f"{inside}experts.{up}.weight", "ffn_up_exps", "E m d"),
        ("expert_down", f"{inside}experts.{down}.weight", "ffn_down_exps", "E d m"),
    )


def shared_expert(inside: str) -> Lines:
    """What every token goes through besides the experts that were chosen for it."""
    return (
        ("shared_gate", f"{inside}gate_proj.weight", "ffn_gate_shexp", "s d"),
        ("shared_up", f"{inside}up_proj.weight", "ffn_up_shexp", "s d"),
        ("shared_down", f"{inside}down_proj.weight", "ffn_down_shexp", "d s"),
    )


def symbols_of(config: Config) -> dict[str, int]:
    """What the symbols of shapes mean for this configuration."""
    symbols = {
        "V": config.vocab_size, "P": config.max_position_embeddings, "d": config.hidden_size,
        "f": config.intermediate_size, "e": config.head_dim, "H": config.num_attention_heads,
        "K": config.num_key_value_heads, "q": config.num_attention_heads * config.head_dim,
        "k": config.num_key_value_heads * config.head_dim, "1": 1,
    }  # fmt: skip
    symbols["qkv"] = symbols["q"] + 2 * symbols["k"]
    symbols["2f"] = 2 * symbols["f"]
    if config.experts is not None:
        symbols["E"] = config.experts.num_experts
        symbols["m"] = config.experts.moe_intermediate_size
        symbols["2m"] = 2 * symbols["m"]
        symbols["s"] = config.experts.shared_intermediate_size
    return symbols


def weights(
    lines: Lines, symbols: Symbols, prefix: str = "", layer: int | None = None, block: str | None = None
) -> Iterator[Weight]:
    """The weights of some lines.

    Args:
        lines: The lines.
        symbols: What the symbols of their shapes mean.
        prefix: Put before the names in the checkpoint.
        layer: The layer that they belong to, or None.
        block: Put before the names in GGUF; None for what is usual there.
    """
    if block is None:
        block = "" if layer is None else f"blk.{layer}."
    for role, name, gguf, shape in lines:
        stored = f"{block}{gguf}.bias" if name.endswith("bias") else f"{block}{gguf}.weight"
        yield Weight(
            name=prefix + name,
            role=role,
            layer=layer,
            shape=tuple(symbols[symbol] for symbol in shape.split()),
            safetensors=Stored((prefix + name,)),
            gguf=Stored((stored,) if gguf else ()),
        )


def decoder(
    config: Config,
    layer: Callable[[int], Lines],
    *,
    symbols: Symbols | None = None,
    prefix: str = "model.",
    layers: str = "layers.{}.",
    before: Lines = (("embedding", "embed_tokens.weight", "token_embd", "V d"),),
    after: Lines = (("final_norm", "norm.weight", "output_norm", "d"),),
    head: Lines = (("head", "lm_head.weight", "output", "V d"),),
    prediction: tuple[Weight, ...] = (),
) -> Blueprint:
    """A decoder: what comes before its layers, the layers, what comes behind them, the head.

    Args:
        config: The configuration; it says how many layers there are and whether the head is tied.
        layer: The lines of a layer, by its number.
        symbols: What the symbols mean, if more than `symbols_of` says.
        prefix: Put before every name but the head's.
        layers: A layer's own prefix.
        before: The embedding first: it is what a tied head shares.
        after: Behind the layers.
        head: The output matrix first, and what belongs to it.
        prediction: As in `Blueprint`.
    """
    known = symbols_of(config) if symbols is None else symbols
    listed = list(weights(before, known, prefix))
    embedding = listed[0]
    for i in range(config.num_hidden_layers):
        listed += weights(layer(i), known, prefix + layers.format(i), i)
    listed += weights(after, known, prefix)
    for weight in weights(head, known):
        tied = weight.role == "head" and config.tie_word_embeddings
        listed.append(tied_to(weight, embedding) if tied else weight)
    return Blueprint(config, tuple(listed), prediction)


def tied_to(weight: Weight, owner: Weight) -> Weight:
    """The weight as one that shares another's numbers."""
    return Weight(
        name=weight.name,
        role=weight.role,
        layer=weight.layer,
        shape=weight.shape,
        safetensors=owner.safetensors,
        gguf=owner.gguf,
        tied_to=owner.name,
    )
