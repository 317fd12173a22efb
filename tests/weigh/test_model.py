"""What a user may call a model, and what comes of it: names, shapes, configurations."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boli.errors import BoliError, CorruptFile, ModelNotFound, UnsupportedModel, UsageError
from boli.weigh.model import find_model
from weigh.small_config import LLAMA, written


def test_a_name() -> None:
    model = find_model("llama-3.1-8b")
    assert (model.name, model.source, model.dtype) == ("llama-3.1-8b", "catalogue", "BF16")
    assert model.blueprint.parameters == 8_030_261_248
    assert (model.stored, model.file_bytes, model.not_runnable, model.notes) == ({}, None, "", ())


def test_facts_of_grouped_sliding_latent_and_other_attention() -> None:
    gemma = find_model("gemma-3-270m").facts
    assert gemma is not None
    assert [(each.attention, each.window) for each in gemma.layers[4:7]] == [
        ("sliding", 512),
        ("full", None),
        ("sliding", 512),
    ]
    assert (gemma.layers[0].num_key_value_heads, gemma.layers[0].key_head_dim) == (1, 256)
    deepseek = find_model("deepseek-v3").facts
    assert deepseek is not None
    assert deepseek.mla is not None
    assert deepseek.mla.kv_lora_rank + deepseek.mla.qk_rope_head_dim == 576
    layer = deepseek.layers[3]
    assert (layer.attention, layer.num_key_value_heads, layer.key_head_dim, layer.value_head_dim) == (
        "mla", 128, 192, 128,
    )  # fmt: skip
    assert [each.experts for each in deepseek.layers[:5]] == [False, False, False, True, True]
    t5 = find_model("t5-small").facts
    assert t5 is not None
    assert t5.layout == "encoder-decoder"
    assert [(each.attention, each.cross_attention) for each in t5.layers[5:7]] == [
        ("bidirectional", False),
        ("full", True),
    ]
    linear = find_model("qwen3-next").facts
    assert linear is not None
    assert linear.layers[0].state == 32 * 128 * 128 + 8192 * 4
    assert linear.layers[3].state == 0
    falcon = find_model("falcon-7b").facts
    assert falcon is not None
    assert (falcon.layers[0].num_key_value_heads, falcon.parallel, falcon.gated_mlp) == (1, True, False)


def test_shapes_alone_say_what_was_assumed() -> None:
    model = find_model("", hidden_size=4096, num_hidden_layers=32)
    assert model.source == "shapes"
    assert model.blueprint.parameters == 6_738_415_616  # Llama's own
    assert model.notes == (
        "built like Llama",
        "vocab_size is not given: 32000 is assumed",
        "max_position_embeddings is not given: 4096 is assumed",
        "tie_word_embeddings is not given: False is assumed",
        "dtype is not given: bfloat16 is assumed",
        "num_attention_heads is not given: 32 is assumed",
        "num_key_value_heads is not given: 32 is assumed",
        "intermediate_size is not given: 11008 is assumed",
    )


@pytest.mark.parametrize(
    ("shapes", "parameters"),
    [
        ({"num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 14336,
          "vocab_size": 128256}, 8_030_261_248),
        ({"num_key_value_heads": 8, "intermediate_size": 14336, "num_experts": 8}, 46_702_792_704),
        ({"num_key_value_heads": 8, "moe_intermediate_size": 14336, "num_experts": 8}, 46_702_792_704),
        ({"architecture": "qwen3", "head_dim": 128, "num_key_value_heads": 8, "intermediate_size": 12288,
          "num_hidden_layers": 36, "vocab_size": 151936}, 8_190_735_360),
        ({"architecture": "gpt2", "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
          "vocab_size": 50257, "max_position_embeddings": 1024, "tie_word_embeddings": True}, 124_439_808),
        ({"hidden_size": 7168, "num_hidden_layers": 61, "num_attention_heads": 128, "kv_lora_rank": 512,
          "q_lora_rank": 1536, "first_k_dense_replace": 3, "n_shared_experts": 1,
          "intermediate_size": 18432, "vocab_size": 129280}, 671_026_419_200),
    ],
)  # fmt: skip
def test_shapes_of_known_models(shapes: dict[str, Any], parameters: int) -> None:
    given = {"hidden_size": 4096, "num_hidden_layers": 32, **shapes}
    assert find_model(**given).blueprint.parameters == parameters


def test_shapes_change_a_known_model() -> None:
    model = find_model("llama-3.1-8b", num_key_value_heads=32)
    assert model.name == "llama-3.1-8b, changed"
    assert model.blueprint.parameters == 8_030_261_248 + 32 * 2 * 24 * 128 * 4096
    by_own_names = find_model("gpt2", hidden_size=1024, num_hidden_layers=24, num_attention_heads=16)
    assert by_own_names.blueprint.parameters == 354_823_168


@pytest.mark.parametrize(
    ("text", "shapes", "said"),
    [
        ("", {}, "no model"),
        ("  ", {}, "no model"),
        ("", {"hidden_size": 4096}, "num_hidden_layers"),
        ("", {"hidden_size": 0, "num_hidden_layers": 2}, "hidden_size is 0"),
        ("", {"hidden_size": 10**12, "num_hidden_layers": 2}, "hidden_size"),
        ("", {"hidden_size": "many", "num_hidden_layers": 2}, "hidden_size"),
        ("", {"hidden_size": 4096, "num_hidden_layers": 10**12}, "num_hidden_layers"),
        ("", {"hidden_size": 100, "num_hidden_layers": 2, "num_attention_heads": 7}, "num_attention_heads"),
        ("", {"hidden_sise": 4096}, "hidden_size"),
        ("", {"hidden_size": 64, "num_hidden_layers": 2, "architecture": "lama"}, "llama"),
        ("", {"hidden_size": 64, "num_hidden_layers": 2, "dtype": "float7"}, "float7"),
        ("", {"hidden_size": 64, "num_hidden_layers": 2, "v_head_dim": 64}, "v_head_dim means nothing"),
        ("llama-3.1-8b", {"num_key_value_heads": 5}, "num_key_value_heads is 5"),
        ("llama-3.1-8b", {"kv_lora_rank": 512}, "kv_lora_rank means nothing"),
        ("https://huggingface.co/org/name", {}, "web address"),
        ("hf:not a repository", {}, "does not name a repository"),
        ("a\0b", {}, "no name"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(text: str, shapes: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        find_model(text, **shapes)
    assert said in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("text", ["lama-3.1-8b", "./not-here.gguf", "/not/here", "not-here.json", "x" * 4000])
def test_what_is_not_there(text: str) -> None:
    with pytest.raises(ModelNotFound) as caught:
        find_model(text)
    assert len(str(caught.value)) < 10_000


def test_the_nearest_names_are_told() -> None:
    with pytest.raises(ModelNotFound, match=r"llama-3\.1-8b"):
        find_model("lama-3.1-8b")


def test_a_configuration_file(tmp_path: Path) -> None:
    path = written(tmp_path, LLAMA)
    for text in (path, str(path)):
        model = find_model(text)
        assert (model.source, model.name, model.notes) == ("config.json", tmp_path.name, ())
        assert (
            model.blueprint.parameters == 2 * 6400 + 2 * (64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 96 + 128) + 64
        )
    assert find_model(path, num_hidden_layers=3).blueprint.config.num_hidden_layers == 3


def test_missing_fields_and_what_is_taken_for_them(tmp_path: Path) -> None:
    config = {key: value for key, value in LLAMA.items() if key not in ("num_key_value_heads", "torch_dtype")}
    del config["max_position_embeddings"]
    model = find_model(written(tmp_path, config))
    assert model.notes == (
        "num_key_value_heads is missing: 4 is taken, as llama's code does",
        "max_position_embeddings is missing: 2048 is taken, as llama's code does",
        "the configuration names no dtype: BF16 is assumed",
    )
    for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "architectures"):
        less = {name: value for name, value in LLAMA.items() if name not in (key, "model_type")}
        with pytest.raises(CorruptFile, match=f"{key} is missing") as caught:
            find_model(written(tmp_path, less))
        assert caught.value.exit_code == 1


@pytest.mark.parametrize(
    ("changes", "dtype", "said"),
    [
        ({"torch_dtype": "float16"}, "F16", ""),
        ({"torch_dtype": None, "dtype": "float32"}, "F32", ""),
        ({"torch_dtype": "bfloat16", "dtype": "float32"}, "F32", "two dtypes"),
        ({"torch_dtype": "float7"}, "BF16", "unknown"),
        ({"torch_dtype": 3}, "BF16", "unknown"),
        ({"quantization_config": {"quant_method": "awq", "bits": 4}}, "BF16", "not modelled"),
        ({"quantization_config": []}, "BF16", "not modelled"),
    ],
)
def test_the_number_format(changes: dict[str, Any], dtype: str, said: str, tmp_path: Path) -> None:
    model = find_model(written(tmp_path, {**LLAMA, **changes}))
    assert model.dtype == dtype
    assert said in " ".join(model.notes)
    assert bool(said) == bool(model.notes)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", "{" * 100_000, '{"a": 1, "a": 2}', '{"architectures": 3}', "\xff"]
)
def test_damaged_configurations(content: str, tmp_path: Path) -> None:
    with pytest.raises(CorruptFile):
        find_model(written(tmp_path, content))


def test_an_unknown_architecture_says_what_can_still_be_told(tmp_path: Path) -> None:
    path = written(tmp_path, {**LLAMA, "architectures": ["NovelForCausalLM"]})
    with pytest.raises(UnsupportedModel, match="that is a guess") as caught:
        find_model(path)
    shapes = dict(each.split("=") for each in caught.value.remedy.partition(": ")[2].split(", "))
    guessed = find_model("", **{key: int(value) for key, value in shapes.items()})
    assert f"{guessed.blueprint.parameters:,}" in caught.value.cause


@given(data=st.data())
@settings(max_examples=150, deadline=None, derandomize=True, database=None)
def test_shapes_end_in_a_model_or_in_an_error_of_ours(data: st.DataObject) -> None:
    sizes = st.one_of(st.integers(-1, 4096), st.sampled_from([10**12, 10**400, None, "x", 1.5, True]))
    keys = st.sampled_from(
        ["hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
         "intermediate_size", "vocab_size", "num_experts", "num_experts_per_tok", "kv_lora_rank",
         "tie_word_embeddings", "max_position_embeddings", "architecture"]
    )  # fmt: skip
    shapes = {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        **data.draw(st.dictionaries(keys, sizes, max_size=3)),
    }
    try:
        model = find_model("", **shapes)
    except BoliError as error:
        assert error.message
    else:
        assert model.blueprint.parameters > 0


def test_known_models_need_neither_numpy_nor_much_time() -> None:
    script = (
        "import sys, time\n"
        "from boli.weigh.model import find_model\n"
        "from boli.weigh.weights import weigh_weights\n"
        "account = weigh_weights(find_model('deepseek-v3')); account.parameters, account.groups\n"
        "print(time.process_time(), *sys.modules)"
    )
    times = []
    for _ in range(5):
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=os.environ
        )
        seconds, *modules = done.stdout.split()
        heavy = {"numpy", "torch", "boli.formats.numbers", "boli.sources", "huggingface_hub"}
        assert not heavy & set(modules)
        times.append(float(seconds))
    assert min(times) < 0.3  # of processor time, the interpreter's start included
