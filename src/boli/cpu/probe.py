"""How a step is watched: copies of its numbers, and times, in the very step that is described once.

`plan` has a type. In the step that everybody runs it is an address, an int64; in the watched one it is
an `Observed` address. Numba compiles each function for the types it is called with, so the same source
becomes two steps. What is decorated with `watching` exists in the watched one only: in the other its
calls are nothing at all, not even a test of a flag.
"""

from __future__ import annotations

import inspect
import operator
import time
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, overload, register_model

from boli.cpu import plan as p
from boli.cpu.kernels import copy
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
from boli.cpu.sizes import F4
from boli.cpu.sync import barrier


class Observed(types.Type):
    """The address of a plan whose step is watched."""


@register_model(Observed)
class _ObservedModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Observed) -> None:
        super().__init__(dmm, fe_type, I64)


observed_plan = Observed("observed_plan")


@operation(observed_plan, i64)
def watch(b: Builder, plan: Value) -> Value:
    """A plan's address, for a step that is watched."""
    return plan


@operation(i64, observed_plan)
def address_of(b: Builder, plan: Value) -> Value:
    """And back."""
    return plan


@overload(operator.add)
def _field(plan, offset):
    if isinstance(plan, Observed) and isinstance(offset, types.Integer):
        return lambda plan, offset: address_of(plan) + offset
    return None


def watching(function: Any) -> Any:
    """Makes a kernel that is nothing unless its first argument is an observed plan. It returns nothing."""

    def typed(typingctx: Any, plan: Any, *rest: Any) -> Any:
        def codegen(context: Any, builder: Builder, signature: Any, values: Any) -> Value:
            if isinstance(plan, Observed):
                context.compile_internal(builder, function, signature, values)
            return context.get_dummy_value()

        return void(plan, *rest), codegen

    # Numba reads the number of arguments from the signature.
    context = inspect.Parameter("typingctx", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    typed.__dict__["__signature__"] = inspect.Signature([context, *parameters])
    typed.__name__, typed.__doc__ = function.__name__, function.__doc__
    return intrinsic(typed)


@kernel
def wanted(plan, what):
    """Whether somebody wants to see a place."""
    return load_i64(load_i64(plan + p.WATCHED) + what + p.SEEN) != 0


@watching
def probe(plan, layer, what, row, source, first, end):
    """Copies numbers `first … end - 1` of a row to whoever watches. The row's number 0 is at `source`.

    Few rows are prepared by every thread for itself; then each writes the same numbers to the same place.
    """
    place = load_i64(plan + p.WATCHED) + what
    to, end = load_i64(place + p.SEEN), min(end, load_i64(place + p.SEEN_COLUMNS))
    if to != 0 and first < end:
        index = (layer - load_i64(plan + p.LAYER_TABLE)) // load_i64(plan + p.LAYER_STRIDE)
        to += index * load_i64(place + p.SEEN_LAYER_STRIDE) + row * load_i64(place + p.SEEN_ROW_STRIDE)
        copy(source + first * F4, end - first, to + first * F4)


@operation(void, i64)
def read_clock(b: Builder, address: Value) -> None:
    """Seconds and nanoseconds of a steady clock, two int64 (POSIX)."""
    anything = I8.as_pointer()
    function = declare(b, "clock_gettime", I32, I32, anything)
    b.call(function, [ir.Constant(I32, time.CLOCK_MONOTONIC), pointer(b, address, I8)])


@kernel
def now(plan):
    """Nanoseconds; for the first thread only."""
    place = load_i64(plan + p.STAMPS) + p.CLOCK
    read_clock(place)
    return load_i64(place) * 1_000_000_000 + load_i64(place + p.WORD)


@watching
def stamp(plan, thread):
    """Notes the time at which the first thread comes by, less what watching has taken so far."""
    if thread == 0:
        stamps = load_i64(plan + p.STAMPS)
        count = load_i64(stamps + p.STAMP_COUNT)
        store_i64(stamps + p.FIRST_STAMP + count * p.WORD, now(plan) - load_i64(stamps + p.LOST))
        store_i64(stamps + p.STAMP_COUNT, count + 1)


@kernel
def lose(plan, start):
    """Counts the time since `start` as taken by watching."""
    place = load_i64(plan + p.STAMPS) + p.LOST
    store_i64(place, load_i64(place) + now(plan) - start)


@watching
def probe_rows(plan, layer, thread, what, source, stride):
    """Copies all rows of a buffer that the team has finished, and meets: it may change at once."""
    if wanted(plan, what):
        start = now(plan) if thread == 0 else 0
        rows, threads = load_i64(plan + p.ROWS), load_i64(plan + p.THREADS)
        for row in range(rows * thread // threads, rows * (thread + 1) // threads):
            probe(plan, layer, what, row, source + row * stride, 0, stride // F4)
        barrier(load_i64(plan + p.CONTROL), thread, threads)
        if thread == 0:
            lose(plan, start)


@watching
def end_observation(plan, thread):
    """Meets a last time, so that nobody still copies when the caller has its numbers."""
    barrier(load_i64(plan + p.CONTROL), thread, load_i64(plan + p.THREADS))
    stamp(plan, thread)
