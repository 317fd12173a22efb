"""The account of training: published numbers, and properties."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boli.errors import UsageError
from boli.weigh.activations import Pass, activations
from boli.weigh.flops import flops
from boli.weigh.model import LayerFacts, Model
from boli.weigh.states import RECIPES, states
from boli.weigh.training import training
from boli.weigh.weights import weigh_weights
from weigh.made_models import LLAMA_3_8B, LLAMA_7B, QWEN_05B, SMOLLM2, gpt, made

GiB = 2**30


def account(model: Model, **options: Any) -> Any:
    return training(model, weigh_weights(model), **{"sequence_length": 512, **options})


def kept(model: Model, **options: Any) -> Any:
    assert model.facts is not None
    return activations(model, model.facts, Pass(**{"micro_batch": 1, "sequence_length": 2048, **options}))


@pytest.mark.parametrize(("stage", "gigabytes"), [(0, 120.0), (1, 31.4), (2, 16.6), (3, 1.9)])
def test_zero_divides_as_its_paper_says(stage: int, gigabytes: float) -> None:
    # Rajbhandari et al. 2020, figure 1: 7.5 billion parameters on 64 devices.
    held = states([7_500_000_000], RECIPES["mixed"], zero=stage, devices=64)
    assert round(held.bytes.value / 1e9, 1) == gigabytes


@pytest.mark.parametrize(
    ("recipe", "rule", "each"),
    [
        ("mixed", "2 + 2 + 12", 16),
        ("mixed-fp32-gradients", "2 + 4 + 12", 18),
        ("fp32", "4 + 4 + 8", 16),
        ("bf16", "2 + 2 + 4", 8),
        ("adam-8bit", "2 + 2 + 6", 10),
    ],
)
def test_bytes_of_a_parameter(recipe: str, rule: str, each: int) -> None:
    assert (RECIPES[recipe].rule, RECIPES[recipe].bytes) == (rule, each)
    scales = 2 * 4 * 1_024_000 // 256 if recipe == "adam-8bit" else 0
    assert states([1_024_000], RECIPES[recipe]).bytes.value == each * 1_024_000 + scales


def test_moments_in_8_bits_have_scales_and_spare_small_tensors() -> None:
    moments = states([4096, 4095, 5000], RECIPES["adam-8bit"]).moments.value
    assert moments == 2 * (4096 + 4 * 16) + 8 * 4095 + 2 * (5000 + 4 * 20)


@given(st.integers(1, 10**12), st.integers(1, 4096), st.sampled_from(sorted(RECIPES)))
def test_each_stage_of_zero_needs_less_and_all_shares_hold_everything(
    parameters: int, devices: int, recipe: str
) -> None:
    one = states([parameters], RECIPES[recipe]).bytes.value
    shares = [states([parameters], RECIPES[recipe], zero=z, devices=devices).bytes.value for z in range(4)]
    assert shares[0] == one
    assert shares == sorted(shares, reverse=True)
    assert one <= shares[3] * devices <= one + 20 * devices


@pytest.mark.parametrize(
    ("model", "scores"),
    [(gpt(12288, 96, 96), 80), (gpt(20480, 105, 128), 64)],
    ids=["GPT-3", "MT-NLG 530B"],
)
def test_the_block_of_gpt_is_that_of_the_paper(model: Model, scores: int) -> None:
    # Korthikanti et al. 2022: s·b·h·(34 + 5·a·s/h); selective recomputation leaves 34, full 2.
    sbh = 2048 * model.blueprint.config.hidden_size
    options = {"attention": "eager", "dropout": True}
    per_layer = {
        way: kept(model, recompute=way, **options).groups[0].layer.value / sbh
        for way in ("none", "selective", "full")
    }
    assert per_layer == {"none": 34 + scores, "selective": 34, "full": 2}


def test_activations_of_gpt_3() -> None:
    model = gpt(12288, 96, 96)
    options = {"attention": "eager", "dropout": True}
    gib = [kept(model, recompute=way, **options).layers.value / GiB for way in ("none", "selective", "full")]
    assert gib == [256.5, 76.5, 4.5]


@pytest.mark.parametrize(
    ("config", "length", "per_sbd", "gib"), [(LLAMA_3_8B, 4096, 41.0, 20.5), (SMOLLM2, 512, 34.7, 0.286)]
)
def test_the_block_of_llama(config: dict[str, Any], length: int, per_sbd: float, gib: float) -> None:
    account_of = kept(made(config), sequence_length=length)
    assert account_of.groups[0].layer.value / (length * config["hidden_size"]) == pytest.approx(
        per_sbd, abs=0.05
    )
    assert account_of.layers.value / GiB == pytest.approx(gib, rel=0.002)
    (group,) = account_of.groups
    assert group.layers == tuple(range(config["num_hidden_layers"]))
    assert sum(tensor.value for tensor in group.tensors.values()) == group.layer.value


def test_full_recomputation_brings_back_one_layer_at_a_time() -> None:
    model = made(SMOLLM2)
    full = kept(model, recompute="full")
    assert full.recomputed.value == kept(model).groups[0].layer.value
    assert full.layers.value == 30 * 2 * 2048 * 576
    assert kept(model).recomputed is None


@given(st.integers(1, 8), st.integers(1, 64), st.sampled_from(["flash", "eager"]))
def test_activations_grow_with_batch_and_length(batch: int, chunks: int, attention: str) -> None:
    model = made(SMOLLM2)
    one = kept(model, micro_batch=batch, sequence_length=64 * chunks, attention=attention).bytes.value
    assert (
        kept(model, micro_batch=2 * batch, sequence_length=64 * chunks, attention=attention).bytes.value
        == 2 * one
    )
    longer = kept(model, micro_batch=batch, sequence_length=128 * chunks, attention=attention).bytes.value
    assert longer == 2 * one if attention == "flash" else longer > 2 * one


@pytest.mark.parametrize(
    ("config", "rank", "targets", "parameters"),
    [
        (LLAMA_7B, 8, "q,v", 4_194_304),
        (LLAMA_7B, 8, "all-linear", 19_988_480),
        (LLAMA_7B, 8, "all-linear,head", 20_277_248),
        (QWEN_05B, 4, "q,v", 270_336),
        (LLAMA_3_8B, 16, "all-linear", 41_943_040),
    ],
)
def test_parameters_of_lora(config: dict[str, Any], rank: int, targets: str, parameters: int) -> None:
    lora = account(made(config), rank=rank, targets=targets).adapters
    assert lora.parameters.value == parameters
    assert lora.states.value == 16 * parameters


def test_qlora_keeps_matrices_in_four_bits_and_little_more() -> None:
    both = account(made(LLAMA_7B), rank=8).adapters
    embedding_and_head = 2 * 32000 * 4096
    norms = (2 * 32 + 1) * 4096
    matrices = 6_738_415_616 - embedding_and_head - norms
    assert both.frozen.value == 2 * 6_738_415_616
    bits = 8 * (both.frozen_nf4.value - 2 * (embedding_and_head + norms)) / matrices
    assert bits == pytest.approx(4.127, abs=0.0005)
    assert both.dequantized.value == 2 * 4096 * 11008


def test_frozen_matrices_need_no_inputs() -> None:
    whole, some = account(made(LLAMA_7B)), account(made(LLAMA_7B), targets="q,v")
    everything = account(made(LLAMA_7B), targets="all-linear")
    assert some.lora.value < everything.lora.value < whole.total.value
    assert everything.qlora.value < everything.lora.value


def test_the_total_is_the_sum_of_what_is_shown() -> None:
    each = account(made(SMOLLM2), micro_batch=4)
    assert each.total.value == each.states.bytes.value + each.activations.bytes.value + each.loss.value
    assert each.loss.value == 3 * 4 * 512 * 49152 * 4
    assert each.peak.value < each.total.value
    assert each.by_recipe["mixed"].value == each.states.bytes.value == 16 * 134_515_008
    assert each.by_recompute["none"].value == each.activations.bytes.value
    assert each.by_recompute["full"].value < each.by_recompute["none"].value
    assert any("allocator" in line for line in each.not_modelled)


def test_operations_of_a_token() -> None:
    model = made(LLAMA_3_8B)
    assert model.facts is not None
    cost = flops(weigh_weights(model), model.facts, 8192)
    norms = (2 * 32 + 1) * 4096
    parameters = 8_030_261_248
    assert cost.matrices.value == 2 * (parameters - 128256 * 4096 - norms)
    assert cost.attention.value == 2 * 32 * 32 * (128 + 128) * 8193 / 2
    assert cost.training.value == 3 * (cost.matrices.value + cost.attention.value)
    assert cost.conventions["6N"].value == 6 * parameters
    assert cost.conventions["6N + 12LHeT"].value == 6 * parameters + 12 * 32 * 32 * 128 * 8192


def test_a_tied_head_is_multiplied_with_though_it_is_stored_once() -> None:
    model = made(SMOLLM2)
    assert model.facts is not None
    norms = (2 * 30 + 1) * 576
    assert flops(weigh_weights(model), model.facts, 1).matrices.value == 2 * (134_515_008 - norms)


@given(
    st.integers(1, 300), st.integers(1, 100), st.sampled_from(["full", "sliding", "chunked", "bidirectional"])
)
def test_positions_seen_are_those_of_the_mask(length: int, window: int, kind: Any) -> None:
    from boli.weigh.flops import positions_seen

    model = made(SMOLLM2)
    assert model.facts is not None
    width = window if kind in ("sliding", "chunked") else None
    layer: LayerFacts = replace(model.facts.layers[0], attention=kind, window=width)

    def sees(query: int, key: int) -> bool:
        if kind == "bidirectional":
            return True
        near = query - key < window if kind == "sliding" else query // window == key // window
        return key <= query and (width is None or near)

    mask = sum(sees(query, key) for query in range(length) for key in range(length))
    assert positions_seen(layer, length) == pytest.approx(mask / length)


def test_six_operations_for_each_parameter_and_token() -> None:
    each = account(made(LLAMA_7B), tokens=10**12)
    assert each.training_flops.value == 6 * 6_738_415_616 * 10**12
    assert each.training_flops.certainty == "exact"
    optimal = account(made(LLAMA_7B))
    assert optimal.tokens.value == 20 * 6_738_415_616
    assert optimal.training_flops.certainty == optimal.tokens.certainty == "assumed"


def test_a_list_of_tensors_has_states_and_says_what_it_lacks() -> None:
    each = account(replace(made(SMOLLM2), facts=None))
    assert each.total.value == 16 * 134_515_008
    assert each.activations is each.loss is each.flops is None
    assert any("only the tensors" in line for line in each.not_modelled)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"recipe": "int3"}, "no recipe of training 'int3'"),
        ({"zero": 4}, "no stage 4"),
        ({"sequence_length": 0}, "sequence length is 0"),
        ({"micro_batch": 10**12}, "micro-batch is 1,000,000,000,000"),
        ({"devices": -1}, "number of devices is -1"),
        ({"tokens": 0}, "number of tokens is 0"),
        ({"rank": 0}, "rank of LoRA is 0"),
        ({"recompute": "some"}, "recompute cannot be 'some'"),
        ({"attention": "slow"}, "attention cannot be 'slow'"),
        ({"norms": "no"}, "norms cannot be 'no'"),
        ({"targets": "q;v"}, "no LoRA targets 'q;v'"),
    ],
)
def test_senseless_options_are_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        account(made(SMOLLM2), **options)
