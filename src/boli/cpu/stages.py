"""The stages of a step: what each thread of the team does between two barriers.

Work is split so that each number is computed by one thread, whole: matrix products by blocks of 32
outputs, everything else by rows or heads. So the number of threads changes who computes, never what.
"""

from __future__ import annotations

from boli.cpu import plan as p
from boli.cpu.kernels import (
    F4,
    GROUP,
    PAGE_SIZE,
    VECTOR,
    attend,
    head_norm,
    layer_norm,
    quantize,
    rms_norm,
    rotate,
    write_key,
    write_value,
)
from boli.cpu.lanes import add, broadcast, mul
from boli.cpu.layouts import ROWS_PER_BLOCK
from boli.cpu.simd import bits_to_f32, function_call, kernel, load, load_i32, load_i64, store
from boli.cpu.sync import barrier

call_project = function_call(13)
call_look_up = function_call(6)

BLOCK = ROWS_PER_BLOCK * F4


@kernel
def norm(plan, source, weight, bias, destination):
    """The family's norm of one row of the residual stream."""
    size = load_i64(plan + p.HIDDEN)
    eps = bits_to_f32(load_i64(plan + p.NORM_EPS))
    if load_i64(plan + p.LAYER_NORM) != 0:
        layer_norm(source, weight, bias, size, eps, destination)
    else:
        rms_norm(source, weight, size, eps, destination)


@kernel
def input_floats(plan, thread, rows):
    """Where normed rows go: into the thread's own buffer if each thread prepares all of them."""
    if rows <= p.REDUNDANT_ROWS:
        return load_i64(plan + p.PRIVATE) + thread * load_i64(plan + p.PRIVATE_STRIDE)
    return load_i64(plan + p.NORMED)


@kernel
def input_quants(plan, thread, rows):
    """Where quantized rows go, likewise."""
    if rows <= p.REDUNDANT_ROWS:
        own = load_i64(plan + p.PRIVATE) + thread * load_i64(plan + p.PRIVATE_STRIDE)
        return own + p.REDUNDANT_ROWS * load_i64(plan + p.NORMED_STRIDE)
    return load_i64(plan + p.QUANTS)


@kernel
def share(rows, thread, threads):
    """The rows that this thread prepares."""
    if rows <= p.REDUNDANT_ROWS:
        return 0, rows
    return rows * thread // threads, rows * (thread + 1) // threads


@kernel
def meet_if_shared(plan, thread, rows):
    """A barrier, unless each thread prepared its own copy."""
    if rows > p.REDUNDANT_ROWS:
        barrier(load_i64(plan + p.CONTROL), thread, load_i64(plan + p.THREADS))


@kernel
def prepare_norm(plan, thread, source, weight, bias, rows, quantized):
    """Norm, and int8 if a matrix wants it, of all rows of the residual stream."""
    floats, quants = input_floats(plan, thread, rows), input_quants(plan, thread, rows)
    stride, float_stride = load_i64(plan + p.X_STRIDE), load_i64(plan + p.NORMED_STRIDE)
    quant_stride = load_i64(plan + p.QUANTS_STRIDE)
    columns = stride // F4
    first, end = share(rows, thread, load_i64(plan + p.THREADS))
    for row in range(first, end):
        norm(plan, source + row * stride, weight, bias, floats + row * float_stride)
        if quantized != 0:
            quantize(floats + row * float_stride, columns, 0, columns // GROUP, quants + row * quant_stride)
    meet_if_shared(plan, thread, rows)


@kernel
def prepare_quants(plan, thread, source, stride, rows, quantized):
    """Int8 of all rows of a buffer, if a matrix wants it."""
    if quantized == 0:
        return
    quants, quant_stride = input_quants(plan, thread, rows), load_i64(plan + p.QUANTS_STRIDE)
    first, end = share(rows, thread, load_i64(plan + p.THREADS))
    for row in range(first, end):
        quantize(source + row * stride, stride // F4, 0, stride // F4 // GROUP, quants + row * quant_stride)
    meet_if_shared(plan, thread, rows)


@kernel
def project(plan, thread, matrix, floats, float_stride, y, y_stride, rows, accumulate):
    """Computes y (+)= W a + bias for this thread's outputs, and returns their range."""
    threads = load_i64(plan + p.THREADS)
    blocks = load_i64(matrix + p.BLOCKS)
    first, end = blocks * thread // threads, blocks * (thread + 1) // threads
    activations, stride, meta = floats, float_stride, floats
    if load_i64(matrix + p.IS_INT) != 0:
        activations, stride = input_quants(plan, thread, rows), load_i64(plan + p.QUANTS_STRIDE)
        meta = activations + load_i64(matrix + p.META_OFFSET)
    call_project(
        load_i64(matrix + p.PROJECT), load_i64(matrix + p.DATA), load_i64(matrix + p.BLOCK_STRIDE),
        load_i64(matrix + p.DEPTH), load_i64(matrix + p.ZERO), activations, meta, stride,
        y, y_stride, rows, first, end, accumulate,
    )  # fmt: skip
    bias = load_i64(matrix + p.BIAS)
    if bias != 0:
        for row in range(rows):
            for at in range(first * BLOCK, end * BLOCK, VECTOR):
                place = y + row * y_stride + at
                store(place, add(load(place), load(bias + at)))
    return first * ROWS_PER_BLOCK, end * ROWS_PER_BLOCK


@kernel
def embed(plan, thread):
    """X ← row of the embedding matrix · scale (+ row of the position embedding)."""
    rows, threads = load_i64(plan + p.ROWS), load_i64(plan + p.THREADS)
    matrix, positions = load_i64(plan + p.EMBEDDING), load_i64(plan + p.POSITION_EMBEDDING)
    size, x, stride = load_i64(plan + p.HIDDEN), load_i64(plan + p.X), load_i64(plan + p.X_STRIDE)
    scale = bits_to_f32(load_i64(plan + p.EMBEDDING_SCALE))
    scratch = load_i64(plan + p.SCRATCH) + thread * load_i64(plan + p.SCRATCH_STRIDE)
    for row in range(rows * thread // threads, rows * (thread + 1) // threads):
        place = x + row * stride
        token = load_i32(load_i64(plan + p.TOKEN_IDS) + row * 4)
        look_up(matrix, token, size, place)
        for at in range(0, size * F4, VECTOR):
            store(place + at, mul(load(place + at), broadcast(scale)))
        if positions != 0:
            look_up(positions, load_i32(load_i64(plan + p.POSITIONS) + row * 4), size, scratch)
            for at in range(0, size * F4, VECTOR):
                store(place + at, add(load(place + at), load(scratch + at)))


@kernel
def look_up(matrix, row, size, destination):
    """One row of a packed matrix as floats."""
    call_look_up(
        load_i64(matrix + p.LOOK_UP), load_i64(matrix + p.DATA), load_i64(matrix + p.BLOCK_STRIDE),
        size, load_i64(matrix + p.ZERO), row, destination,
    )  # fmt: skip


@kernel
def page_of(plan, index, row, head):
    """The part of the KV cache that one key/value head uses, of layer `index`; page 0."""
    size, size_padded = load_i64(plan + p.HEAD_DIM), load_i64(plan + p.HEAD_PADDED)
    per_head = (size + size_padded) * PAGE_SIZE * F4
    return load_i64(plan + p.KV_CACHE) + index * load_i64(plan + p.LAYER_KV_STRIDE) + head * per_head


@kernel
def pages_of(plan, row):
    """The page table of a row's sequence."""
    sequence = load_i32(load_i64(plan + p.SEQUENCES) + row * 4)
    return load_i64(plan + p.PAGE_TABLES) + sequence * load_i64(plan + p.MAX_PAGES) * 4


@kernel
def turn_and_cache(plan, layer, index, thread):
    """QK-norm and RoPE of queries and keys, and keys and values into the cache: one head at a time."""
    rows, threads = load_i64(plan + p.ROWS), load_i64(plan + p.THREADS)
    heads, kv_heads = load_i64(plan + p.HEADS), load_i64(plan + p.KV_HEADS)
    size, size_padded = load_i64(plan + p.HEAD_DIM), load_i64(plan + p.HEAD_PADDED)
    qkv, stride = load_i64(plan + p.QKV), load_i64(plan + p.QKV_STRIDE)
    eps = bits_to_f32(load_i64(plan + p.NORM_EPS))
    half, table = load_i64(layer + p.ROPE_HALF), load_i64(layer + p.ROPE_TABLE)
    scratch = load_i64(plan + p.SCRATCH) + thread * load_i64(plan + p.SCRATCH_STRIDE)
    tasks = heads + kv_heads
    for task in range(rows * tasks * thread // threads, rows * tasks * (thread + 1) // threads):
        row, head = task // tasks, task % tasks
        position = load_i32(load_i64(plan + p.POSITIONS) + row * 4)
        start = qkv + row * stride
        is_key = head >= heads
        vector = start + head * size * F4
        if is_key:
            head -= heads
            vector = start + load_i64(plan + p.K_OFFSET) + head * size * F4
        if load_i64(plan + p.QK_NORM) != 0:
            weight = load_i64(layer + p.K_NORM) if is_key else load_i64(layer + p.Q_NORM)
            head_norm(vector, weight, size, eps, scratch)
        if half != 0:
            rotate(vector, half, table + position * half * 2 * F4)
        if is_key:
            number = load_i32(pages_of(plan, row) + position // PAGE_SIZE * 4)
            page = page_of(plan, index, row, head) + number * load_i64(plan + p.PAGE_STRIDE)
            write_key(vector, size, page, position % PAGE_SIZE)
            value = start + load_i64(plan + p.V_OFFSET) + head * size * F4
            write_value(value, size, size_padded, page, position % PAGE_SIZE)


@kernel
def attention(plan, layer, index, thread):
    """Every query head of every row over its own sequence."""
    rows, threads = load_i64(plan + p.ROWS), load_i64(plan + p.THREADS)
    heads, kv_heads = load_i64(plan + p.HEADS), load_i64(plan + p.KV_HEADS)
    size, size_padded = load_i64(plan + p.HEAD_DIM), load_i64(plan + p.HEAD_PADDED)
    scale = bits_to_f32(load_i64(plan + p.ATTENTION_SCALE))
    scratch = load_i64(plan + p.SCRATCH) + thread * load_i64(plan + p.SCRATCH_STRIDE)
    # Neighbouring tasks are rows of one head, dealt out in turn: later rows see more and cost more.
    for task in range(thread, rows * heads, threads):
        head, row = task // rows, task % rows
        attend(
            load_i64(plan + p.QKV) + row * load_i64(plan + p.QKV_STRIDE) + head * size * F4,
            size, size_padded, scale, pages_of(plan, row),
            page_of(plan, index, row, head * kv_heads // heads), load_i64(plan + p.PAGE_STRIDE),
            load_i32(load_i64(plan + p.POSITIONS) + row * 4), load_i64(layer + p.WINDOW), scratch,
            load_i64(plan + p.ATTENTION) + row * load_i64(plan + p.ATTENTION_STRIDE) + head * size * F4,
        )  # fmt: skip


@kernel
def add_branch(plan, thread, weight):
    """X ← x + norm(branch), the sandwich norm of Gemma; each row by one thread."""
    rows, threads = load_i64(plan + p.ROWS), load_i64(plan + p.THREADS)
    x, branch, stride = load_i64(plan + p.X), load_i64(plan + p.BRANCH), load_i64(plan + p.X_STRIDE)
    for row in range(rows * thread // threads, rows * (thread + 1) // threads):
        norm(plan, branch + row * stride, weight, 0, branch + row * stride)
        for at in range(row * stride, (row + 1) * stride, VECTOR):
            store(x + at, add(load(x + at), load(branch + at)))


@kernel
def close_branch(plan, thread, post_norm):
    """What ends a branch: a barrier, or with a sandwich norm that norm between two."""
    control, threads = load_i64(plan + p.CONTROL), load_i64(plan + p.THREADS)
    barrier(control, thread, threads)
    if load_i64(plan + p.POST_NORMS) != 0:
        add_branch(plan, thread, post_norm)
        barrier(control, thread, threads)
