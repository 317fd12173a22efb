"""How the threads of a team meet: atomics, a barrier, and the promise to wake who sleeps."""

from __future__ import annotations

from llvmlite import ir

from boli.cpu import plan as p
from boli.cpu.simd import (
    I32,
    I64,
    Builder,
    Value,
    declare,
    i64,
    kernel,
    load_i64,
    operation,
    pointer,
    store_i64,
    void,
)

SPINS_BEFORE_YIELD = 2000


@operation(i64, i64)
def atomic_load(b: Builder, address: Value) -> Value:
    """Reads an int64 that other threads write; nothing after it moves before it."""
    return b.load_atomic(pointer(b, address, I64), ordering="acquire", align=8)


@operation(void, i64, i64)
def atomic_store(b: Builder, address: Value, value: Value) -> Value:
    """Writes an int64 that other threads read; nothing before it moves after it."""
    return b.store_atomic(value, pointer(b, address, I64), ordering="release", align=8)


@operation(i64, i64, i64)
def atomic_add(b: Builder, address: Value, value: Value) -> Value:
    """Adds to a shared int64 and returns what it was."""
    return b.atomic_rmw("add", pointer(b, address, I64), value, "seq_cst")


@operation(i64, i64, i64)
def atomic_exchange(b: Builder, address: Value, value: Value) -> Value:
    """Replaces a shared int64 and returns what it was."""
    return b.atomic_rmw("xchg", pointer(b, address, I64), value, "seq_cst")


@operation(void)
def pause(b: Builder) -> Value:
    """Tells the core that this is a waiting loop."""
    triple = str(b.module.triple)
    if triple.startswith(("x86_64", "i686")):
        return b.call(declare(b, "llvm.x86.sse2.pause", ir.VoidType()), [])
    if triple.startswith(("aarch64", "arm64")):
        return b.asm(ir.FunctionType(ir.VoidType(), []), "yield", "", [], True)
    return None


@operation(void)
def sched_yield(b: Builder) -> Value:
    """Gives the core to another thread (POSIX)."""
    return b.call(declare(b, "sched_yield", I32), [])


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
def wake(control, threads):
    """Marks all threads as running; returns a bit for each one that sleeps and must be woken."""
    asleep = 0
    for thread in range(1, threads):
        state = control + p.THREAD_STATE + thread * p.CACHE_LINE + p.STATE
        if atomic_exchange(state, p.RUNNING) == p.PARKED:
            asleep |= 1 << thread
    return asleep
