"""How keys and values lie in the pages of the KV cache, and how they and queries get there.

A page holds 32 positions of one key/value head: the keys, then the values. Even positions come
before odd ones. `head_dim` is padded to 32 with zeros. Three types:

    bf16   K [head_dim / 2][position]   pairs of dimensions
           V [head_dim / 32][position / 2][32]   pairs of positions
    f32    K [head_dim][position]
           V [head_dim / 32][position][32]
    int8   the same, then a scale for each position's keys, and one for its values

So attention, which computes 32 dimensions of its result at a time, reads a page from the first byte to
the last: a processor fetches ahead of such a stream, and of no other.

Whatever is written is finite: what a query must not see is multiplied by 0, and 0 · NaN is not 0.
"""

from __future__ import annotations

from boli.cpu.dots import PAIRS_AS_FLOATS
from boli.cpu.lanes import (
    broadcast,
    finite,
    first_lane,
    mul,
    nearest_bf16,
    round_to_bf16,
    round_to_i8,
    store_bf16,
    store_bf16_halves,
    store_bf16_pairs,
    with_lane,
)
from boli.cpu.layouts import LANES
from boli.cpu.simd import kernel, load, load_f32, store, store_f32, store_i16, store_i32, store_u8, to_f32
from boli.cpu.sizes import F4, HEAD_PADDING, KV_TYPES, PAGE_SIZE, POSITIONS, QUERIES, QUERY_STRIDE

BF16, INT8, F32 = (KV_TYPES.index(name) for name in ("bf16", "int8", "f32"))
HALF = PAGE_SIZE // 2


@kernel
def index_in_page(slot):
    """Where a position lies: even ones first."""
    return slot % 2 * HALF + slot // 2


@kernel
def values_start(kind, padded):
    """Bytes of a page's keys."""
    return padded * PAGE_SIZE * (2 if kind == BF16 else 4 if kind == F32 else 1)


@kernel
def value_place(values, d, row, rows, size):
    """Where dimension `d` of a page's values lies; of `rows` rows, each of `size` bytes a dimension."""
    return values + ((d // HEAD_PADDING * rows + row) * HEAD_PADDING + d % HEAD_PADDING) * size


@kernel
def write_key(kind, head, size, padded, page, slot):
    """One position's keys of one head."""
    index = index_in_page(slot)
    if kind == BF16:
        for d in range(0, size // LANES * LANES, LANES):
            place = page + (d // 2 * PAGE_SIZE + index) * 4
            store_bf16_pairs(place, PAGE_SIZE * 4, finite(load(head + d * F4)))
        for d in range(size // LANES * LANES, size, 2):
            high = to_bf16(head + d * F4 + F4) if d + 1 < size else 0
            store_i32(page + (d // 2 * PAGE_SIZE + index) * 4, to_bf16(head + d * F4) | high << 16)
    elif kind == F32:
        for d in range(size):
            store_f32(page + (d * PAGE_SIZE + index) * F4, finite_number(head + d * F4))
    else:
        scale, inverse = scales_of(head, size)
        for d in range(size):
            store_u8(page + d * PAGE_SIZE + index, round_to_i8(load_f32(head + d * F4) * inverse))
        store_f32(page + 2 * padded * PAGE_SIZE + index * F4, scale)


@kernel
def write_value(kind, head, size, padded, page, slot):
    """One position's values of one head, behind the page's keys."""
    index, values = index_in_page(slot), page + values_start(kind, padded)
    if kind == BF16:
        for d in range(0, size // LANES * LANES, LANES):
            place = value_place(values, d, slot // 2, HALF, 4)
            store_bf16_halves(place, slot % 2, finite(load(head + d * F4)))
        for d in range(size // LANES * LANES, size):
            place = value_place(values, d, slot // 2, HALF, 4)
            store_i16(place + slot % 2 * 2, to_bf16(head + d * F4))
    elif kind == F32:
        for d in range(size):
            store_f32(value_place(values, d, index, PAGE_SIZE, F4), finite_number(head + d * F4))
    else:
        scale, inverse = scales_of(head, size)
        for d in range(size):
            store_u8(
                value_place(values, d, index, PAGE_SIZE, 1), round_to_i8(load_f32(head + d * F4) * inverse)
            )
        store_f32(page + 2 * padded * PAGE_SIZE + (PAGE_SIZE + index) * F4, scale)


@kernel
def finite_number(address):
    """One number of a head."""
    return first_lane(finite(broadcast(load_f32(address))))


@kernel
def to_bf16(address):
    """One number of a head as bfloat16."""
    return round_to_bf16(finite_number(address))


@kernel
def scales_of(head, size):
    """Scale and its inverse of a vector that is kept as int8; both 0 for zeros."""
    largest = to_f32(0)
    for d in range(size):
        largest = max(largest, abs(finite_number(head + d * F4)))
    if largest > 0.0:
        return largest / to_f32(127), to_f32(127) / largest
    return to_f32(0), to_f32(0)


@kernel
def place_query(kind, scratch, m, head, size, padded, scale, position):
    """Puts one query into a tile: scaled, rounded as the keys are multiplied, padded with zeros."""
    store_i32(scratch + POSITIONS + m * 4, position)
    place = scratch + QUERIES + m * QUERY_STRIDE
    factor = broadcast(scale)
    for d in range(0, padded, LANES):
        numbers = mul(load(head + d * F4), factor) if d + LANES <= size else partial(head, d, size, factor)
        if kind == BF16 and not PAIRS_AS_FLOATS:
            store_bf16(place + d * 2, numbers)
        elif kind == BF16:
            store(place + d * F4, nearest_bf16(numbers))
        else:
            store(place + d * F4, numbers)


@kernel
def partial(head, d, size, factor):
    """The last numbers of a head, scaled, and zeros."""
    numbers = broadcast(0.0)
    for k in range(d, min(d + LANES, size)):
        numbers = with_lane(numbers, k - d, load_f32(head + k * F4))
    return mul(numbers, factor)
