"""The stages of a step that work on heads: RoPE and the KV cache, attention, and its output.

Few rows share out attention by chunks of the cache, so that one long sequence keeps all threads
busy; many rows by blocks of twelve rows of one sequence. Both add the same numbers in the same order.
"""

from __future__ import annotations

from boli.cpu import attention as a
from boli.cpu import plan as p
from boli.cpu.activations import encode
from boli.cpu.kernels import head_norm, rotate
from boli.cpu.kv import place_query, write_key, write_value
from boli.cpu.layouts import GROUP
from boli.cpu.probe import probe
from boli.cpu.simd import bits_to_f32, function_call, kernel, load_i32, load_i64
from boli.cpu.sizes import CHUNK, CHUNK_PAGES, F4, LARGEST_TILE, PAGE_SIZE, RESULTS
from boli.cpu.stages import meet_if_shared, scratch_of, share, streams
from boli.cpu.sync import first_share, next_share

call_attend = function_call(11)

ROWS_AT_ONCE = 12  # a multiple of the largest tile, whatever the number of heads


@kernel
def page_of(plan, index, head):
    """The part of the KV cache that one key/value head of layer `index` uses; page 0."""
    start = load_i64(plan + p.KV_CACHE) + index * load_i64(plan + p.LAYER_KV_STRIDE)
    return start + head * load_i64(plan + p.HEAD_STRIDE)


@kernel
def sequence_of(plan, row):
    """Which sequence of the step a row belongs to."""
    return load_i32(load_i64(plan + p.SEQUENCES) + row * 4)


@kernel
def pages_of(plan, row):
    """The page table of a row's sequence."""
    return load_i64(plan + p.PAGE_TABLES) + sequence_of(plan, row) * load_i64(plan + p.MAX_PAGES) * 4


@kernel
def position_of(plan, row):
    """A row's position in its sequence."""
    return load_i32(load_i64(plan + p.POSITIONS) + row * 4)


@kernel
def turn_and_cache(plan, layer, index, thread):
    """QK-norm and RoPE of queries and keys, and keys and values into the cache: one head at a time."""
    rows, threads = load_i64(plan + p.ROWS), load_i64(plan + p.THREADS)
    heads, kv_heads = load_i64(plan + p.HEADS), load_i64(plan + p.KV_HEADS)
    size, padded = load_i64(plan + p.HEAD_DIM), load_i64(plan + p.HEAD_PADDED)
    qkv, stride = load_i64(plan + p.QKV), load_i64(plan + p.QKV_STRIDE)
    eps = bits_to_f32(load_i64(plan + p.NORM_EPS))
    half, table = load_i64(layer + p.ROPE_HALF), load_i64(layer + p.ROPE_TABLE)
    kind = load_i64(plan + p.KV_TYPE)
    tasks = heads + kv_heads
    for task in range(rows * tasks * thread // threads, rows * tasks * (thread + 1) // threads):
        row, head = task // tasks, task % tasks
        position = position_of(plan, row)
        start = qkv + row * stride
        is_key = head >= heads
        vector = start + head * size * F4
        if is_key:
            head -= heads
            vector = start + load_i64(plan + p.K_OFFSET) + head * size * F4
        if load_i64(plan + p.QK_NORM) != 0:
            weight = load_i64(layer + p.K_NORM) if is_key else load_i64(layer + p.Q_NORM)
            head_norm(vector, weight, size, eps, scratch_of(plan, thread))
        if half != 0:
            rotate(vector, half, table + position * half * 2 * F4)
        if is_key:
            number = load_i32(pages_of(plan, row) + position // PAGE_SIZE * 4)
            page = page_of(plan, index, head) + number * load_i64(plan + p.PAGE_STRIDE)
            write_key(kind, vector, size, padded, page, position % PAGE_SIZE)
            value = start + load_i64(plan + p.V_OFFSET) + head * size * F4
            write_value(kind, value, size, padded, page, position % PAGE_SIZE)


@kernel
def first_visible(layer, position):
    """The first position that a query sees."""
    window = load_i64(layer + p.WINDOW)
    return max(position - window + 1, 0) if window > 0 else 0


@kernel
def place_queries(plan, scratch, row, kv_head, first, count):
    """Puts queries `first … first + count - 1` of a key/value head into a tile, counted from `row` on."""
    group = load_i64(plan + p.HEADS) // load_i64(plan + p.KV_HEADS)
    size, padded = load_i64(plan + p.HEAD_DIM), load_i64(plan + p.HEAD_PADDED)
    scale, kind = bits_to_f32(load_i64(plan + p.ATTENTION_SCALE)), load_i64(plan + p.KV_TYPE)
    for m in range(count):
        at = row + (first + m) // group
        head = kv_head * group + (first + m) % group
        vector = load_i64(plan + p.QKV) + at * load_i64(plan + p.QKV_STRIDE) + head * size * F4
        place_query(kind, scratch, m, vector, size, padded, scale, position_of(plan, at))


@kernel
def attention(plan, layer, index, thread):
    """Every query head of every row over its own sequence."""
    rows, threads, kv_heads = load_i64(plan + p.ROWS), load_i64(plan + p.THREADS), load_i64(plan + p.KV_HEADS)
    control = load_i64(plan + p.CONTROL)
    count, row = 0, 0
    while row < rows:
        _, parts, row = task_of(plan, layer, row, rows)
        count += parts * kv_heads
    first, end = first_share(control, thread, threads, count)
    task, row = 0, 0
    while first < end:
        if first < task:
            task, row = 0, 0
        start, parts, after = task_of(plan, layer, row, rows)
        if first >= task + parts * kv_heads:
            task += parts * kv_heads
            row = after
            continue
        for part in range(first - task, min(end - task, parts * kv_heads)):
            if rows <= p.FEW_ROWS:
                attend_chunk(plan, layer, index, thread, row, part // parts, start + part % parts)
            else:
                attend_rows(plan, layer, index, thread, row, after, part)
        first = min(end, task + parts * kv_heads)
        if first == end:
            first, end = next_share(control, thread, threads, count)


@kernel
def task_of(plan, layer, row, rows):
    """The tasks of a key/value head from a row on: the first chunk, how many chunks, and the row behind."""
    if rows <= p.FEW_ROWS:
        position = position_of(plan, row)
        start = first_visible(layer, position) // CHUNK
        return start, position // CHUNK + 1 - start, row + 1
    end = row + 1
    while end < min(rows, row + ROWS_AT_ONCE) and sequence_of(plan, end) == sequence_of(plan, row):
        end += 1
    return 0, 1, end


@kernel
def partial(plan, row, head, chunk):
    """Where the result of one head of one of few rows over one chunk is kept."""
    place = (row * load_i64(plan + p.HEADS) + head) * load_i64(plan + p.MAX_CHUNKS) + chunk
    return load_i64(plan + p.PARTIALS) + place * load_i64(plan + p.RESULT_STRIDE)


@kernel
def attend_chunk(plan, layer, index, thread, row, kv_head, chunk):
    """All heads that share a key/value head, of one row, over one chunk."""
    group = load_i64(plan + p.HEADS) // load_i64(plan + p.KV_HEADS)
    padded, scratch = load_i64(plan + p.HEAD_PADDED), scratch_of(plan, thread)
    position, window = position_of(plan, row), load_i64(layer + p.WINDOW)
    first = max(chunk * CHUNK_PAGES, first_visible(layer, position) // PAGE_SIZE)
    end = min((chunk + 1) * CHUNK_PAGES, position // PAGE_SIZE + 1)
    stride = load_i64(plan + p.RESULT_STRIDE) * load_i64(plan + p.MAX_CHUNKS)
    done = 0
    while done < group:
        count = a.tile_size(group - done)
        place_queries(plan, scratch, row, kv_head, done, count)
        call_attend(
                load_i64(plan + p.ATTEND),
            count, scratch, padded, pages_of(plan, row), page_of(plan, index, kv_head),
            load_i64(plan + p.PAGE_STRIDE), first, end, window,
            partial(plan, row, kv_head * group + done, chunk), stride,
        )  # fmt: skip
        done += count


@kernel
def attend_rows(plan, layer, index, thread, row, end_row, kv_head):
    """All heads that share a key/value head, of some rows of one sequence, over all they see."""
    group = load_i64(plan + p.HEADS) // load_i64(plan + p.KV_HEADS)
    size, padded, scratch = (
        load_i64(plan + p.HEAD_DIM),
        load_i64(plan + p.HEAD_PADDED),
        scratch_of(plan, thread),
    )
    stride, window = load_i64(plan + p.RESULT_STRIDE), load_i64(layer + p.WINDOW)
    chunk_results = scratch + RESULTS
    results = chunk_results + LARGEST_TILE * stride
    queries, done = (end_row - row) * group, 0
    while done < queries:
        count = a.tile_size(queries - done)
        place_queries(plan, scratch, row, kv_head, done, count)
        first = first_visible(layer, position_of(plan, row + done // group)) // PAGE_SIZE
        end = position_of(plan, row + (done + count - 1) // group) // PAGE_SIZE + 1
        first_chunk = first // CHUNK_PAGES
        for chunk in range(first_chunk, (end - 1) // CHUNK_PAGES + 1):
            place = results if chunk == first_chunk else chunk_results
            call_attend(
                load_i64(plan + p.ATTEND),
                count, scratch, padded, pages_of(plan, row), page_of(plan, index, kv_head),
                load_i64(plan + p.PAGE_STRIDE), max(first, chunk * CHUNK_PAGES),
                min(end, (chunk + 1) * CHUNK_PAGES), window, place, stride,
            )  # fmt: skip
            for m in range(count if chunk > first_chunk else 0):
                a.merge(results + m * stride, chunk_results + m * stride, padded)
        for m in range(count):
            at, head = row + (done + m) // group, kv_head * group + (done + m) % group
            place = load_i64(plan + p.ATTENTION) + at * load_i64(plan + p.ATTENTION_STRIDE)
            a.finish(results + m * stride, size, place + head * size * F4)
        done += count


@kernel
def prepare_output(plan, layer, thread):
    """Attention's result, encoded for W_o. Of few rows each thread first puts the chunks together."""
    rows, wanted = load_i64(plan + p.ROWS), load_i64(layer + p.OUT_WANTS)
    place, stride = load_i64(plan + p.ATTENTION), load_i64(plan + p.ATTENTION_STRIDE)
    columns = stride // F4
    table = streams(plan, thread, rows) if rows <= p.FEW_ROWS else load_i64(plan + p.INNER)
    first, end = share(rows, thread, load_i64(plan + p.THREADS))
    if rows <= p.FEW_ROWS:
        place += thread * p.FEW_ROWS * stride
    for row in range(first, end):
        if rows <= p.FEW_ROWS:
            gather(plan, layer, thread, row, place + row * stride)
        probe(plan, layer, p.AT_HEADS, row, place + row * stride, 0, columns)
        encode(table, wanted, row, rows, place + row * stride, columns, 0, columns // GROUP)
    meet_if_shared(plan, thread, rows)
    return table


@kernel
def gather(plan, layer, thread, row, destination):
    """One row's heads, out of their results over chunks."""
    size, padded, result = (
        load_i64(plan + p.HEAD_DIM),
        load_i64(plan + p.HEAD_PADDED),
        scratch_of(plan, thread),
    )
    position = position_of(plan, row)
    for head in range(load_i64(plan + p.HEADS)):
        a.clear(result, padded)
        for chunk in range(first_visible(layer, position) // CHUNK, position // CHUNK + 1):
            a.merge(result, partial(plan, row, head, chunk), padded)
        a.finish(result, size, destination + head * size * F4)
