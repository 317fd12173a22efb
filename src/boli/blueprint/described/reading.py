"""From a `config.json` to a blueprint, of families that boli runs and of those that it only weighs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from boli.blueprint.described import (
    bert,
    chatglm,
    classics,
    deepseek,
    dense,
    hybrid,
    mixtures,
    t5,
    transformer,
)
from boli.blueprint.families import HF_ARCHITECTURES, HF_MODEL_TYPES, from_hf_config
from boli.blueprint.fields import Fields
from boli.blueprint.weights import Blueprint
from boli.errors import CorruptFile, FormatError, UnsupportedModel

_Reader = Callable[[Fields], Blueprint]


def _of_family(family: dense.Family) -> _Reader:
    return lambda fields: dense.from_hf(fields, family)


def _of_mixture(mixture: mixtures.Mixture) -> _Reader:
    return lambda fields: mixtures.from_hf(fields, mixture)


# By the name in "architectures" of config.json.
DESCRIBED: Final[Mapping[str, _Reader]] = {
    **{name: _of_family(family) for name, family in dense.FAMILIES.items()},
    **{name: _of_mixture(mixture) for name, mixture in mixtures.MIXTURES.items()},
    **classics.CLASSICS,
    "PhiMoEForCausalLM": _of_mixture(mixtures.MIXTURES["PhimoeForCausalLM"]),
    "DeepseekV2ForCausalLM": deepseek.v2_from_hf,
    "DeepseekV3ForCausalLM": deepseek.v3_from_hf,
    "Qwen3NextForCausalLM": hybrid.from_hf,
    "ChatGLMModel": chatglm.from_hf,
    "ChatGLMForConditionalGeneration": chatglm.from_hf,
    "BertModel": bert.model,
    "RobertaModel": bert.model,
    "XLMRobertaModel": bert.model,
    "BertForMaskedLM": bert.for_masked_lm,
    "T5ForConditionalGeneration": t5.from_hf,
    "T5WithLMHeadModel": t5.from_hf,
    "MT5ForConditionalGeneration": t5.from_hf,
    "Transformer": transformer.from_paper,
}
# By "model_type", for files without "architectures" and for the text parts of multimodal ones.
MODEL_TYPES: Final[Mapping[str, str]] = {
    **HF_MODEL_TYPES,
    "ministral3": "Ministral3ForCausalLM", "gemma": "GemmaForCausalLM", "gemma2": "Gemma2ForCausalLM",
    "smollm3": "SmolLM3ForCausalLM", "granite": "GraniteForCausalLM", "olmo": "OlmoForCausalLM",
    "olmo2": "Olmo2ForCausalLM", "olmo3": "Olmo3ForCausalLM", "exaone4": "Exaone4ForCausalLM",
    "seed_oss": "SeedOssForCausalLM", "ernie4_5": "Ernie4_5ForCausalLM", "stablelm": "StableLmForCausalLM",
    "starcoder2": "Starcoder2ForCausalLM", "cohere": "CohereForCausalLM", "cohere2": "Cohere2ForCausalLM",
    "phi3": "Phi3ForCausalLM", "glm": "GlmForCausalLM", "glm4": "Glm4ForCausalLM",
    "mixtral": "MixtralForCausalLM", "phimoe": "PhimoeForCausalLM", "qwen2_moe": "Qwen2MoeForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM", "olmoe": "OlmoeForCausalLM", "glm4_moe": "Glm4MoeForCausalLM",
    "gpt_oss": "GptOssForCausalLM", "llama4_text": "Llama4ForCausalLM", "minimax_m2": "MiniMaxM2ForCausalLM",
    "gptj": "GPTJForCausalLM", "gpt_neox": "GPTNeoXForCausalLM", "phi": "PhiForCausalLM",
    "opt": "OPTForCausalLM", "falcon": "FalconForCausalLM", "bloom": "BloomForCausalLM",
    "mpt": "MptForCausalLM", "deepseek_v2": "DeepseekV2ForCausalLM", "deepseek_v3": "DeepseekV3ForCausalLM",
    "kimi_k2": "DeepseekV3ForCausalLM", "qwen3_next": "Qwen3NextForCausalLM", "chatglm": "ChatGLMModel",
    "bert": "BertModel", "roberta": "RobertaModel", "xlm-roberta": "XLMRobertaModel",
    "t5": "T5ForConditionalGeneration", "mt5": "MT5ForConditionalGeneration", "transformer": "Transformer",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Description:
    """What a configuration says.

    Attributes:
        blueprint: The model; `blueprint.config.runnable` says whether boli runs it.
        refusal: Why boli does not run it, or "".
        notes: What is left out.
    """

    blueprint: Blueprint
    refusal: str = ""
    notes: tuple[str, ...] = ()


def describe(config: Mapping[str, object]) -> Description:
    """The blueprint of a parsed `config.json`, whether or not boli runs it.

    Raises:
        UnsupportedModel: The architecture is unknown; the error says what its sizes would give if it were
            built like Llama.
        CorruptFile: A field is missing, absurd, or contradicts another.
    """
    try:
        return Description(from_hf_config(config))
    except (UnsupportedModel, FormatError) as error:
        refused = error
    fields = Fields(config, source="config.json")
    architecture = _architecture(fields)
    reader = DESCRIBED.get(architecture)
    text = fields.group("text_config")
    if reader is None and text is not None:
        inner = DESCRIBED.get(MODEL_TYPES.get(text.word("model_type", ""), ""))
        if inner is not None:
            tied = {key: fields.get(key) for key in ("tie_word_embeddings",) if fields.get(key) is not None}
            text = Fields({**tied, **text.values}, source=text.source)
            note = f"only the language model of {architecture} is weighed, not what it sees and hears with"
            return Description(inner(text), refused.message, (note,))
    if reader is None:
        raise _unknown(architecture, fields)
    if architecture in HF_ARCHITECTURES and isinstance(refused, CorruptFile):
        # A family that runs, and a field that is wrong: what cannot be read leniently stays an error.
        refused.remedy = "correct the field, or give the shapes themselves"
    try:
        blueprint = reader(fields)
    except CorruptFile:
        if architecture in HF_ARCHITECTURES:
            raise refused from None
        raise
    return Description(blueprint, refused.message)


def _architecture(fields: Fields) -> str:
    named = fields.items("architectures", 1)
    if named is not None:
        return str(named[0])
    model_type = fields.word("model_type", "")
    fields.require(bool(model_type), "architectures", "the name of the model's architecture")
    return MODEL_TYPES.get(model_type, model_type)


def _unknown(architecture: str, fields: Fields) -> UnsupportedModel:
    known = {name.removesuffix("ForCausalLM").removesuffix("LMHeadModel") for name in DESCRIBED}
    cause = f"it knows {', '.join(sorted(known))}"
    remedy = "give its shapes instead: hidden_size, num_hidden_layers, num_attention_heads and the others"
    try:
        guess = dense.from_hf(fields, replace(dense.FAMILIES["LlamaForCausalLM"], name="unknown"))
    except (FormatError, UnsupportedModel):
        pass
    else:
        cause = (
            f"if it were built like Llama, its sizes would give {guess.parameters:,} parameters; "
            f"that is a guess. boli {cause}"
        )
        remedy = "to weigh that guess, give the shapes themselves: " + ", ".join(
            f"{key}={fields.get(key)}"
            for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
                        "head_dim", "intermediate_size", "vocab_size")
            if fields.get(key) is not None
        )  # fmt: skip
    return UnsupportedModel(
        f"boli does not know the architecture {architecture[:80]!r}", cause=cause, remedy=remedy
    )
