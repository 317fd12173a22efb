"""Products in tile registers: that their arithmetic is the stated one, and that others are not needed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from boli.cpu import amx, amx_tiles, target
from boli.cpu.sizes import LARGEST_TILE, PAGE_SIZE, QUERY_STRIDE, streams_bytes
from cpu import machine_code as mc

Pairs = NDArray[np.uint16]
Float32 = NDArray[np.float32]

needs_tiles = pytest.mark.skipif(
    not target.tile_registers(), reason="this processor has no tile registers, or we may not use them"
)


@pytest.fixture(autouse=True)
def forms() -> Iterator[None]:
    target.tile_registers.cache_clear()
    yield
    target.tile_registers.cache_clear()


def bfloat16(values: Float32) -> Pairs:
    """Cut to bfloat16."""
    return (values.view(np.uint32) >> 16).astype(np.uint16)


def wide(values: Pairs) -> Float32:
    return (values.astype(np.uint32) << 16).view(np.float32)


def stated(total: Float32, left: Float32, right: Float32) -> Float32:
    """`total + left @ right` as the module says; a product of two bfloat16 is exact in float32."""
    for first in range(0, left.shape[1], PAGE_SIZE):
        even, odd = np.zeros_like(total), np.zeros_like(total)
        for k in range(first, first + PAGE_SIZE, 2):
            even += left[:, k, None] * right[k]
            odd += left[:, k + 1, None] * right[k + 1]
        total = total + (even + odd)
    return total


def in_pairs(rows: Pairs) -> Pairs:
    """`[k, n]` to `[k / 2, n, 2]`, as pages have it."""
    return np.ascontiguousarray(rows.reshape(-1, 2, rows.shape[1]).swapaxes(1, 2))


def between(run: Any) -> Any:
    """A tile with its registers configured before and released after."""
    arguments, tile = mc.tile_body(run)

    def emit(b: Any, *values: Any) -> None:
        mc.tile_body(amx.configure)[1](b)
        tile(b, *values)
        mc.tile_body(amx.release)[1](b)

    return mc.Native(mc.host(), arguments, emit)


@needs_tiles
@pytest.mark.parametrize("head_dim", [32, 64, 256])
def test_scores(head_dim: int) -> None:
    rng = np.random.default_rng(head_dim)
    keys = bfloat16(rng.standard_normal((head_dim, PAGE_SIZE), np.float32))
    queries = np.zeros((LARGEST_TILE, QUERY_STRIDE // 2), np.uint16)
    queries[:, :head_dim] = bfloat16(rng.standard_normal((LARGEST_TILE, head_dim), np.float32))
    scores = np.full((LARGEST_TILE, PAGE_SIZE), np.nan, np.float32)
    run = between(amx_tiles.score_tile())
    run(in_pairs(keys), PAGE_SIZE * 4, head_dim // 2, queries, scores, scores.strides[0], 0, 0, 0)
    expected = stated(np.zeros_like(scores), wide(queries[:, :head_dim]), wide(keys))
    np.testing.assert_array_equal(scores.view(np.int32), expected.view(np.int32))
    assert np.ptp(scores) > 1


@needs_tiles
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 6])
def test_weighted_sums(rows: int) -> None:
    """Of `rows` queries only: what lies behind them in memory is somebody else's."""
    rng = np.random.default_rng(rows)
    values = bfloat16(rng.standard_normal((PAGE_SIZE, 32), np.float32))
    weights = bfloat16(rng.random((LARGEST_TILE, PAGE_SIZE), np.float32))
    room = np.full(
        (LARGEST_TILE, 2 * PAGE_SIZE), 0xFFFF, np.uint16
    )  # rows of 128 bytes, of which half is used
    room[:, :PAGE_SIZE] = weights
    y = rng.standard_normal((LARGEST_TILE, 32), np.float32)
    before, shrink = y.copy(), rng.random(LARGEST_TILE, np.float32)
    run = between(amx_tiles.mixing_tile(rows))
    run(in_pairs(values), 128, PAGE_SIZE // 2, room, y, y.strides[0], shrink, 0, 0)
    added = stated(np.zeros((rows, 32), np.float32), wide(weights[:rows]), wide(values))
    # A fused addition rounds once; in float64 the product is exact, and so nearly is the sum.
    exact = before[:rows].astype(np.float64) * shrink[:rows, None] + added
    np.testing.assert_array_equal(y[:rows], exact.astype(np.float32))
    np.testing.assert_array_equal(y[rows:], before[rows:])


@needs_tiles
@pytest.mark.parametrize("accumulate", [0, 1])
@pytest.mark.parametrize(("rows", "tiles"), [(1, 1), (2, 1), (3, 1), (4, 1), (6, 1), (6, amx_tiles.TILES)])
def test_products_of_weights(rows: int, tiles: int, accumulate: int) -> None:
    """Of the tile's rows only, whatever lies behind the activations: here it is NaN."""
    depth, every = 96, rows * tiles
    rng = np.random.default_rng(every)
    weights = bfloat16(rng.standard_normal((depth, 32), np.float32))
    inputs = bfloat16(rng.standard_normal((tiles, rows, depth), np.float32))
    # Of each tile, for each 32 inputs, 16 pairs of each row.
    stream = inputs.reshape(tiles, rows, -1, 32).swapaxes(1, 2).reshape(-1)
    behind = streams_bytes("bfloat16", every, depth) // 2 - stream.size
    stream = np.concatenate([stream, np.full(behind, 0xFFFF, np.uint16)])
    y = rng.standard_normal((every + 1, 32), np.float32)
    before = y.copy()
    run = between(amx_tiles.product_tile(rows, tiles))
    run(in_pairs(weights), 128, depth // 2, stream, y, y.strides[0], accumulate, 0, 0)
    total = stated(np.zeros((every, 32), np.float32), wide(inputs).reshape(every, depth), wide(weights))
    expected = before[:-1] + total if accumulate else total
    np.testing.assert_array_equal(y[:-1].view(np.int32), expected.view(np.int32))
    np.testing.assert_array_equal(y[-1], before[-1])


def test_tiles_are_made_of_tile_instructions() -> None:
    """Read, where they cannot be run."""
    sapphire_rapids = mc.machine(mc.X86, "sapphirerapids")
    for tile in (
        amx_tiles.score_tile(),
        amx_tiles.mixing_tile(3),
        amx_tiles.product_tile(6, amx_tiles.TILES),
    ):
        text = mc.assembly(sapphire_rapids, *mc.tile_body(tile))
        assert text.count("tdpbf16ps") >= 2 and "tilestored" in text
        assert not mc.calls(text)
    assert "ldtilecfg" in mc.assembly(sapphire_rapids, *mc.tile_body(amx.configure))
    assert "tilerelease" in mc.assembly(sapphire_rapids, *mc.tile_body(amx.release))


def pretend(monkeypatch: pytest.MonkeyPatch, *, granted: bool) -> None:
    """A processor that has everything, and a system that lets us use it, or not."""
    names = ("avx512bf16", "amx-tile", "amx-bf16")
    monkeypatch.setattr(target, "host_features", lambda: dict.fromkeys(names, True))
    monkeypatch.setattr(target, "dot_form", lambda: "avx512vnni")
    monkeypatch.setattr(target, "_tiles_granted", lambda: granted)
    target.tile_registers.cache_clear()


def test_the_system_has_to_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BOLI_SIMD", raising=False)
    pretend(monkeypatch, granted=False)
    assert not target.tile_registers()
    pretend(monkeypatch, granted=True)
    assert target.tile_registers()


def test_a_setting_does_without(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, granted=True)
    monkeypatch.setenv("BOLI_SIMD", "avx512vnni")
    assert not target.tile_registers()
