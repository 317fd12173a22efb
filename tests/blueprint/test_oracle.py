"""The NumPy forward pass against transformers in float32, for every family and both file formats."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
import transformers

from boli.cpu.oracle import forward
from boli.formats.checkpoint import Checkpoint, open_checkpoint
from tiny_models import (
    TINY,
    Tiny,
    Zoo,
    make,
    prompt,
    read_config,
    save_safetensors,
    transformers_greedy,
    transformers_logits,
    wide,
)

# Measured: at most 6e-5, on average 2e-6, where the logits' standard deviation is 1.7 to 3.3.
TOLERANCE = 1e-3
LENGTH = 100  # far beyond the windows of 8 and the original context of 32


def logits(path: Path, ids: list[int]) -> np.ndarray[Any, np.dtype[np.float32]]:
    with open_checkpoint(path) as checkpoint:
        return forward(checkpoint, ids)


@pytest.mark.parametrize("tiny", TINY.values(), ids=str)
def test_logits_equal_those_of_transformers(tiny: Tiny, zoo: Zoo) -> None:
    ids = prompt(LENGTH)
    expected = transformers_logits(zoo.folder(tiny), ids)
    assert expected.std() > 1.5  # logits are well apart, so that small errors show
    assert np.abs(logits(zoo.folder(tiny), ids) - expected).max() < TOLERANCE


@pytest.mark.parametrize("tiny", [tiny for tiny in TINY.values() if tiny.gguf_architecture], ids=str)
def test_logits_from_gguf_equal_those_from_safetensors(tiny: Tiny, zoo: Zoo) -> None:
    ids = prompt(LENGTH)
    # Not exactly where GGUF stores the rotary frequencies' divisors in float32.
    np.testing.assert_allclose(logits(zoo.gguf(tiny), ids), logits(zoo.folder(tiny), ids), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2"])
def test_greedy_tokens_equal_those_of_transformers(name: str, zoo: Zoo) -> None:
    folder = zoo.folder(TINY[name])
    ids = prompt(5, seed=3)
    expected = transformers_greedy(folder, ids, 24)
    assert len(set(expected)) > 3
    with open_checkpoint(folder) as checkpoint:
        for _ in range(24):
            ids.append(int(forward(checkpoint, ids)[-1].argmax()))
    assert ids[5:] == expected


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_files_are_computed_in_float32(dtype: str, tmp_path: Path) -> None:
    tiny = TINY["gemma3"]
    make(tiny).to(getattr(torch, dtype)).save_pretrained(tmp_path)
    ids = prompt(40)
    assert np.abs(logits(tmp_path, ids) - transformers_logits(tmp_path, ids)).max() < TOLERANCE


def test_a_quantized_file_gives_nearly_the_logits_of_full_precision(zoo: Zoo) -> None:
    for name in ("llama", "gpt2", "gemma3"):
        ids = prompt(20)
        full = logits(zoo.gguf(wide(name)), ids)
        ours = logits(zoo.gguf(wide(name), "Q8_0"), ids)
        assert 0 < np.abs(ours - full).mean() / full.std() < 0.1


def without(field: str, value: object) -> Callable[[dict[str, Any]], None]:
    def change(config: dict[str, Any]) -> None:
        config[field] = value

    return change


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("llama31", without("rope_parameters", {"rope_theta": 500000.0, "rope_type": "default"})),
        ("llama-linear", without("rope_parameters", {"rope_theta": 10000.0, "rope_type": "default"})),
        ("mistral", without("sliding_window", None)),
        ("qwen2-window", without("layer_types", ["full_attention", "full_attention", "sliding_attention"])),
        ("gemma3", without("layer_types", ["sliding_attention"] * 7)),
        ("gemma3", without("query_pre_attn_scalar", 16)),
        ("gemma3", without("sliding_window", 9)),
        ("gpt2", without("activation_function", "gelu")),
        ("llama", without("rms_norm_eps", 1e-2)),
    ],
)
def test_each_setting_shows_in_the_logits(
    name: str, change: Callable[[dict[str, Any]], None], tmp_path: Path
) -> None:
    """A test of the tests: with a setting left out, the comparison above would fail."""
    folder = save_safetensors(TINY[name], tmp_path)
    ids = prompt(LENGTH)
    before = logits(folder, ids)
    config = read_config(folder)
    change(config)
    (folder / "config.json").write_text(json.dumps(config))
    # "gelu" and its tanh form differ by less than 5e-4 per number, hence less here.
    assert np.abs(logits(folder, ids) - before).max() > (2e-4 if name == "gpt2" else 0.1)


def test_exact_gelu_equals_transformers(tmp_path: Path) -> None:
    tiny = Tiny("gpt2-gelu", "GPT2", {**TINY["gpt2"].settings, "activation_function": "gelu"}, "gpt2")
    folder = save_safetensors(tiny, tmp_path)
    ids = prompt(30)
    assert np.abs(logits(folder, ids) - transformers_logits(folder, ids)).max() < 1e-4


def test_the_text_part_of_a_multimodal_gemma_equals_transformers(tmp_path: Path) -> None:
    text = make(TINY["gemma3"]).config
    vision = transformers.SiglipVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=1,
        image_size=8,
        patch_size=4,
    )
    config = transformers.Gemma3Config(
        text_config=text, vision_config=vision, mm_tokens_per_image=4, eos_token_id=[2, 5]
    )
    torch.manual_seed(0)
    model = transformers.Gemma3ForConditionalGeneration(config).eval()
    model.save_pretrained(tmp_path)
    ids = prompt(30)
    with torch.no_grad():
        expected = model(torch.tensor([ids])).logits[0].numpy()
    with open_checkpoint(tmp_path) as checkpoint:
        assert np.abs(forward(checkpoint, ids) - expected).max() < 1e-4
        assert checkpoint.blueprint.config.eos_token_ids == (2, 5)
        assert checkpoint.unused
        assert not any("language_model" in name for name in checkpoint.unused)


def renamed(folder: Path, rename: Callable[[str], str]) -> Checkpoint:
    path = folder / "model.safetensors"
    tensors = {rename(name): values for name, values in safetensors.numpy.load_file(path).items()}
    safetensors.numpy.save_file(tensors, path)
    return open_checkpoint(folder)


@pytest.mark.parametrize(
    ("name", "rename"),
    [
        ("gpt2", lambda name: name.removeprefix("transformer.")),
        ("llama", lambda name: name.removeprefix("model.")),
    ],
)
def test_files_without_the_first_part_of_the_names_mean_the_same(
    name: str, rename: Callable[[str], str], tmp_path: Path, zoo: Zoo
) -> None:
    ids = prompt(10)
    with renamed(save_safetensors(TINY[name], tmp_path), rename) as checkpoint:
        np.testing.assert_array_equal(forward(checkpoint, ids), logits(zoo.folder(TINY[name]), ids))
