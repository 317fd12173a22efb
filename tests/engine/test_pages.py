"""Pages and their holders."""

from __future__ import annotations

import pytest

from boli.engine.pages import PagePool, PageTable


def test_every_page_is_handed_out_once() -> None:
    pool = PagePool(5)
    assert sorted(pool.take() for _ in range(5)) == [0, 1, 2, 3, 4]
    assert (pool.free, pool.used) == (0, 5)
    with pytest.raises(IndexError):
        pool.take()


def test_a_shared_page_is_free_when_its_last_holder_lets_go() -> None:
    pool = PagePool(2)
    page = pool.take()
    pool.share([page])
    pool.release([page])
    assert (pool.free, pool.used) == (1, 1)
    pool.release([page])
    assert (pool.free, pool.used) == (2, 0)


def test_free_pages_can_be_neither_shared_nor_released() -> None:
    pool = PagePool(2)
    with pytest.raises(ValueError, match="page 1 is free"):
        pool.share([1])
    with pytest.raises(ValueError, match="page 1 is free"):
        pool.release([1])
    assert (pool.free, pool.used) == (2, 0)


def test_reset_frees_everything() -> None:
    pool = PagePool(3)
    pool.share([pool.take()])
    pool.reset()
    assert (pool.free, pool.used) == (3, 0)


def test_a_table_grows_by_whole_pages_or_not_at_all() -> None:
    pool = PagePool(4)
    table = PageTable(pool, page_size=8, context=100)
    assert len(table.entries) == 13
    assert table.reserve(8)
    assert (len(table), table.missing(8), table.missing(9), table.missing(33)) == (1, 0, 1, 4)
    assert table.reserve(9)
    assert table.reserve(9)
    assert not table.reserve(33)
    assert (len(table), pool.free) == (2, 2)
    assert table.reserve(32)
    assert sorted(table.entries[:4].tolist()) == [0, 1, 2, 3]


def test_truncating_keeps_the_first_pages() -> None:
    pool = PagePool(4)
    table = PageTable(pool, page_size=8, context=32)
    table.reserve(32)
    first = table.entries[:2].tolist()
    table.truncate(9)
    assert (len(table), pool.free, table.entries[:2].tolist()) == (2, 2, first)
    table.truncate(100)
    assert len(table) == 2
    table.truncate(0)
    assert (len(table), pool.free) == (0, 4)
