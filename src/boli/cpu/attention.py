"""Attention over the paged KV cache, for some query heads of one key/value head at a time.

    softmax(scale · q Kᵀ) V

The softmax is one of powers of two, for `ATTENTION_SCALE` in the plan has log₂ e in it (`powers.py`).
Both products are tiles like those of the matrix products; `kv.py` says how pages lie, so that the
probabilities of even and odd positions become the second product's activations without a shuffle.

The cache is cut at absolute positions: 32 to a page, and pages combined with a running maximum
(Milakov & Gimelshein 2018) within chunks of 256, and these in order. So the result does not depend
on how many queries share a tile, nor on which thread does which chunk. What a query may not see has
probability 0, which adds nothing.
"""

from __future__ import annotations

from typing import Any

from boli.cpu import amx_tiles
from boli.cpu.amx import in_registers
from boli.cpu.dots import PAIRS_AS_FLOATS
from boli.cpu.lanes import (
    add,
    broadcast,
    first_lane,
    fma,
    keep_lanes,
    maximum,
    mul,
    reduce_add,
    reduce_max,
    sub,
)
from boli.cpu.powers import add_rounded, exp2, exp2_for_bf16, store_rounded
from boli.cpu.simd import kernel, load, load_f32, load_i32, store, store_f32, to_f32
from boli.cpu.sizes import (
    ADDED,
    CHUNK_SUMS,
    F4,
    HEAD_PADDING,
    KV_BYTES,
    LARGEST_TILE,
    PAGE_SIZE,
    POSITIONS,
    PROBABILITIES,
    QUERIES,
    QUERY_STRIDE,
    SCORES,
    SHRINK,
    VECTOR,
)
from boli.cpu.target import fetches_by_itself
from boli.cpu.tiles import mixing_tile, product_tile

ROW = PAGE_SIZE * F4  # bytes of a row of scores or probabilities
ELEMENTS = {"bf16": "bf16", "int8": "i8", "f32": "f32"}


def attend(kv_type: str) -> Any:
    """The function that takes some pages into account, for Numba to compile.

    Its arguments, all int64: `rows, scratch, padded, pages, cache, page_stride, first_page, end_page,
    window, sums, stride`. It goes over pages `first_page … end_page - 1` of one chunk, from nothing to
    the results of a tile of `rows` queries. `scratch` holds their positions and the queries; the first
    result is written to `sums`, the others `stride` bytes apart.
    """
    one, two, three, four, six = (_attend_tile(kv_type, rows) for rows in (1, 2, 3, 4, LARGEST_TILE))

    def run(rows, scratch, padded, pages, cache, page_stride, first, end, window, sums, stride):
        if rows == 1:
            one(scratch, padded, pages, cache, page_stride, first, end, window, sums, stride)
        elif rows == 2:
            two(scratch, padded, pages, cache, page_stride, first, end, window, sums, stride)
        elif rows == 3:
            three(scratch, padded, pages, cache, page_stride, first, end, window, sums, stride)
        elif rows == 4:
            four(scratch, padded, pages, cache, page_stride, first, end, window, sums, stride)
        else:
            six(scratch, padded, pages, cache, page_stride, first, end, window, sums, stride)

    return run


def _attend_tile(kv_type: str, rows: int) -> Any:
    """`attend` for one number of queries."""
    element = ELEMENTS[kv_type]
    if in_registers(element):
        score, mix = amx_tiles.score_tile(), amx_tiles.mixing_tile(rows)
    elif kv_type == "bf16" and PAIRS_AS_FLOATS:
        score = product_tile("bf16_floats", rows, row_stride=QUERY_STRIDE, step=2 * F4)
        mix = mixing_tile("bf16_halves", rows)
    else:
        score, mix = product_tile(element, rows, row_stride=QUERY_STRIDE, step=4), mixing_tile(element, rows)
    pair = 2 if kv_type == "bf16" else 1  # numbers that are multiplied together
    size, with_scales, rounded = KV_BYTES[kv_type], kv_type == "int8", kv_type == "bf16"
    # A full tile computes for longer than it waits.
    fetches = rows < LARGEST_TILE and not fetches_by_itself()

    @kernel
    def run(scratch, padded, pages, cache, page_stride, first_page, end_page, window, sums, stride):
        for m in range(rows):
            clear(sums + m * stride, padded)
            store(scratch + CHUNK_SUMS + m * VECTOR, broadcast(0.0))
        for number in range(first_page, end_page):
            page = cache + load_i32(pages + number * 4) * page_stride
            keys_stride, depth = PAGE_SIZE * size * pair, padded // pair
            # The next page is fetched meanwhile, its keys with scores and its values with values.
            ahead, share = 0, 0
            if fetches and number + 1 < end_page:
                ahead, share = cache + load_i32(pages + (number + 1) * 4) * page_stride - page, 1
            score(page, keys_stride, depth, scratch + QUERIES, scratch + SCORES, ROW, 0, ahead, share)
            values = page + padded * PAGE_SIZE * size
            scales = values + padded * PAGE_SIZE * size if with_scales else 0
            for m in range(rows):
                position = load_i32(scratch + POSITIONS + m * 4) - number * PAGE_SIZE
                soften(scratch, m, position, window, sums + m * stride, scales, rounded)
            store(scratch + SHRINK, exp2(load(scratch + SHRINK)))
            for m in range(rows):
                total, factor = scratch + CHUNK_SUMS + m * VECTOR, load_f32(scratch + SHRINK + m * F4)
                if rounded:
                    shrunk, new = mul(load(total), broadcast(factor)), scratch + PROBABILITIES + m * ROW
                    store(total, add_rounded(shrunk, new))
                else:
                    store(total, fma(load(total), broadcast(factor), load(scratch + ADDED + m * VECTOR)))
            for d in range(0, padded, HEAD_PADDING):
                mix(
                    values + d * PAGE_SIZE * size, HEAD_PADDING * size * pair, PAGE_SIZE // pair,
                    scratch + PROBABILITIES, sums + VECTOR + d * F4, stride, scratch + SHRINK, ahead, share,
                )  # fmt: skip
        for m in range(rows):
            store_f32(sums + m * stride + F4, reduce_add(load(scratch + CHUNK_SUMS + m * VECTOR)))

    return run


@kernel
def soften(scratch, m, position, window, statistics, scales, rounded):
    """One query's scores of a page to probabilities, relative to the largest score so far.

    Leaves what the sums so far shrink by as an exponent. `position` counts from the page's first;
    `scales` are the page's for int8, or 0.
    """
    scores, probabilities = scratch + SCORES + m * ROW, scratch + PROBABILITIES + m * ROW
    even, odd = load(scores), load(scores + VECTOR)
    first = max(position - window + 1, 0) if window > 0 else 0
    end = min(position + 1, PAGE_SIZE)
    if first >= end:  # sees nothing here
        store(probabilities, broadcast(0.0))
        store(probabilities + VECTOR, broadcast(0.0))
        store(scratch + ADDED + m * VECTOR, broadcast(0.0))
        store_f32(scratch + SHRINK + m * F4, to_f32(0))
        return
    if scales != 0:
        even, odd = mul(even, load(scales)), mul(odd, load(scales + VECTOR))
    if first > 0 or end < PAGE_SIZE:
        even = keep_lanes(even, (first + 1) // 2, (end + 1) // 2)
        odd = keep_lanes(odd, first // 2, end // 2)
    before = load_f32(statistics)
    now = max(before, reduce_max(maximum(even, odd)))
    store_f32(scratch + SHRINK + m * F4, before - now)  # minus infinity on the first page
    store_f32(statistics, now)
    even, odd = sub(even, broadcast(now)), sub(odd, broadcast(now))
    if rounded:
        store_rounded(probabilities, exp2_for_bf16(even), exp2_for_bf16(odd))
        return
    even, odd = exp2(even), exp2(odd)
    if scales != 0:
        store(probabilities, mul(even, load(scales + ROW)))
        store(probabilities + VECTOR, mul(odd, load(scales + ROW + VECTOR)))
    else:
        store(probabilities, even)
        store(probabilities + VECTOR, odd)
    store(scratch + ADDED + m * VECTOR, add(even, odd))


@kernel
def tile_size(queries):
    """The largest tile that some queries fill."""
    return LARGEST_TILE if queries >= LARGEST_TILE else 4 if queries == 5 else queries


@kernel
def clear(result, padded):
    """A result of no pages."""
    store_f32(result, to_f32(-1) / to_f32(0))
    store_f32(result + F4, to_f32(0))
    for at in range(0, padded * F4, VECTOR):
        store(result + VECTOR + at, broadcast(0.0))


@kernel
def merge(result, chunk, padded):
    """Adds the result of the next chunk."""
    before, largest = load_f32(result), load_f32(chunk)
    if largest == to_f32(-1) / to_f32(0):  # it saw nothing
        return
    now = max(before, largest)
    old, new = exp2(broadcast(before - now)), exp2(broadcast(largest - now))
    total = fma(old, broadcast(load_f32(result + F4)), mul(new, broadcast(load_f32(chunk + F4))))
    store_f32(result, now)
    store_f32(result + F4, first_lane(total))
    for at in range(VECTOR, VECTOR + padded * F4, VECTOR):
        store(result + at, fma(old, load(result + at), mul(new, load(chunk + at))))


@kernel
def finish(result, size, destination):
    """Σ 2^s · v / Σ 2^s."""
    inverse = broadcast(to_f32(1) / load_f32(result + F4))
    whole = size // 16 * VECTOR
    for at in range(0, whole, VECTOR):
        store(destination + at, mul(load(result + VECTOR + at), inverse))
    for at in range(whole, size * F4, F4):
        store_f32(destination + at, load_f32(result + VECTOR + at) * first_lane(inverse))
