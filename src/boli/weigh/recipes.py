"""llama.cpp's quantization recipes: which number format each tensor of a GGUF file gets.

A recipe such as Q4_K_M is a mixture. `_base` says what most matrices get; attention's values, the
second matrix of the MLP, the head and some others get more bits, in some layers; a matrix whose
rows are no whole number of blocks gets another type; vectors, norms, routers and positions stay
F32. The rules are those of llama.cpp's `llama-quantize` and `convert_hf_to_gguf.py` as of 2026;
publishers may quantize with rules of their own, so where a file exists, the file is right.

The rules want no file: a blueprint is enough.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from boli.weigh.blocks import BLOCKS
from boli.weigh.gguf_tensors import GgufTensor, Place
from boli.weigh.model import Model

# Families of which predicted sizes were held against published files.
CHECKED_FAMILIES: Final = frozenset({
    "llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen3_moe", "gemma", "gemma2", "gemma3", "phi3",
})  # fmt: skip

# What most matrices of a recipe get. An F16, BF16 or F32 file is a mere conversion.
_BASE: Final[Mapping[str, str]] = MappingProxyType({
    "F32": "F32", "BF16": "BF16", "F16": "F16", "Q8_0": "Q8_0",
    "Q6_K": "Q6_K", "Q5_K_M": "Q5_K", "Q5_K_S": "Q5_K", "Q5_1": "Q5_1", "Q5_0": "Q5_0",
    "Q4_K_M": "Q4_K", "Q4_K_S": "Q4_K", "Q4_1": "Q4_1", "Q4_0": "Q4_0",
    "IQ4_NL": "IQ4_NL", "IQ4_XS": "IQ4_XS",
    "Q3_K_L": "Q3_K", "Q3_K_M": "Q3_K", "Q3_K_S": "Q3_K",
    "IQ3_M": "IQ3_S", "IQ3_S": "IQ3_S", "IQ3_XS": "IQ3_S", "IQ3_XXS": "IQ3_XXS",
    "Q2_K": "Q2_K", "Q2_K_S": "Q2_K",
    "IQ2_M": "IQ2_S", "IQ2_S": "IQ2_XS", "IQ2_XS": "IQ2_XS", "IQ2_XXS": "IQ2_XXS",
    "IQ1_M": "IQ1_M", "IQ1_S": "IQ1_S",
})  # fmt: skip
RECIPES: Final = tuple(_BASE)
_CONVERSIONS: Final = frozenset({"F32", "BF16", "F16"})
# Recipes whose matrices come in blocks of 256, where they can.
IN_BLOCKS_OF_256: Final = frozenset(name for name, kind in _BASE.items() if BLOCKS[kind][0] == 256)
# What fused queries, keys and values got in all layers before llama.cpp's rules were reordered in 2026;
# now they are treated as values are.
QKV_BEFORE_2026: Final[Mapping[str, str]] = MappingProxyType({
    "Q3_K_M": "Q4_K", "Q3_K_L": "Q4_K", "IQ3_M": "Q4_K", "Q4_K_M": "Q5_K", "Q5_K_M": "Q6_K",
})  # fmt: skip

# Made only with an importance matrix; the others are taken to be made without one …
_ONE_OR_TWO_BITS: Final = frozenset({"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M"})
NEED_IMATRIX: Final = _ONE_OR_TWO_BITS | {"IQ3_XXS", "Q2_K_S"}
# … with which these would be other mixtures.
OTHER_WITH_IMATRIX: Final = frozenset({"Q4_0", "Q5_0", "IQ4_NL", "IQ4_XS"})

# What is taken where the rows are no whole number of blocks.
_FALLBACK: Final[Mapping[str, str]] = MappingProxyType({
    "Q2_K": "Q4_0", "Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0",
    "IQ1_S": "IQ4_NL", "IQ1_M": "IQ4_NL", "IQ2_XXS": "IQ4_NL", "IQ2_XS": "IQ4_NL", "IQ2_S": "IQ4_NL",
    "IQ3_XXS": "IQ4_NL", "IQ3_S": "IQ4_NL", "IQ4_XS": "IQ4_NL",
})  # fmt: skip

# Layers that name "70B" in llama.cpp; there attn_v is small and gets a bit more.
_FAMILIES_70B: Final = frozenset({"llama", "qwen2", "olmo"})


class _Here(NamedTuple):
    """What the rules ask of a tensor and its model."""

    place: Place
    columns: int
    number: int  # of this tensor among the attention's values, or of its layer
    total: int  # how many of those there are
    tied: bool
    gqa: int  # query heads for each head of keys and values
    experts: int
    is_70b: bool
    falcon: bool

    def first(self, part: int) -> bool:
        """Whether this is one of the first layers, one in `part` of all."""
        return self.number < self.total // part

    @property
    def more_bits(self) -> bool:
        """Whether this layer is one of those that get more: the first and last eighth, and each third."""
        eighth = self.total // 8
        return self.number < eighth or self.number >= 7 * self.total // 8 or (self.number - eighth) % 3 == 2


def types_of(model: Model, recipe: str, tensors: tuple[GgufTensor, ...]) -> list[str]:
    """The number format of each tensor, in order.

    Args:
        model: The model.
        recipe: One of `RECIPES`.
        tensors: Its tensors, from `tensors_of`.

    Raises:
        KeyError: There is no such recipe.
    """
    base, config = _BASE[recipe], model.blueprint.config
    if recipe in _CONVERSIONS:
        return ["F32" if each.plain else base for each in tensors]
    tied = all(each.place != "head" for each in tensors)
    kv_heads = max(config.num_key_value_heads, 1)
    deep = config.num_hidden_layers == 80 and config.family in _FAMILIES_70B
    is_70b = deep and (config.family != "llama" or config.num_attention_heads != kv_heads)
    experts = 0 if config.experts is None else config.experts.num_experts
    values = sum(1 for each in tensors if each.place in ("v", "qkv"))
    value = down = 0
    found: list[str] = []
    for tensor in tensors:
        if tensor.plain:
            found.append("F32")
            continue
        index, count = tensor.layer or 0, config.num_hidden_layers
        if tensor.place in ("v", "qkv"):
            index, count, value = value, values, value + 1
        elif tensor.place == "down" and not experts:
            index, down = down, down + 1
        here = _Here(
            tensor.place, tensor.shape[-1], index, count, tied, config.num_attention_heads // kv_heads,
            experts, is_70b, config.family == "falcon",
        )  # fmt: skip
        found.append(_fitting(_wanted(recipe, base, here), here.columns))
    return found


def _fitting(wanted: str, columns: int) -> str:
    """The type itself, or the one that is taken instead where rows are no whole number of its blocks."""
    if columns % BLOCKS[wanted][0] == 0:
        return wanted
    instead = _FALLBACK.get(wanted, "F16")
    return instead if columns % BLOCKS[instead][0] == 0 else "F16"


def _wanted(recipe: str, base: str, here: _Here) -> str:
    """What a recipe wants for a tensor, before its width is looked at."""
    if here.place == "head" or (here.tied and here.place == "embedding"):
        if here.falcon or here.columns % BLOCKS[base][0]:
            return "Q8_0"
        if recipe in _ONE_OR_TWO_BITS or recipe == "IQ3_XXS":
            return "Q5_K"
        return base if base == "Q8_0" else "Q6_K"
    if here.place == "embedding":
        if recipe in ("IQ2_S", "IQ2_M", "IQ3_XXS"):
            return "IQ3_S"
        return "Q2_K" if recipe in _ONE_OR_TWO_BITS else base
    if recipe in _ONE_OR_TWO_BITS:
        return _of_few_bits(recipe, base, here)
    match here.place:
        case "v" | "qkv":
            return _of_values(recipe, base, here)
        case "q" | "k":
            if here.place == "k" and here.experts == 8:
                return "Q8_0"
            return {"IQ3_XS": "IQ3_XXS", "IQ3_XXS": "IQ2_S"}.get(recipe, base)
        case "o":
            return _of_output(recipe, base, here)
        case "down":
            return _of_falcon_down(recipe, base, here) if here.falcon else _of_down(recipe, base, here)
        case "gate" | "up":
            middle = here.total // 8 <= here.number < 7 * here.total // 8
            return "IQ3_XXS" if recipe == "IQ3_XS" and middle else base
        case _:
            return base


def _of_few_bits(recipe: str, base: str, here: _Here) -> str:
    """Matrices of the recipes with one or two bits."""
    larger = "IQ3_S" if recipe in ("IQ2_S", "IQ2_M") else "Q2_K"
    match here.place:
        case "v" | "qkv":
            return "Q4_K" if here.gqa >= 4 or here.experts >= 4 else larger
        case "k" if here.experts == 8:
            return "Q4_K"
        case "down" if here.first(8):
            return larger
        case "o" if here.experts == 8:
            return "Q5_K"
        case "o" if recipe in ("IQ1_S", "IQ1_M"):
            return "IQ2_XXS"
        case "o" if larger == "IQ3_S":
            return "IQ3_S"
        case _:
            return base


def _of_values(recipe: str, base: str, here: _Here) -> str:
    """Attention's values: small where heads share them, and sensitive."""
    if here.experts == 8:
        return "Q8_0"
    shared = here.gqa >= 4
    kind = base
    match recipe:
        case "Q2_K":
            kind = "Q4_K" if shared else "Q3_K"
        case "Q2_K_S" | "IQ3_XXS" | "IQ3_XS" | "IQ3_S" if shared:
            kind = "Q4_K"
        case "IQ3_M":
            kind = "Q4_K"
        case "Q3_K_M":
            kind = "Q5_K" if here.number < 2 else "Q4_K"
        case "Q3_K_L":
            kind = "Q5_K"
        case "IQ4_NL" | "IQ4_XS" if shared:
            kind = "Q5_K"
        case "Q4_K_M" | "Q5_K_M" if here.more_bits:
            kind = "Q6_K"
        case "Q4_K_S" if here.number < 4:
            kind = "Q5_K"
    return "Q5_K" if here.is_70b and kind in ("Q3_K", "Q4_K") else kind


def _of_output(recipe: str, base: str, here: _Here) -> str:
    """Attention's output matrix."""
    if here.falcon:
        return "Q4_K" if recipe == "Q3_K_L" else base
    if here.experts == 8:
        unchanged = ("Q2_K_S", "Q3_K_L", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q5_K_S", "Q5_K_M", "Q6_K", "Q8_0")
        return base if recipe in unchanged else "Q5_K"
    more = {"Q2_K": "Q3_K", "IQ3_XXS": "IQ3_S", "Q3_K_M": "Q4_K", "Q3_K_L": "Q5_K", "IQ3_M": "Q4_K"}
    return more.get(recipe, base)


def _of_down(recipe: str, base: str, here: _Here) -> str:
    """The MLP's second matrix, experts' too."""
    match recipe:
        case "Q2_K":
            return "Q3_K"
        case "Q2_K_S" if here.first(8):
            return "Q4_K"
        case "Q3_K_M":
            return "Q5_K" if here.first(16) else "Q4_K"
        case "IQ3_M" if here.first(8) or (here.experts == 8 and here.more_bits):
            return "Q4_K"
        case "Q3_K_L":
            return "Q5_K"
        case "Q4_K_M" | "Q5_K_M" if here.more_bits:
            return "Q6_K"
        case "Q4_K_S" | "IQ4_NL" | "IQ4_XS" if here.first(8):
            return "Q5_K"
        case _:
            return base


def _of_falcon_down(recipe: str, base: str, here: _Here) -> str:
    """The same of Falcon, whose MLP has no gate."""
    match recipe:
        case "Q3_K_M":
            return "Q5_K" if here.first(16) else "Q4_K" if here.more_bits else base
        case "Q3_K_L":
            return "Q4_K"
        case "Q4_K_M":
            return "Q6_K" if here.first(16) else "Q5_K" if here.more_bits else base
        case "Q4_K_S":
            return base
        case _:
            return _of_down(recipe, base, here)
