"""Sampling settings: what is refused, and how the refusal reads."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from boli.engine.params import SamplingParams
from boli.errors import SamplingError


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", 0), ("max_tokens", -1), ("max_tokens", 1.0), ("max_tokens", True), ("max_tokens", "5"),
        ("temperature", -0.1), ("temperature", math.nan), ("temperature", math.inf), ("temperature", True),
        ("temperature", "hot"), ("temperature", None), ("temperature", 10**400), ("temperature", 1j),
        ("top_k", -1), ("top_k", 1.5), ("top_k", False),
        ("top_p", 0.0), ("top_p", -0.5), ("top_p", 1.01), ("top_p", math.nan),
        ("min_p", -0.01), ("min_p", 1.01), ("min_p", math.nan),
        ("repetition_penalty", 0.0), ("repetition_penalty", -1.0), ("repetition_penalty", math.inf),
        ("presence_penalty", 2.01), ("presence_penalty", -2.01), ("presence_penalty", math.nan),
        ("frequency_penalty", 2.01), ("frequency_penalty", -2.01),
        ("seed", -1), ("seed", 2**64), ("seed", 1.0), ("seed", True),
        ("logprobs", -1), ("logprobs", 21), ("logprobs", True), ("logprobs", 1.0),
        ("stop", ("",)), ("stop", ("x" * 257,)), ("stop", ("x",) * 17), ("stop", (1,)), ("stop", 7),
        ("stop", None), ("stop", b"x"),
        ("ignore_eos", 1), ("ignore_eos", "yes"),
        ("logit_bias", 1), ("logit_bias", None), ("logit_bias", "1"), ("logit_bias", ["a"]),
        ("logit_bias", [(1, 2, 3)]), ("logit_bias", {-1: 1.0}), ("logit_bias", {1.0: 1.0}),
        ("logit_bias", {True: 1.0}), ("logit_bias", {"x": 1.0}), ("logit_bias", {"-1": 1.0}),
        ("logit_bias", {"١": 1.0}), ("logit_bias", {"9" * 11: 1.0}), ("logit_bias", {1: 100.1}),
        ("logit_bias", {1: -101}), ("logit_bias", {1: math.nan}), ("logit_bias", {1: True}),
        ("logit_bias", {1: "2"}), ("logit_bias", {1: 10**400}), ("logit_bias", {1: 1.0, "1": 2.0}),
        ("logit_bias", dict.fromkeys(range(1025), 1.0)),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused_by_name(name: str, value: object) -> None:
    settings: dict[str, Any] = {"temperature": 1.0} | {name: value}
    with pytest.raises(SamplingError, match=name) as caught:
        SamplingParams(**settings)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", 1), ("temperature", 0.0), ("temperature", 1e-30), ("top_k", 0), ("top_p", 1.0),
        ("top_p", 1e-9), ("min_p", 0.0), ("min_p", 1.0), ("repetition_penalty", 0.01),
        ("presence_penalty", -2.0), ("presence_penalty", 2.0), ("frequency_penalty", 2.0),
        ("seed", 0), ("seed", 2**64 - 1), ("seed", None), ("logprobs", 0),
        ("logprobs", 20), ("stop", ()), ("stop", ("x" * 256,) * 16), ("ignore_eos", True),
        ("logit_bias", ()), ("logit_bias", tuple((i, 1.0) for i in range(1024))),
        ("logit_bias", ((0, -100.0), (5, 100.0))),
    ],
)  # fmt: skip
def test_the_edges_of_the_ranges_are_taken(name: str, value: object) -> None:
    temperature = {"temperature": 1.0} if name in ("top_p", "min_p") else {}
    settings: dict[str, Any] = temperature | {name: value}
    assert getattr(SamplingParams(**settings), name) == value


def test_a_bias_is_kept_in_order_whatever_form_it_came_in() -> None:
    params = SamplingParams.from_options({"logit_bias": {"7": 1, 3: -2.5, "0": np.float32(0.5)}})
    assert params.logit_bias == ((0, 0.5), (3, -2.5), (7, 1.0))
    assert {type(part) for pair in params.logit_bias for part in pair} == {int, float}
    assert hash(params) == hash(SamplingParams(logit_bias=params.logit_bias))


def test_values_become_plain_python() -> None:
    params = SamplingParams(
        temperature=np.float32(0.5),  # type: ignore[arg-type]
        max_tokens=np.int64(3),  # type: ignore[arg-type]
        stop=["a", "b"],  # type: ignore[arg-type]
    )
    assert (type(params.temperature), type(params.max_tokens), params.stop) == (float, int, ("a", "b"))
    assert SamplingParams(stop="END").stop == ("END",)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "filters", [{"top_k": 2}, {"top_p": 0.9}, {"min_p": 0.1}, {"top_k": 40, "min_p": 0.1}]
)
def test_filters_that_temperature_0_would_ignore_are_refused(filters: dict[str, Any]) -> None:
    with pytest.raises(SamplingError, match="temperature=0") as caught:
        SamplingParams(**filters)
    assert all(name in caught.value.message for name in filters)
    assert "temperature above 0" in caught.value.remedy
    SamplingParams(temperature=0.1, **filters)


def test_settings_that_agree_with_greedy_are_taken() -> None:
    SamplingParams(temperature=0.0, top_k=1, top_p=1.0, min_p=0.0, seed=7, repetition_penalty=1.1)


def test_an_unknown_name_is_refused_with_the_nearest_known_one() -> None:
    with pytest.raises(SamplingError, match="'temprature'") as caught:
        SamplingParams.from_options({"temprature": 1.0})
    assert "'temperature'" in caught.value.remedy
    with pytest.raises(SamplingError) as caught:
        SamplingParams.from_options({"zzz": 1})
    assert "max_tokens" in caught.value.remedy
    assert SamplingParams.from_options({"max_tokens": 3}).max_tokens == 3
