"""Configurations come from strangers: absurd ones are refused by name, before anything is allocated."""

import json
import math
import time
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blueprint.configs import GEMMA3_GGUF, PUBLISHED, SMOLLM2_GGUF, published
from boli.blueprint import from_gguf, from_hf_config
from boli.errors import BoliError, CorruptFile

SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
)
NOT_SIZES: tuple[object, ...] = (0, -1, 10**12, 10**400, True, False, 1.5, 64.0, math.nan, "64", [], [64], {})


@pytest.mark.parametrize("value", NOT_SIZES, ids=lambda value: repr(value)[:20])
@pytest.mark.parametrize("field", SIZES)
def test_absurd_sizes_are_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(CorruptFile) as error:
        from_hf_config(published("Llama-3.1-8B", **{field: value}))
    assert field in error.value.message
    assert len(str(error.value)) < 500


@pytest.mark.parametrize("field", [size for size in SIZES if size not in ("num_key_value_heads",)])
def test_missing_sizes_are_refused_by_name(field: str) -> None:
    config = published("Qwen2.5-0.5B")
    config.pop(field)
    if field == "max_position_embeddings":  # the class in transformers has a default for it
        assert from_hf_config(config).config.max_position_embeddings == 32768
        return
    with pytest.raises(CorruptFile, match=f"{field} is missing"):
        from_hf_config(config)


@pytest.mark.parametrize("value", [math.nan, math.inf, -1e-5, 0, "1e-5", True, 5])
def test_absurd_epsilons_are_refused(value: object) -> None:
    with pytest.raises(CorruptFile, match="rms_norm_eps"):
        from_hf_config(published("Llama-3.1-8B", rms_norm_eps=value))
    with pytest.raises(CorruptFile, match="layer_norm_epsilon"):
        from_hf_config(published("gpt2", layer_norm_epsilon=value))


@pytest.mark.parametrize("value", [math.nan, math.inf, 0, -1, "10000", True])
def test_absurd_rope_bases_are_refused(value: object) -> None:
    with pytest.raises(CorruptFile, match="rope_theta"):
        from_hf_config(published("Mistral-7B-v0.1", rope_theta=value))


@pytest.mark.parametrize(
    ("name", "changes", "named"),
    [
        ("Llama-3.1-8B", {"num_key_value_heads": 5}, "num_key_value_heads"),
        ("Llama-3.1-8B", {"num_attention_heads": 24, "hidden_size": 4097}, "num_attention_heads"),
        ("Llama-3.1-8B", {"head_dim": 10**6}, "head_dim"),
        ("Llama-3.1-8B", {"head_dim": 63}, "head_dim"),
        ("Llama-3.1-8B", {"rope_scaling": 3}, "rope_scaling"),
        ("Llama-3.1-8B", {"rope_scaling": {"rope_type": "llama3"}}, "low_freq_factor"),
        ("Llama-3.1-8B", {"rope_scaling": {"rope_type": "linear", "factor": 0}}, "factor"),
        ("Llama-3.1-8B", {"tie_word_embeddings": "yes"}, "tie_word_embeddings"),
        ("Llama-3.1-8B", {"eos_token_id": ["</s>"]}, "eos_token_id"),
        ("Llama-3.1-8B", {"eos_token_id": list(range(5000))}, "eos_token_id"),
        ("Llama-3.1-8B", {"architectures": None, "model_type": None}, "architectures"),
        ("Llama-3.1-8B", {"architectures": None, "model_type": 7}, "model_type"),
        ("Mistral-7B-v0.1", {"sliding_window": 0}, "sliding_window"),
        ("gemma-3-270m", {"query_pre_attn_scalar": 0}, "query_pre_attn_scalar"),
        ("gemma-3-270m", {"layer_types": ["full_attention"]}, "layer_types"),
        ("gemma-3-270m", {"layer_types": "full_attention"}, "layer_types"),
        ("gemma-3-270m", {"sliding_window": -5}, "sliding_window"),
        ("gemma-3-4b-it, text", {"text_config": []}, "text_config"),
        ("gpt2", {"n_head": 7}, "num_attention_heads"),
        ("gpt2", {"n_embd": -1}, "n_embd"),
    ],
)
def test_contradictions_are_refused_by_name(name: str, changes: dict[str, Any], named: str) -> None:
    with pytest.raises(CorruptFile, match=named):
        from_hf_config(published(name, **changes))


@pytest.mark.parametrize(
    "field",
    [
        "block_count",
        "embedding_length",
        "feed_forward_length",
        "attention.head_count",
        "attention.head_count_kv",
        "context_length",
        "vocab_size",
    ],
)
@pytest.mark.parametrize("value", [0, -1, 10**12, "9", math.nan, True, []])
def test_absurd_gguf_sizes_are_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(CorruptFile) as error:
        from_gguf({**SMOLLM2_GGUF, f"llama.{field}": value}, ())
    assert f"llama.{field}" in error.value.message


def test_gguf_without_an_architecture_or_a_size_is_refused_by_name() -> None:
    for key in ("general.architecture", "llama.block_count", "llama.attention.layer_norm_rms_epsilon"):
        with pytest.raises(CorruptFile, match=key):
            from_gguf({name: value for name, value in SMOLLM2_GGUF.items() if name != key}, ())


def test_a_refusal_is_quick_and_takes_no_memory() -> None:
    tracemalloc.start()
    begin = time.perf_counter()
    try:
        for field in SIZES:
            with pytest.raises(CorruptFile):
                from_hf_config(published("Llama-3.1-8B", **{field: 10**9}))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert time.perf_counter() - begin < 0.5
    assert peak < 1_000_000


_JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.lists(st.integers(-2, 9), max_size=3),
    st.dictionaries(st.sampled_from(["rope_type", "factor", "full_attention", "type"]), st.text(max_size=8)),
)


def _paths(config: dict[str, Any]) -> list[tuple[str, ...]]:
    paths: list[tuple[str, ...]] = [(key,) for key in config]
    return paths + [(key, each) for key, value in config.items() if isinstance(value, dict) for each in value]


@pytest.mark.parametrize("name", PUBLISHED)
@given(data=st.data())
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
def test_damaged_configurations_raise_only_errors_of_ours(name: str, data: st.DataObject) -> None:
    config = json.loads(json.dumps(PUBLISHED[name][0]))
    paths = _paths(config)
    for path in data.draw(st.lists(st.sampled_from(paths), min_size=1, max_size=3)):
        holder = config
        for key in path[:-1]:
            holder = holder[key] if isinstance(holder.get(key), dict) else {}
        holder[path[-1]] = data.draw(_JUNK)
    try:
        blueprint = from_hf_config(config)
    except BoliError as error:
        assert error.message
    else:
        assert blueprint.parameters > 0


@pytest.mark.parametrize("metadata", [SMOLLM2_GGUF, GEMMA3_GGUF], ids=["llama", "gemma3"])
@given(data=st.data())
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
def test_damaged_gguf_metadata_raises_only_errors_of_ours(
    metadata: dict[str, Any], data: st.DataObject
) -> None:
    damaged = dict(metadata)
    for key in data.draw(st.lists(st.sampled_from(list(metadata)), min_size=1, max_size=3)):
        damaged[key] = data.draw(_JUNK)
    try:
        blueprint = from_gguf(
            damaged, (), rope_freqs=data.draw(st.none() | st.lists(st.floats(), max_size=40))
        )
    except BoliError as error:
        assert error.message
    else:
        assert blueprint.parameters > 0
