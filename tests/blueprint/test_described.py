"""Families that boli weighs and does not run: their weights against transformers' own classes."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from typing import Any

import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from blueprint.configs import PUBLISHED, published
from blueprint.meta_models import WITHOUT_A_CLASS, architecture_of, count, of_boli, of_transformers
from blueprint.shortened import fewer_layers
from boli.blueprint import from_hf_config
from boli.blueprint.described import dense
from boli.blueprint.described.reading import DESCRIBED, MODEL_TYPES, describe
from boli.blueprint.families import HF_ARCHITECTURES
from boli.blueprint.fields import Fields
from boli.errors import BoliError, CorruptFile, UnsupportedModel
from boli.weigh.catalogue import find, names

transformers.utils.logging.set_verbosity_error()

LAYERS = 4  # enough for one layer of each kind: dense ones first, every fourth full, every second sparse
SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")


def config_of(name: str) -> Mapping[str, Any]:
    found = find(name)
    assert found is not None
    return found[0].config


def one_of_each_kind() -> list[str]:
    """The models of the catalogue whose lists of weights differ in more than numbers."""
    kinds: dict[object, str] = {}
    for name in names():
        config = fewer_layers(config_of(name), LAYERS)
        if architecture_of(config) in WITHOUT_A_CLASS:
            continue
        blueprint = describe(config).blueprint
        lines = {(re.sub(r"\d+", "#", each.name), len(each.shape), each.tied_to) for each in blueprint}
        kinds.setdefault((blueprint.config.family, frozenset(lines)), name)
    return list(kinds.values())


KINDS = one_of_each_kind()


def test_every_family_that_transformers_knows_is_compared() -> None:
    compared = {architecture_of(config_of(name)) for name in KINDS}
    assert len(KINDS) > 55
    others = {"MT5ForConditionalGeneration", "BertForMaskedLM", "Olmo3ForCausalLM", "Ministral3ForCausalLM"}
    same = {"T5WithLMHeadModel", "PhimoeForCausalLM"}  # other names of what is compared
    assert set(DESCRIBED) - compared - others - same == WITHOUT_A_CLASS


@pytest.mark.parametrize("name", KINDS)
def test_the_weights_are_those_of_transformers_name_by_name(name: str) -> None:
    config = fewer_layers(config_of(name), LAYERS)
    ours, theirs = of_boli(describe(config).blueprint), of_transformers(config)
    if name.startswith("flan-t5"):  # published with a head of its own, which transformers 5 ties
        del ours["lm_head.weight"]
    assert ours == theirs


MORE: dict[str, dict[str, Any]] = {
    "BertForMaskedLM": {
        "architectures": ["BertForMaskedLM"], "model_type": "bert", "vocab_size": 100, "hidden_size": 64,
        "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "max_position_embeddings": 32, "type_vocab_size": 3,
    },
    "Olmo3ForCausalLM": {
        "architectures": ["Olmo3ForCausalLM"], "model_type": "olmo3", "vocab_size": 100, "hidden_size": 64,
        "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
        "sliding_window": 8,
    },
    "Ministral3ForCausalLM": {
        "architectures": ["Ministral3ForCausalLM"], "model_type": "ministral3", "vocab_size": 100,
        "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 32,
    },
    "MT5ForConditionalGeneration": {
        "architectures": ["MT5ForConditionalGeneration"], "model_type": "mt5", "vocab_size": 100,
        "d_model": 64, "d_ff": 96, "d_kv": 8, "num_layers": 2, "num_decoder_layers": 3, "num_heads": 4,
        "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False,
    },
    "opt without biases": {
        "architectures": ["OPTForCausalLM"], "model_type": "opt", "vocab_size": 100, "hidden_size": 64,
        "ffn_dim": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 32,
        "word_embed_proj_dim": 64, "enable_bias": False,
    },
    "falcon-rw": {
        "architectures": ["FalconForCausalLM"], "model_type": "falcon", "vocab_size": 100, "hidden_size": 64,
        "num_hidden_layers": 2, "num_attention_heads": 4, "multi_query": False, "parallel_attn": False,
        "alibi": True, "bias": True, "new_decoder_architecture": False,
    },
    "falcon-11b": {
        "architectures": ["FalconForCausalLM"], "model_type": "falcon", "vocab_size": 100, "hidden_size": 64,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_kv_heads": 2, "bias": False,
        "new_decoder_architecture": True, "num_ln_in_parallel_attn": 1, "ffn_hidden_size": 96,
    },
    "stablelm, parallel": {
        "architectures": ["StableLmForCausalLM"], "model_type": "stablelm", "vocab_size": 100,
        "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 4, "use_parallel_residual": True,
    },
    "neox without biases": {
        "architectures": ["GPTNeoXForCausalLM"], "model_type": "gpt_neox", "vocab_size": 100,
        "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "attention_bias": False,
    },
    "qwen2-moe with dense layers": {
        "architectures": ["Qwen2MoeForCausalLM"], "model_type": "qwen2_moe", "vocab_size": 100,
        "hidden_size": 64, "intermediate_size": 96, "moe_intermediate_size": 32, "num_experts": 8,
        "num_experts_per_tok": 2, "shared_expert_intermediate_size": 48, "num_hidden_layers": 6,
        "num_attention_heads": 4, "num_key_value_heads": 2, "decoder_sparse_step": 2, "mlp_only_layers": [3],
    },
    "a llama with biases and YaRN": {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 100, "hidden_size": 64,
        "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "attention_bias": True, "mlp_bias": True, "max_position_embeddings": 256,
        "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
    },
}  # fmt: skip


@pytest.mark.parametrize("name", MORE)
def test_what_the_catalogue_has_no_example_of(name: str) -> None:
    config = MORE[name]
    ours, theirs = of_boli(describe(config).blueprint), of_transformers(config)
    if name == "MT5ForConditionalGeneration":
        ours.pop("lm_head.weight")  # as flan-t5
    assert ours == theirs


@pytest.mark.parametrize("name", ["mixtral-8x7b", "phi-4", "gemma-2-9b", "deepseek-v2-lite", "gpt-oss-20b"])
def test_whole_models_count_as_in_transformers(name: str) -> None:
    config = config_of(name)
    assert describe(config).blueprint.parameters == count(of_transformers(config))


@pytest.mark.parametrize("name", PUBLISHED)
def test_families_that_run_have_the_same_weights_in_both_descriptions(name: str) -> None:
    config, _ = PUBLISHED[name]
    running = from_hf_config(config)
    text = config.get("text_config")
    fields = Fields({**text, "tie_word_embeddings": True} if text else config, source="config.json")
    architecture = MODEL_TYPES[str(fields.get("model_type"))]
    described = DESCRIBED[architecture](fields)
    assert [(each.role, each.layer, each.shape) for each in described] == [
        (each.role, each.layer, each.shape) for each in running
    ]
    assert described.config.layer_types == running.config.layer_types
    assert described.config.sliding_window == running.config.sliding_window
    gguf = [(each.gguf.names, each.tied_to is None) for each in described]
    assert gguf == [(each.gguf.names, each.tied_to is None) for each in running]


def test_what_runs_is_described_as_it_runs() -> None:
    described = describe(published("SmolLM2-135M"))
    assert described.blueprint.config.runnable
    assert described.refusal == ""


@pytest.mark.parametrize(
    ("name", "changes", "named"),
    [
        ("Llama-3.1-8B", {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "yarn"),
        ("Llama-3.1-8B", {"quantization_config": {"quant_method": "awq"}}, "quantization_config"),
        ("Mistral-7B-v0.1", {"layer_types": ["full_attention", "sliding_attention"] * 16}, "layer_types"),
        ("Qwen2.5-0.5B", {"rope_scaling": {"type": "yarn", "factor": 4.0}}, "yarn"),
        ("gemma-3-270m", {"final_logit_softcapping": 30.0}, "final_logit_softcapping"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
    ],
)
def test_members_of_running_families_that_do_not_run_are_weighed_all_the_same(
    name: str, changes: dict[str, Any], named: str
) -> None:
    with pytest.raises(UnsupportedModel):
        from_hf_config(published(name, **changes))
    described = describe(published(name, **changes))
    assert not described.blueprint.config.runnable
    assert named in described.refusal
    assert described.blueprint.parameters == PUBLISHED[name][1]


def test_the_engine_still_refuses_what_is_only_weighed() -> None:
    for name in ("mixtral-8x7b", "gemma-2-2b", "deepseek-v3", "bert-base-uncased", "t5-small", "chatglm3-6b"):
        with pytest.raises(UnsupportedModel):
            from_hf_config(config_of(name))


def test_a_multimodal_model_is_weighed_by_its_language_model() -> None:
    text = {key: value for key, value in config_of("mistral-small-24b").items() if key != "architectures"}
    described = describe(
        {"architectures": ["Mistral3ForConditionalGeneration"], "text_config": text, "vision_config": {}}
    )
    assert described.blueprint.parameters == 23_572_403_200
    assert "only the language model" in described.notes[0]


def test_an_unknown_architecture_says_what_can_still_be_told() -> None:
    config = {**published("Mistral-7B-v0.1"), "architectures": ["NovelForCausalLM"], "model_type": "novel"}
    with pytest.raises(UnsupportedModel) as caught:
        describe(config)
    assert "NovelForCausalLM" in caught.value.message
    assert "7,241,732,096 parameters; that is a guess" in caught.value.cause
    assert "hidden_size=4096" in caught.value.remedy
    with pytest.raises(UnsupportedModel) as caught:
        describe({"architectures": ["NovelForCausalLM"]})
    assert "guess" not in caught.value.cause


def test_layers_with_and_without_experts() -> None:
    blueprint = describe(config_of("deepseek-v3")).blueprint
    assert blueprint.config.experts is not None
    assert sorted(blueprint.config.experts.layers) == list(range(3, 61))
    assert blueprint.find("gate", 2) is not None
    assert blueprint.find("gate", 3) is None
    stacked = blueprint.find("expert_up", 3)
    assert stacked is not None
    assert stacked.shape == (256, 2048, 7168)
    assert stacked.gguf.names == ("blk.3.ffn_up_exps.weight",)
    maverick = describe(config_of("llama-4-maverick")).blueprint.config
    assert maverick.experts is not None
    assert sorted(maverick.experts.layers) == list(range(1, 48, 2))


def test_what_layers_attend_to() -> None:
    def of(name: str) -> tuple[str, ...]:
        return describe(config_of(name)).blueprint.config.layer_types

    assert of("gemma-2-2b")[:3] == ("sliding", "full", "sliding")
    assert of("gemma-3-27b")[4:7] == ("sliding", "full", "sliding")
    assert of("command-r7b")[:5] == ("sliding", "sliding", "sliding", "full", "sliding")
    assert of("gpt-oss-20b")[:2] == ("sliding", "full")
    assert of("llama-4-scout")[:5] == ("chunked", "chunked", "chunked", "full", "chunked")
    assert of("qwen3-next-80b-a3b")[:5] == ("linear", "linear", "linear", "full", "linear")
    assert set(of("deepseek-v3")) == {"mla"}
    assert set(of("mixtral-8x7b")) == {"full"}
    assert set(of("phi-3-mini")) == {"sliding"}
    assert of("t5-small") == ("bidirectional",) * 6 + ("full",) * 6
    assert set(of("bert-base-uncased")) == {"bidirectional"}


@pytest.mark.parametrize(
    ("name", "changes", "named"),
    [
        ("mixtral-8x7b", {"num_experts_per_tok": 9}, "num_experts_per_tok"),
        ("mixtral-8x7b", {"num_local_experts": 0}, "num_experts"),
        ("mixtral-8x7b", {"num_local_experts": 10**12}, "num_experts"),
        ("qwen3-30b-a3b", {"mlp_only_layers": [-1]}, "mlp_only_layers"),
        ("qwen3-30b-a3b", {"decoder_sparse_step": 0}, "decoder_sparse_step"),
        ("deepseek-v3", {"kv_lora_rank": 0}, "kv_lora_rank"),
        ("deepseek-v3", {"num_nextn_predict_layers": 1000}, "num_nextn_predict_layers"),
        ("deepseek-v3", {"n_routed_experts": None}, "num_experts"),
        ("gemma-2-2b", {"sliding_window": 0}, "sliding_window"),
        ("gemma-2-2b", {"hidden_size": 10**12}, "hidden_size"),
        ("glm-4-9b-0414", {"num_key_value_heads": 5}, "num_key_value_heads"),
        ("chatglm3-6b", {"ffn_hidden_size": 0}, "intermediate_size"),
        ("t5-small", {"num_decoder_layers": -3}, "num_decoder_layers"),
        ("bert-base-uncased", {"num_attention_heads": 7}, "num_attention_heads"),
        ("falcon-7b", {"num_attention_heads": 70}, "num_attention_heads"),
        ("transformer-base", {"N": 0}, "N"),
    ],
)
def test_contradictions_and_absurd_sizes_are_refused_by_name(
    name: str, changes: dict[str, Any], named: str
) -> None:
    begin = time.perf_counter()
    with pytest.raises(CorruptFile, match=named):
        describe({**config_of(name), **changes})
    assert time.perf_counter() - begin < 2


_JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.lists(st.integers(-2, 9), max_size=3),
    st.dictionaries(st.text(max_size=4), st.integers(), max_size=2),
)


@given(data=st.data())
@settings(max_examples=300, deadline=None, derandomize=True, database=None)
def test_damaged_configurations_raise_only_errors_of_ours(data: st.DataObject) -> None:
    config = fewer_layers(config_of(data.draw(st.sampled_from(KINDS))), 2)
    for key in data.draw(st.lists(st.sampled_from(sorted(config)), min_size=1, max_size=3)):
        config[key] = data.draw(_JUNK)
    try:
        described = describe(json.loads(json.dumps(config)))
    except BoliError as error:
        assert error.message
    else:
        assert described.blueprint.parameters > 0


def test_every_family_of_dense_decoders_is_named_once() -> None:
    names_of = [family.name for family in dense.FAMILIES.values()]
    assert len(set(names_of)) == len(names_of)
    assert set(HF_ARCHITECTURES) - set(DESCRIBED) == {"Gemma3ForConditionalGeneration"}
    assert set(MODEL_TYPES.values()) - set(DESCRIBED) == {"Gemma3ForConditionalGeneration"}
