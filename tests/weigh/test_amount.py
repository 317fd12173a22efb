"""Numbers with their formulas."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boli.weigh.amount import CERTAINTIES, MARKS, amount, plain, readable_bytes, total, weakest


def test_what_is_shown_is_what_was_computed() -> None:
    made = amount(
        "bytes",
        "2 · num_key_value_heads · head_dim · layers · bytes",
        num_key_value_heads=8,
        head_dim=128,
        layers=32,
        bytes=2,
    )
    assert made.value == 131_072
    assert isinstance(made.value, int)
    assert made.explain() == "2 · 8 · 128 · 32 · 2 = 131,072"
    assert made.readable() == "128.0 KiB (131.1 kB)"
    assert (made.certainty, made.mark) == ("exact", "=")


@pytest.mark.parametrize(
    ("formula", "value"),
    [
        ("a + b", 10),
        ("a - b", 4),
        ("a − b", 4),
        ("a × b", 21),
        ("a / b", 7 / 3),
        ("a ÷ b", 7 / 3),
        ("a // b", 2),
        ("a % b", 1),
        ("a ** b", 343),
        ("(b / a) ** 500", (3 / 7) ** 500),
        ("-a + b", -4),
        ("2 · (a + b)", 20),
        ("min(a, b) + max(a, b, 9)", 12),
        ("ceil(a / b) · b + floor(a / b)", 11),
        ("0.5 · a · b", 10.5),
    ],
)
def test_formulas(formula: str, value: float) -> None:
    assert amount("bytes", formula, a=7, b=3).value == value


@given(st.integers(0, 10**15), st.integers(1, 10**6), st.integers(1, 10**6))
def test_integers_stay_exact(a: int, b: int, c: int) -> None:
    assert amount("bytes", "a · b + c", a=a, b=b, c=c).value == a * b + c


def test_numbers_may_come_as_a_mapping() -> None:
    made = amount("bytes", "a · note", {"note": 3}, a=2)
    assert (made.value, dict(made.inputs)) == (6, {"a": 2, "note": 3})


def test_a_whole_number_of_bytes_is_an_int() -> None:
    assert isinstance(amount("bytes", "a / b", a=6, b=3).value, int)
    assert amount("bytes", "a / b", a=1, b=2).value == 0.5
    assert isinstance(amount("s", "a / b", a=6, b=3).value, float)


def test_arguments_are_parted_from_thousands() -> None:
    made = amount("positions", "min(context, sliding_window)", context=32_768, sliding_window=1024)
    assert made.explain() == "min(32,768; 1,024) = 1,024"


def test_a_name_inside_another_is_not_replaced() -> None:
    assert amount("bytes", "a · aa + a1", a=1, aa=2, a1=3).explain() == "1 · 2 + 3 = 5"


def test_a_single_number_is_said_once() -> None:
    assert amount("bytes", "parameters", parameters=1234).explain() == "1,234"


@pytest.mark.parametrize(
    ("formula", "inputs"),
    [
        ("a + b", {"a": 1}),  # a name without a value
        ("a", {"a": 1, "b": 2}),  # a value that the formula does not use
        ("a +", {"a": 1}),
        ("a / b", {"a": 1, "b": 0}),
        ("a ** b", {"a": 10, "b": 10**9}),
        ("a ** b", {"a": -2, "b": 0.5}),
        ("a / b", {"a": 10**400, "b": 1}),
        ("a · b", {"a": 1e308, "b": 1e308}),
        ("a.real", {"a": 1}),
        ("(a)(1)", {"a": 1}),
        ("a[0]", {"a": 1}),
        ("a if a else a", {"a": 1}),
        ("'text' + a", {"a": 1}),
        ("True + a", {"a": 1}),
        ("__import__('os')", {}),
        ("max(a, key=a)", {"a": 1}),
        ("max()", {}),
    ],
)
def test_a_formula_that_says_something_else_is_refused(formula: str, inputs: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="formula"):
        amount("bytes", formula, **inputs)


def test_a_sum_names_its_parts_and_is_as_certain_as_the_weakest() -> None:
    weights = amount("bytes", "parameters · 2", parameters=100)
    cache = amount("bytes", "positions · 3", positions=10, certainty="calibrated")
    summed = total({"weights": weights, "KV cache": cache, "2 rooms": weights})
    assert summed.value == 430
    assert summed.formula == "weights + KV_cache + rooms_2"
    assert summed.explain() == "200 + 30 + 200 = 430"
    assert summed.certainty == "calibrated"
    assert total({}).value == 0


def test_a_sum_of_thousands_has_no_depth() -> None:
    one = amount("bytes", "1")
    assert total({f"part{i}": one for i in range(5000)}).value == 5000


def test_a_sum_of_different_things_is_refused() -> None:
    one = amount("bytes", "1")
    with pytest.raises(ValueError, match="time counts s, not bytes"):
        total({"time": amount("s", "1")})
    with pytest.raises(ValueError, match="read the same"):
        total({"a b": one, "a_b": one})


def test_certainties_are_ordered_and_marked() -> None:
    made = [amount("s", "1", certainty=certainty) for certainty in CERTAINTIES]
    for index in range(1, len(made) + 1):
        assert weakest(*made[:index]) == CERTAINTIES[index - 1]
    assert weakest() == "exact"
    assert len({MARKS[certainty] for certainty in CERTAINTIES}) == len(CERTAINTIES)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1,000 B (1.00 kB)"),
        (4_912_898_048, "4.58 GiB (4.91 GB)"),
        (-4_912_898_048, "-4.58 GiB (-4.91 GB)"),
        (103_668_480, "98.87 MiB (103.7 MB)"),
        (16 * 2**30, "16.00 GiB (17.18 GB)"),
        (10**24, "888,178,419.7 PiB (1,000,000,000.0 PB)"),
    ],
)
def test_bytes_are_said_twice(count: int, text: str) -> None:
    assert readable_bytes(count) == text


def test_readable_amounts() -> None:
    assert amount("parameters", "a", a=8_030_261_248).readable() == "8,030,261,248 (8.03 billion)"
    assert amount("parameters", "a", a=4096).readable() == "4,096"
    assert amount("FLOP/s", "a", a=312e12).readable() == "312 TFLOP/s"
    assert amount("bytes/s", "a", a=3.35e12).readable() == "3.35 TB/s"
    assert amount("s", "a", a=0.0125).readable() == "12.5 ms"
    assert amount("s", "a", a=3600).readable() == "3,600.00 s"
    assert amount("requests", "a", a=1).readable() == "1 request"
    assert amount("requests", "a", a=1200).readable() == "1,200 requests"
    assert plain(0.5625) == "0.5625"
    assert plain(3.0) == "3"


def test_an_amount_is_a_document() -> None:
    made = amount("bytes", "a · 2", a=3, certainty="assumed", note="a guess")
    assert json.loads(json.dumps(made.to_json())) == {
        "value": 6,
        "unit": "bytes",
        "formula": "a · 2",
        "inputs": {"a": 3},
        "explained": "3 · 2 = 6",
        "certainty": "assumed",
        "note": "a guess",
    }
