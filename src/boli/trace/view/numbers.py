"""Numbers as people read them."""

from __future__ import annotations

from boli.cli.terminal import human_bytes


def percent(share: float) -> str:
    """A share with as many digits as it has something to say: `99.97 %`, `42 %`, `0.003 %`."""
    value = 100.0 * share
    if value == 0.0 or value >= 99.995:
        return f"{value:.0f} %"
    if value >= 99.0:
        return f"{value:.1f} %" if value < 99.85 else f"{value:.2f} %"
    if value >= 10.0:
        return f"{value:.0f} %"
    if value >= 0.1:
        return f"{value:.1f} %"
    return f"{value:.2g} %" if value >= 0.001 else "< 0.001 %"


def seconds(value: float) -> str:
    """A duration in the unit that fits: `1.23 s`, `4.56 ms`, `78.9 µs`."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if value >= size:
            return f"{three(value / size)} {unit}"
    return f"{three(value * 1e6)} µs" if value else "0"


def three(value: float) -> str:
    """A number with about three digits, never in exponents between 0.001 and a million."""
    size = abs(value)
    if size >= 100:
        return f"{value:,.0f}"
    if size >= 10:
        return f"{value:.1f}"
    if size >= 0.1 or size == 0:
        return f"{value:.2f}"
    return f"{value:.2g}"


def difference(value: float) -> str:
    """A difference that is best zero: `0`, else as many digits as tell it apart."""
    return "0" if value == 0.0 else f"{value:.2g}"


def size(count: float) -> str:
    """Bytes in powers of 1000."""
    return human_bytes(round(count))


def many(count: float) -> str:
    """A large count in words: `268 M`."""
    for unit, step in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e4)):
        if count >= step:
            return f"{three(count / (1e3 if unit == 'k' else step))} {unit}"
    return f"{count:,.0f}"
