"""The tables through which Python tells the compiled step what to do.

A plan is three int64 arrays: one header, one row for each layer, one row for each matrix. Every
entry is a number or an address; the constants below are byte offsets into them. Compiled code
reads them with `load_i64(table + NAME)`, Python writes `table[NAME // 8]`.
"""

from __future__ import annotations

WORD = 8

# The header: what stays the same for a model …
(
    THREADS, CONTROL, LAYERS, LAYER_TABLE, LAYER_STRIDE,
    HIDDEN, HEADS, KV_HEADS, HEAD_DIM, HEAD_PADDED, ATTENTION_SCALE,
    MAX_PAGES, PAGE_STRIDE, HEAD_STRIDE, LAYER_KV_STRIDE, KV_CACHE, KV_TYPE, ATTEND,
    LAYER_NORM, NORM_EPS, ACTIVATION, GATED, QK_NORM, POST_NORMS,
    EMBEDDING, EMBEDDING_SCALE, POSITION_EMBEDDING,
    FINAL_NORM, FINAL_NORM_BIAS, HEAD, HEAD_WANTS, VOCABULARY,
    K_OFFSET, V_OFFSET,
    X, X_STRIDE, QKV, QKV_STRIDE, ATTENTION, ATTENTION_STRIDE, MLP, UP, MLP_STRIDE, BRANCH,
    PARTIALS, MAX_CHUNKS, RESULT_STRIDE,
    INPUT, INNER, PRIVATE, SCRATCH, SCRATCH_STRIDE, PANELS, PANEL_BYTES, MLP_SHARE,
    # … and what changes with each step.
    ROWS, TOKEN_IDS, POSITIONS, SEQUENCES, PAGE_TABLES,
    OUTPUTS, OUTPUT_ROWS, LOGITS, LOGITS_STRIDE, LARGEST,
    # Where a step that is watched writes what it sees, and the time.
    WATCHED, STAMPS,
) = range(0, 67 * WORD, WORD)  # fmt: skip
HEADER_WORDS = 67

# One layer.
(
    ATTENTION_NORM, ATTENTION_NORM_BIAS, Q, K, V, ATTENTION_OUT, Q_NORM, K_NORM, POST_ATTENTION_NORM,
    MLP_NORM, MLP_NORM_BIAS, GATE, UP_MATRIX, DOWN, POST_MLP_NORM,
    WINDOW, ROPE_TABLE, ROPE_HALF, QKV_WANTS, OUT_WANTS, MLP_WANTS, DOWN_WANTS,
) = range(0, 22 * WORD, WORD)  # fmt: skip
LAYER_WORDS = 22

# One matrix.
PROJECT, LOOK_UP, DATA, BLOCKS, BLOCK_STRIDE, DEPTH, ENCODING, BIAS = range(0, 8 * WORD, WORD)
MATRIX_WORDS = 8

# What can be seen of a step, each a row of the table WATCHED; its address is 0 if nobody looks.
SEEN, SEEN_COLUMNS, SEEN_ROW_STRIDE, SEEN_LAYER_STRIDE = range(0, 4 * WORD, WORD)
SEEN_WORDS = 4
(
    AT_EMBEDDING, AT_ATTENTION_NORM, AT_Q, AT_K, AT_V, AT_Q_ROTATED, AT_K_ROTATED, AT_HEADS,
    AT_ATTENTION_BRANCH, AT_AFTER_ATTENTION, AT_MLP_NORM, AT_GATE, AT_UP, AT_INNER, AT_MLP_BRANCH,
    AT_RESIDUAL, AT_FINAL_NORM,
) = range(0, 17 * SEEN_WORDS * WORD, SEEN_WORDS * WORD)  # fmt: skip

# Its clock, in nanoseconds: how many stamps there are, what watching took, room to read the clock into,
# and the stamps.
STAMP_COUNT, LOST, CLOCK, FIRST_STAMP = 0, WORD, 2 * WORD, 4 * WORD

# Encodings of activations: their place in a table of three streams, and as a bit in what a stage wants.
ENCODINGS = {"int8": 0, "float32": 1, "bfloat16": 2}

# Threads: the control block, in bytes. Each on a cache line of its own; a mutex and a condition
# variable take at most one line on the systems that boli knows.
BARRIER, GO, STOP, BUSY, MUTEX, CONDITION, PASSED = range(0, 7 * 64, 64)
CACHE_LINE = 64
# From PASSED on, a line for each thread: how many barriers it has passed, and what is left of its part of a
# stage.

# Values of ACTIVATION.
SILU, GELU_TANH, GELU_ERF = 0, 1, 2

# Up to this many rows, each thread prepares all of them for itself and a barrier is saved; they make
# one tile; and their attention is shared out in chunks of the cache.
FEW_ROWS = 4

# What the compiled entry is asked to do.
STEP, WORK, PREPARE, END = range(4)
