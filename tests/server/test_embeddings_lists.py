"""Long lists as JSON: the same document as in one piece."""

from __future__ import annotations

import json

import pytest

from boli.server.long_lists import document, joined, long_list


@pytest.mark.parametrize("count", [0, 1, 4095, 4096, 4097, 10_000])
def test_a_list_in_pieces_is_the_list(count: int) -> None:
    for values in (list(range(count)), [n / 7 for n in range(count)], [f'"é\n{n}' for n in range(count)]):
        assert json.loads(long_list(values)) == values


def test_a_document_of_short_and_long() -> None:
    body = document({"a": "é", "b": None}, c=joined([long_list([1, 2]), '{"d":3}']))
    assert json.loads(body) == {"a": "é", "b": None, "c": [[1, 2], {"d": 3}]}


def test_what_is_no_number_in_json_is_refused() -> None:
    with pytest.raises(ValueError, match="JSON"):
        long_list([float("nan")])
