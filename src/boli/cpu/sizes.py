"""Sizes that the kernels and the runner must agree on. Light: no Numba.

A tile is some rows of activations, or some queries of attention, that are multiplied together.
"""

from __future__ import annotations

from boli.cpu.layouts import GROUP, padded

F4 = 4
VECTOR = 64
LARGEST_TILE = 6  # 5 rows are a tile of 4 and one of 1
SOME_ROWS = 16  # up to so many rows memory, not arithmetic, is what products wait for
MANY_ROWS = 48  # from so many on, a block of weights is unpacked once, not by each tile
PART_ROWS = 168  # more are multiplied in parts, whose activations a core's second-level cache can hold

# The int8 stream of activations: for each group of 32 numbers, a record of 12 words for each row. Eight
# hold the quants; then come, counted in words, the scale, -Σ a, scale · Σ a, and -Σ a of both halves of the
# group, 16 bits each.
SCALE, MINUS_SUM, SCALED_SUM, MINUS_HALF_SUMS = 8, 9, 10, 11
RECORD = 12 * F4


def stream_bytes(encoding: str, columns: int) -> int:
    """Bytes of a row of activations; `columns` is a multiple of 32."""
    # Numbers in bfloat16 lie as float32 where no instruction multiplies pairs; there is always room for that.
    words = {"int8": columns // GROUP * RECORD // F4, "float32": columns, "bfloat16": columns}
    return words[encoding] * F4


def streams_bytes(encoding: str, rows: int, columns: int) -> int:
    """Bytes of a buffer for so many rows, with what a tile of one row reads behind its own (`amx.py`)."""
    behind = (LARGEST_TILE - 1) * VECTOR if encoding == "bfloat16" else 0
    return padded(rows * stream_bytes(encoding, columns) + behind, VECTOR)


# Attention: positions in a page of the KV cache, and pages whose results are put together first.
PAGE_SIZE = 32
CHUNK_PAGES = 8
CHUNK = CHUNK_PAGES * PAGE_SIZE
HEAD_PADDING = 32  # heads are padded to a multiple of what a tile computes
LARGEST_HEAD = 512
QUERY_STRIDE = LARGEST_HEAD * F4  # bytes from one query of a tile to the next

# What keys and values are kept as; the position in this list is what the compiled step knows it by.
KV_TYPES = ("bf16", "int8", "f32")
KV_BYTES = {"bf16": 2, "int8": 1, "f32": 4}


def pages_together(num_pages: int) -> int:
    """How many pages of one head lie together: 16 or a few more, if such a number divides `num_pages`.

    One page would be too short for a processor to fetch ahead; all pages would spread the first few tokens
    over as many large pages of memory as there are heads.
    """
    divisors = [count for count in range(1, min(num_pages, 10 * 16) + 1) if num_pages % count == 0]
    return next((count for count in divisors if count >= 16), divisors[-1])


def page_bytes(kv_type: str, head_padded: int) -> int:
    """Bytes of a page of one key/value head: keys, values, and for int8 a scale for each of them."""
    scales = 2 * PAGE_SIZE * F4 if kv_type == "int8" else 0
    return 2 * PAGE_SIZE * head_padded * KV_BYTES[kv_type] + scales


# Scratch memory of a tile of queries, bytes: scores, probabilities, factors and positions; sums of
# exponentials by lane, and what a page adds to them; queries; results of a chunk and of all chunks.
SCORES = 0
PROBABILITIES = SCORES + LARGEST_TILE * PAGE_SIZE * F4
SHRINK = PROBABILITIES + LARGEST_TILE * PAGE_SIZE * F4
POSITIONS = SHRINK + VECTOR
CHUNK_SUMS = POSITIONS + VECTOR
ADDED = CHUNK_SUMS + LARGEST_TILE * VECTOR
QUERIES = ADDED + LARGEST_TILE * VECTOR
RESULTS = QUERIES + LARGEST_TILE * QUERY_STRIDE


def result_bytes(head_padded: int) -> int:
    """Bytes of one query's result: a vector with the largest score and the sum, then `[head_dim]` sums."""
    return VECTOR + head_padded * F4


def scratch_bytes(head_padded: int) -> int:
    """Bytes that attention needs for one thread."""
    return RESULTS + LARGEST_TILE * 2 * result_bytes(head_padded)
