"""What a model takes in each number format, against published sizes and against files."""

from __future__ import annotations

from collections import Counter
from math import prod
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boli.errors import UsageError
from boli.formats.gguf import GGUFFile
from boli.sources import resolve
from boli.weigh.blocks import BLOCKS
from boli.weigh.formats import ALL_FORMATS, FormatBytes, weigh_format, weigh_formats
from boli.weigh.gguf_tensors import tensors_of
from boli.weigh.model import Model, find_model
from boli.weigh.recipes import RECIPES
from weigh.made_models import made

GIB = 1 << 30

# llama.cpp, tools/quantize/README.md, Llama-3.1-8B: bits per weight of the whole file's tensors.
PUBLISHED_BITS = {
    "IQ1_S": 2.0042, "IQ1_M": 2.1460, "IQ2_XXS": 2.3824, "IQ2_XS": 2.5882, "IQ2_S": 2.7403, "IQ2_M": 2.9294,
    "Q2_K_S": 2.9697, "Q2_K": 3.1593, "IQ3_XXS": 3.2548, "IQ3_XS": 3.4977, "IQ3_S": 3.6606, "IQ3_M": 3.7628,
    "Q3_K_S": 3.6429, "Q3_K_M": 3.9960, "Q3_K_L": 4.2979, "IQ4_XS": 4.4597, "IQ4_NL": 4.6818,
    "Q4_K_S": 4.6672, "Q4_K_M": 4.8944, "Q5_K_S": 5.5704, "Q5_K_M": 5.7036, "Q6_K": 6.5633, "Q8_0": 8.5008,
    "F16": 16.0005,
}  # fmt: skip

# Tensor bytes, as integers that others published or that real files have.
EXACT = [
    ("llama-3.1-8b", "Q4_K_M", 4_912_898_048),
    ("llama-3.1-8b", "Q8_0", 8_532_934_656),
    ("llama-3.1-8b", "F16", 16_061_054_976),
    ("gemma-3-270m", "Q4_K_M", 246_587_904),
    ("gemma-3-270m", "Q8_0", 285_018_624),
    ("smollm2-135m", "Q4_K_M", 103_668_480),
    ("smollm2-135m", "Q8_0", 143_025_408),
    ("smollm2-135m", "BF16", 269_100_288),
]

# Sizes of published files. Their headers hold the vocabulary: 0.7 MB for 32,000 tokens, up to 8 MB.
FILES = [
    ("llama-2-7b", "Q4_K_M", 4_081_004_224),
    ("llama-2-13b", "Q4_K_M", 7_865_956_224),
    ("llama-2-70b", "Q4_K_M", 41_422_908_736),
    ("mistral-7b-v0.1", "Q4_K_M", 4_368_438_944),
    ("gemma-2-2b", "Q4_K_M", 1_708_582_752),
    ("gemma-2-9b", "Q4_K_M", 5_761_057_728),
    ("qwen2.5-7b", "Q4_K_M", 4_683_074_240),
    ("qwen2.5-0.5b", "Q4_K_M", 397_808_192),
    ("qwen3-30b-a3b", "Q4_K_M", 18_556_686_912),
]

# README of llama.cpp's quantize in 2023: Llama 2 with 7, 13 and 70 billion parameters.
LLAMA_2 = {
    "Q3_K_S": (3.50, 3.48, 3.47), "Q3_K_M": (3.91, 3.89, 3.86), "Q3_K_L": (4.27, 4.26, 4.19),
    "Q4_K_S": (4.58, 4.56, 4.55), "Q4_K_M": (4.84, 4.83, 4.80), "Q5_K_S": (5.52, 5.51, 5.50),
    "Q5_K_M": (5.68, 5.67, 5.65), "Q6_K": (6.56, 6.56, 6.56),
}  # fmt: skip


@pytest.fixture(scope="module")
def llama() -> dict[str, FormatBytes]:
    return weigh_formats(find_model("llama-3.1-8b"))


@pytest.mark.parametrize("recipe", PUBLISHED_BITS)
def test_bits_per_weight_are_those_that_llama_cpp_publishes(
    llama: dict[str, FormatBytes], recipe: str
) -> None:
    assert round(llama[recipe].bits_per_weight.value, 4) == PUBLISHED_BITS[recipe]


@pytest.mark.parametrize(("name", "recipe", "size"), EXACT)
def test_tensor_bytes_are_exact(name: str, recipe: str, size: int) -> None:
    found = weigh_format(find_model(name), recipe)
    assert found.bytes.value == size
    assert found.bytes.certainty == "exact"


@pytest.mark.parametrize(("name", "recipe", "size"), FILES)
def test_published_files_are_as_large_and_a_header_more(name: str, recipe: str, size: int) -> None:
    header = size - weigh_format(find_model(name), recipe).bytes.value
    assert 700_000 < header < 8_000_000


@pytest.mark.parametrize("recipe", LLAMA_2)
def test_recipes_of_llama_2(recipe: str) -> None:
    models = (find_model(name) for name in ("llama-2-7b", "llama-2-13b", "llama-2-70b"))
    # The table of 2023 is cut rather than rounded here and there.
    for model, bits in zip(models, LLAMA_2[recipe], strict=True):
        assert weigh_format(model, recipe).bits_per_weight.value == pytest.approx(bits, abs=0.0101)


def test_types_of_a_mixture_of_experts() -> None:
    # From the log of llama.cpp when it loads Qwen3-30B-A3B in Q4_K_M: 17.28 GiB (4.86 BPW).
    found = weigh_format(find_model("qwen3-30b-a3b"), "Q4_K_M")
    assert Counter(tensor.type for tensor in found.tensors) == {"F32": 241, "Q4_K": 289, "Q6_K": 49}
    assert round(found.bytes.value / GIB, 2) == 17.28
    assert round(found.bits_per_weight.value, 2) == 4.86


def test_eight_experts_have_keys_and_values_in_eight_bits() -> None:
    # llama.cpp's log for Mixtral-8x7B in Q4_0: 24.62 GiB (4.53 BPW); the routers were F16 then.
    mixtral = find_model("mixtral-8x7b")
    found = weigh_format(mixtral, "Q4_0")
    routers = sum(prod(w.shape) for w in mixtral.blueprint if w.role == "router")
    assert round((found.bytes.value - 2 * routers) / GIB, 2) == 24.62
    assert round(found.bits_per_weight.value, 2) == 4.53
    assert {found.types[w.name] for w in mixtral.blueprint if w.role in ("k", "v")} == {"Q8_0"}


def test_fused_queries_keys_and_values_are_treated_as_values() -> None:
    phi = find_model("phi-3-mini")
    found = weigh_format(phi, "Q4_K_M")
    assert {found.types[w.name] for w in phi.blueprint if w.role == "qkv"} == {"Q4_K", "Q6_K"}
    # Microsoft's file is from 2024, and has Q5_K there: 2,393,231,072 bytes with its header.
    older = sum(
        prod(tensor.shape) // 256 * 176 if "qkv" in tensor.weight else tensor.bytes
        for tensor in found.tensors
    )
    assert 700_000 < 2_393_231_072 - older < 800_000
    assert any("before 2026 have Q5_K" in note for note in found.notes)


def test_latent_attention_becomes_one_tensor_a_use() -> None:
    model = find_model("deepseek-v2-lite")
    found = weigh_format(model, "Q4_K_M")
    parts = [
        tensor for tensor in found.tensors if tensor.weight.endswith("layers.1.self_attn.kv_b_proj.weight")
    ]
    # The keys' part is 128 wide, no whole block of 256.
    assert [(tensor.shape, tensor.type) for tensor in parts] == [
        ((16, 512, 128), "Q5_0"),
        ((16, 128, 512), "Q4_K"),
    ]
    assert found.bytes.certainty == "assumed"


def test_experts_that_are_stored_in_mxfp4_stay_so() -> None:
    found = weigh_format(find_model("gpt-oss-20b"), "Q4_K_M")
    assert "MXFP4" in found.by_type
    assert round(found.bytes.value / 1e9, 1) == 11.6  # of published files


def test_rows_that_are_no_multiple_of_256_get_another_type() -> None:
    found = weigh_format(find_model("smollm2-135m"), "Q4_K_M")
    assert set(found.by_type) == {"Q5_0", "Q8_0", "Q4_K", "Q6_K", "F32"}
    assert {t.type for t in found.tensors if t.shape[-1] == 576 and len(t.shape) == 2} == {"Q5_0", "Q8_0"}
    assert any("no multiple of 256" in note for note in found.notes)


@pytest.mark.parametrize("name", ["gpt2", "gemma-3-270m", "qwen3-0.6b", "deepseek-v2-lite", "t5-small"])
def test_parts_sum_to_the_total(name: str) -> None:
    model = find_model(name)
    for each in weigh_formats(model).values():
        assert sum(tensor.bytes for tensor in each.tensors) == each.bytes.value == sum(each.by_type.values())
        assert sum(each.bytes_of.values()) == each.bytes.value
        assert sum(prod(tensor.shape) for tensor in each.tensors) == model.blueprint.parameters


sizes = st.integers(1, 8)


@settings(max_examples=30, deadline=None)
@given(
    hidden=sizes, inner=sizes, layers=st.integers(1, 24), heads=st.sampled_from([1, 2, 4]), tied=st.booleans()
)
def test_every_tensor_is_whole_blocks_and_recipes_keep_their_order(
    hidden: int, inner: int, layers: int, heads: int, tied: bool
) -> None:
    model = made({
        "architectures": ["LlamaForCausalLM"], "vocab_size": 512, "hidden_size": 128 * hidden,
        "intermediate_size": 96 * inner, "num_hidden_layers": layers, "num_attention_heads": 4,
        "num_key_value_heads": heads, "head_dim": 32, "tie_word_embeddings": tied,
    })  # fmt: skip
    found = weigh_formats(model)
    for recipe in RECIPES:
        for tensor in found[recipe].tensors:
            numbers, size = BLOCKS[tensor.type]
            assert tensor.shape[-1] % numbers == 0
            assert tensor.bytes == prod(tensor.shape) // numbers * size
            assert tensor.bits_per_weight == 8 * size / numbers
    small_to_large = ["Q3_K_S", "Q3_K_M", "Q4_K_S", "Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0", "F16", "F32"]
    totals = [found[name].bytes.value for name in small_to_large]
    assert totals == sorted(totals)


def test_scales_of_checkpoint_formats() -> None:
    model = made({
        "architectures": ["LlamaForCausalLM"], "vocab_size": 100, "hidden_size": 256,
        "intermediate_size": 512, "num_hidden_layers": 1, "num_attention_heads": 4,
    })  # fmt: skip
    found = weigh_formats(model, ["FP16", "FP8", "INT8", "INT4-g128", "INT4-g32", "NF4", "NF4-DQ"])
    name = "model.layers.0.mlp.down_proj.weight"  # 256 rows of 512
    bits = {each: 8 * size.bytes_of[name] / (256 * 512) for each, size in found.items()}
    assert bits == {
        "FP16": 16, "FP8": 8 * (1 + 4 / 16384), "INT8": 8 * (1 + 4 / 512), "INT4-g128": 4 + 20 / 128,
        "INT4-g32": 4 + 20 / 32, "NF4": 4.5, "NF4-DQ": 4 + 8 / 64 + 32 / (64 * 256),
    }  # fmt: skip
    assert found["NF4"].bytes_of["model.embed_tokens.weight"] == 2 * 100 * 256


def test_amounts_show_what_was_computed(llama: dict[str, FormatBytes]) -> None:
    found = llama["Q4_K_M"]
    assert found.bytes.explain().endswith("= 4,912,898,048")
    assert found.file_bytes is None
    assert any("header" in note for note in found.notes)


def test_an_unknown_format_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match="Q4_K_M"):
        weigh_format(find_model("gpt2"), "Q4_K_XL")


# --- files that are written here ------------------------------------------------------------------------


def write_gguf(model: Model, recipe: str, path: Path) -> Path:
    """A file with the tensors of a recipe, all zeros, and a vocabulary."""
    config = model.blueprint.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_token_list([f"token {i}" for i in range(config.vocab_size)])
    kinds = weigh_format(model, recipe).tensors
    for tensor, found in zip(tensors_of(model), kinds, strict=True):
        numbers, size = BLOCKS[found.type]
        shape = (*tensor.shape[:-1], tensor.shape[-1] // numbers * size)
        kind = gguf.GGMLQuantizationType[found.type]
        writer.add_tensor(tensor.name, np.zeros(shape, np.uint8), raw_shape=shape, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("recipe", ["Q4_K_M", "Q5_0", "IQ4_XS", "Q2_K", "BF16"])
@pytest.mark.parametrize("tied", [False, True])
def test_a_file_is_as_large_as_predicted(tmp_path: Path, recipe: str, tied: bool) -> None:
    model = made({
        "architectures": ["LlamaForCausalLM"], "vocab_size": 333, "hidden_size": 288,
        "intermediate_size": 544, "num_hidden_layers": 5, "num_attention_heads": 9, "num_key_value_heads": 3,
        "tie_word_embeddings": tied,
    })  # fmt: skip
    path = write_gguf(model, recipe, tmp_path / "made.gguf")
    weighed = find_model(path)
    assert weighed.source == "gguf"
    found = weigh_formats(weighed)
    assert found[recipe].bytes.value == weigh_format(model, recipe).bytes.value
    # The same header stands in front of any other recipe.
    for other in (recipe, "Q8_0", "Q3_K_M"):
        size = found[other].file_bytes
        assert size is not None
        assert size.value == write_gguf(model, other, tmp_path / f"{other}.gguf").stat().st_size


@pytest.mark.model
@pytest.mark.parametrize(("alias", "recipe"), [("smollm2", "Q4_1"), ("gemma3-270m", "Q4_K_M")])
def test_files_as_they_are_shipped(alias: str, recipe: str) -> None:
    path = resolve(alias).path
    model = find_model(path)
    predicted = weigh_format(model, recipe)
    with GGUFFile(path) as file:
        real = {name: (info.format.name, tuple(info.shape)) for name, info in file.tensors.items()}
        total = sum(
            info.format.nbytes(info.shape[-1]) * prod(info.shape[:-1]) for info in file.tensors.values()
        )
    assert {tensor.name: (tensor.type, tensor.shape) for tensor in predicted.tensors} == real
    assert predicted.bytes.value == total
    assert predicted.file_bytes is not None
    assert predicted.file_bytes.value == path.stat().st_size


def test_all_formats_are_weighed_if_none_is_named() -> None:
    assert set(weigh_formats(find_model("gpt2"))) == set(ALL_FORMATS)
