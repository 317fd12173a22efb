"""The stages of a step: what each thread of the team does between two barriers.

Work is split so that each number is computed by one thread, whole: matrix products by blocks of 32
outputs, everything else by rows or heads. So the number of threads changes who computes, never what.
"""

from __future__ import annotations

from boli.cpu import plan as p
from boli.cpu.activations import encode
from boli.cpu.kernels import activate, layer_norm, rms_norm
from boli.cpu.lanes import add, broadcast, mul
from boli.cpu.layouts import GROUP, ROWS_PER_BLOCK
from boli.cpu.probe import lose, now, probe, probe_rows, wanted, watching
from boli.cpu.simd import bits_to_f32, function_call, kernel, load, load_i32, load_i64, store
from boli.cpu.sizes import F4, LARGEST_TILE, MANY_ROWS, PART_ROWS, SOME_ROWS, VECTOR
from boli.cpu.sync import barrier, first_share, next_share

call_project = function_call(12)
call_look_up = function_call(7)

BLOCK = ROWS_PER_BLOCK * F4


@kernel
def scratch_of(plan, thread):
    """A thread's own working memory: one row, or what attention needs."""
    return load_i64(plan + p.SCRATCH) + thread * load_i64(plan + p.SCRATCH_STRIDE)


@kernel
def panel_of(plan, thread):
    """A thread's place for one block of weights, unpacked."""
    return load_i64(plan + p.PANELS) + thread * load_i64(plan + p.PANEL_BYTES)


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
def share(rows, thread, threads):
    """The rows that this thread prepares: its part, or all if there are few."""
    if rows <= p.FEW_ROWS:
        return 0, rows
    return rows * thread // threads, rows * (thread + 1) // threads


@kernel
def streams(plan, thread, rows):
    """Where prepared rows go: each thread's own place if there are few, else a common one."""
    if rows <= p.FEW_ROWS:
        return load_i64(plan + p.PRIVATE) + thread * 3 * p.WORD
    return load_i64(plan + p.INPUT)


@kernel
def meet_if_shared(plan, thread, rows):
    """A barrier, unless each thread prepared its own copy."""
    if rows > p.FEW_ROWS:
        barrier(load_i64(plan + p.CONTROL), thread, load_i64(plan + p.THREADS))


@kernel
def prepare_norm(plan, layer, thread, what, source, weight, bias, rows, wants):
    """Norm of all rows of the residual stream, encoded for the matrices that follow."""
    stride, scratch = load_i64(plan + p.X_STRIDE), scratch_of(plan, thread)
    table = streams(plan, thread, rows)
    columns = stride // F4
    first, end = share(rows, thread, load_i64(plan + p.THREADS))
    for row in range(first, end):
        norm(plan, source + row * stride, weight, bias, scratch)
        probe(plan, layer, what, row, scratch, 0, columns)
        encode(table, wants, row, rows, scratch, columns, 0, columns // GROUP)
    meet_if_shared(plan, thread, rows)


@kernel
def parts_of(rows, threads):
    """Into how many parts products cut the rows of a step.

    Pieces of work are the blocks of outputs for the first part of many rows, then for the second, and so on:
    what a thread reads for every block, and writes for what comes next, may stay in its own cache.
    """
    parts = max(threads, rows // PART_ROWS)
    return parts if rows >= parts * MANY_ROWS else 1


@kernel
def first_row(part, parts, rows):
    """Where a part begins: with a tile. No part is longer than the first."""
    tiles = (rows + LARGEST_TILE - 1) // LARGEST_TILE
    return min((tiles * part + parts - 1) // parts * LARGEST_TILE, rows)


@kernel
def run_of(first, end, blocks, parts, rows):
    """What pieces `first … end - 1` begin with in one part: its first and end row, first and end block."""
    if parts == 1:
        return 0, rows, first, end
    part, block = first // blocks, first % blocks
    stop = min(block + end - first, blocks)
    return first_row(part, parts, rows), first_row(part + 1, parts, rows), block, stop


@kernel
def project_blocks(plan, thread, matrix, table, y, y_stride, row, end_row, first, end, accumulate):
    """Computes y (+)= W a + bias for some rows and blocks of outputs; y is where the first of all is."""
    call_project(
        load_i64(matrix + p.PROJECT), load_i64(matrix + p.DATA), load_i64(matrix + p.BLOCK_STRIDE),
        load_i64(matrix + p.DEPTH), load_i64(table + load_i64(matrix + p.ENCODING)), y, y_stride, row,
        end_row, first, end, accumulate, panel_of(plan, thread),
    )  # fmt: skip
    bias = load_i64(matrix + p.BIAS)
    if bias != 0:
        for m in range(row, end_row):
            for at in range(first * BLOCK, end * BLOCK, VECTOR):
                place = y + m * y_stride + at
                store(place, add(load(place), load(bias + at)))


@kernel
def project(plan, thread, matrix, table, y, y_stride, rows, accumulate):
    """Computes y (+)= W a + bias, shared out by parts of rows and blocks of outputs."""
    control, threads = load_i64(plan + p.CONTROL), load_i64(plan + p.THREADS)
    blocks, parts = load_i64(matrix + p.BLOCKS), parts_of(rows, threads)
    first, end = first_share(control, thread, threads, blocks * parts)
    while first < end:
        row, end_row, low, high = run_of(first, end, blocks, parts, rows)
        project_blocks(plan, thread, matrix, table, y, y_stride, row, end_row, low, high, accumulate)
        first += high - low
        if first == end:
            first, end = next_share(control, thread, threads, blocks * parts)


@kernel
def project_qkv(plan, layer, thread, table):
    """Queries, keys and values of all rows, shared out as if they were one matrix."""
    control, threads, rows = load_i64(plan + p.CONTROL), load_i64(plan + p.THREADS), load_i64(plan + p.ROWS)
    y, stride = load_i64(plan + p.QKV), load_i64(plan + p.QKV_STRIDE)
    q, k, v = load_i64(layer + p.Q), load_i64(layer + p.K), load_i64(layer + p.V)
    k_start = load_i64(q + p.BLOCKS)
    v_start = k_start + load_i64(k + p.BLOCKS)
    blocks, parts = v_start + load_i64(v + p.BLOCKS), parts_of(rows, threads)
    k_place, v_place = y + load_i64(plan + p.K_OFFSET), y + load_i64(plan + p.V_OFFSET)
    first, end = first_share(control, thread, threads, blocks * parts)
    while first < end:
        row, end_row, low, high = run_of(first, end, blocks, parts, rows)
        start, stop = low, min(high, k_start)
        if start < stop:
            project_blocks(plan, thread, q, table, y, stride, row, end_row, start, stop, 0)
        start, stop = max(low, k_start) - k_start, min(high, v_start) - k_start
        if start < stop:
            project_blocks(plan, thread, k, table, k_place, stride, row, end_row, start, stop, 0)
        start, stop = max(low, v_start) - v_start, high - v_start
        if start < stop:
            project_blocks(plan, thread, v, table, v_place, stride, row, end_row, start, stop, 0)
        first += high - low
        if first == end:
            first, end = next_share(control, thread, threads, blocks * parts)


@kernel
def embed(plan, thread):
    """X ← row of the embedding matrix · scale (+ row of the position embedding)."""
    rows, threads = load_i64(plan + p.ROWS), load_i64(plan + p.THREADS)
    matrix, positions = load_i64(plan + p.EMBEDDING), load_i64(plan + p.POSITION_EMBEDDING)
    size, x, stride = load_i64(plan + p.HIDDEN), load_i64(plan + p.X), load_i64(plan + p.X_STRIDE)
    scale = bits_to_f32(load_i64(plan + p.EMBEDDING_SCALE))
    scratch = scratch_of(plan, thread)
    for row in range(rows * thread // threads, rows * (thread + 1) // threads):
        place = x + row * stride
        look_up(plan, thread, matrix, load_i32(load_i64(plan + p.TOKEN_IDS) + row * 4), size, place)
        for at in range(0, size * F4, VECTOR):
            store(place + at, mul(load(place + at), broadcast(scale)))
        if positions != 0:
            position = load_i32(load_i64(plan + p.POSITIONS) + row * 4)
            look_up(plan, thread, positions, position, size, scratch)
            for at in range(0, size * F4, VECTOR):
                store(place + at, add(load(place + at), load(scratch + at)))


@kernel
def look_up(plan, thread, matrix, row, size, destination):
    """One row of a packed matrix as floats."""
    panel = panel_of(plan, thread)
    call_look_up(
        load_i64(matrix + p.LOOK_UP), load_i64(matrix + p.DATA), load_i64(matrix + p.BLOCK_STRIDE),
        load_i64(matrix + p.DEPTH), row, size, destination, panel,
    )  # fmt: skip


@kernel
def alternate(one, other):
    """Whether the blocks of two matrices lie in turns: to take one of each after the other is to read on."""
    return 0 < load_i64(other + p.DATA) - load_i64(one + p.DATA) < load_i64(one + p.BLOCK_STRIDE)


@kernel
def gated_mlp(plan, layer, thread, table):
    """This thread's part of act(W_gate a) · (W_up a), or of act(W_up a), encoded for W_down.

    A block of 32 outputs is a group of what comes next. With many rows as many blocks are computed
    together as stay in the cache until they are encoded: one, if it had the most rows that a step has.
    """
    rows = load_i64(plan + p.ROWS)
    stride, inner = load_i64(plan + p.MLP_STRIDE), load_i64(plan + p.INNER)
    mlp, up = load_i64(plan + p.MLP), load_i64(plan + p.UP)
    gate_matrix, up_matrix = load_i64(layer + p.GATE), load_i64(layer + p.UP_MATRIX)
    gated, wants = load_i64(plan + p.GATED), load_i64(layer + p.DOWN_WANTS)
    columns = stride // F4
    control, threads = load_i64(plan + p.CONTROL), load_i64(plan + p.THREADS)
    blocks, parts = load_i64(up_matrix + p.BLOCKS), parts_of(rows, threads)
    most = blocks
    if rows > p.FEW_ROWS:
        most = load_i64(plan + p.MLP_SHARE) // (first_row(1, parts, rows) * BLOCK)
        stride = most * BLOCK
        mlp += thread * load_i64(plan + p.MLP_SHARE)
        up += thread * load_i64(plan + p.MLP_SHARE)
    if rows <= SOME_ROWS and gated != 0 and alternate(gate_matrix, up_matrix):
        most = 1
    first, end = first_share(control, thread, threads, blocks * parts)
    while first < end:
        row, end_row, block, stop = run_of(first, min(first + most, end), blocks, parts, rows)
        # Where row 0 and the first of all blocks would be.
        skip = 0 if rows <= p.FEW_ROWS else row * stride + block * BLOCK
        if gated != 0:
            project_blocks(plan, thread, gate_matrix, table, mlp - skip, stride, row, end_row, block, stop, 0)
            project_blocks(plan, thread, up_matrix, table, up - skip, stride, row, end_row, block, stop, 0)
        else:
            project_blocks(plan, thread, up_matrix, table, mlp - skip, stride, row, end_row, block, stop, 0)
        low, high = block * ROWS_PER_BLOCK, stop * ROWS_PER_BLOCK
        for m in range(row, end_row):
            at = m * stride - skip
            probe(plan, layer, p.AT_GATE, m, mlp + at, low, high)
            probe(plan, layer, p.AT_UP, m, (up if gated != 0 else mlp) + at, low, high)
            activate(load_i64(plan + p.ACTIVATION), mlp + at, up + at, gated, low, high)
            probe(plan, layer, p.AT_INNER, m, mlp + at, low, high)
            encode(inner, wants, m, rows, mlp + at, columns, block, stop)
        first += stop - block
        if first == end:
            first, end = next_share(control, thread, threads, blocks * parts)


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


@watching
def probe_branch(plan, layer, thread, what, matrix, table):
    """Copies what a matrix and perhaps a sandwich norm have just added to the residual stream.

    Without such a norm the sum was kept nowhere: it is computed again, by itself.
    """
    branch, stride = load_i64(plan + p.BRANCH), load_i64(plan + p.X_STRIDE)
    if wanted(plan, what) and load_i64(plan + p.POST_NORMS) == 0:
        start = now(plan) if thread == 0 else 0
        project(plan, thread, matrix, table, branch, stride, load_i64(plan + p.ROWS), 0)
        barrier(load_i64(plan + p.CONTROL), thread, load_i64(plan + p.THREADS))
        if thread == 0:
            lose(plan, start)
    probe_rows(plan, layer, thread, what, branch, stride)


@watching
def probe_qkv(plan, layer, thread, what, offset):
    """Copies queries, keys or values, before or after their rotation in place."""
    probe_rows(plan, layer, thread, what, load_i64(plan + p.QKV) + offset, load_i64(plan + p.QKV_STRIDE))
