"""How the threads of a team meet: atomics, a spin barrier inside a step, sleep between steps.

Waiting is cheap first and patient later: a pause instruction, then giving up the core, then sleep on
a POSIX condition variable, so that an idle model costs no processor time. All of it is compiled
code: no signal (Ctrl-C) can come between the announcement of a step and its first barrier.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from boli.cpu import plan as p
from boli.cpu.simd import (
    I8,
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
SPINS_BEFORE_SLEEP = 20000  # some 10 ms

# What is left of a thread's part of a stage is one word: the stage, the first piece, and the end. Stages are
# counted modulo 2^20; a word is never so old, for every thread writes its own whenever work is shared out.
PIECE_BITS = 20  # a vocabulary has at most 2^24 rows, 32 of them to a piece
MOST = (1 << PIECE_BITS) - 1


@operation(i64, i64)
def atomic_load(b: Builder, address: Value) -> Value:
    """Reads an int64 that other threads write; nothing after it moves before it."""
    return b.load_atomic(pointer(b, address, I64), ordering="acquire", align=8)


@operation(i64, i64, i64)
def atomic_add(b: Builder, address: Value, value: Value) -> Value:
    """Adds to a shared int64 and returns what it was."""
    return b.atomic_rmw("add", pointer(b, address, I64), value, "seq_cst")


@operation(i64, i64, i64, i64)
def swap(b: Builder, address: Value, expected: Value, value: Value) -> Value:
    """Writes a shared int64 if it is what one expects, and says so: 1 or 0."""
    found = b.cmpxchg(pointer(b, address, I64), expected, value, "seq_cst", "seq_cst")
    return b.zext(b.extract_value(found, 1), I64)


@operation(void)
def pause(b: Builder) -> Value:
    """Tells the core that this is a waiting loop."""
    triple = str(b.module.triple)
    if triple.startswith(("x86_64", "i686")):
        return b.call(declare(b, "llvm.x86.sse2.pause", ir.VoidType()), [])
    if triple.startswith(("aarch64", "arm64")):
        # As an intrinsic, because LLVM would need its assembler to be set up for `yield` as text.
        return b.call(declare(b, "llvm.aarch64.hint", ir.VoidType(), I32), [ir.Constant(I32, 1)])
    return None


@operation(void)
def sched_yield(b: Builder) -> Value:
    """Gives the core to another thread (POSIX)."""
    return b.call(declare(b, "sched_yield", I32), [])


def _posix(name: str, arguments: int) -> Any:
    """A C function that takes addresses and returns an int that is not looked at."""

    def emit(b: Builder, *addresses: Value) -> Value:
        anything = I8.as_pointer()
        function = declare(b, name, I32, *([anything] * arguments))
        return b.call(function, [pointer(b, address, I8) for address in addresses])

    emit.__name__ = name
    return operation(void, *([i64] * arguments))(emit)


mutex_init, condition_init = _posix("pthread_mutex_init", 2), _posix("pthread_cond_init", 2)
lock, unlock = _posix("pthread_mutex_lock", 1), _posix("pthread_mutex_unlock", 1)
condition_wait, condition_broadcast = _posix("pthread_cond_wait", 2), _posix("pthread_cond_broadcast", 1)


@kernel
def barrier(control, thread, threads):
    """Waits for the whole team: a counter that only grows, so nothing has to be reset."""
    if threads == 1:
        return
    mine = control + p.PASSED + thread * p.CACHE_LINE
    passed = load_i64(mine) + 1
    target = passed * threads
    store_i64(mine, passed)
    atomic_add(control + p.BARRIER, 1)
    spins = 0
    while atomic_load(control + p.BARRIER) < target:
        spins += 1
        if spins > SPINS_BEFORE_YIELD:
            sched_yield()
        else:
            pause()


@kernel
def take(control, thread, owner, threads, count):
    """A quarter of what is left of the owner's part, at least one piece: from its front, or from behind."""
    # From 1 on, as the first words are 0.
    stage = load_i64(control + p.PASSED + thread * p.CACHE_LINE) + 1 & MOST
    place = control + p.PASSED + owner * p.CACHE_LINE + p.WORD
    while True:
        # A word of another stage stands for the whole part: nobody has taken any of it.
        left = atomic_load(place)
        first, end = count * owner // threads, count * (owner + 1) // threads
        if left >> 2 * PIECE_BITS == stage:
            first, end = left >> PIECE_BITS & MOST, left & MOST
        some = (end - first + 3) // 4
        low, high = (first, first + some) if owner == thread else (end - some, end)
        first, end = (high, end) if owner == thread else (first, low)
        empty = some == 0 and owner != thread
        if empty or swap(place, left, (stage << PIECE_BITS | first) << PIECE_BITS | end):
            return low, high


@kernel
def next_share(control, thread, threads, count):
    """Some of `count` pieces of work in a row: the first, and the end. They are equal when nothing is left.

    Each thread goes through a part of its own from the first piece to the last, so that what it reads is one
    stream. Who has finished helps another, from behind.
    """
    if threads == 1:
        return 0, 0
    owner = thread
    while True:
        first, end = take(control, thread, owner, threads, count)
        owner = (owner + 1) % threads
        if first < end or owner == thread:
            return first, end


@kernel
def first_share(control, thread, threads, count):
    """The same, for the first time in a stage."""
    if threads == 1:
        return 0, count
    return next_share(control, thread, threads, count)


@kernel
def prepare_control(control):
    """Makes a zeroed control block ready. Once, before any thread sees it."""
    mutex_init(control + p.MUTEX, 0)
    condition_init(control + p.CONDITION, 0)


@kernel
def announce_step(control):
    """Tells the team of a step, unless its end was announced before: 1 or 0.

    Steps and the end are announced one after the other, under the mutex: everybody takes part in every
    step that came before the end, and nobody waits for one that did not.
    """
    lock(control + p.MUTEX)
    possible = int(atomic_load(control + p.STOP) == 0)
    if possible:
        store_i64(control + p.BUSY, 1)
        atomic_add(control + p.GO, 1)
        condition_broadcast(control + p.CONDITION)
    unlock(control + p.MUTEX)
    return possible


@kernel
def end_step(control):
    """Says that the caller of a step has finished it too."""
    atomic_add(control + p.BUSY, -1)


@kernel
def announce_end(control):
    """Tells the team to go home, and returns when no step is running."""
    lock(control + p.MUTEX)
    atomic_add(control + p.STOP, 1)
    condition_broadcast(control + p.CONDITION)
    unlock(control + p.MUTEX)
    while atomic_load(control + p.BUSY) != 0:
        sched_yield()


@kernel
def nothing_new(control, seen):
    """Whether there is neither a step that this thread has not seen, nor an end."""
    return atomic_load(control + p.GO) == seen and atomic_load(control + p.STOP) == 0


@kernel
def wait_for_news(control, seen):
    """Returns 1 when there is a step that this thread has not seen, or 0 after the last one."""
    spins = 0
    while spins < SPINS_BEFORE_SLEEP and nothing_new(control, seen):
        spins += 1
        if spins > SPINS_BEFORE_YIELD:
            sched_yield()
        else:
            pause()
    if nothing_new(control, seen):
        lock(control + p.MUTEX)
        while nothing_new(control, seen):
            condition_wait(control + p.CONDITION, control + p.MUTEX)
        unlock(control + p.MUTEX)
    # Once more: an end comes after all steps, so none can be missed by now.
    return int(atomic_load(control + p.GO) != seen)
