"""From a configuration, or from shapes alone, to a model: what was missing is assumed, and said."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, Final

from boli.blueprint.described.classics import CLASSICS
from boli.blueprint.described.dense import FAMILIES
from boli.blueprint.described.mixtures import MIXTURES
from boli.blueprint.described.reading import DESCRIBED, MODEL_TYPES, describe
from boli.blueprint.weights import Blueprint, Role, Weight
from boli.errors import FormatError, UnsupportedModel, UsageError
from boli.weigh.model import Model, Origin, facts_of

# The standard name of a size, and what families call it.
NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "hidden_size": ("n_embd", "d_model"),
    "intermediate_size": ("n_inner", "d_ff", "ffn_dim", "ffn_hidden_size", "inner_hidden_size"),
    "num_hidden_layers": ("n_layer", "num_layers", "n_layers", "N"),
    "num_attention_heads": ("n_head", "num_heads", "n_heads", "h"),
    "num_key_value_heads": ("num_kv_heads", "multi_query_group_num"),
    "head_dim": ("d_kv", "kv_channels"),
    "vocab_size": ("padded_vocab_size",),
    "max_position_embeddings": ("n_positions", "max_seq_len", "seq_length", "max_sequence_length"),
    "num_experts": ("num_local_experts", "n_routed_experts"),
}
# What else can be given as a shape, under the name that config.json has for it.
OTHERS: Final = (
    "architecture", "num_experts_per_tok", "moe_intermediate_size", "shared_expert_intermediate_size",
    "n_shared_experts", "first_k_dense_replace", "tie_word_embeddings", "sliding_window", "attention_bias",
    "mlp_bias", "q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim",
    "num_nextn_predict_layers", "dtype",
)  # fmt: skip
_DTYPES: Final = {
    "float32": "F32", "float": "F32", "fp32": "F32", "f32": "F32", "float16": "F16", "half": "F16",
    "fp16": "F16", "f16": "F16", "bfloat16": "BF16", "bf16": "BF16", "float64": "F64",
    "float8_e4m3fn": "F8_E4M3", "fp8": "F8_E4M3", "float8_e5m2": "F8_E5M2", "int8": "I8",
}  # fmt: skip
FALLBACK_DTYPE: Final = "BF16"
_GQA: Final = {family.name for family in FAMILIES.values()} | {
    mixture.family.name for mixture in MIXTURES.values()
}
# For shapes alone: what most published models of this kind have.
_DEFAULTS: Final[Mapping[str, object]] = {
    "vocab_size": 32000, "max_position_embeddings": 4096, "tie_word_embeddings": False, "dtype": "bfloat16",
}  # fmt: skip
_OWN_DEFAULTS: Final[Mapping[str, Mapping[str, object]]] = {
    "MixtralForCausalLM": {"num_experts_per_tok": 2},
    "Qwen2MoeForCausalLM": {"num_experts_per_tok": 4, "moe_intermediate_size": 1408},
    "DeepseekV3ForCausalLM": {
        "num_experts": 256, "num_experts_per_tok": 8, "moe_intermediate_size": 2048,
        "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
    },
}  # fmt: skip
# Where an architecture's own word for a size must be used.
_OWN_NAMES: Final[Mapping[str, Mapping[str, str]]] = {
    "MixtralForCausalLM": {"num_experts": "num_local_experts", "moe_intermediate_size": "intermediate_size"},
}
_HEAD_DIM: Final = 128
# Matrices that a quantized checkpoint leaves as they are.
_KEPT: Final[frozenset[Role]] = frozenset({
    "embedding", "position_embedding", "head", "router", "shared_router", "prediction_projection",
})  # fmt: skip
_BLOCK: Final = [128, 128]


def from_config(
    config: Mapping[str, Any], name: str, source: Origin, *, notes: tuple[str, ...] = ()
) -> Model:
    """The model of a parsed `config.json`.

    Raises:
        UnsupportedModel: The architecture is unknown.
        CorruptFile: A field is missing, absurd, or contradicts another.
    """
    described = describe(config)
    blueprint = described.blueprint
    dtype, of_dtype = _dtype(config)
    stored, of_storage = _quantized(config, blueprint)
    return Model(
        name=name,
        source=source,
        blueprint=blueprint,
        facts=facts_of(blueprint.config),
        dtype=dtype,
        stored=stored,
        not_runnable=described.refusal,
        notes=(*notes, *described.notes, *_assumed(config, blueprint), *of_dtype, *of_storage),
    )


def from_shapes(shapes: Mapping[str, object], name: str = "shapes") -> Model:
    """A decoder of these shapes: built like Llama, or like what else some of them belong to.

    Args:
        shapes: Sizes by their names in `NAMES` and `OTHERS`; `hidden_size` and `num_hidden_layers` at least.
        name: What to call it.

    Raises:
        UsageError: A name is unknown or means nothing to this architecture, or one of the two is missing.
        CorruptFile: A size is absurd or contradicts another.
    """
    check_names(shapes)
    given = {key: value for key, value in shapes.items() if value is not None}
    missing = [key for key in ("hidden_size", "num_hidden_layers") if key not in given]
    if missing:
        raise UsageError(
            f"the shapes lack {' and '.join(missing)}",
            remedy="give at least hidden_size and num_hidden_layers, or name a model and change it",
        )
    architecture = _architecture(given)
    assumed = {key: value for key, value in _assumptions(given, architecture).items() if key not in given}
    config = {"architectures": [architecture]}
    for key, value in (*assumed.items(), *given.items()):
        if key != "architecture":
            config[_OWN_NAMES.get(architecture, {}).get(key, key)] = value  # type: ignore[assignment]
    _refuse_ignored(config, shapes, architecture)
    notes = [f"{key} is not given: {value} is assumed" for key, value in assumed.items()]
    kind = f"built like {architecture.removesuffix('ForCausalLM')}"
    return from_config(config, name, "shapes", notes=(kind, *notes))


def _architecture(given: Mapping[str, object]) -> str:
    """The named one, or the plainest that has what is given."""
    if "architecture" in given:
        return MODEL_TYPES.get(str(given["architecture"]), str(given["architecture"]))
    for key, architecture in (
        ("kv_lora_rank", "DeepseekV3ForCausalLM"),
        ("shared_expert_intermediate_size", "Qwen2MoeForCausalLM"),
        ("num_experts", "MixtralForCausalLM"),
    ):
        if key in given:
            return architecture
    return "LlamaForCausalLM"


def _assumptions(given: Mapping[str, object], architecture: str) -> dict[str, object]:
    """What is taken for sizes that nobody gave."""
    assumed: dict[str, object] = dict(_DEFAULTS)
    assumed |= _OWN_DEFAULTS.get(architecture, {})
    hidden, width = given["hidden_size"], given.get("head_dim", _HEAD_DIM)
    if type(hidden) is int and hidden > 0 and type(width) is int and width > 0:
        heads = given.get("num_attention_heads", max(hidden // width, 1))
        assumed |= {"num_attention_heads": heads, "num_key_value_heads": heads}
        if "num_attention_heads" not in given and hidden % width:
            assumed["head_dim"] = width
        if not (architecture == "MixtralForCausalLM" and "moe_intermediate_size" in given):
            # Llama's rule: two thirds of four times the width, since there are three matrices and not two.
            two = architecture in CLASSICS
            assumed["intermediate_size"] = 4 * hidden if two else -(-8 * hidden // 3 // 256) * 256
    return assumed


def changed(config: Mapping[str, Any], shapes: Mapping[str, object]) -> dict[str, Any]:
    """A configuration with some sizes replaced, under whichever name it has for them.

    Raises:
        UsageError: A name is unknown or means nothing to this architecture.
    """
    check_names(shapes)
    result = dict(config)
    for key, value in shapes.items():
        if key == "architecture":
            result["architectures"] = [MODEL_TYPES.get(str(value), str(value))]
            continue
        result[_name_in(result, key)] = value
        if key == "num_hidden_layers":  # what lists one entry a layer no longer fits
            result.pop("layer_types", None)
    if shapes:
        named = result.get("architectures") or [result.get("model_type")]
        _refuse_ignored(result, shapes, str(named[0]) if isinstance(named, list) and named else "")
    return result


def _name_in(config: Mapping[str, Any], key: str) -> str:
    """What a configuration calls a size."""
    return next((name for name in (key, *NAMES.get(key, ())) if name in config), key)


def _refuse_ignored(config: Mapping[str, Any], shapes: Mapping[str, object], architecture: str) -> None:
    """Refuses shapes that the architecture does not read, which shows in that nonsense does not hurt it."""
    for key in shapes:
        if key in ("architecture", "dtype"):
            continue
        own = _OWN_NAMES.get(architecture, {}).get(key, key)
        try:
            describe({**config, _name_in(config, own): {}})
        except (FormatError, UnsupportedModel):
            continue
        raise UsageError(
            f"{key} means nothing to {architecture[:80]}",
            remedy="leave it out, or name the architecture that has it: architecture=…",
        )


def check_names(shapes: Mapping[str, object]) -> None:
    """Refuses a shape that boli has never heard of.

    Raises:
        UsageError: It names the nearest that it knows.
    """
    known = [*NAMES, *OTHERS]
    for key in shapes:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=2)
            raise UsageError(
                f"{key!r} is no shape that boli knows",
                remedy=f"did you mean {' or '.join(close)}?" if close else f"it knows {', '.join(known)}",
            )
    dtype = shapes.get("dtype")
    if dtype is not None and str(dtype).lower() not in _DTYPES:
        raise UsageError(f"boli does not know the dtype {dtype!r}", remedy=f"it knows {', '.join(_DTYPES)}")
    wanted = shapes.get("architecture")
    if wanted is not None and str(wanted) not in MODEL_TYPES and str(wanted) not in DESCRIBED:
        close = difflib.get_close_matches(str(wanted), MODEL_TYPES, n=3)
        raise UsageError(
            f"boli does not know the architecture {str(wanted)[:80]!r}",
            remedy=f"did you mean {' or '.join(close)}?" if close else f"it knows {', '.join(MODEL_TYPES)}",
        )


def _assumed(config: Mapping[str, Any], blueprint: Blueprint) -> list[str]:
    """Sizes that the configuration leaves out, and what its family's code takes for them."""
    text = config.get("text_config")
    inner = text if isinstance(text, Mapping) and "hidden_size" not in config else config
    read = blueprint.config
    if read.family not in _GQA:
        return []
    notes = []
    for key in ("vocab_size", "intermediate_size", "num_key_value_heads", "max_position_embeddings"):
        if all(inner.get(name) is None for name in (key, *NAMES[key])):
            notes.append(f"{key} is missing: {getattr(read, key)} is taken, as {read.family}'s code does")
    return notes


def _dtype(config: Mapping[str, Any]) -> tuple[str, list[str]]:
    """The number format that a configuration names, and what was assumed about it."""
    text = config.get("text_config")
    inner = text if isinstance(text, Mapping) else {}
    named = [each for each in (config.get("dtype"), config.get("torch_dtype"), inner.get("dtype"),
                               inner.get("torch_dtype")) if each is not None]  # fmt: skip
    if not named:
        return FALLBACK_DTYPE, [f"the configuration names no dtype: {FALLBACK_DTYPE} is assumed"]
    words = [str(each).removeprefix("torch.").lower() for each in named]
    found = _DTYPES.get(words[0])
    if found is None:
        return FALLBACK_DTYPE, [f"dtype {words[0][:40]!r} is unknown: {FALLBACK_DTYPE} is assumed"]
    others = {_DTYPES.get(word) for word in words} - {found}
    notes = [f"the configuration names two dtypes, {' and '.join(words)[:80]}: {found} is taken"]
    return found, notes if others else []


def _quantized(config: Mapping[str, Any], blueprint: Blueprint) -> tuple[dict[str, str], list[str]]:
    """What `quantization_config` says of single weights."""
    settings = config.get("quantization_config")
    if settings is None:
        return {}, []
    method = settings.get("quant_method") if isinstance(settings, Mapping) else None
    everything = (*blueprint.weights, *blueprint.prediction)
    if method == "fp8":
        assert isinstance(settings, Mapping), "it has a quant_method"
        kind, note = "F8_E4M3", "in FP8, with one scale a matrix, which is not counted"
        if settings.get("weight_block_size") == _BLOCK:
            kind, note = "F8_E4M3_128x128", "in FP8, with an F32 scale for each block of 128 by 128"
        stored = {weight.name: kind for weight in everything if _is_quantized(weight)}
        return stored, [f"matrices of layers are stored {note}; embeddings, head, routers and norms are not"]
    if method == "mxfp4":
        stored = {
            weight.name: "MXFP4" for weight in everything if weight.role in ("expert_gate_up", "expert_down")
        }
        return stored, ["the experts' matrices are stored in MXFP4: 4 bits and a scale for each 32 numbers"]
    return {}, [f"the configuration says quantized by {str(method)[:40]!r}: its bytes are not modelled"]


def _is_quantized(weight: Weight) -> bool:
    return len(weight.shape) > 1 and weight.role not in _KEPT
