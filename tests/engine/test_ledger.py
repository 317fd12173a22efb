"""The books of bytes."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from boli.engine.ledger import Ledger, readable, resident_bytes
from boli.errors import OutOfMemory

GB = 10**9


def plenty() -> int:
    return 1000 * GB


def test_totals_by_category_in_order_of_name() -> None:
    ledger = Ledger(plenty)
    ledger.enter("workspace", 30)
    ledger.enter("weights/Q4_1", 10)
    ledger.enter("weights/Q4_1", 5)
    ledger.enter("kv_cache", 7)
    ledger.leave("workspace", 30)
    ledger.record("runtime", 100)
    assert list(ledger.totals().items()) == [("kv_cache", 7), ("runtime", 100), ("weights/Q4_1", 15)]
    assert ledger.total == 122


def test_more_cannot_leave_than_entered() -> None:
    ledger = Ledger(plenty)
    ledger.enter("workspace", 30)
    with pytest.raises(ValueError, match="holds 30 bytes, not 31"):
        ledger.leave("workspace", 31)
    with pytest.raises(ValueError, match="holds 0 bytes, not 1"):
        ledger.leave("text", 1)
    assert ledger.totals() == {"workspace": 30}


def test_what_does_not_fit_is_refused_before_it_is_allocated() -> None:
    ledger = Ledger(lambda: 3 * GB)
    before = resident_bytes()
    with pytest.raises(OutOfMemory) as caught:
        ledger.allocate("kv_cache", (5, GB), np.uint8, "the KV cache")
    assert caught.value.message == "the KV cache needs 5.0 GB, but 3.0 GB are free"
    assert caught.value.remedy
    assert ledger.totals() == {}
    assert resident_bytes() - before < 0.1 * GB


def test_promises_that_are_not_touched_yet_count() -> None:
    ledger = Ledger(lambda: 10 * GB)
    ledger.enter("kv_cache", 6 * GB)
    with pytest.raises(OutOfMemory, match=r"needs 6\.0 GB, but (4\.0|3\.9) GB are free"):
        ledger.enter("weights/F32", 6 * GB)
    ledger.leave("kv_cache", 6 * GB)
    ledger.enter("weights/F32", 6 * GB)


def test_touched_memory_is_no_promise_any_more() -> None:
    ledger = Ledger(lambda: GB)
    ledger.allocate("workspace", GB // 4, np.uint8)
    array = ledger.allocate("workspace", GB // 4, np.uint8)
    with pytest.raises(OutOfMemory, match=r"but (500\.\d|499\.\d) MB are free"):
        ledger.enter("workspace", GB * 3 // 4)
    array[:] = 1  # now the machine itself says that it is gone; this one keeps saying 1 GB
    ledger.enter("workspace", GB * 70 // 100)


def test_recorded_bytes_are_neither_checked_nor_promised() -> None:
    ledger = Ledger(lambda: GB)
    ledger.record("runtime", 50 * GB)
    ledger.enter("workspace", GB // 2)
    assert ledger.total == 50 * GB + GB // 2


@pytest.mark.parametrize("shape", [0, 1, 1000, (3, 5), (7, 11, 13)])
@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float32, np.float64])
def test_arrays_are_aligned_contiguous_and_entered(
    shape: int | tuple[int, ...], dtype: type[np.generic]
) -> None:
    ledger = Ledger(plenty)
    for zero in (False, True):
        array = ledger.allocate("workspace", shape, dtype, zero=zero)
        assert array.shape == (shape if isinstance(shape, tuple) else (shape,))
        assert array.dtype == dtype
        assert array.size == 0 or array.ctypes.data % 64 == 0
        assert array.flags.c_contiguous
        assert array.flags.writeable
        assert not zero or not array.any()
    assert ledger.total == 2 * array.nbytes


def test_a_large_array_costs_nothing_until_it_is_written() -> None:
    ledger = Ledger(plenty)
    before = resident_bytes()
    array = ledger.allocate("kv_cache", GB // 2, np.uint8)
    assert resident_bytes() - before < 20_000_000
    array[: GB // 10] = 1
    assert GB // 10 - 20_000_000 < resident_bytes() - before < GB // 4


def test_of_large_zeros_only_the_pages_that_are_touched_are_in_memory() -> None:
    ledger = Ledger(plenty)
    array = ledger.allocate("kv_cache", 256 << 20, np.uint8, zero=True)
    if ledger.resident()["kv_cache"] == array.nbytes:
        pytest.skip("this system does not tell")
    array[:: 4 << 20] = 1  # 64 pages; large ones would be half of all
    assert 0 < ledger.resident()["kv_cache"] < 8 << 20


@pytest.mark.parametrize("zero", [False, True])
def test_a_refusal_by_the_system_is_an_error_of_ours_and_leaves_the_books_straight(zero: bool) -> None:
    ledger = Ledger(lambda: 2**62)
    with pytest.raises(OutOfMemory, match="the system refused"):
        ledger.allocate("kv_cache", 2**60, np.uint8, "the KV cache", zero=zero)
    assert ledger.totals() == {}


def test_the_machine_is_asked_if_nobody_else_is_given() -> None:
    ledger = Ledger()
    ledger.enter("workspace", 1000)
    with pytest.raises(OutOfMemory):
        ledger.enter("workspace", 2**60)


def test_many_threads_share_the_books() -> None:
    ledger = Ledger(plenty)

    def work() -> None:
        for _ in range(300):
            ledger.enter("workspace", 3)
            ledger.leave("workspace", 2)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ledger.totals() == {"workspace": 8 * 300}


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (93_120_000, "93.1 MB"),
        (24 * GB, "24.0 GB"),
        (10**15, "1000.0 TB"),
    ],
)
def test_bytes_for_people(nbytes: int, text: str) -> None:
    assert readable(nbytes) == text


def test_what_grows_besides_the_books_is_entered_once() -> None:
    ledger = Ledger()
    with ledger.growth("runtime"):
        kept = np.ones(200_000_000, np.uint8)  # so large that no memory freed before is used again
        buffer = ledger.allocate("workspace", 100_000_000, np.uint8)
        buffer[:] = 1
    assert len(kept) == 200_000_000
    assert 180_000_000 < ledger.totals()["runtime"] < 250_000_000
    assert ledger.totals()["workspace"] == 100_000_000
