"""What a decoder block does to a row besides matrix products and attention: norms, RoPE, activations.

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
    maximum,
    minimum,
    mul,
    reduce_add,
    sub,
)
from boli.cpu.simd import kernel, load, load_f32, store, store_f32, to_f32
from boli.cpu.sizes import F4, VECTOR


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
