"""What each family's configuration means, read from `config.json` and from GGUF metadata."""

import math
from typing import Any

import pytest
import torch
import transformers

from blueprint.configs import GEMMA3_GGUF, SMOLLM2_GGUF, published
from boli.blueprint import Rope, from_gguf, from_hf_config
from boli.blueprint.families import GGUF_ARCHITECTURES, HF_ARCHITECTURES
from boli.errors import CorruptFile, UnsupportedModel
from tiny_models import TINY, Tiny, Zoo, make, read_config

ABSURD = {"absurd": 1}
# Fields that transformers writes and that do not change what comes out of a model.
HARMLESS = {
    "attention_dropout", "attn_pdrop", "chunk_size_feed_forward", "dtype", "embd_pdrop", "id2label",
    "initializer_range", "label2id", "model_type", "output_attentions", "output_hidden_states",
    "pad_token_id", "pretraining_tp", "problem_type", "reorder_and_upcast_attn", "resid_pdrop",
    "return_dict", "summary_activation", "summary_first_dropout", "summary_proj_to_labels",
    "summary_type", "summary_use_proj", "transformers_version", "use_cache",
    # Follows from layer_types, which is there too.
    "_sliding_window_pattern", "max_window_layers",
}  # fmt: skip
HARMLESS_IN = {
    # Only read with use_sliding_window.
    "qwen2": {"sliding_window"},
    "qwen3": {"sliding_window"},
}


@pytest.mark.parametrize("tiny", TINY.values(), ids=str)
def test_every_field_of_transformers_is_read_or_refused_or_known_to_be_harmless(tiny: Tiny, zoo: Zoo) -> None:
    config = read_config(zoo.folder(tiny))
    ignored = set()
    for field in config:
        try:
            from_hf_config({**config, field: ABSURD})
        except (CorruptFile, UnsupportedModel):
            continue
        ignored.add(field)
    assert ignored <= HARMLESS | HARMLESS_IN.get(tiny.name, set())


@pytest.mark.parametrize("tiny", TINY.values(), ids=str)
def test_the_weights_are_those_of_transformers(tiny: Tiny, zoo: Zoo) -> None:
    model = make(tiny)
    expected = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    blueprint = from_hf_config(read_config(zoo.folder(tiny)))
    ours = {
        weight.name: weight.shape[::-1] if weight.safetensors.transform == "transpose" else weight.shape
        for weight in blueprint
        if not weight.tied_to
    }
    assert ours == expected


@pytest.mark.parametrize("tiny", [tiny for tiny in TINY.values() if tiny.kind != "GPT2"], ids=str)
def test_rotary_frequencies_are_those_of_transformers(tiny: Tiny, zoo: Zoo) -> None:
    rotary = make(tiny).model.rotary_emb
    config = from_hf_config(read_config(zoo.folder(tiny))).config
    if tiny.kind == "Gemma3":
        pairs = [
            (config.rope, rotary.full_attention_inv_freq),
            (config.rope_sliding, rotary.sliding_attention_inv_freq),
        ]
    else:
        pairs = [(config.rope, rotary.inv_freq)]
    for ours, theirs in pairs:
        assert ours is not None
        assert ours.inverse_frequencies == pytest.approx(theirs.tolist(), rel=1e-6)


def test_llama3_scaling_matters_where_it_is_tested() -> None:
    config = from_hf_config(published("Llama-3.1-8B")).config
    assert config.rope is not None
    assert config.rope.scaling == "llama3 ×8"
    plain = [500000.0 ** (-i / 128) for i in range(0, 128, 2)]
    ratios = [a / b for a, b in zip(config.rope.inverse_frequencies, plain, strict=True)]
    assert ratios[0] == 1
    assert ratios[-1] == pytest.approx(1 / 8)
    assert any(0.13 < ratio < 0.99 for ratio in ratios)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"rope_theta": 5e5}, {"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}),
        (
            {"rope_theta": 1e4, "rope_scaling": {"type": "linear", "factor": 2.0}},
            {"rope_parameters": {"rope_theta": 1e4, "rope_type": "linear", "factor": 2.0}},
        ),
        (
            {"rope_theta": 1e4, "rope_scaling": {"rope_type": "default"}},
            {"rope_parameters": {"rope_theta": 1e4}},
        ),
        ({}, {"rope_parameters": {"rope_theta": 10000.0}}),
    ],
)
def test_old_and_new_ways_to_write_rotary_settings_mean_the_same(
    old: dict[str, Any], new: dict[str, Any]
) -> None:
    config = published("Qwen2.5-0.5B")
    del config["rope_theta"]
    assert from_hf_config({**config, **old}).config == from_hf_config({**config, **new}).config


def test_gemma_has_a_rotary_base_for_each_kind_of_layer_in_both_ways_to_write_it() -> None:
    config = published("gemma-3-270m", rope_scaling={"rope_type": "linear", "factor": 8.0})
    old = from_hf_config(config).config
    for key in ("rope_theta", "rope_local_base_freq", "rope_scaling"):
        del config[key]
    config["rope_parameters"] = {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    }
    assert from_hf_config(config).config == old
    full, sliding = old.rope_of(5), old.rope_of(4)
    assert full is not None
    assert sliding is not None
    assert (full.theta, full.inverse_frequencies[0]) == (1e6, 1 / 8)
    assert (sliding.theta, sliding.inverse_frequencies[0]) == (1e4, 1.0)
    assert (old.window_of(5), old.window_of(4)) == (None, 512)


def test_the_text_part_of_a_multimodal_gemma_is_found_under_either_prefix() -> None:
    blueprint = from_hf_config(published("gemma-3-4b-it, text"))
    config = blueprint.config
    assert (config.num_attention_heads, config.head_dim, config.vocab_size) == (8, 256, 262208)
    assert config.eos_token_ids == (1, 106)
    assert config.embedding_scale == math.sqrt(2560)
    embedding = blueprint.find("embedding")
    assert embedding is not None
    assert "language_model.model.embed_tokens.weight" in embedding.safetensors.names
    assert "model.language_model.embed_tokens.weight" in embedding.safetensors.names


def test_qwen_slides_only_where_it_is_told_to_and_only_in_the_later_layers() -> None:
    without = from_hf_config(published("Qwen2.5-0.5B", sliding_window=64)).config
    assert without.sliding_window is None
    assert set(without.layer_types) == {"full"}
    changes = {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 20}
    within = from_hf_config(published("Qwen2.5-0.5B", **changes)).config
    assert within.layer_types == ("full",) * 20 + ("sliding",) * 4
    assert [within.window_of(layer) for layer in (19, 20)] == [None, 64]


def test_mistral_without_the_field_has_the_window_of_its_class_and_with_null_none() -> None:
    assert from_hf_config(published("Mistral-7B-v0.1", sliding_window=None)).config.sliding_window is None
    config = published("Mistral-7B-v0.1")
    del config["sliding_window"]
    assert from_hf_config(config).config.sliding_window == 4096
    assert transformers.MistralConfig().sliding_window == 4096


@pytest.mark.parametrize(("given", "ids"), [(7, (7,)), ([7, 8], (7, 8)), (None, ()), (-1, ()), ([], ())])
def test_ends_of_generation_may_be_one_or_many(given: object, ids: tuple[int, ...]) -> None:
    assert from_hf_config(published("Llama-3.1-8B", eos_token_id=given)).config.eos_token_ids == ids


@pytest.mark.parametrize("architecture", ["MixtralForCausalLM", "Phi3ForCausalLM", "LlamaModel", "x" * 9999])
def test_an_unknown_architecture_is_named_and_what_runs_is_listed(architecture: str) -> None:
    with pytest.raises(UnsupportedModel) as error:
        from_hf_config({"architectures": [architecture], "model_type": "llama"})
    assert architecture[:80] in error.value.message
    assert all(known in error.value.cause for known in HF_ARCHITECTURES)
    with pytest.raises(UnsupportedModel) as error:
        from_gguf({"general.architecture": architecture}, ())
    assert all(known in error.value.cause for known in GGUF_ARCHITECTURES)


def test_the_model_type_tells_the_family_where_architectures_are_not_given() -> None:
    config = published("Qwen3-0.6B")
    del config["architectures"]
    assert from_hf_config(config).config.family == "qwen3"
    with pytest.raises(UnsupportedModel, match="mixtral"):
        from_hf_config({"model_type": "mixtral"})


@pytest.mark.parametrize(
    ("name", "changes", "named"),
    [
        ("Llama-3.1-8B", {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "yarn"),
        ("Llama-3.1-8B", {"rope_scaling": {"type": "dynamic", "factor": 4.0}}, "dynamic"),
        ("Llama-3.1-8B", {"rope_scaling": {"type": "longrope", "factor": 4.0}}, "longrope"),
        ("Llama-3.1-8B", {"rope_scaling": {"full_attention": {}}}, "full_attention"),
        ("Llama-3.1-8B", {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ("Qwen2.5-0.5B", {"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ("Llama-3.1-8B", {"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
        ("Llama-3.1-8B", {"hidden_act": "relu"}, "relu"),
        ("Llama-3.1-8B", {"rope_parameters": {"rope_theta": 1e4}}, "rope_scaling"),
        ("Qwen2.5-0.5B", {"rope_parameters": {"mrope_section": [1]}}, "mrope_section"),
        ("Mistral-7B-v0.1", {"layer_types": ["full_attention"] * 32}, "layer_types"),
        ("Mistral-7B-v0.1", {"num_local_experts": 8}, "num_local_experts"),
        ("Qwen2.5-0.5B", {"layer_types": ["linear_attention"] * 24}, "linear_attention"),
        ("gemma-3-270m", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
        ("gemma-3-270m", {"final_logit_softcapping": 30.0}, "final_logit_softcapping"),
        ("gemma-3-270m", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("gemma-3-270m", {"rope_parameters": {"rope_theta": 1e4}}, "rope_theta"),
        ("gemma-3-4b-it, text", {"quantization_config": {}}, "quantization_config"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention"),
    ],
)
def test_features_that_do_not_run_are_refused_by_name(name: str, changes: dict[str, Any], named: str) -> None:
    with pytest.raises(UnsupportedModel, match=named):
        from_hf_config(published(name, **changes))


def gguf(**changes: Any) -> dict[str, Any]:
    return {**SMOLLM2_GGUF, **{f"llama.{key}": value for key, value in changes.items()}}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("expert_count", 8),
        ("rope.scaling.type", "yarn"),
        ("rope.scaling.type", "longrope"),
        ("attention.value_length", 32),
        ("rope.dimension_count", 32),
        ("attention.head_count", [9] * 29 + [3]),
        ("feed_forward_length", [1536] * 29 + [768]),
        ("attention.sliding_window_pattern", 2),
        ("final_logit_softcapping", 30.0),
        ("logit_scale", 0.5),
        ("attention.scale", 0.1),
    ],
)
def test_gguf_features_that_do_not_run_are_refused_by_name(key: str, value: object) -> None:
    with pytest.raises(UnsupportedModel) as error:
        from_gguf(gguf(**{key: value}), ())
    assert f"llama.{key}" in error.value.message


def test_gguf_may_repeat_a_number_for_each_layer_and_name_unused_features() -> None:
    plain = from_gguf(SMOLLM2_GGUF, ()).config
    changes = {
        "attention.head_count": [9] * 30,
        "feed_forward_length": [1536] * 30,
        "expert_count": 0,
        "rope.scaling.type": "none",
        "rope.scaling.factor": 4.0,
        "logit_scale": 1.0,
    }
    assert from_gguf(gguf(**changes), ()).config == plain


def test_gguf_says_how_large_its_vocabulary_is_in_three_ways() -> None:
    metadata = {key: value for key, value in SMOLLM2_GGUF.items() if key != "llama.vocab_size"}
    with pytest.raises(CorruptFile, match=r"llama\.vocab_size is missing"):
        from_gguf(metadata, ())
    counted = {**metadata, "tokenizer.ggml.tokens": ["a", "b"]}
    assert from_gguf(counted, ()).config.vocab_size == 2
    assert from_gguf(SMOLLM2_GGUF, (), vocab_size=50000).config.vocab_size == 50000


def test_gguf_tells_biases_and_untied_heads_by_the_tensors_it_holds() -> None:
    plain = from_gguf(SMOLLM2_GGUF, ())
    names = ("blk.0.attn_q.bias", "blk.0.attn_output.bias", "blk.0.ffn_up.bias", "output.weight")
    full = from_gguf(SMOLLM2_GGUF, names)
    for role in ("q_bias", "k_bias", "v_bias", "o_bias", "gate_bias", "up_bias", "down_bias"):
        assert plain.find(role, 29) is None
        assert full.find(role, 29) is not None
    q_bias = full.find("q_bias", 3)
    assert q_bias is not None
    assert q_bias.gguf.transform == "unpermute"


def test_rope_freqs_divide_the_frequencies_and_are_checked() -> None:
    rope = from_gguf(SMOLLM2_GGUF, (), rope_freqs=[2.0] * 32).config.rope
    plain = from_gguf(SMOLLM2_GGUF, ()).config.rope
    assert isinstance(rope, Rope)
    assert isinstance(plain, Rope)
    assert rope.inverse_frequencies == tuple(each / 2 for each in plain.inverse_frequencies)
    for wrong in ([2.0] * 31, [0.0] * 32, [math.nan] * 32, [-1.0] * 32, []):
        with pytest.raises(CorruptFile, match="rope_freqs"):
            from_gguf(SMOLLM2_GGUF, (), rope_freqs=wrong)


def test_gguf_linear_scaling_is_read_in_its_old_and_its_new_way() -> None:
    new = from_gguf(gguf(**{"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}), ()).config
    old = from_gguf(gguf(**{"rope.scale_linear": 4.0}), ()).config
    assert new == old
    assert new.rope is not None
    assert new.rope.inverse_frequencies[0] == 0.25


def test_gemma_in_gguf_has_what_gguf_does_not_say() -> None:
    config = from_gguf(GEMMA3_GGUF, ()).config
    assert config == from_hf_config(published("gemma-3-270m", bos_token_id=None, eos_token_id=None)).config
    assert from_gguf({**GEMMA3_GGUF, "gemma3.attention.sliding_window_pattern": 3}, ()).config.layer_types[
        :4
    ] == ("sliding", "sliding", "full", "sliding")
    each = [True, False] * 9
    listed = from_gguf({**GEMMA3_GGUF, "gemma3.attention.sliding_window_pattern": each}, ()).config
    assert listed.layer_types == ("sliding", "full") * 9
    ollama = {key: value for key, value in GEMMA3_GGUF.items() if key != "gemma3.rope.freq_base"}
    ollama |= {"gemma3.rope.global.freq_base": 1e6, "gemma3.rope.local.freq_base": 1e4}
    assert from_gguf(ollama, ()).config == config


def test_the_largest_gemma_scales_attention_by_the_hidden_size() -> None:
    sizes = {"block_count": 62, "embedding_length": 5376, "attention.head_count": 32}
    sizes |= {"attention.key_length": 128, "attention.value_length": 128, "attention.head_count_kv": 16}
    metadata = {**GEMMA3_GGUF, **{f"gemma3.{key}": value for key, value in sizes.items()}}
    assert from_gguf(metadata, ()).config.attention_scale == pytest.approx(168**-0.5)


def test_tiny_models_norms_and_biases_are_all_random() -> None:
    """The other tests' power rests on it: a weight of ones or zeros could go missing unnoticed."""
    for tiny in TINY.values():
        for name, parameter in make(tiny).named_parameters():
            assert torch.std(parameter) > 0.01, name
