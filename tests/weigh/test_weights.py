"""The account of weights: parameters, active ones, bytes, folding."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from math import prod
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boli.formats.table import FORMATS
from boli.weigh.blocks import BLOCKS, SQUARES, nbytes
from boli.weigh.catalogue import names
from boli.weigh.model import find_model
from boli.weigh.weights import WeightsAccount, part_of, weigh_weights
from weigh.published_counts import ACTIVE, EXACT, STORED_BYTES, WITH_PREDICTION


@functools.cache
def account_of(name: str, **shapes: object) -> WeightsAccount:
    return weigh_weights(find_model(name, **shapes))


def inputs_of(account: WeightsAccount) -> Mapping[str, float]:
    return account.parameters.inputs


@pytest.mark.parametrize("name", ["llama-2-7b", "qwen3-0.6b", "gemma-3-270m", "bert-base-cased", "t5-small"])
def test_totals_are_as_published(name: str) -> None:
    account = account_of(name)
    assert account.parameters.value == EXACT[name]
    assert account.parameters.certainty == "exact"
    assert account.bytes.value == EXACT[name] * {"BF16": 2, "F16": 2, "F32": 4}[find_model(name).dtype]


@pytest.mark.parametrize("name", names())
def test_matrices_sum_to_the_total_in_every_way(name: str) -> None:
    account = account_of(name)
    total = account.parameters.value
    assert sum(row.parameters for row in account.model_rows) == total
    assert sum(account.parameters.inputs.values()) == total
    assert sum(group.parameters for group in account.groups if not group.row.prediction) == total
    assert sum(group.bytes for group in account.groups) == account.stored_bytes.value
    assert sum(account.by_type.values()) == account.bytes.value
    assert account.active_parameters.value <= account.active_parameters_with_embedding.value <= total
    for row in account.rows:
        assert row.parameters == (0 if row.tied_to else prod(row.shape))
        assert (row.bytes == 0) == (row.tied_to is not None)
        assert 0 < row.active_parameters <= prod(row.shape)


@pytest.mark.parametrize("name", ACTIVE)
def test_active_parameters_by_both_conventions(name: str) -> None:
    account = account_of(name)
    assert (account.active_parameters.value, account.active_parameters_with_embedding.value) == ACTIVE[name]


@pytest.mark.parametrize("name", WITH_PREDICTION)
def test_prediction_modules_are_stored_and_not_counted(name: str) -> None:
    account = account_of(name)
    assert account.stored_parameters.value == WITH_PREDICTION[name]
    assert account.parameters.value < WITH_PREDICTION[name]
    assert account.stored_bytes.value > account.bytes.value


@pytest.mark.parametrize("name", STORED_BYTES)
def test_bytes_of_published_files(name: str) -> None:
    assert account_of(name).stored_bytes.value == STORED_BYTES[name]


def test_the_head_of_llama_3_is_not_most_of_it() -> None:
    account = account_of("llama-3.1-8b")
    assert inputs_of(account)["head"] == 525_336_576
    assert inputs_of(account)["mlp"] == 5_637_144_576
    assert account.parameters_without_embeddings.value == 8_030_261_248 - 2 * 525_336_576
    assert account.active_parameters.value == 8_030_261_248 - 525_336_576


def test_a_tied_head_is_stored_once_read_as_head_and_counted_once() -> None:
    account = account_of("smollm2-135m")
    (head,) = [row for row in account.rows if row.role == "head"]
    (embedding,) = [row for row in account.rows if row.role == "embedding"]
    assert (head.parameters, head.bytes, head.tied_to) == (0, 0, embedding.name)
    assert head.active_parameters == embedding.parameters == 49152 * 576
    assert account.active_parameters.value == account.parameters.value == 134_515_008
    assert account.active_parameters_with_embedding.value == 134_515_008
    untied = account_of("smollm2-135m", tie_word_embeddings=False)
    assert untied.parameters.value == 134_515_008 + 49152 * 576
    assert untied.active_parameters.value == 134_515_008


def test_gemmas_embedding_is_most_of_it() -> None:
    account = account_of("gemma-3-270m")
    assert inputs_of(account)["embeddings"] == 167_772_160
    assert account.parameters_without_embeddings.value == 100_326_016


def test_equal_layers_are_one_line() -> None:
    account = account_of("llama-3.1-8b")
    assert len(account.groups) == 12
    (k,) = [group for group in account.groups if group.row.role == "k"]
    assert (k.count, k.layers, k.parameters) == (32, tuple(range(32)), 32 * 1024 * 4096)
    assert k.bytes == 2 * k.parameters
    # A tied head is one line too, and T5's two stacks are not folded into one.
    stacks = {
        group.row.name.split(".")[0] for group in account_of("t5-small").groups if group.row.role == "q"
    }
    assert stacks == {"encoder", "decoder"}


def test_every_role_belongs_to_a_part() -> None:
    parts = {part_of(row.role) for name in names() for row in account_of(name).rows if row.role != "other"}
    assert parts == {
        "embeddings", "head", "attention", "mlp", "experts", "shared_experts", "router", "norms", "biases",
        "linear_attention", "projections", "prediction",
    }  # fmt: skip


def test_fp8_has_a_scale_for_each_square() -> None:
    account = account_of("deepseek-v3")
    kinds = {row.role: row.type for row in account.rows if row.layer == 10}
    assert kinds["expert_up"] == kinds["q_b"] == kinds["o"] == SQUARES
    assert kinds["router"] == kinds["attention_norm"] == "BF16"
    (o,) = [row for row in account.rows if row.role == "o" and row.layer == 10]
    assert o.bytes == 7168 * 16384 + 4 * 56 * 128
    assert nbytes((3, 200, 129), SQUARES) == 3 * (200 * 129 + 4 * 2 * 2)


@given(st.sampled_from(sorted(BLOCKS)), st.integers(1, 40), st.integers(1, 8))
def test_bytes_of_whole_blocks(kind: str, rows: int, blocks: int) -> None:
    columns = blocks * BLOCKS[kind][0]
    assert nbytes((rows, columns), kind) == rows * FORMATS[kind].nbytes(columns)


def test_rows_that_are_no_whole_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match="no whole number of Q4_K blocks"):
        nbytes((10, 300), "Q4_K")


@given(data=st.data())
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
def test_more_of_anything_weighs_more(data: st.DataObject) -> None:
    base = {"hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
            "intermediate_size": 512, "vocab_size": 1000, "head_dim": 64}  # fmt: skip
    key = data.draw(st.sampled_from(sorted(base)))
    factor = 2
    small, large = account_of("", **base), account_of("", **{**base, key: base[key] * factor})
    assert small.parameters.value < large.parameters.value
    assert small.bytes.value < large.bytes.value


def test_files_weigh_what_their_tensors_take(tmp_path: Path) -> None:
    from tiny_models import TINY, Zoo

    zoo = Zoo(tmp_path)
    for quantization in ("F32", "Q8_0", "Q4_0"):
        path = zoo.gguf(TINY["llama"], quantization)
        account = weigh_weights(find_model(path))
        from boli.formats.gguf import GGUFFile

        with GGUFFile(path) as file:
            assert account.bytes.value == sum(info.nbytes for info in file.tensors.values())
            by_type: dict[str, int] = {}
            for info in file.tensors.values():
                by_type[info.format.name] = by_type.get(info.format.name, 0) + info.nbytes
        assert account.by_type == by_type
