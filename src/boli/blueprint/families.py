"""From a file's own description of its model to a blueprint.

To add a family: write its file with two functions, and name them in the two tables below.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from typing import Final

from boli.blueprint import gemma, gpt2, llama, mistral, qwen
from boli.blueprint.fields import BOUNDS, Fields
from boli.blueprint.weights import Blueprint
from boli.errors import UnsupportedModel

FromHF = Callable[[Fields], Blueprint]
FromGGUF = Callable[[Fields, Container[str], Sequence[float] | None, int], Blueprint]

# By the name in "architectures" of config.json.
HF_ARCHITECTURES: Final[Mapping[str, FromHF]] = {
    "LlamaForCausalLM": llama.from_hf,
    "MistralForCausalLM": mistral.from_hf,
    "Qwen2ForCausalLM": qwen.qwen2_from_hf,
    "Qwen3ForCausalLM": qwen.qwen3_from_hf,
    "Gemma3ForCausalLM": gemma.from_hf,
    "Gemma3ForConditionalGeneration": gemma.from_hf_multimodal,
    "GPT2LMHeadModel": gpt2.from_hf,
}
# By "model_type", for files that do not say "architectures".
HF_MODEL_TYPES: Final[Mapping[str, str]] = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
    "gemma3": "Gemma3ForConditionalGeneration",
    "gpt2": "GPT2LMHeadModel",
}
# By "general.architecture".
GGUF_ARCHITECTURES: Final[Mapping[str, FromGGUF]] = {
    "llama": llama.from_gguf,
    "qwen2": qwen.qwen2_from_gguf,
    "qwen3": qwen.qwen3_from_gguf,
    "gemma3": gemma.from_gguf,
    "gpt2": gpt2.from_gguf,
}


def from_hf_config(config: Mapping[str, object]) -> Blueprint:
    """The blueprint that a parsed `config.json` describes.

    Raises:
        UnsupportedModel: The family or one of its features is not one that boli runs.
        CorruptFile: A field is missing, of the wrong type or absurd.
    """
    fields = Fields(config, source="config.json")
    named = fields.items("architectures", 1)
    if named is not None:
        key, architecture = "architectures", str(named[0])
    else:
        key, model_type = "model_type", fields.word("model_type", "")
        fields.require(bool(model_type), "architectures", "the name of the model's architecture")
        architecture = HF_MODEL_TYPES.get(model_type, model_type)
    family = HF_ARCHITECTURES.get(architecture)
    if family is None:
        raise _unknown(architecture, f"{key} in config.json", HF_ARCHITECTURES)
    return family(fields)


def from_gguf(
    metadata: Mapping[str, object],
    tensor_names: Container[str],
    rope_freqs: Sequence[float] | None = None,
    vocab_size: int | None = None,
) -> Blueprint:
    """The blueprint that the metadata of a GGUF file describes.

    Args:
        metadata: Keys and values as in the file.
        tensor_names: The names of its tensors: they tell a tied head and optional biases.
        rope_freqs: The numbers of the tensor `rope_freqs.weight`, if the file has it.
        vocab_size: Rows of the embedding. Without it, what the metadata says.

    Raises:
        UnsupportedModel: The family or one of its features is not one that boli runs.
        CorruptFile: A key is missing, of the wrong type or absurd.
    """
    source = "GGUF metadata"
    general = Fields(metadata, source=source)
    architecture = general.word("general.architecture", "")
    general.require(bool(architecture), "general.architecture", "the name of the model's architecture")
    family = GGUF_ARCHITECTURES.get(architecture)
    if family is None:
        raise _unknown(architecture, "general.architecture in the GGUF file", GGUF_ARCHITECTURES)
    fields = Fields(metadata, source=source, prefix=f"{architecture}.")
    if vocab_size is None:
        tokens = general.get("tokenizer.ggml.tokens")
        vocab_size = len(tokens) if isinstance(tokens, Sequence) and not isinstance(tokens, str) else None
        vocab_size = fields.integer("vocab_size", "vocab_size", vocab_size)
    low, high = BOUNDS["vocab_size"]
    fields.require(low <= vocab_size <= high, "vocab_size", f"a whole number from {low} to {high}")
    return family(fields, tensor_names, rope_freqs, vocab_size)


def _unknown(architecture: str, where: str, known: Mapping[str, object]) -> UnsupportedModel:
    return UnsupportedModel(
        f"boli does not run the architecture {architecture[:80]!r}",
        cause=f"{where} names it; boli runs {', '.join(known)}",
        remedy="choose a model of one of these architectures",
    )
