"""The one compiled step: a batch of tokens through all layers to logits.

Every thread of the team runs `forward` over the same plan and does its share of each stage; between
stages they meet at a barrier. A layer reads

    x ─ norm ─ q k v ─│─ QK-norm, RoPE, cache ─│─ attention ─│─ o ─│─ norm ─ gate, up, act ─│─ down ─│─▶ x

with the barriers as bars. What `stamp` and `probe…` note down is for who watches a step; in the step that
everybody runs these calls are nothing (`probe.py`).
"""

from __future__ import annotations

from boli.cpu import plan as p
from boli.cpu.amx import begin, end
from boli.cpu.heads import attention, prepare_output, turn_and_cache
from boli.cpu.kernels import copy
from boli.cpu.largest import agree, project_logits
from boli.cpu.probe import end_observation, probe_rows, stamp, watch
from boli.cpu.simd import kernel, load_i32, load_i64
from boli.cpu.sizes import F4
from boli.cpu.stages import (
    close_branch,
    embed,
    gated_mlp,
    prepare_norm,
    probe_branch,
    probe_qkv,
    project,
    project_qkv,
    streams,
)
from boli.cpu.sync import announce_end, announce_step, barrier, end_step, prepare_control, wait_for_news


@kernel
def decoder_layer(plan, layer, index, thread):
    """One decoder block on all rows."""
    control, threads, rows = load_i64(plan + p.CONTROL), load_i64(plan + p.THREADS), load_i64(plan + p.ROWS)
    x, x_stride = load_i64(plan + p.X), load_i64(plan + p.X_STRIDE)
    # A branch is added to the residual stream at once, or goes through its own norm first.
    result, accumulate = x, 1
    if load_i64(plan + p.POST_NORMS) != 0:
        result, accumulate = load_i64(plan + p.BRANCH), 0
    inputs = streams(plan, thread, rows)

    prepare_norm(
        plan, layer, thread, p.AT_ATTENTION_NORM, x, load_i64(layer + p.ATTENTION_NORM),
        load_i64(layer + p.ATTENTION_NORM_BIAS), rows, load_i64(layer + p.QKV_WANTS),
    )  # fmt: skip
    project_qkv(plan, layer, thread, inputs)
    barrier(control, thread, threads)
    stamp(plan, thread)
    probe_qkv(plan, layer, thread, p.AT_Q, 0)
    probe_qkv(plan, layer, thread, p.AT_K, load_i64(plan + p.K_OFFSET))
    probe_qkv(plan, layer, thread, p.AT_V, load_i64(plan + p.V_OFFSET))
    turn_and_cache(plan, layer, index, thread)
    barrier(control, thread, threads)
    stamp(plan, thread)
    probe_qkv(plan, layer, thread, p.AT_Q_ROTATED, 0)
    probe_qkv(plan, layer, thread, p.AT_K_ROTATED, load_i64(plan + p.K_OFFSET))
    attention(plan, layer, index, thread)
    barrier(control, thread, threads)
    stamp(plan, thread)
    heads_out, matrix = prepare_output(plan, layer, thread), load_i64(layer + p.ATTENTION_OUT)
    project(plan, thread, matrix, heads_out, result, x_stride, rows, accumulate)
    close_branch(plan, thread, load_i64(layer + p.POST_ATTENTION_NORM))
    stamp(plan, thread)
    probe_branch(plan, layer, thread, p.AT_ATTENTION_BRANCH, matrix, heads_out)
    probe_rows(plan, layer, thread, p.AT_AFTER_ATTENTION, x, x_stride)

    prepare_norm(
        plan, layer, thread, p.AT_MLP_NORM, x, load_i64(layer + p.MLP_NORM),
        load_i64(layer + p.MLP_NORM_BIAS), rows, load_i64(layer + p.MLP_WANTS),
    )  # fmt: skip
    gated_mlp(plan, layer, thread, inputs)
    barrier(control, thread, threads)
    stamp(plan, thread)
    inner, matrix = load_i64(plan + p.INNER), load_i64(layer + p.DOWN)
    project(plan, thread, matrix, inner, result, x_stride, rows, accumulate)
    close_branch(plan, thread, load_i64(layer + p.POST_MLP_NORM))
    stamp(plan, thread)
    probe_branch(plan, layer, thread, p.AT_MLP_BRANCH, matrix, inner)
    probe_rows(plan, layer, thread, p.AT_RESIDUAL, x, x_stride)


@kernel
def head(plan, thread):
    """Final norm and logits of the rows that are asked for, and the largest of each."""
    outputs = load_i64(plan + p.OUTPUTS)
    x, x_stride = load_i64(plan + p.X), load_i64(plan + p.X_STRIDE)
    control, threads = load_i64(plan + p.CONTROL), load_i64(plan + p.THREADS)
    gathered, layer = load_i64(plan + p.BRANCH), load_i64(plan + p.LAYER_TABLE)
    for n in range(outputs * thread // threads, outputs * (thread + 1) // threads):
        row = load_i32(load_i64(plan + p.OUTPUT_ROWS) + n * 4)
        copy(x + row * x_stride, x_stride // F4, gathered + n * x_stride)
    barrier(control, thread, threads)
    prepare_norm(
        plan, layer, thread, p.AT_FINAL_NORM, gathered, load_i64(plan + p.FINAL_NORM),
        load_i64(plan + p.FINAL_NORM_BIAS), outputs, load_i64(plan + p.HEAD_WANTS),
    )  # fmt: skip
    project_logits(plan, thread, outputs)
    barrier(control, thread, threads)
    if thread == 0:
        agree(plan, outputs)


@kernel
def forward(plan, thread):
    """One thread's share of one step. Returns when the whole team has finished."""
    control, threads = load_i64(plan + p.CONTROL), load_i64(plan + p.THREADS)
    # Read before the first barrier: after the last one the caller may describe the next step already.
    outputs = load_i64(plan + p.OUTPUTS)
    begin()
    stamp(plan, thread)
    embed(plan, thread)
    barrier(control, thread, threads)
    stamp(plan, thread)
    layers, stride = load_i64(plan + p.LAYER_TABLE), load_i64(plan + p.LAYER_STRIDE)
    probe_rows(plan, layers, thread, p.AT_EMBEDDING, load_i64(plan + p.X), load_i64(plan + p.X_STRIDE))
    for index in range(load_i64(plan + p.LAYERS)):
        decoder_layer(plan, layers + index * stride, index, thread)
    if outputs > 0:
        head(plan, thread)
    end()


@kernel
def work(control, plan, thread):
    """Does this thread's share of step after step, until the end."""
    seen = 0
    while True:
        if not wait_for_news(control, seen):
            return
        seen += 1
        forward(plan, thread)
        end_observation(plan, thread)


@kernel
def run(what, control, plan, thread):
    """Does one of four things; returns 0, or 1 for a step that was not run because the end came first."""
    if what == p.STEP:
        if not announce_step(control):
            return 1
        forward(plan, 0)
        end_observation(plan, 0)
        end_step(control)
    elif what == p.WORK:
        work(control, plan, thread)
    elif what == p.PREPARE:
        prepare_control(control)
    elif what == p.END:
        announce_end(control)
    return 0


def entry(what, control, plan, thread):
    """The only compiled function that Python calls; `what` is one of the four of `plan.py`."""
    return run(what, control, plan, thread)


def observed_entry(what, control, plan, thread):
    """The same for a step that is watched: another function, for `plan` is of another type."""
    return run(what, control, watch(plan), thread)
