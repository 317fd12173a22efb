"""What a receipt of a run says of the machine that it is held against."""

from __future__ import annotations

import pytest

from boli.cli.receipt import changed
from boli.cpu.limits import Limits, Spread


def limits(read: float) -> Limits:
    other = Spread((1e12,))
    return Limits(2, Spread((read / 2, read, read * 2)), other, other, other, 1 << 28)


@pytest.mark.parametrize(("before", "after"), [(30e9, 30e9), (30e9, 35e9), (30e9, 25e9)])
def test_a_machine_that_stays_is_not_mentioned(before: float, after: float) -> None:
    assert changed(limits(before), limits(after)) == ""


def test_a_machine_that_became_another_one_is_named() -> None:
    assert "30 GB/s before this run and 45 GB/s after it" in changed(limits(30e9), limits(45e9))
    assert "45 GB/s before this run and 30 GB/s after it" in changed(limits(45e9), limits(30e9))
