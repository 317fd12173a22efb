"""The copy of packed weights on the disk: used when it is right, and only then."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from boli.cpu import packed_copy, packers, packing
from boli.cpu.packed_copy import PackedCopy
from boli.formats.checkpoint import open_checkpoint
from boli.formats.requantize import requantized
from cpu.driving import Logits, logits_of, make_runner
from tiny_models import TINY, Zoo, wide

IDS = [3, 1, 4, 1, 5]


@pytest.fixture(autouse=True)
def copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where copies go in these tests; even small ones are kept."""
    folder = tmp_path / "packed"
    monkeypatch.setattr(packed_copy, "folder", lambda: folder)
    monkeypatch.setattr(packed_copy, "LEAST_COPY", 0)
    monkeypatch.setattr(packed_copy, "PIECE", 4096)
    return folder


@pytest.fixture
def packed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Counts the pieces that are packed."""
    calls: list[int] = []
    original = packers.pack_into

    def counted(*arguments: object) -> None:
        calls.append(1)
        original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(packing, "pack_into", counted)
    yield calls


def answer(model: Path) -> Logits:
    runner = make_runner(model)
    try:
        return logits_of(runner, IDS)
    finally:
        runner.close()


def test_the_second_load_reads_the_copy_and_computes_the_same(zoo: Zoo, packed: list[int]) -> None:
    first = answer(zoo.gguf(wide("llama"), "Q4_1"))
    assert packed
    packed.clear()
    assert np.array_equal(answer(zoo.gguf(wide("llama"), "Q4_1")), first)
    assert not packed


@pytest.mark.parametrize("place", [0, 9, 200, -1])
def test_a_damaged_copy_is_not_used_and_replaced(
    zoo: Zoo, copies: Path, packed: list[int], place: int
) -> None:
    model = zoo.gguf(wide("llama"), "Q4_1")
    first = answer(model)
    [copy] = copies.iterdir()
    good = copy.read_bytes()
    data = bytearray(good)
    data[place] ^= 0x41
    copy.write_bytes(data)
    packed.clear()
    assert np.array_equal(answer(model), first)
    assert packed
    assert copy.read_bytes() == good


@pytest.mark.parametrize("kept", [0, 5, 100, -1])
def test_a_copy_cut_short_is_not_used(zoo: Zoo, copies: Path, packed: list[int], kept: int) -> None:
    model = zoo.gguf(wide("llama"), "Q4_1")
    first = answer(model)
    [copy] = copies.iterdir()
    copy.write_bytes(copy.read_bytes()[:kept])
    packed.clear()
    assert np.array_equal(answer(model), first)
    assert packed


def test_a_changed_file_and_another_form_have_copies_of_their_own(zoo: Zoo, tmp_path: Path) -> None:
    model = tmp_path / "model.gguf"
    model.write_bytes(zoo.gguf(TINY["llama"], "F32").read_bytes())
    with open_checkpoint(model) as checkpoint:
        names = {PackedCopy(checkpoint).path, PackedCopy(requantized(checkpoint, "int8")).path}
        os.utime(model, ns=(1, 1))
        names.add(PackedCopy(checkpoint).path)
    assert len(names) == 3


def test_a_folder_that_others_may_write_to_is_not_read(zoo: Zoo, copies: Path, packed: list[int]) -> None:
    answer(zoo.gguf(wide("llama"), "Q4_1"))
    copies.chmod(0o777)
    packed.clear()
    answer(zoo.gguf(wide("llama"), "Q4_1"))
    assert packed


def test_no_place_for_a_copy_is_no_error(zoo: Zoo, copies: Path, packed: list[int]) -> None:
    copies.write_text("a file where the folder should be")
    answer(zoo.gguf(wide("llama"), "Q4_1"))
    assert packed


def test_copies_are_bounded_and_the_longest_unused_goes(
    zoo: Zoo, copies: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(zoo.gguf(wide("llama"), "Q4_1"))
    [first] = copies.iterdir()
    size = first.stat().st_size
    (copies / ".new-left-by-a-killed-process").write_bytes(b"x")
    os.utime(first, ns=(1, 1))
    monkeypatch.setattr(packed_copy, "MOST_BYTES", size + 10)
    answer(zoo.gguf(wide("gemma3"), "Q4_1"))
    [left] = copies.iterdir()
    assert left != first


def test_a_small_model_leaves_no_copy(zoo: Zoo, copies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_copy, "LEAST_COPY", 32 << 20)
    answer(zoo.gguf(wide("llama"), "Q4_1"))
    assert not copies.exists()
