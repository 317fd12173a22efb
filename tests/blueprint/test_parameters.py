"""The blueprint's count of parameters against numbers that others published."""

import pytest

from blueprint.configs import GEMMA3_GGUF, PUBLISHED, SMOLLM2_GGUF
from boli.blueprint import from_gguf, from_hf_config


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_as_published(name: str) -> None:
    config, parameters = PUBLISHED[name]
    assert from_hf_config(config).parameters == parameters


def test_parameters_from_gguf_metadata_are_the_same() -> None:
    assert from_gguf(SMOLLM2_GGUF, ()).parameters == PUBLISHED["SmolLM2-135M"][1]
    assert from_gguf(GEMMA3_GGUF, ()).parameters == PUBLISHED["gemma-3-270m"][1]


def test_a_tied_head_counts_once_and_an_untied_one_counts() -> None:
    tied = from_gguf(SMOLLM2_GGUF, ())
    untied = from_gguf(SMOLLM2_GGUF, ("output.weight",))
    assert untied.parameters - tied.parameters == 49152 * 576
    head = tied.find("head")
    assert head is not None
    assert head.tied_to == "model.embed_tokens.weight"
    assert head.gguf.names == ("token_embd.weight",)


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_weight_has_its_own_name_and_role(name: str) -> None:
    blueprint = from_hf_config(PUBLISHED[name][0])
    assert len({weight.name for weight in blueprint}) == len(blueprint.weights)
    assert len({(weight.role, weight.layer) for weight in blueprint}) == len(blueprint.weights)
    for weight in blueprint:
        assert blueprint.find(weight.role, weight.layer) is weight
