"""The compiled step against transformers and against the NumPy oracle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from boli.cpu.oracle import forward
from boli.cpu.runner import CpuRunner, kv_cache_bytes
from boli.engine.batch import Batch
from boli.engine.ledger import Ledger
from boli.errors import NumericError, UnsupportedModel
from boli.formats.checkpoint import open_checkpoint
from cpu.driving import greedy, kl_divergence, logits_of, make_runner
from tiny_models import TINY, VOCAB, Zoo, prompt, transformers_greedy, transformers_logits, wide

# What the gguf package can write. The kernels of the others are tested in test_matmul.py, and those of
# the K-quants run in the real Gemma of tests/system.
WRITABLE = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "MXFP4"]
GGUF_FAMILIES = [name for name, tiny in TINY.items() if tiny.gguf_architecture]


@pytest.mark.parametrize("name", TINY)
def test_float32_logits_are_those_of_transformers(name: str, zoo: Zoo) -> None:
    """Within 1e-3, for every family, over 100 positions: long past the sliding windows."""
    folder, ids = zoo.folder(TINY[name]), prompt(100)
    runner = make_runner(folder)
    ours, theirs = logits_of(runner, ids), transformers_logits(folder, ids)
    runner.close()
    assert theirs.std() > 0.5  # well separated: the test could not pass on constants
    np.testing.assert_allclose(ours, theirs, atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("name", "kind"), [(n, "safetensors") for n in TINY] + [(n, "gguf") for n in GGUF_FAMILIES]
)
def test_greedy_tokens_are_those_of_transformers(name: str, kind: str, zoo: Zoo) -> None:
    """128 tokens after each of 20 prompts, from both kinds of files.

    transformers reads our whole answer at once instead of decoding its own: if its likeliest token
    is ours at every place, it would have decoded the same answer.
    """
    folder = zoo.folder(TINY[name])
    runner = make_runner(folder if kind == "safetensors" else zoo.gguf(TINY[name]))
    for seed in range(20):
        ids = prompt(3 + seed, seed)
        answer = greedy(runner, ids, 128)
        likeliest = transformers_logits(folder, ids + answer[:-1])[len(ids) - 1 :].argmax(axis=1)
        assert answer == likeliest.tolist(), f"prompt {seed}"
    runner.close()


def test_greedy_decoding_by_transformers_itself_agrees(zoo: Zoo) -> None:
    folder = zoo.folder(TINY["llama"])
    runner = make_runner(folder)
    ids = prompt(5)
    assert greedy(runner, ids, 32) == transformers_greedy(folder, ids, 32)
    runner.close()


@pytest.mark.parametrize("name", GGUF_FAMILIES)
def test_gguf_and_safetensors_of_the_same_weights_agree(name: str, zoo: Zoo) -> None:
    ids = prompt(60)
    logits = []
    for path in (zoo.folder(TINY[name]), zoo.gguf(TINY[name])):
        runner = make_runner(path)
        logits.append(logits_of(runner, ids))
        runner.close()
    # GGUF keeps Gemma's norms as 1 + w, rounded; RoPE frequencies come from float32 factors.
    np.testing.assert_allclose(logits[1], logits[0], atol=1e-3, rtol=0)


@pytest.mark.parametrize("fmt", WRITABLE)
def test_a_number_format_runs(fmt: str, zoo: Zoo) -> None:
    """Against the oracle on the same weights: what differs is only the activations' int8."""
    path, ids = zoo.gguf(wide("llama"), fmt), prompt(64)
    with open_checkpoint(path) as checkpoint:
        expected = forward(checkpoint, ids)
        runner = make_runner(checkpoint)
        ours = logits_of(runner, ids)
        runner.close()
    if fmt in ("F32", "F16"):
        np.testing.assert_allclose(ours, expected, atol=1e-3, rtol=0)
    elif fmt == "BF16":  # activations are rounded to 8 bits of mantissa, as the instruction wants them
        np.testing.assert_allclose(ours, expected, atol=0.2, rtol=0)
        assert kl_divergence(expected, ours) < 1e-3
    else:
        # Random weights make logits with a spread of 3 and no redundancy: 0.02 was measured. On a
        # real model it is a hundredth of that; see tests/system.
        assert kl_divergence(expected, ours) < 0.05


@pytest.mark.parametrize(("kv_type", "bound"), [("bf16", 2e-3), ("int8", 1e-2)])
@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2"])
def test_a_smaller_cache_changes_little(name: str, kv_type: str, bound: float, zoo: Zoo) -> None:
    """Divergence of float32 models from the oracle, in nats, when only the cache is rounded.

    Random models have sharp attention and no redundancy; a real one is in tests/system.
    """
    path, ids = zoo.folder(TINY[name]), prompt(100)
    with open_checkpoint(path) as checkpoint:
        expected = forward(checkpoint, ids)
        runner = make_runner(checkpoint, kv_type=kv_type)
        assert 0 < kl_divergence(expected, logits_of(runner, ids)) < bound
        runner.close()


def test_weights_with_nan_are_refused_by_name(zoo: Zoo, tmp_path: Path) -> None:
    """In a float matrix and in the scale of a quantized one."""
    for fmt, broken in (("F32", b"\x00\x00\xc0\x7f"), ("Q8_0", b"\x00\x7e")):
        source = zoo.gguf(wide("llama"), fmt)
        with open_checkpoint(source) as checkpoint:
            name = "blk.1.ffn_down.weight"
            (tensor,) = (t for t in checkpoint.tensors if t.name == name)
        damaged = tmp_path / f"{fmt}.gguf"
        content = bytearray(source.read_bytes())
        content[tensor.offset : tensor.offset + len(broken)] = broken
        damaged.write_bytes(content)
        with pytest.raises(NumericError, match=name):
            make_runner(damaged)


def test_heads_that_the_kernels_have_no_room_for_are_refused(
    zoo: Zoo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("boli.cpu.runner.LARGEST_HEAD", 4)
    with pytest.raises(UnsupportedModel, match="heads of"):
        make_runner(zoo.folder(TINY["llama"]))


def test_a_step_that_would_read_outside_its_tables_is_refused(zoo: Zoo) -> None:
    runner = make_runner(zoo.folder(TINY["llama"]))
    good = {
        "token_ids": np.array([5], np.int32),
        "positions": np.array([0], np.int32),
        "sequence_of_row": np.array([0], np.int32),
        "page_tables": np.array([[0]], np.int32),
        "logits_rows": np.array([0], np.int32),
    }
    assert runner.forward(Batch(**good)).shape == (1, VOCAB)
    for field, value in good.items():
        for wrong in (-1, 10**6):
            bad = {**good, field: np.full_like(value, wrong)}
            with pytest.raises(ValueError, match="outside"):
                runner.forward(Batch(**bad))
    runner.close()


def test_gate_and_up_lie_block_by_block_in_turns_where_they_are_alike(zoo: Zoo) -> None:
    runner = make_runner(zoo.gguf(wide("llama"), "Q4_1"))
    matrices = {matrix.name: matrix for matrix in runner._plan._matrices}
    gates = [name for name in matrices if "gate" in name]
    assert gates
    for name in gates:
        gate, up = matrices[name].data, matrices[name.replace("gate", "up")].data
        assert up.ctypes.data - gate.ctypes.data == gate.shape[1]
        assert gate.strides == up.strides == (2 * gate.shape[1], 1)
    runner.close()


def test_the_books_hold_every_large_buffer(zoo: Zoo) -> None:
    """Weights by format, cache and workspace add up to the arrays that the runner keeps."""
    ledger = Ledger()
    with open_checkpoint(zoo.gguf(wide("llama"), "Q4_0")) as checkpoint:
        runner = CpuRunner(
            checkpoint, ledger=ledger, num_pages=9, max_sequences=1, max_rows=16, threads=1, context=64
        )
    totals = ledger.totals()
    config = runner.blueprint.config
    assert totals["kv_cache"] == kv_cache_bytes(config, 9) == 2 * 9 * 32 * 2 * (32 + 32) * 2
    matrices = sum(w.parameters for w in runner.blueprint if len(w.shape) == 2)
    # 4.5 bits a weight, and the vocabulary of 300 padded to 320 rows in embedding and head
    assert totals["weights/Q4_0"] == pytest.approx((matrices + 2 * 20 * 256) * 4.5 / 8, rel=1e-3)
    runner.close()
