"""The KV cache by several engines' rules, against published figures."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boli.errors import UnsupportedModel, UsageError
from boli.weigh.kv import MAX_CONTEXT, weigh_kv
from boli.weigh.kv_rules import DTYPES_OF, ENGINES, Engine
from boli.weigh.model import Model, find_model
from weigh.made_models import made

MIB = 1 << 20

# Bytes a token in 16 bits. 131,072 and 31,104 were measured with vLLM.
PER_TOKEN = {
    "gpt2": 36_864, "gpt-3-175b": 4_718_592, "llama-2-7b": 524_288, "llama-2-70b": 327_680,
    "llama-3.3-70b": 327_680, "qwen2.5-72b": 327_680, "llama-3.1-8b": 131_072, "mistral-7b-v0.3": 131_072,
    "mixtral-8x7b": 131_072, "llama-3.1-405b": 516_096, "deepseek-v2-lite": 31_104, "deepseek-v3": 70_272,
    "qwen2.5-0.5b": 12_288, "qwen2.5-1.5b": 28_672, "qwen2.5-3b": 36_864, "qwen2.5-7b": 57_344,
    "qwen2.5-14b": 196_608, "qwen2.5-32b": 262_144, "qwen3-0.6b": 114_688, "smollm2-135m": 23_040,
    "smollm2-360m": 40_960, "smollm2-1.7b": 196_608, "chatglm3-6b": 28_672,
}  # fmt: skip


@pytest.mark.parametrize("name", PER_TOKEN)
def test_bytes_a_token(name: str) -> None:
    found = weigh_kv(find_model(name), context=1000, dtype="FP16")
    assert found.bytes_per_token.value == PER_TOKEN[name]
    assert found.bytes.value == 1000 * PER_TOKEN[name]
    assert found.bytes.certainty == "exact"
    assert found.fixed_bytes.value == 0


def test_latent_attention_in_three_forms() -> None:
    model = find_model("deepseek-v3")
    forms = weigh_kv(model, context=1).variants
    assert {name: each.value for name, each in forms.items()} == {
        "latent": 70_272, "expanded": 4_997_120, "fp8_ds_mla": 40_016,
    }  # fmt: skip
    assert weigh_kv(model, context=16, engine="transformers").bytes.value == 16 * 4_997_120
    assert weigh_kv(model, context=16, engine="vllm").bytes.value == 16 * 70_272
    assert weigh_kv(model, context=16, engine="vllm", dtype="fp8_ds_mla").bytes.value == 16 * 40_016
    assert weigh_kv(model, context=256, engine="llama.cpp").bytes.value == 256 * 70_272


def test_windows_of_gemma() -> None:
    small, one = find_model("gemma-3-270m"), find_model("gemma-3-1b")
    assert weigh_kv(small, context=32_768).bytes.value == 103.5 * MIB
    assert round(weigh_kv(one, context=32_768).bytes.value / MIB) == 139
    # 15 windows of 512 are full and do not grow any more; 3 layers do.
    found = weigh_kv(small, context=32_768)
    assert found.fixed_bytes.value == 15 * 512 * 1024
    assert (found.bytes_per_token.value, found.bytes_per_further_token.value) == (18 * 1024, 3 * 1024)
    # llama.cpp: the micro-batch on top of the window. transformers: one position less.
    assert weigh_kv(small, context=32_768, engine="llama.cpp").bytes.value == (
        (3 * 32_768 + 15 * (512 + 512)) * 1024
    )
    assert weigh_kv(small, context=32_768, engine="transformers").bytes.value == (
        (3 * 32_768 + 15 * 511) * 1024
    )
    assert weigh_kv(small, context=32_768, engine="vllm").bytes.value == (3 * 32_768 + 15 * 528) * 1024


@pytest.mark.parametrize("engine", ["model", "llama.cpp", "vllm", "transformers"])
def test_what_still_grows_when_windows_are_full(engine: Engine) -> None:
    gemma = find_model("gemma-3-270m")
    assert weigh_kv(gemma, context=256, engine=engine).bytes_per_further_token.value == 18 * 1024
    found = weigh_kv(gemma, context=8192, engine=engine)
    assert found.bytes_per_further_token.value == 3 * 1024
    further = weigh_kv(gemma, context=16_384, engine=engine)
    assert further.bytes.value - found.bytes.value == 8192 * 3 * 1024
    assert further.fixed_bytes.value == found.fixed_bytes.value


def test_llama_cpp_leaves_mistrals_window_out() -> None:
    mistral = find_model("mistral-7b-v0.1")
    assert weigh_kv(mistral, context=32_768).bytes.value == 4096 * 131_072
    found = weigh_kv(mistral, context=32_768, engine="llama.cpp")
    assert found.bytes.value == 32_768 * 131_072
    assert any("all positions" in note for note in found.notes)


def test_grouped_heads_against_full_ones() -> None:
    gigabytes = 1 << 30
    assert weigh_kv(find_model("llama-2-70b"), context=32_768).bytes.value == 10 * gigabytes
    full = find_model("llama-2-70b", num_key_value_heads=64)
    assert weigh_kv(full, context=32_768).bytes.value == 80 * gigabytes


@pytest.mark.parametrize(
    ("engine", "context", "positions"),
    [
        ("model", 100, 100),
        ("transformers", 100, 100),
        ("vllm", 100, 112),
        ("llama.cpp", 100, 256),
        ("llama.cpp", 257, 512),
    ],
)
def test_rounding(engine: Engine, context: int, positions: int) -> None:
    found = weigh_kv(find_model("llama-3.1-8b"), context=context, requests=3, engine=engine)
    assert found.layers[0].positions.value == positions
    assert found.bytes.value == 3 * positions * 131_072


@pytest.mark.parametrize(
    ("engine", "dtype", "of_two_bytes"),
    [
        ("model", "fp32", 2.0), ("model", "bf16", 1.0), ("model", "fp8", 0.5), ("model", "int8", 0.5),
        ("vllm", "fp8", 0.5), ("vllm", "int8", (1 + 4 / 128) / 2), ("llama.cpp", "q8_0", 1.0625 / 2),
        ("llama.cpp", "q5_0", 0.6875 / 2), ("llama.cpp", "q4_0", 0.5625 / 2),
    ],
)  # fmt: skip
def test_number_formats(engine: Engine, dtype: str, of_two_bytes: float) -> None:
    found = weigh_kv(find_model("llama-3.1-8b"), context=256, engine=engine, dtype=dtype)
    assert found.bytes_per_token.value == 131_072 * of_two_bytes


def test_boli_has_pages_of_all_layers() -> None:
    from boli.cpu.runner import kv_cache_bytes
    from boli.cpu.sizes import PAGE_SIZE
    from boli.engine.capacity import MAX_SEQUENCES, pages_for

    gemma = find_model("gemma-3-270m")
    for context in (32, 1000, 8192):
        pages = pages_for(context, page_size=PAGE_SIZE, max_sequences=MAX_SEQUENCES)
        found = weigh_kv(gemma, context=context, engine="boli")
        assert found.bytes.value == kv_cache_bytes(gemma.blueprint.config, pages)
    for dtype, kv_type in (("fp32", "f32"), ("int8", "int8")):
        found = weigh_kv(gemma, context=8192, engine="boli", dtype=dtype)
        assert found.bytes.value == kv_cache_bytes(gemma.blueprint.config, pages, kv_type)
    several = weigh_kv(gemma, context=1000, requests=3, engine="boli").bytes.value
    one = weigh_kv(gemma, context=1000, engine="boli").bytes.value
    assert several - one == kv_cache_bytes(gemma.blueprint.config, 2 * -(-1000 // PAGE_SIZE))


def test_encoders_and_states() -> None:
    assert weigh_kv(find_model("bert-base-uncased"), context=512).bytes.value == 0
    t5 = weigh_kv(find_model("t5-small"), context=10, source=100)
    # 6 layers of 8 heads of 64: their own positions, and what they keep of the source.
    assert t5.bytes.value == 6 * 8 * 128 * 2 * (10 + 100)
    hybrid = weigh_kv(find_model("qwen3-next-80b-a3b"), context=1000)
    state = next(each for each in hybrid.layers if each.kind == "linear")
    assert hybrid.bytes.value == 1000 * hybrid.bytes_per_token.value + state.bytes.value
    assert hybrid.fixed_bytes.value == state.bytes.value > 0


def test_formulas_name_their_inputs() -> None:
    found = weigh_kv(find_model("llama-3.1-8b"), context=8192, requests=4)
    assert found.layers[0].row.explain() == "8 · (128 + 128) · 2 = 4,096"
    assert found.layers[0].bytes.explain() == "4 · 32 · 8,192 · 4,096 = 4,294,967,296"


# --- what always holds ------------------------------------------------------------------------------


def model_of(kv_heads: int, head_dim: int, window: int | None, layers: int = 3) -> Model:
    settings: dict[str, object] = {"sliding_window": window} if window else {}
    return made({
        "architectures": ["MistralForCausalLM"], "vocab_size": 100, "hidden_size": 64,
        "intermediate_size": 64, "num_hidden_layers": layers, "num_attention_heads": 4 * kv_heads,
        "num_key_value_heads": kv_heads, "head_dim": head_dim, "max_position_embeddings": 1 << 20,
        "sliding_window": None, **settings,
    })  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(
    engine=st.sampled_from(ENGINES),
    kv_heads=st.integers(1, 4),
    head_dim=st.sampled_from([32, 64, 80]),
    window=st.none() | st.integers(2, 3000),
    context=st.integers(1, 10_000),
    more=st.integers(0, 10_000),
    requests=st.integers(1, 50),
)
def test_windows_never_cost_more_and_nothing_shrinks(
    engine: Engine, kv_heads: int, head_dim: int, window: int | None, context: int, more: int, requests: int
) -> None:
    model, full = model_of(kv_heads, head_dim, window), model_of(kv_heads, head_dim, None)

    def size(of: Model, context: int, requests: int) -> float:
        return weigh_kv(of, context=context, requests=requests, engine=engine).bytes.value

    here = size(model, context, requests)
    assert 0 < here <= size(full, context, requests)
    assert here <= size(model, context + more, requests)
    assert here < size(model, context, requests + 1)
    # No engine does with less than the model needs, but for the one position that transformers spares.
    least = weigh_kv(model, context=context, requests=requests).bytes.value
    assert here >= least - (requests * 3 * kv_heads * head_dim * 4 if engine == "transformers" else 0)


# --- bad input --------------------------------------------------------------------------------------


@pytest.mark.parametrize("context", [0, -1, 10**12, MAX_CONTEXT + 1, True, 1.5])
def test_absurd_contexts_are_refused(context: int) -> None:
    with pytest.raises(UsageError, match="the context must be a whole number"):
        weigh_kv(find_model("gpt2"), context=context)


@pytest.mark.parametrize("requests", [0, 10**12])
def test_absurd_numbers_of_requests_are_refused(requests: int) -> None:
    with pytest.raises(UsageError, match="the number of requests"):
        weigh_kv(find_model("gpt2"), context=10, requests=requests)


def test_types_that_an_engine_does_not_have() -> None:
    llama = find_model("llama-3.1-8b")
    with pytest.raises(UsageError, match="there is no KV cache of 'int3'"):
        weigh_kv(llama, context=10, dtype="int3")
    for engine in ENGINES:
        for dtype in {"Q4_0", "FP8", "FP32"} - set(DTYPES_OF[engine]):
            with pytest.raises(UsageError, match="has no KV cache"):
                weigh_kv(llama, context=10, dtype=dtype, engine=engine)
    with pytest.raises(UsageError, match="no whole number of blocks"):
        weigh_kv(model_of(1, 40, None), context=10, dtype="Q8_0")
    with pytest.raises(UsageError, match="has no KV cache of FP8_DS_MLA"):
        weigh_kv(llama, context=10, dtype="fp8_ds_mla")


def test_boli_cannot_say_what_it_would_take_for_what_it_does_not_run() -> None:
    with pytest.raises(UnsupportedModel, match="boli's KV cache"):
        weigh_kv(find_model("deepseek-v3"), context=10, engine="boli")


def test_a_context_beyond_what_the_model_was_made_for_is_said() -> None:
    found = weigh_kv(find_model("gpt2"), context=4096)
    assert any("1,024 positions" in note for note in found.notes)
