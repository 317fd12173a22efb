"""The watched step: it changes nothing, and what it shows is what the model computed."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from boli.blueprint import Role
from boli.cpu import oracle
from boli.cpu.probing import PROBES
from boli.cpu.runner import CpuRunner
from boli.formats.checkpoint import Checkpoint, open_checkpoint
from cpu.driving import make_runner, page_tables
from cpu.reference_values import transformers_values
from cpu.watching import batch_of, ragged, watch_text
from tiny_models import TINY, Zoo, prompt, wide

Floats = NDArray[np.float32]

FORMATS = {
    "llama BF16 bf16": (TINY["llama"], "BF16", "bf16"),
    "llama Q4_1 bf16": (wide("llama"), "Q4_1", "bf16"),
    "llama Q8_0 int8": (wide("llama"), "Q8_0", "int8"),
    "gemma3 Q8_0 bf16": (wide("gemma3"), "Q8_0", "bf16"),
    "gemma3 Q5_1 f32": (wide("gemma3"), "Q5_1", "f32"),
    "gpt2 F16 int8": (TINY["gpt2"], "F16", "int8"),
    "gpt2 Q4_0 bf16": (wide("gpt2"), "Q4_0", "bf16"),
}
LENGTH = 40


def cache_of(runner: CpuRunner) -> NDArray[np.uint8]:
    return runner._plan.cache


# --- it changes nothing ---------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", [*TINY, *FORMATS])
def test_logits_and_cache_are_the_same_watched_or_not(name: str, threads: int, zoo: Zoo) -> None:
    """Bit for bit: prefills, few rows, one row and all of it mixed, of several sequences."""
    if name in TINY:
        runner = make_runner(zoo.folder(TINY[name]), threads=threads)
    else:
        tiny, fmt, kv_type = FORMATS[name]
        runner = make_runner(zoo.gguf(tiny, fmt), threads=threads, kv_type=kv_type)
    plain = [runner.forward(batch).copy() for batch in ragged()]
    cache = cache_of(runner).copy()
    assert cache.any()
    for wanted in (PROBES, ()):
        cache_of(runner)[:] = 0
        for batch, expected in zip(ragged(), plain, strict=True):
            np.testing.assert_array_equal(runner.observe(batch, wanted).logits, expected)
        np.testing.assert_array_equal(cache_of(runner), cache)
    for batch, expected in zip(ragged(), plain, strict=True):  # and the plain step is as it was
        np.testing.assert_array_equal(runner.forward(batch), expected)
    runner.close()


# --- what it shows --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TINY)
def test_every_value_is_that_of_transformers(name: str, zoo: Zoo) -> None:
    """Float32 models over 40 positions, past the sliding windows: within 2e-5 of a row's largest number."""
    folder, ids = zoo.folder(TINY[name]), prompt(LENGTH)
    with open_checkpoint(folder) as checkpoint:
        config = checkpoint.blueprint.config
        runner = make_runner(checkpoint)
        (seen,) = watch_text(runner, ids, LENGTH)
        runner.close()
        theirs = transformers_values(folder, ids)
        theirs["q_rotated"] = np.stack(
            [_rotated(checkpoint, layer, theirs["q"][layer]) for layer in range(config.num_hidden_layers)]
        )
    assert set(seen.values) == set(theirs) == set(PROBES) - ({"gate"} if name == "gpt2" else set())
    for place, ours in seen.values.items():
        expected = theirs[place]
        assert ours.shape == expected.shape, place
        known = np.isfinite(expected)
        assert known.mean() > 0.5 or place == "k_rotated"
        largest = np.abs(ours).max(axis=-1, keepdims=True)
        off = np.abs(np.where(known, ours - expected, 0)) / largest
        assert off.max() < 2e-5, f"{place}: {off.max()}"


def _rotated(checkpoint: Checkpoint, layer: int, q: Floats) -> Floats:
    """Queries after QK-norm and RoPE, by the NumPy oracle."""
    config = checkpoint.blueprint.config
    heads = q.reshape(len(q), -1, config.head_dim)
    if config.qk_norm:
        heads = oracle._norm(checkpoint, "q_norm", layer, heads)
    rope = config.rope_of(layer)
    if rope is not None:
        heads = oracle.rotate(heads, *oracle.rope_angles(rope, len(q)))
    return heads.reshape(len(q), -1)


@pytest.mark.parametrize("chunk", [1, 3, 4, 7])
@pytest.mark.parametrize("name", ["llama", "mistral", "qwen3", "gemma3", "gpt2", "llama Q4_1 bf16"])
def test_values_are_the_same_in_one_piece_and_in_many(name: str, chunk: int, zoo: Zoo) -> None:
    """Few rows and many go different ways through a step; every number of a row is the same."""
    ids = prompt(LENGTH)
    model = zoo.folder(TINY[name]) if name in TINY else zoo.gguf(*FORMATS[name][:2])
    for threads in (1, 2):
        runner = make_runner(model, threads=threads)
        (whole,) = watch_text(runner, ids, LENGTH)
        pieces = watch_text(runner, ids, chunk)
        runner.close()
        for place, expected in whole.values.items():
            found = np.concatenate([piece.values[place] for piece in pieces], axis=-2)
            np.testing.assert_array_equal(found, expected, err_msg=place)


@pytest.mark.parametrize("name", [*TINY, *FORMATS])
def test_the_residual_stream_is_the_sum_of_its_branches(name: str, zoo: Zoo) -> None:
    """Exactly. But where a matrix has a bias: the step adds product and bias to the stream one by one."""
    tiny, fmt, _ = FORMATS.get(name, (TINY.get(name), "F32", "f32"))
    assert tiny is not None
    with open_checkpoint(zoo.folder(tiny) if name in TINY else zoo.gguf(tiny, fmt)) as checkpoint:
        runner = make_runner(checkpoint)
        o_bias, down_bias = _biases(checkpoint, "o_bias"), _biases(checkpoint, "down_bias")
    for batch in ragged():
        seen = runner.observe(batch).values
        before = np.concatenate([seen["embedding"][None], seen["residual"][:-1]])
        _close(before, seen["attention_branch"], seen["after_attention"], o_bias)
        _close(seen["after_attention"], seen["mlp_branch"], seen["residual"], down_bias)
    runner.close()


def _biases(checkpoint: Checkpoint, role: Role) -> Floats | None:
    """A bias of all layers, `[layers, 1, hidden_size]`."""
    found = [checkpoint.blueprint.find(role, n) for n in range(checkpoint.blueprint.config.num_hidden_layers)]
    return np.stack([checkpoint.float32(weight)[None] for weight in found if weight]) if found[0] else None


def _close(before: Floats, branch: Floats, after: Floats, bias: Floats | None) -> None:
    if bias is None:
        np.testing.assert_array_equal(after, before + branch)
        return
    # (x + product) + bias has two roundings, x + (product + bias) two others: half an ulp each.
    largest = np.maximum(np.abs(before), np.maximum(np.abs(branch), np.abs(after))) + np.abs(bias)
    assert (np.abs(after - (before + branch)) <= 2 * np.spacing(largest)).all()


@pytest.mark.parametrize("name", [*TINY, *FORMATS])
def test_the_last_layer_through_the_head_says_what_the_model_says(name: str, zoo: Zoo) -> None:
    """Bit for bit; also of more rows than a step has."""
    tiny, fmt, _ = FORMATS.get(name, (TINY.get(name), "F32", "f32"))
    assert tiny is not None
    runner = make_runner(zoo.folder(tiny) if name in TINY else zoo.gguf(tiny, fmt))
    for batch in (batch_of([(0, 0, prompt(30)), (1, 0, prompt(30, 1))]), batch_of([(0, 30, [5])])):
        seen = runner.observe(batch, ["residual"])
        np.testing.assert_array_equal(runner.head_logits(seen.values["residual"][-1]), seen.logits)
        np.testing.assert_array_equal(runner.forward(batch), seen.logits)
        many = np.tile(seen.values["residual"][-1], (3, 1))
        np.testing.assert_array_equal(runner.head_logits(many), np.tile(seen.logits, (3, 1)))
    assert runner.head_logits(np.empty((0, runner.blueprint.config.hidden_size), np.float32)).shape[0] == 0
    runner.close()


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2", "llama Q8_0 int8"])
def test_hidden_is_the_final_norm(name: str, zoo: Zoo) -> None:
    runner = make_runner(zoo.folder(TINY[name]) if name in TINY else zoo.gguf(*FORMATS[name][:2]))
    for batch in ragged():
        seen = runner.observe(batch)
        np.testing.assert_array_equal(runner.hidden(batch), seen.values["final_norm"])
        np.testing.assert_array_equal(runner.observe(batch).logits, seen.logits)
    runner.close()


@pytest.mark.parametrize("kv_type", ["f32", "bf16", "int8"])
@pytest.mark.parametrize("name", ["llama", "gemma3-scaled", "gpt2"])
def test_keys_and_values_are_read_back_from_the_cache(name: str, kv_type: str, zoo: Zoo) -> None:
    """What the step rotated and wrote, rounded to the cache's type: over pages, whole and begun ones."""
    runner, ids = make_runner(zoo.folder(TINY[name]), kv_type=kv_type, max_rows=80), prompt(75)
    (seen,) = watch_text(runner, ids, 75)
    for layer in range(runner.blueprint.config.num_hidden_layers):
        for length in (75, 64, 1, 0):
            read = runner.keys_values(layer, page_tables(8)[0], length)
            for place, found in zip(("k_rotated", "v"), read, strict=True):
                written = seen.values[place][layer, :length].reshape(found.shape)
                if kv_type == "f32":
                    np.testing.assert_array_equal(found, written)
                elif kv_type == "bf16":
                    np.testing.assert_array_equal(found, _bf16(written))
                elif length:
                    half_a_step = np.abs(written).max(axis=-1, keepdims=True) / 127 / 2
                    assert (np.abs(found - written) <= half_a_step * 1.00001).all()
    runner.close()


def _bf16(values: Floats) -> Floats:
    """Rounded to the nearest bfloat16, ties to even."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)).view(np.float32)
