"""How engines keep keys and values: how many positions of a layer, and how many bytes of each.

Facts as of 2026: llama.cpp `llama-context.cpp` and `llama-kv-cache-iswa.cpp`, vLLM
`vllm/v1/kv_cache_interface.py`, transformers `cache_utils.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Literal, get_args

from boli.blueprint.config import LayerType
from boli.errors import UsageError
from boli.weigh.amount import Amount, amount
from boli.weigh.blocks import BLOCKS
from boli.weigh.model import LayerFacts, ModelFacts

Engine = Literal["model", "boli", "llama.cpp", "vllm", "transformers"]
ENGINES: Final[tuple[Engine, ...]] = get_args(Engine)

LLAMA_CPP_CELLS: Final = 256  # what its cache is padded to
LLAMA_CPP_UBATCH: Final = 512  # its default micro-batch, `--ubatch-size`
VLLM_BLOCK: Final = 16  # its default block of positions
VLLM_SCALE: Final = 4  # bytes of a scale for each head of each token, with int8
DS_MLA_BYTES: Final = 656  # of a position in vLLM's fp8_ds_mla: 512 in FP8, 4 float32 scales, 64 in BF16

# Families whose window llama.cpp leaves out: it caches everything.
_NO_WINDOW_IN_LLAMA_CPP: Final = frozenset(
    {"llama", "mistral", "mixtral", "phi3", "phimoe", "qwen2", "qwen3", "starcoder2"}
)

_PLAIN: Final[Mapping[str, int]] = MappingProxyType({"FP32": 4, "BF16": 2, "FP16": 2, "FP8": 1, "INT8": 1})
_LLAMA_CPP_BLOCKS: Final = ("Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0", "IQ4_NL")
DTYPES: Final = (*_PLAIN, *_LLAMA_CPP_BLOCKS, "FP8_DS_MLA")
DTYPES_OF: Final[Mapping[Engine, tuple[str, ...]]] = MappingProxyType({
    "model": DTYPES,
    "boli": ("FP32", "BF16", "INT8"),
    "llama.cpp": ("FP32", "BF16", "FP16", *_LLAMA_CPP_BLOCKS),
    "vllm": ("FP32", "BF16", "FP16", "FP8", "INT8", "FP8_DS_MLA"),
    "transformers": ("FP32", "BF16", "FP16"),
})  # fmt: skip


Kind = LayerType | Literal["cross"]


def dtype_named(name: str) -> str:
    """The name in this module of a number format for the cache, however it is written.

    Raises:
        UsageError: There is none.
    """
    known = {"F32": "FP32", "F16": "FP16", "FLOAT16": "FP16", "BFLOAT16": "BF16", "HALF": "FP16"}
    spelled = name.strip().upper().replace("-", "_")
    spelled = known.get(spelled, spelled)
    if spelled not in DTYPES:
        raise UsageError(f"there is no KV cache of {name!r}", remedy=f"choose from {', '.join(DTYPES)}")
    return spelled


@dataclass(frozen=True, slots=True)
class Rule:
    """What is asked: whose rule, numbers of which type, for how many positions and requests.

    `source` counts the positions that an encoder read.
    """

    engine: Engine
    dtype: str
    context: int
    requests: int
    source: int


NOT_MODELLED: Final[Mapping[Engine, tuple[str, ...]]] = MappingProxyType({
    "model": ("rounding to pages or blocks, which every engine does",),
    "boli": (),
    "llama.cpp": ("positions of cells, the attention mask and compute buffers",),
    "vllm": (
        "blocks that a window's layer needs while a long prompt is read in chunks",
        "padding of groups where full and sliding layers do not divide evenly; scales of FP8 (one a tensor)",
    ),
    "transformers": ("copies while the cache grows by concatenation: twice a layer's bytes for a moment",),
})  # fmt: skip


def sees_all(family: str, engine: Engine) -> bool:
    """Whether an engine keeps more of a windowed layer than the window."""
    return engine == "llama.cpp" and family in _NO_WINDOW_IN_LLAMA_CPP


def positions_of(kind: Kind, window: int | None, rule: Rule) -> Amount:
    """How many positions of one request a layer keeps."""
    inputs: dict[str, Any] = {"context": rule.context}
    if kind == "linear":
        return amount("positions", "1", note="one state, however long the context")
    if kind == "cross":
        return amount("positions", "source", source=rule.source)
    length = "context"
    if window is not None:
        inputs["window"] = window
    match rule.engine:
        case "llama.cpp":
            inputs["cells"] = LLAMA_CPP_CELLS
            length = "ceil(context / cells) · cells"
            if window is not None:
                inputs["ubatch"] = LLAMA_CPP_UBATCH
                length = f"ceil(min({length}, window + ubatch) / cells) · cells"
        case "vllm":
            inputs["block"] = VLLM_BLOCK
            length = "ceil(context / block) · block"
            if window is not None:
                length = "min(ceil(context / block), ceil(window / block) + 1) · block"
        case "transformers" if window is not None:
            length = "min(context, window - 1)"
        case _ if window is not None:
            length = "min(context, window)"
    return amount("positions", length, **inputs)


def row_of(kind: Kind, layer: LayerFacts, facts: ModelFacts, rule: Rule) -> Amount:
    """Bytes of one position in one layer."""
    if kind == "linear":
        note = "as if kept in float32; engines differ"
        return amount("bytes", "state · bytes", certainty="assumed", note=note, state=layer.state, bytes=4)
    if kind == "mla" and facts.mla is not None and rule.engine != "transformers":
        if rule.dtype == "FP8_DS_MLA":
            return amount("bytes", "bytes", bytes=DS_MLA_BYTES)
        numbers: dict[str, Any] = {
            "kv_lora_rank": facts.mla.kv_lora_rank,
            "qk_rope_head_dim": facts.mla.qk_rope_head_dim,
        }
        return _stored("kv_lora_rank + qk_rope_head_dim", numbers, rule.dtype)
    numbers = {
        "num_key_value_heads": layer.num_key_value_heads,
        "key_head_dim": layer.key_head_dim,
        "value_head_dim": layer.value_head_dim,
    }
    formula = "num_key_value_heads · (key_head_dim + value_head_dim)"
    if rule.engine == "vllm" and rule.dtype == "INT8":
        # A scale for each head of each token, for keys and for values.
        formula = "num_key_value_heads · (key_head_dim + value_head_dim + 2 · scale)"
        return amount("bytes", formula, **numbers, scale=VLLM_SCALE)
    return _stored(formula, numbers, rule.dtype)


def _stored(numbers: str, inputs: dict[str, Any], dtype: str) -> Amount:
    """Bytes of some numbers.

    Raises:
        UsageError: They are no whole number of the type's blocks.
    """
    if dtype in _PLAIN:
        formula = f"({numbers}) · bytes" if "·" not in numbers else f"{numbers} · bytes"
        return amount("bytes", formula, **inputs, bytes=_PLAIN[dtype])
    block, block_bytes = BLOCKS[dtype]
    count = amount("numbers", numbers, **inputs)
    if count.value % block:
        raise UsageError(
            f"there can be no KV cache of {dtype}: {count.explain()} numbers are no whole number of blocks",
            cause=f"a block of {dtype} is {block} numbers",
            remedy="choose a type without blocks, such as FP16",
        )
    formula = f"({numbers}) // block · block_bytes"
    return amount("bytes", formula, **inputs, block=block, block_bytes=block_bytes)


def variants_of(facts: ModelFacts) -> dict[str, Amount]:
    """What one token takes with MLA: as one latent vector, as full heads, in vLLM's 8-bit form."""
    layer = next((each for each in facts.layers if each.attention == "mla"), None)
    if layer is None or facts.mla is None:
        return {}
    count = sum(1 for each in facts.layers if each.attention == "mla")
    ways: tuple[tuple[str, Engine, str], ...] = (
        ("latent", "model", "BF16"),
        ("expanded", "transformers", "BF16"),
        ("fp8_ds_mla", "vllm", "FP8_DS_MLA"),
    )
    found = {}
    for name, engine, dtype in ways:
        row = row_of("mla", layer, facts, Rule(engine, dtype, 1, 1, 1))
        found[name] = amount("bytes", "layers · row", layers=count, row=row.value, note=row.explain())
    return found
