"""Checkpoints that are rounded while they are loaded: what becomes of which matrix, and that it runs."""

from __future__ import annotations

import dataclasses
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from boli.blueprint import Weight
from boli.cpu.oracle import forward
from boli.errors import NumericError, UsageError
from boli.formats.checkpoint import Checkpoint, open_checkpoint
from boli.formats.numbers import dequantize
from boli.formats.quantize import quantize
from boli.formats.requantize import (
    LARGE,
    SMALL,
    Choice,
    Form,
    choose_weights,
    matrix_bytes,
    requantized,
)
from cpu.driving import kl_divergence, logits_of, make_runner
from tiny_models import TINY, Tiny, Zoo, prompt, wide

PLENTY = 1 << 50
FORMS: tuple[Form, ...] = ("bf16", "int8", "int4")


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return Zoo(tmp_path_factory.mktemp("zoo"))


def need(checkpoint: Checkpoint, role: Any, layer: int | None = None) -> Weight:
    weight = checkpoint.blueprint.find(role, layer)
    assert weight is not None
    return weight


def formats(checkpoint: Checkpoint) -> dict[str, str]:
    """The format of the first weight of each role."""
    found: dict[str, str] = {}
    for weight in checkpoint.blueprint:
        found.setdefault(weight.role, checkpoint.format_of(weight).name)
    return found


@pytest.mark.parametrize(("form", "inner", "outer"), [("int8", "Q8_0", "Q8_0"), ("int4", "Q4_1", "Q8_0")])
def test_what_becomes_of_each_weight(form: Form, inner: str, outer: str, zoo: Zoo) -> None:
    with open_checkpoint(zoo.folder(wide("gpt2"))) as stored:
        found = formats(requantized(stored, form))
    assert {found[role] for role in ("qkv", "o", "up", "down")} == {inner}
    assert {found[role] for role in ("embedding", "head")} == {outer}
    kept = ("position_embedding", "attention_norm", "qkv_bias", "final_norm")
    assert {found[role] for role in kept} == {"F32"}


def test_rows_that_are_no_whole_groups_stay(zoo: Zoo) -> None:
    with open_checkpoint(zoo.folder(TINY["llama"])) as stored:
        rounded = requantized(stored, "int4")
        assert need(stored, "down", 0).shape[1] % 32
        assert rounded.format_of(need(stored, "down", 0)).name == "F32"
        assert rounded.matrix(need(stored, "down", 0)).data.base is not None  # a view of the file
        assert rounded.format_of(need(stored, "up", 0)).name == "Q4_1"
        assert str(choose_weights(stored, "int4", PLENTY)) == (
            "int4: as asked; 2 matrices stay F32 (positions, or rows that are no multiple of 32)"
        )


def test_bf16_takes_float32_and_leaves_float16(zoo: Zoo) -> None:
    with open_checkpoint(zoo.gguf(wide("llama"), "F16")) as half:
        assert requantized(half, "bf16") is half
        assert "16 matrices stay F16 (BF16 is less precise)" in choose_weights(half, "bf16", PLENTY).reason
    with open_checkpoint(zoo.folder(wide("llama"))) as full:
        rounded = requantized(full, "bf16")
        assert formats(rounded)["embedding"] == formats(rounded)["q"] == "BF16"
        assert formats(rounded)["final_norm"] == "F32"
        assert choose_weights(full, "bf16", PLENTY) == Choice("bf16", "as asked")
    with open_checkpoint(zoo.gguf(wide("llama"), "BF16")) as already:
        assert requantized(already, "bf16") is already


@pytest.mark.parametrize("name", ["llama-wide.F16.gguf", "llama-wide", "gpt2-wide"])
@pytest.mark.parametrize("form", ["int8", "int4"])
def test_rows_are_the_stored_ones_rounded(name: str, form: Form, zoo: Zoo) -> None:
    """In any order and number, from interleaved rows of GGUF and GPT-2's transposed matrices too."""
    tiny = wide(name.partition("-")[0])
    with open_checkpoint(zoo.gguf(tiny, "F16") if name.endswith("gguf") else zoo.folder(tiny)) as stored:
        rounded = requantized(stored, form)
        role = "qkv" if "gpt2" in name else "q"
        matrix = rounded.matrix(weight := need(stored, role, 1))
        before = stored.matrix(weight)
        assert (matrix.row_order is not None) == name.endswith("gguf")
        expected = quantize(dequantize(before.data, before.format, 256), matrix.format)
        np.testing.assert_array_equal(matrix.data, expected)
        np.testing.assert_array_equal(matrix.data[10:43], expected[10:43])
        some = np.array([7, 200, 3], np.int32)
        np.testing.assert_array_equal(matrix.data[some], expected[some])
        assert matrix.data.shape == expected.shape

        values = rounded.float32(weight)
        error = np.abs(values - stored.float32(weight)).max()
        assert 0 < error < np.abs(values).max() / (100 if form == "int8" else 5)
        norm = need(stored, "attention_norm", 0)
        np.testing.assert_array_equal(rounded.vector(norm), stored.vector(norm))


@pytest.mark.parametrize("tiny", [TINY["llama"], wide("qwen2"), wide("gemma3"), wide("gpt2")], ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_a_rounded_model_runs(tiny: Tiny, form: Form, zoo: Zoo) -> None:
    """As the oracle does on the rounded weights: what is left is the rounding of activations."""
    ids = prompt(48)
    with open_checkpoint(zoo.folder(tiny)) as stored:
        rounded = requantized(stored, form)
        expected, plain = forward(rounded, ids), forward(stored, ids)
        runner = make_runner(rounded)
        ours = logits_of(runner, ids)
        runner.close()
    assert kl_divergence(plain, expected) > 1e-7  # the weights are others, and the oracle has them too
    assert kl_divergence(expected, ours) < (0.01 if form == "bf16" else 0.05)


def test_int8_is_near_the_stored_model_and_int4_further_away(zoo: Zoo) -> None:
    """Random weights have no redundancy: trained models lose far less."""
    ids = prompt(100)
    with open_checkpoint(zoo.folder(wide("llama"))) as stored:
        plain = forward(stored, ids)
        lost = {form: kl_divergence(plain, forward(requantized(stored, form), ids)) for form in FORMS}
    assert lost["bf16"] < lost["int8"] < 0.01
    assert 10 * lost["int8"] < lost["int4"] < 0.5


def test_bytes_are_told_before_anything_is_loaded(zoo: Zoo) -> None:
    with open_checkpoint(zoo.folder(wide("llama"))) as stored:
        numbers = sum(weight.parameters for weight in stored.blueprint if len(weight.shape) == 2)
        outer = 2 * 300 * 256
        assert matrix_bytes(stored, "stored") == 4 * numbers
        assert matrix_bytes(stored, "bf16") == 2 * numbers
        assert matrix_bytes(stored, "int8") == numbers * 34 // 32
        assert matrix_bytes(stored, "int4") == outer * 34 // 32 + (numbers - outer) * 20 // 32


def grown(checkpoint: Checkpoint, factor: int) -> Checkpoint:
    """The same checkpoint with a blueprint that says its matrices have more rows: nothing is read."""
    weights = tuple(
        dataclasses.replace(weight, shape=(weight.shape[0] * factor, *weight.shape[1:]))
        for weight in checkpoint.blueprint
    )
    checkpoint.blueprint = type(checkpoint.blueprint)(checkpoint.blueprint.config, weights)
    return checkpoint


def test_auto(zoo: Zoo) -> None:
    """By size and memory, with reasons."""
    with open_checkpoint(zoo.folder(wide("llama"))) as stored:
        assert choose_weights(stored, "auto", PLENTY).form == "stored"
        assert "too small" in choose_weights(stored, "auto", PLENTY).reason
        parameters = stored.blueprint.parameters
        medium = grown(stored, 1 + SMALL // (4 * parameters))
        assert choose_weights(medium, "auto", PLENTY).form == "int8"
        int8 = matrix_bytes(medium, "int8")
        assert choose_weights(medium, "auto", int8 * 2).form == "int8"
        short = choose_weights(medium, "auto", int8)
        assert short.form == "int4"
        assert "int8 would take" in short.reason
        large = grown(stored, 1 + LARGE // medium.blueprint.parameters)
        assert choose_weights(large, "auto", PLENTY).form == "int4"
        assert "3.00 billion parameters" in choose_weights(large, "auto", PLENTY).reason


@pytest.mark.parametrize("fmt", ["F16", "BF16", "Q8_0"])
def test_auto_leaves_gguf_as_it_is(fmt: str, zoo: Zoo) -> None:
    with open_checkpoint(zoo.gguf(wide("llama"), fmt)) as stored:
        choice = choose_weights(stored, "auto", 0)
        assert choice.form == "stored"
        assert requantized(stored, choice.form) is stored


@pytest.mark.parametrize("wanted", FORMS)
def test_what_is_quantized_is_not_rounded_again(wanted: str, zoo: Zoo) -> None:
    with (
        open_checkpoint(zoo.gguf(wide("llama"), "Q5_0")) as stored,
        pytest.raises(UsageError, match=f"llama-wide.Q5_0.gguf cannot become {wanted}: its weights are Q5_0"),
    ):
        choose_weights(stored, wanted, PLENTY)


def test_unknown_forms_are_refused(zoo: Zoo) -> None:
    with (
        open_checkpoint(zoo.folder(TINY["llama"])) as stored,
        pytest.raises(UsageError, match=r"(?s)'int2'.*auto, bf16, int8, int4"),
    ):
        choose_weights(stored, "int2", PLENTY)


def damaged(zoo: Zoo, folder: Path, value: float) -> Path:
    tensors = safetensors.numpy.load_file(zoo.folder(wide("llama")) / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = value
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text((zoo.folder(wide("llama")) / "config.json").read_text())
    return folder


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("value", [np.nan, np.inf, 3.4e38])
def test_broken_weights_are_refused_by_name(form: Form, value: float, zoo: Zoo, tmp_path: Path) -> None:
    """Not finite as stored, or not finite in the format that is asked for."""
    with (
        open_checkpoint(damaged(zoo, tmp_path, value)) as stored,
        pytest.raises(NumericError, match=r"model\.layers\.1\.mlp\.up_proj\.weight"),
    ):
        make_runner(requantized(stored, form))


def test_a_large_matrix_is_rounded_a_few_megabytes_at_a_time(tmp_path: Path) -> None:
    """A matrix of 16 million numbers, of which float32 would be 64 MB."""
    tiny = dataclasses.replace(
        wide("llama"), name="long", settings={**wide("llama").settings, "vocab_size": 1 << 16}
    )
    folder = Zoo(tmp_path).folder(tiny)
    with open_checkpoint(folder) as stored:
        matrix = requantized(stored, "int8").matrix(need(stored, "embedding"))
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        result = matrix.data[:]
        peak = tracemalloc.get_traced_memory()[1] - before
        tracemalloc.stop()
    assert peak < result.nbytes + (16 << 20)
    assert matrix.format.name == "Q8_0"
    assert result.shape == (1 << 16, matrix.format.nbytes(256))
