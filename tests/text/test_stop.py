"""Stop strings against a naive search of the whole text, however the text is cut."""

from __future__ import annotations

import itertools
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boli.errors import SamplingError
from boli.text import StopMatcher
from boli.text.stop import MAX_STOP_CHARACTERS, MAX_STOPS


def naive(text: str, stops: list[str]) -> tuple[str, str | None]:
    """The match that is complete first; of those that end together the longest."""
    ends = [(text.find(stop) + len(stop), -len(stop), stop) for stop in stops if stop in text]
    if not ends:
        return text, None
    end, _, stop = min(ends)
    return text[: end - len(stop)], stop


def run(chunks: list[str], stops: list[str]) -> tuple[str, str | None]:
    matcher = StopMatcher(stops)
    shown = "".join(map(matcher.push, chunks)) + matcher.finish()
    return shown, matcher.matched


def cuts(text: str, places: set[int]) -> list[str]:
    borders = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    return [text[a:b] for a, b in itertools.pairwise(borders)]


few_letters = st.text("ab中\n", max_size=40)
stop_lists = st.lists(st.text("ab中\n", min_size=1, max_size=6), max_size=5)


@settings(max_examples=800, deadline=None)
@given(few_letters, stop_lists, st.sets(st.integers(0, 100), max_size=20))
def test_any_cut_finds_what_the_whole_text_has(text: str, stops: list[str], places: set[int]) -> None:
    assert run(cuts(text, places), stops) == naive(text, stops)
    assert run(list(text), stops) == naive(text, stops)


@settings(max_examples=400, deadline=None)
@given(few_letters, stop_lists)
def test_only_what_may_become_a_stop_is_held_back(text: str, stops: list[str]) -> None:
    matcher = StopMatcher(stops)
    shown = ""
    for index, character in enumerate(text):
        shown += matcher.push(character)
        if matcher.matched is not None:
            break
        seen = text[: index + 1]
        held = max((n for stop in stops for n in range(len(stop)) if seen.endswith(stop[:n])), default=0)
        assert shown == seen[: len(seen) - held]


@pytest.mark.parametrize(
    ("chunks", "stops", "shown", "matched"),
    [
        (["aaab"], ["aab"], "a", "aab"),  # the second try begins inside the first
        (list("aaab"), ["aab"], "a", "aab"),
        (["Hel", "lo\n", "\nUser"], ["\n\nUser:"], "Hello\n\nUser", None),
        (["Hel", "lo\n", "\nUser", ": hi"], ["\n\nUser:"], "Hello", "\n\nUser:"),
        (["abcx"], ["abcd", "bc"], "a", "bc"),
        (["abcd"], ["abcd", "bc"], "a", "bc"),  # complete first wins
        (["xab"], ["b", "ab"], "x", "ab"),  # complete together: the longest
        (["stop"], ["stop"], "", "stop"),  # at the very start
        (["中", "文", "。"], ["文。"], "中", "文。"),
        (["👨‍👩", "‍👧!"], ["‍👧"], "👨‍👩", "‍👧"),
        (["anything"], [], "anything", None),
    ],
)
def test_cases(chunks: list[str], stops: list[str], shown: str, matched: str | None) -> None:
    assert run(chunks, stops) == (shown, matched)


def test_text_without_a_candidate_is_shown_at_once() -> None:
    matcher = StopMatcher(["END"])
    assert matcher.push("hello") == "hello"
    assert matcher.push(" E") == " "
    assert matcher.push("N") == ""
    assert matcher.push("x") == "ENx"
    assert matcher.finish() == ""


def test_nothing_is_shown_after_a_match() -> None:
    matcher = StopMatcher(["."])
    assert matcher.push("a.b") == "a"
    assert (matcher.push("c."), matcher.finish(), matcher.matched) == ("", "", ".")


@pytest.mark.parametrize(
    "stops",
    [[""], ["ok", ""], ["x" * (MAX_STOP_CHARACTERS + 1)], ["x"] * (MAX_STOPS + 1), "a bare string"],
)
def test_limits(stops: list[str]) -> None:
    with pytest.raises(SamplingError):
        StopMatcher(stops)


def test_the_worst_stops_take_linear_time() -> None:
    stops = ["a" * n + "b" for n in range(MAX_STOP_CHARACTERS - MAX_STOPS, MAX_STOP_CHARACTERS)]
    start = time.process_time()
    matcher = StopMatcher(stops)
    shown = "".join(matcher.push("a") for _ in range(100_000)) + matcher.finish()
    assert time.process_time() - start < 3
    assert shown == "a" * 100_000
