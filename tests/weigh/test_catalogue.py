"""The models that boli knows by name: counts that others published, names, and the data itself."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from blueprint.shortened import fewer_layers
from boli.blueprint.described.reading import DESCRIBED, describe
from boli.errors import BoliError
from boli.sources import ALIASES
from boli.weigh import catalogue
from boli.weigh.catalogue import Entry, find, names, nearest
from weigh.published_counts import EXACT, NEAR, WITH_PREDICTION

# Fields of the published files that weigh nothing: they change arithmetic, not shapes.
HARMLESS = {
    "attn_logit_softcapping", "final_logit_softcapping", "query_pre_attn_scalar", "rms_norm_eps",
    "layer_norm_eps", "layer_norm_epsilon", "layernorm_epsilon", "norm_epsilon", "rope_theta",
    "rope_local_base_freq", "rope_scaling", "partial_rotary_factor", "rotary_dim", "alibi",
    "activation_scheme", "position_encoding_2d", "scale_attn_weights", "num_key_value_heads",
    "torch_dtype", "quantization_config", "model_type",
}  # fmt: skip


def entry(name: str) -> Entry:
    found = find(name)
    assert found is not None, name
    return found[0]


@pytest.mark.parametrize("name", EXACT)
def test_parameters_are_as_published(name: str) -> None:
    assert describe(entry(name).config).blueprint.parameters == EXACT[name]


@pytest.mark.parametrize("name", NEAR)
def test_parameters_are_near_what_the_paper_says(name: str) -> None:
    billions, tolerance = NEAR[name]
    assert describe(entry(name).config).blueprint.parameters / 1e9 == pytest.approx(billions, rel=tolerance)


@pytest.mark.parametrize("name", WITH_PREDICTION)
def test_prediction_modules_are_apart_and_in_the_files(name: str) -> None:
    blueprint = describe(entry(name).config).blueprint
    ahead = sum(weight.parameters for weight in blueprint.prediction)
    assert blueprint.parameters + ahead == WITH_PREDICTION[name]
    assert not {weight.name for weight in blueprint.prediction} & {weight.name for weight in blueprint}


def test_there_are_many_and_of_all_kinds() -> None:
    assert len(names()) >= 60
    kinds = {architecture for name in names() for architecture in entry(name).config["architectures"]}
    assert kinds <= set(DESCRIBED)
    # A family without a single example would be tested by nothing.
    assert set(DESCRIBED) - kinds == {
        "BertForMaskedLM", "ChatGLMForConditionalGeneration", "MT5ForConditionalGeneration",
        "Ministral3ForCausalLM", "Olmo3ForCausalLM", "PhimoeForCausalLM", "T5WithLMHeadModel",
    }  # fmt: skip


@pytest.mark.parametrize("name", names())
def test_every_configuration_is_described(name: str) -> None:
    described = describe(entry(name).config)
    blueprint = described.blueprint
    assert blueprint.parameters > 0
    assert bool(described.refusal) is not blueprint.config.runnable
    assert len({weight.name for weight in blueprint}) == len(blueprint.weights)
    assert len({(weight.role, weight.layer) for weight in blueprint}) == len(blueprint.weights)
    for weight in blueprint:
        assert min(weight.shape) > 0
        assert weight.tied_to is None or blueprint.find("embedding") is not None


def is_read(config: dict[str, Any], field: str) -> bool:
    try:
        describe({**config, field: {"absurd": 1}})
    except BoliError:
        return True
    return False


@pytest.mark.parametrize("name", names())
def test_every_field_of_the_data_means_something(name: str) -> None:
    """A field that is spelt wrongly would be ignored, and the count would be another."""
    config = fewer_layers(entry(name).config, 1)
    fields = config.keys() - HARMLESS - {"architectures"}
    ignored = {field for field in fields if not is_read(config, field)}
    # Larger Falcons say by another field what this one says of the smallest.
    assert ignored == ({"parallel_attn"} if config.get("new_decoder_architecture") else set())


def test_no_two_models_share_a_name() -> None:
    given: list[str] = []
    for name in names():
        each = entry(name)
        tails = {repo.rpartition("/")[2] for repo in each.hub}
        given += {
            catalogue._plain(text) for text in (name, each.alias or name, *each.also, *each.hub, *tails)
        }
    assert [name for name, count in Counter(given).items() if count > 1] == []


def test_every_alias_of_boli_stands_for_a_model_here() -> None:
    assert {entry(name).alias for name in names()} - {""} == set(ALIASES)


def test_the_data_says_nothing_twice() -> None:
    """What a model has in common with the one that it is like is not repeated."""
    for path in Path(catalogue.__file__).parent.glob("configurations/*.json"):
        raw = json.loads(path.read_text())
        for name, model in raw.items():
            assert model.keys() <= {"like", "hub", "also", "alias", "note", "config"}, name
            if "like" in model:
                whole = entry(model["like"]).config
                same = {key for key, value in model["config"].items() if whole.get(key, ...) == value}
                assert not same, name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("llama-3.1-8b", "llama-3.1-8b"),
        ("Llama 3.1 8B", "llama-3.1-8b"),
        ("LLAMA_3.1_8B", "llama-3.1-8b"),
        ("llama3.1-8b", "llama-3.1-8b"),
        ("meta-llama/Llama-3.1-8B", "llama-3.1-8b"),
        ("Llama-3.1-8B-Instruct", "llama-3.1-8b"),
        ("meta-llama/Llama-3.1-8B-Instruct", "llama-3.1-8b"),
        ("Qwen2.5-Coder-7B-Instruct", "qwen2.5-7b"),
        ("google/gemma-3-1b-it", "gemma-3-1b"),
        ("deepseek-ai/DeepSeek-R1", "deepseek-r1"),
        ("gpt-2", "gpt2"),
        ("GPT-3", "gpt-3-175b"),
        ("mixtral", "mixtral-8x7b"),
    ],
)
def test_names_are_read_as_people_write_them(text: str, name: str) -> None:
    assert entry(text).name == name


def test_what_was_assumed_about_a_name_is_said() -> None:
    found = find("Llama-3.1-8B-Instruct")
    assert found is not None
    assert "taken to have the shapes of llama-3.1-8b" in found[1]
    exact = find("meta-llama/Llama-3.1-8B")
    assert exact is not None
    assert exact[1] == ""


@pytest.mark.parametrize("text", ["", "no-such-model", "instruct", "-it", "llama", "x" * 10_000])
def test_unknown_names(text: str) -> None:
    assert find(text) is None


@pytest.mark.parametrize(
    ("text", "name"),
    [("lama-3.1-8b", "llama-3.1-8b"), ("qwen-2.5-7", "qwen2.5-7b"), ("deepseek", "deepseek-v3"),
     ("org/mixtrall-8x7b", "mixtral-8x7b")],
)  # fmt: skip
def test_the_nearest_names_are_told(text: str, name: str) -> None:
    assert name in nearest(text)
    assert "did you mean" in catalogue.unknown(text).remedy
