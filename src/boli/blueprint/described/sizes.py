"""The numbers that all configurations have, for families that are weighed and not run.

Only what fixes shapes, the KV cache and the arithmetic's amount is read here; what changes the arithmetic
itself (rotary scaling, soft caps, multipliers) is left alone, since it weighs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Literal

from boli.blueprint.config import Activation, LayerType
from boli.blueprint.fields import Fields
from boli.blueprint.shape import ACTIVATIONS, Shape
from boli.errors import UnsupportedModel

LAYER_TYPES: Final[Mapping[object, LayerType]] = {
    "full_attention": "full",
    "attention": "full",
    "sliding_attention": "sliding",
    "chunked_attention": "chunked",
    "linear_attention": "linear",
}
# Gates and plain functions that cost alike; the amount of arithmetic is all that weighing needs of them.
_NEAR: Final[Mapping[str, Activation]] = {
    "gelu_pytorch": "gelu", "gelu_10": "gelu", "quick_gelu": "gelu", "relu": "relu", "relu2": "relu",
    "swiglu": "silu", "silu_glu": "silu", "swiglu_oai": "silu", "swigluoai": "silu",
}  # fmt: skip
Window = Literal["never", "always", "qwen"]


def renamed(fields: Fields, names: Mapping[str, str], defaults: Mapping[str, object] | None = None) -> Fields:
    """The same fields under the standard names.

    Args:
        fields: The configuration.
        names: The family's own name for each standard one.
        defaults: What its class in transformers takes where a field is absent.
    """
    values = {name: fields.get(key) for name, key in names.items() if fields.get(key) is not None}
    present = {key: value for key, value in fields.values.items() if value is not None}
    return Fields({**(defaults or {}), **present, **values}, source=fields.source, prefix=fields.prefix)


def alike(kind: LayerType, layers: int) -> tuple[LayerType, ...]:
    """The same kind for so many layers."""
    return (kind,) * layers


def sizes(fields: Fields, *, kv_heads: int | None = None) -> Shape:
    """The sizes under their standard names.

    Args:
        fields: The configuration.
        kv_heads: Heads of keys and values where the field is absent; None: as many as of queries.

    Raises:
        CorruptFile: One is missing, absurd or contradicts another.
    """
    hidden = fields.integer("hidden_size", "hidden_size")
    heads = fields.integer("num_attention_heads", "num_attention_heads")
    kv = fields.integer("num_key_value_heads", "num_key_value_heads", kv_heads or heads)
    fields.require(
        heads % kv == 0, "num_key_value_heads", f"a divisor of num_attention_heads, which is {heads}"
    )
    if fields.get("head_dim") is None:
        fields.require(
            hidden % heads == 0,
            "num_attention_heads",
            f"a divisor of hidden_size, which is {hidden}, since head_dim is missing",
        )
    return Shape(
        vocab_size=fields.integer("vocab_size", "vocab_size"),
        hidden_size=hidden,
        intermediate_size=fields.integer("intermediate_size", "intermediate_size"),
        num_hidden_layers=fields.integer("num_hidden_layers", "num_hidden_layers"),
        num_attention_heads=heads,
        num_key_value_heads=kv,
        head_dim=fields.integer("head_dim", "head_dim", hidden // heads),
        max_position_embeddings=fields.integer("max_position_embeddings", "max_position_embeddings", 2048),
        bos_token_id=None,
        eos_token_ids=(),
    )


def activation(fields: Fields, default: str, *keys: str) -> Activation:
    """The activation named by the first of `keys` that is present, or a like one."""
    key = next((key for key in keys if fields.get(key) is not None), keys[0])
    name = fields.word(key, default)
    found = ACTIVATIONS.get(name) or _NEAR.get(name)
    if found is None:
        raise UnsupportedModel(
            f"{fields.source}: boli does not know the activation {name[:40]!r}",
            cause=f"it knows {', '.join([*ACTIVATIONS, *_NEAR])}",
        )
    return found


def layer_types(
    fields: Fields, layers: int, window: Window | int = "never", default_window: int | None = None
) -> tuple[tuple[LayerType, ...], int | None]:
    """What each layer's attention sees, and how much a window holds.

    Args:
        fields: The configuration; its `layer_types` come first if they are there.
        layers: How many layers there are.
        window: Which layers have the window of `sliding_window`: none, all, those that Qwen's fields
            say, or all but every n-th.
        default_window: What a file without `sliding_window` means.
    """
    listed = fields.items("layer_types", layers)
    if listed is not None:
        return _listed(fields, listed, default_window)
    if window == "never" or (window == "qwen" and not fields.flag("use_sliding_window", default=False)):
        return alike("full", layers), None
    size = _window(fields, default_window)
    if size is None:
        return alike("full", layers), None
    if window == "qwen":
        full = min(fields.integer("max_window_layers", "layer_count", 28), layers)
        return alike("full", full) + alike("sliding", layers - full), size
    if window == "always":
        return alike("sliding", layers), size
    every = fields.integer("sliding_window_pattern", "num_hidden_layers", window)
    return tuple("sliding" if (layer + 1) % every else "full" for layer in range(layers)), size


def _window(fields: Fields, default: int | None) -> int | None:
    return (
        fields.maybe_integer("sliding_window", "sliding_window")
        if "sliding_window" in fields.values
        else default
    )


def _listed(
    fields: Fields, listed: Sequence[object], default_window: int | None
) -> tuple[tuple[LayerType, ...], int | None]:
    for kind in listed:
        if not isinstance(kind, str) or kind not in LAYER_TYPES:
            raise fields.unsupported("layer_types", f"boli knows {', '.join(map(str, LAYER_TYPES))}")
    types = tuple(LAYER_TYPES[kind] for kind in listed)
    if "sliding" not in types and "chunked" not in types:
        return types, None
    size = _window(fields, default_window)
    fields.require(size is not None, "sliding_window", "a number: some layers slide")
    return types, size
