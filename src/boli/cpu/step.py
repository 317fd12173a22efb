"""The one compiled step: a batch of tokens through all layers to logits.

Every thread of the team runs `forward` over the same plan and does its share of each stage; between
stages they meet at a barrier. A layer reads

    x ─ norm ─ q k v ─│─ QK-norm, RoPE, cache ─│─ attention ─│─ o ─│─ norm ─ gate up act ─│─ down ─│─▶ x

with the barriers as bars. Work is split so that each number is computed by one thread, whole:
matrix products by blocks of 16 outputs, everything else by rows or heads. So the number of threads
changes who computes, never what.
"""

from __future__ import annotations

from boli.cpu import plan as p
from boli.cpu.kernels import (
    F4,
    PAGE_SIZE,
    VECTOR,
    activate,
    attend,
    copy,
    head_norm,
    kernel,
    layer_norm,
    quantize,
    rms_norm,
    rotate,
    write_key,
    write_value,
)
from boli.cpu.simd import (
    add,
    atomic_add,
    atomic_exchange,
    atomic_load,
    atomic_store,
    bits_to_f32,
    broadcast,
    function_call,
    load,
    load_i32,
    load_i64,
    mul,
    pause,
    sched_yield,
    store,
    store_i64,
)

call_project = function_call(13)
call_look_up = function_call(6)

# Up to this many rows, each thread prepares all of them for itself and a barrier is saved.
REDUNDANT_ROWS = 4
SPINS_BEFORE_YIELD = 2000
SPINS_BEFORE_PARKING = 20000


@kernel
def barrier(control, thread, threads):
    """Waits for the whole team: a counter that only grows, so nothing has to be reset."""
    if threads == 1:
        return
    mine = control + p.THREAD_STATE + thread * p.CACHE_LINE + p.PASSED
    target = (load_i64(mine) + 1) * threads
    store_i64(mine, load_i64(mine) + 1)
    atomic_add(control + p.BARRIER, 1)
    spins = 0
    while atomic_load(control + p.BARRIER) < target:
        spins += 1
        if spins > SPINS_BEFORE_YIELD:
            sched_yield()
        else:
            pause()


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
    if rows <= REDUNDANT_ROWS:
        return load_i64(plan + p.PRIVATE) + thread * load_i64(plan + p.PRIVATE_STRIDE)
    return load_i64(plan + p.NORMED)


@kernel
def input_quants(plan, thread, rows):
    """Where quantized rows go, likewise."""
    if rows <= REDUNDANT_ROWS:
        own = load_i64(plan + p.PRIVATE) + thread * load_i64(plan + p.PRIVATE_STRIDE)
        return own + REDUNDANT_ROWS * load_i64(plan + p.NORMED_STRIDE)
    return load_i64(plan + p.QUANTS)


@kernel
def share(rows, thread, threads):
    """The rows that this thread prepares."""
    if rows <= REDUNDANT_ROWS:
        return 0, rows
    return rows * thread // threads, rows * (thread + 1) // threads


@kernel
def meet_if_shared(plan, thread, rows):
    """A barrier, unless each thread prepared its own copy."""
    if rows > REDUNDANT_ROWS:
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
            quantize(floats + row * float_stride, columns, quants + row * quant_stride)
    meet_if_shared(plan, thread, rows)


@kernel
def prepare_quants(plan, thread, source, stride, rows, quantized):
    """Int8 of all rows of a buffer, if a matrix wants it."""
    if quantized == 0:
        return
    quants, quant_stride = input_quants(plan, thread, rows), load_i64(plan + p.QUANTS_STRIDE)
    first, end = share(rows, thread, load_i64(plan + p.THREADS))
    for row in range(first, end):
        quantize(source + row * stride, stride // F4, quants + row * quant_stride)
    meet_if_shared(plan, thread, rows)


@kernel
def project(plan, thread, matrix, floats, float_stride, y, y_stride, rows, accumulate):
    """Computes y (+)= W a + bias for this thread's outputs, and returns their range."""
    threads = load_i64(plan + p.THREADS)
    blocks = load_i64(matrix + p.BLOCKS)
    # Ranges are even where they can be, so that most tiles are two blocks wide.
    pairs = (blocks + 1) // 2
    first = min(pairs * thread // threads * 2, blocks)
    end = min(pairs * (thread + 1) // threads * 2, blocks)
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
            for at in range(first * VECTOR, end * VECTOR, VECTOR):
                place = y + row * y_stride + at
                store(place, add(load(place), load(bias + at)))
    return first * 16, end * 16


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


@kernel
def decoder_layer(plan, layer, index, thread):
    """One decoder block on all rows."""
    control, threads, rows = load_i64(plan + p.CONTROL), load_i64(plan + p.THREADS), load_i64(plan + p.ROWS)
    x, x_stride = load_i64(plan + p.X), load_i64(plan + p.X_STRIDE)
    floats, float_stride = input_floats(plan, thread, rows), load_i64(plan + p.NORMED_STRIDE)
    qkv, qkv_stride = load_i64(plan + p.QKV), load_i64(plan + p.QKV_STRIDE)
    heads_out, heads_stride = load_i64(plan + p.ATTENTION), load_i64(plan + p.ATTENTION_STRIDE)
    mlp, mlp_stride = load_i64(plan + p.MLP), load_i64(plan + p.MLP_STRIDE)
    # A branch is added to the residual stream at once, or goes through its own norm first.
    result, accumulate = x, 1
    if load_i64(plan + p.POST_NORMS) != 0:
        result, accumulate = load_i64(plan + p.BRANCH), 0

    prepare_norm(
        plan, thread, x, load_i64(layer + p.ATTENTION_NORM), load_i64(layer + p.ATTENTION_NORM_BIAS),
        rows, load_i64(layer + p.QKV_INT),
    )  # fmt: skip
    k_out, v_out = qkv + load_i64(plan + p.K_OFFSET), qkv + load_i64(plan + p.V_OFFSET)
    project(plan, thread, load_i64(layer + p.Q), floats, float_stride, qkv, qkv_stride, rows, 0)
    project(plan, thread, load_i64(layer + p.K), floats, float_stride, k_out, qkv_stride, rows, 0)
    project(plan, thread, load_i64(layer + p.V), floats, float_stride, v_out, qkv_stride, rows, 0)
    barrier(control, thread, threads)
    turn_and_cache(plan, layer, index, thread)
    barrier(control, thread, threads)
    attention(plan, layer, index, thread)
    barrier(control, thread, threads)
    prepare_quants(plan, thread, heads_out, heads_stride, rows, load_i64(layer + p.O_INT))
    project(
        plan,
        thread,
        load_i64(layer + p.ATTENTION_OUT),
        heads_out,
        heads_stride,
        result,
        x_stride,
        rows,
        accumulate,
    )
    close_branch(plan, thread, load_i64(layer + p.POST_ATTENTION_NORM))

    prepare_norm(
        plan, thread, x, load_i64(layer + p.MLP_NORM), load_i64(layer + p.MLP_NORM_BIAS),
        rows, load_i64(layer + p.MLP_INT),
    )  # fmt: skip
    gated, up = load_i64(plan + p.GATED), load_i64(plan + p.UP)
    if gated != 0:
        project(plan, thread, load_i64(layer + p.GATE), floats, float_stride, mlp, mlp_stride, rows, 0)
        first, end = project(
            plan, thread, load_i64(layer + p.UP_MATRIX), floats, float_stride, up, mlp_stride, rows, 0
        )
    else:
        first, end = project(
            plan, thread, load_i64(layer + p.UP_MATRIX), floats, float_stride, mlp, mlp_stride, rows, 0
        )
    for row in range(rows):
        at = row * mlp_stride
        activate(load_i64(plan + p.ACTIVATION), mlp + at, up + at, gated, first, end)
    barrier(control, thread, threads)
    prepare_quants(plan, thread, mlp, mlp_stride, rows, load_i64(layer + p.DOWN_INT))
    project(plan, thread, load_i64(layer + p.DOWN), mlp, mlp_stride, result, x_stride, rows, accumulate)
    close_branch(plan, thread, load_i64(layer + p.POST_MLP_NORM))


@kernel
def head(plan, thread):
    """Final norm and logits of the rows that are asked for."""
    outputs = load_i64(plan + p.OUTPUTS)
    x, x_stride = load_i64(plan + p.X), load_i64(plan + p.X_STRIDE)
    control, threads = load_i64(plan + p.CONTROL), load_i64(plan + p.THREADS)
    gathered = load_i64(plan + p.BRANCH)
    for n in range(outputs * thread // threads, outputs * (thread + 1) // threads):
        row = load_i32(load_i64(plan + p.OUTPUT_ROWS) + n * 4)
        copy(x + row * x_stride, x_stride // F4, gathered + n * x_stride)
    barrier(control, thread, threads)
    prepare_norm(
        plan, thread, gathered, load_i64(plan + p.FINAL_NORM), load_i64(plan + p.FINAL_NORM_BIAS),
        outputs, load_i64(plan + p.HEAD_INT),
    )  # fmt: skip
    project(
        plan, thread, load_i64(plan + p.HEAD), input_floats(plan, thread, outputs),
        load_i64(plan + p.NORMED_STRIDE), load_i64(plan + p.LOGITS), load_i64(plan + p.LOGITS_STRIDE),
        outputs, 0,
    )  # fmt: skip
    barrier(control, thread, threads)


@kernel
def forward(plan, thread):
    """One thread's share of one step. Returns when the whole team has finished."""
    control, threads = load_i64(plan + p.CONTROL), load_i64(plan + p.THREADS)
    embed(plan, thread)
    barrier(control, thread, threads)
    layers, stride = load_i64(plan + p.LAYER_TABLE), load_i64(plan + p.LAYER_STRIDE)
    for index in range(load_i64(plan + p.LAYERS)):
        decoder_layer(plan, layers + index * stride, index, thread)
    if load_i64(plan + p.OUTPUTS) > 0:
        head(plan, thread)


# --- the team -----------------------------------------------------------------------------------


@kernel
def wake(control, threads):
    """Marks all threads as running; returns a bit for each one that sleeps and must be woken."""
    asleep = 0
    for thread in range(1, threads):
        state = control + p.THREAD_STATE + thread * p.CACHE_LINE + p.STATE
        if atomic_exchange(state, p.RUNNING) == p.PARKED:
            asleep |= 1 << thread
    return asleep


@kernel
def work(control, plan, thread):
    """Does this thread's share of step after step. Returns 1 to sleep until woken, 0 to end."""
    mine = control + p.THREAD_STATE + thread * p.CACHE_LINE
    spins = 0
    while atomic_load(control + p.STOP) == 0:
        if atomic_load(control + p.GO) > load_i64(mine + p.SEEN):
            store_i64(mine + p.SEEN, load_i64(mine + p.SEEN) + 1)
            forward(plan, thread)
            spins = 0
            continue
        spins += 1
        if spins < SPINS_BEFORE_YIELD:
            pause()
        elif spins < SPINS_BEFORE_PARKING:
            sched_yield()
        else:
            # Sleep, unless something was announced meanwhile. Whoever saw us parked has promised a
            # wake-up, which must be consumed; so return in that case too.
            atomic_exchange(mine + p.STATE, p.PARKED)
            quiet = atomic_load(control + p.GO) == load_i64(mine + p.SEEN)
            if quiet and atomic_load(control + p.STOP) == 0:
                return 1
            if atomic_exchange(mine + p.STATE, p.RUNNING) == p.RUNNING:
                return 1
            spins = 0
    return 0


def entry(what, control, plan, thread):
    """The only compiled function that Python calls; `what` is one of the four below."""
    if what == p.FORWARD:
        forward(plan, thread)
        return 0
    if what == p.WORK:
        return work(control, plan, thread)
    if what == p.ANNOUNCE:
        atomic_add(control + p.GO, 1)
    else:
        atomic_store(control + p.STOP, 1)
    return wake(control, load_i64(plan + p.THREADS))
