"""The one compiled step: a batch of tokens through all layers to logits.

Every thread of the team runs `forward` over the same plan and does its share of each stage; between
stages they meet at a barrier. A layer reads

    x ─ norm ─ q k v ─│─ QK-norm, RoPE, cache ─│─ attention ─│─ o ─│─ norm ─ gate up act ─│─ down ─│─▶ x

with the barriers as bars.
"""

from __future__ import annotations

from boli.cpu import plan as p
from boli.cpu.kernels import F4, activate, copy
from boli.cpu.simd import kernel, load_i32, load_i64
from boli.cpu.stages import (
    attention,
    close_branch,
    embed,
    input_floats,
    prepare_norm,
    prepare_quants,
    project,
    turn_and_cache,
)
from boli.cpu.sync import announce, atomic_load, barrier, prepare_control, wait_for_news


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


@kernel
def work(control, plan, thread):
    """Does this thread's share of step after step, until the end."""
    seen = 0
    while True:
        wait_for_news(control, seen)
        if atomic_load(control + p.STOP) != 0:
            return
        seen += 1
        forward(plan, thread)


def entry(what, control, plan, thread):
    """The only compiled function that Python calls; `what` is one of the four below."""
    if what == p.STEP:
        announce(control, p.GO)
        forward(plan, 0)
    elif what == p.WORK:
        work(control, plan, thread)
    elif what == p.PREPARE:
        prepare_control(control)
    elif what == p.END:
        announce(control, p.STOP)
