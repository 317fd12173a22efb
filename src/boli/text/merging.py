"""The algorithm of byte-level and of SentencePiece BPE: merge the best neighbours until none is left."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from heapq import heapify, heappop, heappush


def merge_pairs(symbols: Sequence[str], rank: Callable[[str, str], float | None]) -> list[str]:
    """Merge neighbouring symbols, the lowest rank first and the leftmost of equals, until no pair has a rank.

    Every merge looks only at the two new neighbours, found through a linked list, so a text of n symbols
    takes O(n log n) steps whatever it holds.

    Args:
        symbols: The pieces to begin with (characters, or bytes spelt as characters). None may be empty.
        rank: The rank of a pair, or None for a pair that may not be merged.

    Returns:
        The merged symbols, in order; joined, they are the joined input.

    Source:
        Sennrich et al. 2016 (arXiv:1508.07909); the agenda of candidates follows SentencePiece (Kudo 2018).
    """
    parts = list(symbols)
    count = len(parts)
    following = list(range(1, count + 1))
    preceding = list(range(-1, count - 1))
    agenda: list[tuple[float, int, int, int]] = []
    for left in range(count - 1):
        first = rank(parts[left], parts[left + 1])
        if first is not None:
            agenda.append((first, left, left + 1, len(parts[left]) + len(parts[left + 1])))
    heapify(agenda)
    while agenda:
        _, left, right, length = heappop(agenda)
        # A candidate is stale when either side has been swallowed (it is empty) or has grown since.
        if not parts[left] or not parts[right] or len(parts[left]) + len(parts[right]) != length:
            continue
        parts[left] += parts[right]
        parts[right] = ""
        after = following[right]
        following[left] = after
        if after < count:
            preceding[after] = left
            new = rank(parts[left], parts[after])
            if new is not None:
                heappush(agenda, (new, left, after, len(parts[left]) + len(parts[after])))
        before = preceding[left]
        if before >= 0:
            new = rank(parts[before], parts[left])
            if new is not None:
                heappush(agenda, (new, before, left, len(parts[before]) + len(parts[left])))
    return [part for part in parts if part]
