"""When requests come, and what they ask: the same for every server, from a seed."""

from __future__ import annotations

import random
import re
from functools import cache
from pathlib import Path

from load.client import Ask

WORDS_PER_TOKEN = 0.92  # of the text below in a vocabulary of about 50,000; `usage` has the exact count


def poisson(rate: float, seconds: float, seed: int, most: int) -> list[float]:
    """Arrival times of a Poisson process.

    Args:
        rate: Arrivals a second.
        seconds: How long they come.
        seed: The same seed gives the same times.
        most: No more arrivals than this.
    """
    draw = random.Random(seed)  # noqa: S311  # a schedule, no secret
    times: list[float] = []
    now = draw.expovariate(rate)
    while now < seconds and len(times) < most:
        times.append(now)
        now += draw.expovariate(rate)
    return times


def questions(count: int, *, prompt: int, output: int, seed: int) -> list[Ask]:
    """Questions of about `prompt` tokens each, with no beginning in common.

    Args:
        count: How many.
        prompt: About how many tokens each has.
        output: How many tokens are asked for.
        seed: The same seed gives the same questions.
    """
    draw = random.Random(seed)  # noqa: S311
    words = vocabulary()
    length = max(1, round(prompt * WORDS_PER_TOKEN))
    return [
        Ask(" ".join(draw.choices(words, k=length)), output, seed * 100_003 + number)
        for number in range(count)
    ]


@cache
def vocabulary() -> list[str]:
    """Words of the licence, which is at hand wherever this file is."""
    text = (Path(__file__).parents[2] / "LICENSE").read_text(encoding="utf-8")
    return re.findall(r"[A-Za-z]{2,}", text)
