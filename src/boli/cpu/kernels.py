"""What a decoder block does to a row besides matrix products: norms, quantization, RoPE, attention.

Every function works on one row (one token) or one head of it, alone: no result depends on which
other rows are in the batch or which thread does it. Addresses and counts are int64; vectors are
padded to 16 floats and the padding is zero.
"""

from __future__ import annotations

from boli.cpu import plan as p
from boli.cpu.lanes import (
    absolute,
    add,
    broadcast,
    div,
    exp,
    fma,
    keep_lanes,
    largest_magnitude,
    low_i32,
    maximum,
    minimum,
    mul,
    reduce_add,
    reduce_max,
    sub,
    to_int,
    two_sums,
)
from boli.cpu.simd import kernel, load, load_f32, load_i32, store, store_f32, store_i8, store_i32, to_f32

F4 = 4
VECTOR = 64
GROUP = 32  # activations that share a scale
PAGE_SIZE = 32  # positions in a page of the KV cache


@kernel
def rms_norm(source, weight, size, eps, destination):
    """Root mean square norm: x / sqrt(mean(x²) + eps) · w   (Zhang & Sennrich 2019)."""
    squares = broadcast(0.0)
    for at in range(0, size * F4, VECTOR):
        x = load(source + at)
        squares = fma(x, x, squares)
    scale = broadcast(1.0 / ((reduce_add(squares) / to_f32(size) + eps) ** 0.5))
    for at in range(0, size * F4, VECTOR):
        store(destination + at, mul(mul(load(source + at), scale), load(weight + at)))


@kernel
def layer_norm(source, weight, bias, size, eps, destination):
    """Layer norm: (x - mean) / sqrt(variance + eps) · w + b   (Ba et al. 2016)."""
    total = broadcast(0.0)
    for at in range(0, size * F4, VECTOR):
        total = add(total, load(source + at))
    mean = reduce_add(total) / to_f32(size)
    # Padding would count as (0 - mean)², so the last lanes are added one by one.
    whole = size // 16 * VECTOR
    vector = broadcast(0.0)
    for at in range(0, whole, VECTOR):
        x = sub(load(source + at), broadcast(mean))
        vector = fma(x, x, vector)
    squares = reduce_add(vector)
    for at in range(whole, size * F4, F4):
        x = load_f32(source + at) - mean
        squares += x * x
    scale = broadcast(1.0 / ((squares / to_f32(size) + eps) ** 0.5))
    for at in range(0, size * F4, VECTOR):
        x = mul(sub(load(source + at), broadcast(mean)), scale)
        store(destination + at, fma(x, load(weight + at), load(bias + at)))


@kernel
def quantize(source, columns, first, end, destination):
    """One row to int8 in groups of 32: a ≈ scale · q with scale = max |a| / 127.

    Writes the quants, then for groups of 32 the scales, sums Σ q and products scale · Σ q, then the
    same three for groups of 16 (the scale repeated), which some weight formats need. `columns`, a
    multiple of 32, is the length of the row; only groups `first … end - 1` are done.
    """
    groups = columns // GROUP
    scales = destination + columns
    halves = scales + 12 * groups
    for group in range(first, end):
        low = load(source + group * GROUP * F4)
        high = load(source + group * GROUP * F4 + VECTOR)
        largest = largest_magnitude(low, high)
        scale = largest / to_f32(127)
        inverse = broadcast(to_f32(127) / largest if largest > 0.0 else to_f32(0))
        q_low, q_high = to_int(mul(low, inverse)), to_int(mul(high, inverse))
        store_i8(destination + group * GROUP, q_low)
        store_i8(destination + group * GROUP + 16, q_high)
        both = two_sums(q_low, q_high)
        sum_low, sum_high = low_i32(both), low_i32(both >> 32)
        at = scales + F4 * group
        store_f32(at, scale)
        store_i32(at + F4 * groups, sum_low + sum_high)
        store_f32(at + 2 * F4 * groups, scale * to_f32(sum_low + sum_high))
        at = halves + 2 * F4 * group
        store_f32(at, scale)
        store_f32(at + F4, scale)
        store_i32(at + 2 * F4 * groups, sum_low)
        store_i32(at + 2 * F4 * groups + F4, sum_high)
        store_f32(at + 4 * F4 * groups, scale * to_f32(sum_low))
        store_f32(at + 4 * F4 * groups + F4, scale * to_f32(sum_high))


@kernel
def rotate(head, half, table):
    """RoPE (Su et al. 2021) in place, on pairs (i, i + half); `table` has half cosines, half sines."""
    whole = half // 16 * VECTOR
    second = head + half * F4
    sines = table + half * F4
    for at in range(0, whole, VECTOR):
        x, y = load(head + at), load(second + at)
        c, s = load(table + at), load(sines + at)
        store(head + at, sub(mul(x, c), mul(y, s)))
        store(second + at, add(mul(y, c), mul(x, s)))
    for at in range(whole, half * F4, F4):
        a, b = load_f32(head + at), load_f32(second + at)
        cosine, sine = load_f32(table + at), load_f32(sines + at)
        store_f32(head + at, a * cosine - b * sine)
        store_f32(second + at, b * cosine + a * sine)


@kernel
def head_norm(head, weight, size, eps, scratch):
    """RMSNorm of one head in place (QK-norm), through a padded copy."""
    copy(head, size, scratch)
    for at in range(size * F4, (size + 15) // 16 * VECTOR, F4):
        store_f32(scratch + at, 0.0)
    rms_norm(scratch, weight, size, eps, scratch)
    copy(scratch, size, head)


@kernel
def copy(source, size, destination):
    """Copies `size` floats."""
    whole = size // 16 * VECTOR
    for at in range(0, whole, VECTOR):
        store(destination + at, load(source + at))
    for at in range(whole, size * F4, F4):
        store_f32(destination + at, load_f32(source + at))


@kernel
def write_key(head, size, page, slot):
    """Keys lie dimension by dimension, so that 16 positions fill a vector."""
    for d in range(size):
        store_f32(page + (d * PAGE_SIZE + slot) * F4, load_f32(head + d * F4))


@kernel
def write_value(head, size, size_padded, page, slot):
    """Values lie position by position, behind the page's keys; padding is written as zeros."""
    place = page + (size * PAGE_SIZE + slot * size_padded) * F4
    copy(head, size, place)
    for d in range(size, size_padded):
        store_f32(place + d * F4, 0.0)


@kernel
def attend(
    query, size, size_padded, scale, pages, cache, page_stride, position, window, scratch, destination
):
    """softmax(scale · q Kᵀ) V of one head of one row, over the pages of its sequence.

    The cache is cut at absolute positions, 32 at a time, and the pieces are combined in order with
    a running maximum (Milakov & Gimelshein 2018), all in float32. Pages before the window are not
    read. `scratch` holds 32 probabilities and `size_padded` sums.
    """
    first = max(0, position - window + 1) if window > 0 else 0
    sums = scratch + PAGE_SIZE * F4
    for at in range(0, size_padded * F4, VECTOR):
        store(sums + at, broadcast(0.0))
    largest = to_f32(-1) / to_f32(0)  # minus infinity
    total = broadcast(0.0)
    factor = broadcast(scale)
    for index in range(first // PAGE_SIZE, position // PAGE_SIZE + 1):
        page = cache + load_i32(pages + index * 4) * page_stride
        low = max(first - index * PAGE_SIZE, 0)
        high = min(position + 1 - index * PAGE_SIZE, PAGE_SIZE)
        # Two chains for each half, so that additions overlap.
        a, b, c, d = broadcast(0.0), broadcast(0.0), broadcast(0.0), broadcast(0.0)
        key = page
        for dim in range(0, size - 1, 2):
            q0, q1 = broadcast(load_f32(query + dim * F4)), broadcast(load_f32(query + dim * F4 + F4))
            a = fma(q0, load(key), a)
            b = fma(q0, load(key + VECTOR), b)
            c = fma(q1, load(key + 2 * VECTOR), c)
            d = fma(q1, load(key + 3 * VECTOR), d)
            key += 4 * VECTOR
        if size % 2 == 1:
            q0 = broadcast(load_f32(query + (size - 1) * F4))
            a = fma(q0, load(key), a)
            b = fma(q0, load(key + VECTOR), b)
        left = keep_lanes(mul(add(a, c), factor), low, high)
        right = keep_lanes(mul(add(b, d), factor), low - 16, high - 16)
        now = max(largest, reduce_max(maximum(left, right)))
        left = exp(sub(left, broadcast(now)))
        right = exp(sub(right, broadcast(now)))
        store(scratch, left)
        store(scratch + VECTOR, right)
        shrink = exp(broadcast(largest - now))  # 0 on the first page
        total = fma(total, shrink, add(left, right))
        largest = now
        values = page + size * PAGE_SIZE * F4
        for at in range(0, size_padded * F4, VECTOR):
            accumulated = mul(load(sums + at), shrink)
            for slot in range(low, high):
                weight = broadcast(load_f32(scratch + slot * F4))
                accumulated = fma(weight, load(values + slot * size_padded * F4 + at), accumulated)
            store(sums + at, accumulated)
    inverse = broadcast(to_f32(1) / reduce_add(total))
    for at in range(0, size_padded * F4, VECTOR):
        store(sums + at, mul(load(sums + at), inverse))
    copy(sums, size, destination)


@kernel
def _silu(x, steepness):
    """X · sigmoid(steepness)."""
    return div(x, add(broadcast(1.0), exp(sub(broadcast(0.0), steepness))))


@kernel
def _gelu_tanh(x):
    """GELU by tanh: x / 2 · (1 + tanh u) = x · sigmoid(2 u), u = sqrt(2/π) (x + 0.044715 x³)."""
    cube = mul(mul(x, x), x)
    return _silu(x, mul(fma(broadcast(0.044715), cube, x), broadcast(2 * 0.7978845608028654)))


@kernel
def _gelu_erf(x):
    """GELU by erf: x / 2 · (1 + erf(x / sqrt 2)), erf by Abramowitz & Stegun 7.1.26, error below 1.5e-7."""
    z = mul(absolute(x), broadcast(0.7071067811865476))
    t = div(broadcast(1.0), fma(broadcast(0.3275911), z, broadcast(1.0)))
    s = broadcast(1.061405429)
    s = fma(s, t, broadcast(-1.453152027))
    s = fma(s, t, broadcast(1.421413741))
    s = fma(s, t, broadcast(-0.284496736))
    s = fma(s, t, broadcast(0.254829592))
    tail = mul(mul(s, t), exp(sub(broadcast(0.0), mul(z, z))))  # 1 - erf(z)
    half = mul(broadcast(0.5), x)
    # Above zero the result is x - x/2 · tail, below it x/2 · tail.
    positive = mul(maximum(x, broadcast(0.0)), sub(broadcast(1.0), mul(broadcast(0.5), tail)))
    return fma(minimum(half, broadcast(0.0)), tail, positive)


@kernel
def activate(kind, gate, up, gated, start, end):
    """Replaces gate by f(gate) · up for a range of floats, or by f(gate) alone."""
    for at in range(start * F4, end * F4, VECTOR):
        x = load(gate + at)
        if kind == p.SILU:
            y = _silu(x, x)
        elif kind == p.GELU_TANH:
            y = _gelu_tanh(x)
        else:
            y = _gelu_erf(x)
        if gated != 0:
            y = mul(y, load(up + at))
        store(gate + at, y)
