"""The radix tree: what is found, what is kept, what goes first."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest

from boli.engine.pages import PageTable
from boli.engine.prefix import PrefixTree, Salt

SIZE = 4


def make_tree(num_pages: int = 16) -> PrefixTree:
    return PrefixTree(num_pages, SIZE)


def new_table(tree: PrefixTree) -> PageTable:
    return PageTable(tree.pool, SIZE, tree.pool.num_pages * SIZE)


def compute(tree: PrefixTree, tokens: Sequence[int], salt: Salt = None) -> PageTable:
    """What a request does that computes these tokens: takes what is known, adds what is not."""
    table = new_table(tree)
    tree.adopt(table, tokens, salt)
    assert table.reserve(len(tokens))
    tree.insert(table, tokens, len(tokens), salt)
    return table


def known(tree: PrefixTree, tokens: Sequence[int], salt: Salt = None) -> int:
    table = new_table(tree)
    positions = tree.adopt(table, tokens, salt)
    table.truncate(0)
    return positions


def counts(tree: PrefixTree) -> tuple[int, int, int]:
    return tree.pool.free, tree.pool.cached, tree.pool.used


TEXT = list(range(100, 120))


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (TEXT, 16),  # never the last page of all: the last token must be computed
        ([*TEXT, 1], 20),
        ([*TEXT, 1, 2, 3, 4, 5], 20),
        (TEXT[:17], 16),
        (TEXT[:16], 12),
        (TEXT[:4], 0),
        (TEXT[:5], 4),
        ([*TEXT[:11], 0, *TEXT[12:]], 8),
        ([0, *TEXT[1:]], 0),
        (TEXT[4:], 0),  # the same tokens at another place are not the same
    ],
)
def test_the_longest_common_beginning_in_whole_pages_is_found(tokens: list[int], expected: int) -> None:
    tree = make_tree()
    compute(tree, TEXT).truncate(0)
    assert known(tree, tokens) == expected


def test_the_pages_that_are_found_are_those_that_were_computed() -> None:
    tree = make_tree()
    first = compute(tree, TEXT)
    pages = first.entries[:5].tolist()
    first.truncate(0)
    table = new_table(tree)
    tree.adopt(table, [*TEXT, 1], None)
    assert table.entries[:5].tolist() == pages
    assert counts(tree) == (11, 0, 5)
    table.truncate(0)
    assert counts(tree) == (11, 5, 0)


@pytest.mark.parametrize("computed", [0, 1, 3, 4, 5, 7, 8, 18])
def test_half_filled_pages_stay_out(computed: int) -> None:
    tree = make_tree()
    table = new_table(tree)
    table.reserve(len(TEXT))
    tree.insert(table, TEXT, computed, None)
    assert len(tree) == table.shared == computed // SIZE
    table.truncate(0)
    assert counts(tree) == (16 - computed // SIZE, computed // SIZE, 0)


def test_a_page_comes_in_once_it_is_full() -> None:
    tree = make_tree()
    table = new_table(tree)
    table.reserve(len(TEXT))
    for computed in range(len(TEXT) + 1):
        tree.insert(table, TEXT, computed, None)
        assert known(tree, [*TEXT, 1]) == computed // SIZE * SIZE


def test_texts_part_where_they_differ() -> None:
    tree = make_tree(32)
    other = [*TEXT[:8], *range(12)]
    tables = [compute(tree, TEXT), compute(tree, other)]
    assert tables[0].entries[:2].tolist() == tables[1].entries[:2].tolist()
    assert not set(tables[0].entries[2:5].tolist()) & set(tables[1].entries[2:5].tolist())
    assert (len(tree), counts(tree)) == (8, (24, 0, 8))
    assert [known(tree, [*text, 1]) for text in (TEXT, other)] == [20, 20]


def test_what_two_computed_side_by_side_is_kept_once() -> None:
    tree = make_tree()
    tables = [new_table(tree) for _ in range(2)]
    for table in tables:
        assert tree.adopt(table, TEXT, None) == 0
        table.reserve(len(TEXT))
    assert counts(tree) == (6, 0, 10)
    tree.insert(tables[0], TEXT, 18, None)
    tree.insert(tables[1], TEXT, 20, None)
    assert tables[0].entries[:4].tolist() == tables[1].entries[:4].tolist()
    assert counts(tree) == (10, 0, 6), "four duplicates were given back"
    tree.insert(tables[0], TEXT, 20, None)
    assert counts(tree) == (11, 0, 5)


def test_a_running_request_takes_what_another_one_computed_in_the_meantime() -> None:
    tree = make_tree()
    slow = new_table(tree)
    slow.reserve(len(TEXT))
    tree.insert(slow, TEXT, 5, None)  # half into its second page
    compute(tree, TEXT).truncate(0)
    assert tree.adopt(slow, TEXT, None) == 16
    assert counts(tree) == (10, 1, 5)


@pytest.mark.parametrize("salts", [(None, "a"), ("a", "b"), ("", None), (b"a", b"b")])
def test_salts_separate_tenants(salts: tuple[Salt, Salt]) -> None:
    tree = make_tree()
    compute(tree, TEXT, salts[0]).truncate(0)
    assert known(tree, TEXT, salts[1]) == 0
    assert known(tree, TEXT, salts[0]) == 16
    compute(tree, TEXT, salts[1])
    assert len(tree) == 10


def test_the_leaf_that_was_unused_longest_goes_first() -> None:
    tree = make_tree(8)
    first, second = compute(tree, [1] * 12), compute(tree, [1] * 4 + [2] * 8)
    root, *own = first.entries[:3].tolist()
    others = second.entries[1:3].tolist()
    first.truncate(0)
    second.truncate(0)
    known(tree, [1] * 13)  # to look is to use
    assert counts(tree) == (3, 5, 0)
    taken = [tree.pool.take() for _ in range(8)]
    assert taken[3:] == [*others[::-1], *own[::-1], root]
    assert (len(tree), tree.salts) == (0, [])


def test_pages_in_use_are_never_evicted() -> None:
    tree = make_tree(6)
    held = compute(tree, TEXT[:8])
    compute(tree, [*TEXT[:8], *range(8)]).truncate(0)
    table = new_table(tree)
    assert not table.reserve(5 * SIZE)
    assert table.reserve(4 * SIZE)
    assert known(tree, [*TEXT[:8], 0]) == 8
    assert counts(tree) == (0, 0, 6)
    held.truncate(0)
    assert counts(tree) == (0, 2, 4)


def test_the_root_of_a_tenant_without_pages_is_forgotten() -> None:
    tree = make_tree(4)
    for tenant in range(1000):
        compute(tree, TEXT[:8], f"tenant {tenant}").truncate(0)
        assert len(tree.salts) <= 2
    held = compute(tree, TEXT[:3], "nothing full")
    assert "nothing full" not in tree.salts
    held.truncate(0)


def test_what_a_failed_request_alone_used_is_forgotten() -> None:
    tree = make_tree()
    compute(tree, TEXT[:8]).truncate(0)
    other = compute(tree, TEXT[:12])
    failed = compute(tree, TEXT)
    tree.forget(failed)
    assert (known(tree, [*TEXT, 1]), len(failed)) == (12, 0)
    tree.forget(other)
    assert (known(tree, [*TEXT, 1]), counts(tree)) == (0, (16, 0, 0))


def test_a_failed_request_leaves_what_others_built_upon() -> None:
    tree = make_tree()
    failed = compute(tree, TEXT[:8])
    compute(tree, TEXT).truncate(0)
    tree.forget(failed)
    assert (known(tree, [*TEXT, 1]), counts(tree)) == (20, (11, 5, 0))


def test_reset_forgets_everything() -> None:
    tree = make_tree()
    compute(tree, TEXT, "a").truncate(0)
    tree.reset()
    assert (known(tree, TEXT, "a"), len(tree), tree.salts, counts(tree)) == (0, 0, [], (16, 0, 0))


def test_work_does_not_grow_with_what_is_cached() -> None:
    """A look-up, an insertion and an eviction take the same time among a hundred times as many pages."""

    def seconds(num_pages: int) -> float:
        tree = PrefixTree(num_pages, 1)
        for token in range(num_pages):
            compute_one(tree, token)
        start = time.process_time()
        for token in range(num_pages, num_pages + 2000):
            compute_one(tree, token)
        return time.process_time() - start

    def compute_one(tree: PrefixTree, token: int) -> None:
        table = PageTable(tree.pool, 1, 1)
        tree.adopt(table, [token, token], None)
        assert table.reserve(1)
        tree.insert(table, [token], 1, None)
        table.truncate(0)

    small = min(seconds(500) for _ in range(3))
    large = min(seconds(50_000) for _ in range(2))
    assert large < 10 * small
